from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from iclr_repro.me_nash_ql.baselines import NashQ, VLearning
from iclr_repro.me_nash_ql.bonuses import learning_rate
from iclr_repro.me_nash_ql.builders import matrix_game
from iclr_repro.me_nash_ql.certified import VisitHistory
from iclr_repro.me_nash_ql.self_play import SelfPlay
from nash_learners import small_game

GAME = small_game((3, 2, 2, 3))
HORIZON, STATES, NUM_MAX, NUM_MIN = GAME.rewards.shape
EPISODES = 14


def played(learner: NashQ | VLearning) -> NashQ | VLearning:
    play = SelfPlay(GAME, learner, rng=np.random.default_rng(3))
    for _ in range(EPISODES):
        play.step()
    return learner


def from_history(history: VisitHistory, run: int, value: Callable[..., tuple[float, float]]) -> float:
    """Average over episodes of the values of both best responses at the start."""
    gaps = [np.subtract(*value(episode, 0, GAME.start_state)) for episode in range(EPISODES)]
    return float(np.mean(gaps))


def records(history: VisitHistory, run: int) -> list[tuple[int, int, int, np.ndarray, np.ndarray]]:
    """(episode, h, cell, mu, nu) of every step of a run."""
    arrays = history.arrays()
    return [
        (step // HORIZON, step % HORIZON, int(cells[run]), policies[run, :NUM_MAX], policies[run, NUM_MAX:])
        for step, (cells, policies) in enumerate(zip(arrays["cells"], arrays["policies"], strict=True))
    ]


def weights(n: int) -> np.ndarray:
    eta = learning_rate(np.arange(1, n + 1), HORIZON)
    return np.array([eta[i] * np.prod(1 - eta[i + 1 :]) for i in range(n)])


@pytest.mark.parametrize("run", [0, 1])
def test_v_learning_is_certified_as_a_recursion_over_its_history_says(run: int) -> None:
    learner = played(VLearning(GAME.rewards.shape, num_runs=2, certify_in=GAME))
    assert learner.history is not None
    assert learner.mixture is not None
    steps = records(learner.history, run)

    @cache
    def value(episode: int, h: int, s: int) -> tuple[float, float]:
        """Best responses to the mixture that starts from index `episode` at (h, s)."""
        if h == HORIZON:
            return 0.0, 0.0
        visits = [
            (k, mu, nu)
            for k, at, cell, mu, nu in steps
            if k < episode and at == h and cell == (run * HORIZON + h) * STATES + s
        ]
        if not visits:
            return float(HORIZON - h), 0.0
        of_max, of_min = np.zeros(NUM_MAX), np.zeros(NUM_MIN)
        for weight, (k, mu, nu) in zip(weights(len(visits)), visits, strict=True):
            upper, lower = np.transpose([value(k, h + 1, after) for after in range(STATES)])
            of_max += weight * (GAME.rewards[h, s] + GAME.transitions[h, s] @ upper) @ nu
            of_min += weight * mu @ (GAME.rewards[h, s] + GAME.transitions[h, s] @ lower)
        return float(of_max.max()), float(of_min.min())

    assert learner.mixture.exploitability[run] == pytest.approx(from_history(learner.history, run, value), abs=1e-12)


@pytest.mark.parametrize("run", [0, 1])
def test_nash_q_is_certified_as_a_recursion_over_its_history_says(run: int) -> None:
    learner = played(NashQ(GAME.rewards.shape, num_runs=2, keep_history=True, certify_in=GAME))
    assert learner.history is not None
    assert learner.mixture is not None
    steps = records(learner.history, run)

    @cache
    def value(episode: int, h: int, s: int) -> tuple[float, float]:
        """Best responses to the mixture that starts from index `episode` at (h, s)."""
        if h == HORIZON:
            return 0.0, 0.0
        mu, nu = np.full(NUM_MAX, 1 / NUM_MAX), np.full(NUM_MIN, 1 / NUM_MIN)
        upper, lower = np.full((NUM_MAX, NUM_MIN), float(HORIZON - h)), np.zeros((NUM_MAX, NUM_MIN))
        visits: dict[tuple[int, int], list[int]] = {}
        for k, at, cell, mu_after, nu_after in steps:
            _, _, state, a, b = (int(index) for index in np.unravel_index(cell, (2, *GAME.rewards.shape)))
            if k < episode and at == h and state == s:
                mu, nu = mu_after, nu_after
                visits.setdefault((a, b), []).append(k)
        for (a, b), episodes in visits.items():
            nexts = np.array([[value(k, h + 1, after) for after in range(STATES)] for k in episodes])
            targets = GAME.rewards[h, s, a, b] + np.einsum("n,knx->kx", GAME.transitions[h, s, a, b], nexts)
            upper[a, b], lower[a, b] = weights(len(episodes)) @ targets
        return float((upper @ nu).max()), float((mu @ lower).min())

    assert learner.mixture.exploitability[run] == pytest.approx(from_history(learner.history, run, value), abs=1e-12)


def test_certified_mixtures_start_at_the_trivial_bound_and_improve() -> None:
    game = small_game()
    learner = NashQ(game.rewards.shape, num_runs=2, c=0.05, init="H-h", certify_in=game)
    assert learner.mixture is not None
    with pytest.raises(ValueError, match="the mixture over episodes is empty: play an episode first"):
        _ = learner.mixture.exploitability
    play = SelfPlay(game, learner, rng=np.random.default_rng(0))
    play.step()
    assert learner.mixture.exploitability.tolist() == [3.0, 3.0]
    for _ in range(200):
        play.step()
    assert (learner.mixture.exploitability < 1.5).all()


def test_certifying_does_not_change_what_is_learned() -> None:
    for kind in (NashQ, VLearning):
        with_it = played(kind(GAME.rewards.shape, num_runs=2, certify_in=GAME, keep_history=True))
        without = played(kind(GAME.rewards.shape, num_runs=2, keep_history=False))
        assert (without.mixture, without.history) == (None, None)
        np.testing.assert_array_equal(with_it.v, without.v)


def test_history_and_mixture_survive_a_checkpoint() -> None:
    for kind in (NashQ, VLearning):
        whole = kind(GAME.rewards.shape, num_runs=2, certify_in=GAME, keep_history=True)
        resumed = kind(GAME.rewards.shape, num_runs=2, certify_in=GAME, keep_history=True)
        rng = np.random.default_rng(0)
        play = SelfPlay(GAME, whole, rng=rng)
        for _ in range(5):
            play.step()
        resumed.load_state_dict(whole.state_dict())
        again = SelfPlay(GAME, resumed, rng=np.random.default_rng(1))
        rng.bit_generator.state = np.random.default_rng(1).bit_generator.state
        for _ in range(5):
            play.step()
            again.step()
        assert whole.history is not None
        assert resumed.history is not None
        for name, array in whole.history.arrays().items():
            np.testing.assert_array_equal(array, resumed.history.arrays()[name])
        assert whole.mixture is not None
        assert resumed.mixture is not None
        np.testing.assert_array_equal(whole.mixture.exploitability, resumed.mixture.exploitability)


def test_a_perfect_mixture_is_certified_with_nothing_to_gain() -> None:
    game = matrix_game(np.array([[0.5]]))
    learner = VLearning(game.rewards.shape, certify_in=game)
    play = SelfPlay(game, learner, rng=np.random.default_rng(0))
    for _ in range(10):
        play.step()
    assert learner.mixture is not None
    assert learner.mixture.exploitability.tolist() == pytest.approx([1 / 10])  # the first episode's policy is not known
