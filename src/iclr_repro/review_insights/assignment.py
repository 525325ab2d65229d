"""Minimum-cost assignments with the runner-up and the probability of every match, for many small problems at once."""

import itertools
import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp

# Shape letters: P = problems of one size, N = rows, M = columns of the cost matrix, A = possible assignments.

MAX_ENUMERATED = math.factorial(6)
"""Up to this many possible assignments they are all written out, for all problems at once."""

MAX_COLUMNS = 14
"""Most columns of a problem: the probabilities need 2^columns steps."""


class Assignments(NamedTuple):
    """Solutions of P assignment problems of one size.

    Attributes:
        chosen: bool [P, N, M], the matches of least total cost: min(N, M) a problem, one at most in a row or column.
        cost: float64 [P], their total cost.
        second_cost: float64 [P], total cost of the best other assignment, inf if there is none.
        probability: float64 [P, N, M], probability of each match if P(assignment) ~ exp(-cost / temperature).
    """

    chosen: np.ndarray
    cost: np.ndarray
    second_cost: np.ndarray
    probability: np.ndarray


def assign(cost_PNM: np.ndarray, *, temperature: float) -> Assignments:
    """Match rows with columns, as many as the smaller side has, at the least total cost.

    Args:
        cost_PNM: finite costs, P problems of the same size.
        temperature: in units of cost, positive.

    Returns:
        Exact solutions: all assignments are enumerated where there are at most 720 (6 x 6), else each problem is solved
        by `scipy.optimize.linear_sum_assignment`, the runner-up by forbidding each chosen match in turn, and the
        probabilities by a recursion over the subsets of columns.

    Raises:
        ValueError: a larger side of more than 14 in a problem that is too large to enumerate.

    Example: cost [[0, 1], [1, 0]] has cost 0 (the diagonal), second cost 2, and at temperature 1 the diagonal matches
    have probability 1 / (1 + exp(-2)) = 0.881.
    """
    if cost_PNM.shape[1] > cost_PNM.shape[2]:
        chosen, cost, second_cost, probability = assign(cost_PNM.transpose(0, 2, 1), temperature=temperature)
        return Assignments(chosen.transpose(0, 2, 1), cost, second_cost, probability.transpose(0, 2, 1))
    if math.perm(cost_PNM.shape[2], cost_PNM.shape[1]) <= MAX_ENUMERATED:
        return _assign_by_enumeration(cost_PNM, temperature)
    solved = [_assign_one(cost_NM, temperature) for cost_NM in cost_PNM]
    return Assignments(*(np.stack(column) for column in zip(*solved, strict=True)))


def _assign_by_enumeration(cost_PNM: np.ndarray, temperature: float) -> Assignments:
    num_rows, num_columns = cost_PNM.shape[1:]
    columns_AN = np.array(list(itertools.permutations(range(num_columns), num_rows)), dtype=int)
    member_AX = np.zeros((len(columns_AN), num_rows * num_columns))  # X: the cells of the matrix in one row
    np.put_along_axis(member_AX, np.arange(num_rows) * num_columns + columns_AN, 1.0, axis=1)
    total_PA = cost_PNM.reshape(len(cost_PNM), -1) @ member_AX.T
    best_P = total_PA.argmin(axis=1)
    cost_P = np.take_along_axis(total_PA, best_P[:, None], axis=1)[:, 0]
    weight_PA = np.exp((cost_P[:, None] - total_PA) / temperature)
    probability_PX = weight_PA / weight_PA.sum(axis=1, keepdims=True) @ member_AX
    np.put_along_axis(total_PA, best_P[:, None], np.inf, axis=1)
    chosen_PX = member_AX[best_P] > 0
    shape = cost_PNM.shape
    return Assignments(chosen_PX.reshape(shape), cost_P, total_PA.min(axis=1), probability_PX.reshape(shape))


def _assign_one(cost_NM: np.ndarray, temperature: float) -> tuple[np.ndarray, float, float, np.ndarray]:
    """One problem with N <= M, too large to write out all its assignments."""
    if cost_NM.shape[1] > MAX_COLUMNS:
        raise ValueError(f"{cost_NM.shape} reviews to match, expected at most {MAX_COLUMNS} on a side")
    rows, columns = linear_sum_assignment(cost_NM)
    chosen_NM = np.zeros(cost_NM.shape, dtype=bool)
    chosen_NM[rows, columns] = True
    cost = float(cost_NM[chosen_NM].sum())
    second_cost = np.inf
    # any other assignment lacks at least one of the chosen matches
    too_high = cost + np.abs(cost_NM).sum() + 1.0
    for row, column in zip(rows, columns, strict=True):
        without_NM = cost_NM.copy()
        without_NM[row, column] = too_high
        second_cost = min(second_cost, float(without_NM[linear_sum_assignment(without_NM)].sum()))
    return chosen_NM, cost, second_cost, _match_probabilities(-cost_NM / temperature)


def _match_probabilities(log_weight_NM: np.ndarray) -> np.ndarray:
    """[N, M] marginals of P(assignment) ~ product of the weights of its matches.

    prefix[i][S] sums over the ways to give the first i rows the columns S, suffix[i][S] over those to give the other
    rows columns outside S; a row i takes column j with weight prefix[i][S] w[i, j] suffix[i + 1][S + j] over all S.
    All in logarithms.
    """
    num_rows, num_columns = log_weight_NM.shape
    subsets = np.arange(1 << num_columns)
    lacking = [subsets[subsets >> column & 1 == 0] for column in range(num_columns)]  # the subsets without a column
    prefix = np.full((num_rows + 1, len(subsets)), -np.inf)
    suffix = prefix.copy()
    prefix[0, 0] = 0.0
    suffix[num_rows] = 0.0
    for row in range(num_rows):
        for column, without in enumerate(lacking):
            path = prefix[row, without] + log_weight_NM[row, column]
            prefix[row + 1, without | 1 << column] = np.logaddexp(prefix[row + 1, without | 1 << column], path)
    for row in reversed(range(num_rows)):
        for column, without in enumerate(lacking):
            path = log_weight_NM[row, column] + suffix[row + 1, without | 1 << column]
            suffix[row, without] = np.logaddexp(suffix[row, without], path)
    log_marginal = np.empty_like(log_weight_NM)
    for row in range(num_rows):
        for column, without in enumerate(lacking):
            paths = prefix[row, without] + suffix[row + 1, without | 1 << column]
            log_marginal[row, column] = logsumexp(paths) + log_weight_NM[row, column]
    return np.exp(log_marginal - suffix[0, 0])
