"""Row positions in the authors' interchange format.

The format: a JSON list with a list of row indices for each layer, in any order (the authors': by frequency).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

from iclr_repro.core.files import write_atomically
from iclr_repro.loki.selection import Positions


def load_positions(path: str | Path) -> Positions:
    """Read row positions, as the authors' code writes them; a name ending in .gz is decompressed.

    Raises:
        ValueError: the file is no list of lists of whole numbers; the message names it.
    """
    data = Path(path).read_bytes()
    try:
        positions = json.loads(gzip.decompress(data) if str(path).endswith(".gz") else data)
    except (json.JSONDecodeError, UnicodeDecodeError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): expected a list of row lists, one a layer") from error
    if not (isinstance(positions, list) and all(isinstance(rows, list) for rows in positions)):
        raise ValueError(f"{path} holds no list of lists: expected [[rows of layer 0], [rows of layer 1], ...]")
    strange = [row for rows in positions for row in rows if type(row) is not int]
    if strange:
        raise ValueError(f"{path} has {strange[0]!r} among the rows: expected whole numbers")
    return positions


def save_positions(path: str | Path, positions: Sequence[Sequence[int]]) -> None:
    """Write row positions so that `load_positions` and the authors' code can read them (.gz: compressed)."""
    data = json.dumps([[int(row) for row in rows] for rows in positions]).encode()
    if str(path).endswith(".gz"):
        data = gzip.compress(data, mtime=0)
    write_atomically(Path(path), lambda file: file.write(data))
