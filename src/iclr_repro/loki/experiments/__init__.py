"""The experiments of loki, one class a figure or table."""

from iclr_repro.loki.experiments.exactness import Efficiency, Identities
from iclr_repro.loki.experiments.facts import ReleasedPositions, Tables
from iclr_repro.loki.experiments.implanting import Implanting
from iclr_repro.loki.experiments.public_rows import PublicRows
from iclr_repro.loki.experiments.retention import Retention
from iclr_repro.loki.experiments.rows import LayerBalance, SelectionStability, Suppression

__all__ = [
    "Efficiency",
    "Identities",
    "Implanting",
    "LayerBalance",
    "PublicRows",
    "ReleasedPositions",
    "Retention",
    "SelectionStability",
    "Suppression",
    "Tables",
]
