"""A claim check that anything passes is worthless: judges that know nothing must fail every headline claim."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iclr_repro import command_line
from iclr_repro.core.claims import ExperimentResults, Results, Values, claims_of, judge
from iclr_repro.core.experiment import build
from iclr_repro.pairwise_review import claims
from iclr_repro.pairwise_review.experiments import _judged, replay
from support import bare_run

HEADLINE = {claim.id for claim in claims_of(claims) if claim.headline}
SIZES: dict[str, dict[str, Any]] = {
    "recovery": {"n": 200, "runs": 1, "budgets": [4, 8, 16, 32, 64, 128]},
    "selection": {"n": 500, "budgets": [8, 64]},
    "replay": {"data": "synthetic", "num_papers": 500, "runs": 1, "budgets": [4, 8, 16, 32], "judge_aware": 4},
    "selection_bias": {"n": 500, "draws": 40},
}
OTHERS: dict[str, dict[str, Any]] = {
    "identities": {"n": 30, "budget": 40},
    "position_bias": {"n": 60, "budget": 16},
    "text_judge": {"data": "synthetic", "num_papers": 60, "budget": 16, "draws": 50},
    "cost": {"data": "synthetic"},
    "active": {"n": 60, "runs": 1, "budget": 16, "rounds": 2},
    "efficiency": {
        "large": [200, 5000],
        "small": [50, 1000],
        "tokens": 64,
        "pairs": 2,
        "repeats": 2,
        "slow_repeats": 2,
    },
}
Impostor = Callable[[pytest.MonkeyPatch], None]


def random_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tosses a coin for every comparison."""
    rng = np.random.default_rng(0)

    def toss(*args: Any, **kwargs: Any) -> np.ndarray:
        return rng.random(len(args[1])) < 0.5

    monkeypatch.setattr(_judged, "judge_pairs", toss)
    monkeypatch.setattr(
        replay, "prefer_by_scores", lambda scores, judge, first, second, rng: rng.random(len(first)) < 0.5
    )


def shuffled_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compares properly, then hands the strengths to the wrong papers."""
    rng, fit = np.random.default_rng(0), _judged.fit_bradley_terry

    def shuffled(*args: Any, **kwargs: Any) -> Any:
        found = fit(*args, **kwargs)
        rng.shuffle(found.beta)
        return found

    monkeypatch.setattr(_judged, "fit_bradley_terry", shuffled)
    monkeypatch.setattr(replay, "fit_bradley_terry", shuffled)


def position_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefers the paper shown first, almost always, whatever it is."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(_judged, "judge_pairs", lambda merit, first, second, **rest: rng.random(len(first)) < 0.98)
    monkeypatch.setattr(
        replay, "prefer_by_scores", lambda scores, judge, first, second, rng: rng.random(len(first)) < 0.98
    )


Metrics = dict[str, dict[str, Any]]


def measured(folder: Path, sizes: dict[str, dict[str, Any]], *, seeds: int) -> Metrics:
    """Metrics of experiments over seeds."""
    settings = command_line.checked_settings(command_line.compose(["paper=pairwise_review"]))["experiments"]
    metrics: Metrics = {}
    for name, changes in sizes.items():
        experiment = build(name, {**settings[name], **changes})
        results = [experiment.run(bare_run(folder, seed=seed)).metrics for seed in range(seeds)]
        metrics[name] = {metric: np.hstack([result[metric] for result in results]) for metric in results[0]}
    return metrics


def verdicts_of(metrics: Metrics) -> dict[str, str]:
    """Verdicts of all claims, synthetic reviewers passed off as real ones."""
    found = judge(claims_of(claims), Results.from_metrics(metrics, data="real"), "cpu")
    return {one.claim.id: one.check.verdict for one in found}


@pytest.fixture(scope="module")
def real_metrics(tmp_path_factory: pytest.TempPathFactory) -> Metrics:
    return measured(tmp_path_factory.mktemp("real"), SIZES, seeds=5)


@pytest.mark.parametrize("impostor", [random_judge, shuffled_scores, position_judge])
def test_impostors_fail_every_headline_claim(
    impostor: Impostor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impostor(monkeypatch)
    verdicts = verdicts_of(measured(tmp_path, SIZES, seeds=3))
    assert {id: verdicts[id] for id in HEADLINE if verdicts[id] in ("reproduced", "not run")} == {}
    assert verdicts["C6"] != "reproduced"


def test_the_real_judge_passes_every_headline_claim(real_metrics: Metrics) -> None:
    verdicts = verdicts_of(real_metrics)
    assert {id: verdicts[id] for id in HEADLINE} == dict.fromkeys(HEADLINE, "reproduced")


@pytest.fixture(scope="module")
def all_metrics(real_metrics: Metrics, tmp_path_factory: pytest.TempPathFactory) -> Metrics:
    return real_metrics | measured(tmp_path_factory.mktemp("others"), OTHERS, seeds=2)


BAD = [np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("value", BAD)
def test_metrics_that_are_no_numbers_pass_no_claim(value: float, all_metrics: Metrics) -> None:
    bad = {name: dict.fromkeys(metrics, value) for name, metrics in all_metrics.items()}
    assert "reproduced" not in verdicts_of(bad).values()


def test_one_metric_that_is_no_number_passes_no_claim_that_reads_it(
    all_metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[tuple[str, str]] = set()
    get = ExperimentResults.__getitem__

    def recorded(self: ExperimentResults, metric: str) -> Values:
        read.add((self.name, metric))
        return get(self, metric)

    monkeypatch.setattr(ExperimentResults, "__getitem__", recorded)
    tried = set()
    for claim in claims_of(claims):
        read.clear()
        judge([claim], Results.from_metrics(all_metrics), "cpu")
        for experiment, metric in sorted(read & {(e, m) for e, metrics in all_metrics.items() for m in metrics}):
            for value in BAD:
                changed = {**all_metrics, experiment: {**all_metrics[experiment], metric: value}}
                [found] = judge([claim], Results.from_metrics(changed), "cpu")
                assert found.check.verdict != "reproduced", f"{claim.id}: {experiment}: {metric} = {value}"
            tried.add(claim.id)
    assert tried >= HEADLINE | {"C1", "C2", "C6", "C7", "C9", "C10", "C11", "C12", "S1", "S4", "B1", "B2"}


def test_a_rater_that_ignores_the_papers_does_not_make_comparisons_better(
    real_metrics: Metrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    monkeypatch.setattr(_judged, "rate_papers", lambda merit, rng=rng: rng.integers(1, 11, (len(merit), 3)))
    broken = measured(tmp_path, {name: SIZES[name] for name in ("recovery", "selection")}, seeds=5)
    # The comparisons do beat this rater, as a broken baseline always is.
    assert broken["recovery"]["pairwise_minus_rating/m64"].mean() > 0.5
    assert (broken["selection"]["headline_minus_rating/log_mean"] > 0).all()
    assert verdicts_of(real_metrics | broken)["C3"] == "not reproduced"


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "reproduced"),
        ({"judge/is_language_model": 0.0}, "not run"),  # a text regression
        ({"rating/unusable": 20.0, "judge/unreadable": 100.0}, "reproduced"),
        ({"rating/unusable": 21.0}, "not run"),
        ({"rating/unusable": 200.0}, "not run"),
        ({"judge/unreadable": 101.0}, "not run"),
        ({"rating/unusable": np.nan}, "not run"),
        ({"judge/unreadable": np.nan}, "not run"),
    ],
)
def test_only_a_language_model_that_answers_decides_real_venues(change: dict[str, float], verdict: str) -> None:
    metrics = {
        "judge/is_language_model": 1.0,
        "n": 200.0,
        "rating/unusable": 0.0,
        "judge/unreadable": 0.0,
        "judge/comparisons": 900.0,
    }
    table = {
        name: Values(name, np.array([value]), interval=(value, value)) for name, value in (metrics | change).items()
    }
    table["pairwise_minus_rating/mean"] = Values("difference", np.array([5.0]), interval=(1.0, 9.0))
    tables = {name: ExperimentResults(name, table, data="real") for name in ("corl_table", "iclr2023_table")}
    found = {one.claim.id: one.check.verdict for one in judge(claims_of(claims), Results(tables), "paper")}
    assert found["C3p"] == verdict


def test_every_headline_claim_is_tested() -> None:
    assert {"C3", "C4", "C5", "C8"} == HEADLINE
