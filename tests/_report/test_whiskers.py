"""The little pictures of intervals."""

from __future__ import annotations

import pytest

from iclr_repro._report.whiskers import whisker


@pytest.mark.parametrize(
    ("threshold", "start", "end"),
    [
        ("<= 2", 0.0, 50.0),
        ("a/x - b/y > 2", 50.0, 100.0),
        (">= 2", 50.0, 100.0),
        ("in [2, 3]", 50.0, 92.0),
    ],
)
def test_the_shaded_part_is_where_the_value_should_lie(threshold: str, start: float, end: float) -> None:
    """The line spans the interval and all bounds, with a margin of 8 %."""
    marks = whisker(1.5, [1.0, 3.0], threshold)
    assert marks == {"dot": 29.0, "low": 8.0, "high": 92.0, "from": start, "to": end}


@pytest.mark.parametrize(
    ("measured", "interval", "threshold"),
    [
        ("3 of 3 hold", [1.0, 2.0], "> 0"),
        (1.0, None, "> 0"),
        (None, [1.0, 2.0], "> 0"),
        (1.0, [None, 2.0], "> 0"),
        (float("nan"), [1.0, 2.0], "> 0"),
        (1.0, [1.0, 2.0], "all hold"),
        (1.0, [1.0, 2.0], None),
        (1.0, [1.0, 1.0], "<= 1"),
    ],
)
def test_without_an_interval_or_a_bound_there_is_no_picture(
    measured: float | str | None, interval: list[float | None] | None, threshold: str | None
) -> None:
    assert whisker(measured, interval, threshold) is None
