"""Choosing the next pairs where the decision is open, and stopping where it is settled.

Source: sheet "Beyond", points 1 and 2; ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from iclr_repro.pairwise_review.bradley_terry import BradleyTerryFit, fit_bradley_terry
from iclr_repro.pairwise_review.schedule import PairSchedule
from iclr_repro.pairwise_review.selection import decision_bands, top_probability

Answer = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From ids (first, second) of pairs to booleans, whether the first won."""


def propose_pairs(
    fit: BradleyTerryFit,
    k: int,
    num: int,
    *,
    asked: np.ndarray,
    rng: np.random.Generator,
    probability: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Propose comparisons that say most about who belongs to the top k.

    Each pair not asked yet has the weight (o_i + o_j) s(d) s(-d), o = p (1 - p) with p the probability of being in the
    top k, d = beta_i - beta_j: open papers against opponents whose outcome is open. Drawn without replacement in
    proportion to it, since the best pairs alone would all be about the same few papers; order at random.

    Args:
        fit: of the comparisons so far.
        k: places.
        num: comparisons to propose; fewer where fewer are left.
        asked: [n, n] bool, symmetric, pairs that were asked.
        rng: source of the draw.
        probability: [n] p; None computes it.

    Returns:
        int64 ids (first, second).
    """
    n = len(fit.beta)
    p = top_probability(fit, k, rng=rng) if probability is None else probability
    openness = p * (1 - p)
    chance = fit.probability(np.arange(n)[:, None], np.arange(n))
    weight = (openness[:, None] + openness) * chance * (1 - chance) + 1e-12
    low, high = np.nonzero(np.triu(~asked, k=1))
    # Gumbel keys: the largest are a draw without replacement in proportion to the weights.
    keys = np.log(weight[low, high]) + rng.gumbel(size=len(low))
    best = np.argpartition(-keys, min(num, len(keys)) - 1)[:num] if len(keys) else np.zeros(0, dtype=np.int64)
    swap = rng.random(len(best)) < 0.5
    return np.where(swap, high[best], low[best]), np.where(swap, low[best], high[best])


@dataclass(frozen=True, eq=False)
class ActiveRound:
    """The state after a round.

    Attributes:
        comparisons: made so far.
        fit: of all of them.
        probability: [n] of being in the top k.
        settled: share of papers that are certainly in or out.
    """

    comparisons: int
    fit: BradleyTerryFit
    probability: np.ndarray
    settled: float


def compare_actively(
    answer: Answer,
    n_items: int,
    k: int,
    budget: int,
    *,
    rng: np.random.Generator,
    start: int,
    batch: int,
    penalty: float = 0.01,
    confidence: float = 0.95,
    stop_when_settled: float = 1.0,
    position_effect: bool = False,
) -> list[ActiveRound]:
    """Spend a budget of comparisons on the decision who is in the top k.

    Random pairs at first, then batches of `propose_pairs`. It stops at the budget, or when the share of papers whose
    decision is settled (`decision_bands`) reaches `stop_when_settled`.

    Args:
        answer: the judge.
        n_items: papers.
        k: places.
        budget: comparisons in all.
        rng: source of the choice of pairs.
        start: random comparisons of the first round.
        batch: comparisons of each later round.
        penalty: of the fit.
        confidence: of the bands.
        stop_when_settled: 0 to 1.
        position_effect: fit it too; needed where the judge has one, since a pair is asked in one order.

    Returns:
        the rounds, the first after `start` comparisons.

    Raises:
        ValueError: start or batch is below 1, or start exceeds the budget.
    """
    if start < 1 or batch < 1 or start > budget:
        raise ValueError(f"expected 1 <= start <= budget and batch >= 1, got {start}, {budget} and {batch}")
    schedule = PairSchedule(n_items, int(rng.integers(2**62)), "fixed")
    first, second = schedule.pairs(0, min(start, len(schedule)))
    swap = rng.random(len(first)) < 0.5
    first, second = np.where(swap, second, first), np.where(swap, first, second)
    asked = np.eye(n_items, dtype=bool)
    won = np.zeros(0, dtype=bool)
    all_first, all_second = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    rounds: list[ActiveRound] = []
    while len(first):
        won = np.concatenate([won, answer(first, second)])
        all_first, all_second = np.concatenate([all_first, first]), np.concatenate([all_second, second])
        asked[first, second] = asked[second, first] = True
        fit = fit_bradley_terry(n_items, all_first, all_second, won, penalty=penalty, position_effect=position_effect)
        probability = top_probability(fit, k, rng=rng)
        settled = float((decision_bands(probability, confidence=confidence) != "borderline").mean())
        rounds.append(ActiveRound(len(won), fit, probability, settled))
        if settled >= stop_when_settled:
            break
        left = min(batch, budget - len(won))
        if left < 1:
            break
        first, second = propose_pairs(fit, k, left, asked=asked, rng=rng, probability=probability)
    return rounds
