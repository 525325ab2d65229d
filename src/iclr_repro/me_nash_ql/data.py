"""The two public payoff tables, between deployed programs and agents, that serve as stage games (sheet 10)."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pandas as pd

from iclr_repro.core.data import DataError, locate

RRPS_TABLE = "me_nash_ql/rrps_bot_table.txt"
SOCCER_WIN_RATES = "me_nash_ql/mujoco_soccer_winrates.txt"
RRPS_MAX_SCORE = 1000.0


def load_rrps_payoffs() -> pd.DataFrame:
    """Load the real table of the repeated rock-paper-scissors programs; see `read_rrps_payoffs`.

    Raises:
        DataError: the file is missing or damaged.
    """
    return read_rrps_payoffs(locate(RRPS_TABLE))


def read_rrps_payoffs(path: Path) -> pd.DataFrame:
    """Read lines `('row', 'column', score)`, the row's mean score in [-1000, 1000], as a zero-sum payoff table.

    Every pair was measured twice, once from each side, with noise: the payoff is (M - M^T) / 2000, for the measured
    scores M.

    Returns:
        Payoffs of the row in [-1, 1], antisymmetric; index and columns are the sorted names.

    Raises:
        DataError: a line of another form, or a pair that is missing or there twice.
    """
    scores: dict[tuple[str, str], float] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row, column, score = ast.literal_eval(line)
            scores[str(row), str(column)] = float(score)
        except (ValueError, SyntaxError, TypeError) as error:
            raise DataError(
                f"{path}, line {number}: {line[:80]!r} is not of the form ('row', 'column', score)"
            ) from error
        if len(scores) != number:
            raise DataError(f"{path}, line {number}: the pair {row!r}, {column!r} is there twice")
    names = sorted({row for row, _ in scores})
    measured = pd.DataFrame(
        {column: {row: scores.get((row, column)) for row in names} for column in names}, dtype=float
    )
    if measured.isna().to_numpy().any() or len(scores) != len(names) ** 2:
        raise DataError(f"{path} has {len(scores)} pairs, expected all {len(names) ** 2} pairs of {len(names)} names")
    return (measured - measured.T) / (2 * RRPS_MAX_SCORE)


def load_soccer_win_rates() -> np.ndarray:
    """Load the real win rates [10, 10] of simulated-soccer agents: row beats column, W + W^T = 1.

    Raises:
        DataError: the file is missing or damaged.
    """
    return np.loadtxt(locate(SOCCER_WIN_RATES))


def synthetic_payoffs(num_bots: int, *, rng: np.random.Generator) -> pd.DataFrame:
    """Make a table in the form of `read_rrps_payoffs`, for where the real one is not to be had.

    payoff(i, j) = tanh(skill_i - skill_j + z_ij), skill ~ N(0, 1) and z_ij = -z_ji ~ N(0, 1): better and worse programs
    with cycles among them. Nothing in it is fitted to the real table.
    """
    skill = rng.normal(size=num_bots)
    upper = np.triu(rng.normal(size=(num_bots, num_bots)), k=1)
    names = [f"bot{number:03d}" for number in range(num_bots)]
    return pd.DataFrame(np.tanh(skill[:, None] - skill + upper - upper.T), index=names, columns=names)
