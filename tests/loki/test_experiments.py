"""What the experiments measure and refuse, resume, and the code path of scale paper on a tiny local model."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from iclr_repro import command_line
from iclr_repro.core.claims import Results, claims_of, judge
from iclr_repro.core.experiment import build
from iclr_repro.core.loop import Loop
from iclr_repro.loki import claims, load_positions, reranker_messages
from iclr_repro.loki.chat import byte_tokenizer
from iclr_repro.loki.experiments import SelectionStability, exactness, implanting
from iclr_repro.loki.experiments.rows import _random_like
from iclr_repro.loki.paper_values import RERANKER, SHAPES, TOOLACE, loki_lora_parameters, loki_parameters, recomputed
from iclr_repro.loki.tinyworld import TOKEN
from support import bare_run


def settings(scale: str) -> dict[str, Any]:
    composed = command_line.compose(["paper=loki", f"scale={scale}"])
    found: dict[str, Any] = command_line.checked_settings(composed)["experiments"]
    return found


SMOKE = settings("smoke")


def measured(name: str, folder: Path, **changes: Any) -> Any:
    result = build(name, {**SMOKE[name], **changes}).run(bare_run(folder))
    result.check()
    return result


def test_retention_compares_at_equal_rate_and_matched_accuracy(tmp_path: Path) -> None:
    result = measured("retention", tmp_path, matched_accuracy=0.05, methods=["full", "loki"], tuned=["full"])
    equal, matched, every = (result.tables[name] for name in ("equal_rate", "matched_accuracy", "checkpoints"))
    assert list(equal.index) == ["full", "loki"]
    assert result.metrics["equal/loki/forgetting"] == equal.loc["loki", "forgetting"]
    assert list(matched.index) == ["full"]
    of_full = every.loc["full"]
    good = of_full[of_full["accuracy"] >= 0.05].groupby("learning_rate").first()
    assert result.metrics["matched/full/forgetting"] == good["forgetting"].min()
    assert result.metrics["matched/full/rate"] in SMOKE["retention"]["learning_rates"]
    assert result.metrics["loki/parameters"] == 2 * 8 * 96
    assert result.data == "synthetic"
    assert set(result.figures) == {"pareto", "learning"}


def test_a_method_that_is_never_good_is_listed_as_such(tmp_path: Path) -> None:
    result = measured("retention", tmp_path, matched_accuracy=1.0, methods=["full", "loki"], tuned=["loki"], steps=2)
    assert result.metrics["matched/loki/reached"] == 0.0
    assert "matched/loki/forgetting" not in result.metrics


def test_pretraining_is_shared_and_makes_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages: list[str] = []
    genuine = Loop.fit

    def fit(self: Loop, *inputs: Any, **options: Any) -> Any:
        stages.append(options["name"])
        return genuine(self, *inputs, **options)

    monkeypatch.setattr(Loop, "fit", fit)
    monkeypatch.setenv("ICLR_REPRO_CACHE", str(tmp_path / "one"))
    first = measured("suppression", tmp_path).metrics
    assert stages == ["pretraining"]
    assert measured("suppression", tmp_path).metrics == first
    measured("layer_balance", tmp_path)
    assert stages == ["pretraining"]
    measured("layer_balance", tmp_path, pretraining_steps=240)
    assert stages == ["pretraining"] * 2
    monkeypatch.setenv("ICLR_REPRO_CACHE", str(tmp_path / "two"))
    assert measured("suppression", tmp_path).metrics == first
    assert stages == ["pretraining"] * 3


def test_each_skill_has_its_tests_and_probes(tmp_path: Path) -> None:
    experiment: Any = build("suppression", SMOKE["suppression"])
    run = bare_run(tmp_path)
    pretrained = experiment.pretrained(run)
    assert {skill: len(samples) for skill, samples in pretrained.tests.items()} == {"fact": 64, "rev": 64}
    prompts = experiment.probe_prompts(run, pretrained, 5)
    assert sorted(prompt[1] for prompt in prompts) == sorted([TOKEN["FACT"], TOKEN["REV"]] * 5)
    probes = [prompt for prompt in experiment.probe_prompts(run, pretrained, 64) if prompt[1] == TOKEN["REV"]]
    assert sorted(probes) != sorted(pretrained.tests["rev"].prompts.tolist()), "drawn from a stream of their own"
    assert experiment.attributions(run, pretrained).shape == (32, 2, 32)


def test_stability_compares_disjoint_halves(tmp_path: Path) -> None:
    result = measured("stability", tmp_path)
    assert result.metrics["n"] == 32
    assert result.metrics["halves/distinct_prompts"] == 64
    assert result.metrics["halves/shared_prompts"] == 0
    assert result.metrics["attributions/varying"] == 1.0
    assert 0.0 <= result.metrics["halves/layer_balanced/overlap"] <= 1.0
    assert result.metrics["bootstrap/low"] <= result.metrics["bootstrap/overlap"] <= result.metrics["bootstrap/high"]


def test_halves_are_disjoint_and_filled_up_from_skills_with_more_prompts(tmp_path: Path) -> None:
    experiment: Any = build("stability", {**SMOKE["stability"], "half": 40})
    run = bare_run(tmp_path)
    halves = [[tuple(prompt) for prompt in half] for half in experiment.halves(run, experiment.pretrained(run))]
    different = [set(half) for half in halves]
    assert [len(half) for half in halves] == [len(half) for half in different] == [80, 80]
    assert not different[0] & different[1]
    facts = [sum(prompt[1] == TOKEN["FACT"] for prompt in half) for half in halves]
    assert facts == [16, 16], "of 32 facts"


def test_attributions_that_are_all_zero_do_not_count_as_stable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        SelectionStability, "attributions_of", lambda self, pretrained, prompts: np.zeros((len(prompts), 2, 32))
    )
    metrics = measured("stability", tmp_path).metrics
    assert metrics["halves/layer_balanced/overlap"] == metrics["nested/q10_in_q20"] == 1.0
    assert metrics["attributions/varying"] == 0.0
    found = judge(claims_of(claims), Results.from_metrics({"stability": {**metrics, "n": 1000}}), "cpu")
    verdicts = {one.claim.id: one.check.verdict for one in found}
    assert verdicts["C11"] == verdicts["C12"] == "not reproduced"


def test_layer_balance_counts_rows(tmp_path: Path) -> None:
    result = measured("layer_balance", tmp_path)
    counts = result.tables["rows_by_layer"]
    assert counts.sum().tolist() == [16, 16]
    assert np.allclose(np.diag(result.tables["overlap"]), 1.0)
    assert "random_like_global_low" in result.tables["suppressed"].index


def test_random_rows_like_others_are_as_many_in_each_layer() -> None:
    drawn = _random_like([[1, 2, 3], [], [0]], 5, np.random.default_rng(0))
    assert [len(set(rows)) for rows in drawn] == [3, 0, 1]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("retention", {"equal_rate": 0.5}, "equal_rate 0.5 is not in learning_rates"),
        ("retention", {"tuned": ["dora"]}, "tuned has 'dora', which is not in methods"),
        ("retention", {"methods": ["vera"]}, "methods: got ['vera'], expected one of full, lora"),
        ("suppression", {"quotas": [120]}, "quotas: got [120], expected >= 0.0 and <= 100.0 %"),
        ("implanting", {"task": "chat"}, "task: got 'chat', expected one of reranker, toolace"),
    ],
)
def test_bad_parameters_are_refused(name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build(name, {**SMOKE[name], **change})


# --- the paper's numbers ---------------------------------------------------------------------------------------------


def test_counts_of_the_paper() -> None:
    llama, qwen = SHAPES["Llama-3.1-8B-Instruct"], SHAPES["Qwen2.5-0.5B-Instruct"]
    assert [loki_parameters(llama, q) for q in (10, 20, 30)] == [187_629_568, 375_717_888, 563_347_456]
    assert [round(loki_parameters(qwen, q) / 1e6, 2) for q in (5, 10, 20, 30)] == [5.14, 10.39, 20.9, 31.29]
    assert loki_lora_parameters(llama, 30, 32) == 15_937_536


def test_two_averages_of_table_2_are_swapped() -> None:
    found = recomputed(TOOLACE)
    wrong = [name for name, (printed, average, _) in found.items() if abs(printed - average) > 0.01]
    assert wrong == ["LoKI q20", "LoKI q30"]
    assert round(found["LoKI q20"][1], 2) == found["LoKI q30"][0] == 1.23
    assert all(abs(printed - average) < 0.01 for printed, average, _ in recomputed(RERANKER).values())
    assert recomputed(RERANKER)["LoKI q30"][2] > 3.0, "without the gain on HellaSwag"


def test_tables_and_released_positions_measure(tmp_path: Path) -> None:
    assert measured("tables", tmp_path).metrics["table2/deviating"] == 2
    found = measured("released_positions", tmp_path, data="synthetic")
    assert found.data == "synthetic"
    assert found.metrics["llama/q10/right_size"] == 1.0
    assert found.metrics["llama/q10/adjacent_layers"] == pytest.approx(0.1, abs=0.01)


# --- scale paper -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_scale_paper_runs_on_a_local_model_and_data(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Model and dialogues from folders, own attribution, packing, bf16, benchmarks by a stand-in, a saved adapter."""
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
    config = Qwen2Config(**sizes, tie_word_embeddings=True) if family == "qwen2" else LlamaConfig(**sizes)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = []
    for number in range(40):
        messages = reranker_messages(f"query {number}", f"text {number}", 1 + number % 7)
        turns = [{"from": "human" if m["role"] == "user" else "gpt", "value": m["content"]} for m in messages[1:]]
        rows.append({"system": messages[0]["content"], "conversations": turns})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores = iter([{"gsm8k": 40.0, "ifeval": 20.0}, {"gsm8k": 38.0, "ifeval": 21.0}])
    monkeypatch.setattr(implanting, "benchmark_scores", lambda m, t, tasks, **options: next(scores) if tasks else {})
    change = {
        "data": "auto",
        "model": str(tmp_path / "model"),
        "dataset": str(tmp_path / "data"),
        "dtype": "bfloat16",
        "probes": 3,
        "kva_batch": 2,
        "kva_steps": 2,
        "samples": 30,
        "held_out": 5,
        "length": 64,
        "batch_size": 2,
        "accumulation": 2,
        "benchmarks": ["gsm8k", "ifeval"],
    }
    run = replace(bare_run(tmp_path), dir=tmp_path / "run")
    result = build("implanting", {**settings("paper")["implanting"], **change}).run(run)
    result.check()
    assert result.metrics["forgetting/average"] == pytest.approx(0.0)
    assert result.metrics["forgetting/clipped"] == pytest.approx(2.5)
    assert result.metrics["loss/after"] != result.metrics["loss/before"]
    for when in ("before", "after"):
        assert 0.0 <= result.metrics[f"reranker/accuracy/{when}"] <= 1.0
        assert -0.25 <= result.metrics[f"reranker/contrast/{when}"] <= 0.25
    positions = load_positions(run.dir / "positions.json")
    assert [len(rows) for rows in positions] == [9, 9]
    assert (run.dir / "adapter" / "adapter_model.safetensors").is_file()
    assert list((run.dir / "attributions").glob("batch*.npy"))
    again = build("implanting", {**SMOKE["implanting"], "positions": str(run.dir / "positions.json"), "quota": 30})
    assert again.run(replace(bare_run(tmp_path), dir=tmp_path / "again")).metrics["n"] == 4


def test_released_rows_of_another_model_are_not_to_be_had(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"no data file 'pos_json/tiny/25.json.gz'"):
        build("implanting", {**SMOKE["implanting"], "positions": "released", "quota": 25}).run(bare_run(tmp_path))


def test_benchmarks_need_the_harness() -> None:
    assert implanting.benchmark_scores(None, None, []) == {}
    with pytest.raises(ImportError, match=r"pip install 'iclr-repro\[benchmarks\]'"):
        implanting.benchmark_scores(None, None, ["gsm8k"])


def test_the_stated_metric_of_a_benchmark_counts() -> None:
    found = {"gsm8k": {"alias": "x", "exact_match,flexible-extract": 0.5, "exact_match,strict-match": 0.25}}
    assert implanting._metric_of(found, "gsm8k") == 0.25
    with pytest.raises(KeyError, match="hellaswag: lm-evaluation-harness gave no 'acc_norm,none' but acc,none"):
        implanting._metric_of({"hellaswag": {"acc,none": 0.5}}, "hellaswag")


@pytest.mark.parametrize("change", [{"packing": False, "length": 400}, {"lora_r": 2}, {"strategy": "random"}])
def test_other_ways_of_implanting_train(tmp_path: Path, change: dict[str, Any]) -> None:
    run = replace(bare_run(tmp_path), dir=tmp_path / "run")
    metrics = build("implanting", {**SMOKE["implanting"], **change}).run(run).metrics
    assert metrics["loss/after"] < metrics["loss/before"]
    if "lora_r" in change:
        assert metrics["parameters"] == 2 * 2 * (9 + 64)


def test_dialogues_without_an_answer_in_reach_are_named(tmp_path: Path) -> None:
    run = replace(bare_run(tmp_path), dir=tmp_path / "run")
    with pytest.raises(ValueError, match="no dialogue has an answer within 8 tokens: give a larger length"):
        build("implanting", {**SMOKE["implanting"], "packing": False, "length": 8}).run(run)


def test_a_model_that_has_learnt_nothing_has_nothing_to_forget(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"accuracy 0.3 or more at no skill .*pretrain for longer"):
        measured("layer_balance", tmp_path, pretraining_steps=1)


def test_memory_of_a_step_is_measured() -> None:
    """A copy of 1 MB that is freed at once counts in the peak, not in what is kept."""
    x = torch.randn(512, 512, requires_grad=True)

    def step() -> None:
        torch.empty(512, 512)
        torch.empty(2, 512, 512)

    assert exactness._peak_bytes(step) == 2 * 2**20
    linear = torch.nn.Linear(512, 512, bias=False)
    assert exactness._bytes_kept(linear, x) == 2**20, "the input; the layer's own weight does not count"


def test_tables_have_the_columns_of_the_figures(tmp_path: Path) -> None:
    table = measured("suppression", tmp_path).tables["suppression"]
    assert isinstance(table, pd.DataFrame)
    assert set(table.index.get_level_values("rows")) >= {"random", "abs_low", "global_high"}
