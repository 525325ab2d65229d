"""Loaders for the real spatio-temporal sets: those of the data catalogue, and full public sets from a user's folder."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iclr_repro.core.data import locate
from iclr_repro.entropy_linear_attention.series import Series, calendar, split_starts, training_moments

_PAPER = "entropy_linear_attention"
_TAIL_TRAIN, _TAIL_VALIDATION, _TAIL_TEST = range(3209), range(3209, 3543), range(3567, 7133)


@dataclass(frozen=True)
class _FullSet:
    """A public set: calendar of its first row, parts of the official split, whether 0 is a gap."""

    steps_per_day: int
    first_weekday: int
    fractions: tuple[float, float]


# First days: 2018-09-01, 2018-01-01, 2017-05-01, 2016-07-01, 2012-03-01, 2017-01-01, all at midnight.
_FULL_SETS = {
    "PEMS03": _FullSet(288, 5, (0.6, 0.2)),
    "PEMS04": _FullSet(288, 0, (0.6, 0.2)),
    "PEMS07": _FullSet(288, 0, (0.6, 0.2)),
    "PEMS08": _FullSet(288, 4, (0.6, 0.2)),
    "METR-LA": _FullSet(288, 3, (0.7, 0.1)),
    "PEMS-BAY": _FullSet(288, 6, (0.7, 0.1)),
}

FULL_SETS = tuple(_FULL_SETS)
"""Names of the public sets that `load_full` reads."""

NUM_NODES = {
    "pems08_tail": 170,
    "los_loop": 207,
    "montevideo_bus": 675,
    "nycbike1_tail": 128,
    "PEMS03": 358,
    "PEMS04": 307,
    "PEMS07": 883,
    "PEMS08": 170,
    "METR-LA": 207,
    "PEMS-BAY": 325,
}
"""Nodes of each set, for what is told before a set is read. Source: sheet 7."""


def load_pems08_tail(find: Callable[[str], Path] = locate) -> Series:
    """Traffic flow of 170 sensors, the official validation and test part of PEMS08 (24.8 days, 5 min).

    Training windows start at rows 0..3208, validation windows at 3209..3542; the test windows are the 3,566 official
    ones, rows 3567..7132. The z-score is that of the official training inputs.
    """
    with np.load(find(f"{_PAPER}/pems08_tail.npz")) as file:
        slots, weekdays = calendar(
            len(file["flow"]),
            steps_per_day=int(file["steps_per_day"]),
            first_row=int(file["t0"]),
            first_weekday=int(file["start_dow"]),
        )
        return Series(
            name="PEMS08, official validation and test part",
            values=file["flow"].astype(np.float64),
            slots=slots,
            weekdays=weekdays,
            steps_per_day=int(file["steps_per_day"]),
            zeros_are_missing=True,
            mean=float(file["train_mean"]),
            std=float(file["train_std"]),
            train=np.array(_TAIL_TRAIN),
            validation=np.array(_TAIL_VALIDATION),
            test=np.array(_TAIL_TEST),
        )


def load_pems08_edges(find: Callable[[str], Path] = locate) -> tuple[np.ndarray, np.ndarray]:
    """The 295 road segments between the sensors of PEMS08: (from, to) [295, 2] and length in metres [295]."""
    with np.load(find(f"{_PAPER}/pems08_edges.npz")) as file:
        return file["edges"].astype(np.int64), file["cost"].astype(np.float64)


def load_los_loop(find: Callable[[str], Path] = locate) -> Series:
    """Speeds (mph) of 207 loop detectors in one week of METR-LA, from Thursday, 1 March 2012, 5 min; parts 7:1:2."""
    with np.load(find(f"{_PAPER}/los_loop.npz")) as file:
        values = file["speed"].astype(np.float64)
    return _cut("METR-LA, one week", values, steps_per_day=288, first_weekday=3, fractions=(0.7, 0.1))


def load_montevideo_bus(find: Callable[[str], Path] = locate) -> Series:
    """Boardings at 675 bus stops of Montevideo, hourly in October 2020 (the 1st was a Thursday); zeros are true.

    Parts 6:2:2, 12 hours to the next 12.
    """
    with np.load(find(f"{_PAPER}/montevideo_bus.npz")) as file:
        values = file["inflow"].astype(np.float64)
    return _cut("Montevideo buses", values, steps_per_day=24, first_weekday=3, fractions=(0.6, 0.2))


def load_nycbike1(find: Callable[[str], Path] = locate, *, channel: int = 0) -> Series:
    """Bikes that enter (channel 0) or leave (1) 128 cells of New York, 1,295 consecutive hours; zeros are true.

    The hour and weekday of the first row are not stated in the source: slots count from there, which serves embeddings
    and averages as well. The first 431 rows are the official validation part; windows that start there are for training
    and validation (7:1), those that start later for the test, which they alone see.

    Raises:
        ValueError: no such channel.
    """
    with np.load(find(f"{_PAPER}/nycbike1_tail.npz")) as file:
        if channel not in range(file["flow"].shape[2]):
            raise ValueError(f"channel: got {channel}, expected 0 (inflow) or 1 (outflow)")
        values, num_rows = file["flow"][:, :, channel].astype(np.float64), int(file["n_val"])
    inner = _cut("NYC bikes", values[:num_rows], steps_per_day=24, first_weekday=0, fractions=(0.7, 0.1))
    slots, weekdays = calendar(len(values), steps_per_day=24, first_row=0, first_weekday=0)
    test = np.arange(num_rows, len(values) - inner.num_steps - inner.horizon + 1)
    changes = {"values": values, "slots": slots, "weekdays": weekdays, "test": test}
    return Series(**{**vars(inner), **changes, "validation": np.concatenate([inner.validation, inner.test])})


LOADERS: dict[str, Callable[[], Series]] = {
    "pems08_tail": load_pems08_tail,
    "los_loop": load_los_loop,
    "montevideo_bus": load_montevideo_bus,
    "nycbike1_tail": functools.partial(load_nycbike1, channel=0),
}
"""Loaders of the catalogued sets by name."""


def load_full(name: str, folder: Path) -> Series:
    """A full public set from a folder that holds `<name>.npz` or STAEformer's `<name>/data.npz` with `index.npz`.

    `<name>.npz` has a key `data` of shape (R, N, F) or (R, N), feature 0 the value (ASTGCN, STSGCN, DCRNN's tables
    saved so). STAEformer's form has `data` (R, N, 3) = value, time of day, weekday, and the window starts of the
    official parts.

    Args:
        name: one of `FULL_SETS`.
        folder: where the files are.

    Raises:
        ValueError: an unknown name, neither file, or a file of another form.
    """
    if name not in _FULL_SETS:
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(FULL_SETS)}")
    about = _FULL_SETS[name]
    plain, indexed = folder / f"{name}.npz", folder / name / "data.npz"
    if plain.is_file():
        with np.load(plain) as file:
            values = _values(file, plain)
        return _cut(name, values, about.steps_per_day, about.first_weekday, about.fractions, zeros_are_missing=True)
    if not indexed.is_file():
        raise ValueError(
            f"{name}: neither {plain} nor {indexed} exists; put the public file there (README, Data), or name its"
            " folder"
        )
    with np.load(indexed) as file:
        values = _values(file, indexed)
    series = _cut(name, values, about.steps_per_day, about.first_weekday, about.fractions, zeros_are_missing=True)
    with np.load(indexed.with_name("index.npz")) as file:
        parts = {part: file[key][:, 0].astype(np.int64) for part, key in _INDEX_KEYS.items()}
    mean, std = training_moments(values, parts["train"], series.num_steps)
    return Series(**{**vars(series), **parts, "mean": mean, "std": std})


_INDEX_KEYS = {"train": "train", "validation": "val", "test": "test"}


def _values(file: Any, path: Path) -> np.ndarray:
    if "data" not in file or file["data"].ndim not in (2, 3):
        raise ValueError(f"{path}: expected a key 'data' of shape (steps, nodes[, features]), found {sorted(file)}")
    data = file["data"].astype(np.float64)
    return data[..., 0] if data.ndim == 3 else data


def _cut(
    name: str,
    values: np.ndarray,
    steps_per_day: int,
    first_weekday: int,
    fractions: tuple[float, float],
    *,
    zeros_are_missing: bool = False,
) -> Series:
    """A series from midnight of a weekday on, with windows of 12 + 12 steps in parts of the given size."""
    slots, weekdays = calendar(len(values), steps_per_day=steps_per_day, first_row=0, first_weekday=first_weekday)
    train, validation, test = split_starts(len(values), fractions, num_steps=12, horizon=12)
    mean, std = training_moments(values, train, 12)
    return Series(
        name=name,
        values=values,
        slots=slots,
        weekdays=weekdays,
        steps_per_day=steps_per_day,
        zeros_are_missing=zeros_are_missing,
        mean=mean,
        std=std,
        train=train,
        validation=validation,
        test=test,
    )
