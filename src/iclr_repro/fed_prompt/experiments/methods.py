"""All ways to tune and to divide the texts, with equal budgets (C5 to C7, C11), and their cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import XLMRobertaConfig

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.footprint import Network
from iclr_repro.core.measurements import Measurements
from iclr_repro.core.rundir import Run
from iclr_repro.fed_prompt import figures
from iclr_repro.fed_prompt.experiments._runs import XLMR_BASE, Tuned, WithPrompts, cut, poor_and_rich
from iclr_repro.fed_prompt.experiments._task import Task
from iclr_repro.fed_prompt.federation import message_bytes
from iclr_repro.fed_prompt.model import (
    Kind,
    ParameterCounts,
    PromptModel,
    build_prompt_model,
    parameter_counts,
    trainable_state,
)
from iclr_repro.fed_prompt.partition import partition_clients
from iclr_repro.fed_prompt.pretraining import small_encoder
from iclr_repro.fed_prompt.training import Texts, arrays

# name -> (kind, who holds which texts)
METHODS: dict[str, tuple[Kind, str]] = {
    "local": ("prompt", "local"),
    "federated": ("prompt", "federated"),
    "federated_iid": ("prompt", "iid"),
    "centralised": ("prompt", "centralised"),
    "centralised_few_steps": ("prompt", "few_steps"),
    "zero_shot_eng": ("prompt", "eng"),
    "head": ("head", "federated"),
    "head_local": ("head", "local"),
    "ptuning": ("ptuning", "federated"),
    "prefix": ("prefix", "federated"),
    "lora": ("lora", "federated"),
    "full": ("full", "federated"),
}
_COUNTED = "only counted and serialised"
_COMPARED = {
    "gain": ("federated", "local"),
    "federated_minus_centralised": ("federated", "centralised"),
    "full_minus_prompt": ("full", "federated"),
    "iid_minus_non_iid": ("federated_iid", "federated"),
    "prompt_minus_head": ("federated", "head"),
    "lora_minus_prompt": ("lora", "federated"),
    "federated_minus_majority": ("federated", "majority"),
}


@dataclass(frozen=True, eq=False)
class _Best:
    """A method at its best learning rate on dev."""

    tuned: Tuned
    rate: float
    counts: ParameterCounts


@dataclass(frozen=True, kw_only=True)
class Methods(WithPrompts):
    """Federated prompts against every baseline, one draw of labelled texts, intervals over languages.

    Each client makes rounds x local_steps updates. Centralised tuning makes as many as all clients together, or as many
    as one client (few_steps). Of several learning rates the best on dev counts.
    """

    uses_seeds = False

    methods: tuple[str, ...] = parameter("what is compared", choices=tuple(METHODS))
    rates: dict[str, tuple[float, ...]] = parameter("kind -> learning rates of all but the head")
    n_low: int = parameter("labelled texts of a low-resource language", low=1)
    n_high: int = parameter("labelled texts of another language", low=1)
    resamples: int = parameter("bootstrap samples of the languages", low=10)

    def __post_init__(self) -> None:
        """Refuse a method without a learning rate."""
        if missing := {METHODS[name][0] for name in self.methods} - self.rates.keys():
            raise ValueError(
                f"rates: none for {', '.join(sorted(missing))}: give a list of learning rates for each kind"
            )

    def run(self, run: Run) -> Result:
        """Run every method."""
        task = self.task(run)
        rows = cut(
            task.drawn(dict.fromkeys(task.languages, self.n_high), run.rng("labelled texts")),
            poor_and_rich(task, task.low, self.n_low, self.n_high),
        )
        found: dict[str, _Best] = {}
        centered: dict[str, dict[str, dict[str, Texts]]] = {}
        for name in self.methods:
            if name == "zero_shot_eng" and "eng" not in task.languages:
                continue
            kind, _ = METHODS[name]
            tried = {}
            for rate in self.rates[kind]:
                model = self.model(run, task, kind)
                counts = parameter_counts(model)
                if kind not in centered:  # equal for equal phi_0
                    centered[kind] = self.centered(task, model)
                tried[rate] = self._tuned(run, task, model, centered[kind], rows, name, rate)
            best = max(tried, key=lambda rate: max(tried[rate].dev))
            found[name] = _Best(tried[best], best, counts)
        accuracy = pd.DataFrame({name: one.tuned.accuracies(task.languages) for name, one in found.items()})
        summary = pd.DataFrame(
            {
                name: {
                    "accuracy": accuracy[name].mean(),
                    "low": accuracy.loc[list(task.low), name].mean(),
                    "high": accuracy.loc[list(task.high), name].mean(),
                    "parameters": one.counts.trainable,
                    "megabytes": one.tuned.num_bytes / 1e6,
                    "rate": one.rate,
                }
                for name, one in found.items()
            }
        ).T
        federated = {name: one.tuned for name, one in found.items() if METHODS[name][1] == "federated"}
        return self._measured(run, task, found, accuracy).result(
            tables={"methods": summary.rename_axis("method"), "languages": accuracy.rename_axis("language")},
            figures={
                "methods": figures.methods(accuracy),
                "communication": figures.communication(
                    {name: one.dev for name, one in federated.items()},
                    {name: one.num_bytes for name, one in federated.items()},
                ),
            },
            data=task.data,
        )

    def _measured(self, run: Run, task: Task, found: Mapping[str, _Best], accuracy: pd.DataFrame) -> Measurements:
        """Mean accuracies and gains with draws over languages, and what each method costs."""
        m = Measurements()
        m.add("n", float(sum(len(task.labels(language, "test")) for language in task.languages)))
        resampled = run.rng("bootstrap").integers(len(accuracy), size=(self.resamples, len(accuracy)))
        for name, one in found.items():
            of_language = accuracy[name].to_numpy()
            m.add_draws(f"{name}/accuracy", float(of_language.mean()), of_language[resampled].mean(axis=1))
            m.add_exact(f"{name}/parameters", one.counts.trainable)
            m.add_exact(f"{name}/bytes", one.tuned.num_bytes)
            m.add_exact(f"{name}/rate", one.rate)
        compared = accuracy.assign(majority=[task.majority(language) for language in accuracy.index])
        for name, (first, second) in _COMPARED.items():
            if first in compared and second in compared:
                gain = 100.0 * (compared[first] - compared[second]).to_numpy()
                m.add_draws(name, float(gain.mean()), gain[resampled].mean(axis=1))
        m.add_exact("encoder/parameters", next(iter(found.values())).counts.backbone)
        return m

    def networks(self) -> Iterable[Network]:
        """Describe the encoder and a model of each kind that a method tunes."""
        return self.networks_of(METHODS[name][0] for name in self.methods)

    def _tuned(
        self,
        run: Run,
        task: Task,
        model: Any,
        texts: Mapping[str, Mapping[str, Texts]],
        rows: Mapping[str, np.ndarray],
        name: str,
        rate: float,
    ) -> Tuned:
        division = METHODS[name][1]
        own = {language: texts[language]["train"].rows(rows[language]) for language in task.languages}
        clients, steps = self._divided(run, own, division)
        return self.tuned(
            run,
            f"{name}-{rate:g}",
            model,
            clients,
            texts,
            share=division != "local",
            prompt_rate=rate,
            local_steps=steps,
        )

    def _divided(self, run: Run, own: Mapping[str, Texts], division: str) -> tuple[dict[str, Texts], int]:
        """Return the clients of a division and their updates in a round."""
        if division == "eng":
            return {"eng": own["eng"]}, self.local_steps
        if division in ("centralised", "few_steps"):
            steps = self.local_steps * (len(own) if division == "centralised" else 1)
            return {"all": Texts.joined(list(own.values()))}, steps
        if division == "iid":
            pooled = Texts.joined(list(own.values()))
            languages = [language for language, texts in own.items() for _ in range(len(texts))]
            parts = partition_clients(languages, lang_mix=1.0, equal_quota=True, rng=run.rng("iid"))
            return {name: pooled.rows(part) for name, part in parts.items()}, self.local_steps
        return dict(own), self.local_steps


@dataclass(frozen=True, kw_only=True)
class Communication:
    """How many parameters are trained and how many bytes travel: XLM-R-base counted, a small encoder measured (C3)."""

    uses_seeds = False

    labels: dict[str, int] = parameter("task -> number of labels of XLM-R-base's head")
    num_virtual_tokens: int = parameter("m", low=1)
    vocab_size: int = parameter("tokens of the small encoder", low=100)
    hidden_size: int = parameter("h of the small encoder", low=8)
    num_layers: int = parameter("its layers", low=1)
    num_heads: int = parameter("its attention heads", low=1)

    def run(self, run: Run) -> Result:
        """Count on the meta device, serialise the small model with XLM-R's head and with a linear one."""
        m = Measurements()
        rows = []
        for name, num_labels in self.labels.items():
            for kind in ("prompt", "ptuning", "prefix", "lora", "full"):
                counts = xlmr_counts(num_labels, kind, self.num_virtual_tokens)
                whole = counts.backbone + counts.head
                saved = 100.0 * (1 - counts.trainable / whole)
                measured = {
                    "prompt": counts.prompt,
                    "head": counts.head,
                    "trainable": counts.trainable,
                    "head_twice": counts.trainable_head_twice,
                    "whole": whole,
                    "as_peft": counts.as_peft,
                    "share_percent": 100.0 * counts.trainable / whole,
                    "share_head_twice_percent": 100.0 * counts.trainable_head_twice / counts.as_peft,
                    "saved_percent": saved,
                    "round_bytes": 2 * 4 * counts.trainable,
                }
                for quantity, value in measured.items():
                    m.add_exact(f"{name}/{kind}/{quantity}", value)
                rows.append({"task": name, "kind": kind, **measured})
        for name, is_linear in (("small", False), ("small_linear", True)):
            model = self._small(is_linear=is_linear)
            counts = parameter_counts(model)
            whole = counts.backbone + counts.head
            state = {name: value for name, value in model.named_parameters() if not name.startswith("prompt.")}
            sent, everything = message_bytes(arrays(trainable_state(model))), message_bytes(arrays(state))
            m.add_exact(f"{name}/trainable", counts.trainable)
            m.add_exact(f"{name}/whole", whole)
            m.add_exact(f"{name}/share_percent", 100.0 * counts.trainable / whole)
            m.add_exact(f"{name}/message_bytes", sent)
            m.add_exact(f"{name}/whole_bytes", everything)
            m.add_exact(f"{name}/bytes_over_count", (sent / everything) / (counts.trainable / whole))
        table = pd.DataFrame(rows).set_index(["task", "kind"])
        return m.result(tables={"counts": table}, figures={"counts": figures.counts(table)})

    def networks(self) -> Iterator[Network]:
        """Describe the small models, which are only counted and serialised."""
        for name, is_linear in (("small", False), ("small_linear", True)):
            yield Network(name=name, build=partial(self._small, is_linear=is_linear), is_trained=False, note=_COUNTED)

    def _small(self, *, is_linear: bool) -> PromptModel:
        encoder = small_encoder(
            self.vocab_size, hidden_size=self.hidden_size, num_layers=self.num_layers, num_heads=self.num_heads
        )
        return build_prompt_model(encoder, 7, num_virtual_tokens=self.num_virtual_tokens, head_is_linear=is_linear)


def xlmr_counts(num_labels: int, kind: Any, num_virtual_tokens: int) -> ParameterCounts:
    """Count XLM-R-base with a head and adapters on the meta device, without its weights."""
    with torch.device("meta"):
        return parameter_counts(
            build_prompt_model(
                XLMRobertaConfig(**XLMR_BASE), num_labels, kind=kind, num_virtual_tokens=num_virtual_tokens
            )
        )
