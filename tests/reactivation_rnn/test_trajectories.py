from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iclr_repro.reactivation_rnn.density import mean_log_ratio
from iclr_repro.reactivation_rnn.trajectories import (
    Arena,
    Trajectories,
    simulate_head_direction,
    simulate_navigation,
    turn,
    walk,
    wrap_angle,
)

BIASED = Arena(drift=0.05)


def one_walk(position: tuple[float, float], heading: float, **arena: Any) -> Trajectories:
    """Three steps of 1 cm without turns, from a position and a heading."""
    speeds = np.full((3, 1), 0.5)
    return walk(np.array([position]), np.array([heading]), np.zeros((3, 1)), speeds, arena=Arena(**arena))


def plain_walk(
    position_B2: np.ndarray, heading_B: np.ndarray, turn_TB: np.ndarray, speed_TB: np.ndarray, *, arena: Arena
) -> Trajectories:
    """Walk a trajectory and a step at a time, written from the rules of sheet 2.3."""
    half = arena.side_m / 2
    num_steps, num = turn_TB.shape
    positions = np.empty((num_steps + 1, num, 2))
    steps = np.empty((num_steps, num, 2))
    for b in range(num):
        (x, y), heading = position_B2[b], heading_B[b]
        positions[0, b] = x, y
        for t in range(num_steps):
            distances = (half - x, half - y, half + x, half + y)
            wall = distances.index(min(distances))
            angle = (heading - wall * np.pi / 2 + np.pi) % (2 * np.pi) - np.pi
            near = distances[wall] < arena.border_m and abs(angle) < np.pi / 2
            speed = speed_TB[t, b] * (arena.border_slow if near else 1.0)
            u = speed * arena.dt_s * np.cos(heading) + arena.drift * (arena.anchor[0] - x)
            v = speed * arena.dt_s * np.sin(heading) + arena.drift * (arena.anchor[1] - y)
            heading += (np.sign(angle) * (np.pi / 2 - abs(angle)) if near else 0.0) + arena.dt_s * turn_TB[t, b]
            x, y = x + u, y + v
            positions[t + 1, b], steps[t, b] = (x, y), (u, v)
    return Trajectories(positions[1], steps[1:], positions[2:])


@given(seed=st.integers(0, 10_000), drift=st.sampled_from([0.0, 0.05]))
def test_walks_are_those_of_a_loop_over_agents(seed: int, drift: float) -> None:
    rng = np.random.default_rng(seed)
    half = 1.1  # many start in the border region, some in corners
    position = np.where(rng.random((8, 2)) < 0.5, np.sign(rng.normal(size=(8, 2))) * rng.uniform(1.06, half, (8, 2)), 0)
    draws = position, rng.uniform(0, 2 * np.pi, 8), rng.normal(0, 11.52, (30, 8)), rng.rayleigh(0.8, (30, 8))
    arena = Arena(drift=drift, anchor=(0.1, -0.2))
    fast, plain = walk(*draws, arena=arena), plain_walk(*draws, arena=arena)
    for name in ("start", "inputs", "targets"):
        np.testing.assert_allclose(getattr(fast, name), getattr(plain, name), atol=1e-12)


def test_inputs_add_up_to_targets() -> None:
    found = simulate_navigation(7, 20, rng=np.random.default_rng(0), arena=BIASED)
    assert found.inputs.shape == (20, 7, 2)
    assert (found.num_steps, len(found)) == (20, 7)
    np.testing.assert_allclose(found.start + np.cumsum(found.inputs, axis=0), found.targets, atol=1e-12)


def test_heading_for_a_wall_one_slows_down_and_turns_at_the_next_step() -> None:
    found = one_walk((1.08, 0.0), math.pi / 4)
    first = found.start[0] - (1.08, 0.0)
    np.testing.assert_allclose(first, 0.25 * 0.01 * np.array([math.sqrt(0.5)] * 2), atol=1e-15)
    np.testing.assert_allclose(
        found.inputs[0, 0], [0.0, 0.01], atol=1e-15
    )  # along the wall: |a| is pi/2, no longer less


def test_leaving_a_wall_nothing_changes() -> None:
    found = one_walk((1.08, 0.0), math.pi)
    np.testing.assert_allclose(found.inputs[:, 0], [[-0.01, 0.0]] * 2, atol=1e-15)


def test_straight_at_a_wall_one_slows_down_but_does_not_turn() -> None:
    """sign(0) is 0: there is no side to turn to."""
    found = one_walk((1.08, 0.0), 0.0)
    np.testing.assert_allclose(found.inputs[:, 0], [[0.0025, 0.0]] * 2, atol=1e-15)


def test_headings_are_compared_with_walls_the_short_way_round() -> None:
    """-pi/4 and 7 pi/4 are one heading, before the right wall and before the bottom one (3 pi / 2)."""
    for heading in (-math.pi / 4, 7 * math.pi / 4, 15 * math.pi / 4):
        for position, along in (((1.08, 0.0), (0.0, -1.0)), ((0.0, -1.08), (1.0, 0.0))):
            step = one_walk(position, heading).inputs[0, 0]  # whether it is still slow is a matter of rounding
            np.testing.assert_allclose(step / np.linalg.norm(step), along, atol=1e-12)


def test_in_a_corner_the_first_wall_counts_and_one_may_leave() -> None:
    found = one_walk((1.095, 1.095), math.pi / 4)
    np.testing.assert_allclose(found.inputs[0, 0], [0.0, 0.01], atol=1e-15)  # turned by the right wall, not by the top
    assert found.targets[-1, 0, 1] > 1.1


def test_the_drift_acts_on_every_step_and_not_on_the_heading() -> None:
    found = one_walk((0.4, 0.0), math.pi / 2, drift=0.05)
    np.testing.assert_allclose(found.start[0], [0.4 * 0.95, 0.01])
    assert one_walk((0.4, 0.0), math.pi / 2, drift=0.05, drift_law="per_second").start[0, 0] == pytest.approx(
        0.4 * 0.999
    )


def kl_to_uniform(positions: np.ndarray) -> float:
    """KL of the occupancy of 11 x 11 bins to the uniform distribution."""
    counts, *_ = np.histogram2d(positions[..., 0].ravel(), positions[..., 1].ravel(), bins=11, range=[[-1.1, 1.1]] * 2)
    frequency = counts.ravel() / counts.sum()
    kept = frequency > 0
    return float((frequency[kept] * np.log(frequency[kept] * 121)).sum())


def test_statistics_of_unbiased_walks() -> None:
    """Sheet 2.3, 4,000 trajectories."""
    found = simulate_navigation(4000, 100, rng=np.random.default_rng(0))
    lengths = np.linalg.norm(found.inputs, axis=-1)
    assert lengths.mean() == pytest.approx(0.0197, abs=0.0002)
    assert lengths.max() < 0.02 * 6 * 0.8168
    whole = np.concatenate([found.start[None], found.targets])
    assert np.square(whole[50:] - whole[:-50]).sum(axis=-1).mean() == pytest.approx(0.571, abs=0.03)
    assert np.linalg.norm(whole[-1] - whole[0], axis=-1).mean() == pytest.approx(1.05, abs=0.03)
    assert kl_to_uniform(found.targets) == pytest.approx(0.015, abs=0.006)
    outside = (np.abs(found.targets) > 1.1).any(axis=-1).mean()
    assert 0.004 < outside < 0.012
    assert np.abs(found.targets).max() < 1.2


def test_statistics_of_biased_walks() -> None:
    """A ring: persistent motion against a pull to the centre."""
    found = simulate_navigation(4000, 100, rng=np.random.default_rng(0), arena=BIASED)
    radius = np.linalg.norm(found.targets[50:], axis=-1)
    assert radius.mean() == pytest.approx(0.326, abs=0.005)
    assert radius.std() == pytest.approx(0.061, abs=0.005)
    assert np.linalg.norm(found.inputs, axis=-1).mean() == pytest.approx(0.0177, abs=0.0002)
    assert kl_to_uniform(found.targets) == pytest.approx(1.37, abs=0.05)


def test_statistics_of_turns() -> None:
    found = simulate_head_direction(2000, 100, rng=np.random.default_rng(0))
    assert found.inputs.std() == pytest.approx(0.2304, rel=0.01)
    assert np.abs(found.inputs.mean()) < 2e-3
    assert ((found.targets >= -np.pi) & (found.targets < np.pi)).all()
    biased = simulate_head_direction(2000, 100, rng=np.random.default_rng(0), biased=True)
    assert (biased.inputs >= 0).all()
    assert biased.inputs.mean() == pytest.approx(0.2304 * math.sqrt(2 / math.pi), rel=0.01)


def test_turns_add_up() -> None:
    found = turn(np.array([3.0]), np.array([[10.0], [-20.0]]), dt_s=0.02, biased=False)
    np.testing.assert_allclose(found.targets[:, 0, 0], wrap_angle(np.array([3.2, 2.8])))
    np.testing.assert_allclose(wrap_angle(np.array([3.5 * np.pi])), [-0.5 * np.pi])


def test_the_same_generator_gives_the_same_walk_and_start_ranges_differ() -> None:
    first, again = (simulate_navigation(50, 5, rng=np.random.default_rng(3)).start for _ in range(2))
    assert (first == again).all()
    double = simulate_navigation(500, 2, rng=np.random.default_rng(3), arena=Arena(start_range="double")).start
    assert np.abs(double).max() > 2.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"side_m": 0.05},
            "side_m: a box of 0.05 m has no room between border regions of 0.03 m: expected side_m > 0.06",
        ),
        ({"side_m": -1.0}, "side_m: got -1.0, expected a number > 0"),
        ({"border_slow": 1.5}, "border_slow: got 1.5, expected a factor in [0, 1]"),
        ({"drift": float("nan")}, "drift: got nan, expected a number >= 0"),
        ({"drift_law": "per_minute"}, "drift_law: got 'per_minute', expected one of per_step, per_second"),
        ({"start_range": "all"}, "start_range: got 'all', expected one of box, double"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_boxes_that_cannot_be_walked_in_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(Arena(), **change)


def test_short_or_broken_trajectories_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="num_steps: got 1, expected >= 2"):
        simulate_navigation(3, 1, rng=rng)
    with pytest.raises(ValueError, match="num_trajectories: got 0, expected >= 1"):
        simulate_head_direction(0, 5, rng=rng)
    good = simulate_navigation(3, 4, rng=rng)
    broken = good.targets.copy()
    broken[2, 1, 0] = np.nan
    with pytest.raises(ValueError, match="1 values of targets are NaN or infinite; drop those trajectories"):
        Trajectories(good.start, good.inputs, broken)
    with pytest.raises(ValueError, match=re.escape("expected [B, D], [T, B, D] and [T, B, D]")):
        Trajectories(good.start[:2], good.inputs, good.targets)


def test_a_mean_log_ratio_is_clipped() -> None:
    """The example of its docstring."""
    found = mean_log_ratio(np.array([2.0, 1.0]), np.array([1.0, 0.0]))
    assert found == pytest.approx((math.log(2) + math.log(1e7)) / 2)
