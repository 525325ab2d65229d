"""What rows are worth: forgetting when those of each strategy are set to zero, with random rows as the control."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from jaxtyping import Float
from torch import nn

from iclr_repro.loki.decoder import check_positions, dense_rows, down_projections
from iclr_repro.loki.metrics import forgetting
from iclr_repro.loki.selection import select_rows

# Name in a report -> strategy. low and high are the paper's S-L and S-H by layer, global_low and global_high over all.
SETS: dict[str, Any] = {
    "high": "high",
    "low": "layer_balanced",
    "global_high": "global_high",
    "global_low": "global_low",
    "abs_high": "abs_high",
    "abs_low": "abs_low",
}


@contextmanager
def suppress_rows(model: nn.Module, positions: Sequence[Sequence[int]]) -> Iterator[None]:
    """Set rows of the down projections to zero while the context lasts, then put them back bit for bit.

    A bias is left as it is, as in the authors' code. To suppress rows for good, copy the weights inside the context.

    Raises:
        ValueError: the positions do not fit the model; see `check_positions`.
    """
    projections = down_projections(model)
    check_positions(positions, [projection.num_rows for projection in projections])
    kept = []
    with torch.no_grad():
        for projection, rows in zip(projections, positions, strict=True):
            weight = dense_rows(projection.module)
            index = torch.tensor(list(rows), dtype=torch.int64, device=weight.device)
            kept.append((weight, index, weight[index].clone()))
            weight[index] = 0.0
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, index, old in kept:
                weight[index] = old


def suppression_report(
    model: nn.Module,
    attributions: Float[npt.NDArray, "N L d"],
    score: Callable[[], Mapping[str, float]],
    *,
    quotas: Sequence[float],
    random_draws: int = 4,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Measure, before any training, what each strategy's rows are worth, so that attributions can be trusted or not.

    Attributions mean something on a model where |attribution|-low rows cost less than random ones, and high ones more.

    Args:
        model: left as it was.
        attributions: [N, L, d] of this model.
        score: scores the model as it is then; benchmark -> score > 0, higher is better.
        quotas: q in percent.
        random_draws: number of draws that the random rows are averaged over.
        rng: draws them.

    Returns:
        A line for each quota and set of rows (`SETS` and "random"): quota, rows, forgetting and clipped in percent, and
        the score of each benchmark.

    Raises:
        ValueError: as `select_rows` and `forgetting`.
    """
    before = dict(score())
    lines = []
    for quota in quotas:
        drawn = {name: [select_rows(attributions, quota, strategy=strategy)] for name, strategy in SETS.items()}
        drawn["random"] = [
            select_rows(attributions, quota, strategy="random", rng=rng) for _ in range(max(random_draws, 1))
        ]
        for name, selections in drawn.items():
            scores = []
            for positions in selections:
                with suppress_rows(model, positions):
                    scores.append(dict(score()))
            lost = [forgetting(before, after) for after in scores]
            lines.append(
                {
                    "quota": quota,
                    "rows": name,
                    "forgetting": float(np.mean([one.average for one in lost])),
                    "clipped": float(np.mean([one.clipped for one in lost])),
                    **pd.DataFrame(scores).mean().to_dict(),
                }
            )
    return pd.DataFrame(lines)
