"""Options that are a name or a function of the user's own."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def chosen(option: str, value: str | F, known: Mapping[str, F]) -> F:
    """Return the function that `value` names, or `value` itself where it is a function.

    Raises:
        ValueError: no such name; the message has the nearest one and all that exist.
    """
    if not isinstance(value, str):
        return value
    if value not in known:
        close = difflib.get_close_matches(value, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"{option}: got {value!r}; {hint}Valid: {', '.join(known)}")
    return known[value]
