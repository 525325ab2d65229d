"""Many small linear programs at once: maximise c x subject to G x <= d, x >= 0, with d >= 0.

The CCE of a bimatrix game and the value of a matrix game are programs of this form; x = 0 is feasible, so no first
phase. `simplex` keeps one dictionary (condensed tableau) a program in one array and pivots all of them together, in
numpy or in torch, and checks every solution. What fails the check goes one by one to `exact`, which calculates in
integers: games with near-ties, from 1e-4 to 1e-10 of the payoffs' range. `highs` loops over `scipy.optimize.linprog`
and is the reference.

Shape letters: N = programs, M = constraints, V = variables.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog

MAX_PIVOTS = 200
FEASIBILITY_TOLERANCE = 1e-11
OPTIMALITY_TOLERANCE = 1e-9
_PERTURBATION = 1e-10
_PIVOT_TOLERANCE = 1e-9
_COST_TOLERANCE = 1e-12


def simplex(costs_NV: Any, rows_NMV: Any, bounds_NM: Any) -> tuple[Any, Any]:
    """Solve a batch of programs by the primal simplex method with the largest coefficient entering, checked.

    The bounds in the ratio test carry 1e-10 (1 + 0.37 i) against cycling; that perturbation only steers the pivots, the
    solution belongs to the bounds as given. It is accepted if it exceeds no bound and is nowhere negative by more than
    1e-11, and if its multipliers y prove it optimal: y d + max(c - y G) - c x <= 1e-9, for y clipped at 0. Otherwise,
    or after 200 pivots, `exact` solves the program.

    Args:
        costs_NV: c, numpy array or torch tensor, float64. The tolerances are absolute: entries of the order of 1, as
            in the other two arguments.
        rows_NMV: G, of the same kind. No feasible x may have a sum above 1 (the check relies on it).
        bounds_NM: d >= 0, of the same kind.

    Returns:
        x [N, V], an optimal vertex, and the multipliers [N, M] of the constraints, of the kind of the arguments.

    Source: sheet 3.4, backend `simplex`. Ours: the dictionary form, the check, and integers instead of HiGHS for what
    fails (HiGHS, too, fails on some of those programs).
    """
    x_NV, multipliers_NM, finished_N = _pivoted(costs_NV, rows_NMV, bounds_NM)
    doubtful_N = ~(finished_N & _is_optimal(x_NV, multipliers_NM, costs_NV, rows_NMV, bounds_NM))
    if doubtful_N.any():
        again = exact(costs_NV[doubtful_N], rows_NMV[doubtful_N], bounds_NM[doubtful_N])
        x_NV[doubtful_N], multipliers_NM[doubtful_N] = again
    return x_NV, multipliers_NM


def exact(costs_NV: Any, rows_NMV: Any, bounds_NM: Any) -> tuple[Any, Any]:
    """Solve the same programs one after the other in integers, without any tolerance; the form of `simplex`.

    Raises:
        ValueError: a program is unbounded.
    """
    return _one_by_one(_exact_solution, costs_NV, rows_NMV, bounds_NM)


def highs(costs_NV: Any, rows_NMV: Any, bounds_NM: Any) -> tuple[Any, Any]:
    """Solve the same programs one after the other by HiGHS, at its tightest tolerances; the form of `simplex`.

    Raises:
        ValueError: HiGHS finds no optimum; the message holds its reason.
    """
    return _one_by_one(_highs_solution, costs_NV, rows_NMV, bounds_NM)


def _pivoted(costs_NV: Any, rows_NMV: Any, bounds_NM: Any) -> tuple[Any, Any, Any]:
    """Return x [N, V], multipliers [N, M] and, [N] bool, which programs ended at an optimum."""
    xp, kind = _array_kind(costs_NV)
    index = {**kind, "dtype": xp.int64}
    num_programs, num_rows, num_variables = rows_NMV.shape
    # Variables 0..V-1 are x, V..V+M-1 the slacks. A basic variable owns a row, the others a column. The last row is
    # the objective, the last two columns are the bounds: exact, and perturbed.
    tableau = xp.zeros((num_programs, num_rows + 1, num_variables + 2), **kind)
    tableau[:, :num_rows, :num_variables] = rows_NMV
    tableau[:, num_rows, :num_variables] = costs_NV
    tableau[:, :num_rows, num_variables] = bounds_NM
    tableau[:, :num_rows, num_variables + 1] = bounds_NM + _PERTURBATION * (1 + 0.37 * xp.arange(num_rows, **kind))
    basic = xp.zeros((num_programs, num_rows), **index) + xp.arange(num_variables, num_variables + num_rows, **index)
    nonbasic = xp.zeros((num_programs, num_variables), **index) + xp.arange(num_variables, **index)

    solution = xp.zeros((num_programs, num_variables + num_rows), **kind)
    multipliers = xp.zeros((num_programs, num_variables + num_rows), **kind)
    finished = xp.zeros(num_programs, **{**kind, "dtype": bool})
    running = xp.arange(num_programs, **index)
    for _ in range(MAX_PIVOTS):
        if len(running) == 0:
            break
        position = xp.arange(len(running), **index)
        entering = tableau[:, num_rows, :num_variables].argmax(axis=1)
        column = tableau[position, :, entering]
        limits = column[:, :num_rows] > _PIVOT_TOLERANCE
        divisors = xp.where(limits, column[:, :num_rows], 1.0)
        ratios = xp.where(limits, tableau[:, :num_rows, num_variables + 1] / divisors, xp.inf)
        leaving = ratios.argmin(axis=1)
        optimal = column[:, num_rows] <= _COST_TOLERANCE
        ended = optimal | ~limits.any(axis=1)
        if ended.any():
            rows = running[ended]
            finished[rows] = optimal[ended]
            solution[rows[:, None], basic[ended]] = tableau[ended, :num_rows, num_variables]
            multipliers[rows[:, None], nonbasic[ended]] = -tableau[ended, num_rows, :num_variables]
            going = ~ended
            running, tableau, basic, nonbasic = running[going], tableau[going], basic[going], nonbasic[going]
            position, column, entering, leaving = (
                position[: len(running)],
                column[going],
                entering[going],
                leaving[going],
            )
        pivot = column[position, leaving]
        pivot_row = tableau[position, leaving] / pivot[:, None]
        pivot_row[position, entering] = 1.0 / pivot
        tableau[position, :, entering] = 0.0
        tableau -= column[:, :, None] * pivot_row[:, None, :]
        tableau[position, leaving] = pivot_row
        left = basic[position, leaving]
        basic[position, leaving] = nonbasic[position, entering]
        nonbasic[position, entering] = left
    return solution[:, :num_variables], multipliers[:, num_variables:], finished


def _is_optimal(x_NV: Any, multipliers_NM: Any, costs_NV: Any, rows_NMV: Any, bounds_NM: Any) -> Any:
    """[N] bool: feasible, and within the tolerance of the upper bound that the multipliers give (weak duality)."""
    excess_NM = (rows_NMV @ x_NV[:, :, None])[:, :, 0] - bounds_NM
    feasible_N = (excess_NM <= FEASIBILITY_TOLERANCE).all(axis=1) & (x_NV >= -FEASIBILITY_TOLERANCE).all(axis=1)
    clipped_NM = multipliers_NM.clip(0.0)
    reduced_NV = costs_NV - (clipped_NM[:, None, :] @ rows_NMV)[:, 0]
    slack_N = (clipped_NM * bounds_NM).sum(axis=1) - (costs_NV * x_NV).sum(axis=1)
    return feasible_N & (slack_N[:, None] + reduced_NV.clip(0.0) <= OPTIMALITY_TOLERANCE).all(axis=1)


def _exact_solution(costs: np.ndarray, rows: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fraction-free simplex method: the dictionary is `tableau / denominator`, all in Python integers."""
    num_rows, num_variables = rows.shape
    tableau = _integers(np.block([[rows, bounds[:, None]], [costs[None], np.zeros((1, 1))]]))
    denominator = 1
    basic = list(range(num_variables, num_variables + num_rows))
    nonbasic = list(range(num_variables))
    while tableau[-1, :-1].max() > 0:
        entering = int(tableau[-1, :-1].argmax())
        leaving = _leaving_row(tableau, denominator, entering, basic, nonbasic)
        pivot, column, pivot_row = tableau[leaving, entering], tableau[:, entering].copy(), tableau[leaving].copy()
        tableau = (pivot * tableau - np.outer(column, pivot_row)) // denominator
        tableau[leaving], tableau[:, entering] = pivot_row, -column
        tableau[leaving, entering] = denominator
        denominator = pivot
        basic[leaving], nonbasic[entering] = nonbasic[entering], basic[leaving]
    values, multipliers = np.zeros(num_variables + num_rows), np.zeros(num_variables + num_rows)
    values[basic] = tableau[:-1, -1] / denominator
    multipliers[nonbasic] = -tableau[-1, :-1] / denominator
    return values[:num_variables], multipliers[num_variables:]


def _leaving_row(tableau: np.ndarray, denominator: int, entering: int, basic: list[int], nonbasic: list[int]) -> int:
    """The lexicographic ratio test: ties of the bounds are broken by the slacks' columns in turn, so no cycle."""
    num_rows, num_variables = len(basic), len(nonbasic)
    tied = [row for row in range(num_rows) if tableau[row, entering] > 0]
    if not tied:
        raise ValueError("a linear program is unbounded: its objective grows for ever along a feasible ray")
    values = tableau[:-1, -1]
    for slack in range(num_variables, num_variables + num_rows):
        ratios = [Fraction(values[row], tableau[row, entering]) for row in tied]
        least = min(ratios)
        tied = [row for row, ratio in zip(tied, ratios, strict=True) if ratio == least]
        if len(tied) == 1:
            break
        if slack in nonbasic:
            values = tableau[:-1, nonbasic.index(slack)]
        else:
            values = np.array([denominator if variable == slack else 0 for variable in basic], dtype=object)
    return tied[0]


def _highs_solution(costs: np.ndarray, rows: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tolerances = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    result = linprog(-costs, A_ub=rows, b_ub=bounds, method="highs", options=tolerances)
    if result.status != 0:
        raise ValueError(f"HiGHS did not solve a linear program: {result.message}; the backend 'simplex' solves it")
    return result.x, -result.ineqlin.marginals


def _integers(array: np.ndarray) -> np.ndarray:
    """The entries as Python integers, times one power of two that makes all of them whole."""
    ratios = [value.as_integer_ratio() for value in array.ravel().tolist()]
    common = max(denominator for _, denominator in ratios)
    whole = np.array([numerator * (common // denominator) for numerator, denominator in ratios], dtype=object)
    return whole.reshape(array.shape)


def _array_kind(array: Any) -> tuple[Any, dict[str, Any]]:
    """Return the module, numpy or torch, and the keywords that make arrays of the same dtype and device with it."""
    if isinstance(array, torch.Tensor):
        return torch, {"dtype": array.dtype, "device": array.device}
    return np, {"dtype": array.dtype}


def _one_by_one(solve: Callable[..., tuple[np.ndarray, np.ndarray]], *arrays: Any) -> tuple[Any, Any]:
    """Apply `solve` to each program, given as numpy arrays, and stack the solutions in the kind of `arrays`."""
    costs_NV, _, bounds_NM = arrays
    x_NV, multipliers_NM = np.zeros(tuple(costs_NV.shape)), np.zeros(tuple(bounds_NM.shape))
    numpy_arrays = [array.cpu().numpy() if isinstance(array, torch.Tensor) else array for array in arrays]
    for position, program in enumerate(zip(*numpy_arrays, strict=True)):
        x_NV[position], multipliers_NM[position] = solve(*program)
    if isinstance(costs_NV, torch.Tensor):
        return torch.as_tensor(x_NV, device=costs_NV.device), torch.as_tensor(multipliers_NM, device=costs_NV.device)
    return x_NV, multipliers_NM
