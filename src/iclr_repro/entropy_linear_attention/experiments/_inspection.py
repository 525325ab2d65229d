"""What is looked at in trained hosts: the scores of the softmax that a conversion replaces (E1 (c), E5); forecasts."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from iclr_repro.core.rundir import Run
from iclr_repro.entropy_linear_attention.conversion import attention_entropy_report, observed_attention
from iclr_repro.entropy_linear_attention.experiments.entropy import estimate_errors
from iclr_repro.entropy_linear_attention.series import Series, Windows
from iclr_repro.entropy_linear_attention.training import KeepBest, forecasts

SOFTMAX = ("softmax", "softmax_sdpa")  # the same function: the first that is trained stands for both


def softmax_of(attentions: Collection[str]) -> str | None:
    """The softmax among the attentions that the report and the conversions look at; None: there is none."""
    return next((name for name in SOFTMAX if name in attentions), None)


def softmax_scores(run: Run, softmax: nn.Module, x: Tensor) -> tuple[dict[str, pd.DataFrame], dict[str, float]]:
    """Reports on the scores of a trained softmax host with ReLU and plain features, by table, and their means."""
    report = attention_entropy_report(softmax, x, generator=run.torch_rng("report"))
    plain = attention_entropy_report(softmax, x, generator=run.torch_rng("report/plain"), feature_map="identity")
    estimates = _estimates_on_host(softmax, x, generator=run.torch_rng("estimates"))
    return {"attention_entropy": report, "attention_entropy_plain": plain}, _of_host(plain, report) | estimates


def _of_host(plain: pd.DataFrame, relu: pd.DataFrame) -> dict[str, float]:
    """Scores of the trained softmax host, and what ReLU features make of them: means over heads of spatial layers."""
    chosen = {"plain": ("variance", "entropy", "deficit", "attainment"), "relu": ("attainment", "dead", "tv_to_plain")}
    found: dict[str, float] = {}
    for name, report in (("plain", plain), ("relu", relu)):
        spatial = report[report.index.get_level_values("layer").str.startswith("spatial")]
        found |= {f"host_keys/{name}/{quantity}": float(spatial[quantity].mean()) for quantity in chosen[name]}
    return found


def _estimates_on_host(model: nn.Module, x: Tensor, *, generator: torch.Generator) -> dict[str, float]:
    """E1 (c): relative errors of each estimate on the scores of the trained softmax host, means over spatial layers."""
    rows = [
        pd.DataFrame(estimate_errors(seen.sampled.double(), seen.k.double(), "identity"))
        for layer, seen in observed_attention(model, x, generator=generator).items()
        if layer.startswith("spatial")
    ]
    if not rows:
        return {}
    means = sum(rows[1:], rows[0]) / len(rows)
    return {
        f"host_keys/{estimate}/{quantity}": float(means.at[quantity, estimate])
        for estimate in means.columns
        for quantity in means.index
    }


def examples(learners: Mapping[str, KeepBest], series: Series, anchor: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Truth and forecasts at the last horizon for half a day of consecutive test windows, [windows, N]."""
    starts = series.test[: series.steps_per_day // 2]
    windows = Windows(series, starts, anchor)
    found: dict[str, np.ndarray] = {}
    for name in (softmax_of(learners), "eala_collision"):
        if name is not None and name in learners:
            learner = learners[name].learner
            rows = []
            with torch.no_grad():
                for batch in torch.utils.data.DataLoader(windows, batch_size=16, generator=torch.Generator()):
                    x, at, _ = (part.to(learner.accelerator.device) for part in batch)
                    rows.append(forecasts(learner.model.eval(), x, at, series.std)[:, -1].cpu())
            found[name] = torch.cat(rows).numpy()
    return series.targets(starts)[:, -1], found
