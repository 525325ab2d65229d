"""Real data files: what each paper needs, where it comes from, and how to get it intact.

Each paper lists its files in `iclr_repro/<paper>/data.toml`:

    [[file]]
    name = "iclr2021_snapshots.csv.gz"      # path inside the paper's data folder, "/" between its parts
    sha256 = "c9d89725..."                  # of the file, 64 hexadecimal digits
    bytes = 42194
    licence = "not stated"                  # as its source states it
    source = "github.com/..., ratings.tsv"  # the public place, in words: repository, path, commit
    content_sha256 = "9f4e8285..."          # optional, .gz only: of the decompressed bytes, which do not depend
                                            # on the compressor; a file with this content is accepted as well
    [file.download]                         # optional: how to make the file from public originals
    raw = [{ url = "https://...", sha256 = "..." }]   # in the order of the recipe; sha256 where it is known
    prepare = "iclr2021_snapshots"          # the recipe; without one the only original is the file itself

A recipe is a function in `iclr_repro/<paper>/prepare.py` (so that an installed package has it) from the bytes of the
originals to the content of the file, before compression. Nothing is used or kept that fails its checks.

The environment says where files are: `ICLR_REPRO_DATA` (folders with one sub-folder a paper, separated as in `PATH`;
where it is not set, the folder `shared/data` beside a checkout),
`ICLR_REPRO_CACHE` (instead of the user's cache folder), `ICLR_REPRO_OFFLINE=1` (never download).
"""

from __future__ import annotations

import difflib
import functools
import gzip
import hashlib
import importlib
import io
import logging
import os
import re
import sys
import tomllib
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

import platformdirs
import pooch
import requests

from iclr_repro.core.files import sha256_of_file, write_atomically
from iclr_repro.core.resources import checkout_dir
from iclr_repro.core.used_files import note
from iclr_repro.core.used_files import note_file as note_file

_PACKAGE = Path(__file__).parents[1]
_CATALOGUE = "data.toml"
_TIMEOUT_S = 30
_NOT_KEPT = "Nothing was kept. The download was damaged or the source has changed: try again."
_SHA256 = re.compile("[0-9a-f]{64}")
_LOG = logging.getLogger("iclr_repro")

DataChoice = Literal["auto", "real", "synthetic"]
DATA_CHOICE = "real data, generated (synthetic) ones, or auto: generated ones, with a warning, where real are missing"

T = TypeVar("T")


class DataError(RuntimeError):
    """A data file is missing, damaged or cannot be stored; the message names the file, the reason and the remedy."""


class MissingDataError(DataError):
    """A data file is nowhere on this machine and cannot be had from its source now; nothing is damaged."""


@dataclass(frozen=True)
class Original:
    """A public file that a data file is made from: its address, and its SHA-256 where that is known."""

    url: str
    sha256: str | None = None


@dataclass(frozen=True)
class CatalogueEntry:
    """One data file of one paper.

    The module's docstring explains the fields; `originals` and `prepare` are its table `download`, and without
    originals there is no automatic download.
    """

    paper: str
    name: str
    sha256: str
    bytes: int
    licence: str
    source: str
    content_sha256: str | None = None
    originals: tuple[Original, ...] = ()
    prepare: str | None = None

    @property
    def key(self) -> str:
        """The name that `locate` takes, "paper/name"."""
        return f"{self.paper}/{self.name}"

    def path_in(self, folder: Path) -> Path:
        """Where a data folder keeps the file."""
        return folder / self.paper / self.name


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


def find(name: str) -> CatalogueEntry:
    """Return the catalogue entry of "paper/file".

    Raises:
        DataError: there is none; the message gives the nearest name and all that exist.
    """
    paper, slash, file = name.partition("/")
    if not slash:
        raise DataError(f"{name!r} names no data file: expected 'paper/file'; papers: {', '.join(catalogued_papers())}")
    entries = catalogue(paper)
    if file not in entries:
        raise DataError(f"{paper} has no data file {file!r}{_nearest(file, entries)}; files: {', '.join(entries)}")
    return entries[file]


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


def catalogued_papers() -> list[str]:
    """Return the papers that have a catalogue, sorted."""
    return sorted(path.parent.name for path in _PACKAGE.glob(f"*/{_CATALOGUE}"))


def catalogue(paper: str) -> dict[str, CatalogueEntry]:
    """Read a paper's catalogue: file name -> entry, in the order of the file.

    Raises:
        DataError: the paper has no catalogue, or the catalogue is malformed.
    """
    papers = catalogued_papers()
    if paper not in papers:
        raise DataError(f"no data catalogue of a paper {paper!r}{_nearest(paper, papers)}; papers: {', '.join(papers)}")
    return read_catalogue(_PACKAGE / paper / _CATALOGUE)


def read_catalogue(path: Path) -> dict[str, CatalogueEntry]:
    """Read and validate a catalogue file; the paper is the name of its folder.

    Raises:
        DataError: it is not TOML, a key is unknown, missing or of a wrong form, or two entries have one name.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path} is not valid TOML: {error}") from error
    _require_keys(document, str(path), required={"file": list})
    entries: dict[str, CatalogueEntry] = {}
    for position, table in enumerate(document["file"], start=1):
        entry = _read_entry(table, path.parent.name, f"{path}, file {position}")
        if entry.name in entries:
            raise DataError(f"{path}, file {position}: the name {entry.name!r} is there twice")
        entries[entry.name] = entry
    return entries


def _read_entry(table: Any, paper: str, where: str) -> CatalogueEntry:
    _require_keys(
        table,
        where,
        required={"name": str, "sha256": str, "bytes": int, "licence": str, "source": str},
        optional={"content_sha256": str, "download": dict},
    )
    where = f"{where} ({table['name']})"
    path = PurePosixPath(table["name"])
    if path.is_absolute() or str(path) != table["name"] or ".." in path.parts or "\\" in table["name"]:
        raise DataError(f"{where}: name must be a plain path inside the paper's folder, like 'sub/file.csv.gz'")
    if table["bytes"] <= 0:
        raise DataError(f"{where}: bytes is {table['bytes']}, expected the size of the file")
    for key in ("licence", "source"):
        if not table[key].strip():
            raise DataError(f"{where}: {key} is empty, expected words (a licence that is not given is 'not stated')")
    _require_sha256(table, where)
    if "content_sha256" in table and path.suffix != ".gz":
        raise DataError(f"{where}: content_sha256 is for .gz files only")
    fields = {key: value for key, value in table.items() if key != "download"}
    if "download" in table:
        fields |= _read_download(table["download"], f"{where}, download")
    return CatalogueEntry(paper=paper, **fields)


def _read_download(table: Any, where: str) -> dict[str, Any]:
    _require_keys(table, where, required={"raw": list}, optional={"prepare": str})
    for original in table["raw"]:
        _require_keys(original, f"{where}, raw", required={"url": str}, optional={"sha256": str})
        _require_sha256(original, f"{where}, raw")
        if not original["url"].startswith(("https://", "http://")):
            raise DataError(f"{where}: url is {original['url']!r}, expected https://...")
    if not table["raw"] or (len(table["raw"]) > 1 and "prepare" not in table):
        raise DataError(f"{where}: raw lists {len(table['raw'])} originals, expected one, or several with a recipe")
    return {"originals": tuple(Original(**original) for original in table["raw"]), "prepare": table.get("prepare")}


def _require_keys(
    table: Any, where: str, *, required: Mapping[str, type], optional: Mapping[str, type] | None = None
) -> None:
    """Refuse a table with an unknown or missing key, or with a value of a wrong type."""
    known = {**required, **(optional or {})}
    if not isinstance(table, dict):
        raise DataError(f"{where}: expected a table with the keys {', '.join(known)}, got {table!r}")
    for key, value in table.items():
        if key not in known:
            raise DataError(f"{where}: unknown key {key!r}{_nearest(key, known)}; keys: {', '.join(known)}")
        if type(value) is not known[key]:  # not isinstance: a bool is an int
            raise DataError(f"{where}: {key} is {value!r}, expected {known[key].__name__}")
    if missing := [key for key in required if key not in table]:
        raise DataError(f"{where}: missing {', '.join(missing)}")


def _require_sha256(table: Mapping[str, Any], where: str) -> None:
    for key in ("sha256", "content_sha256"):
        if key in table and not _SHA256.fullmatch(table[key]):
            raise DataError(f"{where}: {key} is {table[key]!r}, expected 64 hexadecimal digits in lower case")


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


def _nearest(name: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {matches[0]!r}?" if matches else ""
