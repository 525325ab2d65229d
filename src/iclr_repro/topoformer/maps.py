"""Maps on a sheet: selectivity of units, principal components, and how clustered a map is (sheet 2.9, 2.10).

Shape letters: N = examples, D = units, K = maps or components, R = permutations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.special
import scipy.stats
from jaxtyping import Bool, Float, Float64, Int

from iclr_repro.topoformer.sheet import sheet_side

_EIGHT_NEIGHBOURS = tuple((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0))
_SMALLEST_P = 1e-290  # below it p is taken from its logarithm alone


@dataclass(frozen=True, eq=False)
class SelectivityMap:
    """How each unit tells two groups of examples apart.

    Attributes:
        t: [D] t statistic, group 1 minus group 0.
        log10_p: [D] logarithm of the two-sided p-value, right also where p itself is too small for a float.
        values: [D] the map that is drawn, -log10(p) * sign(t).
        significant: [D] whether p < 0.05 after Benjamini and Hochberg's correction over the units.
    """

    t: Float64[np.ndarray, " D"]
    log10_p: Float64[np.ndarray, " D"]
    values: Float64[np.ndarray, " D"]
    significant: Bool[np.ndarray, " D"]


def selectivity_map(
    activations: Float[np.ndarray, "N D"], labels: Int[np.ndarray, " N"] | Bool[np.ndarray, " N"]
) -> SelectivityMap:
    """Test each unit for a difference between two groups: two-sided t-test with equal variances.

    A unit that is constant has t = 0 and p = 1.

    Args:
        activations: token means of a sheet.
        labels: 0 or 1 (False, True), at least two examples of each.

    Raises:
        ValueError: labels other than 0 and 1, or fewer than two examples of a group.

    Source: sheet 2.9, pitfalls P6 (label 1 is positive) and P13 (p underflows).
    """
    labels = np.asarray(labels).astype(np.int64)
    counts = {value: int((labels == value).sum()) for value in (0, 1)}
    if sum(counts.values()) != len(labels) or min(counts.values()) < 2:
        raise ValueError(f"labels: got {dict(zip(*np.unique(labels, return_counts=True), strict=True))} examples by"
                         " label, expected only 0 and 1 with at least two examples each")  # fmt: skip
    values_ND = np.asarray(activations, dtype=np.float64)
    varies_D = np.ptp(values_ND, axis=0) > 0
    t_D = np.zeros(values_ND.shape[1])
    test = scipy.stats.ttest_ind(values_ND[labels == 1][:, varies_D], values_ND[labels == 0][:, varies_D])
    t_D[varies_D] = test.statistic
    log_p_D = _log_two_sided_p(t_D, degrees=len(labels) - 2)
    p_D = np.exp(np.maximum(log_p_D, np.log(_SMALLEST_P)))
    return SelectivityMap(
        t=t_D,
        log10_p=log_p_D / np.log(10.0),
        values=-log_p_D / np.log(10.0) * np.sign(t_D),
        significant=scipy.stats.false_discovery_control(p_D) < 0.05,
    )


def _log_two_sided_p(t_D: np.ndarray, *, degrees: int) -> np.ndarray:
    """Log P(|T| >= |t|) = log I_x(a, 1/2), a = degrees / 2, x = degrees / (degrees + t^2).

    Where the regularised incomplete beta function underflows, its series x^a 2F1(a, 1/2; a + 1; x) / (a B(a, 1/2)).
    """
    half = degrees / 2
    x_D = degrees / (degrees + t_D**2)
    p_D = scipy.special.betainc(half, 0.5, x_D)
    series_D = (
        half * np.log(x_D)
        - np.log(half)
        - scipy.special.betaln(half, 0.5)
        + np.log(scipy.special.hyp2f1(half, 0.5, half + 1.0, x_D))
    )
    return np.where(p_D > _SMALLEST_P, np.log(np.maximum(p_D, _SMALLEST_P)), series_D)


@dataclass(frozen=True, eq=False)
class PCAMaps:
    """Principal components of a sheet: [K, D] unit weights as maps, [K] shares of variance, [N, K] scores."""

    weights: Float64[np.ndarray, "K D"]
    explained: Float64[np.ndarray, " K"]
    scores: Float64[np.ndarray, "N K"]


def pca_maps(activations: Float[np.ndarray, "N D"], num_components: int) -> PCAMaps:
    """Return the first principal components of centred, unscaled activations.

    The sign of a component is that which makes its largest weight positive.

    Raises:
        ValueError: fewer than `num_components` components exist, or the activations are all equal.

    Source: sheet 2.9.
    """
    centred_ND = np.asarray(activations, dtype=np.float64)
    centred_ND = centred_ND - centred_ND.mean(axis=0)
    if not 1 <= num_components <= min(centred_ND.shape):
        raise ValueError(f"num_components: got {num_components} for {centred_ND.shape[0]} examples of"
                         f" {centred_ND.shape[1]} units, expected 1 to {min(centred_ND.shape)}")  # fmt: skip
    left, singular, weights = np.linalg.svd(centred_ND, full_matrices=False)
    if singular[0] == 0.0:
        raise ValueError("activations: all examples are equal, so that there is no component")
    kept = slice(num_components)
    largest = np.abs(weights[kept]).argmax(axis=1)
    signs = np.sign(weights[np.arange(num_components), largest])
    return PCAMaps(
        weights=weights[kept] * signs[:, None],
        explained=singular[kept] ** 2 / np.sum(singular**2),
        scores=left[:, kept] * singular[kept] * signs,
    )


def morans_i(maps: Float[np.ndarray, "*K D"], *, wrap: bool = True) -> Float64[np.ndarray, "*K"] | np.float64:
    """Return Moran's I: d / sum(w) * sum_uv w_uv z_u z_v / sum_u z_u^2, z the centred map, w the eight neighbours.

    Near 1 for smooth maps, -1 / (d - 1) on average for maps without order.

    Args:
        maps: one map or several; d a perfect square >= 9.
        wrap: neighbours across the border count (the torus); False: the sheet has borders.

    Raises:
        ValueError: d is no perfect square or below 9, or a map is constant.

    Source: sheet 2.10. Example: 4 x 4 units, alternating columns of +1 and -1: of eight neighbours two agree and six
    do not, I = -0.5.
    """
    maps = np.asarray(maps, dtype=np.float64)
    side = sheet_side(maps.shape[-1])
    if side < 3:
        raise ValueError(f"maps: {side} x {side} units have no eight different neighbours: use at least 3 x 3")
    centred = (maps - maps.mean(axis=-1, keepdims=True)).reshape(*maps.shape[:-1], side, side)
    power = np.sum(centred**2, axis=(-2, -1))
    scale = np.sum(maps**2, axis=-1)
    if np.any(power <= 1e-24 * scale) or np.any(scale == 0.0):
        raise ValueError("maps: a map is constant, so that Moran's I is 0 / 0: leave it out")
    products, num_weights = np.zeros(power.shape), 0
    for i, j in _EIGHT_NEIGHBOURS:
        if wrap:
            one, other = centred, np.roll(centred, (i, j), axis=(-2, -1))
        else:
            one = centred[..., max(i, 0) : side + min(i, 0), max(j, 0) : side + min(j, 0)]
            other = centred[..., max(-i, 0) : side + min(-i, 0), max(-j, 0) : side + min(-j, 0)]
        products = products + np.sum(one * other, axis=(-2, -1))
        num_weights += one.shape[-2] * one.shape[-1]
    return np.asarray(maps.shape[-1] / num_weights * products / power)[()]


def morans_null(
    values: Float[np.ndarray, " D"], *, permutations: int, rng: np.random.Generator, wrap: bool = True
) -> Float64[np.ndarray, " R"]:
    """Return Moran's I of the same values at random places, one a permutation."""
    shuffled_RD = rng.permuted(np.tile(values, (permutations, 1)), axis=1)
    return np.asarray(morans_i(shuffled_RD, wrap=wrap))


def cross_correlation_maps(
    scores: Float[np.ndarray, "N K"], activations: Float[np.ndarray, "N D"]
) -> Float64[np.ndarray, "K D"]:
    """Return the correlation of each component's scores, from one domain, with every unit of the other domain.

    A unit that is constant has correlation 0. Source: sheet 2.15, brain analysis of the submission.
    """
    return standardised(scores).T @ standardised(activations) / len(scores)


def standardised(values: Float[np.ndarray, "N D"]) -> Float64[np.ndarray, "N D"]:
    """Return columns of mean 0 and population standard deviation 1; a constant column becomes 0."""
    centred = np.asarray(values, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    deviation = centred.std(axis=0)
    return np.where(deviation > 0, centred / np.where(deviation > 0, deviation, 1.0), 0.0)
