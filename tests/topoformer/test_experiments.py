"""What the experiments accept, how they measure, and the code path of scale paper on tiny local data."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pytest
import torch

from iclr_repro import command_line
from iclr_repro.core.experiment import build
from iclr_repro.topoformer import figures
from iclr_repro.topoformer.attention import SHEETS
from iclr_repro.topoformer.experiments._training import accuracy, sheets_of
from iclr_repro.topoformer.experiments.exactness import _bytes_kept
from iclr_repro.topoformer.experiments.sentiment import free_orders
from iclr_repro.topoformer.glue import GLUE_TASKS
from iclr_repro.topoformer.invariants import violations
from support import bare_run


def settings(scale: str) -> dict[str, Any]:
    found: dict[str, Any] = command_line.checked_settings(command_line.compose(["paper=topoformer", f"scale={scale}"]))[
        "experiments"
    ]
    return found


SMOKE = settings("smoke")


def test_sentiment_measures_trained_and_untrained_models(tmp_path: Path) -> None:
    result = build("sentiment", SMOKE["sentiment"]).run(bare_run(tmp_path))
    result.check()
    assert result.data == "synthetic"
    assert result.metrics["n"] == 200
    assert result.metrics["sqr/accuracy/n"] == 200
    assert {"untrained_sqr/t_g/query", "control/t_g/fc_out", "sqr/t_g_p/key"} <= result.metrics.keys()
    assert list(result.figures) == ["selectivity_maps", "principal_components", "t_g"]
    table = result.tables["t_g"]
    assert table.loc["sqr", "value"] == result.metrics["sqr/t_g/value"]


def test_the_same_seed_gives_the_same_numbers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    one = build("sentiment", SMOKE["sentiment"]).run(bare_run(tmp_path)).metrics
    torch.manual_seed(0)
    assert build("sentiment", SMOKE["sentiment"]).run(bare_run(tmp_path)).metrics == one


def test_variants_start_from_the_same_numbers_and_are_evaluated_once_a_text(tmp_path: Path) -> None:
    experiment: Any = build("sentiment", SMOKE["sentiment"])
    run = bare_run(tmp_path)
    corpus, _ = experiment.corpus(run)
    run = bare_run(tmp_path)
    first = experiment.model(run, corpus, {"sq": -1.0, "sr": -1.0})
    again = experiment.model(bare_run(tmp_path), corpus, {"sq": 0.2, "sr": -1.0})
    assert torch.equal(first.words.weight, again.words.weight)
    with torch.no_grad():
        right = (first.eval()(corpus.test_ids).argmax(dim=1) == corpus.test_labels).double().mean()
    assert accuracy(first, corpus) == pytest.approx(right.item())
    sheets = sheets_of(first, corpus.test_ids)
    assert sheets["key"].shape == (len(corpus.test_ids), 36)


def test_a_layout_is_measured_on_texts_that_it_has_not_seen(tmp_path: Path) -> None:
    result = build("posthoc", SMOKE["posthoc_layout"]).run(bare_run(tmp_path))
    assert result.metrics["n"] == 100
    assert "laid_out_control/t_g/query" in result.metrics
    assert "laid_out_control/t_g/fc_out" not in result.metrics


def test_queries_and_keys_are_laid_out_in_one_order() -> None:
    rng = np.random.default_rng(0)
    orders = free_orders({sheet: rng.normal(size=(30, 36)) for sheet in SHEETS}, rng=rng)
    assert set(orders) == {"query", "key", "value"}
    assert (orders["query"] == orders["key"]).all()
    assert not (orders["query"] == orders["value"]).all()


def test_bytes_kept_are_counted_once() -> None:
    x = torch.ones(10, requires_grad=True)
    assert _bytes_kept(lambda: (x * x).sum().backward()) == 40


@pytest.mark.parametrize(("num_units", "area_frac"), [(36, 0.2), (49, 0.1)])
def test_identities_hold_up_to_rounding(num_units: int, area_frac: float) -> None:
    found = violations(num_units, area_frac, num_examples=20, generator=torch.Generator().manual_seed(0))
    assert found.pop("i3_permutation_changes_scores") == 1.0
    assert max(found.values()) < 1e-10
    assert len(found) == 19


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def texts(number: int, seed: int) -> list[str]:
    words = np.random.default_rng(seed).integers(200, size=(number, 9))
    return [" ".join(f"w{word}" for word in row) for row in words]


def test_scale_paper_pretrains_and_fine_tunes_on_local_data(tmp_path: Path) -> None:
    """Streamed text, word pieces, the batch ramp, saved models, all eight GLUE tasks, then the suites on the models."""
    write_jsonl(tmp_path / "corpus" / "train.jsonl", [{"text": text} for text in texts(120, 0)])
    for name, task in GLUE_TASKS.items():
        for split in ("train", *task.evaluations):
            columns = {field: texts(18, 1) for field in task.fields}
            labels = [k % task.num_labels if task.num_labels > 1 else k / 3 for k in range(18)]
            rows = [{**{field: columns[field][k] for field in task.fields}, "label": labels[k]} for k in range(18)]
            write_jsonl(tmp_path / "glue" / name / f"{split}.json", rows)
    config = {
        **settings("paper")["masked_lm"],
        "corpora": [str(tmp_path / "corpus")],
        "glue": str(tmp_path / "glue"),
        "vocab_size": 60,
        "num_units": 16,
        "num_layers": 2,
        "intermediate_size": 32,
        "length": 8,
        "steps": 6,
        "micro_batch": 2,
        "final_batch": 4,
        "ramp_steps": 4,
        "pool_size": 5,
        "held_out": 20,
        "half_precision": False,
        "glue_epochs": 1,
        "tokenizer_texts": 100,
    }
    run = replace(bare_run(tmp_path), dir=tmp_path / "run")
    result = build("masked_lm", config).run(run)
    result.check()
    numbers = [result.metrics[f"sqr/glue/{n}"] for task in GLUE_TASKS.values() for n in task.evaluations.values()]
    assert len(numbers) == 9
    assert result.metrics["sqr/glue/mean"] == pytest.approx(sum(map(float, numbers)) / 9)
    assert np.isfinite(result.metrics["sqr/validation_loss"])
    suites = {
        **SMOKE["test_suites"],
        "checkpoints": {name: str(tmp_path / "run" / "models" / name) for name in ("sqr", "control")},
        "sheet": "layer1/key",
    }
    found = build("test_suites", suites).run(bare_run(tmp_path))
    assert "sqr/generated/layer1/key/accuracy" in found.metrics


def test_glue_needs_word_pieces(tmp_path: Path) -> None:
    config = {**SMOKE["masked_lm"], "glue": str(tmp_path)}
    with pytest.raises(
        ValueError, match="glue needs tokenization=wordpiece: the tasks' texts are read with its tokenizer"
    ):
        build("masked_lm", config).run(bare_run(tmp_path))


def test_texts_can_come_from_a_folder(tmp_path: Path) -> None:
    for split in ("train", "test"):
        rows = [{"text": text, "label": k % 2} for k, text in enumerate(texts(80, 3))]
        write_jsonl(tmp_path / f"{split}.jsonl", rows)
    config = {**SMOKE["receptive_field_sweep"], "data": "real", "source": str(tmp_path), "num_examples": 50}
    result = build("sweep", config).run(bare_run(tmp_path))
    assert result.data == "real"
    assert result.metrics["n"] == 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_units": 4}, "num_units: got 4, expected >= 9"),
        ({"data": "rael"}, "data: got 'rael', expected one of auto"),
    ],
)
def test_bad_parameters_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build("sentiment", {**SMOKE["sentiment"], **change})


def test_a_map_without_values_is_left_blank() -> None:
    made = figures.map_grid({"a": {"x": np.arange(9.0), "y": np.full(9, np.nan)}}, title="t")
    assert isinstance(made, matplotlib.figure.Figure)
    drawn = [len(ax.images) for ax in made.axes]
    assert drawn == [1, 0]
    limits = made.axes[0].images[0].get_clim()
    assert limits == (-8.0, 8.0), "symmetric, so that white is zero"
