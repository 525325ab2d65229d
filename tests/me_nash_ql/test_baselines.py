from __future__ import annotations

import numpy as np
import pytest

from iclr_repro.me_nash_ql.baselines import NashQ, VLearning
from iclr_repro.me_nash_ql.builders import matrix_game
from iclr_repro.me_nash_ql.cce import cce_violation
from iclr_repro.me_nash_ql.evaluation import evaluate
from iclr_repro.me_nash_ql.exact import nash_value
from iclr_repro.me_nash_ql.self_play import SelfPlay, SelfPlayLearner
from nash_learners import random_visits, small_game

ZERO = np.array([0])


def visit(learner: SelfPlayLearner, reward: float, *, h: int = 0, a: int = 0, b: int = 0) -> None:
    learner.update(h, ZERO, np.array([a]), np.array([b]), np.array([reward]), ZERO)


# --- Nash-Q ----------------------------------------------------------------------------------------------------------


def test_nash_q_averages_targets_with_the_learning_rate_and_clips() -> None:
    learner = NashQ((1, 1, 1, 1), c=0.3)
    visit(learner, 0.5)  # 0.5 + 0.3 and 0.5 - 0.3
    assert learner.q.ravel().tolist() == pytest.approx([0.8, 0.2])
    visit(learner, 0.9)  # eta = 2 / 3, bonus 0.3 / sqrt 2
    bonus = 0.3 / np.sqrt(2.0)
    upper, lower = (0.8 + 2 * (0.9 + bonus)) / 3, (0.2 + 2 * (0.9 - bonus)) / 3
    assert learner.q.ravel().tolist() == pytest.approx([min(upper, 1.0), lower])
    visit(learner, 0.0)
    assert learner.q[1].ravel().tolist() == pytest.approx([lower / 2 + (0.0 - 0.3 / np.sqrt(3.0)) / 2])


def test_nash_q_bounds_can_widen_again_unlike_those_of_the_paper() -> None:
    learner = NashQ((1, 1, 1, 1), c=0.0)
    visit(learner, 0.2)
    visit(learner, 0.8)
    assert learner.q.ravel().tolist() == pytest.approx([0.6, 0.6])


def test_nash_q_looks_one_step_ahead_and_tops_what_is_left() -> None:
    learner = NashQ((3, 1, 1, 1), c=0.0, init="H-h")
    assert learner.v[0, 0, :, 0].tolist() == [3.0, 2.0, 1.0, 0.0]
    visit(learner, 0.5, h=2)
    visit(learner, 0.5, h=1)
    assert learner.v[:, 0, 1, 0].tolist() == pytest.approx([1.0, 1.0])
    visit(learner, 1.0, h=0)
    assert learner.v[:, 0, 0, 0].tolist() == pytest.approx([2.0, 2.0])


def test_nash_q_plays_an_equilibrium_of_its_bounds_or_uniformly() -> None:
    game = small_game()
    optimistic, uniform = (NashQ(game.rewards.shape, num_runs=3, explore=how) for how in ("optimistic", "uniform"))
    for h, s, *rest in random_visits(game, num_runs=3, episodes=20):
        for learner in (optimistic, uniform):
            learner.update(h, s, *rest)
        upper, lower = optimistic.q[:, np.arange(3), h, s]
        assert cce_violation(optimistic.play_policy(h, s), upper, lower).max() <= 1e-8
        assert (uniform.play_policy(h, s) == 0.25).all()
    np.testing.assert_array_equal(optimistic.policy, uniform.policy)


def test_nash_q_learns_with_a_valid_certificate() -> None:
    game = small_game()
    learner = NashQ(game.rewards.shape, num_runs=6, c=0.2, init="H-h")
    play = SelfPlay(game, learner, rng=np.random.default_rng(0))
    for _ in range(300):
        play.step()
    result = evaluate(learner, game, nash_value(game))
    assert np.median(result.output) < 0.1
    assert result.optimism_ok.all()
    assert result.certificate_ok.all()
    assert (learner.cce_solves, learner.episodes) == (900, 300)


# --- V-learning ------------------------------------------------------------------------------------------------------


def test_v_learning_follows_its_definition_over_two_visits() -> None:
    learner = VLearning((2, 1, 2, 3), c=0.1)
    visit(learner, 0.5, a=1, b=2)
    mu, nu = learner.mu[0, 0, 0], learner.nu[0, 0, 0]
    # first visit: eta = 1, V1(s') = 1, V2(s') = 0
    assert learner.v[:, 0, 0, 0].tolist() == pytest.approx(
        [min(0.5 + 1.0 + 0.1 * np.sqrt(8 * 2), 2.0), 0.5 - 0.1 * np.sqrt(8 * 3)]
    )
    rate_max, rate_min = np.sqrt(2 * np.log(2) / 2), np.sqrt(2 * np.log(3) / 3)
    loss_max = np.array([0.0, (2.0 - 0.5 - 1.0) / 2 / (1 / 2 + rate_max)])
    loss_min = np.array([0.0, 0.0, (0.5 + 0.0) / 2 / (1 / 3 + rate_min)])
    expected_mu, expected_nu = np.exp(-rate_max * loss_max), np.exp(-rate_min * loss_min)
    np.testing.assert_allclose(mu, expected_mu / expected_mu.sum())
    np.testing.assert_allclose(nu, expected_nu / expected_nu.sum())

    played = mu[0]
    visit(learner, 1.0, a=0, b=0)
    rate, eta = np.sqrt(2 * np.log(2) / (2 * 2)), 3 / 4
    loss_max = (1 - eta) * loss_max
    loss_max[0] += eta * (2.0 - 1.0 - 1.0) / 2 / (played + rate)
    expected_mu = np.exp(-rate / eta * loss_max)
    np.testing.assert_allclose(learner.mu[0, 0, 0], expected_mu / expected_mu.sum())


def test_v_learning_averages_the_unclipped_value() -> None:
    learner = VLearning((1, 1, 1, 1), c=2.0)
    visit(learner, 0.0)  # 0 + 2, clipped to 1; 0 - 2, clipped to 0
    assert learner.v[:, 0, 0, 0].tolist() == [1.0, 0.0]
    for _ in range(200):
        visit(learner, 0.0)
    unclipped = sum(2.0 * weight / np.sqrt(n) for n, weight in enumerate(rate_weights(201, 1), start=1))
    assert learner.v[0, 0, 0, 0] == pytest.approx(unclipped)


def rate_weights(n: int, horizon: int) -> np.ndarray:
    eta = (horizon + 1) / (horizon + np.arange(1, n + 1))
    return np.array([eta[i] * np.prod(1 - eta[i + 1 :]) for i in range(n)])


def test_v_learning_plays_independently_and_certifies_no_markov_policy() -> None:
    game = small_game()
    learner = VLearning(game.rewards.shape, num_runs=2)
    for step in random_visits(game, num_runs=2, episodes=10):
        learner.update(*step)
    policy = learner.play_policy(0, np.array([0, 1]))
    np.testing.assert_allclose(policy, policy.sum(axis=2)[:, :, None] * policy.sum(axis=1)[:, None])
    assert learner.best_gap().tolist() == [3.0, 3.0]
    assert learner.cce_solves == 0


def test_v_learning_finds_the_better_action_of_each_player() -> None:
    game = matrix_game(np.array([[1.0, 0.5], [0.5, 0.0]]))
    learner = VLearning(game.rewards.shape, num_runs=6, c=0.1)
    play = SelfPlay(game, learner, rng=np.random.default_rng(0))
    for _ in range(400):
        play.step()
    assert (learner.mu[:, 0, 0, 0] > 0.7).all()
    assert (learner.nu[:, 0, 0, 1] > 0.7).all()


# --- bad input -------------------------------------------------------------------------------------------------------


def test_an_unknown_way_to_explore_is_refused() -> None:
    with pytest.raises(ValueError, match="explore is 'greedy', expected 'optimistic' or 'uniform'"):
        NashQ((1, 1, 1, 1), explore="greedy")


def test_an_unknown_initial_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="init is 'h', expected one of H, H-h"):
        NashQ((1, 1, 1, 1), init="h")


@pytest.mark.parametrize("learner", [NashQ, VLearning])
def test_constants_of_the_wrong_length_are_refused(learner: type[NashQ] | type[VLearning]) -> None:
    with pytest.raises(ValueError, match=r"c has shape \(2,\), expected one number or one for each of 3 runs"):
        learner((1, 1, 1, 1), num_runs=3, c=np.array([0.1, 0.2]))


@pytest.mark.parametrize("learner", [NashQ, VLearning])
def test_rewards_outside_the_unit_interval_are_refused(learner: type[NashQ] | type[VLearning]) -> None:
    with pytest.raises(ValueError, match=r"rewards range from -0.5 to -0.5, expected within \[0, 1\]"):
        visit(learner((1, 1, 1, 1)), -0.5)
