"""Mulan's multi-label files: ARFF, dense or sparse, with the label columns named by an XML header."""

from __future__ import annotations

import csv
import gzip
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np

from iclr_repro.core.data import DataError

_ATTRIBUTE = re.compile(
    r"""@attribute\s+('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\S+)\s+(\{.*\}|\S+)\s*$""",
    re.IGNORECASE,
)
_NUMBERS = {"numeric", "real", "integer"}


def read_arff(arff: Path, xml: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Return features [n, d] float32, labels [n, m] uint8, the features' names and the labels' names.

    Labels are the columns that the XML header names, in its order, wherever they stand. Nominal values become their
    places in the declaration, unless they are numbers. Sparse rows, {index value, ...}, index all columns from 0.
    Files may be compressed (.gz).

    Raises:
        DataError: a line cannot be read, a label is no column or not binary, or a value is missing.
    """
    names: list[str] = []
    values: list[dict[str, float] | None] = []
    lines = iter(enumerate(_text(arff).splitlines(), start=1))
    for number, line in lines:
        stripped = line.strip()
        if stripped.lower() == "@data":
            break
        if stripped.lower().startswith("@attribute"):
            found = _ATTRIBUTE.match(stripped)
            if found is None:
                raise DataError(f"{arff}, line {number}: cannot read the attribute {stripped!r}")
            names.append(_unquoted(found[1]))
            values.append(_declared(found[2], arff, number))
    else:
        raise DataError(f"{arff}: there is no @data line")
    rows = [
        _row(line.strip(), values, arff, number)
        for number, line in lines
        if line.strip() and not line.lstrip().startswith("%")
    ]
    table = np.stack(rows) if rows else np.empty((0, len(names)))
    columns = {name: column for column, name in enumerate(names)}
    labels = _label_names(xml)
    if absent := [label for label in labels if label not in columns]:
        raise DataError(f"{xml}: the labels {absent[:3]} are no attributes of {arff}")
    label_columns = [columns[label] for label in labels]
    y = table[:, label_columns]
    if not np.isin(y, (0, 1)).all():
        raise DataError(f"{arff}: a label is {y[~np.isin(y, (0, 1))][0]:g}, expected 0 or 1")
    feature_columns = np.setdiff1d(np.arange(len(names)), label_columns)
    feature_names = tuple(names[column] for column in feature_columns)
    return table[:, feature_columns].astype(np.float32), y.astype(np.uint8), feature_names, labels


def _text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")


def _label_names(xml: Path) -> tuple[str, ...]:
    try:
        root = ET.fromstring(_text(xml))
    except ET.ParseError as error:
        raise DataError(f"{xml}: no XML ({error})") from error
    found = tuple(element.attrib["name"] for element in root.iter() if element.tag.rpartition("}")[2] == "label")
    if not found:
        raise DataError(f"{xml}: names no label")
    return found


def _unquoted(text: str) -> str:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


def _fields(text: str) -> list[str]:
    quote = '"' if '"' in text else "'"
    found = next(csv.reader([text], quotechar=quote, escapechar="\\", skipinitialspace=True), [])
    return [_unquoted(field) for field in found]


def _declared(kind: str, arff: Path, number: int) -> dict[str, float] | None:
    """Return the values of a nominal attribute, or None for a number."""
    if kind.startswith("{"):
        names = _fields(kind[1:-1])
        try:
            return {name: float(name) for name in names}
        except ValueError:
            return {name: float(place) for place, name in enumerate(names)}
    if kind.lower() not in _NUMBERS:
        raise DataError(
            f"{arff}, line {number}: attributes of type {kind!r} are not supported, expected numbers or {{}}"
        )
    return None


def _row(line: str, values: list[dict[str, float] | None], arff: Path, number: int) -> np.ndarray:
    where = f"{arff}, line {number}"
    try:
        if line.startswith("{"):
            row = np.zeros(len(values))
            for entry in _fields(line.strip("{} ")):
                index, _, value = entry.partition(" ")
                row[int(index)] = _number(_unquoted(value), values[int(index)])
            return row
        fields = _fields(line)
        if len(fields) != len(values):
            raise DataError(f"{where}: got {len(fields)} values, expected {len(values)}")
        return np.array([_number(field, kind) for field, kind in zip(fields, values, strict=True)])
    except (ValueError, KeyError, IndexError) as error:
        raise DataError(f"{where}: cannot read it ({type(error).__name__}: {error})") from error


def _number(text: str, declared: dict[str, float] | None) -> float:
    return float(text) if declared is None else declared[text]
