"""Experiment trackers, beside metrics.jsonl, which is written in any case: TensorBoard, MLflow, Weights & Biases.

Each is used through its own library, which is imported when a run asks for it. As configured here none of them opens a
connection: everything goes into the run's folder. To look at it: `tensorboard --logdir runs`,
`mlflow ui --backend-store-uri sqlite:///<folder>/mlflow.db`, `wandb sync <folder>/wandb/offline-run-*`.
"""

from __future__ import annotations

import importlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from iclr_repro.core.files import write_text

_PROJECT = "iclr_repro"
_FLUSH_SECONDS = 1.0  # MLflow's database takes some 10 ms for a call, however many metrics it carries
_MLFLOW_METRICS_PER_CALL = 1000  # limits of MLflow's API
_MLFLOW_PARAMETERS_PER_CALL = 100


@runtime_checkable
class Tracker(Protocol):
    """Shows the metrics of one run outside of it. A stage is one call of `fit`; steps count within it, from 1."""

    def log(self, metrics: Mapping[str, float], *, step: int, stage: str) -> None:
        """Add the metrics of a step."""

    def resume(self, *, step: int, stage: str) -> None:
        """Say, before the first `log` of a stage, that it goes on after `step`; otherwise it starts from nothing."""

    def close(self) -> None:
        """Write what is left and end the run; it can be continued by making the tracker again."""


def make_tracker(
    kind: str,
    *,
    directory: Path,
    run_name: str,
    config: Mapping[str, Any],
    uri: str | None = None,
    mode: str = "offline",
) -> Tracker:
    """Make a tracker, which continues the tracked run that an earlier one began in the same folder.

    Args:
        kind: "none", "tensorboard", "mlflow" or "wandb".
        directory: of the tracker's files; made when needed.
        run_name: what the tracker calls the run.
        config: the run's parameters, for the tracker to show; nested mappings of plain values.
        uri: where MLflow keeps its runs, e.g. "http://host:5000"; None: `mlflow.db` in `directory`.
        mode: of Weights & Biases: "offline", or "online" to send the run to its server as it goes.

    Raises:
        ValueError: there is no such kind or mode.
        ImportError: the tracker's library is not installed; the message says how to install it.
    """
    check_tracker(kind, uri=uri, mode=mode)
    makers: dict[str, Callable[[], Tracker]] = {
        "none": NoTracker,
        "tensorboard": lambda: TensorBoard(directory),
        "mlflow": lambda: MLflow(directory, run_name=run_name, config=config, uri=uri),
        "wandb": lambda: WandB(directory, run_name=run_name, config=config, mode=mode),
    }
    return makers[kind]()


def check_tracker(kind: str, *, uri: str | None = None, mode: str = "offline") -> None:
    """Refuse settings that `make_tracker` could not use, before anything runs; arguments and errors as there."""
    libraries = {"none": None, "tensorboard": "torch.utils.tensorboard", "mlflow": "mlflow", "wandb": "wandb"}
    if kind not in libraries:
        raise ValueError(f"tracker.kind: got {kind!r}, expected one of {', '.join(libraries)}")
    if mode not in ("offline", "online"):
        raise ValueError(f"tracker.mode: got {mode!r}, expected offline or online")
    library = libraries[kind]
    if library is not None:
        _library(library)


class NoTracker:
    """Keeps nothing."""

    def log(self, metrics: Mapping[str, float], *, step: int, stage: str) -> None:
        """Do nothing."""

    def resume(self, *, step: int, stage: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class TensorBoard:
    """Event files, in a folder a stage: TensorBoard takes back steps by folder, and stages count theirs separately."""

    def __init__(self, directory: Path) -> None:
        self._library = _library("torch.utils.tensorboard")
        self._directory = directory / "tensorboard"
        self._first_steps: dict[str, int] = {}
        self._writers: dict[str, Any] = {}

    def log(self, metrics: Mapping[str, float], *, step: int, stage: str) -> None:
        """Add the metrics under their names; the first call for a stage discards what it had from that step on."""
        if stage not in self._writers:
            self._writers[stage] = self._library.SummaryWriter(
                self._directory / stage, purge_step=self._first_steps.get(stage, 0), flush_secs=10
            )
        for name, value in metrics.items():
            self._writers[stage].add_scalar(name, value, step)

    def resume(self, *, step: int, stage: str) -> None:
        """Keep the stage up to `step`."""
        self._first_steps[stage] = step + 1

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()


class MLflow:
    """A run in an MLflow store, its metrics named "stage/metric".

    The store cannot take back what it has. Where a resumed stage repeats steps, those that it knows are not sent again:
    the repetition gives the same numbers.
    """

    def __init__(self, directory: Path, *, run_name: str, config: Mapping[str, Any], uri: str | None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when it is imported
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # it reports the making of each table otherwise
        self._library = _library("mlflow")
        directory.mkdir(parents=True, exist_ok=True)
        local = f"sqlite:///{(directory / 'mlflow.db').resolve()}"
        self._client = self._library.MlflowClient(tracking_uri=uri or local)
        self._known_steps: dict[str, int] = {}
        self._pending: list[Any] = []
        self._flushed = time.monotonic()
        id_file = directory / "mlflow_run_id"
        self._continued = id_file.is_file()
        if self._continued:
            self._run_id = id_file.read_text(encoding="utf-8")
            self._client.update_run(self._run_id, status="RUNNING")
        else:
            self._run_id = self._create_run(run_name, config, artifacts=None if uri else directory / "artifacts")
            write_text(id_file, self._run_id)

    def log(self, metrics: Mapping[str, float], *, step: int, stage: str) -> None:
        """Add the metrics of a step; they are sent together with those of the same second."""
        now = time.time_ns() // 1_000_000
        for name, value in metrics.items():
            key = f"{stage}/{name}"
            if step > self._known_step(key):
                self._pending.append(self._library.entities.Metric(key, value, now, step))
        if time.monotonic() - self._flushed >= _FLUSH_SECONDS:
            self._flush()

    def resume(self, *, step: int, stage: str) -> None:
        """Do nothing: the store itself tells which steps it has."""

    def close(self) -> None:
        """Send what is left and mark the run as finished."""
        self._flush()
        self._client.set_terminated(self._run_id)

    def _create_run(self, run_name: str, config: Mapping[str, Any], artifacts: Path | None) -> str:
        experiment = self._client.get_experiment_by_name(_PROJECT)
        experiment_id = (
            experiment.experiment_id
            if experiment is not None
            # By default a local store would make a folder `mlruns` wherever the command is run.
            else self._client.create_experiment(_PROJECT, artifacts.resolve().as_uri() if artifacts else None)
        )
        run_id: str = self._client.create_run(experiment_id, run_name=run_name).info.run_id
        parameters = [self._library.entities.Param(name, str(value)) for name, value in _flatten(config)]
        for start in range(0, len(parameters), _MLFLOW_PARAMETERS_PER_CALL):
            self._client.log_batch(run_id, params=parameters[start : start + _MLFLOW_PARAMETERS_PER_CALL])
        return run_id

    def _known_step(self, key: str) -> int:
        """Return the last step that the store had of a metric when this object was made."""
        if not self._continued:
            return -1
        if key not in self._known_steps:
            history = self._client.get_metric_history(self._run_id, key)
            self._known_steps[key] = max((point.step for point in history), default=-1)
        return self._known_steps[key]

    def _flush(self) -> None:
        for start in range(0, len(self._pending), _MLFLOW_METRICS_PER_CALL):
            self._client.log_batch(self._run_id, metrics=self._pending[start : start + _MLFLOW_METRICS_PER_CALL])
        self._pending = []
        self._flushed = time.monotonic()


class WandB:
    """A Weights & Biases run, its metrics named "stage/metric" and drawn over "stage/step".

    It cannot take back what it has: where a resumed stage repeats steps, their points are there twice, with the same
    numbers.
    """

    def __init__(self, directory: Path, *, run_name: str, config: Mapping[str, Any], mode: str) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when it is imported
        wandb = _library("wandb")
        directory.mkdir(parents=True, exist_ok=True)
        id_file = directory / "wandb_run_id"
        if not id_file.is_file():
            write_text(id_file, secrets.token_hex(4))
        self._stages: set[str] = set()
        self._run = wandb.init(
            project=_PROJECT,
            name=run_name,
            id=id_file.read_text(encoding="utf-8"),
            resume="allow",
            mode=mode,
            dir=str(directory),
            config=dict(config),
            settings=wandb.Settings(silent=True, console="off", disable_git=True, x_disable_machine_info=True),
        )

    def log(self, metrics: Mapping[str, float], *, step: int, stage: str) -> None:
        """Add the metrics of a step."""
        if stage not in self._stages:
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            self._stages.add(stage)
        self._run.log({f"{stage}/{name}": value for name, value in metrics.items()} | {f"{stage}/step": step})

    def resume(self, *, step: int, stage: str) -> None:
        """Do nothing: what is there stays."""

    def close(self) -> None:
        """Write what is left; online, wait until it is sent."""
        self._run.finish()


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"this tracker needs the package {error.name!r}, which is not installed:"
            " pip install 'iclr-repro[tracking]', or use tracker=none"
        ) from error


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings with their keys joined by dots."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
