"""What a selection is judged by: impact, agreement, novelty, concentration, areas; and tests at equal K.

Source: sheet D.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

Pool = Literal["accepted", "all"]
Statistic = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Impact:
    """Citations of a set of papers.

    Attributes:
        mean: of the known counts; dominated by a few papers.
        median: of the known counts.
        log_mean: mean of log(1 + citations).
        known: papers with known counts.
        unknown: papers without, left out.
    """

    mean: float
    median: float
    log_mean: float
    known: int
    unknown: int


def impact(citations: npt.ArrayLike, selected: npt.ArrayLike | None = None) -> Impact:
    """Summarise the citations of the selected papers (None: of all); NaN or -1 is unknown and left out.

    Raises:
        ValueError: no count is known.
    """
    values = _citations(citations)
    values = values if selected is None else values[np.asarray(selected)]
    known = values[~np.isnan(values)]
    if len(known) == 0:
        raise ValueError(f"none of the {len(values)} papers has a known number of citations")
    return Impact(
        mean=float(known.mean()),
        median=float(np.median(known)),
        log_mean=float(np.log1p(known).mean()),
        known=len(known),
        unknown=len(values) - len(known),
    )


def bootstrap_means(
    values: npt.ArrayLike, *, rng: np.random.Generator, draws: int = 2000, statistic: Statistic | None = None
) -> np.ndarray:
    """Return [draws] means (or another statistic) of samples of the values with replacement, unknown ones left out."""
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    samples = known[rng.integers(len(known), size=(draws, len(known)))]
    return samples.mean(axis=1) if statistic is None else np.array([statistic(sample) for sample in samples])


def random_selection_spread(values: npt.ArrayLike, k: int) -> tuple[float, float]:
    """Return mean and standard deviation of the mean of k of n values chosen at random: s sqrt((1 - k/n) / k)."""
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()), float(array.std(ddof=1) * np.sqrt((1 - k / len(array)) / k))


def overlap(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Return |A and B| / K of two selections of K items; K/n is expected by chance.

    Raises:
        ValueError: they are empty or of different sizes, or an item occurs twice.
    """
    a, b = (np.unique(np.asarray(selection)) for selection in (one, other))
    if len(a) != np.size(one) or len(b) != np.size(other) or len(a) != len(b) or len(a) == 0:
        raise ValueError(
            f"overlap compares two sets of equal size: got {np.size(one)} ({len(a)} different) and "
            f"{np.size(other)} ({len(b)} different)"
        )
    return len(np.intersect1d(a, b)) / len(a)


def nearest_distances(embedding: np.ndarray, selected: npt.ArrayLike, *, pool: Pool = "accepted") -> np.ndarray:
    """Return [k] the distance 1 - cosine of each selected item to its nearest neighbour in the pool (not itself).

    Args:
        embedding: [n, d], no row zero.
        selected: [k] indices.
        pool: "accepted" searches among the selected, "all" among all n.

    Raises:
        ValueError: a zero row, or fewer than two items in the pool.
    """
    norms = np.linalg.norm(embedding, axis=1, keepdims=True)
    if (norms == 0).any():
        raise ValueError(f"item {int(np.argmin(norms))} has a zero embedding: it has no direction to compare")
    unit, chosen = embedding / norms, np.asarray(selected)
    candidates = chosen if pool == "accepted" else np.arange(len(embedding))
    if len(candidates) < 2:
        raise ValueError("a nearest neighbour needs at least two items in the pool")
    cosine = unit[chosen] @ unit[candidates].T
    cosine[chosen[:, None] == candidates] = -np.inf
    return np.asarray(1.0 - cosine.max(axis=1))


def novelty(embedding: np.ndarray, selected: npt.ArrayLike, *, pool: Pool = "accepted") -> float:
    """Return the mean distance to the nearest neighbour, see `nearest_distances`; lower is less novel.

    It depends on k: compare sets of equal size only.
    """
    return float(nearest_distances(embedding, selected, pool=pool).mean())


def institution_counts(
    institutions: Sequence[Iterable[Hashable]], universe: Sequence[Hashable] | None = None
) -> np.ndarray:
    """Return [n, N] bool, whether an author of a paper is at an institution; each institution once a paper.

    Args:
        institutions: of each paper.
        universe: all institutions to count, also those without a paper; None takes those that occur.

    Raises:
        ValueError: an institution is not in the universe.
    """
    sets = [set(mine) for mine in institutions]
    known = sorted(set().union(*sets), key=str) if universe is None else list(universe)
    column = {institution: index for index, institution in enumerate(known)}
    unknown = set().union(*sets) - column.keys() if sets else set()
    if unknown:
        raise ValueError(f"{len(unknown)} institutions are not in the universe, e.g. {next(iter(unknown))!r}")
    table = np.zeros((len(sets), len(known)), dtype=bool)
    for row, mine in enumerate(sets):
        table[row, [column[institution] for institution in mine]] = True
    return table


def gini(counts: npt.ArrayLike) -> float:
    """Return the Gini coefficient sum_i (2i - N - 1) c_(i) / (N sum c), c ascending, zeros included; 0 is equality.

    Raises:
        ValueError: no count, a negative one, or only zeros.

    Example: [0, 0, 0, 4] gives 0.75.
    """
    c = np.sort(np.asarray(counts, dtype=np.float64))
    if c.ndim != 1 or len(c) == 0 or c[0] < 0 or c.sum() == 0:
        raise ValueError("a Gini coefficient needs counts >= 0 that are not all zero")
    n = len(c)
    return float((2 * np.arange(1, n + 1) - n - 1) @ c / (n * c.sum()))


def institution_gini(
    institutions: Sequence[Iterable[Hashable]],
    selected: npt.ArrayLike,
    *,
    universe: Sequence[Hashable] | None = None,
) -> float:
    """Return the Gini coefficient of the papers selected from each institution; higher is more concentrated.

    All institutions of all submissions count, also those with no paper selected. It depends on k: compare sets of equal
    size over one universe only.

    Args:
        institutions: of every submission; an institution counts once a paper.
        selected: [k] indices.
        universe: all institutions; None takes those of the submissions.

    Raises:
        ValueError: no selected paper has an institution, or see `institution_counts`.
    """
    return gini(institution_counts(institutions, universe)[np.asarray(selected)].sum(axis=0))


def random_subset_p_value(
    statistic: Statistic, selected: np.ndarray, n: int, *, rng: np.random.Generator, draws: int = 999
) -> tuple[float, np.ndarray]:
    """Test a statistic of a selection against random selections of the same size from all n.

    Returns:
        two-sided p = (1 + #{|T* - mean| >= |T - mean|}) / (1 + draws), and the [draws] values T*.
    """
    null = np.array([statistic(rng.permutation(n)[: len(selected)]) for _ in range(draws)])
    return _two_sided(statistic(np.asarray(selected)), null), null


def swap_p_value(
    statistic: Statistic, one: np.ndarray, other: np.ndarray, *, rng: np.random.Generator, draws: int = 999
) -> tuple[float, np.ndarray]:
    """Test the difference T(A) - T(B) of two selections of equal size by exchanging what they do not share.

    Under the null hypothesis it does not matter which of the items in exactly one of the sets belong to which.

    Returns:
        two-sided p, and the [draws] differences under the null.

    Raises:
        ValueError: the sets differ in size.
    """
    a, b = np.asarray(one), np.asarray(other)
    if len(a) != len(b):
        raise ValueError(f"only sets of equal size can be compared: got {len(a)} and {len(b)}")
    shared = np.intersect1d(a, b)
    rest = np.setxor1d(a, b)
    half = len(rest) // 2
    null = np.empty(draws)
    for draw in range(draws):
        mixed = rng.permutation(rest)
        null[draw] = statistic(np.concatenate([shared, mixed[:half]])) - statistic(
            np.concatenate([shared, mixed[half:]])
        )
    return _two_sided(statistic(a) - statistic(b), null), null


def _two_sided(observed: float, null: np.ndarray) -> float:
    centre = null.mean()
    # The tolerance counts equal values as ties whatever their last bits.
    extreme = np.abs(null - centre) >= np.abs(observed - centre) - 1e-12
    return float((1 + extreme.sum()) / (1 + len(null)))


def area_shift(areas: Sequence[Any], ours: npt.ArrayLike, theirs: npt.ArrayLike) -> pd.DataFrame:
    """Return, a row an area: n, acceptance rates `ours` and `theirs`, and `shift` = ours - theirs."""
    table = pd.DataFrame({"area": list(areas), "ours": 0.0, "theirs": 0.0})
    table.loc[np.asarray(ours), "ours"] = 1.0
    table.loc[np.asarray(theirs), "theirs"] = 1.0
    grouped = table.groupby("area")
    rates = grouped[["ours", "theirs"]].mean()
    return rates.assign(n=grouped.size(), shift=rates["ours"] - rates["theirs"])[["n", "ours", "theirs", "shift"]]


def _citations(citations: npt.ArrayLike) -> np.ndarray:
    values = np.array(citations, dtype=np.float64)
    values[values == -1] = np.nan
    if np.any(values < 0):
        raise ValueError(f"a paper has {np.nanmin(values):g} citations; unknown ones are NaN or -1")
    return values
