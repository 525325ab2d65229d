"""Reward-free Markov decision processes with finitely many states, and the state distributions of their policies.

Shape letters: S = states, A = actions; leading axes `...` are batches.

Source: sheet 2.1 (the paper's setting; the symbols are those of arXiv 2110.02719, which it builds on).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

_SUM_TOLERANCE = 1e-8
_TIE_TOLERANCE = 1e-10
_MAX_POLICIES = 200_000


@dataclass(frozen=True, eq=False)
class TabularMDP:
    """A reward-free MDP (S, A, P, p0, gamma), with distances between its states where Wasserstein distances are wanted.

    Args:
        transitions: [S, A, S], P[s, a, s'], rows sum to 1.
        start: [S], p0, sums to 1.
        gamma: discount, in [0, 1).
        metric: [S, S] distances between states: symmetric, zero on the diagonal, positive off it, triangle inequality.

    Raises:
        ValueError: an array of a wrong shape, not finite, negative or not a distribution; gamma outside [0, 1); a state
            that no policy reaches (its occupancy is always 0); a metric that is none. The message names the entries.
    """

    transitions: np.ndarray
    start: np.ndarray
    gamma: float
    metric: np.ndarray | None = field(default=None)

    def __post_init__(self) -> None:
        transitions = np.array(self.transitions, dtype=np.float64)
        start = np.array(self.start, dtype=np.float64)
        if transitions.ndim != 3 or transitions.shape[0] != transitions.shape[2] or 0 in transitions.shape:
            raise ValueError(f"transitions has shape {transitions.shape}, expected [states, actions, states]")
        check_distributions(transitions, "transitions[s, a]")
        if start.shape != transitions.shape[:1]:
            raise ValueError(f"start has shape {start.shape}, expected ({len(transitions)},), a probability a state")
        check_distributions(start, "start")
        if not 0.0 <= self.gamma < 1.0:
            raise ValueError(f"gamma is {self.gamma}, expected 0 <= gamma < 1")
        unreachable = np.flatnonzero(~_reachable(transitions, start, self.gamma))
        if len(unreachable):
            raise ValueError(
                f"no policy reaches the states {unreachable.tolist()}: their occupancy is always 0; "
                "remove them, or give them some probability in start"
            )
        object.__setattr__(self, "transitions", transitions)
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "gamma", float(self.gamma))
        if self.metric is not None:
            metric = np.ascontiguousarray(self.metric, dtype=np.float64)
            check_metric(metric, self.num_states)
            object.__setattr__(self, "metric", metric)

    @property
    def num_states(self) -> int:
        """S."""
        return int(self.transitions.shape[0])

    @property
    def num_actions(self) -> int:
        """A."""
        return int(self.transitions.shape[1])

    def distances(self) -> np.ndarray:
        """Return the metric [S, S].

        Raises:
            ValueError: there is none.
        """
        if self.metric is None:
            raise ValueError("this MDP has no metric: pass TabularMDP(..., metric=[S, S] distances between states)")
        return self.metric


def occupancy(mdp: TabularMDP, policy: np.ndarray) -> np.ndarray:
    """Return the normalised discounted state distribution of policies.

    d_pi = (1 - gamma) (I - gamma P_pi^T)^-1 p0,  P_pi[s, s'] = sum_a pi(a|s) P[s, a, s']

    Args:
        mdp: the MDP.
        policy: [..., S, A] probabilities of actions, or [..., S] integers, an action a state.

    Returns:
        [..., S] distributions.

    Raises:
        ValueError: a policy of another shape, an action that does not exist, or probabilities that are none.
    """
    array = np.asarray(policy)
    if np.issubdtype(array.dtype, np.integer):
        if array.ndim < 1 or array.shape[-1] != mdp.num_states:
            raise ValueError(f"policy has shape {array.shape}, expected [..., {mdp.num_states}], an action a state")
        if array.size and not (array.min() >= 0 and array.max() < mdp.num_actions):
            raise ValueError(f"policy has actions {array.min()}..{array.max()}, expected 0..{mdp.num_actions - 1}")
        followed = mdp.transitions[np.arange(mdp.num_states), array]
    else:
        if array.shape[-2:] != (mdp.num_states, mdp.num_actions):
            raise ValueError(
                f"policy has shape {array.shape}, expected [..., {mdp.num_states}, {mdp.num_actions}] probabilities, "
                f"or [..., {mdp.num_states}] integers"
            )
        check_distributions(array, "policy[s]")
        followed = np.einsum("...sa,sat->...st", array, mdp.transitions)
    matrix = np.eye(mdp.num_states) - mdp.gamma * np.swapaxes(followed, -1, -2)
    right = np.broadcast_to((1.0 - mdp.gamma) * mdp.start[:, None], (*matrix.shape[:-1], 1))
    return np.asarray(np.linalg.solve(matrix, right)[..., 0])


def uniform_policy(mdp: TabularMDP) -> np.ndarray:
    """Return [S, A] equal probabilities."""
    return np.full((mdp.num_states, mdp.num_actions), 1.0 / mdp.num_actions)


def deterministic_occupancies(mdp: TabularMDP) -> np.ndarray:
    """Return [n, S] the distinct occupancies of all A^S deterministic policies, in lexicographic order.

    Two that agree to 9 digits count as one. Not all of them are vertices: see `polytope_vertices`.

    Raises:
        ValueError: there are more than 200,000 policies.
    """
    num_policies = mdp.num_actions**mdp.num_states
    if num_policies > _MAX_POLICIES:
        raise ValueError(
            f"{mdp.num_actions}^{mdp.num_states} = {num_policies} deterministic policies are too many to enumerate "
            f"(at most {_MAX_POLICIES}): use pwsep_oracle, which needs no list of vertices"
        )
    policies = np.array(list(itertools.product(range(mdp.num_actions), repeat=mdp.num_states)))
    occupancies = occupancy(mdp, policies)
    _, first = np.unique(occupancies.round(9), axis=0, return_index=True)
    return np.asarray(occupancies[first])


@dataclass(frozen=True, eq=False)
class Plan:
    """An optimal policy of a state reward.

    Attributes:
        policy: [S] actions.
        occupancy: [S], its state distribution d.
        value: <reward, d>, the largest that any policy has.
    """

    policy: np.ndarray
    occupancy: np.ndarray
    value: float


def policy_iteration(mdp: TabularMDP, reward: np.ndarray, *, policy: np.ndarray | None = None) -> Plan:
    """Maximise <reward, d_pi> over policies, exactly: best responses are vertices of the polytope of occupancies.

    Howard's policy iteration on v = reward + gamma P_pi v. An action changes only where another one is better by more
    than 1e-10 (times the size of the reward), so that ties keep the old action.

    Args:
        mdp: the MDP.
        reward: [S], of being in a state.
        policy: [S] actions to start from, by default action 0 everywhere.

    Raises:
        ValueError: a reward or policy of another shape, or a reward that is not finite.
    """
    reward = np.asarray(reward, dtype=np.float64)
    if reward.shape != (mdp.num_states,) or not np.isfinite(reward).all():
        raise ValueError(f"reward has shape {reward.shape}, expected ({mdp.num_states},) finite numbers, one a state")
    states, identity = np.arange(mdp.num_states), np.eye(mdp.num_states)
    actions = np.zeros(mdp.num_states, dtype=np.int64) if policy is None else np.array(policy, dtype=np.int64)
    if actions.shape != (mdp.num_states,):
        raise ValueError(f"policy has shape {actions.shape}, expected ({mdp.num_states},), an action a state")
    tolerance = _TIE_TOLERANCE * max(1.0, float(np.abs(reward).max()))
    while True:
        values = np.linalg.solve(identity - mdp.gamma * mdp.transitions[states, actions], reward)
        next_values_SA = mdp.transitions @ values
        better = next_values_SA.max(axis=1) > next_values_SA[states, actions] + tolerance
        if not better.any():
            break
        actions = np.where(better, next_values_SA.argmax(axis=1), actions)
    reached = occupancy(mdp, actions)
    return Plan(policy=actions, occupancy=reached, value=float(reward @ reached))


def goal_occupancies(mdp: TabularMDP) -> np.ndarray:
    """Return [S, S]: row g is the occupancy of the policy that is in state g as much as can be (one-hot reward)."""
    return np.stack([policy_iteration(mdp, reward).occupancy for reward in np.eye(mdp.num_states)])


def check_distributions(array: np.ndarray, name: str) -> None:
    """Refuse what is no distribution along the last axis.

    Raises:
        ValueError: a negative or not finite entry, or a sum that is not 1; names the first such row.
    """
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has entries that are not finite, expected probabilities")
    if (array < 0.0).any():
        where = tuple(int(axis) for axis in np.argwhere(array < 0.0)[0])
        raise ValueError(f"{name} has the negative entry {array[where]:g} at {where}, expected probabilities >= 0")
    sums = np.asarray(array.sum(axis=-1))
    wrong = np.asarray(np.abs(sums - 1.0) > _SUM_TOLERANCE)
    if wrong.any():
        where = tuple(int(axis) for axis in np.argwhere(wrong)[0])
        raise ValueError(f"{name} sums to {sums[where]:.10g} at {where}, expected 1: normalise it")


def check_metric(metric: np.ndarray, num_states: int) -> None:
    """Refuse what is no metric on the states.

    Raises:
        ValueError: a wrong shape, entries that are not finite (unconnected states), a diagonal that is not 0, two
            states at distance <= 0, asymmetry, or a violated triangle inequality; names the states.
    """
    if metric.shape != (num_states, num_states):
        raise ValueError(f"metric has shape {metric.shape}, expected ({num_states}, {num_states}), a distance a pair")
    if not np.isfinite(metric).all():
        s, t = np.argwhere(~np.isfinite(metric))[0]
        raise ValueError(f"metric[{s}, {t}] is {metric[s, t]}: all distances must be finite, are all states connected?")
    if np.diag(metric).any():
        s = int(np.flatnonzero(np.diag(metric))[0])
        raise ValueError(f"metric[{s}, {s}] is {metric[s, s]:g}, expected 0 on the diagonal")
    off = metric + np.eye(num_states)
    if (off <= 0.0).any():
        s, t = np.argwhere(off <= 0.0)[0]
        raise ValueError(f"metric[{s}, {t}] is {metric[s, t]:g}, expected a positive distance of two different states")
    tolerance = 1e-9 * float(metric.max(initial=1.0))
    if (np.abs(metric - metric.T) > tolerance).any():
        s, t = np.argwhere(np.abs(metric - metric.T) > tolerance)[0]
        raise ValueError(
            f"metric[{s}, {t}] is {metric[s, t]:g} but metric[{t}, {s}] is {metric[t, s]:g}: it must be symmetric"
        )
    for u in range(num_states):
        excess = metric - (metric[:, u, None] + metric[u])
        if excess.max() > tolerance:
            s, t = np.unravel_index(int(excess.argmax()), excess.shape)
            raise ValueError(
                f"the triangle inequality fails: metric[{s}, {t}] = {metric[s, t]:g} > metric[{s}, {u}] + "
                f"metric[{u}, {t}] = {metric[s, u] + metric[u, t]:g}; take shortest paths "
                "(scipy.sparse.csgraph.shortest_path)"
            )


def _reachable(transitions: np.ndarray, start: np.ndarray, gamma: float) -> np.ndarray:
    """[S] whether a state has a positive occupancy under some policy."""
    reached = start > 0.0
    leads = np.asarray((transitions > 0.0).any(axis=1))
    while gamma > 0.0:
        grown = reached | leads[reached].any(axis=0)
        if (grown == reached).all():
            break
        reached = grown
    return reached
