"""The skeleton of a paper keeps the contract of all papers."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT

_SPEC = importlib.util.spec_from_file_location("new_paper", ROOT / "scripts" / "new_paper.py")
assert _SPEC is not None
assert _SPEC.loader is not None
new_paper = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(new_paper)

# One process, since importing torch is most of the time.
RECORD_AND_TEST = """
import sys, pytest
from iclr_repro.run import main

recorded = [main(["paper=eleventh", "scale=" + scale, "record=true"]) for scale in ("smoke", "cpu")]
sys.exit(any(recorded) or pytest.main(sys.argv[1:]))
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The repository without its papers."""
    for folder in ("src/iclr_repro/core", "src/iclr_repro/_report", "configs/scale", "configs/tracker", "tests/toys"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for pattern in ("pyproject.toml", "configs/*.yaml", "configs/paper/none.yaml", "src/iclr_repro/*.py", "tests/*.py"):
        for path in ROOT.glob(pattern):
            (tmp_path / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / path.relative_to(ROOT))
    (tmp_path / "tests" / "e2e").mkdir()
    shutil.copy(ROOT / "tests" / "e2e" / "test_contract.py", tmp_path / "tests" / "e2e")
    return tmp_path


def test_a_new_paper_keeps_the_contract(checkout: Path) -> None:
    assert new_paper.main(["eleventh"], root=checkout) == 0
    options = ["-o", "addopts=--import-mode=importlib", "-W", "ignore::pytest.PytestAssertRewriteWarning", "-v", "-rs"]
    # The second run at smoke is left out: that a finished run is skipped does not depend on the paper.
    chosen = ["-k", "not second_smoke_run", "tests/e2e/test_contract.py", "tests/eleventh"]
    done = subprocess.run(
        [sys.executable, "-c", RECORD_AND_TEST, *options, *chosen],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout / "src"), "ICLR_REPRO_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for passed in ("test_all_papers_run_at_smoke", "test_record_and_notes_are_there[eleventh]", "test_impostors.py"):
        assert any(passed in line and "PASSED" in line for line in done.stdout.splitlines()), passed
    assert "no reference values" in done.stdout


def test_no_placeholder_is_left(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert new_paper.main(["eleventh"], root=checkout) == 0
    made = [checkout / line for line in capsys.readouterr().out.splitlines() if not line.startswith("now:")]
    assert {path.suffix for path in made} == {".md", ".py", ".toml", ".yaml"}
    for path in made:
        assert "my_paper" not in str(path.relative_to(checkout)), path
        assert "my_paper" not in path.read_text(), path


@pytest.mark.parametrize("name", ["Eleventh", "my-paper", "_paper", "none", "class", "../paper", ""])
def test_a_name_that_is_none_is_refused(checkout: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    with pytest.raises(SystemExit):
        new_paper.main([name], root=checkout)
    assert "expected small letters and digits joined by _" in capsys.readouterr().err


def test_a_paper_that_is_there_is_left_alone(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = checkout / "configs" / "paper" / "eleventh.yaml"
    kept.write_text("mine")
    with pytest.raises(SystemExit):
        new_paper.main(["eleventh"], root=checkout)
    assert "choose another name, there is already configs/paper/eleventh.yaml" in capsys.readouterr().err
    assert kept.read_text() == "mine"
    assert not (checkout / "src" / "iclr_repro" / "eleventh").exists()


@pytest.mark.parametrize(("name", "there"), [("core", "core"), ("report", "report.py"), ("run", "run.py")])
def test_a_name_of_a_module_or_package_is_refused_since_the_paper_would_hide_it(
    checkout: Path, capsys: pytest.CaptureFixture[str], name: str, there: str
) -> None:
    before = sorted(checkout.rglob("*"))
    with pytest.raises(SystemExit):
        new_paper.main([name], root=checkout)
    assert f"{name}: choose another name, there is already src/iclr_repro/{there}" in capsys.readouterr().err
    assert sorted(checkout.rglob("*")) == before
