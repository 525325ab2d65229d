"""What needs no training: the paper's tables, parameter counts, and the authors' row positions (C3, C13)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from iclr_repro.core.data import DataChoice, locate, real_or_synthetic
from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.rundir import Run
from iclr_repro.loki import figures
from iclr_repro.loki.decoder import check_positions
from iclr_repro.loki.paper_values import (
    RERANKER,
    SHAPES,
    TOOLACE,
    loki_lora_parameters,
    loki_parameters,
    recomputed,
)
from iclr_repro.loki.positions import load_positions
from iclr_repro.loki.selection import Positions, rows_per_layer
from iclr_repro.loki.stability import overlap

_QUOTAS = {"Llama-3.1-8B-Instruct": (10, 20, 30), "Qwen2.5-0.5B-Instruct": (5, 10, 20, 30)}
_SHORT = {"Llama-3.1-8B-Instruct": "llama", "Qwen2.5-0.5B-Instruct": "qwen"}
_PRINTED = 0.01  # the tables have two decimals
_SWAPPED = ("LoKI q20", "LoKI q30")  # of Table 2


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Recompute the averages of Tables 2 and 4 from their rows, and the parameter counts from the models' sizes."""

    uses_seeds: ClassVar[bool] = False

    lora_r: int = parameter("rank of the paper's LoKI + LoRA", low=1)
    lora_quota: float = parameter("its quota", low=0.0, high=100.0, unit="%")

    def run(self, run: Run) -> Result:
        """Compare with the printed values; a deviation is counted where it exceeds the printed precision."""
        metrics: dict[str, float] = {}
        rows = []
        for name, table in (("table2", TOOLACE), ("table4", RERANKER)):
            found = recomputed(table)
            deviations = {model: abs(printed - average) for model, (printed, average, _) in found.items()}
            metrics[f"{name}/n"] = len(found)
            metrics[f"{name}/deviating"] = sum(deviation > _PRINTED for deviation in deviations.values())
            others = [deviation for model, deviation in deviations.items() if name == "table4" or model not in _SWAPPED]
            metrics[f"{name}/largest_deviation_of_the_others"] = max(others)
            rows += [(name, model, *values) for model, values in found.items()]
        two = recomputed(TOOLACE)
        q20, q30 = (two[model] for model in _SWAPPED)
        metrics["table2/largest_deviation_if_swapped"] = max(abs(q20[0] - q30[1]), abs(q30[0] - q20[1]))
        metrics |= self._counts()
        columns = ["table", "model", "printed", "recomputed", "without_gains"]
        return Result(metrics=metrics, tables={"averages": pd.DataFrame(rows, columns=columns).set_index("model")})

    def _counts(self) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for model, shape in SHAPES.items():
            for quota in _QUOTAS[model]:
                metrics[f"{_SHORT[model]}/q{quota}/rows"] = rows_per_layer(quota, shape.num_rows)
                metrics[f"{_SHORT[model]}/q{quota}/parameters"] = loki_parameters(shape, quota)
        llama = SHAPES["Llama-3.1-8B-Instruct"]
        low_rank, direct = (
            loki_lora_parameters(llama, self.lora_quota, self.lora_r),
            loki_parameters(llama, self.lora_quota),
        )
        metrics["llama/loki_lora/parameters"] = low_rank
        metrics["llama/loki_lora/saved_percent"] = 100 * (1 - low_rank / direct)
        return metrics


@dataclass(frozen=True, kw_only=True)
class ReleasedPositions:
    """Facts about the row positions that the authors released (C3, C12)."""

    uses_seeds: ClassVar[bool] = False

    data: DataChoice = parameter(
        "the released files, random rows of the same number, or files with random rows in their place where missing"
    )

    def run(self, run: Run) -> Result:
        """Check sizes and ranges; measure nesting, and overlap between layers."""
        loaded, kind = real_or_synthetic(self.data, lambda: released(locate), lambda: _random_rows(run))
        metrics: dict[str, float] = {}
        made = {}
        rows = []
        for model, by_quota in loaded.items():
            short, shape = _SHORT[model], SHAPES[model]
            for quota, positions in by_quota.items():
                check_positions(positions, [shape.num_rows] * shape.num_layers)
                sizes = {len(layer) for layer in positions}
                metrics[f"{short}/q{quota}/right_size"] = float(sizes == {rows_per_layer(quota, shape.num_rows)})
                between = _between_layers(positions)
                adjacent = float(np.diagonal(between, offset=1).mean())
                metrics[f"{short}/q{quota}/adjacent_layers"] = adjacent
                usage = np.bincount([row for layer in positions for row in layer], minlength=shape.num_rows)
                metrics[f"{short}/q{quota}/most_used_row"] = int(usage.argmax())
                metrics[f"{short}/q{quota}/layers_of_most_used_row"] = int(usage.max())
                rows.append((model, quota, min(sizes), adjacent, int(usage.argmax()), int(usage.max())))
                if quota == 10:
                    made[f"{short}_layers"] = figures.released_overlap(between, f"{model}, q = {quota}")
            quotas = list(by_quota)
            for small, large in itertools.pairwise(quotas):
                metrics[f"{short}/q{small}_in_q{large}"] = overlap(by_quota[small], by_quota[large])
        metrics["n"] = len(rows)
        columns = ["model", "quota", "rows", "adjacent_layers", "most_used_row", "layers"]
        table = pd.DataFrame(rows, columns=columns).set_index(["model", "quota"])
        return Result(metrics=metrics, tables={"positions": table}, figures=made, data=kind)


def released(find: Callable[[str], Path]) -> dict[str, dict[int, Positions]]:
    """Load the authors' positions: model -> quota in percent -> rows by layer.

    Raises:
        DataError: a file is missing or damaged.
    """
    return {
        model: {quota: load_positions(find(f"loki/pos_json/{model}/{quota}.json.gz")) for quota in quotas}
        for model, quotas in _QUOTAS.items()
    }


def _random_rows(run: Run) -> dict[str, dict[int, Positions]]:
    rng = run.rng("rows")
    return {
        model: {
            quota: [
                rng.choice(shape.num_rows, size=rows_per_layer(quota, shape.num_rows), replace=False).tolist()
                for _ in range(shape.num_layers)
            ]
            for quota in _QUOTAS[model]
        }
        for model, shape in SHAPES.items()
    }


def _between_layers(positions: Positions) -> np.ndarray:
    """Return the share of rows that each pair of layers has in common, [L, L]."""
    masks = np.zeros((len(positions), 1 + max(max(layer) for layer in positions)))
    for layer, rows in enumerate(positions):
        masks[layer, rows] = 1.0
    return masks @ masks.T / masks.sum(axis=1)[:, None]
