"""Running tasks one after another, or each in a process of its own so that none can harm another."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from iclr_repro.core.execution import Outcome, execute, record_death
from iclr_repro.core.interruption import Interrupted, orderly_interruption
from iclr_repro.core.record import Task

_LOG = logging.getLogger("iclr_repro")


@dataclass(frozen=True)
class _Child:
    task: Task
    process: SpawnProcess
    answer: Connection


def run_tasks(tasks: Sequence[Task], *, jobs: int, set_up: Callable[[], None]) -> dict[Task, Outcome]:
    """Run the tasks, `jobs` at once; return the outcomes of those that were started.

    With `jobs` = 1 they run in this process. Otherwise each has a process: a crash of one (a segmentation fault, the
    system out of memory) is the failure of that one. After an interruption no further task starts.

    Args:
        tasks: in the order in which they start.
        jobs: how many at once.
        set_up: called first in each new process (logging); must be importable.
    """
    if jobs == 1:
        outcomes = {}
        for task in tasks:
            outcomes[task] = execute(task)
            if outcomes[task].status == "interrupted":
                break
        return outcomes
    return _run_in_processes(list(tasks), jobs, set_up)


def _run_in_processes(waiting: list[Task], jobs: int, set_up: Callable[[], None]) -> dict[Task, Outcome]:
    outcomes: dict[Task, Outcome] = {}
    running: list[_Child] = []
    with orderly_interruption():
        while waiting or running:
            try:
                while waiting and len(running) < jobs:
                    running.append(_start(waiting.pop(0), set_up))
                wait([child.process.sentinel for child in running])
            except Interrupted as stop:
                waiting.clear()
                for child in running:
                    if child.process.pid is not None and child.process.is_alive():
                        os.kill(child.process.pid, stop.signum)
            for child in [child for child in running if not child.process.is_alive()]:
                running.remove(child)
                outcomes[child.task] = _collect(child)
    return outcomes


def _start(task: Task, set_up: Callable[[], None]) -> _Child:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(replace(task, show_progress=False), sender, set_up))
    process.start()
    sender.close()
    return _Child(task, process, receiver)


def _work(task: Task, answer: Connection, set_up: Callable[[], None]) -> None:
    os.setpgrp()  # a terminal's Ctrl-C reaches the parent only, which passes it on once
    set_up()
    answer.send(execute(task))


def _collect(child: _Child) -> Outcome:
    child.process.join()
    try:
        outcome: Outcome = child.answer.recv()
    except EOFError:
        error = f"its process ended with exit code {child.process.exitcode} (out of memory? see log.txt in its folder)"
        _LOG.error("%s seed %d: %s", child.task.experiment, child.task.seed, error)
        record_death(child.task, error)
        return Outcome(status="failed", error=error)
    finally:
        child.answer.close()
    return outcome
