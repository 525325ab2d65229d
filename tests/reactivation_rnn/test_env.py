from __future__ import annotations

import re
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import iclr_repro.reactivation_rnn  # noqa: F401 - registers the environment
from iclr_repro.reactivation_rnn.trajectories import Arena


def make(num_steps: int = 20, **arena: Any) -> gymnasium.Env:
    return gymnasium.make("iclr_repro/PathIntegration-v0", num_steps=num_steps, arena=Arena(**arena))


@pytest.mark.filterwarnings("ignore::UserWarning")  # that the registered maker differs from an unwrapped one
def test_the_environment_keeps_the_rules_of_gymnasium() -> None:
    check_env(make().unwrapped, skip_render_check=True)


def test_adding_up_displacements_is_perfect() -> None:
    env = make(drift=0.05)
    seen, _ = env.reset(seed=3)
    place, total, ended = seen["start"].astype(np.float64), 0.0, False
    steps = 0
    while not ended:
        place = place + seen["displacement"]
        seen, reward, ended, truncated, info = env.step(place.astype(np.float32))
        assert not truncated
        np.testing.assert_allclose(info["position"], place, atol=1e-5)
        total += float(reward)
        steps += 1
    assert steps == 20
    assert total == pytest.approx(0.0, abs=1e-4)


def test_staying_at_the_start_costs_the_distance() -> None:
    env = make()
    seen, _ = env.reset(seed=0)
    start = seen["start"]
    _, reward, *_, info = env.step(start)
    assert reward == pytest.approx(-np.linalg.norm(info["position"] - start), abs=1e-6)


def test_the_same_seed_gives_the_same_episode() -> None:
    first, again = (make().reset(seed=5)[0]["start"] for _ in range(2))
    assert (first == again).all()


@pytest.mark.parametrize(
    "options", [{}, {"drift": 0.05}, {"side_m": 1.0}, {"side_m": 0.1}, {"speed_scale": 3.0}, {"start_range": "double"}]
)
def test_observations_lie_in_their_space(options: dict[str, Any]) -> None:
    env = make(num_steps=200, **options).unwrapped
    for seed in range(40):
        seen, _ = env.reset(seed=seed)
        assert env.observation_space.contains(seen)
        for _ in range(200):
            seen, *_, info = env.step(np.zeros(2, dtype=np.float32))
            assert env.observation_space.contains(seen)
            assert env.action_space.contains(info["position"].astype(np.float32))


def test_misuse_is_refused() -> None:
    env = make().unwrapped
    with pytest.raises(RuntimeError, match=re.escape("no episode is under way: call reset() first")):
        env.step(np.zeros(2, dtype=np.float32))
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"expected a position \(x, y\) in m, finite"):
        env.step(np.full(2, np.nan, dtype=np.float32))
    with pytest.raises(ValueError, match="num_steps: got 1, expected >= 2"):
        make(num_steps=1)
