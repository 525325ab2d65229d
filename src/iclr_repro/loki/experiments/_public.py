"""What experiment implanting measures of a model and of its attributions, keeps, and generates."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from iclr_repro.core.files import read_json, write_json
from iclr_repro.core.rundir import Run
from iclr_repro.loki.chat import encode_dialogue
from iclr_repro.loki.decoder import down_projections
from iclr_repro.loki.prompts import Message, reranker_messages
from iclr_repro.loki.selection import select_rows
from iclr_repro.loki.stability import crowding, overlap

_CROWDING_QUOTA, _STABILITY_QUOTA, _NESTED = 5, 30, (5, 10, 20, 30)  # percent; C8, C11, C12


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


def of_attributions(attributions: np.ndarray) -> dict[str, float]:
    """Return what attributions alone say: where the global ends are, and how far selections are stable and nested.

    `half_in_whole`: overlap of the rows from every other prompt with those from all; `halves`: of the two halves.
    """
    found = {}
    _, correlation = crowding(attributions, _CROWDING_QUOTA)
    if correlation is not None:
        found["crowding/pearson_r"] = correlation
    if len(attributions) > 1:
        parts = (attributions[::2], attributions[1::2], attributions)
        first, second, whole = (select_rows(part, _STABILITY_QUOTA) for part in parts)
        found |= {"stability/half_in_whole": overlap(first, whole), "stability/halves": overlap(first, second)}
    for small, large in itertools.pairwise(_NESTED):
        inner, outer = select_rows(attributions, small), select_rows(attributions, large)
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
