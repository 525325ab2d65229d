"""Real data files: found on this machine or fetched from their public source, intact or not at all.

What each paper needs stands in its catalogue (`core.catalogue`). Nothing is used or kept that fails its checks.

The environment says where files are: `ICLR_REPRO_DATA` (folders with one sub-folder a paper, separated as in `PATH`;
where it is not set, the folder `shared/data` beside a checkout),
`ICLR_REPRO_CACHE` (instead of the user's cache folder), `ICLR_REPRO_OFFLINE=1` (never download).
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib
import io
import logging
import os
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

import platformdirs
import pooch
import requests

from iclr_repro.core.catalogue import CatalogueEntry, Original, find
from iclr_repro.core.catalogue import DataError as DataError
from iclr_repro.core.files import sha256_of_file, write_atomically
from iclr_repro.core.resources import checkout_dir
from iclr_repro.core.used_files import note
from iclr_repro.core.used_files import note_file as note_file

_TIMEOUT_S = 30
_NOT_KEPT = "Nothing was kept. The download was damaged or the source has changed: try again."
_LOG = logging.getLogger("iclr_repro")

DataChoice = Literal["auto", "real", "synthetic"]
DATA_CHOICE = "real data, generated (synthetic) ones, or auto: generated ones, with a warning, where real are missing"

T = TypeVar("T")


class MissingDataError(DataError):
    """A data file is nowhere on this machine and cannot be had from its source now; nothing is damaged."""


def locate(name: str, *, download: bool = True) -> Path:
    """Return the path of an intact data file, downloading and preparing it if need be.

    The first copy found counts: in the folders of `ICLR_REPRO_DATA` in their order, then in the cache. A damaged copy
    is an error, never skipped. A file that is nowhere goes from its public source into the cache.

    Args:
        name: "paper/file", for example "review_insights/iclr2021_snapshots.csv.gz".
        download: False never touches the network.

    Raises:
        MissingDataError: there is no copy here, and none could be downloaded.
        DataError: no such name, a damaged copy, a source that changed, or a cache that cannot be written.
    """
    entry = find(name)
    try:
        path = _located(entry, download=download)
    except MissingDataError:
        _note_use(entry, None)
        raise
    _note_use(entry, path)
    return path


def is_present(name: str) -> bool:
    """Tell whether a data file is on this machine, intact or not; never downloads."""
    entry = find(name)
    return any(entry.path_in(folder).is_file() for folder in (*data_folders(), cache_folder()))


def real_or_synthetic(
    choice: DataChoice, real: Callable[[], T], synthetic: Callable[[], T]
) -> tuple[T, Literal["real", "synthetic"]]:
    """Load the real data or generate some, as an experiment's field `data` says, and tell which it was.

    Args:
        choice: "real", "synthetic", or "auto": real data where they are or can be had, otherwise synthetic ones with a
            warning.
        real: loads; raises MissingDataError where a file is nowhere to be had.
        synthetic: generates.

    Raises:
        MissingDataError: `choice` is "real" and there are none.
        DataError: a file is damaged; that is never passed over.
    """
    if choice == "synthetic":
        return synthetic(), "synthetic"
    try:
        return real(), "real"
    except MissingDataError as error:
        if choice == "real":
            raise
        _LOG.warning("SYNTHETIC DATA are used, claims about real data are not judged: %s", error)
        return synthetic(), "synthetic"


def _note_use(entry: CatalogueEntry, path: Path | None) -> None:
    """Note that a file was found at `path`, or that it is missing."""
    # A copy that another compressor made has a hash of its own.
    sha256 = sha256_of_file(path) if path is not None and entry.content_sha256 is not None else entry.sha256
    note(name=entry.key, sha256=sha256, source=entry.source, licence=entry.licence, missing=path is None)


def _located(entry: CatalogueEntry, *, download: bool) -> Path:
    folders = data_folders()
    for folder in (*folders, cache_folder()):
        path = entry.path_in(folder)
        if has_intact_copy(path, entry):
            return path
    obstacle = _obstacle(entry) or (None if download else "the caller allows no download")
    if obstacle is None:
        return fetch(entry, cache_folder())
    searched = ", ".join(f"{folder}{'' if folder.is_dir() else ' (no such folder)'}" for folder in folders)
    raise MissingDataError(
        f"{entry.key} is neither in ICLR_REPRO_DATA ({searched or 'not set'}) nor in the cache ({cache_folder()}), "
        f"and {obstacle}. {_by_hand(entry, cache_folder())}"
    )


def fetch(entry: CatalogueEntry, folder: Path) -> Path:
    """Download the originals of a file, prepare it, check it and put it at `folder/paper/name`.

    Everything happens in memory; the finished file appears at once or not at all, also when several processes fetch it
    or the user interrupts.

    Raises:
        MissingDataError: the catalogue gives no download, or the network or the source failed.
        DataError: the source has changed, or the folder cannot be written.
    """
    if obstacle := _obstacle(entry):
        raise MissingDataError(f"{entry.key} cannot be fetched: {obstacle}. {_by_hand(entry, folder)}")
    data = _prepare(entry, [_download(original, entry, folder) for original in entry.originals])
    if problem := _problem(data, entry):
        raise DataError(
            f"{entry.key} as made from {_addresses(entry)} is not the file of the catalogue: {problem}. "
            f"{_NOT_KEPT} {_by_hand(entry, folder)}"
        )
    path = entry.path_in(folder)
    try:
        write_atomically(path, lambda file: file.write(data))
    except OSError as error:
        raise DataError(
            f"{entry.key} ({len(data):,} bytes) cannot be written to {path.parent}: {error.strerror or error}. "
            "Make room or give access there, or set ICLR_REPRO_CACHE to another folder"
        ) from error
    return path


def has_intact_copy(path: Path, entry: CatalogueEntry) -> bool:
    """Tell whether a file is there; if it is, compare it with its catalogue entry (an unchanged file only once).

    Raises:
        DataError: the file cannot be read or is not what the catalogue says.
    """
    try:
        status = path.stat()
        problem = _problem_of_file(path, status.st_mtime_ns, status.st_size, entry)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise DataError(
            f"{entry.key}: {path} cannot be read: {error.strerror or error}. Give access to it, or remove it"
        ) from error
    if problem:
        again = " (it is then downloaded again)" if entry.originals else ""
        raise DataError(
            f"{entry.key}: {path} is not the file of the catalogue: {problem}. Delete it{again}, or replace it by an "
            f"intact copy. Public source: {entry.source}"
        )
    return True


def data_folders() -> list[Path]:
    """Return the folders of `ICLR_REPRO_DATA` in their order; unset, `shared/data` beside a checkout if it is there."""
    if "ICLR_REPRO_DATA" not in os.environ:
        beside = [root.parent / "shared" / "data"] if (root := checkout_dir()) is not None else []
        return [folder for folder in beside if folder.is_dir()]
    listed = os.environ["ICLR_REPRO_DATA"].split(os.pathsep)
    return [Path(folder).expanduser().absolute() for folder in listed if folder]


def cache_folder() -> Path:
    """Return the folder that downloads go to: `ICLR_REPRO_CACHE/data`, or `data` in the user's cache folder."""
    root = os.environ.get("ICLR_REPRO_CACHE") or platformdirs.user_cache_dir("iclr_repro", appauthor=False)
    return Path(root).expanduser().absolute() / "data"


def _download(original: Original, entry: CatalogueEntry, folder: Path) -> bytes:
    """Return the bytes of an original, checked against its SHA-256 where that is known."""
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=2**16, timeout=_TIMEOUT_S)
    received = io.BytesIO()
    try:
        downloader(original.url, received, None)
    except requests.RequestException as error:
        raise MissingDataError(
            f"{entry.key} could not be downloaded: {_reason(error)}, {original.url}. "
            f"Check the network and run the command again. {_by_hand(entry, folder)}"
        ) from error
    data = received.getvalue()
    found = hashlib.sha256(data).hexdigest()
    if original.sha256 not in (None, found):
        raise DataError(
            f"{entry.key} could not be made: {original.url} gave {len(data):,} bytes with sha256 {found}, expected "
            f"sha256 {original.sha256}. {_NOT_KEPT} {_by_hand(entry, folder)}"
        )
    return data


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, requests.ConnectionError | requests.Timeout):
        return f"no connection ({type(error).__name__})"
    return str(error)


def _prepare(entry: CatalogueEntry, originals: list[bytes]) -> bytes:
    """Make the file from its originals. The recipe is found by its name: the core imports no paper."""
    if entry.prepare is None:
        return originals[0]
    module = importlib.import_module(f"iclr_repro.{entry.paper}.prepare")
    recipe = getattr(module, entry.prepare)
    try:
        content: bytes = recipe(*originals)
    except Exception as error:  # whatever a recipe stumbles over, its original is not the one it was written for
        raise DataError(
            f"{entry.key} could not be made from {_addresses(entry)}: {type(error).__name__}: {error}. {_NOT_KEPT}"
        ) from error
    return gzip.compress(content, mtime=0) if entry.name.endswith(".gz") else content


@functools.cache
def _problem_of_file(path: Path, mtime_ns: int, size: int, entry: CatalogueEntry) -> str | None:
    """`_problem` of a file, remembered as long as its time stamp and size stay."""
    return _problem(path.read_bytes(), entry)


def _problem(data: bytes, entry: CatalogueEntry) -> str | None:
    """Say in what way the bytes are not those of the entry; None if they are, or have the same content compressed."""
    found = hashlib.sha256(data).hexdigest()
    if len(data) == entry.bytes and found == entry.sha256:
        return None
    problem = (
        f"expected {entry.bytes:,} bytes with sha256 {entry.sha256}, found {len(data):,} bytes with sha256 {found}"
    )
    if len(data) < entry.bytes:
        problem = f"it seems cut short, {problem}"
    if entry.content_sha256 is None:
        return problem
    try:
        content = hashlib.sha256(gzip.decompress(data)).hexdigest()
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return f"{problem}; it is no complete gzip file"
    if content == entry.content_sha256:
        return None
    return f"{problem}; decompressed, expected sha256 {entry.content_sha256}, found {content}"


def _obstacle(entry: CatalogueEntry) -> str | None:
    if not entry.originals:
        return "it has no automatic download"
    if os.environ.get("ICLR_REPRO_OFFLINE", "") not in ("", "0"):
        return "ICLR_REPRO_OFFLINE forbids the download"
    return None


def _by_hand(entry: CatalogueEntry, folder: Path) -> str:
    return (
        f"Public source: {entry.source} (licence: {entry.licence}). A copy belongs at {entry.path_in(folder)}, or at "
        f"{entry.key} in a folder that ICLR_REPRO_DATA lists"
    )


def _addresses(entry: CatalogueEntry) -> str:
    return " and ".join(original.url for original in entry.originals)
