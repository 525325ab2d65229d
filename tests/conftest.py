"""Fixtures shared by all tests: the data folder, a cache of their own, and the command with the test paper."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import settings

from support import ROOT, TOYS

os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile(
    "iclr_repro", deadline=None
)  # the first call of a test imports and compiles, and machines are busy
settings.load_profile("iclr_repro")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests away from the user's cache."""
    if "ICLR_REPRO_CACHE" not in os.environ:
        monkeypatch.setenv("ICLR_REPRO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch the run-time type checker off, whose refusal of a wrong shape would come before our own, as for users."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


Command = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def toy_configs(tmp_path: Path) -> Path:
    """A copy of the configurations with the test paper's among them, beside the empty folder `tmp_path / "work"`."""
    configs = tmp_path / "configs"
    shutil.copytree(ROOT / "configs", configs)
    for paper in TOYS.glob("*.yaml"):
        shutil.copy(paper, configs / "paper")
    (tmp_path / "work").mkdir()
    return configs


@pytest.fixture
def start_toy(toy_configs: Path, tmp_path: Path) -> Command:
    """Return a function that starts the command with the test paper in the folder `tmp_path / "work"`."""

    def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(TOYS / "run_toy.py"), str(toy_configs), *arguments],
            cwd=tmp_path / "work",
            env={**os.environ, "ICLR_REPRO_OFFLINE": "1", "COLUMNS": "200", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def run_toy(start_toy: Command) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs the command with the test paper to its end."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        process = start_toy(*arguments, **environment)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run


@pytest.fixture
def toy(toy_configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Return the command's `main` with the test paper among the papers, inside this process and `tmp_path / "work"`."""
    import iclr_repro
    from iclr_repro import choices, command_line, run

    monkeypatch.setattr(iclr_repro, "__path__", [*iclr_repro.__path__, str(TOYS)])
    for module in (choices, command_line, run):
        monkeypatch.setattr(module, "configs_dir", lambda: toy_configs)
    monkeypatch.chdir(tmp_path / "work")
    log = logging.getLogger("iclr_repro")
    handlers = list(log.handlers)
    log.handlers.clear()

    yield lambda *arguments: run.main(arguments)

    logging.captureWarnings(False)
    log.handlers[:] = handlers
