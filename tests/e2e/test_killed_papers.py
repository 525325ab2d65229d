"""Every paper's smoke run, killed or preempted at random moments, ends with the numbers of one left alone."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
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


def seconds_of_runs(folder: Path, paper: str) -> float:
    """Return how long all runs of a paper took, without start-up."""
    took: float = read_json(folder / paper / "smoke.json")["provenance"]["wall_s"]
    return took


def signal_a_run(folder: Path, after_s: float, signum: int, process: subprocess.Popen[str]) -> bool:
    """Wait until a paper's run is under way and so long again, and signal its process; False: it ended before."""
    due = None
    while process.poll() is None:
        time.sleep(0.01)
        for path in folder.glob("*/smoke/*/*/run.json"):
            record = read_json(path)
            if record["status"] == "running" and psutil.pid_exists(record["process"]["pid"]):
                due = due or time.monotonic() + after_s
                if time.monotonic() >= due:
                    os.kill(record["process"]["pid"], signum)
                    return True
    return False


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("paper", papers())
def test_three_kills_change_no_number(paper: str, tmp_path: Path) -> None:
    alone = start(paper, tmp_path / "alone")
    _, err = alone.communicate()
    assert alone.returncode == 0, err

    seed = time.time_ns()
    print("seed of the moments:", seed)
    moments = random.Random(seed)
    for _ in range(3):
        process = start(paper, tmp_path / "killed")
        after_s = moments.uniform(0, 0.2) * seconds_of_runs(tmp_path / "alone", paper)
        assert signal_a_run(tmp_path / "killed" / paper, after_s, signal.SIGKILL, process)
        process.communicate()
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
    jobs = start(every, tmp_path / "jobs", "--multirun", "hydra/launcher=submitit_local")
    with ThreadPoolExecutor(len(papers())) as pool:
        preempted = [  # as Slurm does before it takes a node away
            pool.submit(
                signal_a_run,
                tmp_path / "jobs" / paper,
                moments.uniform(0, 0.3) * seconds_of_runs(tmp_path / "alone", paper),
                signal.SIGUSR2,
                jobs,
            )
            for paper in papers()
        ]
        _, err = jobs.communicate()
    assert jobs.returncode == 0, err
    assert all(one.result() for one in preempted)
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
