"""Every reference value of the golden folder; sizes, constants and options come from its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iclr_repro.core.data import is_present
from iclr_repro.me_nash_ql.board_games import grid_soccer
from iclr_repro.me_nash_ql.cce import cce_violation, solve_cce
from iclr_repro.me_nash_ql.data import RRPS_TABLE, SOCCER_WIN_RATES, load_rrps_payoffs, load_soccer_win_rates
from iclr_repro.me_nash_ql.exact import (
    best_response_values,
    exploitability,
    nash_value,
    policy_values,
    solve_matrix_games,
)
from iclr_repro.me_nash_ql.games import MarkovGame
from nash_learners import cases, replayed_bonuses, replayed_trace
from support import golden_dir

GOLDEN = golden_dir("me_nash_ql")
TOLERANCE = 1e-9
LP_TOLERANCE = 1e-7


def numbered(pattern: str, key: str) -> list[Any]:
    """One parameter a case: its arrays, by their names without the number of the case."""
    return [
        pytest.param(
            {name.removeprefix(f"{prefix}_"): file[name] for name in file if name.startswith(f"{prefix}_")}, id=prefix
        )
        for prefix, file in cases(GOLDEN, pattern, key)
    ]


def assert_close(found: Any, expected: Any, tolerance: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


# --- game*.npz -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", numbered("game*.npz", "P"))
def test_nash_values(case: dict[str, np.ndarray]) -> None:
    game = MarkovGame(case["P"], case["r"])
    solution = nash_value(game)
    assert_close(solution.values, case["V"], LP_TOLERANCE)
    assert_close(solution.action_values, case["Q"], LP_TOLERANCE)
    assert exploitability(game, solution.max_policy, solution.min_policy) <= LP_TOLERANCE


@pytest.mark.parametrize("case", numbered("game*.npz", "P"))
def test_values_of_policies_and_best_responses(case: dict[str, np.ndarray]) -> None:
    game = MarkovGame(case["P"], case["r"])
    uniform = (np.full_like(case[name], 1 / case[name].shape[-1]) for name in ("mu", "nu"))
    for policies, suffix in (((case["mu"], case["nu"]), ""), (tuple(uniform), "_unif")):
        best_max, best_min = best_response_values(game, *policies)
        assert_close(best_max, case[f"V_br_max{suffix}"], TOLERANCE)
        assert_close(best_min, case[f"V_br_min{suffix}"], TOLERANCE)
        assert_close(policy_values(game, *policies), case["V_unif" if suffix else "V_pi"], TOLERANCE)
        expected = case[f"V_br_max{suffix}"][0, 0] - case[f"V_br_min{suffix}"][0, 0]
        assert_close(exploitability(game, *policies), expected, TOLERANCE)


# --- cce*.npz --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["gap", "any"])
@pytest.mark.parametrize("backend", ["simplex", "lp"])
@pytest.mark.parametrize("case", numbered("cce*.npz", "Qu"))
def test_exact_equilibria(case: dict[str, np.ndarray], backend: str, objective: str) -> None:
    upper, lower = case["Qu"], case["Ql"]
    solution = solve_cce(upper, lower, backend=backend, objective=objective)
    assert cce_violation(solution.policy, upper, lower).max() <= TOLERANCE
    ends = case["gapmin_gapmax_Vumin_Vumax_Vlmin_Vlmax"].reshape(-1, 3, 2)
    for index, mean in enumerate((solution.gap, solution.value_upper, solution.value_lower)):
        assert (mean >= ends[:, index, 0] - LP_TOLERANCE).all()
        assert (mean <= ends[:, index, 1] + LP_TOLERANCE).all()
    if objective == "gap":
        assert_close(solution.gap, ends[:, 0, 0], LP_TOLERANCE)


@pytest.mark.parametrize("case", numbered("cce*.npz", "Qu"))
def test_approximate_equilibria(case: dict[str, np.ndarray]) -> None:
    upper, lower = case["Qu"], case["Ql"]
    solution = solve_cce(upper, lower, backend="hedge", objective="any", tolerance=0.005)
    unit = np.maximum(np.ptp(upper, axis=(1, 2)), np.ptp(lower, axis=(1, 2)))
    assert (cce_violation(solution.policy, upper, lower) <= 0.005 * unit + TOLERANCE).all()


# --- bonus*.npz and trace*.npz ---------------------------------------------------------------------------------------


def test_bonuses_follow_the_recorded_recursions() -> None:
    for prefix, file in cases(GOLDEN, "bonus*.npz", "vref"):
        expected = file[f"{prefix}_n_eta_muref_sigref_muadv_sigadv_B_delta_b_aggB"]
        assert_close(replayed_bonuses(prefix, file), expected, TOLERANCE)


def test_runs_replay_the_recorded_ones_step_by_step() -> None:
    for prefix, file in cases(GOLDEN, "trace*.npz", "log"):
        learner, rows = replayed_trace(prefix, file)
        assert_close(rows, file[f"{prefix}_log"][:, 7:], TOLERANCE)
        assert_close(learner.bounds.visits.reshape(learner.shape), file[f"{prefix}_final_N"], 0)


# --- soccer*.json ----------------------------------------------------------------------------------------------------

BOARDS = sorted(GOLDEN.glob("soccer*.json"))


@pytest.fixture(params=BOARDS, ids=lambda path: path.stem)
def board(request: pytest.FixtureRequest) -> dict[str, Any]:
    path: Path = request.param
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_there_is_a_soccer_board() -> None:
    assert BOARDS, f"no soccer*.json in {GOLDEN}"


def soccer(board: dict[str, Any], *, num_steps: int, mirrored: bool = False) -> MarkovGame:
    """The board of a file; mirrored, the players change places and the other one has the ball."""
    cells = [(row, column) for row, column in (board["start_p0"], board["start_p1"])]
    if mirrored:
        cells = [(row, board["cols"] - 1 - column) for row, column in reversed(cells)]
    return grid_soccer(
        rows=board["rows"],
        columns=board["cols"],
        num_steps=num_steps,
        goal_rows=board["goal_rows"],
        start_max=cells[0],
        start_min=cells[1],
        ball=1 - board["ball"] if mirrored else board["ball"],
    )


def test_soccer_values(board: dict[str, Any]) -> None:
    at_start = next(values for key, values in board.items() if key.startswith("V_start"))
    mean_size = next(values for key, values in board.items() if key.startswith("mean_abs_V"))
    num_steps = len(at_start)
    game = soccer(board, num_steps=num_steps)
    assert game.num_states == board["n_states_without_absorbing"] + 1
    steps_to_go = np.arange(1, num_steps + 1)
    scores = 2 * nash_value(game).values[num_steps - steps_to_go] - steps_to_go[:, None]  # rewards are (x + 1) / 2
    assert_close(scores[:, game.start_state], at_start, LP_TOLERANCE)
    assert_close(np.abs(scores[:, :-1]).mean(axis=1), mean_size, LP_TOLERANCE)
    mirrored = soccer(board, num_steps=num_steps, mirrored=True).start_state
    assert_close(scores[:, mirrored], -np.array(at_start), LP_TOLERANCE)


@pytest.mark.parametrize(
    ("key", "file", "load"),
    [
        ("rrps", RRPS_TABLE, lambda: load_rrps_payoffs().to_numpy()),
        ("mujoco_soccer", SOCCER_WIN_RATES, load_soccer_win_rates),
    ],
)
def test_values_of_real_payoff_tables(board: dict[str, Any], key: str, file: str, load: Any) -> None:
    if key not in board:
        pytest.skip(f"no {key} in this file")
    if not is_present(file):
        pytest.skip(f"{file} is not here (ICLR_REPRO_DATA)")
    payoffs = load()
    for entry in board[key]["values"]:
        part = payoffs[slice(*entry["rows"]), slice(*entry["cols"])]
        assert_close(solve_matrix_games(part).values, entry["value"], LP_TOLERANCE)
