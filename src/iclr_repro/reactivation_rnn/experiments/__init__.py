"""The experiments: one class a figure or table."""

from iclr_repro.reactivation_rnn.experiments.controls import CommonStart, ReplayDynamics, ScoreAlignment
from iclr_repro.reactivation_rnn.experiments.efficiency import Efficiency
from iclr_repro.reactivation_rnn.experiments.head_direction import HeadDirection
from iclr_repro.reactivation_rnn.experiments.real_behaviour import RealBehaviour
from iclr_repro.reactivation_rnn.experiments.spatial import Spatial
from iclr_repro.reactivation_rnn.experiments.theory import Langevin, Theory
from iclr_repro.reactivation_rnn.experiments.variants import Variants

__all__ = [
    "CommonStart",
    "Efficiency",
    "HeadDirection",
    "Langevin",
    "RealBehaviour",
    "ReplayDynamics",
    "ScoreAlignment",
    "Spatial",
    "Theory",
    "Variants",
]
