"""Grid soccer and Goofspiel as Markov games."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations, permutations, product
from typing import NamedTuple

import numpy as np

from iclr_repro.me_nash_ql.builders import stationary_game
from iclr_repro.me_nash_ql.games import MarkovGame

Cell = tuple[int, int]
SoccerState = tuple[Cell, Cell, int]
"""Cells (row, column) of the max and the min player, and who has the ball: 0 the max player, 1 the min player."""

SOCCER_ACTIONS = ("N", "S", "W", "E", "stand")
SOCCER_MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1), (0, 0))


class _Pitch(NamedTuple):
    rows: int
    columns: int
    goal_rows: frozenset[int]


def grid_soccer(
    *,
    rows: int,
    columns: int,
    num_steps: int,
    goal_rows: Iterable[int] | None = None,
    start_max: Cell = (0, 0),
    start_min: Cell | None = None,
    ball: int = 0,
) -> MarkovGame:
    """Build Littman's grid soccer over H steps.

    Both players pick N, S, W, E or stand, and act one after the other in an order drawn with equal chance, the second
    on the position that the first left. A move into the other's cell fails, and the other gets or keeps the ball; a
    move off the board is void. With the ball, the max player scores +1 by E from the last column in a goal row, the min
    player by W from the first column (-1 for the max player). A goal ends the game.

    The reward of a step is (x + 1) / 2 for its mean score x over the two orders, so that the value is H/2 + (expected
    score) / 2. The states are all pairs of different cells with either ball owner, and the end as the last:
    S = 2 RC (RC - 1) + 1; dense arrays of 8 S^2 25 bytes, 116 MB for Littman's 4 x 5 board.

    Args:
        rows: R.
        columns: C.
        num_steps: H.
        goal_rows: None for the middle row, or the two middle ones.
        start_max: (row, column) of the max player at the start.
        start_min: of the min player; None for the last cell of the board.
        ball: who has the ball at the start: 0 the max player, 1 the min player.

    Raises:
        ValueError: a size below 1, fewer than two cells, a goal row or start cell off the board, both players in one
            cell, a ball owner other than 0 and 1.

    Source: sheet 7.1, after Littman (1994).
    """
    if rows < 1 or columns < 1 or rows * columns < 2:
        raise ValueError(f"the board is {rows} x {columns}, expected at least two cells")
    goals = frozenset(range((rows - 1) // 2, rows // 2 + 1) if goal_rows is None else goal_rows)
    if not goals or not goals <= set(range(rows)):
        raise ValueError(f"goal_rows are {sorted(goals)}, expected some of the rows 0..{rows - 1}")
    start = (start_max, start_min or (rows - 1, columns - 1), ball)
    states = soccer_states(rows, columns)
    if start not in states:
        raise ValueError(
            f"the start (max player, min player, ball) is {start}: expected two cells of the board, 0 or 1"
        )

    index = {state: number for number, state in enumerate(states)}
    end = len(states)
    transitions = np.zeros((end + 1, 5, 5, end + 1))
    scores = np.zeros((end + 1, 5, 5))
    transitions[end, :, :, end] = 1.0
    pitch = _Pitch(rows, columns, goals)
    for state, (a, b), first in product(states, product(range(5), repeat=2), (0, 1)):
        next_state, score = _play(pitch, state, (a, b), first)
        transitions[index[state], a, b, end if score else index[next_state]] += 0.5
        scores[index[state], a, b] += 0.5 * score
    return stationary_game(transitions, (scores + 1.0) / 2.0, num_steps=num_steps, start_state=index[start])


def soccer_states(rows: int, columns: int) -> list[SoccerState]:
    """The positions of `grid_soccer` in the order of its states, without the end, which is the last state."""
    cells = product(range(rows), range(columns))
    return [(*pair, owner) for pair, owner in product(permutations(cells, 2), (0, 1))]


def goofspiel(num_cards: int) -> MarkovGame:
    """Build Goofspiel with full information: n cards each, the prizes n, n-1, .., 1 in this order.

    At each of the H = n steps both bid a card; the higher one takes the prize, and nobody does if they are equal. An
    action is a card (from 0); one that is no longer in the hand stands for the lowest that is. The reward is
    1/2 + prize sign(a - b) / (2n), so that the value is H/2 + D/(2n), with D the expected difference of the prizes won;
    D = 0 at the start, by symmetry. The states are the pairs of hands of equal size, S = (2n)! / n!^2 (70 for n = 4),
    the full hands first.

    Raises:
        ValueError: fewer than one card.

    Source: sheet 7.1.
    """
    if num_cards < 1:
        raise ValueError(f"num_cards is {num_cards}, expected at least 1")
    sizes = range(num_cards, -1, -1)
    states = [pair for size in sizes for pair in product(combinations(range(num_cards), size), repeat=2)]
    index = {state: number for number, state in enumerate(states)}
    transitions = np.zeros((len(states), num_cards, num_cards, len(states)))
    winner = np.zeros((len(states), num_cards, num_cards))
    for (hand_max, hand_min), a, b in product(states, range(num_cards), range(num_cards)):
        state = index[hand_max, hand_min]
        if not hand_max:
            transitions[state, a, b, state] = 1.0
            continue
        card_max, card_min = (card if card in hand else hand[0] for card, hand in ((a, hand_max), (b, hand_min)))
        left = (
            tuple(card for card in hand_max if card != card_max),
            tuple(card for card in hand_min if card != card_min),
        )
        transitions[state, a, b, index[left]] = 1.0
        winner[state, a, b] = np.sign(card_max - card_min)
    prizes = np.arange(num_cards, 0, -1.0)[:, None, None, None]
    rewards = 0.5 + prizes * winner / (2 * num_cards)
    return MarkovGame(np.broadcast_to(transitions, (num_cards, *transitions.shape)), rewards)


def _play(pitch: _Pitch, state: SoccerState, actions: tuple[int, int], first: int) -> tuple[SoccerState, int]:
    """Both turns of a step, `first` before the other; returns the state and the score, +1, -1 or 0."""
    for player in (first, 1 - first):
        state, score = _turn(pitch, state, player, SOCCER_MOVES[actions[player]])
        if score:
            return state, score
    return state, 0


def _turn(pitch: _Pitch, state: SoccerState, player: int, move: tuple[int, int]) -> tuple[SoccerState, int]:
    cells, ball = list(state[:2]), state[2]
    row, column = cells[player]
    target = row + move[0], column + move[1]
    behind_goal = pitch.columns if player == 0 else -1
    if ball == player and row in pitch.goal_rows and target == (row, behind_goal):
        return state, 1 - 2 * player
    if target == cells[1 - player]:
        ball = 1 - player
    elif 0 <= target[0] < pitch.rows and 0 <= target[1] < pitch.columns:
        cells[player] = target
    return (cells[0], cells[1], ball), 0
