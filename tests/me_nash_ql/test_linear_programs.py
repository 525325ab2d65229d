from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import OptimizeResult, linprog

from iclr_repro.me_nash_ql import linear_programs
from iclr_repro.me_nash_ql.linear_programs import exact, highs, simplex

Program = tuple[np.ndarray, np.ndarray, np.ndarray]


def programs(num_programs: int, num_rows: int, num_variables: int, *, tied: bool = False, seed: int = 0) -> Program:
    """Random programs with a row sum x <= 1 that bounds them; with ties, of small integers and bounds 0."""
    rng = np.random.default_rng(seed)
    shape = num_programs, num_rows, num_variables
    if tied:
        costs, rows, bounds = rng.integers(1, 4, shape[::2]) / 3, rng.integers(-2, 3, shape) / 2, np.zeros(shape[:2])
    else:
        costs, rows, bounds = rng.normal(size=shape[::2]), rng.normal(size=shape), rng.random(shape[:2])
    rows[:, -1], bounds[:, -1] = 1.0, 1.0
    return costs, rows, bounds


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (6, 9), (9, 16)])
@pytest.mark.parametrize("solve", [simplex, exact, highs])
def test_every_solver_finds_the_optimum_and_the_multipliers_that_prove_it(
    solve: Any, size: tuple[int, int], tied: bool
) -> None:
    costs, rows, bounds = programs(20, *size, tied=tied)
    x, multipliers = solve(costs, rows, bounds)
    assert x.min() >= -1e-10
    assert (np.einsum("nmv,nv->nm", rows, x) - bounds).max() <= 1e-10
    assert multipliers.min() >= -1e-9
    assert (costs - np.einsum("nm,nmv->nv", multipliers, rows)).max() <= 1e-9
    np.testing.assert_allclose((multipliers * bounds).sum(axis=1), (costs * x).sum(axis=1), rtol=0, atol=1e-9)


def test_optima_are_those_of_highs() -> None:
    costs, rows, bounds = programs(200, 7, 9)
    x, _ = simplex(costs, rows, bounds)
    reference, _ = highs(costs, rows, bounds)
    np.testing.assert_allclose((costs * x).sum(axis=1), (costs * reference).sum(axis=1), rtol=0, atol=1e-9)


def test_torch_gives_the_solutions_of_numpy() -> None:
    arrays = programs(50, 6, 9)
    tensors = [torch.as_tensor(array) for array in arrays]
    for solve in (simplex, exact, highs):
        for tensor, array in zip(solve(*tensors), solve(*arrays), strict=True):
            assert isinstance(tensor, torch.Tensor)
            np.testing.assert_allclose(tensor.numpy(), array, rtol=0, atol=1e-12)


def test_a_batch_without_programs_gives_none() -> None:
    for solve in (simplex, exact, highs):
        x, multipliers = solve(*programs(0, 4, 3))
        assert x.shape == (0, 3)
        assert multipliers.shape == (0, 4)


def test_what_runs_out_of_pivots_is_solved_in_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = programs(5, 6, 9)
    expected, _ = simplex(*arrays)
    monkeypatch.setattr(linear_programs, "MAX_PIVOTS", 1)
    _, _, finished = linear_programs._pivoted(*arrays)
    assert not finished.all()
    np.testing.assert_allclose(simplex(*arrays)[0], expected, rtol=0, atol=1e-12)


def test_a_wrong_vertex_or_wrong_multipliers_do_not_pass_the_check() -> None:
    arrays = programs(6, 6, 9)
    x, multipliers = exact(*arrays)
    assert linear_programs._is_optimal(x, multipliers, *arrays).all()
    assert not linear_programs._is_optimal(0.99 * x, multipliers, *arrays).any()
    assert not linear_programs._is_optimal(x + 1e-6, multipliers, *arrays).any()
    assert not linear_programs._is_optimal(x, multipliers + 1e-6, *arrays).any()


def test_integers_solve_what_floating_point_cannot_tell_apart() -> None:
    """Maximise x + y under 3 x <= 1 and x + (1 + 2^-50) y <= 1: y takes a trifle more of the second bound than x."""
    rows = np.array([[[3.0, 0.0], [1.0, 1.0 + 2.0**-50]]])
    x, multipliers = exact(np.ones((1, 2)), rows, np.ones((1, 2)))
    assert x[0].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert 0.0 < multipliers[0, 0] < 1e-15


def test_an_unbounded_program_is_refused() -> None:
    costs, rows, bounds = np.ones((2, 1)), np.array([[[1.0]], [[-1.0]]]), np.ones((2, 1))
    with pytest.raises(ValueError, match="a linear program is unbounded: its objective grows for ever"):
        simplex(costs, rows, bounds)
    with pytest.raises(ValueError, match=r"HiGHS did not solve a linear program: .*; the backend 'simplex' solves it"):
        highs(costs, rows, bounds)


def test_a_failure_of_highs_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: Any, **kwargs: Any) -> OptimizeResult:
        return OptimizeResult({**linprog(*args, **kwargs), "status": 4, "message": "Numerical difficulties."})

    monkeypatch.setattr(linear_programs, "linprog", failing)
    with pytest.raises(ValueError, match=r"HiGHS did not solve a linear program: Numerical difficulties\."):
        highs(*programs(2, 3, 2))
