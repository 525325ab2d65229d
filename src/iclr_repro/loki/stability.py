"""How far a selection depends on the prompts it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from iclr_repro.loki.selection import Strategy, select_rows


@dataclass(frozen=True)
class Stability:
    """Overlap of selections from bootstrap samples with the one from all prompts.

    Attributes:
        overlaps: [resamples], the share of rows in common.
        mean: of `overlaps`.
        interval: 95 %, percentiles of `overlaps`.
        by_layer: [L], mean share in each layer.
    """

    overlaps: npt.NDArray[np.float64]
    mean: float
    interval: tuple[float, float]
    by_layer: npt.NDArray[np.float64]


def overlap(positions: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> float:
    """Return the share of the rows of `positions` that `other` holds as well, over all layers.

    Of nested selections (q = 10 in q = 20) this is the share that is nested. By chance it is the quota of `other`.

    Example: [[0, 1], [2, 3]] in [[1, 5], [2, 3]] is 3 of 4 = 0.75.

    Raises:
        ValueError: different numbers of layers, or no row.
    """
    if len(positions) != len(other) or not any(positions):
        raise ValueError(f"expected rows for the same layers, got {len(positions)} and {len(other)} layers")
    shared = sum(len(set(a) & set(b)) for a, b in zip(positions, other, strict=True))
    return shared / sum(map(len, positions))


def crowding(attributions: Float[npt.NDArray, "N L d"], quota: float) -> tuple[dict[str, list[int]], float | None]:
    """Count the globally highest and lowest rows in each layer; return the counts and their Pearson r over layers.

    Returns:
        {"high": [L], "low": [L]}, and r; None where an end is spread evenly over the layers.

    Raises:
        ValueError: as `select_rows`.

    Source: paper, Figure 2 (sheet 5, C8).
    """
    ends: dict[str, Strategy] = {"high": "global_high", "low": "global_low"}
    counts = {
        end: [len(rows) for rows in select_rows(attributions, quota, strategy=strategy)]
        for end, strategy in ends.items()
    }
    if any(np.ptp(of_end) == 0 for of_end in counts.values()):
        return counts, None
    return counts, float(np.corrcoef(counts["high"], counts["low"])[0, 1])


def selection_stability(
    attributions: Float[npt.NDArray, "N L d"],
    quota: float,
    *,
    strategy: Strategy = "layer_balanced",
    resamples: int = 100,
    rng: np.random.Generator,
) -> Stability:
    """Select rows from bootstrap samples of the prompts and compare them with the selection from all of them.

    Args:
        attributions: [N, L, d].
        quota: percent, see `select_rows`.
        strategy: see `select_rows`; not `random` or `all_rows`.
        resamples: >= 2 bootstrap samples of N prompts.
        rng: draws them.

    Raises:
        ValueError: as `select_rows`, or fewer than two resamples.
    """
    if resamples < 2:
        raise ValueError(f"resamples: got {resamples}, expected >= 2 for an interval")
    whole = select_rows(attributions, quota, strategy=strategy)
    overlaps, by_layer = np.zeros(resamples), np.zeros((resamples, len(whole)))
    for number in range(resamples):
        drawn = attributions[rng.integers(len(attributions), size=len(attributions))]
        selected = select_rows(drawn, quota, strategy=strategy)
        overlaps[number] = overlap(whole, selected)
        by_layer[number] = [
            len(set(a) & set(b)) / len(a) if a else np.nan for a, b in zip(whole, selected, strict=True)
        ]
    low, high = np.percentile(overlaps, [2.5, 97.5])
    return Stability(overlaps, float(overlaps.mean()), (float(low), float(high)), by_layer.mean(axis=0))
