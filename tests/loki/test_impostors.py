"""A claim check that anything passes is worthless: stand-ins must fail the headline claims that they should fail.

A small world takes the place of the preset of scale cpu. Each stand-in goes through the experiments' own code with the
seeds 0, 1 and 2, and the claims judge its metrics over the seeds, as in a run. Asserted is that each stand-in is judged
and not "reproduced", with the mean of a part on the wrong side of its threshold, a frozen network and full fine-tuning
in disguise "not reproduced" without doubt, and that every mean of LoKI itself is on the right side. The world was
chosen on seed 0 so that LoKI passes there; with three seeds LoKI is not "reproduced" everywhere in so small a world:
that is for scale cpu to say.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from iclr_repro import command_line
from iclr_repro.core.claims import Check, Results, claims_of, judge
from iclr_repro.core.experiment import build
from iclr_repro.loki import claims, suppression
from iclr_repro.loki.experiments import Retention, rows
from iclr_repro.loki.experiments._world import InTinyWorld, Pretrained
from iclr_repro.loki.selection import select_rows
from iclr_repro.loki.suppression import SETS
from support import bare_run

HEADLINE = ("C6", "C9", "C10")
SEEDS = (0, 1, 2)
_WORLD: dict[str, Any] = {
    "num_entities": 32,
    "pool": {"fact": 3000, "rev": 2000, "ins": 1000},
    "num_symbols": 8,
    "reversed_length": 3,
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_layers": 3,
    "pretraining_steps": 700,
    "test_samples": 1024,
    "kva_steps": 3,
}
_CHANGES: dict[str, dict[str, Any]] = {
    "retention": {
        "methods": ["full", "loki", "global_low"],
        "learning_rates": [3e-3],
        "evaluate_every": 60,
        "forgetting_every": 240,
    },
    "suppression": {"quotas": [10, 20]},
    "layer_balance": {"quota": 10, "crowding_quota": 10},
}

Metrics = dict[str, dict[str, Any]]


def measured(folder: Path, *names: str, **changes: Any) -> Metrics:
    """Run experiments in the small world; a metric is an array over the seeds."""
    settings = command_line.checked_settings(command_line.compose(["paper=loki"]))["experiments"]
    metrics: Metrics = {}
    for name in names:
        chosen = {**settings[name], **_WORLD, **_CHANGES[name], **changes}
        found = [build(name, chosen).run(bare_run(folder / name, seed=seed)).metrics for seed in SEEDS]
        keys = dict.fromkeys(key for one in found for key in one)
        # What a seed did not measure is not a number there, so that no claim can pass on the other seeds alone.
        metrics[name] = {key: np.array([one.get(key, np.nan) for one in found]) for key in keys}
    return metrics


def checks(metrics: Metrics) -> dict[str, Check]:
    chosen = [one for one in claims_of(claims) if one.id in HEADLINE]
    return {one.claim.id: one.check for one in judge(chosen, Results.from_metrics(metrics), "cpu")}


def wrong(check: Check) -> list[str]:
    """The parts of a claim whose mean is on the wrong side of the threshold."""
    sides = {">": operator.gt, ">=": operator.ge, "<=": operator.le}
    found = []
    for part in check.parts:
        *_, sign, bound = part.threshold.split()
        if not sides[sign](float(np.mean(part.values)), float(bound)):
            found.append(part.name)
    return found


def fails(check: Check) -> bool:
    """Whether a claim was judged, was not reproduced, and is contradicted by the mean of a part at least."""
    return check.verdict in ("inconclusive", "not reproduced") and bool(wrong(check))


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Metrics]:
    """What LoKI itself measures; pretraining is kept for the stand-ins."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICLR_REPRO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield measured(tmp_path_factory.mktemp("genuine"), *_CHANGES)


def test_the_method_itself_does_not_fail(genuine: Metrics) -> None:
    for claim, check in checks(genuine).items():
        assert check.verdict in ("reproduced", "inconclusive"), claim
        assert wrong(check) == [], claim


def test_shuffled_attributions_fail(genuine: Metrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C6 is about few rows instead of all weights, whichever they are, so that it is not this stand-in's business."""
    of_method = InTinyWorld.attributions

    def shuffled(self: Any, run: Any, pretrained: Any) -> np.ndarray:
        values = of_method(self, run, pretrained)
        order = np.random.default_rng(run.seed).permutation(values[0].size)
        return values.reshape(len(values), -1)[:, order].reshape(values.shape)

    monkeypatch.setattr(InTinyWorld, "attributions", shuffled)
    found = checks({**genuine, **measured(tmp_path, "suppression", "layer_balance")})
    assert fails(found["C9"])
    assert fails(found["C10"])


def test_attributions_of_an_untrained_network_fail(
    genuine: Metrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_method = InTinyWorld.attributions

    def untrained(self: Any, run: Any, pretrained: Any) -> np.ndarray:
        fresh = Pretrained(self._model(run).eval(), pretrained.world, pretrained.tests, pretrained.accuracies)
        return of_method(self, run, fresh)

    monkeypatch.setattr(InTinyWorld, "attributions", untrained)
    assert fails(checks({**genuine, **measured(tmp_path, "suppression")})["C9"])


def test_random_rows_under_every_name_fail(genuine: Metrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETS:
        monkeypatch.setitem(SETS, name, "random")
    rng = np.random.default_rng(0)
    for module in (rows, suppression):
        monkeypatch.setattr(module, "select_rows", lambda a, q, **options: select_rows(a, q, **{"rng": rng, **options}))
    found = checks({**genuine, **measured(tmp_path, "suppression", "layer_balance")})
    assert fails(found["C9"])
    assert fails(found["C10"])


def test_a_frozen_network_fails(genuine: Metrics, tmp_path: Path) -> None:
    """It forgets nothing, and learns nothing."""
    frozen = measured(tmp_path, "retention", learning_rates=[0.0], equal_rate=0.0, steps=1, forgetting_every=1)
    found = checks({**genuine, **frozen})
    assert found["C6"].verdict == found["C10"].verdict == "not reproduced"


def test_full_fine_tuning_in_disguise_fails(genuine: Metrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def everything(self: Retention, run: Any, pretrained: Any, rows: Any, method: str) -> nn.Module:
        model: nn.Module = pretrained.copy().requires_grad_()
        return model

    monkeypatch.setattr(Retention, "_adapted", everything)
    found = checks({**genuine, **measured(tmp_path, "retention", steps=60)})
    assert found["C6"].verdict == found["C10"].verdict == "not reproduced"


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
        "stability": {
            "n": 1020,
            "halves/layer_balanced/overlap": 0.8,
            "halves/shared_prompts": 0.0,
            "nested/q10_in_q20": 0.95,
            "attributions/varying": 1.0,
        },
    }
    change(metrics)
    return Results.from_metrics(metrics)


def verdict(claim: str, found: Results, scale: str = "cpu") -> str:
    (one,) = [one for one in claims_of(claims) if one.id == claim]
    return judge([one], found, scale)[0].check.verdict


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
        ("C11", "stability", "halves/shared_prompts", 1.0),
        ("C11", "stability", "attributions/varying", 0.99),
        ("C12", "stability", "attributions/varying", 0.0),
    ],
)
def test_each_part_of_a_claim_counts(claim: str, experiment: str, metric: str, value: float) -> None:
    def change(metrics: Metrics) -> None:
        metrics[experiment][metric] = value

    assert verdict(claim, results(change)) == "not reproduced"


def test_a_claim_about_a_thousand_prompts_is_not_judged_on_fewer() -> None:
    def change(metrics: Metrics) -> None:
        metrics["stability"]["n"] = 999

    assert verdict("C11", results(change)) == "not run"


@pytest.mark.parametrize("claim", ["C6", "C7", "C8", "C9", "C9s", "C10", "C11", "C12", "M1", "M2", "M3"])
def test_numbers_of_the_tiny_world_decide_nothing_about_public_models(claim: str) -> None:
    assert verdict(claim, results(), "paper") == "not run"


@pytest.mark.parametrize(
    ("claim", "experiment", "metric"),
    [
        *(("C6", "retention", f"equal/{name}") for name in ("loki/forgetting", "full/forgetting", "loki/accuracy")),
        ("C8", "layer_balance", "crowding/pearson_r"),
        *(
            ("C9", "suppression", f"{name}/q{quota}/forgetting")
            for name in ("abs_low", "abs_high", "random")
            for quota in (10, 20)
        ),
        *(
            ("C10", "layer_balance", f"suppressed/{name}/forgetting")
            for name in ("low", "high", "global_low", "global_high")
        ),
        *(("C10", "retention", f"equal/{name}/forgetting") for name in ("loki", "global_low")),
        *(
            ("C11", "stability", name)
            for name in ("halves/layer_balanced/overlap", "halves/shared_prompts", "attributions/varying")
        ),
        *(("C12", "stability", name) for name in ("nested/q10_in_q20", "attributions/varying")),
    ],
)
def test_nan_is_reproduced_nowhere(claim: str, experiment: str, metric: str) -> None:
    def change(metrics: Metrics) -> None:
        metrics[experiment][metric] = float("nan")

    assert verdict(claim, results(change)) != "reproduced"


def test_identities_that_are_not_numbers_or_of_nothing_fail() -> None:
    sound = {"kva/completeness": 0.0, "kva/are_large": 1.0}
    assert verdict("C2", Results.from_metrics({"identities": sound})) == "reproduced"
    for change in ({"kva/completeness": float("nan")}, {"kva/are_large": 0.0}):
        assert verdict("C2", Results.from_metrics({"identities": sound | change})) == "not reproduced"
