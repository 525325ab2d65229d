"""Model-free methods that ME-Nash-QL is compared with: Nash-Q and V-learning (sheet 6, B1, B3 and B5).

The stage-based method of Feng et al. (B4), which has the same rate, is left out: the sheet does not give its bonus, and
its reference freezes only after some S A B H^5 / beta^2 visits of a state: no run of a few thousand episodes sees it.

Shape letters: X = 2 sides (0 upper, 1 lower), R = runs, H = steps, S = states, A, B = actions of the max and the min
player, C = cells (h, s) of all runs.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int
from scipy.special import softmax

from iclr_repro.me_nash_ql.bonuses import hoeffding_bonus, learning_rate, per_run
from iclr_repro.me_nash_ql.bounds import initial_top
from iclr_repro.me_nash_ql.certified import ActionMixture, StateMixture, VisitHistory
from iclr_repro.me_nash_ql.games import MarkovGame
from iclr_repro.me_nash_ql.self_play import MarkovPolicies, MinGapLearner, SelfPlayLearner, visited_cells

_SIGNS_X1 = np.array([1.0, -1.0])[:, None]


class NashQ(MinGapLearner):
    """B1: optimistic Nash-Q-learning; with `explore="uniform"` B5, the lower bar that does not explore by optimism.

        Qu <- (1 - eta) Qu + eta ( r + Vu(s') + c sqrt(H^3 iota / n) ),   Ql likewise with - c,   clipped to [0, top]
        pi <- CCE(Qu, Ql),   Vu, Vl = E_pi Qu, E_pi Ql

    There is no minimum with the past, so that a bound which was wrong heals. As a Markov policy it offers its last
    iterate (`current`) and the one with the smallest gap (`output`); neither is what its theory certifies, see
    `certified`.

    Args:
        shape: (H, S, A, B), the shape of the game's rewards.
        num_runs: R independent runs, advanced together.
        c: constant of the bonus, one number or one a run.
        iota: the logarithmic factor, likewise.
        init: "H" or "H-h", the upper bound at first and the top of the clipping.
        explore: draw actions from pi ("optimistic") or uniformly ("uniform").
        keep_history: keep what playing the certified mixture needs, O(T (A + B)).
        certify_in: the game, to compute the certified mixture's exploitability (`mixture`); learning does not see it.
        backend: of `solve_cce`.
        objective: of `solve_cce`.
        start_state: s_1.

    Raises:
        ValueError: a size, name or constant is out of range.

    Source: sheet 6, B1 and B5.
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        *,
        num_runs: int = 1,
        c: float | Float64[np.ndarray, " R"] = 0.2,
        iota: float | Float64[np.ndarray, " R"] = 1.0,
        init: str = "H",
        explore: str = "optimistic",
        keep_history: bool = False,
        certify_in: MarkovGame | None = None,
        backend: str = "simplex",
        objective: str = "gap",
        start_state: int = 0,
    ) -> None:
        super().__init__(shape, num_runs=num_runs, start_state=start_state, backend=backend, objective=objective)
        if explore not in ("optimistic", "uniform"):
            raise ValueError(f"explore is {explore!r}, expected 'optimistic' or 'uniform'")
        self._explore = explore
        self._c_R = per_run("c", c, num_runs)
        self._iota_R = per_run("iota", iota, num_runs)
        self._top_H = initial_top(shape[0], init)
        self.q = np.zeros((2, num_runs, *shape))
        self.q[0] = self._top_H[:, None, None, None]
        self.v = np.zeros((2, num_runs, shape[0] + 1, shape[1]))
        self.v[0, :, :-1] = self._top_H[:, None]
        self.visits = np.zeros((num_runs, *shape), dtype=np.int64)
        self.history = VisitHistory() if keep_history else None
        self.mixture = ActionMixture(certify_in, num_runs) if certify_in is not None else None

    def play_policy(self, h: int, s: Int[np.ndarray, " R"]) -> Float64[np.ndarray, "R A B"]:
        """The equilibrium of the present bounds, as of the last visit, or the uniform policy."""
        policy = self.policy[np.arange(self.num_runs), h, s]
        return policy if self._explore == "optimistic" else np.full_like(policy, 1.0 / policy[0].size)

    def update(
        self,
        h: int,
        s: Int[np.ndarray, " R"],
        a: Int[np.ndarray, " R"],
        b: Int[np.ndarray, " R"],
        reward: Float64[np.ndarray, " R"],
        next_state: Int[np.ndarray, " R"],
    ) -> None:
        """Learn from one step of every run; the steps of an episode come in order, h = 0 first."""
        cells = visited_cells(self.shape, h, s, (a, b), reward, next_state, num_runs=self.num_runs)
        runs = np.arange(self.num_runs)
        n_R = self.visits.reshape(-1)[cells] + 1
        eta_R = learning_rate(n_R, self.shape[0])
        bonus_XR = _SIGNS_X1 * hoeffding_bonus(n_R, self.shape[0], c0=self._c_R, iota=self._iota_R)
        target_XR = reward + self.v[:, runs, h + 1, next_state] + bonus_XR
        entries = self.q.reshape(2, -1)
        entries[:, cells] = np.clip((1.0 - eta_R) * entries[:, cells] + eta_R * target_XR, 0.0, self._top_H[h])
        self.visits.reshape(-1)[cells] = n_R

        q_XRAB = self.q[:, runs, h, s]
        policy = self._equilibria(*q_XRAB)
        self.policy[runs, h, s] = policy
        self.v[:, runs, h, s] = (policy * q_XRAB).sum(axis=(2, 3))
        mu, nu = policy.sum(axis=2), policy.sum(axis=1)
        if self.history is not None:
            self.history.append(cells, mu, nu)
        if isinstance(self.mixture, ActionMixture):
            self.mixture.visit(h, s, a, b, n_R, mu, nu)

    def end_episode(self) -> None:
        """Keep the marginals of pi if the gap at s_1 is the smallest so far."""
        self._keep_if_best()

    def value_bounds(self) -> tuple[Float64[np.ndarray, "R H1 S"], Float64[np.ndarray, "R H1 S"]]:
        """Vu and Vl, the zero row at h = H included; not copies."""
        return self.v[0], self.v[1]

    def tables(self) -> dict[str, np.ndarray]:
        """All live arrays of fixed size by name; not copies."""
        return {
            "q": self.q,
            "v": self.v,
            "visits": self.visits,
            "policy": self.policy,
            "top": self._top_H,
            "c": self._c_R,
            "iota": self._iota_R,
            **self._output.tables(),
        }


class VLearning(SelfPlayLearner):
    """B3: V-learning; each player runs an adversarial bandit at every (h, s) and never sees the other's actions.

    At each visit, t visits of (h, s) so far, with eta = (H + 1) / (H + t) and g = sqrt(H log A / (A t)):

        V1~ <- (1 - eta) V1~ + eta ( r + V1(s') + c sqrt(H^3 A iota / t) ),      V1 = min(H - h, V1~)
        loss = (H - h - r - V1(s')) / H,     L(a') <- (1 - eta) L(a') + eta loss 1[a' = a] / (mu(a) + g)
        mu ∝ exp( -(g / eta) L )

    with h from 0; the min player is the mirror image, with B, V2 <- max(0, ... - bonus) and loss (r + V2(s')) / H. Its
    policies certify nothing by themselves, neither the last ones (`output`) nor by the gap V1 - V2; what is certified
    is the mixture over all episodes, see `certified`.

    Args:
        shape: (H, S, A, B), the shape of the game's rewards.
        num_runs: R independent runs, advanced together.
        c: constant of the bonus, one number or one a run.
        iota: the logarithmic factor, likewise.
        keep_history: keep what playing the certified mixture needs, O(T (A + B)).
        certify_in: the game, to compute the certified mixture's exploitability (`mixture`); learning does not see it.
        start_state: s_1.

    Raises:
        ValueError: a size or constant is out of range.

    Source: sheet 6, B3.
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        *,
        num_runs: int = 1,
        c: float | Float64[np.ndarray, " R"] = 0.2,
        iota: float | Float64[np.ndarray, " R"] = 1.0,
        keep_history: bool = True,
        certify_in: MarkovGame | None = None,
        start_state: int = 0,
    ) -> None:
        super().__init__(shape, num_runs=num_runs, start_state=start_state)
        horizon, num_states, num_max, num_min = shape
        self._c_R = per_run("c", c, num_runs)
        self._iota_R = per_run("iota", iota, num_runs)
        self._running_v = np.zeros((2, num_runs, horizon, num_states))
        self.v = np.zeros((2, num_runs, horizon + 1, num_states))
        self.v[0, :, :-1] = initial_top(horizon, "H-h")[:, None]
        self.visits = np.zeros((num_runs, horizon, num_states), dtype=np.int64)
        self.mu = np.full((num_runs, horizon, num_states, num_max), 1.0 / num_max)
        self.nu = np.full((num_runs, horizon, num_states, num_min), 1.0 / num_min)
        self._loss_max = np.zeros_like(self.mu)
        self._loss_min = np.zeros_like(self.nu)
        self.history = VisitHistory() if keep_history else None
        self.mixture = StateMixture(certify_in, num_runs) if certify_in is not None else None

    def play_policy(self, h: int, s: Int[np.ndarray, " R"]) -> Float64[np.ndarray, "R A B"]:
        """The product of both players' policies: they draw independently."""
        runs = np.arange(self.num_runs)
        return self.mu[runs, h, s][:, :, None] * self.nu[runs, h, s][:, None, :]

    def update(
        self,
        h: int,
        s: Int[np.ndarray, " R"],
        a: Int[np.ndarray, " R"],
        b: Int[np.ndarray, " R"],
        reward: Float64[np.ndarray, " R"],
        next_state: Int[np.ndarray, " R"],
    ) -> None:
        """Learn from one step of every run; the steps of an episode come in order, h = 0 first."""
        horizon, num_states, num_max, num_min = self.shape
        cells = visited_cells(self.shape, h, s, (a, b), reward, next_state, num_runs=self.num_runs) // (
            num_max * num_min
        )
        runs = np.arange(self.num_runs)
        n_R = self.visits.reshape(-1)[cells] + 1
        eta_R = learning_rate(n_R, horizon)
        if self.history is not None:
            self.history.append(cells, self.mu[runs, h, s], self.nu[runs, h, s])
        if isinstance(self.mixture, StateMixture):
            self.mixture.visit(h, s, n_R, self.mu[runs, h, s], self.nu[runs, h, s])

        next_XR = self.v[:, runs, h + 1, next_state]
        num_own_X1 = np.array([[num_max], [num_min]])
        bonus_XR = _SIGNS_X1 * hoeffding_bonus(n_R, horizon, c0=self._c_R, iota=num_own_X1 * self._iota_R)
        running = self._running_v.reshape(2, -1)
        running_XR = (1.0 - eta_R) * running[:, cells] + eta_R * (reward + next_XR + bonus_XR)
        running[:, cells] = running_XR
        self.visits.reshape(-1)[cells] = n_R
        self.v[0, runs, h, s] = np.minimum(running_XR[0], horizon - h)
        self.v[1, runs, h, s] = np.maximum(running_XR[1], 0.0)

        num_cells = self.num_runs * horizon * num_states
        for policy, losses, action, loss_R in (
            (self.mu, self._loss_max, a, (horizon - h - reward - next_XR[0]) / horizon),
            (self.nu, self._loss_min, b, (reward + next_XR[1]) / horizon),
        ):
            _bandit_step(
                policy.reshape(num_cells, -1), losses.reshape(num_cells, -1), cells, action, loss_R, n_R, horizon
            )

    def end_episode(self) -> None:
        """Count the episode."""
        self.episodes += 1

    def value_bounds(self) -> tuple[Float64[np.ndarray, "R H1 S"], Float64[np.ndarray, "R H1 S"]]:
        """V1 and V2, the zero row at h = H included; not copies. Bounds of the mixture's value, not of `current`'s."""
        return self.v[0], self.v[1]

    def current(self) -> MarkovPolicies:
        """The policies of the last iterate."""
        return MarkovPolicies(self.mu, self.nu)

    def output(self) -> MarkovPolicies:
        """The last iterate, too: the certified mixture is no Markov policy."""
        return self.current()

    def best_gap(self) -> Float64[np.ndarray, " R"]:
        """H: the last iterate comes with no certificate."""
        return np.full(self.num_runs, float(self.shape[0]))

    def tables(self) -> dict[str, np.ndarray]:
        """All live arrays of fixed size by name; not copies."""
        return {
            "v": self.v,
            "running_v": self._running_v,
            "visits": self.visits,
            "mu": self.mu,
            "nu": self.nu,
            "loss_max": self._loss_max,
            "loss_min": self._loss_min,
            "c": self._c_R,
            "iota": self._iota_R,
        }


def _bandit_step(
    policy_CA: np.ndarray,
    losses_CA: np.ndarray,
    cells_R: np.ndarray,
    action_R: np.ndarray,
    loss_R: np.ndarray,
    n_R: np.ndarray,
    horizon: int,
) -> None:
    """Follow the regularised leader with one more loss, in place, at one cell of each run."""
    num_actions = policy_CA.shape[1]
    eta_R = learning_rate(n_R, horizon)
    rate_R = np.sqrt(horizon * np.log(num_actions) / (num_actions * n_R))
    losses_RA = (1.0 - eta_R)[:, None] * losses_CA[cells_R]
    losses_RA[np.arange(len(cells_R)), action_R] += eta_R * loss_R / (policy_CA[cells_R, action_R] + rate_R)
    losses_CA[cells_R] = losses_RA
    policy_CA[cells_R] = softmax(-(rate_R / eta_R)[:, None] * losses_RA, axis=1)
