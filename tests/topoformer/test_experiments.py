"""What the experiments accept, how they measure, and the code path of scale paper on tiny local data."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.figure
import numpy as np
import pytest
import torch

from iclr_repro import command_line
from iclr_repro.core.claims import Results, claims_of, judge
from iclr_repro.core.experiment import build
from iclr_repro.topoformer import TopoformerConfig, TopoformerForMaskedLM, claims, figures
from iclr_repro.topoformer.attention import SHEETS, TopographicSelfAttention
from iclr_repro.topoformer.claims import identities_hold
from iclr_repro.topoformer.data import load_splits
from iclr_repro.topoformer.experiments import masked_lm
from iclr_repro.topoformer.experiments._training import accuracy, sheets_of
from iclr_repro.topoformer.experiments.exactness import _bytes_kept
from iclr_repro.topoformer.experiments.sentiment import free_orders
from iclr_repro.topoformer.glue import GLUE_TASKS, wordpiece_tokenizer
from iclr_repro.topoformer.invariants import FLAGS, violations
from iclr_repro.topoformer.pretraining import Pretraining
from iclr_repro.topoformer.text import BOS, MASK
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
    assert {"untrained_sqr/moran_selectivity/query", "sqr/moran_selectivity_p/query"} <= result.metrics.keys()
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
    assert [found.pop(name) for name in FLAGS] == [1.0, 1.0]
    assert found.pop("i6_mean_of_permutations") < 0.02
    assert 0.005 < found.pop("i6_deviation_of_permutations") < 0.025
    assert max(found.values()) < 1e-10
    assert len(found) == 21


def test_scores_that_depend_on_a_place_violate_the_gauge(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = TopographicSelfAttention.scores
    monkeypatch.setattr(
        TopographicSelfAttention, "scores", lambda self, x: genuine(self, x) + self.key(x)[:, None, None, :, 0]
    )
    found = violations(36, 0.2, num_examples=20, generator=torch.Generator().manual_seed(0))
    assert found["i3_permutation_of_control"] > 1e-5
    assert found["i4_scores"] > 1e-5


def test_no_identity_holds_for_nan() -> None:
    names = violations(36, 0.2, num_examples=20, generator=torch.Generator().manual_seed(0))
    judged = identities_hold.check(Results.from_metrics({"identities": dict.fromkeys(names, float("nan"))}))
    assert {part.verdict for part in judged.parts} == {"not reproduced"}
    assert len(judged.parts) == 25


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def texts(number: int, seed: int) -> list[str]:
    words = np.random.default_rng(seed).integers(200, size=(number, 9))
    return [" ".join(f"w{word}" for word in row) for row in words]


def test_scale_paper_pretrains_and_fine_tunes_on_local_data(tmp_path: Path) -> None:
    """Streamed text, word pieces, the batch ramp, saved models, all eight GLUE tasks, then the suites on the models."""
    corpora = [str(tmp_path / name) for name in ("books", "articles")]
    for corpus, number in zip(corpora, (100, 20), strict=True):
        write_jsonl(Path(corpus) / "train.jsonl", [{"text": text} for text in texts(number, number)])
    for name, task in GLUE_TASKS.items():
        for split in ("train", *task.evaluations):
            columns = {field: texts(18, 1) for field in task.fields}
            labels = [k % task.num_labels if task.num_labels > 1 else k / 3 for k in range(18)]
            rows = [{**{field: columns[field][k] for field in task.fields}, "label": labels[k]} for k in range(18)]
            write_jsonl(tmp_path / "glue" / name / f"{split}.json", rows)
    config = {
        **settings("paper")["masked_lm"],
        "corpora": corpora,
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
    results = {"masked_lm": result.metrics}
    saved = {
        "checkpoints": {name: str(tmp_path / "run" / "models" / name) for name in ("sqr", "control")},
        "sheet": "layer1/key",
    }
    for name in ("test_suites", "brain_alignment"):
        results[name] = build(name, {**SMOKE[name], **saved}).run(bare_run(tmp_path)).metrics
    suites = results["test_suites"]
    by_layer = [suites[f"sqr/mean_moran/layer{layer}/query"] for layer in (0, 1)]
    assert suites["sqr/mean_moran/query"] == pytest.approx(sum(map(float, by_layer)) / 2)
    assert suites["untrained_sqr/mean_moran/query"] != suites["sqr/mean_moran/query"]
    assert "sqr/generated/layer1/key/accuracy" in suites
    assert "real/untrained_sqr/r1" in results["brain_alignment"]
    # The claims of this scale find what they are about.
    judged = {one.claim.id: one.check for one in judge(claims_of(claims), Results.from_metrics(results), "paper")}
    for claim in ("T6p", "T7", "T7p", "T9r", "T10"):
        assert judged[claim].verdict != "not run", judged[claim].note


@pytest.mark.parametrize("experiment", ["test_suites", "brain_alignment"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sheet": "layer1/key"}, "sheet: got 'layer1/key', but the models have query, key, value, fc_out: choose one"),
        (
            {"checkpoints": {"control": "x"}},
            "checkpoints: got control, expected one that is named sqr: untrained, it is",
        ),
    ],
)
def test_models_and_sheets_that_are_not_there_are_named(
    experiment: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build(experiment, {**SMOKE[experiment], **change}).run(bare_run(tmp_path))


def test_a_sheet_without_layer_is_refused_for_saved_models(tmp_path: Path) -> None:
    tokenizer = wordpiece_tokenizer(texts(60, 0), 60)
    small = TopoformerConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, intermediate_size=8, max_position_embeddings=8
    )
    for part in (TopoformerForMaskedLM(small), tokenizer):
        part.save_pretrained(tmp_path)
    config = {**SMOKE["test_suites"], "checkpoints": {"sqr": str(tmp_path)}}
    message = (
        "sheet: got 'query', but the models have layer0/query, layer0/key, layer0/value, layer0/fc_out: choose one"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        build("test_suites", config).run(bare_run(tmp_path))


def test_corpora_are_mixed_in_proportion_to_their_sizes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_jsonl(tmp_path / name / "train.jsonl", [{"text": f"{name}{k}"} for k in range(400)])
    config = {**SMOKE["masked_lm"], "corpora": [str(tmp_path / "a"), str(tmp_path / "b")], "held_out": 10}
    experiment: Any = build("masked_lm", {**config, "corpus_documents": [900, 100]})
    documents, held_out, kind = experiment._documents(bare_run(tmp_path))
    assert kind == "real"
    read = [document["text"] for document in documents.take(300)]
    assert sum(text.startswith("a") for text in read) / 300 == pytest.approx(0.9, abs=0.05)
    assert not set(read) & set(held_out)
    with pytest.raises(
        ValueError, match="corpus_documents: got 1 sizes for 2 corpora, expected the number of documents"
    ):
        build("masked_lm", {**config, "corpus_documents": [900]})


def test_models_that_are_compared_read_the_same_masked_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[list[torch.Tensor]] = []
    genuine, start = Pretraining._backward, Pretraining.__init__

    def starting(self: Pretraining, model: Any, *args: Any, **options: Any) -> None:
        read.append([])
        model.register_forward_pre_hook(lambda _, inputs: read[-1].append(inputs[0]) if model.training else None)
        start(self, model, *args, **options)

    monkeypatch.setattr(Pretraining, "__init__", starting)
    build("masked_lm", {**SMOKE["masked_lm"], "steps": 4}).run(bare_run(tmp_path))
    assert genuine is Pretraining._backward
    one, other = (torch.cat(batches) for batches in read)
    assert torch.equal(one, other)
    assert (one == MASK).any()


def test_glue_texts_can_be_attended_with_their_padding(
    unchecked: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the authors' code: the option reaches the model that is fine-tuned."""
    tokenizer = wordpiece_tokenizer(texts(60, 0), 60)
    rows = [{"sentence": text, "label": k % 2} for k, text in enumerate(texts(16, 1))]
    for split in ("train", "validation"):
        write_jsonl(tmp_path / "sst2" / f"{split}.json", rows)
    seen: list[bool] = []
    monkeypatch.setattr(masked_lm, "_fine_tune", lambda run, model, *_, **__: seen.append(model.config.mask_padding))
    model = TopoformerForMaskedLM(
        TopoformerConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, intermediate_size=8)
    )
    for value in (True, False):
        config = {**SMOKE["masked_lm"], "glue": str(tmp_path), "glue_tasks": ["sst2"], "glue_mask_padding": value}
        experiment: Any = build("masked_lm", config)
        text = SimpleNamespace(tokenizer=tokenizer)
        assert set(experiment._fine_tuned(bare_run(tmp_path), text, model, "sqr")) == {"sst2", "mean"}
    assert seen == [True, False]


def test_glue_needs_word_pieces(tmp_path: Path) -> None:
    config = {**SMOKE["masked_lm"], "glue": str(tmp_path)}
    with pytest.raises(
        ValueError, match="glue needs tokenization=wordpiece: the tasks' texts are read with its tokenizer"
    ):
        build("masked_lm", config).run(bare_run(tmp_path))


def test_scale_paper_trains_the_sentiment_model_on_local_data(tmp_path: Path) -> None:
    """Texts sorted by label, as IMDB's: cut balanced, the vocabulary from those that are trained on alone."""
    for split in ("train", "test"):
        rows = [{"text": text, "label": int(k >= 40)} for k, text in enumerate(texts(80, 3))]
        write_jsonl(tmp_path / f"{split}.jsonl", rows)
    config = {**settings("paper")["sentiment"], "source": str(tmp_path), "num_train": 60, "num_units": 36}
    config |= {"length": 12, "min_frequency": 1, "epochs": 1, "batch_size": 20, "num_examples": 50, "permutations": 3}
    experiment: Any = build("sentiment", config)
    result = experiment.run(bare_run(tmp_path))
    result.check()
    assert result.data == "real"
    assert result.metrics["n"] == 50
    corpus, _ = experiment.corpus(bare_run(tmp_path))
    assert corpus.train_labels.bincount().tolist() == [30, 30]
    assert corpus.test_labels[:50].bincount().tolist() == [25, 25]
    assert (corpus.train_ids[:, 0] == BOS).all()
    words = {word for text in load_splits(str(tmp_path)).train_texts[:60] for word in text.split()}
    assert set(corpus.vocabulary.words[5:]) == words


def test_unknown_sources_of_text_are_named(tmp_path: Path) -> None:
    config = {**SMOKE["receptive_field_sweep"], "data": "real", "source": str(tmp_path / "none")}
    with pytest.raises(FileNotFoundError, match="none"):
        build("sweep", config).run(bare_run(tmp_path))


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
