"""A real behaviour: ten minutes of a rat in a box, and motion from RatInABox (sheet 7, 10.5).

Shape letters: n = samples, T = steps, B = windows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from iclr_repro.core.data import DataError, locate
from iclr_repro.reactivation_rnn.trajectories import Arena, Trajectories, check_num_steps, simulate_navigation

Find = Callable[[str], Path]

STEP_S = 0.1  # to which the recording is interpolated: its mean step is then like the simulated one
LONGEST_GAP_S = 0.1  # between samples of the recording; windows across longer ones are not used
BOX_M = 2.2  # the recording's box, 1 m wide, is scaled to the simulated one


@dataclass(frozen=True, eq=False)
class Path2D:
    """Positions on a regular grid of time, in a box of `BOX_M` centred at 0.

    Attributes:
        positions: [n, 2] in m.
        usable: [n] whether the point lies in no gap of the recording.

    Raises:
        ValueError: shapes that do not fit, or positions that are not finite.
    """

    positions: np.ndarray
    usable: np.ndarray

    def __post_init__(self) -> None:
        """Refuse what windows cannot be cut from."""
        if self.positions.ndim != 2 or self.positions.shape[1] != 2 or self.usable.shape != self.positions.shape[:1]:
            raise ValueError(
                f"path: positions {self.positions.shape}, usable {self.usable.shape}: expected [n, 2], [n]"
            )
        if bad := int((~np.isfinite(self.positions)).any(axis=1).sum()):
            raise ValueError(f"path: {bad} positions are NaN or infinite; interpolate or drop them first")

    def window_starts(self, num_steps: int) -> np.ndarray:
        """Return the first indices of all windows of T + 1 points that touch no gap.

        Raises:
            ValueError: T < 2, or there is no such window.
        """
        check_num_steps(num_steps)
        blocked = np.concatenate([[0], np.cumsum(~self.usable)])
        starts = np.flatnonzero(blocked[num_steps + 1 :] == blocked[: -(num_steps + 1)])
        if len(starts) == 0:
            raise ValueError(
                f"num_steps: no window of {num_steps + 1} points among {len(self.positions)} avoids the gaps of the "
                "recording; use shorter windows"
            )
        return starts

    def windows(
        self, num: int, num_steps: int, *, rng: np.random.Generator, starts: np.ndarray | None = None
    ) -> Trajectories:
        """Draw windows as trajectories, each turned and mirrored by one of the eight symmetries of the square.

        Args:
            num: B.
            num_steps: T.
            rng: of starts and symmetries.
            starts: indices to draw from; None: all of `window_starts`.

        Raises:
            ValueError: a start lies outside, or its window crosses a gap of the recording.
        """
        allowed = self.window_starts(num_steps)
        if starts is None:
            starts = allowed
        elif len(crossing := np.setdiff1d(starts, allowed)):
            raise ValueError(
                f"starts: windows at {crossing[:5].tolist()} cross a gap of the recording or its end; "
                "take them from `window_starts`"
            )
        first_B = starts[rng.integers(len(starts), size=num)]
        points_TB2 = self.positions[first_B + np.arange(num_steps + 1)[:, None]]
        flips_B2 = rng.choice([-1.0, 1.0], size=(num, 2))
        swaps_B = rng.random(num) < 0.5
        points_TB2 = np.where(swaps_B[:, None], points_TB2[..., ::-1], points_TB2) * flips_B2
        return Trajectories(points_TB2[0], np.diff(points_TB2, axis=0), points_TB2[1:])


def load_sargolini(*, find: Find = locate) -> Path2D:
    """Load the trajectory of a rat (Sargolini et al. 2006, doi 10.1126/science.1125572), interpolated to 0.1 s.

    Raises:
        DataError: the file is missing or damaged.
    """
    path = find("reactivation_rnn/sargolini.npz")
    with np.load(path) as file:
        if not {"t", "pos"} <= set(file.files):
            raise DataError(f"{path}: expected the arrays t and pos, got {', '.join(file.files)}")
        return recorded_path(file["t"], file["pos"])


def recorded_path(time_n: Float[np.ndarray, " n"], position_n2: Float[np.ndarray, "n 2"]) -> Path2D:
    """Interpolate a recording in a unit box linearly to 0.1 s, and centre and scale it: p = 2.2 (position - 0.5).

    A point between two samples more than 0.1 s apart is not usable.

    Args:
        time_n: in s, ascending.
        position_n2: in m, in [0, 1].

    Raises:
        ValueError: times that do not ascend, or values that are not finite.
    """
    if len(time_n) != len(position_n2) or not (np.isfinite(time_n).all() and np.isfinite(position_n2).all()):
        raise ValueError(f"recording: {len(time_n)} times, {len(position_n2)} positions, expected as many, all finite")
    if not (np.diff(time_n) > 0).all():
        raise ValueError("recording: times must ascend")
    grid = np.arange(time_n[0], time_n[-1], STEP_S)
    positions = np.stack([np.interp(grid, time_n, position_n2[:, axis]) for axis in (0, 1)], axis=1)
    before = np.searchsorted(time_n, grid, side="right") - 1
    gap_after = np.append(np.diff(time_n) > LONGEST_GAP_S, False)
    inside = gap_after[before] & (grid > time_n[before])
    return Path2D(BOX_M * (positions - 0.5), ~inside)


def synthetic_path(num_points: int, *, rng: np.random.Generator) -> Path2D:
    """Simulate one long foraging path in place of the recording, clipped to the box."""
    walked = simulate_navigation(1, num_points, rng=rng, arena=Arena(side_m=BOX_M))
    return Path2D(np.clip(walked.targets[:, 0], -BOX_M / 2, BOX_M / 2), np.ones(num_points, dtype=bool))


def ratinabox_path(duration_s: float, *, dt_s: float = STEP_S, agent: dict[str, Any] | None = None) -> Path2D:
    """Simulate a path with RatInABox, if it is installed (`pip install ratinabox`): realistic speeds, rotation, walls.

    It draws from numpy's global generator: seed that first.

    Args:
        duration_s: of the path.
        dt_s: of a step.
        agent: parameters of its Agent, such as `{"speed_mean": 0.1}`.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import ratinabox
    except ImportError as error:
        raise ImportError("ratinabox_path needs RatInABox: pip install ratinabox") from error
    environment = ratinabox.Environment(params={"boundary_conditions": "solid", "scale": 1.0})
    rat = ratinabox.Agent(environment, params={"dt": dt_s, **(agent or {})})
    for _ in range(round(duration_s / dt_s)):
        rat.update()
    positions = np.asarray(rat.history["pos"], dtype=np.float64)
    return Path2D(BOX_M * (positions - 0.5), np.ones(len(positions), dtype=bool))
