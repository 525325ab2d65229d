import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iclr_repro.core.metriclog import MetricLog, Record


def record(stage: str, step: int, **metrics: float) -> Record:
    return Record(stage=stage, kind="train", step=step, metrics=metrics)


def lines_of(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, *stages_and_steps: tuple[str, int]) -> None:
    log = MetricLog(path)
    for stage, step in stages_and_steps:
        log.append(stage, "train", step, {"loss": step / 4})
    log.close()


def test_each_record_is_one_line_on_disk_and_the_same_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricLog(path)
    first = log.append("a", "train", 1, {"loss": 0.1})
    second = log.append("a", "evaluate", 1, {"accuracy": 1.0})
    log.close()
    assert first == {"stage": "a", "kind": "train", "step": 1, "metrics": {"loss": 0.1}}
    assert lines_of(path) == [first, second]
    assert log.records("a") == [first, second]
    assert MetricLog(path).records("a") == [first, second]


def test_appending_goes_on_after_close_and_in_a_new_process(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricLog(path)
    for step in (1, 2):
        log.append("a", "train", step, {})
        log.close()
    write(path, ("a", 3))
    assert [line["step"] for line in lines_of(path)] == [1, 2, 3]


def test_flush_puts_every_line_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricLog(path)
    log.flush()  # before the first line there is nothing to do
    log.append("a", "train", 1, {})
    flushed: list[list[Record]] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(lines_of(path)))
    log.flush()
    assert flushed == [[record("a", 1)]]
    log.close()


def test_without_a_path_records_are_in_memory_only() -> None:
    log = MetricLog(None)
    for step in (1, 2, 3):
        log.append("a", "train", step, {})
    log.cut("a", 2)
    log.flush()
    log.close()
    assert log.records("a") == [record("a", 1), record("a", 2)]


@pytest.mark.parametrize(
    "tail",
    [
        b'{"stage": "a", "kind": "tr',
        b'{"stage": "a", "kind": "train", "step": 3, "metrics": {"loss": 0.',
        b'{"stage": "\xc3',
        b"\x00\x00\x00\x00",
        b"17\n",
        b'{"stage": "a", "step": 3}\n',
    ],
)
def test_a_last_line_that_a_crash_left_incomplete_is_dropped(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, ("a", 1), ("a", 2))
    with path.open("ab") as file:
        file.write(tail)
    assert [entry["step"] for entry in MetricLog(path).records("a")] == [1, 2]
    write(path, ("a", 3))
    assert [line["step"] for line in lines_of(path)] == [1, 2, 3]


def test_a_whole_last_line_without_its_newline_counts(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, ("a", 1), ("a", 2))
    path.write_bytes(path.read_bytes()[:-1])
    write(path, ("a", 3))
    assert [line["step"] for line in lines_of(path)] == [1, 2, 3]


def test_what_follows_a_damaged_line_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, ("a", 1), ("b", 1), ("a", 2))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + "x" + lines[1] + lines[2])
    log = MetricLog(path)
    assert log.records("a") == [record("a", 1, loss=0.25)]
    assert log.records("b") == []


def test_cutting_one_stage_keeps_the_others_and_the_order(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricLog(path)
    for stage, step in [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3)]:
        log.append(stage, "train", step, {})
    log.cut("a", 1)
    expected = [record("a", 1), record("b", 1), record("b", 2)]
    assert lines_of(path) == expected
    log.append("a", "train", 7, {})
    log.close()
    assert lines_of(path) == [*expected, record("a", 7)]
    assert log.records("a") == [record("a", 1), record("a", 7)]
    assert log.records("b") == [record("b", 1), record("b", 2)]


@given(stages=st.lists(st.sampled_from("abc"), max_size=12), cut=st.sampled_from("abc"), num_kept=st.integers(0, 12))
@settings(deadline=None, max_examples=50)
def test_memory_and_disk_agree_after_any_cut(
    tmp_path_factory: pytest.TempPathFactory, stages: list[str], cut: str, num_kept: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    log = MetricLog(path)
    for step, stage in enumerate(stages):
        log.append(stage, "train", step, {})
    log.cut(cut, num_kept)
    for stage in "abc":
        steps = [step for step, name in enumerate(stages) if name == stage]
        expected = steps[:num_kept] if stage == cut else steps
        assert [entry["step"] for entry in log.records(stage)] == expected
        assert MetricLog(path).records(stage) == log.records(stage)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_does_not_have_is_refused_and_leaves_no_trace(tmp_path: Path, value: float) -> None:
    log = MetricLog(tmp_path / "metrics.jsonl")
    log.append("a", "train", 1, {"loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.append("a", "train", 2, {"loss": value})
    log.close()
    assert log.records("a") == [record("a", 1, loss=1.0)]
    assert lines_of(tmp_path / "metrics.jsonl") == [record("a", 1, loss=1.0)]
