"""The command in processes of its own: kills, signals, full disks, processes side by side."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support import ROOT, TOYS, launch_two, only_run, read_json, status

Start = Callable[..., "subprocess.Popen[str]"]
RunToy = Callable[..., "subprocess.CompletedProcess[str]"]

SLOW_WALK = ("paper=toy", "only=[walk]", "seeds=[0]", "experiments.walk.sleep_s=0.02")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


def wait_for_steps(process: subprocess.Popen[str], work: Path, num_checkpoints: int) -> None:
    """Wait until the run has written this many checkpoints, or has ended."""
    seen: set[str] = set()
    while process.poll() is None and len(seen) < num_checkpoints:
        seen |= {path.name for path in work.glob("runs/toy/walk/*/*/seed0/checkpoints/*/*.pt")}
        time.sleep(0.01)


def metric_lines(work: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (only_run(work) / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The metrics of the slow walk, run without a break in a process of its own."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    shutil.copytree(ROOT / "configs", folder / "configs")
    shutil.copy(TOYS / "toy.yaml", folder / "configs" / "paper")
    (folder / "work").mkdir()
    command = [sys.executable, str(TOYS / "run_toy.py"), str(folder / "configs"), *SLOW_WALK]
    subprocess.run(command, cwd=folder / "work", check=True, capture_output=True)
    result: dict[str, Any] = read_json(only_run(folder / "work") / "result.json")
    return result


def test_source_change_runs_again(run_toy: RunToy, work: Path, tmp_path: Path) -> None:
    changed = tmp_path / "toys"
    subprocess.run(["cp", "-r", str(TOYS), str(changed)], check=True)
    assert run_toy("paper=toy", "only=[constant]").returncode == 0
    source = changed / "toy" / "experiments.py"
    source.write_text(source.read_text().replace('"""Experiments of the test paper."""', '"""Changed."""'))
    again = subprocess.run(
        [sys.executable, str(changed / "run_toy.py"), str(tmp_path / "configs"), "paper=toy", "only=[constant]"],
        cwd=work,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "changed since the last finished run: source file toy/experiments.py" in again.stderr


@pytest.mark.parametrize(("signum", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_run_checkpoints_and_goes_on_to_the_same_result(
    start_toy: Start, run_toy: RunToy, work: Path, uninterrupted: dict[str, Any], signum: int, exit_code: int
) -> None:
    process = start_toy(*SLOW_WALK)
    wait_for_steps(process, work, 3)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == exit_code
    assert "interrupted; the same command goes on from here" in err
    assert "Traceback" not in err
    assert status(only_run(work)) == "interrupted"
    assert not (only_run(work) / "result.json").exists()

    again = run_toy(*SLOW_WALK)
    assert again.returncode == 0
    assert "going on (status was interrupted)" in again.stderr
    assert "resuming at step" in again.stderr
    assert read_json(only_run(work) / "result.json") == uninterrupted


def test_run_killed_three_times_ends_with_the_same_result(
    start_toy: Start, run_toy: RunToy, work: Path, uninterrupted: dict[str, Any]
) -> None:
    moments = random.Random(time.time_ns())
    kills = [moments.randint(1, 4) for _ in range(3)]
    print("checkpoints seen before each kill:", kills)
    for num_checkpoints in kills:
        process = start_toy(*SLOW_WALK)
        wait_for_steps(process, work, num_checkpoints)
        time.sleep(moments.random() * 0.1)
        process.kill()
        process.communicate()
        assert not (only_run(work) / "result.json").exists()
        assert status(only_run(work)) == "running"
    last = run_toy(*SLOW_WALK)
    assert last.returncode == 0, last.stderr
    assert "going on (status was running)" in last.stderr
    assert read_json(only_run(work) / "result.json") == uninterrupted
    steps = [(line["stage"], line["kind"], line["step"]) for line in metric_lines(work)]
    assert len(set(steps)) == len(steps) == 30 + 30 + 5
    assert steps == sorted(steps, key=lambda step: (step[0], step[2], step[1] == "evaluate"))


def test_resume_false_starts_from_nothing(start_toy: Start, run_toy: RunToy, work: Path) -> None:
    process = start_toy(*SLOW_WALK)
    wait_for_steps(process, work, 2)
    process.kill()
    process.communicate()
    again = run_toy(*SLOW_WALK, "resume=false")
    assert again.returncode == 0
    assert "starting anew (resume=false) (status was running)" in again.stderr
    assert "resuming at step" not in again.stderr


def test_processes_side_by_side_give_the_results_of_one(run_toy: RunToy, work: Path) -> None:
    command = ("paper=toy", "seeds=[0,1,2]")
    for extra in (("runs_dir=one_by_one",), ("jobs=2",)):
        done = run_toy(*command, *extra)
        assert done.returncode == 0, done.stderr
    for seed in range(3):
        (alone,) = (work / "one_by_one" / "toy" / "walk").glob(f"*/*/seed{seed}/result.json")
        assert read_json(alone) == read_json(only_run(work, seed=seed) / "result.json")


def test_one_dead_process_is_the_failure_of_one_run(start_toy: Start, work: Path) -> None:
    process = start_toy("paper=toy", "seeds=[0,1]", "experiments.walk.sleep_s=0.05", "jobs=2")
    wait_for_steps(process, work, 1)
    os.kill(read_json(only_run(work) / "run.json")["process"]["pid"], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "walk seed 0: its process ended with exit code -9" in err
    assert status(only_run(work)) == "failed"
    assert status(only_run(work, seed=1)) == "finished"
    assert status(only_run(work, "constant")) == "finished"


def test_ctrl_c_reaches_the_processes_of_a_run(start_toy: Start, work: Path) -> None:
    process = start_toy("paper=toy", "only=[walk]", "seeds=[0,1,2]", "experiments.walk.sleep_s=0.1", "jobs=2")
    wait_for_steps(process, work, 1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert status(only_run(work)) == "interrupted"
    assert not list((work / "runs" / "toy" / "walk").glob("*/*/seed2"))


def test_second_process_waits_for_the_first_and_takes_its_result(start_toy: Start, work: Path) -> None:
    slower = ("paper=toy", "only=[walk]", "seeds=[0]", "experiments.walk.sleep_s=0.3")
    first = start_toy(*slower)
    wait_for_steps(first, work, 1)
    second = start_toy(*slower)
    _, second_err = second.communicate(timeout=120)
    first.communicate(timeout=120)
    assert first.returncode == second.returncode == 0
    assert "another process runs this; waiting for it" in second_err
    assert "1 of 1 runs were finished before" in second_err
    assert len(metric_lines(work)) == 65


def test_failed_job_of_a_multirun_is_the_exit_code_of_all(run_toy: RunToy, work: Path) -> None:
    done = run_toy("--multirun", "paper=toy", "only=[constant]", "experiments.constant.fail=true,false")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    statuses = sorted(status(path.parent) for path in (work / "runs/toy/constant").glob("*/*/seed0/run.json"))
    assert statuses == ["failed", "finished"]


def test_full_disk_is_a_clear_failure_without_a_result(tmp_path: Path, run_toy: RunToy, work: Path) -> None:
    assert run_toy("paper=toy", "--cfg", "job").returncode == 0  # byte code and font caches exist from here on
    limit = 8_000  # bytes a file: room for run.json and a metric line, not for a picture

    def restrict() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [sys.executable, str(TOYS / "run_toy.py"), str(tmp_path / "configs"), "paper=toy", "only=[walk]", "seeds=[0]"],
        cwd=work, capture_output=True, text=True, preexec_fn=restrict,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "walk seed 0 failed: OSError: [Errno 27] File too large" in done.stderr
    assert status(only_run(work)) == "failed"
    assert not (only_run(work) / "result.json").exists()
    assert not list(only_run(work).rglob("*.tmp"))

    again = run_toy("paper=toy", "only=[walk]", "seeds=[0]")
    assert again.returncode == 0
    assert status(only_run(work)) == "finished"


def test_launched_processes_make_one_run(toy_configs: Path, work: Path, uninterrupted: dict[str, Any]) -> None:
    for message in ("walk seed 0: running", "1 of 1 runs were finished before"):
        done = launch_two(TOYS / "run_toy.py", toy_configs, *SLOW_WALK, cwd=work)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count(message) == 1
        assert done.stdout.count(" inconclusive,") == 1
    assert read_json(only_run(work) / "result.json") == uninterrupted
    assert len(metric_lines(work)) == 65


def test_multirun_stops_with_the_job_that_was_interrupted(start_toy: Start, work: Path) -> None:
    process = start_toy("--multirun", "paper=toy", "only=[walk]", "seeds=[0],[1]", "experiments.walk.sleep_s=0.1")
    wait_for_steps(process, work, 1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Traceback" not in err
    assert status(only_run(work)) == "interrupted"
    assert not list((work / "runs" / "toy" / "walk").glob("*/*/seed1"))


def test_launched_processes_end_when_the_main_one_cannot_write(toy_configs: Path, work: Path) -> None:
    folder = work / "runs" / "toy"
    folder.mkdir(parents=True)
    (folder / "walk").write_text("in the way")
    done = launch_two(TOYS / "run_toy.py", toy_configs, *SLOW_WALK, cwd=work)
    assert done.returncode == 1
    assert "cannot write the run's folder" in done.stderr


def test_launched_processes_refuse_jobs(toy_configs: Path, work: Path) -> None:
    command = [sys.executable, str(TOYS / "run_toy.py"), str(toy_configs), "paper=toy", "jobs=2"]
    environment = {**os.environ, "WORLD_SIZE": "2", "RANK": "0"}
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 2
    assert done.stderr == "jobs: several launched processes make one run together: use jobs=1\n"


@pytest.fixture
def start_job(start_toy: Start, tmp_path: Path) -> Start:
    """Return a function that starts the slow walk as a job of submitit's local executor."""
    pytest.importorskip("submitit", reason="needs pip install 'iclr-repro[cluster]'")
    # Its jobs are processes that know nothing of the test paper.
    (tmp_path / "sitecustomize.py").write_text("import run_toy\n")
    environment = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{TOYS}", "TOY_CONFIGS": str(tmp_path / "configs")}
    return partial(start_toy, "--multirun", *SLOW_WALK, "hydra/launcher=submitit_local", **environment)


# By submitit's rules a job of an hour that is warned after seconds is preempted, one of a minute has reached its time.
@pytest.mark.parametrize(("minutes", "why"), [(60, "preempted"), (1, "timed-out")])
def test_job_of_a_cluster_that_is_warned_of_its_end_goes_on_to_the_same_result(
    start_job: Start, work: Path, uninterrupted: dict[str, Any], minutes: int, why: str
) -> None:
    process = start_job(f"hydra.launcher.timeout_min={minutes}")
    wait_for_steps(process, work, 3)
    first = read_json(only_run(work) / "run.json")["process"]["pid"]
    os.kill(first, signal.SIGUSR2)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert read_json(only_run(work) / "run.json")["process"]["pid"] != first
    log = "".join(path.read_text() for path in work.glob("runs/.multirun/.submitit/*/*_log.err"))
    assert f"this job is {why}" in log
    assert "going on (status was running), from step" in log
    assert read_json(only_run(work) / "result.json") == uninterrupted
    assert len(metric_lines(work)) == 65


def test_job_of_a_cluster_that_is_ended_by_sigterm_goes_on_when_called_again(
    start_job: Start, work: Path, uninterrupted: dict[str, Any]
) -> None:
    process = start_job()
    wait_for_steps(process, work, 3)
    os.kill(read_json(only_run(work) / "run.json")["process"]["pid"], signal.SIGTERM)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "a job of the cluster did not come to its end" in err
    assert "Traceback" not in err
    assert status(only_run(work)) == "interrupted"
    again = start_job()
    _, err = again.communicate(timeout=200)
    assert again.returncode == 0, err
    assert read_json(only_run(work) / "result.json") == uninterrupted
