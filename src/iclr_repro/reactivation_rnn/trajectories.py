"""What the animal does: foraging in a square box, and turning on the spot (sheet 2.3, 2.4).

Shape letters: T = steps, B = trajectories.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

StartRange = Literal["box", "double"]
DriftLaw = Literal["per_step", "per_second"]

TURN_STD = 11.52  # rad/s, tables A.1 and A.2
_WALL_ANGLES = np.array([0.0, np.pi / 2, np.pi, 3 * np.pi / 2])  # of the outward normals: right, top, left, bottom


@dataclass(frozen=True, kw_only=True)
class Arena:
    """The box and how one moves in it.

    Attributes:
        side_m: side of the square box, centred at 0.
        dt_s: duration of a step.
        border_m: how near a wall is avoided.
        border_slow: what speed is multiplied by there when heading for the wall.
        turn_std: standard deviation of the angular velocity in rad/s.
        speed_scale: scale b of the Rayleigh distribution of speed in m/s; its mean is b sqrt(pi/2). The paper prints
            0.2, the authors' code has 0.26 pi.
        drift: pull towards the anchor, 0 for the unbiased task.
        drift_law: "per_step" moves by drift (anchor - p) a step, as in the authors' code; "per_second" by dt times it.
        anchor: where the drift pulls to, in m.
        start_range: positions before the first step are uniform in the "box", as in the authors' code, or on a square
            of "double" its side, as printed in the paper.

    Raises:
        ValueError: a number is out of range, or the border regions of opposite walls meet.
    """

    side_m: float = 2.2
    dt_s: float = 0.02
    border_m: float = 0.03
    border_slow: float = 0.25
    turn_std: float = TURN_STD
    speed_scale: float = 0.26 * math.pi
    drift: float = 0.0
    drift_law: DriftLaw = "per_step"
    anchor: tuple[float, float] = (0.0, 0.0)
    start_range: StartRange = "box"

    def __post_init__(self) -> None:
        """Refuse a box in which one cannot walk."""
        for name in ("side_m", "dt_s", "speed_scale"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0.0):
                raise ValueError(f"{name}: got {getattr(self, name)}, expected a number > 0")
        for name in ("border_m", "turn_std", "drift"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0.0):
                raise ValueError(f"{name}: got {getattr(self, name)}, expected a number >= 0")
        if not 0.0 <= self.border_slow <= 1.0:
            raise ValueError(f"border_slow: got {self.border_slow}, expected a factor in [0, 1]")
        if 2 * self.border_m >= self.side_m:
            raise ValueError(
                f"side_m: a box of {self.side_m} m has no room between border regions of {self.border_m} m: "
                f"expected side_m > {2 * self.border_m:g}, or a smaller border_m"
            )
        for name, known in (("drift_law", DriftLaw), ("start_range", StartRange)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected one of {', '.join(get_args(known))}")


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Trajectories as the network sees them: a start, then changes; and where it should say it is.

    Attributes:
        start: the variable before the first input: position in m [B, 2] or bearing in rad [B, 1].
        inputs: its changes [T, B, 2] or [T, B, 1], not divided by dt.
        targets: its values after each change, of the shape of `inputs`.

    Raises:
        ValueError: fewer than two steps, shapes that do not fit together, or values that are not finite.
    """

    start: np.ndarray
    inputs: np.ndarray
    targets: np.ndarray

    def __post_init__(self) -> None:
        """Refuse what no network can be trained on."""
        if (
            self.inputs.ndim != 3
            or self.inputs.shape != self.targets.shape
            or self.start.shape != self.inputs.shape[1:]
        ):
            shapes = f"start {self.start.shape}, inputs {self.inputs.shape}, targets {self.targets.shape}"
            raise ValueError(f"trajectories: got {shapes}, expected [B, D], [T, B, D] and [T, B, D]")
        check_num_steps(len(self.inputs))
        for name in ("start", "inputs", "targets"):
            if bad := int((~np.isfinite(getattr(self, name))).sum()):
                raise ValueError(f"trajectories: {bad} values of {name} are NaN or infinite; drop those trajectories")

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.inputs)

    def __len__(self) -> int:
        """B."""
        return self.inputs.shape[1]


def check_num_steps(num_steps: int) -> None:
    """Refuse trajectories that are too short.

    Raises:
        ValueError: `num_steps` < 2.
    """
    if num_steps < 2:
        raise ValueError(f"num_steps: got {num_steps}, expected >= 2: one change is no trajectory")


def simulate_navigation(
    num_trajectories: int, num_steps: int, *, rng: np.random.Generator, arena: Arena | None = None
) -> Trajectories:
    """Simulate foraging in a box, after Erdem and Hasselmo as in Sorscher et al. (paper sec. 3, table A.1).

    p_0 uniform, heading_0 ~ U(0, 2 pi), turn_t ~ N(0, turn_std), speed_t ~ Rayleigh(speed_scale), then `walk`.

    Args:
        num_trajectories: B >= 1.
        num_steps: T >= 2.
        rng: where all draws come from.
        arena: the paper's box and policy by default; `drift=0.05` is its biased policy.

    Returns:
        positions in m, float64; about 1 % of them lie outside the box, up to 8 cm: they are not clipped.

    Raises:
        ValueError: a number is too small.
    """
    check_num_steps(num_steps)
    if num_trajectories < 1:
        raise ValueError(f"num_trajectories: got {num_trajectories}, expected >= 1")
    arena = arena or Arena()
    half = arena.side_m / 2 if arena.start_range == "box" else arena.side_m
    shape = (num_steps + 1, num_trajectories)
    return walk(
        rng.uniform(-half, half, size=(num_trajectories, 2)),
        rng.uniform(0.0, 2 * np.pi, size=num_trajectories),
        rng.normal(0.0, arena.turn_std, size=shape),
        rng.rayleigh(arena.speed_scale, size=shape),
        arena=arena,
    )


def walk(
    position_B2: Float[np.ndarray, "B 2"],
    heading_B: Float[np.ndarray, " B"],
    turn_TB: Float[np.ndarray, "T1 B"],
    speed_TB: Float[np.ndarray, "T1 B"],
    *,
    arena: Arena,
) -> Trajectories:
    """Walk for given draws: the deterministic part of `simulate_navigation`.

    At each step the nearest wall alone counts (in a corner the first of right, top, left, bottom). Within `border_m` of
    it and heading for it by less than 90 degrees, one slows down and turns until one walks along it:

        step_t = speed_t dt (cos heading_t, sin heading_t) + drift (anchor - p_t),   p_{t+1} = p_t + step_t,
        heading_{t+1} = heading_t + sign(a)(pi/2 - |a|) [near a wall, a = heading_t - its normal] + dt turn_t.

    The first step is made and not shown: the start is where it leads.

    Args:
        position_B2: p_0 in m.
        heading_B: heading_0 in rad.
        turn_TB: angular velocities in rad/s, T + 1 steps.
        speed_TB: speeds in m/s, T + 1 steps.
        arena: box and policy.

    Source: sheet 2.3, from the authors' code.
    """
    half = arena.side_m / 2
    anchor = np.array(arena.anchor)
    pull = arena.drift * (1.0 if arena.drift_law == "per_step" else arena.dt_s)
    length_TB = speed_TB * arena.dt_s
    dturn_TB = turn_TB * arena.dt_s
    heading_B = heading_B.copy()
    positions = np.empty((len(turn_TB) + 1, *position_B2.shape))
    steps = np.empty((len(turn_TB), *position_B2.shape))
    positions[0] = position_B2
    for t in range(len(turn_TB)):
        position_B2, step_B2, length_B, dturn_B = positions[t], steps[t], length_TB[t], dturn_TB[t]
        beside = np.flatnonzero(half - np.abs(position_B2).max(axis=1) < arena.border_m)
        if len(beside):
            x, y = position_B2[beside].T
            wall = np.argmin([half - x, half - y, half + x, half + y], axis=0)
            angle = (heading_B[beside] - _WALL_ANGLES[wall] + np.pi) % (2 * np.pi) - np.pi
            towards = np.abs(angle) < np.pi / 2
            near, angle = beside[towards], angle[towards]
            length_B[near] *= arena.border_slow
            dturn_B[near] += np.sign(angle) * (np.pi / 2 - np.abs(angle))
        np.multiply(length_B, np.cos(heading_B), out=step_B2[:, 0])
        np.multiply(length_B, np.sin(heading_B), out=step_B2[:, 1])
        if pull:
            step_B2 += pull * (anchor - position_B2)
        np.add(position_B2, step_B2, out=positions[t + 1])
        heading_B += dturn_B
    return Trajectories(positions[1], steps[1:], positions[2:])


def simulate_head_direction(
    num_trajectories: int,
    num_steps: int,
    *,
    rng: np.random.Generator,
    biased: bool = False,
    dt_s: float = 0.02,
    turn_std: float = TURN_STD,
) -> Trajectories:
    """Simulate turning on the spot: independent changes dt N(0, turn_std) of the bearing (paper sec. 3, table A.2).

    Args:
        num_trajectories: B >= 1.
        num_steps: T >= 2.
        rng: where all draws come from.
        biased: counter-clockwise turns only: the absolute values of the changes.
        dt_s: duration of a step.
        turn_std: standard deviation of the angular velocity in rad/s.

    Returns:
        bearings in rad; the targets lie in [-pi, pi).

    Raises:
        ValueError: a number is too small.
    """
    check_num_steps(num_steps)
    if num_trajectories < 1:
        raise ValueError(f"num_trajectories: got {num_trajectories}, expected >= 1")
    bearing_B = rng.uniform(0.0, 2 * np.pi, size=num_trajectories)
    turn_TB = rng.normal(0.0, turn_std, size=(num_steps, num_trajectories))
    return turn(bearing_B, turn_TB, dt_s=dt_s, biased=biased)


def turn(
    bearing_B: Float[np.ndarray, " B"], turn_TB: Float[np.ndarray, "T B"], *, dt_s: float, biased: bool
) -> Trajectories:
    """Turn for given draws: the deterministic part of `simulate_head_direction`.

    Args:
        bearing_B: before the first change, in rad.
        turn_TB: angular velocities in rad/s.
        dt_s: duration of a step.
        biased: take the absolute values of the changes.
    """
    inputs_TB = dt_s * (np.abs(turn_TB) if biased else turn_TB)
    targets_TB = wrap_angle(bearing_B + np.cumsum(inputs_TB, axis=0))
    return Trajectories(bearing_B[:, None], inputs_TB[..., None], targets_TB[..., None])


def wrap_angle(angle: np.ndarray) -> np.ndarray:
    """Return the angle in [-pi, pi) of the same direction. Example: 3.5 pi gives -0.5 pi."""
    return (angle + np.pi) % (2 * np.pi) - np.pi
