"""Finite two-player zero-sum Markov games, given as dense arrays.

Shapes in this package: H = steps of an episode, S = states, A = actions of the max player, B = actions of the min
player. Steps, states and actions count from 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

SUM_TOLERANCE = 1e-9
"""How far the probabilities of a distribution may be from adding up to one."""


@dataclass(frozen=True, eq=False)
class MarkovGame:
    """A finite-horizon two-player zero-sum Markov game with simultaneous moves.

    At step h and state s the max player picks a and, at the same time, the min player picks b. The max player gets
    rewards[h, s, a, b], the min player its negative, and the next state is drawn from transitions[h, s, a, b].

    The arrays become read-only views in float64, not copies: a stationary game may give one stage broadcast over the
    steps (`np.broadcast_to`) and take the memory of that stage.

    Attributes:
        transitions: [H, S, A, B, S] P, probabilities of the next state.
        rewards: [H, S, A, B] r, in [0, 1].
        start_state: s_1, where every episode starts.

    Raises:
        ValueError: shapes that disagree, no step or no state or no action, a row of `transitions` that is not a
            distribution (named by h, s, a, b), a reward outside [0, 1], a start state that does not exist.

    Example: one round of matching pennies is `MarkovGame(np.ones((1, 1, 2, 2, 1)), np.eye(2)[None, None])`.

    Source: sheet 2.
    """

    transitions: np.ndarray
    rewards: np.ndarray
    start_state: int = 0

    def __post_init__(self) -> None:
        transitions = _read_only(self.transitions, "transitions")
        rewards = _read_only(self.rewards, "rewards")
        _check_shapes(transitions, rewards)
        _check_transitions(transitions)
        _check_rewards(rewards)
        if not 0 <= self.start_state < rewards.shape[1]:
            raise ValueError(f"start_state is {self.start_state}, expected one of the states 0..{rewards.shape[1] - 1}")
        object.__setattr__(self, "transitions", transitions)
        object.__setattr__(self, "rewards", rewards)

    @property
    def num_steps(self) -> int:
        """H, the steps of an episode."""
        return int(self.rewards.shape[0])

    @property
    def num_states(self) -> int:
        """S."""
        return int(self.rewards.shape[1])

    @property
    def num_actions_max(self) -> int:
        """A, the actions of the max player."""
        return int(self.rewards.shape[2])

    @property
    def num_actions_min(self) -> int:
        """B, the actions of the min player."""
        return int(self.rewards.shape[3])

    def next_states(
        self,
        step: int,
        *,
        states: Int[np.ndarray, " runs"],
        max_actions: Int[np.ndarray, " runs"],
        min_actions: Int[np.ndarray, " runs"],
        uniforms: Float[np.ndarray, " runs"],
    ) -> Int[np.ndarray, " runs"]:
        """Draw the next state of independent runs: the first s' whose cumulative probability exceeds the uniform.

        Args:
            step: h, the same for all runs.
            states: of the runs at this step.
            max_actions: of the max player.
            min_actions: of the min player.
            uniforms: in [0, 1), one draw a run; the same draws give the same states.
        """
        cumulative = self.transitions[step, states, max_actions, min_actions].cumsum(axis=1)
        cumulative /= cumulative[:, -1:]  # the last is then 1 exactly, above every uniform
        return np.asarray((cumulative <= uniforms[:, None]).sum(axis=1))


def _read_only(values: np.ndarray, name: str) -> np.ndarray:
    given = np.asarray(values)
    if given.dtype.kind not in "biuf":
        raise ValueError(f"{name} is of dtype {given.dtype}, expected real numbers")
    array = np.asarray(given, dtype=np.float64).view()
    array.flags.writeable = False
    return array


def _check_shapes(transitions: np.ndarray, rewards: np.ndarray) -> None:
    if rewards.ndim != 4:
        raise ValueError(f"rewards has shape {rewards.shape}, expected four axes (H, S, A, B)")
    if 0 in rewards.shape:
        sizes = ", ".join(f"{letter} = {size}" for letter, size in zip("HSAB", rewards.shape, strict=True))
        raise ValueError(
            f"an empty game: {sizes}, expected at least one step, one state and one action for each player"
        )
    expected = (*rewards.shape, rewards.shape[1])
    if transitions.shape != expected:
        raise ValueError(
            f"transitions has shape {transitions.shape}, expected {expected} = (H, S, A, B, S) after the shape "
            f"{rewards.shape} of rewards"
        )


def _check_transitions(transitions: np.ndarray) -> None:
    sums = transitions.sum(axis=-1)
    wrong = ~((np.abs(sums - 1.0) <= SUM_TOLERANCE) & (transitions.min(axis=-1) >= 0.0))  # NaN is wrong, too
    if wrong.any():
        h, s, a, b = (int(index) for index in np.argwhere(wrong)[0])
        row = transitions[h, s, a, b]
        raise ValueError(
            f"transitions[h={h}, s={s}, a={a}, b={b}] is not a distribution: it sums to {row.sum():.12g} and its "
            f"smallest entry is {row.min():.6g} ({int(wrong.sum())} such rows of {wrong.size}); expected entries >= 0 "
            f"with sum 1 up to {SUM_TOLERANCE:g}: divide each row by its sum, in float64"
        )


def _check_rewards(rewards: np.ndarray) -> None:
    wrong = ~((rewards >= 0.0) & (rewards <= 1.0))
    if wrong.any():
        h, s, a, b = (int(index) for index in np.argwhere(wrong)[0])
        raise ValueError(
            f"rewards[h={h}, s={s}, a={a}, b={b}] is {rewards[h, s, a, b]:.6g}, outside [0, 1] "
            f"({int(wrong.sum())} such entries of {wrong.size}): map rewards x from [low, high] to "
            "(x - low) / (high - low)"
        )
