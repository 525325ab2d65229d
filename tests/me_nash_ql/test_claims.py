"""Every claim can fail: the recorded results with one thing made wrong must not pass its check."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from iclr_repro.core.claims import Check, Results, claims_of, judge
from iclr_repro.me_nash_ql import claims
from support import ROOT, read_json

# claim, experiment, metric, a value that no sound method would have
WRONG: list[tuple[str, str, str, Any]] = [
    ("C1", "learning_curves", "rg_a/me_nash_ql/output_median", 0.2),
    ("C1", "learning_curves", "rg_a/uniform_exploitability", 0.3),
    ("C2", "space", "me_nash_ql/growth", 1.1),
    ("C2", "space", "me_nash_ql/over_formula/s8", 1.5),
    ("C2", "space", "v_learning/growth", 1.0),
    ("C2", "space", "nash_vi/over_me_nash_ql/slope", 0.1),
    ("C2", "space", "nash_vi/over_me_nash_ql/passes_1_at", 4),
    ("C2", "space", "me_nash_ql/output_over_uniform", 1.0),
    ("C3", "computation", "me_nash_ql/cce_per_episode/s32", 96),
    ("C3", "computation", "nash_vi/cce_per_episode/s32", 3),
    ("C3", "computation", "me_nash_ql/time_slope", 0.5),
    ("C4", "burn_in", "nash_vi/slope/s8_s16", 0.9),
    ("C4", "burn_in", "me_nash_ql/slope/s8_s16", 1.5),
    ("C4", "burn_in", "nash_vi_no_s_term/slope/s8_s16", 1.4),
    ("C4", "burn_in", "me_nash_ql/reached/s16", 0.0),
    ("C4", "burn_in", "me_nash_ql/certificate_ok/s8", 0.0),
    ("C5", "learning_curves", "rg_a/me_nash_ql/gap_at_2500", 0.6),
    ("C5", "learning_curves", "rg_b/me_nash_ql/optimism_ok_at_2500", 0.5),
    ("C5", "learning_curves", "rg_b/nash_q/output_at_2500", 1.7),
    ("C6", "burn_in", "me_nash_ql/ratio/s2_s4", 4.0),
    ("C6", "burn_in", "me_nash_ql/optimism_ok/s2", 0.0),
    ("C7", "rates", "nash_q/gap_slope", -0.2),
    ("C7", "rates", "me_nash_ql/gap_slope", -0.3),
    ("C7", "rates", "me_nash_ql/optimism_ok", 0.0),
    ("C8", "rates", "nash_q_minus_me_nash_ql/episodes/h6", -10.0),
    ("C8", "rates", "me_nash_ql/reached/h4", 0.0),
    ("C9", "learning_curves", "rg_a/v_learning/output_at_4000", 0.06),
    ("C9", "learning_curves", "rg_a/v_learning/mixture_at_4000", 1.7),
    ("C10", "learning_curves", "rg_b/me_nash_ql/optimism_ok_at_4000", 0.5),
    ("C10", "ablations", "rg_a/text_small/optimism_ok_at_4000", 1.0),
    ("C11", "learning_curves", "lock_6/nash_q_narrow/output", 0.5),
    ("C12", "identities", "i7_frac", 0.0),
    ("C12", "identities", "i3", 0.01),
    ("C13", "learning_curves", "lock_8/me_nash_ql_narrow/output", 0.4),
    ("C13", "learning_curves", "lock_8/nash_q_uniform/output", 0.64),
    ("S1", "efficiency", "cce/4x4/speedup", 10.0),
    ("S2", "efficiency", "step/many_over_one", 5.0),
]


@pytest.fixture(scope="module")
def recorded() -> dict[str, dict[str, Any]]:
    document = read_json(ROOT / "experiments" / "me_nash_ql" / "results" / "cpu.json")
    return {
        experiment: {name: summary["mean"] for name, summary in metrics.items()}
        for experiment, metrics in document["metrics"].items()
    }


def judged(metrics: dict[str, dict[str, Any]]) -> dict[str, Check]:
    return {one.claim.id: one.check for one in judge(claims_of(claims), Results.from_metrics(metrics), "cpu")}


def failing_parts(check: Check) -> set[str]:
    return {part.name for part in check.parts or (check,) if part.verdict == "not reproduced"}


def test_the_recorded_numbers_pass_but_for_the_time_of_nash_vi(recorded: dict[str, dict[str, Any]]) -> None:
    failing = {name: check for name, check in judged(recorded).items() if check.verdict == "not reproduced"}
    assert list(failing) == ["C3"]
    assert failing_parts(failing["C3"]) == {"nash_vi/time_slope"}


def test_every_claim_of_this_scale_is_made_to_fail() -> None:
    assert {claim for claim, *_ in WRONG} == {claim.id for claim in claims_of(claims) if "cpu" in claim.scales}


@pytest.mark.parametrize(("claim", "experiment", "metric", "value"), WRONG)
def test_a_claim_fails_on_a_wrong_number(
    recorded: dict[str, dict[str, Any]], claim: str, experiment: str, metric: str, value: float
) -> None:
    assert metric in recorded[experiment], "the table names a metric that is not measured"
    wrong = {**recorded, experiment: {**recorded[experiment], metric: value}}
    check = judged(wrong)[claim]
    assert check.verdict == "not reproduced"
    assert failing_parts(check) - failing_parts(judged(recorded)[claim])


def test_c3_holds_where_nash_vi_takes_the_time_that_it_should(recorded: dict[str, dict[str, Any]]) -> None:
    faster = {**recorded["computation"], "nash_vi/time_slope": 0.7}
    assert judged({**recorded, "computation": faster})["C3"].verdict == "reproduced"


def test_a_metric_that_is_missing_makes_a_claim_not_run(recorded: dict[str, dict[str, Any]]) -> None:
    rates = {name: value for name, value in recorded["rates"].items() if name != "me_nash_ql/reached/h6"}
    check = judged({**recorded, "rates": rates})["C8"]
    assert check.verdict == "not run"
    assert "measured no 'me_nash_ql/reached/h6'" in check.note


def test_bounds_that_hold_in_half_of_the_runs_do_not_hold(recorded: dict[str, dict[str, Any]]) -> None:
    half = np.array([1.0, 0.0] * 8)
    curves = {**recorded["learning_curves"], "rg_a/me_nash_ql/optimism_ok_at_4000": half}
    assert judged({**recorded, "learning_curves": curves})["C10"].verdict == "not reproduced"
