import json
import logging
import math
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from iclr_repro.core import interruption
from iclr_repro.core import loop as loop_module
from iclr_repro.core.checkpoint import load_checkpoints
from iclr_repro.core.interruption import Interrupted, orderly_interruption
from iclr_repro.core.loop import EarlyStopping, History, Learner, Loop, NonFiniteError
from iclr_repro.core.metriclog import MetricLog
from iclr_repro.core.seeding import RandomStreams, seed_global_generators

LOG = logging.getLogger("test")


@pytest.fixture(scope="module", autouse=True)
def _a_generator_that_the_type_checker_does_not_share() -> Iterator[None]:
    """Replace Python's global generator: beartype draws from it to choose the element of a list that it checks."""
    own = random.Random()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("gauss", "getstate", "random", "randrange", "seed", "setstate"):
            patch.setattr(random, name, getattr(own, name))
        yield


class FakeTracker:
    """Remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def log(self, metrics: Mapping[str, float], *, step: int, stage: str) -> None:
        self.calls.append((stage, step, dict(metrics)))

    def resume(self, *, step: int, stage: str) -> None:
        self.calls.append(("resume", stage, step))

    def close(self) -> None: ...


class Process:
    """What a run has when its process begins."""

    def __init__(self, folder: Path | None) -> None:
        seed_global_generators(3)
        self.streams = RandomStreams(3)
        self.tracker = FakeTracker()
        self.loop = Loop(
            checkpoints=None if folder is None else folder / "checkpoints",
            metrics=MetricLog(None if folder is None else folder / "metrics.jsonl"),
            streams=self.streams,
            tracker=self.tracker,
            log=LOG,
            show_progress=False,
        )

    def fit(self, learner: Learner, steps: int, **options: Any) -> History:
        """Run one stage and end."""
        try:
            return self.loop.fit(learner, steps, **options)
        finally:
            self.loop.metrics.close()


class Walk:
    """Depends on every kind of random stream and state that a learner may have."""

    def __init__(self, streams: RandomStreams, tick: Callable[[], None] = lambda: None) -> None:
        self.streams = streams
        self.tick = tick
        self.position = streams.numpy("initialisation").standard_normal(3).astype(np.float32)
        self.velocity = torch.randn(2, generator=streams.torch("initialisation"), dtype=torch.float64)
        self.rate = np.float32(0.9)
        self.visited: list[tuple[int, str]] = []

    def step(self) -> dict[str, float]:
        self.position += self.streams.numpy("data").standard_normal(3, dtype=np.float32)
        self.velocity *= torch.rand(2, generator=self.streams.torch("noise"), dtype=torch.float64)
        self.tick()  # may end the process in the middle of the step
        self.rate = self.rate * np.float32(1.01) + np.float32(random.gauss(0.0, 0.1))
        self.visited.append((random.randrange(9), "yes"))
        return {
            "position": float(self.position.sum() * self.rate),
            "noise": np.random.standard_normal() + float(torch.rand(())),  # noqa: NPY002
        }

    def evaluate(self) -> dict[str, float]:
        self.tick()
        return {"distance": float(self.velocity.norm()) + float(self.streams.numpy("evaluation").random())}

    def state_dict(self) -> dict[str, Any]:
        return {
            "position": self.position,
            "velocity": self.velocity,
            "rate": self.rate,
            "visited": self.visited,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position, self.velocity = state["position"], state["velocity"]
        self.rate, self.visited = state["rate"], state["visited"]


def study(process: Process, tick: Callable[[], None] = lambda: None, checkpoint_every: int | None = 2) -> list[Any]:
    """Run two stages with draws between them; return all that came out, bit for bit."""
    fit = process.loop.fit
    first = Walk(process.streams, tick)
    histories = [fit(first, 5, name="first", evaluate=first.evaluate, eval_every=2, checkpoint_every=checkpoint_every)]
    between = [process.streams.numpy("data").random(), np.random.random(), random.random()]  # noqa: NPY002
    tick()
    second = Walk(process.streams, tick)
    histories.append(fit(second, 4, name="second", checkpoint_every=checkpoint_every, log_every=3))
    process.loop.metrics.close()
    after = [*between, process.streams.numpy("data").random(), float(torch.rand(())), random.gauss(0, 1)]
    return [
        histories,
        [learner.position.tobytes() for learner in (first, second)],
        [learner.velocity.tolist() for learner in (first, second)],
        [(learner.rate, learner.visited) for learner in (first, second)],
        after,
    ]


NUM_TICKS = 13  # 5 steps and evaluations at 2, 4 and 5; one in between; 4 steps


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], bytes]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    counter = Countdown(10**6, lambda: None)
    outcome = study(Process(folder), counter)
    assert 10**6 - counter.left == NUM_TICKS
    return outcome, (folder / "metrics.jsonl").read_bytes()


class Countdown:
    """Calls `end` at the `left`-th call."""

    def __init__(self, left: int, end: Callable[[], None]) -> None:
        self.left = left
        self.end = end

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.end()


class CrashError(Exception):
    pass


def crash() -> None:
    raise CrashError


def ask_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("tick", range(1, NUM_TICKS + 1))
@pytest.mark.parametrize(("end", "checkpoint_every"), [("error", 2), ("kill", 2), ("signal", 2), ("signal", None)])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    tmp_path: Path, uninterrupted: tuple[list[Any], bytes], tick: int, end: str, checkpoint_every: int | None
) -> None:
    folder = tmp_path / "run"
    process = Process(folder)
    with pytest.raises((CrashError, Interrupted)), orderly_interruption():
        study(process, Countdown(tick, ask_to_stop if end == "signal" else crash), checkpoint_every)
    if end == "kill":  # lines that were not flushed are lost
        shutil.copytree(folder, tmp_path / "left") if folder.exists() else None
        folder = tmp_path / "left"
    process.loop.metrics.close()

    assert study(Process(folder), checkpoint_every=checkpoint_every) == uninterrupted[0]
    assert (folder / "metrics.jsonl").read_bytes() == uninterrupted[1]


class Stepper:
    """Counts its steps; what a step does beside can be given."""

    def __init__(self, during: Callable[[int], Mapping[str, float] | None] = lambda step: None) -> None:
        self.during = during
        self.steps = 0

    def step(self) -> Mapping[str, float]:
        self.steps += 1
        values = self.during(self.steps)
        return {"loss": 1.0 / self.steps} if values is None else values

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


def saved_steps(folder: Path, stage: str = "train") -> list[int]:
    return [step for step, _ in load_checkpoints(folder / "checkpoints" / stage, LOG)]


def test_the_learners_of_these_tests_are_learners() -> None:
    assert isinstance(Walk(RandomStreams(0)), Learner)
    assert isinstance(Stepper(), Learner)


def test_a_run_that_is_stopped_in_every_step_comes_to_the_same_result(tmp_path: Path) -> None:
    def fit(folder: Path, tick: Callable[[], None] = lambda: None) -> tuple[History, dict[str, Any]]:
        process = Process(folder)
        walk = Walk(process.streams, tick)
        history = process.fit(walk, 5)
        return history, {**walk.state_dict(), "position": walk.position.tolist(), "velocity": walk.velocity.tolist()}

    for step in range(1, 6):
        with pytest.raises(Interrupted), orderly_interruption():
            fit(tmp_path / "stopped", ask_to_stop)
        assert saved_steps(tmp_path / "stopped")[0] == step
    assert fit(tmp_path / "stopped", crash) == fit(tmp_path / "uninterrupted")


def test_a_finished_stage_returns_at_once_with_its_history_and_state(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    process = Process(tmp_path)
    history = process.fit(Stepper(), 4, name="adapt", evaluate=lambda: {"accuracy": 0.5})

    def refuse(*_: Any) -> None:
        pytest.fail("a finished stage went on")

    again, learner = Process(tmp_path), Stepper(refuse)
    assert again.fit(learner, 4, name="adapt", evaluate=refuse) == history
    assert learner.steps == 4
    assert again.loop.timings == process.loop.timings
    assert again.tracker.calls == [("resume", "adapt", 4)]
    assert caplog.messages == ["stage adapt: finished before (4 steps)"]


def test_a_resumed_stage_says_where_it_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(CrashError):
        Process(tmp_path).fit(Stepper(lambda step: crash() if step == 4 else None), 5, checkpoint_every=3)
    process = Process(tmp_path)
    process.fit(Stepper(), 5)
    assert caplog.messages == ["stage train: resuming at step 3"]
    assert process.tracker.calls == [
        ("resume", "train", 3),
        ("train", 4, {"loss": 0.25}),
        ("train", 5, {"loss": 0.2}),
    ]


def test_metrics_are_on_disk_before_the_checkpoint_that_counts_them(tmp_path: Path) -> None:
    on_disk = []

    def step(number: int) -> None:
        if number in {3, 5}:
            on_disk.append(len(MetricLog(tmp_path / "metrics.jsonl").records("train")))

    Process(tmp_path).fit(Stepper(step), 5, checkpoint_every=2)
    assert on_disk == [2, 4]


def test_without_a_folder_a_stage_runs_in_memory() -> None:
    process = Process(None)
    history = process.fit(Stepper(), 3, checkpoint_every=1)
    assert history.values("loss").tolist() == [1.0, 0.5, 1 / 3]


def test_a_stage_of_no_steps_is_finished_and_evaluates_nothing(tmp_path: Path) -> None:
    process = Process(tmp_path)
    history = process.fit(Stepper(), 0, evaluate=lambda: {"accuracy": 1.0})
    assert history == History((), stopped_early=False)
    assert saved_steps(tmp_path) == [0]
    assert process.loop.timings["train"].steps_per_s == 0.0


@pytest.mark.parametrize(
    ("steps", "eval_every", "expected"),
    [(4, 2, [2, 4]), (5, 2, [2, 4, 5]), (5, None, [5]), (2, 7, [2]), (3, 1, [1, 2, 3])],
)
def test_evaluations_happen_every_so_many_steps_and_once_at_the_end(
    steps: int, eval_every: int | None, expected: list[int]
) -> None:
    process, learner, calls = Process(None), Stepper(), []

    def evaluate() -> dict[str, float]:
        calls.append(learner.steps)
        return {"accuracy": learner.steps / 8}

    history = process.fit(learner, steps, evaluate=evaluate, eval_every=eval_every)
    assert calls == expected
    assert history.steps("accuracy", kind="evaluate").tolist() == expected
    assert history.values("accuracy", kind="evaluate").tolist() == [step / 8 for step in expected]
    logged = [call for call in process.tracker.calls if "evaluate/accuracy" in call[2]]
    assert logged == [("train", step, {"evaluate/accuracy": step / 8}) for step in expected]


def test_evaluations_happen_at_the_steps_asked_for_too() -> None:
    evaluate = lambda: {"accuracy": 0.5}  # noqa: E731
    history = Process(None).fit(Stepper(), 9, evaluate=evaluate, eval_every=4, eval_at={1, 3, 8, 99})
    assert history.steps("accuracy", kind="evaluate").tolist() == [1, 3, 4, 8, 9]


@pytest.mark.parametrize(("log_every", "expected"), [(1, [1, 2, 3, 4, 5, 6, 7]), (3, [3, 6, 7]), (7, [7]), (99, [7])])
def test_steps_are_logged_every_so_many_and_at_the_end(log_every: int, expected: list[int]) -> None:
    process = Process(None)
    history = process.fit(Stepper(), 7, log_every=log_every)
    assert history.steps("loss").tolist() == expected
    assert history.values("loss").tolist() == [1 / step for step in expected]
    assert process.tracker.calls == [("train", step, {"loss": 1 / step}) for step in expected]


def test_metrics_of_numpys_type_become_pythons() -> None:
    history = Process(None).fit(Stepper(lambda step: {"loss": np.float64(0.25)}), 1)
    assert history.records[0]["metrics"] == {"loss": 0.25}
    assert type(history.records[0]["metrics"]["loss"]) is float


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("log_every", [1, 10])
def test_a_step_with_a_number_that_is_not_finite_ends_the_stage_and_leaves_the_last_checkpoint(
    tmp_path: Path, value: float, log_every: int
) -> None:
    process = Process(tmp_path)
    learner = Stepper(lambda step: {"fine": 1.0, "loss": value if step == 4 else 1.0})
    with pytest.raises(NonFiniteError) as caught:
        process.fit(learner, 6, name="adapt", checkpoint_every=1, log_every=log_every)
    assert str(caught.value) == (
        f"loss is {value} at step 4 of stage 'adapt': lower the learning rate, clip gradients or check the data;"
        " the last checkpoint is from before this step"
    )
    assert saved_steps(tmp_path, "adapt") == [3, 2]
    assert all(record["step"] < 4 for record in MetricLog(tmp_path / "metrics.jsonl").records("adapt"))


def test_an_evaluation_that_is_not_finite_ends_the_stage_too() -> None:
    with pytest.raises(NonFiniteError, match=r"^accuracy is nan at step 2 of stage 'train'"):
        Process(None).fit(Stepper(), 6, evaluate=lambda: {"accuracy": math.nan}, eval_every=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps: got -1, expected >= 0"),
        ({"log_every": 0}, "log_every: got 0, expected >= 1"),
        ({"checkpoint_every": 0}, "checkpoint_every: got 0, expected >= 1"),
        ({"eval_every": -2, "evaluate": dict}, "eval_every: got -2, expected >= 1"),
        ({"eval_at": [2]}, "eval_at needs evaluate: the function that evaluates"),
        ({"eval_every": 2}, "eval_every needs evaluate: the function that evaluates"),
        ({"stop": lambda history: True}, "stop needs evaluate: the function that evaluates"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_before_the_first_step(options: dict[str, Any], message: str) -> None:
    learner = Stepper()
    with pytest.raises(ValueError, match=f"^{message}$"):
        Process(None).fit(learner, **{"steps": 3, **options})
    assert learner.steps == 0


def test_two_stages_of_one_name_are_refused_since_the_second_would_be_taken_for_finished(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.fit(Stepper(), 2, name="adapt")
    with pytest.raises(ValueError, match=r"^stage 'adapt' has run already: give every call of fit in a run a name of"):
        process.fit(Stepper(), 2, name="adapt")


def crashed_after(folder: Path, steps: int) -> None:
    """Leave what a run of 8 steps with checkpoints every 2 steps has on disk when it crashes after `steps` steps."""
    process = Process(folder)
    with pytest.raises(CrashError):
        fit_walk(process, Countdown(steps + 1, crash))


def fit_walk(process: Process, tick: Callable[[], None] = lambda: None) -> list[Any]:
    walk = Walk(process.streams, tick)
    history = process.fit(walk, 8, checkpoint_every=2)
    return [history, walk.position.tolist(), walk.velocity.tolist(), walk.rate, walk.visited]


@pytest.mark.parametrize(("num_lines", "step"), [(7, 6), (6, 6), (5, 4), (4, 4), (3, 0), (0, 0)])
def test_a_checkpoint_is_used_only_if_all_its_metrics_are_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, num_lines: int, step: int
) -> None:
    caplog.set_level(logging.INFO)
    uninterrupted = fit_walk(Process(tmp_path / "uninterrupted"))
    folder = tmp_path / "run"
    crashed_after(folder, 7)
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:num_lines]) + lines[-1][:20])

    assert fit_walk(Process(folder)) == uninterrupted
    assert metrics.read_bytes() == (tmp_path / "uninterrupted" / "metrics.jsonl").read_bytes()
    refused = [f"metrics.jsonl lacks lines of stage train: not resuming at step {s}" for s in (6, 4) if s > num_lines]
    assert caplog.messages == refused + ([f"stage train: resuming at step {step}"] if step else [])
    assert saved_steps(folder) == [8, 6]


@pytest.mark.parametrize("num_damaged", [1, 2])
def test_damaged_checkpoints_are_passed_over_and_without_any_the_stage_starts_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, num_damaged: int
) -> None:
    caplog.set_level(logging.INFO)
    uninterrupted = fit_walk(Process(tmp_path / "uninterrupted"))
    folder = tmp_path / "run"
    crashed_after(folder, 7)
    checkpoints = sorted((folder / "checkpoints" / "train").iterdir(), reverse=True)
    for path in checkpoints[:num_damaged]:
        path.write_bytes(path.read_bytes()[:-1])

    assert fit_walk(Process(folder)) == uninterrupted
    assert (folder / "metrics.jsonl").read_bytes() == (tmp_path / "uninterrupted" / "metrics.jsonl").read_bytes()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [message.split(" is ")[0] for message in warnings] == [f"checkpoint {p}" for p in checkpoints[:num_damaged]]
    assert ("stage train: resuming at step 4" in caplog.messages) == (num_damaged == 1)
    assert saved_steps(folder) == [8, 6]


@pytest.mark.parametrize(("signum", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_within_a_step_ends_the_stage_after_it_with_a_checkpoint(
    tmp_path: Path, signum: int, exit_code: int
) -> None:
    learner = Stepper(lambda step: os.kill(os.getpid(), signum) if step == 3 else None)
    process = Process(tmp_path)
    with pytest.raises(Interrupted) as caught, orderly_interruption():
        process.fit(learner, 6)
    assert caught.value.exit_code == exit_code
    assert learner.steps == 3
    assert saved_steps(tmp_path) == [3]
    assert [record["step"] for record in MetricLog(tmp_path / "metrics.jsonl").records("train")] == [1, 2, 3]


def test_a_second_signal_ends_the_stage_within_the_step(tmp_path: Path) -> None:
    reached = []

    def step(number: int) -> None:
        if number == 3:
            os.kill(os.getpid(), signal.SIGINT)
            reached.append("after the first")
            interruption._State.received_s -= 2.0  # as if two seconds had passed
            os.kill(os.getpid(), signal.SIGINT)
            reached.append("after the second")

    process = Process(tmp_path)
    with pytest.raises(Interrupted), orderly_interruption():
        process.fit(Stepper(step), 6, checkpoint_every=1)
    assert reached == ["after the first"]
    assert saved_steps(tmp_path) == [2, 1]


def test_a_signal_within_the_last_step_leaves_a_finished_stage(tmp_path: Path) -> None:
    process = Process(tmp_path)
    with pytest.raises(Interrupted), orderly_interruption():
        process.fit(Stepper(lambda step: ask_to_stop() if step == 4 else None), 4)
    history = Process(tmp_path).fit(Stepper(lambda step: crash()), 4)
    assert history.steps("loss").tolist() == [1, 2, 3, 4]


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(loop_module, "time", made)
    return made


@pytest.mark.parametrize(("checkpoint_every", "expected"), [(None, [3, 6, 8]), (4, [4, 8]), (5, [5, 8])])
def test_checkpoints_are_written_every_thirty_seconds_or_every_so_many_steps(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, checkpoint_every: int | None, expected: list[int]
) -> None:
    saved = []
    monkeypatch.setattr(loop_module, "save_checkpoint", lambda folder, step, state: saved.append(step))

    def step(number: int) -> None:
        clock.now += 10.0

    Process(tmp_path).fit(Stepper(step), 8, checkpoint_every=checkpoint_every)
    assert saved == expected


def test_checkpoints_do_not_change_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: tuple[list[Any], bytes]
) -> None:
    assert study(Process(None), checkpoint_every=None) == uninterrupted[0]
    monkeypatch.setattr(loop_module, "_CHECKPOINT_SECONDS", 0.0)  # after each step
    assert study(Process(tmp_path), checkpoint_every=None) == uninterrupted[0]


def test_the_time_of_a_stage_is_that_of_all_steps_that_count(tmp_path: Path, clock: Clock) -> None:
    def step_until(end: int) -> Callable[[int], None]:
        def step(number: int) -> None:
            clock.now += 2.0
            if number == end:
                raise CrashError

        return step

    for end in (3, 5):  # the checkpoints of steps 2 and 4 are left
        with pytest.raises(CrashError):
            Process(tmp_path).fit(Stepper(step_until(end)), 6, checkpoint_every=2)
    process = Process(tmp_path)
    process.fit(Stepper(step_until(99)), 6)
    (timing,) = process.loop.timings.values()
    assert (timing.steps, timing.seconds, timing.steps_per_s) == (6, 12.0, 0.5)
    assert timing.peak_memory_bytes


def history_of(*accuracies: float) -> History:
    log = MetricLog(None)
    for step, accuracy in enumerate(accuracies, start=1):
        log.append("train", "train", step, {"accuracy": -accuracy})  # must not be looked at
        log.append("train", "evaluate", step, {"accuracy": accuracy})
    return History(tuple(log.records("train")))


def test_early_stopping_waits_for_patience_evaluations_without_a_better_one() -> None:
    values = [0.5, 0.4, 0.45, 0.6, 0.6, 0.55, 0.59]
    stop = EarlyStopping(metric="accuracy", patience=3, higher_is_better=True)
    # Age of the best: 0 (0.5), 1, 2, 0 (0.6), 1 (an equal one is no better), 2, 3.
    assert [stop(history_of(*values[:end])) for end in range(1, 8)] == [False] * 6 + [True]
    stop = EarlyStopping(metric="accuracy", patience=2, higher_is_better=False)
    # Age of the best, the lowest: 0 (0.5), 0 (0.4), 1, 2.
    assert [stop(history_of(*values[:end])) for end in range(1, 5)] == [False, False, False, True]


def test_early_stopping_counts_an_improvement_only_beyond_min_delta() -> None:
    stop = EarlyStopping(metric="accuracy", patience=2, higher_is_better=True, min_delta=0.125)
    # The best is 0.5; 0.625 is not more than 0.5 + 0.125 (age 1), 0.6875 is (age 0), 0.75 and 0.8125 are not.
    values = [0.5, 0.625, 0.6875, 0.75, 0.8125]
    assert [stop(history_of(*values[:end])) for end in range(1, 6)] == [False, False, False, False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 0}, "patience: got 0, expected >= 1"),
        ({"patience": 1, "min_delta": -0.5}, "min_delta: got -0.5, expected >= 0"),
        ({"patience": 1, "min_delta": math.nan}, "min_delta: got nan, expected >= 0"),
    ],
)
def test_early_stopping_refuses_values_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        EarlyStopping(metric="accuracy", higher_is_better=True, **options)


@pytest.mark.parametrize("crash_at", [None, 1, 2, 3, 4, 5, 6])
def test_a_stage_stops_early_at_the_same_step_also_when_it_is_resumed(tmp_path: Path, crash_at: int | None) -> None:
    losses = [0.9, 0.5, 0.7, 0.6, 0.4, 0.45, 0.5, 0.4, 0.1]
    # Age of the best: 0 (0.9), 0 (0.5), 1, 2, 0 (0.4), 1, 2, 3 (an equal one is no better).
    stop = EarlyStopping(metric="loss", patience=3, higher_is_better=False)

    def fit(learner: Stepper) -> History:
        evaluate = lambda: {"loss": losses[learner.steps - 1]}  # noqa: E731
        return Process(tmp_path).fit(learner, 12, evaluate=evaluate, eval_every=1, checkpoint_every=2, stop=stop)

    if crash_at is not None:
        with pytest.raises(CrashError):
            fit(Stepper(lambda step: crash() if step == crash_at else None))
    histories = [fit(Stepper()), fit(Stepper(lambda step: crash()))]
    assert histories[0] == histories[1]
    assert histories[0].stopped_early
    assert histories[0].steps("loss", kind="evaluate").tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert saved_steps(tmp_path)[0] == 8


def test_a_stop_at_the_last_step_is_not_early() -> None:
    history = Process(None).fit(Stepper(), 3, evaluate=lambda: {"a": 1.0}, stop=lambda history: True)
    assert not history.stopped_early


def test_a_metric_that_was_never_logged_is_named_with_those_that_were() -> None:
    history = Process(None).fit(Stepper(lambda step: {"loss": 1.0, "rate": 2.0}), 1)
    with pytest.raises(KeyError, match=r"no train metric 'los'; logged: loss, rate"):
        history.values("los")
    with pytest.raises(KeyError, match=r"no evaluate metric 'loss'; logged: none"):
        history.values("loss", kind="evaluate")


def test_values_and_steps_belong_together_where_a_metric_is_not_in_every_record() -> None:
    history = Process(None).fit(Stepper(lambda step: {"even": step / 2} if step % 2 == 0 else {"odd": 1.0}), 6)
    assert history.steps("even").tolist() == [2, 4, 6]
    assert history.values("even").tolist() == [1.0, 2.0, 3.0]
    assert history.values("even").dtype == np.float64


def test_two_stages_are_kept_apart(tmp_path: Path) -> None:
    process = Process(tmp_path)
    short = process.fit(Stepper(), 2, name="short")
    long = process.fit(Stepper(lambda step: {"loss": float(step)}), 3, name="long")
    assert short.values("loss").tolist() == [1.0, 0.5]
    assert long.values("loss").tolist() == [1.0, 2.0, 3.0]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in lines] == [
        ("short", 1), ("short", 2), ("long", 1), ("long", 2), ("long", 3),
    ]  # fmt: skip
    assert (saved_steps(tmp_path, "short"), saved_steps(tmp_path, "long")) == ([2], [3])
