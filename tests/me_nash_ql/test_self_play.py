from __future__ import annotations

import numpy as np
import pytest

from iclr_repro.me_nash_ql.baselines import NashQ, VLearning
from iclr_repro.me_nash_ql.builders import matching_pennies
from iclr_repro.me_nash_ql.games import MarkovGame
from iclr_repro.me_nash_ql.learner import MENashQL
from iclr_repro.me_nash_ql.self_play import MarkovPolicies, MinGapOutput, SelfPlay, draw, restore
from nash_learners import random_visits, small_game


def test_the_documented_example_of_drawing() -> None:
    rows = np.array([[0.2, 0.8], [0.2, 0.8]])
    assert draw(rows, np.array([0.1, 0.2])).tolist() == [0, 1]


def test_drawing_never_leaves_the_row_and_never_takes_what_has_no_probability() -> None:
    largest = np.nextafter(1.0, 0.0)
    assert draw(np.full((1, 3), 0.1), np.array([largest])).tolist() == [2]  # rows of rounding error, too
    assert draw(np.array([[0.0, 1.0, 0.0]]), np.array([0.0])).tolist() == [1]
    assert draw(np.array([[0.0, 1.0, 0.0]]), np.array([largest])).tolist() == [1]


def test_draws_have_the_frequencies_of_the_row() -> None:
    row = np.array([0.1, 0.6, 0.3])
    draws = draw(np.tile(row, (20_000, 1)), np.random.default_rng(0).random(20_000))
    np.testing.assert_allclose(np.bincount(draws) / 20_000, row, atol=0.015)


def test_marginals_are_sums_over_the_other_player() -> None:
    joint = np.zeros((1, 1, 1, 2, 3))
    joint[0, 0, 0] = [[0.1, 0.2, 0.0], [0.3, 0.0, 0.4]]
    policies = MarkovPolicies.marginals(joint)
    assert policies.mu.ravel().tolist() == pytest.approx([0.3, 0.7])
    assert policies.nu.ravel().tolist() == pytest.approx([0.4, 0.2, 0.4])


def test_the_output_is_that_of_the_smallest_gap_in_each_run() -> None:
    output = MinGapOutput((1, 1, 2, 2), num_runs=2)
    policies = [np.zeros((2, 1, 1, 2, 2)) for _ in range(3)]
    for index, policy in enumerate(policies):
        policy[:, 0, 0, index % 2, index // 2] = 1.0
    for gap, policy in zip(([0.5, 0.9], [0.6, 0.4], [0.5, -0.1]), policies, strict=True):
        output.offer(np.array(gap), policy)
    assert output.gap.tolist() == [0.5, -0.1]
    assert output.policies.mu[:, 0, 0, 0].tolist() == [1.0, 1.0]  # of the first and of the third
    assert output.policies.nu[:, 0, 0, 0].tolist() == [1.0, 0.0]


def test_a_withdrawn_certificate_is_the_trivial_one_and_the_policies_stay() -> None:
    output = MinGapOutput((3, 1, 2, 2), num_runs=2)
    policy = np.zeros((2, 3, 1, 2, 2))
    policy[..., 0, 0] = 1.0
    output.offer(np.array([0.5, 0.5]), policy)
    output.withdraw(np.array([True, False]))
    assert output.gap.tolist() == [3.0, 0.5]
    assert (output.policies.mu[..., 0] == 1.0).all()


def test_an_episode_starts_at_the_start_state_and_follows_the_transitions() -> None:
    transitions = np.zeros((3, 3, 1, 1, 3))
    transitions[:, [0, 1, 2], 0, 0, [1, 2, 0]] = 1.0  # a cycle
    game = MarkovGame(transitions, np.array([0.5, 0.25, 1.0])[None, :, None, None].repeat(3, axis=0), start_state=1)
    learner = MENashQL(game.rewards.shape, num_runs=2, start_state=1)
    metrics = SelfPlay(game, learner, rng=np.random.default_rng(0)).step()
    visited = [np.argwhere(learner.bounds.visits[:, h, :, 0])[:, 1].tolist() for h in range(3)]
    assert visited == [[1, 1], [2, 2], [0, 0]]
    assert metrics["reward"] == 1.75
    assert metrics["gap"] == pytest.approx(learner.gap().mean())
    assert learner.episodes == 1


def test_actions_are_drawn_jointly_not_from_the_marginals() -> None:
    game = matching_pennies(1)
    learner = NashQ(game.rewards.shape, num_runs=500)
    learner.policy[:] = [[0.5, 0.0], [0.0, 0.5]]
    SelfPlay(game, learner, rng=np.random.default_rng(0)).step()
    seen = learner.visits[:, 0, 0].sum(axis=0)
    assert (seen[0, 1], seen[1, 0]) == (0, 0)
    assert 200 < seen[0, 0] < 300


def test_a_learner_of_another_shape_or_start_is_refused() -> None:
    game = small_game()
    message = (
        r"the learner is for games of shape \(3, 3, 2, 2\) that start in state 0, the game has shape \(3, 2, 2, 2\)"
    )
    with pytest.raises(ValueError, match=message):
        SelfPlay(game, MENashQL((3, 3, 2, 2)), rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="that start in state 1, the game"):
        SelfPlay(game, MENashQL(game.rewards.shape, start_state=1), rng=np.random.default_rng(0))


def test_a_state_of_another_learner_is_refused_with_both_sides() -> None:
    with pytest.raises(ValueError, match=r"it has \{'a': \(2,\)\}, this one \{'b': \(2,\)\}"):
        restore({"b": np.zeros(2)}, {"a": np.zeros(2)})
    game = small_game()
    with pytest.raises(ValueError, match="the saved state is of another learner or another shape"):
        MENashQL(game.rewards.shape).load_state_dict(MENashQL(game.rewards.shape, num_runs=2).state_dict())


def test_a_state_without_the_history_that_is_needed_is_refused() -> None:
    with_it, without = (VLearning((1, 1, 2, 2), keep_history=keep) for keep in (True, False))
    with pytest.raises(ValueError, match="the saved state has no history, this learner needs one"):
        with_it.load_state_dict(without.state_dict())
    with pytest.raises(ValueError, match="the saved state has a history, this learner none: create it with the same"):
        without.load_state_dict(with_it.state_dict())


def test_a_saved_state_does_not_change_with_the_learner() -> None:
    game = small_game()
    learner = MENashQL(game.rewards.shape)
    state = learner.state_dict()
    for visit in random_visits(game, num_runs=1, episodes=3):
        learner.update(*visit)
    assert not state["tables"]["visits"].any()
    learner.load_state_dict(state)
    assert not learner.bounds.visits.any()
