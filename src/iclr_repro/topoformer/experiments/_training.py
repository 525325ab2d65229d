"""What the experiments on the one-layer model share: texts, training, and the activations of its sheets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from iclr_repro.core.batches import ResumableBatches
from iclr_repro.core.data import DATA_CHOICE, DataChoice, real_or_synthetic
from iclr_repro.core.experiment import DataKind, parameter
from iclr_repro.core.footprint import Network, example
from iclr_repro.core.rundir import Run
from iclr_repro.core.supervised import Supervised
from iclr_repro.topoformer.attention import SHEETS, TopographicSelfAttention
from iclr_repro.topoformer.classifier import TopoformerClassifier, token_mean
from iclr_repro.topoformer.data import (
    LabelledTexts,
    load_imdb,
    load_rotten_tomatoes,
    load_splits,
    load_sst2,
    synthetic_sentiment,
)
from iclr_repro.topoformer.text import PAD, SPECIALS, Vocabulary

_EVALUATION_BATCH = 500
Sheets = dict[str, np.ndarray]
Options = dict[str, int | float | bool | str]


@dataclass(frozen=True, eq=False)
class Corpus:
    """Encoded texts: ids [N, T] and labels [N] for training and test."""

    vocabulary: Vocabulary
    train_ids: Tensor
    train_labels: Tensor
    test_ids: Tensor
    test_labels: Tensor


@dataclass(frozen=True, kw_only=True)
class OfSentiment:
    """The fields of experiments that train the one-layer model, and how they train it (sheet 2.6, 4.1)."""

    data: DataChoice = parameter(DATA_CHOICE)
    source: str = parameter("real texts: rotten_tomatoes, sst2, imdb (shipped), or a `datasets` name or folder")
    num_train: int | None = parameter("training texts, which also make the vocabulary; null: all", low=2)
    num_units: int = parameter("d, a perfect square", low=9)
    length: int = parameter("tokens of a text", low=2)
    min_frequency: int = parameter("occurrences in the training texts that a word of the vocabulary needs", low=1)
    overwrite_ends: bool = parameter("bos and eos in place of the first and last word (pitfall P10)")
    mask_padding: bool = parameter("neither attend to padding nor average it (pitfall P3)")
    ff_multiplier: int = parameter("width of the feed-forward layer over d", low=1)
    dropout: float = parameter("probability", low=0.0, high=0.9)
    epochs: int = parameter("passes over the training texts", low=1)
    batch_size: int = parameter("texts of an update", low=1)
    learning_rate: float = parameter("of AdamW", low=0.0)
    clip_norm: float = parameter("largest norm of a gradient", low=0.0)

    def corpus(self, run: Run) -> tuple[Corpus, DataKind]:
        """Load or generate the texts and encode them."""
        texts, kind = real_or_synthetic(
            self.data, lambda: _real_texts(self.source), lambda: synthetic_sentiment(600, 200, rng=run.rng("texts"))
        )
        train_texts, train_labels = texts.train_texts[: self.num_train], texts.train_labels[: self.num_train]
        vocabulary = Vocabulary.from_texts(train_texts, min_frequency=self.min_frequency)
        train_ids, test_ids = (
            vocabulary.encode(part, self.length, overwrite_ends=self.overwrite_ends)
            for part in (train_texts, texts.test_texts)
        )
        labels = torch.from_numpy(train_labels), torch.from_numpy(texts.test_labels)
        return Corpus(vocabulary, train_ids, labels[0], test_ids, labels[1]), kind

    def model(self, run: Run, corpus: Corpus, variant: Mapping[str, Any]) -> TopoformerClassifier:
        """Build an untrained model; all variants of a seed start from the same random numbers."""
        with seeded(run):
            return self.classifier(variant, len(corpus.vocabulary)).to(run.device)

    def classifier(self, variant: Mapping[str, Any], vocab_size: int) -> TopoformerClassifier:
        """Build a model whose weights are drawn from torch's global generator."""
        return TopoformerClassifier(
            TopographicSelfAttention(self.num_units, **variant),
            vocab_size=vocab_size,
            max_length=self.length,
            padding_id=PAD,
            ff_multiplier=self.ff_multiplier,
            dropout=self.dropout,
            mask_padding=self.mask_padding,
        )

    def described(self, variants: Mapping[str, Mapping[str, Any]]) -> Iterable[Network]:
        """Describe the models of variants by name; the texts decide on the number of words, which are left out."""
        for name, variant in variants.items():
            yield Network(
                name=name,
                build=partial(self.classifier, variant, len(SPECIALS)),
                inputs={"ids_BT": example(self.batch_size, self.length, dtype=torch.int64)},
                note=f"and {self.num_units} parameters a word of the texts",
            )

    def fitted(self, run: Run, corpus: Corpus, variant: Mapping[str, Any], *, name: str) -> TopoformerClassifier:
        """Train a model, as stage `name` of the run."""
        model = self.model(run, corpus, variant)
        rows = range(len(corpus.train_ids))
        batches = ResumableBatches(
            rows,
            self.batch_size,
            seed=run.seed,
            collate_fn=lambda chosen: (corpus.train_ids[chosen], corpus.train_labels[chosen]),
        )

        def loss(model: torch.nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            return F.cross_entropy(model(batch[0]), batch[1])

        optimizer = torch.optim.AdamW(model.parameters(), lr=self.learning_rate, fused=True)
        learner = Supervised(model, loss, optimizer, batches, device=run.device, clip_norm=self.clip_norm)
        steps = self.epochs * (len(rows) // self.batch_size)
        run.fit(learner, steps, name=name, log_every=10)
        model.eval()
        return model


def _real_texts(source: str) -> LabelledTexts:
    shipped = {"rotten_tomatoes": load_rotten_tomatoes, "sst2": load_sst2, "imdb": load_imdb}
    return shipped[source]() if source in shipped else load_splits(source)


@contextmanager
def seeded(run: Run) -> Iterator[None]:
    """Let torch's global generator, which layers draw their first weights from, start from the run's own stream."""
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**62, (), generator=run.torch_rng("initialisation"))))
        yield


@torch.no_grad()
def sheets_of(model: TopoformerClassifier, ids_NT: Tensor) -> Sheets:
    """Return the token means of the four sheets, [N, D] in float64, dropout off."""
    model.eval()
    device = next(model.parameters()).device
    parts: dict[str, list[np.ndarray]] = {sheet: [] for sheet in SHEETS}
    for ids_BT in ids_NT.to(device).split(_EVALUATION_BATCH):
        counts_BT = model.counting(ids_BT)
        for sheet, x_BTD in model.sheets(ids_BT).items():
            parts[sheet].append(token_mean(x_BTD, counts_BT).double().cpu().numpy())
    return {sheet: np.concatenate(arrays) for sheet, arrays in parts.items()}


@torch.no_grad()
def accuracy(model: TopoformerClassifier, corpus: Corpus) -> float:
    """Return the share of test texts that are labelled right; each counts once."""
    model.eval()
    device = next(model.parameters()).device
    predicted = [model(ids.to(device)).argmax(dim=1).cpu() for ids in corpus.test_ids.split(_EVALUATION_BATCH)]
    return float((torch.cat(predicted) == corpus.test_labels).double().mean())


def encode(model: TopoformerClassifier, vocabulary: Vocabulary, sentences: Sequence[str], length: int) -> Sheets:
    """Return the token means of a model's sheets for sentences."""
    return sheets_of(model, vocabulary.encode(sentences, length))
