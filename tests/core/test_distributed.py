"""Also the program that two processes run: `test_distributed.py <folder>`, with the environment of a launcher."""

import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from iclr_repro.core import distributed
from iclr_repro.core.loop import EarlyStopping, Loop
from iclr_repro.core.metriclog import MetricLog
from iclr_repro.core.seeding import RandomStreams
from iclr_repro.core.tracking import make_tracker

LOSSES = [0.9, 0.2, 0.5, 0.1, 0.3, 0.4, 0.5, 0.6, 0.7]
STOPS_AT = 7  # three evaluations after the best, 0.1 at step 4


class Counter:
    """Counts its steps; one of the processes may fail."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.steps, self.fails_at = 0, fails_at

    def step(self) -> dict[str, float]:
        self.steps += 1
        if self.steps == self.fails_at:
            raise RuntimeError("a step failed")
        return {"step": float(self.steps)}

    def evaluate(self) -> dict[str, float]:
        return {"loss": LOSSES[self.steps - 1]}

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


def fit(folder: Path, learner: Counter) -> dict[str, Any]:
    """Run as one process of a run begins: the main one alone has the file of metrics."""
    loop = Loop(
        checkpoints=folder / "checkpoints",
        metrics=MetricLog(folder / "metrics.jsonl" if distributed.is_main() else None),
        streams=RandomStreams(0),
        tracker=make_tracker("none", directory=folder, run_name="run", config={}),
        log=logging.getLogger("test"),
        show_progress=False,
    )
    stop = EarlyStopping(metric="loss", patience=3, higher_is_better=False)
    try:
        history = loop.fit(learner, 9, evaluate=learner.evaluate, eval_every=1, checkpoint_every=2, stop=stop)
    finally:
        loop.metrics.close()
    return {"losses": history.values("loss", kind="evaluate").tolist(), "early": history.stopped_early}


def take_part(folder: Path) -> None:
    """Do in one of the processes what the test looks at, and write it to <folder>/<rank>.json."""
    distributed.start(torch.device("cpu"))
    rank = int(os.environ["RANK"])
    seen: dict[str, Any] = {
        "is_main": distributed.is_main(),
        "num_processes": distributed.num_processes(),
        "any": [distributed.any_process(flag) for flag in (False, rank == 1, rank == 0, True)],
        "from_main": distributed.from_main({"rank": rank, "reason": None}),
    }
    # All fail in step 6, after the checkpoints of 2 and 4; then the main process finds that lines are missing.
    for name in ("crashed", "lines lost"):
        try:
            fit(folder / name, Counter(fails_at=6))
        except RuntimeError:
            distributed.barrier()
    if distributed.is_main():
        metrics = folder / "lines lost" / "metrics.jsonl"
        metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:5]))
    for name in ("crashed", "lines lost"):
        learner = Counter()
        seen[name] = fit(folder / name, learner)
        seen[f"{name}, finished"] = fit(folder / name, Counter(fails_at=1))
    (folder / f"{rank}.json").write_text(json.dumps(seen))


def test_a_single_process_is_the_main_one_and_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    distributed.start(torch.device("cpu"))
    distributed.barrier()
    distributed.stop()
    assert distributed.is_main()
    assert distributed.num_processes() == 1
    assert [distributed.any_process(flag) for flag in (False, True)] == [False, True]
    value = object()
    assert distributed.from_main(value) is value


def test_two_processes_agree_and_come_to_the_same_history_also_after_a_resume(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launched = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(tmp_path)],
            env={**os.environ, **launched, "RANK": rank, "LOCAL_RANK": rank, "CUDA_VISIBLE_DEVICES": ""},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    seen = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert [one.pop("is_main") for one in seen] == [True, False]
    assert seen[0] == seen[1]
    outcome = {"losses": LOSSES[:STOPS_AT], "early": True}
    assert seen[0] == {
        "num_processes": 2,
        "any": [False, True, True, True],
        "from_main": {"rank": 0, "reason": None},
        "crashed": outcome,
        "crashed, finished": outcome,
        "lines lost": outcome,
        "lines lost, finished": outcome,
    }


@pytest.mark.parametrize(
    ("launcher", "expected"),
    [
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, "loopback"),
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "eth7"}, "eth7"),
        ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, None),
        ({"WORLD_SIZE": "2"}, None),
        ({}, None),
    ],
)
def test_processes_of_one_host_talk_over_its_loopback_interface(
    monkeypatch: pytest.MonkeyPatch, launcher: dict[str, str], expected: str | None
) -> None:
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GLOO_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    distributed.keep_to_this_host()
    interface = os.environ.get("GLOO_SOCKET_IFNAME")
    assert ("loopback" if interface in ("lo", "lo0") else interface) == expected


if __name__ == "__main__":
    take_part(Path(sys.argv[1]))
    distributed.stop()
