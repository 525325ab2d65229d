"""A claim check that anything passes is worthless: judges that know nothing must fail every headline claim."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iclr_repro import command_line
from iclr_repro.core.claims import Results, claims_of, judge
from iclr_repro.core.experiment import build
from iclr_repro.pairwise_review import claims
from iclr_repro.pairwise_review.experiments import _judged, replay
from support import bare_run

HEADLINE = {claim.id for claim in claims_of(claims) if claim.headline}
EXPERIMENTS = ("recovery", "selection", "replay", "selection_bias")
SIZES: dict[str, dict[str, Any]] = {
    "recovery": {"n": 150, "runs": 1, "budgets": [4, 8, 16, 32, 64, 128]},
    "selection": {"n": 150, "budgets": [8, 64]},
    "replay": {"data": "synthetic", "num_papers": 150, "runs": 1, "budgets": [4, 8, 16, 32], "judge_aware": 32},
    "selection_bias": {"n": 150, "draws": 40},
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


def judged(folder: Path, *, seeds: int = 5) -> dict[str, str]:
    """Verdicts of the headline claims over seeds, synthetic reviewers passed off as real ones."""
    settings = command_line.checked_settings(command_line.compose(["paper=pairwise_review"]))["experiments"]
    metrics: dict[str, dict[str, Any]] = {}
    for name in EXPERIMENTS:
        experiment = build(name, {**settings[name], **SIZES[name]})
        results = [experiment.run(bare_run(folder, seed=seed)).metrics for seed in range(seeds)]
        metrics[name] = {metric: np.hstack([result[metric] for result in results]) for metric in results[0]}
    found = judge(claims_of(claims), Results.from_metrics(metrics, data="real"), "cpu")
    return {one.claim.id: one.check.verdict for one in found if one.claim.headline}


@pytest.mark.parametrize("impostor", [random_judge, shuffled_scores, position_judge])
def test_impostors_fail_every_headline_claim(
    impostor: Impostor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impostor(monkeypatch)
    verdicts = judged(tmp_path, seeds=3)
    assert set(verdicts) == HEADLINE
    assert "reproduced" not in verdicts.values(), verdicts
    assert "not run" not in verdicts.values(), verdicts


def test_the_real_judge_passes_on_the_simulator(tmp_path: Path) -> None:
    verdicts = judged(tmp_path)
    assert verdicts["C3"] == "reproduced"
    assert set(verdicts.values()) - {"not run"}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_pass_no_claim(value: float) -> None:
    names = {
        "recovery": [f"pairwise_minus_rating/m{m}" for m in (8, 64)],
        "selection": ["headline_minus_rating/log_mean"],
        "selection_bias": [
            "biased_minus_fair/novelty",
            "biased_minus_fair/gini",
            "fair/novelty/p_value",
            "fair/gini/p_value",
        ],
    }
    metrics = {experiment: dict.fromkeys(keys, value) for experiment, keys in names.items()}
    found = judge(claims_of(claims), Results.from_metrics(metrics, data="real"), "cpu")
    assert all(one.check.verdict != "reproduced" for one in found)


def test_every_headline_claim_is_tested() -> None:
    assert {"C3", "C4", "C5", "C8"} == HEADLINE
