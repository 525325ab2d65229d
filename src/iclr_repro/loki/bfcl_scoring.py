"""Scoring a model by the AST check of BFCL, single-turn categories.

The multi-turn categories are left out: they check the state of simulated back ends (a file system, a trading account)
after each turn, which are part of BFCL's own code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from iclr_repro.loki.bfcl import ast_match, parse_calls
from iclr_repro.loki.chat import left_padded, render
from iclr_repro.loki.prompts import Message

_BATCH = 8  # answers at once
_INSTRUCTION = (
    "You are given a question and a list of functions as JSON. If functions answer the question, reply with the calls"
    " alone, in the form [name1(argument1=value1, argument2=value2), name2(argument=value)]. If none does, or an"
    " argument is missing, say so and call nothing.\n"
)


def bfcl_messages(row: Mapping[str, Any]) -> list[Message]:
    """Return the prompt of a single-turn item: a system turn with the functions as JSON, then the question.

    This is the form of ToolACE's rows, whose system turns hold the functions and whose answers are "[f(x=1)]"; the
    `tools` of a chat template ask for another form of answer. The wording of the instruction is ours. A system turn of
    the item itself follows the functions.

    Raises:
        ValueError: the item has several turns.
    """
    if len(row["question"]) != 1:
        raise ValueError(f"{row['id']}: {len(row['question'])} turns, expected one: multi-turn items are not scored")
    turns = list(row["question"][0])
    system = _INSTRUCTION + json.dumps(row["function"], ensure_ascii=False)
    while turns and turns[0]["role"] == "system":
        system += "\n" + turns.pop(0)["content"]
    return [{"role": "system", "content": system}, *turns]


def answer_accuracy(answers: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the share of items whose answer is right by `ast_match`; text that is no list of calls calls nothing.

    Raises:
        ValueError: there are not as many answers as items.
    """
    return float(np.mean([ast_match(_calls(text), row) for text, row in zip(answers, rows, strict=True)]))


@torch.no_grad()
def greedy_answers(
    model: nn.Module, tokenizer: Any, prompts: Sequence[Sequence[Message]], *, max_new_tokens: int
) -> list[str]:
    """Return the model's most probable continuation, token by token, of each prompt through the chat template."""
    device = next(model.parameters()).device
    ids = [render(prompt, tokenizer, prompt=True) for prompt in prompts]
    answers = [""] * len(ids)
    by_length = sorted(range(len(ids)), key=lambda place: len(ids[place]))
    for start in range(0, len(ids), _BATCH):
        places = by_length[start : start + _BATCH]
        inputs = {name: part.to(device) for name, part in left_padded([ids[place] for place in places]).items()}
        made = model.generate(  # type: ignore[operator]  # of transformers' GenerationMixin
            **inputs,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.eos_token_id,
        )
        for place, tokens in zip(places, made[:, inputs["input_ids"].shape[1] :], strict=True):
            answers[place] = tokenizer.decode(tokens, skip_special_tokens=True)
    return answers


def _calls(text: str) -> list[dict[str, dict[str, Any]]]:
    try:
        return parse_calls(text)
    except ValueError:
        return []
