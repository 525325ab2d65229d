"""A claim check that anything passes is worthless: stand-ins must fail the headline claims that they should fail.

A small world with little training takes the place of the preset of scale cpu; the claims are judged over two seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from iclr_repro import command_line
from iclr_repro.core.claims import Results, claims_of, judge
from iclr_repro.core.experiment import build
from iclr_repro.loki import claims, suppression
from iclr_repro.loki.experiments import Retention, rows
from iclr_repro.loki.experiments._world import InTinyWorld
from iclr_repro.loki.selection import select_rows
from iclr_repro.loki.suppression import SETS
from support import bare_run

HEADLINE = ("C6", "C9", "C10")
_WORLD: dict[str, Any] = {
    "num_entities": 16,
    "num_relations": 2,
    "num_symbols": 8,
    "reversed_length": 3,
    "pool": {"fact": 600, "rev": 600},
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_layers": 2,
    "pretraining_steps": 300,
    "pretraining_batch": 32,
    "test_samples": 64,
    "probes": 16,
    "kva_steps": 2,
}
_CHANGES: dict[str, dict[str, Any]] = {
    "retention": {
        "methods": ["full", "loki", "random", "global_low"],
        "tuned": ["full", "loki"],
        "learning_rates": [3e-3],
        "steps": 60,
    },
    "suppression": {"quotas": [10, 20]},
    "layer_balance": {"quota": 10, "crowding_quota": 10},
}


def judged(folder: Path, **changes: Any) -> dict[str, str]:
    """Run the experiments of the headline claims and judge these; an experiment that fails has no results."""
    settings = command_line.checked_settings(command_line.compose(["paper=loki"]))["experiments"]
    metrics: dict[str, dict[str, Any]] = {name: {} for name in settings}
    for name, change in _CHANGES.items():
        of_name = {key: value for key, value in changes.items() if key in settings[name]}
        runs = []
        for seed in (0, 1):
            try:
                experiment = build(name, {**settings[name], **_WORLD, **change, **of_name})
                runs.append(experiment.run(bare_run(folder / name / str(seed), seed=seed)).metrics)
            except ValueError as error:
                if "every original score is 0" not in str(error):
                    raise
        if len(runs) == 2:
            metrics[name] = {key: np.array([found[key] for found in runs]) for key in runs[0].keys() & runs[1].keys()}
    results = Results.from_metrics(metrics)
    return {one.claim.id: one.check.verdict for one in judge(claims_of(claims), results, "cpu")}


def reproduced(verdicts: dict[str, str]) -> list[str]:
    return [name for name in HEADLINE if verdicts[name] == "reproduced"]


def test_no_headline_claim_holds_for_shuffled_attributions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C6 is about few rows instead of all weights, whichever they are, so that it is not this impostor's business."""
    genuine = InTinyWorld.attributions

    def shuffled(self: Any, run: Any, pretrained: Any, **options: Any) -> np.ndarray:
        values = genuine(self, run, pretrained, **options)
        return np.random.default_rng(0).permuted(values.reshape(len(values), -1), axis=1).reshape(values.shape)

    monkeypatch.setattr(InTinyWorld, "attributions", shuffled)
    verdicts = judged(tmp_path)
    assert verdicts["C9"] != "reproduced"
    assert verdicts["C10"] != "reproduced"


def test_no_headline_claim_holds_where_every_set_of_rows_is_random(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SETS:
        monkeypatch.setitem(SETS, name, "random")
    rng = np.random.default_rng(0)
    for module in (rows, suppression):
        monkeypatch.setattr(module, "select_rows", lambda a, q, **options: select_rows(a, q, **{"rng": rng, **options}))
    verdicts = judged(tmp_path)
    assert verdicts["C9"] != "reproduced"
    assert verdicts["C10"] != "reproduced"


def test_no_headline_claim_holds_for_a_frozen_network(tmp_path: Path) -> None:
    """It forgets nothing, and learns nothing."""
    verdicts = judged(tmp_path, learning_rates=[0.0], equal_rate=0.0)
    assert verdicts["C6"] != "reproduced"
    assert verdicts["C10"] != "reproduced"


def test_no_headline_claim_holds_for_full_fine_tuning_in_disguise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def everything(self: Retention, run: Any, pretrained: Any, rows: Any, method: str) -> nn.Module:
        model: nn.Module = pretrained.copy().requires_grad_()
        return model

    monkeypatch.setattr(Retention, "_adapted", everything)
    verdicts = judged(tmp_path)
    assert verdicts["C6"] != "reproduced"
    assert verdicts["C10"] != "reproduced"


def test_no_headline_claim_holds_for_an_untrained_model(tmp_path: Path) -> None:
    assert reproduced(judged(tmp_path, pretraining_steps=1)) == []


# --- the claims on made-up results -----------------------------------------------------------------------------------


def results(change: Callable[[dict[str, dict[str, Any]]], None] = lambda metrics: None) -> Results:
    """Results as the sheet measured them, then changed."""
    metrics: dict[str, dict[str, Any]] = {
        "retention": {
            "equal/loki/forgetting": 26.0,
            "equal/loki/accuracy": 0.94,
            "equal/full/forgetting": 61.3,
            "equal/global_low/forgetting": 34.2,
            "equal/random/forgetting": 28.1,
        },
        "suppression": {
            f"{name}/q{quota}/forgetting": value
            for quota, values in {10: (1.9, 0.6, 6.0), 20: (4.1, 0.9, 12.8)}.items()
            for name, value in zip(("random", "abs_low", "abs_high"), values, strict=True)
        },
        "layer_balance": {
            "suppressed/low/forgetting": 5.2,
            "suppressed/high/forgetting": 6.8,
            "suppressed/global_low/forgetting": 14.6,
            "suppressed/global_high/forgetting": 16.1,
            "crowding/pearson_r": 1.0,
        },
        "stability": {"n": 1020, "halves/layer_balanced/overlap": 0.8, "nested/q10_in_q20": 0.95},
    }
    change(metrics)
    return Results.from_metrics(metrics)


def verdict(claim: str, found: Results) -> str:
    (one,) = [one for one in claims_of(claims) if one.id == claim]
    return judge([one], found, "cpu")[0].check.verdict


@pytest.mark.parametrize("claim", [*HEADLINE, "C8", "C11", "C12"])
def test_what_the_sheet_measured_is_reproduced(claim: str) -> None:
    assert verdict(claim, results()) == "reproduced"


@pytest.mark.parametrize(
    ("claim", "experiment", "metric", "value"),
    [
        ("C6", "retention", "equal/loki/forgetting", 43.0),
        ("C6", "retention", "equal/loki/accuracy", 0.8),
        ("C6", "retention", "equal/full/forgetting", 30.0),
        ("C8", "layer_balance", "crowding/pearson_r", 0.5),
        ("C9", "suppression", "abs_low/q10/forgetting", 1.4),
        ("C9", "suppression", "abs_high/q20/forgetting", 6.0),
        ("C9", "suppression", "random/q20/forgetting", 0.0),
        ("C10", "layer_balance", "suppressed/global_low/forgetting", 7.7),
        ("C10", "layer_balance", "suppressed/high/forgetting", -0.1),
        ("C10", "retention", "equal/global_low/forgetting", 26.0),
        ("C11", "stability", "halves/layer_balanced/overlap", 0.75),
        ("C12", "stability", "nested/q10_in_q20", 0.9),
        ("C11", "stability", "n", 999),
    ],
)
def test_each_part_of_a_claim_counts(claim: str, experiment: str, metric: str, value: float) -> None:
    def change(metrics: dict[str, dict[str, Any]]) -> None:
        metrics[experiment][metric] = value

    assert verdict(claim, results(change)) in ("not reproduced", "not run")


def test_nan_is_reproduced_nowhere() -> None:
    for experiment, metrics in {
        "retention": ["equal/loki/forgetting", "equal/full/forgetting", "equal/loki/accuracy"],
        "suppression": ["abs_low/q10/forgetting", "random/q20/forgetting"],
        "layer_balance": ["suppressed/low/forgetting", "suppressed/global_high/forgetting"],
    }.items():
        for metric in metrics:

            def change(found: dict[str, dict[str, Any]], e: str = experiment, m: str = metric) -> None:
                found[e][m] = float("nan")

            assert len([name for name in HEADLINE if verdict(name, results(change)) == "reproduced"]) < 3
