"""Runs of one method: prompts by the federation, and heads on fixed features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel, XLMRobertaConfig

from iclr_repro.core.experiment import parameter
from iclr_repro.core.footprint import Network, example
from iclr_repro.core.rundir import Run
from iclr_repro.core.seeding import RandomStreams
from iclr_repro.fed_prompt.experiments._task import MOST_TOKENS, InNews, Task
from iclr_repro.fed_prompt.federation import Federation
from iclr_repro.fed_prompt.model import Kind, PromptModel, build_prompt_model, load_trainable_state, trainable_state
from iclr_repro.fed_prompt.softmax import federated_softmax, fit_softmax, log_frequencies, predicted, text_weights
from iclr_repro.fed_prompt.strategies import FedAvg, Parameters
from iclr_repro.fed_prompt.training import (
    LocalTraining,
    PromptTrainer,
    Texts,
    arrays,
    language_center,
    predictions,
    tensors,
)

XLMR_NAME = "xlm-roberta-base"
XLMR_BASE = {"vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}


@dataclass(frozen=True, kw_only=True)
class WithPrompts(InNews):
    """The fields of experiments that tune prompts."""

    encoder_name: str | None = parameter(
        "public name of the frozen encoder; null: the small one, pre-trained in the run"
    )
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
        generator = RandomStreams(run.seed).torch(f"phi_0 of {kind}")
        return self.prompt_model(encoder, task.corpus.num_labels, kind, generator).to(run.device)

    def networks_of(self, kinds: Iterable[Kind]) -> Iterator[Network]:
        """Describe the small encoder, where there is one, and the prompt model of each kind."""
        make, length, note = self._encoder()
        if self.encoder_name is None:
            yield self.described_encoder()
        for kind in dict.fromkeys(kinds):
            yield Network(
                name=kind if make is not None else f"{kind} on {self.encoder_name}",
                build=make and partial(self._described_model, make, kind),
                inputs={
                    "input_ids": example(self.batch_size, length, dtype=torch.int64),
                    "attention_mask": example(self.batch_size, length, dtype=torch.bool),
                },
                note=note,
            )

    def _encoder(self) -> tuple[Callable[[], PreTrainedModel | PretrainedConfig] | None, int, str]:
        """Return what makes the encoder or its configuration without its weights, the tokens of a text, and a note."""
        if self.encoder_name is None:
            note = MOST_TOKENS.format(self.vocab_size)
            return partial(self.untrained_encoder, self.vocab_size), self.length, note
        if self.encoder_name == XLMR_NAME:
            return partial(XLMRobertaConfig, **XLMR_BASE), self.encoder_length, ""
        return None, self.encoder_length, "a hub's model"

    def _described_model(self, make: Callable[[], PreTrainedModel | PretrainedConfig], kind: Kind) -> PromptModel:
        return self.prompt_model(make(), self.num_labels, kind, None)

    def prompt_model(
        self,
        encoder: PreTrainedModel | PretrainedConfig | str,
        num_labels: int,
        kind: Kind,
        generator: torch.Generator | None,
    ) -> PromptModel:
        """Build the prompt model of a kind on an encoder; see `build_prompt_model`."""
        is_small = self.encoder_name is None
        return build_prompt_model(
            encoder,
            num_labels,
            kind=kind,
            num_virtual_tokens=self.num_virtual_tokens,
            pool="mean" if is_small else "first",
            head_is_linear=is_small,
            dropout=0.0 if is_small else 0.1,
            prompt_positions=not is_small,
            feature_scale=self.feature_scale,
            generator=generator,
        )

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
                split: Texts(texts.ids, texts.mask, texts.labels, center.expand(len(texts), -1))
                for split, texts in splits.items()
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

        A federation is measured at the round with the best mean accuracy on dev. A client alone takes its own best
        round.
        """
        training = LocalTraining(
            steps=local_steps or self.local_steps,
            batch_size=self.batch_size,
            prompt_rate=prompt_rate,
            head_rate=self.head_rate,
            encoder_eval=self.encoder_name is None,
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
        measured = _Measured(federation, model, texts, share=share, dev_texts=self.dev_texts)
        run.fit(
            measured,
            self.rounds,
            name=name,
            evaluate=measured.evaluate,
            eval_every=self.evaluate_every,
            checkpoint_every=self.evaluate_every,
        )
        snapshots, dev = measured.snapshots, measured.dev
        curve = [float(np.mean(list(one.values()))) for one in dev]
        best = {
            language: int(np.argmax(curve)) if share else int(np.argmax([one[language] for one in dev]))
            for language in texts
        }
        tests = {language: splits["test"] for language, splits in texts.items()}
        return Tuned(model, tests, snapshots, best, curve, federation.num_bytes)


class _Measured:
    """A federation that keeps phi and the accuracy on dev of the rounds that were evaluated, also over a resume."""

    def __init__(
        self,
        federation: Federation,
        model: PromptModel,
        texts: Mapping[str, Mapping[str, Texts]],
        *,
        share: bool,
        dev_texts: int,
    ) -> None:
        self.snapshots: list[dict[str, Parameters]] = []
        self.dev: list[dict[str, float]] = []
        self._federation, self._model, self._share = federation, model, share
        self._texts = {language: _first(splits["dev"], dev_texts) for language, splits in texts.items()}

    def step(self) -> dict[str, float]:
        """Run a round."""
        return self._federation.step()

    def evaluate(self) -> dict[str, float]:
        """Keep what each language uses now, and its accuracy on dev."""
        clients = self._federation.clients
        self.snapshots.append(
            {one: self._federation.of_client(0 if self._share else clients.index(one)) for one in self._texts}
        )
        self.dev.append(
            {
                one: float(correct(self._model, self.snapshots[-1][one], texts).mean())
                for one, texts in self._texts.items()
            }
        )
        return {"dev_accuracy": float(np.mean(list(self.dev[-1].values())))}

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next round and the end depend on."""
        return {"federation": self._federation.state_dict(), "snapshots": self.snapshots, "dev": self.dev}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from it."""
        self._federation.load_state_dict(state["federation"])
        self.snapshots, self.dev = list(state["snapshots"]), list(state["dev"])


@dataclass(frozen=True, eq=False)
class Tuned:
    """What a method came to; test texts are read when they are asked for.

    Attributes:
        model: what phi is loaded into.
        tests: language -> test texts.
        snapshots: at each evaluation, language -> phi.
        best: language -> the evaluation that counts.
        dev: mean accuracy over languages on dev, at each evaluation.
        num_bytes: sent in all rounds.
    """

    model: PromptModel
    tests: Mapping[str, Texts]
    snapshots: Sequence[Mapping[str, Parameters]]
    best: Mapping[str, int]
    dev: list[float]
    num_bytes: int
    _correct: dict[tuple[str, int], np.ndarray] = field(default_factory=dict, repr=False)

    def correct(self, language: str, *, last: bool = False) -> np.ndarray:
        """Return whether each test text of a language is right, at the best round on dev or after the last one."""
        evaluation = len(self.snapshots) - 1 if last else self.best[language]
        if (language, evaluation) not in self._correct:
            parameters = self.snapshots[evaluation][language]
            self._correct[language, evaluation] = correct(self.model, parameters, self.tests[language])
        return self._correct[language, evaluation]

    def accuracies(self, languages: Sequence[str], *, last: bool = False) -> dict[str, float]:
        """Return the test accuracy of some languages, at the best round on dev or after the last one."""
        return {language: float(self.correct(language, last=last).mean()) for language in languages}


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
