from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from iclr_repro.me_nash_ql import linear_programs
from iclr_repro.me_nash_ql.cce import BACKENDS, cce_violation, normalised, solve_cce

Games = tuple[np.ndarray, np.ndarray]

DILEMMA = np.array([[2.0, 0.0], [3.0, 1.0]])  # the max player's payoffs: the second action is better in both columns


def random_games(num_games: int, num_max: int, num_min: int, *, seed: int = 0) -> Games:
    rng = np.random.default_rng(seed)
    lower = 4 * rng.random((num_games, num_max, num_min))
    return lower + rng.random(lower.shape), lower


def drawn_games(kind: str, shape: tuple[int, int, int], seed: int) -> Games:
    """Upper and lower payoffs of one of the kinds that a solver can trip over."""
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, *shape))
    ties = rng.integers(0, 3, (2, *shape)).astype(float)
    return {
        "random": (first, second),
        "crossed": (first, first + np.abs(second)),
        "tied": (ties[0], ties[1]),
        "zero_sum": (ties[0], ties[0]),
        "constant": (np.full(shape, 4.0), np.zeros(shape)),
        "half_constant": (first, np.full(shape, 0.1)),
        "large": (1e8 * first, 1e8 * second),
        "tiny": (1e-8 * first, 1e-8 * second),
        "unlike": (1e6 * first, 1e-6 * second),
        "mixed_scales": (first * 10.0 ** rng.integers(-8, 9, shape), second * 10.0 ** rng.integers(-8, 9, shape)),
        "near_ties": (ties[0] + 1e-8 * first, ties[1] + 1e-6 * second),
        "offset": (1e6 + first, 1e6 + second),
    }[kind]


KINDS = (
    "random crossed tied zero_sum constant half_constant large tiny unlike mixed_scales near_ties offset".split()  # noqa: SIM905
)
shapes = st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4))


def scale(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """[N] the largest payoff of a game in size, at least 1."""
    return np.maximum(1.0, np.maximum(np.abs(upper), np.abs(lower)).max(axis=(-2, -1)))


def extremes(upper: np.ndarray, lower: np.ndarray, payoffs: np.ndarray) -> tuple[float, float]:
    """Least and largest mean of `payoffs` over all equilibria of one game, by linear programs written out in full."""
    num_max, num_min = upper.shape
    rows = []
    for other in range(num_max):
        rows.append([upper[other, b] - upper[a, b] for a in range(num_max) for b in range(num_min)])
    for other in range(num_min):
        rows.append([lower[a, b] - lower[a, other] for a in range(num_max) for b in range(num_min)])
    ends = []
    for sign in (1.0, -1.0):
        result = linprog(
            sign * payoffs.ravel(), A_ub=rows, b_ub=np.zeros(len(rows)), A_eq=np.ones((1, payoffs.size)), b_eq=[1.0]
        )
        assert result.status == 0
        ends.append(sign * result.fun)
    return ends[0], ends[1]


# --- properties ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(shape=shapes, seed=st.integers(0, 2**32 - 1), objective=st.sampled_from(["gap", "any"]))
@settings(deadline=None, max_examples=40)
def test_every_solution_is_an_equilibrium(kind: str, shape: tuple[int, int, int], seed: int, objective: str) -> None:
    upper, lower = drawn_games(kind, shape, seed)
    solution = solve_cce(upper, lower, objective=objective)
    assert (cce_violation(solution.policy, upper, lower) <= 1e-8 * scale(upper, lower)).all()
    assert solution.policy.min() >= 0.0
    np.testing.assert_allclose(solution.policy.sum(axis=(1, 2)), np.ones(len(upper)), rtol=0, atol=1e-12)
    np.testing.assert_allclose(solution.value_upper, (solution.policy * upper).sum(axis=(1, 2)), rtol=1e-12)


@pytest.mark.parametrize("kind", ["random", "crossed", "tied", "zero_sum"])
@given(shape=shapes, seed=st.integers(0, 2**32 - 1), objective=st.sampled_from(["gap", "any"]))
@settings(deadline=None, max_examples=15)
def test_values_lie_in_the_range_of_all_equilibria_and_the_smallest_gap_is_reached(
    kind: str, shape: tuple[int, int, int], seed: int, objective: str
) -> None:
    upper, lower = drawn_games(kind, shape, seed)
    solution = solve_cce(upper, lower, objective=objective)
    for game, (qu, ql) in enumerate(zip(upper, lower, strict=True)):
        for payoffs, value in ((qu, solution.value_upper), (ql, solution.value_lower), (qu - ql, solution.gap)):
            least, largest = extremes(qu, ql, payoffs)
            assert least - 1e-6 <= value[game] <= largest + 1e-6
        if objective == "gap":
            assert solution.gap[game] == pytest.approx(extremes(qu, ql, qu - ql)[0], abs=1e-6)


@given(shape=shapes, seed=st.integers(0, 2**32 - 1), unit=st.sampled_from([1e-6, 3.0, 1e6]), shift=st.floats(-5, 5))
@settings(deadline=None, max_examples=40)
def test_units_and_origin_of_the_payoffs_do_not_matter(
    shape: tuple[int, int, int], seed: int, unit: float, shift: float
) -> None:
    upper, lower = drawn_games("random", shape, seed)
    solution = solve_cce(upper, lower)
    rescaled = solve_cce(unit * (upper + shift), unit * (lower + shift))
    np.testing.assert_allclose(rescaled.gap, unit * solution.gap, rtol=0, atol=1e-8 * unit)


def test_swapping_the_players_mirrors_the_equilibrium() -> None:
    upper, lower = random_games(30, 3, 2)
    mirrored = solve_cce(-lower.swapaxes(1, 2).copy(), -upper.swapaxes(1, 2).copy())
    solution = solve_cce(upper, lower)
    np.testing.assert_allclose(mirrored.gap, solution.gap, rtol=0, atol=1e-10)
    np.testing.assert_allclose(mirrored.value_upper, -solution.value_lower, rtol=0, atol=1e-10)


# --- examples --------------------------------------------------------------------------------------------------------


def test_pennies_are_played_uniformly() -> None:
    solution = solve_cce(np.eye(2), np.eye(2))
    assert solution.policy.tolist() == [[0.25, 0.25], [0.25, 0.25]]
    assert [float(mean) for mean in (solution.value_upper, solution.value_lower, solution.gap)] == [0.5, 0.5, 0.0]


def test_the_max_player_looks_at_the_upper_payoffs_by_rows_and_the_min_player_at_the_lower_ones_by_columns() -> None:
    """Each has one dominant action: row 1 of the upper payoffs; column 0 of the lower ones, which it minimises."""
    lower = np.array([[0.0, 2.0], [1.0, 5.0]])
    solution = solve_cce(DILEMMA, lower)
    assert solution.policy.tolist() == [[0.0, 0.0], [1.0, 0.0]]
    assert [float(mean) for mean in (solution.value_upper, solution.value_lower, solution.gap)] == [3.0, 1.0, 2.0]


def test_crossed_payoffs_have_a_negative_gap_and_no_error() -> None:
    solution = solve_cce(np.zeros((2, 2)), np.ones((2, 2)))
    assert solution.gap == -1.0


def test_a_fresh_table_gives_a_pure_joint_action() -> None:
    solution = solve_cce(np.full((3, 2, 2), 4.0), np.zeros((3, 2, 2)))
    assert np.sort(solution.policy.reshape(3, 4), axis=1).tolist() == [[0.0, 0.0, 0.0, 1.0]] * 3


def test_the_smallest_gap_is_smaller_than_that_of_any_equilibrium() -> None:
    games = random_games(200, 3, 3)
    gaps, of_any = solve_cce(*games).gap, solve_cce(*games, objective="any").gap
    assert (gaps <= of_any + 1e-9).all()
    assert gaps.mean() < of_any.mean() - 0.01


def test_zero_sum_games_have_nash_marginals() -> None:
    payoffs = np.random.default_rng(2).random((50, 3, 4))
    solution = solve_cce(payoffs, payoffs, objective="any")
    mu, nu = solution.policy.sum(axis=2), solution.policy.sum(axis=1)
    best_max = np.einsum("nab,nb->na", payoffs, nu).max(axis=1)
    best_min = np.einsum("nab,na->nb", payoffs, mu).min(axis=1)
    np.testing.assert_allclose(best_max, best_min, rtol=0, atol=1e-9)
    np.testing.assert_allclose(solution.value_upper, best_max, rtol=0, atol=1e-9)


def test_violation_is_the_largest_gain_of_a_fixed_action() -> None:
    first = np.array([[1.0, 0.0], [0.0, 0.0]])
    assert cce_violation(first, np.eye(2), np.eye(2)) == 1.0  # the min player flees to its second action
    assert cce_violation(first, DILEMMA, np.zeros((2, 2))) == 1.0  # the max player's second action pays 3, not 2
    assert cce_violation(np.eye(2) / 2, np.eye(2), np.zeros((2, 2))) == 0.0
    assert cce_violation(np.stack([first, first]), np.stack([np.eye(2), DILEMMA]), np.zeros((2, 2, 2))).tolist() == [
        0,
        1,
    ]


# --- batches and back-ends -------------------------------------------------------------------------------------------


def test_batches_of_any_shape_are_solved_game_by_game() -> None:
    upper, lower = (payoffs.reshape(2, 3, 2, 4) for payoffs in random_games(6, 2, 4))
    together = solve_cce(upper, lower)
    assert together.policy.shape == (2, 3, 2, 4)
    for index in np.ndindex(2, 3):
        alone = solve_cce(upper[index], lower[index])
        np.testing.assert_array_equal(together.policy[index], alone.policy)
        assert together.gap[index] == alone.gap


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_games_have_no_solutions(backend: str) -> None:
    none = np.zeros((0, 2, 3))
    assert solve_cce(none, none, backend=backend, objective="any").policy.shape == (0, 2, 3)


@pytest.mark.parametrize("size", [(2, 2), (3, 3), (5, 4)])
def test_both_exact_backends_reach_the_same_gap(size: tuple[int, int]) -> None:
    games = random_games(25, *size)
    by_simplex, by_highs = solve_cce(*games), solve_cce(*games, backend="lp")
    np.testing.assert_allclose(by_simplex.gap, by_highs.gap, rtol=0, atol=1e-9)
    assert cce_violation(by_highs.policy, *games).max() <= 1e-8


def test_hedge_keeps_to_its_tolerance_of_the_range_of_the_payoffs() -> None:
    upper, lower = (1000 * payoffs for payoffs in random_games(4, 12, 11))
    solution = solve_cce(upper, lower, backend="hedge", objective="any", tolerance=0.01)
    assert cce_violation(solution.policy, upper, lower).max() <= 0.01 * 5000
    np.testing.assert_allclose(solution.policy.sum(axis=(1, 2)), np.ones(4), rtol=0, atol=1e-12)


def assert_torch_agrees(device: str, backend: str) -> None:
    upper, lower = drawn_games("tied", (40, 3, 3), 5)
    upper[20:], lower[20:] = random_games(20, 3, 3)
    tensors = [torch.as_tensor(payoffs, device=device) for payoffs in (upper, lower)]
    found = solve_cce(*tensors, backend=backend, objective="any")
    expected = solve_cce(upper, lower, backend=backend, objective="any")
    assert found.policy.device.type == device
    assert found.policy.dtype == torch.float64
    assert cce_violation(found.policy, *tensors).max() <= (5e-3 if backend == "hedge" else 1e-9)
    np.testing.assert_allclose(found.value_upper.cpu().numpy(), expected.value_upper, rtol=0, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_tensors_give_tensors_with_the_same_solutions(backend: str) -> None:
    assert_torch_agrees("cpu", backend)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gpu_gives_the_same_solutions(backend: str) -> None:
    assert_torch_agrees("cuda", backend)


def test_near_ties_are_solved_in_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    upper, lower = drawn_games("near_ties", (40, 3, 3), 1)
    solved = []

    def counted(*programs: Any) -> Any:
        solved.append(len(programs[0]))
        return exact(*programs)

    exact = linear_programs.exact
    monkeypatch.setattr(linear_programs, "exact", counted)
    solution = solve_cce(upper, lower)
    assert solved
    assert cce_violation(solution.policy, upper, lower).max() <= 1e-10


def test_differences_of_normalised_payoffs_are_exact() -> None:
    payoffs = normalised(np.random.default_rng(0).normal(size=(50, 4)) * 1e5)
    assert payoffs.min() == 0.0
    assert payoffs.max() == 1.0
    a, b, c = payoffs[:, 0], payoffs[:, 1], payoffs[:, 2]
    np.testing.assert_array_equal((a - b) + (b - c), a - c)
    assert normalised(np.full((1, 3), 0.1)).tolist() == [[0.0, 0.0, 0.0]]


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("upper", "lower", "options", "message"),
    [
        (np.eye(2), np.eye(2), {"backend": "scipy"}, "backend is 'scipy', expected one of simplex, lp, hedge"),
        (np.eye(2), np.eye(2), {"objective": "max"}, "objective is 'max', expected one of gap, any"),
        (np.eye(2), np.eye(2), {"backend": "hedge"}, "'hedge' finds some equilibrium, .*: objective='any'"),
        (
            np.zeros((2, 0)),
            np.zeros((2, 0)),
            {},
            r"upper has shape \(2, 0\) and lower \(2, 0\), expected the same shape",
        ),
        (np.array([[1.0, np.nan]]), np.zeros((1, 2)), {}, "upper holds 1 payoffs that are not finite numbers"),
        (np.zeros((1, 2)), np.array([[np.inf, -np.inf]]), {}, "lower holds 2 payoffs that are not finite numbers"),
        (np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), {}, "upper is of dtype float32, expected float64"),
        (torch.eye(2), torch.eye(2), {}, r"upper is of dtype torch.float32, expected float64"),
    ],
)
def test_bad_input_is_refused(upper: Any, lower: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve_cce(upper, lower, **options)
