"""The topographic statistic t_g: whether units that are near each other respond alike (sheet 2.8).

Shape letters: N = examples, D = units, P = pairs of units, M = thresholds.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import scipy.stats
from jaxtyping import Float, Float64

from iclr_repro.topoformer.sheet import sheet_side, squared_distances

Kind = Literal["rankcorr", "corr", "standard"]
Distances = Literal["exact", "float"]

TENTHS = tuple(range(1, 9))  # the thresholds 0.1 to 0.8 of the tissue's side, in tenths


@dataclass(frozen=True, eq=False)
class TopographicStatistic:
    """t_m for each threshold and their mean.

    Attributes:
        mean: t_g, the mean over the thresholds at which it is defined.
        per_threshold: [8] t_m for distances up to m = 0.1, ..., 0.8; NaN where fewer than two distances are that small.
        thresholds: the m that entered the mean.
    """

    mean: float
    per_threshold: Float64[np.ndarray, " M"]
    thresholds: tuple[float, ...]


def topographic_statistic(
    activations: Float[np.ndarray, "N D"], *, kind: Kind = "rankcorr", distances: Distances = "exact"
) -> TopographicStatistic:
    """Return t_g = mean over m of t_m, t_m = - Spearman(C_uv, D_uv) over all pairs u != v with D_uv <= m.

    C are the Pearson correlations between units over examples (0 for a constant unit), D the torus distances. A random
    layout gives about 0, a smooth map towards 1. All pairs count; the authors' code draws at most 100,000 of them.

    Args:
        activations: token means of a sheet, [N >= 2, D]; D a perfect square, in the order of the grid's rows.
        kind: "rankcorr" as above; "corr": - Pearson(C, D); "standard": mean of z(C) / D, z over the same pairs.
        distances: "exact" compares integers; "float" computes as the authors' code does, whose rounding splits equal
            distances and moves pairs across thresholds (pitfall P4).

    Raises:
        ValueError: D is no perfect square or below 9, N < 2, an activation is not finite, or all units are constant.

    Source: sheet 2.8 and pitfall P5: thresholds with fewer than two different distances are skipped.
    """
    return statistic_of_correlations(unit_correlations(activations), kind=kind, distances=distances)


def unit_correlations(activations: Float[np.ndarray, "N D"]) -> Float64[np.ndarray, "D D"]:
    """Return the Pearson correlations between units, in float64; 0 beside a unit that is constant.

    Raises:
        ValueError: fewer than 2 examples, a value is not finite, or all units are constant.
    """
    values_ND = np.asarray(activations, dtype=np.float64)
    if len(values_ND) < 2:
        raise ValueError(f"activations: got {len(values_ND)} examples, expected at least 2 to correlate units over")
    if not np.isfinite(values_ND).all():
        bad = int((~np.isfinite(values_ND)).sum())
        raise ValueError(f"activations: {bad} values are NaN or infinite: the model that made them has diverged")
    centred_ND = values_ND - values_ND.mean(axis=0)
    norm_D = np.linalg.norm(centred_ND, axis=0)
    # A column of equal values keeps a residue of rounding, whose correlations would be noise.
    constant_D = norm_D <= 1e-12 * np.maximum(np.linalg.norm(values_ND, axis=0), np.finfo(np.float64).tiny)
    if constant_D.all():
        raise ValueError("activations: all units are constant over the examples, so that no correlation is defined")
    unit_ND = np.where(constant_D, 0.0, centred_ND / np.where(constant_D, 1.0, norm_D))
    correlation_DD: Float64[np.ndarray, "D D"] = np.clip(unit_ND.T @ unit_ND, -1.0, 1.0)
    return correlation_DD


def statistic_of_correlations(
    correlations: Float64[np.ndarray, "D D"], *, kind: Kind = "rankcorr", distances: Distances = "exact"
) -> TopographicStatistic:
    """Compute t_g from the correlations between units; see `topographic_statistic`."""
    for name, given, known in (("kind", kind, get_args(Kind)), ("distances", distances, get_args(Distances))):
        if given not in known:
            raise ValueError(f"{name}: got {given!r}, expected one of {', '.join(known)}")
    if len(correlations) < 9:
        raise ValueError(f"a sheet of {len(correlations)} units has too few distances for t_g: use at least 9 units")
    pairs = _pairs(len(correlations), distances)
    correlation_P = correlations[pairs.first, pairs.second]
    order_P = np.argsort(correlation_P) if kind == "rankcorr" else None
    per_threshold = np.full(len(TENTHS), np.nan)
    for number, within_P in enumerate(pairs.within):
        distance = pairs.distance[within_P]
        if kind == "standard":
            if len(distance):
                per_threshold[number] = np.mean(scipy.stats.zscore(correlation_P[within_P]) / distance)
        elif len(distance) and np.ptp(distance) > 0:
            if order_P is None:
                per_threshold[number] = -np.corrcoef(correlation_P[within_P], distance)[0, 1]
            else:
                chosen = order_P[within_P[order_P]]
                per_threshold[number] = -_spearman_of_sorted(correlation_P[chosen], pairs.ranks[number][chosen])
    used = np.isfinite(per_threshold)
    return TopographicStatistic(
        mean=float(per_threshold[used].mean()),
        per_threshold=per_threshold,
        thresholds=tuple(tenths / 10 for tenths, is_used in zip(TENTHS, used, strict=True) if is_used),
    )


def topographic_null(
    activations: Float[np.ndarray, "N D"], *, permutations: int, rng: np.random.Generator
) -> Float64[np.ndarray, " R"]:
    """Return t_g of the same units at random places, one value a permutation.

    Source: sheet, Beyond 2. The p-value of a layout is (1 + number of null values >= its t_g) / (1 + permutations).
    """
    correlation_DD = unit_correlations(activations)
    orders = (rng.permutation(len(correlation_DD)) for _ in range(permutations))
    return np.array([statistic_of_correlations(correlation_DD[np.ix_(order, order)]).mean for order in orders])


def permutation_p_value(value: float, null: Float[np.ndarray, " R"]) -> float:
    """Return (1 + number of null values >= value) / (1 + size of the null).

    Example: 2.0 against the null [1.0, 2.0, 3.0] gives (1 + 2) / 4.
    """
    return float((1 + np.sum(np.asarray(null) >= value)) / (1 + len(null)))


def _spearman_of_sorted(sorted_values: np.ndarray, scaled_ranks: np.ndarray) -> float:
    """Spearman's correlation of sorted values with ranks that are centred and of norm 1.

    Sorting all pairs once gives the ranks within every threshold: they count the chosen ones.
    """
    n = len(sorted_values)
    if (np.diff(sorted_values) > 0).all():
        ranks, norm = np.arange(n), math.sqrt(n * (n**2 - 1) / 12)
    else:
        ranks = scipy.stats.rankdata(sorted_values)
        norm = float(np.linalg.norm(ranks - ranks.mean()))
    return float(ranks @ scaled_ranks) / norm if norm > 0 else math.nan


@dataclass(frozen=True, eq=False)
class _Pairs:
    """The unordered pairs u < v; ordered ones, as in the authors' code, hold each value twice, which changes nothing.

    Attributes:
        first, second, distance: [P] of each pair.
        within: [M] of [P], which pairs are within each threshold.
        ranks: [M] of [P], ranks of the distances within the threshold, centred and of norm 1; 0 beyond it.
    """

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray
    within: list[np.ndarray]
    ranks: list[np.ndarray]


@functools.lru_cache(maxsize=8)
def _pairs(num_units: int, distances: Distances) -> _Pairs:
    first, second = np.triu_indices(num_units, k=1)
    side = sheet_side(num_units)
    if distances == "exact":
        squared = squared_distances(num_units)[first, second]
        distance = np.sqrt(squared) / side
        within = [100 * squared <= tenths**2 * num_units for tenths in TENTHS]
    else:
        rows, columns = (index / side for index in np.divmod(np.arange(num_units), side))
        steps = [np.abs(axis[first] - axis[second]) for axis in (rows, columns)]
        dx, dy = (np.where(step > 0.5, 1.0 - step, step) for step in steps)
        distance = np.sqrt(dx**2 + dy**2)
        within = [distance <= m for m in np.linspace(0.1, 0.8, 8)]
    _, level_P = np.unique(distance, return_inverse=True)  # few, so that they are sorted once for all thresholds
    return _Pairs(first, second, distance, within, [_scaled_ranks(level_P, chosen) for chosen in within])


def forget_distances() -> None:
    """Drop the tables of distances, which are kept for the numbers of units seen last (for timing a first call)."""
    _pairs.cache_clear()


def _scaled_ranks(level_P: np.ndarray, chosen_P: np.ndarray) -> np.ndarray:
    """Mean ranks of equal levels 0, 1, ... among the chosen ones, centred and of norm 1; 0 elsewhere."""
    count_L = np.bincount(level_P[chosen_P], minlength=level_P.max() + 1)
    centred_L = np.cumsum(count_L) - (count_L - 1) / 2 - (count_L.sum() + 1) / 2
    norm = math.sqrt(float(count_L @ centred_L**2))
    return np.where(chosen_P, centred_L[level_P] / max(norm, 1.0), 0.0)
