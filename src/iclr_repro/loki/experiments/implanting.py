"""Implanting a task into a public model: the reranker and ToolACE settings of the paper (sheet 4.1, 4.2, 6.3).

At scale `cpu` the same code runs on a tiny random model with generated pairs: it shows that the code works, no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import datasets
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
from iclr_repro.core.rundir import Run
from iclr_repro.core.supervised import Supervised
from iclr_repro.loki.attribution import Rule, check_prompt_length
from iclr_repro.loki.baselines import with_adapter
from iclr_repro.loki.chat import byte_tokenizer, encode_dialogue, packed, padded
from iclr_repro.loki.config import LokiConfig
from iclr_repro.loki.experiments._world import answer_loss, row_batches, seeded
from iclr_repro.loki.metrics import forgetting
from iclr_repro.loki.positions import load_positions, save_positions
from iclr_repro.loki.probing import knowledge_vector_attribution
from iclr_repro.loki.prompts import (
    RERANKER_LABELS,
    Message,
    load_mmlu,
    mmlu_probes,
    reranker_contrast,
    reranker_messages,
    reranker_score,
    toolace_messages,
)
from iclr_repro.loki.selection import Positions, Strategy, select_rows
from iclr_repro.loki.tinyworld import IGNORED

_TINY = "tiny"  # the name of the random model
# The metric of lm-evaluation-harness that stands for each of the paper's benchmarks.
METRICS = {
    "triviaqa": "exact_match,remove_whitespace",
    "gsm8k": "exact_match,strict-match",
    "hellaswag": "acc_norm,none",
    "winogrande": "acc,none",
    "humaneval": "pass@1,create_test",
    "ifeval": "prompt_level_strict_acc,none",
}


@dataclass(frozen=True, kw_only=True)
class Implanting:
    """Select rows (released or by attribution), train them on a task, and measure the task and general benchmarks."""

    uses_seeds: ClassVar[bool] = False

    data: DataChoice = parameter(f"probe prompts of MMLU: {DATA_CHOICE}; see also `dataset`")
    model: str = parameter("name or folder of a causal language model of transformers; tiny: a random Qwen2")
    dtype: Literal["float32", "bfloat16"] = parameter("of the model")
    task: Literal["reranker", "toolace"] = parameter("what is implanted")
    dataset: str | None = parameter("`datasets` name or folder in sharegpt form; null: generated reranker pairs")
    positions: str = parameter("released: the authors' rows; kva: own attribution; else a file of `save_positions`")
    strategy: Strategy = parameter("how rows are selected from an own attribution; see `select_rows`")
    quota: float = parameter("q", low=0.0, high=100.0, unit="%")
    lora_r: int | None = parameter("train the rows by an update of this rank (LoKI + LoRA); null: directly", low=1)
    probes: int = parameter("probe prompts of the attribution, the first of each MMLU subject in turn", low=1)
    kva_steps: int = parameter("interpolation points m", low=1)
    kva_rule: Rule = parameter("where they lie")
    kva_batch: int = parameter("prompts at once", low=1)
    samples: int | None = parameter("training samples; null: all", low=1)
    held_out: int = parameter("samples that the task is measured on", low=1)
    packing: bool = parameter("join dialogues to rows of `length` tokens; else a row each, cut there")
    length: int = parameter("tokens of a row", low=8)
    batch_size: int = parameter("rows of an update", low=1)
    accumulation: int = parameter("micro-batches of an update", low=1)
    checkpointing: bool = parameter("compute activations again in the backward pass, for memory")
    epochs: int = parameter("passes over the rows", low=1)
    learning_rate: float = parameter("highest", low=0.0)
    warmup_frac: float = parameter("share of the updates", low=0.0, high=1.0)
    benchmarks: tuple[str, ...] = parameter(
        "tasks of lm-evaluation-harness, before and after; []: none", choices=tuple(METRICS)
    )
    benchmark_limit: int | None = parameter("questions of each benchmark; null: all", low=1)

    def run(self, run: Run) -> Result:
        """Load, select, train, measure; the adapter is saved in the run's folder."""
        model, tokenizer = self._model(run)
        prompts, kind = self._probe_prompts(run, tokenizer)
        before = benchmark_scores(model, tokenizer, self.benchmarks, limit=self.benchmark_limit)
        positions = self._positions(run, model, prompts)
        save_positions(run.dir / "positions.json", positions)
        dialogues, kind_of_task = self._dialogues(run)
        held_out, training = dialogues[: self.held_out], dialogues[self.held_out :]
        metrics: dict[str, float] = {"n": len(held_out), "training/n": len(training), "probes/n": len(prompts)}
        rows = [encode_dialogue(dialogue, tokenizer) for dialogue in training]
        metrics |= self._task_scores(model, held_out, tokenizer, "before")
        config = LokiConfig(
            active_pos=positions,
            quota=self.quota,
            strategy=self.strategy if self.positions == "kva" else self.positions,
            lora_r=self.lora_r,
            lora_alpha=2.0 * (self.lora_r or 1),
            task_type="CAUSAL_LM",
        )
        with seeded(run, "adapter"):
            adapted = with_adapter(model, config)
        metrics["parameters"] = sum(one.numel() for one in adapted.parameters() if one.requires_grad)
        self._train(run, adapted, rows)
        adapted.save_pretrained(run.dir / "adapter")
        metrics |= self._task_scores(adapted, held_out, tokenizer, "after")
        after = benchmark_scores(adapted, tokenizer, self.benchmarks, limit=self.benchmark_limit)
        if before:
            lost = forgetting(before, after)
            metrics |= {"forgetting/average": lost.average, "forgetting/clipped": lost.clipped}
            metrics |= {f"before/{name}": score for name, score in before.items()}
            metrics |= {f"after/{name}": score for name, score in after.items()}
        real = kind == kind_of_task == "real" and self.model != _TINY
        return Result(metrics=metrics, data="real" if real else "synthetic")

    def _model(self, run: Run) -> tuple[Any, Any]:
        if self.model != _TINY:
            tokenizer = AutoTokenizer.from_pretrained(self.model, padding_side="left")
            return AutoModelForCausalLM.from_pretrained(self.model, dtype=self.dtype).to(run.device), tokenizer
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
            return Qwen2ForCausalLM(config).to(run.device), tokenizer

    def _probe_prompts(self, run: Run, tokenizer: Any) -> tuple[list[list[int]], DataKind]:
        rows, kind = real_or_synthetic(self.data, load_mmlu, lambda: _generated_questions(self.probes, run.rng("mmlu")))
        by_subject: dict[str, list[Any]] = {}
        for row in rows:
            by_subject.setdefault(row["subject"], []).append(row)
        share = -(-self.probes // len(by_subject))
        chosen = [row for questions in by_subject.values() for row in questions[:share]][: self.probes]
        return mmlu_probes(chosen, tokenizer), kind

    def _positions(self, run: Run, model: nn.Module, prompts: list[list[int]]) -> Positions:
        if self.positions == "released":
            name = self.model.rstrip("/").rpartition("/")[2]
            return load_positions(locate(f"loki/pos_json/{name}/{self.quota:g}.json.gz"))
        if self.positions != "kva":
            return load_positions(self.positions)
        for prompt in prompts:
            check_prompt_length(model, len(prompt))
        attributions = knowledge_vector_attribution(
            model,
            prompts,
            steps=self.kva_steps,
            rule=self.kva_rule,
            batch_size=self.kva_batch,
            folder=run.dir / "attributions",
            progress=lambda done, total: run.log.info("attribution: %d of %d prompts", done, total),
        )
        return select_rows(attributions, self.quota, strategy=self.strategy, rng=run.rng("random rows"))

    def _dialogues(self, run: Run) -> tuple[list[list[Message]], DataKind]:
        rng = run.rng("dialogues")
        number = None if self.samples is None else self.samples + self.held_out
        if self.dataset is None:
            return _generated_pairs(number or 1000, rng), "synthetic"
        rows = datasets.load_dataset(self.dataset, split="train")
        order = rng.permutation(len(rows))[:number]
        return [toolace_messages(rows[int(index)]) for index in order], "real"

    def _task_scores(
        self, model: nn.Module, held_out: Sequence[Sequence[Message]], tokenizer: Any, when: str
    ) -> dict[str, float]:
        found = {f"loss/{when}": _loss(model, held_out, tokenizer)}
        if self.task == "reranker":
            found |= {f"reranker/{key}/{when}": value for key, value in _reranking(model, held_out, tokenizer).items()}
        return found

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

    def _train(self, run: Run, model: Any, rows: Sequence[tuple[list[int], list[int]]]) -> None:
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
        run.fit(learner, steps, name="implanting", log_every=10)
        model.eval()


def benchmark_scores(model: Any, tokenizer: Any, tasks: Sequence[str], *, limit: int | None = None) -> dict[str, float]:
    """Return the metric in `METRICS` of each task of lm-evaluation-harness in percent; no tasks, no scores.

    Prompts go through the chat template. The paper used OpenCompass, whose prompts give other absolute scores: compare
    relative degradation only. `humaneval` runs code that the model writes, which its metric does only where the
    environment has HF_ALLOW_CODE_EVAL=1.

    Raises:
        ImportError: lm-evaluation-harness, the extra `benchmarks`, is not installed.
        KeyError: the installed version has no such metric.
    """
    if not tasks:
        return {}
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise ImportError(
            "benchmarks needs lm-evaluation-harness: pip install 'iclr-repro[benchmarks]', or set benchmarks=[]"
        ) from error
    found = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer),
        tasks=list(tasks),
        limit=limit,
        apply_chat_template=True,
        confirm_run_unsafe_code=True,
    )
    return {task: 100 * _metric_of(found["results"], task) for task in tasks}


def _metric_of(results: dict[str, dict[str, Any]], task: str) -> float:
    if METRICS[task] not in results[task]:
        raise KeyError(f"{task}: lm-evaluation-harness gave no {METRICS[task]!r} but {', '.join(results[task])}")
    return float(results[task][METRICS[task]])


@torch.no_grad()
def _loss(model: nn.Module, dialogues: Sequence[Sequence[Message]], tokenizer: Any) -> float:
    """Return the mean over dialogues of the loss in nats of the assistant's tokens."""
    losses = []
    device = next(model.parameters()).device
    for dialogue in dialogues:
        ids, labels = (torch.tensor([part], device=device) for part in encode_dialogue(dialogue, tokenizer))
        losses.append(float(model(input_ids=ids, labels=labels, use_cache=False).loss))
    return float(np.mean(losses))


@torch.no_grad()
def _reranking(model: nn.Module, dialogues: Sequence[Sequence[Message]], tokenizer: Any) -> dict[str, float]:
    """Return the share of held-out pairs with the right digit most probable, and how the two scores do.

    mean_error: of the expected label. contrast: the second score, its sign turned for labels below 4, so that higher is
    better; pairs labelled 4 count as 0.
    """
    labels = [tokenizer(label, add_special_tokens=False)["input_ids"][0] for label in RERANKER_LABELS]
    device = next(model.parameters()).device
    right, errors, contrasts = [], [], []
    for dialogue in dialogues:
        text = tokenizer.apply_chat_template(list(dialogue[:-1]), add_generation_prompt=True, tokenize=False)
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]], device=device)
        p = model(input_ids=ids, use_cache=False).logits[0, -1, labels].float().softmax(dim=-1).tolist()
        true = int(dialogue[-1]["content"])
        right.append(int(np.argmax(p)) + 1 == true)
        errors.append(abs(reranker_score(p) - true))
        contrasts.append(np.sign(true - 4) * reranker_contrast(p))
    return {
        "accuracy": float(np.mean(right)),
        "mean_error": float(np.mean(errors)),
        "contrast": float(np.mean(contrasts)),
    }


def _generated_pairs(number: int, rng: np.random.Generator) -> list[list[Message]]:
    """Pairs of three-symbol queries and six-symbol texts, label 1 + 2 x overlap (sheet 6.1, `rank`)."""
    made = []
    for _ in range(number):
        symbols = rng.permutation(16)
        query, shared = symbols[:3], int(rng.integers(4))
        text = rng.permutation(np.concatenate([query[:shared], symbols[3 : 9 - shared]]))
        words = [" ".join(chr(97 + symbol) for symbol in part) for part in (query, text)]
        made.append(reranker_messages(words[0], words[1], 1 + 2 * shared))
    return made


def _generated_questions(number: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Sums with four answers, in the form of MMLU."""
    made = []
    for _ in range(number):
        a, b = rng.integers(50, size=2)
        choices = [str(a + b + shift) for shift in (0, 1, 2, 3)]
        made.append({"subject": "sums", "question": f"What is {a} + {b}?", "choices": choices, "answer": 0})
    return made
