"""What implanting a new task costs: every method at one learning rate, and at its best one (C6, C7, C10; sheet 6.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import get_constant_schedule_with_warmup

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.footprint import Network
from iclr_repro.core.loop import History
from iclr_repro.core.metriclog import Record
from iclr_repro.core.rundir import Run
from iclr_repro.core.supervised import Supervised
from iclr_repro.loki import figures
from iclr_repro.loki.experiments._world import InTinyWorld, Pretrained, answer_loss, row_batches, seeded, without_cache
from iclr_repro.loki.methods import GLOBAL, IN_FIRST_LAYERS, METHODS, ROW_STRATEGIES, method_model, without_values
from iclr_repro.loki.metrics import pareto_front
from iclr_repro.loki.selection import Positions, select_rows
from iclr_repro.loki.tinyworld import accuracy, skill_accuracies, training_rows

_LEARNT = 0.98  # target accuracy at which a run of the grid has nothing more to learn
_CORDA_PROMPTS = 240


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One evaluation on the way: the step, the target accuracy, and the forgetting in percent."""

    method: str
    learning_rate: float
    step: int
    accuracy: float
    forgetting: float
    clipped: float
    without_wino: float


@dataclass(frozen=True, kw_only=True)
class Retention(InTinyWorld):
    """Implant the new facts by each method; report equal learning rates, matched accuracy, and the whole curve."""

    quota: float = parameter("q of the row methods", low=0.0, high=100.0, unit="%")
    methods: tuple[str, ...] = parameter("what is compared", choices=METHODS)
    learning_rates: tuple[float, ...] = parameter("the grid, the same for all methods", low=0.0)
    equal_rate: float = parameter("the rate of the comparison at equal rates", low=0.0)
    steps: int = parameter("updates of a fine-tuning", low=1)
    batch_size: int = parameter("samples of an update", low=1)
    warmup: int = parameter("updates until the rate is constant", low=0)
    evaluate_every: int = parameter("updates between evaluations of the target", low=1)
    forgetting_every: int = parameter(
        "updates between evaluations of the skills; they are also evaluated where the target is learnt", low=1
    )
    matched_accuracy: float = parameter("target accuracy at which methods are compared", low=0.0, high=1.0)
    lora_r: int = parameter("rank of the low-rank baselines", low=1)
    lora_alpha: float = parameter("their updates are scaled by alpha / r", low=0.0)
    loki_lora_r: int = parameter("rank of LoKI + LoRA", low=1)

    def __post_init__(self) -> None:
        """Refuse rates that would never be compared."""
        if self.equal_rate not in self.learning_rates:
            raise ValueError(f"equal_rate {self.equal_rate:g} is not in learning_rates: add it to the grid")

    def run(self, run: Run) -> Result:
        """Pretrain, attribute, fine-tune each method at each rate."""
        pretrained = self.pretrained(run)
        attributions = self.attributions(run, pretrained)
        rows = self._selected(attributions, lambda: run.rng("random rows"))
        metrics: dict[str, float] = {f"pretrained/{skill}": value for skill, value in pretrained.accuracies.items()}
        metrics |= {"n": self.num_entities, "pretrained/n": self.test_samples}
        checkpoints: list[Checkpoint] = []
        for method in self.methods:
            for rate in self.learning_rates:
                found, parameters = self._fine_tuned(run, pretrained, rows.get(method), method, rate)
                checkpoints += found
            metrics[f"{method}/parameters"] = parameters
        table = pd.DataFrame([vars(one) for one in checkpoints])
        equal, matched = self._equal(table), self._matched(table)
        for name, summary in (("equal", equal), ("matched", matched)):
            for method, row in summary.iterrows():
                values = row.dropna()
                metrics |= {f"{name}/{method}/{key}": float(value) for key, value in values.items()}
        fronts = {
            method: pareto_front(list(zip(of_method["accuracy"], of_method["forgetting"], strict=True)))
            for method, of_method in table.groupby("method", sort=False)
        }
        return Result(
            metrics=metrics,
            tables={"equal_rate": equal, "matched_accuracy": matched, "checkpoints": table.set_index("method")},
            figures={
                "pareto": figures.pareto(fronts),
                "learning": figures.learning(table, self.equal_rate),
            },
            data="synthetic",
        )

    def networks(self) -> Iterator[Network]:
        """Describe the pretraining, and each method with as many rows as it selects."""
        yield from super().networks()
        rows = self._selected(np.zeros((1, self.num_layers, self.hidden_size)), lambda: np.random.default_rng(0))
        batch = self._rows(min(self.batch_size, self.num_entities), ["newf"])
        for method in self.methods:
            build = partial(self._described, method, rows.get(method))
            note = IN_FIRST_LAYERS if method in GLOBAL else ""
            yield Network(name=method, build=build, inputs=batch, forward=without_cache, note=note)

    def _described(self, method: str, rows: Positions | None) -> nn.Module:
        return self._with_method(without_values(method), self._llama(), rows, lambda: None)

    def _selected(self, attributions: np.ndarray, rng: Callable[[], np.random.Generator]) -> dict[str, Positions]:
        return {
            method: select_rows(attributions, self.quota, strategy=strategy, rng=rng())
            for method, strategy in ROW_STRATEGIES.items()
        }

    def _equal(self, table: pd.DataFrame) -> pd.DataFrame:
        """The last checkpoint of each method at the equal rate."""
        last = table[table["learning_rate"] == self.equal_rate].groupby("method", sort=False).last()
        return last[["accuracy", "forgetting", "clipped", "without_wino"]]

    def _matched(self, table: pd.DataFrame) -> pd.DataFrame:
        """Of each method the checkpoint with the least forgetting among the first of each rate that is good.

        A method that is good at no rate has `reached` 0 and no other value.
        """
        rows = {}
        for method in self.methods:
            of_method = table[(table["method"] == method) & (table["accuracy"] >= self.matched_accuracy)]
            if of_method.empty:
                rows[method] = {"reached": 0.0}
                continue
            firsts = of_method.groupby("learning_rate").first()
            best = firsts.loc[firsts["forgetting"].idxmin()]
            rows[method] = {
                "reached": 1.0,
                "rate": float(best.name),
                **{key: best[key] for key in ("step", "accuracy", "forgetting", "clipped", "without_wino")},
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")

    def _fine_tuned(
        self, run: Run, pretrained: Pretrained, rows: Positions | None, method: str, rate: float
    ) -> tuple[list[Checkpoint], int]:
        """Fine-tune one method; return its checkpoints and its number of trained parameters."""
        with seeded(run, f"adapter/{method}/{rate:g}"):
            model = self._adapted(run, pretrained, rows, method)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0, fused=True)
        targets = pretrained.world.new_facts()
        batches = row_batches(*training_rows([targets]), batch_size=min(self.batch_size, len(targets)), seed=run.seed)
        learner = Supervised(
            model.train(),
            answer_loss,
            optimizer,
            batches,
            device=run.device,
            scheduler=get_constant_schedule_with_warmup(optimizer, self.warmup),
            clip_norm=1.0,
        )

        stage = f"{method}-{rate:g}"

        def evaluate() -> dict[str, float]:
            model.eval()
            found = {"accuracy": accuracy(model, targets)}
            step = learner.batches.position
            best = max(_accuracies(run.loop.metrics.records(stage)), default=-1.0)
            is_first = any(best < level <= found["accuracy"] for level in (self.matched_accuracy, _LEARNT))
            if is_first or step % self.forgetting_every == 0 or step == self.steps:
                found |= _lost(pretrained, model)
            model.train()
            return found

        def learnt(history: History) -> bool:
            return rate != self.equal_rate and bool(history.values("accuracy", kind="evaluate")[-1] >= _LEARNT)

        history = run.fit(
            learner,
            self.steps,
            name=stage,
            evaluate=evaluate,
            eval_every=self.evaluate_every,
            log_every=10,
            stop=learnt,
        )
        return _checkpoints(history, method, rate), sum(parameter.numel() for parameter in trained)

    def _adapted(self, run: Run, pretrained: Pretrained, rows: Positions | None, method: str) -> nn.Module:
        model = pretrained.copy()
        prompts = (
            self.probe_prompts(run, pretrained, _CORDA_PROMPTS // len(pretrained.tests)) if method == "corda" else []
        )

        def preserve() -> None:
            for prompt in prompts:
                model(input_ids=torch.tensor([prompt], device=run.device), use_cache=False)

        return self._with_method(method, model, rows, preserve)

    def _with_method(
        self, method: str, model: nn.Module, rows: Positions | None, preserve: Callable[[], Any]
    ) -> nn.Module:
        return method_model(
            method,
            model,
            rows=rows,
            r=self.lora_r,
            alpha=self.lora_alpha,
            loki_r=self.loki_lora_r,
            preserve=preserve,
        )


def _lost(pretrained: Pretrained, model: nn.Module) -> dict[str, float]:
    accuracies = skill_accuracies(model, pretrained.tests)
    whole = pretrained.forgetting(accuracies)
    found = {"forgetting": whole.average, "clipped": whole.clipped}
    found["without_wino"] = pretrained.forgetting(accuracies, without=("wino",)).average
    return found | {f"skill/{skill}": value for skill, value in accuracies.items()}


def _accuracies(records: Sequence[Record]) -> list[float]:
    return [record["metrics"]["accuracy"] for record in records if record["kind"] == "evaluate"]


def _checkpoints(history: History, method: str, rate: float) -> list[Checkpoint]:
    """Return the evaluations at which the skills were measured as well."""
    return [
        Checkpoint(
            method=method,
            learning_rate=rate,
            step=record["step"],
            **{key: record["metrics"][key] for key in ("accuracy", "forgetting", "clipped", "without_wino")},
        )
        for record in history.records
        if record["kind"] == "evaluate" and "forgetting" in record["metrics"]
    ]
