"""The experiments of the paper and ours, one class a figure or table."""

from iclr_repro.pairwise_review.experiments.active import Active
from iclr_repro.pairwise_review.experiments.efficiency import Efficiency
from iclr_repro.pairwise_review.experiments.exactness import Identities
from iclr_repro.pairwise_review.experiments.judges import Cost, LanguageJudge, TextJudgeStudy
from iclr_repro.pairwise_review.experiments.replay import Replay
from iclr_repro.pairwise_review.experiments.simulated import (
    PositionBias,
    Recovery,
    Selection,
    SelectionBias,
)
from iclr_repro.pairwise_review.experiments.venues import VenueTable

__all__ = [
    "Active",
    "Cost",
    "Efficiency",
    "Identities",
    "LanguageJudge",
    "PositionBias",
    "Recovery",
    "Replay",
    "Selection",
    "SelectionBias",
    "TextJudgeStudy",
    "VenueTable",
]
