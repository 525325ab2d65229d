"""The certified mixtures of V-learning and Nash-Q: their history, and their exact value under the model (sheet 6).

Neither method outputs one Markov policy with a guarantee. What is certified is a mixture: an episode is drawn at
random, its policy is played for one step, then an earlier visit of the present state (V-learning) or of the state and
both actions (Nash-Q) is drawn with the weights of the learning rate, and the policy of the episode of that visit goes
on. Playing it needs the policies of all visits (`VisitHistory`), O(T (A + B)) numbers.

Its value against an opponent that sees which episode was drawn, an upper bound of its exploitability, obeys the same
recursion as the learner's tables and is computed beside the learning by `StateMixture` and `ActionMixture`, which know
the game. They are instruments of the experimenter and no part of the learner: no policy depends on them, and the ledger
does not count them.

Shape letters: H = steps, S = states, A, B = actions of the max and the min player, R = runs, T = steps of all episodes,
X = 2 best responses: 0 of the max player to the min player's mixture, 1 of the min player to the max player's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from iclr_repro.me_nash_ql.bonuses import learning_rate
from iclr_repro.me_nash_ql.games import MarkovGame


class VisitHistory:
    """The policies that a certified mixture is made of: one record a step, in the order of play.

    Record t belongs to episode t // H and step t % H. It holds the visited cell of each run, an integer that the
    learner defines, and the marginals of both players there.
    """

    def __init__(self) -> None:
        self._cells: list[np.ndarray] = []
        self._policies: list[np.ndarray] = []

    def append(self, cells_R: np.ndarray, mu_RA: np.ndarray, nu_RB: np.ndarray) -> None:
        """Keep one step of all runs."""
        self._cells.append(cells_R.copy())
        self._policies.append(np.concatenate([mu_RA, nu_RB], axis=1))

    @property
    def num_bytes(self) -> int:
        """Exact bytes of all records, all runs together."""
        return sum(array.nbytes for array in (*self._cells, *self._policies))

    def arrays(self) -> dict[str, np.ndarray]:
        """Copies: `cells` int64 [T, R] and `policies` float64 [T, R, A + B]; both [0] before the first step."""
        return {
            "cells": np.array(self._cells, dtype=np.int64),
            "policies": np.array(self._policies, dtype=np.float64),
        }

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Restore what `arrays` returned."""
        self._cells = [cells.copy() for cells in arrays["cells"]]
        self._policies = [policies.copy() for policies in arrays["policies"]]


class _Mixture:
    """What both evaluators share: the values of the best responses and their average over episodes."""

    def __init__(self, game: MarkovGame, num_runs: int) -> None:
        self._game = game
        self._w_XRHS = np.zeros((2, num_runs, game.num_steps + 1, game.num_states))
        self._w_XRHS[0] = np.arange(game.num_steps, -1, -1.0)[:, None]
        self._total_R = np.zeros(num_runs)
        self._episodes = np.zeros((), dtype=np.int64)

    def start_episode(self) -> None:
        """Count the episode's policy into the mixture: before its first visit."""
        upper_R, lower_R = self._w_XRHS[:, :, 0, self._game.start_state]
        self._total_R += upper_R - lower_R
        self._episodes += 1

    @property
    def exploitability(self) -> np.ndarray:
        """[R] certified exploitability of the mixture over all episodes so far.

        Raises:
            ValueError: no episode has been played, so that there is no mixture yet.
        """
        if not self._episodes:
            raise ValueError("the mixture over episodes is empty: play an episode first")
        return self._total_R / self._episodes

    def tables(self) -> dict[str, np.ndarray]:
        """All arrays, for checkpoints; not copies."""
        return {"w": self._w_XRHS, "total": self._total_R, "episodes": self._episodes}


class StateMixture(_Mixture):
    """Exact certified exploitability of V-learning's mixture.

    After each visit of (h, s), t visits so far, with mu and nu as played:

        U_h(s, b) <- (1 - eta_t) U_h(s, b) + eta_t sum_a mu(a) [r + P w_{h+1}](s, a, b),   w_h(s) = min_b U_h(s, b)

    and the mirror image for the other side. w = 0 before the first visit (H - h, from 0, on the other side).

    Source: sheet 6, B3.
    """

    def __init__(self, game: MarkovGame, num_runs: int) -> None:
        super().__init__(game, num_runs)
        cells = (num_runs, game.num_steps, game.num_states)
        self._of_max = np.zeros((*cells, game.num_actions_max))
        self._of_min = np.zeros((*cells, game.num_actions_min))

    def visit(self, h: int, s_R: np.ndarray, n_R: np.ndarray, mu_RA: np.ndarray, nu_RB: np.ndarray) -> None:
        """Take in one step of all runs; `n` counts the visits of (h, s) with this one."""
        runs = np.arange(len(self._total_R))
        eta = learning_rate(n_R, self._game.num_steps)[:, None]
        next_RSX = self._w_XRHS[:, :, h + 1].transpose(1, 2, 0)[:, None]
        q_RABX = self._game.rewards[h, s_R][..., None] + self._game.transitions[h, s_R] @ next_RSX
        of_max = (1.0 - eta) * self._of_max[runs, h, s_R] + eta * np.einsum("rb,rab->ra", nu_RB, q_RABX[..., 0])
        of_min = (1.0 - eta) * self._of_min[runs, h, s_R] + eta * np.einsum("ra,rab->rb", mu_RA, q_RABX[..., 1])
        self._of_max[runs, h, s_R] = of_max
        self._of_min[runs, h, s_R] = of_min
        self._w_XRHS[0, runs, h, s_R] = of_max.max(axis=1)
        self._w_XRHS[1, runs, h, s_R] = of_min.min(axis=1)

    def tables(self) -> dict[str, np.ndarray]:
        """All arrays, for checkpoints; not copies."""
        return {**super().tables(), "of_max": self._of_max, "of_min": self._of_min}


class ActionMixture(_Mixture):
    """Exact certified exploitability of Nash-Q's mixture.

    After each visit of (h, s, a, b), n visits so far, with mu and nu the marginals after the update:

        U_h(s, a, b) <- (1 - eta_n) U_h(s, a, b) + eta_n [r + P w_{h+1}](s, a, b)
        w_h(s) = min_b sum_a mu(a) U_h(s, a, b)

    and the mirror image for the other side. U = 0 before the first visit (H - h, from 0, on the other side).

    Source: sheet 6, B1 (the mixture) and B3 (its evaluation), put together by us.
    """

    def __init__(self, game: MarkovGame, num_runs: int) -> None:
        super().__init__(game, num_runs)
        self._u_XRHSAB = np.zeros((2, num_runs, *game.rewards.shape))
        self._u_XRHSAB[0] = np.arange(game.num_steps, 0, -1.0)[:, None, None, None]

    def visit(
        self,
        h: int,
        s_R: np.ndarray,
        a_R: np.ndarray,
        b_R: np.ndarray,
        n_R: np.ndarray,
        mu_RA: np.ndarray,
        nu_RB: np.ndarray,
    ) -> None:
        """Take in one step of all runs; `n` counts the visits of (h, s, a, b) with this one."""
        runs = np.arange(len(self._total_R))
        eta = learning_rate(n_R, self._game.num_steps)
        next_XR = np.einsum("rs,xrs->xr", self._game.transitions[h, s_R, a_R, b_R], self._w_XRHS[:, :, h + 1])
        target_XR = self._game.rewards[h, s_R, a_R, b_R] + next_XR
        at = (slice(None), runs, h, s_R, a_R, b_R)
        self._u_XRHSAB[at] = (1.0 - eta) * self._u_XRHSAB[at] + eta * target_XR
        u_XRAB = self._u_XRHSAB[:, runs, h, s_R]
        self._w_XRHS[0, runs, h, s_R] = np.einsum("rb,rab->ra", nu_RB, u_XRAB[0]).max(axis=1)
        self._w_XRHS[1, runs, h, s_R] = np.einsum("ra,rab->rb", mu_RA, u_XRAB[1]).min(axis=1)

    def tables(self) -> dict[str, np.ndarray]:
        """All arrays, for checkpoints; not copies."""
        return {**super().tables(), "u": self._u_XRHSAB}
