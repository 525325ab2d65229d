"""Any Markov game as a gymnasium environment in which both players move at the same time."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from iclr_repro.me_nash_ql.games import MarkovGame

ENV_ID = "iclr_repro/MarkovGame-v0"


class MarkovGameEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One episode of a Markov game; `gymnasium.make("iclr_repro/MarkovGame-v0", game=game)` makes it.

    An action is the pair (a, b) of the max and the min player, drawn by whoever trains them; an observation is the pair
    (h, s), and the last one has h = H. The reward is the max player's, the min player gets its negative. The episode
    terminates after H steps; it is never truncated.

    Args:
        game: what is played.
    """

    def __init__(self, game: MarkovGame) -> None:
        self.game = game
        self.action_space = gymnasium.spaces.MultiDiscrete([game.num_actions_max, game.num_actions_min])
        self.observation_space = gymnasium.spaces.MultiDiscrete([game.num_steps + 1, game.num_states])
        self._step_number, self._state = game.num_steps, game.start_state

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Go to the start state; a seed also restarts the draws of the next states. There are no options."""
        super().reset(seed=seed)
        self._step_number, self._state = 0, self.game.start_state
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Play the actions (a, b).

        Raises:
            ValueError: an action that does not exist.
            RuntimeError: the episode is over, or was never started.
        """
        if self._step_number == self.game.num_steps:
            raise RuntimeError("no episode is under way: call reset() first")
        pair = np.asarray(action, dtype=np.int64)
        if not self.action_space.contains(pair):
            sizes = self.game.num_actions_max, self.game.num_actions_min
            raise ValueError(f"action is {action}, expected (a, b) with 0 <= a < {sizes[0]} and 0 <= b < {sizes[1]}")
        a, b = pair
        reward = float(self.game.rewards[self._step_number, self._state, a, b])
        next_states = self.game.next_states(
            self._step_number,
            states=np.array([self._state]),
            max_actions=pair[:1],
            min_actions=pair[1:],
            uniforms=self.np_random.random(1),
        )
        self._step_number, self._state = self._step_number + 1, int(next_states[0])
        return self._observation(), reward, self._step_number == self.game.num_steps, False, {}

    def _observation(self) -> np.ndarray:
        return np.array([self._step_number, self._state])


gymnasium.register(ENV_ID, entry_point="iclr_repro.me_nash_ql.env:MarkovGameEnv")
