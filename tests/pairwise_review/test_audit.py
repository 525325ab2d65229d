from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest

from iclr_repro.pairwise_review import (
    agreement,
    calibration,
    compare_actively,
    count_pairs,
    cyclic_triads,
    fit_bradley_terry,
    fit_judge_aware,
    flip_rate,
    judge_pairs,
    propose_pairs,
    random_pairs_with_replacement,
    schedule_pairs,
    select_top,
    trait_regression,
)


def test_flip_rate_of_position_and_of_quality() -> None:
    first, second = schedule_pairs(6, order="both")
    always = count_pairs(6, first, second, np.ones(30), ordered=True)
    assert flip_rate(always) == (1.0, 15)
    by_quality = count_pairs(6, first, second, first > second, ordered=True)
    assert flip_rate(by_quality) == (0.0, 15)
    with pytest.raises(ValueError, match="no pair was asked in both orders"):
        flip_rate(count_pairs(3, [0], [1], [1], ordered=True))


def test_cyclic_triads_by_hand_and_at_random() -> None:
    assert cyclic_triads(count_pairs(3, [0, 1, 2], [1, 2, 0], [1, 1, 1])) == (1.0, 1)
    assert cyclic_triads(count_pairs(3, [0, 1, 0], [1, 2, 2], [1, 1, 1])) == (0.0, 1)
    row, column = np.triu_indices(60, 1)
    share, number = cyclic_triads(count_pairs(60, row, column, np.random.default_rng(0).random(len(row)) < 0.5))
    assert number == 34_220
    assert share == pytest.approx(0.25, abs=0.02)
    with pytest.raises(ValueError, match="no three items"):
        cyclic_triads(count_pairs(3, [0], [1], [1]))


def test_agreement_is_the_share_of_equal_answers() -> None:
    table = agreement([np.array([True, False, True]), np.array([True, True, True])])
    np.testing.assert_allclose(table, [[1, 2 / 3], [2 / 3, 1]])


def test_traits_that_a_judge_rewards_are_found() -> None:
    rng = np.random.default_rng(0)
    quality, traits = rng.standard_normal(200), pd.DataFrame(rng.standard_normal((200, 2)), columns=["fame", "length"])
    first, second = schedule_pairs(200, 12_000, seed=1)
    won = judge_pairs(quality + 0.7 * traits["fame"].to_numpy(), first, second, seed=2)
    table, fit = trait_regression(count_pairs(200, first, second, won), traits, penalty=1.0)
    assert table.loc["fame", "coefficient"] == pytest.approx(0.7, abs=0.25)
    assert abs(table.loc["length", "coefficient"]) < 3 * table.loc["length", "standard_error"]
    plain = fit_bradley_terry(200, first, second, won, penalty=1.0)
    assert np.corrcoef(fit.beta, quality)[0, 1] > np.corrcoef(plain.beta, quality)[0, 1]


def test_judges_with_different_tempers_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    quality = rng.standard_normal(80)
    first, second = random_pairs_with_replacement(80, 12_000, rng=rng)
    judge = rng.integers(3, size=12_000)
    true = np.array([2.0, 1.0, 0.0])  # the last one tosses a coin
    eta = true[judge] * (quality[first] - quality[second]) + np.array([0.0, 0.8, 0.0])[judge]
    won = rng.random(12_000) < 1 / (1 + np.exp(-eta))
    fit = fit_judge_aware(80, first, second, won, judge)
    np.testing.assert_allclose(fit.discrimination, true, atol=0.15)
    np.testing.assert_allclose(fit.position, [0, 0.8, 0], atol=0.15)
    plain = fit_bradley_terry(80, first, second, won, penalty=0.1)
    assert np.corrcoef(fit.beta, quality)[0, 1] > np.corrcoef(plain.beta, quality)[0, 1]
    with pytest.raises(ValueError, match="penalty > 0"):
        fit_judge_aware(80, first, second, won, judge, penalty=0.0)


def test_one_judge_is_plain_bradley_terry_with_a_position_effect() -> None:
    quality = np.random.default_rng(0).standard_normal(40)
    first, second = schedule_pairs(40, 1000, seed=1)
    won = judge_pairs(quality, first, second, seed=2, position_bias=0.4)
    aware = fit_judge_aware(40, first, second, won, np.zeros(1000, dtype=np.int64))
    plain = fit_bradley_terry(40, first, second, won, penalty=0.1, position_effect=True)
    np.testing.assert_allclose(aware.beta, plain.beta, atol=1e-4)
    assert aware.position[0] == pytest.approx(plain.position_effect, abs=1e-4)
    assert aware.objective == pytest.approx(plain.objective, rel=1e-8)


def test_calibration_of_true_probabilities() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(20_000)
    table = calibration(probability, rng.random(20_000) < probability)
    assert table["n"].sum() == 20_000
    assert (np.abs(table["predicted"] - table["observed"]) < 4 * table["standard_error"]).all()


# --- choosing the pairs


def test_proposals_are_new_and_about_open_decisions() -> None:
    rng = np.random.default_rng(0)
    quality = rng.standard_normal(100)
    first, second = schedule_pairs(100, 1500, seed=1)
    fit = fit_bradley_terry(100, first, second, judge_pairs(quality, first, second, seed=2))
    asked = np.eye(100, dtype=bool)
    asked[first, second] = asked[second, first] = True
    one, other = propose_pairs(fit, 30, 200, asked=asked, rng=rng)
    assert len(one) == 200
    assert not asked[one, other].any()
    assert len({frozenset(pair) for pair in zip(one.tolist(), other.tolist(), strict=True)}) == 200
    rank = np.empty(100)
    rank[fit.ranking] = np.arange(100)
    nearest = np.minimum(np.abs(rank[one] - 29.5), np.abs(rank[other] - 29.5))
    assert nearest.mean() < 15  # random pairs: about 22
    assert len(propose_pairs(fit, 30, 10, asked=np.ones((100, 100), dtype=bool), rng=rng)[0]) == 0


def test_active_comparisons_stop_at_the_budget_or_when_settled() -> None:
    quality = np.random.default_rng(0).standard_normal(30)
    answer = partial(judge_pairs, 20 * quality, seed=1)
    asked: list[tuple[int, int]] = []

    def noted(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        asked.extend(zip(first.tolist(), second.tolist(), strict=True))
        return answer(first, second)

    rounds = compare_actively(noted, 30, 10, 200, rng=np.random.default_rng(1), start=60, batch=50)
    assert [one.comparisons for one in rounds] == [60, 110, 160, 200]
    assert len({frozenset(pair) for pair in asked}) == 200
    assert len(set(select_top(rounds[-1].fit.beta, 10)) & set(select_top(quality, 10))) >= 9
    early = compare_actively(
        answer, 30, 10, 400, rng=np.random.default_rng(1), start=60, batch=50, stop_when_settled=0.5
    )
    assert early[-1].settled >= 0.5
    assert early[-1].comparisons < 400
    with pytest.raises(ValueError, match="start <= budget"):
        compare_actively(answer, 30, 10, 5, rng=np.random.default_rng(1), start=6, batch=1)
