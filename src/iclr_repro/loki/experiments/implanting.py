"""Implanting a task into a public model: the reranker and ToolACE settings of the paper (sheet 4.1, 4.2, 6.3).

Every method starts from the same weights, sees the same rows in the same order, and is trained at each rate of one
grid, one after the other; `equal/...` is what it does at the one rate that the claims compare. At scale `cpu` the same
code runs on a tiny random model with generated pairs: it shows that the code works, no more.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from accelerate.utils.memory import clear_device_cache
from torch import nn
from transformers import get_cosine_schedule_with_warmup

from iclr_repro.core.batches import ResumableBatches
from iclr_repro.core.data import locate
from iclr_repro.core.experiment import DataKind, Result, parameter
from iclr_repro.core.footprint import Network, example
from iclr_repro.core.rundir import Run
from iclr_repro.core.supervised import Supervised
from iclr_repro.loki.benchmarks import benchmark_scores
from iclr_repro.loki.bfcl import CATEGORIES, NO_CALL_CATEGORIES, SOME_CALL_CATEGORIES, load_bfcl
from iclr_repro.loki.bfcl_scoring import answer_accuracy, bfcl_messages, greedy_answers
from iclr_repro.loki.chat import encode_dialogue, packed, padded
from iclr_repro.loki.experiments._public import (
    TINY,
    OfPublicModel,
    dialogue_loss,
    generated_pairs,
    kept,
    no_attributions,
)
from iclr_repro.loki.experiments._world import answer_loss, row_batches, seeded, without_cache
from iclr_repro.loki.methods import (
    GLOBAL,
    IN_FIRST_LAYERS,
    METHODS,
    ROW_STRATEGIES,
    adapter_kept,
    method_model,
    without_values,
)
from iclr_repro.loki.positions import load_positions, save_positions
from iclr_repro.loki.prompts import Message, toolace_messages
from iclr_repro.loki.reranking import load_beir, load_run, pair_scores, retrieval_scores
from iclr_repro.loki.selection import Positions, select_rows
from iclr_repro.loki.tinyworld import IGNORED

_PRESERVED_PROMPTS = 256  # that CorDA takes the covariance of; sampled evenly from the probe prompts
_BFCL = (*CATEGORIES, *NO_CALL_CATEGORIES, *SOME_CALL_CATEGORIES)
_FROM_FILE = ("loki", "loki_lora")  # whose rows may be given


@dataclass(frozen=True, kw_only=True)
class Implanting(OfPublicModel):
    """Train a task into a model by each method at each rate; measure the task and general benchmarks."""

    task: Literal["reranker", "toolace"] = parameter("what is implanted")
    dataset: str | None = parameter("`datasets` name or folder in sharegpt form; null: generated reranker pairs")
    methods: tuple[str, ...] = parameter("what is compared", choices=METHODS)
    positions: str = parameter(
        "rows of loki and loki_lora; released: the authors'; kva: own attribution; else a file of `save_positions`"
    )
    quota: float = parameter("q of the row methods but the global ones", low=0.0, high=100.0, unit="%")
    global_quota: float = parameter("q of global_low and global_high", low=0.0, high=100.0, unit="%")
    loki_quotas: tuple[float, ...] = parameter(
        "further q of method loki", low=0.0, high=100.0, unit="%", may_be_empty=True
    )
    lora_r: int = parameter("rank of the low-rank baselines", low=1)
    lora_alpha: float = parameter("their updates are scaled by alpha / r", low=0.0)
    loki_lora_r: int = parameter("rank of LoKI + LoRA", low=1)
    samples: int | None = parameter("training samples; null: all", low=1)
    held_out: int = parameter("samples that the task is measured on", low=1)
    packing: bool = parameter("join dialogues to rows of `length` tokens; else a row each, cut there")
    length: int = parameter("tokens of a row", low=8)
    batch_size: int = parameter("rows of an update", low=1)
    accumulation: int = parameter("micro-batches of an update", low=1)
    checkpointing: bool = parameter("compute activations again in the backward pass, for memory")
    epochs: int = parameter("passes over the rows", low=1)
    learning_rates: tuple[float, ...] = parameter("grid of every method: the highest rate of a training", low=0.0)
    equal_rate: float = parameter("the one that the claims compare methods at", low=0.0)
    warmup_frac: float = parameter("share of the updates", low=0.0, high=1.0)
    bfcl: tuple[str, ...] = parameter(
        "categories of BFCL, for task toolace; []: none", choices=_BFCL, may_be_empty=True
    )
    bfcl_limit: int | None = parameter("the first items of each category; null: all", low=1)
    max_new_tokens: int = parameter("of an answer to BFCL", low=1)
    beir: str | None = parameter("folder of a retrieval task in BEIR's form, for task reranker; null: none")
    candidates: str | None = parameter("its TREC run file with what is reranked; null: the whole corpus")
    depth: int = parameter("best candidates of each query in the run file", low=1)
    queries: int | None = parameter("first queries in sorted order; null: all", low=1)

    def __post_init__(self) -> None:
        """Refuse measurements of the other task, and nothing to compare."""
        if self.bfcl and self.task != "toolace":
            raise ValueError(f"bfcl {list(self.bfcl)} measures task toolace, not {self.task}: set bfcl=[]")
        if self.beir is not None and self.task != "reranker":
            raise ValueError(f"beir {self.beir!r} measures task reranker, not {self.task}: set beir=null")
        if self.equal_rate not in self.learning_rates:
            raise ValueError(f"equal_rate {self.equal_rate:g} is not in learning_rates {list(self.learning_rates)}")

    @property
    def needs_attributions(self) -> bool:
        """Whether the rows of some method are chosen by an attribution."""
        free = {"full", "lora", "dora", "pissa", "corda", "random"}
        return not free.union(_FROM_FILE if self.positions != "kva" else ()).issuperset(self.methods)

    def run(self, run: Run) -> Result:
        """Load, select; then train and measure each method. Adapters are saved in the run's folder.

        What was measured before an interruption is neither trained nor measured again.
        """
        base, tokenizer = self.load_model(run)  # stays on the CPU and is copied for every method
        prompts, kind = self.probe_prompts(run, tokenizer)
        dialogues, kind_of_task = self._dialogues(run)
        held_out, training = dialogues[: self.held_out], dialogues[self.held_out :]
        rows = [encode_dialogue(dialogue, tokenizer) for dialogue in training]
        metrics: dict[str, float] = {"n": len(held_out), "training/n": len(training), "probes/n": len(prompts)}
        original = copy.deepcopy(base).to(run.device)
        positions = self._positions(run, original, prompts)

        def measured(name: str, scores: Callable[[], dict[str, float]]) -> dict[str, float]:
            """Scores as name/...; forgetting against the original's benchmarks, where there are any."""
            found = {f"{name}/{key}": value for key, value in kept(run, name, scores).items()}
            return found | self.forgetting_of(run, name)

        metrics |= measured("original", partial(self._scores, run, original, held_out, tokenizer))
        del original
        clear_device_cache(garbage_collection=True)  # one copy at a time
        curve = []
        for name, (method, quota) in self._trained().items():
            for rate in self.learning_rates:
                prefix = "equal" if rate == self.equal_rate else f"lr{rate:g}"

                def scores(name: str = name, method: str = method, quota: float = quota, rate: float = rate) -> Any:
                    model = self._method_model(run, base, method, quota, positions.get(name), prompts)
                    parameters = sum(one.numel() for one in model.parameters() if one.requires_grad)
                    with adapter_kept(model, method, run.dir / "adapters" / f"{name}_lr{rate:g}"):
                        self._train(run, model, f"{name}/lr{rate:g}", rate, rows)
                        found = self._scores(run, model, held_out, tokenizer)
                    return {"parameters": float(parameters), **found}

                found = measured(f"{prefix}/{name}", scores)
                clear_device_cache(garbage_collection=True)
                metrics |= found
                short = {key.removeprefix(f"{prefix}/{name}/"): value for key, value in found.items()}
                curve.append({"method": name, "learning_rate": rate, **short})
        real = kind == kind_of_task == "real" and self.model != TINY
        return Result(
            metrics=metrics,
            tables={"rates": pd.DataFrame(curve).set_index("method")},
            data="real" if real else "synthetic",
        )

    def _trained(self) -> dict[str, tuple[str, float]]:
        """Return name -> method and quota; names of row methods have their quota."""
        found = {}
        for method in self.methods:
            quotas: tuple[float, ...] = (self.global_quota if method in GLOBAL else self.quota,)
            if method == "loki":
                quotas += self.loki_quotas
            for quota in quotas:
                found[f"{method}_q{quota:g}" if method in ROW_STRATEGIES else method] = (method, quota)
        return found

    def networks(self) -> Iterator[Network]:
        """Describe the original, and each method with as many rows as it selects, in an update's micro-batch."""
        yield self.described()
        size = self.batch_size // self.accumulation
        batch = {name: example(size, self.length, dtype=torch.int64) for name in ("input_ids", "labels")}
        notes = ["rows at their longest"] * (not self.packing)
        notes += ["autocast to bfloat16 needs less"] * (self.dtype == "bfloat16")
        if (make := self.builder) is None:
            return
        for name, (method, quota) in self._trained().items():
            build = partial(self._described, make, method, quota)
            note = "; ".join([*notes, *[IN_FIRST_LAYERS] * (method in GLOBAL)])
            yield Network(name=name, build=build, inputs=batch, forward=without_cache, note=note)

    def _described(self, make: Callable[[], nn.Module], method: str, quota: float) -> nn.Module:
        model, rows = make(), None
        if method in ROW_STRATEGIES:
            strategy = ROW_STRATEGIES[method]
            rows = select_rows(no_attributions(model), quota, strategy=strategy, rng=np.random.default_rng(0))
        adapted = self._with_method(without_values(method), model, quota, rows, lambda: None)
        self._set_checkpointing(adapted)
        return adapted

    def _positions(self, run: Run, model: nn.Module, prompts: list[list[int]]) -> dict[str, Positions]:
        """Return the rows of each row method by its name with the quota, and save them."""
        chosen = {name: one for name, one in self._trained().items() if one[0] in ROW_STRATEGIES}
        if not chosen:
            return {}
        # Random rows need no attribution but the numbers of layers and rows.
        attributions = self.attributions(run, model, prompts) if self.needs_attributions else no_attributions(model)
        found: dict[str, Positions] = {}
        for name, (method, quota) in chosen.items():
            if method in _FROM_FILE and self.positions == "released":
                of_model = self.model.rstrip("/").rpartition("/")[2]
                found[name] = load_positions(locate(f"loki/pos_json/{of_model}/{quota:g}.json.gz"))
            elif method in _FROM_FILE and self.positions != "kva":
                found[name] = load_positions(self.positions)
            else:
                rng = run.rng("random rows")
                found[name] = select_rows(attributions, quota, strategy=ROW_STRATEGIES[method], rng=rng)
            save_positions(run.dir / f"positions_{name}.json", found[name])
        return found

    def _method_model(
        self,
        run: Run,
        base: nn.Module,
        method: str,
        quota: float,
        rows: Positions | None,
        prompts: list[list[int]],
    ) -> nn.Module:
        model = copy.deepcopy(base).to(run.device)

        def preserve() -> None:
            for prompt in prompts[:: max(len(prompts) // _PRESERVED_PROMPTS, 1)][:_PRESERVED_PROMPTS]:
                model(input_ids=torch.tensor([prompt], device=run.device), use_cache=False)

        with seeded(run, f"adapter/{method}"):
            return self._with_method(method, model, quota, rows, preserve)

    def _with_method(
        self, method: str, model: nn.Module, quota: float, rows: Positions | None, preserve: Callable[[], Any]
    ) -> nn.Module:
        return method_model(
            method,
            model,
            rows=rows,
            quota=quota,
            r=self.lora_r,
            alpha=self.lora_alpha,
            loki_r=self.loki_lora_r,
            preserve=preserve,
        )

    def _set_checkpointing(self, model: Any) -> None:
        if self.checkpointing:  # transformers 5 has the first name
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})

    def _scores(
        self, run: Run, model: nn.Module, held_out: Sequence[Sequence[Message]], tokenizer: Any
    ) -> dict[str, float]:
        """Return how a model does at the task and at the benchmarks; the latter by their own names, in percent.

        The model's weights become float32, which changes none of them, so that all models are scored alike.
        """
        model.float()
        with self.scoring(run):
            found = {"loss": dialogue_loss(model, held_out, tokenizer)} | self._task_scores(model, held_out, tokenizer)
            return found | benchmark_scores(
                model, tokenizer, self.benchmarks, limit=self.benchmark_limit, batch_size=self.benchmark_batch
            )

    def _task_scores(self, model: nn.Module, held_out: Sequence[Sequence[Message]], tokenizer: Any) -> dict[str, float]:
        found: dict[str, float] = {}
        if self.task == "reranker":
            found |= {f"reranker/{key}": value for key, value in pair_scores(model, tokenizer, held_out).items()}
        if self.beir is not None:
            candidates = None if self.candidates is None else load_run(self.candidates, depth=self.depth)
            scores = retrieval_scores(model, tokenizer, load_beir(self.beir), candidates, queries=self.queries)
            found |= {f"beir/{key}": value for key, value in scores.items()}
        for category in self.bfcl:
            items = load_bfcl(category)[: self.bfcl_limit]
            prompts = [bfcl_messages(item) for item in items]
            answers = greedy_answers(model, tokenizer, prompts, max_new_tokens=self.max_new_tokens)
            found[f"bfcl/{category}"] = 100 * answer_accuracy(answers, items)
            found[f"bfcl/{category}/n"] = float(len(items))
        return found

    def _dialogues(self, run: Run) -> tuple[list[list[Message]], DataKind]:
        rng = run.rng("dialogues")
        number = None if self.samples is None else self.samples + self.held_out
        if self.dataset is None:
            return generated_pairs(number or 1000, rng), "synthetic"
        import datasets  # takes a second, and generated pairs do without

        rows = datasets.load_dataset(self.dataset, split="train")
        order = rng.permutation(len(rows))[:number]
        return [toolace_messages(rows[int(index)]) for index in order], "real"

    def _batches(self, run: Run, rows: Sequence[tuple[list[int], list[int]]]) -> tuple[ResumableBatches, int]:
        """Return batches of (ids, labels), and the number of rows they are drawn from."""
        if self.packing:
            ids, labels = packed(rows, self.length)
            size = min(self.batch_size, len(ids))
            return row_batches(ids, labels, batch_size=size, seed=run.seed), len(ids)
        learnt = [row for row in rows if any(label != IGNORED for label in row[1][1 : self.length])]
        if not learnt:
            raise ValueError(f"no dialogue has an answer within {self.length} tokens: give a larger length")
        batches = ResumableBatches(
            range(len(learnt)),
            min(self.batch_size, len(learnt)),
            seed=run.seed,
            collate_fn=lambda chosen: padded([learnt[one] for one in chosen], self.length),
        )
        return batches, len(learnt)

    def _train(self, run: Run, model: Any, name: str, rate: float, rows: Sequence[tuple[list[int], list[int]]]) -> None:
        self._set_checkpointing(model)
        batches, num_rows = self._batches(run, rows)
        steps = max(self.epochs * num_rows // self.batch_size, 1)
        trained = [one for one in model.parameters() if one.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
        learner = Supervised(
            model.train(),
            answer_loss,
            optimizer,
            batches,
            device=run.device,
            scheduler=get_cosine_schedule_with_warmup(optimizer, int(self.warmup_frac * steps), steps),
            precision="bf16" if self.dtype == "bfloat16" else "no",
            accumulation=self.accumulation,
            clip_norm=1.0,
        )
        run.fit(learner, steps, name=name, log_every=10)
        model.eval()
