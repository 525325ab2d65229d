"""fit(): the one training loop of all papers.

Whatever advances by steps is a Learner: an optimiser step, an episode, a communication round, a sweep. The loop gives
it progress, metrics on disk, evaluation, checkpoints, resume, early stop, an orderly stop on Ctrl-C, and a refusal to
go on with numbers that are not finite.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from iclr_repro.core import distributed, seeding
from iclr_repro.core.checkpoint import load_checkpoints, save_checkpoint
from iclr_repro.core.device import peak_memory
from iclr_repro.core.interruption import Interrupted, deferred_interruption
from iclr_repro.core.metriclog import Kind, MetricLog, Record
from iclr_repro.core.progress import Progress
from iclr_repro.core.tracking import Tracker

_CHECKPOINT_SECONDS = 30.0


@runtime_checkable
class Learner(Protocol):
    """Anything that advances by steps and can be saved and restored between two of them."""

    def step(self) -> Mapping[str, float]:
        """Advance by one step and return its metrics (finite numbers)."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next steps depend on, besides the run's random streams (see `save_checkpoint`)."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        ...


class NonFiniteError(RuntimeError):
    """A metric became NaN or infinite; the last checkpoint is from before."""


@dataclass(frozen=True)
class History:
    """The logged metrics of one stage, oldest first."""

    records: tuple[Record, ...]
    stopped_early: bool = False

    def values(self, metric: str, *, kind: Kind = "train") -> npt.NDArray[np.float64]:
        """Return the logged values of a metric, shape [num_logged]; `kind` is "train" or "evaluate".

        Raises:
            KeyError: the metric was never logged; the message lists those that were.
        """
        found = [record["metrics"][metric] for record in self._of(kind) if metric in record["metrics"]]
        if not found:
            known = sorted({name for record in self._of(kind) for name in record["metrics"]})
            raise KeyError(f"no {kind} metric {metric!r}; logged: {', '.join(known) or 'none'}")
        return np.array(found)

    def steps(self, metric: str, *, kind: Kind = "train") -> npt.NDArray[np.int64]:
        """Return the steps at which a metric was logged, shape [num_logged], counted from 1."""
        return np.array([record["step"] for record in self._of(kind) if metric in record["metrics"]], dtype=np.int64)

    def _of(self, kind: Kind) -> list[Record]:
        return [record for record in self.records if record["kind"] == kind]


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Stop when the best evaluation of `metric` is `patience` evaluations old.

    An evaluation is better when it improves on the best one by more than `min_delta`. Decided from the history alone,
    so that a resumed run stops at the same step.

    Raises:
        ValueError: `patience` is below 1 or `min_delta` below 0.
    """

    metric: str
    patience: int
    higher_is_better: bool
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values that would stop at the first evaluation, or call a worse one better."""
        if self.patience < 1:
            raise ValueError(f"patience: got {self.patience}, expected >= 1")
        if not self.min_delta >= 0.0:
            raise ValueError(f"min_delta: got {self.min_delta}, expected >= 0")

    def __call__(self, history: History) -> bool:
        """Tell whether to stop now."""
        sign = 1.0 if self.higher_is_better else -1.0
        best, age = -math.inf, 0
        for value in sign * history.values(self.metric, kind="evaluate"):
            best, age = (value, 0) if value > best + self.min_delta else (best, age + 1)
        return age >= self.patience


@dataclass(frozen=True)
class StageTiming:
    """How long a stage took, all its resumed parts together, and the process's peak memory at its end."""

    steps: int
    seconds: float
    peak_memory_bytes: int | None

    @property
    def steps_per_s(self) -> float:
        """Throughput in steps a second (0 for a stage without steps)."""
        return self.steps / self.seconds if self.seconds > 0 else 0.0


@dataclass
class Loop:
    """Runs learners for one run: where their checkpoints and metrics go, and whose random streams are saved."""

    checkpoints: Path | None
    metrics: MetricLog
    streams: seeding.RandomStreams
    tracker: Tracker
    log: logging.Logger
    show_progress: bool = True
    timings: dict[str, StageTiming] = field(default_factory=dict)

    def fit(
        self,
        learner: Learner,
        steps: int,
        *,
        name: str = "train",
        evaluate: Callable[[], Mapping[str, float]] | None = None,
        eval_every: int | None = None,
        eval_at: Collection[int] = (),
        checkpoint_every: int | None = None,
        log_every: int = 1,
        stop: Callable[[History], bool] | None = None,
    ) -> History:
        """Advance `learner` to `steps` steps, going on from the newest intact checkpoint of stage `name`.

        Args:
            learner: what to advance. A stage that was finished before is restored and returned at once.
            steps: total number of steps, >= 0; with 0 there is neither a step nor an evaluation.
            name: of the stage, unique within the run.
            evaluate: called every `eval_every` steps (default: never in between), after the steps `eval_at`, and after
                the last one.
            eval_every: in steps.
            eval_at: numbers of steps, such as those of a geometric grid.
            checkpoint_every: in steps; by default every 30 s. Checkpoints never change a result.
            log_every: every how many steps the step's metrics are written; each step's are checked.
            stop: asked after each evaluation; see `EarlyStopping`.

        Raises:
            ValueError: a number above is out of range, there is a `stop`, `eval_every` or `eval_at` without
                `evaluate`, or a stage of this name has run already (it would be taken for finished).
            NonFiniteError: a metric is NaN or infinite.
            Interrupted: the process was asked to stop; a checkpoint has been written.
        """
        _check_at_least(0, steps=steps)
        _check_at_least(1, eval_every=eval_every, checkpoint_every=checkpoint_every, log_every=log_every)
        for argument, given in (("stop", stop), ("eval_every", eval_every), ("eval_at", eval_at)):
            if given and evaluate is None:
                raise ValueError(f"{argument} needs evaluate: the function that evaluates")
        if name in self.timings:
            raise ValueError(f"stage {name!r} has run already: give every call of fit in a run a name of its own")
        stage = _Stage(self, learner, name)
        done, finished, seconds = stage.restore()
        if finished:
            self.log.info("stage %s: finished before (%d steps)", name, done)
            self.timings[name] = StageTiming(done, seconds, peak_memory()["peak_memory_bytes"])
            return History(tuple(self.metrics.records(name)), stopped_early=done < steps)

        started = saved = time.perf_counter()
        stopped = asked = False
        with deferred_interruption() as deferral, Progress(name, steps, done, self.log, self.show_progress) as progress:
            while done < steps:
                values = stage.checked(learner.step(), done + 1)
                done += 1
                progress.advance(values)
                if done % log_every == 0 or done == steps:
                    stage.record("train", done, values)
                due = done == steps or (eval_every and done % eval_every == 0) or done in eval_at
                if evaluate and due:
                    stage.record("evaluate", done, stage.checked(evaluate(), done))
                    stopped = stop is not None and stop(History(tuple(self.metrics.records(name))))
                now = time.perf_counter()
                asked = distributed.any_process(deferral.pending is not None)
                save = done % checkpoint_every == 0 if checkpoint_every else now - saved >= _CHECKPOINT_SECONDS
                if done == steps or stopped:
                    break
                if distributed.any_process(save) or asked:
                    stage.save(done, finished=False, seconds=seconds + now - started)
                    saved = time.perf_counter()
                if asked:
                    raise Interrupted(deferral.pending or signal.SIGTERM)
            seconds += time.perf_counter() - started
            stage.save(done, finished=True, seconds=seconds)
            if asked:
                raise Interrupted(deferral.pending or signal.SIGTERM)
        self.timings[name] = StageTiming(done, seconds, peak_memory()["peak_memory_bytes"])
        return History(tuple(self.metrics.records(name)), stopped_early=stopped and done < steps)


class _Stage:
    """One call of fit: what is saved, restored and recorded under the stage's name."""

    def __init__(self, loop: Loop, learner: Learner, name: str) -> None:
        self._loop = loop
        self._learner = learner
        self._name = name
        self._folder = loop.checkpoints / name if loop.checkpoints is not None else None

    def restore(self) -> tuple[int, bool, float]:
        """Load the newest checkpoint whose metrics are all there; return (steps done, finished, seconds so far)."""
        log = self._loop.log
        records = distributed.from_main(self._loop.metrics.records(self._name))
        if not distributed.is_main():  # it has no file, and must come to the same decisions
            for record in records:
                self._loop.metrics.append(**record)
        for step, state in load_checkpoints(self._folder, log) if self._folder is not None else []:
            if state["num_records"] > len(records):
                log.warning("metrics.jsonl lacks lines of stage %s: not resuming at step %d", self._name, step)
                continue
            self._learner.load_state_dict(state["learner"])
            self._loop.streams.load_state_dict(state["streams"])
            seeding.load_global_state(state["global"])
            self._loop.metrics.cut(self._name, state["num_records"])
            self._loop.tracker.resume(step=step, stage=self._name)
            if not state["finished"]:
                log.info("stage %s: resuming at step %d", self._name, step)
            return step, state["finished"], state["seconds"]
        if records:
            self._loop.metrics.cut(self._name, 0)
        return 0, False, 0.0

    def save(self, step: int, *, finished: bool, seconds: float) -> None:
        """Write a checkpoint; every process takes part in collecting the state, the main one writes."""
        state = {
            "learner": self._learner.state_dict(),
            "streams": self._loop.streams.state_dict(),
            "global": seeding.global_state(),
            "num_records": len(self._loop.metrics.records(self._name)),
            "finished": finished,
            "seconds": seconds,
        }
        if distributed.is_main() and self._folder is not None:
            self._loop.metrics.flush()
            save_checkpoint(self._folder, step, state)
        distributed.barrier()

    def record(self, kind: Kind, step: int, values: Mapping[str, float]) -> None:
        """Append to metrics.jsonl and to the tracker."""
        self._loop.metrics.append(self._name, kind, step, values)
        prefix = "" if kind == "train" else "evaluate/"
        self._loop.tracker.log({f"{prefix}{key}": value for key, value in values.items()}, step=step, stage=self._name)

    def checked(self, values: Mapping[str, float], step: int) -> dict[str, float]:
        """Return the metrics as floats, refusing NaN and infinity."""
        checked = {name: float(value) for name, value in values.items()}
        for name, value in checked.items():
            if not math.isfinite(value):
                raise NonFiniteError(
                    f"{name} is {value} at step {step} of stage {self._name!r}: lower the learning rate, clip gradients"
                    " or check the data; the last checkpoint is from before this step"
                )
        return checked


def _check_at_least(smallest: int, **given: int | None) -> None:
    for name, value in given.items():
        if value is not None and value < smallest:
            raise ValueError(f"{name}: got {value}, expected >= {smallest}")
