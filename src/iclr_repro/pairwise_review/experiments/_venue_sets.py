"""Sets of a venue's papers, of the size that humans chose, beside each other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import scipy.stats

from iclr_repro.core.measurements import Measurements
from iclr_repro.core.rundir import Run
from iclr_repro.pairwise_review.embedding import embed_texts
from iclr_repro.pairwise_review.experiments._judged import citation_curve, spearman
from iclr_repro.pairwise_review.measures import gini as gini_of
from iclr_repro.pairwise_review.measures import impact, institution_counts, novelty, overlap, swap_p_value
from iclr_repro.pairwise_review.papers import Paper, citation_counts, human_choice, tier_sizes
from iclr_repro.pairwise_review.rating import break_ties, tie_share
from iclr_repro.pairwise_review.selection import fill_tiers, select_top

_IMPACT = ("mean", "median", "log_mean")


@dataclass(frozen=True, eq=False)
class Venue:
    """The papers of a venue, and what humans chose of them.

    Attributes:
        papers: all n.
        chosen: [k] indices of those that humans chose, see `human_choice`.
        tiers: how many papers each has, see `tier_sizes`.
        ids: of the papers.
        citations: [n], NaN where unknown.
        embedding: [n, d] of the texts.
        places: [n, N] bool, whether an author of a paper is at an institution.
    """

    papers: Sequence[Paper]
    chosen: np.ndarray
    tiers: dict[str, int]

    @classmethod
    def of(cls, papers: Sequence[Paper]) -> Venue:
        """Find what humans chose.

        Raises:
            ValueError: nothing can be compared with it, see `human_choice`.
        """
        return cls(papers, np.flatnonzero(human_choice(papers)), tier_sizes(papers))

    @cached_property
    def ids(self) -> list[str]:
        return [paper.id for paper in self.papers]

    @cached_property
    def citations(self) -> np.ndarray:
        return citation_counts(self.papers)

    @cached_property
    def embedding(self) -> np.ndarray:
        return embed_texts(self.papers)

    @cached_property
    def places(self) -> np.ndarray:
        return institution_counts([paper.institutions for paper in self.papers])

    def top(self, score: np.ndarray) -> np.ndarray:
        """Return as many papers as humans chose, the best by a score first."""
        return select_top(score, len(self.chosen), ids=self.ids)

    def measures(self) -> dict[str, Callable[[np.ndarray], float]]:
        """Return what is measured of a set beside its impact; no Gini coefficient where no institution is known."""
        measures = {"novelty": lambda members: novelty(self.embedding, members)}
        if self.places.any():
            measures["gini"] = lambda members: gini_of(self.places[members].sum(axis=0))
        return measures


def compare_sets(
    venue: Venue,
    given: Mapping[str, list[np.ndarray]],
    scores: Mapping[str, np.ndarray],
    *,
    run: Run,
    found: Measurements,
    draws: int,
) -> pd.DataFrame:
    """Set what humans chose and other given sets beside sets of the same size by each score, and at random.

    Args:
        venue: whose papers they are.
        given: sets by name, each a list: one set, or several that were drawn.
        scores: [n] by name.
        run: its streams are used.
        found: takes the metrics.
        draws: bootstrap draws, permutations, and random sets (these at least 100).

    Returns:
        a row a set.
    """
    n, k = len(venue.papers), len(venue.chosen)
    sets = {**given, **_select_by_scores(venue, scores, run, found)}
    rng = run.rng("random")
    sets["random"] = [rng.permutation(n)[:k] for _ in range(max(draws, 100))]
    table = _measure_sets(venue, sets, run, found, draws)
    if "pairwise" in scores:
        for name in ("rating", "rating_expected"):
            if name in sets:
                metric = f"pairwise_minus_{name}/mean"
                _add_difference(found, metric, venue.citations, sets["pairwise"], sets[name], run, draws)
        _test_against_humans(venue, venue.top(scores["pairwise"]), run, found, draws)
    if {"pairwise", "text"} <= scores.keys():
        _add_gain_over_text(found, venue.citations, scores, run, draws)
    found.add_exact("chance/overlap_human", k / n)
    found.add_exact("accepted/n", k)
    return table


def compare_budgets(
    venue: Venue, strengths: Mapping[int, np.ndarray], *, run: Run, found: Measurements, draws: int
) -> dict[int, np.ndarray]:
    """Measure how citations rise with the comparisons.

    Args:
        venue: whose papers they are.
        strengths: [n] by number of comparisons, ascending.
        run: its streams are used.
        found: takes the metrics.
        draws: of the bootstrap.

    Returns:
        [draws] mean citations of what each number of comparisons selects (Fig. 2).
    """
    curve = citation_curve(run, venue.citations, strengths, len(venue.chosen), ids=venue.ids, draws=draws)
    selected = {budget: venue.top(beta) for budget, beta in strengths.items()}
    for budget, best in selected.items():
        found.add_draws(f"pairwise/M{budget}/mean", impact(venue.citations, best).mean, curve[budget])
    steps = {f"M{one}_to_M{other}": (one, other) for one, other in itertools.pairwise(selected)}
    if len(selected) > 1:
        steps["first_to_last"] = (min(selected), max(selected))
    for step, (fewer, more) in steps.items():
        metric = f"pairwise/{step}/gain"
        _add_difference(found, metric, venue.citations, [selected[more]], [selected[fewer]], run, draws)
    return curve


def compare_tiers(venue: Venue, score: np.ndarray, *, found: Measurements) -> pd.DataFrame:
    """Set citations of the venue's tiers beside those of tiers of the same sizes that a score fills; a row a tier."""
    by_tier: dict[str, dict[str, float]] = {}
    best = select_top(score, sum(venue.tiers.values()), ids=venue.ids)
    for tier, members in fill_tiers(best, venue.tiers).items():
        theirs = np.flatnonzero([bool(paper.accepted) and paper.tier == tier for paper in venue.papers])
        row = by_tier[tier] = {"n": float(len(members))}
        for name, those in (("pairwise", members), ("human", theirs)):
            if not np.isnan(venue.citations[those]).all():
                outcome = impact(venue.citations, those)
                row |= {f"{name}_mean": outcome.mean, f"{name}_median": outcome.median}
                found.add(f"{name}/{tier}/mean", outcome.mean)
    return pd.DataFrame(by_tier).T.rename_axis("tier")


def _select_by_scores(
    venue: Venue, scores: Mapping[str, np.ndarray], run: Run, found: Measurements
) -> dict[str, list[np.ndarray]]:
    """The sets of each score, one a tie-break; notes the share of ties, and how the score follows citations."""
    k, known, sets = len(venue.chosen), ~np.isnan(venue.citations), {}
    for name, score in scores.items():
        sets[name] = break_ties(score, k, rng=run.rng(f"ties/{name}"), draws=20)
        found.add(f"{name}/tie_share", tie_share(score, k))
        if not np.isnan(correlation := spearman(score[known], venue.citations[known])):
            found.add(f"{name}/spearman_citations", correlation)
    return sets


def _measure_sets(
    venue: Venue, sets: Mapping[str, list[np.ndarray]], run: Run, found: Measurements, draws: int
) -> pd.DataFrame:
    """Impact, overlap with humans and the other measures, each the mean over the sets of a name."""
    citations, known, measures = venue.citations, ~np.isnan(venue.citations), venue.measures()
    rows: dict[str, dict[str, float]] = {}
    for name, several in sets.items():
        # A set without any known count has no impact.
        counted = [citations[members[known[members]]] for members in several if known[members].any()]
        row = {field: float(np.mean([getattr(impact(c), field) for c in counted])) for field in _IMPACT if counted}
        row["overlap_human"] = float(np.mean([overlap(members, venue.chosen) for members in several]))
        for measure, statistic in measures.items():
            row[measure] = float(np.mean([statistic(members) for members in several]))
        rows[name] = row
        samples = _resampled(counted, run.rng(f"bootstrap/{name}"), draws)
        for field, value in row.items():
            if field in _IMPACT:
                found.add_draws(f"{name}/{field}", value, [getattr(impact(one), field) for one in samples])
            else:
                found.add(f"{name}/{field}", value)
    return pd.DataFrame(rows).T.rename_axis("set")


def _resampled(sets: list[np.ndarray], rng: np.random.Generator, draws: int) -> list[np.ndarray]:
    """A set at random (a tie-break, a random choice), and papers of it with replacement."""
    chosen = [sets[index] for index in rng.integers(len(sets), size=draws)] if sets else []
    return [values[rng.integers(len(values), size=len(values))] for values in chosen]


def _test_against_humans(venue: Venue, best: np.ndarray, run: Run, found: Measurements, draws: int) -> None:
    """p-values of what comparisons select: its measures against the human set's, its overlap against chance."""
    k = len(venue.chosen)
    for measure, statistic in venue.measures().items():
        p, _ = swap_p_value(statistic, best, venue.chosen, rng=run.rng(f"swap/{measure}"), draws=draws)
        found.add(f"pairwise_minus_human/{measure}/p_value", p)
    shared = np.isin(best, venue.chosen).sum()
    # Of a random set of k papers to share as many with the human one.
    p = float(scipy.stats.hypergeom.sf(shared - 1, len(venue.papers), k, k))
    found.add("pairwise/overlap_human/p_value", p)


def _add_gain_over_text(
    found: Measurements, citations: np.ndarray, scores: Mapping[str, np.ndarray], run: Run, draws: int
) -> None:
    """Spearman with citations by comparisons, minus that of the text regression, resampled over the papers."""
    known, rng = np.flatnonzero(~np.isnan(citations)), run.rng("bootstrap/text")

    def gain(papers: np.ndarray) -> float:
        return spearman(scores["pairwise"][papers], citations[papers]) - spearman(
            scores["text"][papers], citations[papers]
        )

    if not np.isnan(value := gain(known)):
        gains = [gain(rng.choice(known, len(known))) for _ in range(draws)]
        found.add_draws("pairwise_minus_text/spearman_citations", value, gains)


def _add_difference(
    found: Measurements,
    name: str,
    citations: np.ndarray,
    ours: list[np.ndarray],
    theirs: list[np.ndarray],
    run: Run,
    draws: int,
) -> None:
    """Mean citations of one set minus another's, resampled over all papers; each over its tie-breaks."""
    n, rng = len(citations), run.rng("bootstrap/difference")
    our_share, their_share = (
        np.mean([np.isin(np.arange(n), members) for members in sets], axis=0) for sets in (ours, theirs)
    )
    counts = rng.multinomial(n, np.full(n, 1 / n), size=draws)
    known = np.where(np.isnan(citations), 0.0, citations)
    counted = ~np.isnan(citations)

    def mean(weights: np.ndarray) -> np.ndarray:
        total = np.asarray(weights @ counted)
        return np.divide(weights @ known, total, out=np.full(total.shape, np.nan), where=total > 0)

    value = float(mean(our_share) - mean(their_share))
    if not np.isnan(value):
        found.add_draws(name, value, mean(counts * our_share) - mean(counts * their_share))
