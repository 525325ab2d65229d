"""E1: how well entropy is estimated in linear time. E2: how alike the weights and softmax are. Neither needs training.

Shape letters: M = queries, N = keys, D = features of a head.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
import torch
from torch import Tensor

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.rundir import Run
from iclr_repro.entropy_linear_attention import figures
from iclr_repro.entropy_linear_attention._choices import check_listed
from iclr_repro.entropy_linear_attention.attention import attention_weights, entropy_equality
from iclr_repro.entropy_linear_attention.distributions import (
    entropy,
    kl_divergence,
    ranking_violation,
    total_variation,
)
from iclr_repro.entropy_linear_attention.entropy import ESTIMATES, entropy_estimate, scores, softmax_entropy
from iclr_repro.entropy_linear_attention.moments import features
from iclr_repro.entropy_linear_attention.solvers import SOLVERS

_NUM_CLUSTERS = 5
_CLUSTER_STD = 0.5
_NATURAL = "natural"  # unit-variance pre-activations, scale 1/sqrt(D): nothing is rescaled
_RANKED = 8  # queries whose rank correlation is taken: it costs a sort, and `ranking_violation` covers all
_SWEEP = np.geomspace(0.25, 8.0, 41)
_SHOWN_DIM = 16  # the figure has the largest head up to this


def gaussian_keys(rng: np.random.Generator, num_keys: int, head_dim: int) -> Tensor:
    """Standard normal keys, [N, D]."""
    return torch.from_numpy(rng.standard_normal((num_keys, head_dim)))


def clustered_keys(rng: np.random.Generator, num_keys: int, head_dim: int) -> Tensor:
    """A mixture of five Gaussians with standard normal centres and standard deviation 0.5, [N, D]."""
    centres = rng.standard_normal((_NUM_CLUSTERS, head_dim))
    noise = _CLUSTER_STD * rng.standard_normal((num_keys, head_dim))
    return torch.from_numpy(centres[rng.integers(_NUM_CLUSTERS, size=num_keys)] + noise)


def with_variance(q: Tensor, k: Tensor, feature_map: str, variance: float | str) -> Tensor:
    """Queries scaled so that the variance of their scores has this mean over queries ("natural": as they are)."""
    if variance == _NATURAL:
        return q
    mean = entropy_equality(q, k, feature_map=feature_map).var.mean()
    return q * torch.sqrt(float(variance) / mean)


def _check_grid(dims: tuple[int, ...], num_keys: tuple[int, ...], variances: tuple[float, ...]) -> None:
    """Refuse a grid with a cell twice, or a variance that queries cannot be scaled to; no variance: natural only."""
    check_listed("dims", dims)
    check_listed("num_keys", num_keys)
    check_listed("variances", variances)
    if wrong := [value for value in variances if value <= 0.0]:
        raise ValueError(
            f"variances: got {wrong[0]}, expected positive numbers: at 0 every entropy is log N, and its deficit"
            " 0 has no relative error"
        )
    if min(dims) > _SHOWN_DIM:
        raise ValueError(
            f"dims: got {list(dims)}, expected one of at most {_SHOWN_DIM}, which the figure shows: add one"
        )


@dataclass(frozen=True, kw_only=True)
class EntropyApproximation:
    """E1: relative error of entropy and of the deficit log N - H, over head sizes, key counts and score variances."""

    dims: tuple[int, ...] = parameter("features of a head", low=1, high=256)
    num_keys: tuple[int, ...] = parameter("keys", low=2, high=1_000_000)
    variances: tuple[float, ...] = parameter(
        "variances of the scores for Gaussian and clustered keys", low=0.0, may_be_empty=True
    )
    num_queries: int = parameter("queries of a draw", low=1, high=100_000)
    draws: int = parameter("sets of keys", low=1, high=1_000)

    def __post_init__(self) -> None:
        """Refuse a grid that cannot be measured or shown."""
        _check_grid(self.dims, self.num_keys, self.variances)

    def run(self, run: Run) -> Result:
        """Compare each estimate with the exact entropy."""
        means = means_of_cells(self._rows(run))
        metrics = {
            f"{kind}/d{dim}/n{number}/var_{variance}/{estimate}/{quantity}": value
            for (kind, dim, number, variance, estimate), found in means.items()
            for quantity, value in found.items()
        }
        table = pd.DataFrame(means).T.rename_axis(index=["keys", "d", "num_keys", "variance", "estimate"])
        metrics["queries/n"] = float(self.num_queries * self.draws)
        return Result(
            metrics=metrics,
            tables={"entropy_errors": table.unstack("estimate")},
            figures={"entropy_error": figures.entropy_error(table, dim=max(d for d in self.dims if d <= _SHOWN_DIM))},
        )

    def _rows(self, run: Run) -> Iterator[tuple[tuple[Any, ...], dict[str, float]]]:
        sources: list[tuple[str, Any, str, float | str]] = [("relu", gaussian_keys, "relu", _NATURAL)]
        sources += [("gaussian", gaussian_keys, "identity", value) for value in self.variances]
        sources += [("clustered", clustered_keys, "identity", value) for value in self.variances]
        for kind, make_keys, feature_map, variance in sources:
            for dim in self.dims:
                for number in self.num_keys:
                    rng = run.rng(f"{kind}/{dim}/{number}/{variance}")
                    for _ in range(self.draws):
                        k = make_keys(rng, number, dim)
                        q = with_variance(gaussian_keys(rng, self.num_queries, dim), k, feature_map, variance)
                        for estimate, found in estimate_errors(q, k, feature_map).items():
                            yield (kind, dim, number, variance, estimate), found


def means_of_cells(
    rows: Iterable[tuple[tuple[Any, ...], Mapping[str, float]]],
) -> dict[tuple[Any, ...], dict[str, float]]:
    """Means over the rows of each cell, of each quantity over the rows that have it; NaN stays NaN."""
    cells: dict[tuple[Any, ...], list[Mapping[str, float]]] = {}
    for cell, found in rows:
        cells.setdefault(cell, []).append(found)
    return {
        cell: {
            name: float(np.mean([one[name] for one in of_cell if name in one]))
            for name in dict.fromkeys(name for one in of_cell for name in one)
        }
        for cell, of_cell in cells.items()
    }


def estimate_errors(q: Tensor, k: Tensor, feature_map: str) -> dict[str, dict[str, float]]:
    """Mean relative errors of each estimate, of the entropy H and of the deficit log N - H, over queries [..., M, D].

    Queries whose scores do not vary (dead: no active feature) do not count: every estimate is right about them.
    """
    exact = softmax_entropy(q, k, feature_map=feature_map)
    alive = entropy_equality(q, k, feature_map=feature_map).var > 0
    deficit = np.log(k.shape[-2]) - exact
    found = {}
    for estimate in ESTIMATES:
        error = (entropy_estimate(q, k, estimate=estimate, feature_map=feature_map) - exact).abs()
        found[estimate] = {
            "entropy_error": float((error / exact)[alive].double().mean()),
            "deficit_error": float((error / deficit)[alive].double().mean()),
        }
    return found


@dataclass(frozen=True, kw_only=True)
class Resemblance:
    """E2: distance of EALA's weights to softmax over the same ReLU scores, beside theta = 0 and uniform weights."""

    dims: tuple[int, ...] = parameter("features of a head", low=1, high=256)
    num_keys: tuple[int, ...] = parameter("keys", low=2, high=1_000_000)
    variances: tuple[float, ...] = parameter(
        "variances of the scores, besides the natural one", low=0.0, may_be_empty=True
    )
    num_queries: int = parameter("queries of a draw", low=1, high=100_000)
    draws: int = parameter("sets of keys", low=1, high=1_000)

    def __post_init__(self) -> None:
        """Refuse a grid that cannot be measured."""
        _check_grid(self.dims, self.num_keys, self.variances)

    def run(self, run: Run) -> Result:
        """Measure each solver over the grid; sweep theta in the first cell at natural variance."""
        rows = []
        levels: tuple[float | str, ...] = (_NATURAL, *self.variances)
        for variance in levels:
            for dim in self.dims:
                for number in self.num_keys:
                    rng = run.rng(f"{dim}/{number}/{variance}")
                    for _ in range(self.draws):
                        k = gaussian_keys(rng, number, dim)
                        q = with_variance(gaussian_keys(rng, self.num_queries, dim), k, "relu", variance)
                        rows += [((variance, dim, number, solver), resemblance(q, k, solver)) for solver in SOLVERS]
        means = means_of_cells(rows)
        metrics = {
            f"d{dim}/n{number}/var_{variance}/{solver}/{quantity}": value
            for (variance, dim, number, solver), found in means.items()
            for quantity, value in found.items()
            if value != np.inf  # a divergence from weights of which some are 0
        }
        table = pd.DataFrame(means).T.rename_axis(index=["variance", "d", "num_keys", "solver"])
        sweep = self._sweep(run)
        best, equal = sweep["tv"].idxmin(), (sweep["total_over_equal"] - 1.0).abs().idxmin()
        metrics["sweep/best_over_equal"] = float(sweep.at[best, "total_over_equal"])
        metrics["sweep/tv_at_equal_over_least"] = float(sweep.at[equal, "tv"] / sweep.at[best, "tv"])
        metrics["sweep/entropy_gap_at_least_tv"] = float(sweep.at[best, "entropy_gap"])
        metrics["queries/n"] = float(self.num_queries * self.draws)
        return Result(
            metrics=metrics,
            tables={"resemblance": table, "sweep": sweep},
            figures={"theta_sweep": figures.theta_sweep(sweep)},
        )

    def _sweep(self, run: Run) -> pd.DataFrame:
        """TV and entropy gap of (theta + s)/sum when theta + mu is a multiple of its entropy-equal value."""
        rng = run.rng("sweep")
        dim, number = max(d for d in self.dims if d <= _SHOWN_DIM), self.num_keys[0]
        k = gaussian_keys(rng, number, dim)
        q = gaussian_keys(rng, self.num_queries, dim)
        found = features(q, k)
        p = scores(found).softmax(dim=-1)
        equal = entropy_equality(q, k)
        attains = (equal.theta > 0) & (equal.mean > 0)
        rows = []
        for multiple in _SWEEP:
            theta = ((equal.theta + equal.mean) * multiple - equal.mean).clamp(min=0.0)
            w = attention_weights(q, k, solver="fixed", theta=theta)
            gap = (entropy(w) - entropy(p))[attains]
            rows.append((multiple, float(total_variation(w, p)[attains].mean()), float(gap.mean())))
        return pd.DataFrame(rows, columns=["total_over_equal", "tv", "entropy_gap"])


def resemblance(q: Tensor, k: Tensor, solver: str) -> dict[str, float]:
    """Means over queries [M, D] with keys [N, D] and ReLU features of what compares weights with softmax.

    Returns:
        `dead`: share of queries without an active feature, of which all scores and weights are equal whatever theta is;
        they count in nothing else but `score_variance` and `ranking_violation`. `attainment`: share of queries with
        theta > 0. Over these: `entropy_gap` = |H(w) - H|/H, `deficit_gap` = |H(w) - H|/(log N - H), `kl_from_softmax` =
        KL(softmax || w), infinite elsewhere where a weight is 0. Over all: `deficit` = log N - H, `kl_to_softmax` =
        KL(w || softmax), `tv`, `tv_uniform`, `tv_plain` (theta = 0), `tv_over_plain`, `spearman`. What no query has is
        left out.
    """
    dense = scores(features(q, k))
    equal = entropy_equality(q, k, solver=solver)
    w = attention_weights(q, k, solver=solver)
    alive = equal.mean > 0
    found = {
        "dead": float((~alive).double().mean()),
        "score_variance": float(equal.var.mean()),
        "ranking_violation": float(ranking_violation(dense, w).max()),
    }
    dense, w, attains = dense[alive], w[alive], (equal.theta > 0)[alive]
    p, exact = dense.softmax(dim=-1), softmax_entropy(q, k)[alive]
    gap, deficit = (entropy(w) - exact).abs(), np.log(len(k)) - exact
    tv, plain = total_variation(w, p), total_variation(dense / dense.sum(dim=-1, keepdim=True), p)
    if not alive.any():
        return found
    if attains.any():
        found |= {
            "entropy_gap": float((gap / exact)[attains].mean()),
            "deficit_gap": float((gap / deficit)[attains].mean()),
            "kl_from_softmax": float(kl_divergence(p, w)[attains].mean()),
        }
    return found | {
        "attainment": float(attains.double().mean()),
        "deficit": float(deficit.mean()),
        "kl_to_softmax": float(kl_divergence(w, p).mean()),
        "tv": float(tv.mean()),
        "tv_uniform": float(total_variation(torch.full_like(p, 1 / len(k)), p).mean()),
        "tv_plain": float(plain.mean()),
        "tv_over_plain": float(tv.mean() / plain.mean()),
        "spearman": _spearman(dense[:_RANKED].numpy(), w[:_RANKED].numpy()),
    }


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Mean rank correlation of rows that vary, NaN without any; equal scores can give weights a last digit apart."""
    ranks = [scipy.stats.rankdata(x.round(12), axis=1) for x in (a, b)]
    first, second = (x - x.mean(axis=1, keepdims=True) for x in ranks)
    size = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    vary = size > 0
    return float(((first * second).sum(axis=1)[vary] / size[vary]).mean()) if vary.any() else np.nan
