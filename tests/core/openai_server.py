"""A local server that speaks the chat-completions API of OpenAI: checks, answers, error bodies and headers alike."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

API_KEY = "sk-proj-0123456789abcdefSECRET"
MODEL = "gpt-4o-mini"

VLLM_FIELDS = {"continue_final_message", "add_generation_prompt"}
"""Which the API of OpenAI does not know."""

OPENAI_FIELDS = {
    "model",
    "messages",
    "max_tokens",
    "temperature",
    "seed",
    "logprobs",
    "top_logprobs",
    "response_format",
}


@dataclass(frozen=True)
class Reply:
    """What the server sends: a status, a body (JSON unless bytes) and headers, after a delay.

    `cut` closes the connection without an answer, `cut_body` in the middle of one.
    """

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    cut: bool = False
    cut_body: bool = False


Request = dict[str, Any]
Respond = Callable[[Request], Reply]


def prompt_of(request: Request) -> str:
    """The last user message."""
    return str([message["content"] for message in request["messages"] if message["role"] == "user"][-1])


def completion(
    text: str | None,
    *,
    prompt_tokens: int = 100,
    completion_tokens: int = 10,
    finish_reason: str = "stop",
    refusal: str | None = None,
    top_logprobs: dict[str, float] | None = None,
) -> dict[str, Any]:
    """The body of a good answer; with log-probabilities of its first token where they are given."""
    logprobs = None
    if top_logprobs is not None:
        tops = [{"token": t, "logprob": p, "bytes": list(t.encode())} for t, p in top_logprobs.items()]
        logprobs = {"content": [{**tops[0], "top_logprobs": tops}], "refusal": None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": f"{MODEL}-2024-07-18",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": refusal, "annotations": []},
                "logprobs": logprobs,
                "finish_reason": finish_reason,
            }
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
        "service_tier": "default",
        "system_fingerprint": "fp_0123456789",
    }


def says(text: str | None, **options: Any) -> Reply:
    """A good answer with a text."""
    return Reply(body=completion(text, **options))


def echo(request: Request) -> Reply:
    """Answer a prompt with its own text in capitals, and score questions with A at 70 %, B at 20 %."""
    if request.get("logprobs"):
        return says("A", completion_tokens=1, top_logprobs={"A": math.log(0.7), "B": math.log(0.2), "The": -4.0})
    return says(prompt_of(request).upper())


def error(status: int, message: str, *, code: str | None = None, headers: dict[str, str] | None = None) -> Reply:
    """An error in the API's form. `retry-after-ms` keeps the client's waiting short."""
    kind = {401: "invalid_request_error", 429: "requests", 500: "server_error"}.get(status, "invalid_request_error")
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return Reply(status, body, {"retry-after-ms": "5", **(headers or {})})


class OpenAIServer:
    """The server, running while the `with` block is; `respond` decides the answer to each valid request.

    Attributes:
        respond: from the request's body to the reply; may be replaced at any time.
        requests: the bodies received so far, refused ones included.
        most_at_once: the largest number of requests that were under way together.
    """

    def __init__(self, respond: Respond = echo, *, known_fields: set[str] = OPENAI_FIELDS) -> None:
        self.respond = respond
        self._known_fields = known_fields
        self.requests: list[Request] = []
        self.most_at_once = 0
        self._under_way = 0
        self._lock = threading.Lock()
        self._http = _QuietServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    @property
    def prompts(self) -> list[str]:
        """The prompts received so far, in order of arrival."""
        return [prompt_of(request) for request in self.requests]

    def __enter__(self) -> OpenAIServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def _reply(self, path: str, authorization: str, request: Request) -> Reply:
        with self._lock:
            self.requests.append(request)
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            refusal = _refusal(path, authorization, request, self._known_fields)
            reply = refusal or self.respond(request)
            time.sleep(reply.delay_s)
        finally:
            with self._lock:
                self._under_way -= 1
        return reply

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                reply = server._reply(self.path, self.headers.get("authorization", ""), request)
                if reply.cut:
                    self.close_connection = True
                    return
                body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                headers = {"content-type": "application/json", "x-request-id": "req_0123456789", **reply.headers}
                self.send_response(reply.status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if reply.cut_body else body)
                self.close_connection = self.close_connection or reply.cut_body

            def log_message(self, format: str, *args: Any) -> None:
                """Keep the test output clean."""

        return Handler


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that have gone away, which the tests make them do."""


def _refusal(path: str, authorization: str, request: Request, known_fields: set[str]) -> Reply | None:
    """What the API answers to a request that it does not accept."""
    if authorization != f"Bearer {API_KEY}":
        given = authorization.removeprefix("Bearer ")
        return error(401, f"Incorrect API key provided: {given}.", code="invalid_api_key")
    if path != "/v1/chat/completions":
        return error(404, f"Invalid URL (POST {path})")
    if request["model"] != MODEL:
        message = f"The model `{request['model']}` does not exist or you do not have access to it."
        return error(404, message, code="model_not_found")
    if unknown := set(request) - known_fields:
        return error(400, f"Unrecognized request argument supplied: {', '.join(sorted(unknown))}")
    if "top_logprobs" in request and not (request.get("logprobs") and request["top_logprobs"] <= 20):
        return error(400, "top_logprobs needs logprobs and must be at most 20")
    form = request.get("response_format")
    if form and not (form["type"] == "json_schema" and {"name", "schema"} <= set(form["json_schema"])):
        return error(400, "Missing required parameter: 'response_format.json_schema'.")
    return None
