from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iclr_repro.me_nash_ql.bonuses import BonusConstants
from iclr_repro.me_nash_ql.bounds import BoundRules
from iclr_repro.me_nash_ql.cce import solve_cce
from iclr_repro.me_nash_ql.exact import exploitability
from iclr_repro.me_nash_ql.learner import MENashQL
from iclr_repro.me_nash_ql.multiplayer import (
    GeneralSumGame,
    MultiMENashQL,
    MultiSelfPlay,
    cce_gap,
    random_general_sum_game,
    solve_joint_cce,
)
from nash_learners import random_visits, small_game


def deviation_gains(policy: np.ndarray, payoffs: np.ndarray) -> list[float]:
    """What each player gains by each fixed action, by a loop over joint actions; payoffs [M, *A]."""
    gains = []
    for player, payoff in enumerate(payoffs):
        value = float((policy * payoff).sum())
        for action in range(policy.shape[player]):
            deviating = 0.0
            for joint in product(*(range(size) for size in policy.shape)):
                changed = (*joint[:player], action, *joint[player + 1 :])
                deviating += policy[joint] * payoff[changed]
            gains.append(deviating - value)
    return gains


# --- the equilibrium -------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(2, 2, 2), (2, 3), (3, 2, 2), (2,), (1, 2, 2)]),
    st.sampled_from([1.0, 1e-3, 1e4]),
    st.booleans(),
)
def test_no_player_gains_by_a_fixed_action(seed: int, sizes: tuple[int, ...], scale: float, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    upper, lower = scale * rng.random((2, 3, len(sizes), *sizes))  # crossed bounds, too
    if ties:
        upper, lower = np.round(upper / scale * 2) * scale, np.round(lower / scale * 2) * scale
    policies = solve_joint_cce(upper, lower)
    assert policies.sum(axis=tuple(range(1, policies.ndim))) == pytest.approx(1.0)
    assert (policies >= 0.0).all()
    for policy, payoffs in zip(policies, upper, strict=True):
        assert max(deviation_gains(policy, payoffs)) <= 1e-8 * scale


def test_for_two_players_of_a_zero_sum_game_it_is_the_smallest_gap_equilibrium() -> None:
    rng = np.random.default_rng(0)
    lower = rng.random((20, 3, 2))
    upper = lower + rng.random((20, 3, 2))
    policy = solve_joint_cce(np.stack([upper, 4.0 - lower], axis=1), np.stack([lower, 4.0 - upper], axis=1))
    gap = (policy * (upper - lower)).sum(axis=(1, 2))
    np.testing.assert_allclose(gap, solve_cce(upper, lower).gap, atol=1e-9)


def test_unknown_payoffs_have_an_equilibrium_too() -> None:
    policy = solve_joint_cce(np.full((1, 3, 2, 2, 2), 3.0), np.zeros((1, 3, 2, 2, 2)))
    assert policy.sum() == pytest.approx(1.0)
    assert solve_joint_cce(np.zeros((1, 2, 2, 2)), np.zeros((1, 2, 2, 2))).sum() == pytest.approx(1.0)


# --- the exact gap ---------------------------------------------------------------------------------------------------


def test_the_gap_of_one_stage_is_the_largest_gain() -> None:
    rng = np.random.default_rng(1)
    rewards = rng.random((3, 1, 1, 2, 3, 2))
    game = GeneralSumGame(np.ones((1, 1, 2, 3, 2, 1)), rewards)
    policy = rng.dirichlet(np.ones(12), size=4).reshape(4, 1, 1, 2, 3, 2)
    expected = [max(deviation_gains(pi[0, 0], rewards[:, 0, 0])) for pi in policy]
    np.testing.assert_allclose(cce_gap(game, policy), expected)


def test_for_independent_policies_of_a_zero_sum_game_no_player_gains_more_than_the_exploitability() -> None:
    game = small_game((3, 2, 2, 3))
    rng = np.random.default_rng(2)
    mu, nu = rng.dirichlet(np.ones(2), size=(5, 3, 2)), rng.dirichlet(np.ones(3), size=(5, 3, 2))
    gap = cce_gap(GeneralSumGame.from_zero_sum(game), mu[..., :, None] * nu[..., None, :])
    both = exploitability(game, mu, nu)
    assert (gap <= both + 1e-12).all()
    assert (2 * gap >= both - 1e-12).all()  # the exploitability is the sum of both gains


def test_an_equilibrium_of_every_stage_has_no_gap() -> None:
    game = random_general_sum_game(2, 2, (2, 2, 2), rng=np.random.default_rng(3))
    values = np.zeros((3, 2))
    policy = np.zeros((1, 2, 2, 2, 2, 2))
    for h in (1, 0):
        q = game.rewards[:, h] + np.moveaxis(game.transitions[h] @ values.T, -1, 0)
        policy[0, h] = solve_joint_cce(np.moveaxis(q, 0, 1), np.moveaxis(q, 0, 1))
        values = (policy[0, h] * q).sum(axis=(2, 3, 4))
    assert cce_gap(game, policy) == pytest.approx(0.0, abs=1e-9)


# --- the learner -----------------------------------------------------------------------------------------------------


def test_two_players_of_a_zero_sum_game_have_the_tables_of_the_two_player_method() -> None:
    game = small_game((3, 2, 2, 3))
    shape, rules = game.rewards.shape, BoundRules(init="H-h")
    two, multi = MENashQL(shape, num_runs=2, rules=rules), MultiMENashQL(shape, num_runs=2, rules=rules)
    rng = np.random.default_rng(0)
    for h, s, a, b, reward, after in random_visits(game, num_runs=2, episodes=40):
        pi = rng.dirichlet(np.ones(6), size=2).reshape(2, 2, 3)
        two.update(h, s, a, b, reward, after, pi=pi)
        multi.update(h, s, np.stack([a, b]), np.stack([reward, 1.0 - reward]), after, pi=pi)
        if h == 2:
            two.end_episode()
            multi.end_episode()
    left = np.arange(3, -1, -1.0)[:, None]
    np.testing.assert_allclose(multi.bounds.q[:, 0], two.bounds.q[:, 0], atol=1e-9)
    np.testing.assert_allclose(multi.bounds.q[0, 1], left[:-1, :, None] - two.bounds.q[1, 0], atol=1e-9)
    np.testing.assert_allclose(multi.bounds.v_reference[1, 1], left - two.bounds.v_reference[0, 0], atol=1e-9)
    np.testing.assert_array_equal(multi.bounds.unsettled, two.bounds.unsettled)
    np.testing.assert_allclose(multi.best_gap, two.best_gap(), atol=1e-9)
    np.testing.assert_allclose(multi.output.sum(axis=-1), two.output().mu, atol=1e-9)


def test_three_players_learn_an_equilibrium_with_a_valid_certificate() -> None:
    game = random_general_sum_game(2, 2, (2, 2, 2), rng=np.random.default_rng(5))
    learner = MultiMENashQL(
        game.shape, num_runs=6, constants=BonusConstants.for_horizon(2), rules=BoundRules(init="H-h")
    )
    play = MultiSelfPlay(game, learner, rng=np.random.default_rng(0))
    untrained = cce_gap(game, learner.output)
    for _ in range(400):
        metrics = play.step()
    gap = cce_gap(game, learner.output)
    assert metrics["gap"] == pytest.approx(learner.gap().mean())
    assert gap.mean() < 0.3 * untrained.mean()
    assert (gap <= learner.best_gap + 1e-9).all()
    assert (learner.best_gap < 1.5).all()


def test_a_saved_general_sum_learner_goes_on_as_before() -> None:
    game = random_general_sum_game(2, 2, (2, 2, 2), rng=np.random.default_rng(5))
    whole, resumed = MultiMENashQL(game.shape, num_runs=2), MultiMENashQL(game.shape, num_runs=2)
    play = MultiSelfPlay(game, whole, rng=np.random.default_rng(0))
    for _ in range(5):
        play.step()
    again = MultiSelfPlay(game, resumed, rng=np.random.default_rng(1))
    again.load_state_dict(play.state_dict())
    play = MultiSelfPlay(game, whole, rng=np.random.default_rng(1))
    for _ in range(5):
        assert play.step() == again.step()
    for name, table in whole.tables().items():
        np.testing.assert_array_equal(table, resumed.tables()[name])
    assert (resumed.episodes, resumed.cce_solves) == (10, 20)


def test_healing_withdraws_the_certificate_of_the_general_sum_learner() -> None:
    learner = MultiMENashQL(
        (1, 1, 1, 1), constants=BonusConstants(c0=0.0, c1=0.0, c2=0.0), rules=BoundRules(self_healing=True)
    )
    zero = np.array([0])
    for reward in (0.5, 0.25):
        learner.update(0, zero, np.array([[0], [0]]), np.array([[0.5], [reward]]), zero)
        learner.end_episode()
    assert learner.best_gap.tolist() == [1.0]


# --- bad input -------------------------------------------------------------------------------------------------------


def test_general_sum_games_that_make_no_sense_are_refused() -> None:
    transitions, rewards = np.ones((1, 1, 2, 2, 1)), np.zeros((2, 1, 1, 2, 2))
    assert GeneralSumGame(transitions, rewards).shape == (1, 1, 2, 2)
    with pytest.raises(ValueError, match=r"rewards has shape \(3, 1, 1, 2, 2\), expected \(M, H, S, A_1 .. A_M\)"):
        GeneralSumGame(transitions, np.zeros((3, 1, 1, 2, 2)))
    with pytest.raises(ValueError, match=r"transitions has shape \(1, 1, 2, 2\), expected \(1, 1, 2, 2, 1\)"):
        GeneralSumGame(transitions[..., 0], rewards)
    with pytest.raises(ValueError, match="transitions holds rows that are no distribution"):
        GeneralSumGame(transitions * 0.9, rewards)
    with pytest.raises(ValueError, match=r"rewards range from 0.0 to 2.0, expected within \[0, 1\]"):
        GeneralSumGame(transitions, rewards + np.array([0.0, 2.0])[:, None, None, None, None])
    with pytest.raises(ValueError, match=r"start_state is 1, expected one of the states 0..0"):
        GeneralSumGame(transitions, rewards, start_state=1)


def test_rewards_of_any_player_outside_the_unit_interval_are_refused() -> None:
    zero = np.array([0])
    with pytest.raises(ValueError, match=r"step 0: rewards range from 0.5 to 1.5, expected within \[0, 1\]"):
        MultiMENashQL((1, 1, 1, 1)).update(0, zero, np.array([[0], [0]]), np.array([[0.5], [1.5]]), zero)


def test_impossible_visits_and_policies_of_the_general_sum_learner_are_refused() -> None:
    zero, learner, rewards = np.array([0]), MultiMENashQL((1, 1, 2, 2, 2)), np.full((3, 1), 0.5)
    with pytest.raises(ValueError, match=r"actions \[0\] and \[2\] and \[0\] or next states \[0\] are outside a game"):
        learner.update(0, zero, np.array([[0], [2], [0]]), rewards, zero)
    with pytest.raises(ValueError, match=r"next states \[-1\] are outside a game of shape \(1, 1, 2, 2, 2\)"):
        learner.update(0, zero, np.array([[0], [0], [0]]), rewards, zero - 1)
    with pytest.raises(ValueError, match=r"pi of run 0 sums to 0.8, smallest entry 0.1"):
        learner.update(0, zero, np.array([[0], [0], [0]]), rewards, zero, pi=np.full((1, 2, 2, 2), 0.1))
    assert not learner.bounds.visits.any()


def test_a_general_sum_learner_of_another_shape_is_refused() -> None:
    game = random_general_sum_game(2, 2, (2, 2), rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"the learner is for games of shape \(2, 2, 2, 3\)"):
        MultiSelfPlay(game, MultiMENashQL((2, 2, 2, 3)), rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"expected \(H, S, A_1 .. A_M\) and runs, all >= 1"):
        MultiMENashQL((2, 0, 2))
