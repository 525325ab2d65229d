"""Tasks and what their folders say: the record of a run, and whether a task has to run (again)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iclr_repro.core import data, used_files
from iclr_repro.core.checkpoint import last_written
from iclr_repro.core.device import select_device
from iclr_repro.core.files import read_json, sha256_of_json
from iclr_repro.core.provenance import code_state, differences

_LOG = logging.getLogger("iclr_repro")
_RECORD_KEYS = {"status", "config", "settings", "sources", "code", "hardware", "data_files", "wall_s", "cpu_s"}
_RESULT_KEYS = {"metrics", "intervals", "tables", "figures", "data"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """All that one run depends on; plain values, so that another process can be handed it.

    Attributes:
        package: import path of the paper's package.
        config: the experiment's parameters with its `_target_`.
        sources: digests of the paper's and the core's source files; see `provenance.source_digests`.
        tracker: kind and settings; see `core.tracking.make_tracker`.
        resume: go on from checkpoints (else start from nothing).
        force: run again although a finished run with this key exists.
    """

    paper: str
    package: str
    experiment: str
    scale: str
    seed: int
    config: Mapping[str, Any]
    device: str
    threads: int
    sources: Mapping[str, str]
    runs_dir: Path
    tracker: Mapping[str, Any]
    resume: bool = True
    force: bool = False
    show_progress: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        """The run-wide settings that a result can depend on."""
        return {"device": select_device(self.device).type, "threads": self.threads}

    @property
    def key(self) -> str:
        """16 hexadecimal digits that change with the parameters, the settings above and the source."""
        return sha256_of_json([self.config, self.settings, self.sources])[:16]

    @property
    def scale_dir(self) -> Path:
        """The folder of all runs of this experiment at this scale."""
        return self.runs_dir / self.paper / self.experiment / self.scale

    @property
    def dir(self) -> Path:
        """The run's folder."""
        return self.scale_dir / self.key / f"seed{self.seed}"


@dataclass(frozen=True)
class Decision:
    """That a task has to run.

    Attributes:
        reason: what is done and why, in one line, e.g. "running again (force=true)".
        fresh: whether it starts from nothing, without checkpoints and metrics of an earlier attempt.
    """

    reason: str
    fresh: bool = False


def decide(task: Task) -> Decision | None:
    """Decide whether a task has to run; None: its result is there. Nothing is written."""
    record = read_run(task.dir)
    if record is None:
        return Decision(f"running{_changes_since_last(task)}")
    changed = used_files.changes(record["data_files"], data.is_present)
    if record["status"] == "finished":
        if task.force:
            return Decision("running again (force=true)", fresh=True)
        if changed:
            return Decision(f"running again, {'; '.join(changed)}", fresh=True)
        return None if read_result(task.dir) is not None else Decision("running again", fresh=True)
    if changed:
        return Decision(f"starting anew, {'; '.join(changed)}", fresh=True)
    status = f"(status was {record['status']}{': ' + record['error'] if record.get('error') else ''})"
    if not task.resume:
        return Decision(f"starting anew (resume=false) {status}", fresh=True)
    last = last_written(task.dir / "checkpoints")
    return Decision(f"going on {status}{f', from step {last[1]} of stage {last[0]}' if last else ''}")


def read_run(folder: Path) -> dict[str, Any] | None:
    """Return a folder's run.json, or None where there is none or it is damaged (the run is then done again)."""
    return _read(folder / "run.json", _RECORD_KEYS)


def read_result(folder: Path) -> dict[str, Any] | None:
    """Return a folder's result.json, or None where there is none or it is damaged."""
    return _read(folder / "result.json", _RESULT_KEYS)


def _read(path: Path, keys: set[str]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = read_json(path)
    except ValueError as error:
        _LOG.warning("%s", error)
        return None
    if not isinstance(content, dict) or not keys <= content.keys():
        _LOG.warning("%s is damaged and ignored: it lacks %s", path, ", ".join(sorted(keys - set(content))))
        return None
    return content


def _changes_since_last(task: Task) -> str:
    """Say what differs from the newest finished run of this experiment at this scale, whatever its key and seed."""
    records = [read_run(path.parent) for path in task.scale_dir.glob("*/seed*/run.json")]
    finished = [record for record in records if record is not None and record["status"] == "finished"]
    if not finished:
        return ", never finished before"
    last = max(finished, key=lambda record: str(record["ended"]))
    now = {"config": task.config, "sources": task.sources, "settings": task.settings, "code": code_state()}
    changes = [*differences(last, now), *used_files.changes(last["data_files"], data.is_present)]
    shown = "; ".join(changes[:4]) + (f"; and {len(changes) - 4} more" if len(changes) > 4 else "")
    return f", changed since the last finished run: {shown or 'the seed'}"
