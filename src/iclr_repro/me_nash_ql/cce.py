"""Coarse correlated equilibria of many small two-player games at once.

A joint distribution pi over the actions (a, b) is a coarse correlated equilibrium (CCE) of upper payoffs Qu, which the
max player looks at, and lower payoffs Ql, which the min player looks at, if neither gains by a fixed action of its own:

    E_pi Qu(a, b) >= E_pi Qu(a', b)  for all a'        E_pi Ql(a, b) <= E_pi Ql(a, b')  for all b'

One always exists, also where Qu < Ql: every Nash equilibrium of the bimatrix game (Qu, -Ql) is one. Which one the paper
takes is not known; `solve_cce` takes the one with the smallest gap E_pi (Qu - Ql) unless told otherwise.

Shape letters: N = games, A, B = actions of the max and the min player, M = A + B + 1 constraints.

Source: sheet 3.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float

from iclr_repro.me_nash_ql.hedge import hedge
from iclr_repro.me_nash_ql.linear_programs import highs, simplex

ArrayT = TypeVar("ArrayT", np.ndarray, torch.Tensor)

BACKENDS = ("simplex", "lp", "hedge")
OBJECTIVES = ("gap", "any")
_GRID = 2.0**50


@dataclass(frozen=True, eq=False)
class CCE(Generic[ArrayT]):
    """Equilibria of a batch of games, of the kind (numpy or torch, device) of the payoffs.

    Attributes:
        policy: [..., A, B] pi, entries >= 0 with sum 1.
        gap: [...] value_upper - value_lower; negative where optimism is broken (Qu < Ql).
        value_upper: [...] E_pi Qu.
        value_lower: [...] E_pi Ql.
    """

    policy: ArrayT
    gap: ArrayT
    value_upper: ArrayT
    value_lower: ArrayT


def solve_cce(
    upper: Float[ArrayT, "*batch A B"],
    lower: Float[ArrayT, "*batch A B"],
    *,
    backend: str = "simplex",
    objective: str = "gap",
    tolerance: float = 1e-3,
) -> CCE[ArrayT]:
    """Find a coarse correlated equilibrium of every game of a batch.

    Args:
        upper: Qu, float64, numpy array or torch tensor on any device.
        lower: Ql, of the same kind and shape.
        backend: "simplex", exact, all games pivoted together; "lp", exact, one HiGHS program a game, the reference;
            "hedge", approximate, for games whose tableau of (A + B + 2) (A B + 2) numbers is too large (`hedge.hedge`).
        objective: "gap", the equilibrium with the smallest E_pi (Qu - Ql); "any", the first one found. "hedge" finds
            any only.
        tolerance: at which "hedge" stops: violation of a player, as a fraction of the range of its payoffs.

    Returns:
        The equilibria. Those of the exact back-ends are vertices of the polytope of equilibria; their violation is at
        most about 1e-11 of the range of the player's payoffs ("simplex") or 1e-9 ("lp").

    Raises:
        ValueError: shapes that disagree or are empty, payoffs that are not finite or not float64, an unknown backend
            or objective, "hedge" with "gap"; "lp" where HiGHS fails; "hedge" where it does not reach `tolerance`.

    Example: for matching pennies, upper = lower = [[1, 0], [0, 1]], the policy is uniform and both values are 0.5.
    """
    _check(upper, lower, backend, objective)
    batch, (num_max, num_min) = upper.shape[:-2], upper.shape[-2:]
    upper_NAB, lower_NAB = upper.reshape(-1, num_max, num_min), lower.reshape(-1, num_max, num_min)
    weights_NV: Any
    if backend == "hedge":
        weights_NAB = hedge(normalised(upper_NAB), normalised(lower_NAB), tolerance=tolerance)
        weights_NV = weights_NAB.reshape(-1, num_max * num_min)
    else:
        solve = simplex if backend == "simplex" else highs
        weights_NV = solve(*_program(upper_NAB, lower_NAB, objective))[0].clip(0.0)
    policy_NAB = (weights_NV / weights_NV.sum(axis=1)[:, None]).reshape(upper_NAB.shape)
    means = (_mean(policy_NAB, payoffs) for payoffs in (upper_NAB - lower_NAB, upper_NAB, lower_NAB))
    return CCE(policy_NAB.reshape(upper.shape), *(mean.reshape(batch) for mean in means))


def cce_violation(
    policy: Float[ArrayT, "*batch A B"], upper: Float[ArrayT, "*batch A B"], lower: Float[ArrayT, "*batch A B"]
) -> Float[ArrayT, "*batch"]:
    """Measure how far joint distributions are from a CCE: the most that a player gains by a fixed action of its own.

    violation = max( max_a' E Qu(a', b) - E Qu,  E Ql - min_b' E Ql(a, b'),  0 )

    Args:
        policy: pi.
        upper: Qu.
        lower: Ql.

    Returns:
        [...], in the unit of the payoffs; 0 for a CCE.

    Example: in matching pennies, both playing their first action gives the max player all it can have and the min
    player a gain of 1 by its second action: the violation is 1.
    """
    shape = policy.shape[-2:]
    policy_NAB, upper_NAB, lower_NAB = (array.reshape(-1, *shape) for array in (policy, upper, lower))
    max_play_N1A, min_play_NB1 = policy_NAB.sum(2)[:, None, :], policy_NAB.sum(1)[:, :, None]
    gains_max = (upper_NAB @ min_play_NB1)[:, :, 0] - _mean(policy_NAB, upper_NAB)[:, None]
    gains_min = _mean(policy_NAB, lower_NAB)[:, None] - (max_play_N1A @ lower_NAB)[:, 0]
    xp = _namespace(policy)
    worst = xp.amax(xp.concatenate([gains_max, gains_min], axis=1), axis=1)
    return worst.clip(0.0).reshape(policy.shape[:-2])


def normalised(payoffs: Any) -> Any:
    """Shift and scale each game of a batch to [0, 1], on the grid of the multiples of 2^-50.

    Neither changes the equilibria. On the grid all differences of payoffs are exact, so that the constraints of a CCE
    cannot contradict each other by rounding: they have a solution for exact arithmetic, too.

    Args:
        payoffs: [N, ...] of one player, finite, float64, numpy array or torch tensor.

    Returns:
        The same form; 0 where all payoffs of a game are equal.
    """
    xp = _namespace(payoffs)
    of_game = (slice(None), *(None for _ in payoffs.shape[1:]))
    axes = tuple(range(1, payoffs.ndim))
    least = xp.amin(payoffs, axis=axes)[of_game]
    size = xp.amax(payoffs, axis=axes)[of_game] - least
    return xp.round((payoffs - least) / xp.where(size > 0.0, size, 1.0) * _GRID) / _GRID


def _mean(policy_NAB: Any, payoffs_NAB: Any) -> Any:
    return (policy_NAB * payoffs_NAB).sum((1, 2))


def _check(upper: Any, lower: Any, backend: str, objective: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}")
    if objective not in OBJECTIVES:
        raise ValueError(f"objective is {objective!r}, expected one of {', '.join(OBJECTIVES)}")
    if (backend, objective) == ("hedge", "gap"):
        raise ValueError("backend 'hedge' finds some equilibrium, not the one with the smallest gap: objective='any'")
    if _namespace(upper) is not _namespace(lower):
        raise ValueError("upper and lower are a numpy array and a torch tensor, expected two of a kind")
    if upper.shape != lower.shape or upper.ndim < 2 or 0 in upper.shape[-2:]:
        raise ValueError(
            f"upper has shape {tuple(upper.shape)} and lower {tuple(lower.shape)}, expected the same shape "
            "(..., A, B) with at least one action for each player"
        )
    for name, payoffs in (("upper", upper), ("lower", lower)):
        if payoffs.dtype not in (np.float64, torch.float64):
            raise ValueError(f"{name} is of dtype {payoffs.dtype}, expected float64: ties are lost in less")
        finite = _namespace(payoffs).isfinite(payoffs)
        if not finite.all():
            raise ValueError(f"{name} holds {int((~finite).sum())} payoffs that are not finite numbers")


def _program(upper_NAB: Any, lower_NAB: Any, objective: str) -> tuple[Any, Any, Any]:
    """Write the games as maximise c x, G x <= d, x >= 0 over x = pi, flattened.

    The deviation rows have the bound 0 and the sum of x the bound 1. All costs are positive and the deviation rows
    homogeneous, so that the optimum has the sum 1.
    """
    xp = _namespace(upper_NAB)
    num_games, num_max, num_min = upper_NAB.shape
    upper, lower = normalised(upper_NAB), normalised(lower_NAB)
    of_max = upper[:, :, None, :] - upper[:, None, :, :]  # [N, a', a, b]: Qu(a', b) - Qu(a, b)
    of_min = lower[:, None, :, :] - lower.swapaxes(1, 2)[:, :, :, None]  # [N, b', a, b]: Ql(a, b) - Ql(a, b')
    sums = xp.ones_like(upper)
    sides = ((of_max, num_max), (of_min, num_min), (sums, 1))
    rows_NMV = xp.concatenate(
        [side.reshape(num_games, num_rows, num_max * num_min) for side, num_rows in sides], axis=1
    )
    bounds_NM = xp.zeros_like(rows_NMV[:, :, 0])
    bounds_NM[:, -1] = 1.0
    costs_NV = xp.ones_like(rows_NMV[:, 0])
    if objective == "gap":
        costs_NV += 1.0 - normalised(upper_NAB - lower_NAB).reshape(costs_NV.shape)
    return costs_NV, rows_NMV, bounds_NM


def _namespace(array: Any) -> Any:
    return torch if isinstance(array, torch.Tensor) else np
