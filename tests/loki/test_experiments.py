"""What the experiments in TinyWorld and on the paper's tables measure, and what all experiments refuse."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from iclr_repro import command_line
from iclr_repro.core.claims import Results, claims_of, judge
from iclr_repro.core.experiment import build
from iclr_repro.core.loop import Loop
from iclr_repro.loki import claims
from iclr_repro.loki.experiments import SelectionStability, exactness
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
    changes = {"methods": ["full", "loki"], "learning_rates": [3e-3, 1e-2], "matched_accuracy": 0.05}
    result = measured("retention", tmp_path, **changes, forgetting_every=20)
    equal, matched, every = (result.tables[name] for name in ("equal_rate", "matched_accuracy", "checkpoints"))
    assert list(equal.index) == ["full", "loki"]
    assert result.metrics["equal/loki/forgetting"] == equal.loc["loki", "forgetting"]
    assert list(matched.index) == ["full", "loki"]
    assert set(every["learning_rate"]) == {3e-3, 1e-2}
    of_full = every.loc["full"]
    good = of_full[of_full["accuracy"] >= 0.05].groupby("learning_rate").first()
    assert result.metrics["matched/full/forgetting"] == good["forgetting"].min()
    assert result.metrics["matched/full/rate"] in (3e-3, 1e-2)
    assert result.metrics["loki/parameters"] == 2 * 8 * 96
    assert result.data == "synthetic"
    assert set(result.figures) == {"pareto", "learning"}


def test_skills_are_measured_where_the_target_is_first_learnt(tmp_path: Path) -> None:
    changes = {"methods": ["full"], "matched_accuracy": 0.05, "evaluate_every": 4, "steps": 40}
    dense, sparse = (
        measured("retention", tmp_path, **changes, forgetting_every=every).tables["checkpoints"] for every in (4, 40)
    )
    first = dense[dense["accuracy"] >= 0.05]["step"].iloc[0]
    assert first < 40
    assert first in list(sparse["step"])
    assert len(sparse) <= 3
    both = sparse.merge(dense, on="step", suffixes=("", "_dense"))
    assert (both["forgetting"] == both["forgetting_dense"]).all(), "measuring changes nothing"


def test_a_method_that_is_never_good_is_listed_as_such(tmp_path: Path) -> None:
    result = measured("retention", tmp_path, matched_accuracy=1.0, methods=["loki"], steps=2)
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
        ("retention", {"methods": ["vera"]}, "methods: got ['vera'], expected one of full, lora"),
        ("suppression", {"quotas": [120]}, "quotas: got [120], expected >= 0.0 and <= 100.0 %"),
        ("implanting", {"methods": []}, "methods: got [], expected at least one"),
        ("implanting", {"bfcl": ["simple"]}, "bfcl ['simple'] measures task toolace, not reranker"),
        ("implanting", {"task": "toolace", "beir": "x"}, "beir 'x' measures task reranker, not toolace"),
        ("implanting", {"equal_rate": 0.5}, "equal_rate 0.5 is not in learning_rates [0.003]"),
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
