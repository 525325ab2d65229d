from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from iclr_repro.core.data import DataError, is_present
from iclr_repro.me_nash_ql.builders import rrps_metagame
from iclr_repro.me_nash_ql.data import (
    RRPS_TABLE,
    SOCCER_WIN_RATES,
    load_rrps_payoffs,
    load_soccer_win_rates,
    read_rrps_payoffs,
    synthetic_payoffs,
)
from iclr_repro.me_nash_ql.exact import nash_value, solve_matrix_games

LINES = ["('b', 'a', 300.0)", "('a', 'b', -100.0)", "('a', 'a', 2.0)", "('b', 'b', -1.0)"]


def written(tmp_path: Path, lines: list[str]) -> Path:
    path = tmp_path / "table.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_two_measurements_of_a_pair_are_averaged_into_an_antisymmetric_payoff(tmp_path: Path) -> None:
    table = read_rrps_payoffs(written(tmp_path, LINES))
    assert table.index.tolist() == table.columns.tolist() == ["a", "b"]
    assert table.to_numpy().tolist() == [[0.0, -0.2], [0.2, 0.0]]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (LINES[:3], r"has 3 pairs, expected all 4 pairs of 2 names"),
        ([*LINES, "('a', 'c', 1.0)"], r"has 5 pairs, expected all 4 pairs of 2 names"),
        ([*LINES, LINES[0]], "line 5: the pair 'b', 'a' is there twice"),
        ([*LINES, "('b', 'c')"], r"line 5: \"\('b', 'c'\)\" is not of the form \('row', 'column', score\)"),
        ([*LINES, "oops("], r"line 5: 'oops\(' is not of the form"),
        ([*LINES, "('b', 'c', None)"], r"line 5: .* is not of the form"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_rrps_payoffs(written(tmp_path, lines))


def test_synthetic_payoffs_have_the_form_of_the_real_ones_and_cycles() -> None:
    table = synthetic_payoffs(30, rng=np.random.default_rng(0)).to_numpy()
    np.testing.assert_array_equal(table, -table.T)
    assert np.abs(table).max() <= 1.0
    assert (table > 0).any(axis=0).all()  # nobody beats all others
    again = synthetic_payoffs(30, rng=np.random.default_rng(0)).to_numpy()
    np.testing.assert_array_equal(table, again)


@pytest.mark.skipif(not is_present(RRPS_TABLE), reason="the real table is not here (ICLR_REPRO_DATA)")
def test_the_real_table_has_the_known_equilibrium() -> None:
    table = load_rrps_payoffs()
    assert table.shape == (43, 43)
    solution = solve_matrix_games(table.to_numpy())
    assert solution.values == pytest.approx(0.0, abs=1e-12)
    support = {table.index[bot]: round(float(share), 3) for bot, share in enumerate(solution.max_policies) if share > 0}
    assert support == {"greenberg": 0.005, "iocainebot": 0.02, "markovbails": 0.046, "randbot": 0.892, "shofar": 0.038}
    game = rrps_metagame(table, num_states=10, num_bots=8)
    assert 0.0 < nash_value(game).values[0, 0] < 4.0


@pytest.mark.skipif(not is_present(SOCCER_WIN_RATES), reason="the real win rates are not here (ICLR_REPRO_DATA)")
def test_the_real_win_rates_add_up_to_one() -> None:
    rates = load_soccer_win_rates()
    np.testing.assert_allclose(rates + rates.T, np.ones((10, 10)), rtol=0, atol=1e-12)
    assert solve_matrix_games(rates).values == pytest.approx(0.5, abs=1e-12)
