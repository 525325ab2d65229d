"""The experiments: a class an experiment of the sheet. They build, call the method, and measure.

E1 `EntropyApproximation`, E2 `Resemblance`, E3 and E5 `Forecasting`, E4 `Efficiency`, E6 `PlugIn`, E7 `Mixing`; beside
them `Theory` (the exact statements of M1 and M5) and `NaiveForecasts`.
"""

from iclr_repro.entropy_linear_attention.experiments.efficiency import Efficiency
from iclr_repro.entropy_linear_attention.experiments.entropy import EntropyApproximation, Resemblance
from iclr_repro.entropy_linear_attention.experiments.forecasting import Forecasting, NaiveForecasts, PlugIn
from iclr_repro.entropy_linear_attention.experiments.mixing import Mixing
from iclr_repro.entropy_linear_attention.experiments.theory import Theory

__all__ = [
    "Efficiency",
    "EntropyApproximation",
    "Forecasting",
    "Mixing",
    "NaiveForecasts",
    "PlugIn",
    "Resemblance",
    "Theory",
]
