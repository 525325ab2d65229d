"""Wasserstein distances between state distributions, their potentials, and the distance to a convex hull.

W is the 1-Wasserstein distance for a metric M on states,

    W(p, q) = min_T { <M, T> : T 1 = p, T^T 1 = q, T >= 0 } = max_f { <f, p - q> : f(s) - f(t) <= M[s, t] }

Three exact solvers: POT's network simplex; for few states the vertices of the polytope of 1-Lipschitz functions, over
which the right-hand side is a maximum, for any number of pairs at once; and HiGHS for the distance to a hull.

Shape letters: S = states, K = skills, n, m = distributions, F = extreme functions; leading axes `...` are batches.

Source: sheet 2.5 and 2.6.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import ot
import scipy.optimize
from scipy.spatial import HalfspaceIntersection

from iclr_repro.wsep.mdp import check_distributions, check_metric

Reduction = Literal["sum", "min", "energy"]
Solver = Literal["auto", "transport", "potentials"]
_MAX_STATES_OF_POTENTIALS = 6
_TIGHT = 1e-12


def wasserstein(p: np.ndarray, q: np.ndarray, metric: np.ndarray) -> float:
    """Return W(p, q) of two distributions [S], in the unit of the metric [S, S], by POT's network simplex.

    Raises:
        ValueError: p or q is no distribution over the metric's states, or the metric is none.

    Example: all mass on state 0 and all on state 1 are M[0, 1] apart.
    """
    return float(wasserstein_matrix(np.asarray(p)[None], np.asarray(q)[None], metric, solver="transport")[0, 0])


def wasserstein_matrix(p: np.ndarray, q: np.ndarray, metric: np.ndarray, *, solver: Solver = "auto") -> np.ndarray:
    """Return [n, m] W between distributions [n, S] and [m, S].

    Args:
        p: [n, S] distributions.
        q: [m, S] distributions; where it is the same array as `p`, half of the work is saved.
        metric: [S, S].
        solver: "transport" solves a transport problem a pair; "potentials" takes the maximum over all extreme
            1-Lipschitz functions, at most binom(2S - 2, S - 1) of them, at once; "auto" the latter for up to 6 states.

    Raises:
        ValueError: inputs that are no distributions or no metric, or an unknown solver.
    """
    p, q = (np.ascontiguousarray(points, dtype=np.float64) for points in (p, q)) if p is not q else (p, p)
    metric = np.ascontiguousarray(metric, dtype=np.float64)
    for name, points in (("p", p), ("q", q)):
        if points.ndim != 2 or points.shape[1] != len(metric):
            raise ValueError(f"{name} has shape {points.shape}, expected [n, {len(metric)}], the metric's states")
        check_distributions(points, name)
    check_metric(metric, len(metric))
    if solver not in get_args(Solver):
        raise ValueError(f"solver is {solver!r}, expected one of {', '.join(get_args(Solver))}")
    if solver == "potentials" or (solver == "auto" and len(metric) <= _MAX_STATES_OF_POTENTIALS):
        extreme_FS = extreme_potentials(metric)
        p_nF, q_mF = p @ extreme_FS.T, q @ extreme_FS.T
        return np.stack([(row - q_mF).max(axis=1) for row in p_nF]).clip(min=0.0)
    if p is q:
        distances = np.zeros((len(p), len(p)))
        for i, j in zip(*np.triu_indices(len(p), 1), strict=True):
            distances[i, j] = distances[j, i] = _transport_cost(p[i], p[j], metric)
        return distances
    return np.array([[_transport_cost(one, other, metric) for other in q] for one in p])


def extreme_potentials(metric: np.ndarray) -> np.ndarray:
    """Return [F, S] the vertices of { f : f(s) - f(t) <= M[s, t], f(0) = 0 }.

    W(p, q) is the maximum of <f, p - q> over them. For a generic metric there are 2, 6, 20, 70, 252 for S = 2, ..., 6.
    """
    return _extreme_potentials(metric.tobytes(), len(metric))


@functools.lru_cache(maxsize=8)
def _extreme_potentials(data: bytes, num_states: int) -> np.ndarray:
    metric = np.frombuffer(data).reshape(num_states, num_states)
    if num_states == 1:
        return np.zeros((1, 1))
    if num_states == 2:
        return np.array([[0.0, metric[0, 1]], [0.0, -metric[0, 1]]])
    s, t = np.nonzero(~np.eye(num_states, dtype=bool))
    normals = np.zeros((len(s), num_states))
    normals[np.arange(len(s)), s], normals[np.arange(len(s)), t] = 1.0, -1.0
    halfspaces = np.column_stack([normals[:, 1:], -metric[s, t]])
    found = HalfspaceIntersection(halfspaces, np.zeros(num_states - 1)).intersections
    extreme = np.column_stack([np.zeros(len(found)), found])
    _, first = np.unique(extreme.round(10), axis=0, return_index=True)
    made = np.asarray(extreme[first])
    made.setflags(write=False)
    return made


@dataclass(frozen=True, eq=False)
class Transport:
    """A Wasserstein distance with an optimal Kantorovich potential.

    Attributes:
        value: W(p, q).
        potential: [S], 1-Lipschitz on all states, <potential, p - q> = value: large where p has more mass.
    """

    value: float
    potential: np.ndarray


def kantorovich(p: np.ndarray, q: np.ndarray, metric: np.ndarray) -> Transport:
    """Solve one transport problem by POT and make its potential 1-Lipschitz everywhere by a c-transform.

    f(s) = min_t ( M[s, t] - v(t) ), v the dual of the second marginal. POT's own duals are arbitrary where there is no
    mass, and in an additive constant; f is neither, up to the constant.

    Args:
        p: [S] distribution.
        q: [S] distribution.
        metric: [S, S].
    """
    plan, log = ot.emd(*(_normalised(side) for side in (p, q)), metric, log=True, check_marginals=False)
    # Of all 1-Lipschitz functions that agree with the dual where q has mass, the largest.
    second = np.where(np.asarray(q) > 0.0, log["v"], -np.inf)
    return Transport(float((plan * metric).sum()), (metric - second).min(axis=1))


def wsep(skills: np.ndarray, metric: np.ndarray, *, reduction: Reduction = "sum") -> float:
    """Return the Wasserstein separability of skills [K, S]; higher is more separate.

    sum: sum_{i < j} W(p_i, p_j). The paper's sum is over ordered pairs (our reading), which is twice as much.
    min: min_{i < j} W(p_i, p_j), 0 where two skills are equal.
    energy: -sum_{i < j} 1 / W(p_i, p_j), -inf where two skills are equal.

    The plain sum is the paper's objective. It is largest for two far clusters and may repeat skills; `min` and `energy`
    are ours and do not.

    Raises:
        ValueError: fewer than two skills, an unknown reduction, or what `wasserstein_matrix` refuses.
    """
    skills = np.asarray(skills, dtype=np.float64)
    if skills.ndim != 2 or len(skills) < 2:
        raise ValueError(f"skills has shape {skills.shape}, expected [K, S] with at least two skills")
    return float(reduced_distances(wasserstein_matrix(skills, skills, metric), reduction))


def reduced_distances(distances: np.ndarray, reduction: Reduction = "sum") -> np.ndarray:
    """Return [...] the reduction, see `wsep`, of distances [..., K, K]."""
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction is {reduction!r}, expected one of {', '.join(get_args(Reduction))}")
    rows, columns = np.triu_indices(distances.shape[-1], 1)
    pairs = distances[..., rows, columns]
    if reduction == "sum":
        return np.asarray(pairs.sum(axis=-1))
    if reduction == "min":
        return np.asarray(pairs.min(axis=-1))
    apart = pairs > _TIGHT
    return np.asarray(np.where(apart.all(axis=-1), -(1.0 / np.where(apart, pairs, 1.0)).sum(axis=-1), -np.inf))


class InfeasibleError(RuntimeError):
    """A linear program that must have a solution has none for the solver; the message says what to check."""


@dataclass(frozen=True, eq=False)
class HullDistance:
    """How far a distribution is from the convex hull of skills.

    Attributes:
        value: min over lambda in the simplex of W(p, sum_j lambda_j p_j); 0 iff p is in the hull.
        weights: [K] an optimal lambda.
        potential: [S], 1-Lipschitz, <potential, p> - max_j <potential, p_j> = value: large beyond the hull.
    """

    value: float
    weights: np.ndarray
    potential: np.ndarray


class HullDistances:
    """The distance to the hull of skills as a linear program whose constraints are built once.

    max_f { <f, p> - t : <f, p_j> <= t for all j, f(s) - f(t) <= M[s, t] }

    This is the dual of the sheet's program over transport plans: S + 1 instead of S^2 + K variables. Where a third
    state lies on a shortest path from s to t, the constraint of s and t follows from two others and is left out: of a
    grid only neighbouring cells remain. The weights are the duals of the rows of the skills.

    Args:
        skills: [K, S] distributions.
        metric: [S, S].
    """

    def __init__(self, skills: np.ndarray, metric: np.ndarray) -> None:
        skills = np.asarray(skills, dtype=np.float64)
        metric = np.asarray(metric, dtype=np.float64)
        if skills.ndim != 2 or len(skills) == 0 or skills.shape[1] != len(metric):
            raise ValueError(f"skills has shape {skills.shape}, expected [K, {len(metric)}] with K >= 1")
        check_distributions(skills, "skills[z]")
        s, t = _needed_pairs(metric.tobytes(), len(metric))
        lipschitz = np.zeros((len(s), len(metric) + 1))
        lipschitz[np.arange(len(s)), s], lipschitz[np.arange(len(s)), t] = 1.0, -1.0
        self._metric, self._num_skills = metric, len(skills)
        self._rows = np.vstack([np.column_stack([skills, -np.ones(len(skills))]), lipschitz])
        self._bounds = np.concatenate([np.zeros(len(skills)), metric[s, t]])
        # The function is free up to a constant: f(0) = 0.
        self._ranges = [(0.0, 0.0), *[(None, None)] * len(metric)]

    def to(self, p: np.ndarray) -> HullDistance:
        """Return the distance of a distribution [S] to the hull.

        Raises:
            ValueError: p is no distribution over the states.
            InfeasibleError: HiGHS finds no solution, by either of its methods.
        """
        p = np.asarray(p, dtype=np.float64)
        if p.shape != (len(self._metric),):
            raise ValueError(f"p has shape {p.shape}, expected ({len(self._metric)},)")
        check_distributions(p, "p")
        for method in ("highs", "highs-ipm"):
            found = scipy.optimize.linprog(
                np.append(-p, 1.0), A_ub=self._rows, b_ub=self._bounds, bounds=self._ranges, method=method
            )
            if found.status == 0:
                break
        else:
            raise InfeasibleError(
                f"the distance to the hull was not found: {found.message} Check that masses below 1e-6 are smoothed "
                "and that the metric is not scaled to extreme values"
            )
        weights = np.maximum(-found.ineqlin.marginals[: self._num_skills], 0.0)
        return HullDistance(max(-float(found.fun), 0.0), weights / weights.sum(), found.x[:-1])


def hull_distance(p: np.ndarray, skills: np.ndarray, metric: np.ndarray) -> HullDistance:
    """Return the distance of p [S] to the convex hull of skills [K, S]: min over lambda of W(p, sum_j lambda_j p_j).

    Raises:
        ValueError: p or skills are no distributions over the metric's states, or the metric is none.
        InfeasibleError: the linear program was not solved.

    Example: with one skill it is W(p, skill).
    """
    check_metric(np.asarray(metric, dtype=np.float64), len(metric))
    return HullDistances(skills, metric).to(p)


@functools.lru_cache(maxsize=16)
def _needed_pairs(data: bytes, num_states: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of states between which no third state lies on a shortest path."""
    metric = np.frombuffer(data).reshape(num_states, num_states)
    through = metric[:, :, None] + metric[None]  # [s, u, t]
    states = np.arange(num_states)
    through[states, states, :] = np.inf
    through[:, states, states] = np.inf
    needed = (through.min(axis=1) > metric * (1.0 + _TIGHT)) & ~np.eye(num_states, dtype=bool)
    s, t = np.nonzero(needed)
    return s, t


def _transport_cost(p: np.ndarray, q: np.ndarray, metric: np.ndarray) -> float:
    return float(ot.emd2(_normalised(p), _normalised(q), metric, check_marginals=False))


def _normalised(p: np.ndarray) -> np.ndarray:
    """POT wants sums that are equal to about 1e-10."""
    return np.asarray(p / p.sum(), dtype=np.float64)
