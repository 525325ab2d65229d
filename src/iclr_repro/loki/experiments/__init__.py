"""The experiments of loki, one class a figure or table."""

from iclr_repro.loki.experiments.retention import Retention
from iclr_repro.loki.experiments.rows import LayerBalance, SelectionStability, Suppression

__all__ = ["LayerBalance", "Retention", "SelectionStability", "Suppression"]
