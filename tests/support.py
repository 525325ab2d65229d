"""What tests share besides fixtures: where the repository and the reference values are."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from iclr_repro.core.loop import Loop
from iclr_repro.core.metriclog import MetricLog
from iclr_repro.core.rundir import Run
from iclr_repro.core.seeding import RandomStreams
from iclr_repro.core.tracking import NoTracker

ROOT = Path(__file__).resolve().parents[1]
TOYS = ROOT / "tests" / "toys"


def golden_dir(paper: str) -> Path:
    """Return the folder of a paper's reference values; skips the calling module where it does not exist."""
    folder = Path(os.environ.get("ICLR_REPRO_GOLDEN", ROOT.parent / "shared" / "golden")) / paper
    if not folder.is_dir():
        pytest.skip(f"no reference values: {folder} does not exist (ICLR_REPRO_GOLDEN)", allow_module_level=True)
    return folder


def bare_run(folder: Path, *, seed: int = 0) -> Run:
    """Return a run that keeps nothing: for calling an experiment without the command."""
    log, streams = logging.getLogger("iclr_repro.test"), RandomStreams(seed)
    loop = Loop(checkpoints=None, metrics=MetricLog(None), streams=streams, tracker=NoTracker(), log=log)
    return Run(
        dir=folder,
        seed=seed,
        device=torch.device("cpu"),
        scale="smoke",
        config={},
        log=log,
        loop=loop,
        streams=streams,
    )


def only_run(work: Path, experiment: str = "walk", seed: int = 0, *, paper: str = "toy") -> Path:
    """Return the one run folder of an experiment and seed."""
    (folder,) = (work / "runs" / paper / experiment).glob(f"*/*/seed{seed}")
    return folder


def read_json(path: Path) -> Any:
    """Return the content of a JSON file."""
    return json.loads(path.read_text())


def status(folder: Path) -> str:
    """Return the status of a run folder."""
    return str(read_json(folder / "run.json")["status"])


def launch_two(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script with its arguments in two processes of this host; fail with what they printed after 150 s."""
    # torchrun, which finds a free port itself; `accelerate launch --cpu` starts a single process without MPI.
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    process = subprocess.Popen(
        [*torchrun, "--nproc-per-node=2", *map(str, command)],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=150)
    except subprocess.TimeoutExpired:
        # torchrun's workers have sessions of their own and hold the pipes: all of them must go before the second read.
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            one.kill()
        out, err = process.communicate()
        pytest.fail(f"the two processes did not end in 150 s; they printed:\n{out}\n{err}")
    return subprocess.CompletedProcess(command, process.returncode, out, err)
