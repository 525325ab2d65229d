from __future__ import annotations

import numpy as np
import pytest

from iclr_repro.me_nash_ql import invariants
from iclr_repro.me_nash_ql.bounds import BoundRules
from iclr_repro.me_nash_ql.exact import nash_value
from iclr_repro.me_nash_ql.games import MarkovGame
from iclr_repro.me_nash_ql.invariants import (
    learning_rate_violations,
    optimistic_runs,
    telescoping_violation,
    violations_along_a_run,
    zero_sum_violations,
)
from iclr_repro.me_nash_ql.learner import MENashQL
from nash_learners import small_game

GAME = small_game((3, 3, 2, 3))


def along_a_run() -> dict[str, float]:
    learner = MENashQL(GAME.rewards.shape, num_runs=4, rules=BoundRules(init="H-h"))
    return violations_along_a_run(GAME, learner, episodes=60, rng=np.random.default_rng(0))


@pytest.mark.parametrize("horizon", [1, 3, 10])
def test_the_identities_of_the_learning_rate_hold_up_to_rounding(horizon: int) -> None:
    assert max(learning_rate_violations(horizon, 200).values()) <= 1e-12


def test_another_learning_rate_is_seen_to_violate_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invariants, "learning_rate", lambda n, horizon: 1.0 / np.sqrt(n))
    found = learning_rate_violations(3, 200)
    assert found["sum"] <= 1e-12, "any weights of a running average add up"
    assert found["series"] > 0.1
    assert found["squares"] > 0.005


def test_bonuses_telescope_and_a_wrong_bonus_is_seen_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    assert telescoping_violation(4, 100, rng=np.random.default_rng(0)) <= 1e-12
    monkeypatch.setattr(invariants, "advantage_bonus", lambda before, after, n, **_: after.bonus)
    assert telescoping_violation(4, 100, rng=np.random.default_rng(0)) > 1e-3


def test_equilibria_of_zero_sum_games_are_nash() -> None:
    found = zero_sum_violations(50, 3, rng=np.random.default_rng(0))
    assert max(found.values()) <= 1e-9


def test_all_identities_hold_along_a_run() -> None:
    found = along_a_run()
    assert found.pop("i7_frac") > 0.5
    assert found.pop("i7_certificate") <= 1e-9
    assert max(found.values()) <= 1e-9


class _Broken(MENashQL):
    """Does one thing wrong after every update."""

    fault = ""

    def update(self, h, s, a, b, reward, next_state, pi=None):  # type: ignore[no-untyped-def]
        super().update(h, s, a, b, reward, next_state, pi)
        runs = np.arange(self.num_runs)
        if self.fault == "i3":
            self.bounds.q[0, 0, :, h, :, 0] += 0.01
        elif self.fault == "i4":
            self.bounds.visits[:, h, 0, 0] += 1
        elif self.fault == "i5":
            self.policy[runs, h, s] = 0.0
            self.policy[runs, h, s, -1, -1] = 1.0
        elif self.fault == "i6":
            self.bounds.v[0, 0, runs, h, s] += 0.1
        elif self.fault == "i8":
            self.bounds.unsettled[...] = ~self.bounds.unsettled
        elif self.fault == "i10":
            self.bounds.moments[0] += 5.0
        elif self.fault == "i10_variance":
            self.bounds.moments[1] -= 9.0


@pytest.mark.parametrize("fault", ["i3", "i4", "i5", "i6", "i8", "i10", "i10_variance"])
def test_what_breaks_an_identity_shows_under_its_name(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Broken, "fault", fault)
    learner = _Broken(GAME.rewards.shape, num_runs=2, rules=BoundRules(init="H-h"))
    assert violations_along_a_run(GAME, learner, episodes=30, rng=np.random.default_rng(0))[fault] > 1e-3


def test_the_good_event_needs_every_bound() -> None:
    game: MarkovGame = GAME
    learner = MENashQL(game.rewards.shape, num_runs=3)
    exact = nash_value(game).action_values
    assert optimistic_runs(learner, exact).tolist() == [True, True, True]
    learner.bounds.q[0, 0, 1, 2, 1, 0] = exact[2, 1, 0, 0] - 0.01
    learner.bounds.q[1, 0, 2, 0, 0, 3] = exact[0, 0, 1, 0] + 0.01
    assert optimistic_runs(learner, exact).tolist() == [True, False, False]
