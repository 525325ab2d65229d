"""What an experiment is: checked parameters in, metrics, tables and figures out."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib
import math
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, Union, runtime_checkable

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from iclr_repro.core.rundir import Run

DataKind = Literal["real", "synthetic", "none"]


@runtime_checkable
class Experiment(Protocol):
    """One figure or table of a paper: a frozen dataclass whose fields are all `parameter(...)`.

    A class may set `uses_seeds = False` when its result depends on no random draw, or on draws whose effect its own
    intervals state: it is then run for the first seed only. One that trains or runs neural networks has a method
    `networks()`, which describes them for a dry run (`footprint.WithNetworks`).
    """

    def run(self, run: Run) -> Result:
        """Build, run, measure."""
        ...


@dataclass
class Result:
    """What an experiment found.

    Attributes:
        metrics: flat, "group/quantity" -> finite number; the number of samples behind it as "group/n". An array is one
            number for each of several independent runs that were advanced together: its elements count as seeds.
        tables: name -> table, saved as CSV.
        figures: name -> matplotlib figure, saved as SVG and PNG.
        data: what it was measured on.
        intervals: 95 % intervals (low, high) of metrics that the experiment itself bootstrapped, e.g. over papers.
    """

    metrics: Mapping[str, float | np.ndarray]
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    data: DataKind = "none"
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse what no reader could use.

        Raises:
            ValueError: a metric or a bound is not finite, an array has no or several axes, an interval belongs to no
                metric or to an array or has low > high, or `data` is none of its three values.
        """
        if self.data not in typing.get_args(DataKind):
            raise ValueError(f"data is {self.data!r}: expected one of {', '.join(typing.get_args(DataKind))}")
        for name, value in self.metrics.items():
            if np.ndim(value) > 1 or np.size(value) == 0:
                raise ValueError(f"metric {name!r} has shape {np.shape(value)}, expected one number or one a run")
            if not np.isfinite(value).all():
                raise ValueError(f"metric {name!r} is {value}: leave out a quantity that is not defined")
        for name, (low, high) in self.intervals.items():
            if name not in self.metrics:
                raise ValueError(f"interval of {name!r}, which is no metric{nearest(name, self.metrics)}")
            if np.ndim(self.metrics[name]) > 0:
                raise ValueError(f"interval of {name!r}, which has a value a run: its interval follows from them")
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError(f"interval of {name!r} is ({low}, {high}): expected finite low <= high")


class ParameterError(ValueError):
    """One or more parameters of an experiment are unknown, missing or out of range; one line each."""


def parameter(
    help: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[Any] | None = None,
    may_be_empty: bool = False,
) -> Any:
    """Declare a field of an experiment: one line of what it is, its unit, and the values it may take.

    There is no default: the paper's configuration file states every value. For a tuple field, `low`, `high` and
    `choices` hold for each element, and `may_be_empty` tells whether it may have none. Numbers are finite.
    """
    metadata = {"help": help, "unit": unit, "low": low, "high": high, "choices": choices, "may_be_empty": may_be_empty}
    return field(metadata=metadata)


def experiment_class(target: str) -> type[Any]:
    """Import the class that a configuration's `_target_` names.

    Raises:
        ParameterError: there is no such class, or it is no dataclass with a `run` method.
    """
    module_name, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ParameterError(f"_target_: cannot load {target!r} ({error})") from error
    if not (isinstance(found, type) and dataclasses.is_dataclass(found) and callable(getattr(found, "run", None))):
        raise ParameterError(f"_target_: {target!r} is no experiment: expected a dataclass with a method run(run)")
    return found


def build(name: str, config: Mapping[str, Any]) -> Experiment:
    """Build the experiment that `config` describes: `_target_` names the class, the other keys are its fields.

    Raises:
        ParameterError: all that is wrong with the configuration at once, a line each, with the nearest valid key.
    """
    where = f"experiments.{name}"
    try:
        cls = experiment_class(str(config.get("_target_", "")))
    except ParameterError as error:
        raise ParameterError(f"{where}.{error}") from error
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    given = {key: value for key, value in config.items() if key != "_target_"}
    problems = [f"{where}.{key}: no such parameter{nearest(key, fields)}" for key in given if key not in fields]
    problems += [f"{where}.{key}: missing ({fields[key].metadata['help']})" for key in fields if key not in given]
    values = {}
    for key in given.keys() & fields.keys():
        try:
            values[key] = converted(given[key], hints[key])
            _check_range(values[key], fields[key].metadata)
        except ValueError as error:
            problems.append(f"{where}.{key}: got {given[key]!r}, expected {error}")
    if not problems:
        try:
            built: Experiment = cls(**values)
            return built
        except ValueError as error:  # a combination that the class refuses in __post_init__
            problems.append(f"{where}: {error}")
    raise ParameterError("\n".join(sorted(problems)))


def described(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return {"name", "value", "unit", "help"} of each parameter of an experiment, in the order of its class."""
    return [
        {"name": field.name, "value": config[field.name], **{key: field.metadata[key] for key in ("unit", "help")}}
        for field in dataclasses.fields(experiment_class(config["_target_"]))
    ]


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the tail of an error message about an unknown name: the nearest known one and all of them.

    Example: nearest("lokki", ["loki", "wsep"]) is "; did you mean 'loki'? Valid: loki, wsep".
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{hint} Valid: {', '.join(names) or 'none'}"


def converted(value: Any, hint: Any) -> Any:
    """Return `value` as the annotated type, accepting only conversions that lose nothing (ValueError otherwise)."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if not any(value == argument and type(value) is type(argument) for argument in arguments):
            raise ValueError(_type_name(hint))
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _converted_to_any(value, [a for a in arguments if a is not type(None)], hint)
    with contextlib.suppress(ValueError):  # of an element: the whole is described below
        if origin is tuple and isinstance(value, (list, tuple)):
            hints = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
            return tuple(converted(item, hint) for item, hint in zip(value, hints, strict=True))
        if origin is dict and isinstance(value, Mapping):
            return {converted(key, arguments[0]): converted(item, arguments[1]) for key, item in value.items()}
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not abs(value) <= sys.float_info.max:  # nan, inf, or a whole number beyond them
            raise ValueError("a finite number")
        return float(value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint in (bool, str) and isinstance(value, hint):
        return value
    raise ValueError(_type_name(hint))


def _converted_to_any(value: Any, hints: Sequence[Any], union: Any) -> Any:
    for hint in hints:
        try:
            return converted(value, hint)
        except ValueError:
            continue
    raise ValueError(_type_name(union))


def _check_range(value: Any, metadata: Mapping[str, Any]) -> None:
    if value == () and not metadata["may_be_empty"]:
        raise ValueError("at least one element")
    for item in value if isinstance(value, tuple) else (value,):
        low, high, choices = metadata["low"], metadata["high"], metadata["choices"]
        if choices is not None and item not in choices:
            raise ValueError("one of " + ", ".join(map(str, choices)))
        below = low is not None and item is not None and not item >= low
        above = high is not None and item is not None and not item <= high
        if below or above:
            bounds = [f">= {low}"] * (low is not None) + [f"<= {high}"] * (high is not None)
            raise ValueError(" and ".join(bounds) + (f" {metadata['unit']}" if metadata["unit"] else ""))


def _type_name(hint: Any) -> str:
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    if hint in plain:
        return plain[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(map(_type_name, arguments))
    if origin is tuple and arguments[1:] == (...,):
        return f"a list, each element {_type_name(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)}: {', '.join(map(_type_name, arguments))}"
    return str(hint).replace("typing.", "")
