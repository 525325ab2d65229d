"""TinyWorld: a generated world with six disjoint skills to pretrain on and a new task to implant.

Each sample is a prompt and an answer; skills stand in for the paper's six benchmarks (sheet 6.1).

Shape letters: N = samples, P = prompt tokens, A = answer tokens, T = tokens of a padded row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

_SPECIAL = (
    *("PAD", "BOS", "FACT", "MC", "ADD", "SEQ", "WINO", "REV", "INS", "TOOL", "RANK", "ANS", "A", "B", "C", "D"),
    *("EQ", "EOS", "LP", "RP", "COMMA", "FIRST", "LAST", "MAX", "MIN", "SEP"),
    *(f"R{label}" for label in range(1, 8)),
)
_BLOCKS = {"ENTITY": 64, "REL": 4, "VALUE": 48, "NUMBER": 13, "SYMBOL": 16, "NEWREL": 2, "FUNCTION": 8}
VOCABULARY = (*_SPECIAL, *(f"{name}{index}" for name, size in _BLOCKS.items() for index in range(size)))
TOKEN = {name: index for index, name in enumerate(VOCABULARY)}

SKILLS = ("fact", "add", "seq", "wino", "rev", "ins")
TARGETS = ("newf", "tl")
IGNORED = -100
_BOS, _EOS, _PAD, _ANS = (TOKEN[name] for name in ("BOS", "EOS", "PAD", "ANS"))
_ENTITY, _REL, _VALUE, _NUMBER, _SYMBOL = (TOKEN[f"{name}0"] for name in ("ENTITY", "REL", "VALUE", "NUMBER", "SYMBOL"))
_OPS = tuple(TOKEN[name] for name in ("FIRST", "LAST", "MAX", "MIN"))


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of one skill: prompts [N, P] and answers [N, A], token ids."""

    prompts: Int[np.ndarray, "N P"]
    answers: Int[np.ndarray, "N A"]

    def __len__(self) -> int:
        return len(self.prompts)


class TinyWorld:
    """The tables of one world, and a generator of samples for each skill.

    Args:
        rng: draws the tables: facts, new facts, and the grammar of sequences.
        num_entities: at most 64.
        num_relations: at most 4.
        num_symbols: at most 16, at least `reversed_length`.
        reversed_length: symbols of the skill `rev`.

    Raises:
        ValueError: a number outside these bounds.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        *,
        num_entities: int = 64,
        num_relations: int = 4,
        num_symbols: int = 16,
        reversed_length: int = 4,
    ) -> None:
        limits = {
            "num_entities": (num_entities, 64),
            "num_relations": (num_relations, 4),
            "num_symbols": (num_symbols, 16),
        }
        for name, (given, high) in limits.items():
            if not 2 <= given <= high:
                raise ValueError(f"{name}: got {given}, expected 2 to {high} (the vocabulary has no more)")
        if reversed_length < 1:
            raise ValueError(f"reversed_length: got {reversed_length}, expected >= 1")
        self.num_entities, self.num_relations = num_entities, num_relations
        self.num_symbols, self.reversed_length = num_symbols, reversed_length
        self._facts = rng.integers(_BLOCKS["VALUE"], size=(num_entities, num_relations))
        self._new_facts = rng.integers(_BLOCKS["VALUE"], size=num_entities)
        self._grammar = rng.integers(num_symbols, size=(num_symbols, num_symbols))

    def samples(self, skill: str, number: int, rng: np.random.Generator) -> Samples:
        """Draw samples of a skill or of a target task.

        Raises:
            ValueError: an unknown skill, or fewer than one sample.
        """
        if skill not in (*SKILLS, *TARGETS):
            raise ValueError(f"skill: got {skill!r}, expected one of {', '.join((*SKILLS, *TARGETS))}")
        if number < 1:
            raise ValueError(f"number of samples: got {number}, expected >= 1")
        made: Samples = getattr(self, f"_{skill}")(number, rng)
        return made

    def num_prompts(self, skill: str) -> int:
        """Return how many different prompts a skill has.

        Raises:
            ValueError: an unknown skill.
        """
        entities, symbols, numbers = self.num_entities, self.num_symbols, _BLOCKS["NUMBER"]
        found = {
            "fact": entities * self.num_relations,
            "add": numbers**2,
            "seq": symbols**2,
            "wino": entities * (entities - 1) * symbols**2 * 2,
            "rev": symbols**self.reversed_length,
            "ins": len(_OPS) * numbers * (numbers - 1) * (numbers - 2),
        }
        if skill not in found:
            raise ValueError(f"skill: got {skill!r}, expected one of {', '.join(SKILLS)}")
        return found[skill]

    def distinct_prompts(self, skill: str, number: int, rng: np.random.Generator) -> Int[np.ndarray, "N P"]:
        """Draw different prompts of a skill, without replacement.

        Raises:
            ValueError: an unknown skill, or more prompts than it has.
        """
        if not 1 <= number <= (most := self.num_prompts(skill)):
            raise ValueError(f"number of prompts: got {number}, expected 1 to {most}, as many as {skill!r} has")
        drawn = self.samples(skill, number, rng).prompts
        while True:
            _, first = np.unique(drawn, axis=0, return_index=True)
            drawn = drawn[np.sort(first)]
            if len(drawn) >= number:
                return drawn[:number]
            drawn = np.concatenate([drawn, self.samples(skill, number, rng).prompts])

    def new_facts(self) -> Samples:
        """Return every sample of the target task `newf` once, in the order of the entities."""
        return self._of_new_facts(np.arange(self.num_entities))

    def _fact(self, number: int, rng: np.random.Generator) -> Samples:
        entity, relation = rng.integers(self.num_entities, size=number), rng.integers(self.num_relations, size=number)
        return _samples("FACT", [_ENTITY + entity, _REL + relation], [_VALUE + self._facts[entity, relation]])

    def _add(self, number: int, rng: np.random.Generator) -> Samples:
        a, b = rng.integers(_BLOCKS["NUMBER"], size=(2, number))
        return _samples("ADD", [_NUMBER + a, _NUMBER + b], [_NUMBER + (a + b) % _BLOCKS["NUMBER"]])

    def _seq(self, number: int, rng: np.random.Generator) -> Samples:
        symbols = list(rng.integers(self.num_symbols, size=(2, number)))
        for _ in range(3):
            symbols.append(self._grammar[symbols[-2], symbols[-1]])
        columns = [_SYMBOL + column for column in symbols]
        return _samples("SEQ", columns[:2], columns[2:], with_ans=False)

    def _wino(self, number: int, rng: np.random.Generator) -> Samples:
        first, second = _distinct(self.num_entities, 2, number, rng)
        symbols = _SYMBOL + rng.integers(self.num_symbols, size=(2, number))
        asked = rng.integers(2, size=number)
        prompt = [
            _ENTITY + first,
            symbols[0],
            _ENTITY + second,
            symbols[1],
            np.full(number, TOKEN["SEP"]),
            _ENTITY + np.where(asked == 0, first, second),
        ]
        return _samples("WINO", prompt, [np.where(asked == 0, symbols[0], symbols[1])])

    def _rev(self, number: int, rng: np.random.Generator) -> Samples:
        symbols = list(_SYMBOL + rng.integers(self.num_symbols, size=(self.reversed_length, number)))
        return _samples("REV", symbols, symbols[::-1])

    def _ins(self, number: int, rng: np.random.Generator) -> Samples:
        op = rng.integers(len(_OPS), size=number)
        numbers = np.stack(_distinct(_BLOCKS["NUMBER"], 3, number, rng))
        answers = np.stack([numbers[0], numbers[2], numbers.max(axis=0), numbers.min(axis=0)])
        chosen = answers[op, np.arange(number)]
        return _samples("INS", [np.array(_OPS)[op], *(_NUMBER + numbers)], [_NUMBER + chosen])

    def _newf(self, number: int, rng: np.random.Generator) -> Samples:
        return self._of_new_facts(rng.integers(self.num_entities, size=number))

    def _of_new_facts(self, entity: np.ndarray) -> Samples:
        prompt = [_ENTITY + entity, np.full(len(entity), _REL)]
        return _samples("REV", prompt, [_VALUE + self._new_facts[entity]])

    def _tl(self, number: int, rng: np.random.Generator) -> Samples:
        op = rng.integers(len(_OPS), size=number)
        a, b = _SYMBOL + rng.integers(self.num_symbols, size=(2, number))
        pairs = np.stack([[a, b], [b, a], [a, a], [b, b]])[op, :, np.arange(number)]
        return _samples("INS", [np.array(_OPS)[op], a, b], list(pairs.T))


def training_rows(parts: Sequence[Samples]) -> tuple[Int[Tensor, "N T"], Int[Tensor, "N T"]]:
    """Return ids and labels, each row prompt, answer, EOS and padding on the right; only answer and EOS have labels.

    The padding needs no mask: in a causal model no token that counts sees it.
    """
    width = max(part.prompts.shape[1] + part.answers.shape[1] for part in parts) + 1
    ids = [np.full((len(part), width), _PAD) for part in parts]
    labels = [np.full((len(part), width), IGNORED) for part in parts]
    for part, row_ids, row_labels in zip(parts, ids, labels, strict=True):
        start, end = part.prompts.shape[1], part.prompts.shape[1] + part.answers.shape[1]
        row_ids[:, :start] = part.prompts
        row_ids[:, start:end] = row_labels[:, start:end] = part.answers
        row_ids[:, end] = row_labels[:, end] = _EOS
    return torch.from_numpy(np.concatenate(ids)), torch.from_numpy(np.concatenate(labels))


@torch.no_grad()
def accuracy(model: nn.Module, samples: Samples) -> float:
    """Return the share of samples all of whose answer tokens are most probable, given the right ones before."""
    device = next(model.parameters()).device
    ids = torch.from_numpy(np.concatenate([samples.prompts, samples.answers], axis=1)).to(device)
    start = samples.prompts.shape[1]
    predicted = model(input_ids=ids[:, :-1], use_cache=False).logits[:, start - 1 :].argmax(dim=-1)
    return float((predicted == ids[:, start:]).all(dim=1).double().mean())


def skill_accuracies(model: nn.Module, sets: Mapping[str, Samples]) -> dict[str, float]:
    """Return the accuracy of each skill; see `accuracy`."""
    return {skill: accuracy(model, samples) for skill, samples in sets.items()}


def _samples(
    marker: str, prompt: Sequence[np.ndarray], answer: Sequence[np.ndarray], *, with_ans: bool = True
) -> Samples:
    number = len(prompt[0])
    columns = [np.full(number, _BOS), np.full(number, TOKEN[marker]), *prompt]
    if with_ans:
        columns.append(np.full(number, _ANS))
    return Samples(np.stack(columns, axis=1), np.stack(answer, axis=1))


def _distinct(high: int, count: int, number: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return `count` columns of numbers below `high`, different within a row."""
    return list(np.argsort(rng.random((number, high)), axis=1)[:, :count].T)
