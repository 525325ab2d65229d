"""Generated traffic in the form of the real sets, for any number of nodes (sheet, "Data")."""

from __future__ import annotations

import numpy as np

from iclr_repro.entropy_linear_attention.series import Series, calendar, split_starts, training_moments

_STEPS_PER_DAY = 288
_MISSING = 0.003
_LARGEST_DELAY = 6


def synthetic_traffic(
    num_nodes: int, num_days: int, *, rng: np.random.Generator, num_steps: int = 12, horizon: int = 12
) -> Series:
    """Flows of nodes on a ring with chords: a daily profile with a delay, times a field that spreads along the graph.

    y_tn = max(0, round(base_n f(t - delay_n) exp(0.25 z_tn) + 0.5 sqrt(base_n) eta)),  base_n ~ LogNormal(5, 0.5),
    f = 0.35 + 0.45 exp(-(h - 8)^2/6) + 0.6 exp(-(h - 17.5)^2/8) for hour h, times 0.75 on weekends,
    z_t = 0.9 (I/2 + A/2) z_(t-1) + 0.2 eps_t, A the row-normalised adjacency, delay_n in 0..6 steps; 0.3 % of the
    entries are set to 0 (missing). Starts on a Monday at midnight; parts 6:2:2.

    Args:
        num_nodes: N >= 3.
        num_days: of 288 steps, >= 1.
        rng: of all draws.
        num_steps: T of the windows.
        horizon: P of the windows.

    Raises:
        ValueError: a number is out of range.
    """
    if num_nodes < 3 or num_days < 1:
        raise ValueError(f"num_nodes, num_days: got {num_nodes}, {num_days}, expected >= 3 and >= 1")
    num_rows = num_days * _STEPS_PER_DAY
    slots, weekdays = calendar(num_rows, steps_per_day=_STEPS_PER_DAY, first_row=0, first_weekday=0)
    base = rng.lognormal(5.0, 0.5, num_nodes)
    delay = rng.integers(0, _LARGEST_DELAY + 1, num_nodes)
    hours = ((slots[:, None] - delay) % _STEPS_PER_DAY) * (24.0 / _STEPS_PER_DAY)
    profile = 0.35 + 0.45 * np.exp(-((hours - 8.0) ** 2) / 6.0) + 0.6 * np.exp(-((hours - 17.5) ** 2) / 8.0)
    profile *= np.where(weekdays >= 5, 0.75, 1.0)[:, None]
    chords = rng.integers(0, num_nodes, num_nodes)
    field = np.empty((num_rows, num_nodes))
    z = np.zeros(num_nodes)
    for row, shock in enumerate(0.2 * rng.standard_normal((num_rows, num_nodes))):
        # Neighbours of a node: the two beside it on the ring, and the end of its chord.
        neighbours = (np.roll(z, 1) + np.roll(z, -1) + z[chords]) / 3.0
        z = 0.9 * (0.5 * z + 0.5 * neighbours) + shock
        field[row] = z
    noise = 0.5 * np.sqrt(base) * rng.standard_normal((num_rows, num_nodes))
    values = np.maximum(0.0, np.round(base * profile * np.exp(0.25 * field) + noise))
    values[rng.random(values.shape) < _MISSING] = 0.0
    train, validation, test = split_starts(num_rows, (0.6, 0.2), num_steps=num_steps, horizon=horizon)
    mean, std = training_moments(values, train, num_steps)
    return Series(
        name=f"synthetic traffic, {num_nodes} nodes",
        values=values,
        slots=slots,
        weekdays=weekdays,
        steps_per_day=_STEPS_PER_DAY,
        zeros_are_missing=True,
        mean=mean,
        std=std,
        train=train,
        validation=validation,
        test=test,
        num_steps=num_steps,
        horizon=horizon,
    )
