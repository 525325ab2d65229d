"""Masked-language-model pre-training of Topoformer and control, and GLUE fine-tuning (T7, T10; sheet 4.2, 4.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, get_cosine_schedule_with_warmup

from iclr_repro.core.batches import ResumableBatches
from iclr_repro.core.data import DATA_CHOICE, DataChoice, real_or_synthetic
from iclr_repro.core.experiment import DataKind, Result, parameter
from iclr_repro.core.footprint import Network, example
from iclr_repro.core.loop import History
from iclr_repro.core.rundir import Run
from iclr_repro.core.supervised import Supervised
from iclr_repro.topoformer import figures
from iclr_repro.topoformer.attention import SHEETS
from iclr_repro.topoformer.data import load_imdb, synthetic_sentiment
from iclr_repro.topoformer.experiments._training import Options, Sheets, seeded
from iclr_repro.topoformer.glue import GLUE_TASKS, GlueTask, glue_metric, wordpiece_tokenizer
from iclr_repro.topoformer.maps import morans_i, pca_maps
from iclr_repro.topoformer.masked_lm import TopoformerConfig, TopoformerForMaskedLM, TopoformerForSequenceClassification
from iclr_repro.topoformer.pretraining import Pretraining, Recipe, SegmentStream
from iclr_repro.topoformer.statistic import topographic_statistic
from iclr_repro.topoformer.text import EOS, IGNORED, MASK, PAD, SPECIALS, Vocabulary, mask_tokens, pack

_GLUE_BATCH, _GLUE_RATE, _GLUE_WARM_UP = 16, 4e-5, 0.1  # sheet 4.3
_EVALUATION_BATCH = 100
_COUNTED_DOCUMENTS = 5000


@dataclass(frozen=True, eq=False)
class Text:
    """Text to train on, a place for text that is held out, and how it becomes ids."""

    documents: datasets.IterableDataset
    held_out: Sequence[str]
    ids: Callable[[str], Sequence[int]]
    vocab_size: int
    padding: int
    separator: int
    mask: int
    special: Sequence[int]
    tokenizer: PreTrainedTokenizerFast | None


@dataclass(frozen=True, kw_only=True)
class MaskedLanguageModel:
    """Pre-train each variant, measure its loss on held-out segments, its topography by layer, and GLUE."""

    data: DataChoice = parameter(DATA_CHOICE)
    corpora: tuple[str, ...] = parameter("[imdb] (shipped), or `datasets` names (name:configuration) or folders")
    corpus_documents: tuple[int, ...] = parameter("size of each corpus, in proportion to which they are mixed", low=1)
    max_segments: int | None = parameter("of an epoch; null: all that the corpora give", low=1)
    tokenization: Literal["words", "wordpiece"] = parameter("of texts")
    tokenizer_texts: int = parameter("texts that the vocabulary is learnt from", low=1)
    vocab_size: int = parameter("words or pieces at most", low=10)
    variants: dict[str, Options] = parameter("name -> options of TopoformerConfig")
    num_units: int = parameter("d, a perfect square", low=9)
    num_layers: int = parameter("blocks", low=1)
    intermediate_size: int = parameter("width of the gated feed-forward layer, even", low=2)
    length: int = parameter("tokens of a segment", low=4)
    steps: int = parameter("micro-batches", low=1)
    budget_hours: float | None = parameter("of the rate's triangle and the training; null: `steps`", low=0.0, unit="h")
    learning_rate: float = parameter("highest", low=0.0)
    micro_batch: int = parameter("segments", low=1)
    final_batch: int = parameter("segments of an update at the end of the ramp", low=1)
    ramp_steps: int = parameter("micro-batches until then; 0: no ramp", low=0)
    clip_norm: float = parameter("largest norm of a gradient", low=0.0)
    half_precision: bool = parameter("fp16, on a GPU")
    pool_size: int = parameter("segments that are shuffled", low=1)
    held_out: int = parameter("segments that loss and t_g are measured on", low=10)
    glue: str | None = parameter("`datasets` name, or folder with <task>/<split>.json; null: no fine-tuning")
    glue_tasks: tuple[str, ...] = parameter("tasks", choices=tuple(GLUE_TASKS))
    glue_epochs: int = parameter("of each task; the authors: 5", low=1)
    glue_mask_padding: bool = parameter("do not attend to the padding of a task's texts; the authors do")

    def __post_init__(self) -> None:
        """Refuse sizes that belong to no corpus.

        Raises:
            ValueError: there are more or fewer sizes than corpora.
        """
        if len(self.corpus_documents) != len(self.corpora):
            raise ValueError(
                f"corpus_documents: got {len(self.corpus_documents)} sizes for {len(self.corpora)} corpora, expected"
                " the number of documents of each"
            )

    def run(self, run: Run) -> Result:
        """Measure, train, measure again, fine-tune; models are saved in the run's folder under models/."""
        text, kind = self._text(run)
        documents = (list(text.ids(document)) for document in text.held_out)
        held_out = pack(documents, self.length, separator=text.separator)[: self.held_out]
        read, labels = mask_tokens(
            held_out,
            mask_id=text.mask,
            vocab_size=text.vocab_size,
            special_ids=text.special,
            generator=run.torch_rng("held-out masks"),
        )
        targets = labels[labels != IGNORED]
        metrics: dict[str, float] = {"n": len(held_out), "predictions/n": len(targets)}
        metrics["unigram_loss"] = _unigram_loss(text, targets)
        curves = {}
        rows: dict[tuple[str, int], dict[str, float]] = {}
        components: dict[str, dict[str, np.ndarray]] = {}
        for name, options in self.variants.items():
            model = self._untrained(run, text, options)
            states = {f"untrained_{name}": _measured(model, held_out, read, labels)}
            history = self._pretrain(run, text, name, model)
            states[name] = _measured(model, held_out, read, labels)
            for state, (found, by_layer, weights) in states.items():
                metrics |= {f"{state}/{quantity}": value for quantity, value in found.items()}
                rows |= {(state, layer): t_g for layer, t_g in enumerate(by_layer)}
                components[state] = {f"layer {layer}": component for layer, component in enumerate(weights)}
            curves[name] = (history.steps("loss"), history.values("loss"))
            metrics[f"{name}/train_loss"] = float(history.values("loss")[-50:].mean())
            if text.tokenizer is not None:
                model.save_pretrained(run.dir / "models" / name)
                text.tokenizer.save_pretrained(run.dir / "models" / name)
            if self.glue is not None:
                numbers = self._fine_tuned(run, text, model, name)
                metrics |= {f"{name}/glue/{task}": value for task, value in numbers.items()}
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(index=["model", "layer"])
        made = {
            "layers": figures.statistic_by_layer(table),
            "loss": figures.loss_curves(curves),
            "key_components": figures.map_grid(components, title="first principal component of the keys of each layer"),
        }
        return Result(metrics=metrics, tables={"t_g": table}, figures=made, data=kind)

    def networks(self) -> Iterator[Network]:
        """Describe each variant in pre-training and on the first task of GLUE; the others differ in the last layer."""
        ids = {"input_ids": example(self.micro_batch, self.length, dtype=torch.int64)}
        note = f"with {self.vocab_size} words, the most there may be"
        half = "; in float32, fp16 needs less" if self.half_precision else ""
        for name, options in self.variants.items():
            model = partial(self._model, self.vocab_size, PAD, options)
            yield Network(name=name, build=model, inputs=ids, note=note + half)
            if self.glue is not None:
                task = GLUE_TASKS[self.glue_tasks[0]]
                yield Network(
                    name=f"{name}, GLUE",
                    build=lambda model=model, task=task: TopoformerForSequenceClassification(  # type: ignore[misc]
                        self._glue_config(model().config, task)
                    ),
                    inputs={
                        name: example(_GLUE_BATCH, self.length, dtype=torch.int64)
                        for name in ("input_ids", "attention_mask")
                    },
                    note=note,
                )

    def _text(self, run: Run) -> tuple[Text, DataKind]:
        documents, held_out, kind = self._documents(run)
        head = [document["text"] for document in documents.take(self.tokenizer_texts)]
        if self.tokenization == "words":
            words = Vocabulary.from_texts(head, max_size=self.vocab_size)
            special = range(len(SPECIALS))
            return Text(documents, held_out, words.ids, len(words), PAD, EOS, MASK, special, None), kind
        pieces = wordpiece_tokenizer(head, self.vocab_size)

        def ids(text: str) -> list[int]:
            found: list[int] = pieces(text, add_special_tokens=False)["input_ids"]
            return found

        pad, sep, mask = pieces.pad_token_id, pieces.sep_token_id, pieces.mask_token_id
        return Text(documents, held_out, ids, len(pieces), pad, sep, mask, pieces.all_special_ids, pieces), kind

    def _documents(self, run: Run) -> tuple[datasets.IterableDataset, Sequence[str], DataKind]:
        if self.corpora == ("imdb",):
            texts, kind = real_or_synthetic(
                self.data, load_imdb, lambda: synthetic_sentiment(400, 100, rng=run.rng("texts"))
            )
            stream = datasets.Dataset.from_dict({"text": list(texts.train_texts)}).to_iterable_dataset()
            return stream, texts.test_texts, kind
        streams = []
        for corpus in self.corpora:
            name, _, configuration = corpus.partition(":")
            part = datasets.load_dataset(name, configuration or None, split="train", streaming=True)
            streams.append(part.select_columns(["text"]))
        shares = np.array(self.corpus_documents) / sum(self.corpus_documents)
        joined = datasets.interleave_datasets(
            streams, probabilities=shares.tolist(), seed=run.seed, stopping_strategy="all_exhausted"
        )
        shuffled = joined.shuffle(seed=run.seed, buffer_size=self.pool_size)
        held_out = list(_filling(shuffled, self.held_out * self.length))
        return shuffled.skip(len(held_out)), held_out, "real"

    def _untrained(self, run: Run, text: Text, options: Mapping[str, Any]) -> TopoformerForMaskedLM:
        with seeded(run):
            return self._model(text.vocab_size, text.padding, options).to(run.device).eval()

    def _model(self, vocab_size: int, padding: int, options: Mapping[str, Any]) -> TopoformerForMaskedLM:
        """Build a model whose weights are drawn from torch's global generator."""
        config = TopoformerConfig(
            vocab_size=vocab_size,
            hidden_size=self.num_units,
            num_hidden_layers=self.num_layers,
            intermediate_size=self.intermediate_size,
            max_position_embeddings=self.length,
            hidden_dropout_prob=0.0,
            pad_token_id=padding,
            **options,
        )
        return TopoformerForMaskedLM(config)

    def _pretrain(self, run: Run, text: Text, name: str, model: TopoformerForMaskedLM) -> History:
        """Train a model in place."""
        recipe = Recipe(
            learning_rate=self.learning_rate,
            steps=self.steps,
            budget_s=None if self.budget_hours is None else 3600 * self.budget_hours,
            micro_batch=self.micro_batch,
            final_batch=self.final_batch,
            ramp_steps=self.ramp_steps,
            clip_norm=self.clip_norm,
            half_precision=self.half_precision,
        )
        stream = SegmentStream(
            text.documents,
            text.ids,
            length=self.length,
            separator=text.separator,
            pool_size=self.pool_size,
            seed=run.seed,
            max_segments=self.max_segments,
        )
        masks = torch.Generator().manual_seed(run.torch_rng("masks").initial_seed())  # the same for every variant
        learner = Pretraining(model, stream, recipe, mask_id=text.mask, special_ids=text.special, generator=masks)
        updates = recipe.num_updates()
        history = run.fit(
            learner,
            updates,
            name=name,
            evaluate=lambda: {"progress": learner.progress},
            eval_every=min(50, updates),
            stop=lambda _: learner.progress >= 1.0,
        )
        model.eval()
        return history

    def _fine_tuned(self, run: Run, text: Text, model: TopoformerForMaskedLM, name: str) -> dict[str, float]:
        """Return the numbers of GLUE and their mean, from the pre-trained weights anew for each task."""
        if text.tokenizer is None or self.glue is None:
            raise ValueError("glue needs tokenization=wordpiece: the tasks' texts are read with its tokenizer")
        found = {}
        for task_name in self.glue_tasks:
            task = GLUE_TASKS[task_name]
            with seeded(run):
                classifier = TopoformerForSequenceClassification(self._glue_config(model.config, task))
            classifier.topoformer.load_state_dict(model.topoformer.state_dict())
            _fine_tune(
                run,
                classifier.to(run.device),
                _glue_rows(self.glue, task_name, "train", task, text.tokenizer, self.length),
                epochs=self.glue_epochs,
                name=f"{name}_{task_name}",
            )
            for split, number in task.evaluations.items():
                rows = _glue_rows(self.glue, task_name, split, task, text.tokenizer, self.length)
                found[number] = _glue_score(classifier, rows, task)
        return {**found, "mean": float(np.mean(list(found.values())))}

    def _glue_config(self, config: TopoformerConfig, task: GlueTask) -> TopoformerConfig:
        changed = {
            "num_labels": task.num_labels,
            "hidden_dropout_prob": 0.1,
            "mask_padding": self.glue_mask_padding,
        }
        kept = {name: value for name, value in config.to_dict().items() if name not in ("id2label", "label2id")}
        made: TopoformerConfig = TopoformerConfig.from_dict({**kept, **changed})
        return made


def _filling(documents: datasets.IterableDataset, num_words: int) -> Iterator[str]:
    """Yield the first documents that hold so many words: at least as many tokens, since a word is one or more."""
    found = 0
    for document in documents:
        if found >= num_words:
            return
        found += len(document["text"].split())
        yield document["text"]


GlueRow = tuple[Tensor, Tensor, Tensor]


def _glue_rows(
    source: str, name: str, split: str, task: GlueTask, tokenizer: PreTrainedTokenizerFast, length: int
) -> list[GlueRow]:
    """Load a split of a task: ids, attention mask and label of each example."""
    if Path(source).is_dir():
        rows = datasets.load_dataset("json", data_files=str(Path(source) / name / f"{split}.json"), split="train")
    else:
        rows = datasets.load_dataset(source, name, split=split)
    texts = [list(rows[field]) for field in task.fields]
    encoded = tokenizer(*texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    labels = torch.tensor(list(rows["label"]))
    return list(zip(encoded["input_ids"], encoded["attention_mask"], labels, strict=True))


def _fine_tune(
    run: Run, model: TopoformerForSequenceClassification, rows: list[GlueRow], *, epochs: int, name: str
) -> None:
    batches = ResumableBatches(rows, min(_GLUE_BATCH, len(rows)), seed=run.seed)
    steps = epochs * max(len(rows) // _GLUE_BATCH, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_GLUE_RATE, weight_decay=0.0)
    scheduler = get_cosine_schedule_with_warmup(optimizer, int(_GLUE_WARM_UP * steps), steps)

    def loss(model: torch.nn.Module, batch: Sequence[Tensor]) -> Tensor:
        found: Tensor = model(batch[0], attention_mask=batch[1], labels=batch[2]).loss
        return found

    model.train()
    learner = Supervised(model, loss, optimizer, batches, device=run.device, scheduler=scheduler)
    run.fit(learner, steps, name=name, log_every=50)


@torch.no_grad()
def _glue_score(model: TopoformerForSequenceClassification, rows: list[GlueRow], task: GlueTask) -> float:
    model.eval()
    ids, masks, labels = (torch.stack(column) for column in zip(*rows, strict=True))
    logits = torch.cat(
        [
            model(part.to(model.device), attention_mask=mask.to(model.device)).logits.cpu()
            for part, mask in zip(ids.split(_EVALUATION_BATCH), masks.split(_EVALUATION_BATCH), strict=True)
        ]
    )
    predictions = logits[:, 0] if task.num_labels == 1 else logits.argmax(dim=1)
    return glue_metric(task.metric, predictions.numpy(), labels.numpy())


def _measured(
    model: TopoformerForMaskedLM, segments: Tensor, read: Tensor, labels: Tensor
) -> tuple[dict[str, float], list[dict[str, float]], list[np.ndarray]]:
    """Return loss, t_g and clustering as metrics, t_g of the sheets of each layer, and its keys' first component."""
    metrics = {"validation_loss": _loss(model, read, labels)}
    by_layer, components = [], []
    for layer, sheets in enumerate(_sheets_by_layer(model, segments)):
        found = {sheet: topographic_statistic(activations).mean for sheet, activations in sheets.items()}
        (weights,) = pca_maps(sheets["key"], 1).weights
        metrics |= {f"layer{layer}/t_g/{sheet}": value for sheet, value in found.items()}
        metrics[f"layer{layer}/moran_pc1/key"] = float(morans_i(weights))
        by_layer.append(found)
        components.append(weights)
    metrics |= {f"t_g/{sheet}": float(np.mean([found[sheet] for found in by_layer])) for sheet in SHEETS}
    return metrics, by_layer, components


@torch.no_grad()
def _loss(model: TopoformerForMaskedLM, read: Tensor, labels: Tensor) -> float:
    """The mean loss in nats over all chosen positions of the held-out segments."""
    total, number = 0.0, 0
    for ids, wanted in zip(read.split(_EVALUATION_BATCH), labels.split(_EVALUATION_BATCH), strict=True):
        chosen = int((wanted != IGNORED).sum())
        total += float(model(ids.to(model.device), labels=wanted.to(model.device)).loss) * chosen
        number += chosen
    return total / number


@torch.no_grad()
def _sheets_by_layer(model: TopoformerForMaskedLM, segments: Tensor) -> list[Sheets]:
    """The token means [N, D] of each layer's sheets, over held-out segments without masks."""
    parts: list[dict[str, list[np.ndarray]]] = [{} for _ in range(model.config.num_hidden_layers)]
    for ids in segments.split(_EVALUATION_BATCH):
        for found, sheets in zip(parts, model.sheets(ids.to(model.device)), strict=True):
            for sheet, x_BTD in sheets.items():
                found.setdefault(sheet, []).append(x_BTD.mean(dim=1).double().cpu().numpy())
    return [{sheet: np.concatenate(arrays) for sheet, arrays in found.items()} for found in parts]


def _unigram_loss(text: Text, targets: Tensor) -> float:
    """The loss in nats of the words' frequencies in the training texts: what a model without context can reach.

    Special tokens, unknown words among them, are never predicted: they have no share.
    """
    counts = torch.ones(text.vocab_size, dtype=torch.float64)  # one each, so that none is impossible
    for document in text.documents.take(_COUNTED_DOCUMENTS):
        counts += torch.bincount(torch.tensor(text.ids(document["text"]), dtype=torch.int64), minlength=len(counts))
    counts[list(text.special)] = 0.0
    return float(-(counts / counts.sum()).log()[targets].mean())
