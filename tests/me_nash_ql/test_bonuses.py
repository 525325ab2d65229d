from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iclr_repro.me_nash_ql.bonuses import BonusConstants, Moments, advantage_bonus, hoeffding_bonus, learning_rate
from nash_learners import cases, replayed_bonuses
from support import golden_dir


def test_moments_and_bonuses_follow_the_recorded_recursion() -> None:
    for prefix, file in cases(golden_dir("me_nash_ql"), "bonus*.npz", "vref"):
        expected = file[f"{prefix}_n_eta_muref_sigref_muadv_sigadv_B_delta_b_aggB"]
        np.testing.assert_allclose(replayed_bonuses(prefix, file), expected, rtol=0, atol=1e-9)


def weights(n: int, horizon: int) -> np.ndarray:
    """eta_i^n, the weight of visit i of n in an average with the learning rate."""
    eta = learning_rate(np.arange(1, n + 1), horizon)
    return eta * np.append(np.cumprod((1 - eta)[:0:-1])[::-1], 1.0)


@given(st.integers(1, 200), st.integers(1, 12), st.floats(0.5, 1.0))
def test_weights_of_the_learning_rate_obey_the_identities_of_the_theory(n: int, horizon: int, power: float) -> None:
    eta = weights(n, horizon)
    assert eta.sum() == pytest.approx(1.0, abs=1e-12)
    assert eta.max() <= 2 * horizon / n + 1e-12
    assert (eta**2).sum() <= 2 * horizon / n + 1e-12
    average = (eta * np.arange(1.0, n + 1) ** -power).sum()
    assert n**-power - 1e-12 <= average <= 2 * n**-power + 1e-12


def test_later_weights_of_one_visit_add_up_to_one_and_one_over_h() -> None:
    horizon, visit = 4, 3
    total = sum(weights(n, horizon)[visit - 1] for n in range(visit, 3000))
    assert total == pytest.approx(1 + 1 / horizon, abs=1e-6)


def test_the_documented_examples_of_rate_and_bonus() -> None:
    assert learning_rate(np.array([5]), 3) == 0.5
    assert hoeffding_bonus(np.array([16]), 4, c0=1.0, iota=1.0) == 2.0


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(-5, 5)), min_size=1, max_size=30), st.integers(1, 8))
def test_averaged_bonuses_telescope_and_moments_stay_in_range(pairs: list[tuple[float, float]], horizon: int) -> None:
    moments, average = Moments(*np.zeros((5, 1))), 0.0
    for n, (reference, advantage) in enumerate(pairs, start=1):
        before = moments
        moments = before.advance(
            np.array([n]),
            reference=np.array([reference]),
            advantage=np.array([advantage]),
            horizon=horizon,
            c1=0.7,
            iota=2.0,
        )
        eta = learning_rate(np.array([n]), horizon)
        bonus = advantage_bonus(before, moments, np.array([n]), horizon=horizon, c2=0.0, iota=2.0)
        average = (1 - eta) * average + eta * bonus
    seen = np.array([reference for reference, _ in pairs])
    assert average == pytest.approx(moments.bonus, abs=1e-10)
    assert seen.min() - 1e-9 <= moments.ref_mean <= seen.max() + 1e-9
    assert moments.ref_square - moments.ref_mean**2 >= -1e-12
    assert moments.ref_mean == pytest.approx(seen.mean())
    assert moments.ref_square == pytest.approx((seen**2).mean())


def test_short_horizons_get_wider_constants() -> None:
    short, long = BonusConstants.for_horizon(2), BonusConstants.for_horizon(4)
    assert short.c0 == pytest.approx(1.2 / 2**1.5)
    assert short.c2 == 0.4
    assert (long.c0, long.c1, long.c2, long.iota) == (0.2, 1.0, 0.1, 1.0)


def test_theory_constants_hold_the_logarithmic_factor() -> None:
    constants = BonusConstants.theory(num_states=4, num_joint_actions=4, total_steps=16_000, failure=0.01, c_b=2.0)
    assert constants.iota == pytest.approx(np.log(4 * 4 * 16_000 / 0.01))
    assert (constants.c0, constants.c1, constants.c2) == (2.0, 2.0, 2.0)


def test_theory_constants_refuse_an_impossible_failure_probability() -> None:
    with pytest.raises(ValueError, match=r"0 steps and failure 1.0: expected counts >= 1 and 0 < failure < 1"):
        BonusConstants.theory(num_states=4, num_joint_actions=4, total_steps=0, failure=1.0)


def test_constants_are_one_number_or_one_a_run() -> None:
    c0, c1, _, _ = BonusConstants(c0=np.array([0.1, 0.2]), c1=3.0).for_runs(2)
    assert c0.tolist() == [0.1, 0.2]
    assert c1.tolist() == [3.0, 3.0]
    with pytest.raises(ValueError, match=r"c0 has shape \(2,\), expected one number or one for each of 3 runs"):
        BonusConstants(c0=np.array([0.1, 0.2])).for_runs(3)


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf])
def test_constants_must_be_finite_and_not_negative(value: float) -> None:
    with pytest.raises(ValueError, match=r"iota: got .*, expected finite and >= 0"):
        BonusConstants(iota=value).for_runs(1)
