"""Running one experiment with one seed: skip what is finished, lock, record, survive failure and interruption."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import filelock
import yaml

from iclr_repro.core import distributed
from iclr_repro.core.device import (
    describe_hardware,
    make_deterministic,
    peak_memory,
    reset_peak_memory,
    select_device,
    set_threads,
)
from iclr_repro.core.experiment import build
from iclr_repro.core.files import write_json, write_text
from iclr_repro.core.interruption import Interrupted, orderly_interruption
from iclr_repro.core.loop import Loop
from iclr_repro.core.metriclog import MetricLog
from iclr_repro.core.provenance import code_state
from iclr_repro.core.record import Task, decide, read_run
from iclr_repro.core.rundir import Run, save_result
from iclr_repro.core.seeding import RandomStreams, seed_global_generators
from iclr_repro.core.tracking import make_tracker
from iclr_repro.core.used_files import recording

Status = Literal["running", "finished", "failed", "interrupted"]

_LOG = logging.getLogger("iclr_repro")
_MADE_BY_A_RUN = ("checkpoints", "figures", "tables", "metrics.jsonl", "result.json", "traceback.txt", "tracker")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a task ended: `error` is one line for the table; `exit_code` is set by an interruption."""

    status: Status
    skipped: bool = False
    error: str | None = None
    exit_code: int = 0


def execute(task: Task) -> Outcome:
    """Run a task, unless a finished run with the same key exists; never raises for what the experiment does.

    With several processes, a failure ends all of them: the others may wait for this one in a collective for ever.

    Returns:
        status "finished", "failed" (traceback.txt in the run's folder) or "interrupted" (checkpoints are there).
    """
    if not distributed.is_main():
        return _execute_beside_main(task)
    told = False
    try:
        with orderly_interruption(), _locked(task):
            decision = decide(task)
            if decision is not None:
                record = _prepared(task, fresh=decision.fresh)
            told = True
            distributed.from_main("skip" if decision is None else "run")
            if decision is None:
                return Outcome(status="finished", skipped=True)
            _LOG.info("%s seed %d: %s", task.experiment, task.seed, decision.reason)
            outcome = _recorded(task, record)
    except Interrupted as stop:  # while waiting for the lock
        outcome = Outcome(status="interrupted", exit_code=stop.exit_code)
    except OSError as error:
        outcome = Outcome(status="failed", error=f"cannot write the run's folder {task.dir}: {error}")
        _LOG.error("%s seed %d failed: %s", task.experiment, task.seed, outcome.error)
    if not told:
        distributed.from_main("stop")
    elif outcome.status == "failed" and distributed.num_processes() > 1:
        logging.shutdown()
        os._exit(1)
    return outcome


def record_death(task: Task, error: str) -> None:
    """Mark a run as failed whose process ended without saying so itself."""
    record = read_run(task.dir)
    if record is not None and record["status"] == "running":
        write_json(task.dir / "run.json", {**record, "status": "failed", "error": error, "ended": _now()})


def _execute_beside_main(task: Task) -> Outcome:
    """Take part in a run of several processes without writing anything; the main process records the outcome."""
    told = distributed.from_main(None)
    if told != "run":
        return Outcome(status="finished" if told == "skip" else "failed", skipped=told == "skip")
    try:
        with orderly_interruption():
            _run_experiment(task, logging.getLogger("iclr_repro.beside"))
    except Interrupted as stop:
        return Outcome(status="interrupted", exit_code=stop.exit_code)
    except Exception:
        _LOG.exception("%s seed %d failed in a process beside the main one", task.experiment, task.seed)
        logging.shutdown()
        os._exit(1)
    return Outcome(status="finished")


@contextmanager
def _locked(task: Task) -> Iterator[None]:
    """Hold the run's folder alone; wait, and say so, while another process has it."""
    task.dir.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(task.dir / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        _LOG.info("%s seed %d: another process runs this; waiting for it", task.experiment, task.seed)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _prepared(task: Task, *, fresh: bool) -> dict[str, Any]:
    """Make the folder ready and write its first run.json; times of an interrupted attempt are carried on."""
    earlier = None if fresh else read_run(task.dir)
    for name in _MADE_BY_A_RUN if fresh else ("traceback.txt",):
        path = task.dir / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for left_by_a_kill in task.dir.rglob(".*.tmp"):
        left_by_a_kill.unlink()
    record = {
        "status": "running",
        "key": task.key,
        "paper": task.paper,
        "experiment": task.experiment,
        "scale": task.scale,
        "seed": task.seed,
        "config": dict(task.config),
        "settings": task.settings,
        "sources": dict(task.sources),
        "code": code_state(),
        "hardware": describe_hardware(select_device(task.device)),
        "process": {"host": socket.gethostname(), "pid": os.getpid()},
        "started": _now(),
        "wall_s": earlier["wall_s"] if earlier else 0.0,
        "cpu_s": earlier["cpu_s"] if earlier else 0.0,
        "data_files": earlier["data_files"] if earlier else [],
    }
    write_text(task.dir / "config.yaml", yaml.safe_dump(dict(task.config), sort_keys=False, allow_unicode=True))
    write_json(task.dir / "run.json", record)
    return record


def _recorded(task: Task, record: dict[str, Any]) -> Outcome:
    """Run the experiment with run.json telling its status and its data files at every moment."""
    path = task.dir / "run.json"
    wall, cpu = time.perf_counter(), _cpu_seconds()
    reset_peak_memory()
    warnings: list[str] = []

    def note_files(used: Sequence[dict[str, Any]]) -> None:
        record["data_files"] = list(used)
        write_json(path, record)

    with _logger(task, warnings) as log, recording(note_files):
        outcome = _guarded(task, log, record)
    record |= {
        "status": outcome.status,
        "error": outcome.error,
        "ended": _now(),
        "wall_s": record["wall_s"] + time.perf_counter() - wall,
        "cpu_s": record["cpu_s"] + _cpu_seconds() - cpu,
        **peak_memory(),
        "warnings": warnings,
    }
    write_json(path, record)
    return outcome


def _guarded(task: Task, log: logging.Logger, record: dict[str, Any]) -> Outcome:
    try:
        loop = _run_experiment(task, log)
    except Interrupted as stop:
        how = "the same command goes on from here" if task.resume else "without resume=false it goes on from here"
        log.info("%s seed %d: interrupted; %s", task.experiment, task.seed, how)
        return Outcome(status="interrupted", exit_code=stop.exit_code)
    except Exception as error:
        write_text(task.dir / "traceback.txt", traceback.format_exc())
        log.error("%s seed %d failed: %s", task.experiment, task.seed, _one_line(error))
        return Outcome(status="failed", error=_one_line(error))
    record["stages"] = {
        name: {
            "steps": timing.steps,
            "seconds": timing.seconds,
            "steps_per_s": timing.steps_per_s,
            "peak_memory_bytes": timing.peak_memory_bytes,
        }
        for name, timing in loop.timings.items()
    }
    return Outcome(status="finished")


def _run_experiment(task: Task, log: logging.Logger) -> Loop:
    device = select_device(task.device)
    set_threads(task.threads)
    make_deterministic()
    seed_global_generators(task.seed)
    streams = RandomStreams(task.seed)
    main = distributed.is_main()
    tracker = make_tracker(
        **task.tracker if main else {"kind": "none"},
        directory=task.dir / "tracker",
        run_name=f"{task.paper}/{task.experiment}/{task.scale}/seed{task.seed}",
        config=dict(task.config),
    )
    metrics = MetricLog(task.dir / "metrics.jsonl" if main else None)
    loop = Loop(
        checkpoints=task.dir / "checkpoints",
        metrics=metrics,
        streams=streams,
        tracker=tracker,
        log=log,
        show_progress=task.show_progress and main,
    )
    run = Run(
        dir=task.dir,
        seed=task.seed,
        device=device,
        scale=task.scale,
        config=task.config,
        log=log,
        loop=loop,
        streams=streams,
    )
    try:
        result = build(task.experiment, task.config).run(run)
        if main:
            save_result(task.dir, result)
    finally:
        metrics.close()
        tracker.close()
    return loop


@contextmanager
def _logger(task: Task, warnings: list[str]) -> Iterator[logging.Logger]:
    """Give a logger that also writes log.txt and collects the warnings."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            warnings.append(record.getMessage())

    log = logging.getLogger(f"iclr_repro.run.{task.paper}.{task.experiment}.seed{task.seed}")
    log.setLevel(logging.INFO)
    file = logging.FileHandler(task.dir / "log.txt", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    # Warnings of the method and of core come through the package's logger.
    collector = Collector(level=logging.WARNING)
    _LOG.addHandler(file)
    _LOG.addHandler(collector)
    try:
        yield log
    finally:
        _LOG.removeHandler(file)
        _LOG.removeHandler(collector)
        file.close()


def _cpu_seconds() -> float:
    """Return the processor time of this process and of its ended children, in seconds."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text}"
