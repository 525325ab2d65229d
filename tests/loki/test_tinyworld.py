"""TinyWorld: each skill follows its rule, for every sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from iclr_repro.loki.tinyworld import (
    IGNORED,
    SKILLS,
    TARGETS,
    TOKEN,
    VOCABULARY,
    Samples,
    TinyWorld,
    accuracy,
    skill_accuracies,
    training_rows,
)

RNG = np.random.default_rng


def names(samples: Samples) -> list[tuple[list[str], list[str]]]:
    return [
        ([VOCABULARY[token] for token in prompt], [VOCABULARY[token] for token in answer])
        for prompt, answer in zip(samples.prompts, samples.answers, strict=True)
    ]


def number(name: str) -> int:
    return int(name.removeprefix("NUMBER"))


WORLD = TinyWorld(RNG(0))


def drawn(skill: str) -> list[tuple[list[str], list[str]]]:
    return names(WORLD.samples(skill, 200, RNG(1)))


def test_vocabulary_of_the_sheet() -> None:
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 188
    assert VOCABULARY[:3] == ("PAD", "BOS", "FACT")
    assert TOKEN["ENTITY0"] == 33


@pytest.mark.parametrize(
    ("skill", "marker", "prompt", "answer"),
    [
        ("fact", "FACT", 5, 1),
        ("add", "ADD", 5, 1),
        ("seq", "SEQ", 4, 3),
        ("wino", "WINO", 9, 1),
        ("rev", "REV", 7, 4),
        ("ins", "INS", 7, 1),
        ("newf", "REV", 5, 1),
        ("tl", "INS", 6, 2),
    ],
)
def test_forms(skill: str, marker: str, prompt: int, answer: int) -> None:
    for asked, wanted in drawn(skill):
        assert asked[:2] == ["BOS", marker]
        assert (asked[-1] == "ANS") == (skill != "seq")
        assert (len(asked), len(wanted)) == (prompt, answer)


def test_facts_are_a_function_of_entity_and_relation() -> None:
    table: dict[tuple[str, str], str] = {}
    for asked, (value,) in drawn("fact"):
        assert table.setdefault((asked[2], asked[3]), value) == value
        assert value.startswith("VALUE")
    assert len(set(table.values())) > 20


def test_sums_are_modulo_13() -> None:
    for asked, (wanted,) in drawn("add"):
        assert number(wanted) == (number(asked[2]) + number(asked[3])) % 13


def test_sequences_go_on_by_one_grammar() -> None:
    grammar: dict[tuple[str, str], str] = {}
    for asked, wanted in drawn("seq"):
        symbols = asked[2:] + wanted
        for first, second, third in zip(symbols, symbols[1:], symbols[2:], strict=False):
            assert grammar.setdefault((first, second), third) == third


def test_the_symbol_beside_the_entity_is_asked_for() -> None:
    for asked, (wanted,) in drawn("wino"):
        _, _, first, x, second, y, separator, entity, _ = asked
        assert separator == "SEP"
        assert first != second
        assert wanted == {first: x, second: y}[entity]


def test_symbols_are_reversed() -> None:
    for asked, wanted in drawn("rev"):
        assert wanted == asked[2:-1][::-1]


def test_instructions_are_followed() -> None:
    rules: dict[str, Any] = {"FIRST": lambda n: n[0], "LAST": lambda n: n[-1], "MAX": max, "MIN": min}
    for asked, (wanted,) in drawn("ins"):
        numbers = [number(name) for name in asked[3:6]]
        assert len(set(numbers)) == 3
        assert number(wanted) == rules[asked[2]](numbers)


def test_tools_are_called_by_the_operation() -> None:
    rules = {"FIRST": (0, 1), "LAST": (1, 0), "MAX": (0, 0), "MIN": (1, 1)}
    for asked, wanted in drawn("tl"):
        assert wanted == [asked[3 + place] for place in rules[asked[2]]]


def test_new_facts_cover_every_entity_once_and_are_a_table_of_their_own() -> None:
    asked = names(WORLD.new_facts())
    assert [prompt[2] for prompt, _ in asked] == [f"ENTITY{index}" for index in range(64)]
    assert {tuple(prompt[3:]) for prompt, _ in asked} == {("REL0", "ANS")}
    old = {prompt[2]: answer for prompt, answer in drawn("fact") if prompt[3] == "REL0"}
    assert sum(old[prompt[2]] == answer for prompt, answer in asked if prompt[2] in old) < 10
    again = {prompt[2]: answer for prompt, answer in drawn("newf")}
    assert again.items() <= {prompt[2]: answer for prompt, answer in asked}.items()


def test_target_tokens_were_seen_in_pretraining() -> None:
    """A target with unseen tokens could not be learnt through frozen embeddings (pitfall 18)."""
    seen = {
        token
        for skill in SKILLS
        for part in WORLD.samples(skill, 4000, RNG(2)).__dict__.values()
        for token in part.flat
    }
    for target in TARGETS:
        samples = WORLD.samples(target, 500, RNG(3))
        assert set(samples.prompts.flat) | set(samples.answers.flat) <= seen


def test_worlds_differ_by_seed_only() -> None:
    one, same, other = (TinyWorld(RNG(seed)).samples("fact", 50, RNG(5)) for seed in (0, 0, 1))
    assert (one.answers == same.answers).all()
    assert (one.answers != other.answers).any()


def test_labels_are_answers_and_their_end() -> None:
    parts = [WORLD.samples("fact", 2, RNG(0)), WORLD.samples("rev", 3, RNG(0))]
    ids, labels = training_rows(parts)
    assert ids.shape == labels.shape == (5, 12)
    assert ids[0].tolist() == [*parts[0].prompts[0], *parts[0].answers[0], TOKEN["EOS"], *[TOKEN["PAD"]] * 5]
    assert labels[0].tolist() == [*[IGNORED] * 5, *parts[0].answers[0], TOKEN["EOS"], *[IGNORED] * 5]
    assert labels[4].tolist() == [*[IGNORED] * 7, *parts[1].answers[2], TOKEN["EOS"]]


class _Echo(nn.Module):
    """Answers `right` of the samples it is given, in order; the others get one token wrong."""

    def __init__(self, samples: Samples, right: int) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.answers = torch.from_numpy(samples.answers).clone()
        self.answers[right:, -1] += 1

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        logits = torch.zeros(*input_ids.shape, len(VOCABULARY))
        width = self.answers.shape[1]
        logits[:, -width:].scatter_(2, self.answers[..., None], 1.0)
        return type("Output", (), {"logits": logits})


def test_accuracy_counts_samples_with_every_token_right() -> None:
    samples = WORLD.samples("rev", 10, RNG(0))
    assert accuracy(_Echo(samples, 7), samples) == 0.7
    assert skill_accuracies(_Echo(samples, 10), {"rev": samples}) == {"rev": 1.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_entities": 65}, "num_entities: got 65, expected 2 to 64"),
        ({"num_relations": 1}, "num_relations: got 1, expected 2 to 4"),
        ({"num_symbols": 17}, "num_symbols: got 17"),
        ({"reversed_length": 0}, "reversed_length: got 0"),
    ],
)
def test_worlds_beyond_the_vocabulary_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TinyWorld(RNG(0), **options)


@pytest.mark.parametrize("skill", SKILLS)
def test_distinct_prompts_are_distinct_and_of_the_skill(skill: str) -> None:
    small = TinyWorld(RNG(0), num_entities=3, num_relations=2, num_symbols=3, reversed_length=2)
    every = small.num_prompts(skill)
    number = min(every, 200)
    drawn = {tuple(prompt) for prompt in small.distinct_prompts(skill, number, RNG(1))}
    assert len(drawn) == number
    if every <= 200:
        assert drawn == {tuple(prompt) for prompt in small.samples(skill, 40 * every, RNG(2)).prompts}
    with pytest.raises(ValueError, match=f"got {every + 1}, expected 1 to {every}, as many as '{skill}' has"):
        small.distinct_prompts(skill, every + 1, RNG(1))


def test_spaces_of_the_sheet() -> None:
    found = {skill: WORLD.num_prompts(skill) for skill in SKILLS}
    expected = {"fact": 256, "add": 169, "seq": 256, "wino": 64 * 63 * 512, "rev": 16**4, "ins": 6864}
    assert found == expected
    with pytest.raises(ValueError, match="skill: got 'newf', expected one of fact"):
        WORLD.num_prompts("newf")


def test_unknown_skills_are_refused() -> None:
    with pytest.raises(ValueError, match="skill: got 'math', expected one of fact, add, seq"):
        WORLD.samples("math", 1, RNG(0))
    with pytest.raises(ValueError, match="number of samples: got 0"):
        WORLD.samples("fact", 0, RNG(0))
