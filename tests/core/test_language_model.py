from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from core.openai_server import (
    API_KEY,
    MODEL,
    OPENAI_FIELDS,
    VLLM_FIELDS,
    OpenAIServer,
    Reply,
    Request,
    completion,
    echo,
    error,
    prompt_of,
    says,
)
from iclr_repro.core import language_model
from iclr_repro.core._language_model_base import Answer, OnAnswer, Question, ScoreQuestion, TextQuestion, ignore_answer
from iclr_repro.core.language_model import (
    BaseLanguageModel,
    CachedLanguageModel,
    Completion,
    EndpointLanguageModel,
    LanguageModel,
    LanguageModelError,
    LocalLanguageModel,
    UnusableAnswersError,
    Usage,
    answer_tokens,
    load_language_model,
)

SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "integer"}},
    "required": ["score"],
    "additionalProperties": False,
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv("OPENAI_API_KEY", API_KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with OpenAIServer() as running:
        yield running


def endpoint(server: OpenAIServer, **options: Any) -> EndpointLanguageModel:
    return EndpointLanguageModel(MODEL, server.base_url, **options)


def texts(completions: Sequence[Completion]) -> list[str]:
    return [completion.text for completion in completions]


# --- The module


def test_importing_the_module_loads_neither_torch_nor_transformers_nor_the_client() -> None:
    script = (
        "import sys, iclr_repro.core.language_model as m; "
        "print([p for p in ('torch', 'transformers', 'openai', 'anyio', 'jsonschema') if p in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_an_unknown_name_of_the_module_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'RemoteLanguageModel'"):
        _ = language_model.RemoteLanguageModel


@pytest.mark.parametrize("spec", ["gpt-4o", "local:", "azure:gpt-4o", ""])
def test_a_model_line_of_another_form_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match=f"'local:<name or folder>' or 'openai:<name>': got '{spec}'"):
        load_language_model(spec)


def test_a_model_line_makes_an_endpoint_with_a_cache_in_front(server: OpenAIServer, tmp_path: Path) -> None:
    for _ in range(2):
        model = load_language_model(f"openai:{MODEL}", cache=tmp_path / "a.sqlite", base_url=server.base_url)
        assert texts(model.complete(["one"])) == ["ONE"]
    offline = load_language_model(
        f"openai:{MODEL}", cache=tmp_path / "a.sqlite", offline=True, base_url=server.base_url
    )
    assert texts(offline.complete(["one"])) == ["ONE"]
    assert len(server.requests) == 1


def test_offline_without_a_cache_is_refused() -> None:
    with pytest.raises(ValueError, match=r"name its file \(cache=\.\.\.\)"):
        load_language_model(f"openai:{MODEL}", offline=True)


# --- Options and questions, the same for all back-ends


class Recorder(BaseLanguageModel):
    """Answers every prompt with its number of characters and records what it was asked."""

    def __init__(self, name: str = "recorder", cost_usd: float | None = 0.5) -> None:
        self.name = name
        self.usage = Usage()
        self.asked: list[str] = []
        self._cost_usd = cost_usd

    def identity(self) -> dict[str, Any]:
        return {"model": self.name}

    def answer(self, prompts: Sequence[str], question: Question, on_answer: OnAnswer = ignore_answer) -> list[Answer]:
        self.asked.extend(prompts)
        answers = [
            Answer(str(len(p)), (-0.25, -math.inf), input_tokens=3, output_tokens=2, cost_usd=self._cost_usd)
            for p in prompts
        ]
        for index, answer in enumerate(answers):
            self.usage.add(answer)
            on_answer(index, answer)
        return answers


@pytest.mark.parametrize("options", [{"max_tokens": 0}, {"temperature": -0.1}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="max_tokens must be >= 1 and temperature >= 0: got"):
        Recorder().complete(["a"], **options)


def test_an_invalid_schema_is_refused_before_anything_is_asked() -> None:
    model = Recorder()
    with pytest.raises(ValueError, match=r"not a valid JSON schema at \$\.type: 'integr'"):
        model.complete(["a"], schema={"type": "integr"})
    assert model.asked == []


@pytest.mark.parametrize("candidates", [[], ["A", "B", "A"]])
def test_candidates_must_be_different_and_at_least_one(candidates: list[str]) -> None:
    with pytest.raises(ValueError, match="candidates must be different texts, at least one"):
        Recorder().next_token_scores(["a"], candidates)


def test_no_prompts_give_no_answers(server: OpenAIServer, tmp_path: Path) -> None:
    for model in (endpoint(server), tiny_model(), CachedLanguageModel(endpoint(server), tmp_path / "a.sqlite")):
        assert model.next_token_scores([], ["A", "B"]).shape == (0, 2)
        assert model.complete([]) == []
    assert server.requests == []


def test_the_cost_is_unknown_as_soon_as_one_price_is() -> None:
    usage = Usage()
    usage.add(Answer(input_tokens=5, output_tokens=1, cost_usd=0.25))
    assert usage == Usage(1, 5, 1, 0.25)
    usage.add(Answer(input_tokens=2, output_tokens=3, cost_usd=None))
    usage.add(Answer(cost_usd=0.25))
    assert usage == Usage(3, 7, 4, None)


# --- Endpoint: good answers


def test_texts_come_back_in_the_order_of_the_prompts(server: OpenAIServer) -> None:
    server.respond = lambda request: Reply(
        body=completion(prompt_of(request).upper()), delay_s=0.1 if prompt_of(request) == "a" else 0.0
    )
    model: LanguageModel = endpoint(server)
    assert texts(model.complete(["a", "b", "c"])) == ["A", "B", "C"]


def test_a_completion_request_says_what_was_asked_for(server: OpenAIServer) -> None:
    model = endpoint(server, system="Be brief.")
    model.complete(["hi"], max_tokens=7)
    assert server.requests == [
        {
            "model": MODEL,
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
            "max_tokens": 7,
            "temperature": 0.0,
        }
    ]


def test_only_a_sampled_text_has_a_seed(server: OpenAIServer) -> None:
    model = endpoint(server)
    model.complete(["hi"], seed=3)
    model.complete(["hi"], seed=3, temperature=0.5)
    assert [request.get("seed") for request in server.requests] == [None, 3]


def test_tokens_and_dollars_are_those_of_the_bill(server: OpenAIServer) -> None:
    server.respond = lambda request: says("ok", prompt_tokens=500_000, completion_tokens=125_000)
    model = endpoint(server, price_per_million_input=2.0, price_per_million_output=4.0)
    completions = model.complete(["a", "b"])
    assert completions == [Completion("ok", 500_000, 125_000, 1.5, False)] * 2
    assert model.usage == Usage(2, 1_000_000, 250_000, 3.0)


def test_the_cost_of_three_million_comparisons_is_forecast(server: OpenAIServer) -> None:
    model = endpoint(server, price_per_million_input=0.075, price_per_million_output=0.3)
    assert model.cost_usd(3_000_000 * 5950, 3_000_000) == pytest.approx(1339.65)
    assert endpoint(server).cost_usd(1, 1) is None


def test_scores_add_the_tokens_that_begin_one_candidate_only(server: OpenAIServer) -> None:
    first_token = {"No": -0.5, "A": -1.0, " A": -2.0, "B": -3.0, "N": -4.0, "\n": -5.0, "Novel": -6.0, "a": -7.0}
    server.respond = lambda request: says("No", completion_tokens=1, top_logprobs=first_token)
    scores = endpoint(server).next_token_scores(["x"], ["A", " B", "Novelty", "None", "C"])
    expected = [math.log(math.exp(-1) + math.exp(-2)), -3.0, -6.0, -math.inf, -math.inf]
    np.testing.assert_allclose(scores, [expected], rtol=1e-12)


def test_a_score_request_asks_for_one_token_and_its_twenty_best(server: OpenAIServer) -> None:
    scores = endpoint(server).next_token_scores(["x", "y"], ["B", "A"])
    np.testing.assert_allclose(np.exp(scores), [[0.2, 0.7]] * 2)
    asked = {key: server.requests[0][key] for key in ("max_tokens", "temperature", "logprobs", "top_logprobs")}
    assert asked == {"max_tokens": 1, "temperature": 0.0, "logprobs": True, "top_logprobs": 20}


def test_an_answer_is_begun_in_the_assistants_message_where_the_server_goes_on_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", API_KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with OpenAIServer(known_fields=OPENAI_FIELDS | VLLM_FIELDS) as vllm:
        model = endpoint(vllm, continue_final_message=True)
        model.next_token_scores(["x"], ["A", "B"], answer_begins="Winner:")
        model.next_token_scores(["x"], ["A", "B"])
    begun, plain = vllm.requests
    assert begun["messages"] == [{"role": "user", "content": "x"}, {"role": "assistant", "content": "Winner:"}]
    assert (begun["continue_final_message"], begun["add_generation_prompt"]) == (True, False)
    assert plain["messages"] == [{"role": "user", "content": "x"}]
    assert not VLLM_FIELDS & set(plain)


def test_an_answer_is_begun_at_the_end_of_the_prompt_where_the_api_knows_no_other_way(server: OpenAIServer) -> None:
    endpoint(server).next_token_scores(["x"], ["A", "B"], answer_begins="Winner:")
    assert server.requests[0]["messages"] == [{"role": "user", "content": "x\nWinner:"}]
    refused = endpoint(server, continue_final_message=True)
    with pytest.raises(LanguageModelError, match="Unrecognized request argument supplied: add_generation_prompt"):
        refused.next_token_scores(["x"], ["A", "B"], answer_begins="Winner:")
    assert endpoint(server).identity() != refused.identity()


def test_candidates_that_first_tokens_cannot_tell_apart_are_refused(server: OpenAIServer) -> None:
    model = endpoint(server)
    with pytest.raises(ValueError, match="candidate 'A' is how 'AB' begins"):
        model.next_token_scores(["x"], ["AB", "A"])
    with pytest.raises(ValueError, match="candidate 'A' is how 'A' begins"):
        model.next_token_scores(["x"], ["A", " A"])
    with pytest.raises(ValueError, match=r"must not be blank: got \[' '\]"):
        model.next_token_scores(["x"], [" "])
    assert server.requests == []


def test_an_endpoint_can_be_asked_while_an_event_loop_runs(server: OpenAIServer) -> None:
    async def cell() -> list[Completion]:
        return endpoint(server).complete(["a"])

    assert texts(asyncio.run(cell())) == ["A"]


def test_no_more_requests_than_allowed_are_under_way(server: OpenAIServer) -> None:
    server.respond = lambda request: Reply(body=completion("ok"), delay_s=0.15)
    endpoint(server, max_concurrency=3).complete([f"prompt {i}" for i in range(9)])
    assert server.most_at_once == 3


def test_the_address_may_come_from_the_environment(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url + "/")
    model = EndpointLanguageModel(MODEL)
    assert texts(model.complete(["a"])) == ["A"]
    assert model.identity() == {"endpoint": server.base_url, "model": MODEL, "system": ""}
    monkeypatch.delenv("OPENAI_BASE_URL")
    assert EndpointLanguageModel(MODEL).identity()["endpoint"] == "https://api.openai.com/v1"


# --- Endpoint: JSON


def test_a_schema_is_sent_in_strict_form_and_its_answer_validated(server: OpenAIServer) -> None:
    server.respond = lambda request: says('{"score": 8}')
    assert texts(endpoint(server).complete(["a"], schema=SCHEMA)) == ['{"score": 8}']
    assert server.requests[0]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA},
    }


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (says('{"score": "high"}'), r"does not fit the schema at \$\.score: 'high' is not of type 'integer'"),
        (says("{}"), r"does not fit the schema at \$: 'score' is a required property"),
        (says("Score: 8"), r"not JSON \(Expecting value: line 1 column 1 \(char 0\)\): 'Score: 8'"),
        (says('{"sco', finish_reason="length"), r"""not JSON \(cut off at max_tokens=9\): '{"sco'"""),
        (says(None, refusal="I cannot."), "no text, finish_reason=stop, refusal='I cannot.'"),
    ],
)
def test_an_answer_that_cannot_be_used_leaves_the_others_usable(server: OpenAIServer, bad: Reply, problem: str) -> None:
    server.respond = lambda request: bad if prompt_of(request) == "b" else says('{"score": 8}')
    model = endpoint(server)
    with pytest.raises(UnusableAnswersError, match=f"1 of 3 answers cannot be used; .* prompt 1: {problem}") as caught:
        model.complete(["a", "b", "c"], schema=SCHEMA, max_tokens=9)
    assert [c and c.text for c in caught.value.completions] == ['{"score": 8}', None, '{"score": 8}']
    assert list(caught.value.problems) == [1]
    assert model.usage.answers == 3


def test_an_endpoint_that_ignores_the_schema_is_given_up_after_ten_answers(server: OpenAIServer) -> None:
    prompts = [f"prompt {i}" for i in range(30)]
    with pytest.raises(LanguageModelError, match=r"none of the first 10 answers can be used.* prompt 0: not JSON"):
        endpoint(server, max_concurrency=1).complete(prompts, schema=SCHEMA)
    assert server.prompts == prompts[:10]


# --- Endpoint: errors


def once(first: Reply) -> Callable[[Request], Reply]:
    """Answer the first request with `first`, later ones well."""
    replies = iter([first])
    return lambda request: next(replies, None) or echo(request)


def test_a_rate_limit_is_waited_out_for_as_long_as_the_endpoint_asks(server: OpenAIServer) -> None:
    limit = error(429, "Rate limit reached for requests", code="rate_limit_exceeded")
    server.respond = once(Reply(limit.status, limit.body, {"retry-after": "1"}))
    start = time.monotonic()
    assert texts(endpoint(server).complete(["a"])) == ["A"]
    assert time.monotonic() - start >= 1.0
    assert server.prompts == ["a", "a"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_endpoint_that_keeps_failing_is_reported_after_all_tries(server: OpenAIServer, status: int) -> None:
    server.respond = lambda request: error(status, "The server is overloaded")
    expected = (
        rf"gpt-4o-mini at {server.base_url} still answered with status {status} after up to 4 tries: wait and run "
        "again, or lower max_concurrency; the endpoint says: The server is overloaded"
    )
    with pytest.raises(LanguageModelError, match=expected):
        endpoint(server, max_retries=3).complete(["a"])
    assert len(server.requests) == 4


@pytest.mark.parametrize("broken", [Reply(cut=True), Reply(body=completion("lost"), cut_body=True)])
def test_a_cut_connection_is_tried_again(server: OpenAIServer, broken: Reply) -> None:
    server.respond = once(broken)
    assert texts(endpoint(server).complete(["a"])) == ["A"]
    assert len(server.requests) == 2


def test_an_endpoint_that_hangs_up_is_reported(server: OpenAIServer) -> None:
    server.respond = lambda request: Reply(cut=True)
    with pytest.raises(LanguageModelError, match=r"cannot be reached in 1 tries \(Server disconnected .*base URL"):
        endpoint(server, max_retries=0).complete(["a"])


def test_an_endpoint_that_is_not_there_is_reported(server: OpenAIServer) -> None:
    gone = OpenAIServer()
    gone._http.server_close()
    with pytest.raises(LanguageModelError, match=rf"{gone.base_url} cannot be reached in 1 tries \(.*connect"):
        endpoint(gone, max_retries=0).complete(["a"])


def test_a_slow_endpoint_times_out(server: OpenAIServer) -> None:
    server.respond = lambda request: Reply(body=completion("late"), delay_s=1.0)
    with pytest.raises(LanguageModelError, match=r"did not answer prompt 0 within 0\.1 s in 1 tries: raise timeout_s"):
        endpoint(server, timeout_s=0.1, max_retries=0).complete(["a"])


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(body=b'{"id": "chatcmpl-1", '), "sent to prompt 0 what is not JSON"),
        (Reply(body=b"<html>It works!</html>", headers={"content-type": "text/html"}), "'<html>It works!</html>'"),
        (Reply(body={"object": "list", "data": []}), "sent no chat completion to prompt 0: check that the base URL"),
        (Reply(body={**completion("ok"), "choices": []}), "sent no chat completion to prompt 0"),
        (Reply(body={**completion("ok"), "usage": None}), "sent no chat completion to prompt 0"),
    ],
)
def test_what_is_no_chat_completion_is_reported(server: OpenAIServer, reply: Reply, expected: str) -> None:
    server.respond = lambda request: reply
    with pytest.raises(LanguageModelError, match=expected):
        endpoint(server).complete(["a"])


@pytest.mark.parametrize("top_logprobs", [None, {}])
def test_an_endpoint_without_log_probabilities_is_reported(
    server: OpenAIServer, top_logprobs: dict[str, float] | None
) -> None:
    body = completion("A", top_logprobs=None if top_logprobs is None else {"A": -1.0})
    if top_logprobs is not None:
        body["choices"][0]["logprobs"]["content"][0]["top_logprobs"] = []
    server.respond = lambda request: Reply(body=body)
    with pytest.raises(LanguageModelError, match="sent no log-probabilities: choose a model or server with"):
        endpoint(server).next_token_scores(["a"], ["A", "B"])


def test_a_refused_key_is_reported_by_the_name_of_its_variable(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-wrong-and-secret")
    with pytest.raises(LanguageModelError, match=r"refused the API key \(401\).* variable MY_KEY$") as caught:
        endpoint(server, api_key_env="MY_KEY").complete(["a"])
    assert "sk-wrong" not in "".join(traceback.format_exception(caught.value))
    assert len(server.requests) == 1


def test_a_key_quoted_by_the_endpoint_is_blanked(server: OpenAIServer) -> None:
    server.respond = lambda request: error(400, f"Bad header: Bearer {API_KEY}")
    with pytest.raises(LanguageModelError, match=r"refused prompt 0 \(400\).*Bearer \*\*\*") as caught:
        endpoint(server).complete(["a"])
    assert API_KEY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("key", ["sk-two\nlines", "sk-two words", "sk-“quoted”"])
def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    expected = "variable OPENAI_API_KEY holds white space or special characters, which no API key does"
    with pytest.raises(LanguageModelError, match=expected) as caught:
        endpoint(server).complete(["a"])
    assert "sk-" not in "".join(traceback.format_exception(caught.value))
    assert server.requests == []


@pytest.mark.parametrize("value", [None, "  "])
def test_a_missing_key_is_reported_before_anything_is_sent(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(LanguageModelError, match=r"environment variable MY_KEY is not set.*pass api_key_env=None"):
        endpoint(server, api_key_env="MY_KEY").complete(["a"])
    assert server.requests == []


def test_a_server_that_wants_a_key_after_all_is_reported(server: OpenAIServer) -> None:
    with pytest.raises(LanguageModelError, match=r"wants an API key \(401\): pass api_key_env"):
        endpoint(server, api_key_env=None).complete(["a"])


def test_an_unknown_model_is_reported(server: OpenAIServer) -> None:
    expected = r"gpt-5000 at .* was not found \(404\).*the endpoint says: The model `gpt-5000` does not exist"
    with pytest.raises(LanguageModelError, match=expected):
        EndpointLanguageModel("gpt-5000", server.base_url).complete(["a"])


def test_a_wrong_path_is_reported(server: OpenAIServer) -> None:
    with pytest.raises(LanguageModelError, match=r"\(404\): check the model's name and the base URL; .*Invalid URL"):
        EndpointLanguageModel(MODEL, server.base_url.removesuffix("/v1")).complete(["a"])


def test_a_refused_prompt_is_reported_with_its_index(server: OpenAIServer) -> None:
    too_long = error(400, "This model's maximum context length is 128000 tokens.", code="context_length_exceeded")
    server.respond = lambda request: too_long if prompt_of(request) == "b" else echo(request)
    expected = r"refused prompt 1 \(400\); the endpoint says: This model's maximum context"
    with pytest.raises(LanguageModelError, match=expected):
        endpoint(server).complete(["a", "b"])


def test_after_an_error_nothing_more_is_asked_and_what_is_under_way_is_kept(server: OpenAIServer) -> None:
    def respond(request: Request) -> Reply:
        if prompt_of(request) == "prompt 0":
            return error(400, "no")
        return Reply(body=completion("ok"), delay_s=0.2)

    server.respond = respond
    arrived: list[int] = []
    with pytest.raises(LanguageModelError, match="refused prompt 0"):
        endpoint(server, max_concurrency=3).answer(
            [f"prompt {i}" for i in range(9)],
            TextQuestion(None, 5, 0.0, None),
            lambda index, answer: arrived.append(index),
        )
    assert sorted(server.prompts) == ["prompt 0", "prompt 1", "prompt 2"]
    assert sorted(arrived) == [1, 2]


def test_a_missing_client_is_reported_with_the_command_that_installs_it(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(LanguageModelError, match=r"needs the package openai: pip install 'iclr-repro\[llm\]'"):
        endpoint(server).complete(["a"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_concurrency": 0}, "max_concurrency must be >= 1"),
        ({"max_retries": -1}, "max_retries >= 0"),
        ({"timeout_s": 0.0}, "timeout_s > 0"),
        ({"price_per_million_input": 0.1}, "give both price_per_million_input and price_per_million_output"),
        ({"base_url": "localhost:8000/v1"}, "must look like http://localhost:8000/v1: got 'localhost:8000/v1'"),
        ({"base_url": "https://me:secret@host/v1"}, "base_url holds a user or password: put the key of host"),
    ],
)
def test_endpoint_options_that_cannot_work_are_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        EndpointLanguageModel(MODEL, **options)
    assert "secret" not in str(caught.value)


# --- Cache


def test_a_kept_answer_costs_no_request(server: OpenAIServer, tmp_path: Path) -> None:
    prices = {"price_per_million_input": 2500.0, "price_per_million_output": 12500.0}
    first = CachedLanguageModel(endpoint(server, **prices), tmp_path / "a.sqlite")
    paid = first.complete(["a", "b"])
    again = CachedLanguageModel(endpoint(server, **prices), tmp_path / "a.sqlite")
    kept = again.complete(["b", "a"])
    assert len(server.requests) == 2
    assert [c.cached for c in paid + kept] == [False, False, True, True]
    assert kept[0] == Completion("B", 100, 10, 0.375, True)
    assert (first.usage, first.reused) == (Usage(2, 200, 20, 0.75), Usage())
    assert (again.usage, again.reused) == (Usage(), Usage(2, 200, 20, 0.75))


def test_kept_scores_are_equal_even_if_infinite(tmp_path: Path) -> None:
    model = Recorder()
    scores = [CachedLanguageModel(model, tmp_path / "a.sqlite").next_token_scores(["a"], ["A", "B"]) for _ in "12"]
    np.testing.assert_array_equal(scores, [[[-0.25, -math.inf]]] * 2)
    assert model.asked == ["a"]


def test_equal_prompts_of_a_call_are_asked_once(tmp_path: Path) -> None:
    model = CachedLanguageModel(recorder := Recorder(), tmp_path / "a.sqlite")
    completions = model.complete(["aa", "b", "aa"])
    assert recorder.asked == ["aa", "b"]
    assert [(c.text, c.cached) for c in completions] == [("2", False), ("1", False), ("2", True)]
    assert model.usage.cost_usd == sum(c.cost_usd or 0.0 for c in completions if not c.cached)
    assert model.reused.answers == 1


def test_whatever_changes_the_answer_changes_the_key(tmp_path: Path) -> None:
    def ask(number: int, recorder: Recorder) -> None:
        model = CachedLanguageModel(recorder, tmp_path / "a.sqlite")
        questions: list[Callable[[], object]] = [
            lambda: model.complete(["p"]),
            lambda: model.complete(["q"]),
            lambda: model.complete(["p"], max_tokens=9),
            lambda: model.complete(["p"], temperature=0.5),
            lambda: model.complete(["p"], temperature=0.5, seed=1),
            lambda: model.complete(["p"], schema={"type": "integer"}),
            lambda: model.complete(["p"], schema={"type": "string"}),
            lambda: model.next_token_scores(["p"], ["A", "B"]),
            lambda: model.next_token_scores(["p"], ["B", "A"]),
            lambda: model.next_token_scores(["p"], ["A", "B"], answer_begins="Winner:"),
        ]
        for expected, question in enumerate(questions, start=1):
            question()
            assert len(recorder.asked) == min(expected, number)
        model.complete(["p"], seed=1)  # no influence at temperature 0
        assert len(recorder.asked) == number

    ask(10, Recorder("one"))
    ask(10, Recorder("two"))
    ask(0, Recorder("one"))


def test_the_key_of_an_endpoint_covers_address_and_system_message(server: OpenAIServer, tmp_path: Path) -> None:
    with OpenAIServer() as other:
        for address in (server, other):
            for system in ("", "Be brief."):
                CachedLanguageModel(endpoint(address, system=system), tmp_path / "a.sqlite").complete(["p"])
        assert (len(server.requests), len(other.requests)) == (2, 2)


def test_answers_from_before_answers_were_begun_keep_their_keys(tmp_path: Path) -> None:
    model = CachedLanguageModel(recorder := Recorder(), tmp_path / "a.sqlite")
    model.next_token_scores(["p"], ["A", "B"])
    asked = {"kind": "ScoreQuestion", "model": recorder.identity(), "question": {"candidates": ["A", "B"]}}
    key = hashlib.sha256(f'{json.dumps(asked, sort_keys=True)}\n"p"'.encode()).hexdigest()
    with closing(sqlite3.connect(tmp_path / "a.sqlite")) as database:
        assert database.execute("SELECT key FROM answers").fetchall() == [(key,)]


def test_a_failed_run_goes_on_with_what_is_missing(server: OpenAIServer, tmp_path: Path) -> None:
    prompts = [f"prompt {i}" for i in range(6)]
    server.respond = lambda request: error(500, "oops") if prompt_of(request) == "prompt 3" else echo(request)
    options: dict[str, Any] = {"max_concurrency": 1, "max_retries": 0}
    with pytest.raises(LanguageModelError, match="status 500"):
        CachedLanguageModel(endpoint(server, **options), tmp_path / "a.sqlite").complete(prompts)
    assert server.prompts == prompts[:4]
    server.requests.clear()
    server.respond = echo
    model = CachedLanguageModel(endpoint(server, **options), tmp_path / "a.sqlite")
    assert texts(model.complete(prompts)) == [prompt.upper() for prompt in prompts]
    assert server.prompts == prompts[3:]


def test_only_an_answer_that_cannot_be_used_is_asked_again(server: OpenAIServer, tmp_path: Path) -> None:
    server.respond = lambda request: says("eight" if prompt_of(request) == "b" else '{"score": 8}')
    model = CachedLanguageModel(endpoint(server, max_concurrency=1), tmp_path / "a.sqlite")
    with pytest.raises(UnusableAnswersError, match=r"1 of 3 .* prompt 2: not JSON") as caught:
        model.complete(["a", "a", "b"], schema=SCHEMA)
    assert [c and c.text for c in caught.value.completions] == ['{"score": 8}', '{"score": 8}', None]
    server.respond = lambda request: says('{"score": 9}')
    assert texts(model.complete(["a", "b"], schema=SCHEMA)) == ['{"score": 8}', '{"score": 9}']
    assert server.prompts == ["a", "b", "b"]


def test_offline_mode_says_how_many_answers_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CachedLanguageModel(Recorder(MODEL), tmp_path / "a.sqlite").complete(["a", "b"])
    recorder = Recorder(MODEL)
    offline = CachedLanguageModel(recorder, tmp_path / "a.sqlite", offline=True)
    assert texts(offline.complete(["b", "a"])) == ["1", "1"]
    expected = r"a\.sqlite lacks the answers of gpt-4o-mini to 2 of 3 different prompts, and offline mode"
    with pytest.raises(LanguageModelError, match=expected):
        offline.complete(["a", "c", "d", "c"])
    assert recorder.asked == []


def test_offline_mode_needs_neither_key_nor_client(
    server: OpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CachedLanguageModel(endpoint(server), tmp_path / "a.sqlite").complete(["a"])
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setitem(sys.modules, "openai", None)
    offline = CachedLanguageModel(endpoint(server), tmp_path / "a.sqlite", offline=True)
    assert texts(offline.complete(["a"])) == ["A"]


@pytest.mark.parametrize(
    "damage", ["", '{"text": "x"', '{"text": "x"}', '{"text": "x", "scores": [], "input_tokens": "many"}', "7"]
)
def test_a_damaged_answer_is_asked_again_with_a_warning(tmp_path: Path, damage: str) -> None:
    model = CachedLanguageModel(recorder := Recorder(), tmp_path / "a.sqlite")
    model.complete(["aa"])
    database = sqlite3.connect(tmp_path / "a.sqlite", isolation_level=None)
    database.execute("UPDATE answers SET answer = ?", (damage,))
    database.close()
    with pytest.warns(UserWarning, match="a stored answer .* is damaged and is asked again"):
        assert texts(model.complete(["aa"])) == ["2"]
    assert texts(model.complete(["aa"])) == ["2"]
    assert recorder.asked == ["aa", "aa"]


def test_a_file_that_is_no_cache_is_reported_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    path.write_text("these are my notes, not a database\n" * 100)
    before = path.read_bytes()
    expected = r"the answers in .*a\.sqlite cannot be read or written \(file is not a database\).* move the file away"
    with pytest.raises(LanguageModelError, match=expected):
        CachedLanguageModel(Recorder(), path).complete(["a"])
    assert path.read_bytes() == before


def test_the_file_holds_neither_key_nor_prompt(server: OpenAIServer, tmp_path: Path) -> None:
    server.respond = lambda request: says("my answer")
    CachedLanguageModel(endpoint(server), tmp_path / "a.sqlite").complete(["my private manuscript"])
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"my answer" in content
    assert API_KEY.encode() not in content
    assert b"manuscript" not in content


TWO_WRITERS = """
import sys
from pathlib import Path
from iclr_repro.core._language_model_base import Answer, BaseLanguageModel, Usage
from iclr_repro.core.language_model import CachedLanguageModel

class Writer(BaseLanguageModel):
    name, usage = "writer", Usage()
    def identity(self): return {}
    def answer(self, prompts, question, on_answer):
        answers = [Answer(text=f"{prompt} by {sys.argv[2]}") for prompt in prompts]
        for index, answer in enumerate(answers): on_answer(index, answer)
        return answers

print("ready", flush=True)
sys.stdin.readline()
prompts = [f"{sys.argv[2]} {i}" for i in range(150)] + [f"both {i}" for i in range(150)]
CachedLanguageModel(Writer(), sys.argv[1]).complete(prompts)
"""


def test_two_processes_may_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    command = [sys.executable, "-c", TWO_WRITERS, str(path)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    writers = [subprocess.Popen([*command, name], text=True, **pipes) for name in ("one", "two")]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        assert writer.communicate(timeout=60)[1] == ""
        assert writer.returncode == 0
    database = sqlite3.connect(path)
    stored = [json.loads(answer)["text"] for (answer,) in database.execute("SELECT answer FROM answers")]
    database.close()
    assert len(stored) == 450
    for kind, count in (("one ", 150), ("two ", 150), ("both ", 150)):
        assert len({text.split(" by ")[0] for text in stored if text.startswith(kind)}) == count


CUT_RUN = """
import sys
from iclr_repro.core.language_model import CachedLanguageModel, EndpointLanguageModel
model = EndpointLanguageModel(sys.argv[1], sys.argv[2], max_concurrency=1)
CachedLanguageModel(model, sys.argv[3]).complete([f"prompt {i}" for i in range(6)])
"""


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_cut_goes_on_without_paying_twice(server: OpenAIServer, tmp_path: Path, kind: int) -> None:
    path = tmp_path / "a.sqlite"
    cut_at: list[float] = []

    def respond(request: Request) -> Reply:
        if prompt_of(request) == "prompt 4":
            cut_at.append(time.monotonic())
            os.kill(process.pid, kind)
            return Reply(body=completion("late"), delay_s=30.0)
        return echo(request)

    server.respond = respond
    process = subprocess.Popen(
        [sys.executable, "-c", CUT_RUN, MODEL, server.base_url, str(path)], stderr=subprocess.PIPE, text=True
    )
    _, stderr = process.communicate(timeout=60)
    assert time.monotonic() - cut_at[0] < 20.0  # the request under way was not waited for
    assert process.returncode != 0
    if kind == signal.SIGINT:
        assert stderr.rstrip().endswith("KeyboardInterrupt")
    server.requests.clear()
    server.respond = echo
    prompts = [f"prompt {i}" for i in range(6)]
    assert texts(CachedLanguageModel(endpoint(server, max_concurrency=1), path).complete(prompts)) == [
        prompt.upper() for prompt in prompts
    ]
    assert server.prompts == prompts[4:]


# --- Local models

WORDS = ["<unk>", "<end>", "A", "B", "paper", "review", "good", "bad", "novel", "is", "the", "which", "better", ":"]
ARCHITECTURES = ["gpt2", "llama"]
PROMPTS = ["the paper is good", "A", "which paper is better : the novel paper A", "bad review : B is good"]


def word_tokenizer(extra: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate([*WORDS, *extra])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>")


def word_ids(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


def network(architecture: str = "gpt2", seed: int = 0) -> PreTrainedModel:
    """A small random network with large weights, so that its answers differ clearly between prompts."""
    ends = {"bos_token_id": 1, "eos_token_id": 1}
    config: Any
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if architecture == "gpt2":
            config = GPT2Config(
                vocab_size=len(WORDS), n_positions=24, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5, **ends
            )
            return GPT2LMHeadModel(config)
        config = LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=24,
            initializer_range=0.5,
            **ends,
        )
        return LlamaForCausalLM(config)


def tiny_model(architecture: str = "gpt2", **options: Any) -> LocalLanguageModel:
    return LocalLanguageModel(network(architecture), word_tokenizer(), name="tiny", **options)


def constant_model(
    logits: dict[str, float], *, batch_size: int = 8, dtype: torch.dtype = torch.float32
) -> LocalLanguageModel:
    """A network with these logits after any prompt, and -20 for all other words."""
    tokenizer = word_tokenizer([word for word in logits if word not in WORDS])
    sizes = {"vocab_size": len(tokenizer), "n_positions": 2000, "n_embd": 4, "n_layer": 1, "n_head": 1}
    model = GPT2LMHeadModel(GPT2Config(**sizes, tie_word_embeddings=False, bos_token_id=1, eos_token_id=1))
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        model.lm_head.weight.zero_()
        for word, token in tokenizer.get_vocab().items():
            model.lm_head.weight[token, 0] = logits.get(word, -20.0)
    return LocalLanguageModel(model.to(dtype), tokenizer, name="constant", batch_size=batch_size)


def log_probabilities(model: PreTrainedModel, tokens: list[int]) -> np.ndarray:
    """Of the token after `tokens`, in float64, without batch, mask or padding."""
    with torch.no_grad():
        logits = model.eval()(torch.tensor([tokens])).logits[0, -1].double().numpy()
    return np.asarray(logits - np.log(np.exp(logits).sum()))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_scores_are_the_log_probabilities_of_each_prompt_alone(architecture: str, batch_size: int) -> None:
    scores = tiny_model(architecture, batch_size=batch_size).next_token_scores(PROMPTS, ["B", "A", "good"])
    expected = [log_probabilities(network(architecture), word_ids(prompt))[[3, 2, 6]] for prompt in PROMPTS]
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert np.ptp(scores, axis=0).min() > 0.1  # the prompts do have different answers


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_greedy_texts_are_the_most_probable_tokens_of_each_prompt_alone(architecture: str, batch_size: int) -> None:
    model = tiny_model(architecture, batch_size=batch_size)
    completions = model.complete(PROMPTS, max_tokens=6)
    for prompt, completion_ in zip(PROMPTS, completions, strict=True):
        tokens = word_ids(prompt)
        new: list[int] = []
        while len(new) < 6 and 1 not in new:
            new.append(int(log_probabilities(network(architecture), tokens + new).argmax()))
        words = [WORDS[token] for token in new if token > 1]
        assert completion_ == Completion(" ".join(words), len(tokens), len(new), None, False)
    assert model.usage == Usage(4, 20, sum(c.output_tokens for c in completions), None)


def test_scores_are_normalised_in_float32_for_a_half_precision_model() -> None:
    scores = constant_model({"A": 1.0, "B": 2.0}, dtype=torch.bfloat16).next_token_scores(["paper"], ["A", "B"])
    np.testing.assert_allclose(
        scores, [[1 - math.log(math.e + math.e**2), 2 - math.log(math.e + math.e**2)]], atol=1e-6
    )


def test_answers_arrive_batch_by_batch_with_the_longest_prompts_first() -> None:
    arrived: list[int] = []
    question = ScoreQuestion(("A", "B"))
    tiny_model(batch_size=2).answer(PROMPTS, question, lambda index, answer: arrived.append(index))
    assert arrived == [2, 3, 0, 1]


def test_candidates_need_first_tokens_of_their_own() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match=r"'good paper' and 'good' have the same first token \('good'\)"):
        model.next_token_scores(["A"], ["good paper", "bad", "good"])
    with pytest.raises(ValueError, match="candidate 'excellent' has no token in the vocabulary of tiny"):
        model.next_token_scores(["A"], ["good", "excellent"])
    with pytest.raises(ValueError, match="candidate ' ' has no token"):
        model.next_token_scores(["A"], [" "])


def test_a_prompt_that_does_not_fit_is_reported_with_both_lengths() -> None:
    model = tiny_model(batch_size=1)
    fits = " ".join(["paper"] * 24)
    assert model.next_token_scores(["A", fits], ["A"]).shape == (2, 1)
    with pytest.raises(ValueError, match=r"prompt 1 has 25 tokens, .* tiny holds 24 tokens: shorten the prompt"):
        model.next_token_scores(["A", fits + " paper"], ["A"])
    with pytest.raises(ValueError, match="prompt 0 has 24 tokens, and up to 1 are to be generated; tiny holds 24"):
        model.complete([fits], max_tokens=1)
    with pytest.raises(ValueError, match="prompt 1 encodes to no token"):
        model.complete(["A", ""], max_tokens=1)


def test_sampling_defaults_of_a_published_model_are_dropped() -> None:
    plain = tiny_model().complete(PROMPTS, max_tokens=8)
    model = network()
    model.generation_config = GenerationConfig(
        eos_token_id=1, repetition_penalty=5.0, do_sample=True, temperature=3.0, top_k=3
    )
    assert LocalLanguageModel(model, word_tokenizer(), name="tuned").complete(PROMPTS, max_tokens=8) == plain


def test_a_draw_depends_on_seed_and_prompt_only() -> None:
    state = torch.random.get_rng_state()
    together = tiny_model(batch_size=8).complete(PROMPTS, max_tokens=8, temperature=2.0)
    alone = [tiny_model().complete([prompt], max_tokens=8, temperature=2.0)[0] for prompt in reversed(PROMPTS)]
    assert together == alone[::-1]
    assert tiny_model().complete(PROMPTS, max_tokens=8, temperature=2.0, seed=1) != together
    assert tiny_model().complete(PROMPTS, max_tokens=8) != together
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_draws_follow_the_softmax_of_the_tempered_logits(temperature: float) -> None:
    words = WORDS[2:]
    logits = np.array([2.0 if word == "good" else 0.5 if word == "bad" else 0.0 for word in words])
    model = constant_model(dict(zip(words, logits.tolist(), strict=True)), batch_size=500)
    prompts = [" ".join(prompt) for prompt in itertools.product(words, repeat=3)]
    drawn = texts(model.complete(prompts, max_tokens=1, temperature=temperature))
    expected = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    four_errors = 4 * np.sqrt(expected * (1 - expected) / len(prompts))
    assert np.all(np.abs(np.array([drawn.count(word) for word in words]) / len(prompts) - expected) < four_errors)


def test_a_text_ends_at_the_end_token_which_counts() -> None:
    completions = constant_model({"<end>": 5.0}).complete(["the paper", "A"], max_tokens=9)
    assert completions == [Completion("", 2, 1, None, False), Completion("", 1, 1, None, False)]


def test_a_text_without_end_token_is_cut_at_the_limit() -> None:
    assert texts(constant_model({"good": 5.0}).complete(["A"], max_tokens=3)) == ["good good good"]


@pytest.mark.parametrize("said", ['{"score":8}', '```json\n{"score":8}\n```', '```\n{"score":8}\n```'])
def test_a_local_json_answer_is_validated_and_freed_from_its_fence(said: str) -> None:
    completions = constant_model({said: 5.0}).complete(["the paper"], schema=SCHEMA, max_tokens=1)
    assert texts(completions) == ['{"score":8}']
    rule = f"Answer with one JSON value that fits this JSON schema, and with nothing else:\n{json.dumps(SCHEMA)}"
    assert completions[0].input_tokens == 2 + len(rule.split())


def test_a_local_answer_that_is_not_json_cannot_be_used() -> None:
    with pytest.raises(UnusableAnswersError, match=r"constant: 1 of 1 .*not JSON \(cut off at max_tokens=2\)"):
        constant_model({"good": 5.0}).complete(["the paper"], schema=SCHEMA, max_tokens=2)


def test_the_chat_template_wraps_system_message_and_prompt() -> None:
    tokenizer = word_tokenizer()
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message.role == 'user' and 'which' or 'better' }} {{ message.content }} "
        "{% endfor %}{% if add_generation_prompt %}:{% endif %}"
    )
    model = LocalLanguageModel(network(), tokenizer, name="chat", chat_template=True, system="is novel")
    scores = model.next_token_scores(["the paper"], ["A", "B"])
    tokens = word_ids("better is novel which the paper :")
    np.testing.assert_allclose(scores[0], log_probabilities(network(), tokens)[[2, 3]], atol=1e-5)


@pytest.mark.parametrize("chat", [True, False])
def test_an_answer_that_is_begun_is_gone_on_with(chat: bool) -> None:
    tokenizer = word_tokenizer()
    if chat:
        tokenizer.chat_template = (
            "{% for message in messages %}{{ message.role == 'user' and 'which' or 'better' }} {{ message.content }} "
            "{% endfor %}{% if add_generation_prompt %}better{% endif %}"
        )
    model = LocalLanguageModel(network(), tokenizer, name="chat", chat_template=chat, system="is novel")
    scores = model.next_token_scores(["the paper", "paper"], ["B", "A"], answer_begins=":")
    for row, prompt in zip(scores, ("the paper", "paper"), strict=True):
        text = f"better is novel which {prompt} better :" if chat else f"is novel {prompt} :"
        np.testing.assert_allclose(row, log_probabilities(network(), word_ids(text))[[3, 2]], atol=1e-5)


def byte_tokenizer(*merges: tuple[str, str]) -> PreTrainedTokenizerFast:
    symbols = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(symbols)}, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_the_tokens_of_answers_are_those_after_a_space() -> None:
    space = "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}"  # how byte-level tokenizers write it
    for merges, expected in (
        ([], ["A", "B"]),
        ([(space, "A"), (space, "B")], [f"{space}A", f"{space}B"]),
        ([(":", space)], ["A", "B"]),
    ):
        tokenizer = byte_tokenizer(*merges)
        assert tokenizer.convert_ids_to_tokens(answer_tokens(tokenizer, "Winner:", ["A", " B"])) == expected
    for candidates in (["A", "AB"], ["A", "A"]):
        with pytest.raises(ValueError, match=f"the answers {', '.join(candidates)} are not one token each"):
            answer_tokens(byte_tokenizer(), "Winner:", candidates)
    with pytest.raises(ValueError, match="are not one token each"):
        answer_tokens(byte_tokenizer((space, "A")), "Winner:", ["A", "B"])


def test_without_template_the_system_text_precedes_the_prompt() -> None:
    scores = tiny_model(system="is novel").next_token_scores(["the paper"], ["A", "B"])
    tokens = word_ids("is novel the paper")
    np.testing.assert_allclose(scores[0], log_probabilities(network(), tokens)[[2, 3]], atol=1e-5)


def test_local_options_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="the tokenizer of tiny has no chat template"):
        tiny_model(chat_template=True)
    with pytest.raises(ValueError, match="batch_size must be >= 1: got 0"):
        tiny_model(batch_size=0)


def test_a_saved_model_is_loaded_from_its_folder(tmp_path: Path) -> None:
    network().save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    loaded = load_language_model(f"local:{tmp_path}", batch_size=2)
    expected = tiny_model().next_token_scores(PROMPTS, ["A", "B"])
    np.testing.assert_allclose(loaded.next_token_scores(PROMPTS, ["A", "B"]), expected, atol=1e-6)


def test_a_folder_without_a_model_is_reported(tmp_path: Path) -> None:
    with pytest.raises(LanguageModelError, match=rf"the model '{tmp_path}' cannot be loaded: check the name"):
        LocalLanguageModel.from_pretrained(str(tmp_path))


def test_the_identity_of_a_local_model_covers_its_weights() -> None:
    one, same, other = (
        LocalLanguageModel(network(seed=seed), word_tokenizer(), name="tiny").identity() for seed in (0, 0, 1)
    )
    assert one == same
    assert {key for key in one if one[key] != other[key]} == {"weights"}


def test_a_local_model_is_not_run_for_kept_answers(tmp_path: Path) -> None:
    first = CachedLanguageModel(tiny_model(), tmp_path / "a.sqlite").next_token_scores(PROMPTS, ["A", "B"])
    again = CachedLanguageModel(tiny_model(), tmp_path / "a.sqlite")
    np.testing.assert_array_equal(again.next_token_scores(PROMPTS, ["A", "B"]), first)
    assert (again.usage, again.reused) == (Usage(), Usage(4, 20, 0, None))
