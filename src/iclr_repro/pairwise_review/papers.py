"""A manuscript as judges and measures see it, and what is checked before it is used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TIERS = ("oral", "spotlight", "poster", "main", "findings")
"""Of accepted papers, the highest first; EMNLP has the last two in place of the others."""


@dataclass(frozen=True, kw_only=True)
class Paper:
    """One manuscript.

    Attributes:
        id: unique in its venue.
        title: its title.
        abstract: "" where the source has none.
        text: the full text, if known.
        area: research area, where the venue states one (keywords are not areas).
        status: the venue's decision in its own words.
        accepted: whether the venue took it; None where that is not known.
        tier: one of `TIERS`; None for others.
        ratings: overall ratings of the human reviewers.
        citations: count; None is unknown (the sources write -1), which is never zero.
        institutions: of the authors, each once.
        authors: names, for blinding.
    """

    id: str
    title: str
    abstract: str = ""
    text: str | None = None
    area: str | None = None
    status: str = ""
    accepted: bool | None = None
    tier: str | None = None
    ratings: tuple[float, ...] = ()
    citations: int | None = None
    institutions: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a negative count: -1 means unknown, which is None here."""
        if self.citations is not None and self.citations < 0:
            raise ValueError(f"paper {self.id!r} has {self.citations} citations: write None where they are unknown")


def check_papers(papers: Sequence[Paper], *, need_text: bool = False) -> None:
    """Refuse papers that cannot be told apart or, for a judge that reads, that have nothing to read.

    Raises:
        ValueError: fewer than two papers, an id twice, or (`need_text`) a paper without title, abstract and text.
    """
    if len(papers) < 2:
        raise ValueError(f"comparing needs at least 2 papers, got {len(papers)}")
    repeated = [id for id, count in Counter(paper.id for paper in papers).items() if count > 1]
    if repeated:
        raise ValueError(f"{len(repeated)} paper ids occur more than once, e.g. {repeated[0]!r}: make them unique")
    if need_text:
        empty = [p.id for p in papers if not (p.title.strip() or p.abstract.strip() or (p.text or "").strip())]
        if empty:
            raise ValueError(
                f"{len(empty)} papers have neither title, abstract nor text, e.g. {empty[0]!r}: "
                "leave them out, they cannot be judged"
            )


def citation_counts(papers: Sequence[Paper]) -> np.ndarray:
    """Return [n] citations, NaN where unknown."""
    return np.array([np.nan if paper.citations is None else paper.citations for paper in papers])


def tier_sizes(papers: Sequence[Paper]) -> dict[str, int]:
    """Return how many accepted papers each tier has, the highest tier first; empty where the venue has no tiers.

    Raises:
        ValueError: some accepted papers are in a tier and others are not.
    """
    accepted = [paper for paper in papers if paper.accepted]
    sizes = {tier: sum(paper.tier == tier for paper in accepted) for tier in TIERS}
    sizes = {tier: size for tier, size in sizes.items() if size}
    if sizes and sum(sizes.values()) < len(accepted):
        outside = [paper for paper in accepted if paper.tier is None]
        raise ValueError(
            f"{len(outside)} of {len(accepted)} accepted papers are in no tier, e.g. {outside[0].id!r} with the status "
            f"{outside[0].status!r}; known are {', '.join(TIERS)}, and top-5% and top-25%"
        )
    return sizes


def human_choice(papers: Sequence[Paper], *, mostly_accepted: float = 0.9) -> np.ndarray:
    """Return [n] bool, the decision to compare with: who was accepted, or, in a list of accepted papers, who was best.

    Where more than the share `mostly_accepted` was accepted, as in the lists of CoRL 2023 and EMNLP 2023, these are the
    papers of the highest tier.

    Raises:
        ValueError: fewer than two papers or all of them would be chosen, no chosen paper has known citations, or see
            `tier_sizes`.
    """
    chosen = np.array([bool(paper.accepted) for paper in papers])
    sizes = tier_sizes(papers)
    if chosen.mean() > mostly_accepted:
        best = next(iter(sizes), None)
        chosen &= np.array([best is not None and paper.tier == best for paper in papers])
    if not 2 <= chosen.sum() < len(papers):
        raise ValueError(
            f"humans chose {chosen.sum()} of {len(papers)} papers (tiers: {sizes or 'none'}): nothing to compare with"
        )
    if not any(paper.citations is not None for paper, taken in zip(papers, chosen, strict=True) if taken):
        raise ValueError(f"none of the {chosen.sum()} papers that humans chose has a known number of citations")
    return chosen
