"""PWSEP: find skill after skill, each as far as can be from the convex hull of those found before.

Algorithm A works on a list of candidates, with lazily updated bounds; Algorithm B needs no list, only best responses to
rewards. Both give an anytime certificate: the distance to the hull of the farthest candidate.

Source: sheet 2.6; T6 there proves that A finds every vertex of the candidates' hull (the content of Thm 3.5).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from iclr_repro.wsep.mdp import TabularMDP, occupancy, policy_iteration, uniform_policy
from iclr_repro.wsep.transport import HullDistances, kantorovich, wasserstein_matrix

_ASCENT_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class Discovery:
    """What PWSEP found.

    Attributes:
        order: [K] indices of the candidates, in the order of discovery (Algorithm B: 0, 1, ...).
        skills: [K, S].
        gains: [K] distance of each skill to the hull of those before it; of the first to the reference. Not increasing
            from the second on with Algorithm A.
        remaining: distance to the hull of the farthest candidate that is left, after the last skill: with Algorithm A
            nothing in the candidates' hull is farther than this from the skills' hull; with B a lower estimate.
        num_programs: linear programs solved.
    """

    order: np.ndarray
    skills: np.ndarray
    gains: np.ndarray
    remaining: float
    num_programs: int

    def certified(self, tolerance: float = 1e-8) -> bool:
        """Tell whether the hull of the skills covers everything, up to a distance."""
        return self.remaining < tolerance


def pwsep(
    candidates: np.ndarray,
    metric: np.ndarray,
    *,
    reference: np.ndarray,
    num_skills: int | None = None,
    tolerance: float = 1e-9,
    lazy: bool = True,
) -> Discovery:
    """Find skills among candidates by PWSEP, exactly (Algorithm A).

    The i-th skill is argmax_v g(v), g(v) = min_lambda W(v, sum_{j < i} lambda_j p_j); the first is argmax_v W(v,
    reference), and the reference does not count as a skill. g never grows with more skills, so that an old value is an
    upper bound: only candidates whose bound is the largest are computed again.

    Args:
        candidates: [n, S] distributions, such as the vertices of the polytope of occupancies.
        metric: [S, S].
        reference: [S], by convention the occupancy of the uniform policy.
        num_skills: how many to find at most; None for all that there are.
        tolerance: stop when no candidate is farther than this from the hull.
        lazy: False computes all candidates in every round; the result is the same.

    Raises:
        ValueError: num_skills below 1, or inputs that are no distributions or no metric.
    """
    candidates = np.asarray(candidates, dtype=np.float64)
    if num_skills is not None and num_skills < 1:
        raise ValueError(f"num_skills is {num_skills}, expected at least 1")
    first = wasserstein_matrix(candidates, np.asarray(reference)[None], metric)[:, 0]
    order, gains = [int(first.argmax())], [float(first.max())]
    # (-bound, candidate, round of the bound); ties go to the first candidate, as in argmax.
    heap = [(-np.inf, index, 0) for index in range(len(candidates)) if index != order[0]]
    heapq.heapify(heap)
    num_programs = 0
    remaining = 0.0
    while heap:
        hull = HullDistances(candidates[order], metric)
        this_round = len(order)
        if not lazy:
            heap = [(-np.inf, index, 0) for _, index, _ in heap]
            refreshed = [(-hull.to(candidates[index]).value, index, this_round) for _, index, _ in heap]
            num_programs += len(refreshed)
            heap = refreshed
            heapq.heapify(heap)
        while heap[0][2] != this_round:
            _, index, _ = heapq.heappop(heap)
            heapq.heappush(heap, (-hull.to(candidates[index]).value, index, this_round))
            num_programs += 1
        remaining = max(0.0, -heap[0][0])
        if remaining < tolerance or len(order) == num_skills:
            break
        order.append(heapq.heappop(heap)[1])
        gains.append(remaining)
        remaining = 0.0
    return Discovery(np.array(order), candidates[order], np.array(gains), remaining, num_programs)


def pwsep_oracle(
    mdp: TabularMDP,
    num_skills: int,
    *,
    rng: np.random.Generator,
    restarts: int = 2,
    tolerance: float = 1e-8,
) -> Discovery:
    """Find skills by PWSEP without a list of candidates (Algorithm B): a monotone ascent of best responses.

    Each round: best responses d to `restarts` rewards drawn from N(0, I); then, as long as it helps, d <- argmax <f, d>
    with the potential f of the distance of d to the hull. g(d_new) >= <f, d_new> - max_j <f, p_j> >= g(d). The best
    restart counts. For the first skill the hull is the occupancy of the uniform policy, which is then dropped.

    Args:
        mdp: with a metric.
        num_skills: how many to find at most, >= 1.
        rng: draws the rewards.
        restarts: of each round, >= 1.
        tolerance: stop when the best restart is no farther than this from the hull.

    Raises:
        ValueError: no metric, or a number below 1.
    """
    if num_skills < 1 or restarts < 1:
        raise ValueError(f"num_skills and restarts are {num_skills} and {restarts}, expected at least 1")
    metric = mdp.distances()
    found: list[np.ndarray] = []
    gains: list[float] = []
    num_programs, gain = 0, np.inf
    while True:
        hull = HullDistances(np.array(found) if found else occupancy(mdp, uniform_policy(mdp))[None], metric)
        gain, best = -np.inf, None
        for _ in range(restarts):
            distance, reached, programs = _ascend(mdp, hull, rng.standard_normal(mdp.num_states))
            num_programs += programs
            if distance > gain:
                gain, best = distance, reached
        if best is None or gain < tolerance or len(found) == num_skills:
            break
        found.append(best)
        gains.append(gain)
    return Discovery(np.arange(len(found)), np.array(found), np.array(gains), max(float(gain), 0.0), num_programs)


def _ascend(mdp: TabularMDP, hull: HullDistances, reward: np.ndarray) -> tuple[float, np.ndarray, int]:
    plan = policy_iteration(mdp, reward)
    here = hull.to(plan.occupancy)
    for programs in range(2, 1000):
        step = policy_iteration(mdp, here.potential, policy=plan.policy)
        after = hull.to(step.occupancy)
        if after.value <= here.value + _ASCENT_TOLERANCE:
            return here.value, plan.occupancy, programs
        plan, here = step, after
    raise RuntimeError("the ascent did not end: its value rises by more than 1e-9 in each of 1,000 steps")


def choose_skill(
    skills: np.ndarray,
    *,
    reward: np.ndarray | None = None,
    target: np.ndarray | None = None,
    metric: np.ndarray | None = None,
) -> int:
    """Return the index of the skill to begin a task with.

    With a reward [S] it is the skill of the largest zero-shot return <reward, p_z>; with a target occupancy [S] and a
    metric [S, S] the one of the smallest W(target, p_z).

    Raises:
        ValueError: both or neither of reward and target, or a target without a metric.
    """
    if (reward is None) == (target is None):
        raise ValueError("give either reward or target: what the skill is wanted for")
    if reward is not None:
        return int((np.asarray(skills) @ reward).argmax())
    if metric is None:
        raise ValueError("a target needs a metric: the distances between states")
    return int(np.argmin([kantorovich(np.asarray(target), skill, metric).value for skill in skills]))


def distinct(points: Sequence[np.ndarray] | np.ndarray, *, digits: int = 7) -> np.ndarray:
    """Return the indices, ascending, of the first of each group of points [n, S] that agree to so many digits."""
    _, first = np.unique(np.asarray(points).round(digits), axis=0, return_index=True)
    return np.sort(first)
