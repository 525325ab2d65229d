"""What the experiments measure and refuse, resume, and the code path of scale paper on a tiny local model."""

from __future__ import annotations

import builtins
import contextlib
import logging
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, PreTrainedTokenizerFast, XLMRobertaConfig

from iclr_repro import command_line, fed_prompt
from iclr_repro.core.experiment import build
from iclr_repro.core.loop import Loop
from iclr_repro.core.metriclog import MetricLog
from iclr_repro.core.rundir import Run
from iclr_repro.core.seeding import RandomStreams
from iclr_repro.core.tracking import NoTracker
from iclr_repro.fed_prompt import FedAvg, run_federation, synthetic_corpus
from iclr_repro.fed_prompt.experiments import _runs
from iclr_repro.fed_prompt.pretraining import train_tokenizer
from support import bare_run


def settings(scale: str) -> dict[str, Any]:
    composed = command_line.compose(["paper=fed_prompt", f"scale={scale}"])
    found: dict[str, Any] = command_line.checked_settings(composed)["experiments"]
    return found


SMOKE = settings("smoke")


@pytest.fixture(scope="module", autouse=True)
def _shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICLR_REPRO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def measured(name: str, folder: Path, **changes: Any) -> Any:
    result = build(name, {**SMOKE[name], **changes}).run(bare_run(folder))
    result.check()
    return result


@pytest.fixture(scope="module")
def low_resource(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return measured("low_resource", tmp_path_factory.mktemp("low_resource"))


def test_low_resource_rotates_every_language(low_resource: Any) -> None:
    result = low_resource
    table = result.tables["languages"].loc["prompts"]
    assert list(table.index) == ["l0", "l1", "l2", "l3"]
    assert table["gain_poor"].to_numpy() == pytest.approx((table["federated_poor"] - table["local_poor"]).to_numpy())
    assert result.metrics["prompts/gain_poor"] == pytest.approx(100 * table["gain_poor"].mean())
    assert result.metrics["prompts/l1/gain_poor"] == pytest.approx(100 * table.loc["l1", "gain_poor"])
    assert result.metrics["n"] == 4 * 60
    assert set(result.figures) == {"gains", "convergence", "clients"}
    assert list(result.tables["convergence"].index) == [4, 8]
    assert result.data == "synthetic"
    assert result.metrics["prompts/federated_poor"] > result.metrics["prompts/majority"]


def test_gain_rises_with_closeness(tmp_path: Path) -> None:
    """Known truth of the generator: without words in common and without parallel text nothing can be transferred."""
    gains = []
    for closeness in (0.0, 1.0):
        changes = {"closeness": closeness, "sizes": [8], "draws": 3, "synthetic_test": 200, "n_poor": 3}
        metrics = measured("data_efficiency", tmp_path, **changes).metrics
        gains.append(metrics["control/gain_without_parallel"])
    assert gains[1] > gains[0] + 3


def test_data_efficiency_and_stability_measure(tmp_path: Path) -> None:
    result = measured("data_efficiency", tmp_path)
    for size in (8, 16, 32):
        gain = result.metrics[f"low/n{size}/federated"] - result.metrics[f"low/n{size}/local"]
        assert result.metrics[f"low/n{size}/gain"] == pytest.approx(100 * gain)
    assert -1 - 1e-9 <= result.metrics["low/spearman"] <= 1 + 1e-9
    assert set(result.figures) == {"accuracy", "languages"}
    spread = measured("stability", tmp_path)
    assert list(spread.tables["standard_deviation"].index) == ["l1", "l3"]
    assert spread.metrics["low/std/local"] >= 0
    assert spread.metrics["low/accuracy/federated"] > spread.metrics["low/majority"] > 1 / 3


def test_methods_have_equal_budgets_and_their_own_counts(tmp_path: Path) -> None:
    result = measured("methods", tmp_path, rounds=2)
    m = result.metrics
    assert m["federated/parameters"] == m["local/parameters"] == 4 * 32 + 32 * 3 + 3
    assert m["head/parameters"] == 32 * 3 + 3
    assert m["lora/parameters"] == 2 * 2 * 8 * 32 + 32 * 3 + 3
    assert m["full/parameters"] == m["encoder/parameters"] + 32 * 3 + 3
    assert m["full/bytes"] > 20 * m["federated/bytes"]
    assert m["full_minus_prompt"] == pytest.approx(100 * (m["full/accuracy"] - m["federated/accuracy"]))
    assert 100 * (m["federated/accuracy"] - 1) < m["federated_minus_majority"] < 100 * (m["federated/accuracy"] - 1 / 3)
    assert m["full/rate"] in SMOKE["methods"]["rates"]["full"]
    assert result.intervals["gain"][0] <= m["gain"] <= result.intervals["gain"][1]
    with pytest.raises(ValueError, match="rates: none for full, lora: give a list of learning rates for each kind"):
        build("methods", {**SMOKE["methods"], "rates": {"prompt": [0.01], "head": [0.01]}})


def test_distances_are_reported_with_intervals(tmp_path: Path) -> None:
    result = measured("language_distance", tmp_path, closeness=0.6)
    assert result.metrics["n"] == 4
    assert "1 - rho/gain/spearman" not in result.metrics, "all languages are equally close here"
    assert set(result.figures) == {"scatter"}


def test_communication_counts(tmp_path: Path) -> None:
    m = measured("communication", tmp_path).metrics
    assert m["nc/prompt/trainable"] == 604_426
    assert m["small/share_percent"] < 2
    assert m["small_linear/trainable"] == 8 * 128 + 128 * 7 + 7
    assert m["small_linear/bytes_over_count"] > m["small/bytes_over_count"] > 1


def test_engines_and_efficiency_measure(tmp_path: Path) -> None:
    m = measured("engines", tmp_path).metrics
    assert m["training/encoder_is_untouched"] == 1.0
    m = measured("efficiency", tmp_path).metrics
    assert len(m["loop/overhead"]) == 2
    assert m["stacked/difference"] < 1e-5


def test_a_killed_run_ends_as_an_uninterrupted_one(
    low_resource: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stages that are done are taken from their checkpoints, the third is killed in its middle."""

    def run(logs: contextlib.ExitStack) -> Run:
        streams = RandomStreams(0)
        log = logging.getLogger("iclr_repro.test")
        metrics = logs.enter_context(contextlib.closing(MetricLog(tmp_path / "metrics.jsonl")))
        loop = Loop(
            checkpoints=tmp_path / "checkpoints", metrics=metrics, streams=streams, tracker=NoTracker(), log=log
        )
        bare = bare_run(tmp_path)
        return Run(
            dir=tmp_path, seed=0, device=bare.device, scale="smoke", config={}, log=log, loop=loop, streams=streams
        )

    genuine = _runs.Federation.step
    steps: list[int] = []

    def killed(self: Any) -> Any:
        steps.append(1)
        if len(steps) == 2 * 8 + 6:
            raise KeyboardInterrupt
        return genuine(self)

    monkeypatch.setattr(_runs.Federation, "step", killed)
    with contextlib.ExitStack() as logs, pytest.raises(KeyboardInterrupt):
        build("low_resource", SMOKE["low_resource"]).run(run(logs))
    monkeypatch.setattr(_runs.Federation, "step", genuine)
    with contextlib.ExitStack() as logs:
        assert build("low_resource", SMOKE["low_resource"]).run(run(logs)).metrics == low_resource.metrics


def test_scale_paper_runs_on_a_local_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder and its tokenizer from a folder, XLM-R's head on the first place, no centring."""
    corpus = synthetic_corpus(
        num_languages=4, num_labels=3, num_train=[64] * 4, num_test=20, rng=np.random.default_rng(0)
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(corpus, vocab_size=600),
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    fast.save_pretrained(tmp_path / "model")
    config = XLMRobertaConfig(
        vocab_size=600,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=80,
        pad_token_id=1,
    )
    torch.manual_seed(0)
    AutoModel.from_config(config, add_pooling_layer=False).save_pretrained(tmp_path / "model")
    paper = settings("paper")["low_resource"]
    names = ("head_rate", "feature_scale", "center_texts", "prompt_rate", "evaluate_every")
    changes: dict[str, Any] = {name: paper[name] for name in names}
    result = measured(
        "low_resource", tmp_path, **changes, encoder_name=str(tmp_path / "model"), encoder_length=48, rounds=2
    )
    assert 0.0 <= result.metrics["prompts/federated_poor"] <= 1.0


def test_more_texts_than_there_are_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="l0 has 64 training texts, 100 are asked for"):
        measured("stability", tmp_path, n_rich=100)
    with pytest.raises(ValueError, match="head_rank: got 40, the token table has 32 columns"):
        measured("stability", tmp_path, head_rank=40)


def test_engines_of_flower_without_the_extra_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = builtins.__import__

    def without_flwr(name: str, *inputs: Any, **options: Any) -> Any:
        if name.split(".")[0] == "flwr":
            raise ImportError(f"No module named {name!r}")
        return genuine(name, *inputs, **options)

    monkeypatch.delitem(sys.modules, "iclr_repro.fed_prompt.flower", raising=False)
    monkeypatch.delattr(fed_prompt, "flower", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_flwr)
    trainer: Any = type("T", (), {"train": lambda self, *inputs, **options: None})()
    with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'iclr-repro[federated]'")):
        run_federation(
            trainer, {"a": np.zeros(1)}, clients=["a"], strategy=FedAvg(), rounds=1, engine="flower_inprocess"
        )
