import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iclr_repro.review_insights.ranking import accepted_against_ranking, churn
from iclr_repro.review_insights.scores import ScorePairs
from score_pairs import score_pairs


def singles(before: list[int], after: list[int], decisions: str = "") -> ScorePairs:
    """Papers with one review each; decisions by letter: a = poster, r = reject."""
    names = {"a": "poster", "r": "reject"}
    return score_pairs(
        *(
            ([old], [new], names.get(decisions[i : i + 1]))
            for i, (old, new) in enumerate(zip(before, after, strict=True))
        )
    )


def test_churn_of_the_documented_example() -> None:
    assert churn(singles([6, 5, 4, 3], [6, 3, 5, 4]), 0.5) == 0.5


def test_the_size_of_the_top_rounds_halves_to_even() -> None:
    pairs = singles([5, 4, 3, 2, 1], [4, 5, 3, 2, 1])
    assert churn(pairs, 0.3) == 0.0  # 1.5 papers -> 2
    assert churn(pairs, 0.1 * 3 - 0.1) == 1.0  # 1 paper
    assert churn(pairs, 0.5) == 0.0  # 2.5 papers -> 2


def test_ties_go_to_the_smaller_paper_id() -> None:
    # before: all tied, p000 is on top; after: p001 and p002 lead, p001 is on top
    assert churn(singles([5, 5, 5, 1], [5, 6, 6, 1]), 0.25) == 1.0
    assert churn(singles([5, 5, 5, 1], [6, 6, 5, 1]), 0.25) == 0.0


@pytest.mark.parametrize("fraction", [0.0, 0.1, 1.2])
def test_a_fraction_must_leave_some_paper_on_top(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"fraction .* of 4 papers puts \d on top, expected 1 to 4"):
        churn(singles([1, 2, 3, 4], [1, 2, 3, 4]), fraction)


def test_an_unknown_tie_rule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ties is 'first', expected one of \('paper_id', 'random'\)"):
        churn(singles([1], [1]), 1.0, ties="first")


def test_random_ties_give_the_expectation_over_independent_orders_of_the_tied() -> None:
    # before: p000 sure, one of three others; after: two of the four p000..p003
    pairs = singles([9, 5, 5, 5], [6, 6, 6, 6])
    # p000: 1 * 1/2; the others: 1/3 * 1/2 each; overlap 1 of 2
    assert churn(pairs, 0.5, ties="random") == pytest.approx(0.5)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=2, max_size=9), st.integers(1, 2))
def test_random_ties_equal_the_mean_over_many_random_orders(ratings: list[tuple[int, int]], top: int) -> None:
    before, after = (list(column) for column in zip(*ratings, strict=True))
    rng = np.random.default_rng(len(ratings))
    num_draws = 4000
    in_top = []
    for ratings_now in (before, after):
        keys = rng.random((num_draws, len(ratings))) - np.array(ratings_now)
        in_top.append(np.argsort(np.argsort(keys, axis=1), axis=1) < top)
    sampled = 1 - (in_top[0] & in_top[1]).sum(axis=1) / top
    exact = churn(singles(before, after), top / len(ratings), ties="random")
    assert exact == pytest.approx(sampled.mean(), abs=5 / np.sqrt(num_draws))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 10), min_size=1, max_size=12), st.floats(0.2, 1.0))
def test_nothing_churns_without_a_change(ratings: list[int], fraction: float) -> None:
    if round(fraction * len(ratings)) >= 1:
        assert churn(singles(ratings, ratings), fraction) == 0.0


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(1, 9)), st.permutations(range(1, 9)), st.sampled_from([0.25, 0.5, 1.0]))
def test_both_tie_rules_agree_where_there_is_no_tie(before: list[int], after: list[int], fraction: float) -> None:
    pairs = singles(before, after)
    assert churn(pairs, fraction, ties="random") == pytest.approx(churn(pairs, fraction))


def test_accepted_papers_are_compared_with_the_top_of_all_papers() -> None:
    # accepted: p001 (rises into the top 2), p003 (outside before and after)
    result = accepted_against_ranking(singles([8, 5, 6, 1, 2], [8, 9, 6, 1, 2], "rarar"))
    assert result.to_dict() == {
        "n_accepted": 2,
        "share_increased": 0.5,
        "share_outside_top_before": 1.0,
        "share_outside_top_after": 0.5,
    }


def test_random_ties_share_the_places_among_tied_accepted_papers() -> None:
    pairs = singles([5, 5, 5], [5, 5, 5], "rar")
    assert accepted_against_ranking(pairs)["share_outside_top_before"] == 1.0
    assert accepted_against_ranking(pairs, ties="random")["share_outside_top_before"] == pytest.approx(2 / 3)


def test_accepted_papers_need_decisions() -> None:
    with pytest.raises(ValueError, match="no paper is accepted: M8 needs decisions"):
        accepted_against_ranking(singles([5], [6]))
