"""Every paper's smoke run, killed or preempted at random moments, ends with the numbers of one left alone."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iclr_repro.choices import papers
from support import read_json


def start(paper: str, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "iclr_repro.run", *arguments, f"paper={paper}", "scale=smoke"]
    return subprocess.Popen(
        [*command, f"runs_dir={folder}"],
        env={**os.environ, "ICLR_REPRO_OFFLINE": "1", "ICLR_REPRO_CACHE": str(folder / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def metrics(folder: Path) -> dict[str, Any]:
    """Return the metrics of each run but times: without `efficiency`, and names with a time in them."""
    return {
        f"{path.parents[3].name}/{path.parent.name}/{name}": value
        for path in folder.glob("*/smoke/*/*/result.json")
        for name, value in read_json(path)["metrics"].items()
        if path.parents[3].name != "efficiency" and not re.search(r"(^|[/_])(s|seconds|time)($|[/_])", name)
    }


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("paper", papers())
def test_three_kills_change_no_number(paper: str, tmp_path: Path) -> None:
    began = time.monotonic()
    alone = start(paper, tmp_path / "alone")
    _, err = alone.communicate()
    assert alone.returncode == 0, err
    whole = time.monotonic() - began

    seed = time.time_ns()
    print("seed of the moments:", seed)
    moments = random.Random(seed)
    kills = 0
    for _ in range(3):
        process = start(paper, tmp_path / "killed")
        try:
            process.communicate(timeout=moments.uniform(0.2, 0.6) * whole)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
    assert kills
    last = start(paper, tmp_path / "killed")
    _, err = last.communicate()
    assert last.returncode == 0, err
    assert_same(metrics(tmp_path / "killed" / paper), metrics(tmp_path / "alone" / paper))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_all_papers_as_jobs_of_a_cluster_that_preempts_each(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="needs pip install 'iclr-repro[cluster]'")
    every = ",".join(papers())
    alone = start(every, tmp_path / "alone", "--multirun", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    _, err = alone.communicate()
    assert alone.returncode == 0, err

    seed = time.time_ns()
    print("seed of the moments:", seed)
    moments = random.Random(seed)
    lasted = {paper: read_json(tmp_path / "alone" / paper / "smoke.json")["provenance"]["wall_s"] for paper in papers()}
    jobs = start(every, tmp_path / "jobs", "--multirun", "hydra/launcher=submitit_local")
    due: dict[str, float] = {}
    preempted: set[str] = set()
    while jobs.poll() is None and len(preempted) < len(papers()):
        time.sleep(0.05)
        for path in (tmp_path / "jobs").glob("*/*/smoke/*/*/run.json"):
            paper = path.relative_to(tmp_path / "jobs").parts[0]
            due.setdefault(paper, time.monotonic() + moments.uniform(0, 0.5) * lasted[paper])
            if paper not in preempted and time.monotonic() >= due[paper]:
                record = read_json(path)
                if record["status"] == "running":
                    os.kill(record["process"]["pid"], signal.SIGUSR2)  # as Slurm does before it takes a node away
                    preempted.add(paper)
    _, err = jobs.communicate()
    assert jobs.returncode == 0, err
    assert preempted == set(papers())
    logs = [path.read_text() for path in (tmp_path / "jobs").glob(".multirun/.submitit/*/*_log.err")]
    assert len(logs) == len(papers())
    assert all("this job is preempted" in log and "going on (status was running)" in log for log in logs)
    for paper in papers():
        assert_same(metrics(tmp_path / "jobs" / paper), metrics(tmp_path / "alone" / paper))


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Fail unless the numbers agree: not bit for bit, since the last digits of LAPACK differ between processes."""
    assert expected
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-12, err_msg=name)
