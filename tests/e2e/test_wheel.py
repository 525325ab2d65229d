"""An installed wheel works in an empty folder: configurations and records travel in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel is unpacked as pip does it, without its dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(folder / "site")]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    return folder / "site"


def run(installed: Path, work: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "ICLR_REPRO_DATA"}
    environment |= {"PYTHONPATH": str(installed), "ICLR_REPRO_OFFLINE": "1", "ICLR_REPRO_CACHE": str(work / "cache")}
    return subprocess.run([sys.executable, *arguments], cwd=work, env=environment, capture_output=True, text=True)


def test_wheel_runs_a_paper_in_an_empty_folder_without_data(installed: Path, tmp_path: Path) -> None:
    where = run(installed, tmp_path, "-c", "import iclr_repro; print(iclr_repro.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(installed)
    done = run(installed, tmp_path, "-m", "iclr_repro.run", "paper=review_insights", "scale=smoke")
    assert done.returncode == 0, done.stderr
    assert "SYNTHETIC DATA are used" in done.stderr
    document = json.loads((tmp_path / "runs" / "review_insights" / "smoke.json").read_text())
    assert {entry["status"] for entry in document["experiments"].values()} == {"finished"}
    assert document["experiments"]["score_changes"]["data"] == "synthetic"

    report = run(installed, tmp_path, "-m", "iclr_repro.report")
    assert report.returncode == 0, report.stderr
    page = (tmp_path / "report" / "review_insights.html").read_text()
    assert "Insights from the ICLR Peer Review" in page


def test_wheel_has_the_console_script(installed: Path) -> None:
    assert (installed / "bin" / "iclr-repro").is_file()
