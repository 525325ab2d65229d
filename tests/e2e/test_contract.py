"""What every paper owes, checked for all papers that there are."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
import yaml

from iclr_repro import command_line, run
from iclr_repro._report.notes import explanations
from iclr_repro.choices import papers
from iclr_repro.core.claims import VERDICTS, claims_of
from iclr_repro.core.experiment import build, experiment_class
from iclr_repro.core.footprint import Network, WithNetworks
from support import ROOT

PAPERS = papers()
SCALES = ("smoke", "cpu", "paper")
SMOKE_SECONDS = 20.0
METHODS = (FunctionType, property, cached_property, classmethod, staticmethod)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """All papers at scale smoke by the one command that README shows, in a folder of their own."""
    work = tmp_path_factory.mktemp("all papers")  # with a blank in it
    return work, run_all(work)


def run_all(work: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "iclr_repro.run", "--multirun", "paper=glob(*,exclude=none)", "scale=smoke"]
    return subprocess.run(
        [*command, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        cwd=work,
        env={**os.environ, "ICLR_REPRO_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )


def document(work: Path, paper: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((work / "runs" / paper / "smoke.json").read_text())
    return found


def test_every_package_has_a_configuration_and_the_reverse() -> None:
    packages = sorted(path.parent.name for path in (ROOT / "src" / "iclr_repro").glob("*/claims.py"))
    packages.remove("core")
    assert packages == PAPERS
    assert PAPERS


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("paper", PAPERS)
def test_configuration_composes_and_every_experiment_can_be_built(paper: str, scale: str) -> None:
    settings = command_line.checked_settings(command_line.compose([f"paper={paper}", f"scale={scale}"]))
    assert settings["experiments"]
    for name, config in settings["experiments"].items():
        build(name, config)
        assert inspect.getdoc(experiment_class(config["_target_"]))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("paper", PAPERS)
def test_every_scale_can_be_planned_without_network_and_writes_nothing(
    paper: str, scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # without its data, and sockets are forbidden in all tests
    overrides = [f"paper={paper}", f"scale={scale}", "dry_run=true"]
    config = command_line.compose(overrides)
    assert run.run_paper(config, overrides) == 0
    printed = capsys.readouterr().out
    experiments = command_line.checked_settings(config)["experiments"]
    assert all(f" {name} " in printed for name in experiments)
    assert re.search(r"(\d+) of \d+ data files of the catalogue are here", printed)
    without = re.search(r"No networks[^:]*:([^.]*)\.", printed)  # over several lines
    described = [name for name, config in experiments.items() if networks_of(name, config)]
    listed = without[1].replace(",", " ").split() if without else []
    assert [name for name in experiments if name not in listed] == described
    assert ("Networks: shapes" in printed) == bool(described)
    assert "not estimated" not in printed
    assert not list(tmp_path.iterdir())


def networks_of(name: str, config: dict[str, Any]) -> list[Network]:
    experiment = build(name, config)
    return list(experiment.networks()) if isinstance(experiment, WithNetworks) else []


@pytest.mark.parametrize("paper", PAPERS)
def test_claims_are_complete(paper: str) -> None:
    claims = claims_of(importlib.import_module(f"iclr_repro.{paper}.claims"))
    assert any(claim.headline for claim in claims)
    for claim in claims:
        assert set(claim.scales) <= set(SCALES)
        assert claim.paper
        assert claim.source


def test_all_papers_run_at_smoke(smoke: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    work, done = smoke
    assert done.returncode == 0, done.stderr
    assert sorted(path.parent.name for path in (work / "runs").glob("*/smoke.json")) == PAPERS


@pytest.mark.parametrize("paper", PAPERS)
def test_smoke_result_is_complete(smoke: tuple[Path, subprocess.CompletedProcess[str]], paper: str) -> None:
    work, done = smoke
    assert done.returncode == 0, done.stderr
    found = document(work, paper)
    settings = command_line.checked_settings(command_line.compose([f"paper={paper}", "scale=smoke"]))
    assert set(found["experiments"]) == set(settings["experiments"])
    for name, experiment in found["experiments"].items():
        assert experiment["status"] == "finished", (name, experiment["error"])
        assert found["metrics"][name], f"{name} measured nothing"
        for run_folder in experiment["runs"]:
            folder = work / "runs" / run_folder
            result = json.loads((folder / "result.json").read_text())
            assert result["data"] in ("real", "synthetic", "none")
            assert all((folder / "figures" / f"{figure}.svg").is_file() for figure in result["figures"])
            assert all((folder / "tables" / f"{table}.csv").is_file() for table in result["tables"])
    claims = claims_of(importlib.import_module(f"iclr_repro.{paper}.claims"))
    assert [entry["id"] for entry in found["claims"]] == [claim.id for claim in claims]
    for claim, entry in zip(claims, found["claims"], strict=True):
        assert entry["verdict"] in VERDICTS
        if "smoke" not in claim.scales:
            assert entry["verdict"] == "not run"
    assert found["provenance"]["cpu_s"] <= 2 * SMOKE_SECONDS, "twice the budget: tests may share a core"


@pytest.mark.parametrize("paper", PAPERS)
def test_smoke_is_judged_as_the_papers_page_shows(
    smoke: tuple[Path, subprocess.CompletedProcess[str]], paper: str
) -> None:
    work, done = smoke
    assert done.returncode == 0, done.stderr
    found = document(work, paper)
    recorded = json.loads((ROOT / "experiments" / paper / "results" / "smoke.json").read_text())
    assert set(found["experiments"]) == set(recorded["experiments"])
    same_data = {
        name for name, entry in found["experiments"].items() if entry["data"] == recorded["experiments"][name]["data"]
    }
    assert same_data
    for entry, expected in zip(found["claims"], recorded["claims"], strict=True):
        needs_an_extra = re.search(r"\(extra `\w+`\)", entry["statement"]) and entry["verdict"] == "not run"
        if same_data.issuperset(entry["experiments"]) and not needs_an_extra:
            assert (entry["id"], entry["verdict"]) == (expected["id"], expected["verdict"]), entry


def test_second_smoke_run_is_skipped(smoke: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    work, first = smoke
    assert first.returncode == 0, first.stderr
    before = {path: path.stat().st_mtime_ns for path in work.glob("runs/*/*/smoke/*/*/result.json")}
    assert before
    assert run_all(work).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in work.glob("runs/*/*/smoke/*/*/result.json")} == before


@pytest.mark.parametrize("paper", PAPERS)
def test_public_names_are_documented(paper: str) -> None:
    package = importlib.import_module(f"iclr_repro.{paper}")
    assert package.__doc__
    assert package.__all__
    for name in package.__all__:
        value = getattr(package, name)
        if not callable(value):
            continue
        assert inspect.getdoc(value), f"{name} has no docstring"
        if inspect.isclass(value):
            for member, attribute in vars(value).items():
                if not member.startswith("_") and isinstance(attribute, METHODS):
                    assert inspect.getdoc(getattr(value, member)), f"{name}.{member} has no docstring"


@pytest.mark.parametrize("paper", PAPERS)
def test_record_and_notes_are_there(paper: str) -> None:
    folder = ROOT / "experiments" / paper
    note = (folder / "README.md").read_text()
    assert f"python -m iclr_repro.run paper={paper}" in note
    recorded = json.loads((folder / "results" / "cpu.json").read_text())
    claims = claims_of(importlib.import_module(f"iclr_repro.{paper}.claims"))
    assert [entry["id"] for entry in recorded["claims"]] == [claim.id for claim in claims]
    for entry in recorded["claims"]:
        assert entry["verdict"] in VERDICTS
        assert f"| {entry['id']} |" in note, f"the lab note lacks claim {entry['id']}"
        if entry["verdict"] in ("not reproduced", "inconclusive"):
            assert entry["id"] in explanations(folder / "README.md"), (
                f"no passage of the note has {entry['id']} in bold"
            )
    assert list((folder / "figures").glob("*.svg"))
    assert (ROOT / "tests" / paper / "test_golden.py").is_file()
    assert (ROOT / "tests" / paper / "test_impostors.py").is_file()


@pytest.mark.parametrize("paper", PAPERS)
def test_ledger_of_differences_is_well_formed(paper: str) -> None:
    entries = yaml.safe_load((ROOT / "experiments" / paper / "differences.yaml").read_text())
    assert entries
    assert [entry["id"] for entry in entries] == [f"D{number}" for number in range(1, len(entries) + 1)]
    for entry in entries:
        assert set(entry) == {"id", "topic", "paper", "code", "ours", "reason", "key", "effect"}
        assert all(entry[field] for field in ("topic", "paper", "ours", "reason"))
