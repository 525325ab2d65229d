"""A claim check that anything passes is worthless: models without topography must fail every headline claim.

Each impostor takes the place of the topographic models, in the preset of scale cpu on smaller sheets and generated
texts, at which the genuine ones pass; what the controls came to is measured in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from iclr_repro import command_line
from iclr_repro.core.claims import Results, claims_of, judge
from iclr_repro.core.experiment import build
from iclr_repro.topoformer import claims
from iclr_repro.topoformer.attention import TopographicSelfAttention
from iclr_repro.topoformer.data import LabelledTexts, synthetic_sentiment
from iclr_repro.topoformer.experiments import _training, masked_lm
from iclr_repro.topoformer.experiments import sentiment as sentiment_module
from support import ROOT, bare_run, read_json

HEADLINE = {"T1", "T3", "T5", "T6", "T7"}
REDUCED: dict[str, dict[str, Any]] = {
    "sentiment": {"num_units": 64, "length": 12, "epochs": 5, "batch_size": 64, "min_frequency": 1,
                  "learning_rate": 5e-3, "num_examples": 300, "permutations": 1,
                  "trained": ["control", "sq", "sr", "sqr", "sqr_signed"]},
    "masked_lm": {"num_units": 64, "num_layers": 1, "intermediate_size": 128, "length": 16, "steps": 200,
                  "micro_batch": 16, "final_batch": 16, "vocab_size": 210, "held_out": 200, "pool_size": 200},
}  # fmt: skip
Sheets = Mapping[str, Tensor]
Impostor = Callable[[TopographicSelfAttention, Sheets], dict[str, Tensor]]

_GENUINE = TopographicSelfAttention.sheets


def shuffled(module: TopographicSelfAttention, sheets: Sheets) -> dict[str, Tensor]:
    """The genuine activations, with the units of each sheet at random places."""
    order = torch.randperm(module.num_units, generator=torch.Generator().manual_seed(1))
    return {name: x[..., order] for name, x in sheets.items()}


def random(module: TopographicSelfAttention, sheets: Sheets) -> dict[str, Tensor]:
    """Noise in place of activations."""
    return {name: torch.randn_like(x) for name, x in sheets.items()}


def topographic(module: TopographicSelfAttention) -> bool:
    return module.querying is not None or hasattr(module.fc_out, "mask")


def with_impostor(impostor: Impostor) -> Callable[..., Sheets]:
    def sheets(self: TopographicSelfAttention, x: Tensor, padding_mask: Tensor | None = None) -> Sheets:
        found = _GENUINE(self, x, padding_mask)
        return impostor(self, found) if topographic(self) else found

    return sheets


def judged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Run the experiments of the headline claims, at a size that is enough for them, and judge them on two seeds."""
    monkeypatch.setattr(_training, "load_rotten_tomatoes", small_texts)
    monkeypatch.setattr(masked_lm, "load_imdb", small_texts)
    settings = command_line.checked_settings(command_line.compose(["paper=topoformer"]))["experiments"]
    metrics: dict[str, dict[str, np.ndarray]] = {name: {} for name in settings}
    for name, change in REDUCED.items():
        runs = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            run = bare_run(folder / name / str(seed), seed=seed)
            runs.append(build(name, {**settings[name], **change}).run(run).metrics)
        metrics[name] = {key: np.array([found[key] for found in runs]) for key in runs[0]}
    results = Results.from_metrics(metrics)
    return {one.claim.id: one.check.verdict for one in judge(claims_of(claims), results, "cpu")}


def small_texts() -> LabelledTexts:
    return synthetic_sentiment(1024, 400, rng=np.random.default_rng(0))


def test_at_the_size_of_the_impostors_every_headline_claim_holds_for_the_genuine_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that an impostor fails for what it is, not for too little training."""
    verdicts = judged(tmp_path, monkeypatch)
    assert {name: verdicts[name] for name in HEADLINE} == dict.fromkeys(HEADLINE, "reproduced")


@pytest.mark.parametrize(("impostor", "right"), [(shuffled, {"T5"}), (random, set())])
def test_no_headline_claim_holds_for_an_impostor(
    impostor: Impostor, right: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for what is true of it: units at other places classify as well (T5); noise does not."""
    monkeypatch.setattr(TopographicSelfAttention, "sheets", with_impostor(impostor))
    verdicts = judged(tmp_path, monkeypatch)
    assert {name for name in HEADLINE if verdicts[name] == "reproduced"} == right


def test_no_headline_claim_holds_for_the_untrained_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sentiment_module.Sentiment, "fitted", lambda self, run, corpus, v, name: self.model(run, corpus, v)
    )
    monkeypatch.setitem(REDUCED["masked_lm"], "learning_rate", 0.0)
    verdicts = judged(tmp_path, monkeypatch)
    assert [name for name in HEADLINE if verdicts[name] == "reproduced"] == []


def test_no_claim_on_topography_holds_where_every_variant_is_the_control(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What passes because of chance or of the measure itself would pass here; a control is on par with itself (T5)."""
    genuine = TopographicSelfAttention.__init__

    def plain(self: TopographicSelfAttention, num_units: int, **options: Any) -> None:
        options = {**options, "sq": -1.0, "sr": -1.0, "signed_reweighting": False}
        genuine(self, num_units, **options)

    monkeypatch.setattr(TopographicSelfAttention, "__init__", plain)
    verdicts = judged(tmp_path, monkeypatch)
    assert {name for name in HEADLINE if verdicts[name] == "reproduced"} == {"T5"}


def test_the_record_holds_every_headline_claim_and_judges_every_claim_of_its_scale() -> None:
    document = read_json(ROOT / "experiments" / "topoformer" / "results" / "cpu.json")
    assert {claim["id"] for claim in document["claims"] if claim["headline"]} == HEADLINE
    not_run = {claim["id"] for claim in document["claims"] if claim["verdict"] == "not run"}
    assert not_run == {claim.id for claim in claims_of(claims) if claim.scales == ("paper",)}


def recorded() -> dict[str, dict[str, Any]]:
    document = read_json(ROOT / "experiments" / "topoformer" / "results" / "cpu.json")
    return {
        experiment: {name: summary["mean"] for name, summary in metrics.items()}
        for experiment, metrics in document["metrics"].items()
    }


def replaced(metrics: dict[str, dict[str, Any]], impostor: str) -> dict[str, dict[str, Any]]:
    """The recorded metrics with the topographic models' in the place of an impostor's."""
    sentiment, language = metrics["sentiment"], metrics["masked_lm"]
    for name in [name for name in sentiment if name.split("/")[0] in ("sq", "sr", "sqr")]:
        _, rest = name.split("/", 1)
        if impostor == "frozen" and f"untrained_sqr/{rest}" in sentiment:
            sentiment[name] = sentiment[
                f"untrained_{name.split('/')[0].replace('sq', 'sqr').replace('sqrr', 'sqr')}/{rest}"
            ]
        elif f"control/{rest}" in sentiment:
            sentiment[name] = sentiment[f"control/{rest}"]
        if impostor == "guessing" and rest == "accuracy":
            sentiment[name] = 0.5
    for name in [name for name in language if name.startswith("sqr/t_g")]:
        language[name] = language[name.replace("sqr", "control", 1)]
    return metrics


@pytest.mark.parametrize("impostor", ["frozen", "guessing"])
def test_at_full_size_claims_on_topography_fail_for_impostors(impostor: str) -> None:
    """From the recorded numbers: an untrained model's, or a control's, in place of the topographic models'."""
    results = Results.from_metrics(replaced(recorded(), impostor))
    verdicts = {one.claim.id: one.check.verdict for one in judge(claims_of(claims), results, "cpu")}
    failing = HEADLINE - ({"T5"} if impostor == "frozen" else set())  # a frozen network's accuracy is not recorded
    assert [name for name in failing if verdicts[name] == "reproduced"] == []
