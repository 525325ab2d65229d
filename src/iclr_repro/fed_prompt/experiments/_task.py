"""What the experiments share: languages, tokenizer, token table, pre-trained encoder, and runs of one method."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from iclr_repro.core.checkpoint import load_checkpoints, save_checkpoint
from iclr_repro.core.data import DATA_CHOICE, DataChoice, cache_folder, real_or_synthetic
from iclr_repro.core.experiment import DataKind, parameter
from iclr_repro.core.files import sha256_of_json
from iclr_repro.core.provenance import source_digests
from iclr_repro.core.rundir import Run
from iclr_repro.core.seeding import RandomStreams
from iclr_repro.fed_prompt.data import LOW, Corpus, load_corpus, synthetic_corpus
from iclr_repro.fed_prompt.federation import Federation
from iclr_repro.fed_prompt.model import Kind, PromptModel, build_prompt_model, load_trainable_state, trainable_state
from iclr_repro.fed_prompt.pretraining import (
    ContrastivePretraining,
    bag_of_tokens,
    encode,
    lsa_documents,
    lsa_table,
    small_encoder,
    train_tokenizer,
)
from iclr_repro.fed_prompt.softmax import federated_softmax, fit_softmax, log_frequencies, predicted, text_weights
from iclr_repro.fed_prompt.strategies import FedAvg, Parameters
from iclr_repro.fed_prompt.training import LocalTraining, PromptTrainer, Texts, arrays, language_center, predictions, tensors

_PRETRAINING_SEED = 0  # one encoder for all seeds, as a public encoder would be; seeds draw texts and first weights
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
    """Languages with a tokenizer and a token table; texts are encoded when they are asked for.

    Attributes:
        corpus: languages and parallel text.
        tokenizer: of the corpus.
        table: [V, H] of the cross-lingual LSA.
        table_without_parallel: the same of news alone, for the negative control.
        idf: [V] log((N + 1) / (df + 1)) of the tokens.
        length: tokens of a text.
        data: real or synthetic.
    """

    corpus: Corpus
    tokenizer: Tokenizer
    table: np.ndarray
    table_without_parallel: np.ndarray
    idf: np.ndarray
    length: int
    data: DataKind

    @property
    def languages(self) -> tuple[str, ...]:
        """Names, in the order of the clients."""
        return tuple(self.corpus.languages)

    @cached_property
    def low(self) -> tuple[str, ...]:
        """The half that is called low-resource: the sheet's for MasakhaNEWS, every second one of generated languages."""
        named = tuple(language for language in self.languages if language in LOW)
        return named or self.languages[1::2]

    @cached_property
    def high(self) -> tuple[str, ...]:
        """The other half."""
        return tuple(language for language in self.languages if language not in self.low)

    @cached_property
    def encoded(self) -> dict[str, dict[str, Texts]]:
        """Language -> split -> encoded texts."""
        return self.encoded_by(self.tokenizer, self.length)

    def encoded_by(self, tokenizer: Any, length: int) -> dict[str, dict[str, Texts]]:
        """Encode all texts by another tokenizer."""
        return {
            language: {split: encode(tokenizer, texts, length=length) for split, texts in splits.items()}
            for language, splits in self.corpus.languages.items()
        }

    @cached_property
    def features(self) -> dict[str, dict[str, np.ndarray]]:
        """Language -> split -> [n, H] bags of tokens, less the mean of the language's training texts."""
        return self.features_of(self.table)

    def features_of(self, table: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        """Return the features that another token table gives."""
        found = {}
        for language, splits in self.encoded.items():
            raw = {split: bag_of_tokens(texts, table, self.idf) for split, texts in splits.items()}
            found[language] = {split: values - raw["train"].mean(axis=0) for split, values in raw.items()}
        return found

    def labels(self, language: str, split: str) -> np.ndarray:
        """Return the labels of a split."""
        return self.corpus.languages[language][split].labels

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
    length: int = parameter("tokens of a text", low=8, high=96)
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
            for name, parallel in (("table", True), ("table_without_parallel", False)):
                documents = lsa_documents(corpus, tokenizer, parallel=parallel)
                made[name] = lsa_table(documents, rank, rng=np.random.default_rng(_PRETRAINING_SEED))
                if parallel:
                    frequency = np.asarray((documents > 0).sum(axis=0)).ravel()
                    made["idf"] = np.log((documents.shape[0] + 1) / (frequency + 1))
            return made

        kept = _kept("table", self._key(data, "vocab_size", "hidden_size"), run, make)
        tokenizer = Tokenizer.from_str(kept["tokenizer"])
        tables = {name: kept[name] for name in ("table", "table_without_parallel", "idf")}
        return Task(corpus, tokenizer, **tables, length=self.length, data=data)

    def small_encoder(self, run: Run, task: Task) -> Any:
        """Pre-train the small encoder, or take it from the cache of the runs that have done so."""
        streams = RandomStreams(_PRETRAINING_SEED)
        with torch.random.fork_rng():
            torch.manual_seed(int(streams.numpy("encoder").integers(2**62)))
            encoder = small_encoder(
                len(task.table), hidden_size=self.hidden_size, num_layers=self.num_layers, num_heads=self.num_heads
            )

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

        names = [name for name in InNews.__dataclass_fields__ if name != "data"]
        encoder.load_state_dict(_kept("encoder", self._key(task.data, *names), run, make))
        return encoder.to(run.device).eval()

    def _synthetic(self) -> Corpus:
        return synthetic_corpus(
            num_languages=self.num_languages,
            num_labels=3,
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


@dataclass(frozen=True, kw_only=True)
class WithPrompts(InNews):
    """The fields of experiments that tune prompts."""

    encoder_name: str | None = parameter("public name of the frozen encoder; null: the small one, pre-trained in the run")
    encoder_length: int = parameter("tokens of a text for an encoder with a public name", low=8)
    num_virtual_tokens: int = parameter("m", low=0)
    rounds: int = parameter("R", low=1)
    local_steps: int = parameter("updates of a client in a round", low=1)
    batch_size: int = parameter("texts of an update", low=1)
    head_rate: float = parameter("learning rate of the head", low=0.0)
    feature_scale: float = parameter("factor of the centred features", low=0.0)
    center_texts: int = parameter("unlabelled texts behind the mean of a language, 0: none is subtracted", low=0)
    dev_texts: int = parameter("dev texts of a language that choose the round", low=1)
    evaluate_every: int = parameter("rounds between evaluations on dev", low=1)

    def model(self, run: Run, task: Task, kind: Kind) -> PromptModel:
        """Build the prompt model of a kind, phi_0 from a stream of the run: the same for every method of the kind."""
        encoder = self.small_encoder(run, task) if self.encoder_name is None else self.encoder_name
        is_small = self.encoder_name is None
        return build_prompt_model(
            encoder,
            task.corpus.num_labels,
            kind=kind,
            num_virtual_tokens=self.num_virtual_tokens,
            pool="mean" if is_small else "first",
            head_is_linear=is_small,
            dropout=0.0 if is_small else 0.1,
            prompt_positions=not is_small,
            feature_scale=self.feature_scale,
            generator=RandomStreams(run.seed).torch(f"phi_0 of {kind}"),
        ).to(run.device)

    def centered(self, task: Task, model: PromptModel) -> dict[str, dict[str, Texts]]:
        """Return the encoded texts, with the mean of their language under phi_0 where `center_texts` is not 0."""
        encoded = task.encoded
        if self.encoder_name is not None:
            tokenizer = AutoTokenizer.from_pretrained(self.encoder_name)
            encoded = task.encoded_by(tokenizer, self.encoder_length)
        if self.center_texts == 0:
            return encoded
        found = {}
        for language, splits in encoded.items():
            number = min(self.center_texts, len(splits["train"]))
            center = language_center(model, splits["train"].rows(range(number)))
            found[language] = {
                split: Texts(texts.ids, texts.mask, texts.labels, center.expand(len(texts), -1)) for split, texts in splits.items()
            }
        return found

    def tuned(
        self,
        run: Run,
        name: str,
        model: PromptModel,
        clients: Mapping[str, Texts],
        texts: Mapping[str, Mapping[str, Texts]],
        *,
        share: bool,
        prompt_rate: float,
        local_steps: int | None = None,
        exponent: float = 1.0,
    ) -> Tuned:
        """Run one method: a federation, or (share=False) every client alone for as many updates.

        A federation is measured at the round with the best mean accuracy on dev. A client alone takes its own best round.
        """
        training = LocalTraining(
            steps=local_steps or self.local_steps,
            batch_size=self.batch_size,
            prompt_rate=prompt_rate,
            head_rate=self.head_rate,
            encoder_eval=True,
        )
        names = list(clients)
        federation = Federation(
            PromptTrainer(model, list(clients.values()), training, seed=run.seed),
            arrays(trainable_state(model)),
            clients=names,
            strategy=FedAvg(exponent=exponent),
            seed=run.seed,
            local_prefixes=() if share else ("",),
        )
        snapshots: list[dict[str, Parameters]] = []
        dev: list[dict[str, float]] = []

        def states() -> dict[str, Parameters]:
            return {
                language: federation.of_client(names.index(language) if not share else 0) for language in texts
            }

        def evaluate() -> dict[str, float]:
            snapshots.append(states())
            dev.append(
                {
                    language: float(correct(model, snapshots[-1][language], _first(splits["dev"], self.dev_texts)).mean())
                    for language, splits in texts.items()
                }
            )
            return {"dev_accuracy": float(np.mean(list(dev[-1].values())))}

        run.fit(federation, self.rounds, name=name, evaluate=evaluate, eval_every=self.evaluate_every, checkpoint_every=self.rounds)
        if not dev:  # the stage was finished in an earlier part of the run
            evaluate()
        curve = [float(np.mean(list(one.values()))) for one in dev]
        best = {
            language: int(np.argmax(curve)) if share else int(np.argmax([one[language] for one in dev]))
            for language in texts
        }
        tests = {language: splits["test"] for language, splits in texts.items()}
        at_best = {language: correct(model, snapshots[best[language]][language], tests[language]) for language in texts}
        last = len(snapshots) - 1
        at_last = {
            language: at_best[language]
            if best[language] == last
            else correct(model, snapshots[last][language], tests[language])
            for language in texts
        }
        return Tuned(at_best, at_last, curve, federation.num_bytes)


@dataclass(frozen=True, eq=False)
class Tuned:
    """What a method came to.

    Attributes:
        correct: language -> whether each test text is right, at the best round on dev.
        correct_last: the same after the last round.
        dev: mean accuracy over languages on dev, at each evaluation.
        num_bytes: sent in all rounds.
    """

    correct: dict[str, np.ndarray]
    correct_last: dict[str, np.ndarray]
    dev: list[float]
    num_bytes: int

    def accuracy(self, language: str) -> float:
        """Return the test accuracy of a language, at the best round on dev."""
        return float(self.correct[language].mean())

    def accuracies(self) -> dict[str, float]:
        """Return the test accuracy of all languages."""
        return {language: self.accuracy(language) for language in self.correct}


def correct(model: PromptModel, parameters: Parameters, texts: Texts) -> np.ndarray:
    """Return whether each text is given its label."""
    load_trainable_state(model, tensors(parameters, next(model.parameters()).device))
    return (predictions(model, texts) == texts.labels).numpy()


@dataclass(frozen=True, kw_only=True)
class HeadOnly:
    """The head-only track: softmax regression on bags of LSA tokens, many draws in seconds (sheet 7a)."""

    rounds: int
    local_steps: int

    def federated(
        self,
        task: Task,
        features: Mapping[str, Mapping[str, np.ndarray]],
        rows: Mapping[str, np.ndarray],
        *,
        exponent: float = 1.0,
        correction: bool = False,
    ) -> dict[str, float]:
        """Return test accuracies of the federated head."""
        x, y, sizes = _stacked(task, features, rows)
        w = federated_softmax(
            x,
            y,
            sizes,
            num_labels=task.corpus.num_labels,
            rounds=self.rounds,
            local_steps=self.local_steps,
            exponent=exponent,
        )
        return _accuracies(task, features, rows, dict.fromkeys(task.languages, w), correction=correction)

    def local(
        self,
        task: Task,
        features: Mapping[str, Mapping[str, np.ndarray]],
        rows: Mapping[str, np.ndarray],
        *,
        correction: bool = False,
    ) -> dict[str, float]:
        """Return test accuracies of heads that each language trains alone, for as many steps."""
        x, y, sizes = _stacked(task, features, rows)
        start = np.zeros((len(x), x.shape[-1] + 1, task.corpus.num_labels))
        w = fit_softmax(x, y, text_weights(sizes, x.shape[1]), steps=self.rounds * self.local_steps, start=start)
        return _accuracies(task, features, rows, dict(zip(task.languages, w, strict=True)), correction=correction)

    def centralised(
        self, task: Task, features: Mapping[str, Mapping[str, np.ndarray]], rows: Mapping[str, np.ndarray]
    ) -> dict[str, float]:
        """Return test accuracies of one head trained on all texts."""
        x = np.concatenate([features[one]["train"][rows[one]] for one in task.languages])
        y = np.concatenate([task.labels(one, "train")[rows[one]] for one in task.languages])
        start = np.zeros((x.shape[1] + 1, task.corpus.num_labels))
        w = fit_softmax(x, y, np.full(len(x), 1 / len(x)), steps=self.rounds * self.local_steps, start=start)
        return _accuracies(task, features, rows, dict.fromkeys(task.languages, w))


def poor_and_rich(task: Task, poor: Sequence[str], n_poor: int, n_rich: int) -> dict[str, int]:
    """Return how many labelled texts each language has."""
    return {language: n_poor if language in poor else n_rich for language in task.languages}


def cut(rows: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return the first n rows of each language."""
    return {language: rows[language][: sizes[language]] for language in rows}


def _accuracies(
    task: Task,
    features: Mapping[str, Mapping[str, np.ndarray]],
    rows: Mapping[str, np.ndarray],
    w: Mapping[str, np.ndarray],
    *,
    correction: bool = False,
) -> dict[str, float]:
    found = {}
    for language in task.languages:
        prior = None
        if correction:
            prior = log_frequencies(task.labels(language, "train")[rows[language]], task.corpus.num_labels)
        guess = predicted(w[language], features[language]["test"], prior)
        found[language] = float((guess == task.labels(language, "test")).mean())
    return found


def _stacked(
    task: Task, features: Mapping[str, Mapping[str, np.ndarray]], rows: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sizes = np.array([len(rows[language]) for language in task.languages])
    width = next(iter(features.values()))["train"].shape[1]
    x = np.zeros((len(sizes), sizes.max(), width))
    y = np.zeros((len(sizes), sizes.max()), dtype=np.int64)
    for k, language in enumerate(task.languages):
        x[k, : sizes[k]] = features[language]["train"][rows[language]]
        y[k, : sizes[k]] = task.labels(language, "train")[rows[language]]
    return x, y, sizes


def _first(texts: Texts, number: int) -> Texts:
    return texts.rows(range(min(number, len(texts))))


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
