"""The table over all papers, the forecast before it, and `make reproduce-all`, which prints both."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from iclr_repro import scoreboard
from report_tree import claim, document, experiment, write_json
from support import ROOT

Scoreboard = Callable[..., list[str]]
NO_TIME = "(no forecast)"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with configurations of four papers, and of one of them a record: 100 s of time, 90 s of a processor."""
    for name in ("alpha", "beta", "gamma", "delta"):
        path = tmp_path / "configs" / "paper" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"paper: {{title: {name}, fidelity: code}}\nexperiments: {{}}\n")
    for name in ("cpu", "smoke"):
        path = tmp_path / "configs" / "scale" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    monkeypatch.setattr("iclr_repro.choices.configs_dir", lambda: tmp_path / "configs")
    monkeypatch.setattr(scoreboard, "records_dir", lambda: tmp_path / "experiments")
    write(tmp_path / "experiments" / "alpha" / "results" / "cpu.json", wall_s=100.0, cpu_s=90.0)
    return tmp_path


def write(path: Path, *, statuses: tuple[str, ...] = (), data: tuple[str, ...] = (), **times: float) -> None:
    """Write a document with an experiment of each status and kind of data, and three claims."""
    paper = path.relative_to(path.parents[2 if path.parent.name == "results" else 1]).parts[0]
    made = document(paper, path.stem, paper)
    made["provenance"] |= times
    made["claims"] = [
        claim("C1", "one", "reproduced"),
        claim("C2", "two", "reproduced"),
        claim("C3", "3", "inconclusive"),
    ]
    for number, (status, kind) in enumerate(zip(statuses, data, strict=True)):
        entry = experiment(paper, f"e{number}", path.stem, [0], status=status, data=kind)
        made["experiments"][f"e{number}"] = entry
    write_json(path, made)


def rows(printed: str) -> dict[str, list[str]]:
    """Return the cells of each row by its first."""
    lines = [line.strip("│").split("│") for line in printed.splitlines() if line.startswith("│")]
    return {first.strip(): [cell.strip() for cell in rest] for first, *rest in lines}


def test_scoreboard_has_a_row_a_paper_with_times_beside_the_forecast(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = work / "runs"
    done, cut = ("finished", "finished"), ("finished", "finished", "interrupted")
    write(runs / "alpha" / "cpu.json", statuses=done, data=("real", "none"), wall_s=61.0, cpu_s=50.0)
    write(runs / "beta" / "cpu.json", statuses=("failed", *done[1:], "interrupted"), data=("none", "synthetic", "real"))
    write(runs / "gamma" / "cpu.json", statuses=cut, data=("real", "synthetic", "real"))
    write(runs / "delta" / "smoke.json", statuses=("finished",), data=("real",))
    assert scoreboard.main(["--runs", str(runs)]) == 0
    table = rows(capsys.readouterr().out)
    counts = ["2", "1", "0", "0"]
    took = ["2 min 41 s (no forecast)", "2 min 40 s (no forecast)", "700.0 MiB (no forecast)"]
    same = "700.0 MiB (700.0 MiB)"
    assert table["alpha"] == [
        "code",
        *counts,
        "real",
        "1 min 1 s (1 min 40 s)",
        "50.0 s (1 min 30 s)",
        same,
        "finished",
    ]
    assert table["beta"] == ["code", *counts, "generated", *took, "failed (1 of 3 finished)"]
    assert table["gamma"] == ["code", *counts, "mixed", *took, "interrupted (2 of 3 finished)"]
    assert table["delta"] == ["code", *[""] * 5, *[NO_TIME] * 3, "not run"]
    assert table["all"][1:5] == ["6", "3", "0", "0"]


def test_a_narrow_terminal_gets_two_tables_without_a_broken_word(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoreboard, "console", lambda: Console(width=80))
    runs = work / "runs"
    write(runs / "alpha" / "cpu.json", statuses=("finished",), data=("real",), wall_s=61.0, cpu_s=50.0)
    assert scoreboard.main(["--runs", str(runs)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["reproduced/inconclusive/not", "reproduced/not", "run"] in lines
    assert ["alpha", "code", "2/1/0/0", "real", "finished"] in lines
    assert ["all", "2/1/0/0"] in lines
    assert ["paper", "fidelity", "verdicts", "data", "status"] in lines
    assert any(line[:5] == ["alpha", "1", "min", "1", "s"] for line in lines)


def test_a_part_or_a_changed_study_is_not_taken_for_the_whole(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = work / "runs" / "alpha" / "cpu.json"
    write(path, statuses=("finished", "not run"), data=("real", "none"))
    document = json.loads(path.read_text())
    write_json(path, {**document, "changed": ["experiments.e0.steps=2"]})
    assert scoreboard.main(["--runs", str(work / "runs")]) == 0
    printed = capsys.readouterr().out
    assert "partly run (1 of 2 finished), with experiments.e0.steps=2" in printed


def test_results_of_an_earlier_call_do_not_count(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = work / "runs" / "alpha" / "cpu.json"
    write(path, statuses=("finished",), data=("real",))
    began = path.stat().st_mtime + 10
    command = ["--runs", str(work / "runs"), "--since", str(began)]
    assert scoreboard.main(command) == 0
    table = rows(capsys.readouterr().out)
    assert table["alpha"][1:6] == [""] * 5
    assert table["alpha"][-1] == "not run"
    assert table["all"][1] == "0"

    record = work / "runs" / "alpha" / "e0" / "cpu" / "0123" / "seed0" / "run.json"
    write_json(record, {"status": "running"})
    os.utime(record, (began + 1, began + 1))
    assert scoreboard.main(command) == 0
    assert rows(capsys.readouterr().out)["alpha"][-1] == "interrupted"


def test_a_document_that_cannot_be_read_is_named(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = work / "runs" / "beta" / "cpu.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert scoreboard.main(["--runs", str(work / "runs")]) == 0
    captured = capsys.readouterr()
    assert rows(captured.out)["beta"][-1] == "not run"
    assert f"{path}: not a readable results document" in captured.err


def test_forecast_says_what_is_recorded_and_what_is_not(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(work / "experiments" / "beta" / "results" / "cpu.json", wall_s=60.0, cpu_s=30.0)
    assert scoreboard.main(["--forecast", "--jobs", "2"]) == 0
    printed = capsys.readouterr().out
    assert rows(printed)["alpha"] == ["code", "1 min 40 s", "1 min 30 s", "700.0 MiB"]
    assert rows(printed)["gamma"] == ["code", "no forecast", "", ""]
    assert "In all about 1 min 30 s with 2 at once, and 2 without a forecast" in printed, "as long as the longest"
    assert scoreboard.main(["--forecast"]) == 0
    assert "In all about 2 min 0 s with 1 at once" in capsys.readouterr().out
    assert scoreboard.main(["--forecast", "--scale", "smoke"]) == 0
    assert "No forecast: nothing is recorded at this scale." in capsys.readouterr().out


def test_papers_that_may_take_long_are_begun_first(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(work / "experiments" / "beta" / "results" / "cpu.json", wall_s=60.0, cpu_s=30.0)
    write(work / "experiments" / "gamma" / "results" / "cpu.json", wall_s=60.0, cpu_s=300.0)
    assert scoreboard.main(["--order"]) == 0
    assert capsys.readouterr().out == "delta,gamma,alpha,beta\n"
    assert scoreboard.main(["--order", "--scale", "smoke"]) == 0
    assert capsys.readouterr().out == "alpha,beta,delta,gamma\n"


# --- make reproduce-all ----------------------------------------------------------------------------------------------

PYTHON = """#!/bin/sh
# Stands for the environment's Python: notes what it is asked, and as the command waits, then ends with $EXIT_CODE.
echo "$2 $3" >> "$CALLS"
if [ "$2" = iclr_repro.run ]; then
    trap 'exit 130' INT
    for _ in $(seq $WAIT); do sleep 0.1; done
    exit $EXIT_CODE
fi
"""
ALL_CALLS = [
    "iclr_repro.scoreboard --forecast",
    "iclr_repro.scoreboard --order",
    "iclr_repro.run --multirun",
    "iclr_repro.scoreboard --scale",
    "iclr_repro.report ",
]


@pytest.fixture
def start_make(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts `make reproduce-all` with a stand-in for Python."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    (tmp_path / "venv" / ".done-dev").touch()

    def start(exit_code: int, wait: int = 0, target: str = "reproduce-all") -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["make", target, f"VENV={tmp_path / 'venv'}", "EXTRAS=dev"],
            cwd=ROOT,
            env={**os.environ, "CALLS": str(tmp_path / "calls"), "EXIT_CODE": str(exit_code), "WAIT": str(wait)},
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.mark.parametrize("exit_code", [0, 1, 143])
def test_reproduce_all_ends_with_scoreboard_and_report_and_keeps_the_exit_code(
    start_make: Callable[..., subprocess.Popen[str]], tmp_path: Path, exit_code: int
) -> None:
    make = start_make(exit_code)
    _, err = make.communicate(timeout=60)
    assert (tmp_path / "calls").read_text().splitlines() == ALL_CALLS
    assert (make.returncode, "Error" in err) == ((2, True) if exit_code else (0, False))
    assert exit_code == 0 or f"Error {exit_code}" in err


@pytest.mark.parametrize("exit_code", [0, 1])
def test_only_what_ran_without_failure_is_recorded(
    start_make: Callable[..., subprocess.Popen[str]], tmp_path: Path, exit_code: int
) -> None:
    start_make(exit_code, target="record").communicate(timeout=60)
    recording = [] if exit_code else ["iclr_repro.run --multirun"]
    assert (tmp_path / "calls").read_text().splitlines() == [*ALL_CALLS, *recording]


def test_scoreboard_follows_ctrl_c(start_make: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    make, calls = start_make(0, wait=300), tmp_path / "calls"
    while make.poll() is None and not (calls.is_file() and len(calls.read_text().splitlines()) == 3):
        time.sleep(0.02)
    time.sleep(0.2)  # the stand-in sets its trap
    os.killpg(make.pid, signal.SIGINT)
    make.communicate(timeout=60)
    assert calls.read_text().splitlines() == ALL_CALLS
    assert make.returncode != 0
