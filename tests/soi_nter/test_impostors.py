"""A claim check that anything passes is worthless: explainers that know nothing must fail every headline claim.

The experiments are those of scale cpu with fewer steps and inputs. What is measured of the genuine explainers and of
the rivals is replaced, for the paper's method only, by what an impostor's masks come to.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from iclr_repro import command_line
from iclr_repro.core.claims import Results, claims_of, judge
from iclr_repro.core.experiment import build
from iclr_repro.core.rundir import Run
from iclr_repro.soi_nter import claims
from iclr_repro.soi_nter.claims import explanations_of_labels_are_faithful
from iclr_repro.soi_nter.experiments import MultiLabel
from iclr_repro.soi_nter.explainer import AmortisedExplainer
from iclr_repro.soi_nter.interpreter import SOInter
from support import bare_run

RECOVERY = {"C1", "C1l", "C2", "C3", "C4", "C6"}
REDUCED: dict[str, Any] = {
    "num_train": 200, "num_test": 60, "slow_inputs": 20, "lime_samples": 60, "shap_samples": 60,
    "pretrain_steps": 2, "steps": 2, "l2x": {"l2x": 2}, "problems": [["E1", 10, 2], ["E1", 20, 2]],
}  # fmt: skip
Scores = Callable[[AmortisedExplainer, Tensor], Tensor]


def perfect(explainer: AmortisedExplainer, x: Tensor) -> Tensor:
    """The four features; a control without structure finds the direct ones only, L2X none in particular."""
    scores = 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(len(x)))
    if isinstance(explainer, SOInter):
        blind = explainer.objective == "diff" and not explainer.structured
        scores[:, : 2 if blind else 4] += 1.0
        if blind:
            scores[:, 2:4] -= 1.0
    return scores


def shuffled(explainer: AmortisedExplainer, x: Tensor) -> Tensor:
    """The perfect scores, each row in a random order."""
    found = perfect(explainer, x)
    order = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)).argsort(dim=1)
    return found.gather(1, order)


def random(explainer: AmortisedExplainer, x: Tensor) -> Tensor:
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(2))


def frozen(explainer: AmortisedExplainer, x: Tensor) -> Tensor:
    """The same features for every input, drawn once."""
    row = torch.rand(x.shape[1], generator=torch.Generator().manual_seed(3))
    return row.expand_as(x) + 1e-6 * torch.randn(x.shape, generator=torch.Generator().manual_seed(4))


def verdicts(folder: Path, monkeypatch: pytest.MonkeyPatch, scores: Scores | None) -> dict[str, str]:
    """Judge two seeds of the reduced experiment; None leaves the untrained selectors as they are."""
    if scores is not None:
        monkeypatch.setattr(AmortisedExplainer, "scores", lambda self, x, *, target=None: scores(self, x))
    composed = command_line.checked_settings(command_line.compose(["paper=soi_nter"]))["experiments"]["synthetic"]
    metrics: dict[str, list[float]] = {}
    for seed in (0, 1):
        result = build("synthetic", {**composed, **REDUCED}).run(bare_run(folder / str(seed), seed=seed))
        for name, value in result.metrics.items():
            metrics.setdefault(name, []).append(float(value))
    both = {name: np.array(values) for name, values in metrics.items() if len(values) == 2}
    judged = judge(claims_of(claims), Results.from_metrics({"synthetic": both}), "cpu")
    return {one.claim.id: one.check.verdict for one in judged}


def test_a_perfect_explainer_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = verdicts(tmp_path, monkeypatch, perfect)
    assert {name for name in RECOVERY if found[name] == "reproduced"} == RECOVERY


@pytest.mark.parametrize(
    "impostor", [None, shuffled, random, frozen], ids=["untrained", "shuffled", "random", "frozen"]
)
def test_impostors_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, impostor: Scores | None) -> None:
    found = verdicts(tmp_path, monkeypatch, impostor)
    assert [name for name in RECOVERY if found[name] == "reproduced"] == []


def test_a_selector_of_nan_has_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="NaN"):
        verdicts(tmp_path, monkeypatch, lambda explainer, x: torch.full_like(x, torch.nan))


def words_of_the_topic(explainer: AmortisedExplainer, x: Tensor) -> Tensor:
    """The eight words of the target's topic, in the generated labels."""
    assert isinstance(explainer.target, int)
    scores = 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    scores[:, 8 * explainer.target : 8 * explainer.target + 8] += 1.0
    return scores


def words_of_another_topic(explainer: AmortisedExplainer, x: Tensor) -> Tensor:
    return words_of_the_topic(explainer, x).roll(24, dims=1)


TRAINED: dict[int, Any] = {}
TRAIN = MultiLabel._black_box


def trained_once(self: MultiLabel, run: Run, *rest: Any) -> Any:
    if run.seed not in TRAINED:
        TRAINED[run.seed] = TRAIN(self, run, *rest)
    return TRAINED[run.seed]


@pytest.mark.parametrize(
    ("scores", "passes"),
    [(words_of_the_topic, True), (words_of_another_topic, False), (random, False), (frozen, False), (None, False)],
    ids=["topic", "other_topic", "random", "frozen", "untrained"],
)
def test_only_explanations_with_the_words_of_a_topic_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scores: Scores | None, passes: bool
) -> None:
    """C9, on generated labels of which the check is told that they are real; black boxes are trained once."""
    if scores is not None:
        monkeypatch.setattr(AmortisedExplainer, "scores", lambda self, x, *, target=None: scores(self, x))
    monkeypatch.setattr(MultiLabel, "_black_box", trained_once)
    composed = command_line.checked_settings(command_line.compose(["paper=soi_nter"]))["experiments"]["multilabel"]
    small = {
        "data": "synthetic", "slow_methods": False, "model_hidden": 24,
        "variants": {name: composed["variants"][name] for name in ("diff", "diff_target_only")},
        "pretrain_steps": 1, "steps": 1, "l2x": {"l2x": 1},
    }  # fmt: skip
    metrics = [build("multilabel", {**composed, **small}).run(bare_run(tmp_path, seed=seed)).metrics for seed in (0, 1)]
    both = {name: np.array([one[name] for one in metrics]) for name in metrics[0] if name in metrics[1]}
    c9 = explanations_of_labels_are_faithful.check(Results.from_metrics({"multilabel": both}))
    assert (c9.verdict == "reproduced") == passes, c9.note


@pytest.mark.parametrize(("name", "value"), [("explain/queries", 1.0), ("explain/lime_over_ours", 5.0)])
def test_explainers_that_ask_or_are_slow_fail(name: str, value: float) -> None:
    metrics = {"explain/queries": 0.0, "explain/lime_over_ours": 100.0, name: value}
    judged = judge(claims_of(claims), Results.from_metrics({"efficiency": metrics}), "cpu")
    (c7,) = (one for one in judged if one.claim.id == "C7")
    assert c7.check.verdict == "not reproduced"
