"""Entropy, divergence and distance of distributions: the theory that the method rests on (sheet M1). All in nats.

Shape letters: N = outcomes (the last axis). Leading axes are pairs of distributions side by side.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def entropy(p: Float[Tensor, "*batch N"]) -> Float[Tensor, "*batch"]:
    """H(p) = -sum_i p_i log p_i, with 0 log 0 = 0: strictly concave on the simplex.

    Example: p = [1/2, 1/4, 1/4] gives 1.5 log 2.
    """
    return torch.special.entr(p).sum(dim=-1)


def kl_divergence(q: Float[Tensor, "*#batch N"], p: Float[Tensor, "*#batch N"]) -> Float[Tensor, "*pairs"]:
    """KL(q || p) = sum_i q_i log(q_i / p_i); infinite where p is 0 and q is not.

    Example: q = [1, 0], p = [1/2, 1/2] gives log 2.
    """
    return (torch.special.xlogy(q, q) - torch.special.xlogy(q, p)).sum(dim=-1)


def linear_term(p: Float[Tensor, "*batch N"], q: Float[Tensor, "*batch N"]) -> Float[Tensor, "*batch"]:
    """sum_i (p_i - q_i) log p_i: what the entropies of p and q leave open of their divergence.

    Identity, for any p > 0 and any q: KL(q || p) = H(p) - H(q) + linear_term(p, q). (Third-party summaries of the paper
    print H(q) - H(p); that sign is wrong, the bound below does not depend on it.)

    Source: sheet M1.2.
    """
    return torch.special.xlogy(p - q, p).sum(dim=-1)


def kl_bound(p: Float[Tensor, "*batch N"], q: Float[Tensor, "*batch N"]) -> Float[Tensor, "*batch"]:
    """|H(q) - H(p)| + |linear_term(p, q)| >= KL(q || p): Proposition 1 of the paper, as third parties state it.

    By the triangle inequality it holds for all p and q; an equal ranking matters only for the second term to be small.

    Source: sheet M1.3.
    """
    return (entropy(q) - entropy(p)).abs() + linear_term(p, q).abs()


def total_variation(p: Float[Tensor, "*batch N"], q: Float[Tensor, "*batch N"]) -> Float[Tensor, "*batch"]:
    """TV(p, q) = sum_i |p_i - q_i| / 2, in [0, 1].

    Example: p = [1/2, 1/2], q = [3/4, 1/4] gives 1/4.
    """
    return (p - q).abs().sum(dim=-1) / 2


def ranking_violation(scores: Float[Tensor, "*batch N"], weights: Float[Tensor, "*batch N"]) -> Float[Tensor, "*batch"]:
    """Largest amount by which a weight exceeds that of a key with the next higher (or an equal) score; 0: same ranking.

    Example: scores = [1, 2, 3], weights = [0.2, 0.5, 0.3] gives 0.2.
    """
    order = scores.argsort(dim=-1, stable=True)
    steps = weights.gather(-1, order).diff(dim=-1)
    return (-steps).clamp(min=0.0).amax(dim=-1) if steps.shape[-1] else weights.new_zeros(weights.shape[:-1])


def unranked(scores: Float[Tensor, "*batch N"], weights: Float[Tensor, "*batch N"]) -> Bool[Tensor, "*batch"]:
    """Whether the weights are equal, or NaN, where scores differ, by more than round-off of either's spread.

    Example: scores = [1, 2, 3], weights = [1/3, 1/3, 1/3] gives True.
    """
    order = scores.argsort(dim=-1, stable=True)
    steps = scores.gather(-1, order).diff(dim=-1), weights.gather(-1, order).diff(dim=-1)
    apart = steps[0] > 1e-6 * steps[0].sum(dim=-1, keepdim=True)
    return (apart & ~(steps[1] > 0)).any(dim=-1)


def co_monotone(p: Float[Tensor, "*batch N"], q: Float[Tensor, "*batch N"]) -> Bool[Tensor, "*batch"]:
    """Whether two distributions rank their outcomes in the same way: (p_i - p_j)(q_i - q_j) >= 0 for all i, j.

    Example: p = [0.5, 0.3, 0.2], q = [0.4, 0.4, 0.2] gives True.
    """
    order_p = p.argsort(dim=-1, stable=True)
    p, q = p.gather(-1, order_p), q.gather(-1, order_p)
    # Within ties of p any order of q agrees: compare the largest q below each step of p with the smallest above it.
    below = q.cummax(dim=-1).values[..., :-1]
    above = q.flip(-1).cummin(dim=-1).values.flip(-1)[..., 1:]
    return ((p.diff(dim=-1) == 0) | (below <= above)).all(dim=-1)


def softmax_family(scores: Float[Tensor, "*batch N"], t: float) -> Float[Tensor, "*batch N"]:
    """softmax(t s): one ranking, one parameter; dH/dt = -t Var_p(s) (sheet M1.5)."""
    return torch.softmax(t * scores, dim=-1)


def linear_family(scores: Float[Tensor, "*batch N"], theta: float | Tensor) -> Float[Tensor, "*batch N"]:
    """(theta + s_j) / sum_l (theta + s_l), theta > -min s: one ranking, one parameter; dH/dtheta > 0 (sheet M1.5).

    Raises:
        ValueError: a weight would be negative, or all are 0.
    """
    shifted = scores + theta
    total = shifted.sum(dim=-1, keepdim=True)
    if bool((shifted.amin(dim=-1) < 0).any()) or bool((total <= 0).any()):
        raise ValueError(
            f"theta: with the smallest score {float(scores.min()):.4g} a weight is negative or all are 0; expected"
            " theta > -min(scores)"
        )
    return shifted / total
