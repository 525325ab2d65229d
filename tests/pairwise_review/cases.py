"""Papers and comparisons that several tests use."""

from __future__ import annotations

import numpy as np

from iclr_repro.pairwise_review import Paper, judge_pairs, schedule_pairs

Comparisons = tuple[np.ndarray, np.ndarray, np.ndarray]


def papers(n: int) -> list[Paper]:
    """n papers with short texts."""
    return [
        Paper(id=f"p{index}", title=f"Title {index}", abstract=f"Abstract number {index}.", citations=index)
        for index in range(n)
    ]


def comparisons(n: int, num: int, *, seed: int = 0, position_bias: float = 0.0) -> tuple[np.ndarray, Comparisons]:
    """True strengths, and (first, second, won) of a simulated judge."""
    quality = np.random.default_rng(seed).standard_normal(n)
    first, second = schedule_pairs(n, num, seed=seed)
    return quality, (first, second, judge_pairs(quality, first, second, seed=seed, position_bias=position_bias))
