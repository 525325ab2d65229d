"""The experiments: one class a figure or table."""

from iclr_repro.topoformer.experiments.analyses import BrainAlignment, TestSuites
from iclr_repro.topoformer.experiments.exactness import Efficiency, Identities
from iclr_repro.topoformer.experiments.masked_lm import MaskedLanguageModel
from iclr_repro.topoformer.experiments.sentiment import PosthocLayout, ReceptiveFieldSweep, Sentiment

__all__ = [
    "BrainAlignment",
    "Efficiency",
    "Identities",
    "MaskedLanguageModel",
    "PosthocLayout",
    "ReceptiveFieldSweep",
    "Sentiment",
    "TestSuites",
]
