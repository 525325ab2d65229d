"""Experiments of the second test paper."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from iclr_repro.core import data
from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.rundir import Run


class Adder:
    """Adds the same number in each step; sends itself Ctrl-C in the third, the first time it gets there."""

    def __init__(self, number: float, *, interrupts: Path | None = None) -> None:
        self._number, self._interrupts = number, interrupts
        self.total, self._step = 0.0, 0

    def step(self) -> Mapping[str, float]:
        self._step += 1
        self.total += self._number
        if self._interrupts is not None and self._step == 3 and not self._interrupts.exists():
            self._interrupts.touch()
            os.kill(os.getpid(), signal.SIGINT)
        return {"total": self.total}

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total, "step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total, self._step = state["total"], state["step"]


@dataclass(frozen=True, kw_only=True)
class LearnerOnData:
    """Trains on real data (+1) where they are, else on generated ones (-1)."""

    def run(self, run: Run) -> Result:
        number, kind = data.real_or_synthetic("auto", lambda: (run.locate("toy/scores"), 1.0)[1], lambda: -1.0)
        adder = Adder(number)
        run.fit(adder, 10)
        return Result(metrics={"total": adder.total}, data=kind)


@dataclass(frozen=True, kw_only=True)
class OwnFile:
    """Reads a file of the user's."""

    uses_seeds: ClassVar[bool] = False
    path: str | None = parameter("the file; null: none")

    def run(self, run: Run) -> Result:
        length = len(data.note_file(Path(self.path)).read_text()) if self.path else 0
        return Result(metrics={"own_file/length": length})


@dataclass(frozen=True, kw_only=True)
class InterruptsItself:
    """Is interrupted in the third step, once."""

    def run(self, run: Run) -> Result:
        adder = Adder(1.0, interrupts=run.dir.parents[4] / "was interrupted")
        run.fit(adder, 6)
        return Result(metrics={"total": adder.total})
