"""The experiments of the paper and ours, one class a figure or table."""

from iclr_repro.pairwise_review.experiments.efficiency import Efficiency
from iclr_repro.pairwise_review.experiments.exactness import Identities
from iclr_repro.pairwise_review.experiments.real import Cost, LanguageJudge, Replay, TextJudgeStudy, VenueTable
from iclr_repro.pairwise_review.experiments.simulated import (
    Active,
    PositionBias,
    Recovery,
    Selection,
    SelectionBias,
)

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
