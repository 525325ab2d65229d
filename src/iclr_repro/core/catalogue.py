"""The catalogue of real data files: what each paper needs, where it comes from, and how it is known to be intact.

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
originals to the content of the file, before compression.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

_PACKAGE = Path(__file__).parents[1]
_CATALOGUE = "data.toml"
_SHA256 = re.compile("[0-9a-f]{64}")


class DataError(RuntimeError):
    """A data file is missing, damaged or cannot be stored; the message names the file, the reason and the remedy."""


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


def _nearest(name: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {matches[0]!r}?" if matches else ""
