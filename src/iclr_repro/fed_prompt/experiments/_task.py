"""What the experiments share: languages, tokenizer, token table and pre-trained encoder."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from iclr_repro.core.checkpoint import load_checkpoints, save_checkpoint
from iclr_repro.core.data import DATA_CHOICE, DataChoice, cache_folder, real_or_synthetic
from iclr_repro.core.experiment import DataKind, parameter
from iclr_repro.core.files import sha256_of_json
from iclr_repro.core.footprint import Network, example
from iclr_repro.core.provenance import source_digests
from iclr_repro.core.rundir import Run
from iclr_repro.core.seeding import RandomStreams
from iclr_repro.fed_prompt.data import LABELS, LOW, Corpus, load_corpus, synthetic_corpus
from iclr_repro.fed_prompt.pretraining import (
    ContrastivePretraining,
    bag_of_tokens,
    encode,
    from_ids,
    lsa_documents,
    lsa_table,
    small_encoder,
    train_tokenizer,
)
from iclr_repro.fed_prompt.training import Texts

_PRETRAINING_SEED = 0  # one encoder for all seeds, as a public encoder would be; seeds draw texts and first weights
_SYNTHETIC_LABELS = 3
MOST_TOKENS = "with {:,} tokens, the most there may be"
# What a kept encoder depends on, besides settings.
_SOURCES = (
    "fed_prompt/data.py",
    "fed_prompt/pretraining.py",
    "fed_prompt/experiments/_task.py",
    "core/loop.py",
    "core/seeding.py",
)


@dataclass(frozen=True, eq=False)
class Task:
    """Languages with a tokenizer, a token table and encoded texts.

    Attributes:
        corpus: languages and parallel text.
        tokenizer: of the corpus.
        table: [V, H] of the cross-lingual LSA.
        table_without_parallel: the same of news alone, for the negative control.
        idf: [V] log((N + 1) / (df + 1)) of the tokens.
        texts: language -> split -> texts encoded at the larger of the two lengths below; shorter ones are beginnings.
        length: tokens of a text before an encoder.
        head_length: tokens of a text on the head-only track.
        head_rank: leading columns of the table that the track uses.
        data: real or synthetic.
    """

    corpus: Corpus
    tokenizer: Tokenizer
    table: np.ndarray
    table_without_parallel: np.ndarray
    idf: np.ndarray
    texts: Mapping[str, Mapping[str, Texts]]
    length: int
    head_length: int
    head_rank: int
    data: DataKind

    @property
    def languages(self) -> tuple[str, ...]:
        """Names, in the order of the clients."""
        return tuple(self.corpus.languages)

    @cached_property
    def low(self) -> tuple[str, ...]:
        """The half that is called low-resource: the sheet's for MasakhaNEWS, every second generated one."""
        named = tuple(language for language in self.languages if language in LOW)
        return named or self.languages[1::2]

    @cached_property
    def high(self) -> tuple[str, ...]:
        """The other half."""
        return tuple(language for language in self.languages if language not in self.low)

    @cached_property
    def encoded(self) -> dict[str, dict[str, Texts]]:
        """Language -> split -> encoded texts."""
        return self._beginnings(self.length)

    def encoded_by(self, tokenizer: Any, length: int) -> dict[str, dict[str, Texts]]:
        """Encode all texts by another tokenizer."""
        return _encoded(self.corpus, tokenizer, length)

    @cached_property
    def features(self) -> dict[str, dict[str, np.ndarray]]:
        """Language -> split -> [n, H] bags of tokens, less the mean of the language's training texts."""
        return self.features_of(self.table)

    def features_of(self, table: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        """Return the features that another token table gives."""
        found = {}
        for language, splits in self._beginnings(self.head_length).items():
            raw = {split: bag_of_tokens(texts, table[:, : self.head_rank], self.idf) for split, texts in splits.items()}
            found[language] = {split: values - raw["train"].mean(axis=0) for split, values in raw.items()}
        return found

    def _beginnings(self, length: int) -> dict[str, dict[str, Texts]]:
        return {
            language: {
                split: Texts(texts.ids[:, :length], texts.mask[:, :length], texts.labels)
                for split, texts in splits.items()
            }
            for language, splits in self.texts.items()
        }

    def labels(self, language: str, split: str) -> np.ndarray:
        """Return the labels of a split."""
        return self.corpus.languages[language][split].labels

    def majority(self, language: str) -> float:
        """Return the test accuracy of the language's most frequent test label, whatever the text."""
        labels = self.labels(language, "test")
        return float(np.bincount(labels).max() / len(labels))

    def drawn(self, sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw labelled training texts of each language at random, not stratified; the first n of one permutation.

        Raises:
            ValueError: a language has fewer.
        """
        found = {}
        for language in self.languages:
            available = len(self.corpus.languages[language]["train"])
            if sizes[language] > available:
                raise ValueError(f"{language} has {available} training texts, {sizes[language]} are asked for")
            found[language] = rng.permutation(available)[: sizes[language]]
        return found


@dataclass(frozen=True, kw_only=True)
class InNews:
    """The fields of experiments on news in many languages."""

    data: DataChoice = parameter(DATA_CHOICE)
    num_languages: int = parameter("generated languages (real ones are 16)", low=2)
    synthetic_train: int = parameter("training texts of a generated language", low=8)
    synthetic_test: int = parameter("dev and test texts of a generated language, each", low=8)
    closeness: float = parameter("rho of generated languages: share of words in common", low=0.0, high=1.0)
    vocab_size: int = parameter("tokens of the BPE", low=100)
    hidden_size: int = parameter("h of the small encoder, and rank of the token table", low=8)
    num_layers: int = parameter("its layers", low=1)
    num_heads: int = parameter("its attention heads", low=1)
    length: int = parameter("tokens of a text before the small encoder", low=8, high=96)
    head_length: int = parameter("tokens of a text on the head-only track", low=8)
    head_rank: int = parameter("columns of the token table on the head-only track", low=1)
    pretraining_steps: int = parameter("contrastive updates of the encoder; 0: token table only", low=0)
    pretraining_batch: int = parameter("pairs of an update", low=2)
    pretraining_rate: float = parameter("highest learning rate of the pre-training", low=0.0)

    def task(self, run: Run) -> Task:
        """Load the languages, and make the tokenizer and the token table or take them from the cache."""
        corpus, data = real_or_synthetic(self.data, load_corpus, self._synthetic)
        rank = self.hidden_size

        def make() -> dict[str, Any]:
            run.log.info("training the tokenizer and the token table")
            tokenizer = train_tokenizer(corpus, vocab_size=self.vocab_size)
            made: dict[str, Any] = {"tokenizer": tokenizer.to_str()}
            documents, articles = lsa_documents(corpus, tokenizer)
            for name, counts in (("table", documents), ("table_without_parallel", articles)):
                made[name] = lsa_table(counts, rank, rng=np.random.default_rng(_PRETRAINING_SEED))
            frequency = np.asarray((documents > 0).sum(axis=0)).ravel()
            made["idf"] = np.log((documents.shape[0] + 1) / (frequency + 1))
            return made

        kept = _kept("table", self._key(data, "vocab_size", "hidden_size"), run, make)
        tokenizer = Tokenizer.from_str(kept["tokenizer"])
        tables = {name: kept[name] for name in ("table", "table_without_parallel", "idf")}
        longest = max(self.length, self.head_length)

        def make_ids() -> dict[str, Any]:
            encoded = _encoded(corpus, tokenizer, longest)
            return {
                name: {split: x.ids.int().numpy() for split, x in splits.items()} for name, splits in encoded.items()
            }

        ids = _kept("texts", self._key(data, "vocab_size", "length", "head_length"), run, make_ids)
        texts = {
            name: {
                split: from_ids(torch.as_tensor(found, dtype=torch.long), corpus.languages[name][split])
                for split, found in splits.items()
            }
            for name, splits in ids.items()
        }
        if self.head_rank > rank:
            raise ValueError(f"head_rank: got {self.head_rank}, the token table has {rank} columns (hidden_size)")
        return Task(
            corpus,
            tokenizer,
            **tables,
            texts=texts,
            length=self.length,
            head_length=self.head_length,
            head_rank=self.head_rank,
            data=data,
        )

    def small_encoder(self, run: Run, task: Task) -> Any:
        """Pre-train the small encoder, or take it from the cache of the runs that have done so."""
        streams = RandomStreams(_PRETRAINING_SEED)
        with torch.random.fork_rng():
            torch.manual_seed(int(streams.numpy("encoder").integers(2**62)))
            encoder = self.untrained_encoder(len(task.table))

        def make() -> dict[str, Any]:
            with torch.no_grad():
                words = encoder.get_input_embeddings().weight
                words.copy_(torch.as_tensor(task.table, dtype=words.dtype))
                words[encoder.config.pad_token_id] = 0.0
            if self.pretraining_steps:
                learner = ContrastivePretraining(
                    encoder,
                    task.corpus,
                    task.tokenizer,
                    steps=self.pretraining_steps,
                    batch_size=self.pretraining_batch,
                    length=self.length,
                    learning_rate=self.pretraining_rate,
                    parallel=True,
                    seed=_PRETRAINING_SEED,
                )
                run.fit(learner, self.pretraining_steps, name="pretraining", log_every=10)
            return dict(encoder.state_dict())

        names = [name for name in InNews.__dataclass_fields__ if name not in ("data", "head_length", "head_rank")]
        encoder.load_state_dict(_kept("encoder", self._key(task.data, *names), run, make))
        return encoder.to(run.device).eval()

    def untrained_encoder(self, vocab_size: int) -> PreTrainedModel:
        """Make the small encoder, its weights drawn from torch's global generator."""
        return small_encoder(
            vocab_size, hidden_size=self.hidden_size, num_layers=self.num_layers, num_heads=self.num_heads
        )

    def described_encoder(self) -> Network:
        """Describe the small encoder in its pre-training: both sides of the pairs of an update."""
        return Network(
            name="encoder",
            build=lambda: self.untrained_encoder(self.vocab_size),
            inputs={"input_ids": example(2 * self.pretraining_batch, self.length, dtype=torch.int64)},
            is_trained=self.pretraining_steps > 0,
            note=MOST_TOKENS.format(self.vocab_size),
        )

    @property
    def num_labels(self) -> int:
        """C, of the real texts unless the generated ones are chosen."""
        return _SYNTHETIC_LABELS if self.data == "synthetic" else len(LABELS)

    def _synthetic(self) -> Corpus:
        return synthetic_corpus(
            num_languages=self.num_languages,
            num_labels=_SYNTHETIC_LABELS,
            num_train=[self.synthetic_train] * self.num_languages,
            num_test=self.synthetic_test,
            closeness=self.closeness,
            rng=np.random.default_rng(_PRETRAINING_SEED),
        )

    def _key(self, data: DataKind, *names: str) -> str:
        generated = ("num_languages", "synthetic_train", "synthetic_test", "closeness") if data == "synthetic" else ()
        digests = source_digests("iclr_repro.fed_prompt", "iclr_repro.core")
        return sha256_of_json(
            {
                "settings": {name: getattr(self, name) for name in sorted({*names, *generated})},
                "data": data,
                "threads": torch.get_num_threads(),
                "sources": {name: digest for name, digest in digests.items() if name.endswith(_SOURCES)},
                "libraries": {
                    name: importlib.metadata.version(name)
                    for name in ("torch", "transformers", "tokenizers", "scipy", "numpy")
                },
            }
        )[:24]


def _encoded(corpus: Corpus, tokenizer: Any, length: int) -> dict[str, dict[str, Texts]]:
    return {
        language: {split: encode(tokenizer, texts, length=length) for split, texts in splits.items()}
        for language, splits in corpus.languages.items()
    }


def _kept(what: str, key: str, run: Run, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what runs with the same key keep, made by the first of them; it is a function of the key."""
    folder = cache_folder().parent / "fed_prompt" / f"{what}-{key}"
    with _locked(folder):
        found = load_checkpoints(folder, run.log)
        if found:
            return found[0][1]
        made = make()
        save_checkpoint(folder, 0, made)
        return made


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".lock"):
        yield
