from __future__ import annotations

from collections.abc import Callable
from itertools import permutations, product

import numpy as np
import pytest

from iclr_repro.me_nash_ql.board_games import SOCCER_ACTIONS, goofspiel, grid_soccer
from iclr_repro.me_nash_ql.exact import nash_value
from iclr_repro.me_nash_ql.games import MarkovGame

Cell = tuple[int, int]


def soccer(start_max: Cell, start_min: Cell, ball: int, *, num_steps: int = 1) -> MarkovGame:
    """Soccer on 2 x 3 cells, both rows with goals."""
    return grid_soccer(rows=2, columns=3, num_steps=num_steps, start_max=start_max, start_min=start_min, ball=ball)


def outcomes(game: MarkovGame, action_max: str, action_min: str) -> tuple[float, dict[int, float]]:
    """Mean score of the first step, and the next states with their probabilities."""
    a, b = SOCCER_ACTIONS.index(action_max), SOCCER_ACTIONS.index(action_min)
    row = game.transitions[0, game.start_state, a, b]
    score = 2 * game.rewards[0, game.start_state, a, b] - 1
    return score, {int(state): float(row[state]) for state in np.flatnonzero(row)}


def state(start_max: Cell, start_min: Cell, ball: int) -> int:
    return soccer(start_max, start_min, ball).start_state


END = 60


@pytest.mark.parametrize(
    ("start", "actions", "score", "expected"),
    [
        # both move freely; a move off the board is void
        (((0, 0), (1, 2), 0), ("S", "W"), 0, {state((1, 0), (1, 1), 0): 1.0}),
        (((0, 0), (1, 2), 0), ("N", "E"), 0, {state((0, 0), (1, 2), 0): 1.0}),
        # the ball carrier runs into a standing player and loses the ball
        (((0, 1), (0, 2), 0), ("E", "stand"), 0, {state((0, 1), (0, 2), 1): 1.0}),
        # who runs into the carrier leaves the ball there
        (((0, 1), (0, 2), 0), ("stand", "W"), 0, {state((0, 1), (0, 2), 0): 1.0}),
        # the second player acts on the position that the first has left: W is free once the max player has gone S
        (((0, 1), (0, 2), 0), ("S", "W"), 0, {state((1, 1), (0, 1), 0): 0.5, state((1, 1), (0, 2), 0): 0.5}),
        # both run into each other: the second mover is given the ball back by its own failure
        (((0, 1), (0, 2), 0), ("E", "W"), 0, {state((0, 1), (0, 2), 0): 0.5, state((0, 1), (0, 2), 1): 0.5}),
        # goals: by E from the last column, by W from the first; without the ball there is none
        (((0, 2), (1, 0), 0), ("E", "stand"), 1, {END: 1.0}),
        (((0, 2), (1, 0), 1), ("stand", "W"), -1, {END: 1.0}),
        (((0, 2), (1, 0), 1), ("E", "stand"), 0, {state((0, 2), (1, 0), 1): 1.0}),
        # no own goals
        (((0, 0), (1, 2), 0), ("W", "stand"), 0, {state((0, 0), (1, 2), 0): 1.0}),
    ],
)
def test_a_step_of_soccer_follows_the_rules(
    start: tuple[Cell, Cell, int], actions: tuple[str, str], score: float, expected: dict[int, float]
) -> None:
    assert outcomes(soccer(*start), *actions) == (score, expected)


def test_running_into_the_carrier_does_not_stop_its_goal() -> None:
    assert outcomes(soccer((0, 2), (0, 1), 0), "E", "E") == (1.0, {END: 1.0})


def test_rows_without_a_goal_are_walls() -> None:
    game = grid_soccer(rows=2, columns=3, num_steps=1, goal_rows=[1], start_max=(0, 2), start_min=(1, 0))
    assert outcomes(game, "E", "stand") == (0.0, {game.start_state: 1.0})


def test_the_end_lasts_and_pays_a_draw() -> None:
    game = soccer((0, 0), (1, 2), 0)
    assert (game.transitions[0, END, :, :, END] == 1.0).all()
    assert (game.rewards[0, END] == 0.5).all()


@pytest.mark.parametrize(("rows", "columns", "num_states"), [(2, 3, 61), (3, 3, 145), (1, 2, 5)])
def test_the_states_are_all_positions_and_the_end(rows: int, columns: int, num_states: int) -> None:
    assert grid_soccer(rows=rows, columns=columns, num_steps=2).num_states == num_states


def test_mirrored_positions_have_opposite_values() -> None:
    values = nash_value(soccer((0, 0), (1, 2), 0, num_steps=5)).values[0] - 2.5
    cells = list(product(range(2), range(3)))
    for (a, b), ball in product(list(permutations(cells, 2))[::7], (0, 1)):
        mirrored = state((b[0], 2 - b[1]), (a[0], 2 - a[1]), 1 - ball)
        assert values[mirrored] == pytest.approx(-values[state(a, b, ball)], abs=1e-12)


def test_one_goal_row_of_three_can_be_parked_in() -> None:
    game = grid_soccer(rows=3, columns=3, num_steps=6)
    assert nash_value(game).values[0, game.start_state] == pytest.approx(3.0, abs=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: grid_soccer(rows=0, columns=3, num_steps=1), "the board is 0 x 3, expected at least two cells"),
        (lambda: grid_soccer(rows=1, columns=1, num_steps=1), "the board is 1 x 1, expected at least two cells"),
        (lambda: grid_soccer(rows=2, columns=3, num_steps=0), "num_steps is 0, expected at least 1"),
        (lambda: grid_soccer(rows=2, columns=3, num_steps=1, goal_rows=[2]), r"goal_rows are \[2\], expected some of"),
        (lambda: grid_soccer(rows=2, columns=3, num_steps=1, goal_rows=[]), r"goal_rows are \[\], expected some of"),
        (lambda: soccer((0, 0), (0, 0), 0), r"the start \(max player, min player, ball\) is \(\(0, 0\), \(0, 0\), 0\)"),
        (lambda: soccer((0, 0), (2, 2), 0), "expected two cells of the board, 0 or 1"),
        (lambda: soccer((0, 0), (1, 2), 2), "expected two cells of the board, 0 or 1"),
        (lambda: goofspiel(0), "num_cards is 0, expected at least 1"),
    ],
)
def test_impossible_games_are_refused(make: Callable[[], MarkovGame], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("num_cards", [1, 2, 3, 4])
def test_goofspiel_is_fair_with_an_antisymmetric_first_stage(num_cards: int) -> None:
    game = goofspiel(num_cards)
    solution = nash_value(game)
    assert solution.values[0, 0] - num_cards / 2 == pytest.approx(0.0, abs=1e-12)
    differences = 2 * num_cards * (solution.action_values[0, 0] - num_cards / 2)
    np.testing.assert_allclose(differences, -differences.T, rtol=0, atol=1e-12)


def test_goofspiel_with_two_cards_is_decided_by_the_first_bid() -> None:
    """Prize 2, then 1: the higher bid wins 2 and must then lose 1, so bidding high is right and D = 0."""
    solution = nash_value(goofspiel(2))
    np.testing.assert_allclose(4 * (solution.action_values[0, 0] - 1.0), [[0.0, -1.0], [1.0, 0.0]], rtol=0, atol=1e-12)
    assert solution.max_policy[0, 0].tolist() == solution.min_policy[0, 0].tolist() == [0.0, 1.0]


def test_the_states_of_goofspiel_are_pairs_of_hands_of_one_size() -> None:
    game = goofspiel(4)
    assert game.num_states == 70
    assert game.num_steps == 4
    reachable = np.zeros(70)
    reachable[0] = 1.0
    for h in range(4):
        reachable = (reachable @ game.transitions[h].mean(axis=(1, 2))) > 0
    assert reachable.sum() == 1  # no card is left


def test_a_card_that_is_gone_stands_for_the_lowest_in_the_hand() -> None:
    game = goofspiel(3)
    after = int(game.transitions[0, 0, 0, 2].argmax())  # hands {1, 2} and {0, 1}, from 0
    np.testing.assert_array_equal(game.transitions[1, after, 0], game.transitions[1, after, 1])
    np.testing.assert_array_equal(game.transitions[1, after, :, 2], game.transitions[1, after, :, 0])
    assert game.rewards[1, after, 0, 1] == 0.5  # card 1 against card 1
    assert game.rewards[1, after, 2, 2] == pytest.approx(0.5 + 2 / 6)  # card 2 against card 0, for the prize 2
