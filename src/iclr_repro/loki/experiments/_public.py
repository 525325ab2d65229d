"""What the experiments on public models share: the model, its probe prompts and attributions, and scores."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from iclr_repro.core.data import DATA_CHOICE, DataChoice, real_or_synthetic
from iclr_repro.core.experiment import DataKind, parameter
from iclr_repro.core.files import read_json, write_json
from iclr_repro.core.footprint import Network
from iclr_repro.core.rundir import Run
from iclr_repro.loki.attribution import Rule, check_prompt_length
from iclr_repro.loki.benchmarks import METRICS
from iclr_repro.loki.chat import byte_tokenizer, encode_dialogue
from iclr_repro.loki.decoder import down_projections
from iclr_repro.loki.experiments._world import seeded
from iclr_repro.loki.metrics import forgetting
from iclr_repro.loki.probing import knowledge_vector_attribution
from iclr_repro.loki.prompts import Message, load_mmlu, mmlu_probes, reranker_messages
from iclr_repro.loki.selection import select_rows
from iclr_repro.loki.stability import crowding, overlap

_CROWDING_QUOTA, _STABILITY_QUOTA, _NESTED = 5, 30, (5, 10, 20, 30)  # percent; C8, C11, C12
TINY = "tiny"  # the name of the random model
QWEN_05B: Mapping[str, Any] = {  # of Qwen2.5-0.5B-Instruct
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
_SIZES = {"Qwen/Qwen2.5-0.5B-Instruct": QWEN_05B}


@dataclass(frozen=True, kw_only=True)
class OfPublicModel:
    """The fields of experiments on a public model: the model, its attributions, and general benchmarks."""

    data: DataChoice = parameter(f"probe prompts of MMLU: {DATA_CHOICE}")
    model: str = parameter("name or folder of a causal language model of transformers; tiny: a random Qwen2")
    dtype: Literal["float32", "bfloat16"] = parameter("of the model; what is trained is in float32")
    probes: int = parameter("probe prompts of the attribution, the first of each MMLU subject in turn", low=1)
    kva_steps: int = parameter("interpolation points m", low=1)
    kva_rule: Rule = parameter("where they lie")
    kva_batch: int = parameter("prompts at once", low=1)
    benchmarks: tuple[str, ...] = parameter(
        "tasks of lm-evaluation-harness; []: none", choices=tuple(METRICS), may_be_empty=True
    )
    benchmark_limit: int | None = parameter("the first questions of each benchmark; null: all", low=1)
    benchmark_batch: int = parameter("questions at once", low=1)

    def load_model(self, run: Run) -> tuple[Any, Any]:
        """Return the untrained model, on the CPU, and its tokenizer."""
        if self.model != TINY:
            tokenizer = AutoTokenizer.from_pretrained(self.model, padding_side="left")
            return AutoModelForCausalLM.from_pretrained(self.model, dtype=self.dtype), tokenizer
        with seeded(run, "initialisation"):
            return _tiny().eval(), byte_tokenizer()

    @property
    def builder(self) -> Callable[[], Qwen2ForCausalLM] | None:
        """What makes a model of the same shapes without its weights; None: only its name is known here."""
        if self.model == TINY:
            return _tiny
        sizes = _SIZES.get(self.model)
        if sizes is None:
            return None
        return lambda: Qwen2ForCausalLM(Qwen2Config(**sizes)).to(getattr(torch, self.dtype))

    def described(self) -> Network:
        """Describe the model as it is attributed and measured; texts decide on the length of its inputs."""
        note = f"{self.model} as it is, on prompts of any length" if self.builder else f"{self.model}, a hub's model"
        return Network(name="original", build=self.builder, is_trained=False, note=note)

    def probe_prompts(self, run: Run, tokenizer: Any) -> tuple[list[list[int]], DataKind]:
        """Return the token ids of the probe prompts, and whether they are MMLU's."""
        rows, kind = real_or_synthetic(self.data, load_mmlu, lambda: generated_questions(self.probes, run.rng("mmlu")))
        by_subject: dict[str, list[Any]] = {}
        for row in rows:
            by_subject.setdefault(row["subject"], []).append(row)
        share = -(-self.probes // len(by_subject))
        chosen = [row for questions in by_subject.values() for row in questions[:share]][: self.probes]
        return mmlu_probes(chosen, tokenizer), kind

    def attributions(self, run: Run, model: nn.Module, prompts: list[list[int]]) -> np.ndarray:
        """Return the attributions [N, L, d] in the model's own precision, kept in the run's folder."""
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

    def scoring(self, run: Run) -> contextlib.AbstractContextManager[Any]:
        """Return the precision that every model is scored in, trained or not: float32 weights, bf16 where dtype is."""
        device = torch.device(run.device).type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.dtype == "bfloat16")

    def forgetting_of(self, run: Run, name: str) -> dict[str, float]:
        """Return forgetting against the original's benchmarks, where there are any; n: benchmarks that count."""
        if not self.benchmarks or name == "original":
            return {}
        before, after = (read_json(scores_path(run, one)) for one in ("original", name))
        lost = forgetting(*({task: scores[task] for task in self.benchmarks} for scores in (before, after)))
        if lost.dropped:
            run.log.warning("%s: the original scores 0 at %s, which does not count", name, ", ".join(lost.dropped))
        return {
            f"{name}/forgetting/average": lost.average,
            f"{name}/forgetting/clipped": lost.clipped,
            f"{name}/forgetting/n": float(len(lost.by_benchmark)),
        }


def _tiny() -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=len(byte_tokenizer()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    return Qwen2ForCausalLM(config)


def scores_path(run: Run, name: str) -> Path:
    """Return where the scores of a model are kept."""
    return run.dir / "scores" / f"{name.replace('/', '_')}.json"


def kept(run: Run, name: str, compute: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Return scores that were computed before, or compute and keep them."""
    path = scores_path(run, name)
    if not path.exists():
        write_json(path, compute())
    found: dict[str, float] = read_json(path)
    return found


def no_attributions(model: nn.Module) -> np.ndarray:
    """Return zeros [1, L, d], for random rows of a model that was not attributed."""
    projections = down_projections(model)
    return np.zeros((1, len(projections), projections[0].num_rows), dtype=np.float32)


def of_attributions(
    attributions: np.ndarray, resamples: int, rng: np.random.Generator
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Return what attributions alone say (C8, C11, C12), and 95 % intervals over the probe prompts.

    crowding/pearson_r and nested/*: of all prompts, with percentile intervals of bootstrap samples of the prompts.
    stability/half_in_whole and stability/halves: means over random halves, of the overlap of a half's rows with those
    from all prompts and with the other half's; percentiles over the halves.
    """
    found = _of_all(attributions)
    number = len(attributions)
    drawn: dict[str, list[float]] = {}
    for _ in range(resamples):
        for name, value in _of_all(attributions[rng.integers(number, size=number)]).items():
            drawn.setdefault(name, []).append(value)
    if number > 1:
        whole = select_rows(attributions, _STABILITY_QUOTA)
        for _ in range(resamples):
            halves = np.array_split(rng.permutation(number), 2)
            first, second = (select_rows(attributions[half], _STABILITY_QUOTA) for half in halves)
            drawn.setdefault("stability/half_in_whole", []).append(overlap(first, whole))
            drawn.setdefault("stability/halves", []).append(overlap(first, second))
    for name in ("stability/half_in_whole", "stability/halves"):
        if name in drawn:
            found[name] = float(np.mean(drawn[name]))
    intervals = {}
    for name in found:
        if len(drawn.get(name, ())) == resamples:  # where a correlation is not defined in a sample, there is none
            low, high = np.percentile(drawn[name], [2.5, 97.5])
            intervals[name] = (float(low), float(high))
    return found, intervals


def _of_all(attributions: np.ndarray) -> dict[str, float]:
    found = {}
    _, correlation = crowding(attributions, _CROWDING_QUOTA)
    if correlation is not None:
        found["crowding/pearson_r"] = correlation
    selections = [select_rows(attributions, quota) for quota in _NESTED]
    for (small, inner), (large, outer) in itertools.pairwise(zip(_NESTED, selections, strict=True)):
        found[f"nested/q{small}_in_q{large}"] = overlap(inner, outer)
    return found


@torch.no_grad()
def dialogue_loss(model: nn.Module, dialogues: Sequence[Sequence[Message]], tokenizer: Any) -> float:
    """Return the mean over dialogues of the loss in nats of the assistant's tokens."""
    losses = []
    device = next(model.parameters()).device
    for dialogue in dialogues:
        ids, labels = (torch.tensor([part], device=device) for part in encode_dialogue(dialogue, tokenizer))
        losses.append(float(model(input_ids=ids, labels=labels, use_cache=False).loss))
    return float(np.mean(losses))


def generated_pairs(number: int, rng: np.random.Generator) -> list[list[Message]]:
    """Return pairs of three-symbol queries and six-symbol texts, label 1 + 2 x overlap (sheet 6.1, `rank`)."""
    made = []
    for _ in range(number):
        symbols = rng.permutation(16)
        query, shared = symbols[:3], int(rng.integers(4))
        text = rng.permutation(np.concatenate([query[:shared], symbols[3 : 9 - shared]]))
        words = [" ".join(chr(97 + symbol) for symbol in part) for part in (query, text)]
        made.append(reranker_messages(words[0], words[1], 1 + 2 * shared))
    return made


def generated_questions(number: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return sums with four answers, in the form of MMLU."""
    made = []
    for _ in range(number):
        a, b = rng.integers(50, size=2)
        choices = [str(a + b + shift) for shift in (0, 1, 2, 3)]
        made.append({"subject": "sums", "question": f"What is {a} + {b}?", "choices": choices, "answer": 0})
    return made
