"""From scores to decisions: the top K, by area, in tiers, and how sure each decision is.

Source: sheet A, points 5 and 6; sheet "Beyond", point 1.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from iclr_repro.pairwise_review.bradley_terry import BradleyTerryFit

Band = Literal["accept", "borderline", "reject"]
BANDS: tuple[Band, ...] = ("accept", "borderline", "reject")


def select_top(scores: npt.ArrayLike, k: int, *, ids: Sequence[Any] | None = None) -> np.ndarray:
    """Return [k] indices of the largest scores, best first; equal scores by id ascending (by index without ids).

    Raises:
        ValueError: k is not in 1 to n, a score is NaN, or there is not one id a score.

    Example: scores [1, 3, 3], k 2 gives [1, 2].
    """
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 1 or np.isnan(array).any():
        where = f"score {int(np.argmax(np.isnan(array)))} is NaN" if array.ndim == 1 else f"shape {array.shape}"
        raise ValueError(f"expected one number an item, got {where}: leave out items without a comparison")
    if not 1 <= k <= len(array):
        raise ValueError(f"cannot select {k} of {len(array)} items")
    if ids is not None and len(ids) != len(array):
        raise ValueError(f"{len(ids)} ids beside {len(array)} scores")
    order = np.arange(len(array)) if ids is None else np.array(sorted(range(len(array)), key=lambda i: ids[i]))
    return np.asarray(order[np.argsort(-array[order], kind="stable")][:k])


def select_top_by_area(
    scores: npt.ArrayLike, areas: Sequence[Hashable], quota: Mapping[Any, int], *, ids: Sequence[Any] | None = None
) -> np.ndarray:
    """Select the top `quota[area]` inside each area; return the indices, best first over all areas.

    Raises:
        ValueError: an area has fewer papers than its quota, or see `select_top`.
    """
    array = np.asarray(scores, dtype=np.float64)
    if len(areas) != len(array):
        raise ValueError(f"{len(areas)} areas beside {len(array)} scores")
    members: dict[Hashable, list[int]] = {}
    for index, area in enumerate(areas):
        members.setdefault(area, []).append(index)
    chosen: list[int] = []
    for area, size in quota.items():
        inside = members.get(area, [])
        if size > len(inside):
            raise ValueError(f"area {area!r} has {len(inside)} papers, fewer than its quota of {size}")
        if size:
            inside_ids = None if ids is None else [ids[index] for index in inside]
            chosen.extend(inside[position] for position in select_top(array[inside], size, ids=inside_ids))
    taken = np.array(sorted(chosen), dtype=np.int64)
    if len(taken) == 0:
        return taken
    return np.asarray(taken[select_top(array[taken], len(taken), ids=None if ids is None else [ids[i] for i in taken])])


def fill_tiers(selected: np.ndarray, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Cut a selection, best first, into tiers of the venue's own sizes, the highest first.

    Raises:
        ValueError: the sizes do not add up to the selection.
    """
    if sum(sizes.values()) != len(selected):
        raise ValueError(f"tiers of {dict(sizes)} do not add up to the {len(selected)} selected")
    ends = np.cumsum(list(sizes.values()))
    return dict(zip(sizes, np.split(selected, ends[:-1]), strict=True))


def top_probability(fit: BradleyTerryFit, k: int, *, rng: np.random.Generator, draws: int = 2000) -> np.ndarray:
    """Return [n] the probability that each item belongs to the top k, over strengths drawn from N(beta, H^-1).

    The probabilities add up to k. The covariance is dense: for up to a few thousand items.

    Raises:
        ValueError: k is not in 1 to n.
    """
    n = len(fit.beta)
    if not 1 <= k <= n:
        raise ValueError(f"cannot select {k} of {n} items")
    covariance = fit.covariance()[:n, :n]
    # A common shift changes no ranking, and is by far the largest variance at small penalties.
    covariance = covariance - covariance.mean(axis=0) - covariance.mean(axis=1, keepdims=True) + covariance.mean()
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    strengths = fit.beta + rng.standard_normal((draws, n)) @ root.T
    top = np.argpartition(-strengths, k - 1, axis=1)[:, :k]
    return np.bincount(top.ravel(), minlength=n) / draws


def decision_bands(probability: np.ndarray, *, confidence: float = 0.95) -> np.ndarray:
    """Return [n] "accept", "borderline" or "reject": settled where the probability passes `confidence` either way.

    Raises:
        ValueError: confidence is not in (0.5, 1].
    """
    if not 0.5 < confidence <= 1:
        raise ValueError(f"confidence must lie in (0.5, 1], got {confidence}")
    return np.where(
        probability >= confidence, "accept", np.where(probability <= 1 - confidence, "reject", "borderline")
    )
