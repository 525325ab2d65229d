"""Implanting a task into a public model: the reranker and ToolACE settings of the paper (sheet 4.1, 4.2, 6.3).

Every method starts from the same weights and sees the same rows in the same order at the same rate, one method after
the other. At scale `cpu` the same code runs on a tiny random model with generated pairs: it shows that the code works,
no more.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Qwen2Config,
    Qwen2ForCausalLM,
    get_cosine_schedule_with_warmup,
)

from iclr_repro.core.batches import ResumableBatches
from iclr_repro.core.data import DATA_CHOICE, DataChoice, locate, real_or_synthetic
from iclr_repro.core.experiment import DataKind, Result, parameter
from iclr_repro.core.files import read_json
from iclr_repro.core.rundir import Run
from iclr_repro.core.supervised import Supervised
from iclr_repro.loki.attribution import Rule, check_prompt_length
from iclr_repro.loki.benchmarks import METRICS, benchmark_scores
from iclr_repro.loki.bfcl import CATEGORIES, NO_CALL_CATEGORIES, SOME_CALL_CATEGORIES, load_bfcl
from iclr_repro.loki.bfcl_scoring import answer_accuracy, bfcl_messages, greedy_answers
from iclr_repro.loki.chat import byte_tokenizer, encode_dialogue, packed, padded
from iclr_repro.loki.experiments._public import (
    dialogue_loss,
    generated_pairs,
    generated_questions,
    kept,
    no_attributions,
    of_attributions,
    scores_path,
)
from iclr_repro.loki.experiments._world import answer_loss, row_batches, seeded
from iclr_repro.loki.methods import METHODS, ROW_STRATEGIES, method_model
from iclr_repro.loki.metrics import forgetting
from iclr_repro.loki.positions import load_positions, save_positions
from iclr_repro.loki.probing import knowledge_vector_attribution
from iclr_repro.loki.prompts import Message, load_mmlu, mmlu_probes, toolace_messages
from iclr_repro.loki.reranking import load_beir, load_run, pair_scores, retrieval_scores
from iclr_repro.loki.selection import Positions, select_rows
from iclr_repro.loki.suppression import SETS, suppress_rows
from iclr_repro.loki.tinyworld import IGNORED

_TINY = "tiny"  # the name of the random model
_CORDA_PROMPTS = 256
_BFCL = (*CATEGORIES, *NO_CALL_CATEGORIES, *SOME_CALL_CATEGORIES)


@dataclass(frozen=True, kw_only=True)
class Implanting:
    """Train a task into a model by each method; measure the task, general benchmarks, and what rows are worth."""

    data: DataChoice = parameter(f"probe prompts of MMLU: {DATA_CHOICE}; see also `dataset`")
    model: str = parameter("name or folder of a causal language model of transformers; tiny: a random Qwen2")
    dtype: Literal["float32", "bfloat16"] = parameter("of the model; what is trained is in float32")
    task: Literal["reranker", "toolace"] = parameter("what is implanted")
    dataset: str | None = parameter("`datasets` name or folder in sharegpt form; null: generated reranker pairs")
    methods: tuple[str, ...] = parameter("what is compared", choices=METHODS)
    positions: str = parameter(
        "rows of loki and loki_lora; released: the authors'; kva: own attribution; else a file of `save_positions`"
    )
    quota: float = parameter("q of the row methods", low=0.0, high=100.0, unit="%")
    lora_r: int = parameter("rank of the low-rank baselines", low=1)
    lora_alpha: float = parameter("their updates are scaled by alpha / r", low=0.0)
    loki_lora_r: int = parameter("rank of LoKI + LoRA", low=1)
    probes: int = parameter("probe prompts of the attribution, the first of each MMLU subject in turn", low=1)
    kva_steps: int = parameter("interpolation points m", low=1)
    kva_rule: Rule = parameter("where they lie")
    kva_batch: int = parameter("prompts at once", low=1)
    suppression_quotas: tuple[float, ...] = parameter(
        "q of the rows that are set to zero in the untrained model; []: none", low=0.0, high=100.0, unit="%"
    )
    random_draws: int = parameter("draws of random rows that are suppressed", low=1)
    samples: int | None = parameter("training samples; null: all", low=1)
    held_out: int = parameter("samples that the task is measured on", low=1)
    packing: bool = parameter("join dialogues to rows of `length` tokens; else a row each, cut there")
    length: int = parameter("tokens of a row", low=8)
    batch_size: int = parameter("rows of an update", low=1)
    accumulation: int = parameter("micro-batches of an update", low=1)
    checkpointing: bool = parameter("compute activations again in the backward pass, for memory")
    epochs: int = parameter("passes over the rows", low=1)
    learning_rate: float = parameter("highest, of every method", low=0.0)
    warmup_frac: float = parameter("share of the updates", low=0.0, high=1.0)
    benchmarks: tuple[str, ...] = parameter("tasks of lm-evaluation-harness; []: none", choices=tuple(METRICS))
    benchmark_limit: int | None = parameter("questions of each benchmark; null: all", low=1)
    bfcl: tuple[str, ...] = parameter("categories of BFCL, for task toolace; []: none", choices=_BFCL)
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
        if not self.methods:
            raise ValueError(f"methods: got none, expected some of {', '.join(METHODS)}")

    def run(self, run: Run) -> Result:
        """Load, select, suppress; then train and measure each method. Adapters are saved in the run's folder.

        What was measured before an interruption is not measured again.
        """
        base, tokenizer = self._model(run)
        prompts, kind = self._probe_prompts(run, tokenizer)
        dialogues, kind_of_task = self._dialogues(run)
        held_out, training = dialogues[: self.held_out], dialogues[self.held_out :]
        rows = [encode_dialogue(dialogue, tokenizer) for dialogue in training]
        metrics: dict[str, float] = {"n": len(held_out), "training/n": len(training), "probes/n": len(prompts)}

        def measured(name: str, model: nn.Module) -> dict[str, float]:
            """Scores of a model as name/...; forgetting against the original's benchmarks, where there are any."""
            found = kept(run, name, lambda: self._scores(model, held_out, tokenizer))
            return {f"{name}/{key}": value for key, value in found.items()} | self._forgetting(run, name)

        original = copy.deepcopy(base).to(run.device)
        metrics |= measured("original", original)
        attributions = self._attributions(run, original, prompts)
        positions = self._positions(run, original, attributions)
        if attributions is not None:
            metrics |= of_attributions(attributions)
            for name, suppressed in self._suppressed(run, attributions):
                with suppress_rows(original, suppressed):
                    metrics |= measured(name, original)
        del original
        for method in self.methods:
            model = self._method_model(run, base, method, positions.get(method), prompts)
            trained = [one for one in model.parameters() if one.requires_grad]
            metrics[f"{method}/parameters"] = sum(one.numel() for one in trained)
            self._train(run, model, method, rows)
            if method != "full":
                model.save_pretrained(run.dir / method)  # type: ignore[operator]  # of PeftModel
            metrics |= measured(method, model)
            del model, trained
        real = kind == kind_of_task == "real" and self.model != _TINY
        return Result(metrics=metrics, data="real" if real else "synthetic")

    def _model(self, run: Run) -> tuple[Any, Any]:
        """Return the untrained model, which stays on the CPU and is copied for every method, and its tokenizer."""
        if self.model != _TINY:
            tokenizer = AutoTokenizer.from_pretrained(self.model, padding_side="left")
            return AutoModelForCausalLM.from_pretrained(self.model, dtype=self.dtype), tokenizer
        tokenizer = byte_tokenizer()
        config = Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
        )
        with seeded(run, "initialisation"):
            return Qwen2ForCausalLM(config).eval(), tokenizer

    def _probe_prompts(self, run: Run, tokenizer: Any) -> tuple[list[list[int]], DataKind]:
        rows, kind = real_or_synthetic(self.data, load_mmlu, lambda: generated_questions(self.probes, run.rng("mmlu")))
        by_subject: dict[str, list[Any]] = {}
        for row in rows:
            by_subject.setdefault(row["subject"], []).append(row)
        share = -(-self.probes // len(by_subject))
        chosen = [row for questions in by_subject.values() for row in questions[:share]][: self.probes]
        return mmlu_probes(chosen, tokenizer), kind

    def _attributions(self, run: Run, model: nn.Module, prompts: list[list[int]]) -> np.ndarray | None:
        """Return the attributions [N, L, d], or None where nothing is selected by them."""
        given = {"full", "lora", "dora", "pissa", "corda", "random"}
        if self.positions != "kva":
            given |= {"loki", "loki_lora"}
        if not self.suppression_quotas and given.issuperset(self.methods):
            return None
        for prompt in prompts:
            check_prompt_length(model, len(prompt))
        return knowledge_vector_attribution(
            model,
            prompts,
            steps=self.kva_steps,
            rule=self.kva_rule,
            batch_size=self.kva_batch,
            folder=run.dir / "attributions",
            progress=lambda done, total: run.log.info("attribution: %d of %d prompts", done, total),
        )

    def _positions(self, run: Run, model: nn.Module, attributions: np.ndarray | None) -> dict[str, Positions]:
        """Return the rows of each row method, and save them."""
        found: dict[str, Positions] = {}
        for method in (name for name in self.methods if name in ROW_STRATEGIES):
            if method in ("loki", "loki_lora") and self.positions == "released":
                name = self.model.rstrip("/").rpartition("/")[2]
                found[method] = load_positions(locate(f"loki/pos_json/{name}/{self.quota:g}.json.gz"))
            elif method in ("loki", "loki_lora") and self.positions != "kva":
                found[method] = load_positions(self.positions)
            else:
                # Random rows need no attribution but the numbers of layers and rows.
                shaped = no_attributions(model) if attributions is None else attributions
                rng = run.rng("random rows")
                found[method] = select_rows(shaped, self.quota, strategy=ROW_STRATEGIES[method], rng=rng)
            save_positions(run.dir / f"positions_{method}.json", found[method])
        return found

    def _suppressed(self, run: Run, attributions: np.ndarray) -> list[tuple[str, Positions]]:
        """Return the sets of rows to suppress, each with its name."""
        rng = run.rng("suppressed rows")
        found = []
        for quota in self.suppression_quotas:
            for name, strategy in SETS.items():
                found.append((f"suppressed/{name}/q{quota:g}", select_rows(attributions, quota, strategy=strategy)))
            for draw in range(self.random_draws):
                drawn = select_rows(attributions, quota, strategy="random", rng=rng)
                found.append((f"suppressed/random{draw}/q{quota:g}", drawn))
        return found

    def _forgetting(self, run: Run, name: str) -> dict[str, float]:
        if not self.benchmarks or name == "original":
            return {}
        before, after = (read_json(scores_path(run, one)) for one in ("original", name))
        lost = forgetting(*({task: scores[task] for task in self.benchmarks} for scores in (before, after)))
        return {f"{name}/forgetting/average": lost.average, f"{name}/forgetting/clipped": lost.clipped}

    def _method_model(
        self, run: Run, base: nn.Module, method: str, rows: Positions | None, prompts: list[list[int]]
    ) -> nn.Module:
        model = copy.deepcopy(base).to(run.device)

        def preserve() -> None:
            for prompt in prompts[:: max(len(prompts) // _CORDA_PROMPTS, 1)][:_CORDA_PROMPTS]:
                model(input_ids=torch.tensor([prompt], device=run.device), use_cache=False)

        with seeded(run, f"adapter/{method}"):
            return method_model(
                method,
                model,
                rows=rows,
                r=self.lora_r,
                alpha=self.lora_alpha,
                loki_r=self.loki_lora_r,
                preserve=preserve,
            )

    def _scores(self, model: nn.Module, held_out: Sequence[Sequence[Message]], tokenizer: Any) -> dict[str, float]:
        """Return how a model does at the task and at the benchmarks; the latter by their own names, in percent."""
        found = {"loss": dialogue_loss(model, held_out, tokenizer)}
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
            found |= {f"bfcl/{category}": answer_accuracy(answers, items), f"bfcl/{category}/n": float(len(items))}
        return found | benchmark_scores(model, tokenizer, self.benchmarks, limit=self.benchmark_limit)

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

    def _train(self, run: Run, model: Any, method: str, rows: Sequence[tuple[list[int], list[int]]]) -> None:
        if self.checkpointing:  # transformers 5 has the first name
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        batches, num_rows = self._batches(run, rows)
        steps = max(self.epochs * num_rows // self.batch_size, 1)
        trained = [one for one in model.parameters() if one.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.learning_rate, weight_decay=0.0)
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
        run.fit(learner, steps, name=method, log_every=10)
        model.eval()
