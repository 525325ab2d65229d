"""The same statistics written out review by review in plain Python.

The straightforward way to the numbers of `bootstrap.py`: an independent check of the vectorised code, and the yardstick
that the experiment `efficiency` times it against. It covers sheet M1, M3 (ties by paper id), M4-M6 and M8.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from iclr_repro.review_insights.scores import ACCEPTED, REJECTED, ScorePairs


class PlainPaper(NamedTuple):
    """One paper: its ratings in reviewer order, and its harmonised decision."""

    before: list[int]
    after: list[int]
    decision: str | None


def bootstrap_by_loop(
    pairs: ScorePairs, *, rng: np.random.Generator, draws: int, fractions: Sequence[float] = (0.05, 0.3)
) -> pd.DataFrame:
    """The draws of `bootstrap.bootstrap`, from the same random stream, one draw, paper and review after the other.

    Returns:
        [draws, statistics]; a statistic is missing where a draw has no case.
    """
    papers = plain_papers(pairs)
    rows = []
    for _ in range(draws):
        chosen = np.sort(rng.integers(len(papers), size=len(papers)))
        rows.append(plain_statistics([papers[index] for index in chosen], fractions=fractions))
    return pd.DataFrame(rows)


def plain_papers(pairs: ScorePairs) -> list[PlainPaper]:
    """The papers as lists, sorted by paper id."""
    grouped = pairs.reviews.groupby("paper_id")
    lists = grouped["before"].apply(list), grouped["after"].apply(list), pairs.papers["decision"]
    return [PlainPaper(*row) for row in zip(*lists, strict=True)]


def plain_statistics(papers: Sequence[PlainPaper], *, fractions: Sequence[float]) -> dict[str, float]:
    """Statistics of papers sorted by id, with the names of `bootstrap.Bootstrap`."""
    numerators: dict[str, float] = defaultdict(float)
    denominators: dict[str, float] = defaultdict(float)

    def add(name: str, value: float, weight: float = 1) -> None:
        numerators[name] += value
        denominators[name] += weight

    for paper in papers:
        _add_paper(paper, add)
        for before, after in zip(paper.before, paper.after, strict=True):
            _add_review(paper, before, after, add)
    values = {name: numerators[name] / weight for name, weight in denominators.items() if weight}
    means_before = [sum(paper.before) / len(paper.before) for paper in papers]
    means_after = [sum(paper.after) / len(paper.after) for paper in papers]
    for fraction in fractions:
        top = round(fraction * len(papers))
        values[f"churn/{fraction:g}"] = 1 - len(_top(means_before, top) & _top(means_after, top)) / top
    accepted = {index for index, paper in enumerate(papers) if paper.decision in ACCEPTED}
    if accepted:
        for when, means in (("before", means_before), ("after", means_after)):
            values[f"accepted/share_outside_top_{when}"] = len(accepted - _top(means, len(accepted))) / len(accepted)
    return values


def _add_review(paper: PlainPaper, before: int, after: int, add: Callable[..., None]) -> None:
    change = _sign(after - before)
    for name in ("increase", "decrease", "keep"):
        add(f"reviews/{name}/share", name == change)
    add(f"reviews/{change}/mean_before", before)
    add(f"reviews/{change}/mean_after", after)
    add("reviews/up_down_ratio", change == "increase", change == "decrease")
    groups = [f"by_initial/{before}"]
    if len(paper.before) > 1:
        distance = (sum(paper.before) - before) / (len(paper.before) - 1) - before
        side = "others_lower" if distance <= -0.5 else "others_higher" if distance >= 0.5 else "others_close"
        groups.append(f"coreviewer/{side}")
    for group in groups:
        add(f"{group}/p_increase", change == "increase")
        add(f"{group}/p_decrease", change == "decrease")


def _add_paper(paper: PlainPaper, add: Callable[..., None]) -> None:
    count = len(paper.before)
    change = _sign(sum(paper.after) - sum(paper.before))
    for name in ("increase", "decrease", "keep", "overall"):
        add(f"papers/{name}/share", name in (change, "overall"))
    for name in (change, "overall"):
        add(f"papers/{name}/mean_before", sum(paper.before) / count)
        add(f"papers/{name}/mean_after", sum(paper.after) / count)
        if paper.decision is not None:
            add(f"papers/{name}/accept_rate_all", paper.decision in ACCEPTED)
        if paper.decision in (*ACCEPTED, *REJECTED):
            add(f"papers/{name}/accept_rate", paper.decision in ACCEPTED)
    if paper.decision in ACCEPTED:
        add("accepted/share_increased", change == "increase")
    if count > 1:
        before, after = _population_std(paper.before), _population_std(paper.after)
        group = {"oral": "oral_spotlight", "spotlight": "oral_spotlight", "desk_reject": "reject"}
        names = ["overall"]
        if paper.decision is not None:
            names.append(group.get(paper.decision, paper.decision))
        for name in names:
            add(f"disagreement/{name}/before", before)
            add(f"disagreement/{name}/after", after)
            add(f"disagreement/{name}/relative_change", after - before, before)


def _sign(difference: int) -> str:
    return "increase" if difference > 0 else "decrease" if difference < 0 else "keep"


def _population_std(ratings: list[int]) -> float:
    mean = sum(ratings) / len(ratings)
    return math.sqrt(sum((rating - mean) ** 2 for rating in ratings) / len(ratings))


def _top(means: list[float], top: int) -> set[int]:
    return set(sorted(range(len(means)), key=lambda index: -means[index])[:top])
