"""What the command says it would do: the list, the reasons, dry runs. Nothing of it runs or writes anything."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from iclr_repro import choices, command_line, planning
from iclr_repro.core.experiment import experiment_class
from iclr_repro.core.footprint import Network, example
from support import only_run, read_json

Toy = Callable[..., int]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout without records, which `record=true` writes into and forecasts are read from."""
    monkeypatch.setattr("iclr_repro.run.checkout_dir", lambda: tmp_path)
    monkeypatch.setattr(planning, "records_dir", lambda: tmp_path / "experiments")
    return tmp_path / "experiments"


@pytest.fixture
def recorded(toy: Toy, records: Path, capsys: Capture) -> None:
    """A record of the test paper whose walks took 20 s each."""
    assert toy("paper=toy", "record=true", "runs_dir=others") == 0
    path = records / "toy" / "results" / "cpu.json"
    document = read_json(path)
    document["experiments"]["walk"]["wall_s"] = 20.0 * len(document["experiments"]["walk"]["runs"])
    document["experiments"]["constant"]["wall_s"] = 1.0
    document["provenance"] |= {"wall_s": 61.0, "peak_memory_bytes": 3 * 2**20}
    path.write_text(json.dumps(document))
    capsys.readouterr()


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def cells(printed: str, first: str) -> list[str]:
    """Return the cells of the table's row that begins with this one."""
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in printed.splitlines() if "│" in line]
    (row,) = (row for row in rows if row[0] == first)
    return row


def test_list_shows_papers_with_their_experiments_and_what_was_recorded(
    toy: Toy, recorded: None, work: Path, capsys: Capture
) -> None:
    assert toy("list") == 0
    printed = capsys.readouterr().out
    assert cells(printed, "toy") == ["toy", "reconstruction", "no forecast", "1 min 1 s, 3.0 MiB", "no forecast"]
    assert cells(printed, "constant") == ["constant", "", "", "1.0 s", ""]
    assert cells(printed, "odd")[2:] == ["no forecast"] * 3
    assert cells(printed, "learner_on_data")[2:] == ["", "", ""]
    assert not (work / "runs").exists()


def test_list_and_help_show_experiments_of_the_other_scales_too_and_the_scales_by_size(
    toy: Toy, toy_configs: Path, records: Path, capsys: Capture
) -> None:
    folder = toy_configs / "paper_scale" / "toy"
    folder.mkdir()
    (folder / "smoke.yaml").write_text("# @package _global_\n")
    (folder / "paper.yaml").write_text("experiments:\n  walk: {steps: 90}\n  far: {_target_: toy.Far}\n")
    assert toy("list") == 0
    printed = capsys.readouterr().out
    assert re.search("scale smoke .* scale cpu .* scale paper ", printed)
    assert cells(printed, "far")[1:] == ["", "", "", ""]
    listed = [line.split()[1] for line in printed.splitlines() if line.startswith("│ ")]
    assert listed[listed.index("toy") + 1 :][:3] == ["walk", "constant", "far"]
    assert choices.paper_files()["toy"]["experiments"]["walk"]["steps"] == 30, "that of scale cpu"
    assert toy("--help") == 0
    assert "    far" in capsys.readouterr().out.splitlines()


def test_every_scale_of_the_repository_names_only_experiments_that_are_listed() -> None:
    listed = {name: list(content["experiments"]) for name, content in choices.paper_files().items()}
    assert {"half_cheetah", "ant"} < set(listed["wsep"])
    assert {"multilabel_medical", "multilabel_enron", "segmentation"} < set(listed["soi_nter"])
    for paper, scale in itertools.product(listed, choices.scales()):
        composed = command_line.compose([f"paper={paper}", f"scale={scale}"])
        assert set(composed.experiments) <= set(listed[paper]), (paper, scale)


def test_why_tells_what_never_ran_is_finished_or_has_changed(
    toy: Toy, records: Path, work: Path, capsys: Capture
) -> None:
    assert toy("why", "paper=toy", "seeds=[0,1]") == 0
    printed = capsys.readouterr().out
    assert cells(printed, "walk") == ["walk", "0, 1", "running, never finished before"]
    assert "3 of 3 runs would run. No forecast." in printed
    assert not (work / "runs").exists()

    assert toy("paper=toy", "seeds=[0,1]") == 0
    before = files(work)
    capsys.readouterr()
    assert toy("paper=toy", "why", "seeds=[0,1]") == 0
    printed = capsys.readouterr().out
    assert cells(printed, "walk") == ["walk", "0, 1", "nothing, it is finished"]
    assert cells(printed, "constant")[1] == "0", "it uses no seeds"
    assert "0 of 3 runs would run." in printed

    assert toy("why", "paper=toy", "only=[walk]", "seeds=[0]", "experiments.walk.steps=31") == 0
    printed = capsys.readouterr().out
    changed = "running, changed since the last finished run: parameter steps (30 -> 31)"
    assert cells(printed, "walk") == ["walk", "0", changed]
    assert "1 of 1 runs would run." in printed
    assert toy("why", "paper=toy", "only=[constant]", "force=true") == 0
    assert cells(capsys.readouterr().out, "constant")[2] == "running again (force=true)"
    assert files(work) == before


def test_why_tells_the_error_of_a_failed_run_and_the_step_of_an_interrupted_one(
    toy: Toy, work: Path, capsys: Capture
) -> None:
    assert toy("paper=toy", "only=[constant]", "experiments.constant.fail=true") == 1
    path = only_run(work, "constant") / "run.json"
    path.write_text(json.dumps(read_json(path) | {"error": "IndexError: [bold] is no index"}))
    command = ("paper=odd", "only=[interrupts_itself]", "seeds=[0]")
    assert toy(*command) == 130
    before = files(work)
    capsys.readouterr()
    assert toy("why", "paper=toy", "only=[constant]", "experiments.constant.fail=true") == 0
    failed = "going on (status was failed: IndexError: [bold] is no index)"
    assert cells(capsys.readouterr().out, "constant")[2] == failed
    assert toy("why", *command) == 0
    interrupted = "going on (status was interrupted), from step 3 of stage train"
    assert cells(capsys.readouterr().out, "interrupts_itself")[2] == interrupted
    assert toy("why", *command, "resume=false") == 0
    assert (
        cells(capsys.readouterr().out, "interrupts_itself")[2]
        == "starting anew (resume=false) (status was interrupted)"
    )
    assert files(work) == before


def test_forecast_is_that_of_the_runs_that_would_run(toy: Toy, recorded: None, capsys: Capture) -> None:
    assert toy("paper=toy", "seeds=[0]", "only=[walk]") == 0
    capsys.readouterr()
    assert toy("why", "paper=toy", "seeds=[0,1,2,3]") == 0
    assert "4 of 5 runs would run. Forecast: 1 min 1 s one after another; memory 3.0 MiB." in capsys.readouterr().out
    assert toy("paper=toy", "seeds=[0,1,2,3]", "experiments.constant.value=2", "dry_run=true") == 0
    printed = capsys.readouterr().out
    assert cells(printed, "walk") == ["walk", "1, 2, 3", "1 min 0 s"]
    assert cells(printed, "constant") == ["constant", "0", "no forecast: recorded with other value"]
    assert "Forecast: 1 min 0 s one after another, and 1 without a forecast; memory 3.0 MiB." in printed
    assert toy("paper=toy", "threads=2", "seeds=[1]", "only=[walk]", "dry_run=true") == 0
    assert cells(capsys.readouterr().out, "walk")[2] == "no forecast: recorded with other threads"
    assert toy("paper=toy", "scale=smoke", "only=[walk]", "dry_run=true") == 0
    assert cells(capsys.readouterr().out, "walk")[2] == "no forecast: not recorded at this scale"


def test_dry_run_looks_for_the_data_and_writes_nothing(
    toy: Toy, tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    digest = hashlib.sha256(b"1 2 3").hexdigest()
    catalogue = tmp_path / "package" / "toy" / "data.toml"
    catalogue.parent.mkdir(parents=True)
    entry = f'[[file]]\nname = "%s.txt"\nsha256 = "{digest}"\nbytes = 5\nlicence = "none"\nsource = "a shop"\n'
    catalogue.write_text(
        entry % "here" + entry % "far" + '[file.download]\nraw = [{ url = "https://example.org/far.txt" }]\n'
    )
    monkeypatch.setattr("iclr_repro.core.catalogue._PACKAGE", tmp_path / "package")
    monkeypatch.setenv("ICLR_REPRO_DATA", str(tmp_path / "data"))
    here = tmp_path / "data" / "toy" / "here.txt"
    here.parent.mkdir(parents=True)
    here.write_text("1 2 3")
    assert toy("paper=toy", "dry_run=true") == 0
    printed = capsys.readouterr().out
    assert "1 of 2 data files of the catalogue are here" in printed
    assert "toy/far.txt is not here and is downloaded when it is needed: a shop" in printed

    here.write_text("1 2")
    assert toy("paper=toy", "dry_run=true") == 1
    captured = capsys.readouterr()
    assert "0 of 2 data files" in captured.out
    assert f"toy/here.txt: {here} is not the file of the catalogue: it seems cut short" in captured.err
    assert not list(work.iterdir())


def test_dry_run_tells_what_networks_take_together_where_they_are_alike(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def networks(self: object) -> list[Network]:
        inputs = {"input": example(5, 3)}
        return [
            Network(name="one", build=lambda: nn.Linear(3, 4), inputs=inputs),
            Network(name="same", build=lambda: nn.Linear(3, 4), inputs=inputs),
            Network(name="other", build=lambda: nn.Linear(3, 1), inputs=inputs, note="of a kind"),
            Network(name="asks", build=lambda: nn.Linear(3, 4), inputs=inputs, forward=lambda _, input: input.tolist()),
            Network(name="far", build=None, note="a hub's model"),
        ]

    assert toy("paper=toy", "dry_run=true") == 0
    printed = capsys.readouterr().out
    assert "Networks: shapes" not in printed
    assert "No networks, or none but of a check or a timing: walk, constant." in printed
    monkeypatch.setattr(experiment_class("iclr_repro.toy.experiments.Walk"), "networks", networks, raising=False)
    assert toy("paper=toy", "dry_run=true") == 0
    printed = capsys.readouterr().out
    _, _, below = printed.partition("Networks: shapes")
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in below.splitlines() if "│" in line]
    assert [row[1] for row in rows] == ["one, same", "other", "asks", "far"]
    assert rows[0] == ["walk", "one, same", "5x3", "5x4", "16", "16", "316 bytes", "60 bytes", ""]
    assert rows[1] == ["walk", "other", "5x3", "5x1", "4", "4", "124 bytes", "60 bytes", "of a kind"]
    assert rows[2][:5] == ["walk", "asks", "5x3", "", "16"]
    assert rows[2][8].startswith("activations are not estimated: ")
    assert rows[3] == ["walk", "far", "", "", "", "", "", "", "not counted: a hub's model"]
    assert "none but of a check or a timing: constant." in printed


def test_dry_run_names_a_network_that_a_run_could_not_build(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def networks(self: object) -> list[Network]:
        return [Network(name="wrong", build=lambda: nn.Linear(3, 4), inputs={"input": example(5, 2)})]

    monkeypatch.setattr(experiment_class("iclr_repro.toy.experiments.Walk"), "networks", networks, raising=False)
    assert toy("paper=toy", "dry_run=true") == 1
    assert "experiments.walk: a network cannot be built or run: " in capsys.readouterr().err
