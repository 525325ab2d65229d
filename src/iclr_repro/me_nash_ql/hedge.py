"""Approximate coarse correlated equilibria by no-regret play, in memory O(A B).

Shape letters: N = games, A, B = actions of the max and the min player, K = actions of either.
"""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
import torch

MAX_ROUNDS = 100_000
_FIRST_VARIATION = 0.1


def hedge(upper_NAB: Any, lower_NAB: Any, *, tolerance: float) -> Any:
    """Let two optimistic hedge players play each game, and return the time average of their joint play.

    Against the other's policy y_t the max player's actions would have paid u_t(a) = sum_b y_t(b) Qu(a, b). It plays

        x_{t+1}(a) ~ exp( eta_t (u_1 + .. + u_t + u_t)(a) ),
        eta_t = sqrt( log A / (0.1 + |u_2 - u_1|^2 + .. + |u_t - u_{t-1}|^2) )

    with the largest entry as the norm; the min player does the same with -Ql. The average of x_t(a) y_t(b) violates the
    constraints of a CCE by 1/t times the larger of the two regrets: at most of the order of sqrt(log A / t), and of 1/t
    once play settles. Play ends when no game violates them by more than the tolerance (0.001: some 1000 rounds).

    Args:
        upper_NAB: Qu, numpy array or torch tensor, float64, scaled to [0, 1].
        lower_NAB: Ql, of the same kind, scaled to [0, 1].
        tolerance: above 0.

    Returns:
        [N, A, B], of the same kind.

    Raises:
        ValueError: the tolerance is not positive, or not reached in 100,000 rounds.

    Source: sheet 3.4, back-end `hedge`. The step sizes are ours: optimistic hedge of Rakhlin and Sridharan (2013).
    """
    if tolerance <= 0:
        raise ValueError(f"tolerance is {tolerance}, expected a positive share of the range of the payoffs")
    max_player, min_player = _Player(upper_NAB[:, :, 0]), _Player(lower_NAB[:, 0, :])
    joint_NAB = 0.0 * upper_NAB
    for num_rounds in range(1, MAX_ROUNDS + 1):
        x_NA, y_NB = max_player.policy(), min_player.policy()
        joint_NAB += x_NA[:, :, None] * y_NB[:, None, :]
        regret_max_N = max_player.regret_after(x_NA, (upper_NAB @ y_NB[:, :, None])[:, :, 0])
        regret_min_N = min_player.regret_after(y_NB, -(x_NA[:, None, :] @ lower_NAB)[:, 0])
        within = tolerance * num_rounds
        if (regret_max_N <= within).all() and (regret_min_N <= within).all():
            return joint_NAB / num_rounds
    reached = max(float(regret_max_N.max()), float(regret_min_N.max())) / MAX_ROUNDS
    raise ValueError(
        f"hedge reached a violation of {reached:.2g} in {MAX_ROUNDS} rounds, not the tolerance {tolerance:g}: "
        "ask for less, or take the backend 'simplex'"
    )


class _Player:
    """Plays a batch of games at once; keeps the sums that its next policy and its regret depend on."""

    def __init__(self, like_NK: Any) -> None:
        self._xp = torch if isinstance(like_NK, torch.Tensor) else np
        self._sum_NK = 0.0 * like_NK
        self._last_NK: Any = None
        self._earned_N = 0.0 * like_NK[:, 0]
        self._variation_N = _FIRST_VARIATION + self._earned_N

    def policy(self) -> Any:
        xp = self._xp
        eta_N = (log(self._sum_NK.shape[1]) / self._variation_N) ** 0.5
        scores_NK = eta_N[:, None] * (self._sum_NK + (0.0 if self._last_NK is None else self._last_NK))
        weights_NK = xp.exp(scores_NK - xp.amax(scores_NK, axis=1)[:, None])
        return weights_NK / weights_NK.sum(axis=1)[:, None]

    def regret_after(self, policy_NK: Any, payoffs_NK: Any) -> Any:
        xp = self._xp
        if self._last_NK is not None:
            self._variation_N += xp.amax(xp.abs(payoffs_NK - self._last_NK), axis=1) ** 2
        self._sum_NK += payoffs_NK
        self._last_NK = payoffs_NK
        self._earned_N += (policy_NK * payoffs_NK).sum(axis=1)
        return xp.amax(self._sum_NK, axis=1) - self._earned_N
