"""The paper's tables that the sheet gives, and arithmetic on them.

Source: tables 2, 4 and 5 of the paper as printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from iclr_repro.loki.metrics import forgetting
from iclr_repro.loki.selection import rows_per_layer

BENCHMARKS = ("TriviaQA", "GSM8K", "HellaSwag", "WinoGrande", "HumanEval", "IFEval")

Scores = tuple[float, ...]


@dataclass(frozen=True)
class PaperTable:
    """A table of benchmark scores: the untuned model, and for each tuned one its scores and the printed average."""

    original: Scores
    tuned: Mapping[str, tuple[Scores, float]]


TOOLACE = PaperTable(  # Table 2, Llama-3.1-8B-Instruct
    original=(65.77, 84.46, 73.85, 62.98, 68.29, 79.76),
    tuned={
        "ToolACE r16": ((64.63, 79.53, 46.81, 42.78, 60.37, 72.76), 16.11),
        "DoRA r16": ((63.97, 82.64, 70.78, 57.85, 65.24, 73.47), 4.92),
        "PiSSA r16": ((52.50, 51.40, 37.98, 13.18, 15.85, 55.95), 48.93),
        "LoKI q10": ((65.85, 84.99, 75.14, 61.33, 68.90, 77.54), 0.34),
        "LoKI q20": ((65.60, 84.31, 73.60, 60.62, 67.68, 78.18), 0.93),
        "LoKI q30": ((65.49, 84.61, 71.16, 61.09, 70.73, 77.94), 1.23),
        "LoKI* q30 r32": ((64.30, 83.47, 70.78, 62.51, 70.12, 78.21), 1.26),
    },
)
RERANKER = PaperTable(  # Table 4, Qwen2.5-0.5B-Instruct
    original=(24.37, 39.65, 30.98, 44.20, 26.83, 33.39),
    tuned={
        "LB-Reranker (full FT)": ((4.65, 2.65, 0.00, 0.00, 0.00, 23.20), 84.13),
        "DoRA r8": ((19.30, 34.01, 22.21, 44.70, 25.22, 31.67), 12.23),
        "PiSSA r8": ((11.32, 6.44, 18.54, 31.97, 6.71, 28.85), 48.95),
        "CorDA r8": ((4.64, 2.43, 0.00, 0.00, 0.00, 23.20), 84.22),
        "LoKI q5": ((20.53, 38.36, 30.52, 40.09, 24.39, 34.12), 6.12),
        "LoKI q10": ((20.53, 37.98, 21.53, 47.04, 24.39, 33.39), 8.86),
        "LoKI q20": ((19.77, 36.77, 33.16, 47.28, 27.44, 33.27), 1.70),
        "LoKI q30": ((20.10, 37.60, 38.39, 43.96, 26.83, 32.25), 0.46),
    },
)


@dataclass(frozen=True)
class Shape:
    """Sizes of a public model: layers, hidden size d and feed-forward size f."""

    num_layers: int
    num_rows: int
    num_columns: int


SHAPES = {"Llama-3.1-8B-Instruct": Shape(32, 4096, 14336), "Qwen2.5-0.5B-Instruct": Shape(24, 896, 4864)}


def recomputed(table: PaperTable) -> dict[str, tuple[float, float, float]]:
    """Return for each tuned model the printed average, the recomputed one, and the one without gains (clipped)."""
    before = dict(zip(BENCHMARKS, table.original, strict=True))
    found = {}
    for name, (scores, printed) in table.tuned.items():
        lost = forgetting(before, dict(zip(BENCHMARKS, scores, strict=True)))
        found[name] = (printed, lost.average, lost.clipped)
    return found


def loki_parameters(shape: Shape, quota: float) -> int:
    """Return the trained numbers of LoKI, L k f with k = floor(q d / 100)."""
    return shape.num_layers * rows_per_layer(quota, shape.num_rows) * shape.num_columns


def loki_lora_parameters(shape: Shape, quota: float, r: int) -> int:
    """Return the trained numbers of LoKI + LoRA, L r (k + f)."""
    return shape.num_layers * r * (rows_per_layer(quota, shape.num_rows) + shape.num_columns)
