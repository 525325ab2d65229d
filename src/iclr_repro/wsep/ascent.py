"""Skills that maximise I(S;Z), LSEPIN or WSEP for a given number K of skills with uniform weights.

`oracle_ascent` (Algorithm C of the sheet) needs only best responses to rewards; `swap_ascent` chooses from a list of
candidates, with repetition. Both climb to local optima.

Shape letters: K = skills, S = states, n = candidates.

Source: sheet 2.6 (Algorithm C) and 4.2 (swap ascent).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from iclr_repro.wsep.costs import summed_distances
from iclr_repro.wsep.information import mixture, mutual_information, others, sepin
from iclr_repro.wsep.mdp import Plan, TabularMDP, policy_iteration
from iclr_repro.wsep.transport import kantorovich

Objective = Literal["misl", "misl_lsepin", "wsep"]
_MAX_SWEEPS = 60
_RAISES = 1e-10
_CHANGES = 1e-9


def random_skills(mdp: TabularMDP, num_skills: int, *, rng: np.random.Generator) -> np.ndarray:
    """Return [K, S] occupancies of best responses to rewards drawn from N(0, I): random vertices, a strong baseline."""
    return np.stack([plan.occupancy for plan in _random_plans(mdp, num_skills, rng)])


def oracle_ascent(
    mdp: TabularMDP,
    num_skills: int,
    objective: Objective,
    *,
    rng: np.random.Generator,
    lsepin_weight: float = 1.0,
) -> np.ndarray:
    """Climb from random skills by best responses to the gradient of the objective, one skill after the other.

    misl: I(S;Z), with reward log(p_i / p) for skill i.
    misl_lsepin: I + lambda K LSEPIN; with z* the least separable skill, lambda K log(p_z* / p) is added for i = z*, and
        lambda K log(p_nz* / p) for the others.
    wsep: the sum of pairwise W, with reward the sum of the Kantorovich potentials of (p_i, p_j), j != i.

    I and WSEP are convex in each skill, so that a best response never lowers them; LSEPIN is a minimum of convex
    functions, for which this holds as long as z* stays. A response is taken where it raises its linearised value by
    more than 1e-10; at most 60 sweeps, fewer once a sweep changes nothing.

    Args:
        mdp: with a metric for `wsep`; with occupancies of full support for the others.
        num_skills: K, >= 2.
        objective: what to climb.
        rng: draws the rewards of the first skills.
        lsepin_weight: lambda, >= 0.

    Returns:
        [K, S] occupancies.

    Raises:
        ValueError: an unknown objective, fewer than two skills, or no metric where one is needed.
    """
    if objective not in get_args(Objective):
        raise ValueError(f"objective is {objective!r}, expected one of {', '.join(get_args(Objective))}")
    if num_skills < 2:
        raise ValueError(f"num_skills is {num_skills}, expected at least 2: one skill is not separate from anything")
    plans = _random_plans(mdp, num_skills, rng)
    skills = np.stack([plan.occupancy for plan in plans])
    if objective == "wsep":
        metric = mdp.distances()
        gradient = _wsep_gradient(metric)
    else:
        gradient = _information_gradient(lsepin_weight if objective == "misl_lsepin" else 0.0)
    for _ in range(_MAX_SWEEPS):
        before = skills.copy()
        for index in range(num_skills):
            reward = gradient(skills, index)
            plan = policy_iteration(mdp, reward, policy=plans[index].policy)
            if plan.value > reward @ skills[index] + _RAISES:
                plans[index], skills[index] = plan, plan.occupancy
        if np.abs(skills - before).max() <= _CHANGES:
            break
    return skills


def _information_gradient(lsepin_weight: float) -> Callable[[np.ndarray, int], np.ndarray]:
    """The gradient of I + lambda K LSEPIN with respect to a skill, times K."""

    def gradient(skills: np.ndarray, index: int) -> np.ndarray:
        weights = np.full(len(skills), 1.0 / len(skills))
        average = mixture(skills, weights)
        reward = np.log(skills[index] / average)
        if lsepin_weight:
            least = int(sepin(skills).argmin())
            side = skills[least] if least == index else others(skills, weights)[least]
            reward += lsepin_weight * len(skills) * np.log(side / average)
        return np.asarray(reward)

    return gradient


def _wsep_gradient(metric: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
    def gradient(skills: np.ndarray, index: int) -> np.ndarray:
        apart = [other for other in range(len(skills)) if other != index]
        return np.sum([kantorovich(skills[index], skills[other], metric).potential for other in apart], axis=0)

    return gradient


def swap_ascent(
    score: Callable[[np.ndarray], np.ndarray],
    num_candidates: int,
    num_skills: int,
    *,
    rng: np.random.Generator,
    starts: int = 3,
) -> np.ndarray:
    """Choose K candidates, repetition allowed, by the replacement that raises a score most, until none does.

    Args:
        score: from sets [B, K] of indices to [B] numbers, higher is better.
        num_candidates: n.
        num_skills: K.
        rng: draws the first sets, without repeats where K <= n.
        starts: the best of so many ascents is returned.

    Returns:
        [K] indices.
    """
    best_value, best = -np.inf, np.zeros(num_skills, dtype=np.int64)
    for _ in range(starts):
        # Without repeats where it can be: from two pairs of equal skills no single replacement raises a minimum.
        chosen = rng.choice(num_candidates, size=num_skills, replace=num_skills > num_candidates)
        value = float(score(chosen[None])[0])
        while True:
            replaced = np.broadcast_to(chosen, (num_skills, num_candidates, num_skills)).copy()
            replaced[np.arange(num_skills), :, np.arange(num_skills)] = np.arange(num_candidates)
            values = score(replaced.reshape(-1, num_skills))
            if values.max() <= value + _RAISES:
                break
            value, chosen = float(values.max()), replaced.reshape(-1, num_skills)[values.argmax()]
        if value > best_value:
            best_value, best = value, chosen
    return best


def best_wsep_multiset(
    distances: np.ndarray, num_skills: int, *, rng: np.random.Generator, starts: int = 5
) -> np.ndarray:
    """Return [K] indices: `swap_ascent` of the sum of pairwise distances [n, n], with a cheap step.

    Replacing z_i by v changes the sum by (D c)(v) - D[v, z_i] - (D c)(z_i), c the counts of the candidates.
    """
    best_value, best = -np.inf, np.zeros(num_skills, dtype=np.int64)
    for _ in range(starts):
        chosen = rng.integers(len(distances), size=num_skills)
        while True:
            to_all = distances[chosen].sum(axis=0)
            change = to_all[None] - distances[chosen] - to_all[chosen][:, None]
            place, candidate = np.unravel_index(int(change.argmax()), change.shape)
            if change[place, candidate] <= _RAISES:
                break
            chosen[place] = candidate
        value = float(distances[chosen[:, None], chosen].sum())
        if value > best_value:
            best_value, best = value, chosen
    return best


def set_scores(candidates: np.ndarray, distances: np.ndarray) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return the objectives mi, lsepin and wsep as scores of sets [B, K] of candidates [n, S], for `swap_ascent`."""
    return {
        "mi": lambda sets: mutual_information(candidates[sets]),
        "lsepin": lambda sets: sepin(candidates[sets]).min(axis=-1),
        "wsep": lambda sets: summed_distances(distances, sets),
    }


def _random_plans(mdp: TabularMDP, num_skills: int, rng: np.random.Generator) -> list[Plan]:
    return [policy_iteration(mdp, rng.standard_normal(mdp.num_states)) for _ in range(num_skills)]
