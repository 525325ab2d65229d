"""Collecting metrics and their intervals on the way to a `Result`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from iclr_repro.core.experiment import Result


class Measurements:
    """What an experiment has measured so far.

    Attributes:
        metrics, intervals: see `core.experiment.Result`.
    """

    def __init__(self) -> None:
        self.metrics: dict[str, float | np.ndarray] = {}
        self.intervals: dict[str, tuple[float, float]] = {}

    def add(self, name: str, value: float | np.ndarray, interval: tuple[float, float] | None = None) -> None:
        """Note a metric (an array: one value for each of several runs), with its 95 % interval where it has one."""
        self.metrics[name] = value
        if interval is not None:
            self.intervals[name] = interval

    def add_exact(self, name: str, value: float) -> None:
        """Note what was counted rather than sampled: its interval has no width."""
        self.add(name, value, (value, value))

    def add_draws(self, name: str, value: float, draws: npt.ArrayLike) -> None:
        """Note an estimate with the 95 % percentile interval of its bootstrap draws.

        Draws in which it is not defined (NaN) are left out; without any draw it has no interval.
        """
        defined = np.asarray(draws, dtype=np.float64)
        defined = defined[~np.isnan(defined)]
        low, high = np.quantile(defined, [0.025, 0.975]) if len(defined) else (np.nan, np.nan)
        self.add(name, float(value), (float(low), float(high)) if len(defined) else None)

    def result(self, **rest: Any) -> Result:
        """Wrap up; `rest` are the other fields of `Result`."""
        return Result(metrics=self.metrics, intervals=self.intervals, **rest)
