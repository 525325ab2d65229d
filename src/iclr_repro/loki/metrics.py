"""What tuning costs: forgetting over benchmarks, and the curve of task accuracy against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Forgetting:
    """Relative loss in percent; higher is more forgetting, negative is a gain.

    Attributes:
        average: the paper's Avg, in which gains cancel losses.
        clipped: the mean of max(0, loss), in which they do not.
        by_benchmark: of each benchmark.
        dropped: benchmarks that count for nothing since the original score is 0.
    """

    average: float
    clipped: float
    by_benchmark: dict[str, float]
    dropped: tuple[str, ...]


def forgetting(before: Mapping[str, float], after: Mapping[str, float]) -> Forgetting:
    """Return the average relative degradation over benchmarks.

    average = 100 / N * sum_i (before_i - after_i) / before_i

    Example: before {"a": 50, "b": 20, "c": 0}, after {"a": 40, "b": 22, "c": 5} loses 20 % on a, gains 10 % on b, and c
    is dropped: average 5, clipped 10.

    Raises:
        ValueError: the two name different benchmarks, a score is negative or not finite, or none is left.

    Source: paper, "Metrics" (sheet 2.4).
    """
    if before.keys() != after.keys():
        raise ValueError(
            f"benchmarks differ: {sorted(before.keys() ^ after.keys())} occur on one side only; score the same ones"
        )
    wrong = {name: score for scores in (before, after) for name, score in scores.items() if not 0 <= score < np.inf}
    if wrong:
        raise ValueError(f"scores {wrong}: expected finite numbers >= 0")
    by_benchmark = {name: 100 * (old - after[name]) / old for name, old in before.items() if old > 0}
    if not by_benchmark:
        raise ValueError("every original score is 0, so that no relative degradation is defined")
    losses = np.array(list(by_benchmark.values()))
    return Forgetting(
        average=float(losses.mean()),
        clipped=float(np.maximum(losses, 0.0).mean()),
        by_benchmark=by_benchmark,
        dropped=tuple(name for name, old in before.items() if old == 0),
    )


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the (accuracy, forgetting) pairs that no other one beats, by rising accuracy.

    A pair is beaten by one with at least its accuracy and at most its forgetting, one of them strictly.

    Example: of (0.5, 10), (0.9, 30), (0.9, 20), (0.4, 15) the front is (0.5, 10), (0.9, 20).
    """
    front: list[tuple[float, float]] = []
    for accuracy, lost in sorted(set(points), key=lambda point: (-point[0], point[1])):
        if not front or lost < front[-1][1]:
            front.append((accuracy, lost))
    return front[::-1]
