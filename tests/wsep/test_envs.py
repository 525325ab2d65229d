from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from iclr_repro.wsep import LAYOUTS, Layout
from iclr_repro.wsep.envs import GRID_ID, MAZE_ID, GridSkillsEnv, PointMaze2DVectorEnv
from iclr_repro.wsep.experiments.efficiency import looped_maze


def test_the_grid_passes_gymnasiums_checker() -> None:
    env = gymnasium.make(GRID_ID, layout="rooms7", goal=3)
    assert isinstance(env.unwrapped, GridSkillsEnv)
    check_env(env.unwrapped, skip_render_check=True)


def test_the_grid_moves_as_its_mdp_says() -> None:
    env = GridSkillsEnv("empty5", horizon=5000)
    state, _ = env.reset(seed=0)
    right, moved = 4, np.zeros((25, 25))
    for _ in range(4999):
        after, *_ = env.step(np.int64(right))
        moved[state, after] += 1
        state = after
    often = moved.sum(axis=1) > 200
    shares = moved[often] / moved[often].sum(axis=1, keepdims=True)
    assert often.sum() >= 3
    np.testing.assert_allclose(shares, env.mdp.transitions[often, right], atol=0.06)


def test_the_goal_pays_and_episodes_are_truncated() -> None:
    env = GridSkillsEnv(Layout(rows=("..",), start=0), goal=1, horizon=3, slip=0.0, uniform_start=0.0)
    env.reset(seed=0)
    results = [env.step(np.int64(action))[:4] for action in (0, 4, 0)]
    assert [(int(state), *rest) for state, *rest in results] == [
        (0, 0.0, False, False),
        (1, 1.0, False, False),
        (1, 1.0, False, True),
    ]
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.step(np.int64(0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GridSkillsEnv("empty5", goal=25), "goal is 25, expected a free cell 0..24"),
        (lambda: GridSkillsEnv("empty5", horizon=0), "horizon is 0"),
        (lambda: GridSkillsEnv("maze"), "no layout 'maze'"),
        (lambda: PointMaze2DVectorEnv(0), "num_envs and horizon are 0 and 30"),
        (lambda: PointMaze2DVectorEnv(1, action_scale=1.0), "more would jump over walls"),
    ],
)
def test_bad_environments_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_an_action_that_does_not_exist_is_refused() -> None:
    env = GridSkillsEnv()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action is 5, expected 0\.\.4: stay, up, down, left, right"):
        env.step(np.int64(5))


def test_the_maze_is_registered_as_a_vector_environment() -> None:
    env = gymnasium.make_vec(MAZE_ID, num_envs=3, horizon=2)
    states, _ = env.reset(seed=1)
    assert states.shape == (3, 2)
    for number in range(2):
        states, rewards, terminated, truncated, _ = env.step(torch.zeros(3, 2))
        assert rewards.tolist() == [0.0] * 3
        assert not terminated.any()
        assert truncated.all() == (number == 1)
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.step(torch.zeros(3, 2))
    assert env.unwrapped.single_observation_space.contains(states[0].numpy())


def test_points_never_enter_walls_or_leave_and_move_as_in_a_plain_loop() -> None:
    env = PointMaze2DVectorEnv(200, horizon=100)
    generator = torch.Generator().manual_seed(0)
    starts = env.reset(seed=3)[0]
    actions = 2 * torch.rand(200, 2, generator=generator) - 1
    for _ in range(100):
        positions = env.step(actions)[0]
        assert (env.cells(positions) >= 0).all()
    expected = looped_maze(LAYOUTS["square5_walls"], starts.numpy(), actions.numpy(), 100, 0.35)
    np.testing.assert_allclose(positions.numpy(), expected, atol=1e-4)
    assert (env.scaled(positions).abs() <= 1.0).all()


def test_a_wall_stops_one_axis_only_and_actions_are_clipped() -> None:
    env = PointMaze2DVectorEnv(1, Layout(rows=("..", "#."), start=0), start_noise=0.0)
    env.reset()
    positions = [env.step(torch.tensor([[5.0, 0.5]]))[0] for _ in range(2)][-1]
    np.testing.assert_allclose(positions, [[0.85, 0.5 + 2 * 0.175]], atol=1e-6)
    positions = env.step(torch.tensor([[1.0, 0.5]]))[0]  # down is the wall
    np.testing.assert_allclose(positions, [[0.85, 1.025]], atol=1e-6)


def test_starts_repeat_with_the_seed_and_lie_in_the_start_cell() -> None:
    env = PointMaze2DVectorEnv(500)
    one, two = env.reset(seed=5)[0], env.reset(seed=5)[0]
    assert torch.equal(one, two)
    assert not torch.equal(one, env.reset()[0])
    assert (env.cells(one) == env.layout.start).all()


def test_actions_of_a_wrong_shape_are_refused() -> None:
    env = PointMaze2DVectorEnv(2)
    env.reset()
    with pytest.raises(ValueError, match=r"actions have shape \(3, 2\), expected \(2, 2\)"):
        env.step(torch.zeros(3, 2))
