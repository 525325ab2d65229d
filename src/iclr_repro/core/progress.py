"""Progress of a loop: a bar on a terminal, a plain line every ten seconds elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from types import TracebackType

import rich.progress
from rich.console import Console

_PLAIN_SECONDS = 10.0
_REDRAW_SECONDS = 0.1


class Progress:
    """Context manager around a loop; `advance` once a step, cheap enough for very short steps."""

    def __init__(self, name: str, total: int, done: int, log: logging.Logger, show: bool) -> None:
        self._name, self._total, self._done, self._log = name, total, done, log
        self._next = time.perf_counter() + _PLAIN_SECONDS
        self._show = show
        self._bar: rich.progress.Progress | None = None

    def __enter__(self) -> Progress:
        console = Console(stderr=True)
        if self._show and console.is_terminal:
            self._bar = rich.progress.Progress(
                rich.progress.TextColumn("{task.description}", markup=False),
                rich.progress.BarColumn(),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TimeRemainingColumn(),
                rich.progress.TextColumn("{task.fields[metrics]}", markup=False),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(self._name, total=self._total, completed=self._done, metrics="")
            self._next = 0.0
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, metrics: Mapping[str, float]) -> None:
        """Count one step and show its metrics when it is time to."""
        self._done += 1
        now = time.perf_counter()
        if not self._show or now < self._next:
            return
        text = "  ".join(f"{name} {value:.4g}" for name, value in list(metrics.items())[:4])
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, metrics=text)
            self._next = now + _REDRAW_SECONDS
        else:
            self._log.info("%s: step %d of %d  %s", self._name, self._done, self._total, text)
            self._next = now + _PLAIN_SECONDS
