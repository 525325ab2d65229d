"""Outcomes of comparisons, added up to one row a pair.

Everything that is fitted later depends on the outcomes only through these counts, so its cost follows the number of
different pairs and not the number of comparisons.

Source: sheet A, "Numerics".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse


@dataclass(frozen=True, eq=False)
class PairCounts:
    """Counts w of wins, a row a pair that was compared at least once.

    Attributes:
        n_items: number n of items; ids are 0 to n - 1.
        first: [P] the item shown first (the smaller id where orders were joined), int64.
        second: [P] the other one.
        wins_first: [P] wins of the first; a tie is half a win for each.
        wins_second: [P] wins of the second.
    """

    n_items: int
    first: np.ndarray
    second: np.ndarray
    wins_first: np.ndarray
    wins_second: np.ndarray

    @property
    def totals(self) -> np.ndarray:
        """[P] comparisons of each pair."""
        return np.asarray(self.wins_first + self.wins_second)

    @property
    def wins(self) -> np.ndarray:
        """[n] wins of each item, W_i."""
        return self._per_item(self.wins_first, self.wins_second)

    @property
    def comparisons(self) -> np.ndarray:
        """[n] comparisons of each item."""
        return self._per_item(self.totals, self.totals)

    def _per_item(self, of_first: np.ndarray, of_second: np.ndarray) -> np.ndarray:
        return np.bincount(self.first, of_first, self.n_items) + np.bincount(self.second, of_second, self.n_items)

    def of_pairs(self, first: np.ndarray, second: np.ndarray) -> PairCounts:
        """Keep the rows of these pairs, in these orders; pairs that were not compared are left out."""
        n = np.int64(self.n_items)
        kept = np.isin(self.first * n + self.second, first * n + second)
        return PairCounts(
            self.n_items, self.first[kept], self.second[kept], self.wins_first[kept], self.wins_second[kept]
        )

    def unordered(self) -> PairCounts:
        """Join the two orders of each pair."""
        return count_pairs(self.n_items, self.first, self.second, self.wins_first, self.wins_second)


def count_pairs(
    n_items: int,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    wins_first: npt.ArrayLike,
    wins_second: npt.ArrayLike | None = None,
    ties: npt.ArrayLike | None = None,
    *,
    ordered: bool = False,
) -> PairCounts:
    """Add up outcomes to unique pairs by the int64 key first * n + second.

    Args:
        n_items: number of items.
        first: [M] ids 0 to n_items - 1, the item shown first.
        second: [M] ids of the other one.
        wins_first: [M] wins of the first, >= 0. Fractions are allowed (a probability is a soft outcome).
        wins_second: [M] wins of the second; None says that each row is one comparison, 1 - wins_first - ties.
        ties: [M] ties, half a win for each; None for none.
        ordered: keep (a, b) apart from (b, a), for a position effect.

    Raises:
        ValueError: lengths differ, an id is unknown, an item meets itself, a count is NaN, infinite or negative.
    """
    first_M, second_M = _ids(n_items, first, "first"), _ids(n_items, second, "second")
    wins_M = _counts(wins_first, "wins_first")
    ties_M = np.zeros_like(wins_M) if ties is None else _counts(ties, "ties")
    if wins_second is None:
        if (len(wins_M) == len(ties_M)) and np.any(wins_M + ties_M > 1):
            worst = int(np.argmax(wins_M + ties_M))
            raise ValueError(
                f"row {worst} has {(wins_M + ties_M)[worst]:g} wins and ties: without wins_second a row is one "
                "comparison and they are at most 1; pass wins_second for counts"
            )
        losses_M = 1.0 - wins_M - ties_M if len(wins_M) == len(ties_M) else wins_M
    else:
        losses_M = _counts(wins_second, "wins_second")
    lengths = {
        "first": len(first_M),
        "second": len(second_M),
        "wins_first": len(wins_M),
        "wins_second": len(losses_M),
        "ties": len(ties_M),
    }
    if len(set(lengths.values())) > 1:
        raise ValueError(f"expected one value a comparison in each list, got lengths {lengths}")
    if np.any(first_M == second_M):
        row = int(np.argmax(first_M == second_M))
        raise ValueError(f"row {row} compares item {first_M[row]} with itself: drop it")
    win_M, loss_M = wins_M + 0.5 * ties_M, losses_M + 0.5 * ties_M
    if not ordered:
        swap_M = first_M > second_M
        first_M, second_M = np.where(swap_M, second_M, first_M), np.where(swap_M, first_M, second_M)
        win_M, loss_M = np.where(swap_M, loss_M, win_M), np.where(swap_M, win_M, loss_M)
    keys, row_M = np.unique(first_M * np.int64(n_items) + second_M, return_inverse=True)
    wins_P, losses_P = (np.bincount(row_M, values, len(keys)) for values in (win_M, loss_M))
    used = wins_P + losses_P > 0
    keys = keys[used]
    return PairCounts(n_items, keys // n_items, keys % n_items, wins_P[used], losses_P[used])


def require_connected(counts: PairCounts) -> None:
    """Refuse comparisons for which no finite maximum-likelihood estimate exists.

    It exists, and is unique up to a shift, if and only if every item can be reached from every other one along "has
    beaten at least once" (Ford 1957).

    Raises:
        ValueError: it does not; the message names the groups.
    """
    n = counts.n_items
    winner = np.concatenate([counts.first, counts.second])
    loser = np.concatenate([counts.second, counts.first])
    won = np.concatenate([counts.wins_first, counts.wins_second]) > 0
    graph = scipy.sparse.csr_array((np.ones(won.sum()), (winner[won], loser[won])), shape=(n, n))
    number, group = scipy.sparse.csgraph.connected_components(graph, directed=True, connection="strong")
    if number > 1:
        # The largest first, equal ones by their smallest id.
        smallest = np.unique(group, return_index=True)[1]
        members = [np.flatnonzero(group == one) for one in np.lexsort((smallest, -np.bincount(group)))[:4]]
        named = "; ".join(
            f"{', '.join(map(str, ids[:5]))}{f' and {len(ids) - 5} more' if len(ids) > 5 else ''}" for ids in members
        )
        raise ValueError(
            f"without a penalty the strengths are not finite: the graph of who has beaten whom falls into {number} "
            f"groups between which only one side ever won, or that never met ({named}{'; ...' if number > 4 else ''}). "
            "Add comparisons, or use penalty > 0"
        )


def _ids(n_items: int, ids: npt.ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(ids)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise ValueError(f"{name} must be a list of whole numbers, got {array.dtype} of shape {array.shape}")
    if array.size and not (array.min() >= 0 and array.max() < n_items):
        bad = array[(array < 0) | (array >= n_items)][0]
        raise ValueError(f"{name} names item {bad}, expected ids from 0 to {n_items - 1}")
    return array.astype(np.int64)


def _counts(values: npt.ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} must be a list of numbers, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds {array[~np.isfinite(array)][0]} in row {int(np.argmin(np.isfinite(array)))}")
    if np.any(array < 0):
        raise ValueError(f"{name} holds {array.min():g} in row {int(np.argmin(array))}: a count is not negative")
    return array
