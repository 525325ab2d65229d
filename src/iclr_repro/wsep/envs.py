"""Reward-free environments: gridworlds with one agent, and a continuous maze with all copies in one tensor.

Shape letters: N = copies.

Source: sheet 4.3 and 4.4; both environments are ours.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from iclr_repro.wsep.builders import MOVES, Layout, find_layout, grid_mdp

GRID_ID = "iclr_repro/GridSkills-v0"
MAZE_ID = "iclr_repro/PointMaze2D-v0"


class GridSkillsEnv(gymnasium.Env[np.int64, np.int64]):
    """One agent in a grid; `gymnasium.make("iclr_repro/GridSkills-v0", layout="rooms7")` makes it.

    Observations are the numbers of free cells, row by row; actions are stay, up, down, left, right, replaced by a
    random move with probability `slip`. The reward is 1 in the goal's cell, 0 elsewhere, always 0 without a goal. Its
    transition probabilities are those of `grid_mdp`, at `env.unwrapped.mdp`. An episode is truncated after `horizon`
    steps and never terminates.

    Args:
        layout: a name of `LAYOUTS`, or a `Layout`.
        goal: number of a free cell, or None.
        horizon: steps of an episode, >= 1.
        slip: probability of a random move.
        uniform_start: share of the start distribution that is spread over all cells.

    Raises:
        ValueError: an unknown layout, a goal that is no free cell, or a horizon below 1.
    """

    def __init__(
        self,
        layout: str | Layout = "empty5",
        *,
        goal: int | None = None,
        horizon: int = 50,
        slip: float = 0.1,
        uniform_start: float = 0.02,
    ) -> None:
        self.layout = find_layout(layout) if isinstance(layout, str) else layout
        self.mdp = grid_mdp(self.layout, slip=slip, uniform_start=uniform_start)
        if goal is not None and not 0 <= goal < self.mdp.num_states:
            raise ValueError(f"goal is {goal}, expected a free cell 0..{self.mdp.num_states - 1}, or None")
        if horizon < 1:
            raise ValueError(f"horizon is {horizon}, expected at least 1 step")
        self.goal, self.horizon = goal, horizon
        self.observation_space = gymnasium.spaces.Discrete(self.mdp.num_states)
        self.action_space = gymnasium.spaces.Discrete(len(MOVES))
        self._state, self._steps = self.layout.start, horizon

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        """Draw a start cell; a seed also restarts the draws of the next cells. There are no options."""
        super().reset(seed=seed)
        self._state, self._steps = int(self.np_random.choice(self.mdp.num_states, p=self.mdp.start)), 0
        return np.int64(self._state), {}

    def step(self, action: np.int64) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        """Move.

        Raises:
            ValueError: an action that does not exist.
            RuntimeError: the episode is over, or was never started.
        """
        if self._steps == self.horizon:
            raise RuntimeError("no episode is under way: call reset() first")
        if not self.action_space.contains(np.int64(action)):
            raise ValueError(f"action is {action}, expected 0..{len(MOVES) - 1}: stay, up, down, left, right")
        probabilities = self.mdp.transitions[self._state, int(action)]
        self._state = int(self.np_random.choice(self.mdp.num_states, p=probabilities))
        self._steps += 1
        return np.int64(self._state), float(self._state == self.goal), False, self._steps == self.horizon, {}


class PointMaze2DVectorEnv(VectorEnv[Tensor, Tensor, Tensor]):
    """Points in a maze, all copies in one tensor; `gymnasium.make_vec("iclr_repro/PointMaze2D-v0", num_envs=64)`.

    A state is the position (row, column), in cells; an action in [-1, 1]^2 moves by `action_scale` times itself, first
    along the rows, then along the columns, and a move into a wall or over the border is left out, each axis for itself.
    Episodes start at the middle of the layout's start cell plus N(0, 0.1^2), all copies together, and are truncated
    together after `horizon` steps; `reset` starts the next ones. There is no reward.

    Args:
        num_envs: N.
        layout: a name of `LAYOUTS`, or a `Layout`.
        horizon: steps of an episode, >= 1.
        action_scale: cells a step at action 1, in (0, 1): more would jump over walls.
        device: where positions live.

    Raises:
        ValueError: a number out of range, or an unknown layout.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 - gymnasium's own

    def __init__(
        self,
        num_envs: int = 1,
        layout: str | Layout = "square5_walls",
        *,
        horizon: int = 30,
        action_scale: float = 0.35,
        start_noise: float = 0.1,
        device: torch.device | str = "cpu",
    ) -> None:
        if num_envs < 1 or horizon < 1:
            raise ValueError(f"num_envs and horizon are {num_envs} and {horizon}, expected at least 1")
        if not 0.0 < action_scale < 1.0:
            raise ValueError(f"action_scale is {action_scale}, expected in (0, 1): more would jump over walls")
        self.layout = find_layout(layout) if isinstance(layout, str) else layout
        self.num_envs, self.horizon, self.action_scale, self.start_noise = num_envs, horizon, action_scale, start_noise
        self.device = torch.device(device)
        rows, columns = self.layout.walls.shape
        self.size = torch.tensor([rows, columns], dtype=torch.float32, device=self.device)
        self._numbers = torch.from_numpy(np.pad(self.layout.numbers(), 1, constant_values=-1)).to(self.device)
        self._middle = torch.from_numpy(self.layout.cells[self.layout.start] + 0.5).float().to(self.device)
        self.single_observation_space = gymnasium.spaces.Box(
            np.zeros(2, np.float32), np.array([rows, columns], np.float32)
        )
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.generator = torch.Generator().manual_seed(0)
        self._positions, self._steps = self._middle.repeat(num_envs, 1), horizon

    @property
    def num_cells(self) -> int:
        """Number of free cells."""
        return len(self.layout.cells)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Start all copies; a seed restarts the draws of the starts. There are no options."""
        if seed is not None:
            self.generator.manual_seed(seed)
        noise = torch.randn(self.num_envs, 2, generator=self.generator).clamp(-4.0, 4.0).to(self.device)
        # Noise beyond the cell would begin inside a wall.
        self._positions = self._middle + (self.start_noise * noise).clamp(-0.49, 0.49)
        self._steps = 0
        return self._positions.clone(), {}

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Move all copies by actions [N, 2], clipped to [-1, 1].

        Raises:
            ValueError: actions of another shape.
            RuntimeError: the episodes are over, or were never started.
        """
        if self._steps == self.horizon:
            raise RuntimeError("no episode is under way: call reset() first")
        if actions.shape != (self.num_envs, 2):
            raise ValueError(f"actions have shape {tuple(actions.shape)}, expected ({self.num_envs}, 2)")
        moves = self.action_scale * actions.clamp(-1.0, 1.0)
        row, column = self._positions.unbind(dim=1)
        to_row, to_column = row + moves[:, 0], column + moves[:, 1]
        row = torch.where(self._cell_numbers(to_row, column) >= 0, to_row, row)
        column = torch.where(self._cell_numbers(row, to_column) >= 0, to_column, column)
        self._positions = torch.stack([row, column], dim=1)
        self._steps += 1
        nothing = torch.zeros(self.num_envs, device=self.device)
        over = torch.full((self.num_envs,), self._steps == self.horizon, device=self.device)
        return self._positions.clone(), nothing, torch.zeros_like(over), over, {}

    def cells(self, positions: Tensor) -> Tensor:
        """Return [...] the numbers of the free cells in which positions [..., 2] lie."""
        return self._cell_numbers(positions[..., 0], positions[..., 1])

    def scaled(self, positions: Tensor) -> Tensor:
        """Return positions [..., 2] scaled to [-1, 1], for networks."""
        return 2.0 * positions / self.size - 1.0

    def _cell_numbers(self, row: Tensor, column: Tensor) -> Tensor:
        return self._numbers[row.floor().long() + 1, column.floor().long() + 1]


gymnasium.register(GRID_ID, entry_point="iclr_repro.wsep.envs:GridSkillsEnv")
gymnasium.register(MAZE_ID, vector_entry_point="iclr_repro.wsep.envs:PointMaze2DVectorEnv")
