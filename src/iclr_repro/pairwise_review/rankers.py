"""Other rules from the outcomes of comparisons to scores, all with the arguments of `fit_bradley_terry`.

Higher is better everywhere. Only `mm` and `luce_spectral` estimate the Bradley-Terry model (without a penalty); Elo
depends on the order of the comparisons and is not it.

Source: sheet A, "Alternatives".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from iclr_repro.pairwise_review.bradley_terry import fit_bradley_terry
from iclr_repro.pairwise_review.counts import count_pairs, require_connected

_CONVERGED = 1e-10  # change of a log-strength in one iteration


class Ranker(Protocol):
    """From the outcomes of comparisons to [n_items] scores; see `count_pairs` for the arguments."""

    def __call__(
        self,
        n_items: int,
        first: npt.ArrayLike,
        second: npt.ArrayLike,
        wins_first: npt.ArrayLike,
        wins_second: npt.ArrayLike | None = None,
        ties: npt.ArrayLike | None = None,
    ) -> np.ndarray: ...


def win_rate(
    n_items: int,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    wins_first: npt.ArrayLike,
    wins_second: npt.ArrayLike | None = None,
    ties: npt.ArrayLike | None = None,
) -> np.ndarray:
    """Score each item by its wins plus half its ties over its comparisons; NaN without any.

    Example: two wins, one tie and one loss give 0.625.
    """
    counts = count_pairs(n_items, first, second, wins_first, wins_second, ties)
    played = counts.comparisons
    return np.divide(counts.wins, played, out=np.full(n_items, np.nan), where=played > 0)


def elo(
    n_items: int,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    wins_first: npt.ArrayLike,
    wins_second: npt.ArrayLike | None = None,
    ties: npt.ArrayLike | None = None,
    *,
    k: float = 4.0,
    scale: float = 400.0,
    start: float = 1000.0,
) -> np.ndarray:
    """Rate by Elo in the order of the list, ties left out.

    winner += K (1 - E), loser -= K (1 - E), E = 1 / (1 + 10^((R_loser - R_winner) / scale)) before the update

    Raises:
        ValueError: see `count_pairs`, or a row is not one comparison with one winner (or a tie).
    """
    count_pairs(n_items, first, second, wins_first, wins_second, ties)  # for its checks
    wins = np.asarray(wins_first, dtype=np.float64)
    tied = np.zeros(len(wins)) if ties is None else np.asarray(ties, dtype=np.float64)
    losses = 1.0 - wins - tied if wins_second is None else np.asarray(wins_second, dtype=np.float64)
    single = (wins + losses + tied == 1) & np.isin(wins, (0, 1)) & np.isin(losses, (0, 1))
    if not single.all():
        raise ValueError(f"row {int(np.argmin(single))} is not one comparison with one winner: Elo follows their order")
    decided = tied == 0
    one, other = np.asarray(first)[decided], np.asarray(second)[decided]
    won = wins[decided] == 1
    ratings = [start] * n_items
    for winner, loser in zip(np.where(won, one, other).tolist(), np.where(won, other, one).tolist(), strict=True):
        change = k / (1.0 + 10.0 ** ((ratings[winner] - ratings[loser]) / scale))
        ratings[winner] += change
        ratings[loser] -= change
    return np.array(ratings)


def mm(
    n_items: int,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    wins_first: npt.ArrayLike,
    wins_second: npt.ArrayLike | None = None,
    ties: npt.ArrayLike | None = None,
    *,
    max_iterations: int = 100_000,
) -> np.ndarray:
    """Maximise the likelihood by Hunter's MM: p_i <- W_i / sum_j n_ij / (p_i + p_j); return log p, centred.

    Raises:
        ValueError: see `count_pairs`, or the comparisons are not strongly connected.
        RuntimeError: not converged.
    """
    counts = count_pairs(n_items, first, second, wins_first, wins_second, ties)
    require_connected(counts)
    wins, totals = counts.wins, counts.totals

    def update(p: np.ndarray) -> np.ndarray:
        share = totals / (p[counts.first] + p[counts.second])
        denominator = np.bincount(counts.first, share, n_items) + np.bincount(counts.second, share, n_items)
        return np.asarray(wins / denominator)

    return _fixed_point(update, n_items, max_iterations=max_iterations, name="MM")


def luce_spectral(
    n_items: int,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    wins_first: npt.ArrayLike,
    wins_second: npt.ArrayLike | None = None,
    ties: npt.ArrayLike | None = None,
    *,
    max_iterations: int = 100,
) -> np.ndarray:
    """Maximise the likelihood by iterative Luce spectral ranking; return log-strengths, centred.

    The strengths are the stationary distribution of the chain that goes from j to i at the rate w_ij / (p_i + p_j);
    repeated with the new p until nothing changes. Solved densely: for up to a few thousand items.

    Raises:
        ValueError: see `count_pairs`, or the comparisons are not strongly connected.
        RuntimeError: not converged.
    """
    counts = count_pairs(n_items, first, second, wins_first, wins_second, ties)
    require_connected(counts)

    def update(p: np.ndarray) -> np.ndarray:
        pair_strength = p[counts.first] + p[counts.second]
        rates = np.zeros((n_items, n_items))
        rates[counts.second, counts.first] = counts.wins_first / pair_strength
        rates[counts.first, counts.second] = counts.wins_second / pair_strength
        return _stationary(rates)

    return _fixed_point(update, n_items, max_iterations=max_iterations, name="Luce spectral ranking")


def rank_centrality(
    n_items: int,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    wins_first: npt.ArrayLike,
    wins_second: npt.ArrayLike | None = None,
    ties: npt.ArrayLike | None = None,
) -> np.ndarray:
    """Score by rank centrality; return the logarithm of the stationary distribution, centred.

    The chain goes from j to i with probability (share of their comparisons that i won) / (largest number of opponents).
    Close to the maximum-likelihood estimate, but not equal to it.

    Raises:
        ValueError: see `count_pairs`, or the comparisons are not strongly connected.
    """
    counts = count_pairs(n_items, first, second, wins_first, wins_second, ties)
    require_connected(counts)
    rates = np.zeros((n_items, n_items))
    rates[counts.second, counts.first] = counts.wins_first / counts.totals
    rates[counts.first, counts.second] = counts.wins_second / counts.totals
    scores = np.log(_stationary(rates))
    return np.asarray(scores - scores.mean())


def _fixed_point(
    update: Callable[[np.ndarray], np.ndarray], n_items: int, *, max_iterations: int, name: str
) -> np.ndarray:
    """Return the centred log-strengths that `update` maps to themselves, starting from equal strengths."""
    log_p = np.zeros(n_items)
    for _ in range(max_iterations):
        new = np.log(update(np.exp(log_p)))
        new -= new.mean()
        if np.abs(new - log_p).max() < _CONVERGED:
            return np.asarray(new)
        log_p = new
    raise RuntimeError(f"{name} did not converge in {max_iterations} iterations")


def _stationary(rates: np.ndarray) -> np.ndarray:
    """[n] distribution pi with pi Q = 0, Q the generator of the chain with these rates [from, to]."""
    generator = rates - np.diag(rates.sum(axis=1))
    system = generator.T.copy()
    system[-1] = 1.0  # one equation follows from the others; in its place, the sum of pi
    right = np.zeros(len(rates))
    right[-1] = 1.0
    return np.asarray(np.linalg.solve(system, right))


def _bradley_terry(
    n_items: int,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    wins_first: npt.ArrayLike,
    wins_second: npt.ArrayLike | None = None,
    ties: npt.ArrayLike | None = None,
) -> np.ndarray:
    return fit_bradley_terry(n_items, first, second, wins_first, wins_second, ties).beta


RANKERS: dict[str, Ranker] = {
    "bradley_terry": _bradley_terry,
    "win_rate": win_rate,
    "elo": elo,
    "luce_spectral": luce_spectral,
    "rank_centrality": rank_centrality,
    "mm": mm,
}
