"""Reading what a report is made of: results documents and ledgers of differences, each checked for its form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

VERDICTS = ("reproduced", "inconclusive", "not reproduced", "not run")
FIDELITIES = {
    "paper": "The method was implemented from the full text of the paper.",
    "code": "The method was implemented after the authors' own code.",
    "reconstruction": "The full text was not available: the method was reconstructed from public sources.",
}

_TEXT = (str, None)
_COUNT = (int, None)
_NUMBER = (int, float, None)
# The form of a results document. A type: an instance of it. A tuple: one of these. A frozenset: one of these words.
# [x]: a list of x. {str: x}: any keys, each with x. {"key": x, ...}: at least these keys, but for those with a "?".
_RESULTS = {
    "schema": int,
    "paper": str,
    "scale": str,
    "title": str,
    "arxiv": _TEXT,
    "venue": _TEXT,
    "fidelity": frozenset(FIDELITIES),
    "fidelity_note": _TEXT,
    "changed": [str],
    "key": str,
    "provenance": {
        "created": _TEXT,
        "command": str,
        "commit": _TEXT,
        "dirty": (bool, None),
        "python": _TEXT,
        "packages": {str: str},
        "hardware": ({"cpu": _TEXT, "cores": _COUNT, "memory_bytes": _COUNT, "device": str, "gpu": _TEXT}, None),
        "seeds": [int],
        "threads": _COUNT,
        "data_files": [{"name": str, "sha256": str, "source": _TEXT, "licence": _TEXT}],
        "wall_s": (int, float),
        "cpu_s": _NUMBER,
        "peak_memory_bytes": _COUNT,
    },
    "claims": [
        {
            "id": str,
            "statement": str,
            "headline": bool,
            "source": _TEXT,
            "paper": (str, int, float, None),
            "measured": (str, int, float, None),
            "interval": ([_NUMBER], None),
            "threshold": _TEXT,
            "verdict": frozenset(VERDICTS),
            "note": _TEXT,
            "parts": [
                {
                    "name": str,
                    "measured": (str, int, float, None),
                    "interval": ([_NUMBER], None),
                    "threshold": str,
                    "verdict": frozenset(VERDICTS),
                }
            ],
            "experiments": [str],
            "command": str,
        }
    ],
    "metrics": {str: {str: {"mean": _NUMBER, "low": _NUMBER, "high": _NUMBER, "seeds": int}}},
    "experiments": {
        str: {
            "status": frozenset({"finished", "failed", "interrupted", "not run"}),
            "data": frozenset({"real", "synthetic", "none"}),
            "wall_s": _NUMBER,
            "error": _TEXT,
            "parameters?": [{"name": str, "value": object, "unit": str, "help": str}],
            "runs": [str],
            "command": str,
        }
    },
}
_DIFFERENCES = [{"id": str, "topic": str}]
_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", None: "null"}

Document = dict[str, Any]


class Problems:
    """What could not be read: one line each, by paper."""

    def __init__(self) -> None:
        self.by_paper: dict[str, list[str]] = {}

    def add(self, paper: str, path: Path, what: str) -> None:
        """Note in one line that `path` could not be used."""
        line = " ".join(f"{path}: {what}".split())
        lines = self.by_paper.setdefault(paper, [])
        if line not in lines:
            lines.append(line)

    def lines(self) -> list[str]:
        """Return all lines, by paper name."""
        return [line for _, lines in sorted(self.by_paper.items()) for line in lines]


def read_results(folder: Path, pattern: str, problems: Problems) -> dict[str, dict[str, Document]]:
    """Read the results documents that match `<paper>/.../<scale>.json` in a folder.

    Returns:
        {paper: {scale: document}}. A document that is not valid is left out and noted in `problems`.
    """
    found: dict[str, dict[str, Document]] = {}
    for path in sorted(folder.glob(pattern)):
        paper = path.relative_to(folder).parts[0]
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            check_form(document, _RESULTS, "the document")
            for key, expected in (("schema", 1), ("paper", paper), ("scale", path.stem)):
                if document[key] != expected:
                    raise ValueError(f"{key} is {document[key]!r}, expected {expected!r}")
        except (OSError, ValueError) as error:
            problems.add(paper, path, f"not a readable results document ({error}); run the paper again to replace it")
        else:
            found.setdefault(paper, {})[path.stem] = document
    return found


def status_of(document: Document) -> str:
    """Say how a paper ended: as its worst experiment, how many finished where not all did, and what was changed."""
    statuses = [entry["status"] for entry in document["experiments"].values()]
    worst = next((word for word in ("failed", "interrupted", "not run") if word in statuses), "finished")
    if worst == "not run" and "finished" in statuses:
        worst = "partly run"
    finished = "" if worst == "finished" else f" ({statuses.count('finished')} of {len(statuses)} finished)"
    changed = f", with {' '.join(document['changed'])}" if document["changed"] else ""
    return f"{worst}{finished}{changed}"


def verdict_counts(document: Document) -> dict[str, int]:
    """Count the claims with each verdict."""
    verdicts = [claim["verdict"] for claim in document["claims"]]
    return {verdict: verdicts.count(verdict) for verdict in VERDICTS}


def data_kind(document: Document) -> str:
    """Say what the finished experiments were measured on: "real", "generated", "mixed" or "none"."""
    finished = [entry for entry in document["experiments"].values() if entry["status"] == "finished"]
    kinds = {entry["data"] for entry in finished} - {"none"}
    return "mixed" if len(kinds) > 1 else {"real": "real", "synthetic": "generated"}.get("".join(kinds), "none")


def read_differences(path: Path, paper: str, problems: Problems) -> list[dict[str, Any]]:
    """Read a ledger `differences.yaml`; a missing one is empty, an invalid one is noted in `problems`."""
    if not path.is_file():
        return []
    try:
        ledger: list[dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
        check_form(ledger, _DIFFERENCES, "the list")
    except (OSError, ValueError, yaml.YAMLError) as error:
        problems.add(paper, path, f"not a readable list of differences ({error})")
        return []
    return ledger


def check_form(value: Any, form: Any, where: str) -> None:
    """Compare a JSON value with a form (see _RESULTS).

    Raises:
        ValueError: it does not fit; the message names the first place, e.g. "claims[2].verdict is 'yes', expected ...".
    """
    if isinstance(form, tuple):
        if not any(_fits(value, one) for one in form):
            raise ValueError(f"{where} is {value!r:.60}, expected {' or '.join(map(_describe, form))}")
    elif not _fits_outside(value, form):
        raise ValueError(f"{where} is {value!r:.60}, expected {_describe(form)}")
    elif isinstance(form, list):
        for position, item in enumerate(value):
            check_form(item, form[0], f"{where}[{position}]")
    elif isinstance(form, dict):
        for key, part in (dict.fromkeys(value, form[str]) if str in form else form).items():
            name = key if str in form else key.removesuffix("?")
            if name in value:
                check_form(value[name], part, f"{where}.{name}".removeprefix("the document."))
            elif name == key:
                raise ValueError(f"{where} has no {name!r}")


def _fits(value: Any, form: Any) -> bool:
    try:
        check_form(value, form, "")
    except ValueError:
        return False
    return True


def _fits_outside(value: Any, form: Any) -> bool:
    """Tell whether the kind of the value is right, without its items."""
    if isinstance(form, frozenset):
        return isinstance(value, str) and value in form
    if isinstance(form, type):
        return isinstance(value, form) and (form in (bool, object) or not isinstance(value, bool))
    return value is None if form is None else isinstance(value, type(form))


def _describe(form: Any) -> str:
    if isinstance(form, frozenset):
        return "one of " + ", ".join(sorted(form))
    if isinstance(form, (list, dict)):
        return "a list" if isinstance(form, list) else "an object"
    return _NAMES[form]
