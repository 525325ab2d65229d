"""Under DDP the local weights are reflected in every process: two of them compute what one does."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from support import launch_two, read_json

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("topoformer_two_processes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Run the script in two processes and return what each of them wrote."""
    folder = tmp_path_factory.mktemp("two_processes")
    done = launch_two(SCRIPT, folder)
    assert done.returncode == 0, done.stderr
    return [read_json(folder / f"{rank}.json") for rank in (0, 1)]


@pytest.mark.parametrize("mode", ["in the forward", "after the step"])
def test_two_processes_train_as_one(mode: str, script: ModuleType, launched: list[Any]) -> None:
    one, other = (of_rank[mode] for of_rank in launched)
    assert one == other, "every process has the same gradients and weights"
    alone = script.trained(mode)
    assert len(one["gradients"]) == script.STEPS
    np.testing.assert_allclose(one["gradients"], alone["gradients"], rtol=1e-9, atol=1e-12)
    for theirs, ours in zip(one["weights"], alone["weights"], strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-7, atol=1e-10)
