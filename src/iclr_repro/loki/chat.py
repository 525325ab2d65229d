"""Dialogues as training rows: only what the assistant says is learnt."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from iclr_repro.loki.prompts import Message
from iclr_repro.loki.tinyworld import IGNORED

_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes with a chat template, for models that come without one.

    Its vocabulary: <|end|> (also padding), <|system|>, <|user|>, <|assistant|>, <|tool|>, then 256 bytes.
    """
    marks = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]
    pieces = [*marks, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=marks[0], pad_token=marks[0], extra_special_tokens=marks[1:]
    )
    made.chat_template = _TEMPLATE
    return made


def render(messages: Sequence[Message], tokenizer: Any, *, prompt: bool = False) -> list[int]:
    """Return the token ids of turns through the chat template; as a prompt, up to where an answer begins."""
    text = tokenizer.apply_chat_template(list(messages), add_generation_prompt=prompt, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_dialogue(messages: Sequence[Message], tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return ids and labels of a dialogue through the tokenizer's chat template; labels are the assistant's tokens.

    Raises:
        ValueError: the template writes a dialogue that does not begin with what it wrote of its first turns, so that
            the assistant's part cannot be told.
    """
    ids = render(messages, tokenizer)
    labels = [IGNORED] * len(ids)
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = render(messages[:turn], tokenizer, prompt=True)
        after = render(messages[: turn + 1], tokenizer)
        if ids[: len(after)] != after or after[: len(before)] != before:
            raise ValueError(
                f"the chat template of {type(tokenizer).__name__} changes earlier turns when turn {turn} is added:"
                " the assistant's tokens cannot be told apart"
            )
        labels[len(before) : len(after)] = ids[len(before) : len(after)]
    return ids, labels


def padded(
    rows: Sequence[tuple[Sequence[int], Sequence[int]]], length: int
) -> tuple[Int[Tensor, "N T"], Int[Tensor, "N T"]]:
    """Return rows of (ids, labels) as a batch, cut after `length` tokens and padded on the right to the longest.

    The padding needs no mask: in a causal model no token that counts sees it.
    """
    width = min(max(len(ids) for ids, _ in rows), length)
    ids_NT, labels_NT = torch.zeros(len(rows), width, dtype=torch.int64), torch.full((len(rows), width), IGNORED)
    for place, (ids, labels) in enumerate(rows):
        used = min(len(ids), width)
        ids_NT[place, :used] = torch.tensor(ids[:used])
        labels_NT[place, :used] = torch.tensor(labels[:used])
    return ids_NT, labels_NT


def left_padded(rows: Sequence[Sequence[int]]) -> dict[str, Int[Tensor, "N T"]]:
    """Return prompts as a batch padded on the left: `input_ids`, and the `attention_mask` that hides the padding."""
    width = max(len(ids) for ids in rows)
    ids_NT, mask_NT = torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width, dtype=torch.int64)
    for place, ids in enumerate(rows):
        ids_NT[place, width - len(ids) :] = torch.tensor(ids)
        mask_NT[place, width - len(ids) :] = 1
    return {"input_ids": ids_NT, "attention_mask": mask_NT}


def packed(
    rows: Iterable[tuple[Sequence[int], Sequence[int]]], length: int
) -> tuple[Int[Tensor, "N T"], Int[Tensor, "N T"]]:
    """Join rows of (ids, labels) and cut them into pieces of `length` tokens; the rest is left out.

    So are pieces in which nothing is to be predicted, whose mean loss is not defined.

    Raises:
        ValueError: the rows do not fill one piece.
    """
    ids, labels = (list(itertools.chain.from_iterable(part)) for part in zip(*rows, strict=True))
    number = len(ids) // length
    if number == 0:
        raise ValueError(f"{len(ids)} tokens do not fill one piece of {length}: give more samples or a smaller length")
    ids_NT, labels_NT = (torch.tensor(part[: number * length]).reshape(number, length) for part in (ids, labels))
    learnt = (labels_NT[:, 1:] != IGNORED).any(dim=1)  # the first token of a piece has none before it
    return ids_NT[learnt], labels_NT[learnt]
