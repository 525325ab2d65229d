"""Information between skills and states: KL, I(S;Z), SEPIN, LSEPIN, and the capacity of a set of distributions.

Skills are state distributions p_z = p(s|z) with weights p(z), by default uniform; p = sum_z p(z) p_z. Logarithms are
natural.

Shape letters: K = skills, n = candidate distributions, S = states; leading axes `...` are batches (sets of skills).

Source: sheet 2.2 and 2.3; I(S;Z) and the capacity after arXiv 2110.02719, SEPIN after arXiv 1908.09961.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import entr, rel_entr

from iclr_repro.wsep.mdp import check_distributions


def kl_divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return [...] KL(p || q) = sum_s p(s) log(p(s) / q(s)) of distributions [..., S]; infinite where q lacks support.

    Example: KL((1, 0) || (1/2, 1/2)) = log 2.
    """
    return np.asarray(rel_entr(p, q).sum(axis=-1))


def mutual_information(skills: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return [...] I(S;Z) = sum_z p(z) KL(p_z || p) in nats, of sets of skills [..., K, S].

    With uniform weights it is the K-way Jensen-Shannon divergence, at most log K.

    Args:
        skills: [..., K, S] distributions.
        weights: [..., K] p(z), uniform if None.

    Raises:
        ValueError: skills or weights that are no distributions or do not fit together.

    Example: two skills on different states have I = log 2.
    """
    skills, weights = _checked(skills, weights)
    divergences = kl_divergence(skills, mixture(skills, weights)[..., None, :])
    return np.asarray(np.where(weights > 0.0, weights * np.where(weights > 0.0, divergences, 0.0), 0.0).sum(axis=-1))


def mixture(skills: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return [..., S] p = sum_z p(z) p_z."""
    return np.asarray(np.einsum("...k,...ks->...s", weights, skills))


def sepin(skills: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return [..., K] I(S; 1_z) of each skill: what one learns from the state about whether the skill is z.

    I(S; 1_z) = p(z) KL(p_z || p) + (1 - p(z)) KL(p_nz || p),  p_nz = (p - p(z) p_z) / (1 - p(z))

    At most the binary entropy of p(z), reached where no state is visited both by z and by another skill; 0 for
    p(z) = 0 and p(z) = 1. Arguments and errors as for `mutual_information`.

    Example: four skills on different states, each with p(z) = 1/4, have I(S; 1_z) = h_b(1/4) = 0.5623.
    """
    skills, weights = _checked(skills, weights)
    average = mixture(skills, weights)[..., None, :]
    rest = others(skills, weights)
    proper = (weights > 0.0) & (weights < 1.0)
    own, other = kl_divergence(skills, average), kl_divergence(rest, average)
    return np.asarray(np.where(proper, weights * np.where(proper, own, 0.0) + (1.0 - weights) * other, 0.0))


def lsepin(skills: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return [...] LSEPIN = min_z I(S; 1_z) over the skills with p(z) > 0: the separability of the least separate one.

    Two equal skills do not make it 0, only smaller. Arguments and errors as for `mutual_information`.
    """
    skills, weights = _checked(skills, weights)
    return np.asarray(np.where(weights > 0.0, sepin(skills, weights), np.inf).min(axis=-1))


def others(skills: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return [..., K, S] p_nz, the average of all skills but z (the average of all where p(z) = 1)."""
    average = mixture(skills, weights)[..., None, :]
    left = 1.0 - weights[..., None]
    # Sums of non-negative terms, clipped against rounding; where p(z) = 1 there is no other skill.
    rest = np.maximum(average - weights[..., None] * skills, 0.0) / np.where(left > 0.0, left, 1.0)
    return np.asarray(np.where(left > 0.0, rest, average))


@dataclass(frozen=True, eq=False)
class Capacity:
    """The solution of max_{p(z)} I(S;Z) = min_p max_z KL(p_z || p).

    Attributes:
        value: lower bound sum_z p(z) KL(p_z || p), in nats.
        gap: upper bound max_z KL(p_z || p) minus `value`; the certificate: the capacity lies in [value, value + gap].
        weights: [n] an optimal p(z); not unique in general.
        mean: [S] the optimal p, which is unique.
        iterations: of Blahut and Arimoto's algorithm.
    """

    value: float
    gap: float
    weights: np.ndarray
    mean: np.ndarray
    iterations: int

    def support(self, threshold: float = 1e-4) -> np.ndarray:
        """Return the indices of the candidates with p(z) > threshold."""
        return np.flatnonzero(self.weights > threshold)


def channel_capacity(candidates: np.ndarray, *, tolerance: float = 1e-9, max_iterations: int = 1_000_000) -> Capacity:
    """Maximise I(S;Z) over p(z) for given distributions by Blahut and Arimoto's algorithm.

    k_z = KL(p_z || p);  p(z) <- p(z) exp(k_z) / sum;  stop when max_z k_z - sum_z p(z) k_z < tolerance

    Over the vertices of the polytope of occupancies this is mutual-information skill learning, solved exactly. The
    weights of candidates that are not needed vanish slowly: 500 to 100,000 iterations are usual.

    Args:
        candidates: [n, S] distributions.
        tolerance: of the certificate, in nats.
        max_iterations: after so many the result is returned as it is, with its gap.

    Raises:
        ValueError: candidates that are no distributions.
    """
    points = np.asarray(candidates, dtype=np.float64)
    if points.ndim != 2 or len(points) == 0:
        raise ValueError(f"candidates has shape {points.shape}, expected [n, S] distributions")
    check_distributions(points, "candidates[z]")
    visited = points[:, (points > 0.0).any(axis=0)]
    negative_entropies = -entr(visited).sum(axis=1)
    weights = np.full(len(points), 1.0 / len(points))
    iteration, value, gap = 0, 0.0, np.inf
    while True:
        divergences = negative_entropies - visited @ np.log(weights @ visited)
        value = float(weights @ divergences)
        gap = float(divergences.max()) - value
        if gap < tolerance or iteration == max_iterations:
            break
        weights *= np.exp(divergences)
        weights /= weights.sum()
        iteration += 1
    return Capacity(value, max(gap, 0.0), weights, weights @ points, iteration)


def _checked(skills: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    skills = np.asarray(skills, dtype=np.float64)
    if skills.ndim < 2 or 0 in skills.shape:
        raise ValueError(f"skills has shape {skills.shape}, expected [..., skills, states]")
    check_distributions(skills, "skills[z]")
    if weights is None:
        return skills, np.full(skills.shape[:-1], 1.0 / skills.shape[-2])
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != skills.shape[:-1]:
        raise ValueError(f"weights has shape {weights.shape}, expected {skills.shape[:-1]}, p(z) of each skill")
    check_distributions(weights, "weights")
    return skills, weights
