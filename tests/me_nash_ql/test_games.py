from __future__ import annotations

import numpy as np
import pytest

from iclr_repro.me_nash_ql.games import MarkovGame


def arrays(
    num_steps: int = 2, num_states: int = 3, num_max: int = 2, num_min: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """A valid game with sizes that all differ."""
    rng = np.random.default_rng(5)
    shape = num_steps, num_states, num_max, num_min
    return rng.dirichlet(np.ones(num_states), size=shape), rng.random(shape)


def test_sizes_are_read_off_the_arrays() -> None:
    game = MarkovGame(*arrays())
    assert (game.num_steps, game.num_states, game.num_actions_max, game.num_actions_min) == (2, 3, 2, 4)
    assert game.start_state == 0


def test_integers_become_float64_and_no_array_of_a_game_can_be_written() -> None:
    game = MarkovGame(np.ones((1, 1, 1, 1, 1), dtype=int), np.ones((1, 1, 1, 1), dtype=bool))
    assert game.transitions.dtype == game.rewards.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        game.rewards[0, 0, 0, 0] = 0.0


def test_a_stage_broadcast_over_the_steps_is_not_copied() -> None:
    transitions, rewards = arrays(num_steps=1)
    game = MarkovGame(np.broadcast_to(transitions, (50, *transitions.shape[1:])), np.repeat(rewards, 50, axis=0))
    assert np.shares_memory(game.transitions, transitions)
    assert game.num_steps == 50


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (0.7, r"transitions\[h=1, s=2, a=0, b=3\] is not a distribution: it sums to 0\.\d+"),
        (np.nan, r"transitions\[h=1, s=2, a=0, b=3\] is not a distribution: it sums to nan"),
    ],
)
def test_a_row_that_is_no_distribution_is_named(entry: float, message: str) -> None:
    transitions, rewards = arrays()
    transitions[1, 2, 0, 3] = [entry, 0.0, 0.1]
    with pytest.raises(ValueError, match=message):
        MarkovGame(transitions, rewards)


def test_a_negative_probability_is_named_although_the_row_adds_up() -> None:
    transitions, rewards = arrays()
    transitions[0, 1, 1, 2] = [1.25, -0.25, 0.0]
    with pytest.raises(ValueError, match=r"\[h=0, s=1, a=1, b=2\].*smallest entry is -0\.25 \(1 such rows of 48\)"):
        MarkovGame(transitions, rewards)


def test_probabilities_rounded_to_float32_are_refused_with_the_remedy() -> None:
    transitions, rewards = arrays()
    with pytest.raises(ValueError, match="divide each row by its sum, in float64"):
        MarkovGame(transitions.astype(np.float32), rewards)


@pytest.mark.parametrize(("entry", "shown"), [(1.5, "1.5"), (-0.1, "-0.1"), (np.nan, "nan")])
def test_a_reward_outside_the_unit_interval_is_named(entry: float, shown: str) -> None:
    transitions, rewards = arrays()
    rewards[1, 0, 1, 3] = entry
    with pytest.raises(ValueError, match=rf"rewards\[h=1, s=0, a=1, b=3\] is {shown}, outside \[0, 1\] \(1 such"):
        MarkovGame(transitions, rewards)


@pytest.mark.parametrize(
    ("transitions", "rewards", "message"),
    [
        (np.ones((1, 1, 2, 2, 1)), np.ones((1, 2, 2)), r"rewards has shape \(1, 2, 2\), expected four axes"),
        (
            np.ones((1, 1, 2, 2)),
            np.ones((1, 1, 2, 2)),
            r"transitions has shape \(1, 1, 2, 2\), expected \(1, 1, 2, 2, 1",
        ),
        (np.ones((2, 1, 2, 2, 1)), np.ones((1, 1, 2, 2)), r"expected \(1, 1, 2, 2, 1\) = \(H, S, A, B, S\)"),
        (np.ones((0, 1, 2, 2, 1)), np.ones((0, 1, 2, 2)), "an empty game: H = 0, S = 1, A = 2, B = 2"),
        (np.ones((1, 0, 2, 2, 0)), np.ones((1, 0, 2, 2)), "an empty game: H = 1, S = 0"),
        (np.ones((1, 1, 2, 0, 1)), np.ones((1, 1, 2, 0)), "at least one step, one state and one action"),
        (np.full((1, 1, 2, 2, 1), "x"), np.ones((1, 1, 2, 2)), "transitions is of dtype <U1, expected real numbers"),
        (np.ones((1, 1, 2, 2, 1)), np.full((1, 1, 2, 2), 1j), "rewards is of dtype complex128, expected real numbers"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(transitions: np.ndarray, rewards: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MarkovGame(transitions, rewards)


@pytest.mark.parametrize("start", [-1, 3])
def test_the_start_state_must_exist(start: int) -> None:
    with pytest.raises(ValueError, match=rf"start_state is {start}, expected one of the states 0\.\.2"):
        MarkovGame(*arrays(), start_state=start)


def next_states(game: MarkovGame, uniforms: list[float]) -> list[int]:
    zeros = np.zeros(len(uniforms), dtype=np.int64)
    drawn = game.next_states(0, states=zeros, max_actions=zeros, min_actions=zeros, uniforms=np.array(uniforms))
    return drawn.tolist()


def test_uniform_draws_pick_states_by_their_cumulative_probability() -> None:
    game = MarkovGame(np.broadcast_to([0.25, 0.0, 0.5, 0.25], (1, 4, 1, 1, 4)), np.zeros((1, 4, 1, 1)))
    assert next_states(game, [0.0, 0.2499, 0.25, 0.7499, 0.75, 0.9999]) == [0, 0, 2, 2, 3, 3]


def test_the_largest_draw_gives_a_state_that_exists_although_tenths_do_not_add_up_to_one() -> None:
    probabilities = np.full(10, 0.1)
    assert probabilities.cumsum()[-1] < 1.0
    game = MarkovGame(np.broadcast_to(probabilities, (1, 10, 1, 1, 10)), np.zeros((1, 10, 1, 1)))
    assert next_states(game, [np.nextafter(1.0, 0.0)]) == [9]


def test_every_run_moves_from_its_own_state_and_actions() -> None:
    transitions = np.zeros((1, 2, 2, 3, 2))
    state, a, b = np.indices((2, 2, 3))
    transitions[0, state, a, b, (state + a + b) % 2] = 1.0
    game = MarkovGame(transitions, np.zeros((1, 2, 2, 3)))
    drawn = game.next_states(
        0,
        states=np.array([0, 1, 1]),
        max_actions=np.array([0, 1, 0]),
        min_actions=np.array([1, 1, 2]),
        uniforms=np.array([0.1, 0.5, 0.9]),
    )
    assert drawn.tolist() == [1, 1, 1]
