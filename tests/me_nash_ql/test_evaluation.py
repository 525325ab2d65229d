from __future__ import annotations

import numpy as np
import pytest

from iclr_repro.me_nash_ql.baselines import NashQ
from iclr_repro.me_nash_ql.builders import matching_pennies
from iclr_repro.me_nash_ql.evaluation import evaluate
from iclr_repro.me_nash_ql.exact import nash_value
from iclr_repro.me_nash_ql.learner import MENashQL
from nash_learners import random_visits, small_game


def test_evaluation_of_an_untrained_learner_is_that_of_uniform_play() -> None:
    game = matching_pennies(2, weights=[1.0, 0.5])
    result = evaluate(MENashQL(game.rewards.shape, num_runs=3), game, nash_value(game))
    assert result.current.tolist() == result.output.tolist() == pytest.approx([0.0] * 3)  # uniform is the equilibrium
    assert result.gap.tolist() == result.best_gap.tolist() == [2.0] * 3
    assert result.optimism_ok.all()
    assert result.certificate_ok.all()
    assert result.optimism_frac.tolist() == [1.0] * 3


def test_wrong_bounds_and_a_wrong_certificate_are_flagged() -> None:
    game = matching_pennies(2)  # V* = 1, 0.5
    learner = NashQ(game.rewards.shape, num_runs=3, init="H-h")
    learner.v[0, 0, 1] = 0.4  # run 0: an upper bound off the start is too low
    learner.v[1, 1, 0] = 1.1  # run 1: the lower bound at the start is too high
    learner.policy[2, :, :] = [[1.0, 0.0], [0.0, 0.0]]  # run 2: an exploitable policy with a gap of 0
    learner.v[:, 2, 0] = 1.0
    learner.end_episode()
    result = evaluate(learner, game, nash_value(game))
    assert result.optimism_ok.tolist() == [True, False, True]
    assert result.optimism_frac.tolist() == [0.5, 0.5, 1.0]
    assert result.certificate_ok.tolist() == [True, True, False]
    assert (result.output[2], result.best_gap[2]) == (pytest.approx(2.0), 0.0)


def test_evaluating_leaves_the_learner_as_it_is() -> None:
    game = small_game()
    learner = MENashQL(game.rewards.shape, num_runs=2)
    for visit in random_visits(game, num_runs=2, episodes=5):
        learner.update(*visit)
    before = learner.state_dict()["tables"]
    evaluate(learner, game, nash_value(game)).best_gap[:] = -1.0
    for name, table in learner.tables().items():
        np.testing.assert_array_equal(table, before[name])
