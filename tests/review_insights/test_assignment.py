import itertools

import numpy as np
import pytest

from iclr_repro.review_insights import assignment
from iclr_repro.review_insights.assignment import assign


def by_hand(cost_NM: np.ndarray, temperature: float) -> tuple[float, float, np.ndarray]:
    """Least cost, second least cost and match probabilities of one problem with N <= M, from a list of all ways."""
    num_rows, num_columns = cost_NM.shape
    ways = list(itertools.permutations(range(num_columns), num_rows))
    totals = [sum(cost_NM[row, column] for row, column in enumerate(way)) for way in ways]
    weights = np.exp(-np.array(totals) / temperature)
    probability = np.zeros(cost_NM.shape)
    for way, weight in zip(ways, weights / weights.sum(), strict=True):
        probability[np.arange(num_rows), way] += weight
    ordered = [*sorted(totals), np.inf]
    return ordered[0], ordered[1], probability


def test_the_documented_example() -> None:
    solved = assign(np.array([[[0.0, 1.0], [1.0, 0.0]]]), temperature=1.0)
    assert solved.cost.tolist() == [0.0]
    assert solved.second_cost.tolist() == [2.0]
    assert solved.chosen[0].tolist() == [[True, False], [False, True]]
    np.testing.assert_allclose(solved.probability[0, 0], [1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))])


@pytest.mark.parametrize("limit", [720, 0])  # 0: every problem goes to the solver for large ones
@pytest.mark.parametrize("shape", [(2, 2), (4, 4), (5, 5), (2, 5), (5, 3)])
def test_enumeration_and_solver_agree_with_a_list_of_all_ways(
    shape: tuple[int, int], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assignment, "MAX_ENUMERATED", limit)
    rng = np.random.default_rng(sum(shape))
    cost = rng.integers(0, 12, size=(6, *shape)) * 0.25 + rng.random((6, *shape)) * 1e-3
    solved = assign(cost, temperature=0.4)
    for index, one in enumerate(cost):
        wide = one if shape[0] <= shape[1] else one.T
        least, second, probability = by_hand(wide, 0.4)
        found = solved.probability[index] if shape[0] <= shape[1] else solved.probability[index].T
        assert solved.cost[index] == pytest.approx(least)
        assert solved.second_cost[index] == pytest.approx(second)
        assert one[solved.chosen[index]].sum() == pytest.approx(least)
        np.testing.assert_allclose(found, probability, atol=1e-12)


def test_six_reviews_are_enumerated_and_seven_solved_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = np.random.default_rng(1).random((4, 6, 6))
    enumerated = assign(cost, temperature=0.1)
    monkeypatch.setattr(assignment, "MAX_ENUMERATED", 0)
    solved = assign(cost, temperature=0.1)
    assert (enumerated.chosen == solved.chosen).all()
    np.testing.assert_allclose(enumerated.second_cost, solved.second_cost)
    np.testing.assert_allclose(enumerated.probability, solved.probability, atol=1e-12)
    larger = assign(np.random.default_rng(2).random((2, 7, 8)), temperature=0.1)
    np.testing.assert_allclose(larger.probability.sum(axis=2), 1.0)
    assert (larger.probability.sum(axis=1) <= 1 + 1e-12).all()
    assert (larger.second_cost > larger.cost).all()


def test_a_low_temperature_of_a_large_problem_does_not_underflow() -> None:
    cost = 5.0 + np.random.default_rng(3).random((1, 9, 9))
    solved = assign(cost, temperature=1e-3)
    np.testing.assert_allclose(solved.probability, solved.chosen, atol=0.2)


def test_a_single_review_has_no_second_assignment() -> None:
    solved = assign(np.array([[[0.5]]]), temperature=1.0)
    assert solved.second_cost.tolist() == [np.inf]
    assert solved.probability.tolist() == [[[1.0]]]


def test_an_empty_side_leaves_nothing_to_match() -> None:
    solved = assign(np.zeros((3, 0, 2)), temperature=1.0)
    assert solved.cost.tolist() == [0.0] * 3
    assert solved.chosen.shape == (3, 0, 2)


def test_too_many_reviews_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(14, 15\) reviews to match, expected at most 14 on a side"):
        assign(np.zeros((1, 15, 14)), temperature=1.0)
