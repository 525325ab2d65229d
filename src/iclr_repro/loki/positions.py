"""Row positions in the authors' interchange format, and suppressing rows.

The format: a JSON list with a list of row indices for each layer, in any order (the authors': by frequency).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from iclr_repro.core.files import write_atomically
from iclr_repro.loki.decoder import check_positions, dense_rows, down_projections
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


@contextmanager
def suppress_rows(model: nn.Module, positions: Sequence[Sequence[int]]) -> Iterator[None]:
    """Set rows of the down projections to zero while the context lasts, then put them back bit for bit.

    A bias is left as it is, as in the authors' code. To suppress rows for good, leave the context open or copy the
    weights inside it.

    Raises:
        ValueError: the positions do not fit the model; see `check_positions`.
    """
    projections = down_projections(model)
    check_positions(positions, [projection.num_rows for projection in projections])
    kept = []
    with torch.no_grad():
        for projection, rows in zip(projections, positions, strict=True):
            weight = dense_rows(projection.module)
            index = torch.tensor(list(rows), dtype=torch.int64, device=weight.device)
            kept.append((weight, index, weight[index].clone()))
            weight[index] = 0.0
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, index, old in kept:
                weight[index] = old
