"""The command with the test paper: what a user types and what comes back."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from iclr_repro.core import data, execution
from iclr_repro.core.used_files import note
from support import only_run, read_json, status

Toy = Callable[..., int]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


def test_run_writes_results_and_prints_a_row_a_claim(toy: Toy, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy("paper=toy", "seeds=[0,1]") == 0
    table = capsys.readouterr().out
    assert re.search(r"T1 .* 3 .* = 3 .* reproduced", table)
    assert "2 reproduced, 0 inconclusive, 0 not reproduced, 0 not run" in table
    folder = only_run(work, seed=1)
    assert status(folder) == "finished"
    result = read_json(folder / "result.json")
    assert result["figures"] == ["distance"]
    assert result["tables"] == ["visits"]
    assert result["data"] == "none"
    assert result["metrics"]["walk/n"] == 60
    assert (folder / "figures" / "distance.svg").is_file()
    assert (folder / "figures" / "distance.png").is_file()
    assert (folder / "tables" / "visits.csv").read_text().startswith(",visits")
    record = read_json(folder / "run.json")
    assert record["seed"] == 1
    assert record["config"]["steps"] == 30
    assert record["code"]["packages"]["torch"]
    assert record["stages"]["second"]["steps"] == 30
    document = read_json(work / "runs" / "toy" / "cpu.json")
    assert [claim["verdict"] for claim in document["claims"]] == ["reproduced", "reproduced"]
    assert document["metrics"]["walk"]["walk/n"] == {"mean": 60.0, "low": 60.0, "high": 60.0, "seeds": 2}
    assert document["metrics"]["walk"]["walk/coordinates"]["seeds"] == 6, "three values a seed"
    assert document["metrics"]["constant"]["constant/value"]["seeds"] == 1
    assert document["claims"][0]["command"] == ("python -m iclr_repro.run paper=toy 'seeds=[0,1]' 'only=[constant]'")


def test_finished_runs_are_skipped_and_a_change_is_named(
    toy: Toy, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert toy("paper=toy", "seeds=[0]") == 0
    first = (only_run(work) / "run.json").stat().st_mtime_ns
    capsys.readouterr()

    assert toy("paper=toy", "seeds=[0]") == 0
    assert "2 of 2 runs were finished before and are not run again" in capsys.readouterr().err
    assert (only_run(work) / "run.json").stat().st_mtime_ns == first

    assert toy("paper=toy", "seeds=[0]", "experiments.walk.steps=31") == 0
    assert "changed since the last finished run: parameter steps (30 -> 31)" in capsys.readouterr().err

    assert toy("paper=toy", "seeds=[0]", "only=[constant]", "force=true") == 0
    assert "constant seed 0: running again (force=true)" in capsys.readouterr().err


def test_a_clock_that_goes_backwards_changes_no_result(
    toy: Toy, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("paper=toy", "only=[walk]", "seeds=[0]")
    assert toy(*command, "runs_dir=steady") == 0
    (steady,) = (work / "steady" / "toy" / "walk").glob("*/*/seed0/result.json")

    clock = itertools.count(1_800_000_000, -3600)  # an hour back at every look
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    monkeypatch.setattr(execution, "_now", lambda: datetime.fromtimestamp(next(clock), UTC).isoformat())
    assert toy(*command) == 0
    assert read_json(only_run(work) / "result.json") == read_json(steady)
    record = read_json(only_run(work) / "run.json")
    assert record["ended"] < record["started"]
    assert record["wall_s"] > 0
    capsys.readouterr()
    assert toy(*command) == 0
    assert "1 of 1 runs were finished before" in capsys.readouterr().err


def test_failing_experiment_leaves_the_others_and_exits_with_1(
    toy: Toy, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert toy("paper=toy", "seeds=[0]", "experiments.constant.fail=true") == 1
    out = capsys.readouterr().out
    assert "constant: failed: RuntimeError: told to fail at value 3.0" in out
    assert "0 reproduced, 1 inconclusive, 0 not reproduced, 1 not run" in out
    folder = only_run(work, "constant")
    assert status(folder) == "failed"
    assert "told to fail" in (folder / "traceback.txt").read_text()
    assert not (folder / "result.json").exists()
    claims = {claim["id"]: claim for claim in read_json(work / "runs" / "toy" / "cpu.json")["claims"]}
    assert claims["T1"]["verdict"] == "not run"
    assert "told to fail" in claims["T1"]["note"]


def test_strict_turns_a_claim_that_fails_into_exit_code_1(toy: Toy) -> None:
    command = ("paper=toy", "only=[constant]", "experiments.constant.value=4")
    assert toy(*command) == 0
    assert toy(*command, "strict=true") == 1


def test_only_exact_claims_are_judged_at_smoke(toy: Toy, work: Path) -> None:
    assert toy("paper=toy", "scale=smoke") == 0
    claims = {claim["id"]: claim for claim in read_json(work / "runs" / "toy" / "smoke.json")["claims"]}
    assert claims["T1"]["verdict"] == "reproduced"
    assert claims["T2"]["verdict"] == "not run"
    assert claims["T2"]["note"] == "can be judged at scale cpu or paper only"


def test_warnings_of_a_run_are_recorded(toy: Toy, work: Path) -> None:
    assert toy("paper=toy", "only=[constant]") == 0
    assert read_json(only_run(work, "constant") / "run.json")["warnings"] == ["the result is a constant"]
    assert "the result is a constant" in (only_run(work, "constant") / "log.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"choose a paper: paper=.*toy.* \(--help tells what there is\)"),
        (["paper=toi"], r"paper=toi: there is no such paper; did you mean 'toy'\? Valid: .*\btoy\b.*"),
        (["paper=toy", "scale=smok"], r"scale=smok: there is no such scale; did you mean 'smoke'\? Valid: cpu, .*"),
        (["paper=toy", "tracker=mlfow"], r"tracker=mlfow: there is no such tracker; did you mean 'mlflow'\? .*"),
        (["paper=toy", "sede=[1]"], r"sede: there is no 'sede'; did you mean 'seeds'\? Valid: .*"),
        (
            ["paper=toy", "experiments.wolk.steps=3"],
            r"experiments.wolk.steps: there is no 'wolk' in experiments; did you mean 'walk'\? Valid: constant, walk",
        ),
        (
            ["paper=toy", "experiments.walk.stpes=3"],
            r"experiments.walk.stpes: there is no 'stpes' in experiments.walk; did you mean 'steps'\? "
            r"Valid: mode, sleep_s, steps",
        ),
        (["paper=toy", "+experiments.walk.stpes=3"], r"experiments.walk.stpes: no such parameter; did you mean .*"),
        (["paper=toy", "only=[wolk]"], r"only: no experiment 'wolk' in toy; did you mean 'walk'\? Valid: .*"),
        (["paper=toy", "only=walk"], r"only: got 'walk', expected a list, e.g. only=\[walk\]"),
        (["paper=toy", "experiments.walk.steps=0"], r"experiments.walk.steps: got 0, expected >= 1 and <= 100000"),
        (["paper=toy", "experiments.walk.steps=ten"], r"experiments.walk.steps: got 'ten', expected a whole number"),
        (["paper=toy", "experiments.walk.mode=nar"], r"experiments.walk.mode: got 'nar', expected one of near, far"),
        (["paper=toy", "seeds=[0,0]"], r"seeds: got \[0, 0\], expected a list of different whole numbers >= 0.*"),
        (["paper=toy", "threads=0"], r"threads: got 0, expected a whole number >= 1"),
        (["paper=toy", "force=perhaps"], r"force: got 'perhaps', expected true or false"),
        (["paper=toy", "seeds=[0"], r"seeds=\[0: cannot be read; expected seeds=<value>, the value in quotes .*"),
        (["paper=toy", "runs_dir=ünï"], r"runs_dir=ünï: cannot be read; .* e.g. 'runs_dir=\"ünï\"'"),
        (["paper=toy", "scale=5"], r"scale: got 5, expected a name \(--help lists them\)"),
        (["paper=toy", "tracker=true"], r"tracker: got True, expected a name .*"),
        (["paper=5.5"], r"paper: got 5.5, expected a name .*"),
        (["paper=toy", "scale=[1.5]"], r"scale: got \[1.5\], expected a name .*"),
        (["paper=toy", "~paper.title"], r"paper.title: missing, expected text"),
        (["paper=toy", "+paper.titel=a"], r"paper.titel: no such entry; did you mean 'title'\? .*"),
        (["paper=toy", "~force"], r"force: missing; give a value instead of deleting it with ~"),
        (["paper=toy", "runs_dir=${none}"], r"Interpolation key 'none' not found .*"),
        (["paper=toy", "runs_dir=null"], r"runs_dir: got None, expected the path of a folder"),
        (["paper=toy", "experiments.walk=3"], r"experiments: expected a mapping of names to parameters; set .*"),
        (["paper=toy", "experiments=null"], r"experiments: expected a mapping of names to parameters; set .*"),
        (["paper=toy", "only=[[walk]]"], r"only: got \[\['walk'\]\], expected a list, e.g. only=\[walk\]"),
        (["paper=toy", "paper.name=foo"], r"paper.name: got 'foo'; choose a paper by paper=.*toy.*"),
        (["paper=toy", "tracker.kind=foo"], r"tracker.kind: got 'foo', expected one of none, .*"),
        (["--multirun", "paper=toy", "hydra/launcher=jolib"], r"hydra/launcher=jolib: .* did you mean 'joblib'\? .*"),
        (["paper=toy", "device=gpu"], r"device: got 'gpu', expected auto, cpu, cuda, cuda:<index> or mps"),
        (["paper=toy", "steps"], r"steps: there is no such command; Valid: list, why, or <setting>=<value>"),
        (["wy", "paper=toy"], r"wy: there is no such command; did you mean 'why'\? Valid: list, why, .*"),
        (["toy"], r"toy: there is no such command; did you mean paper=toy\?"),
        (["why"], r"choose a paper: paper=.*toy.* \(--help tells what there is\)"),
        (["why", "paper=toi"], r"paper=toi: there is no such paper; did you mean 'toy'\? .*"),
        (["why", "paper=toy", "only=[wolk]"], r"only: no experiment 'wolk' in toy; did you mean 'walk'\? .*"),
        (["why", "list"], r"why list: expected one command"),
        (["why", "--multirun", "paper=toy"], r"why: takes no options, got --multirun"),
        (["list", "paper=toy"], r"list: takes no settings, got paper=toy"),
        (["paper=toy", "dry_run=yes"], r"dry_run: got 'yes', expected true or false"),
        (["paper=toy", "dry_run=true", "experiments.walk.steps=0"], r"experiments.walk.steps: got 0, expected >= 1 .*"),
        (["--multirun", "paper=toy", "experiments.walk.stpes=3,4"], r"experiments.walk.stpes: there is no 'stpes' .*"),
        (["--multirun", "paper=toi,toy"], r"paper=toi: there is no such paper; did you mean 'toy'\? .*"),
        (["paper=toy", "runs_dir=/dev/null/runs"], r"runs_dir: cannot write to /dev/null/runs \(Not a directory\): .*"),
    ],
    ids=lambda value: " ".join(value) or "no paper" if isinstance(value, list) else "",
)  # fmt: skip
def test_wrong_command_lines_end_in_one_clear_line(
    toy: Toy, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert toy(*arguments) == 2
    assert re.fullmatch(message, capsys.readouterr().err.strip())


def test_several_wrong_parameters_are_reported_at_once(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy("paper=toy", "experiments.walk.steps=0", "experiments.constant.value=11") == 2
    assert capsys.readouterr().err.splitlines() == [
        "experiments.walk.steps: got 0, expected >= 1 and <= 100000",
        "experiments.constant.value: got 11, expected >= -10 and <= 10",
    ]


def test_help_lists_papers_experiments_and_scales(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy("--help") == 0
    text = capsys.readouterr().out
    for part in (
        "toy: A toy <paper> (reconstruction)",
        "    walk",
        "    constant",
        "  smoke  ",
        "  cpu  ",
        "seeds  ",
        "why paper=",
    ):
        assert part in text


def test_help_of_a_paper_lists_the_parameters_with_their_values(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy("paper=toy", "experiments.walk.steps=7", "--help") == 0
    text = capsys.readouterr().out
    for part in (
        "Parameters of toy at scale cpu",
        "experiments.walk: Two stages of a random walk.",
        "  .steps=7  steps of each stage",
        "  .sleep_s=0.0  pause in a step (s)",
    ):
        assert part in text
    assert toy("paper=toy", "experiments.walk.step=7", "--help") == 2
    assert "did you mean 'steps'?" in capsys.readouterr().err


def test_configuration_can_be_printed_without_running(toy: Toy, capsys: pytest.CaptureFixture[str], work: Path) -> None:
    assert toy("paper=toy", "--cfg", "job") == 0
    assert "sleep_s: 0.0" in capsys.readouterr().out
    assert not (work / "runs").exists()


def test_record_writes_into_the_checkout(toy: Toy, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iclr_repro.run.checkout_dir", lambda: tmp_path)
    assert toy("paper=toy", "record=true") == 0
    recorded = tmp_path / "experiments" / "toy" / "results" / "cpu.json"
    assert read_json(recorded) == read_json(work / "runs/toy/cpu.json")
    figure = tmp_path / "experiments/toy/figures/walk_distance.svg"
    before = figure.read_bytes()
    assert toy("paper=toy", "scale=smoke", "record=true") == 0
    assert read_json(recorded.with_name("smoke.json")) == read_json(work / "runs/toy/smoke.json")
    assert {path: path.read_bytes() for path in figure.parent.rglob("*.svg")}[figure] == before
    assert not list(figure.parent.glob("*/"))


@pytest.mark.parametrize(
    ("override", "exit_code", "message"),
    [
        ("experiments.constant.fail=true", 1, "not recorded: constant did not finish"),
        ("seeds=[0]", 0, "not recorded: seeds=[0] differs from the scale's configuration"),
    ],
)
def test_record_refuses_what_is_not_the_scales_study(
    toy: Toy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    override: str,
    exit_code: int,
    message: str,
) -> None:
    monkeypatch.setattr("iclr_repro.run.checkout_dir", lambda: tmp_path)
    assert toy("paper=toy", override, "record=true") == exit_code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "experiments").exists()


def test_a_record_is_not_replaced_by_one_that_judges_less(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("iclr_repro.run.checkout_dir", lambda: tmp_path)
    assert toy("paper=toy", "scale=smoke", "record=true") == 0
    path = tmp_path / "experiments" / "toy" / "results" / "smoke.json"
    document = read_json(path)
    (claim,) = (claim for claim in document["claims"] if claim["verdict"] == "not run")
    claim["verdict"] = "reproduced"  # as it would be with an extra that is not installed here
    path.write_text(json.dumps(document))
    capsys.readouterr()
    assert toy("paper=toy", "scale=smoke", "record=true") == 0
    assert f"not recorded: {claim['id']} judged in the record and not run here" in capsys.readouterr().err
    assert read_json(path) == document
    path.unlink()
    assert toy("paper=toy", "scale=smoke", "record=true") == 0
    assert path.is_file()


def test_damaged_record_and_result_are_done_again(toy: Toy, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy("paper=toy", "only=[constant]") == 0
    folder = only_run(work, "constant")
    for name in ("run.json", "result.json"):
        for content in ("{}", "{"):
            (folder / name).write_text(content)
            assert toy("paper=toy", "only=[constant]") == 0
            assert name in capsys.readouterr().err
            assert read_json(folder / "result.json")["metrics"] == {"constant/value": 3.0}
            assert status(folder) == "finished"


def test_result_on_generated_data_is_not_kept_when_the_real_data_arrive(
    toy: Toy, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    present = False
    entry = {"name": "toy/scores", "sha256": "0" * 64, "source": "nowhere", "licence": "none"}

    def locate(name: str) -> Path:
        note(**entry, missing=not present)
        if not present:
            raise data.MissingDataError("not there")
        return work

    monkeypatch.setattr(data, "locate", locate)
    monkeypatch.setattr(data, "is_present", lambda name: present)
    command = ("paper=odd", "only=[learner_on_data]", "seeds=[0]")
    assert toy(*command) == 0
    folder = only_run(work, "learner_on_data", paper="odd")
    assert read_json(folder / "result.json")["metrics"]["total"] == -10
    assert read_json(folder / "result.json")["data"] == "synthetic"
    assert toy(*command) == 0
    assert "1 of 1 runs were finished before" in capsys.readouterr().err
    present = True
    assert toy(*command) == 0
    assert "running again, data file toy/scores is there now" in capsys.readouterr().err
    assert read_json(folder / "result.json")["metrics"]["total"] == 10
    assert read_json(folder / "result.json")["data"] == "real"


def test_users_own_file_is_hashed_and_a_change_of_it_runs_again(
    toy: Toy, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = work / "own.txt"
    command = ("paper=odd", "only=[own_file]", f"experiments.own_file.path={own}")
    for content, length in (("abc", 3), ("abcd", 4)):
        own.write_text(content)
        assert toy(*command) == 0
        folder = only_run(work, "own_file", paper="odd")
        assert read_json(folder / "result.json")["metrics"] == {"own_file/length": length}
        (noted,) = read_json(folder / "run.json")["data_files"]
        assert noted["sha256"] == hashlib.sha256(content.encode()).hexdigest()
    assert f"running again, data file {own} has changed" in capsys.readouterr().err


def test_interrupted_run_under_force_goes_on(toy: Toy, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("paper=odd", "only=[interrupts_itself]", "seeds=[0]", "force=true")
    assert toy(*command) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    assert toy(*command) == 0
    assert "stage train: resuming at step 3" in capsys.readouterr().err
    assert read_json(only_run(work, "interrupts_itself", paper="odd") / "result.json")["metrics"]["total"] == 6
