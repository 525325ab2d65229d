"""Audit any set of skills, of any method, from its occupancies or its rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from iclr_repro.wsep.costs import AdaptationCosts, adaptation_costs
from iclr_repro.wsep.information import lsepin, mutual_information, sepin
from iclr_repro.wsep.mdp import check_distributions
from iclr_repro.wsep.transport import HullDistances, reduced_distances, wasserstein_matrix

_SMOOTHING = 1.0  # visits added to each state of a rollout: KL divergences stay finite, and linear programs feasible


@dataclass(frozen=True, eq=False)
class SkillAudit:
    """What an audit found. Intervals are 95 %, None where there are no rollouts to resample.

    Attributes:
        skills: a row a skill: `sepin` (nats), `hull_distance` to the hull of the others (0: a mixture of them does the
            same), `nearest` and `nearest_distance` the closest other skill, `duplicate_of` an earlier skill no farther
            than the tolerance (-1 if none).
        summary: a row a quantity (mutual_information, lsepin, wsep_sum, wsep_min, wsep_energy, duplicates and the
            adaptation costs), with the columns value, low, high.
        occupancies: [K, S] that were audited.
    """

    skills: pd.DataFrame
    summary: pd.DataFrame
    occupancies: np.ndarray


def audit_skills(
    skills: np.ndarray | Sequence[Sequence[np.ndarray]],
    metric: np.ndarray,
    *,
    targets: np.ndarray | None = None,
    duplicate_tolerance: float = 1e-6,
    draws: int = 200,
    rng: np.random.Generator | None = None,
) -> SkillAudit:
    """Measure how informative, separate, redundant and adaptable a set of skills is.

    Args:
        skills: [K, S] occupancies; or rollouts: for each skill a sequence of episodes, each an integer array of the
            states visited (numbers of cells where states are continuous). Counts get one extra visit a state.
        metric: [S, S] distances between states.
        targets: [n, S] occupancies to adapt to, such as `goal_occupancies`; without them no cost is reported.
        duplicate_tolerance: W below which a skill repeats an earlier one, in the unit of the metric.
        draws: bootstrap draws; episodes are resampled within each skill.
        rng: draws them; needed with rollouts.

    Raises:
        ValueError: fewer than two skills, inputs that are no distributions, states that do not exist, skills without
            episodes, no generator for the bootstrap, or states without mass where KL is asked for.

    Example: two skills on different states have mutual_information log 2 and no duplicates.
    """
    metric = np.asarray(metric, dtype=np.float64)
    counts = None if isinstance(skills, np.ndarray) else _counts(skills, len(metric))
    occupancies = np.asarray(skills, dtype=np.float64) if counts is None else _smoothed([c.sum(axis=0) for c in counts])
    if occupancies.ndim != 2 or len(occupancies) < 2 or occupancies.shape[1] != len(metric):
        raise ValueError(f"skills are {occupancies.shape}, expected [K, {len(metric)}] occupancies with K >= 2")
    check_distributions(occupancies, "skills")
    distances = wasserstein_matrix(occupancies, occupancies, metric)
    summary = pd.Series(_summary(occupancies, metric, targets, distances, duplicate_tolerance), name="value").to_frame()
    summary["low"], summary["high"] = np.nan, np.nan
    if counts is not None:
        if rng is None:
            raise ValueError("rollouts are resampled for the intervals: pass rng=np.random.default_rng(seed)")
        drawn = []
        for _ in range(draws):
            resampled = [c[rng.integers(len(c), size=len(c))].sum(axis=0) for c in counts]
            drawn.append(_summary(_smoothed(resampled), metric, targets, None, duplicate_tolerance))
        ends = pd.DataFrame(drawn).quantile([0.025, 0.975])
        summary["low"], summary["high"] = ends.iloc[0], ends.iloc[1]
    apart = distances + np.diag(np.full(len(distances), np.inf))
    table = pd.DataFrame(
        {
            "sepin": sepin(occupancies),
            "hull_distance": [
                HullDistances(np.delete(occupancies, index, axis=0), metric).to(occupancies[index]).value
                for index in range(len(occupancies))
            ],
            "nearest": apart.argmin(axis=1),
            "nearest_distance": apart.min(axis=1),
            "duplicate_of": _duplicates(distances, duplicate_tolerance),
        }
    ).rename_axis("skill")
    return SkillAudit(skills=table, summary=summary.rename_axis("quantity"), occupancies=occupancies)


def _summary(
    occupancies: np.ndarray,
    metric: np.ndarray,
    targets: np.ndarray | None,
    distances: np.ndarray | None,
    duplicate_tolerance: float,
) -> dict[str, float]:
    if distances is None:
        distances = wasserstein_matrix(occupancies, occupancies, metric)
    found: dict[str, float] = {
        "mutual_information": float(mutual_information(occupancies)),
        "lsepin": float(lsepin(occupancies)),
        **{f"wsep_{how}": float(reduced_distances(distances, how)) for how in ("sum", "min", "energy")},
        "duplicates": float((_duplicates(distances, duplicate_tolerance) >= 0).sum()),
    }
    if targets is not None:
        costs: AdaptationCosts = adaptation_costs(occupancies, targets, metric)
        found |= costs.as_dict()
    return found


def _duplicates(distances: np.ndarray, tolerance: float) -> np.ndarray:
    """[K] the first earlier skill no farther than the tolerance, -1 if there is none."""
    close = np.tril(distances <= tolerance, -1)
    return np.where(close.any(axis=1), close.argmax(axis=1), -1)


def _counts(skills: Sequence[Sequence[np.ndarray]], num_states: int) -> list[np.ndarray]:
    """For each skill [episodes, S] visits."""
    counted = []
    for number, episodes in enumerate(skills):
        if len(episodes) == 0:
            raise ValueError(f"skill {number} has no episode, expected at least one")
        for episode in episodes:
            states = np.asarray(episode)
            if not np.issubdtype(states.dtype, np.integer) or states.ndim != 1 or len(states) == 0:
                raise ValueError(
                    f"an episode of skill {number} is no array of state numbers: {states.dtype}{states.shape}"
                )
            if states.min() < 0 or states.max() >= num_states:
                raise ValueError(
                    f"skill {number} visits states {states.min()}..{states.max()}, expected 0..{num_states - 1}"
                )
        counted.append(np.stack([np.bincount(np.asarray(one), minlength=num_states) for one in episodes]))
    return counted


def _smoothed(counts: Sequence[np.ndarray]) -> np.ndarray:
    smoothed = np.stack(counts) + _SMOOTHING
    return np.asarray(smoothed / smoothed.sum(axis=1, keepdims=True))
