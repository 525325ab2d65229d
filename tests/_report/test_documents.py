from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from iclr_repro._report.documents import VERDICTS, Problems, check_form, read_differences
from iclr_repro.core import claims

FORM = {
    "name": str,
    "note": (str, None),
    "dirty": bool,
    "verdict": frozenset({"yes", "no"}),
    "interval": ([(int, float)], None),
    "rows": [{"n": int}],
    "metrics": {str: {"mean": (int, float)}},
}
GOOD: dict[str, Any] = {
    "name": "a",
    "note": None,
    "dirty": False,
    "verdict": "yes",
    "interval": [0, 1.5],
    "rows": [{"n": 1}, {"n": 2}],
    "metrics": {"loss": {"mean": 0.5}},
    "more": "other keys are allowed",
}


@pytest.mark.parametrize("change", [{}, {"note": "text"}, {"interval": None}, {"rows": []}, {"metrics": {}}])
def test_a_value_of_the_form_passes(change: dict[str, Any]) -> None:
    check_form(GOOD | change, FORM, "the document")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, "name is 3, expected text"),
        ({"note": 3}, "note is 3, expected text or null"),
        ({"dirty": 0}, "dirty is 0, expected true or false"),
        ({"verdict": "maybe"}, "verdict is 'maybe', expected one of no, yes"),
        ({"verdict": ["yes"]}, r"verdict is \['yes'\], expected one of no, yes"),
        ({"interval": [0, "x"]}, r"interval is \[0, 'x'\], expected a list or null"),
        ({"rows": {}}, r"rows is {}, expected a list"),
        ({"rows": [{"n": 1}, {"n": True}]}, r"rows\[1\].n is True, expected a whole number"),
        ({"rows": [{"m": 1}]}, r"rows\[0\] has no 'n'"),
        ({"metrics": {"loss": 0.5}}, "metrics.loss is 0.5, expected an object"),
        ({"metrics": {"loss": {"mean": None}}}, "metrics.loss.mean is None, expected a whole number or a number"),
    ],
)
def test_the_first_misfit_is_named_with_what_was_expected(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_form(GOOD | change, FORM, "the document")


def test_a_document_that_is_no_object_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^the document is \[\], expected an object$"):
        check_form([], FORM, "the document")


def test_verdicts_are_those_of_the_claims() -> None:
    assert VERDICTS == claims.VERDICTS


def test_a_problem_is_one_line_and_is_told_once() -> None:
    problems = Problems()
    problems.add("b", Path("runs/b.json"), "broken\n  at line 1")
    problems.add("b", Path("runs/b.json"), "broken\n  at line 1")
    problems.add("a", Path("runs/a.json"), "empty")
    assert problems.lines() == ["runs/a.json: empty", "runs/b.json: broken at line 1"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("D1: topic\n", "the list is {'D1': 'topic'}, expected a list"),
        ("- {id: D1}\n", "the list[0] has no 'topic'"),
        ("- [\n", "while parsing"),
    ],
)
def test_a_ledger_of_another_form_is_named(tmp_path: Path, content: str, reason: str) -> None:
    ledger = tmp_path / "differences.yaml"
    ledger.write_text(content)
    problems = Problems()
    assert read_differences(ledger, "loki", problems) == []
    (line,) = problems.by_paper["loki"]
    assert line.startswith(f"{ledger}: not a readable list of differences ({reason}")


def test_a_paper_without_a_ledger_has_no_differences(tmp_path: Path) -> None:
    problems = Problems()
    assert read_differences(tmp_path / "differences.yaml", "loki", problems) == []
    assert problems.lines() == []
