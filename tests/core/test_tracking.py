import inspect
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from iclr_repro.core.tracking import NoTracker, Tracker, make_tracker

CONFIGS = Path(__file__).parents[2] / "configs" / "tracker"


def make(kind: str, directory: Path, **options: Any) -> Tracker:
    config = {"steps": 8, "model": {"width": 16, "name": "mlp"}}
    return make_tracker(kind, directory=directory, run_name="loki/retention/cpu/seed0", config=config, **options)


def run_with_an_interruption(kind: str, directory: Path) -> None:
    """Log 8 steps of `adapt` and stop; go on from step 5 to 9, then log the stage `probe`."""
    tracker = make(kind, directory)
    for step in range(1, 9):
        tracker.log({"loss": step / 4, "evaluate/accuracy": step / 16}, step=step, stage="adapt")
    tracker.close()
    tracker = make(kind, directory)
    tracker.resume(step=5, stage="adapt")
    for step in range(6, 10):
        tracker.log({"loss": step / 4, "evaluate/accuracy": step / 16}, step=step, stage="adapt")
    tracker.log({"loss": 0.5}, step=1, stage="probe")
    tracker.close()


def test_tensorboard_shows_each_step_of_a_resumed_run_once(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard")
    run_with_an_interruption("tensorboard", tmp_path)
    adapt = reader.EventAccumulator(str(tmp_path / "tensorboard" / "adapt")).Reload()
    assert sorted(adapt.Tags()["scalars"]) == ["evaluate/accuracy", "loss"]
    assert [(event.step, event.value) for event in adapt.Scalars("loss")] == [(s, s / 4) for s in range(1, 10)]
    assert [event.value for event in adapt.Scalars("evaluate/accuracy")] == [s / 16 for s in range(1, 10)]
    probe = reader.EventAccumulator(str(tmp_path / "tensorboard" / "probe")).Reload()
    assert [(event.step, event.value) for event in probe.Scalars("loss")] == [(1, 0.5)]


def test_tensorboard_forgets_a_stage_that_starts_again_from_nothing(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard")
    for values in ([5.0, 6.0, 7.0], [1.0, 2.0]):
        tracker = make("tensorboard", tmp_path)
        for step, value in enumerate(values, start=1):
            tracker.log({"loss": value}, step=step, stage="train")
        tracker.close()
    events = reader.EventAccumulator(str(tmp_path / "tensorboard" / "train")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.0), (2, 2.0)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow 3.17 with SQLAlchemy 2.1
def test_mlflow_continues_one_local_run_and_has_each_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="no mlflow")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    folder = tmp_path / "tracker"
    run_with_an_interruption("mlflow", folder)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = [found for found in client.search_experiments() if found.name == "iclr_repro"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("loki/retention/cpu/seed0", "FINISHED")
    assert run.data.params == {"steps": "8", "model.width": "16", "model.name": "mlp"}
    history = client.get_metric_history(run.info.run_id, "adapt/loss")
    assert sorted((point.step, point.value) for point in history) == [(s, s / 4) for s in range(1, 10)]
    history = client.get_metric_history(run.info.run_id, "adapt/evaluate/accuracy")
    assert sorted((point.step, point.value) for point in history) == [(s, s / 16) for s in range(1, 10)]
    assert [point.value for point in client.get_metric_history(run.info.run_id, "probe/loss")] == [0.5]
    assert not list((tmp_path / "elsewhere").iterdir())
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_wandb_writes_offline_files_of_one_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="no wandb")
    run_with_an_interruption("wandb", tmp_path)
    run_id = (tmp_path / "wandb_run_id").read_text()
    first, second = sorted(tmp_path.glob(f"wandb/offline-run-*/run-{run_id}.wandb"))
    deadline = time.monotonic() + 60  # a process of wandb's own writes the file; on a busy machine it is late
    while not wandb_history(second, "probe/step", "probe/loss") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert wandb_history(first, "adapt/step", "adapt/loss") == [(s, s / 4) for s in range(1, 9)]
    assert wandb_history(second, "adapt/step", "adapt/loss") == [(s, s / 4) for s in range(6, 10)]
    assert wandb_history(second, "probe/step", "probe/loss") == [(1, 0.5)]


def wandb_history(file: Path, *names: str) -> list[tuple[float, ...]]:
    """Read the logged rows that have these metrics, with wandb's own message types."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows = []
    for message in leveldb_records(file.read_bytes()):
        items = Record.FromString(message).history.item
        row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
        if all(name in row for name in names):
            rows.append(tuple(row[name] for name in names))
    return rows


def leveldb_records(data: bytes) -> list[bytes]:
    """Split a LevelDB log, wandb's file format: blocks of 32 KiB, and records in chunks with a header of 7 bytes."""
    records, partial, position = [], b"", 7  # wandb's own header
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
        length, chunk = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        partial += data[position + 7 : position + 7 + length]
        position += 7 + length
        if chunk in (1, 4):  # a whole record, or its last chunk
            records.append(partial)
            partial = b""
    return records


def test_no_tracker_writes_nothing(tmp_path: Path) -> None:
    run_with_an_interruption("none", tmp_path / "tracker")
    assert isinstance(make("none", tmp_path), NoTracker)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["torch.utils.tensorboard", "mlflow", "wandb"])
def test_a_missing_library_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    def missing(name: str) -> None:
        assert name == module
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(ImportError, match=r"needs the package '[\w.]+', .*pip install 'iclr-repro\[tracking\]'"):
        make(module.rpartition(".")[2], tmp_path)


def test_unknown_kinds_and_modes_are_refused_with_the_valid_ones(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"tracker\.kind: got 'tensorbord', expected one of none, tensorboard, mlflow, wandb"
    ):
        make("tensorbord", tmp_path)
    with pytest.raises(ValueError, match=r"tracker\.mode: got 'on', expected offline or online"):
        make("wandb", tmp_path, mode="on")


def test_every_tracker_configuration_is_understood_and_stays_on_this_machine() -> None:
    settings = {}
    for file in sorted(CONFIGS.glob("*.yaml")):
        text = file.read_text(encoding="utf-8")
        assert text.startswith("# @package _global_\n")
        settings[file.stem] = yaml.safe_load(text)["tracker"]
        inspect.signature(make_tracker).bind(directory=CONFIGS, run_name="", config={}, **settings[file.stem])
    assert settings == {
        "none": {"kind": "none"},
        "tensorboard": {"kind": "tensorboard"},
        "mlflow": {"kind": "mlflow", "uri": None},
        "wandb": {"kind": "wandb", "mode": "offline"},
    }
