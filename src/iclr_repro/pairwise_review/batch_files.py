"""Comparisons by the Batch API: a file of requests to upload, and the file of answers that comes back.

Each line of the request file is {"custom_id", "method", "url", "body"}; the custom id is "<index of the first paper>-
<index of the second>". Answers come in any order, some of them as errors.

Source: sheet E5.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iclr_repro.core.files import write_atomically
from iclr_repro.pairwise_review.judging import Judgement
from iclr_repro.pairwise_review.language_judge import LanguageModelJudge
from iclr_repro.pairwise_review.papers import Paper
from iclr_repro.pairwise_review.prompts import load_template, parse_winner

MAX_REQUESTS = 50_000  # of one file, by the API's rules
_URL = "/v1/chat/completions"


def write_batch(
    path: str | Path, judge: LanguageModelJudge, papers: Sequence[Paper], first: np.ndarray, second: np.ndarray
) -> int:
    """Write the requests of these comparisons (answered by text); return their number.

    Raises:
        ValueError: more than 50,000 comparisons, one of them twice, or a paper without text.
    """
    if len(first) > MAX_REQUESTS:
        raise ValueError(f"a batch file holds {MAX_REQUESTS:,} requests, got {len(first):,}: write several")
    ids = [f"{a}-{b}" for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    if len(set(ids)) < len(ids):
        raise ValueError("a comparison occurs twice: at temperature 0 the second would only cost")
    system = load_template(judge.reading.template_version).system_message(judge.reading.venue)

    def write(file: Any) -> None:
        for custom_id, a, b in zip(ids, first.tolist(), second.tolist(), strict=True):
            body = {
                "model": judge.model.name,
                "messages": [
                    {"role": "system", "content": system},
                    {"role": "user", "content": judge.prompt(papers[a], papers[b])},
                ],
                "temperature": 0,
                "max_tokens": judge.max_tokens,
            }
            request = {"custom_id": custom_id, "method": "POST", "url": _URL, "body": body}
            file.write(json.dumps(request, ensure_ascii=False).encode() + b"\n")

    write_atomically(Path(path), write)
    return len(ids)


@dataclass(frozen=True, eq=False)
class BatchAnswers:
    """What a file of answers holds.

    Attributes:
        first: [M] index of the first paper of each answer.
        second: [M] index of the second.
        judgements: [M] the answers; unreadable ones prefer None.
        failed: (first, second) of the requests that the API answered with an error or not at all, to be written anew.
    """

    first: np.ndarray
    second: np.ndarray
    judgements: list[Judgement]
    failed: list[tuple[int, int]]


def read_batch(requests: str | Path, answers: str | Path) -> BatchAnswers:
    """Read a file of answers beside the requests that it answers; the first of several answers to a request counts.

    Raises:
        ValueError: a line is damaged, or answers a request that was not made.
    """
    asked = [_pair(_row(line, requests, number)["custom_id"]) for number, line in _lines(requests)]
    waiting = set(asked)
    found: dict[tuple[int, int], Judgement] = {}
    for number, line in _lines(answers):
        row = _row(line, answers, number)
        pair = _pair(row["custom_id"])
        if pair not in waiting:
            raise ValueError(f"{answers}, line {number} answers {row['custom_id']!r}, which {requests} does not ask")
        response = row.get("response") or {}
        if row.get("error") is None and response.get("status_code") == 200 and pair not in found:
            found[pair] = _judgement(response["body"])
    pairs = [pair for pair in asked if pair in found]
    return BatchAnswers(
        first=np.array([a for a, _ in pairs], dtype=np.int64),
        second=np.array([b for _, b in pairs], dtype=np.int64),
        judgements=[found[pair] for pair in pairs],
        failed=[pair for pair in asked if pair not in found],
    )


def _judgement(body: dict[str, Any]) -> Judgement:
    text = body["choices"][0]["message"]["content"] or ""
    usage = body.get("usage", {})
    return Judgement(
        parse_winner(text),
        raw=text,
        input_tokens=usage.get("prompt_tokens", 0),
        output_tokens=usage.get("completion_tokens", 0),
    )


def _lines(path: str | Path) -> list[tuple[int, str]]:
    text = Path(path).read_text(encoding="utf-8")
    return [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _row(line: str, path: str | Path, number: int) -> dict[str, Any]:
    try:
        row: dict[str, Any] = json.loads(line)
        _ = row["custom_id"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}, line {number} is damaged ({error!r}): download the file again") from None
    return row


def _pair(custom_id: str) -> tuple[int, int]:
    try:
        first, second = map(int, custom_id.split("-"))
    except ValueError:
        raise ValueError(f"custom_id {custom_id!r} is not <first>-<second>: the file is not of `write_batch`") from None
    return first, second
