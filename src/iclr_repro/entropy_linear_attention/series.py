"""A multivariate time series with its calendar, cut into windows for forecasting.

Shape letters: R = rows (time), N = nodes, T = input steps, P = horizon.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

ANCHORS = ("mean", "last", "ha_resid")
"""What the network's output is added to: the mean of the series, the last value, or the damped historical average."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """A series and what is known of it.

    Attributes:
        name: of the data set.
        values: [R, N], float64.
        slots: slot of the day of each row, 0..steps_per_day - 1.
        weekdays: weekday of each row, 0 (Monday) .. 6.
        steps_per_day: rows of a day.
        zeros_are_missing: whether a value of 0 is a gap, to be left out of the metrics.
        mean: of the training inputs, for the z-score.
        std: of the training inputs.
        train: starts of the training windows, ascending.
        validation: starts of the validation windows.
        test: starts of the test windows.
        num_steps: T of the windows that the splits are for.
        horizon: P of these windows.
    """

    name: str
    values: npt.NDArray[np.float64]
    slots: npt.NDArray[np.int64]
    weekdays: npt.NDArray[np.int64]
    steps_per_day: int
    zeros_are_missing: bool
    mean: float
    std: float
    train: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]
    num_steps: int = 12
    horizon: int = 12

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.values.shape[1]

    @property
    def weekend(self) -> npt.NDArray[np.bool_]:
        """Whether a row falls on a Saturday or Sunday, [R]."""
        return self.weekdays >= 5

    @property
    def history_rows(self) -> int:
        """How many rows, from the first, training windows cover: the past that a forecast may learn from."""
        return int(self.train[-1]) + self.num_steps + self.horizon

    def first_nodes(self, num_nodes: int) -> Series:
        """The same series with its first nodes only; the z-score stays that of all.

        Raises:
            ValueError: there are fewer.
        """
        if not 1 <= num_nodes <= self.num_nodes:
            raise ValueError(f"num_nodes: got {num_nodes}, but {self.name} has {self.num_nodes} nodes")
        return Series(**{**vars(self), "values": self.values[:, :num_nodes]})

    def targets(self, starts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """What follows the input of the windows at `starts`, [windows, P, N]."""
        return self.values[starts[:, None] + np.arange(self.num_steps, self.num_steps + self.horizon)]


def calendar(num_rows: int, *, steps_per_day: int, first_row: int, first_weekday: int) -> tuple[np.ndarray, np.ndarray]:
    """Slots of the day and weekdays of rows that start `first_row` rows after midnight of a day `first_weekday`.

    Example: 288 rows a day, first_row 10700, first_weekday 4 (Friday): the first row has slot 44 on a Sunday (6).
    """
    row = np.arange(num_rows) + first_row
    return row % steps_per_day, (first_weekday + row // steps_per_day) % 7


def split_starts(
    num_rows: int, fractions: tuple[float, float], *, num_steps: int, horizon: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts of the training, validation and test windows in time: round(train n), round(val n), the rest.

    Example: 17,856 rows in parts 0.6 and 0.2, 12 + 12 steps: 10,700, 3,567 and 3,566 windows, as officially for PEMS08.

    Raises:
        ValueError: a part would have no window.
    """
    count = num_rows - num_steps - horizon + 1
    first, second = round(fractions[0] * count), round(fractions[1] * count)
    if min(first, second, count - first - second) < 1:
        raise ValueError(
            f"{num_rows} rows make {max(count, 0)} windows of {num_steps} + {horizon}: too few for three parts"
        )
    starts = np.arange(count)
    return starts[:first], starts[first : first + second], starts[first + second :]


def training_moments(values: np.ndarray, train: np.ndarray, num_steps: int) -> tuple[float, float]:
    """Mean and standard deviation of all training inputs; a row counts as often as windows hold it."""
    change = np.zeros(len(values) + 1)
    np.add.at(change, train, 1.0)
    np.add.at(change, train + num_steps, -1.0)
    weights = np.cumsum(change[:-1])[:, None] / (len(train) * num_steps * values.shape[1])
    mean = float((weights * values).sum())
    return mean, float(np.sqrt((weights * (values - mean) ** 2).sum()))


def historical_average(series: Series, num_rows: int) -> npt.NDArray[np.float64]:
    """Mean of each node over its first `num_rows` rows, by slot of the day and weekend flag, for every row: [R, N].

    Zeros count. A slot without a row of its flag takes the mean of the slot over all days, one without any row the mean
    of the node.

    Source: sheet 3.8 (HA).
    """
    groups = series.slots + series.steps_per_day * series.weekend
    past = series.values[:num_rows]
    sums, counts = np.zeros((2 * series.steps_per_day, series.num_nodes)), np.zeros((2 * series.steps_per_day, 1))
    np.add.at(sums, groups[:num_rows], past)
    np.add.at(counts, groups[:num_rows], 1.0)
    slot_sums, slot_counts = (
        np.tile(x.reshape(2, series.steps_per_day, -1).sum(axis=0), (2, 1)) for x in (sums, counts)
    )
    by_slot = np.where(slot_counts > 0, slot_sums / np.maximum(slot_counts, 1.0), past.mean(axis=0))
    table = np.where(counts > 0, sums / np.maximum(counts, 1.0), by_slot)
    return table[groups]


class Windows(torch.utils.data.Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Windows of a series as samples (x, anchor, y).

    x [T, N, 3]: z-scored value, time of day in [0, 1), weekday 0..6. anchor [P, N]: what the network corrects, in the
    units of the series. y [P, N]: the truth, in these units.

    anchor "mean" is the series' mean (the plain host); "last" the last observed value; "ha_resid"
    HA(target) + lambda_h (x_last - HA(last)) with lambda from 0.9 to 0.5 over the horizon and HA from training rows
    only.

    Args:
        series: what to cut.
        starts: of the windows.
        anchor: one of `ANCHORS`.

    Raises:
        ValueError: no such anchor.

    Source: sheet, "Scales" (anchors).
    """

    def __init__(self, series: Series, starts: npt.NDArray[np.int64], anchor: str) -> None:
        if anchor not in ANCHORS:
            raise ValueError(f"anchor: got {anchor!r}, expected one of {', '.join(ANCHORS)}")
        self.series, self.starts, self.anchor = series, starts, anchor
        z = (series.values - series.mean) / series.std
        times = np.broadcast_to((series.slots / series.steps_per_day)[:, None], z.shape)
        days = np.broadcast_to(series.weekdays[:, None], z.shape)
        self._inputs = torch.from_numpy(np.stack([z, times, days], axis=-1)).float()
        self._values = torch.from_numpy(series.values).float()
        if anchor == "ha_resid":
            self._average = torch.from_numpy(historical_average(series, series.history_rows)).float()
            self._damping = torch.linspace(0.9, 0.5, series.horizon)[:, None]

    def __len__(self) -> int:
        """How many windows."""
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Sample number `index`."""
        start = int(self.starts[index])
        now, end = start + self.series.num_steps, start + self.series.num_steps + self.series.horizon
        truth = self._values[now:end]
        if self.anchor == "mean":
            anchor = torch.full_like(truth, self.series.mean)
        elif self.anchor == "last":
            anchor = self._values[now - 1].expand_as(truth)
        else:
            residual = self._values[now - 1] - self._average[now - 1]
            anchor = self._average[now:end] + self._damping * residual
        return self._inputs[start:now], anchor, truth
