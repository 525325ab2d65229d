"""Windows, parts, calendar, averages, anchors, and the forecasts that are made of them."""

from typing import Any

import numpy as np
import pytest
import torch

from iclr_repro.entropy_linear_attention import Series, Windows, average_and_ridge, persistence, seasonal_average
from iclr_repro.entropy_linear_attention.series import (
    calendar,
    historical_average,
    split_starts,
    training_moments,
)


def series(num_rows: int = 60, **changes: Any) -> Series:
    """Two nodes, six rows a day, windows of 3 + 2, from a Friday on."""
    slots, weekdays = calendar(num_rows, steps_per_day=6, first_row=0, first_weekday=4)
    values = np.random.default_rng(0).uniform(1, 9, (num_rows, 2)) + slots[:, None]
    train, validation, test = split_starts(num_rows, (0.6, 0.2), num_steps=3, horizon=2)
    settings = {
        "name": "made up",
        "values": values,
        "slots": slots,
        "weekdays": weekdays,
        "steps_per_day": 6,
        "zeros_are_missing": True,
        "mean": 5.0,
        "std": 2.0,
        "train": train,
        "validation": validation,
        "test": test,
        "num_steps": 3,
        "horizon": 2,
    }
    return Series(**{**settings, **changes})


def test_calendar_of_pems08() -> None:
    slots, weekdays = calendar(300, steps_per_day=288, first_row=10700, first_weekday=4)
    assert (slots[0], weekdays[0]) == (44, 6)
    assert (slots[243], slots[244]) == (287, 0)
    assert (weekdays[243], weekdays[244]) == (6, 0)


def test_official_parts_of_pems08() -> None:
    train, validation, test = split_starts(17856, (0.6, 0.2), num_steps=12, horizon=12)
    assert (train[0], train[-1], validation[0], validation[-1], test[0], test[-1]) == (
        0,
        10699,
        10700,
        14266,
        14267,
        17832,
    )


def test_each_window_is_in_one_part() -> None:
    one = series()
    starts = np.concatenate([one.train, one.validation, one.test])
    assert starts.tolist() == list(range(60 - 5 + 1))


def test_too_few_rows_for_three_parts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"6 rows make 2 windows of 3 \+ 2: too few for three parts"):
        split_starts(6, (0.6, 0.2), num_steps=3, horizon=2)


def test_training_moments_are_those_of_the_stacked_inputs() -> None:
    values = np.random.default_rng(0).normal(3, 2, (30, 4))
    train = np.array([0, 1, 2, 7, 8])
    stacked = values[train[:, None] + np.arange(6)]
    assert training_moments(values, train, 6) == pytest.approx((stacked.mean(), stacked.std()))


def test_historical_average_by_slot_and_weekend_flag() -> None:
    one = series()
    average = historical_average(one, 48)
    for row in (0, 7, 20, 59):
        same = [r for r in range(48) if one.slots[r] == one.slots[row] and one.weekend[r] == one.weekend[row]]
        np.testing.assert_allclose(average[row], one.values[same].mean(axis=0))


def test_historical_average_falls_back_on_the_slot_then_on_the_node() -> None:
    one = series()
    average = historical_average(one, 4)  # Friday's first four slots
    np.testing.assert_allclose(average[6 + 2], one.values[2])  # Saturday, the slot is known from Friday
    np.testing.assert_allclose(average[5], one.values[:4].mean(axis=0))  # a slot never seen


@pytest.mark.parametrize("anchor", ["mean", "last", "ha_resid"])
def test_windows_hold_inputs_anchor_and_truth(anchor: str) -> None:
    one = series()
    windows = Windows(one, one.test, anchor)
    assert len(windows) == len(one.test)
    start = int(one.test[2])
    x, at, truth = windows[2]
    np.testing.assert_allclose(x[..., 0], (one.values[start : start + 3] - 5.0) / 2.0, rtol=1e-6)
    np.testing.assert_allclose(x[:, 0, 1] * 6, one.slots[start : start + 3], atol=1e-5)
    np.testing.assert_allclose(x[:, 1, 2], one.weekdays[start : start + 3])
    np.testing.assert_allclose(truth, one.values[start + 3 : start + 5], rtol=1e-6)
    average = historical_average(one, int(one.train[-1]) + 5)
    last = one.values[start + 2]
    expected = {
        "mean": np.full((2, 2), 5.0),
        "last": np.stack([last, last]),
        "ha_resid": average[start + 3 : start + 5] + np.array([[0.9], [0.5]]) * (last - average[start + 2]),
    }
    np.testing.assert_allclose(at, expected[anchor], rtol=1e-5)


def test_no_window_of_training_reaches_into_the_rows_that_follow() -> None:
    one = series()
    assert one.history_rows == int(one.train[-1]) + 5
    spoiled = series(values=np.where(np.arange(60)[:, None] < one.history_rows, one.values, 1e6))
    clean, other = (Windows(which, one.train, "ha_resid") for which in (one, spoiled))
    for index in range(len(clean)):
        assert all(torch.equal(x, y) for x, y in zip(clean[index], other[index], strict=True))


def test_persistence_and_average_of_a_window() -> None:
    one, starts = series(), np.array([50, 52])
    last = persistence(one, starts, history_rows=40)
    assert last.shape == (2, 2, 2)
    np.testing.assert_allclose(last[1], np.stack([one.values[54]] * 2))
    np.testing.assert_allclose(seasonal_average(one, starts, history_rows=40)[0], historical_average(one, 40)[53:55])


def test_ridge_solves_the_penalised_least_squares_of_the_residuals() -> None:
    one, starts = series(), np.array([50, 52])
    average = historical_average(one, 40)
    residual = one.values - average
    x = np.concatenate([[residual[s : s + 3, n] for n in range(2)] for s in range(40 - 4)])
    y = np.concatenate([[residual[s + 3 : s + 5, n] for n in range(2)] for s in range(40 - 4)])
    stacked = np.vstack([x, 10.0 * np.eye(3)])  # penalty 100
    weights = np.linalg.lstsq(stacked, np.vstack([y, np.zeros((3, 2))]), rcond=None)[0]
    expected = np.stack([average[s + 3 : s + 5] + (residual[s : s + 3].T @ weights).T for s in starts])
    np.testing.assert_allclose(average_and_ridge(one, starts, history_rows=40), expected)


def test_first_nodes_keep_the_rest() -> None:
    one = series()
    assert one.first_nodes(1).values.tolist() == one.values[:, :1].tolist()
    assert one.first_nodes(1).mean == one.mean
    with pytest.raises(ValueError, match="num_nodes: got 3, but made up has 2 nodes"):
        one.first_nodes(3)


def test_an_unknown_anchor_is_refused() -> None:
    with pytest.raises(ValueError, match="anchor: got 'first', expected one of mean, last, ha_resid"):
        Windows(series(), np.array([0]), "first")
