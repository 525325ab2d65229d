"""The Bradley-Terry model with an L2 penalty, fitted by Newton's method on the sparse Laplacian of the comparisons.

Shape letters: n = items, P = pairs with a comparison, q = further coefficients (position, covariates).

Source: sheet A, points 3 and 4 and "Numerics"; the paper states no penalty.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.optimize
import scipy.sparse
from scipy.sparse.linalg import LinearOperator, cg
from scipy.special import expit

from iclr_repro.pairwise_review.counts import PairCounts, count_pairs, require_connected

Solver = Literal["newton-cg", "lbfgs"]
ErrorMethod = Literal["auto", "dense", "probes", "diagonal"]

_MAX_NEWTON_STEPS = 100
_DENSE_UP_TO = 2000  # items; beyond, the dense inverse takes longer than the fit (sheet A)
_NUM_PROBES = 128
_ARMIJO = 1e-4


@dataclass(frozen=True, eq=False)
class BradleyTerryFit:
    """A fitted model: P(f beats s) = sigmoid(beta_f - beta_s + gamma + (x_f - x_s) delta).

    Attributes:
        beta: [n] strengths, mean zero; 0 for an item without comparisons.
        position_effect: gamma, the advantage of being shown first; None if not fitted.
        covariate_effects: delta, [c]; empty without covariates.
        objective: the minimum J, in nats.
        max_abs_gradient: largest component of the gradient of J there.
        iterations: Newton or L-BFGS steps.
        penalty: lambda.
        counts: what was fitted.
    """

    beta: np.ndarray
    position_effect: float | None
    covariate_effects: np.ndarray
    objective: float
    max_abs_gradient: float
    iterations: int
    penalty: float
    counts: PairCounts
    _problem: _Problem = field(repr=False)

    @property
    def ranking(self) -> np.ndarray:
        """[n] items, the strongest first; equal strengths by id."""
        return np.argsort(-self.beta, kind="stable")

    def probability(self, first: npt.ArrayLike, second: npt.ArrayLike) -> np.ndarray:
        """Return the fitted P(first beats second), element by element."""
        first_M, second_M = np.asarray(first), np.asarray(second)
        quality = self.beta + self._problem.covariates @ self.covariate_effects
        return np.asarray(expit(quality[first_M] - quality[second_M] + (self.position_effect or 0.0)))

    def standard_errors(self, method: ErrorMethod = "auto", *, rng: np.random.Generator | None = None) -> np.ndarray:
        """Return [n] square roots of diag(H^-1), H the Hessian of J (at lambda = 0 its pseudo-inverse).

        Args:
            method: "dense" inverts H. "probes" estimates the diagonal without a dense matrix, as the mean of
                z * (H^-1 - D^-1) z + 1/D over 128 random vectors of signs z, D = diag(H). "diagonal" takes 1/D, which
                leaves out what is not known of the opponents. "auto" is dense up to 2,000 items, else probes.
            rng: source of the signs; None for a fixed one.
        """
        if method == "auto":
            method = "dense" if len(self.beta) <= _DENSE_UP_TO else "probes"
        if method == "dense":
            variances = np.diag(self.covariance())
        else:
            variances = self._approximate_variances(method, rng or np.random.default_rng(0))
        return np.sqrt(variances[: len(self.beta)])

    def effect_errors(self) -> np.ndarray:
        """Return [q] standard errors of the further coefficients: gamma, if fitted, then delta."""
        n, q = len(self.beta), self._problem.design.shape[1]
        if q == 0:
            return np.zeros(0)
        operator = self._hessian
        solved = [_solve(operator, np.eye(n + q)[n + j], 1e-10)[n + j] for j in range(q)]
        return np.sqrt(solved)

    def covariance(self) -> np.ndarray:
        """Return [n + q, n + q] H^-1, dense; at lambda = 0 its pseudo-inverse."""
        hessian = self._hessian.dense()
        if self.penalty > 0:
            return np.asarray(scipy.linalg.inv(hessian))
        # The only direction without curvature is a common shift of all strengths.
        n = len(self.beta)
        shift = np.zeros(len(hessian))
        shift[:n] = 1.0 / np.sqrt(n)
        filled = scipy.linalg.inv(hessian + np.outer(shift, shift))
        return np.asarray(filled - np.outer(shift, shift))

    @cached_property
    def _hessian(self) -> _Hessian:
        gamma = [] if self.position_effect is None else [self.position_effect]
        return self._problem.hessian(np.concatenate([self.beta, gamma, self.covariate_effects]))

    def _approximate_variances(self, method: ErrorMethod, rng: np.random.Generator) -> np.ndarray:
        n, hessian = len(self.beta), self._hessian
        inverse_D = 1.0 / np.maximum(hessian.diagonal, np.finfo(float).tiny)
        if method == "diagonal":
            return inverse_D
        # The common shift has variance 1 / (n lambda), far above all others: it is added exactly, not estimated.
        shift_variance = 1.0 / (n * self.penalty) if self.penalty > 0 else 0.0
        total = np.zeros_like(inverse_D)
        for _ in range(_NUM_PROBES):
            signs = rng.choice([-1.0, 1.0], len(inverse_D))
            centred = signs.copy()
            centred[:n] -= signs[:n].mean()
            total += signs * (_solve(hessian, centred, 1e-8) - inverse_D * signs)
        return np.maximum(inverse_D + total / _NUM_PROBES, 0.0) + shift_variance


def fit_bradley_terry(
    n_items: int,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    wins_first: npt.ArrayLike,
    wins_second: npt.ArrayLike | None = None,
    ties: npt.ArrayLike | None = None,
    *,
    penalty: float = 0.01,
    position_effect: bool = False,
    covariates: npt.ArrayLike | None = None,
    tolerance: float = 1e-8,
    solver: Solver = "newton-cg",
) -> BradleyTerryFit:
    """Fit strengths to the outcomes of comparisons.

    J(beta) = sum over pairs of w_fs softplus(-eta) + w_sf softplus(eta), + lambda/2 ||beta||^2,
    eta = beta_f - beta_s + gamma + (x_f - x_s) delta; gamma and delta are not penalised.

    Args:
        n_items: number n of items.
        first: [M] ids from 0 of the items shown first.
        second: [M] ids of the others.
        wins_first: [M] wins of the first, e.g. 0 or 1.
        wins_second: [M] wins of the second; None if each row is one comparison.
        ties: [M] ties, half a win for each.
        penalty: lambda >= 0. 0 is maximum likelihood, which needs strongly connected comparisons.
        position_effect: also fit gamma.
        covariates: [n, c] traits x of the items; also fit delta. beta is then the strength beside the traits.
        tolerance: stop when no component of the gradient exceeds this share of the mean comparisons of an item.
        solver: "newton-cg", or scipy's "lbfgs" with memory 20.

    Raises:
        ValueError: see `count_pairs`; no comparison; a negative penalty; with penalty 0, comparisons that are not
            connected (the groups are named) or covariates; one position won always; covariates that are not finite, of
            another length, or not independent.
        RuntimeError: the solver did not converge.

    Example: three wins of item 0 over 1 and one of 1 over 0, penalty 0: beta_0 - beta_1 = log 3.
    """
    counts = count_pairs(n_items, first, second, wins_first, wins_second, ties, ordered=position_effect)
    return fit_counts(
        counts,
        penalty=penalty,
        position_effect=position_effect,
        covariates=covariates,
        tolerance=tolerance,
        solver=solver,
    )


def fit_counts(
    counts: PairCounts,
    *,
    penalty: float = 0.01,
    position_effect: bool = False,
    covariates: npt.ArrayLike | None = None,
    tolerance: float = 1e-8,
    solver: Solver = "newton-cg",
) -> BradleyTerryFit:
    """Fit outcomes that are added up already (for a position effect, by ordered pairs); see `fit_bradley_terry`."""
    if not (np.isfinite(penalty) and penalty >= 0):
        raise ValueError(f"penalty must be >= 0, got {penalty}")
    if len(counts.first) == 0:
        raise ValueError("there is no comparison to fit")
    traits = _checked_covariates(covariates, counts.n_items)
    if penalty == 0:
        require_connected(counts)
        if traits.shape[1]:
            raise ValueError("covariates need penalty > 0: without it strengths and traits cannot be told apart")
    if position_effect and (not counts.wins_first.any() or not counts.wins_second.any()):
        always = "first" if counts.wins_first.any() else "second"
        raise ValueError(f"the item shown {always} won every comparison: the position effect is not finite")
    problem = _Problem(counts, penalty, position_effect, traits)
    target = tolerance * max(1.0, float(counts.comparisons.mean()))
    solve = _newton if solver == "newton-cg" else _lbfgs
    theta, iterations = solve(problem, target)
    n = counts.n_items
    theta[:n] -= theta[:n].mean()
    value, gradient = problem.value_and_gradient(theta)
    largest = float(np.abs(gradient).max())
    if not largest <= max(target, 1e-6 * max(1.0, float(counts.comparisons.max()))):
        raise RuntimeError(
            f"the fit did not converge in {iterations} steps (largest gradient {largest:.3g}, wanted {target:.3g}): "
            "the data may be separable; use a larger penalty"
        )
    return BradleyTerryFit(
        beta=theta[:n],
        position_effect=float(theta[n]) if position_effect else None,
        covariate_effects=theta[n + position_effect :],
        objective=float(value),
        max_abs_gradient=largest,
        iterations=iterations,
        penalty=penalty,
        counts=counts,
        _problem=problem,
    )


def _checked_covariates(covariates: npt.ArrayLike | None, n: int) -> np.ndarray:
    """[n, c], centred."""
    if covariates is None:
        return np.zeros((n, 0))
    traits = np.asarray(covariates, dtype=np.float64)
    if traits.ndim != 2 or len(traits) != n or not np.isfinite(traits).all():
        raise ValueError(f"covariates must be finite numbers of shape [{n}, c], got shape {traits.shape}")
    centred = traits - traits.mean(axis=0)
    if np.linalg.matrix_rank(centred) < traits.shape[1]:
        raise ValueError("covariates must vary and be independent of each other: leave some out")
    return np.asarray(centred)


class _Problem:
    """J, its gradient and its Hessian as functions of theta = (beta, gamma, delta)."""

    def __init__(self, counts: PairCounts, penalty: float, position_effect: bool, covariates: np.ndarray) -> None:
        self.counts, self.penalty, self.covariates = counts, penalty, covariates
        traits = covariates[counts.first] - covariates[counts.second]
        position = np.ones((len(counts.first), int(position_effect)))
        self.design = np.hstack([position, traits])  # [P, q]
        self.totals = counts.totals
        # The pattern of the upper half of the Laplacian: pairs are sorted by key, so rows come in order.
        starts = np.searchsorted(counts.first, np.arange(counts.n_items + 1))
        self.pattern = counts.second.astype(np.int32), starts.astype(np.int32)

    def eta(self, theta: np.ndarray) -> np.ndarray:
        n = self.counts.n_items
        eta_P = theta[self.counts.first] - theta[self.counts.second]
        return eta_P + self.design @ theta[n:] if self.design.shape[1] else eta_P

    def evaluate(self, theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """J, its gradient, and the weights n s(eta) s(-eta) of the Hessian, from one exponential a pair."""
        counts, n, eta_P = self.counts, self.counts.n_items, self.eta(theta)
        tail_P = np.exp(-np.abs(eta_P))
        unlikely_P = tail_P / (1.0 + tail_P)  # of the two outcomes, the probability of the less likely one
        softplus_P = np.maximum(eta_P, 0.0) + np.log1p(tail_P)
        # softplus(-x) = softplus(x) - x
        value = self.totals @ softplus_P - counts.wins_first @ eta_P + 0.5 * self.penalty * theta[:n] @ theta[:n]
        residual_P = self.totals * np.where(eta_P >= 0, 1.0 - unlikely_P, unlikely_P) - counts.wins_first
        pull_n = np.bincount(counts.first, residual_P, n) - np.bincount(counts.second, residual_P, n)
        gradient = np.concatenate([pull_n + self.penalty * theta[:n], self.design.T @ residual_P])
        return float(value), gradient, self.totals * unlikely_P * (1.0 - unlikely_P)

    def value_and_gradient(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        return self.evaluate(theta)[:2]

    def hessian(self, theta: np.ndarray) -> _Hessian:
        return _Hessian(self, self.evaluate(theta)[2])


class _Hessian(LinearOperator):
    """Weighted Laplacian of the comparisons plus lambda, bordered by the further coefficients."""

    def __init__(self, problem: _Problem, weights_P: np.ndarray) -> None:
        counts, n, q = problem.counts, problem.counts.n_items, problem.design.shape[1]
        super().__init__(np.float64, (n + q, n + q))
        self.n, self.penalty = n, problem.penalty
        self.upper = scipy.sparse.csr_array((weights_P, *problem.pattern), shape=(n, n))
        self.lower = self.upper.T
        self.degrees = np.bincount(counts.first, weights_P, n) + np.bincount(counts.second, weights_P, n)
        weighted_Pq = weights_P[:, None] * problem.design
        self.border = np.stack(
            [
                np.bincount(counts.first, column, n) - np.bincount(counts.second, column, n)
                for column in weighted_Pq.T
            ],
            axis=1,
        ) if q else np.zeros((n, 0))  # fmt: skip
        self.corner = problem.design.T @ weighted_Pq
        self.diagonal = np.concatenate([self.degrees + self.penalty, np.diag(self.corner)])

    def _matvec(self, vector: np.ndarray) -> np.ndarray:
        vector = vector.ravel()
        beta, rest = vector[: self.n], vector[self.n :]
        top = (self.degrees + self.penalty) * beta - self.upper @ beta - self.lower @ beta
        if len(rest) == 0:
            return np.asarray(top)
        return np.concatenate([top + self.border @ rest, self.border.T @ beta + self.corner @ rest])

    def dense(self) -> np.ndarray:
        laplacian = np.diag(self.degrees + self.penalty) - (self.upper + self.lower).toarray()
        return np.block([[laplacian, self.border], [self.border.T, self.corner]])


def _solve(hessian: _Hessian, right: np.ndarray, relative_error: float) -> np.ndarray:
    diagonal = np.maximum(hessian.diagonal, np.finfo(float).tiny)
    preconditioner = LinearOperator(hessian.shape, matvec=lambda vector: vector.ravel() / diagonal)
    solution, _ = cg(hessian, right, rtol=relative_error, atol=0.0, M=preconditioner, maxiter=10 * len(right))
    return np.asarray(solution)


def _newton(problem: _Problem, target: float) -> tuple[np.ndarray, int]:
    theta = np.zeros(problem.counts.n_items + problem.design.shape[1])
    value, gradient, weights = problem.evaluate(theta)
    start = np.linalg.norm(gradient)
    for iteration in range(_MAX_NEWTON_STEPS):
        if np.abs(gradient).max() <= target:
            return theta, iteration
        # Tighter as the gradient falls, which keeps the convergence faster than linear.
        relative_error = min(0.1, np.sqrt(np.linalg.norm(gradient) / start))
        step = _solve(_Hessian(problem, weights), -gradient, relative_error)
        slope, size = gradient @ step, 1.0
        while True:
            proposed = theta + size * step
            new_value, new_gradient, new_weights = problem.evaluate(proposed)
            # Near the minimum J no longer resolves the decrease; the gradient still does.
            if new_value <= value + _ARMIJO * size * slope or np.linalg.norm(new_gradient) < np.linalg.norm(gradient):
                break
            size *= 0.5
            if size < 1e-8:
                return theta, iteration
        theta, value, gradient, weights = proposed, new_value, new_gradient, new_weights
    return theta, _MAX_NEWTON_STEPS


def _lbfgs(problem: _Problem, target: float) -> tuple[np.ndarray, int]:
    found = scipy.optimize.minimize(
        problem.value_and_gradient,
        np.zeros(problem.counts.n_items + problem.design.shape[1]),
        jac=True,
        method="L-BFGS-B",
        options={"maxcor": 20, "gtol": target, "ftol": 0.0, "maxiter": 20_000, "maxfun": 40_000},
    )
    return found.x, int(found.nit)


def choose_penalty(
    counts_train: PairCounts, counts_test: PairCounts, penalties: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0)
) -> tuple[float, dict[float, float]]:
    """Choose lambda by the mean log-loss of held-out comparisons, in nats; return it and the loss of each.

    Raises:
        ValueError: nothing is held out, or see `fit_counts`.
    """
    if len(counts_test.first) == 0:
        raise ValueError("no comparison is held out")
    losses = {}
    for penalty in penalties:
        fit = fit_counts(counts_train, penalty=penalty)
        eta_P = fit.beta[counts_test.first] - fit.beta[counts_test.second]
        loss_P = counts_test.wins_first * np.logaddexp(0, -eta_P) + counts_test.wins_second * np.logaddexp(0, eta_P)
        losses[penalty] = float(loss_P.sum() / counts_test.totals.sum())
    return min(losses, key=losses.__getitem__), losses
