"""The endpoint judge against a local server that answers like the real API, faults included."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.openai_server import (
    API_KEY,
    MODEL,
    OPENAI_FIELDS,
    VLLM_FIELDS,
    OpenAIServer,
    Reply,
    Request,
    error,
    prompt_of,
    says,
)
from iclr_repro.core.language_model import (
    CachedLanguageModel,
    EndpointLanguageModel,
    LanguageModelError,
    load_language_model,
)
from iclr_repro.pairwise_review import (
    JudgementLog,
    LanguageModelJudge,
    LanguageModelRater,
    PairSchedule,
    Reading,
    collect,
    read_batch,
    write_batch,
)
from iclr_repro.pairwise_review.cost import forecast, price
from iclr_repro.pairwise_review.judging import judgement_of
from iclr_repro.pairwise_review.language_rater import expected_digit, expected_ratings
from iclr_repro.pairwise_review.prompts import load_template
from pairwise_review.cases import papers

PRICES = {"price_per_million_input": 1.0, "price_per_million_output": 10.0}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv("OPENAI_API_KEY", API_KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with OpenAIServer(prefer_larger) as running:
        yield running


def numbers(prompt: str) -> tuple[int, int]:
    """The numbers of the two papers in a prompt."""
    first, second = (int(part.split()[1]) for part in prompt.split("Title: ")[1:])
    return first, second


def prefer_larger(request: Request) -> Reply:
    first, second = numbers(prompt_of(request))
    letter = "A" if first > second else "B"
    if request.get("logprobs"):
        other = "B" if letter == "A" else "A"
        return says(letter, completion_tokens=1, top_logprobs={letter: float(np.log(0.8)), other: float(np.log(0.1))})
    return says(f"Some reasons.\nWinner: {letter}")


def model(server: OpenAIServer, tmp_path: Path, **options: Any) -> Any:
    options = {"timeout_s": 5.0, **PRICES, **options}
    return load_language_model(
        f"openai:{MODEL}", cache=tmp_path / "answers.sqlite", base_url=server.base_url, **options
    )


def judge(server: OpenAIServer, tmp_path: Path, **options: Any) -> LanguageModelJudge:
    return LanguageModelJudge(model(server, tmp_path), **options)


def test_by_text_and_by_next_token_prefer_the_same(server: OpenAIServer, tmp_path: Path) -> None:
    those = papers(6)
    for answering in ("text", "next_token"):
        asking = judge(server, tmp_path, answering=answering)
        answers = asking.compare_many(those[:3], [those[5], those[0], those[1]])
        assert [answer.prefer_first for answer in answers] == [False, True, True]
        assert all(answer.input_tokens == 100 for answer in answers)
    assert answers[1].prob_first == pytest.approx(8 / 9)
    assert [answer.cost_usd for answer in answers] == [pytest.approx(110e-6)] * 3


def test_swapped_orders_are_averaged(server: OpenAIServer, tmp_path: Path) -> None:
    those = papers(3)
    always_first = {"A": float(np.log(0.6)), "B": float(np.log(0.4))}
    server.respond = lambda request: says("A", completion_tokens=1, top_logprobs=always_first)
    answer = judge(server, tmp_path, answering="next_token", swap=True).compare(those[0], those[1])
    assert answer.prob_first == pytest.approx(0.5)
    server.respond = lambda request: says("A", completion_tokens=1, top_logprobs={"A": -0.7, "B": -0.7})
    for swap in (True, False):
        even = judge(server, tmp_path / f"even-{swap}", answering="next_token", swap=swap).compare(those[0], those[1])
        assert (even.prefer_first, even.prob_first) == (None, 0.5)
    server.respond = lambda request: says("Winner: A")
    split = judge(server, tmp_path, swap=True).compare(those[0], those[1])
    assert split.prefer_first is None
    assert split.prob_first == 0.5
    server.respond = prefer_larger
    agreed = judge(server, tmp_path, swap=True).compare(those[2], those[1])
    assert agreed.prefer_first is True
    assert agreed.input_tokens == 200


def test_a_next_token_that_is_no_letter_is_unreadable(server: OpenAIServer, tmp_path: Path) -> None:
    those = papers(3)

    def respond(request: Request) -> Reply:
        mass = 0.4 if 2 in numbers(prompt_of(request)) else 0.6
        tops = {"A": np.log(0.75 * mass), " B": np.log(0.25 * mass), "The": np.log(1 - mass)}
        return says("The", completion_tokens=1, top_logprobs={token: float(p) for token, p in tops.items()})

    server.respond = respond
    asking = judge(server, tmp_path, answering="next_token")
    answers = asking.compare_many([those[0], those[0]], [those[1], those[2]])
    assert [answer.mass for answer in answers] == [pytest.approx(0.6), pytest.approx(0.4)]
    assert [answer.prob_first for answer in answers] == [pytest.approx(0.75), None]
    assert [answer.prefer_first for answer in answers] == [True, None]
    found = collect(asking, those, PairSchedule(3, 0), 6, log=tmp_path / "log.jsonl")
    assert (found.comparisons, found.unreadable) == (2, 4)
    assert found.mass == pytest.approx((2 * 0.6 + 4 * 0.4) / 6)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sorted(row["mass"] for row in rows) == pytest.approx([0.4] * 4 + [0.6] * 2)
    both = judge(server, tmp_path, answering="next_token", swap=True).compare(those[0], those[1])
    assert both.prob_first == pytest.approx(0.5)
    assert both.mass == pytest.approx(0.6)
    lenient = judge(server, tmp_path, answering="next_token", least_mass=0.3)
    assert lenient.compare(those[0], those[2]).prob_first == pytest.approx(0.75)


def test_a_next_token_is_that_of_an_answer_that_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", API_KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    those = papers(2)
    with OpenAIServer(prefer_larger, known_fields=OPENAI_FIELDS | VLLM_FIELDS) as vllm:
        for continued in (True, False):
            asking = model(vllm, tmp_path, continue_final_message=continued)
            LanguageModelJudge(asking, answering="next_token").compare(*those)
            vllm.respond = lambda _: says("6", completion_tokens=1, top_logprobs={"6": -0.1})
            assert expected_ratings(asking, those, reading=Reading()).expected.tolist() == [6.0, 6.0]
            vllm.respond = prefer_larger
    for begun, request in zip(["Winner:", "Rating:", "Rating:"], vllm.requests[:3], strict=True):
        assert request["messages"][-1] == {"role": "assistant", "content": begun}
        assert not prompt_of(request).endswith(begun)
    for begun, request in zip(["Winner:", "Rating:", "Rating:"], vllm.requests[3:], strict=True):
        assert request["messages"][-1]["role"] == "user"
        assert prompt_of(request).endswith(f"\n{begun}")


def test_all_that_a_model_is_asked_with_tells_its_answers_apart(server: OpenAIServer, tmp_path: Path) -> None:
    usual: dict[str, Any] = {"answering": "next_token"}
    others: list[dict[str, Any]] = [
        {"answering": "text"},
        {"answering": "text", "max_tokens": 50},
        {"answering": "text", "swap": True},
        {"swap": True},
        {"candidates": ("B", "A")},
        {"least_mass": 0.1},
        {"reading": Reading(blind=False)},
        {"reading": Reading(venue="CoRL 2023")},
        {"reading": Reading(budget=3)},
    ]
    asking = EndpointLanguageModel(MODEL, server.base_url)
    judges = [LanguageModelJudge(asking, **{**usual, **other}) for other in ({}, *others)]
    options: dict[str, Any]
    for options in (
        {"model": "another"},
        {"base_url": "http://127.0.0.1:1/v1"},
        {"system": "Be brief."},
        {"continue_final_message": True},
    ):
        where: dict[str, Any] = {"model": MODEL, "base_url": server.base_url, **options}
        judges.append(LanguageModelJudge(EndpointLanguageModel(**where), **usual))
    # An answer by text has no mass, and one by next token no length.
    for options in ({"answering": "text", "least_mass": 0.1}, {"max_tokens": 50}):
        judges.append(LanguageModelJudge(asking, **{**usual, **options}))
    those = papers(2)
    hashes = [one.prompt_hashes(those[:1], those[1:])[0] for one in judges]
    assert len(set(hashes)) == len(judges) - 2
    assert hashes[-2:] == [hashes[1], hashes[0]]
    how: dict[str, Any]
    for how in ({"max_concurrency": 1}, {"timeout_s": 1.0}, PRICES):
        again = LanguageModelJudge(EndpointLanguageModel(MODEL, server.base_url, **how), **usual)
        assert again.prompt_hashes(those[:1], those[1:])[0] == hashes[0]
    assert server.requests == []


def test_a_row_of_the_log_is_the_whole_answer(server: OpenAIServer, tmp_path: Path) -> None:
    those, log = papers(3), tmp_path / "log.jsonl"
    server.respond = lambda request: (
        says("Hm.") if "no readable decision" not in prompt_of(request) else prefer_larger(request)
    )
    asking = judge(server, tmp_path)
    first, second = [those[2]], [those[1]]
    [answer] = asking.compare_many(first, second)
    JudgementLog(log).append(asking, first, second, [answer])
    [row] = JudgementLog(log).rows()
    assert row == {
        "id_first": "p2",
        "id_second": "p1",
        "judge": asking.name,
        "prompt_sha256": asking.prompt_hashes(first, second)[0],
        "prefer_first": True,
        "prob_first": None,
        "mass": None,
        "raw": "Hm.\n---\nSome reasons.\nWinner: A",
        "input_tokens": 200,
        "output_tokens": 20,
        "cost_usd": pytest.approx(400e-6),
        "cached": False,
        "asked_again": True,
    }
    assert judgement_of(row) == answer


def test_unreadable_answers_are_asked_once_more_excluded_and_reported(server: OpenAIServer, tmp_path: Path) -> None:
    those = papers(4)

    def respond(request: Request) -> Reply:
        prompt = prompt_of(request)
        if 3 in numbers(prompt):
            return says("I cannot decide.")
        if 2 in numbers(prompt) and "no readable decision" not in prompt:
            return says("Hm.")
        return prefer_larger(request)

    server.respond = respond
    found = collect(judge(server, tmp_path), those, PairSchedule(4, 0), 12)
    # Paper 3 is in 6 of the 12 ordered pairs, paper 2 in 4 of the others.
    assert (found.comparisons, found.unreadable, found.asked_again) == (6, 6, 10)
    assert len(server.requests) == 12 + 10
    assert found.input_tokens == 100 * 22
    assert found.counts.totals.sum() == 6
    assert 3 not in {*found.counts.first, *found.counts.second}


def test_empty_answers_are_unreadable_and_do_not_stop_the_others(server: OpenAIServer, tmp_path: Path) -> None:
    those = papers(4)
    server.respond = lambda request: (
        says(None, refusal="No.") if 3 in numbers(prompt_of(request)) else prefer_larger(request)
    )
    answers = judge(server, tmp_path).compare_many([those[0], those[3]], [those[1], those[1]])
    assert [answer.prefer_first for answer in answers] == [False, None]


def test_faults_of_the_endpoint_lose_and_repeat_nothing(server: OpenAIServer, tmp_path: Path) -> None:
    those, tries = papers(8), Counter[str]()
    faults = [
        error(429, "Rate limit reached"),
        error(500, "The server had an error"),
        Reply(body=b"{"),
        Reply(cut=True),
        Reply(body={}, cut_body=True),
        Reply(delay_s=1.5, body={}),
    ]
    lock = threading.Lock()

    def respond(request: Request) -> Reply:
        prompt = prompt_of(request)
        with lock:
            tries[prompt] += 1
            number = len(tries)
        if tries[prompt] == 1 and number <= len(faults) and number != 3:
            return faults[number - 1]
        return prefer_larger(request)

    server.respond = respond
    asking = LanguageModelJudge(model(server, tmp_path, timeout_s=1.0))
    found = collect(asking, those, PairSchedule(8, 0), 56, log=tmp_path / "log.jsonl", chunk=20)
    assert found.comparisons == 56
    assert len(tries) == 56
    assert max(tries.values()) == 2
    assert asking.model.usage.answers == 56  # paid once each


def test_malformed_json_ends_with_a_clear_error_and_keeps_what_was_paid(server: OpenAIServer, tmp_path: Path) -> None:
    those = papers(5)
    answered: list[str] = []

    def respond(request: Request) -> Reply:
        if len(answered) == 3:
            return Reply(body=b"<html>")
        answered.append(prompt_of(request))
        return prefer_larger(request)

    server.respond = respond
    asking = LanguageModelJudge(model(server, tmp_path, max_concurrency=1))
    with pytest.raises(LanguageModelError, match="not JSON"):
        collect(asking, those, PairSchedule(5, 0), 20)
    server.respond = prefer_larger
    before = len(server.requests)
    again = LanguageModelJudge(model(server, tmp_path))
    assert collect(again, those, PairSchedule(5, 0), 20).comparisons == 20
    assert len(server.requests) - before == 17
    assert isinstance(again.model, CachedLanguageModel)
    assert again.model.reused.answers == 3


KILLED = """
import sys
from core.openai_server import MODEL
from iclr_repro.core.language_model import load_language_model
from iclr_repro.pairwise_review import LanguageModelJudge, PairSchedule, collect
from pairwise_review.cases import papers

base_url, folder = sys.argv[1:]
model = load_language_model(f"openai:{MODEL}", cache=f"{folder}/answers.sqlite", base_url=base_url, max_concurrency=4)
found = collect(LanguageModelJudge(model), papers(12), PairSchedule(12, 0), 100, log=f"{folder}/log.jsonl", chunk=30)
print(found.comparisons, found.unreadable)
"""


def test_a_kill_in_the_middle_pays_nothing_twice(server: OpenAIServer, tmp_path: Path) -> None:
    answered: list[str] = []

    def slowly(request: Request) -> Reply:
        answered.append(prompt_of(request))
        return Reply(body=prefer_larger(request).body, delay_s=0.02)

    server.respond = slowly
    command = [sys.executable, "-c", KILLED, server.base_url, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["src", "tests"])}
    process = subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 60
    while len(answered) < 45 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 45 <= len(answered) < 100
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.stdout.split() == ["100", "0"], done.stderr
    counts = Counter(answered)
    assert len(counts) == 100
    # Only what was under way at the kill, four requests at most, is asked again: its answers had nowhere to go.
    assert sum(count > 1 for count in counts.values()) <= 4
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len({(row["id_first"], row["id_second"]) for row in rows}) == len(rows) == 100


def test_the_key_is_in_no_file_message_or_log(
    server: OpenAIServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    those = papers(4)
    asking = judge(server, tmp_path)
    collect(asking, those, PairSchedule(4, 0), 12, log=tmp_path / "log.jsonl")
    write_batch(tmp_path / "batch.jsonl", asking, those, *PairSchedule(4, 0).pairs(0, 12))
    server.respond = lambda request: error(401, f"Incorrect API key provided: {API_KEY}")
    with pytest.raises(LanguageModelError) as failure:
        asking.compare(those[0], those[1].__class__(id="new", title="Title 9"))
    written = "".join(path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file())
    for text in (written, str(failure.value), caplog.text, repr(asking.__dict__)):
        assert API_KEY not in text


def test_a_vote_without_its_other_half_is_no_preference(server: OpenAIServer, tmp_path: Path) -> None:
    those = papers(3)
    server.respond = lambda request: says("Hm.") if numbers(prompt_of(request)) == (1, 2) else prefer_larger(request)
    half = judge(server, tmp_path, swap=True).compare(those[2], those[1])
    assert (half.prefer_first, half.prob_first, half.asked_again) == (None, None, True)


# --- the rating system


def test_the_expected_rating_is_over_the_digits() -> None:
    scores = np.full((3, 9), -np.inf)
    scores[0, 3] = np.log(0.001)
    scores[1, [5, 8]] = np.log([0.2, 0.1])
    found = expected_digit(scores, least_mass=0.0)
    assert found.expected[:2] == pytest.approx([4.0, (2 * 6 + 9) / 3])
    assert np.isnan(found.expected[2])
    assert found.mass == pytest.approx([0.001, 0.3, 0.0])
    assert np.isnan(expected_digit(scores).expected).all()  # less than half of the mass is on digits
    scores[1, 0] = np.log(0.3)
    assert expected_digit(scores).expected[1] == pytest.approx((2 * 6 + 9 + 3) / 6)


def test_ratings_take_four_calls_a_paper(server: OpenAIServer, tmp_path: Path) -> None:
    review = dict.fromkeys(("summary", "strengths", "weaknesses"), "s")
    scores = dict.fromkeys(("soundness", "presentation", "contribution", "confidence"), 3)

    def respond(request: Request) -> Reply:
        if "area chair" in prompt_of(request):
            return says(json.dumps({"overall": 8}))
        return says(json.dumps({**review, **scores, "overall": 4 + request["seed"]}))

    server.respond = respond
    ratings = LanguageModelRater(model(server, tmp_path)).rate(papers(3))
    assert ratings.final.tolist() == [8.0] * 3
    assert ratings.reviews.tolist() == [[4.0, 5.0, 6.0]] * 3
    assert len(server.requests) == 12
    assert all("Review 3" in prompt for prompt in server.prompts if "area chair" in prompt)


def test_unusable_reviews_are_not_a_number(server: OpenAIServer, tmp_path: Path) -> None:
    server.respond = lambda request: says("no JSON" if "Title 1" in prompt_of(request) else '{"overall": 5}')
    ratings = LanguageModelRater(model(server, tmp_path)).rate(papers(2))
    assert np.isnan(ratings.final[1])
    assert np.isnan(ratings.reviews).all()


# --- batch files and forecasts


def test_batch_files_round_trip_with_errors(tmp_path: Path) -> None:
    those = papers(4)
    asking = LanguageModelJudge(EndpointLanguageModel(MODEL))
    first, second = PairSchedule(4, 0).pairs(0, 5)
    assert write_batch(tmp_path / "ask.jsonl", asking, those, first, second) == 5
    requests = [json.loads(line) for line in (tmp_path / "ask.jsonl").read_text().splitlines()]
    assert {request["url"] for request in requests} == {"/v1/chat/completions"}
    assert requests[0]["body"]["messages"][1]["content"] == asking.prompt(those[first[0]], those[second[0]])

    def answer(request: dict[str, Any], status: int = 200) -> str:
        body = prefer_larger({"messages": request["body"]["messages"]}).body
        row = {"custom_id": request["custom_id"], "response": {"status_code": status, "body": body}, "error": None}
        return json.dumps(row)

    broken = json.dumps({"custom_id": requests[1]["custom_id"], "response": None, "error": {"code": "expired"}})
    lines = [answer(requests[3]), broken, answer(requests[0]), answer(requests[2], status=500), answer(requests[3])]
    (tmp_path / "got.jsonl").write_text("\n".join(lines) + "\n")
    found = read_batch(tmp_path / "ask.jsonl", tmp_path / "got.jsonl")
    assert list(zip(found.first, found.second, strict=True)) == [(first[i], second[i]) for i in (0, 3)]
    assert [j.prefer_first for j in found.judgements] == [bool(first[i] > second[i]) for i in (0, 3)]
    assert found.failed == [(first[i], second[i]) for i in (1, 2, 4)]
    (tmp_path / "got.jsonl").write_text(json.dumps({"custom_id": "9-9", "response": None}) + "\n")
    with pytest.raises(ValueError, match=r"line 1 answers '9-9', which .* does not ask"):
        read_batch(tmp_path / "ask.jsonl", tmp_path / "got.jsonl")
    (tmp_path / "got.jsonl").write_text('{"custom_id": "0-1", "resp')
    with pytest.raises(ValueError, match="line 1 is damaged"):
        read_batch(tmp_path / "ask.jsonl", tmp_path / "got.jsonl")


def test_batches_refuse_repeats_and_too_many(tmp_path: Path) -> None:
    asking = LanguageModelJudge(EndpointLanguageModel(MODEL))
    with pytest.raises(ValueError, match="occurs twice"):
        write_batch(tmp_path / "x", asking, papers(2), np.array([0, 0]), np.array([1, 1]))
    with pytest.raises(ValueError, match="holds 50,000 requests, got 50,001"):
        write_batch(tmp_path / "x", asking, papers(2), np.zeros(50_001, int), np.ones(50_001, int))


def test_forecast_is_the_bill(server: OpenAIServer, tmp_path: Path) -> None:
    those, reading = papers(6), Reading(count_tokens=lambda text: len(text.split()))
    system = load_template().system_message(reading.venue)
    asking = LanguageModelJudge(model(server, tmp_path, system=system), reading=reading)

    def respond(request: Request) -> Reply:
        tokens = sum(len(message["content"].split()) for message in request["messages"])
        return says("Winner: A", prompt_tokens=tokens, completion_tokens=2)

    server.respond = respond
    first, second = PairSchedule(6, 0).pairs(0, 30)
    rest: dict[str, Any] = {**PRICES, "output_tokens": 2, "seconds_per_call": 2, "concurrency": 4}
    expected = forecast(those, first, second, reading=reading, answering="text", **rest)
    found = collect(asking, those, PairSchedule(6, 0), 30)
    assert expected.calls == 30
    assert expected.wall_s == 15.0
    assert expected.output_tokens == found.output_tokens == 60
    # Where parts of a prompt meet, the forecast may join two words: one a prompt.
    assert abs(expected.input_tokens - found.input_tokens) <= 30


def test_the_paper_bill() -> None:
    bill = price(3_000_000, 5_950, 1, price_per_million_input=0.075, price_per_million_output=0.3)
    assert bill.cost_usd == pytest.approx(1339.65)
    with pytest.raises(ValueError, match="concurrency >= 1"):
        price(1, 1, 1, concurrency=0, **PRICES)
