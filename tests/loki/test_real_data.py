"""The shipped files: BFCL answers by an oracle, MMLU prompts, ToolACE dialogues, the authors' positions."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from iclr_repro.core.catalogue import catalogue
from iclr_repro.loki import (
    ast_match,
    check_positions,
    knowledge_vector_attribution,
    load_bfcl,
    load_mmlu,
    load_positions,
    mmlu_probes,
    oracle_calls,
    select_rows,
    toolace_messages,
)
from iclr_repro.loki.bfcl import CATEGORIES, NO_CALL_CATEGORIES, SOME_CALL_CATEGORIES
from iclr_repro.loki.bfcl_scoring import answer_accuracy, bfcl_messages, greedy_answers
from iclr_repro.loki.chat import byte_tokenizer, encode_dialogue
from iclr_repro.loki.prompts import read_jsonl
from support import ROOT
from tiny_models import CONFIGS

DATA = Path(os.environ.get("ICLR_REPRO_DATA", ROOT.parent / "shared" / "data")) / "loki"
if not DATA.is_dir():
    pytest.skip(f"no real data: {DATA} does not exist (ICLR_REPRO_DATA)", allow_module_level=True)

CONTRADICTING = [  # published answers that their own function list forbids (sheet 8)
    "simple_363",
    "live_simple_106-63-0",
    "live_simple_112-68-0",
    "live_multiple_862-181-3",
    "live_multiple_964-207-0",
]
COUNTS = {
    **{"simple": 400, "multiple": 200, "parallel": 200, "parallel_multiple": 200, "irrelevance": 240},
    **{"live_simple": 258, "live_multiple": 1053, "live_parallel": 16, "live_parallel_multiple": 24},
    **{"live_relevance": 18, "live_irrelevance": 882},
}


def find(name: str) -> Path:
    return DATA / name.removeprefix("loki/")


def test_the_catalogue_lists_every_file() -> None:
    files = {path.relative_to(DATA).as_posix() for path in DATA.rglob("*.gz")}
    assert files == set(catalogue("loki"))


@pytest.mark.parametrize("category", COUNTS)
def test_counts_of_bfcl(category: str) -> None:
    assert len(load_bfcl(category, find=find)) == COUNTS[category]
    assert set(COUNTS) == {*CATEGORIES, *NO_CALL_CATEGORIES, *SOME_CALL_CATEGORIES}


def test_who_never_calls_is_right_where_no_call_is_wanted_alone() -> None:
    for category in (*NO_CALL_CATEGORIES, *SOME_CALL_CATEGORIES, "live_parallel"):
        rows = load_bfcl(category, find=find)
        assert {ast_match([], row) for row in rows} == {category in NO_CALL_CATEGORIES}
    assert all(ast_match([{"f": {}}], row) for row in load_bfcl("live_relevance", find=find))


def test_an_oracle_is_right_but_for_the_five_items_that_contradict_themselves() -> None:
    rows = [row for category in CATEGORIES for row in load_bfcl(category, find=find)]
    assert len(rows) == 2351
    assert [row["id"] for row in rows if not ast_match(oracle_calls(row), row)] == CONTRADICTING


def written(calls: list[dict[str, dict[str, Any]]]) -> str:
    parts = [(name, arguments) for call in calls for name, arguments in call.items()]
    return f"[{', '.join(f'{name}({_arguments(arguments)})' for name, arguments in parts)}]"


def _arguments(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def test_an_oracle_that_writes_its_calls_is_right_but_for_the_five_items() -> None:
    rows = [row for category in CATEGORIES for row in load_bfcl(category, find=find)]
    assert answer_accuracy([written(oracle_calls(row)) for row in rows], rows) == (2351 - len(CONTRADICTING)) / 2351


@pytest.mark.parametrize("category", COUNTS)
def test_a_random_model_calls_nothing(category: str) -> None:
    tokenizer = byte_tokenizer()
    rows = load_bfcl(category, find=find)[:3]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {**CONFIGS["qwen2"].to_dict(), "vocab_size": len(tokenizer), "max_position_embeddings": 16384}
        model = Qwen2ForCausalLM(Qwen2Config(**sizes)).eval()
    answers = greedy_answers(model, tokenizer, [bfcl_messages(row) for row in rows], max_new_tokens=8)
    assert answer_accuracy(answers, rows) == (1.0 if category in NO_CALL_CATEGORIES else 0.0)


def test_answers_of_other_items_are_wrong() -> None:
    rows = load_bfcl("live_multiple", find=find)
    shifted = sum(ast_match(oracle_calls(other), row) for row, other in itertools.pairwise(rows))
    assert shifted < 0.02 * len(rows)
    assert not any(ast_match([], row) for row in rows)


def test_probe_prompts_of_mmlu_are_attributed() -> None:
    rows = load_mmlu(find=find)
    assert len(rows) == 2850
    assert set(Counter(row["subject"] for row in rows).values()) == {50}
    tokenizer = byte_tokenizer()
    prompts = sorted(mmlu_probes(rows[::300], tokenizer), key=len)[:3]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {**CONFIGS["qwen2"].to_dict(), "vocab_size": len(tokenizer), "max_position_embeddings": 4096}
        model = Qwen2ForCausalLM(Qwen2Config(**sizes)).eval()
    attributions = knowledge_vector_attribution(model, prompts, steps=2)
    assert attributions.shape == (3, 3, 16)
    check_positions(select_rows(attributions, 25), [16] * 3)


def test_toolace_dialogues_are_encoded() -> None:
    rows = read_jsonl(DATA / "toolace_sample100.jsonl.gz")
    assert len(rows) == 100
    tokenizer = byte_tokenizer()
    for row in rows[::20]:
        ids, labels = encode_dialogue(toolace_messages(row), tokenizer)
        learnt = tokenizer.decode([label for label in labels if label >= 0])
        assert len(ids) == len(labels)
        assert all(turn["value"] in learnt for turn in row["conversations"] if turn["from"] in ("gpt", "function_call"))
        assert not any(turn["value"] in learnt for turn in row["conversations"] if turn["from"] == "human")


@pytest.mark.parametrize(
    ("model", "num_layers", "num_rows", "sizes"),
    [
        ("Llama-3.1-8B-Instruct", 32, 4096, {10: 409, 20: 819, 30: 1228}),
        ("Qwen2.5-0.5B-Instruct", 24, 896, {5: 44, 10: 89, 20: 179, 30: 268}),
    ],
)
def test_released_positions(model: str, num_layers: int, num_rows: int, sizes: dict[int, int]) -> None:
    for quota, size in sizes.items():
        positions = load_positions(DATA / "pos_json" / model / f"{quota}.json.gz")
        check_positions(positions, [num_rows] * num_layers)
        assert {len(rows) for rows in positions} == {size}
