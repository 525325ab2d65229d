"""Scores of a trained model: calls by BFCL's check, and nDCG of a retrieval task in BEIR's form."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from iclr_repro.core.data import DataError
from iclr_repro.loki import reranker_messages, reranker_score
from iclr_repro.loki.bfcl_scoring import answer_accuracy, bfcl_messages, greedy_answers
from iclr_repro.loki.chat import byte_tokenizer, render
from iclr_repro.loki.prompts import RERANKER_LABELS
from iclr_repro.loki.reranking import label_probabilities, load_beir, load_run, ndcg, retrieval_scores

TOKENIZER = byte_tokenizer()


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes: dict[str, Any] = {"vocab_size": len(TOKENIZER), "hidden_size": 16, "intermediate_size": 24}
        heads: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
        return Qwen2ForCausalLM(Qwen2Config(**sizes, **heads, initializer_range=0.5)).eval()


# --- calls -----------------------------------------------------------------------------------------------------------


def item(**changes: Any) -> dict[str, Any]:
    function = {"name": "f", "parameters": {"properties": {"x": {"type": "integer"}}, "required": ["x"]}}
    question = [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "f of 1?"}]]
    return {"id": "one", "question": question, "function": [function], "ground_truth": [{"f": {"x": [1]}}], **changes}


def test_functions_stand_in_the_system_turn_before_that_of_the_item() -> None:
    system, user = bfcl_messages(item())
    assert user == {"role": "user", "content": "f of 1?"}
    assert system["role"] == "system"
    assert system["content"].index('"name": "f"') < system["content"].index("Be brief.")


def test_items_of_several_turns_are_refused() -> None:
    turns = [[{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]]
    with pytest.raises(ValueError, match="one: 2 turns, expected one: multi-turn items are not scored"):
        bfcl_messages(item(question=turns))


def test_answers_are_right_or_wrong_and_prose_calls_nothing() -> None:
    silent = {"id": "two", "question": [], "function": [], "wants_call": False}
    assert answer_accuracy(["[f(x=1)]", "f(x=1)", "[f(x=2)]", "I cannot.", ""], [item()] * 4 + [silent]) == 3 / 5
    assert answer_accuracy(["I cannot tell.", "[f(x=1)]"], [silent, silent]) == 0.5


def test_answers_do_not_depend_on_the_batch(model: Qwen2ForCausalLM) -> None:
    prompts = [reranker_messages("q" * length, "text") for length in (1, 40, 7)]
    together = greedy_answers(model, TOKENIZER, prompts, max_new_tokens=6)
    assert together == [greedy_answers(model, TOKENIZER, [prompt], max_new_tokens=6)[0] for prompt in prompts]
    ids = render(prompts[1], TOKENIZER, prompt=True)
    for _ in range(6):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == TOKENIZER.eos_token_id:
            break
    assert together[1] == TOKENIZER.decode(ids, skip_special_tokens=True).removeprefix(
        TOKENIZER.decode(render(prompts[1], TOKENIZER, prompt=True), skip_special_tokens=True)
    )


# --- retrieval -------------------------------------------------------------------------------------------------------


def test_ndcg_by_hand() -> None:
    gains = {"a": 2, "b": 1}
    ranked = {"a": 0.1, "b": 0.5, "c": 0.9}  # c, b, a
    reached = 1 / math.log2(3) + 2 / math.log2(4)
    ideal = 2 / math.log2(2) + 1 / math.log2(3)
    assert ndcg(gains, ranked, 10) == pytest.approx(reached / ideal)
    assert ndcg(gains, ranked, 2) == pytest.approx(1 / math.log2(3) / ideal)
    assert ndcg(gains, ranked, 1) == 0.0
    assert ndcg(gains, {"a": 3.0, "b": 2.0, "c": 1.0}, 10) == pytest.approx(1.0)


def test_relevant_documents_that_are_no_candidates_count_in_the_ideal() -> None:
    assert ndcg({"a": 1, "b": 1}, {"a": 0.5}, 10) == pytest.approx(1 / (1 + 1 / math.log2(3)))
    assert ndcg({"a": 1}, {}, 10) == 0.0
    assert ndcg({"a": 1}, {"a": 0.0, "x": 0.0}, 1) == pytest.approx(0.5), "equal scores share their places"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "qrels").mkdir()
    documents = [f'{{"_id": "d{n}", "title": "t{n}", "text": "text {n}"}}' for n in range(4)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(documents))
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "one"}\n{"_id": "q2", "text": "two"}\n')
    (tmp_path / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\td0\t2\nq1\td1\t1\nq2\td3\t1\nq2\td0\t0\n"
    )
    (tmp_path / "run.txt").write_text(
        "q1 Q0 d2 1 3.5 bm25\nq1 Q0 d0 2 3.0 bm25\nq1 Q0 d1 3 1.0 bm25\nq2 Q0 d3 1 9 bm25\n"
    )
    return tmp_path


def test_a_folder_and_a_run_are_read(folder: Path) -> None:
    task = load_beir(folder)
    assert task.corpus["d1"] == "t1 text 1"
    assert task.relevant == {"q1": {"d0": 2, "d1": 1}, "q2": {"d3": 1}}
    assert load_run(folder / "run.txt", depth=2) == {"q1": ["d2", "d0"], "q2": ["d3"]}


def test_reranking_gives_the_ndcg_of_the_scores(folder: Path, model: Qwen2ForCausalLM) -> None:
    task = load_beir(folder)
    found = retrieval_scores(model, TOKENIZER, task, load_run(folder / "run.txt", depth=100), queries=1)
    pairs = [reranker_messages("one", task.corpus[document]) for document in ("d2", "d0", "d1")]
    d2, d0, d1 = (reranker_score(p) for p in label_probabilities(model, TOKENIZER, pairs).tolist())
    order = sorted([(-d2, 0), (-d0, 2), (-d1, 1)])
    reached = sum(gain / math.log2(place + 2) for place, (_, gain) in enumerate(order))
    assert found["expected/ndcg@10"] == pytest.approx(reached / (2 + 1 / math.log2(3)))
    assert found["expected/ndcg@1"] == pytest.approx(order[0][1] / 2)
    assert found["n"] == 1
    both = retrieval_scores(model, TOKENIZER, task, load_run(folder / "run.txt", depth=100), queries=None)
    assert both["expected/ndcg@10"] == pytest.approx((found["expected/ndcg@10"] + 1) / 2), "of q2 d3 is alone"
    assert retrieval_scores(model, TOKENIZER, task, {}, queries=None)["contrast/ndcg@10"] == 0.0
    everything = {query: list(task.corpus) for query in task.relevant}
    assert retrieval_scores(model, TOKENIZER, task, None, queries=None) == retrieval_scores(
        model, TOKENIZER, task, everything, queries=None
    )


def test_probabilities_do_not_depend_on_the_batch(model: Qwen2ForCausalLM) -> None:
    prompts = [reranker_messages("q" * length, "text") for length in (1, 40, 7)]
    together = label_probabilities(model, TOKENIZER, prompts)
    assert np.allclose(together.sum(axis=1), 1.0)
    labels = [TOKENIZER(label)["input_ids"][0] for label in RERANKER_LABELS]
    for p, prompt in zip(together, prompts, strict=True):
        logits = model(input_ids=torch.tensor([render(prompt, TOKENIZER, prompt=True)])).logits[0, -1, labels]
        assert np.allclose(p, logits.double().softmax(dim=-1).detach().numpy(), rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("qrels/test.tsv", "query-id\tscore\nq1\t1\n", "no column corpus-id"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td9\t1\n", "judges 'q1' and 'd9'"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t0\n", "no document is relevant"),
    ],
)
def test_bad_folders_are_refused(folder: Path, name: str, text: str, message: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(DataError, match=message):
        load_beir(folder)


def test_bad_candidates_are_refused(folder: Path, model: Qwen2ForCausalLM) -> None:
    (folder / "run.txt").write_text("q1 d0 1\n")
    with pytest.raises(DataError, match="line 1: 3 fields, expected query Q0 document rank score tag"):
        load_run(folder / "run.txt", depth=1)
    with pytest.raises(DataError, match="candidate 'd9' of query 'q1' is not in the corpus"):
        retrieval_scores(model, TOKENIZER, load_beir(folder), {"q1": ["d9"]}, queries=1)
