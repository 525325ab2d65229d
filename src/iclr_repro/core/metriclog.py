"""metrics.jsonl: one line a logged step, written as it happens, cut back to the checkpoint on resume."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal, TypedDict

from iclr_repro.core.files import write_text

Kind = Literal["train", "evaluate"]


class Record(TypedDict):
    """One line of metrics.jsonl."""

    stage: str
    kind: Kind
    step: int
    metrics: dict[str, float]


class MetricLog:
    """The metrics of a run in the order of their arrival, on disk (unless `path` is None) and in memory."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._records: list[Record] = list(_read(path)) if path is not None and path.is_file() else []
        self._file: IO[str] | None = None

    def records(self, stage: str) -> list[Record]:
        """Return the records of one stage."""
        return [record for record in self._records if record["stage"] == stage]

    def append(self, stage: str, kind: Kind, step: int, metrics: Mapping[str, float]) -> Record:
        """Add a line; it is on disk for certain after the next `flush`."""
        record = Record(stage=stage, kind=kind, step=step, metrics=dict(metrics))
        if self._path is not None:
            if self._file is None:
                self.cut(None, 0)  # drops a last line that is not whole
                self._file = self._path.open("a", encoding="utf-8", buffering=1)
            self._file.write(_line(record))
        self._records.append(record)
        return record

    def cut(self, stage: str | None, num_kept: int) -> None:
        """Keep the first `num_kept` records of `stage` and all of the other stages; rewrites the file, atomically."""
        self.close()
        kept: list[Record] = []
        for record in self._records:
            if record["stage"] == stage:
                if num_kept == 0:
                    continue
                num_kept -= 1
            kept.append(record)
        self._records = kept
        if self._path is not None:
            write_text(self._path, "".join(map(_line, kept)))

    def flush(self) -> None:
        """Force the lines written so far to disk."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and close the file; the log can still be read, and appending opens it again."""
        if self._file is not None:
            self.flush()
            self._file.close()
            self._file = None


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def _read(path: Path) -> Iterator[Record]:
    """Yield the records up to the first line that a crash or a full disk left incomplete."""
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            record: Any = json.loads(line)
        except json.JSONDecodeError:
            return
        if not isinstance(record, dict) or record.keys() != Record.__annotations__.keys():
            return
        yield Record(**record)  # type: ignore[typeddict-item]
