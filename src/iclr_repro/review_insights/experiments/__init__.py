"""The experiments: a class a figure or table of the paper. They load, call the method, and measure.

Intervals are over papers (bootstrap, sheet M), so one seed suffices (over repeats for the timings of `Efficiency`).
Metrics are named "iclr<year>/<table>/<row>/<column>", e.g. "iclr2024/reviews/increase/share".
"""

from iclr_repro.review_insights.experiments.models import Forecasts, Herding, Predictors
from iclr_repro.review_insights.experiments.records import TextLabels, Tracing
from iclr_repro.review_insights.experiments.scores import (
    AcrossYears,
    Disagreement,
    Efficiency,
    OrderEffect,
    Rankings,
    ScoreChanges,
)
from iclr_repro.review_insights.experiments.threads import Engagement, RebuttalModel

__all__ = [
    "AcrossYears",
    "Disagreement",
    "Efficiency",
    "Engagement",
    "Forecasts",
    "Herding",
    "OrderEffect",
    "Predictors",
    "Rankings",
    "RebuttalModel",
    "ScoreChanges",
    "TextLabels",
    "Tracing",
]
