"""Selecting rows by their attributions: the layer-balanced strategy, and what it is compared with.

Shape letters: N = samples, L = layers, d = rows.

Source: paper, eqs. 6-9; the text, not the arrows in the equations, says which end is meant (sheet 2.2).
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int

Strategy = Literal["layer_balanced", "high", "abs_low", "abs_high", "global_low", "global_high", "random", "all_rows"]
Positions = list[list[int]]


def rows_per_layer(quota: float, num_rows: int) -> int:
    """Return k = floor(q d / 100), the rows of a layer, in exact arithmetic.

    Args:
        quota: q, percent in (0, 100].
        num_rows: d.

    Example: q = 30, d = 4096 gives 1228; the product of floats may come out one less.

    Raises:
        ValueError: the quota is not in (0, 100], or leaves no row.
    """
    return _floor(quota, num_rows, f"a layer of {num_rows} rows")


def select_rows(
    attributions: Float[npt.NDArray, "N L d"],
    quota: float,
    *,
    strategy: Strategy = "layer_balanced",
    rng: np.random.Generator | None = None,
) -> Positions:
    """Select the rows that are most often among the lowest (or highest) of their layer.

    For each sample, S is the set of the k rows of a layer with the lowest attribution; the k rows that are in S for the
    most samples are selected.

    - `layer_balanced`: the paper's strategy; signed values, so that "lowest" is the most negative
    - `high`: the highest signed values
    - `abs_low`, `abs_high`: by |attribution|
    - `global_low`, `global_high` (the paper's G-L, G-H): floor(L d q / 100) entries over all layers together
    - `random`: k rows of each layer at random
    - `all_rows`: every row, whatever the quota

    With a small quota `layer_balanced`, `high`, `global_low` and `global_high` are the suppression sets S-L and S-H.
    Ties: inside a sample the lower index first; between equal counts the lower mean attribution first (for the high
    ends: the higher), then the lower index. The min-max scaling in the paper does not change the order and is left out.

    Args:
        attributions: [N, L, d], N >= 1.
        quota: q, percent in (0, 100].
        strategy: see above.
        rng: for `random` only.

    Returns:
        For each layer its rows, the most frequent first.

    Raises:
        ValueError: an unknown strategy, a quota that leaves no row, values that are not finite, or no `rng`.
    """
    _check(attributions, strategy)
    _, num_layers, num_rows = attributions.shape
    if strategy == "all_rows":
        return [list(range(num_rows)) for _ in range(num_layers)]
    if strategy == "random":
        if rng is None:
            raise ValueError("strategy 'random' needs rng: a numpy generator to draw the rows from")
        k = rows_per_layer(quota, num_rows)
        return [rng.choice(num_rows, size=k, replace=False).tolist() for _ in range(num_layers)]
    counts = selection_counts(attributions, quota, strategy=strategy)
    mean = _signed_score(attributions, strategy).mean(axis=0, dtype=np.float64)
    if strategy in ("global_low", "global_high"):
        chosen = _most_frequent(counts.reshape(1, -1), mean.reshape(1, -1), _total(quota, num_layers, num_rows))[0]
        layers, rows = np.divmod(chosen, num_rows)
        return [rows[layers == layer].tolist() for layer in range(num_layers)]
    return [rows.tolist() for rows in _most_frequent(counts, mean, rows_per_layer(quota, num_rows))]


def selection_counts(
    attributions: Float[npt.NDArray, "N L d"], quota: float, *, strategy: Strategy = "layer_balanced"
) -> Int[npt.NDArray, "L d"]:
    """Return for how many samples each row is in the sample's set; see `select_rows`.

    Raises:
        ValueError: as `select_rows`; the strategies `random` and `all_rows` count nothing.
    """
    _check(attributions, strategy)
    if strategy in ("random", "all_rows"):
        raise ValueError(f"strategy {strategy!r} does not look at samples, so that there is nothing to count")
    _, num_layers, num_rows = attributions.shape
    over_layers = strategy in ("global_low", "global_high")
    k = _total(quota, num_layers, num_rows) if over_layers else rows_per_layer(quota, num_rows)
    counts = np.zeros((1, num_layers * num_rows) if over_layers else (num_layers, num_rows), dtype=np.int64)
    for sample in attributions:
        score = _signed_score(sample, strategy).reshape(counts.shape)
        lowest = np.argsort(score, axis=-1, kind="stable")[:, :k]
        np.put_along_axis(counts, lowest, np.take_along_axis(counts, lowest, axis=-1) + 1, axis=-1)
    return counts.reshape(num_layers, num_rows)


def _signed_score(attributions: np.ndarray, strategy: Strategy) -> np.ndarray:
    """Return values whose lowest are wanted."""
    score = np.abs(attributions) if strategy.startswith("abs_") else attributions
    return -score if strategy in ("high", "abs_high", "global_high") else score


def _most_frequent(counts: np.ndarray, mean: np.ndarray, k: int) -> np.ndarray:
    """Return the k columns of each line with the highest counts; ties by lower mean score, then lower index."""
    order = np.lexsort((mean, -counts), axis=-1)  # stable, so that equal ones stay in the order of their indices
    return order[:, :k]


def _total(quota: float, num_layers: int, num_rows: int) -> int:
    return _floor(quota, num_layers * num_rows, f"{num_layers} layers of {num_rows} rows")


def _floor(quota: float, number: int, what: str) -> int:
    if not 0 < quota <= 100:
        raise ValueError(f"quota: got {quota}, expected a percentage above 0 and at most 100")
    floor = math.floor(Fraction(str(quota)) * number / 100)
    if floor == 0:
        raise ValueError(f"quota: {quota} % of {what} is less than one row: raise it to at least {100 / number:.3g}")
    return floor


def _check(attributions: np.ndarray, strategy: str) -> None:
    if strategy not in get_args(Strategy):
        raise ValueError(f"strategy: got {strategy!r}, expected one of {', '.join(get_args(Strategy))}")
    if attributions.ndim != 3 or len(attributions) == 0:
        raise ValueError(
            f"attributions have shape {attributions.shape}, expected [samples, layers, rows], samples >= 1"
        )
    if not np.isfinite(attributions).all():
        raise ValueError(f"{int((~np.isfinite(attributions)).sum())} attributions are not finite: the model overflowed")
