from __future__ import annotations

import numpy as np
import pytest

from iclr_repro.me_nash_ql.cce import solve_cce
from iclr_repro.me_nash_ql.evaluation import evaluate
from iclr_repro.me_nash_ql.exact import exploitability, nash_value
from iclr_repro.me_nash_ql.games import MarkovGame
from iclr_repro.me_nash_ql.planning import EmpiricalModel, NashVI, PlugIn
from iclr_repro.me_nash_ql.self_play import SelfPlay
from nash_learners import random_visits, small_game

GAME = small_game((3, 2, 2, 3))


def test_the_empirical_model_counts_transitions_and_keeps_rewards() -> None:
    model = EmpiricalModel((1, 2, 1, 1), num_runs=1)
    for after in (0, 1, 1, 1):
        model.observe(np.array([0]), np.array([0.25]), np.array([after]))
    visits, frequencies, rewards = model.stage(0)
    assert visits.ravel().tolist() == [4, 0]
    assert frequencies[0, :, 0, 0].tolist() == [[0.25, 0.75], [0.0, 0.0]]
    assert rewards.ravel().tolist() == [0.25, 0.0]


def planned_by_hand(learner: NashVI, run: int, *, bonus: str, c: float, c2: float, c_gap: float) -> np.ndarray:
    """Values [2, H + 1, S] of one run by loops over its counts, init "H-h"."""
    horizon, num_states, num_max, num_min = learner.shape
    v = np.zeros((2, horizon + 1, num_states))
    for h in reversed(range(horizon)):
        for s in range(num_states):
            upper, lower = np.full((num_max, num_min), float(horizon - h)), np.zeros((num_max, num_min))
            for a, b in np.ndindex(num_max, num_min):
                counts = learner.model.counts[run, h, s, a, b]
                n = counts.sum()
                if n == 0:
                    continue
                p, r = counts / n, GAME.rewards[h, s, a, b]
                middle = v[:, h + 1].mean(axis=0)
                variance = horizon**2 if bonus == "hoeffding" else p @ (middle - p @ middle) ** 2
                width = (
                    c_gap / horizon * (p @ (v[0, h + 1] - v[1, h + 1]))
                    + c * np.sqrt(variance * 2.0 / n)
                    + c2 * horizon**2 * num_states * 2.0 / n
                )
                upper[a, b] = min(r + p @ v[0, h + 1] + width, horizon - h)
                lower[a, b] = max(r + p @ v[1, h + 1] - width, 0.0)
            solved = solve_cce(upper[None], lower[None])
            v[0, h, s], v[1, h, s] = solved.value_upper[0], solved.value_lower[0]
    return v


@pytest.mark.parametrize("bonus", ["hoeffding", "bernstein"])
def test_nash_vi_plans_as_its_definition_says(bonus: str) -> None:
    c, c2, c_gap = np.array([0.05, 0.1]), np.array([0.0, 0.02]), np.array([1.0, 0.5])
    learner = NashVI(
        GAME.rewards.shape, num_runs=2, c=c, c2=c2, c_gap=c_gap, iota=2.0, bonus=bonus, init="H-h", plan_every=60
    )
    for step, visit in enumerate(random_visits(GAME, num_runs=2, episodes=60), start=1):
        learner.update(*visit)
        if step % 3 == 0:
            learner.end_episode()
    for run in range(2):
        expected = planned_by_hand(learner, run, bonus=bonus, c=c[run], c2=c2[run], c_gap=c_gap[run])
        np.testing.assert_allclose(learner.v[:, run], expected, atol=1e-9)
    assert (learner.best_gap() == np.minimum(learner.gap(), 3.0)).all()


def test_nash_vi_plans_every_so_many_episodes_and_counts_h_times_s_equilibria() -> None:
    learner = NashVI(GAME.rewards.shape, plan_every=3)
    play = SelfPlay(GAME, learner, rng=np.random.default_rng(0))
    solved = []
    for _ in range(7):
        play.step()
        solved.append(learner.cce_solves)
    assert solved == [0, 0, 6, 6, 6, 12, 12]


def test_nash_vi_learns_with_a_valid_certificate() -> None:
    game = small_game()
    learner = NashVI(game.rewards.shape, num_runs=6, c=0.2, c2=0.0, init="H-h", plan_every=5)
    play = SelfPlay(game, learner, rng=np.random.default_rng(0))
    for _ in range(300):
        play.step()
    result = evaluate(learner, game, nash_value(game))
    assert np.median(result.output) < 0.1
    assert result.optimism_ok.all()
    assert result.certificate_ok.all()


def test_plug_in_solves_the_model_it_has_seen_exactly() -> None:
    learner = PlugIn(GAME.rewards.shape, num_runs=2, plan_every=50)
    for step, visit in enumerate(random_visits(GAME, num_runs=2, episodes=50), start=1):
        learner.update(*visit)
        if step % 3 == 0:
            learner.end_episode()
    policies = learner.output()
    for run in range(2):
        counts = learner.model.counts[run]
        visits = counts.sum(axis=-1, keepdims=True)
        transitions = np.where(visits > 0, counts / np.maximum(visits, 1), 0.5)
        model = MarkovGame(transitions, np.where(visits[..., 0] > 0, GAME.rewards, 0.5))
        np.testing.assert_allclose(learner.v[run], nash_value(model).values, atol=1e-9)
        assert exploitability(model, policies.mu[run], policies.nu[run]) == pytest.approx(0.0, abs=1e-9)


def test_plug_in_explores_uniformly_and_certifies_nothing() -> None:
    learner = PlugIn(GAME.rewards.shape, num_runs=3)
    SelfPlay(GAME, learner, rng=np.random.default_rng(0)).step()
    assert (learner.play_policy(0, np.zeros(3, dtype=np.int64)) == 1 / 6).all()
    assert learner.best_gap().tolist() == [3.0] * 3
    assert learner.gap().tolist() == [0.0] * 3  # an estimate, no bound
    assert learner.cce_solves == 6


def test_an_unknown_bonus_is_refused() -> None:
    with pytest.raises(ValueError, match="bonus is 'none', expected 'hoeffding' or 'bernstein'"):
        NashVI(GAME.rewards.shape, bonus="none")


@pytest.mark.parametrize("learner", [NashVI, PlugIn])
def test_planning_less_than_every_episode_is_refused(learner: type[NashVI] | type[PlugIn]) -> None:
    with pytest.raises(ValueError, match="plan_every is 0, expected >= 1 episodes"):
        learner(GAME.rewards.shape, plan_every=0)
