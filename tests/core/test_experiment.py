from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest

from iclr_repro.core.experiment import (
    Experiment,
    ParameterError,
    Result,
    build,
    experiment_class,
    nearest,
    parameter,
)


@dataclass(frozen=True, kw_only=True)
class Study:
    steps: int = parameter("training steps", unit="steps", low=1, high=1000)
    rate: float = parameter("learning rate", low=0.0)
    name: str = parameter("method", choices=("loki", "lora"))
    shuffle: bool = parameter("whether to shuffle")
    data: Literal["auto", "real", 2] = parameter("what to run on")
    widths: tuple[int, ...] = parameter("hidden sizes", unit="units", low=1)
    span: tuple[float, float] = parameter("first and last quantile", high=1)
    clip: float | None = parameter("largest gradient norm", low=0.5)
    choice: int | str = parameter("a number or a word")
    counts: dict[str, int] = parameter("samples of each class")

    def __post_init__(self) -> None:
        if self.name == "lora" and not self.shuffle:
            raise ValueError("lora needs shuffle: true")

    def run(self, run: Any) -> Result:
        return Result({"steps": float(self.steps)})


class NoDataclass:
    def run(self, run: Any) -> None: ...


@dataclass
class NoRun:
    steps: int = parameter("steps")


INSTANCE = NoRun(steps=1)

GOOD: dict[str, Any] = {
    "_target_": f"{__name__}.Study",
    "steps": 10,
    "rate": 0.1,
    "name": "loki",
    "shuffle": True,
    "data": "auto",
    "widths": [4, 8],
    "span": [0.25, 0.75],
    "clip": None,
    "choice": 3,
    "counts": {"a": 1},
}


def problems_of(**changes: Any) -> list[str]:
    with pytest.raises(ParameterError) as caught:
        build("study", {**GOOD, **changes})
    return str(caught.value).splitlines()


def test_a_configuration_becomes_an_experiment() -> None:
    study = build("study", GOOD)
    assert isinstance(study, Experiment)
    assert study == Study(
        steps=10,
        rate=0.1,
        name="loki",
        shuffle=True,
        data="auto",
        widths=(4, 8),
        span=(0.25, 0.75),
        clip=None,
        choice=3,
        counts={"a": 1},
    )


@pytest.mark.parametrize(
    ("field", "given", "expected"),
    [
        ("steps", 1, 1),
        ("steps", 1000, 1000),
        ("rate", 1, 1.0),
        ("widths", (3,), (3,)),
        ("span", [0, 1], (0.0, 1.0)),
        ("clip", 0.5, 0.5),
        ("clip", 2, 2.0),
        ("choice", "many", "many"),
        ("data", 2, 2),
        ("counts", {}, {}),
    ],
)
def test_values_within_their_range_are_taken_in_the_annotated_type(field: str, given: Any, expected: Any) -> None:
    value = getattr(build("study", {**GOOD, field: given}), field)
    assert value == expected
    assert type(value) is type(expected)
    if isinstance(expected, tuple):
        assert [type(item) for item in value] == [type(item) for item in expected]


@pytest.mark.parametrize(
    ("field", "given", "expected"),
    [
        ("steps", 10.0, "a whole number"),
        ("steps", "10", "a whole number"),
        ("steps", True, "a whole number"),
        ("steps", None, "a whole number"),
        ("steps", 0, ">= 1 and <= 1000 steps"),
        ("steps", 1001, ">= 1 and <= 1000 steps"),
        ("rate", "0.1", "a number"),
        ("rate", False, "a number"),
        ("rate", -0.1, ">= 0.0"),
        ("rate", float("inf"), "a finite number"),
        ("rate", 10**400, "a finite number"),
        ("widths", (), "at least one element"),
        ("rate", float("nan"), "a finite number"),
        ("name", 3, "text"),
        ("name", "Loki", "one of loki, lora"),
        ("shuffle", 1, "true or false"),
        ("shuffle", "true", "true or false"),
        ("data", "synthetic", "one of auto, real, 2"),
        ("data", 2.0, "one of auto, real, 2"),
        ("data", [], "one of auto, real, 2"),
        ("widths", 4, "a list, each element a whole number"),
        ("widths", "48", "a list, each element a whole number"),
        ("widths", [4, 8.5], "a list, each element a whole number"),
        ("widths", [4, 0], ">= 1 units"),
        ("span", [0.5], "a list of 2: a number, a number"),
        ("span", [0.1, 0.2, 0.3], "a list of 2: a number, a number"),
        ("span", [0.1, "b"], "a list of 2: a number, a number"),
        ("span", [0.5, 1.5], "<= 1"),
        ("clip", "no", "a number or null"),
        ("clip", 0.25, ">= 0.5"),
        ("choice", None, "a whole number or text"),
        ("choice", True, "a whole number or text"),
        ("choice", 1.5, "a whole number or text"),
        ("counts", {"a": "b"}, "dict[str, int]"),
        ("counts", [1], "dict[str, int]"),
    ],
)
def test_a_wrong_value_is_shown_with_what_is_expected(field: str, given: Any, expected: str) -> None:
    assert problems_of(**{field: given}) == [f"experiments.study.{field}: got {given!r}, expected {expected}"]


def test_an_unknown_parameter_is_answered_with_the_nearest_and_all_valid_ones() -> None:
    assert problems_of(stesp=3) == [
        "experiments.study.stesp: no such parameter; did you mean 'steps'? "
        "Valid: choice, clip, counts, data, name, rate, shuffle, span, steps, widths"
    ]
    assert "no such parameter; Valid: choice," in problems_of(qqq=3)[0]


def test_a_missing_parameter_is_described() -> None:
    config = {key: value for key, value in GOOD.items() if key != "rate"}
    with pytest.raises(ParameterError, match=r"^experiments\.study\.rate: missing \(learning rate\)$"):
        build("study", config)


def test_all_problems_are_told_at_once() -> None:
    config = {**GOOD, "steps": 0, "rates": 0.1, "shuffle": "no"}
    del config["rate"]
    with pytest.raises(ParameterError) as caught:
        build("study", config)
    starts = [line.split(",")[0].split(" (")[0].split(";")[0] for line in str(caught.value).splitlines()]
    assert starts == [
        "experiments.study.rate: missing",
        "experiments.study.rates: no such parameter",
        "experiments.study.shuffle: got 'no'",
        "experiments.study.steps: got 0",
    ]


def test_a_combination_that_the_class_refuses_is_a_problem_of_the_experiment() -> None:
    assert problems_of(name="lora", shuffle=False) == ["experiments.study: lora needs shuffle: true"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("", r"cannot load '' \("),
        ("Study", r"cannot load 'Study' \("),
        ("no_such_package.Study", r"cannot load 'no_such_package\.Study' \(No module named 'no_such_package'\)"),
        ("iclr_repro.core.experiment.Stduy", r"cannot load '.*Stduy' \(module .* has no attribute 'Stduy'\)"),
        ("..core.Study", r"cannot load '\.\.core\.Study' \("),
        (f"{__name__}.NoDataclass", r".* is no experiment: expected a dataclass with a method run\(run\)$"),
        (f"{__name__}.NoRun", ".* is no experiment"),
        (f"{__name__}.INSTANCE", ".* is no experiment"),
    ],
)
def test_a_target_that_is_no_experiment_is_refused_by_name(target: str, message: str) -> None:
    with pytest.raises(ParameterError, match=rf"^_target_: {message}"):
        experiment_class(target)
    with pytest.raises(ParameterError, match=rf"^experiments\.study\._target_: {message}"):
        build("study", {**GOOD, "_target_": target})


def test_a_configuration_without_a_target_says_so() -> None:
    with pytest.raises(ParameterError, match=r"^experiments\.study\._target_: cannot load ''"):
        build("study", {"steps": 3})


def test_the_nearest_name_is_offered_where_there_is_one() -> None:
    assert nearest("lokki", ["wsep", "loki"]) == "; did you mean 'loki'? Valid: loki, wsep"
    assert nearest("xyz", ["wsep", "loki"]) == "; Valid: loki, wsep"
    assert nearest("xyz", []) == "; Valid: none"


def test_a_good_result_passes() -> None:
    Result({"a/x": 1.0, "a/n": 30.0}, intervals={"a/x": (0.5, 1.5)}, data="real").check()
    Result({"a/x": 1.0}, intervals={"a/x": (1.0, 1.0)}).check()
    Result({"a/x": np.array([1.0, 2.0])}).check()
    Result({}).check()


@pytest.mark.parametrize(
    ("metrics", "intervals", "message"),
    [
        ({"a/x": float("nan")}, {}, "metric 'a/x' is nan: leave out a quantity that is not defined"),
        ({"a/x": float("-inf")}, {}, "metric 'a/x' is -inf: leave out"),
        ({"a/x": np.array([1.0, np.nan])}, {}, r"metric 'a/x' is \[ 1. nan\]: leave out"),
        ({"a/x": np.ones((2, 3))}, {}, r"metric 'a/x' has shape \(2, 3\), expected one number or one a run"),
        ({"a/x": np.ones(0)}, {}, r"metric 'a/x' has shape \(0,\), expected one number or one a run"),
        ({"a/x": np.ones(2)}, {"a/x": (0.0, 2.0)}, "interval of 'a/x', which has a value a run"),
        ({"a/x": 1.0}, {"a/y": (0.0, 1.0)}, "interval of 'a/y', which is no metric; did you mean 'a/x'. Valid: a/x"),
        ({"a/x": 1.0}, {"a/x": (2.0, 1.0)}, r"interval of 'a/x' is \(2.0, 1.0\): expected finite low <= high"),
        ({"a/x": 1.0}, {"a/x": (0.0, float("inf"))}, r"interval of 'a/x' is \(0.0, inf\): expected finite low <= high"),
        ({"a/x": 1.0}, {"a/x": (float("nan"), 1.0)}, r"interval of 'a/x' is \(nan, 1.0\): expected finite low <= high"),
    ],
)
def test_a_result_that_no_reader_could_use_is_refused(
    metrics: dict[str, float], intervals: dict[str, tuple[float, float]], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Result(metrics, intervals=intervals).check()


def test_a_result_on_an_unknown_kind_of_data_is_refused() -> None:
    result = Result({})
    result.data = "Real"  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"^data is 'Real': expected one of real, synthetic, none$"):
        result.check()
