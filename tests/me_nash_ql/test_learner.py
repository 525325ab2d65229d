from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iclr_repro.core.loop import Learner, Loop
from iclr_repro.core.metriclog import MetricLog
from iclr_repro.core.seeding import RandomStreams
from iclr_repro.core.tracking import NoTracker
from iclr_repro.me_nash_ql.bonuses import BonusConstants
from iclr_repro.me_nash_ql.bounds import EVENTS, REFERENCE_RULES, BoundRules
from iclr_repro.me_nash_ql.cce import cce_violation
from iclr_repro.me_nash_ql.evaluation import evaluate
from iclr_repro.me_nash_ql.exact import nash_value
from iclr_repro.me_nash_ql.learner import MENashQL
from iclr_repro.me_nash_ql.self_play import SelfPlay
from nash_learners import cases, random_visits, replayed_trace, small_game
from support import golden_dir


def events(learner: MENashQL, name: str) -> np.ndarray:
    return learner.bounds.events[EVENTS.index(name)]


# --- against the recorded runs ---------------------------------------------------------------------------------------


def test_recorded_runs_replay_step_by_step_and_end_in_the_recorded_tables() -> None:
    for prefix, file in cases(golden_dir("me_nash_ql"), "trace*.npz", "log"):
        learner, rows = replayed_trace(prefix, file)
        np.testing.assert_allclose(rows, file[f"{prefix}_log"][:, 7:], rtol=0, atol=1e-9)
        shape, bounds = learner.shape, learner.bounds
        for name, table in (
            ("Qu", bounds.q[0]),
            ("Ql", bounds.q[1]),
            ("Qucb", bounds.q_hoeffding[0]),
            ("Qlcb", bounds.q_hoeffding[1]),
            ("QRu", bounds.q_reference[0]),
            ("QRl", bounds.q_reference[1]),
            ("N", bounds.visits),
        ):
            expected = file[f"{prefix}_final_{name}"]
            np.testing.assert_allclose(table.reshape(shape), expected, rtol=0, atol=1e-9, err_msg=f"{prefix} {name}")
        for name, values in (("Vu", bounds.v[0]), ("Vl", bounds.v[1])):
            np.testing.assert_allclose(values[0, 0], file[f"{prefix}_final_{name}"], rtol=0, atol=1e-9)
        for name, values in (("Ru", bounds.v_reference[0]), ("Rl", bounds.v_reference[1])):
            np.testing.assert_allclose(values[0, 0], file[f"{prefix}_final_{name}"], rtol=0, atol=1e-9)
        np.testing.assert_array_equal(bounds.unsettled[0], file[f"{prefix}_final_uref"])
        for index, name in enumerate(("mr", "sr", "ma", "sa", "B")):
            moments = bounds.moments[index].reshape(2, *shape)
            np.testing.assert_allclose(moments, file[f"{prefix}_final_mom_{name}"], rtol=0, atol=1e-9)


# --- the tables ------------------------------------------------------------------------------------------------------


def first_visit(init: str) -> MENashQL:
    """One step at h = 0 of a game with H = 2, S = A = B = 1 and reward 1/4."""
    learner = MENashQL((2, 1, 1, 1), constants=BonusConstants(c0=0.5, c1=1.0, c2=0.1), rules=BoundRules(init=init))
    zero = np.array([0])
    learner.update(0, zero, zero, zero, np.array([0.25]), zero)
    return learner


@pytest.mark.parametrize(("init", "next_upper"), [("H", 2.0), ("H-h", 1.0)])
def test_the_first_visit_forgets_the_initial_value_and_adds_both_bonuses(init: str, next_upper: float) -> None:
    bounds = first_visit(init).bounds
    hoeffding, lower_order = 0.5 * np.sqrt(2.0**3), 0.1 * 2**2
    target = 0.25 + next_upper
    assert bounds.q_hoeffding[:, 0, 0, 0, 0, 0].tolist() == pytest.approx([target + hoeffding, 0.25 - hoeffding])
    assert bounds.q_reference[:, 0, 0, 0, 0, 0].tolist() == pytest.approx([target + lower_order, 0.25 - lower_order])


def test_initial_bounds_are_h_or_the_steps_that_are_left() -> None:
    assert MENashQL((3, 1, 1, 1)).bounds.v[0, 0, 0, :, 0].tolist() == [3.0, 3.0, 3.0, 0.0]
    assert MENashQL((3, 1, 1, 1), rules=BoundRules(init="H-h")).bounds.v[0, 0, 0, :, 0].tolist() == [3.0, 2.0, 1.0, 0.0]


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 3, 1, 2), (3, 1, 2, 1)])
def test_degenerate_sizes_are_learned(shape: tuple[int, int, int, int]) -> None:
    game = small_game(shape)
    learner = MENashQL(shape, num_runs=2, constants=BonusConstants(c0=0.1, c2=0.1))
    play = SelfPlay(game, learner, rng=np.random.default_rng(0))
    for _ in range(60):
        play.step()
    assert (learner.gap() < 0.75 * shape[0]).all()


def test_bounds_only_tighten_and_visits_add_up_and_every_policy_is_an_equilibrium() -> None:
    game = small_game()
    learner = MENashQL(game.rewards.shape, num_runs=3)
    before = learner.bounds.q.copy()
    was_unsettled = learner.bounds.unsettled.copy()
    for step, (h, s, *visit) in enumerate(random_visits(game, num_runs=3, episodes=40)):
        learner.update(h, s, *visit)
        runs, (upper, lower) = np.arange(3), learner.bounds.q[:, 0]
        games = (table[runs, h, s].reshape(3, 2, 2) for table in (upper, lower))
        assert cce_violation(learner.policy[runs, h, s], *games).max() <= 1e-8
        assert (learner.bounds.q[0] <= before[0]).all()
        assert (learner.bounds.q[1] >= before[1]).all()
        assert not (learner.bounds.unsettled & ~was_unsettled).any()
        before, was_unsettled = learner.bounds.q.copy(), learner.bounds.unsettled.copy()
        if h == 2:
            assert (learner.bounds.visits.sum(axis=(2, 3)) == step // 3 + 1).all()


def test_values_lie_between_the_bounds_of_their_state_and_apart_while_the_bounds_are() -> None:
    game = small_game()
    learner = MENashQL(game.rewards.shape, num_runs=3)
    for visit in random_visits(game, num_runs=3, episodes=40):
        learner.update(*visit)
    upper, lower = learner.bounds.q[:, 0]
    assert (upper >= lower).all()
    assert (learner.bounds.v[0, 0, :, :-1] >= learner.bounds.v[1, 0, :, :-1]).all()
    assert (learner.bounds.v[0, 0, :, :-1] <= upper.max(axis=-1)).all()


def test_runs_beside_each_other_are_those_of_separate_learners_with_their_constants() -> None:
    game, num_runs = small_game(), 3
    c0, c1, c2 = np.array([0.2, 0.1, 0.3]), np.array([1.0, 0.5, 2.0]), np.array([0.1, 0.3, 0.2])
    together = MENashQL(game.rewards.shape, num_runs=num_runs, constants=BonusConstants(c0=c0, c1=c1, c2=c2))
    alone = [
        MENashQL(game.rewards.shape, constants=BonusConstants(c0=c0[run], c1=c1[run], c2=c2[run]))
        for run in range(num_runs)
    ]
    for h, *visit in random_visits(game, num_runs=num_runs, episodes=30):
        together.update(h, *visit)
        for run, learner in enumerate(alone):
            learner.update(h, *(values[run : run + 1] for values in visit))
    for run, learner in enumerate(alone):
        np.testing.assert_array_equal(together.policy[run], learner.policy[0])
        np.testing.assert_array_equal(together.bounds.v[:, :, run], learner.bounds.v[:, :, 0])
        np.testing.assert_array_equal(together.bounds.moments[:, :, :, run], learner.bounds.moments[:, :, :, 0])


def test_a_huge_lower_order_bonus_switches_the_reference_estimates_off() -> None:
    game = small_game()
    learner = MENashQL(game.rewards.shape, constants=BonusConstants(c2=1e6))
    smallest = learner.bounds.q_hoeffding.copy()
    for visit in random_visits(game, num_runs=1, episodes=40):
        learner.update(*visit)
        smallest[0] = np.minimum(smallest[0], learner.bounds.q_hoeffding[0])
        smallest[1] = np.maximum(smallest[1], learner.bounds.q_hoeffding[1])
    np.testing.assert_array_equal(learner.bounds.q, smallest)


# --- references ------------------------------------------------------------------------------------------------------


def references(rule: str, *, settle_gap: float = 1.0) -> tuple[MENashQL, list[list[float]]]:
    """A learner with H = S = 1 and fixed bounds whose policy moves; the references after each of four policies."""
    learner = MENashQL((1, 1, 2, 2), rules=BoundRules(reference=rule, settle_gap=settle_gap))
    learner.bounds.q[0] = [3.0, 1.5, 2.5, 2.0]
    learner.bounds.q[1] = [1.0, 1.0, 1.5, 0.5]
    seen = []
    for action in (0, 1, 3, 2):  # values (3, 1), gap 2; (1.5, 1), gap 0.5; (2, 0.5), gap 1.5; (2.5, 1.5), gap 1
        learner.bounds.settle(0, np.array([0]), np.eye(4)[None, action])
        seen.append(learner.bounds.v_reference[:, 0, 0, 0, 0].tolist())
    return learner, seen


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("text", [[3.0, 1.0], [1.5, 1.0], [2.0, 0.5], [2.0, 0.5]]),  # settles at the second, moves all the same
        ("mono", [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]),  # the initial reference is H = 1
        ("freeze", [[3.0, 1.0], [1.5, 1.0], [1.5, 1.0], [1.5, 1.0]]),
        ("follow", [[3.0, 1.0], [1.5, 1.0], [2.0, 0.5], [2.5, 1.5]]),
        ("never", [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]),
    ],
)
def test_each_reference_rule_follows_its_definition(rule: str, expected: list[list[float]]) -> None:
    learner, seen = references(rule)
    assert seen == expected
    assert not learner.bounds.unsettled.any()


def test_a_monotone_reference_falls_with_the_value_and_does_not_rise_again() -> None:
    learner = MENashQL((1, 1, 2, 2), rules=BoundRules(reference="mono"))
    learner.bounds.q[0], learner.bounds.q[1] = [0.8, 0.5, 0.7, 0.9], [-0.4, 0.1, -0.9, 0.3]
    seen = []
    for action in (0, 2, 1, 3):  # gaps 1.2, 1.6, 0.4, 0.6
        learner.bounds.settle(0, np.array([0]), np.eye(4)[None, action])
        seen.append(learner.bounds.v_reference[:, 0, 0, 0, 0].tolist())
    assert seen == [[0.8, 0.0], [0.7, 0.0], [0.5, 0.1], [0.5, 0.1]]


def test_the_literal_rule_counts_what_a_monotone_theory_would_not_expect() -> None:
    learner, _ = references("text")
    assert events(learner, "value_moved_back").tolist() == [3]  # 1 -> 3, 1.5 -> 2 with 1 -> 0.5, 2 -> 2.5
    assert events(learner, "reference_updates").tolist() == [3]
    assert events(learner, "reference_moved_back").tolist() == [2]  # 1 -> 3 and 1.5 -> 2
    assert events(learner, "reference_after_settling").tolist() == [1]


def test_the_threshold_of_settling_is_an_option() -> None:
    learner, seen = references("freeze", settle_gap=0.4)
    assert learner.bounds.unsettled.all()
    assert seen[-1] == [2.5, 1.5]


def test_monotone_values_never_move_back() -> None:
    learner = MENashQL((1, 1, 2, 2), rules=BoundRules(monotone_v=True))
    learner.bounds.q[0], learner.bounds.q[1] = [0.8, 0.5, 0.7, 0.9], [0.2, 0.1, 0.3, 0.0]
    for action in (0, 2, 1, 3):
        learner.bounds.settle(0, np.array([0]), np.eye(4)[None, action])
    assert learner.bounds.v[:, 0, 0, 0, 0].tolist() == [0.5, 0.3]
    assert events(learner, "value_moved_back").tolist() == [0]


# --- what it learns --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned() -> tuple[MENashQL, Any, list[float]]:
    """Eight runs of 300 episodes with the default constants, and the median exploitability of the output on the way."""
    game = small_game((3, 2, 2, 2))
    learner = MENashQL(game.rewards.shape, num_runs=8, rules=BoundRules(init="H-h"))
    play = SelfPlay(game, learner, rng=np.random.default_rng(0))
    medians = []
    for _ in range(3):
        medians.append(float(np.median(evaluate(learner, game, nash_value(game)).output)))
        for _ in range(100):
            play.step()
    return learner, evaluate(learner, game, nash_value(game)), medians


def test_the_single_output_policy_approaches_the_equilibrium(learned: tuple[MENashQL, Any, list[float]]) -> None:
    _, result, medians = learned
    assert np.median(result.output) < 0.1 * medians[0]
    assert (result.best_gap < 0.3 * 3).all()


def test_certificates_hold_with_the_default_constants(learned: tuple[MENashQL, Any, list[float]]) -> None:
    learner, result, _ = learned
    assert result.optimism_ok.all()
    assert result.certificate_ok.all()
    assert (result.best_gap <= result.gap).all()
    assert (events(learner, "value_moved_back") > 0).all()  # the proofs' monotonicity does not hold in games
    assert (events(learner, "reference_moved_back") == 0).all()


def after(episodes: int, rules: BoundRules, constants: BonusConstants) -> tuple[MENashQL, Any]:
    game = small_game((4, 2, 2, 2))
    learner = MENashQL(game.rewards.shape, num_runs=8, rules=rules, constants=constants)
    play = SelfPlay(game, learner, rng=np.random.default_rng(1))
    for _ in range(episodes):
        play.step()
    return learner, evaluate(learner, game, nash_value(game))


def test_the_literal_reference_rule_breaks_optimism_and_the_monotone_one_does_not() -> None:
    constants = BonusConstants(c1=0.7)
    _, literal = after(300, BoundRules(init="H-h", reference="text"), constants)
    _, monotone = after(300, BoundRules(init="H-h", reference="mono"), constants)
    assert literal.optimism_ok.mean() <= 0.5
    assert literal.gap.mean() < monotone.gap.mean()  # it looks better for being wrong
    assert monotone.optimism_ok.all()


def test_too_small_constants_lose_the_certificate_and_healing_repairs_much_of_it() -> None:
    small = BonusConstants(c0=0.05, c1=0.05, c2=0.05)
    plain_learner, plain = after(300, BoundRules(init="H-h"), small)
    healing_learner, healing = after(300, BoundRules(init="H-h", self_healing=True), small)
    assert plain.optimism_ok.mean() <= 0.25
    assert plain.certificate_ok.mean() <= 0.25
    assert (plain.best_gap < 0.0).any()  # not clipped: the failure is to be seen
    assert healing.certificate_ok.mean() >= plain.certificate_ok.mean() + 0.4
    assert (events(healing_learner, "healed") > 0).all()
    assert (events(plain_learner, "healed") == 0).all()


def test_healing_puts_crossed_bounds_back_and_withdraws_the_certificate() -> None:
    learner = MENashQL(
        (1, 1, 1, 1), constants=BonusConstants(c0=0.0, c1=0.0, c2=0.0), rules=BoundRules(self_healing=True)
    )
    zero = np.array([0])
    for reward, expected in ((0.5, [0.5, 0.5]), (0.25, [1.0, 0.0])):  # a reward that changes proves the bounds wrong
        learner.update(0, zero, zero, zero, np.array([reward]), zero)
        assert learner.bounds.q.ravel().tolist() == expected
        learner.end_episode()
    assert learner.best_gap().tolist() == [1.0]


# --- as a learner of the training loop -------------------------------------------------------------------------------


def fit(folder: Path, steps: int, *, stop_at: int | None = None) -> dict[str, Any]:
    """Run `steps` episodes with the training loop, in two processes' worth of objects if `stop_at` is given."""
    game = small_game()
    for until in (stop_at, steps) if stop_at else (steps,):
        streams = RandomStreams(5)
        loop = Loop(
            checkpoints=folder / "checkpoints",
            metrics=MetricLog(folder / "metrics.jsonl"),
            streams=streams,
            tracker=NoTracker(),
            log=logging.getLogger("test"),
            show_progress=False,
        )
        learner = MENashQL(game.rewards.shape, num_runs=2)
        play: Learner = SelfPlay(game, learner, rng=streams.numpy("play"))
        if until == stop_at:
            interrupted = Interrupting(play, until)
            with pytest.raises(RuntimeError, match="power cut"):
                loop.fit(interrupted, steps, checkpoint_every=4)
        else:
            history = loop.fit(play, steps, checkpoint_every=4)
        loop.metrics.close()
    return {"gaps": history.values("gap"), **play.state_dict()}


class Interrupting:
    """A learner whose process dies at a step."""

    def __init__(self, learner: Learner, last_step: int) -> None:
        self._learner = learner
        self._left = last_step

    def step(self) -> Any:
        if self._left == 0:
            raise RuntimeError("power cut")
        self._left -= 1
        return self._learner.step()

    def state_dict(self) -> dict[str, Any]:
        return self._learner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._learner.load_state_dict(state)


def test_an_interrupted_and_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    whole, resumed = fit(tmp_path / "whole", 12), fit(tmp_path / "resumed", 12, stop_at=7)
    np.testing.assert_array_equal(whole["gaps"], resumed["gaps"])
    assert whole["tables"].keys() == resumed["tables"].keys()
    for name, table in whole["tables"].items():
        np.testing.assert_array_equal(table, resumed["tables"][name], err_msg=name)
    assert (whole["episodes"], whole["cce_solves"]) == (resumed["episodes"], resumed["cce_solves"]) == (12, 36)


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"s": 2},
            r"step 0, states \[2\], actions \[0\] and \[0\] or next states \[0\] are outside a game of shape",
        ),
        ({"a": -1}, r"outside a game of shape \(3, 2, 2, 2\) = \(H, S, actions of each player\) with 1 runs"),
        ({"b": 2}, "outside a game of shape"),
        ({"next_state": -1}, "outside a game of shape"),
        ({"h": 3}, "step 3, states .* are outside a game"),
        ({"reward": 1.5}, r"step 0: rewards range from 1.5 to 1.5, expected within \[0, 1\]"),
        ({"reward": np.nan}, "rewards range from nan to nan"),
    ],
)
def test_impossible_visits_are_refused_and_change_nothing(change: dict[str, float], message: str) -> None:
    learner = MENashQL((3, 2, 2, 2))
    before = learner.state_dict()["tables"]
    visit = {"h": 0, "s": 0, "a": 0, "b": 0, "next_state": 0, "reward": 0.5} | change
    h, reward = int(visit.pop("h")), np.array([visit.pop("reward")])
    with pytest.raises(ValueError, match=message):
        learner.update(h, reward=reward, **{name: np.array([int(value)]) for name, value in visit.items()})
    for name, table in learner.tables().items():
        np.testing.assert_array_equal(table, before[name])


def test_a_forced_policy_must_be_a_distribution() -> None:
    zero, learner = np.array([0]), MENashQL((1, 1, 2, 2))
    with pytest.raises(ValueError, match=r"pi of run 0 sums to 1.2, smallest entry 0.3: expected a distribution"):
        learner.update(0, zero, zero, zero, np.array([0.5]), zero, pi=np.full((1, 2, 2), 0.3))
    assert not learner.bounds.visits.any()


def test_unknown_rules_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="init is '2H', expected one of H, H-h"):
        BoundRules(init="2H")
    with pytest.raises(ValueError, match="reference is 'best', expected one of mono, text, freeze, follow, never"):
        BoundRules(reference="best")


def test_unknown_equilibria_are_refused_before_the_first_episode() -> None:
    with pytest.raises(ValueError, match="backend is 'simplx', expected one of simplex, lp, hedge"):
        MENashQL((1, 1, 1, 1), backend="simplx")
    with pytest.raises(ValueError, match="objective is 'best', expected one of gap, any"):
        MENashQL((1, 1, 1, 1), objective="best")


def test_values_that_may_only_shrink_can_not_heal() -> None:
    with pytest.raises(ValueError, match="self_healing needs monotone_v=False"):
        BoundRules(self_healing=True, monotone_v=True)


@pytest.mark.parametrize("shape", [(0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1)])
def test_empty_games_are_refused(shape: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"expected \(H, S, A, B\) and runs, all >= 1"):
        MENashQL(shape)


def test_all_reference_rules_learn_without_error() -> None:
    game = small_game()
    for rule in REFERENCE_RULES:
        learner = MENashQL(game.rewards.shape, rules=BoundRules(reference=rule))
        for visit in random_visits(game, num_runs=1, episodes=10):
            learner.update(*visit)
        assert np.isfinite(learner.bounds.v).all()
