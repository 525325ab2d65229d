from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from iclr_repro._report import evidence
from iclr_repro._report.documents import Problems
from iclr_repro._report.evidence import embed_figure, learning_curves, read_table
from iclr_repro.core.plotting import figure, save_figure


def _run_folder(folder: Path, records: list[dict[str, Any]], end: str = "") -> Path:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + end)
    return folder


def _record(step: int, value: float | None, *, stage: str = "a", kind: str = "train", metric: str = "loss") -> Any:
    return {"stage": stage, "kind": kind, "step": step, "metrics": {metric: value}}


def _svg(chart: dict[str, Any]) -> str:
    return base64.b64decode(chart["uri"].removeprefix("data:image/svg+xml;base64,")).decode()


def test_a_curve_is_the_mean_over_the_runs(tmp_path: Path) -> None:
    folders = [_run_folder(tmp_path / f"seed{i}", [_record(1, 4.0), _record(2, 1.0 + i)]) for i in range(3)]
    curves = learning_curves(folders, "loki", Problems())
    (chart,) = curves["charts"]
    assert chart["name"] == "loss"
    assert chart["alt"] == "Learning curve of loss over steps: train ends at 2."
    assert curves["num_runs"] == 3
    assert curves["num_left_out"] == 0


def test_stages_and_evaluations_have_lines_of_their_own(tmp_path: Path) -> None:
    records = [_record(1, 1.0), _record(1, 2.0, kind="evaluate"), _record(1, 3.0, stage="b")]
    (chart,) = learning_curves([_run_folder(tmp_path / "run", records)], "loki", Problems())["charts"]
    assert chart["alt"].endswith("a ends at 1; a, evaluate ends at 2; b ends at 3.")
    assert all(f">{label}<" in _svg(chart) for label in ("a", "a, evaluate", "b", "step", "loss"))


def test_charts_beyond_the_limit_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "_MAX_CURVES", 3)
    records = [_record(1, 1.0, stage=f"stage{i}", metric=f"quantity{j}") for i in range(7) for j in range(4)]
    curves = learning_curves([_run_folder(tmp_path / "run", records)], "loki", Problems())
    assert len(curves["charts"]) == 3
    assert curves["num_left_out"] == 5  # seven stages take two charts a quantity
    assert "stage5 ends at" in curves["charts"][0]["alt"]
    assert curves["charts"][1]["alt"] == "Learning curve of quantity0 over steps: train ends at 1."


def test_a_long_curve_is_thinned_but_keeps_its_end(tmp_path: Path) -> None:
    records = [_record(step, (step * 7919) % 2003 / 2) for step in range(1, 2001)]
    (chart,) = learning_curves([_run_folder(tmp_path / "run", records)], "loki", Problems())["charts"]
    assert f"ends at {records[-1]['metrics']['loss']:.4g}" in chart["alt"]
    assert len(_svg(chart)) < 60_000


def test_values_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    records = [_record(1, 0.5), _record(2, None), _record(3, float("nan"))]
    (chart,) = learning_curves([_run_folder(tmp_path / "run", records)], "loki", Problems())["charts"]
    assert chart["alt"].endswith("train ends at 0.5.")


def test_a_name_with_dollar_signs_is_no_formula(tmp_path: Path) -> None:
    folder = _run_folder(tmp_path / "run", [_record(1, 1.0, metric=r"cost_$\broken$")])
    (chart,) = learning_curves([folder], "loki", Problems())["charts"]
    assert r">cost_$\broken$<" in _svg(chart)


def test_a_last_line_that_a_crash_cut_off_is_ignored(tmp_path: Path) -> None:
    problems = Problems()
    folder = _run_folder(tmp_path / "run", [_record(1, 1.0)], end='{"stage": "a", "ki')
    assert len(learning_curves([folder], "loki", problems)["charts"]) == 1
    assert problems.lines() == []


def test_a_damaged_line_is_named_and_ends_the_curve(tmp_path: Path) -> None:
    problems = Problems()
    folder = _run_folder(tmp_path / "run", [_record(1, 1.0)], end=f"7\n{json.dumps(_record(2, 5.0))}\n")
    (chart,) = learning_curves([folder], "loki", problems)["charts"]
    assert chart["alt"].endswith("train ends at 1.")
    (line,) = problems.lines()
    assert line == (
        f"{folder / 'metrics.jsonl'}: line 2 is not a record of metrics (the line is 7, expected an object);"
        " its curves end there"
    )


def test_runs_without_metrics_have_no_curves(tmp_path: Path) -> None:
    assert learning_curves([tmp_path], "loki", Problems()) == {"charts": [], "num_runs": 0, "num_left_out": 0}


def test_a_long_table_is_cut_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "per_document.csv"
    path.write_text("name,score,note\n" + "".join(f"doc{i},{i / 8},\n" for i in range(45)))
    table = read_table(path)
    assert table["name"] == "per document"
    assert table["header"] == ["name", "score", "note"]
    assert table["rows"][19] == ["doc19", "2.375", ""]
    assert (len(table["rows"]), table["num_rows"]) == (20, 45)
    assert table["numeric"][:2] == [False, True]


@pytest.mark.parametrize(("content", "reason"), [("", "empty"), ('a,b\n"1,2\n', "unexpected end of data")])
def test_a_broken_table_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(ValueError, match=rf"not a CSV table with a header \({reason}\)"):
        read_table(tmp_path / "t.csv")


@pytest.mark.parametrize(("width", "wide"), [(6.4, False), (9.6, True)])
def test_figures_wider_than_the_default_are_marked(tmp_path: Path, width: float, wide: bool) -> None:
    made, _ = figure(width=width)
    save_figure(made, tmp_path, "by_method")
    embedded = embed_figure(tmp_path / "by_method.svg", name="by_method")
    assert embedded["name"] == "by method"
    assert embedded["wide"] is wide
    assert "<svg" in _svg(embedded)
