import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iclr_repro.review_insights.plain import plain_papers, plain_statistics
from iclr_repro.review_insights.scores import ScorePairs
from iclr_repro.review_insights.statistics import (
    change_by_initial_rating,
    coreviewer_effect,
    disagreement,
    paper_changes,
    review_changes,
    score_changes,
    top_changes,
    transition_matrix,
)
from score_pairs import score_pairs

SCALE = (1, 3, 5, 6, 8, 10)
DECISIONS = [None, "oral", "spotlight", "poster", "reject", "desk_reject", "withdrawn"]


RATING = st.sampled_from(SCALE)
PAPERS = st.lists(
    st.tuples(st.lists(st.tuples(RATING, RATING), min_size=1, max_size=5), st.sampled_from(DECISIONS)),
    min_size=1,
    max_size=8,
)
"""One to eight papers with one to five reviews (before, after) each, and any decisions."""


def conference(papers: list[tuple[list[tuple[int, int]], str | None]]) -> ScorePairs:
    return score_pairs(
        *(([old for old, _ in reviews], [new for _, new in reviews], decision) for reviews, decision in papers),
        scale=SCALE,
    )


def test_review_changes_of_the_documented_example() -> None:
    table = review_changes(score_pairs(([3, 5], [5, 5])))
    assert table.index.tolist() == ["increase", "decrease", "keep"]
    assert table.loc["increase"].tolist() == [1, 0.5, 3.0, 5.0]
    assert table.loc["keep"].tolist() == [1, 0.5, 5.0, 5.0]
    assert table.loc["decrease", ["n", "share"]].tolist() == [0, 0.0]
    assert table.loc["decrease", ["mean_before", "mean_after"]].isna().all()


def test_a_paper_rises_by_its_sum_although_one_review_fell() -> None:
    table = paper_changes(score_pairs(([3, 6], [5, 5])))
    assert table.loc["increase", ["n", "mean_before", "mean_after"]].tolist() == [1, 4.5, 5.0]


def test_papers_are_classified_by_exact_sums_not_rounded_means() -> None:
    # 1/3 up and 1/3 down: the float means of the sums differ from the mean of the changes in the last digits
    table = paper_changes(score_pairs(([1, 1, 2], [2, 1, 1]), ([6, 5, 5], [5, 6, 5])))
    assert table["n"].to_dict() == {"increase": 0, "decrease": 0, "keep": 2, "overall": 2}


def test_acceptance_leaves_withdrawn_papers_out_or_counts_them_as_not_accepted() -> None:
    stay = ([5, 6], [5, 6])
    table = paper_changes(
        score_pairs((*stay, "poster"), (*stay, "oral"), (*stay, "desk_reject"), (*stay, "withdrawn"), stay)
    )
    assert table.loc["keep", ["accept_rate", "accept_rate_all"]].tolist() == [2 / 3, 2 / 4]
    assert table.loc["increase", ["accept_rate", "accept_rate_all"]].isna().all()


@pytest.mark.parametrize("decision", [None, "withdrawn"])
def test_there_is_no_acceptance_rate_without_decisions(decision: str | None) -> None:
    table = paper_changes(score_pairs(([5], [6], decision), ([5], [5])))
    assert table.columns.tolist() == ["n", "share", "mean_before", "mean_after", "accept_rate", "accept_rate_all"]
    assert table[["accept_rate", "accept_rate_all"]].isna().all(axis=None)


def test_transitions_count_before_in_rows_and_after_in_columns() -> None:
    matrix = transition_matrix(score_pairs(([5, 5, 8], [6, 6, 5]), scale=SCALE))
    assert matrix.loc[5, 6] == 2
    assert matrix.loc[8, 5] == 1
    assert matrix.to_numpy().sum() == 3
    assert matrix.index.tolist() == matrix.columns.tolist() == list(SCALE)


def test_top_changes_sort_by_count_and_then_by_rating() -> None:
    pairs = score_pairs(([6, 3, 5, 5, 1, 8, 6], [8, 5, 6, 6, 1, 6, 5]))
    assert top_changes(pairs).to_numpy().tolist() == [[5, 6, 2], [3, 5, 1], [6, 5, 1], [6, 8, 1], [8, 6, 1]]
    assert top_changes(pairs, num_changes=2).to_numpy().tolist() == [[5, 6, 2], [3, 5, 1]]


def test_disagreement_ignores_single_reviews_and_groups_by_decision() -> None:
    table = disagreement(
        score_pairs(
            ([3, 5], [5, 5], "oral"),
            ([1, 5], [1, 3], "spotlight"),
            ([1, 10], [1, 10], "desk_reject"),
            ([9], [2], "poster"),
        )
    )
    assert table.index.tolist() == ["overall", "oral_spotlight", "poster", "reject", "withdrawn"]
    assert table.loc["oral_spotlight"].tolist() == [2, 1.5, 0.5, -2 / 3]
    assert table.loc["reject"].tolist() == [1, 4.5, 4.5, 0.0]
    assert table.loc["overall", "n"] == 3
    assert table.loc["poster", "n"] == 0
    assert table.loc["poster"].isna().sum() == 3
    assert disagreement(score_pairs(([3, 5], [5, 5]))).index.tolist() == ["overall"]


def test_co_reviewer_bins_include_half_a_point() -> None:
    # distances of the first paper: 0.5, 0.5, -1; of the second: 0, 0
    table = coreviewer_effect(score_pairs(([5, 5, 6], [6, 5, 5]), ([4, 4], [4, 5]), ([3], [6])))
    assert table["n"].to_dict() == {"others_lower": 1, "others_close": 2, "others_higher": 2}
    assert table.loc["others_higher", ["p_increase", "p_decrease"]].tolist() == [0.5, 0.0]
    assert table.loc["others_lower", ["p_increase", "p_decrease"]].tolist() == [0.0, 1.0]


def test_changes_by_initial_rating_list_the_ratings_seen() -> None:
    table = change_by_initial_rating(score_pairs(([10, 2, 2, 2], [9, 3, 2, 2])))
    assert table.index.tolist() == [2, 10]
    assert table.loc[2].tolist() == [3, 1 / 3, 0.0]
    assert table.loc[10].tolist() == [1, 0.0, 1.0]


def test_review_statistics_refuse_pairs_that_are_not_aligned() -> None:
    aligned = score_pairs(([3, 5], [5, 5]))
    pairs = ScorePairs.from_reviews(aligned.reviews, aligned=False)
    for statistic in (review_changes, score_changes, transition_matrix, top_changes, coreviewer_effect):
        with pytest.raises(ValueError, match="not in the same reviewer order: use paper-level statistics"):
            statistic(pairs)
    assert disagreement(pairs).loc["overall", "n"] == 1


@settings(deadline=None, max_examples=40)
@given(PAPERS)
def test_every_table_equals_the_plain_computation(papers: list) -> None:
    pairs = conference(papers)
    expected = plain_statistics(plain_papers(pairs), fractions=())
    changes = score_changes(pairs)
    tables = {
        "reviews": changes.reviews,
        "papers": changes.papers,
        "disagreement": disagreement(pairs),
        "coreviewer": coreviewer_effect(pairs),
        "by_initial": change_by_initial_rating(pairs),
    }
    for name, table in tables.items():
        flat = table.drop(columns="n").stack().dropna()
        found = {f"{name}/{row}/{column}": value for (row, column), value in flat.items()}
        wanted = {key: value for key, value in expected.items() if key.startswith(f"{name}/") and "ratio" not in key}
        if not pairs.has_decisions:
            wanted = {key: value for key, value in wanted.items() if "accept" not in key}
            wanted = {key: value for key, value in wanted.items() if "withdrawn" not in key}
        assert found == pytest.approx(wanted, abs=1e-12)


@settings(deadline=None, max_examples=20)
@given(PAPERS)
def test_transition_rows_sum_to_the_ratings_before(papers: list) -> None:
    pairs = conference(papers)
    matrix = transition_matrix(pairs)
    for margin, column in ((1, "before"), (0, "after")):
        counts = pairs.reviews[column].value_counts().reindex(SCALE, fill_value=0)
        assert matrix.sum(axis=margin).tolist() == counts.tolist()
    assert review_changes(pairs)["n"].sum() == len(pairs.reviews)
    assert np.triu(matrix.to_numpy(), 1).sum() == review_changes(pairs).loc["increase", "n"]


@settings(deadline=None, max_examples=15)
@given(PAPERS, st.integers(0, 1000))
def test_the_order_of_reviews_and_papers_does_not_matter(papers: list, seed: int) -> None:
    pairs = conference(papers)
    rows = np.random.default_rng(seed).permutation(len(pairs.reviews))
    shuffled = ScorePairs.from_reviews(
        pairs.reviews.iloc[rows].drop(columns="position"), decisions=pairs.papers["decision"], scale=SCALE
    )
    for statistic in (review_changes, paper_changes, disagreement, coreviewer_effect, change_by_initial_rating):
        pd.testing.assert_frame_equal(statistic(shuffled), statistic(pairs), rtol=1e-12)
    assert transition_matrix(shuffled).equals(transition_matrix(pairs))
