"""Every paper's smoke run, killed three times at random moments, ends with the numbers of a run that was left alone."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iclr_repro.choices import papers
from support import read_json


def start(paper: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "iclr_repro.run", f"paper={paper}", "scale=smoke", f"runs_dir={folder}"],
        env={**os.environ, "ICLR_REPRO_OFFLINE": "1", "ICLR_REPRO_CACHE": str(folder / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def metrics(folder: Path) -> dict[str, Any]:
    """Return the metrics of each run but times: without `efficiency`, and names with a time in them."""
    return {
        f"{path.parents[3].name}/{path.parent.name}/{name}": value
        for path in folder.glob("*/*/smoke/*/*/result.json")
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
    expected = metrics(tmp_path / "alone")
    assert expected
    found = metrics(tmp_path / "killed")
    assert found.keys() == expected.keys()
    for name, value in expected.items():  # not bit for bit: the last digits of LAPACK differ between processes
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-12, err_msg=name)
