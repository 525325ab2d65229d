"""Linear attention by entropy equality (EALA): a reconstruction; the paper's formulas are not available (sheet M4, M5).

Shape letters: M = queries, N = keys, D = features of a head, E = values of a head. Leading axes (batch, heads) are not
named.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclr_repro.entropy_linear_attention.entropy import scores
from iclr_repro.entropy_linear_attention.feature_maps import FeatureMap
from iclr_repro.entropy_linear_attention.moments import (
    ScoreMoments,
    WhenEmpty,
    centred,
    features,
    full_precision,
    moments_of,
    score_moments,
    widened,
)
from iclr_repro.entropy_linear_attention.solvers import FIXED, Solver, solve


class Equality(NamedTuple):
    """What the solver made of each query.

    Attributes:
        mean: of the scores over the keys (mu).
        var: population variance of the scores.
        r: the solver's 1/(theta + mu), before the clamp that keeps theta >= 0.
        theta: max(1/r - mu, 0). Where it is positive, the entropies are equal as the solver asks: the query "attains".
        gain: 1/(theta + mu) after the clamp, the slope of the weights; 0 (uniform weights) where theta + mu is 0.
    """

    mean: Float[Tensor, "*batch M"]
    var: Float[Tensor, "*batch M"]
    r: Float[Tensor, "*batch M"]
    theta: Float[Tensor, "*batch M"]
    gain: Float[Tensor, "*batch M"]


def entropy_linear_attention(
    q: Float[Tensor, "*batch M D"],
    k: Float[Tensor, "*batch N D"],
    v: Float[Tensor, "*batch N E"],
    *,
    key_mask: Bool[Tensor, "*#batch N"] | None = None,
    feature_map: str | FeatureMap = "relu",
    solver: str | Solver = "collision",
    scale: float | None = None,
    theta: Float[Tensor, ...] | None = None,
    detach_theta: bool = False,
    empty: WhenEmpty = "error",
) -> Float[Tensor, "*batch M E"]:
    """Attention whose weights rank keys as softmax does and have (nearly) its entropy, in time linear in N.

    w_ij = (theta_i + s_ij) / sum_l (theta_i + s_il),  s_ij = scale phi(q_i) . phi(k_j),  theta_i >= 0 in closed form

    evaluated as out_i = vbar + g_i phi(q_i) G with moments of the keys only: kbar, vbar, C = cov(phi(k)),
    G = cov(phi(k), v), mu_i = phi(q_i) . kbar, var_i = phi(q_i) C phi(q_i), g_i = 1 / max(1/r(var_i), mu_i).
    O((N + M)(D^2 + D E)) time, O(N (D + E) + D^2 + D E) memory; no M x N matrix is formed, nothing is divided by a sum
    that can vanish. Moments are float32 under autocast and for half-precision inputs.

    Args:
        q: queries.
        k: keys.
        v: values.
        key_mask: True where a key exists; leading axes broadcast. Masked keys and values have no influence, even if
            NaN.
        feature_map: phi: "relu", "elu1", "identity" (signed: weights can be negative), or a function.
        solver: "collision", "shannon2", "shannon4", "fixed" (theta is given), or a function from var to r.
        scale: positive factor of the scores; None: 1/sqrt(D).
        theta: for solver "fixed" only: >= 0, broadcasts to [..., M].
        detach_theta: cut the gradient through theta (an ablation).
        empty: what a row without any key gives: "error", or "zero".

    Returns:
        In the dtype of v. A query whose features are all 0 gets the mean of the values.

    Raises:
        ValueError: shapes that do not fit, N = 0 or D = 0, whole numbers, a scale that is not positive, an unknown
            feature map or solver, theta without "fixed" or the reverse, of another shape or below 0, a solver of one's
            own whose r is not positive, a row without keys (unless `empty` is "zero"), scores that are not finite.

    Source: sheet M5.
    """
    _check_values(k, v)
    with full_precision(q):
        found = features(q, k, key_mask=key_mask, feature_map=feature_map, scale=scale, empty=empty)
        values_NE = widened(v)
        if found.mask is not None:
            values_NE = torch.where(found.mask > 0, values_NE, torch.zeros_like(values_NE))
        mean_1D, centred_ND = centred(found.k, found)
        covariance_DD = centred_ND.mT @ centred_ND / found.num_keys
        # Centring the values as well would change nothing: the deviations of the keys sum to 0.
        cross_DE = centred_ND.mT @ values_NE / found.num_keys
        equal = equality(moments_of(found.q, mean_1D, covariance_DD), solver, theta=theta, detach_theta=detach_theta)
        mean_1E = values_NE.sum(dim=-2, keepdim=True) / found.num_keys
        out_ME = mean_1E + equal.gain[..., None] * (found.q @ cross_DE)
    return out_ME.to(v.dtype)


def equality(
    moments: ScoreMoments,
    solver: str | Solver,
    *,
    theta: Tensor | None = None,
    detach_theta: bool = False,
) -> Equality:
    """Solve for theta of each query: theta = max(1/r - mu, 0), gain = 1/(theta + mu) = 1/max(1/r, mu).

    Raises:
        ValueError: see `entropy_linear_attention`.

    Source: sheet M4, M5 step 5.
    """
    mean, var = moments
    _check_finite(mean, var)
    if (solver == FIXED) != (theta is not None):
        raise ValueError(
            f"theta: {'missing' if theta is None else 'given'} with solver {solver!r}; solver='fixed' needs theta >= 0,"
            " the others solve for it"
        )
    if theta is None:
        r = solve(solver, var)
        solved = (1.0 / r - mean).clamp(min=0.0)
        total = solved.detach() + mean if detach_theta else torch.maximum(1.0 / r, mean)
        return Equality(mean, var, r, solved, 1.0 / total)
    given = _checked_theta(theta, mean)
    total = given + mean
    positive = total > 0
    gain = torch.where(positive, 1.0 / torch.where(positive, total, torch.ones_like(total)), torch.zeros_like(total))
    return Equality(mean, var, gain, given, gain)


def entropy_equality(
    q: Float[Tensor, "*batch M D"],
    k: Float[Tensor, "*batch N D"],
    *,
    key_mask: Bool[Tensor, "*#batch N"] | None = None,
    feature_map: str | FeatureMap = "relu",
    solver: str | Solver = "collision",
    scale: float | None = None,
    theta: Float[Tensor, ...] | None = None,
) -> Equality:
    """What `entropy_linear_attention` solves for, without values: moments, r, theta and gain of each query.

    The dead rate is the share of queries with mean score 0 (ReLU features), the attainment rate that of others with
    theta > 0.
    Arguments and errors as there.
    """
    with full_precision(q):
        found = features(q, k, key_mask=key_mask, feature_map=feature_map, scale=scale)
        return equality(score_moments(found), solver, theta=theta)


def attention_weights(
    q: Float[Tensor, "*batch M D"],
    k: Float[Tensor, "*batch N D"],
    *,
    key_mask: Bool[Tensor, "*#batch N"] | None = None,
    feature_map: str | FeatureMap = "relu",
    solver: str | Solver = "collision",
    scale: float | None = None,
    theta: Float[Tensor, ...] | None = None,
) -> Float[Tensor, "*batch M N"]:
    """The weights that `entropy_linear_attention` never forms: the dense reference for tests and plots.

    w_ij = (1 + g_i (s_ij - mu_i)) / N, 0 for masked keys. O(M N) memory. Arguments and errors as there.
    """
    with full_precision(q):
        found = features(q, k, key_mask=key_mask, feature_map=feature_map, scale=scale)
        equal = equality(score_moments(found), solver, theta=theta)
        dense_MN = scores(found)
        deviation_MN = torch.where(dense_MN.isinf(), torch.zeros_like(dense_MN), dense_MN - equal.mean[..., None])
        weights_MN = (1.0 + equal.gain[..., None] * deviation_MN) / found.num_keys
        return weights_MN if found.mask is None else weights_MN * found.mask.mT


def _checked_theta(theta: Tensor, mean: Tensor) -> Tensor:
    """Theta in the shape and dtype of the queries' mean scores; its values are not looked at while compiling."""
    try:
        given = theta.to(mean.dtype).expand_as(mean)
    except RuntimeError:
        raise ValueError(
            f"theta: got shape {list(theta.shape)}, expected one that broadcasts to {list(mean.shape)}, the queries"
        ) from None
    if not torch.compiler.is_compiling() and not bool((given >= 0).all()):
        raise ValueError(
            f"theta: got values from {float(theta.min()):.4g}, expected >= 0 everywhere, so that no weight is negative"
        )
    return given


def _check_values(k: Tensor, v: Tensor) -> None:
    if not v.is_floating_point():
        raise ValueError(f"v: got {v.dtype}, expected floating point: convert it, e.g. v.float()")
    if k.shape[:-1] != v.shape[:-1]:
        raise ValueError(
            f"k and v: got shapes {list(k.shape)} and {list(v.shape)}, expected [..., N, d] and [..., N, e] with equal"
            " leading axes and N"
        )


def _check_finite(mean: Tensor, var: Tensor) -> None:
    """Refuse NaN and infinity in queries or keys; not while compiling: a look at the values would split the graph."""
    if torch.compiler.is_compiling():
        return
    finite = torch.isfinite(mean + var)
    if not bool(finite.all()):
        first = torch.nonzero(~finite)[0].tolist()
        raise ValueError(
            f"scores: {int((~finite).sum())} of {finite.numel()} queries have scores that are not finite, the first at"
            f" index {first}: q or k holds NaN or infinity; mask missing keys with key_mask"
        )
