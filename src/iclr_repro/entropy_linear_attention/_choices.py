"""Options that are a name or a function of the user's own."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
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


def check_listed(option: str, values: Sequence[object]) -> None:
    """Refuse a list with an element that is there twice.

    Raises:
        ValueError: the message has the option, its value and what to do.
    """
    if twice := [value for index, value in enumerate(values) if value in values[:index]]:
        raise ValueError(f"{option}: got {list(values)}, expected each element once: remove the second {twice[0]!r}")


def check_heads(num_heads: int, dim: int) -> None:
    """Refuse heads that do not divide the model dimension.

    Raises:
        ValueError: the message has both.
    """
    if dim % num_heads:
        raise ValueError(f"num_heads is {num_heads}, expected a divisor of dim = {dim}: change either")


def check_clip_norm(clip_norm: float | None, *, optional: bool) -> None:
    """Refuse a norm of 0 or less, to which every gradient would be clipped.

    Raises:
        ValueError: the message has the norm.
    """
    if clip_norm is not None and not clip_norm > 0.0:
        hint = ", or null to clip nothing" if optional else ""
        raise ValueError(f"clip_norm is {clip_norm}, expected a norm above 0{hint}: no update would change a weight")
