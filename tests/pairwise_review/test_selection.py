from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iclr_repro.pairwise_review import (
    PairSchedule,
    area_shift,
    break_ties,
    decision_bands,
    fill_tiers,
    fit_bradley_terry,
    gini,
    impact,
    institution_gini,
    mean_over_ties,
    meta_scores,
    nearest_distances,
    novelty,
    overlap,
    predicted_correlation,
    random_pairs_with_replacement,
    random_selection_spread,
    random_subset_p_value,
    schedule_pairs,
    select_top,
    select_top_by_area,
    simulate_papers,
    swap_p_value,
    tie_share,
    top_probability,
)
from iclr_repro.pairwise_review.law import mean_information
from pairwise_review.cases import comparisons

# --- which pairs


@given(n=st.integers(2, 40), seed=st.integers(0, 2**40), order=st.sampled_from(["random", "fixed", "both"]))
def test_a_schedule_holds_every_pair_once(n: int, seed: int, order: str) -> None:
    schedule = PairSchedule(n, seed, order)  # type: ignore[arg-type]
    first, second = schedule.pairs(0, len(schedule))
    pairs = list(zip(first.tolist(), second.tolist(), strict=True))
    expected = itertools.combinations(range(n), 2) if order == "fixed" else itertools.permutations(range(n), 2)
    assert sorted(pairs) == sorted(expected)
    cut = len(schedule) // 3
    assert (schedule.pairs(cut, len(schedule))[0] == first[cut:]).all()


def test_both_orders_follow_each_other() -> None:
    first, second = schedule_pairs(20, 60, seed=1, order="both")
    assert (first[::2] == second[1::2]).all()
    assert (second[::2] == first[1::2]).all()


def test_smaller_budgets_are_prefixes_and_seeds_differ() -> None:
    long, short = schedule_pairs(50, 900, seed=4), schedule_pairs(50, 100, seed=4)
    assert (long[0][:100] == short[0]).all()
    assert (schedule_pairs(50, 100, seed=5)[0] != short[0]).any()


def test_random_order_shows_each_item_first_about_half_the_time() -> None:
    first, second = schedule_pairs(3000, 300_000, seed=0)
    share = np.bincount(first, minlength=3000) / (
        np.bincount(first, minlength=3000) + np.bincount(second, minlength=3000)
    )
    assert abs(share.mean() - 0.5) < 0.002
    assert share.std() == pytest.approx(0.5 / np.sqrt(200), rel=0.1)


def test_large_schedules_need_no_table() -> None:
    schedule = PairSchedule(2_000_000, 0)
    first, second = schedule.pairs(10**12, 10**12 + 5)
    assert ((first >= 0) & (first < 2_000_000) & (second != first)).all()


@pytest.mark.usefixtures("unchecked")
def test_bad_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 items"):
        PairSchedule(1, 0)
    with pytest.raises(ValueError, match="there are 6 without repeats"):
        schedule_pairs(3, 7)
    with pytest.raises(ValueError, match="order must be"):
        PairSchedule(3, 0, "alphabetical")  # type: ignore[arg-type]


def test_pairs_with_replacement_never_meet_themselves() -> None:
    first, second = random_pairs_with_replacement(5, 10_000, rng=np.random.default_rng(0))
    assert (first != second).all()
    assert np.bincount(first * 5 + second).max() < 10_000 / 20 * 1.3


# --- who is accepted


def test_equal_scores_go_by_id() -> None:
    assert select_top([1, 3, 3], 2).tolist() == [1, 2]
    assert select_top([1.0, 3.0, 3.0], 2, ids=["a", "z", "b"]).tolist() == [2, 1]


@pytest.mark.parametrize(
    ("scores", "k", "message"),
    [([1.0, 2.0], 3, "cannot select 3 of 2"), ([1.0, 2.0], 0, "cannot select 0"), ([1.0, np.nan], 1, "score 1 is NaN")],
)
def test_bad_selections_are_refused(scores: list[float], k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select_top(scores, k)


def test_area_control_takes_the_best_of_each_area() -> None:
    chosen = select_top_by_area([5, 4, 3, 2, 1], ["a", "a", "b", "b", "b"], {"a": 1, "b": 2})
    assert chosen.tolist() == [0, 2, 3]
    with pytest.raises(ValueError, match="area 'a' has 2 papers, fewer than its quota of 3"):
        select_top_by_area([5, 4, 3], ["a", "a", "b"], {"a": 3})


def test_tiers_are_filled_from_the_top() -> None:
    tiers = fill_tiers(np.array([7, 3, 5]), {"oral": 1, "poster": 2})
    assert {tier: members.tolist() for tier, members in tiers.items()} == {"oral": [7], "poster": [3, 5]}
    with pytest.raises(ValueError, match="do not add up to the 3"):
        fill_tiers(np.array([7, 3, 5]), {"oral": 1})


def test_probabilities_of_the_top_add_up_and_are_calibrated() -> None:
    quality, data = comparisons(100, 3000)
    fit = fit_bradley_terry(100, *data)
    probability = top_probability(fit, 30, rng=np.random.default_rng(0))
    assert probability.sum() == pytest.approx(30)
    inside = np.isin(np.arange(100), select_top(quality, 30))
    assert inside[probability > 0.95].mean() > 0.9
    assert inside[probability < 0.05].mean() < 0.1
    bands = decision_bands(probability)
    assert set(bands) == {"accept", "borderline", "reject"}
    with pytest.raises(ValueError, match="confidence"):
        decision_bands(probability, confidence=0.4)


# --- measures


def test_gini_by_hand() -> None:
    assert gini([0, 0, 0, 4]) == 0.75
    assert gini([2, 2, 2]) == pytest.approx(0)
    with pytest.raises(ValueError, match="not all zero"):
        gini([0, 0])


def test_an_institution_counts_once_a_paper_and_zeros_count() -> None:
    institutions = [["x", "x", "y"], ["x"], ["z"]]
    assert institution_gini(institutions, [0, 1]) == pytest.approx(gini([2, 1, 0]))
    with pytest.raises(ValueError, match=r"not in the universe, e\.g\. 'z'"):
        institution_gini(institutions, [0], universe=["x", "y"])


def test_nearest_neighbours_by_hand() -> None:
    embedding = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(nearest_distances(embedding, [0, 2]), [1.0, 1.0])
    np.testing.assert_allclose(nearest_distances(embedding, [0, 2], pool="all"), [0.0, 1.0], atol=1e-12)
    assert novelty(embedding, [0, 2]) == 1.0
    with pytest.raises(ValueError, match="at least two"):
        novelty(embedding, [0])
    with pytest.raises(ValueError, match="item 0 has a zero embedding"):
        novelty(np.zeros((2, 2)), [0, 1])


def test_unknown_citations_are_left_out_and_counted() -> None:
    found = impact([10, -1, np.nan, 2])
    assert (found.mean, found.median, found.known, found.unknown) == (6.0, 6.0, 2, 2)
    with pytest.raises(ValueError, match="none of the 1 papers"):
        impact([-1])


def test_overlap_compares_sets_of_equal_size() -> None:
    assert overlap([1, 2, 3], [3, 4, 1]) == pytest.approx(2 / 3)
    for one, other in (([1], [1, 2]), ([1, 1], [1, 2]), ([], [])):
        with pytest.raises(ValueError, match="two sets of equal size"):
            overlap(one, other)


def test_overlap_of_random_sets_is_their_share() -> None:
    rng = np.random.default_rng(0)
    overlaps = [overlap(rng.permutation(50)[:15], np.arange(15)) for _ in range(2000)]
    assert np.mean(overlaps) == pytest.approx(0.3, abs=0.01)


def test_spread_of_random_selections_is_that_of_draws() -> None:
    values, rng = np.random.default_rng(0).lognormal(size=60), np.random.default_rng(1)
    draws = [values[rng.permutation(60)[:20]].mean() for _ in range(4000)]
    mean, spread = random_selection_spread(values, 20)
    assert np.mean(draws) == pytest.approx(mean, rel=0.01)
    assert np.std(draws) == pytest.approx(spread, rel=0.04)


def test_permutation_tests_find_a_difference_and_hold_their_level() -> None:
    values = np.arange(100.0)

    def statistic(members: np.ndarray) -> float:
        return float(values[members].mean())

    rng = np.random.default_rng(0)
    top, bottom = np.arange(70, 100), np.arange(30)
    assert random_subset_p_value(statistic, top, 100, rng=rng, draws=199)[0] == pytest.approx(1 / 200)
    assert swap_p_value(statistic, top, bottom, rng=rng, draws=199)[0] == pytest.approx(1 / 200)
    assert swap_p_value(statistic, top, top, rng=rng, draws=19)[0] == 1.0
    levels = [
        random_subset_p_value(statistic, rng.permutation(100)[:30], 100, rng=rng, draws=99)[0] for _ in range(200)
    ]
    assert 0.01 < np.mean(np.array(levels) <= 0.1) < 0.2
    with pytest.raises(ValueError, match="equal size"):
        swap_p_value(statistic, top, bottom[:5], rng=rng)


def test_area_shift_is_the_difference_of_rates() -> None:
    table = area_shift(["a", "a", "b", "b"], [0, 1], [0, 2])
    assert table.loc["a"].tolist() == [2, 1.0, 0.5, 0.5]
    assert table.loc["b", "shift"] == -0.5


# --- ratings


def test_ties_by_hand() -> None:
    scores = np.array([3.0, 2.0, 2.0, 2.0])
    assert tie_share(scores, 2) == 0.5
    assert tie_share(scores, 4) == tie_share(scores, 1) == 0.0
    assert meta_scores(np.array([[5.0, 6.0, 6.0]])).tolist() == [6.0]
    chosen = break_ties(scores, 2, rng=np.random.default_rng(0), draws=300)
    assert all(selected[0] == 0 for selected in chosen)
    assert np.bincount([selected[1] for selected in chosen])[1:].min() > 70
    mean, spread = mean_over_ties(lambda s: float(s[1]), scores, 2, rng=np.random.default_rng(0), draws=300)
    assert mean == pytest.approx(2, abs=0.15)
    assert spread > 0.5


# --- the simulated venue and the law


def test_simulated_venue_has_the_moments_of_its_formulas() -> None:
    papers = simulate_papers(4000, rng=np.random.default_rng(0), quality_novelty_corr=0.5)
    assert np.corrcoef(papers.quality, papers.novelty_trait)[0, 1] == pytest.approx(0.5, abs=0.04)
    assert papers.prestige.mean() == pytest.approx(0, abs=1e-9)
    assert papers.prestige.std() == pytest.approx(1)
    sizes = [len(mine) for mine in papers.institutions]
    assert set(sizes) == {1, 2, 3}
    assert all(len(set(mine)) == len(mine) for mine in papers.institutions)
    slope = np.linalg.lstsq(
        np.column_stack([np.ones(4000), papers.quality, papers.prestige, papers.novelty_trait]),
        np.log1p(papers.citations),
        rcond=None,
    )[0]
    np.testing.assert_allclose(slope, [1.8, 0.54, 0.2, -0.1], atol=0.1)
    assert papers.citations.min() >= 0
    with pytest.raises(ValueError, match="at least 12"):
        simulate_papers(5, rng=np.random.default_rng(0))


def test_law_has_the_numbers_of_the_sheet() -> None:
    assert mean_information() == pytest.approx(0.1816, abs=5e-5)
    expected = {8: 0.770, 16: 0.863, 32: 0.924, 64: 0.960, 128: 0.979}
    for m, value in expected.items():
        assert predicted_correlation(m) == pytest.approx(value, abs=6e-4)
    with pytest.raises(ValueError, match="above 0"):
        predicted_correlation(0)
