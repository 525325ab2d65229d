"""Which data files a run used: noted where found, collected by the run, compared before a result is trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from iclr_repro.core.files import sha256_of_file

_Note = dict[str, Any]

_collector: ContextVar[Callable[[_Note], None] | None] = ContextVar("collector", default=None)


def note_file(path: Path) -> Path:
    """Note a user's own file (one that no catalogue lists) with its hash, and return its path.

    Raises:
        OSError: it cannot be read.
    """
    note(name=str(path.resolve()), sha256=sha256_of_file(path), source="given by the user", licence="not stated")
    return path


def note(*, name: str, sha256: str, source: str, licence: str, missing: bool = False) -> None:
    """Note the use of a file in the run that is going on, if any; `missing`: it was wanted and not there."""
    collect = _collector.get()
    if collect is not None:
        collect({"name": name, "sha256": sha256, "source": source, "licence": licence, "missing": missing})


@contextmanager
def recording(changed: Callable[[Sequence[_Note]], None] | None = None) -> Iterator[list[_Note]]:
    """Collect the files noted inside the block, each once.

    Args:
        changed: called with the list whenever it has grown.

    Yields:
        The list, which fills up.
    """
    used: list[_Note] = []

    def collect(entry: _Note) -> None:
        if entry["name"] not in [noted["name"] for noted in used]:
            used.append(entry)
            if changed is not None:
                changed(used)

    token = _collector.set(collect)
    try:
        yield used
    finally:
        _collector.reset(token)


def changes(used: Sequence[Mapping[str, Any]], is_present: Callable[[str], bool]) -> list[str]:
    """Say which of the files that a run used are not as they were.

    Args:
        used: the notes of the run.
        is_present: tells whether a catalogued file is on this machine.
    """
    found = []
    for entry in used:
        if entry["missing"]:
            if is_present(entry["name"]):
                found.append(f"data file {entry['name']} is there now")
        elif Path(entry["name"]).is_absolute():  # a user's own; catalogued ones cannot change under one key
            path = Path(entry["name"])
            if not path.is_file():
                found.append(f"data file {path} is gone")
            elif sha256_of_file(path) != entry["sha256"]:
                found.append(f"data file {path} has changed")
    return found
