import collections
import enum
import hashlib
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as npst

from iclr_repro.core import checkpoint
from iclr_repro.core.checkpoint import last_written, load_checkpoints, save_checkpoint

LOG = logging.getLogger("test")

Point = collections.namedtuple("Point", ["x", "y"])


class Mode(enum.IntEnum):
    FAST = 1


class Word(str):
    __slots__ = ()


def round_trip(folder: Path, value: Any) -> Any:
    save_checkpoint(folder, 0, {"value": value})
    [(step, state)] = load_checkpoints(folder, LOG)
    assert step == 0
    return state["value"]


def assert_same(actual: Any, expected: Any) -> None:
    assert type(actual) is type(expected)
    if isinstance(expected, (np.ndarray, np.generic)):
        assert actual.dtype == expected.dtype
        assert actual.shape == expected.shape
        assert actual.tobytes() == expected.tobytes()
    elif isinstance(expected, torch.Tensor):
        assert actual.dtype == expected.dtype
        assert actual.shape == expected.shape
        # Compared as bytes, so that NaN equals itself.
        assert actual.flatten().view(torch.uint8).tolist() == expected.flatten().view(torch.uint8).tolist()
    elif isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key in expected:
            assert_same(actual[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
    else:
        assert actual == expected


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (3,), (2, 3)])
@pytest.mark.parametrize(
    "dtype",
    ["bool", "uint8", "int64", "uint64", "float16", "float32", "float64", ">f8", "complex128", "U3", "S3", "M8[s]"],
)
def test_arrays_come_back_bit_for_bit(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    size = int(np.prod(shape))
    raw = np.random.default_rng(1).integers(0, 2, size * np.dtype(dtype).itemsize, dtype=np.uint8)
    if dtype == "U3":
        array = np.array(["ab", "", "éß✓", "x", "yz", "w"][:size], dtype=dtype).reshape(shape)
    else:
        array = np.frombuffer(raw.tobytes(), dtype=dtype).reshape(shape)
    loaded = round_trip(tmp_path, array)
    assert_same(loaded, array)
    assert loaded.flags.writeable


@given(array=npst.arrays(npst.scalar_dtypes(), npst.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=3)))
@settings(deadline=None, max_examples=60)
def test_any_array_comes_back_bit_for_bit(array: np.ndarray) -> None:
    assert_same(checkpoint._decode(checkpoint._encode(array, "state")), array)


def test_records_and_special_numbers_come_back_too(tmp_path: Path) -> None:
    records = np.array([(1, 2.5, "a"), (2, -0.0, "b")], dtype=[("id", "i4"), ("value", "f8"), ("name", "U2")])
    special = np.array([np.nan, np.inf, -np.inf, -0.0, 5e-324])
    assert_same(round_trip(tmp_path, [records, special]), [records, special])


def test_the_memory_order_of_an_array_is_kept_since_sums_depend_on_it(tmp_path: Path) -> None:
    array = np.asfortranarray(np.random.default_rng(0).standard_normal((5, 7)))
    loaded = round_trip(tmp_path, array)
    assert loaded.flags.f_contiguous
    assert loaded.sum() == array.sum()


@pytest.mark.parametrize(
    "scalar", [np.float32(0.1), np.float64(0.1), np.float16(2.5), np.int8(-3), np.uint64(2**64 - 1), np.bool_(True)]
)
def test_numpy_scalars_keep_their_type_since_arithmetic_depends_on_it(tmp_path: Path, scalar: np.generic) -> None:
    assert_same(round_trip(tmp_path, scalar), scalar)


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.complex64]
)
def test_tensors_come_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.randint(0, 2, (2, 3), generator=torch.Generator().manual_seed(0)).to(dtype)
    values = [tensor, tensor[0, 0], tensor[:, :0], tensor.T]
    assert_same(round_trip(tmp_path, values), values)


def test_nested_containers_and_plain_values_come_back(tmp_path: Path) -> None:
    state: dict[str, Any] = {
        "none": None,
        "flags": (True, False),
        "numbers": [0, -1, 2**127 + 1, 0.1, float("inf")],
        "text": "é✓\n",
        "empty": [(), [], {}],
        "by number": {0: {"momentum": torch.ones(2)}, 1: (np.arange(3), [{"deep": (np.float32(1.5),)}])},
    }
    assert_same(round_trip(tmp_path, state), state)


def test_an_ordered_dict_such_as_a_module_gives_becomes_a_dict(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 1)
    loaded = round_trip(tmp_path, layer.state_dict())
    assert type(loaded) is dict
    assert_same(list(loaded.values()), list(layer.state_dict().values()))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), r"state\['outer'\]\[1\]\['inner'\] is a object: a checkpoint holds tensors, arrays, numbers, text"),
        (np.array([None]), r"state\['outer'\]\[1\]\['inner'\] is an array of Python objects"),
        (np.array(["a"], dtype=np.dtypes.StringDType()), r"\['inner'\] is an array of Python objects"),
        (np.ma.masked_array([1.0], mask=[True]), r"\['inner'\] is a MaskedArray"),
        (Point(1, 2), r"\['inner'\] is a Point"),
        (Mode.FAST, r"\['inner'\] is a Mode"),
        (Word("a"), r"\['inner'\] is a Word"),
        ({1, 2}, r"\['inner'\] is a set"),
        (lambda: None, r"\['inner'\] is a function"),
        ({(1, 2): 3}, r"state\['outer'\]\[1\]\['inner'\] has the key \(1, 2\): keys must be strings or integers"),
        ({Mode.FAST: 3}, r"has the key <Mode.FAST: 1>: keys must be strings or integers"),
    ],
)
def test_what_would_not_come_back_is_refused_and_its_place_named(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        save_checkpoint(tmp_path, 3, {"outer": [0, {"inner": value}]})
    assert os.listdir(tmp_path) == []


def test_the_newest_two_checkpoints_are_kept_newest_first(tmp_path: Path) -> None:
    for step in (1, 5, 20, 100):
        path = save_checkpoint(tmp_path, step, {"step": step})
        assert path.is_file()
    assert [(step, state["step"]) for step, state in load_checkpoints(tmp_path, LOG)] == [(100, 100), (20, 20)]
    assert len(os.listdir(tmp_path)) == 2


def test_the_newest_checkpoint_is_that_of_the_last_step_whatever_the_clock_says(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        path = save_checkpoint(tmp_path, step, {})
        os.utime(path, (2_000_000_000 - step,) * 2)
    assert [step for step, _ in load_checkpoints(tmp_path, LOG)] == [3, 2]


def test_the_last_stage_is_told_by_the_clock_and_its_last_step_by_the_step(tmp_path: Path) -> None:
    assert last_written(tmp_path / "none") is None
    for stage, step, time in (("first", 99, 1000), ("second/inner", 10, 3000), ("second/inner", 20, 2000)):
        os.utime(save_checkpoint(tmp_path / stage, step, {}), (time, time))
    assert last_written(tmp_path) == ("second/inner", 20)
    assert load_checkpoints(tmp_path / "second" / "inner", LOG)[0][0] == 20


def test_a_checkpoint_that_its_run_has_just_dropped_is_not_the_last_written(tmp_path: Path) -> None:
    dropped = tmp_path / "walk" / f"{30:010d}-{'0' * 16}.pt"
    dropped.parent.mkdir()
    dropped.symlink_to("gone")  # listed, but not there when it is looked at
    assert last_written(tmp_path) is None
    save_checkpoint(tmp_path / "walk", 20, {})
    dropped.symlink_to("gone")  # saving drops it
    assert last_written(tmp_path) == ("walk", 20)


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.pt").write_text("mine")
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {})
    assert (tmp_path / "notes.pt").read_text() == "mine"
    assert [step for step, _ in load_checkpoints(tmp_path, LOG)] == [3, 2]


def test_a_run_that_went_back_replaces_the_checkpoints_of_later_steps(tmp_path: Path) -> None:
    for step in (10, 20):
        save_checkpoint(tmp_path, step, {})
    save_checkpoint(tmp_path, 15, {})
    assert [step for step, _ in load_checkpoints(tmp_path, LOG)] == [15, 10]
    save_checkpoint(tmp_path, 15, {"other": "content"})
    assert [(step, state) for step, state in load_checkpoints(tmp_path, LOG)] == [(15, {"other": "content"}), (10, {})]


def test_a_missing_folder_has_no_checkpoints(tmp_path: Path) -> None:
    assert load_checkpoints(tmp_path / "none", LOG) == []


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    save_checkpoint(tmp_path, 1, {"weights": np.arange(100)})
    newest = save_checkpoint(tmp_path, 2, {"weights": np.arange(100)})
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes({"flipped": bytes(content), "truncated": bytes(content[:-10]), "empty": b""}[damage])
    assert [step for step, _ in load_checkpoints(tmp_path, LOG)] == [1]
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"checkpoint {newest} is damaged and ignored (its content does not match the digest in its name)"
    )


def test_a_full_disk_leaves_earlier_checkpoints_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, 3, {})
    assert [step for step, _ in load_checkpoints(tmp_path, LOG)] == [2, 1]
    assert len(os.listdir(tmp_path)) == 2


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("by_torch", [True, False])
def test_a_checkpoint_with_code_is_refused_without_running_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, by_torch: bool
) -> None:
    folder, trace = tmp_path / "checkpoints", tmp_path / "was_here"
    save_checkpoint(folder, 1, {"good": True})
    forged = tmp_path / "forged"
    if by_torch:
        torch.save({"state": Malicious(trace)}, forged)
    else:
        forged.write_bytes(pickle.dumps({"state": Malicious(trace)}, protocol=2))
    content = forged.read_bytes()
    (folder / f"{2:010d}-{hashlib.sha256(content).hexdigest()[:16]}.pt").write_bytes(content)

    assert load_checkpoints(folder, LOG) == [(1, {"good": True})]
    assert "is damaged and ignored (it holds more than plain data)" in caplog.text
    assert not trace.exists()
    torch.load(forged, weights_only=False) if by_torch else pickle.loads(content)  # it works where it is trusted
    assert trace.is_dir()
