"""The experiments of me_nash_ql; the paper has none, so that games and protocol are ours (sheet 7)."""

from iclr_repro.me_nash_ql.experiments.exactness import Efficiency, Identities
from iclr_repro.me_nash_ql.experiments.games import Ablations, LearningCurves
from iclr_repro.me_nash_ql.experiments.scaling import BurnIn, Computation, Rates, Space

__all__ = ["Ablations", "BurnIn", "Computation", "Efficiency", "Identities", "LearningCurves", "Rates", "Space"]
