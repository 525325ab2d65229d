"""How far a judge can be trusted: position, consistency, agreement, traits; and a model with a temper for each judge.

Source: sheet "Beyond", point 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.optimize
from scipy.special import expit

from iclr_repro.pairwise_review.bradley_terry import BradleyTerryFit, fit_counts
from iclr_repro.pairwise_review.counts import PairCounts, count_pairs


def flip_rate(counts: PairCounts) -> tuple[float, int]:
    """Return the share of pairs, asked in both orders, whose preferred paper changes with the order; and their number.

    Args:
        counts: by ordered pair.

    Raises:
        ValueError: no pair was asked in both orders.

    Example: a judge that always prefers the first flips every pair, 1; one without a position effect or noise none, 0.
    """
    n = counts.n_items
    keys = counts.first * np.int64(n) + counts.second
    position = np.searchsorted(keys, counts.second * np.int64(n) + counts.first)
    position = np.minimum(position, len(keys) - 1)
    both = (keys[position] == counts.second * np.int64(n) + counts.first) & (counts.first < counts.second)
    if not both.any():
        raise ValueError("no pair was asked in both orders: schedule with order='both'")
    share_first = (counts.wins_first / counts.totals)[both]
    share_swapped = (counts.wins_second / counts.totals)[position[both]]
    return float(((share_first > 0.5) != (share_swapped > 0.5)).mean()), int(both.sum())


def cyclic_triads(counts: PairCounts) -> tuple[float, int]:
    """Return the share of cycles (a > b > c > a) among triples of items that were all compared; and their number.

    A pair goes to whoever won more often; pairs with equal wins are left out. A random judge has 1/4.

    Raises:
        ValueError: there is no such triple.
    """
    joined = counts.unordered()
    n = joined.n_items
    beats = np.zeros((n, n))
    first_won, second_won = joined.wins_first > joined.wins_second, joined.wins_second > joined.wins_first
    beats[joined.first[first_won], joined.second[first_won]] = 1
    beats[joined.second[second_won], joined.first[second_won]] = 1
    met = beats + beats.T
    triples = np.trace(met @ met @ met) / 6
    if triples < 0.5:
        raise ValueError("no three items were all compared with each other: add comparisons")
    cycles = np.trace(beats @ beats @ beats) / 3
    return float(cycles / triples), round(triples)


def agreement(judgements: Sequence[np.ndarray]) -> np.ndarray:
    """Return [K, K] the share of comparisons on which each two judges agree; rows are their answers, [M] bool each."""
    table = np.stack(list(judgements))
    return np.asarray((table[:, None, :] == table[None, :, :]).mean(axis=2))


def trait_regression(
    counts: PairCounts, traits: pd.DataFrame, *, penalty: float = 0.01
) -> tuple[pd.DataFrame, BradleyTerryFit]:
    """Ask which traits of a paper a judge rewards: the Bradley-Terry model with covariates.

    eta = beta_f - beta_s + (x_f - x_s) delta, x standardised. The residual strengths beta rank the papers without the
    traits (de-biased: also without what of the true quality goes with them).

    Args:
        counts: of the comparisons.
        traits: [n, c], a column a trait, e.g. length, prestige, novelty.
        penalty: lambda, above 0.

    Returns:
        a row a trait with `coefficient` and `standard_error`, in log-odds per standard deviation; and the fit.
        The error treats beta as random with variance 1/lambda.

    Raises:
        ValueError: see `fit_bradley_terry`.
    """
    standardised = (traits - traits.mean()) / traits.std(ddof=0)
    fit = fit_counts(counts.unordered(), penalty=penalty, covariates=standardised.to_numpy())
    table = pd.DataFrame(
        {"coefficient": fit.covariate_effects, "standard_error": fit.effect_errors()}, index=traits.columns
    )
    return table, fit


@dataclass(frozen=True, eq=False)
class JudgeAwareFit:
    """P(i beats j | judge k) = sigmoid(a_k (beta_i - beta_j) + g_k), i shown first.

    Attributes:
        beta: [n] strengths, mean zero.
        discrimination: [K] a, mean one; 0 is a coin, below 0 a judge that prefers the worse.
        position: [K] g.
        objective: with the penalties.
    """

    beta: np.ndarray
    discrimination: np.ndarray
    position: np.ndarray
    objective: float


def fit_judge_aware(
    n_items: int,
    first: np.ndarray,
    second: np.ndarray,
    wins_first: np.ndarray,
    judge: np.ndarray,
    *,
    penalty: float = 0.1,
) -> JudgeAwareFit:
    """Fit strengths with a discrimination and a position effect for each judge (cf. arXiv 2601.21817).

    Beside lambda/2 ||beta||^2, sum_k (a_k - 1)^2 / 2 keeps a judge with few comparisons from an extreme temper.

    Args:
        n_items: papers.
        first: [M] ids.
        second: [M] ids.
        wins_first: [M] 0 or 1.
        judge: [M] 0 to K - 1.
        penalty: lambda, above 0.

    Raises:
        ValueError: penalty not above 0, see `count_pairs`.
        RuntimeError: not converged.
    """
    if not penalty > 0:
        raise ValueError(f"the model needs penalty > 0, got {penalty}")
    judge = np.asarray(judge, dtype=np.int64)
    num_judges = int(judge.max()) + 1
    # Counts by judge: items of judge k are numbered from k n, so that one table holds all.
    stacked = count_pairs(
        num_judges * n_items, first + judge * n_items, second + judge * n_items, wins_first, ordered=True
    )
    of, a, b = stacked.first // n_items, stacked.first % n_items, stacked.second % n_items
    wins, totals = stacked.wins_first, stacked.totals

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        beta, raw, shift = np.split(theta, [n_items, n_items + num_judges])
        scale = raw - raw.mean() + 1.0
        difference = beta[a] - beta[b]
        eta = scale[of] * difference + shift[of]
        value = totals @ np.logaddexp(0, eta) - wins @ eta + 0.5 * penalty * beta @ beta
        value += 0.5 * ((scale - 1.0) ** 2).sum()
        residual = totals * expit(eta) - wins
        flow = residual * scale[of]
        to_beta = np.bincount(a, flow, n_items) - np.bincount(b, flow, n_items) + penalty * beta
        to_scale = np.bincount(of, residual * difference, num_judges) + scale - 1.0
        to_shift = np.bincount(of, residual, num_judges)
        return float(value), np.concatenate([to_beta, to_scale - to_scale.mean(), to_shift])

    start = np.concatenate([np.zeros(n_items), np.ones(num_judges), np.zeros(num_judges)])
    options = {"maxcor": 20, "gtol": 1e-6 * max(1.0, totals.sum() / n_items), "ftol": 1e-15, "maxiter": 5000}
    found = scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    if not found.success:
        raise RuntimeError(f"the judge-aware fit did not converge: {found.message}")
    beta, raw, shift = np.split(found.x, [n_items, n_items + num_judges])
    return JudgeAwareFit(beta - beta.mean(), raw - raw.mean() + 1.0, shift, float(found.fun))


def calibration(probability: np.ndarray, outcome: np.ndarray, *, bins: int = 10) -> pd.DataFrame:
    """Return, a row a bin of equal size: `n`, mean `predicted` probability, `observed` share, `standard_error`."""
    order = np.argsort(probability, kind="stable")
    rows = []
    for members in np.array_split(order, bins):
        if len(members):
            share = float(outcome[members].mean())
            error = float(np.sqrt(share * (1 - share) / len(members)))
            rows.append((len(members), float(probability[members].mean()), share, error))
    return pd.DataFrame(rows, columns=["n", "predicted", "observed", "standard_error"])
