"""The reader of full public sets, on files of their form."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iclr_repro.entropy_linear_attention import FULL_SETS, Series, load_full


def values(num_rows: int = 400, num_nodes: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 90, (num_rows, num_nodes, 3)).astype(float)


def inputs(one: Series) -> np.ndarray:
    """The inputs of the training windows, [windows, T, N]."""
    return one.values[one.train[:, None] + np.arange(one.num_steps)]


def test_a_plain_file_is_cut_into_the_official_parts(tmp_path: Path) -> None:
    data = values()
    np.savez(tmp_path / "PEMS08.npz", data=data)
    one = load_full("PEMS08", tmp_path)
    assert (one.values == data[..., 0]).all()
    assert [len(part) for part in (one.train, one.validation, one.test)] == [226, 75, 76]
    assert (one.slots[0], one.weekdays[0], one.weekdays[288]) == (0, 4, 5)
    stacked = inputs(one)
    assert (one.mean, one.std) == pytest.approx((stacked.mean(), stacked.std()))
    assert one.zeros_are_missing


def test_speeds_are_cut_seven_to_one_to_two(tmp_path: Path) -> None:
    np.savez(tmp_path / "METR-LA.npz", data=values()[..., 0])
    one = load_full("METR-LA", tmp_path)
    assert [len(part) for part in (one.train, one.validation, one.test)] == [264, 38, 75]


def test_the_indexed_form_brings_its_own_parts(tmp_path: Path) -> None:
    folder = tmp_path / "PEMS08"
    folder.mkdir()
    np.savez(folder / "data.npz", data=values())
    parts = {"train": np.arange(100), "val": np.arange(100, 130), "test": np.arange(130, 200)}
    index: dict[str, Any] = {key: np.stack([s, s + 12, s + 24], axis=1) for key, s in parts.items()}
    np.savez(folder / "index.npz", **index)
    one = load_full("PEMS08", tmp_path)
    for part, key in ((one.train, "train"), (one.validation, "val"), (one.test, "test")):
        assert part.tolist() == parts[key].tolist()
    assert one.mean == pytest.approx(inputs(one).mean())


def test_what_is_not_there_or_of_another_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name: got 'PEMS8', expected one of PEMS03, PEMS04, PEMS07, PEMS08, METR-LA"):
        load_full("PEMS8", tmp_path)
    for name in FULL_SETS:
        with pytest.raises(ValueError, match=f"{name}: neither .*{name}.npz nor .*data.npz exists"):
            load_full(name, tmp_path)
    np.savez(tmp_path / "PEMS04.npz", flow=values())
    with pytest.raises(
        ValueError, match=r"expected a key 'data' of shape \(steps, nodes\[, features\]\), found \['flow'\]"
    ):
        load_full("PEMS04", tmp_path)
