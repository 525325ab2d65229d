"""Where the dot, the whisker and the threshold of a check lie on a line, for a small picture beside its numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

_NUMBER = r"(-?[\d.]+(?:e[+-]?\d+)?)"
_BOUND = re.compile(rf"(?:^|.* )(<=|>=|<|>) {_NUMBER}$")
_RANGE = re.compile(rf"^in \[{_NUMBER}, {_NUMBER}\]$")
_MARGIN = 0.08  # of the line, at either end


def whisker(measured: object, interval: Sequence[float | None] | None, threshold: str | None) -> dict[str, Any] | None:
    """Return positions in percent of the line, or None where there is no interval or no bound to draw.

    Args:
        measured: the value.
        interval: its two ends.
        threshold: as checks write it: "<= 1.25", "a - b > 0", "in [10, 25]".

    Returns:
        {"dot", "low", "high": of the value; "from", "to": where the value should lie}.
    """
    bounds = _bounds(threshold or "")
    if (
        bounds is None
        or interval is None
        or isinstance(measured, (str, bool))
        or not isinstance(measured, (int, float))
    ):
        return None
    ends = [measured, *interval]
    if any(end is None or not math.isfinite(end) for end in ends):
        return None
    marks = [float(end) for end in ends if end is not None]
    finite = [*marks, *(bound for bound in bounds if math.isfinite(bound))]
    low, high = min(finite), max(finite)
    if high == low:
        return None

    def position(value: float) -> float:
        share = _MARGIN + (1 - 2 * _MARGIN) * (value - low) / (high - low)
        return round(100 * min(1.0, max(0.0, share)), 2)

    dot, left, right = map(position, marks)
    return {"dot": dot, "low": left, "high": right, "from": position(bounds[0]), "to": position(bounds[1])}


def _bounds(threshold: str) -> tuple[float, float] | None:
    if match := _RANGE.match(threshold):
        return float(match[1]), float(match[2])
    if match := _BOUND.match(threshold):
        bound = float(match[2])
        return (bound, math.inf) if match[1].startswith(">") else (-math.inf, bound)
    return None
