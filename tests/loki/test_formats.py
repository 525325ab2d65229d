"""Probe prompts, training formats and the AST check, on made-up items; the real files are in test_real_data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from iclr_repro.core.data import DataError
from iclr_repro.loki import (
    ast_match,
    load_bfcl,
    mmlu_probes,
    mmlu_prompt,
    oracle_calls,
    parse_calls,
    reranker_contrast,
    reranker_messages,
    reranker_score,
    toolace_messages,
)
from iclr_repro.loki.chat import byte_tokenizer, encode_dialogue, packed, padded
from iclr_repro.loki.prompts import read_jsonl
from iclr_repro.loki.tinyworld import IGNORED

ITEM: dict[str, Any] = {
    "function": [
        {
            "name": "book.flight",
            "parameters": {
                "type": "dict",
                "properties": {"to": {}, "seats": {}, "stops": {}, "meal": {}},
                "required": ["to", "seats"],
            },
        }
    ],
    "ground_truth": [
        {
            "book.flight": {
                "to": ["New York", "NYC"],
                "seats": [2, 3],
                "stops": ["", ["London", "Oslo"]],
                "meal": ["", {"kind": ["vegan", "veggie"], "size": ["", 1]}],
            }
        }
    ],
}


def call(**arguments: Any) -> list[dict[str, Any]]:
    return [{"book.flight": arguments}]


@pytest.mark.parametrize(
    "right",
    [
        call(to="NYC", seats=2),
        call(to="new-york", seats=3),
        call(to="NYC", seats=2.0),
        call(to="NYC", seats=2, stops=["london", "Oslo"]),
        call(to="NYC", seats=2, stops=("London", "Oslo")),
        call(to="NYC", seats=2, meal={"kind": "Vegan"}),
        call(to="NYC", seats=2, meal={"kind": "veggie", "size": 1}),
    ],
)
def test_right_calls(right: list[dict[str, Any]]) -> None:
    assert ast_match(right, ITEM)


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        call(to="NYC"),
        call(to="Boston", seats=2),
        call(to="NYC", seats="2"),
        call(to="NYC", seats=True),
        call(to="NYC", seats=2, gate=1),
        call(to="NYC", seats=2, stops=["Oslo", "London"]),
        call(to="NYC", seats=2, stops=["London"]),
        call(to="NYC", seats=2, stops="London, Oslo"),
        call(to="NYC", seats=2, meal={}),
        call(to="NYC", seats=2, meal={"kind": "vegan", "size": 2}),
        call(to="NYC", seats=2, meal={"kind": "vegan", "extra": 1}),
        call(to="NYC", seats=2) * 2,
        [{"book.train": {"to": "NYC", "seats": 2}}],
    ],
)
def test_wrong_calls(wrong: list[dict[str, Any]]) -> None:
    assert not ast_match(wrong, ITEM)


def test_parallel_calls_match_one_to_one_in_any_order() -> None:
    """The first call fits both answers, the second only the first: greedy matching would fail."""
    function = {"name": "f", "parameters": {"properties": {"x": {}}, "required": ["x"]}}
    item = {"function": [function], "ground_truth": [{"f": {"x": [1, 2]}}, {"f": {"x": [1]}}]}
    assert ast_match([{"f": {"x": 1}}, {"f": {"x": 2}}], item)
    assert ast_match([{"f": {"x": 2}}, {"f": {"x": 1}}], item)
    assert not ast_match([{"f": {"x": 2}}, {"f": {"x": 2}}], item)


def test_where_no_call_is_wanted_a_call_is_wrong() -> None:
    item = {"function": ITEM["function"]}
    for unwanted in (item, {**item, "wants_call": False}):
        assert ast_match([], unwanted)
        assert not ast_match(call(to="NYC", seats=2), unwanted)


def test_where_any_call_is_wanted_none_is_wrong() -> None:
    item = {"function": ITEM["function"], "wants_call": True}
    assert ast_match(call(to="NYC", seats=2), item)
    assert not ast_match([], item)


def test_the_oracle_leaves_out_what_it_may() -> None:
    assert oracle_calls(ITEM) == call(to="New York", seats=2)
    assert ast_match(oracle_calls(ITEM), ITEM)


def test_answers_are_parsed_as_literal_calls() -> None:
    assert parse_calls("[book.flight(to='NYC', seats=2), f()]") == [
        {"book.flight": {"to": "NYC", "seats": 2}},
        {"f": {}},
    ]
    assert parse_calls("f(x=[1, {'a': None}])") == [{"f": {"x": [1, {"a": None}]}}]
    for text in ("no call", "[f(1)]", "[f(x=g())]", "f(**x)", "[3]"):
        with pytest.raises(ValueError, match=r"not a list of calls|not a call|is no literal"):
            parse_calls(text)


@pytest.mark.usefixtures("unchecked")
def test_unknown_categories_and_foreign_answers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="category: got 'multi_turn', expected one of simple"):
        load_bfcl("multi_turn")
    (tmp_path / "q.jsonl").write_text('{"id": "a"}\n')
    (tmp_path / "a.jsonl").write_text('{"id": "b"}\n')
    with pytest.raises(ValueError, match="their ids differ"):
        load_bfcl("simple", find=lambda name: tmp_path / ("a.jsonl" if "answer" in name else "q.jsonl"))


def test_broken_lines_are_counted(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n\n{"b": \n')
    with pytest.raises(DataError, match=r"x.jsonl, line 3: not JSON"):
        read_jsonl(tmp_path / "x.jsonl")


def test_mmlu_prompt_of_the_code() -> None:
    assert mmlu_prompt("abstract_algebra", "1 + 1?", ["1", "2", "3", "4"]) == (
        "There is a single choice question about Abstract Algebra. Answer the question by replying A, B, C or D.\n"
        "Question: 1 + 1?\nChoices:\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: \n"
    )
    with pytest.raises(ValueError, match="choices: got 3, expected four"):
        mmlu_prompt("x", "y", ["1", "2", "3"])


def test_probes_go_through_the_chat_template() -> None:
    tokenizer = byte_tokenizer()
    row = {"subject": "a", "question": "b", "choices": list("cdef")}
    (ids,) = mmlu_probes([row], tokenizer)
    assert tokenizer.decode(ids) == f"<|user|>{mmlu_prompt('a', 'b', list('cdef'))}<|end|><|assistant|>"
    tokenizer.chat_template = None
    (plain,) = mmlu_probes([row], tokenizer)
    assert tokenizer.decode(plain) == mmlu_prompt("a", "b", list("cdef"))


def test_reranker_dialogue_and_score() -> None:
    messages = reranker_messages("q", "t", 7)
    assert messages[1] == {"role": "user", "content": "<<<Query>>>\nq\n\n<<<Context>>>\nt"}
    assert messages[2] == {"role": "assistant", "content": "7"}
    assert reranker_score([0.5, 0, 0, 0, 0, 0, 0.5]) == 4.0
    assert reranker_contrast([0, 0, 0, 0, 0, 0, 1.0]) == 0.25
    assert reranker_contrast([0.25, 0, 0, 0.5, 0.25, 0, 0]) == 0.0
    with pytest.raises(ValueError, match="label: got 8, expected 1"):
        reranker_messages("q", "t", 8)
    with pytest.raises(ValueError, match="probabilities: got 2, expected 7"):
        reranker_score([0.5, 0.5])
    with pytest.raises(ValueError, match="probabilities: got 2, expected 7"):
        reranker_contrast([0.5, 0.5])


def test_speakers_become_roles() -> None:
    turns = [{"from": speaker, "value": speaker} for speaker in ("human", "function_call", "observation", "gpt")]
    messages = toolace_messages({"system": "s", "conversations": turns})
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool", "assistant"]
    with pytest.raises(ValueError, match="speaker 'robot': expected one of human, gpt"):
        toolace_messages({"conversations": [{"from": "robot", "value": ""}]})


def test_only_what_the_assistant_says_is_learnt() -> None:
    tokenizer = byte_tokenizer()
    messages = [
        {"role": "user", "content": "hé"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "two"},
    ]
    ids, labels = encode_dialogue(messages, tokenizer)
    assert tokenizer.decode(ids) == "<|user|>hé<|end|><|assistant|>one<|end|><|user|>b<|end|><|assistant|>two<|end|>"
    assert tokenizer.decode([label for label in labels if label != IGNORED]) == "one<|end|>two<|end|>"


def test_a_template_that_rewrites_earlier_turns_is_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ messages|length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(ValueError, match="changes earlier turns when turn 1 is added"):
        encode_dialogue(messages, tokenizer)


def test_rows_are_padded_and_cut() -> None:
    ids, labels = padded([([1, 2, 3, 4], [IGNORED, 2, 3, 4]), ([5], [5])], 3)
    assert ids.tolist() == [[1, 2, 3], [5, 0, 0]]
    assert labels.tolist() == [[IGNORED, 2, 3], [5, IGNORED, IGNORED]]
    assert padded([([1], [1])], 3)[0].shape == (1, 1)


def test_rows_are_packed_without_gaps() -> None:
    ids, labels = packed([([1, 2, 3], [0, 2, 3]), ([4, 5], [4, 0])], 2)
    assert ids.tolist() == [[1, 2], [3, 4]]
    assert labels.tolist() == [[0, 2], [3, 4]]
    ids, _ = packed([([1, 2, 3, 4], [1, IGNORED, 3, 4])], 2)
    assert ids.tolist() == [[3, 4]], "the first piece has nothing to predict"
    with pytest.raises(ValueError, match="2 tokens do not fill one piece of 3"):
        packed([([1, 2], [1, 2])], 3)
