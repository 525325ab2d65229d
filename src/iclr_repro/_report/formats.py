"""Numbers, times and sizes as text for people."""

from __future__ import annotations

import math

_SIZE_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def format_number(value: float | str | None) -> str:
    """Write a value with four significant digits; text is left as it is, None becomes "not available".

    Example: 26878.0 -> "26,878", 16.1234 -> "16.12", 0.5 -> "0.5", 0.0000123 -> "1.23e-05".
    """
    if value is None:
        return "not available"
    if isinstance(value, (str, bool)) or not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}"
    if not 1e-3 <= abs(value) < 1e9:
        return f"{value:.4g}"
    decimals = max(0, 3 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if decimals else text


def format_duration(seconds: float | None) -> str:
    """Write a time in seconds for people: 3.21 -> "3.2 s", 61.2 -> "1 min 1 s", 7260 -> "2 h 1 min"."""
    if seconds is None:
        return "not available"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, rest_minutes = divmod(minutes, 60)
    return f"{hours} h {rest_minutes} min" if hours else f"{minutes} min {rest} s"


def format_size(num_bytes: int | None) -> str:
    """Write a number of bytes with a binary unit: 123 -> "123 bytes", 8053063680 -> "7.5 GiB"."""
    if num_bytes is None:
        return "not available"
    size, unit = float(num_bytes), 0
    while size >= 1024 and unit < len(_SIZE_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.1f} {_SIZE_UNITS[unit]}" if unit else f"{num_bytes} bytes"
