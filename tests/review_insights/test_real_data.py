"""The numbers that the public captures give, exactly (the sheet's tables of stand-in data and anchors)."""

import functools
from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from iclr_repro.core.data import MissingDataError, locate
from iclr_repro.review_insights.bootstrap import bootstrap
from iclr_repro.review_insights.data import load_review_texts, load_review_versions, load_scores
from iclr_repro.review_insights.engagement import aspect_updates, order_effect
from iclr_repro.review_insights.ranking import accepted_against_ranking, churn
from iclr_repro.review_insights.scores import ScorePairs
from iclr_repro.review_insights.statistics import (
    change_by_initial_rating,
    coreviewer_effect,
    disagreement,
    paper_changes,
    review_changes,
    top_changes,
)
from iclr_repro.review_insights.tracing import FIELDS, match_reviews, profiles, trace_reviews
from iclr_repro.review_insights.tracing_check import tracing_accuracy, tracing_sample

_find = functools.partial(locate, download=False)


@functools.cache
def year(number: int, after: str | None = None) -> ScorePairs:
    return load_scores(number, after=after, find=_find)


@pytest.fixture(scope="module", autouse=True)
def _data_are_here() -> None:
    try:
        year(2020)
    except MissingDataError as error:
        pytest.skip(f"no real data on this machine (ICLR_REPRO_DATA): {error}")


def test_iclr_2024_reviews() -> None:
    table = review_changes(year(2024))
    assert len(year(2024).papers) == 7013
    assert year(2024).dropped == {"no_ratings": 0, "unequal_counts": 202}
    assert table["n"].to_dict() == {"increase": 4295, "decrease": 266, "keep": 22473}
    assert table["n"].sum() == 27034
    assert table["share"].round(4).to_dict() == {"increase": 0.1589, "decrease": 0.0098, "keep": 0.8313}
    assert table.loc["increase", ["mean_before", "mean_after"]].round(4).tolist() == [4.5898, 6.3362]
    assert table.loc["decrease", ["mean_before", "mean_after"]].round(4).tolist() == [6.1391, 4.3722]
    assert table.loc["keep", "mean_before"].round(4) == 4.9183


def test_iclr_2024_papers() -> None:
    table = paper_changes(year(2024))
    assert table["n"].to_dict() == {"increase": 2790, "decrease": 209, "keep": 4014, "overall": 7013}
    means = table[["mean_before", "mean_after"]].round(4)
    assert means.loc["increase"].tolist() == [5.3179, 6.0092]
    assert means.loc["decrease"].tolist() == [4.8893, 4.4396]
    assert means.loc["keep"].tolist() == [4.5594, 4.5594]
    assert means.loc["overall"].tolist() == [4.8710, 5.1326]
    assert table["accept_rate"].isna().all()


def test_iclr_2024_changes_at_the_borderline() -> None:
    assert top_changes(year(2024)).head(3).to_numpy().tolist() == [[5, 6, 1910], [6, 8, 871], [3, 5, 774]]
    p_increase = change_by_initial_rating(year(2024))["p_increase"]
    assert p_increase.idxmax() == 5
    assert p_increase[5] > p_increase[3] > p_increase[8]


def test_iclr_2024_churn_and_disagreement() -> None:
    assert churn(year(2024), 0.05) == pytest.approx(140 / 351)  # 39.9 %
    assert churn(year(2024), 0.3) == pytest.approx(409 / 2104)
    overall = disagreement(year(2024)).loc["overall"].round(4)
    assert overall.tolist() == [7012, 1.1345, 1.0483, -0.0760]


def test_random_ties_change_churn_by_up_to_two_points_in_2024() -> None:
    for fraction in (0.05, 0.1, 0.3):
        assert abs(churn(year(2024), fraction, ties="random") - churn(year(2024), fraction)) < 0.02


def test_iclr_2021_reviews_and_acceptance() -> None:
    pairs = year(2021)
    assert (len(pairs.papers), len(pairs.reviews)) == (2948, 11375)
    assert review_changes(pairs)["n"].to_dict() == {"increase": 1984, "decrease": 294, "keep": 9097}
    rates = paper_changes(pairs)["accept_rate"].round(4)
    assert rates[["increase", "decrease", "keep"]].tolist() == [0.4963, 0.0753, 0.1975]


def test_iclr_2020_agrees_with_its_public_analysis() -> None:
    reviews = year(2020).reviews
    changed = reviews["before"] != reviews["after"]
    assert round(100 * changed.mean(), 2) == 11.79
    assert round(reviews["before"].mean(), 4) == 3.9068
    assert round(reviews["after"].mean(), 4) == 4.1831
    by_experience = changed.groupby(reviews["experience"])
    assert by_experience.size().tolist() == [1097, 2521, 2636, 1436]
    assert (100 * by_experience.mean()).round(2).tolist() == [9.48, 11.15, 12.97, 12.53]


def test_iclr_2026_rating_changes_and_order_effect() -> None:
    table = review_changes(year(2026))
    assert len(year(2026).reviews) == 75848
    assert table.loc["increase", "n"] == 554
    assert table.loc[["increase", "decrease"], "n"].sum() == 606
    order = order_effect(year(2026)).loc[4]
    assert order["n"].unique().tolist() == [14826]
    assert order["mean_before"].round(3).tolist() == [4.106, 4.193, 4.227, 4.277]


def test_iclr_2026_aspects_seldom_change_with_the_rating() -> None:
    table = aspect_updates(year(2026))
    assert table.loc["changed", "n"] == 606
    assert table.loc["changed", "aspects_unchanged"] == pytest.approx(410 / 606)


def test_iclr_2026_versions_and_texts_are_complete() -> None:
    versions = load_review_versions(find=_find)
    assert len(versions) == 76816
    assert versions["version"].value_counts().to_dict() == {0: 75848, 1: 932, 2: 35, 3: 1}
    texts = load_review_texts(find=_find)
    assert len(texts) == 400
    assert (texts["rating_first"] != texts["rating_last"]).sum() == 200
    assert set(texts["review_id"]) <= set(versions["review_id"])


def test_iclr_2023_sorted_lists_fake_decreases_when_zipped() -> None:
    pairs = year(2023, "final")
    change = (pairs.reviews["after"] - pairs.reviews["before"]).to_numpy()
    assert (len(change), (change > 0).sum(), (change < 0).sum()) == (17654, 5732, 3926)
    with pytest.raises(ValueError, match="not in the same reviewer order"):
        review_changes(pairs)


def test_tracing_recovers_the_iclr_2023_final_reviews_with_few_decreases() -> None:
    pairs = year(2023, "final")
    traces = trace_reviews(profiles(pairs, fields=("confidence",)), scale=pairs.scale, fields=("confidence",))
    table = review_changes(traces.pairs(year=2023))
    assert table.loc["increase", "share"] == pytest.approx(0.147, abs=0.005)
    assert table.loc["decrease", "share"] == pytest.approx(0.016, abs=0.003)


def test_disagreement_falls_most_for_the_best_papers() -> None:
    for pairs in (year(2021), year(2023, "final")):
        change = disagreement(pairs)["relative_change"]
        groups = change[["oral_spotlight", "poster", "reject", "withdrawn"]]
        assert groups.is_monotonic_increasing
        assert groups["withdrawn"] < 0
        assert -0.13 < change["overall"] < -0.05


def test_a_fifth_of_the_accepted_papers_were_outside_the_top_before() -> None:
    for pairs in (year(2021), year(2023, "final")):
        benefit = accepted_against_ranking(pairs)
        assert 0.15 < benefit["share_outside_top_before"] < 0.30
        assert benefit["share_outside_top_before"] > benefit["share_outside_top_after"]


def test_co_reviewers_pull_ratings_up() -> None:
    for pairs in (year(2020), year(2021), year(2024)):
        p_increase = coreviewer_effect(pairs)["p_increase"]
        assert p_increase["others_higher"] >= 3 * p_increase["others_lower"]


def traced_by_scipy(pairs: ScorePairs, fields: tuple[str, ...], shuffle: np.ndarray) -> np.ndarray:
    """For each review the later one that `linear_sum_assignment` gives it, paper by paper, in shuffled order."""
    old, new = (table[["rating", *fields]].to_numpy() for table in profiles(pairs, fields=fields))
    matched = np.empty(len(old), dtype=int)
    for start, size in zip(pairs.starts, pairs.papers["n_reviews"], strict=True):
        rows, others = slice(start, start + size), shuffle[start : start + size]
        one, other = old[rows, None], new[others][None]
        ranks = [np.searchsorted(pairs.scale, side[..., 0]) for side in (one, other)]
        cost = (one[..., 1:] != other[..., 1:]).sum(axis=2) + 0.25 * np.abs(ranks[0] - ranks[1])
        matched[rows] = others[linear_sum_assignment(cost)[1]]
    return matched


def shares_of_right_matches(pairs: ScorePairs, fields: tuple[str, ...], matched: np.ndarray) -> dict[str, float]:
    old, new = (table[["rating", *fields]].to_numpy() for table in profiles(pairs, fields=fields))
    right, agrees = matched == np.arange(len(old)), new[matched] == new
    changed, rated = (old != new).any(axis=1), old[:, 0] != new[:, 0]
    return {
        "all/right_review": right.mean(),
        "all/right_scores": agrees.all(axis=1).mean(),
        "changed/right_review": right[changed].mean(),
        "changed/right_scores": agrees.all(axis=1)[changed].mean(),
        "rating_changed/right_rating": agrees[rated, 0].mean(),
    }


def sample_2026() -> ScorePairs:
    return tracing_sample(year(2026), rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("load", "fields", "measured"),
    [
        (
            sample_2026,
            FIELDS,
            {
                "all/right_review": 0.958,
                "all/right_scores": 0.992,
                "changed/right_review": 0.892,
                "changed/right_scores": 0.917,
            },
        ),
        (lambda: year(2023), ("confidence",), {"rating_changed/right_rating": 0.84}),
    ],
    ids=["2026", "2023"],
)
def test_tracing_differs_from_scipy_only_where_assignments_cost_the_same(
    load: Callable[[], ScorePairs], fields: tuple[str, ...], measured: dict[str, float]
) -> None:
    pairs = load()
    before, after = profiles(pairs, fields=fields)
    shuffle = np.lexsort((np.random.default_rng(1).random(len(after)), pairs.paper_index))
    matching = match_reviews(before, after.iloc[shuffle], scale=pairs.scale, fields=fields)
    ours = shuffle[matching.edges.loc[matching.edges["chosen"], "row_after"].to_numpy()]
    scipy = traced_by_scipy(pairs, fields, shuffle)
    unique = (matching.papers["second_cost"] > matching.papers["cost"]).to_numpy()[pairs.paper_index]
    assert unique.mean() > 0.4
    np.testing.assert_array_equal(ours[unique], scipy[unique])
    found = shares_of_right_matches(pairs, fields, scipy)
    assert {name: found[name] for name in measured} == pytest.approx(measured, abs=0.02)


def test_tracing_accuracy_is_near_the_measured_one() -> None:
    sample = sample_2026()
    accuracy = tracing_accuracy(sample, rng=np.random.default_rng(1), num_shuffles=3)
    assert len(sample.papers) == 3635
    assert accuracy.loc["changed", "n"] == 693
    assert accuracy.loc["all", ["right_review", "right_scores"]].tolist() == pytest.approx([0.958, 0.992], abs=0.005)
    # ties are broken at random here, in the measured values by scipy's order
    assert accuracy.loc["changed", ["right_review", "right_scores"]].tolist() == pytest.approx([0.892, 0.917], abs=0.03)
    assert accuracy.loc["all", "expected_right_review"] == pytest.approx(accuracy.loc["all", "right_review"], abs=0.006)
    rated = tracing_accuracy(year(2023), rng=np.random.default_rng(1), fields=("confidence",), num_shuffles=3)
    assert rated.loc["rating_changed", "n"] == 735
    assert rated.loc["rating_changed", "right_rating"] == pytest.approx(0.84, abs=0.03)
    assert rated.loc["rating_changed", "right_review"] == pytest.approx(0.66, abs=0.02)


def test_papers_with_many_reviews_match_themselves_at_no_cost() -> None:
    before, _ = profiles(year(2026).select(year(2026).papers["n_reviews"] >= 7))
    matching = match_reviews(before, before, scale=year(2026).scale)
    assert (matching.papers["cost"] == 0).all()


def test_the_order_effect_of_2026_is_beyond_chance() -> None:
    draws = bootstrap(year(2026), rng=np.random.default_rng(0), draws=100).draws
    rise = draws["order/4/4"] - draws["order/4/1"]
    assert 0.1 < rise.mean() < 0.3
    assert rise.quantile(0.025) > 0
