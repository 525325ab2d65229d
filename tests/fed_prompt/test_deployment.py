"""A real SuperLink and two SuperNodes on loopback give the embedded engine's parameters."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="the extra `federated` is not installed")

from iclr_repro.fed_prompt import ClientUpdate, FedAvg, run_federation, trainable_state
from iclr_repro.fed_prompt.flower_app import Site, build_model
from iclr_repro.fed_prompt.training import arrays
from support import ROOT

_APP = ROOT / "src" / "iclr_repro" / "fed_prompt" / "flower_app"
_CONFIG: dict[str, Any] = {
    "data": "synthetic",
    "encoder": "small",
    "num-clients": 2,
    "num-virtual-tokens": 8,
    "length": 40,
    "rounds": 2,
    "steps": 2,
    "batch-size": 8,
    "prompt-rate": 3e-2,
    "head-rate": 1e-3,
    "strategy": "fedavg",
    "exponent": 1.0,
    "seed": 0,
}
_PATIENCE_S = 480.0


class Sites:
    """Both sites in this process."""

    def __init__(self) -> None:
        self.sites = [Site(_CONFIG, partition) for partition in range(2)]

    def train(self, client: int, parameters: Any, round: int, *, proximal_mu: float = 0.0) -> ClientUpdate:
        return self.sites[client].train(client, parameters, round, proximal_mu=proximal_mu)


def embedded(rounds: int) -> Any:
    start = arrays(trainable_state(build_model(_CONFIG)))
    return run_federation(Sites(), start, clients=["l0", "l1"], strategy=FedAvg(), rounds=rounds).parameters


def test_sites_differ_and_the_app_starts_from_one_phi() -> None:
    first, second = Sites().sites
    start = arrays(trainable_state(build_model(_CONFIG)))
    updates = [site.train(0, start, 1) for site in (first, second)]
    assert any(
        not np.array_equal(updates[0].parameters[name], updates[1].parameters[name]) for name in updates[0].parameters
    )
    again = arrays(trainable_state(build_model(_CONFIG)))
    assert all(np.array_equal(start[name], again[name]) for name in start)


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_superlink_and_two_supernodes_give_the_embedded_parameters(tmp_path: Path) -> None:
    home, app, result = tmp_path / "home", tmp_path / "app", tmp_path / "phi.npz"
    home.mkdir()
    app.mkdir()
    (app / "pyproject.toml").write_text((_APP / "pyproject.toml").read_text())
    server, *nodes = free_ports(3)
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{server}"\ninsecure = true\n'
    )
    environment = {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    node = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{server}"]
    commands = [
        ["flower-superlink", "--insecure", "--port", str(server), "--disable-runtime-dependency-installation"],
        *(
            [*node, "--port", str(port), "--node-config", f"partition-id={k} num-partitions=2"]
            for k, port in enumerate(nodes)
        ),
    ]
    changes = " ".join(
        f'{key}="{value}"' if isinstance(value, str) else f"{key}={value}"
        for key, value in {**_CONFIG, "save": str(result)}.items()
    )
    processes = []
    with (tmp_path / "log.txt").open("wb") as log:
        options: Any = {"env": environment, "cwd": tmp_path, "stdout": log, "stderr": log}
        try:
            processes = [subprocess.Popen(command, **options, start_new_session=True) for command in commands]
            deadline = time.monotonic() + _PATIENCE_S
            run = ["flwr", "run", str(app), "--run-config", changes]
            while subprocess.run(run, **options).returncode != 0:  # until the SuperLink listens
                assert time.monotonic() < deadline, (tmp_path / "log.txt").read_text()[-3000:]
                time.sleep(2)
            while not (result.is_file() and int(np.load(result)["round"]) == _CONFIG["rounds"]):
                assert time.monotonic() < deadline, (tmp_path / "log.txt").read_text()[-3000:]
                time.sleep(1)
        finally:
            for process in reversed(processes):
                os.killpg(process.pid, signal.SIGTERM)
            for process in processes:
                try:
                    process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
    expected = embedded(_CONFIG["rounds"])
    with np.load(result) as found:
        assert all(np.abs(found[name] - expected[name]).max() <= 1e-6 for name in expected)
