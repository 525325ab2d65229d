"""Baselines that keep an empirical model and plan in it: Nash-VI and plug-in (sheet 6, B2 and B6).

Shape letters: X = 2 sides (0 upper, 1 lower), R = runs, H = steps, S = states, A, B = actions of the max and the min
player, N = next states.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int

from iclr_repro.me_nash_ql.bonuses import per_run
from iclr_repro.me_nash_ql.bounds import initial_top
from iclr_repro.me_nash_ql.exact import solve_matrix_games
from iclr_repro.me_nash_ql.self_play import (
    MarkovPolicies,
    MinGapLearner,
    SelfPlayLearner,
    uniform_policy,
    visited_cells,
)

_SIGNS_X1111 = np.array([1.0, -1.0]).reshape(2, 1, 1, 1, 1)


class EmpiricalModel:
    """Counts of the transitions seen, and the rewards, which are deterministic: R runs at once.

    Attributes:
        counts: int64 [R, H, S, A, B, N], O(H S^2 A B).
        rewards: [R, H, S, A, B] as last seen; 0 before the first visit.
    """

    def __init__(self, shape: tuple[int, int, int, int], *, num_runs: int) -> None:
        self.counts = np.zeros((num_runs, *shape, shape[1]), dtype=np.int64)
        self.rewards = np.zeros((num_runs, *shape))

    def observe(self, cells_R: np.ndarray, reward_R: np.ndarray, next_state_R: np.ndarray) -> None:
        """Take in one visit of each run; `cells` are flat indices into `rewards`."""
        self.counts.reshape(self.rewards.size, -1)[cells_R, next_state_R] += 1
        self.rewards.reshape(-1)[cells_R] = reward_R

    def stage(self, h: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Visits [R, S, A, B], frequencies of the next state [R, S, A, B, N] (0 unvisited), rewards [R, S, A, B]."""
        counts_RSABN = self.counts[:, h]
        visits_RSAB = counts_RSABN.sum(axis=-1)
        return visits_RSAB, counts_RSABN / np.maximum(visits_RSAB, 1)[..., None], self.rewards[:, h]

    def tables(self) -> dict[str, np.ndarray]:
        """All arrays by name; not copies."""
        return {"counts": self.counts, "rewards": self.rewards}


class NashVI(MinGapLearner):
    """B2: optimistic Nash value iteration on the empirical model.

    After every `plan_every` episodes, for h = H..1 and all (s, a, b) with n > 0 visits and frequencies P^:

        gamma = (c_g / H) P^ (Vu - Vl)
        beta = c sqrt(H^2 iota / n) + c2 H^2 S iota / n            (bonus "hoeffding")
        beta = c sqrt(Var_P^[(Vu + Vl) / 2] iota / n) + c2 H^2 S iota / n      ("bernstein")
        Qu = min( r + P^ Vu + gamma + beta, top ),   Ql = max( r + P^ Vl - gamma - beta, 0 )
        pi = CCE(Qu, Ql),   Vu, Vl = E_pi Qu, E_pi Ql

    with top and 0 where nothing was seen. One plan solves H S equilibria and stores counts over (h, s, a, b, s').

    With "bernstein" and c2 = 0 the gap is overconfident at practical constants: it is no certificate.

    Args:
        shape: (H, S, A, B), the shape of the game's rewards.
        num_runs: R independent runs, advanced together.
        c: constant of the leading bonus, one number or one a run.
        c2: constant of the lower-order bonus, likewise; 0 leaves that term out.
        c_gap: c_g, likewise.
        iota: the logarithmic factor, likewise.
        bonus: "hoeffding" or "bernstein".
        plan_every: episodes between two plans.
        init: "H" or "H-h", the top.
        backend: of `solve_cce`.
        objective: of `solve_cce`.
        start_state: s_1.

    Raises:
        ValueError: a size, name or constant is out of range.

    Source: sheet 6, B2.
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        *,
        num_runs: int = 1,
        c: float | Float64[np.ndarray, " R"] = 0.1,
        c2: float | Float64[np.ndarray, " R"] = 0.01,
        c_gap: float | Float64[np.ndarray, " R"] = 1.0,
        iota: float | Float64[np.ndarray, " R"] = 1.0,
        bonus: str = "hoeffding",
        plan_every: int = 1,
        init: str = "H",
        backend: str = "simplex",
        objective: str = "gap",
        start_state: int = 0,
    ) -> None:
        super().__init__(shape, num_runs=num_runs, start_state=start_state, backend=backend, objective=objective)
        if bonus not in ("hoeffding", "bernstein"):
            raise ValueError(f"bonus is {bonus!r}, expected 'hoeffding' or 'bernstein'")
        _check_plan_every(plan_every)
        self._bonus = bonus
        self._plan_every = plan_every
        self._c_R, self._c2_R, self._c_gap_R, self._iota_R = (
            per_run(name, value, num_runs) for name, value in (("c", c), ("c2", c2), ("c_gap", c_gap), ("iota", iota))
        )
        self._top_H = initial_top(shape[0], init)
        self.model = EmpiricalModel(shape, num_runs=num_runs)
        self.v = np.zeros((2, num_runs, shape[0] + 1, shape[1]))
        self.v[0, :, :-1] = self._top_H[:, None]

    def play_policy(self, h: int, s: Int[np.ndarray, " R"]) -> Float64[np.ndarray, "R A B"]:
        """The equilibrium of the last plan."""
        return self.policy[np.arange(self.num_runs), h, s]

    def update(
        self,
        h: int,
        s: Int[np.ndarray, " R"],
        a: Int[np.ndarray, " R"],
        b: Int[np.ndarray, " R"],
        reward: Float64[np.ndarray, " R"],
        next_state: Int[np.ndarray, " R"],
    ) -> None:
        """Count one step of every run."""
        self.model.observe(
            visited_cells(self.shape, h, s, (a, b), reward, next_state, num_runs=self.num_runs), reward, next_state
        )

    def end_episode(self) -> None:
        """Plan when it is time, and keep the marginals of pi if the gap at s_1 is the smallest so far."""
        if (self.episodes + 1) % self._plan_every == 0:
            self._plan()
        self._keep_if_best()

    def value_bounds(self) -> tuple[Float64[np.ndarray, "R H1 S"], Float64[np.ndarray, "R H1 S"]]:
        """Vu and Vl of the last plan, the zero row at h = H included; not copies."""
        return self.v[0], self.v[1]

    def tables(self) -> dict[str, np.ndarray]:
        """All live arrays by name; not copies."""
        return {
            **self.model.tables(),
            "v": self.v,
            "policy": self.policy,
            "top": self._top_H,
            "c": self._c_R,
            "c2": self._c2_R,
            "c_gap": self._c_gap_R,
            "iota": self._iota_R,
            **self._output.tables(),
        }

    def _plan(self) -> None:
        horizon = self.shape[0]
        for h in reversed(range(horizon)):
            visits_RSAB, frequencies_RSABN, rewards_RSAB = self.model.stage(h)
            next_XRSAB = _expected(frequencies_RSABN, self.v[:, :, h + 1])
            beta_RSAB = self._stage_bonus(visits_RSAB, frequencies_RSABN, self.v[:, :, h + 1])
            gamma_RSAB = _of_runs(self._c_gap_R) / horizon * (next_XRSAB[0] - next_XRSAB[1])
            q_XRSAB = rewards_RSAB + next_XRSAB + _SIGNS_X1111 * (gamma_RSAB + beta_RSAB)
            unseen_RSAB = visits_RSAB == 0
            upper = np.where(unseen_RSAB, self._top_H[h], np.minimum(q_XRSAB[0], self._top_H[h]))
            lower = np.where(unseen_RSAB, 0.0, np.maximum(q_XRSAB[1], 0.0))
            policy = self._equilibria(upper, lower)
            self.policy[:, h] = policy
            self.v[0, :, h] = (policy * upper).sum(axis=(2, 3))
            self.v[1, :, h] = (policy * lower).sum(axis=(2, 3))

    def _stage_bonus(self, visits_RSAB: np.ndarray, frequencies_RSABN: np.ndarray, v_XRN: np.ndarray) -> np.ndarray:
        """Beta [R, S, A, B]; meaningless where nothing was seen."""
        horizon, num_states = self.shape[:2]
        n_RSAB = np.maximum(visits_RSAB, 1)
        iota = _of_runs(self._iota_R)
        if self._bonus == "hoeffding":
            variance = np.full(n_RSAB.shape, float(horizon**2))
        else:
            middle_RN = v_XRN.mean(axis=0)
            first, second = _expected(frequencies_RSABN, np.stack([middle_RN, middle_RN**2]))
            variance = np.maximum(second - first**2, 0.0)
        lower_order = _of_runs(self._c2_R) * horizon**2 * num_states * iota / n_RSAB
        return _of_runs(self._c_R) * np.sqrt(variance * iota / n_RSAB) + lower_order


class PlugIn(SelfPlayLearner):
    """B6: explore uniformly, solve the empirical model exactly; no optimism and no certificate.

    Very strong on dense random games, where uniform play sees everything; it fails where exploration is hard. What was
    never seen counts as reward 1/2 and a uniform next state, a choice of ours: the sheet leaves it open.

    Args:
        shape: (H, S, A, B), the shape of the game's rewards.
        num_runs: R independent runs, advanced together.
        plan_every: episodes between two plans. A plan solves H S matrix games; the ledger counts them as equilibria.
        start_state: s_1.

    Raises:
        ValueError: a size is out of range.

    Source: sheet 6, B6.
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        *,
        num_runs: int = 1,
        plan_every: int = 1,
        start_state: int = 0,
    ) -> None:
        super().__init__(shape, num_runs=num_runs, start_state=start_state)
        _check_plan_every(plan_every)
        self._plan_every = plan_every
        self.model = EmpiricalModel(shape, num_runs=num_runs)
        self.v = np.zeros((num_runs, shape[0] + 1, shape[1]))
        self._policies = MarkovPolicies.marginals(uniform_policy(shape, num_runs=num_runs))

    def play_policy(self, h: int, s: Int[np.ndarray, " R"]) -> Float64[np.ndarray, "R A B"]:
        """The uniform policy."""
        num_max, num_min = self.shape[2:]
        return np.full((self.num_runs, num_max, num_min), 1.0 / (num_max * num_min))

    def update(
        self,
        h: int,
        s: Int[np.ndarray, " R"],
        a: Int[np.ndarray, " R"],
        b: Int[np.ndarray, " R"],
        reward: Float64[np.ndarray, " R"],
        next_state: Int[np.ndarray, " R"],
    ) -> None:
        """Count one step of every run."""
        self.model.observe(
            visited_cells(self.shape, h, s, (a, b), reward, next_state, num_runs=self.num_runs), reward, next_state
        )

    def end_episode(self) -> None:
        """Plan when it is time."""
        if (self.episodes + 1) % self._plan_every == 0:
            self._plan()
        self.episodes += 1

    def value_bounds(self) -> tuple[Float64[np.ndarray, "R H1 S"], Float64[np.ndarray, "R H1 S"]]:
        """The model's Nash value on both sides: an estimate, no bound; not copies."""
        return self.v, self.v

    def current(self) -> MarkovPolicies:
        """The model's Nash equilibrium; uniform before the first plan; no copies."""
        return self._policies

    def output(self) -> MarkovPolicies:
        """The same."""
        return self._policies

    def best_gap(self) -> Float64[np.ndarray, " R"]:
        """H: there is no certificate."""
        return np.full(self.num_runs, float(self.shape[0]))

    def tables(self) -> dict[str, np.ndarray]:
        """All live arrays by name; not copies."""
        return {**self.model.tables(), "v": self.v, "mu": self._policies.mu, "nu": self._policies.nu}

    def _plan(self) -> None:
        horizon, num_states = self.shape[:2]
        for h in reversed(range(horizon)):
            visits_RSAB, frequencies_RSABN, rewards_RSAB = self.model.stage(h)
            unseen_RSAB = visits_RSAB == 0
            frequencies_RSABN[unseen_RSAB] = 1.0 / num_states
            q_RSAB = np.where(unseen_RSAB, 0.5, rewards_RSAB) + _expected(frequencies_RSABN, self.v[None, :, h + 1])[0]
            solution = solve_matrix_games(q_RSAB)
            self.cce_solves += q_RSAB[..., 0, 0].size // self.num_runs
            self.v[:, h] = solution.values
            self._policies.mu[:, h] = solution.max_policies
            self._policies.nu[:, h] = solution.min_policies


def _check_plan_every(plan_every: int) -> None:
    """Refuse a planning interval below one episode.

    Raises:
        ValueError: it is.
    """
    if plan_every < 1:
        raise ValueError(f"plan_every is {plan_every}, expected >= 1 episodes")


def _expected(frequencies_RSABN: np.ndarray, values_XRN: np.ndarray) -> np.ndarray:
    """[X, R, S, A, B] expected values of the next state."""
    return np.einsum("rsabn,xrn->xrsab", frequencies_RSABN, values_XRN, optimize=True)


def _of_runs(values_R: np.ndarray) -> np.ndarray:
    """[R, 1, 1, 1], to go with [R, S, A, B]."""
    return values_R[:, None, None, None]
