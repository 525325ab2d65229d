import numpy as np
import pytest

from iclr_repro.entropy_linear_attention import synthetic_traffic


def test_generated_traffic_has_the_form_of_the_real_sets() -> None:
    one = synthetic_traffic(40, 14, rng=np.random.default_rng(0))
    assert one.values.shape == (14 * 288, 40)
    assert (one.values == one.values.round()).all()
    assert one.values.min() == 0.0
    assert (one.values == 0).mean() == pytest.approx(0.003, abs=0.001)
    assert one.zeros_are_missing
    assert (one.slots[0], one.weekdays[0]) == (0, 0)
    assert one.mean == pytest.approx(one.values[: one.train[-1]].mean(), rel=0.02)


def test_days_have_two_peaks_and_weekends_are_quieter() -> None:
    one = synthetic_traffic(60, 14, rng=np.random.default_rng(0))
    weekday = one.values[~one.weekend].reshape(-1, 288, 60).mean(axis=(0, 2))
    weekend = one.values[one.weekend].reshape(-1, 288, 60).mean(axis=(0, 2))
    hour = weekday.reshape(24, 12).mean(axis=1)
    assert hour.argmax() in (17, 18)
    assert hour[8] > 1.3 * hour[12]
    assert weekend.mean() / weekday.mean() == pytest.approx(0.75, abs=0.05)


def test_neighbours_on_the_ring_move_together_more_than_strangers() -> None:
    one = synthetic_traffic(60, 10, rng=np.random.default_rng(1))
    daily = one.values.reshape(10, 288, 60)
    noise = (daily / np.maximum(daily.mean(axis=0), 1.0)).reshape(-1, 60)
    correlation = np.corrcoef(noise[~one.weekend].T)
    beside = np.mean([correlation[n, (n + 1) % 60] for n in range(60)])
    far = np.mean([correlation[n, (n + 30) % 60] for n in range(60)])
    assert beside > far + 0.03


def test_a_seed_gives_one_series() -> None:
    first, second, other = (synthetic_traffic(5, 2, rng=np.random.default_rng(seed)).values for seed in (0, 0, 1))
    assert (first == second).all()
    assert (first != other).any()


def test_sizes_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="num_nodes, num_days: got 2, 1, expected >= 3 and >= 1"):
        synthetic_traffic(2, 1, rng=np.random.default_rng(0))
