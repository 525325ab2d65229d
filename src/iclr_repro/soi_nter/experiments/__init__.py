"""The experiments: one class a figure or table."""

from iclr_repro.soi_nter.experiments.efficiency import Efficiency, Identities
from iclr_repro.soi_nter.experiments.multilabel import MultiLabel
from iclr_repro.soi_nter.experiments.segmentation import Segmentation
from iclr_repro.soi_nter.experiments.synthetic import Leakage, Robustness, Synthetic

__all__ = ["Efficiency", "Identities", "Leakage", "MultiLabel", "Robustness", "Segmentation", "Synthetic"]
