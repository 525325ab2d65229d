from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from iclr_repro.me_nash_ql import env as _registers_the_environment  # noqa: F401
from iclr_repro.me_nash_ql.builders import lock, random_game
from iclr_repro.me_nash_ql.exact import policy_values
from iclr_repro.me_nash_ql.games import MarkovGame

GAME = random_game(3, 4, 2, 3, concentration=0.5, rewards="uniform", seed=3)


def made(game: MarkovGame = GAME) -> gymnasium.Env:
    return gymnasium.make("iclr_repro/MarkovGame-v0", game=game)


def test_gymnasiums_own_checker_accepts_the_environment() -> None:
    check_env(made().unwrapped)


def test_an_episode_pays_the_rewards_of_the_game_and_ends_after_its_last_step() -> None:
    env = made()
    observation, info = env.reset(seed=1)
    assert observation.tolist() == [0, 0]
    assert info == {}
    for h in range(3):
        _, state = observation
        observation, reward, terminated, truncated, _ = env.step(np.array([1, 2]))
        assert reward == GAME.rewards[h, state, 1, 2]
        assert observation[0] == h + 1
        assert (terminated, truncated) == (h == 2, False)
        assert observation in env.observation_space


def test_the_lock_opens_for_its_secret_only() -> None:
    game = lock(4)
    secret = np.random.default_rng(0).integers(2, size=4)
    for wrong in (False, True):
        env = made(game)
        env.reset(seed=0)
        for h in range(4):
            _, reward, *_ = env.step(np.array([secret[h] ^ (wrong and h == 0), 0]))
        last = secret[-1]
        assert reward == (game.rewards[-1, 1, last, 0] if wrong else game.rewards[-1, 0, last, 0])


def test_the_same_seed_gives_the_same_episode() -> None:
    episodes = []
    for _ in range(2):
        env = made()
        env.reset(seed=11)
        episodes.append([env.step(np.array([0, 1]))[0].tolist() for _ in range(3)])
    assert episodes[0] == episodes[1]


def test_returns_of_uniform_play_average_to_its_exact_value() -> None:
    env = made().unwrapped
    rng = np.random.default_rng(0)
    returns = []
    for episode in range(1500):
        env.reset(seed=0 if episode == 0 else None)
        returns.append(sum(float(env.step(rng.integers([2, 3]))[1]) for _ in range(3)))
    expected = policy_values(GAME, np.full((3, 4, 2), 1 / 2), np.full((3, 4, 3), 1 / 3))[0, 0]
    assert np.mean(returns) == pytest.approx(expected, abs=4 * np.std(returns) / np.sqrt(len(returns)))


@pytest.mark.parametrize("action", [[2, 0], [0, 3], [-1, 0], [0]])
def test_an_action_that_does_not_exist_is_refused(action: list[int]) -> None:
    env = made().unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"expected \(a, b\) with 0 <= a < 2 and 0 <= b < 3"):
        env.step(np.array(action))


def test_a_step_after_the_end_or_before_the_start_is_refused() -> None:
    env = made(lock(1)).unwrapped
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.step(np.array([0, 0]))
    env.reset(seed=0)
    env.step(np.array([0, 0]))
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.step(np.array([0, 0]))
