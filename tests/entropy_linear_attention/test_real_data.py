"""What the real sets hold, and the scores of forecasts without a network on them (sheet 3.8, "Scales", "Data")."""

import functools

import numpy as np
import pytest

from iclr_repro.core.data import MissingDataError, locate
from iclr_repro.entropy_linear_attention import (
    Series,
    Windows,
    average_and_ridge,
    errors,
    load_los_loop,
    load_montevideo_bus,
    load_nycbike1,
    load_pems08_edges,
    load_pems08_tail,
    masked_errors,
    persistence,
    seasonal_average,
)
from iclr_repro.entropy_linear_attention.data import LOADERS

_find = functools.partial(locate, download=False)
ALL = [load_pems08_tail, load_los_loop, load_montevideo_bus, load_nycbike1]


@functools.cache
def tail() -> Series:
    return load_pems08_tail(_find)


@pytest.fixture(scope="module", autouse=True)
def _data_are_here() -> None:
    try:
        tail()
    except MissingDataError as error:
        pytest.skip(f"no real data on this machine (ICLR_REPRO_DATA): {error}")


def scores(predicted: np.ndarray, starts: np.ndarray) -> list[float]:
    return list(errors(masked_errors(predicted, tail().targets(starts), zeros_are_missing=True)).values())


def test_the_tail_of_pems08() -> None:
    one = tail()
    assert one.values.shape == (7156, 170)
    assert (one.values == 0).mean() == pytest.approx(0.0036, abs=5e-5)
    assert (one.slots[0], one.weekdays[0]) == (44, 6)
    assert (len(one.train), len(one.validation), len(one.test)) == (3209, 334, 3566)
    assert (one.mean, one.std) == pytest.approx((229.9996, 145.5988), abs=5e-5)
    assert int(one.test[-1]) + 24 == 7156


@pytest.mark.parametrize("load", ALL, ids=lambda one: one.__name__)
def test_each_window_is_in_one_part_and_inside_the_series(load: object) -> None:
    one = load(_find)  # type: ignore[operator]
    parts = [set(part.tolist()) for part in (one.train, one.validation, one.test)]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert max(map(max, parts)) + 24 <= len(one.values)
    assert one.train.max() < one.validation.min() <= one.validation.max() < one.test.min()


def test_no_test_target_of_the_bikes_is_seen_in_training() -> None:
    one = load_nycbike1(_find)
    seen = set((one.train[:, None] + np.arange(24)).ravel().tolist())
    assert not seen & set((one.test[:, None] + np.arange(24)).ravel().tolist())


def test_sizes_and_calendars_of_the_other_sets() -> None:
    los, bus, bikes = load_los_loop(_find), load_montevideo_bus(_find), load_nycbike1(_find, channel=1)
    assert los.values.shape == (2016, 207)
    assert los.weekdays[0] == 3
    assert bus.values.shape == (744, 675)
    assert (bus.values == 0).mean() == pytest.approx(0.8, abs=0.02)
    assert not bus.zeros_are_missing
    assert bikes.values.shape == (1295, 128)
    assert bikes.test[0] == 431
    assert set(LOADERS) == {"pems08_tail", "los_loop", "montevideo_bus", "nycbike1_tail"}
    edges, metres = load_pems08_edges(_find)
    assert edges.shape == (295, 2)
    assert edges.max() < 170
    assert (metres > 0).all()
    with pytest.raises(ValueError, match=r"channel: got 2, expected 0 \(inflow\) or 1 \(outflow\)"):
        load_nycbike1(_find, channel=2)


@pytest.mark.parametrize(
    ("forecast", "expected"),
    [
        (persistence, (25.28, 38.64, 15.62)),
        (seasonal_average, (23.91, 37.73, 16.61)),
        (average_and_ridge, (16.30, 25.78, 10.80)),
    ],
)
def test_forecasts_without_a_network_on_the_official_test_windows(
    forecast: object, expected: tuple[float, ...]
) -> None:
    predicted = forecast(tail(), tail().test, history_rows=3578)  # type: ignore[operator]
    assert scores(predicted, tail().test) == pytest.approx(list(expected), abs=0.0101)


def test_ridge_with_the_training_rows_of_the_reduced_scale() -> None:
    assert tail().history_rows == 3232
    some = tail().test[::24]
    assert len(some) == 149
    found = scores(average_and_ridge(tail(), some, history_rows=3232), some)
    assert found[0] == pytest.approx(17.08, abs=0.005)
    everywhere = scores(average_and_ridge(tail(), tail().test, history_rows=3232), tail().test)
    assert everywhere[0] == pytest.approx(16.35, abs=0.005)


def test_the_anchor_of_every_second_node_scores_as_in_the_prototype() -> None:
    half = Series(**{**vars(tail()), "values": tail().values[:, ::2]})
    windows = Windows(half, half.test[::24], "ha_resid")
    predicted = np.stack([windows[i][1].numpy() for i in range(len(windows))])
    found = errors(masked_errors(predicted, half.targets(windows.starts), zeros_are_missing=True))
    assert list(found.values()) == pytest.approx([18.90, 29.71, 12.16], abs=0.006)


def test_persistence_of_every_second_node_scores_as_in_the_prototype() -> None:
    half = Series(**{**vars(tail()), "values": tail().values[:, ::2]})
    some = half.test[::24]
    predicted = persistence(half, some, history_rows=3232)
    assert errors(masked_errors(predicted, half.targets(some), zeros_are_missing=True))["mae"] == pytest.approx(
        25.78, abs=0.006
    )
