"""Experiments of the test paper."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.plotting import figure
from iclr_repro.core.rundir import Run


class Walker:
    """A learner whose steps draw from every kind of random stream, so that a lost one changes the result."""

    def __init__(self, run: Run, sleep_s: float) -> None:
        self._run, self._sleep_s = run, sleep_s
        self.position = torch.zeros(3, dtype=torch.float64)
        self.visits = np.zeros(4, dtype=np.int64)

    def step(self) -> Mapping[str, float]:
        time.sleep(self._sleep_s)
        own = self._run.rng("walk").normal() + torch.randn((), generator=self._run.torch_rng("walk")).item()
        foreign = random.random() + np.random.random() + torch.rand(()).item()  # noqa: NPY002
        self.position += torch.tensor([own, foreign, own * foreign], dtype=torch.float64)
        self.visits[self._run.rng("visits").integers(4)] += 1
        return {"distance": float(self.position.norm()), "own": own}

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "visits": self.visits}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position, self.visits = state["position"], state["visits"]


@dataclass(frozen=True, kw_only=True)
class Walk:
    """Two stages of a random walk."""

    steps: int = parameter("steps of each stage", low=1, high=100_000)
    sleep_s: float = parameter("pause in a step", unit="s", low=0.0, high=1.0)
    mode: Literal["near", "far"] = parameter("how far to go")

    def run(self, run: Run) -> Result:
        start = run.rng("start").normal()
        walker = Walker(run, self.sleep_s)
        history = run.fit(walker, self.steps, name="first", checkpoint_every=5)
        between = run.rng("between").normal()
        later = run.fit(
            walker,
            self.steps,
            name="second",
            evaluate=lambda: {"norm": float(walker.position.norm())},
            eval_every=7,
            checkpoint_every=4,
        )
        made, axes = figure()
        axes[0, 0].plot(later.values("distance"))
        return Result(
            metrics={
                "walk/distance": float(walker.position.norm()),
                "walk/start": start,
                "walk/between": between,
                "walk/sum": float(history.values("distance").sum() + later.values("distance").sum()),
                "walk/evaluations": float(later.values("norm", kind="evaluate").sum()),
                "walk/visits0": float(walker.visits[0]),
                "walk/n": float(walker.visits.sum()),
                "walk/coordinates": walker.position.numpy(),
            },
            tables={"visits": pd.DataFrame({"visits": walker.visits})},
            figures={"distance": made},
        )


@dataclass(frozen=True, kw_only=True)
class Constant:
    """Returns what it is told; its result depends on no seed."""

    uses_seeds: ClassVar[bool] = False
    value: float = parameter("the result", low=-10, high=10)
    fail: bool = parameter("whether to fail")

    def run(self, run: Run) -> Result:
        if self.fail:
            raise RuntimeError(f"told to fail\nat value {self.value}")
        run.log.warning("the result is a constant")
        return Result(metrics={"constant/value": self.value}, intervals={"constant/value": (self.value, self.value)})
