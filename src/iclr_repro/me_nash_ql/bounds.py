"""Optimistic and pessimistic tables of ME-Nash-QL for any number of players (sheet 3.1-3.3).

This is all of the method but the equilibrium: lines 5-12 (`ValueBounds.observe`) estimate Q from a visit, lines 14-19
(`ValueBounds.settle`) follow with V and its reference once the policy at the state is known. Every player has an upper
and a lower side. The zero-sum method keeps one player, since the min player's bounds are the max player's with the
sides exchanged; the general-sum method keeps them all.

The rules are a reconstruction: the parent algorithm for one agent (arXiv 2110.04645), applied to both sides as the
abstract, the theorems and the public reviews of the paper describe it. The paper's own pseudo-code was not available.

Shape letters: X = 2 sides (0 upper, 1 lower), M = players with payoffs of their own, R = runs, H = steps, S = states,
J = joint actions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from iclr_repro.me_nash_ql.bonuses import BonusConstants, Moments, advantage_bonus, hoeffding_bonus, learning_rate

INITIAL_VALUES = ("H", "H-h")
REFERENCE_RULES = ("mono", "text", "freeze", "follow", "never")
EVENTS = ("value_moved_back", "reference_updates", "reference_moved_back", "reference_after_settling", "healed")

_SIGNS_X11 = np.array([1.0, -1.0])[:, None, None]
_ROUNDING = 1e-9
"""A value or reference that moves back by no more than this has not moved."""


@dataclass(frozen=True, kw_only=True)
class BoundRules:
    """The options of ME-Nash-QL's tables; the defaults are those of the sheet.

    Attributes:
        init: initial upper bound: "H", as in the paper, or "H-h", the largest sum of rewards that is left (h from 0),
            tighter and also valid.
        reference: when the reference V^R at (h, s) takes the value V there, as long as it is not settled or, for the
            first two, whenever the gap is above `settle_gap`.
            "text": line 17 as written. It breaks optimism in games: V can rise, and a reference that follows it leaves
            a bias in QR that no bonus covers. This is our reading; the paper's exact line was not available.
            "mono": the same, but the upper reference never rises and the lower one never falls.
            "freeze": no change once settled.
            "follow": always, so that the advantage part vanishes; "never": V^R stays at its initial value. Both are
            ablations.
        settle_gap: the gap V_upper - V_lower at which a reference settles; the paper's is 1.
        monotone_v: let V_upper only fall and V_lower only rise, as the proofs assume. The equilibrium moves, so that
            the plain rule does not ensure it.
        self_healing: put the bounds of an entry back to their initial values when they cross, which proves that
            optimism failed there. The minimum and maximum of lines 11-12 then start anew from the averages, which go
            on and forget by themselves. An addition of ours, not part of the paper.

    Raises:
        ValueError: an unknown name, a `settle_gap` below 0, or `self_healing` with `monotone_v`, under which no value
            could heal.
    """

    init: str = "H"
    reference: str = "mono"
    settle_gap: float = 1.0
    monotone_v: bool = False
    self_healing: bool = False

    def __post_init__(self) -> None:
        _check_known("init", self.init, INITIAL_VALUES)
        _check_known("reference", self.reference, REFERENCE_RULES)
        if not 0.0 <= self.settle_gap < np.inf:  # NaN is wrong, too
            raise ValueError(f"settle_gap is {self.settle_gap}, expected a finite number >= 0")
        if self.self_healing and self.monotone_v:
            raise ValueError("self_healing needs monotone_v=False: a value that may only shrink can not heal")


class ValueBounds:
    """Bounds of Q and V with their references and moments, R runs at once.

    Args:
        shape: (H, S, J).
        num_players: M.
        num_runs: R.
        constants: of the bonuses.
        rules: the options.

    Attributes:
        q: [X, M, R, H, S, J] bounds Q-bar, Q-underbar; the upper never rises, the lower never falls.
        q_hoeffding: the same, Q^UCB and Q^LCB of lines 7-8.
        q_reference: the same, Q^R of 3.3.
        moments: [5, X, M, R, H, S, J], in the order of `Moments`.
        visits: int64 [R, H, S, J] N.
        v: [X, M, R, H + 1, S], zero at h = H.
        v_reference: the same, V^R.
        unsettled: bool [R, H, S] u_ref, True until the reference has settled.
        events: int64 [5, R] counts of what `EVENTS` names: updates at which some V moved away from the other bound,
            updates of a reference, those at which it moved away, those after it had settled, and entries healed.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        num_players: int,
        num_runs: int,
        constants: BonusConstants,
        rules: BoundRules,
    ) -> None:
        horizon, num_states, num_joint = shape
        self._rules = rules
        self._top_H = initial_top(horizon, rules.init)
        self._constants = constants.for_runs(num_runs)
        entries = (num_players, num_runs, horizon, num_states, num_joint)
        self.q = np.zeros((2, *entries))
        self.q[0] = self._top_H[:, None, None]
        self.q_hoeffding = self.q.copy()
        self.q_reference = self.q.copy()
        self.moments = np.zeros((len(Moments._fields), 2, *entries))
        self.visits = np.zeros(entries[1:], dtype=np.int64)
        self.v = np.zeros((2, num_players, num_runs, horizon + 1, num_states))
        self.v[0, :, :, :-1] = self._top_H[:, None]
        self.v_reference = self.v.copy()
        self.unsettled = np.ones((num_runs, horizon, num_states), dtype=bool)
        self.events = np.zeros((len(EVENTS), num_runs), dtype=np.int64)

    def observe(self, h: int, cells_R: np.ndarray, reward_MR: np.ndarray, next_state_R: np.ndarray) -> np.ndarray:
        """Lines 5-12: take in one visit of each run.

        Args:
            h: the step.
            cells_R: flat indices of the visited entries in an array [R, H, S, J].
            reward_MR: of each player.
            next_state_R: s'.

        Returns:
            bool [R], whether the entry was healed.
        """
        c0_R, c1_R, c2_R, iota_R = self._constants
        horizon = len(self._top_H)
        runs = np.arange(len(cells_R))
        # Views with one axis for the entries of all runs: one gather and one scatter a table.
        q, q_hoeffding, q_reference, moments = (
            table.reshape(*table.shape[:-4], -1) for table in (self.q, self.q_hoeffding, self.q_reference, self.moments)
        )
        visits = self.visits.reshape(-1)

        n_R = visits[cells_R] + 1
        eta_R = learning_rate(n_R, horizon)
        v_XMR = self.v[:, :, runs, h + 1, next_state_R]
        reference_XMR = self.v_reference[:, :, runs, h + 1, next_state_R]
        advantage_XMR = v_XMR - reference_XMR

        target_XMR = reward_MR + v_XMR + _SIGNS_X11 * hoeffding_bonus(n_R, horizon, c0=c0_R, iota=iota_R)
        hoeffding_XMR = (1.0 - eta_R) * q_hoeffding[..., cells_R] + eta_R * target_XMR

        before = Moments(*moments[..., cells_R])
        after = before.advance(
            n_R, reference=reference_XMR, advantage=advantage_XMR, horizon=horizon, c1=c1_R, iota=iota_R
        )
        bonus_XMR = advantage_bonus(before, after, n_R, horizon=horizon, c2=c2_R, iota=iota_R)
        target_XMR = reward_MR + advantage_XMR + after.ref_mean + _SIGNS_X11 * bonus_XMR
        by_reference_XMR = (1.0 - eta_R) * q_reference[..., cells_R] + eta_R * target_XMR

        q_XMR = q[..., cells_R]
        q_XMR[0] = np.minimum(np.minimum(by_reference_XMR[0], hoeffding_XMR[0]), q_XMR[0])
        q_XMR[1] = np.maximum(np.maximum(by_reference_XMR[1], hoeffding_XMR[1]), q_XMR[1])

        healed_R = self._rules.self_healing & (q_XMR[0] < q_XMR[1]).any(axis=0)
        q_XMR[0, :, healed_R] = self._top_H[h]
        q_XMR[1, :, healed_R] = 0.0

        visits[cells_R] = n_R
        q_hoeffding[..., cells_R] = hoeffding_XMR
        q_reference[..., cells_R] = by_reference_XMR
        moments[..., cells_R] = after
        q[..., cells_R] = q_XMR
        self._count("healed", healed_R)
        return healed_R

    def settle(self, h: int, s_R: np.ndarray, policy_RJ: np.ndarray) -> None:
        """Lines 14-19: values at (h, s) under the new policy there, then the reference."""
        at = (slice(None), slice(None), np.arange(len(s_R)), h, s_R)
        old_XMR = self.v[at]
        v_XMR = (policy_RJ * self.q[at]).sum(axis=-1)
        if self._rules.monotone_v:
            v_XMR = _inner(old_XMR, v_XMR)
        self.v[at] = v_XMR

        reference_XMR = self.v_reference[at]
        unsettled_R = self.unsettled[at[2:]]
        far_R = (v_XMR[0] - v_XMR[1]).max(axis=0) > self._rules.settle_gap
        fires_R = {
            "text": far_R | unsettled_R,
            "mono": far_R | unsettled_R,
            "freeze": unsettled_R,
            "follow": np.ones_like(far_R),
            "never": np.zeros_like(far_R),
        }[self._rules.reference]
        candidate_XMR = _inner(reference_XMR, v_XMR) if self._rules.reference == "mono" else v_XMR
        new_XMR = np.where(fires_R, candidate_XMR, reference_XMR)
        self.v_reference[at] = new_XMR
        self.unsettled[at[2:]] = unsettled_R & far_R

        self._count("value_moved_back", _moved_back(old_XMR, v_XMR))
        self._count("reference_updates", fires_R)
        self._count("reference_moved_back", _moved_back(reference_XMR, new_XMR))
        self._count("reference_after_settling", fires_R & ~unsettled_R)

    def _count(self, event: str, happened_R: np.ndarray) -> None:
        self.events[EVENTS.index(event)] += happened_R

    def tables(self) -> dict[str, np.ndarray]:
        """All live arrays by name; not copies."""
        c0, c1, c2, iota = self._constants
        return {
            "q": self.q,
            "q_hoeffding": self.q_hoeffding,
            "q_reference": self.q_reference,
            "moments": self.moments,
            "visits": self.visits,
            "v": self.v,
            "v_reference": self.v_reference,
            "unsettled": self.unsettled,
            "events": self.events,
            "top": self._top_H,
            "c0": c0,
            "c1": c1,
            "c2": c2,
            "iota": iota,
        }


def initial_top(horizon: int, init: str) -> np.ndarray:
    """[H] initial upper bound at each step: H ("H") or H - h ("H-h", h from 0).

    Raises:
        ValueError: `init` is neither.
    """
    _check_known("init", init, INITIAL_VALUES)
    return np.full(horizon, float(horizon)) if init == "H" else np.arange(horizon, 0, -1.0)


def _check_known(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(known)}")


def _inner(old_XMR: np.ndarray, new_XMR: np.ndarray) -> np.ndarray:
    """The tighter of two pairs of bounds, side by side."""
    return np.stack([np.minimum(old_XMR[0], new_XMR[0]), np.maximum(old_XMR[1], new_XMR[1])])


def _moved_back(old_XMR: np.ndarray, new_XMR: np.ndarray) -> np.ndarray:
    """[R] whether an upper bound rose or a lower one fell, for any player."""
    return np.asarray((_SIGNS_X11 * (new_XMR - old_XMR) > _ROUNDING).any(axis=(0, 1)))
