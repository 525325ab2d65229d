"""The experiments: the paper's theory on exact MDPs, learned skills in a maze, and speed."""

from iclr_repro.wsep.experiments.efficiency import Efficiency
from iclr_repro.wsep.experiments.exact import Correlations, GrowingSkills, Identities, Vertices
from iclr_repro.wsep.experiments.grids import Gridworlds
from iclr_repro.wsep.experiments.learned import Locomotion, Maze

__all__ = ["Correlations", "Efficiency", "Gridworlds", "GrowingSkills", "Identities", "Locomotion", "Maze", "Vertices"]
