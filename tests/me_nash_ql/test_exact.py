from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linprog

from iclr_repro.me_nash_ql.builders import matching_pennies, matrix_game, random_game
from iclr_repro.me_nash_ql.exact import (
    best_response_values,
    exploitability,
    nash_value,
    policy_values,
    solve_matrix_games,
)
from iclr_repro.me_nash_ql.games import MarkovGame

GAME = random_game(3, 3, 2, 3, concentration=0.6, rewards="uniform", seed=4)


def random_policies(game: MarkovGame, *, runs: tuple[int, ...] = (), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    cells = *runs, game.num_steps, game.num_states
    return (
        rng.dirichlet(np.ones(game.num_actions_max), size=cells),
        rng.dirichlet(np.ones(game.num_actions_min), size=cells),
    )


def value_by_highs(payoffs: np.ndarray) -> float:
    """max v subject to x Q(., b) >= v for all b."""
    num_max, num_min = payoffs.shape
    result = linprog(
        np.append(np.zeros(num_max), -1.0),
        A_ub=np.hstack([-payoffs.T, np.ones((num_min, 1))]),
        b_ub=np.zeros(num_min),
        A_eq=np.append(np.ones(num_max), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, 1)] * num_max + [(None, None)],
    )
    return float(-result.fun)


# --- matrix games ----------------------------------------------------------------------------------------------------


def test_the_documented_matrix_game_has_its_value_and_uniform_policies() -> None:
    solution = solve_matrix_games(np.eye(2))
    assert solution.values == pytest.approx(0.5)
    assert solution.max_policies.tolist() == pytest.approx([0.5, 0.5])
    assert solution.min_policies.tolist() == pytest.approx([0.5, 0.5])


@given(
    arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.floats(-9, 9)),
    st.sampled_from([1e-6, 1.0, 1e6]),
)
@settings(deadline=None, max_examples=60)
def test_matrix_games_have_the_value_of_the_linear_program_and_policies_that_attain_it(
    payoffs: np.ndarray, unit: float
) -> None:
    value, x, y = solve_matrix_games(unit * payoffs)
    assert value / unit == pytest.approx(value_by_highs(payoffs), abs=1e-7)
    assert (x @ payoffs).min() == pytest.approx(value / unit, abs=1e-9)
    assert (payoffs @ y).max() == pytest.approx(value / unit, abs=1e-9)
    assert x.sum() == pytest.approx(1.0)
    assert y.sum() == pytest.approx(1.0)
    assert min(x.min(), y.min()) >= 0.0


def test_games_of_a_batch_do_not_mix() -> None:
    payoffs = np.random.default_rng(0).normal(size=(2, 7, 3, 4))
    together = solve_matrix_games(payoffs)
    assert together.max_policies.shape == (2, 7, 3)
    for index in np.ndindex(2, 7):
        alone = solve_matrix_games(payoffs[index])
        for batch, single in zip(together, alone, strict=True):
            np.testing.assert_array_equal(batch[index], single)


def test_constant_and_single_action_games_have_their_entry_as_the_value() -> None:
    assert solve_matrix_games(np.full((3, 2), -4.0)).values == -4.0
    assert solve_matrix_games(np.array([[3.0, 1.0, 2.0]])).values == pytest.approx(1.0)
    assert solve_matrix_games(np.array([[3.0], [1.0]])).values == pytest.approx(3.0)


@pytest.mark.parametrize("payoffs", [np.zeros((2, 0)), np.array([[np.nan]]), np.array([[1.0, np.inf]])])
def test_payoffs_that_are_empty_or_not_finite_are_refused(payoffs: np.ndarray) -> None:
    with pytest.raises(ValueError, match="are empty or hold something else than finite numbers"):
        solve_matrix_games(payoffs)


# --- Markov games ----------------------------------------------------------------------------------------------------


def test_rounds_of_pennies_are_worth_half_a_penny_each() -> None:
    solution = nash_value(matching_pennies(3))
    assert solution.values[:, 0].tolist() == pytest.approx([1.5, 1.0, 0.5, 0.0])
    np.testing.assert_allclose(solution.max_policy, np.full((3, 1, 2), 0.5), rtol=0, atol=1e-12)


def test_nash_policies_are_not_exploitable_and_have_the_nash_value() -> None:
    solution = nash_value(GAME)
    policies = solution.max_policy, solution.min_policy
    assert exploitability(GAME, *policies) == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(policy_values(GAME, *policies), solution.values, rtol=0, atol=1e-12)
    for values in best_response_values(GAME, *policies):
        np.testing.assert_allclose(values, solution.values, rtol=0, atol=1e-12)


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=30)
def test_values_are_ordered_as_the_theory_says(seed: int) -> None:
    game = random_game(2, 2, 3, 2, concentration=0.5, rewards="bern", seed=seed)
    policies = random_policies(game, seed=seed)
    values, nash = policy_values(game, *policies), nash_value(game).values
    best_max, best_min = best_response_values(game, *policies)
    assert (best_min <= values + 1e-12).all()
    assert (values <= best_max + 1e-12).all()
    assert (best_min <= nash + 1e-12).all()
    assert (nash <= best_max + 1e-12).all()
    assert exploitability(game, *policies) >= 0.0


def test_values_of_policies_are_those_of_all_paths() -> None:
    mu, nu = random_policies(GAME)
    expected = 0.0
    for path in product(*(range(size) for size in (2, 3, 3, 2, 3, 3, 2, 3))):
        state, probability, reward = 0, 1.0, 0.0
        for h in range(3):
            a, b, *after = path[3 * h : 3 * h + 3]
            probability *= mu[h, state, a] * nu[h, state, b]
            reward += GAME.rewards[h, state, a, b]
            if after:
                probability *= GAME.transitions[h, state, a, b, after[0]]
                state = after[0]
        expected += probability * reward
    assert policy_values(GAME, mu, nu)[0, 0] == pytest.approx(expected, abs=1e-12)


def test_a_best_response_is_the_best_of_all_deterministic_policies() -> None:
    game = random_game(2, 2, 2, 2, concentration=0.6, rewards="uniform", seed=8)
    mu, nu = random_policies(game)
    deterministic = np.array([np.eye(2)[list(choice)].reshape(2, 2, 2) for choice in product(range(2), repeat=4)])
    best_max, best_min = best_response_values(game, mu, nu)
    against_min = policy_values(game, deterministic, np.broadcast_to(nu, deterministic.shape))
    against_max = policy_values(game, np.broadcast_to(mu, deterministic.shape), deterministic)
    np.testing.assert_allclose(best_max, against_min.max(axis=0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(best_min, against_max.min(axis=0), rtol=0, atol=1e-12)


def test_runs_are_judged_one_by_one() -> None:
    mu, nu = random_policies(GAME, runs=(2, 3))
    together = exploitability(GAME, mu, nu)
    values = policy_values(GAME, mu, nu)
    assert together.shape == (2, 3)
    for run in np.ndindex(2, 3):
        assert together[run] == pytest.approx(float(exploitability(GAME, mu[run], nu[run])), abs=1e-12)
        np.testing.assert_allclose(values[run], policy_values(GAME, mu[run], nu[run]), rtol=0, atol=1e-12)


def test_exploitability_looks_at_the_start_state() -> None:
    rewards = np.zeros((1, 2, 2, 2))
    rewards[0, 1] = np.eye(2)
    first = np.broadcast_to([1.0, 0.0], (1, 2, 2))
    transitions = np.full((1, 2, 2, 2, 2), 0.5)
    assert exploitability(MarkovGame(transitions, rewards), first, first) == 0.0
    assert exploitability(MarkovGame(transitions, rewards, start_state=1), first, first) == 1.0


def test_the_documented_example_of_exploitability() -> None:
    first, uniform = np.array([[[1.0, 0.0]]]), np.array([[[0.5, 0.5]]])
    assert exploitability(matching_pennies(1), first, uniform) == 0.5


def test_the_max_player_owns_the_rows() -> None:
    """Row 1 is better for the max player in both columns, column 0 better for the min player in both rows."""
    solution = nash_value(matrix_game(np.array([[0.1, 0.4], [0.3, 0.9]])))
    assert solution.values[0, 0] == pytest.approx(0.3)
    assert solution.max_policy[0, 0].tolist() == [0.0, 1.0]
    assert solution.min_policy[0, 0].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("max_policy", "min_policy", "message"),
    [
        (
            np.full((3, 3, 3), 1 / 3),
            np.full((3, 3, 3), 1 / 3),
            r"max_policy has shape \(3, 3, 3\), expected .* \(3, 3, 2",
        ),
        (
            np.full((3, 3, 2), 1 / 2),
            np.full((3, 3, 2), 1 / 2),
            r"min_policy has shape \(3, 3, 2\), expected .* \(3, 3, 3",
        ),
        (np.full((3, 3, 2), 0.4), np.full((3, 3, 3), 1 / 3), r"max_policy is no distribution .* off 1 by up to 0.2"),
        (np.full((3, 3, 2), 1 / 2), np.broadcast_to([-0.5, 1, 0.5], (3, 3, 3)), "min_policy .* probability is -0.5"),
        (np.full((3, 3, 2), np.nan), np.full((3, 3, 3), 1 / 3), "max_policy is no distribution over actions"),
    ],
)
def test_policies_that_do_not_fit_the_game_are_refused(
    max_policy: np.ndarray, min_policy: np.ndarray, message: str
) -> None:
    for judge in (exploitability, policy_values, best_response_values):
        with pytest.raises(ValueError, match=message):
            judge(GAME, max_policy, min_policy)
