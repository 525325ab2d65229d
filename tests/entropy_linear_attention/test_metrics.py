import math

import numpy as np
import pytest

from iclr_repro.entropy_linear_attention import errors, masked_errors
from iclr_repro.entropy_linear_attention.metrics import errors_at, errors_by_horizon


def test_example_of_the_docstring() -> None:
    truth = np.full((1, 1, 2), 10.0)
    found = errors(masked_errors(np.array([[[11.0, 7.0]]]), truth, zeros_are_missing=True))
    assert found == pytest.approx({"mae": 2.0, "rmse": math.sqrt(5), "mape_percent": 20.0})


def test_missing_values_are_left_out_and_true_zeros_are_not() -> None:
    truth, predicted = np.array([[[0.0, 4.0]]]), np.array([[[9.0, 5.0]]])
    assert errors(masked_errors(predicted, truth, zeros_are_missing=True)) == pytest.approx(
        {"mae": 1.0, "rmse": 1.0, "mape_percent": 25.0}
    )
    kept = errors(masked_errors(predicted, truth, zeros_are_missing=False))
    assert kept["mae"] == 5.0
    assert kept["rmse"] == pytest.approx(math.sqrt(41))


def test_errors_are_those_of_plain_numpy_over_all_entries_and_by_horizon() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, (7, 3, 4)).astype(float)
    predicted = truth + rng.normal(size=truth.shape)
    sums = masked_errors(predicted, truth, zeros_are_missing=True)
    parts = {None: slice(None), 1: slice(0, 1), 3: slice(2, 3)}
    for step, part in parts.items():
        y, e = truth[:, part], np.abs(predicted - truth)[:, part]
        counts = y != 0
        expected = {
            "mae": e[counts].mean(),
            "rmse": math.sqrt((e[counts] ** 2).mean()),
            "mape_percent": 100 * (e[counts] / y[counts]).mean(),
        }
        assert (errors(sums) if step is None else errors_by_horizon(sums)[step]) == pytest.approx(expected)
    assert list(errors_by_horizon(sums)) == [1, 2, 3]
    apart = {f"horizon3/{error}": value for error, value in errors_by_horizon(sums)[3].items()}
    assert errors_at(sums, (3, 6)) == {**errors(sums), **apart}  # there is no sixth step
    assert sums[3].sum() == (truth != 0).sum()
