"""Language models behind an OpenAI-compatible endpoint: OpenAI itself, vLLM, Ollama, llama.cpp and others."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from iclr_repro.core._language_model_base import (
    Answer,
    BaseLanguageModel,
    LanguageModelError,
    OnAnswer,
    Question,
    ScoreQuestion,
    Usage,
    ignore_answer,
    json_problem,
    require,
)

_OPENAI_URL = "https://api.openai.com/v1"
_TOP_LOGPROBS = 20  # the most that the API allows
_HOPELESS_AFTER = 10  # answers that cannot be used, before any that can


class EndpointLanguageModel(BaseLanguageModel):
    """A chat model behind an OpenAI-compatible endpoint, asked by the official asynchronous client.

    Each prompt is one request with the prompt as user message. Up to `max_concurrency` requests are under way at once.
    The client repeats a request after a lost connection, a timeout and the statuses 408, 409, 429 and 5xx, with
    exponential back-off and jitter, or after the time that the endpoint asks for (Retry-After, up to two minutes).
    When a request fails for good, no new one is started, those under way are finished, and then the error is raised:
    no answer that is paid for gets lost where a cache is in front. Ctrl-C stops at once.

    `next_token_scores` reads the 20 most probable first tokens (`top_logprobs`). A token counts for the candidate that
    begins with it, white space around both left aside, and for none if several do; the probabilities of a candidate's
    tokens are added. So "A" and " A" both count for "A". A candidate without a token among the 20 scores -inf, even
    if all do. Candidates of one token, such as letters, give what `LocalLanguageModel` gives; longer ones only about.
    What the answer begins with is the last line of the user message, or, with `continue_final_message`, the beginning
    of the assistant's.

    `complete` sends a schema as strict `response_format` and validates what comes back. After ten answers that cannot
    be used, and none that can, it gives up instead of paying on.

    Attributes:
        name: the model's name.
        usage: tokens and dollars as the endpoint counts them.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        api_key_env: str | None = "OPENAI_API_KEY",
        system: str = "",
        max_concurrency: int = 8,
        max_retries: int = 5,
        timeout_s: float = 120.0,
        continue_final_message: bool = False,
        price_per_million_input: float | None = None,
        price_per_million_output: float | None = None,
    ) -> None:
        """Describe the endpoint; nothing is sent and no key is read until the first question.

        Args:
            model: the endpoint's name of the model, e.g. "gpt-4o-mini".
            base_url: address up to and with the version, e.g. "http://localhost:8000/v1"; None takes the environment
                variable OPENAI_BASE_URL, or OpenAI where that is not set.
            api_key_env: environment variable that holds the API key; None for a server that needs none.
            system: system message sent before each prompt; "" for none.
            max_concurrency: requests under way at once, at least 1.
            max_retries: repetitions of a failed request, at least 0.
            timeout_s: seconds to wait for an answer, each time.
            continue_final_message: the server goes on with an assistant message that is begun for it, by the fields
                `continue_final_message` and `add_generation_prompt` of the request (vLLM does, OpenAI refuses them).
            price_per_million_input: dollars per million input tokens; None leaves costs unknown.
            price_per_million_output: the same for output tokens; given together or not at all.

        Raises:
            ValueError: an option out of its range, one price without the other, or an address of another form.
        """
        if max_concurrency < 1 or max_retries < 0 or timeout_s <= 0:
            raise ValueError(
                "max_concurrency must be >= 1, max_retries >= 0 and timeout_s > 0: "
                f"got {max_concurrency}, {max_retries} and {timeout_s}"
            )
        if (price_per_million_input is None) != (price_per_million_output is None):
            raise ValueError("give both price_per_million_input and price_per_million_output, or neither")
        self.name = model
        self.usage = Usage()
        self._base_url = (base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI_URL).rstrip("/")
        address = urlsplit(self._base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError(f"base_url must look like http://localhost:8000/v1: got {self._base_url!r}")
        if address.username or address.password:
            raise ValueError(f"base_url holds a user or password: put the key of {address.hostname} in the environment")
        self._api_key_env = api_key_env
        self._system = system
        self._max_concurrency = max_concurrency
        self._max_retries = max_retries
        self._timeout_s = timeout_s
        self._continue_final_message = continue_final_message
        self._prices = (price_per_million_input, price_per_million_output)

    def identity(self) -> dict[str, Any]:
        """Endpoint, model and system message, and whether answers are begun in the assistant's message."""
        continued = {"continue_final_message": True} if self._continue_final_message else {}
        return {"endpoint": self._base_url, "model": self.name, "system": self._system, **continued}

    def cost_usd(self, input_tokens: int, output_tokens: int) -> float | None:
        """Price tokens in dollars; None without prices. For a forecast as well as for the bill.

        Example: 3,000,000 prompts of 5,950 tokens, one token answered, at 0.075 and 0.30 dollars per million: 1339.65.
        """
        price_input, price_output = self._prices
        if price_input is None or price_output is None:
            return None
        return (input_tokens * price_input + output_tokens * price_output) / 1e6

    def answer(self, prompts: Sequence[str], question: Question, on_answer: OnAnswer = ignore_answer) -> list[Answer]:
        """Ask the endpoint; may also be called while an event loop runs, as in a notebook."""
        if isinstance(question, ScoreQuestion):
            _check_candidates(question.candidates)
        if not prompts:
            return []
        require("openai")
        from anyio.from_thread import start_blocking_portal  # the client depends on it

        with start_blocking_portal() as portal:
            return portal.call(self._ask_all, prompts, question, on_answer)

    async def _ask_all(self, prompts: Sequence[str], question: Question, on_answer: OnAnswer) -> list[Answer]:
        answers: dict[int, Answer] = {}
        failures: list[Exception] = []
        waiting = iter(enumerate(prompts))

        async def work(client: Any) -> None:
            for index, prompt in waiting:
                try:
                    answers[index] = await self._ask(client, index, prompt, question)
                    self.usage.add(answers[index])
                    on_answer(index, answers[index])
                    self._check_hope(answers)
                except Exception as error:
                    failures.append(error)
                if failures:
                    return

        async with self._client() as client, asyncio.TaskGroup() as workers:
            for _ in range(min(self._max_concurrency, len(prompts))):
                workers.create_task(work(client))
        if failures:
            raise failures[0]
        return [answers[index] for index in range(len(prompts))]

    def _client(self) -> Any:
        return require("openai").AsyncOpenAI(
            api_key=self._api_key(), base_url=self._base_url, max_retries=self._max_retries, timeout=self._timeout_s
        )

    def _api_key(self) -> str:
        if self._api_key_env is None:
            return "no-key"  # the client insists on one
        key = os.environ.get(self._api_key_env, "").strip()
        if not key:
            raise LanguageModelError(
                f"the environment variable {self._api_key_env} is not set: it must hold the API key of "
                f"{self._base_url} (for a server that needs none, pass api_key_env=None)"
            )
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise LanguageModelError(
                f"the environment variable {self._api_key_env} holds white space or special characters, "
                "which no API key does: set it again"
            )
        return key

    async def _ask(self, client: Any, index: int, prompt: str, question: Question) -> Answer:
        openai = require("openai")
        messages = [{"role": "system", "content": self._system}] if self._system else []
        parameters = _parameters(question)
        begins = question.answer_begins if isinstance(question, ScoreQuestion) else ""
        if begins and self._continue_final_message:
            messages += [{"role": "user", "content": prompt}, {"role": "assistant", "content": begins}]
            parameters["extra_body"] = {"continue_final_message": True, "add_generation_prompt": False}
        else:
            messages.append({"role": "user", "content": f"{prompt}\n{begins}" if begins else prompt})
        try:
            reply = await client.chat.completions.create(model=self.name, messages=messages, **parameters)
        except (openai.OpenAIError, json.JSONDecodeError, UnicodeDecodeError) as error:
            # Without its cause, since messages of the client and of the endpoint may quote the key.
            raise LanguageModelError(self._explain(error, index).replace(client.api_key, "***")) from None
        try:
            answer = self._read(reply.choices[0], reply.usage, question)
        except (AttributeError, IndexError, TypeError):
            raise LanguageModelError(
                f"{self._place()} sent no chat completion to prompt {index}: check that the base URL is that of an "
                f"OpenAI-compatible API, usually ending in /v1; it sent {str(reply)[:200]!r}"
            ) from None
        return answer

    def _read(self, choice: Any, usage: Any, question: Question) -> Answer:
        scores: tuple[float, ...] = ()
        text = choice.message.content or ""
        problem = ""
        if isinstance(question, ScoreQuestion):
            scores = self._scores(choice.logprobs, question.candidates)
        elif choice.message.content is None:
            problem = f"no text, finish_reason={choice.finish_reason}, refusal={choice.message.refusal!r}"
        else:
            problem = json_problem(text, question, cut_off=choice.finish_reason == "length")
        return Answer(
            text=text,
            scores=scores,
            input_tokens=usage.prompt_tokens,
            output_tokens=usage.completion_tokens,
            cost_usd=self.cost_usd(usage.prompt_tokens, usage.completion_tokens),
            problem=problem,
        )

    def _scores(self, logprobs: Any, candidates: tuple[str, ...]) -> tuple[float, ...]:
        first_token = logprobs.content[0] if logprobs and logprobs.content else None
        if first_token is None or not first_token.top_logprobs:
            raise LanguageModelError(
                f"{self._place()} sent no log-probabilities: choose a model or server with `top_logprobs`, "
                "or ask for a text and parse it"
            )
        stripped = [candidate.strip() for candidate in candidates]
        log_probabilities: dict[str, list[float]] = {candidate: [-np.inf] for candidate in stripped}
        for top in first_token.top_logprobs:
            token = top.token.strip()
            meant = [candidate for candidate in stripped if token and candidate.startswith(token)]
            if len(meant) == 1:
                log_probabilities[meant[0]].append(top.logprob)
        return tuple(float(np.logaddexp.reduce(log_probabilities[candidate])) for candidate in stripped)

    def _check_hope(self, answers: dict[int, Answer]) -> None:
        if len(answers) == _HOPELESS_AFTER and all(answer.problem for answer in answers.values()):
            index, answer = next(iter(answers.items()))
            raise LanguageModelError(
                f"{self._place()}: none of the first {_HOPELESS_AFTER} answers can be used, so the rest was not asked; "
                f"that to prompt {index}: {answer.problem}"
            )

    def _place(self) -> str:
        return f"{self.name} at {self._base_url}"

    def _explain(self, error: Exception, index: int) -> str:
        openai = require("openai")
        place = self._place()
        tries = f"{self._max_retries + 1} tries"
        if isinstance(error, openai.AuthenticationError):
            if self._api_key_env is None:
                return f"{place} wants an API key (401): pass api_key_env, the environment variable that holds it"
            return f"{place} refused the API key (401): check the value of the environment variable {self._api_key_env}"
        if isinstance(error, openai.APITimeoutError):
            return (
                f"{place} did not answer prompt {index} within {self._timeout_s} s in {tries}: raise timeout_s, "
                "or lower max_concurrency"
            )
        if isinstance(error, openai.APIConnectionError):
            return f"{place} cannot be reached in {tries} ({error.__cause__}): check the base URL and the network"
        if not isinstance(error, openai.APIStatusError):
            return f"{place} sent to prompt {index} what is not JSON ({error}): check the base URL"
        said = str(error.body.get("message") if isinstance(error.body, dict) else error.body or error.message)[:300]
        if isinstance(error, openai.NotFoundError):
            return f"{place} was not found (404): check the model's name and the base URL; the endpoint says: {said}"
        if error.status_code == 429 or error.status_code >= 500:
            return (
                f"{place} still answered with status {error.status_code} after up to {tries}: wait and run again, or "
                f"lower max_concurrency; the endpoint says: {said}"
            )
        return f"{place} refused prompt {index} ({error.status_code}); the endpoint says: {said}"


def _parameters(question: Question) -> dict[str, Any]:
    # `max_tokens`, though OpenAI prefers max_completion_tokens: it is the name that all servers honour, while Ollama
    # silently ignores the other (ollama/ollama, issue 7125).
    if isinstance(question, ScoreQuestion):
        return {"max_tokens": 1, "temperature": 0.0, "logprobs": True, "top_logprobs": _TOP_LOGPROBS}
    parameters: dict[str, Any] = {"max_tokens": question.max_tokens, "temperature": question.temperature}
    if question.seed is not None:
        parameters["seed"] = question.seed
    if question.schema is not None:
        json_schema = {"name": "answer", "strict": True, "schema": question.schema}
        parameters["response_format"] = {"type": "json_schema", "json_schema": json_schema}
    return parameters


def _check_candidates(candidates: tuple[str, ...]) -> None:
    stripped = [candidate.strip() for candidate in candidates]
    if "" in stripped:
        raise ValueError(f"candidates must not be blank: got {list(candidates)}")
    for one, other in itertools.permutations(stripped, 2):
        if other.startswith(one):
            raise ValueError(f"candidate {one!r} is how {other!r} begins: their first tokens cannot tell them apart")
