"""The environments as the skill learner sees them: all copies at once, episodes of one length."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from torch import Tensor

from iclr_repro.wsep.envs import PointMaze2DVectorEnv


class MazeWorld:
    """`PointMaze2DVectorEnv` as a `World`.

    Args:
        env: the maze.
        generator: draws the starts.
    """

    state_size = 2
    action_size = 2

    def __init__(self, env: PointMaze2DVectorEnv, *, generator: torch.Generator) -> None:
        self.env, self.num_envs, self.horizon = env, env.num_envs, env.horizon
        env.generator = generator

    def start(self) -> Tensor:
        """Begin episodes."""
        return self.env.reset()[0]

    def move(self, actions: Tensor) -> Tensor:
        """Take actions."""
        return self.env.step(actions)[0]

    def scaled(self, states: Tensor) -> Tensor:
        """Scale positions to [-1, 1]."""
        return self.env.scaled(states)

    def cells(self, states: Tensor) -> Tensor:
        """Return the numbers of the cells."""
        return self.env.cells(states)


class GymWorld:
    """Any gymnasium environment with vectors as states and actions, e.g. HalfCheetah-v5 (extra `mujoco`), as a `World`.

    Actions in [-1, 1] are scaled to the environment's box. An environment that terminates within an episode begins
    again, and its copies go on. There are no cells: objectives that need them refuse.

    Args:
        env_id: of `gymnasium.make_vec`.
        num_envs: copies.
        horizon: steps of an episode.
        seed: of the environments.

    Raises:
        ValueError: states or actions that are no vectors.
    """

    def __init__(self, env_id: str, num_envs: int, *, horizon: int, seed: int) -> None:
        self.env = gymnasium.make_vec(env_id, num_envs=num_envs, vectorization_mode="sync")
        states, actions = self.env.single_observation_space, self.env.single_action_space
        for name, space in (("states", states), ("actions", actions)):
            if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
                raise ValueError(f"{env_id} has {name} {space}, expected a Box of vectors")
        assert isinstance(states, gymnasium.spaces.Box)
        assert isinstance(actions, gymnasium.spaces.Box)
        self.num_envs, self.horizon = num_envs, horizon
        self.state_size, self.action_size = states.shape[0], actions.shape[0]
        self._low, self._high = actions.low, actions.high
        self._seed: int | None = seed

    def start(self) -> Tensor:
        """Begin episodes."""
        states, _ = self.env.reset(seed=self._seed)
        self._seed = None
        return torch.from_numpy(np.asarray(states, dtype=np.float32))

    def move(self, actions: Tensor) -> Tensor:
        """Take actions."""
        clipped = actions.clamp(-1.0, 1.0).cpu().numpy()
        states = self.env.step(self._low + (clipped + 1.0) / 2.0 * (self._high - self._low))[0]
        return torch.from_numpy(np.asarray(states, dtype=np.float32))

    def scaled(self, states: Tensor) -> Tensor:
        """Squash states, whose range is not known, to about [-1, 1]."""
        return torch.tanh(states / 3.0)

    def cells(self, states: Tensor) -> None:
        """Return None: there are no cells."""
        return
