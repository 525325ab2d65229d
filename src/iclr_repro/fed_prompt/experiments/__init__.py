"""The experiments of fed_prompt, one class a figure or table."""

from iclr_repro.fed_prompt.experiments.exactness import Efficiency, Engines
from iclr_repro.fed_prompt.experiments.methods import Communication, Methods
from iclr_repro.fed_prompt.experiments.news import DataEfficiency, LanguageDistance, LowResource, Stability

__all__ = [
    "Communication",
    "DataEfficiency",
    "Efficiency",
    "Engines",
    "LanguageDistance",
    "LowResource",
    "Methods",
    "Stability",
]
