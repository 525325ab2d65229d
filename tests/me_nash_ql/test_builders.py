from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iclr_repro.me_nash_ql.builders import (
    load_game,
    lock,
    matching_pennies,
    matrix_game,
    random_game,
    rrps_metagame,
    stationary_game,
)
from iclr_repro.me_nash_ql.data import synthetic_payoffs
from iclr_repro.me_nash_ql.exact import exploitability, nash_value
from iclr_repro.me_nash_ql.games import MarkovGame


def uniform(game: MarkovGame) -> tuple[np.ndarray, np.ndarray]:
    cells = game.num_steps, game.num_states
    return (
        np.full((*cells, game.num_actions_max), 1 / game.num_actions_max),
        np.full((*cells, game.num_actions_min), 1 / game.num_actions_min),
    )


# --- random games ----------------------------------------------------------------------------------------------------


def test_the_documented_random_game_has_the_documented_value() -> None:
    game = random_game(4, 4, 2, 2, concentration=0.3, rewards="bern", seed=1)
    assert nash_value(game).values[0, 0] == pytest.approx(2.276767, abs=1e-6)
    assert exploitability(game, *uniform(game)) == pytest.approx(1.654615, abs=1e-6)


def test_random_games_draw_all_transitions_before_the_rewards() -> None:
    rng = np.random.default_rng(9)
    transitions = rng.dirichlet(np.full(3, 0.7), size=(2, 3, 4, 2))
    draws = rng.random((2, 3, 4, 2))
    game = random_game(2, 3, 4, 2, concentration=0.7, rewards="uniform", seed=9)
    np.testing.assert_array_equal(game.transitions, transitions)
    np.testing.assert_array_equal(game.rewards, draws)
    of_bits = random_game(2, 3, 4, 2, concentration=0.7, rewards="bern", seed=9)
    np.testing.assert_array_equal(of_bits.rewards, draws < 0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: random_game(2, 0, 2, 2, concentration=1, rewards="bern", seed=0), r"\(H, S, A, B\) is \(2, 0, 2, 2\)"),
        (
            lambda: random_game(1, 1, 1, 1, concentration=0, rewards="bern", seed=0),
            "concentration is 0, expected a pos",
        ),
        (lambda: random_game(1, 1, 1, 1, concentration=1, rewards="flat", seed=0), "rewards is 'flat', expected 'unif"),
        (lambda: lock(0), "num_steps is 0, expected at least 1"),
        (lambda: matching_pennies(0), "num_steps is 0, expected at least 1"),
        (lambda: matching_pennies(2, weights=[1.0]), r"weights is \[1.0\], expected 2 numbers in \(0, 1\]"),
        (lambda: matching_pennies(2, weights=[1.0, 0.0]), r"expected 2 numbers in \(0, 1\]"),
        (lambda: stationary_game(np.ones((1, 1, 1, 1)), np.ones((1, 1, 1)), num_steps=0), "num_steps is 0"),
    ],
)
def test_impossible_games_are_refused(make: Callable[[], MarkovGame], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# --- locks and pennies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_steps", [1, 3, 6])
def test_the_lock_has_its_value_and_hides_its_end_from_uniform_play(num_steps: int) -> None:
    game = lock(num_steps)
    assert nash_value(game).values[0].tolist() == pytest.approx([0.75, 0.1])
    on_chain = np.array([1.0, 0.0])
    for h in range(num_steps - 1):
        on_chain = on_chain @ game.transitions[h].mean(axis=(1, 2))
    assert on_chain[0] == pytest.approx(2.0 ** -(num_steps - 1))


def test_another_seed_gives_another_secret() -> None:
    assert not np.array_equal(lock(12).transitions, lock(12, seed=1).transitions)


probability = st.floats(0.0, 1.0)


@given(st.lists(st.tuples(probability, probability, st.floats(0.01, 1.0)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=50)
def test_pennies_have_their_closed_form(rounds: list[tuple[float, float, float]]) -> None:
    p, q, w = np.array(rounds).T
    game = matching_pennies(len(rounds), weights=w.tolist())
    policies = (np.stack([x, 1 - x], axis=-1)[:, None] for x in (p, q))
    expected = (w * (np.maximum(q, 1 - q) - np.minimum(p, 1 - p))).sum()
    assert exploitability(game, *policies) == pytest.approx(expected, abs=1e-12)
    assert nash_value(game).values[0, 0] == pytest.approx(w.sum() / 2, abs=1e-12)


def test_pennies_weigh_one_unless_told_otherwise() -> None:
    np.testing.assert_array_equal(matching_pennies(3).rewards, matching_pennies(3, weights=[1, 1, 1]).rewards)


# --- meta-games ------------------------------------------------------------------------------------------------------


def test_a_metagame_takes_its_bots_in_turn_and_starts_again_at_the_end_of_the_table() -> None:
    table = synthetic_payoffs(10, rng=np.random.default_rng(0))
    game = rrps_metagame(table, num_states=3, num_bots=2)
    payoffs = table.to_numpy()
    for state, (rows, columns) in enumerate([([0, 1], [2, 3]), ([4, 5], [6, 7]), ([8, 9], [0, 1])]):
        np.testing.assert_allclose(game.rewards[0, state], (payoffs[np.ix_(rows, columns)] + 1) / 2, rtol=0, atol=1e-15)
    assert game.num_steps == 4


@pytest.mark.parametrize(("num_states", "up", "down"), [(3, 1, 2), (2, 1, 1), (1, 0, 0)])
def test_the_winner_of_a_round_moves_the_chain(num_states: int, up: int, down: int) -> None:
    game = rrps_metagame(synthetic_payoffs(6, rng=np.random.default_rng(0)), num_states=num_states, num_bots=2)
    expected = np.zeros(num_states)
    expected[up] += game.rewards[0, 0, 1, 0]
    expected[down] += 1 - game.rewards[0, 0, 1, 0]
    np.testing.assert_allclose(game.transitions[0, 0, 1, 0], expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("payoffs", "num_bots", "message"),
    [
        (np.eye(3), 1, r"payoffs of shape \(3, 3\) are not antisymmetric"),
        (np.zeros((2, 3)), 1, r"payoffs of shape \(2, 3\) are not antisymmetric"),
        (np.array([[0.0, 2.0], [-2.0, 0.0]]), 1, r"payoffs go from -2 to 2, expected \[-1, 1\]"),
        (np.zeros((2, 2)), 0, r"num_states, num_bots, num_steps are \(1, 0, 4\), expected at least 1"),
    ],
)
def test_tables_that_are_no_zero_sum_payoffs_are_refused(payoffs: np.ndarray, num_bots: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rrps_metagame(payoffs, num_states=1, num_bots=num_bots)


def test_a_matrix_becomes_a_game_of_one_step() -> None:
    game = matrix_game(np.array([[0.2, 0.9, 0.4], [0.6, 0.1, 0.5]]))
    assert game.rewards.shape == (1, 1, 2, 3)
    assert nash_value(game).values[0, 0] == pytest.approx(13 / 30)  # max_x min(.6 - .4 x, .1 + .8 x, .5 - .1 x)


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_saved_game_is_read_back(tmp_path: Path) -> None:
    game = random_game(2, 3, 2, 2, concentration=1.0, rewards="uniform", seed=0)
    np.savez(tmp_path / "game.npz", P=game.transitions, r=game.rewards, start_state=2)
    read = load_game(tmp_path / "game.npz")
    np.testing.assert_array_equal(read.transitions, game.transitions)
    np.testing.assert_array_equal(read.rewards, game.rewards)
    assert read.start_state == 2


def test_the_start_state_of_a_file_is_optional(tmp_path: Path) -> None:
    np.savez(tmp_path / "game.npz", P=np.ones((1, 1, 1, 1, 1)), r=np.ones((1, 1, 1, 1)))
    assert load_game(str(tmp_path / "game.npz")).start_state == 0


def test_files_that_hold_no_game_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "game.npz"
    path.write_text("P, r")
    with pytest.raises(ValueError, match=r"game.npz is no numpy archive: write one with numpy.savez\(path, P="):
        load_game(path)
    np.savez(path, P=np.ones(1), rewards=np.ones(1))
    with pytest.raises(ValueError, match=r"holds \['P', 'rewards'\], expected P, r and possibly start_state"):
        load_game(path)
    np.savez(path, P=np.full((1, 1, 1, 1, 1), 0.5), r=np.ones((1, 1, 1, 1)))
    with pytest.raises(ValueError, match=r"transitions\[h=0, s=0, a=0, b=0\] is not a distribution"):
        load_game(path)
    np.save(tmp_path / "game.npy", np.ones(3))
    with pytest.raises(ValueError, match="holds one array only"):
        load_game(tmp_path / "game.npy")
    with pytest.raises(FileNotFoundError):
        load_game(tmp_path / "nothing.npz")
