from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from iclr_repro.me_nash_ql.baselines import NashQ, VLearning
from iclr_repro.me_nash_ql.learner import MENashQL
from iclr_repro.me_nash_ql.ledger import Ledger, me_nash_ql_words
from iclr_repro.me_nash_ql.multiplayer import GeneralSumGame, MultiMENashQL, MultiSelfPlay
from iclr_repro.me_nash_ql.planning import NashVI, PlugIn
from iclr_repro.me_nash_ql.self_play import SelfPlay, SelfPlayLearner
from nash_learners import random_visits, small_game

GAME = small_game((3, 2, 2, 3))
LEARNERS: dict[str, Callable[[], SelfPlayLearner]] = {
    "ME-Nash-QL": lambda: MENashQL(GAME.rewards.shape, num_runs=4),
    "Nash-Q": lambda: NashQ(GAME.rewards.shape, num_runs=4),
    "Nash-Q with history": lambda: NashQ(GAME.rewards.shape, num_runs=4, keep_history=True),
    "Nash-VI": lambda: NashVI(GAME.rewards.shape, num_runs=4),
    "V-learning": lambda: VLearning(GAME.rewards.shape, num_runs=4),
    "plug-in": lambda: PlugIn(GAME.rewards.shape, num_runs=4),
}


def numpy_bytes(make: Callable[[], object]) -> tuple[object, int]:
    """What `make` returns, and the bytes that numpy allocated for it and not released."""
    gc.collect()
    tracemalloc.start()
    try:
        made = make()
        gc.collect()
        domain = tracemalloc.DomainFilter(inclusive=True, domain=np.lib.tracemalloc_domain)
        kept = tracemalloc.take_snapshot().filter_traces([domain])
        return made, sum(trace.size for trace in kept.traces)
    finally:
        tracemalloc.stop()


def played(learner: SelfPlayLearner, episodes: int) -> SelfPlayLearner:
    for step, visit in enumerate(random_visits(GAME, num_runs=4, episodes=episodes), start=1):
        learner.update(*visit)
        if step % GAME.num_steps == 0:
            learner.end_episode()
    return learner


@pytest.mark.parametrize("name", LEARNERS)
def test_the_ledger_counts_every_byte_that_numpy_keeps_for_a_learner(name: str) -> None:
    played(LEARNERS[name](), 1)  # what libraries cache at the first use is not the learner's
    learner, kept = numpy_bytes(lambda: played(LEARNERS[name](), 5))
    assert isinstance(learner, SelfPlayLearner)
    assert 4 * learner.ledger().total_bytes == kept


def test_the_ledger_counts_every_byte_of_the_general_sum_learner() -> None:
    game = GeneralSumGame.from_zero_sum(GAME)

    def play() -> MultiMENashQL:
        learner = MultiMENashQL(game.shape, num_runs=4)
        episodes = MultiSelfPlay(game, learner, rng=np.random.default_rng(0))
        for _ in range(3):
            episodes.step()
        return learner

    play()
    learner, kept = numpy_bytes(play)
    assert isinstance(learner, MultiMENashQL)
    assert 4 * learner.ledger().total_bytes == kept
    assert learner.ledger().cce_solves == 9


@pytest.mark.parametrize("name", ["ME-Nash-QL", "Nash-Q", "Nash-VI"])
def test_memory_of_markov_outputs_does_not_grow_with_the_episodes(name: str) -> None:
    learner = played(LEARNERS[name](), 2)
    before = learner.ledger()
    after = played(learner, 8).ledger()
    assert (after.total_bytes, after.history_bytes) == (before.total_bytes, 0.0)


@pytest.mark.parametrize(("name", "words_a_step"), [("V-learning", 1 + 2 + 3), ("Nash-Q with history", 1 + 2 + 3)])
def test_certified_mixtures_need_memory_in_proportion_to_the_steps(name: str, words_a_step: int) -> None:
    learner = played(LEARNERS[name](), 5)
    assert learner.ledger().history_bytes == 8 * words_a_step * 5 * GAME.num_steps
    assert played(learner, 15).ledger().history_bytes == 8 * words_a_step * 20 * GAME.num_steps


def test_the_documented_example_of_counting_words() -> None:
    assert me_nash_ql_words(num_steps=4, num_states=4, num_actions_max=2, num_actions_min=2) == 1312


@pytest.mark.parametrize("shape", [(4, 4, 2, 2), (3, 2, 2, 2), (10, 20, 4, 4)])
def test_the_method_needs_what_the_count_by_hand_says(shape: tuple[int, int, int, int]) -> None:
    words = me_nash_ql_words(
        num_steps=shape[0], num_states=shape[1], num_actions_max=shape[2], num_actions_min=shape[3]
    )
    assert MENashQL(shape, num_runs=8).ledger().total_bytes == pytest.approx(8 * words, rel=0.05)


def test_nash_vi_needs_more_than_the_method_from_some_sixteen_states_on() -> None:
    ratios = [
        NashVI((3, states, 2, 2)).ledger().total_bytes / MENashQL((3, states, 2, 2)).ledger().total_bytes
        for states in (8, 16, 32)
    ]
    assert ratios[0] < 1.0 < ratios[2]
    assert ratios[2] - ratios[1] == pytest.approx(2 * (ratios[1] - ratios[0]), rel=0.1)  # linear in S


@pytest.mark.parametrize(
    ("name", "solves_an_episode"),
    [("ME-Nash-QL", 3), ("Nash-Q", 3), ("Nash-VI", 6), ("V-learning", 0), ("plug-in", 6)],
)
def test_equilibria_an_episode_are_those_of_the_method(name: str, solves_an_episode: int) -> None:
    ledger = played(LEARNERS[name](), 4).ledger()
    assert (ledger.episodes, ledger.cce_solves_per_episode) == (4, solves_an_episode)


def test_a_replayed_policy_costs_no_equilibrium() -> None:
    learner = MENashQL((1, 1, 2, 2))
    zero = np.array([0])
    learner.update(0, zero, zero, zero, np.array([0.5]), zero, pi=np.full((1, 2, 2), 0.25))
    assert learner.ledger().cce_solves == 0


def test_a_ledger_before_the_first_episode_has_no_solves_an_episode() -> None:
    assert Ledger(table_bytes=1.0, history_bytes=2.0, cce_solves=0, episodes=0).cce_solves_per_episode == 0.0
    assert Ledger(table_bytes=1.0, history_bytes=2.0, cce_solves=0, episodes=0).total_bytes == 3.0


def test_driving_a_learner_adds_nothing_to_its_memory() -> None:
    learner = MENashQL(GAME.rewards.shape, num_runs=4)
    before = learner.ledger().total_bytes
    play = SelfPlay(GAME, learner, rng=np.random.default_rng(0))
    for _ in range(3):
        play.step()
    assert learner.ledger().total_bytes == before
