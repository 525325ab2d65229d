"""Which pairs to compare: nested, without repeats, in constant memory.

Source: sheet A, point 1, and the pitfalls "duplicates" and "nested budgets".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from iclr_repro.pairwise_review.hashing import permuted

Order = Literal["random", "fixed", "both"]


@dataclass(frozen=True)
class PairSchedule:
    """A random order of all pairs of items, any stretch of which can be had at once.

    Attributes:
        n_items: number of items, at least 2.
        seed: chooses the order.
        order: "random": all n (n - 1) ordered pairs, each once, so that each item is shown first in half of its
            comparisons on average. "fixed": all n (n - 1) / 2 pairs, the lower index always first. "both": the same
            pairs, each in both orders in a row (positions cancel exactly at every even length).
    """

    n_items: int
    seed: int
    order: Order = "random"

    def __post_init__(self) -> None:
        """Refuse what has no pair."""
        if self.n_items < 2:
            raise ValueError(f"pairs need at least 2 items, got {self.n_items}")
        if self.order not in ("random", "fixed", "both"):
            raise ValueError(f"order must be random, fixed or both, got {self.order!r}")

    def __len__(self) -> int:
        n = self.n_items
        return n * (n - 1) // 2 if self.order == "fixed" else n * (n - 1)

    def pairs(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the int64 ids (first, second) of the comparisons `start` to `stop` - 1 of the order.

        Raises:
            ValueError: the stretch is not inside 0 to `len`.
        """
        if not 0 <= start <= stop <= len(self):
            raise ValueError(
                f"comparisons {start} to {stop} of {self.n_items} items: there are {len(self):,} without repeats "
                f"(order={self.order})"
            )
        position = np.arange(start, stop)
        if self.order == "random":
            rank = permuted(position, len(self), self.seed)
            first, second = np.divmod(rank, self.n_items - 1)
            return first, second + (second >= first)
        if self.order == "fixed":
            return _unordered(permuted(position, len(self), self.seed))
        low, high = _unordered(permuted(position // 2, len(self) // 2, self.seed))
        swap = position % 2 == 1
        return np.where(swap, high, low), np.where(swap, low, high)


def schedule_pairs(
    n_items: int, num: int | None = None, *, seed: int = 0, order: Order = "random"
) -> tuple[np.ndarray, np.ndarray]:
    """Return int64 ids (first, second) of `num` random comparisons without repeats, or of all (None).

    A smaller `num` with the same seed gives a prefix of a larger one. See `PairSchedule`, which gives any stretch.

    Raises:
        ValueError: fewer than 2 items, or `num` exceeds the number of pairs.
    """
    schedule = PairSchedule(n_items, seed, order)
    return schedule.pairs(0, len(schedule) if num is None else num)


def random_pairs_with_replacement(n_items: int, num: int, *, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw ordered pairs independently: for judges whose answers to the same pair differ, as several judges' do."""
    first = rng.integers(n_items, size=num)
    second = rng.integers(n_items - 1, size=num)
    return first, second + (second >= first)


def _unordered(rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair number `rank` of (0,1), (0,2), (1,2), (0,3), ...: high (high - 1) / 2 + low."""
    high = ((1 + np.sqrt(1 + 8 * rank.astype(np.float64))) / 2).astype(np.int64)
    # The square root is off by one at most, next to whole numbers.
    high -= high * (high - 1) // 2 > rank
    high += high * (high + 1) // 2 <= rank
    return rank - high * (high - 1) // 2, high
