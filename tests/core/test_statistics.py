import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from iclr_repro.core.statistics import log_log_slopes, mean_interval, seeds_to_decide

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=6)


def exact_interval(values: list[float]) -> tuple[float, float]:
    """Return the 2.5 % and 97.5 % quantiles of the bootstrap distribution itself, by going through all resamples."""
    grids = np.meshgrid(*[values] * len(values))
    means = np.mean(grids, axis=0).ravel()
    low, high = np.quantile(means, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.25, 0.5, 1.0], [0.0, 0.0, 0.0, 1.0], [-3.0, 1.0, 2.0, 7.0, 9.0]])
def test_the_interval_is_that_of_all_possible_resamples(values: list[float]) -> None:
    assert mean_interval(values) == pytest.approx(exact_interval(values), abs=0.02 * np.ptp(values))


def test_intervals_of_two_and_three_values_span_them() -> None:
    # The smallest resampled mean has probability 1/4 and 1/27, both above 2.5 %.
    assert mean_interval([3.0, 1.0]) == (1.0, 3.0)
    assert mean_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)


def test_the_interval_of_many_values_is_the_normal_one() -> None:
    values = np.random.default_rng(5).standard_normal(400) + 3.0
    half_width = scipy.stats.norm.ppf(0.975) * values.std() / np.sqrt(400)
    assert mean_interval(values) == pytest.approx((values.mean() - half_width, values.mean() + half_width), abs=0.01)


def test_the_interval_contains_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    intervals = [mean_interval(rng.standard_normal(30)) for _ in range(200)]
    covered = np.mean([interval is not None and interval[0] <= 0.0 <= interval[1] for interval in intervals])
    assert 0.90 <= covered <= 0.98


@given(values=VALUES)
@settings(deadline=None, max_examples=20)
def test_the_interval_lies_among_the_values_and_is_the_same_each_time(values: list[float]) -> None:
    interval = mean_interval(values)
    assert interval is not None
    tolerance = 1e-9 * max(map(abs, values))
    assert min(values) - tolerance <= interval[0] <= interval[1] <= max(values) + tolerance
    assert mean_interval(np.array(values)) == interval


def test_one_value_has_no_interval_and_equal_values_one_of_width_zero() -> None:
    assert mean_interval([0.3]) is None
    assert mean_interval([0.3, 0.3, 0.3]) == (0.3, 0.3)


@pytest.mark.parametrize(
    ("values", "shown"), [([], r"\[\]"), ([1.0, float("nan")], r"\[1.0, nan\]"), ([[1.0, 2.0]], r"\[\[1.0, 2.0\]\]")]
)
def test_values_that_have_no_mean_are_refused(values: list[float], shown: str) -> None:
    with pytest.raises(ValueError, match=f"^expected a non-empty list of finite values, got {shown}$"):
        mean_interval(values)


def test_the_number_of_seeds_that_would_decide_follows_from_the_width_towards_the_threshold() -> None:
    assert seeds_to_decide(4, 1.0, (-1.0, 2.0), 0.0) == 16  # 4 * (2 / 1)^2
    assert seeds_to_decide(4, 1.0, (-1.0, 2.0), 1.5) == 16  # 4 * (1 / 0.5)^2
    assert seeds_to_decide(5, 1.0, (-0.1, 1.1), 0.0) == 7  # 5 * 1.1^2 = 6.05


def test_a_threshold_at_the_end_of_the_interval_needs_one_seed_more() -> None:
    assert seeds_to_decide(5, 1.0, (0.0, 2.0), 0.0) == 6
    assert seeds_to_decide(5, 1.0, (0.0, 2.0), 2.0) == 6


@pytest.mark.parametrize("mean", [0.0, 1e-9, 1e-200, -1e-200])
def test_no_number_of_seeds_decides_where_the_mean_lies_on_the_threshold(mean: float) -> None:
    assert seeds_to_decide(5, mean, (-1.0, 2.0), 0.0) is None


@given(
    num_seeds=st.integers(2, 50),
    mean=st.floats(-100, 100),
    below=st.floats(0, 100),
    above=st.floats(0, 100),
    place=st.floats(0, 1),
)
@settings(deadline=None, max_examples=100)
def test_more_seeds_than_there_are_would_decide(
    num_seeds: int, mean: float, below: float, above: float, place: float
) -> None:
    low, high = mean - below, mean + above
    needed = seeds_to_decide(num_seeds, mean, (low, high), min(max(low + place * (high - low), low), high))
    assert needed is None or num_seeds < needed <= 1_000_001


def test_a_power_law_has_its_exponent_as_slope() -> None:
    x = np.array([1.0, 10.0, 100.0])
    assert log_log_slopes(x, np.stack([x**-0.5, 3 * x**2], axis=1)) == pytest.approx([-0.5, 2.0])


def test_a_power_of_values_that_are_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="a power needs positive values"):
        log_log_slopes(np.array([1.0, 2.0]), np.array([[1.0], [0.0]]))
