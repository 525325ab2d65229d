"""ME-Nash-QL for two-player zero-sum Markov games (sheet 3.1-3.3; a reconstruction, see `bounds`).

Shape letters: H = steps, S = states, A, B = actions of the max and the min player, R = runs.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int

from iclr_repro.me_nash_ql.bonuses import BonusConstants
from iclr_repro.me_nash_ql.bounds import BoundRules, ValueBounds
from iclr_repro.me_nash_ql.self_play import MinGapLearner, check_distributions, visited_cells


class MENashQL(MinGapLearner):
    """ME-Nash-QL: optimistic self-play in memory O(S A B H) that returns one Markov policy for each player.

    At step h of an episode, in state s:

        (4)     (a, b) ~ pi_h(s), jointly; see r, s'
        (5-12)  bounds of Q_h(s, a, b) from the visit                             `ValueBounds.observe`
        (13)    pi_h(s) <- CCE( Qu_h(s), Ql_h(s) )                                 `solve_cce`
        (14-19) Vu_h(s), Vl_h(s) = E_pi Qu, E_pi Ql, then the reference           `ValueBounds.settle`

    and after each episode the marginals of pi are kept if the gap (Vu_1 - Vl_1)(s_1) is the smallest so far.

    Args:
        shape: (H, S, A, B), the shape of the game's rewards.
        num_runs: R independent runs, advanced together.
        constants: of the bonuses; arrays [R] give every run its own.
        rules: the options of the tables.
        backend: of `solve_cce`.
        objective: of `solve_cce`: "gap", the equilibrium with the smallest gap, or "any".
        start_state: s_1.

    Attributes:
        bounds: the tables of lines 5-19.
        policy: [R, H, S, A, B] pi, uniform at first.

    With `rules.self_healing` the certificate is withdrawn where an entry heals (the smallest gap goes back to H), since
    the healed entry proves that it need not hold.

    Raises:
        ValueError: a size, name or constant is out of range.

    Source: sheet 3.1-3.3, Algorithms 1 and 2 of the paper.
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        *,
        num_runs: int = 1,
        constants: BonusConstants | None = None,
        rules: BoundRules | None = None,
        backend: str = "simplex",
        objective: str = "gap",
        start_state: int = 0,
    ) -> None:
        super().__init__(shape, num_runs=num_runs, start_state=start_state, backend=backend, objective=objective)
        horizon, num_states, num_max, num_min = shape
        self.bounds = ValueBounds(
            (horizon, num_states, num_max * num_min),
            num_players=1,
            num_runs=num_runs,
            constants=constants or BonusConstants(),
            rules=rules or BoundRules(),
        )

    def play_policy(self, h: int, s: Int[np.ndarray, " R"]) -> Float64[np.ndarray, "R A B"]:
        """The equilibrium of the present bounds, as of the last visit; drawn from jointly, not from the marginals."""
        return self.policy[np.arange(self.num_runs), h, s]

    def update(
        self,
        h: int,
        s: Int[np.ndarray, " R"],
        a: Int[np.ndarray, " R"],
        b: Int[np.ndarray, " R"],
        reward: Float64[np.ndarray, " R"],
        next_state: Int[np.ndarray, " R"],
        pi: Float64[np.ndarray, "R A B"] | None = None,
    ) -> None:
        """Lines 5-19 for one step of every run; the steps of an episode must come in order, h = 0 first.

        Args:
            h: the step, from 0.
            s: states.
            a: actions of the max player.
            b: actions of the min player.
            reward: r, in [0, 1].
            next_state: s'.
            pi: policy to put in the place of the equilibrium of line 13, to replay a recorded run; then no equilibrium
                is solved.

        Raises:
            ValueError: a step, state or action does not exist, a reward is outside [0, 1], `pi` is no distribution.
        """
        cells = visited_cells(self.shape, h, s, (a, b), reward, next_state, num_runs=self.num_runs)
        if pi is not None:
            check_distributions(pi, (self.num_runs, *self.shape[2:]))
        healed = self.bounds.observe(h, cells, reward[None], next_state)
        runs = np.arange(self.num_runs)
        if pi is None:
            upper, lower = self.bounds.q[:, 0, runs, h, s].reshape(2, self.num_runs, *self.shape[2:])
            pi = self._equilibria(upper, lower)
        self.policy[runs, h, s] = pi
        self.bounds.settle(h, s, pi.reshape(self.num_runs, -1))
        self._output.withdraw(healed)

    def end_episode(self) -> None:
        """Keep the marginals of pi if the gap at s_1 is the smallest so far."""
        self._keep_if_best()

    def value_bounds(self) -> tuple[Float64[np.ndarray, "R H1 S"], Float64[np.ndarray, "R H1 S"]]:
        """Vu and Vl, the zero row at h = H included; not copies."""
        return self.bounds.v[0, 0], self.bounds.v[1, 0]

    def tables(self) -> dict[str, np.ndarray]:
        """All live arrays by name; not copies."""
        return {**self.bounds.tables(), "policy": self.policy, **self._output.tables()}
