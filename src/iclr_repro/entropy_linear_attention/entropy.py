"""Entropy of softmax attention: exactly, in quadratic time, and estimated in linear time (sheet M2, M3). All in nats.

Shape letters: M = queries, N = keys, D = features of a head.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclr_repro.entropy_linear_attention._choices import chosen
from iclr_repro.entropy_linear_attention.feature_maps import FeatureMap
from iclr_repro.entropy_linear_attention.moments import (
    Features,
    ScoreMoments,
    features,
    full_precision,
    score_moments,
    third_central_moment,
)


def softmax_entropy(
    q: Float[Tensor, "*batch M D"],
    k: Float[Tensor, "*batch N D"],
    *,
    key_mask: Bool[Tensor, "*#batch N"] | None = None,
    feature_map: str | FeatureMap = "relu",
    scale: float | None = None,
) -> Float[Tensor, "*batch M"]:
    """Entropy of softmax attention over the feature scores, exactly: the quadratic reference.

    H_i = log sum_j exp(s_ij) - sum_j p_ij s_ij,  s_ij = scale phi(q_i) . phi(k_j),  p = softmax(s)

    Args:
        q: queries.
        k: keys.
        key_mask: True where a key exists.
        feature_map: phi; with "identity" this is the entropy of plain softmax attention.
        scale: positive factor of the scores; None: 1/sqrt(D).

    Returns:
        Entropy in nats, in [0, log N]. Forms the M x N matrix.

    Raises:
        ValueError: see `moments.features`.

    Source: sheet M2.
    """
    with full_precision(q):
        found = features(q, k, key_mask=key_mask, feature_map=feature_map, scale=scale)
        return entropy_of_scores(scores(found))


def scores(found: Features) -> Float[Tensor, "*batch M N"]:
    """s_ij = q_i . k_j, -inf for masked keys: the dense matrix, for references and plots."""
    dense_MN = found.q @ found.k.mT
    return dense_MN if found.mask is None else dense_MN.masked_fill(found.mask.mT == 0, -torch.inf)


def entropy_of_scores(scores_MN: Float[Tensor, "*batch N"]) -> Float[Tensor, "*batch"]:
    """Entropy of softmax(scores) over the last axis, in nats; -inf is a key that does not exist.

    Example: equal scores of 4 keys give log 4.
    """
    log_p = torch.log_softmax(scores_MN, dim=-1)
    return torch.special.entr(log_p.exp()).sum(dim=-1)


def gauss2(log_n: Tensor, moments: ScoreMoments, found: Features) -> Tensor:
    """Log N - var/2: exact for many keys with Gaussian scores."""
    return log_n - moments.var / 2


def cum3(log_n: Tensor, moments: ScoreMoments, found: Features) -> Tensor:
    """Log N - var/2 - kappa_3/3: one more cumulant, at O((N + M) D^3)."""
    return log_n - moments.var / 2 - third_central_moment(found) / 3


def taylor2(log_n: Tensor, moments: ScoreMoments, found: Features) -> Tensor:
    """Log N + log Z - var/Z, Z = 1 + var/2: for comparison only; not monotone beyond var = 2."""
    z = 1.0 + moments.var / 2
    return log_n + torch.log(z) - moments.var / z


ESTIMATES: dict[str, Callable[[Tensor, ScoreMoments, Features], Tensor]] = {
    "gauss2": gauss2,
    "cum3": cum3,
    "taylor2": taylor2,
}
"""The linear-time estimates by name."""


def entropy_estimate(
    q: Float[Tensor, "*batch M D"],
    k: Float[Tensor, "*batch N D"],
    *,
    estimate: str = "gauss2",
    key_mask: Bool[Tensor, "*#batch N"] | None = None,
    feature_map: str | FeatureMap = "relu",
    scale: float | None = None,
) -> Float[Tensor, "*batch M"]:
    """Entropy of softmax attention in time linear in N, from moments of the keys.

    gauss2 = log N - var/2,  cum3 = gauss2 - kappa_3/3,  taylor2 = log N + log Z - var/Z with Z = 1 + var/2,
    each clipped to [0, log N]. var and kappa_3 are central moments of a query's scores over the keys.

    Args:
        q: queries.
        k: keys.
        estimate: "gauss2", "cum3" (meant for D <= 16) or "taylor2" (for comparison only).
        key_mask: True where a key exists.
        feature_map: phi of the scores.
        scale: positive factor of the scores; None: 1/sqrt(D).

    Returns:
        Entropy in nats.

    Raises:
        ValueError: no estimate of this name, or see `moments.features`.

    Source: sheet M3 (reconstruction; the paper's own approximation is not available).
    """
    formula = chosen("estimate", estimate, ESTIMATES)
    with full_precision(q):
        found = features(q, k, key_mask=key_mask, feature_map=feature_map, scale=scale)
        log_n = found.num_keys[..., 0].log()
        return torch.minimum(formula(log_n, score_moments(found), found).clamp(min=0.0), log_n)
