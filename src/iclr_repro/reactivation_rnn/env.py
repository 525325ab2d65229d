"""Path integration as a gymnasium environment: one is told how one moves, and says where one is."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np

from iclr_repro.reactivation_rnn.trajectories import Arena, Trajectories, check_num_steps, simulate_navigation

ENV_ID = "iclr_repro/PathIntegration-v0"
_BEYOND_STEPS = 20  # mean steps: farther beyond the walls, its start or the anchor the simulated animal was never seen


class PathIntegrationEnv(gymnasium.Env[dict[str, np.ndarray], np.ndarray]):
    """An episode is one trajectory; `gymnasium.make("iclr_repro/PathIntegration-v0", num_steps=100)` makes it.

    An observation holds the latest displacement in m and the start position; the action is where one thinks to be after
    that displacement. The reward is minus the distance to the true position in m, so that perfect integration earns 0.
    The episode terminates after `num_steps` answers; it is never truncated. `info` holds the true position.

    Args:
        num_steps: T >= 2.
        arena: box and policy; None: the paper's, unbiased.

    Raises:
        ValueError: T < 2.
    """

    def __init__(self, num_steps: int = 100, arena: Arena | None = None) -> None:
        check_num_steps(num_steps)
        self.num_steps, self.arena = num_steps, arena or Arena()
        start = self.arena.side_m * (0.5 if self.arena.start_range == "box" else 1.0)
        anchor = max(map(abs, self.arena.anchor)) if self.arena.drift else 0.0
        step = self.arena.speed_scale * math.sqrt(math.pi / 2) * self.arena.dt_s
        reach = np.float32(max(start, anchor) + _BEYOND_STEPS * step)
        place = gymnasium.spaces.Box(-reach, reach, shape=(2,), dtype=np.float32)
        spaces: dict[str, gymnasium.Space[np.ndarray]] = {"displacement": place, "start": place}
        self.observation_space = gymnasium.spaces.Dict(spaces)  # type: ignore[assignment]  # a Dict is not generic
        self.action_space = place
        self._trajectory: Trajectories | None = None
        self._step_number = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Draw a new trajectory and show its first displacement; there are no options."""
        super().reset(seed=seed)
        self._trajectory = simulate_navigation(1, self.num_steps, rng=self.np_random, arena=self.arena)
        self._step_number = 0
        return self._observation(self._trajectory), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Say where one is; return the next displacement (the last one again at the end).

        Raises:
            ValueError: an action that is no position.
            RuntimeError: the episode is over, or was never started.
        """
        if self._trajectory is None or self._step_number == self.num_steps:
            raise RuntimeError("no episode is under way: call reset() first")
        answer = np.asarray(action, dtype=np.float64)
        if answer.shape != (2,) or not np.isfinite(answer).all():
            raise ValueError(f"action is {action}, expected a position (x, y) in m, finite")
        position = self._trajectory.targets[self._step_number, 0]
        self._step_number += 1
        reward = -float(np.linalg.norm(answer - position))
        terminated = self._step_number == self.num_steps
        return self._observation(self._trajectory), reward, terminated, False, {"position": position}

    def _observation(self, trajectory: Trajectories) -> dict[str, np.ndarray]:
        shown = min(self._step_number, self.num_steps - 1)
        parts = {"displacement": trajectory.inputs[shown, 0], "start": trajectory.start[0]}
        return {name: part.astype(np.float32) for name, part in parts.items()}


gymnasium.register(ENV_ID, entry_point="iclr_repro.reactivation_rnn.env:PathIntegrationEnv")
