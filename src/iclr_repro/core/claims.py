"""A paper's claims as checks over results, and the verdicts they come to.

A claim is a function of `Results` that returns a `Check`; `judge` turns all claims of a paper into verdicts:

- reproduced: the 95 % interval of the measured quantity lies beyond the threshold (or an exact quantity agrees);
- inconclusive: the interval crosses the threshold, or there is no interval to say;
- not reproduced: the interval lies on the other side;
- not run: the experiment did not run, ran on synthetic data, or this scale cannot decide.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import math
import operator
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from iclr_repro.core.experiment import DataKind, nearest
from iclr_repro.core.statistics import mean_interval, seeds_to_decide

_LOG = logging.getLogger(__name__)

Verdict = Literal["reproduced", "inconclusive", "not reproduced", "not run"]
Measured = float | str | None

# From the strongest to the weakest: a claim of several parts is as good as its weakest part.
VERDICTS: tuple[Verdict, ...] = ("reproduced", "inconclusive", "not reproduced", "not run")


class NotRun(Exception):  # noqa: N818 - a state of the world, not an error
    """The claim cannot be judged; the message is the reason that the table shows."""


@dataclass(frozen=True)
class Values:
    """A metric over seeds, with arithmetic seed by seed (`a / b` is the ratio within each seed).

    Attributes:
        name: of the metric, or the expression.
        values: shape [num_seeds].
        interval: given by the experiment itself (then there is one seed), or None. Arithmetic with a constant keeps
            it, with another metric drops it: how the two vary together is not known.
        seeds: the seeds, in the order of `values`; two metrics are paired where they share them.
    """

    name: str
    values: npt.NDArray[np.float64]
    interval: tuple[float, float] | None = None
    seeds: tuple[int, ...] = (0,)

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return float(self.values.mean())

    def __sub__(self, other: Values | float) -> Values:
        return self._combined(other, operator.sub, "-")

    def __truediv__(self, other: Values | float) -> Values:
        divisor = other.values if isinstance(other, Values) else np.float64(other)
        if np.any(divisor == 0):
            raise NotRun(f"{_name(other)} is 0, so that {_name(self)} / {_name(other)} is not defined")
        return self._combined(other, operator.truediv, "/")

    def __mul__(self, factor: float) -> Values:
        return self._combined(factor, operator.mul, "*")

    def __neg__(self) -> Values:
        interval = None if self.interval is None else (-self.interval[1], -self.interval[0])
        return replace(self, name=f"-{_name(self)}", values=-self.values, interval=interval)

    def _combined(self, other: Values | float, operation: Callable[[Any, Any], Any], sign: str) -> Values:
        name = f"{_name(self)} {sign} {_name(other)}"
        if isinstance(other, Values):
            if self.seeds != other.seeds:
                raise NotRun(f"{self.name} and {other.name} were measured with different seeds")
            return Values(name, operation(self.values, other.values), seeds=self.seeds)
        interval = None
        if self.interval is not None:
            ends = [float(operation(end, other)) for end in self.interval]
            interval = (min(ends), max(ends))
        return Values(name, operation(self.values, other), interval=interval, seeds=self.seeds)


@dataclass(frozen=True)
class Check:
    """What a claim compares, and what comes of it.

    Attributes:
        measured: the mean, or text where several quantities are compared.
        threshold: what it is compared with, in words ("< 0", "in [10, 25]").
        verdict: see the module's docstring.
        interval: 95 %, None for exact quantities.
        values: the quantity for each seed.
        note: why, where the verdict alone does not say it.
        name: of the quantity.
        parts: the checks that `all_of` joined.
    """

    measured: Measured
    threshold: str
    verdict: Verdict
    interval: tuple[float, float] | None = None
    values: tuple[float, ...] = ()
    note: str = ""
    name: str = ""
    parts: tuple[Check, ...] = ()


def at_least(quantity: Values, threshold: float) -> Check:
    """Check that a quantity is >= `threshold`."""
    return _judged(quantity, f">= {threshold:g}", low=threshold)


def at_most(quantity: Values, threshold: float) -> Check:
    """Check that a quantity is <= `threshold`."""
    return _judged(quantity, f"<= {threshold:g}", high=threshold)


def more_than(quantity: Values, threshold: float) -> Check:
    """Check that a quantity is > `threshold`: unlike `at_least`, equality (a difference that is always 0) fails."""
    return _judged(quantity, f"> {threshold:g}", low=threshold, strict=True)


def within(quantity: Values, low: float, high: float) -> Check:
    """Check that a quantity lies in [low, high]."""
    return _judged(quantity, f"in [{low:g}, {high:g}]", low=low, high=high)


def less(a: Values, b: Values, *, by: float = 0.0, paired: bool = True) -> Check:
    """Check that `a` is less than `b` by more than `by`: mean(b - a) > by.

    Paired (the default) takes the difference within each seed. Unpaired, for different seeds, takes the difference of
    the means; the half-widths of the two intervals add in squares.
    """
    difference = b - a if paired else _unpaired_difference(b, a)
    return _judged(difference, f"{difference.name} > {by:g}", low=by, strict=True)


def greater(a: Values, b: Values, *, by: float = 0.0, paired: bool = True) -> Check:
    """Check that `a` is greater than `b` by more than `by`: mean(a - b) > by; see `less`."""
    return less(b, a, by=by, paired=paired)


def exact(quantity: Values, expected: float, *, tolerance: float = 0.0) -> Check:
    """Check an identity: every seed's value equals `expected` up to `tolerance` (absolute). No interval is involved."""
    worst = float(quantity.values[np.argmax(np.abs(quantity.values - expected))])
    threshold = f"= {expected:.10g}" + (f" ± {tolerance:g}" if tolerance else "")
    verdict: Verdict = "reproduced" if abs(worst - expected) <= tolerance else "not reproduced"
    return Check(worst, threshold, verdict, values=tuple(quantity.values.tolist()), name=quantity.name)


def all_of(*checks: Check) -> Check:
    """Join checks: the claim is as good as the weakest of them; `parts` keeps each, `note` tells which do not hold."""
    if not checks:
        raise ValueError("all_of needs at least one check")
    parts = tuple(part for check in checks for part in check.parts or (check,))
    if len(parts) == 1:
        return parts[0]
    failing = [part for part in parts if part.verdict != "reproduced"]
    return Check(
        measured=f"{len(parts) - len(failing)} of {len(parts)} hold",
        threshold="all hold",
        verdict=max((part.verdict for part in parts), key=VERDICTS.index),
        note="; ".join(_described(part) for part in failing),
        parts=parts,
    )


class ExperimentResults:
    """The metrics of one experiment over its seeds: `results["group/quantity"]` is a `Values`."""

    def __init__(
        self,
        name: str,
        metrics: Mapping[str, Values],
        *,
        data: DataKind = "none",
        unavailable: str | None = None,
    ) -> None:
        self.name, self.metrics, self.data, self.unavailable = name, dict(metrics), data, unavailable

    def __getitem__(self, metric: str) -> Values:
        if self.unavailable:
            raise NotRun(f"{self.name}: {self.unavailable}")
        if metric not in self.metrics:
            close = ", ".join(difflib.get_close_matches(metric, self.metrics, n=3))
            raise NotRun(f"{self.name} measured no {metric!r}; {f'nearest: {close}' if close else 'nothing like it'}")
        return self.metrics[metric]


class Results:
    """All results of a paper at one scale; `results.<experiment>["metric"]`.

    Remembers which experiments a claim looked at, which gives the command that regenerates it. `scale` is the one that
    `judge` judges at, for claims whose threshold depends on it.
    """

    def __init__(self, experiments: Mapping[str, ExperimentResults]) -> None:
        self._experiments = dict(experiments)
        self.looked_at: list[str] = []
        self.scale = ""

    @classmethod
    def from_metrics(
        cls, metrics: Mapping[str, Mapping[str, float | np.ndarray]], *, data: DataKind = "real"
    ) -> Results:
        """Wrap plain metrics, for trying a claim on them.

        An array has a value for each of several runs. A number becomes two seeds of equal values, so that whatever is
        computed from it has an interval of width zero.
        """

        def values(name: str, value: float | np.ndarray) -> Values:
            array = np.full(2, value, dtype=np.float64) if np.ndim(value) == 0 else np.asarray(value, dtype=np.float64)
            return Values(name, array, seeds=tuple(range(len(array))))

        return cls(
            {
                experiment: ExperimentResults(
                    experiment,
                    {name: values(name, value) for name, value in of_experiment.items()},
                    data=data,
                )
                for experiment, of_experiment in metrics.items()
            }
        )

    def __contains__(self, experiment: str) -> bool:
        return experiment in self._experiments

    def __getattr__(self, name: str) -> ExperimentResults:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._experiments:
            raise AttributeError(f"no experiment {name!r}{nearest(name, self._experiments)}")
        if name not in self.looked_at:
            self.looked_at.append(name)
        return self._experiments[name]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement of the paper and the function that checks it."""

    id: str
    statement: str
    headline: bool
    source: str
    paper: str
    scales: tuple[str, ...]
    data: Literal["any", "real"]
    check: Callable[[Results], Check] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A claim, its check, and the experiments it rests on."""

    claim: Claim
    check: Check
    experiments: tuple[str, ...]


def claim(
    *,
    id: str,
    source: str,
    paper: str,
    headline: bool = False,
    scales: Sequence[str] = ("cpu", "paper"),
    data: Literal["any", "real"] = "any",
) -> Callable[[Callable[[Results], Check]], Claim]:
    """Make a claim of a function `Results -> Check`; the first line of its docstring is the statement.

    Args:
        id: of the claim, unique in its paper.
        source: where the paper says it ("Table 2").
        paper: the paper's value in words, or "not available".
        headline: whether the paper stands or falls with it.
        scales: where it can be judged; elsewhere it is "not run".
        data: "real" if results on synthetic data say nothing about it.
    """

    def make(check: Callable[[Results], Check]) -> Claim:
        if not check.__doc__:
            raise ValueError(f"claim {id}: {check.__name__} needs a docstring, its first line is the statement")
        statement = check.__doc__.strip().splitlines()[0]
        return Claim(
            id=id,
            statement=statement,
            headline=headline,
            source=source,
            paper=paper,
            scales=tuple(scales),
            data=data,
            check=check,
        )

    return make


def claims_of(module: types.ModuleType) -> list[Claim]:
    """Return the claims that a module defines, in the order of their definition.

    Raises:
        ValueError: two claims share an id, or the module has none.
    """
    claims = [value for value in vars(module).values() if isinstance(value, Claim)]
    ids = [claim.id for claim in claims]
    if len(set(ids)) != len(ids) or not ids:
        raise ValueError(f"{module.__name__}: claim ids must be unique and there must be some, got {ids}")
    return claims


def judge(claims: Sequence[Claim], results: Results, scale: str) -> list[Judgement]:
    """Check every claim; one that raises does not keep the others from being judged.

    `NotRun` gives the reason. Any other exception is a mistake in the claim: the note names it, the log shows where.
    """
    judgements = []
    results.scale = scale
    for one in claims:
        results.looked_at.clear()
        check = _checked(one, results, scale)
        # A check that ended early has not looked at all that it names.
        named = [name for name in _names_in(inspect.unwrap(one.check).__code__) if name in results]
        experiments = tuple(dict.fromkeys([*named, *results.looked_at]))
        judgements.append(Judgement(claim=one, check=check, experiments=experiments))
    return judgements


def _names_in(code: types.CodeType) -> Iterator[str]:
    """Yield the attribute and function names that a function's code uses, inner functions included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


def _checked(one: Claim, results: Results, scale: str) -> Check:
    elsewhere = "" if scale in one.scales else f"can be judged at scale {' or '.join(one.scales)} only"
    try:
        check = one.check(results)
        if not isinstance(check, Check):
            raise TypeError(f"returned {check!r}, expected a Check")
        synthetic = [name for name in results.looked_at if getattr(results, name).data == "synthetic"]
        if one.data == "real" and synthetic:
            raise NotRun(f"needs the real data; {', '.join(synthetic)} ran on synthetic data")
    except NotRun as reason:
        return Check(None, "", "not run", note=elsewhere or str(reason))
    except Exception as error:
        _LOG.exception("claim %s: its check failed", one.id)
        return Check(None, "", "not run", note=f"its check failed: {type(error).__name__}: {error}")
    return replace(check, verdict="not run", note=elsewhere) if elsewhere else check


def _judged(
    quantity: Values, threshold: str, *, low: float = -math.inf, high: float = math.inf, strict: bool = False
) -> Check:
    """Compare the interval of a quantity with [low, high] (with (low, high) if `strict`)."""
    interval = quantity.interval or mean_interval(quantity.values)
    mean, values = quantity.mean, tuple(quantity.values.tolist())
    if interval is None:
        note = "one seed gives no interval: run with several, e.g. seeds=[0,1,2,3,4]"
        return Check(mean, threshold, "inconclusive", values=values, note=note, name=quantity.name)
    above, below = (operator.gt, operator.lt) if strict else (operator.ge, operator.le)
    verdict: Verdict
    if above(interval[0], low) and below(interval[1], high):
        verdict = "reproduced"
    elif not (above(interval[1], low) and below(interval[0], high)):
        verdict = "not reproduced"
    else:
        verdict = "inconclusive"
    note = _how_many_seeds(quantity, interval, low, high) if verdict == "inconclusive" else ""
    return Check(mean, threshold, verdict, interval=interval, values=values, note=note, name=quantity.name)


def _how_many_seeds(quantity: Values, interval: tuple[float, float], low: float, high: float) -> str:
    if quantity.interval is not None:
        return "more samples or seeds would be needed to decide"
    crossed = [bound for bound in (low, high) if interval[0] <= bound <= interval[1]]
    needed = [seeds_to_decide(len(quantity.values), quantity.mean, interval, bound) for bound in crossed]
    if None in needed:
        return "the mean lies on the threshold"
    return f"about {max(number for number in needed if number is not None)} seeds or runs would decide"


def _unpaired_difference(a: Values, b: Values) -> Values:
    mean = a.mean - b.mean
    interval_a = a.interval or mean_interval(a.values)
    interval_b = b.interval or mean_interval(b.values)
    interval = None
    if interval_a and interval_b:
        low = mean - math.hypot(a.mean - interval_a[0], interval_b[1] - b.mean)
        high = mean + math.hypot(interval_a[1] - a.mean, b.mean - interval_b[0])
        interval = (low, high)
    return Values(f"{_name(a)} - {_name(b)}", np.array([mean]), interval=interval)


def _name(value: Values | float) -> str:
    if not isinstance(value, Values):
        return f"{value:g}"
    return f"({value.name})" if " " in value.name else value.name


def _described(check: Check) -> str:
    """Say in words what came of a check, e.g. "churn 0.4 [0.36, 0.46], expected in [0.35, 0.45]: inconclusive"."""
    interval = f" [{check.interval[0]:.4g}, {check.interval[1]:.4g}]" if check.interval else ""
    note = f" ({check.note})" if check.note else ""
    return f"{check.name} {check.measured:.4g}{interval}, expected {check.threshold}: {check.verdict}{note}"
