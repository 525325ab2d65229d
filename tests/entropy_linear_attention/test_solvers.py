import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iclr_repro.entropy_linear_attention.solvers import SOLVERS, VAR_CAP, collision, shannon2, shannon4, solve


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@given(st.floats(1e-6, VAR_CAP))
def test_collision_equates_the_sums_of_squared_weights(var: float) -> None:
    r = float(collision(tensor(var)))
    assert 1 + r**2 * var == pytest.approx(math.exp(var), rel=1e-12)


@given(st.floats(1e-6, VAR_CAP))
def test_shannon4_solves_its_quadratic(var: float) -> None:
    u = float(shannon4(tensor(var))) ** 2 * var
    assert u / 2 + u**2 / 4 == pytest.approx(var / 2, rel=1e-12)
    assert float(shannon4(tensor(var))) == pytest.approx(math.sqrt((math.sqrt(1 + 2 * var) - 1) / var), rel=1e-6)


def test_shannon2_is_one_whatever_the_variance() -> None:
    assert shannon2(tensor(0.0, 0.3, 20.0)).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("solver", SOLVERS)
def test_r_tends_to_one_with_the_variance(solver: str) -> None:
    for var in (0.0, 1e-12, 1e-9, 1e-7):
        assert float(solve(solver, tensor(var))) == pytest.approx(1.0, abs=1e-6)
        assert float(solve(solver, tensor(var).float())) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_variance_is_capped_inside_the_solver(solver: str) -> None:
    at_cap, beyond = solve(solver, tensor(VAR_CAP, 1e9)).tolist()
    assert at_cap == beyond
    assert float(solve("collision", tensor(VAR_CAP))) == pytest.approx(math.sqrt(math.expm1(30.0) / 30.0))
    assert float(solve("shannon4", tensor(VAR_CAP))) == pytest.approx(math.sqrt((math.sqrt(61.0) - 1) / 30.0))


@pytest.mark.parametrize("solver", SOLVERS)
def test_gradients_are_finite_from_no_variance_to_far_beyond_the_cap(solver: str) -> None:
    var = torch.tensor([0.0, 1e-9, 1e-7, 0.2, 29.0, 1e6], requires_grad=True)
    (gradient,) = torch.autograd.grad(solve(solver, var).sum() + 0.0 * var.sum(), var)
    assert gradient.isfinite().all()


def test_collision_is_exact_for_softmax_of_many_gaussian_scores() -> None:
    scores = np.random.default_rng(0).standard_normal(2_000_000) * math.sqrt(0.5)
    p = np.exp(scores) / np.exp(scores).sum()
    r = float(collision(tensor(0.5)))
    assert (1 + r**2 * 0.5) == pytest.approx(len(p) * (p**2).sum(), rel=0.01)
