"""The exact statements: what must hold of the weights and of entropy itself (sheet M1, M5).

A comparison with NaN is false: what does not demonstrably hold is counted as violated, and maxima keep NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.measurements import Measurements
from iclr_repro.core.rundir import Run
from iclr_repro.entropy_linear_attention.attention import (
    attention_weights,
    entropy_equality,
    entropy_linear_attention,
)
from iclr_repro.entropy_linear_attention.distributions import (
    entropy,
    kl_bound,
    kl_divergence,
    linear_family,
    linear_term,
    ranking_violation,
    softmax_family,
    total_variation,
    unranked,
)
from iclr_repro.entropy_linear_attention.entropy import scores
from iclr_repro.entropy_linear_attention.moments import features
from iclr_repro.entropy_linear_attention.solvers import SOLVERS

_ROUND_OFF = 1e-12  # of float64 sums over at most some hundred weights


@dataclass(frozen=True, kw_only=True)
class Theory:
    """Invariants of the weights on random cases, and the identities and inequalities that the method rests on."""

    cases: int = parameter("random attention cases for the invariants", low=10, high=10_000)
    pairs: int = parameter("random pairs of distributions", low=10, high=100_000)
    permutations: int = parameter("random orders that the aligned one is compared with", low=10, high=10_000)

    def run(self, run: Run) -> Result:
        """Count violations and measure the largest errors."""
        metrics = {
            **_invariants(run, self.cases),
            **_pairs(run, self.pairs),
            **_alignment(run, self.cases, self.permutations),
            **_families(run, self.cases),
            **_counter_example(),
        }
        found = Measurements()
        for name, value in metrics.items():
            found.add_exact(name, float(value))
        return found.result()


def random_cases(rng: np.random.Generator, number: int) -> Iterator[dict[str, Any]]:
    """Attention inputs of random size, scale, solver and mask, float64; ReLU features."""
    for _ in range(number):
        num_queries, num_keys = int(rng.integers(1, 12)), int(rng.integers(1, 80))
        head_dim, value_dim = int(rng.integers(1, 24)), int(rng.integers(1, 9))
        spread = float(rng.uniform(0.1, 3.0))
        mask = rng.random(num_keys) < 0.8
        mask[rng.integers(num_keys)] = True
        yield {
            "q": torch.from_numpy(spread * rng.standard_normal((num_queries, head_dim))),
            "k": torch.from_numpy(rng.standard_normal((num_keys, head_dim))),
            "v": torch.from_numpy(rng.standard_normal((num_keys, value_dim))),
            "key_mask": torch.from_numpy(mask) if rng.random() < 0.5 else None,
            "solver": str(rng.choice(list(SOLVERS))),
        }


def _invariants(run: Run, number: int) -> dict[str, float]:
    """Largest violation of each invariant of M5, and how many cases violate any (C3); the Taylor identity (C12)."""
    rng = run.rng("cases")
    worst = dict.fromkeys(
        ("row_sum", "negative", "ranking", "unranked", "shift", "scaling", "permutation", "dense"), 0.0
    )
    taylor, violations, attaining, queries = 0.0, 0, 0, 0
    for case in random_cases(rng, number):
        q, k, v = case["q"], case["k"], case["v"]
        options = {"key_mask": case["key_mask"], "solver": case["solver"]}
        exists = torch.ones(len(k), dtype=torch.bool) if case["key_mask"] is None else case["key_mask"]
        weights = attention_weights(q, k, **options)
        out = entropy_linear_attention(q, k, v, **options)
        dense = scores(features(q, k, key_mask=case["key_mask"]))[:, exists]
        order = torch.from_numpy(rng.permutation(len(k)))
        permuted = {**options, "key_mask": None if case["key_mask"] is None else case["key_mask"][order]}
        shift = torch.from_numpy(rng.standard_normal(v.shape[1]))
        found = {
            "row_sum": (weights.sum(dim=-1) - 1).abs().max(),
            "negative": -weights.min().clamp(max=0.0),
            "ranking": ranking_violation(dense, weights[:, exists]).max(),
            "unranked": unranked(dense, weights[:, exists]).double().max(),
            "shift": (entropy_linear_attention(q, k, v + shift, **options) - out - shift).abs().max(),
            "scaling": (entropy_linear_attention(q, k, 3.0 * v, **options) - 3.0 * out).abs().max(),
            "permutation": (entropy_linear_attention(q, k[order], v[order], **permuted) - out).abs().max(),
            "dense": (weights @ v - out).abs().max(),
        }
        violations += any(not (float(value) <= _ROUND_OFF) for value in found.values())
        worst = {name: float(np.maximum(worst[name], float(value))) for name, value in found.items()}
        equal = entropy_equality(q, k, key_mask=case["key_mask"], solver="shannon2")
        attains = ~(equal.theta <= 0)
        attaining, queries = attaining + int(attains.sum()), queries + len(q)
        first_order = (1.0 + dense - equal.mean[:, None]) / int(exists.sum())
        weights2 = attention_weights(q, k, key_mask=case["key_mask"], solver="shannon2")[:, exists]
        if attains.any():
            taylor = float(np.maximum(taylor, float((weights2 - first_order)[attains].abs().max())))
    return {
        **{f"invariants/largest_{name}": value for name, value in worst.items()},
        "invariants/violations": violations,
        "invariants/n": number,
        "taylor/largest_difference": taylor,
        "taylor/checked_share": attaining / queries,
        "taylor/n": attaining,
    }


def simplex(rng: np.random.Generator, number: int, size: int) -> Tensor:
    """Random distributions, some flat and some peaked, [number, size], float64."""
    concentration = np.exp(rng.uniform(-1.5, 3.0, (number, 1)))
    draws = rng.standard_gamma(concentration, (number, size)) + 1e-12
    return torch.from_numpy(draws / draws.sum(axis=1, keepdims=True))


def _pairs(run: Run, number: int) -> dict[str, float]:
    """The identity of M1.2, the bound of M1.3, concavity and Pinsker's inequality of M1.1, for pairs of any ranking."""
    rng = run.rng("pairs")
    identity, bound, concavity, pinsker = 0.0, 0, 0, 0
    size = 40
    p, q = simplex(rng, number, size), simplex(rng, number, size)
    divergence = kl_divergence(q, p)
    identity = float((divergence - (entropy(p) - entropy(q) + linear_term(p, q))).abs().max())
    bound = int((~(divergence <= kl_bound(p, q) + _ROUND_OFF)).sum())
    t = torch.from_numpy(rng.uniform(0.05, 0.95, (number, 1)))
    mixed = entropy(t * p + (1 - t) * q)
    concavity = int((~(mixed > t[:, 0] * entropy(p) + (1 - t[:, 0]) * entropy(q))).sum())
    deficit = math.log(size) - entropy(p)
    pinsker = int((~(deficit >= 2 * total_variation(p, torch.full_like(p, 1 / size)).square() - _ROUND_OFF)).sum())
    return {
        "kl/largest_identity_error": identity,
        "kl/bound_violations": bound,
        "kl/smallest": float(divergence.min()),
        "kl/known_error": abs(_known_divergence() - math.log(4 / 3)),
        "concavity/violations": concavity,
        "pinsker/violations": pinsker,
        "kl/n": number,
    }


def _known_divergence() -> float:
    """KL(q || p) of p = (1/4, 3/4), q = (0, 1), which is log(4/3)."""
    p, q = torch.tensor([[0.25, 0.75], [0.0, 1.0]], dtype=torch.float64)
    return float(kl_divergence(q, p))


def _alignment(run: Run, number: int, permutations: int) -> dict[str, float]:
    """M1.4: among all orders of q the one that is sorted as p has the smallest KL(q || p)."""
    rng = run.rng("alignment")
    violations, gain = 0, math.inf
    for _ in range(number):
        p, q = (x.sort(dim=-1).values for x in simplex(rng, 2, int(rng.integers(3, 40))).split(1))
        orders = torch.from_numpy(rng.permuted(np.tile(np.arange(p.shape[1]), (permutations, 1)), axis=1))
        permuted = kl_divergence(q[0][orders], p)
        aligned = kl_divergence(q, p)
        violations += int((~(permuted >= aligned - _ROUND_OFF)).sum())
        gain = float(np.minimum(gain, float(permuted.mean() - aligned)))
    return {
        "alignment/violations": violations,
        "alignment/smallest_mean_gain": gain,
        "alignment/n": number * permutations,
    }


def _families(run: Run, number: int) -> dict[str, float]:
    """M1.5: along a family of one ranking entropy is monotone, with dH/dt = -t Var_p(s) for softmax(t s)."""
    rng = run.rng("families")
    violations, slope_error = 0, 0.0
    for _ in range(number):
        s = torch.from_numpy(rng.standard_normal(int(rng.integers(3, 60))))
        t, step = float(rng.uniform(0.2, 3.0)), 1e-5
        slope = float(entropy(softmax_family(s, t + step)) - entropy(softmax_family(s, t - step))) / (2 * step)
        p = softmax_family(s, t)
        variance = float((p * s.square()).sum() - (p * s).sum().square())
        slope_error = float(np.maximum(slope_error, abs(slope + t * variance)))
        thetas = -float(s.min()) + np.geomspace(1e-3, 1e2, 40)
        along = torch.stack([entropy(linear_family(s, float(theta))) for theta in thetas])
        violations += int((~(along.diff() > 0)).sum())
    return {
        "families/monotonicity_violations": violations,
        "families/largest_slope_error": slope_error,
        "families/n": number,
    }


def _counter_example() -> dict[str, float]:
    """M1.6: three outcomes, one ranking, equal entropy, and yet different: softmax(s) against (theta + s) / sum."""
    s = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    p = softmax_family(s, 0.5)
    target = float(entropy(p))
    theta = brentq(lambda value: float(entropy(linear_family(s, value))) - target, 1e-9, 1e3, xtol=1e-14)
    w = linear_family(s, theta)
    return {
        "counter_example/entropy_difference": abs(float(entropy(w)) - target),
        "counter_example/kl": float(kl_divergence(w, p)),
    }
