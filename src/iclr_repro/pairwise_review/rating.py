"""The rating baseline: three reviews and a meta-review a paper, then the top K of the final scores.

Source: sheet B. The tie-break of the paper is not available: ties are broken at random, averaged over seeds.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

CALLS_PER_PAPER = 4  # three reviews and the meta-review


def meta_scores(reviews: np.ndarray) -> np.ndarray:
    """Return [n] final scores: the mean of the reviews [n, reviewers], rounded to a whole number, halves to even."""
    return np.asarray(np.rint(reviews.mean(axis=1)))


def tie_share(scores: np.ndarray, k: int) -> float:
    """Return the share of the k places that the tie-break decides: those left for the score at the border, over k.

    0 where all papers with the score at the border get in.

    Example: scores [3, 2, 2, 2], k 2: one of two places goes to one of three equals, 0.5.
    """
    ordered = np.sort(scores)[::-1]
    border = ordered[k - 1]
    above, at = (scores > border).sum(), (scores == border).sum()
    return 0.0 if above + at == k else float((k - above) / k)


def break_ties(scores: np.ndarray, k: int, *, rng: np.random.Generator, draws: int = 20) -> list[np.ndarray]:
    """Return `draws` selections of the top k (indices, best first), with ties broken at random in each."""
    return [np.lexsort((rng.random(len(scores)), -scores))[:k] for _ in range(draws)]


def mean_over_ties(
    statistic: Callable[[np.ndarray], float],
    scores: np.ndarray,
    k: int,
    *,
    rng: np.random.Generator,
    draws: int = 20,
) -> tuple[float, float]:
    """Return mean and standard deviation of a statistic of the top k over random tie-breaks."""
    values = np.array([statistic(selected) for selected in break_ties(scores, k, rng=rng, draws=draws)])
    return float(values.mean()), float(values.std())
