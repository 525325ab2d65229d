from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from iclr_repro.core.experiment import DataKind, Result
from iclr_repro.core.plotting import figure
from iclr_repro.core.rundir import save_result
from support import read_json


@pytest.mark.parametrize(("data", "marked"), [("synthetic", True), ("real", False), ("none", False)])
def test_figures_of_generated_data_say_so(tmp_path: Path, data: DataKind, marked: bool) -> None:
    made, axes = figure()
    axes[0, 0].set_title("losses")
    save_result(tmp_path, Result({"a/x": 1.0}, figures={"losses": made}, data=data))
    text = (tmp_path / "figures" / "losses.svg").read_text()
    assert "losses" in text
    assert ("generated data" in text) == marked


def test_an_array_is_saved_as_the_list_of_its_runs(tmp_path: Path) -> None:
    save_result(tmp_path, Result({"a/x": np.array([0.5, 2.0]), "a/n": 2}))
    assert read_json(tmp_path / "result.json")["metrics"] == {"a/x": [0.5, 2.0], "a/n": 2.0}


@pytest.mark.parametrize(
    "result",
    [Result({"a/x": 1.0}, figures={"../x": figure()[0]}), Result({"a/x": 1.0}, tables={"../x": pd.DataFrame()})],
    ids=["figure", "table"],
)
def test_a_name_that_is_a_path_is_refused_before_anything_is_written(tmp_path: Path, result: Result) -> None:
    with pytest.raises(ValueError, match=r"'\.\./x' cannot name a figure or table: use a plain file name"):
        save_result(tmp_path, result)
    assert not list(tmp_path.iterdir())
