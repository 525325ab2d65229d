import logging
import math
import types
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iclr_repro.core.claims import (
    Check,
    Claim,
    ExperimentResults,
    NotRun,
    Results,
    Values,
    all_of,
    at_least,
    at_most,
    claim,
    claims_of,
    exact,
    greater,
    judge,
    less,
    more_than,
    within,
)
from iclr_repro.core.statistics import mean_interval


def over_seeds(*values: float, name: str = "x", first_seed: int = 0) -> Values:
    return Values(name, np.array(values), seeds=tuple(range(first_seed, first_seed + len(values))))


def with_interval(value: float, low: float, high: float, name: str = "x") -> Values:
    return Values(name, np.array([value]), interval=(low, high))


# Values


def test_arithmetic_is_seed_by_seed_and_names_the_expression() -> None:
    a, b = over_seeds(2.0, 6.0, name="a"), over_seeds(1.0, 4.0, name="b")
    assert (a - b).values.tolist() == [1.0, 2.0]
    assert (a / b).values.tolist() == [2.0, 1.5]
    assert (a * 3).values.tolist() == [6.0, 18.0]
    assert (a - 1).values.tolist() == [1.0, 5.0]
    assert (a / 2).values.tolist() == [1.0, 3.0]
    assert (-a).values.tolist() == [-2.0, -6.0]
    assert (a / b).mean == 1.75  # not the ratio of the means, 1.6
    assert [value.name for value in (a - b, a / b, a * 3, a - 0.5, -a)] == ["a - b", "a / b", "a * 3", "a - 0.5", "-a"]
    assert ((a - b) / b).name == "(a - b) / b"
    assert (a - b / a).name == "a - (b / a)"
    assert (-(a - b)).name == "-(a - b)"
    assert (a - b).seeds == (0, 1)


def test_arithmetic_with_a_constant_keeps_a_given_interval_and_with_a_metric_drops_it() -> None:
    a = with_interval(4.0, 2.0, 8.0)
    assert (a / 2).interval == (1.0, 4.0)
    assert (a / -2).interval == (-4.0, -1.0)
    assert (a * -1).interval == (-8.0, -2.0)
    assert (a - 1).interval == (1.0, 7.0)
    assert (-a).interval == (-8.0, -2.0)
    assert (a / a).interval is None
    assert (a - a).interval is None


def test_metrics_of_different_seeds_are_not_paired() -> None:
    a, b = over_seeds(1.0, 2.0, name="a"), over_seeds(1.0, 2.0, name="b", first_seed=1)
    with pytest.raises(NotRun, match=r"^a and b were measured with different seeds$"):
        a - b


def test_division_by_zero_is_no_number() -> None:
    a, b = over_seeds(1.0, 2.0, name="a"), over_seeds(3.0, 0.0, name="b")
    with pytest.raises(NotRun, match=r"^b is 0, so that a / b is not defined$"):
        a / b
    with pytest.raises(NotRun, match=r"^0 is 0, so that \(a - b\) / 0 is not defined$"):
        (a - b) / 0


# Kinds of checks and their verdicts


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.0, 2.0, "reproduced"),  # the threshold itself counts
        (1.5, 2.0, "reproduced"),
        (0.9, 2.0, "inconclusive"),
        (0.0, 1.0, "inconclusive"),
        (0.0, 0.9, "not reproduced"),
        (1.0, 1.0, "reproduced"),
    ],
)
def test_at_least_and_at_most_judge_by_the_interval(low: float, high: float, verdict: str) -> None:
    check = at_least(with_interval((low + high) / 2, low, high), 1.0)
    assert (check.verdict, check.threshold) == (verdict, ">= 1")
    mirrored = at_most(with_interval(-(low + high) / 2, -high, -low), -1.0)
    assert (mirrored.verdict, mirrored.threshold) == (verdict, "<= -1")


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.0, 2.0, "reproduced"),
        (1.2, 1.4, "reproduced"),
        (0.9, 2.0, "inconclusive"),
        (1.0, 2.1, "inconclusive"),
        (0.5, 2.5, "inconclusive"),
        (2.0, 2.5, "inconclusive"),
        (2.1, 2.5, "not reproduced"),
        (0.5, 0.9, "not reproduced"),
    ],
)
def test_within_judges_by_the_interval(low: float, high: float, verdict: str) -> None:
    check = within(with_interval((low + high) / 2, low, high), 1.0, 2.0)
    assert (check.verdict, check.threshold, check.interval) == (verdict, "in [1, 2]", (low, high))


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.1, 0.2, 0.3], "reproduced"),
        ([0.0, 0.2, 0.3], "inconclusive"),  # three seeds: the interval spans them, and 0 is not less
        ([-0.1, 0.2, 0.3], "inconclusive"),
        ([-0.3, -0.2, 0.0], "not reproduced"),
        ([-0.3, -0.2, -0.1], "not reproduced"),
        ([0.0, 0.0, 0.0], "not reproduced"),
    ],
)
def test_less_and_greater_want_the_difference_beyond_the_margin(differences: list[float], verdict: str) -> None:
    a = over_seeds(0.5, 8.0, 2.0, name="a")
    for margin in (0.0, 2.0):
        b = over_seeds(*(a.values + differences + margin), name="b")
        check = less(a, b, by=margin)
        assert check.verdict == verdict
        assert check.threshold == f"b - a > {margin:g}"
        assert check.measured == pytest.approx(margin + np.mean(differences))
        assert check.values == pytest.approx([margin + difference for difference in differences])
        assert greater(b, a, by=margin) == check


def test_more_than_wants_more_than_equality() -> None:
    assert more_than(with_interval(2.0, 1.0, 3.0), 1.0).verdict == "inconclusive"
    assert more_than(with_interval(2.0, 1.5, 3.0), 1.0).verdict == "reproduced"
    assert more_than(over_seeds(1.0, 1.0), 1.0).verdict == "not reproduced"
    assert at_least(over_seeds(1.0, 1.0), 1.0).verdict == "reproduced"
    assert more_than(over_seeds(1.0, 2.0), 0.5).threshold == "> 0.5"


def test_a_check_names_what_it_compares() -> None:
    a, b = over_seeds(1.0, 2.0, name="a"), over_seeds(3.0, 4.0, name="b")
    assert at_least(a / b, 0.0).name == "a / b"
    assert less(a, b).name == "b - a"
    assert exact(a, 1.0).name == "a"
    assert at_least(over_seeds(1.0, name="c"), 0.0).name == "c"


def test_pairing_decides_what_the_spread_over_seeds_would_hide() -> None:
    a, b = over_seeds(1.0, 5.0, 9.0, name="a"), over_seeds(1.1, 5.2, 9.1, name="b")
    assert less(a, b).verdict == "reproduced"
    assert less(a, b, paired=False).verdict == "inconclusive"


def test_unpaired_half_widths_add_in_squares() -> None:
    a, b = with_interval(1.0, 0.7, 1.5, name="a"), with_interval(3.0, 2.6, 3.6, name="b")
    check = less(a, b, paired=False)
    assert check.measured == 2.0
    # From 2.0: down by b's 0.4 and a's 0.5, up by b's 0.6 and a's 0.3.
    assert check.interval == pytest.approx((2.0 - math.hypot(0.4, 0.5), 2.0 + math.hypot(0.6, 0.3)))
    assert (check.verdict, check.threshold) == ("reproduced", "b - a > 0")


def test_unpaired_seeds_may_differ() -> None:
    a, b = over_seeds(1.0, 1.2, 1.1, name="a"), over_seeds(3.0, 3.3, name="b", first_seed=7)
    assert less(a, b, paired=False).verdict == "reproduced"
    assert greater(a, b, paired=False).verdict == "not reproduced"


def test_over_seeds_the_interval_is_the_bootstrap_of_the_mean() -> None:
    quantity = over_seeds(0.2, 0.5, 0.1, 0.4)
    check = at_least(quantity, 0.0)
    assert check.interval == mean_interval(quantity.values)
    assert check.measured == pytest.approx(0.3)
    assert check.values == (0.2, 0.5, 0.1, 0.4)


@pytest.mark.parametrize("value", [-5.0, 5.0])
def test_one_seed_is_inconclusive_whatever_its_value(value: float) -> None:
    for check in (at_least(over_seeds(value), 0.0), less(over_seeds(value), over_seeds(0.0))):
        assert check.verdict == "inconclusive"
        assert check.interval is None
        assert check.note == "one seed gives no interval: run with several, e.g. seeds=[0,1,2,3,4]"


@pytest.mark.parametrize(
    ("quantity", "note"),
    [
        (
            over_seeds(-1.0, 0.5, 2.0),
            "about 27 seeds or runs would decide",
        ),  # mean 0.5, lower end -1: 3 * (1.5 / 0.5)^2
        (over_seeds(-1.0, 0.0, 1.0), "the mean lies on the threshold"),
        (with_interval(0.5, -1.0, 2.0), "more samples or seeds would be needed to decide"),
    ],
)
def test_an_inconclusive_check_says_what_would_decide_it(quantity: Values, note: str) -> None:
    check = at_least(quantity, 0.0)
    assert (check.verdict, check.note) == ("inconclusive", note)


def test_where_an_interval_crosses_two_bounds_both_have_to_be_left() -> None:
    # Mean 1, interval [-1, 3]: 3 * (2 / 0.5)^2 = 48 for the bound 0.5, 3 * (2 / 1)^2 = 12 for the bound 2.
    assert within(over_seeds(-1.0, 1.0, 3.0), 0.5, 2.0).note == "about 48 seeds or runs would decide"
    assert within(over_seeds(-1.0, 1.0, 3.0), 0.0, 1.5).note == "about 48 seeds or runs would decide"


def test_a_decided_check_needs_no_note() -> None:
    assert at_least(over_seeds(1.0, 2.0), 0.0).note == ""
    assert at_least(over_seeds(1.0, 2.0), 3.0).note == ""


@pytest.mark.parametrize(
    ("values", "tolerance", "measured", "verdict"),
    [
        ([1.0, 1.0], 0.0, 1.0, "reproduced"),
        ([1.0], 0.0, 1.0, "reproduced"),
        ([1.0, 1.25, 0.875], 0.25, 1.25, "reproduced"),  # at the tolerance
        ([1.0, 1.25, 0.5], 0.25, 0.5, "not reproduced"),  # one seed outside is enough
        ([1.0, 1.0 + 2**-52], 0.0, 1.0 + 2**-52, "not reproduced"),
    ],
)
def test_an_exact_quantity_agrees_in_every_seed(
    values: list[float], tolerance: float, measured: float, verdict: str
) -> None:
    check = exact(over_seeds(*values), 1.0, tolerance=tolerance)
    assert (check.verdict, check.measured, check.interval) == (verdict, measured, None)
    assert check.threshold == ("= 1 ± 0.25" if tolerance else "= 1")
    assert check.values == tuple(values)


@given(
    ends=st.tuples(st.floats(-10, 10), st.floats(-10, 10)).map(sorted),
    bounds=st.tuples(st.floats(-10, 10), st.floats(-10, 10)).map(sorted),
)
@settings(deadline=None, max_examples=100)
def test_within_is_as_good_as_both_of_its_sides(ends: list[float], bounds: list[float]) -> None:
    quantity = with_interval(ends[0], ends[0], ends[1])
    sides = {at_least(quantity, bounds[0]).verdict, at_most(quantity, bounds[1]).verdict}
    verdict = within(quantity, bounds[0], bounds[1]).verdict
    if sides == {"reproduced"}:
        assert verdict == "reproduced"
    elif "not reproduced" in sides:
        assert verdict == "not reproduced"
    else:
        assert verdict == "inconclusive"


def test_a_claim_of_several_parts_is_as_good_as_its_weakest_and_says_which_do_not_hold() -> None:
    good = at_least(with_interval(2.0, 1.0, 3.0, name="gain"), 1.0)
    bad = at_most(with_interval(2.0, 1.5, 3.0, name="loss"), 1.0)
    open_ = at_least(over_seeds(-1.0, 0.5, 2.0, name="change"), 0.0)
    assert all_of(good, open_, bad) == Check(
        measured="1 of 3 hold",
        threshold="all hold",
        verdict="not reproduced",
        note="change 0.5 [-1, 2], expected >= 0: inconclusive (about 27 seeds or runs would decide); "
        "loss 2 [1.5, 3], expected <= 1: not reproduced",
        parts=(good, open_, bad),
    )
    assert all_of(good, open_).verdict == "inconclusive"
    assert (all_of(good, good).verdict, all_of(good, good).note) == ("reproduced", "")
    assert all_of(exact(over_seeds(2.0), 1.0), good).note == "x 2, expected = 1: not reproduced"
    assert all_of(bad) is bad
    with pytest.raises(ValueError, match=r"^all_of needs at least one check$"):
        all_of()


def test_parts_of_parts_stand_side_by_side() -> None:
    one, two, three = (at_least(over_seeds(*values), 0.0) for values in ([1.0, 2.0], [-1.0, 2.0], [-2.0, -1.0]))
    assert all_of(all_of(one, two), three) == all_of(one, two, three)
    assert all_of(all_of(one, two), three).measured == "1 of 3 hold"


# Results


def results(**experiments: ExperimentResults) -> Results:
    return Results(experiments)


def measured(name: str, data: str = "none", **metrics: tuple[float, ...]) -> ExperimentResults:
    values = {metric: over_seeds(*numbers, name=metric) for metric, numbers in metrics.items()}
    return ExperimentResults(name, values, data=data)  # type: ignore[arg-type]


def test_metrics_are_found_by_experiment_and_name() -> None:
    found = results(retention=measured("retention", forgetting=(1.0, 2.0)))
    assert found.retention["forgetting"].values.tolist() == [1.0, 2.0]


def test_a_metric_that_was_not_measured_is_named_with_the_nearest() -> None:
    found = results(retention=measured("retention", forgetting=(1.0,), accuracy=(1.0,)))
    with pytest.raises(NotRun, match=r"^retention measured no 'forgeting'; nearest: forgetting$"):
        found.retention["forgeting"]
    with pytest.raises(NotRun, match=r"^retention measured no 'qqq'; nothing like it$"):
        found.retention["qqq"]


def test_an_unknown_experiment_is_named_with_the_nearest() -> None:
    with pytest.raises(AttributeError, match=r"^no experiment 'retenton'; did you mean 'retention'. Valid: retention$"):
        _ = results(retention=measured("retention")).retenton


def test_an_experiment_without_results_says_why() -> None:
    found = results(retention=ExperimentResults("retention", {}, unavailable="failed: ValueError: x"))
    with pytest.raises(NotRun, match=r"^retention: failed: ValueError: x$"):
        found.retention["forgetting"]


def test_plain_numbers_can_be_judged_like_measured_ones_also_after_arithmetic() -> None:
    plain = Results.from_metrics({"a": {"x": 1.0, "y": 2.0}})
    assert plain.a.data == "real"
    assert at_least(plain.a["x"], 1.0).verdict == "reproduced"
    assert less(plain.a["x"], plain.a["y"]).verdict == "reproduced"
    assert less(plain.a["y"], plain.a["x"]).verdict == "not reproduced"
    assert within(plain.a["x"] / plain.a["y"], 0.5, 0.5).verdict == "reproduced"
    assert exact(plain.a["x"] - plain.a["y"], -1.0).verdict == "reproduced"


def test_arrays_can_be_judged_as_the_values_of_several_runs() -> None:
    plain = Results.from_metrics({"a": {"x": np.array([1.0, 2.0, 3.0]), "y": np.array([2.0, 4.0, 6.0])}})
    assert plain.a["x"].seeds == (0, 1, 2)
    assert less(plain.a["x"], plain.a["y"]).values == (1.0, 2.0, 3.0)


# Claims and their judgement


def make_claim(check: Callable[[Results], Any], **options: Any) -> Claim:
    def documented(r: Results) -> Any:
        """It holds."""
        return check(r)

    return claim(**{"id": "C1", "source": "Table 2", "paper": "4.92", **options})(documented)


def test_a_claim_takes_its_statement_from_the_first_line_of_its_docstring() -> None:
    @claim(id="C6", headline=True, source="Table 2", paper="not available", scales=["paper"], data="real")
    def forgets_less(r: Results) -> Check:
        """
        It forgets less.

        At equal accuracy.
        """
        return at_least(r.retention["x"], 0.0)

    assert isinstance(forgets_less, Claim)
    assert forgets_less.statement == "It forgets less."
    assert (forgets_less.id, forgets_less.headline, forgets_less.source) == ("C6", True, "Table 2")
    assert (forgets_less.paper, forgets_less.scales, forgets_less.data) == ("not available", ("paper",), "real")


def test_a_claim_can_be_judged_at_the_scales_cpu_and_paper_and_is_no_headline_unless_it_says_so() -> None:
    made = make_claim(lambda r: at_least(r.a["x"], 0.0))
    assert (made.scales, made.headline, made.data) == (("cpu", "paper"), False, "any")


def test_a_claim_without_a_docstring_is_refused() -> None:
    def check(r: Results) -> Check:
        return at_least(r.a["x"], 0.0)

    with pytest.raises(ValueError, match=r"^claim C1: check needs a docstring, its first line is the statement$"):
        claim(id="C1", source="", paper="")(check)


def module_with(*claims: Claim) -> types.ModuleType:
    module = types.ModuleType("claims_of_a_paper")
    module.__dict__.update({f"name{number}": made for number, made in enumerate(claims)}, other=3)
    return module


def test_the_claims_of_a_module_come_in_the_order_of_their_definition() -> None:
    claims = [make_claim(lambda r: None, id=name) for name in ("C2", "C10", "C1")]
    assert claims_of(module_with(*claims)) == claims


@pytest.mark.parametrize(("ids", "shown"), [(["C1", "C2", "C1"], r"\['C1', 'C2', 'C1'\]"), ([], r"\[\]")])
def test_claims_that_share_an_id_and_modules_without_claims_are_refused(ids: list[str], shown: str) -> None:
    module = module_with(*[make_claim(lambda r: None, id=name) for name in ids])
    with pytest.raises(ValueError, match=f"^claims_of_a_paper: claim ids must be unique .* got {shown}$"):
        claims_of(module)


def test_each_judgement_names_the_experiments_it_rests_on_once() -> None:
    found = results(a=measured("a", x=(1.0, 2.0)), b=measured("b", x=(2.0, 3.0)), c=measured("c", x=(0.0, 0.0)))
    claims = [
        make_claim(lambda r: less(r.a["x"], r.b["x"]), id="two"),
        make_claim(lambda r: all_of(at_least(r.c["x"], 0.0), at_most(r.c["x"], 0.0)), id="one"),
    ]
    judgements = judge(claims, found, "cpu")
    assert [judgement.claim for judgement in judgements] == claims
    assert [judgement.experiments for judgement in judgements] == [("a", "b"), ("c",)]
    assert [judgement.check.verdict for judgement in judgements] == ["reproduced", "reproduced"]


def verdict_and_note(made: Claim, found: Results, scale: str = "cpu") -> tuple[str, str]:
    [judgement] = judge([made], found, scale)
    return judgement.check.verdict, judgement.check.note


def test_a_claim_is_not_run_where_its_experiment_is_not_or_its_metric_is_missing() -> None:
    found = results(
        a=ExperimentResults("a", {}, unavailable="not run (only=[b])"),
        b=measured("b", x=(1.0, 2.0)),
    )
    uses = make_claim(lambda r: less(r.a["x"], r.b["x"]))
    assert verdict_and_note(uses, found) == ("not run", "a: not run (only=[b])")
    typo = make_claim(lambda r: at_least(r.b["xx"], 0.0))
    assert verdict_and_note(typo, found) == ("not run", "b measured no 'xx'; nearest: x")


def positive(experiment: str, r: Results) -> Check:
    return at_least(getattr(r, experiment)["x"], 0.0)


def test_a_claim_about_real_data_is_not_run_on_synthetic_data() -> None:
    found = results(
        made_up=measured("made_up", "synthetic", x=(1.0, 2.0)),
        found=measured("found", "real", x=(1.0, 2.0)),
        theory=measured("theory", "none", x=(1.0, 2.0)),
    )
    needs = "needs the real data; made_up ran on synthetic data"
    for data, name, expected in [
        ("real", "made_up", ("not run", needs)),
        ("real", "found", ("reproduced", "")),
        ("real", "theory", ("reproduced", "")),
        ("any", "made_up", ("reproduced", "")),
    ]:
        made = make_claim(partial(positive, name), data=data)
        assert verdict_and_note(made, found) == expected
    both = make_claim(lambda r: less(r.found["x"], r.made_up["x"], by=-1.0), data="real")
    assert verdict_and_note(both, found) == ("not run", needs)


def test_a_claim_is_judged_only_at_its_scales_and_shows_what_was_measured_elsewhere() -> None:
    found = results(a=measured("a", x=(1.0, 2.0)))
    made = make_claim(lambda r: at_least(r.a["x"], 0.0), scales=("cpu", "paper"))
    assert verdict_and_note(made, found, "paper") == ("reproduced", "")
    [judgement] = judge([made], found, "smoke")
    assert judgement.check.verdict == "not run"
    assert judgement.check.note == "can be judged at scale cpu or paper only"
    assert judgement.check.measured == 1.5
    missing = make_claim(lambda r: at_least(r.a["y"], 0.0), scales=("paper",))
    assert verdict_and_note(missing, found, "smoke") == ("not run", "can be judged at scale paper only")


@pytest.mark.parametrize(
    ("mistake", "note"),
    [
        (lambda r: r.a["x"].nothing, "AttributeError: 'Values' object has no attribute 'nothing'"),
        (lambda r: r.b["x"], "AttributeError: no experiment 'b'; Valid: a"),
        (lambda r: r.a.metrics["y"], "KeyError: 'y'"),
        (lambda r: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda r: None, "TypeError: returned None, expected a Check"),
        (lambda r: r.a["x"].mean > 0, "TypeError: returned True, expected a Check"),
    ],
)
def test_a_mistake_in_one_claim_is_named_and_does_not_keep_the_others_from_being_judged(
    caplog: pytest.LogCaptureFixture, mistake: Callable[[Results], Any], note: str
) -> None:
    found = results(a=measured("a", x=(1.0, 2.0)))
    good = [make_claim(lambda r: at_least(r.a["x"], 0.0), id=name) for name in ("C0", "C2")]
    judgements = judge([good[0], make_claim(mistake), good[1]], found, "cpu")
    assert [judgement.check.verdict for judgement in judgements] == ["reproduced", "not run", "reproduced"]
    assert judgements[1].check.note == f"its check failed: {note}"
    [record] = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "claim C1: its check failed")
    assert record.name.startswith("iclr_repro")
    assert record.exc_info is not None


def test_being_interrupted_is_no_verdict() -> None:
    def stop(r: Results) -> Check:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge([make_claim(stop)], results(), "cpu")
