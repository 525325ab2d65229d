"""Checkpoints: whole or absent, never unpickled, and the previous one kept until the next is safe."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iclr_repro.core.files import write_atomically

_ARRAY_KEY = "__numpy__"
_NAME = re.compile(r"(?P<step>\d{10})-(?P<digest>[0-9a-f]{16})\.pt")


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write `state` as the checkpoint of `step`, keep the one before it and drop all others.

    What is left of a later step was damaged or is no longer part of the run, which would not be at `step` otherwise.

    The file's name carries the step and the first 16 digits of the SHA-256 of its bytes, so that one rename publishes
    both. Accepted in `state`: tensors, numpy arrays and scalars, numbers, strings, booleans, None, and lists, tuples
    and dicts (keyed by strings or integers) of them. Arrays keep dtype, shape and memory order.

    Raises:
        TypeError: something else is in `state`; the message names the place.
        OSError: the folder cannot be written; earlier checkpoints are untouched.
    """
    buffer = io.BytesIO()
    torch.save(_encode(state, "state"), buffer)
    data = buffer.getbuffer()
    path = folder / f"{step:010d}-{hashlib.sha256(data).hexdigest()[:16]}.pt"
    write_atomically(path, lambda file: file.write(data))
    before = [other for other in _checkpoints(folder) if _parse(other)[0] < step]
    for other in _checkpoints(folder):
        if other not in (path, *before[:1]):
            other.unlink(missing_ok=True)
    return path


def load_checkpoints(folder: Path, log: logging.Logger) -> list[tuple[int, dict[str, Any]]]:
    """Return (step, state) of every intact checkpoint, newest first; a damaged one is named in the log and left out."""
    intact = []
    for path in _checkpoints(folder):
        step, digest = _parse(path)
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest()[:16] != digest:
                raise ValueError("its content does not match the digest in its name")
            intact.append((step, _decode(torch.load(io.BytesIO(data), weights_only=True, map_location="cpu"))))
        except Exception as error:
            # The message of torch explains at length how to load the file all the same.
            reason = "it holds more than plain data" if isinstance(error, pickle.UnpicklingError) else error
            log.warning("checkpoint %s is damaged and ignored (%s)", path, reason)
    return intact


def last_written(folder: Path) -> tuple[str, int] | None:
    """Return the stage written to last and its highest step, from the folder of a run's checkpoints; None: none.

    The run may be alive: files and folders that it removes meanwhile are passed over.
    """
    written = []
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names if _NAME.fullmatch(name)):
            with suppress(FileNotFoundError):
                written.append((path.stat().st_mtime_ns, path))
    if not written:
        return None
    stage = max(written)[1].parent
    return stage.relative_to(folder).as_posix(), max(_parse(path)[0] for _, path in written if path.parent == stage)


def _checkpoints(folder: Path) -> list[Path]:
    """List the checkpoint files of a folder, newest step first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=_parse, reverse=True)


def _parse(path: Path) -> tuple[int, str]:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match["step"]), match["digest"]


def _encode(value: Any, where: str) -> Any:
    """Turn numpy arrays and scalars into bytes in numpy's own format, which the restricted loader of torch accepts.

    Types are compared exactly: a subclass (an enumeration, a named tuple, a masked array) would not come back as one.
    """
    if type(value) is np.ndarray or isinstance(value, np.generic):
        if value.dtype.hasobject:
            raise TypeError(f"{where} is an array of Python objects: a checkpoint holds numbers and text only")
        buffer = io.BytesIO()
        np.save(buffer, value, allow_pickle=False)
        return {
            _ARRAY_KEY: torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8),
            "is_scalar": isinstance(value, np.generic),
        }
    if isinstance(value, dict):
        return {_plain_key(key, where): _encode(item, f"{where}[{key!r}]") for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)([_encode(item, f"{where}[{index}]") for index, item in enumerate(value)])
    if value is None or isinstance(value, torch.Tensor) or type(value) in (bool, int, float, str):
        return value
    raise TypeError(
        f"{where} is a {type(value).__name__}: a checkpoint holds tensors, arrays, numbers, text, lists and dicts only"
    )


def _plain_key(key: Any, where: str) -> Any:
    if type(key) not in (str, int):
        raise TypeError(f"{where} has the key {key!r}: keys must be strings or integers")
    return key


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if _ARRAY_KEY in value:
            array = np.load(io.BytesIO(value[_ARRAY_KEY].numpy().tobytes()), allow_pickle=False)
            return array[()] if value["is_scalar"] else array
        return {key: _decode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_decode(item) for item in value])
    return value
