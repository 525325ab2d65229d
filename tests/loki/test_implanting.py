"""The code path of scale paper on tiny random models in a folder: every method, suppression, scores, resumption."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config

from iclr_repro import command_line
from iclr_repro.core.claims import Results, claims_of, judge
from iclr_repro.core.experiment import Result, build
from iclr_repro.core.loop import Loop
from iclr_repro.core.metriclog import MetricLog
from iclr_repro.core.rundir import Run
from iclr_repro.loki import benchmarks, claims, load_positions, reranker_messages
from iclr_repro.loki.baselines import without_old_names
from iclr_repro.loki.chat import byte_tokenizer
from iclr_repro.loki.experiments import Implanting, implanting, public_rows
from iclr_repro.loki.experiments._public import OfPublicModel, dialogue_loss
from iclr_repro.loki.methods import METHODS, ROW_STRATEGIES, method_model
from support import bare_run

_SETS = ("high", "low", "global_high", "global_low", "abs_high", "abs_low", "random0", "random1")
_NAMES = {
    method: f"{method}_q{10 if 'global' in method else 30}" if method in ROW_STRATEGIES else method
    for method in METHODS
}
_ROWS = {"suppression_quotas": [10], "random_draws": 2, "resamples": 3}


def settings(scale: str, experiment: str = "implanting") -> dict[str, Any]:
    found: dict[str, Any] = command_line.checked_settings(command_line.compose(["paper=loki", f"scale={scale}"]))
    return dict(found["experiments"][experiment])


def rows_settings(public: dict[str, Any]) -> dict[str, Any]:
    """Settings of public_rows for the model of `public`."""
    shared = {field.name for field in dataclasses.fields(OfPublicModel)}
    of_model = {name: value for name, value in public.items() if name in shared}
    return settings("paper", "public_rows") | of_model | _ROWS


SMOKE = settings("smoke")


def run_in(folder: Path) -> Run:
    """A run that keeps its checkpoints and metrics in a folder, so that it can be taken up again."""
    run = bare_run(folder)
    loop = Loop(
        checkpoints=folder / "checkpoints",
        metrics=MetricLog(folder / "metrics.jsonl"),
        streams=run.streams,
        tracker=run.loop.tracker,
        log=run.log,
    )
    return replace(run, dir=folder, loop=loop)


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def public(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of scale paper for a model and dialogues in folders."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = byte_tokenizer()
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
    }
    config = Qwen2Config(**sizes, tie_word_embeddings=True) if request.param == "qwen2" else LlamaConfig(**sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = []
    for number in range(40):
        messages = reranker_messages(f"query {number}", f"text {number}", 1 + number % 7)
        turns = [{"from": "human" if m["role"] == "user" else "gpt", "value": m["content"]} for m in messages[1:]]
        rows.append({"system": messages[0]["content"], "conversations": turns})
    (folder / "data").mkdir()
    (folder / "data" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return settings("paper") | {
        "data": "auto",
        "model": str(folder / "model"),
        "dataset": str(folder / "data"),
        "probes": 6,
        "kva_batch": 2,
        "kva_steps": 2,
        "samples": 10,
        "held_out": 5,
        "length": 64,
        "batch_size": 2,
        "accumulation": 2,
        "learning_rates": [1e-2],
        "equal_rate": 1e-2,
        "lora_r": 2,
        "loki_lora_r": 2,
        "benchmarks": [],
    }


def by_loss(model: Any, tokenizer: Any, tasks: Any, **_: Any) -> dict[str, float]:
    """A stand-in for lm-evaluation-harness: scores that any change of the weights changes."""
    assert {one.dtype for one in model.parameters()} == {torch.float32}, "all models are scored in one precision"
    assert torch.is_autocast_enabled("cpu")
    ids = torch.arange(16)[None] + 10
    with torch.no_grad():
        p = model(input_ids=ids).logits.float().softmax(dim=-1)[0, :, 5].mean()
    return {task: 1e4 * float(p) for task in tasks}


def implanted(run: Run, given: dict[str, Any], experiment: str = "implanting", **changes: Any) -> Result:
    try:
        result: Result = build(experiment, {**given, **changes}).run(run)
    finally:
        run.loop.metrics.close()
    result.check()
    return result


def test_every_method_is_trained_from_the_same_weights(
    tmp_path: Path, public: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(implanting, "benchmark_scores", by_loss)
    result = implanted(run_in(tmp_path), public, benchmarks=["gsm8k", "ifeval"])
    metrics = result.metrics
    for name in [*_NAMES.values(), "loki_q10"]:
        assert metrics[f"equal/{name}/loss"] < metrics["original/loss"], name
        assert 0.0 <= metrics[f"equal/{name}/reranker/accuracy"] <= 1.0
        assert metrics[f"equal/{name}/forgetting/average"] != 0.0
        assert metrics[f"equal/{name}/forgetting/n"] == 2
    of_rows = {metrics[f"equal/{name}_q30/parameters"] for name in ("loki", "random", "high", "abs_low")}
    assert of_rows == {2 * 9 * 48}
    assert metrics["equal/loki_q10/parameters"] == 2 * 3 * 48
    assert metrics["equal/global_low_q10/parameters"] == metrics["equal/global_high_q10/parameters"] == 6 * 48
    assert metrics["equal/loki_lora_q30/parameters"] == 2 * 2 * (9 + 48)
    assert [len(rows) for rows in load_positions(tmp_path / "positions_loki_q30.json")] == [9, 9]
    assert set(result.tables["rates"].index) == {*_NAMES.values(), "loki_q10"}
    alone = implanted(run_in(tmp_path / "alone"), public, methods=["lora"]).metrics
    assert alone["equal/lora/loss"] == metrics["equal/lora/loss"], "the methods before it have left nothing behind"


def test_saved_adapters_fit_the_public_weights(tmp_path: Path, public: dict[str, Any]) -> None:
    adapted = [method for method in METHODS if method != "full"]
    metrics = implanted(run_in(tmp_path), public, methods=adapted, dtype="float32").metrics
    experiment: Any = build("implanting", {**public, "methods": adapted})
    dialogues, _ = experiment._dialogues(run_in(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(public["model"])
    for method in adapted:
        name = _NAMES[method]
        folder = tmp_path / "adapters" / f"{name}_lr0.01"
        saved = load_file(folder / "adapter_model.safetensors")
        assert {tensor.dtype for tensor in saved.values()} == {torch.float32}, "updates at small rates are lost in bf16"
        base = AutoModelForCausalLM.from_pretrained(public["model"], dtype=torch.float32)
        with without_old_names():
            model = PeftModel.from_pretrained(base, folder).eval()
        assert dialogue_loss(model, dialogues[:5], tokenizer) == pytest.approx(
            metrics[f"equal/{name}/loss"], abs=1e-4
        ), name
        if method in ROW_STRATEGIES:
            assert f"_q{model.peft_config['default'].quota:g}" in name


def test_rows_of_a_public_model_are_suppressed(
    tmp_path: Path, public: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(public_rows, "benchmark_scores", by_loss)
    result = implanted(run_in(tmp_path), rows_settings(public), "public_rows", benchmarks=["gsm8k"])
    for name in _SETS:
        assert result.metrics[f"suppressed/{name}/q10/forgetting/average"] != 0.0
        assert result.metrics[f"suppressed/{name}/q10/gsm8k"] != result.metrics["original/gsm8k"]
    of_prompts = {"crowding/pearson_r", "stability/half_in_whole", "nested/q10_in_q20"}
    assert of_prompts <= result.metrics.keys()
    assert {"stability/half_in_whole", "nested/q10_in_q20"} <= result.intervals.keys()
    (low, high) = result.intervals["stability/half_in_whole"]
    assert low <= result.metrics["stability/half_in_whole"] <= high


@pytest.mark.parametrize("public", ["llama"], indirect=True)
def test_each_rate_of_the_grid_is_a_training(tmp_path: Path, public: dict[str, Any]) -> None:
    changes: dict[str, Any] = {"methods": ["lora"], "learning_rates": [1e-2, 1e-3]}
    result = implanted(bare_run(tmp_path), public, **changes)
    assert list(result.tables["rates"]["learning_rate"]) == [1e-2, 1e-3]
    assert result.metrics["equal/lora/loss"] != result.metrics["lr0.001/lora/loss"]


@pytest.mark.parametrize("public", ["llama"], indirect=True)
def test_an_interrupted_run_goes_on(tmp_path: Path, public: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: dict[str, Any] = {"methods": ["pissa", "random", "loki"], "loki_quotas": [], "benchmarks": ["gsm8k"]}
    monkeypatch.setattr(implanting, "benchmark_scores", by_loss)
    whole = implanted(run_in(tmp_path / "whole"), public, **chosen).metrics
    calls: list[int] = []
    made: list[str] = []

    def interrupted(*inputs: Any, **options: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 3:  # the original, the first method; then the second
            raise KeyboardInterrupt
        return by_loss(*inputs, **options)

    def counted(method: str, *inputs: Any, **options: Any) -> Any:
        made.append(method)
        return method_model(method, *inputs, **options)

    monkeypatch.setattr(implanting, "benchmark_scores", interrupted)
    monkeypatch.setattr(implanting, "method_model", counted)
    with pytest.raises(KeyboardInterrupt):
        implanted(run_in(tmp_path / "parts"), public, **chosen)
    assert implanted(run_in(tmp_path / "parts"), public, **chosen).metrics == whole
    assert len(calls) == 5, "nothing was measured twice but what was interrupted"
    assert made == ["pissa", "random", "random", "loki"], "what is finished is not made again"


def test_printed_commands_need_no_attribution() -> None:
    lines = (command_line.configs_dir() / "paper_scale" / "loki" / "paper.yaml").read_text().splitlines()
    text = "\n".join(line.removeprefix("#") for line in lines if line.startswith("#")).replace("\\\n", " ")
    commands = re.findall(r"python -m iclr_repro.run (.*)", text)
    assert len(commands) == 2
    for command in commands:
        found = command_line.checked_settings(command_line.compose(shlex.split(command)))
        experiment = build("implanting", found["experiments"]["implanting"])
        assert isinstance(experiment, Implanting)
        assert experiment.positions == "released"
        assert not experiment.needs_attributions


@pytest.mark.parametrize("public", ["qwen2"], indirect=True)
def test_rows_from_a_file_need_no_attribution(tmp_path: Path, public: dict[str, Any]) -> None:
    (tmp_path / "rows.json").write_text("[[3, 1], [0]]")
    chosen: dict[str, Any] = {"methods": ["loki", "random"], "loki_quotas": []}
    metrics = implanted(bare_run(tmp_path), public, positions=str(tmp_path / "rows.json"), **chosen).metrics
    assert metrics["equal/loki_q30/parameters"] == 3 * 48
    assert metrics["equal/random_q30/parameters"] == 2 * 9 * 48
    assert not (tmp_path / "attributions").exists()


def test_released_rows_of_another_model_are_not_to_be_had(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"no data file 'pos_json/tiny/25.json.gz'"):
        implanted(bare_run(tmp_path), SMOKE, positions="released", quota=25)


@pytest.mark.parametrize("change", [{"packing": False, "length": 400}, {"methods": ["loki_lora"]}])
def test_other_ways_of_implanting_train(tmp_path: Path, change: dict[str, Any]) -> None:
    metrics = implanted(bare_run(tmp_path), SMOKE, **{"methods": ["loki"], **change}).metrics
    (method,) = change.get("methods", ["loki"])
    assert metrics[f"equal/{method}_q30/loss"] < metrics["original/loss"]


def test_dialogues_without_an_answer_in_reach_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no dialogue has an answer within 8 tokens: give a larger length"):
        implanted(bare_run(tmp_path), SMOKE, packing=False, length=8)


def test_benchmarks_need_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    assert benchmarks.benchmark_scores(None, None, []) == {}
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    with pytest.raises(ImportError, match=r"pip install 'iclr-repro\[benchmarks\]'"):
        benchmarks.benchmark_scores(None, None, ["gsm8k"])


def test_the_stated_metric_of_a_benchmark_counts() -> None:
    found = {"gsm8k": {"alias": "x", "exact_match,flexible-extract": 0.5, "exact_match,strict-match": 0.25}}
    assert benchmarks._metric_of(found, "gsm8k") == 0.25
    with pytest.raises(KeyError, match="hellaswag: lm-evaluation-harness gave no 'acc_norm,none' but acc,none"):
        benchmarks._metric_of({"hellaswag": {"acc,none": 0.5}}, "hellaswag")


# --- the claims about public models ----------------------------------------------------------------------------------


def paper_results(change: Callable[[dict[str, float]], None] = lambda metrics: None, **options: Any) -> Results:
    """Made-up results that hold, then changed."""
    names = {"loki_q30": 1.0, "loki_q10": 8.0, "full": 80.0, "lora": 16.0, "pissa": 48.0}
    names |= {"global_low_q10": 30.0, "global_high_q10": 39.0}
    trained = {f"equal/{name}/forgetting/average": value for name, value in names.items()}
    trained |= {"original/loss": 2.0, **{f"equal/{name}/loss": 1.0 for name in names}}
    suppressed = {"high": 36.0, "low": 11.0, "global_high": 40.0, "global_low": 12.0}
    rows = {f"suppressed/{name}/q1/forgetting/average": value for name, value in suppressed.items()}
    rows |= {"crowding/pearson_r": 0.9, "stability/half_in_whole": 0.97, "nested/q10_in_q20": 0.99}
    both = trained | rows
    change(both)
    found = {
        "implanting": {name: value for name, value in both.items() if name in trained},
        "public_rows": {name: value for name, value in both.items() if name in rows},
    }
    return Results.from_metrics(found, **options)


def verdicts(results: Results, scale: str = "paper") -> dict[str, str]:
    chosen = [one for one in claims_of(claims) if one.id in ("C6", "C7", "C8", "C9s", "C10", "C11", "C12")]
    return {one.claim.id: one.check.verdict for one in judge(chosen, results, scale)}


def test_claims_about_public_models_are_judged_at_scale_paper() -> None:
    assert set(verdicts(paper_results()).values()) == {"reproduced"}
    assert set(verdicts(paper_results(data="synthetic")).values()) == {"not run"}, "a random model decides nothing"
    assert set(verdicts(paper_results(), "cpu").values()) == {"not run"}


@pytest.mark.parametrize(
    ("claim", "metric", "value"),
    [
        ("C6", "equal/full/forgetting/average", 3.9),
        ("C6", "equal/loki_q30/loss", 2.0),
        ("C7", "equal/lora/forgetting/average", 1.0),
        ("C7", "equal/pissa/forgetting/average", 0.9),
        ("C7", "equal/loki_q30/loss", 2.1),
        ("C8", "crowding/pearson_r", 0.5),
        ("C9s", "suppressed/high/q1/forgetting/average", 16.0),
        ("C9s", "suppressed/global_low/q1/forgetting/average", 35.0),
        ("C10", "equal/global_low_q10/forgetting/average", 1.0),
        ("C10", "equal/global_high_q10/forgetting/average", 7.5),
        ("C10", "equal/loki_q10/loss", 2.0),
        ("C11", "stability/half_in_whole", 0.95),
        ("C12", "nested/q10_in_q20", 0.98),
    ],
)
def test_each_part_of_a_claim_about_public_models_counts(claim: str, metric: str, value: float) -> None:
    assert verdicts(paper_results(lambda metrics: metrics.update({metric: value})))[claim] == "not reproduced"
    nan = verdicts(paper_results(lambda metrics: metrics.update({metric: float("nan")})))
    assert nan[claim] != "reproduced"


def test_impostors_fail_on_a_public_model_too() -> None:
    def frozen(metrics: dict[str, float]) -> None:
        for name in ("loki_q30", "loki_q10"):
            metrics[f"equal/{name}/forgetting/average"] = 0.0
            metrics[f"equal/{name}/loss"] = metrics["original/loss"]

    def gains(metrics: dict[str, float]) -> None:
        metrics |= {"equal/loki_q30/forgetting/average": -2.0, "equal/full/forgetting/average": -4.0}

    found = verdicts(paper_results(frozen))
    assert {found[claim] for claim in ("C6", "C7", "C10")} == {"not reproduced"}
    assert verdicts(paper_results(gains))["C6"] == "not reproduced", "full tuning has forgotten nothing"
