"""Which review of one snapshot is which of the next, where snapshots carry no reviewer identity (sheet T).

OpenReview overwrites scores, so a history of scores is a series of snapshots whose reviews must be matched by their
profile (rating, confidence, soundness, presentation, contribution). Two reviews a and b of one paper differ by

    cost(a, b) = number of differing fields other than the rating + 0.25 * |rank(rating_a) - rank(rating_b)|

with rank = position on the rating scale; a review that was added or removed costs 4. `match_reviews` takes the
assignment of least cost and gives, beyond the paper, the probability of every match under
P(assignment) ~ exp(-cost / temperature), which `expected_review_changes` carries into the table of changes.
`trace_reviews` chains the matches over the days.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from iclr_repro.review_insights.assignment import MAX_ENUMERATED, assign
from iclr_repro.review_insights.scores import ASPECTS, ScorePairs
from iclr_repro.review_insights.statistics import CHANGES

FIELDS = ("confidence", *ASPECTS)
RANK_COST = 0.25
UNMATCHED_COST = 4.0
AMBIGUITY_MARGIN = 0.5
TEMPERATURE = 0.1
"""Close to the least log loss of the true matches on the shuffled ICLR 2023 and 2026 captures (`tracing_check`)."""

_CHUNK_ELEMENTS = 4_000_000  # papers x assignments held at once: 32 MB an array


@dataclass(frozen=True, eq=False)
class Matching:
    """The reviews of two snapshots, matched inside each paper.

    Attributes:
        edges: one row a possible match, sorted by (`row_before`, `row_after`), which are the positions of the two
            reviews in their snapshots; `paper_id`, `rating_before`, `rating_after`, `num_differing` (fields other than
            the rating), `chosen` (bool: in the assignment of least cost), `probability`.
        papers: index `paper_id`; `n_before`, `n_after`, `cost` of the assignment, `second_cost` of the next best (inf
            if there is none), `ambiguous` (second_cost - cost <= 0.5).
    """

    edges: pd.DataFrame
    papers: pd.DataFrame

    @property
    def ambiguous_share(self) -> float:
        """Share of the papers whose second-best assignment costs at most 0.5 more than the best."""
        return float(self.papers["ambiguous"].mean())


def match_reviews(
    before: pd.DataFrame,
    after: pd.DataFrame,
    *,
    scale: Sequence[int],
    fields: Sequence[str] = FIELDS,
    temperature: float = TEMPERATURE,
) -> Matching:
    """Match the reviews of each paper in two snapshots at the least cost.

    Args:
        before: earlier snapshot, one row a review: `paper_id`, `rating` and the `fields`. The order of a paper's
            reviews means nothing; a paper may be in one snapshot only.
        after: later snapshot of the same form.
        scale: rating scale, ascending.
        fields: the scores other than the rating.
        temperature: in units of cost; towards 0 all probability goes to the assignments of least cost.

    Raises:
        ValueError: a missing column or value, a rating off the scale, a temperature that is not positive, a paper with
            too many reviews for `assignment.assign`.

    Source: sheet T; the probabilities: sheet, "Beyond", 4.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}, expected a positive number")
    paper_ids = np.array(sorted({*before["paper_id"], *after["paper_id"]}), dtype=object)
    earlier, later = (_Snapshot.of(table, paper_ids, scale, fields) for table in (before, after))
    edges, papers = [], []
    for members in _groups_of_equal_size(earlier.counts, later.counts):
        rows_PN, rows_PM = earlier.rows(members), later.rows(members)
        differing_PNM = (earlier.fields[rows_PN][:, :, None] != later.fields[rows_PM][:, None]).sum(axis=3)
        steps_PNM = np.abs(earlier.ranks[rows_PN][:, :, None] - later.ranks[rows_PM][:, None])
        solved = assign(differing_PNM + RANK_COST * steps_PNM, temperature=temperature)
        columns = {
            "paper_id": paper_ids[members][:, None, None],
            "row_before": rows_PN[:, :, None],
            "row_after": rows_PM[:, None, :],
            "num_differing": differing_PNM,
            "chosen": solved.chosen,
            "probability": solved.probability,
        }
        shape = differing_PNM.shape
        edges.append(pd.DataFrame({name: np.broadcast_to(array, shape).ravel() for name, array in columns.items()}))
        unmatched_cost = UNMATCHED_COST * abs(shape[1] - shape[2])
        papers.append(
            pd.DataFrame(
                {
                    "n_before": shape[1],
                    "n_after": shape[2],
                    "cost": solved.cost + unmatched_cost,
                    "second_cost": solved.second_cost + unmatched_cost,
                    "ambiguous": solved.second_cost - solved.cost <= AMBIGUITY_MARGIN,
                },
                index=pd.Index(paper_ids[members], name="paper_id"),
            )
        )
    edge_table = pd.concat(edges).sort_values(["row_before", "row_after"], ignore_index=True)
    edge_table.insert(3, "rating_before", before["rating"].to_numpy()[edge_table["row_before"]])
    edge_table.insert(4, "rating_after", after["rating"].to_numpy()[edge_table["row_after"]])
    return Matching(edge_table, pd.concat(papers).sort_index())


def expected_review_changes(matching: Matching) -> pd.DataFrame:
    """The table of `statistics.review_changes` with every possible match counted by its probability.

    Returns:
        Index increase, decrease, keep; columns `n` (expected number of reviews, a float), `share`, `mean_before`,
        `mean_after`. With certain matches these are the counts of the traced reviews.
    """
    edges = matching.edges
    difference = edges["rating_after"] - edges["rating_before"]
    rows = {}
    for change, chosen in zip(CHANGES, (difference > 0, difference < 0, difference == 0), strict=True):
        weight = edges["probability"].where(chosen, 0.0)
        expected = weight.sum()
        rows[change] = {
            "n": expected,
            "share": expected / edges["probability"].sum(),
            "mean_before": (weight * edges["rating_before"]).sum() / expected if expected else math.nan,
            "mean_after": (weight * edges["rating_after"]).sum() / expected if expected else math.nan,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


@dataclass(frozen=True, eq=False)
class Traces:
    """Reviews followed through a series of snapshots.

    Attributes:
        reviews: one row a review, in the order of first appearance: `paper_id`, `first` and `last` (numbers of the
            snapshots where it appears and where it is seen last), `before` and `after` (ratings there),
            `<field>_before`, `<field>_after`, and `trace_score`: -1 if neither rating nor fields ever changed, else the
            number of changed fields other than the rating, summed over the steps. The paper's authors call 0 (only the
            rating changed) and 1 reliable, and double-check from 2 on.
        num_snapshots: length of the series.
        ambiguous_share: of each step, see `Matching.ambiguous_share`.
    """

    reviews: pd.DataFrame
    num_snapshots: int
    ambiguous_share: list[float]

    def pairs(
        self, *, year: int | None = None, decisions: pd.Series | None = None, max_trace_score: int | None = None
    ) -> ScorePairs:
        """First against last rating of the reviews, of papers that keep all their reviews throughout.

        Args:
            year: ICLR year, for the rating scale.
            decisions: as `ScorePairs.from_reviews` takes them.
            max_trace_score: leave out reviews with a higher trace score; 1 is the strict choice, None keeps all.
        """
        throughout = (self.reviews["first"] == 0) & (self.reviews["last"] == self.num_snapshots - 1)
        complete = throughout.groupby(self.reviews["paper_id"]).transform("all")
        dropped = {"unequal_counts": self.reviews.loc[~complete, "paper_id"].nunique()}
        reviews = self.reviews[complete].drop(columns=["first", "last"])
        if max_trace_score is not None:
            reviews = reviews[reviews["trace_score"] <= max_trace_score]
        return ScorePairs.from_reviews(reviews, year=year, decisions=decisions, dropped=dropped)


def trace_reviews(snapshots: Sequence[pd.DataFrame], *, scale: Sequence[int], fields: Sequence[str] = FIELDS) -> Traces:
    """Follow each review through two or more snapshots.

    Args:
        snapshots: in the order of time, each as `match_reviews` takes it. A paper that is missing in a snapshot starts
            anew when it is back.
        scale: rating scale, ascending.
        fields: the scores other than the rating.

    Raises:
        ValueError: fewer than two snapshots, and as `match_reviews`.

    Source: sheet T.
    """
    if len(snapshots) < 2:
        raise ValueError(f"{len(snapshots)} snapshots given, tracing needs at least two")
    scores = ["rating", *fields]
    traces = np.arange(len(snapshots[0]))
    num_traces = len(traces)
    seen = [_sighting(snapshots[0], scores, number=0, traces=traces)]
    ambiguous_share = []
    for number, later in enumerate(snapshots[1:], start=1):
        matching = match_reviews(snapshots[number - 1], later, scale=scale, fields=fields)
        ambiguous_share.append(matching.ambiguous_share)
        step = matching.edges[matching.edges["chosen"]]
        earlier_traces, traces = traces, np.full(len(later), -1)
        traces[step["row_after"]] = earlier_traces[step["row_before"]]
        added = traces < 0
        traces[added] = num_traces + np.arange(added.sum())
        num_traces += int(added.sum())
        sighting = _sighting(later, scores, number=number, traces=traces)
        sighting.loc[step["row_after"], "num_differing"] = step["num_differing"].to_numpy()
        sighting.loc[step["row_after"], "changed"] = (
            (step["num_differing"] > 0) | (step["rating_before"] != step["rating_after"])
        ).to_numpy()
        seen.append(sighting)
    return Traces(_summarise(pd.concat(seen), scores), len(snapshots), ambiguous_share)


def profiles(pairs: ScorePairs, *, fields: Sequence[str] = FIELDS) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two snapshots of known pairs in the form that `match_reviews` takes, rows as in `pairs.reviews`."""
    missing = [name for name in fields if f"{name}_after" not in pairs.reviews.columns]
    if missing:
        raise ValueError(f"the reviews have no {missing} before and after; found {list(pairs.reviews.columns)}")
    tables = []
    for when in ("before", "after"):
        columns = {"rating": pairs.reviews[when]} | {name: pairs.reviews[f"{name}_{when}"] for name in fields}
        tables.append(pairs.reviews[["paper_id"]].assign(**columns))
    return tables[0], tables[1]


@dataclass(frozen=True, eq=False)
class _Snapshot:
    """A snapshot by paper: row of each review sorted by paper, where each paper begins, and the profiles by row."""

    order: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    ranks: np.ndarray
    fields: np.ndarray

    @classmethod
    def of(cls, table: pd.DataFrame, paper_ids: np.ndarray, scale: Sequence[int], fields: Sequence[str]) -> "_Snapshot":
        missing = [name for name in ("paper_id", "rating", *fields) if name not in table.columns]
        if missing:
            raise ValueError(f"a snapshot has no column {missing}; found {list(table.columns)}")
        scores = table[["rating", *fields]]
        if scores.isna().any(axis=None):
            paper = table.loc[scores.isna().any(axis=1), "paper_id"].iloc[0]
            raise ValueError(f"paper {paper}: a score is missing; drop the review or leave the field out of `fields`")
        off_scale = ~scores["rating"].isin(scale)
        if off_scale.any():
            wrong = table[off_scale].iloc[0]
            raise ValueError(f"paper {wrong['paper_id']}: rating {wrong['rating']} is not on the scale {tuple(scale)}")
        paper = pd.Index(paper_ids).get_indexer(table["paper_id"])
        counts = np.bincount(paper, minlength=len(paper_ids))
        return cls(
            order=np.argsort(paper, kind="stable"),
            starts=np.cumsum(counts) - counts,
            counts=counts,
            ranks=np.searchsorted(scale, scores["rating"]),
            fields=scores[list(fields)].to_numpy(),
        )

    def rows(self, papers: np.ndarray) -> np.ndarray:
        """[papers, k] rows of the reviews of papers with k reviews each."""
        return self.order[self.starts[papers][:, None] + np.arange(self.counts[papers[0]])]


def _groups_of_equal_size(counts_before: np.ndarray, counts_after: np.ndarray) -> Iterator[np.ndarray]:
    """Indices of papers with equal numbers of reviews on both sides, in pieces of bounded memory."""
    sizes, group_of = np.unique(np.stack([counts_before, counts_after], axis=1), axis=0, return_inverse=True)
    for group, (num_before, num_after) in enumerate(sizes):
        members = np.flatnonzero(group_of.ravel() == group)
        assignments = min(math.perm(max(num_before, num_after), min(num_before, num_after)), MAX_ENUMERATED)
        num_pieces = math.ceil(len(members) * assignments / _CHUNK_ELEMENTS)
        yield from np.array_split(members, num_pieces)


def _sighting(snapshot: pd.DataFrame, scores: list[str], *, number: int, traces: np.ndarray) -> pd.DataFrame:
    table = snapshot[["paper_id", *scores]].reset_index(drop=True)
    return table.assign(snapshot=number, trace=traces, num_differing=0, changed=False)


def _summarise(seen: pd.DataFrame, scores: list[str]) -> pd.DataFrame:
    """One row a trace from one row a sighting."""
    grouped = seen.groupby("trace")
    first, last = grouped.first(), grouped.last()
    reviews = first[["paper_id"]].assign(first=first["snapshot"], last=last["snapshot"])
    for name in scores:
        suffix = "" if name == "rating" else f"{name}_"
        reviews[f"{suffix}before"], reviews[f"{suffix}after"] = first[name], last[name]
    reviews["trace_score"] = grouped["num_differing"].sum().where(grouped["changed"].any(), -1)
    return reviews.reset_index(drop=True)
