from __future__ import annotations

import numpy as np
import pytest

from iclr_repro.core.measurements import Measurements


def test_an_estimate_has_the_percentile_interval_of_its_draws() -> None:
    found = Measurements()
    found.add_draws("x", 99.0, np.arange(1001.0))
    result = found.result(data="real")
    assert result.metrics == {"x": 99.0}
    assert result.intervals == {"x": (25.0, 975.0)}
    assert result.data == "real"


def test_draws_in_which_the_estimate_is_not_defined_are_left_out() -> None:
    found = Measurements()
    found.add_draws("some", 1.0, [np.nan, 0.0, 2.0, np.nan])
    found.add_draws("none", 1.0, [np.nan, np.nan])
    assert found.intervals == {"some": pytest.approx((0.05, 1.95))}
    assert found.metrics == {"some": 1.0, "none": 1.0}


def test_a_count_has_an_interval_without_width() -> None:
    found = Measurements()
    found.add_exact("bytes", 12.0)
    assert found.intervals == {"bytes": (12.0, 12.0)}


def test_an_undefined_metric_is_refused_in_the_end() -> None:
    found = Measurements()
    found.add("x", np.nan)
    with pytest.raises(ValueError, match="leave out a quantity that is not defined"):
        found.result().check()
