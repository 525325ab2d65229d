"""Probe prompts from MMLU, and the training formats of the two tasks (sheet 2.1, 4.1, 4.2)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from iclr_repro.core.data import DataError, locate

Find = Callable[[str], Path]
Message = dict[str, str]

_LETTERS = "ABCD"
_ROLES = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}
RERANKER_LABELS = tuple("1234567")


def mmlu_prompt(subject: str, question: str, choices: Sequence[str]) -> str:
    """Return the user turn of a probe: instruction, question, four choices, "Answer: ".

    Args:
        subject: of MMLU, with underscores.
        question: its text.
        choices: four answers.

    Raises:
        ValueError: there are not four choices.

    Source: the authors' first code (sheet 2.1).
    """
    if len(choices) != len(_LETTERS):
        raise ValueError(f"choices: got {len(choices)}, expected four (A to D)")
    lines = [
        f"There is a single choice question about {subject.replace('_', ' ').title()}."
        " Answer the question by replying A, B, C or D.",
        f"Question: {question}",
        "Choices:",
        *(f"{letter}. {choice}" for letter, choice in zip(_LETTERS, choices, strict=True)),
        "Answer: ",
    ]
    return "\n".join(lines) + "\n"


def load_mmlu(name: str = "mmlu_first50.jsonl.gz", *, find: Find = locate) -> list[dict[str, Any]]:
    """Load MMLU test questions: `subject`, `question`, `choices` (four), `answer` (0 to 3).

    Args:
        name: mmlu_first50.jsonl.gz, the paper's probe sample of the first 50 questions of 57 subjects, or
            mmlu_test.jsonl.gz, all of them.
        find: returns the path of a catalogued file.

    Raises:
        DataError: the file is missing or damaged.
    """
    return read_jsonl(find(f"loki/{name}"))


def mmlu_probes(rows: Sequence[Mapping[str, Any]], tokenizer: Any) -> list[list[int]]:
    """Return the token ids of the probe prompts, through the tokenizer's chat template where it has one."""
    texts = [mmlu_prompt(row["subject"], row["question"], row["choices"]) for row in rows]
    if getattr(tokenizer, "chat_template", None) is None:
        return [list(tokenizer(text)["input_ids"]) for text in texts]
    rendered = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False)
        for text in texts
    ]
    return [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in rendered]


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines, compressed or not.

    Raises:
        DataError: a line is not JSON; the message gives its number.
    """
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: not JSON ({error}); is the file complete?") from error
    return rows


def toolace_messages(row: Mapping[str, Any]) -> list[Message]:
    """Turn a ToolACE dialogue (sharegpt: `system`, `conversations` of {from, value}) into chat messages.

    Raises:
        ValueError: a speaker is none of human, gpt, function_call, observation.
    """
    messages = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    for turn in row["conversations"]:
        if turn["from"] not in _ROLES:
            raise ValueError(f"speaker {turn['from']!r}: expected one of {', '.join(_ROLES)}")
        messages.append({"role": _ROLES[turn["from"]], "content": turn["value"]})
    return messages


def reranker_messages(query: str, text: str, label: int | None = None) -> list[Message]:
    """Return the dialogue of a query-text pair; with a label (1 to 7) its answer as well.

    Raises:
        ValueError: the label is not in 1 to 7.

    Source: the data set of the LB reranker (sheet 4.2); the wording of the system turn is ours, since only its sense
    ("score 1-7 how related") could be obtained.
    """
    messages = [
        {
            "role": "system",
            "content": "Given a query and a text, answer with a score from 1 to 7 of how related they are.",
        },
        {"role": "user", "content": f"<<<Query>>>\n{query}\n\n<<<Context>>>\n{text}"},
    ]
    if label is not None:
        if str(label) not in RERANKER_LABELS:
            raise ValueError(f"label: got {label}, expected 1 (unrelated) to 7")
        messages.append({"role": "assistant", "content": str(label)})
    return messages


def reranker_score(probabilities: Sequence[float]) -> float:
    """Return the expected label from the probabilities of the tokens "1" to "7", sum_i i p_i.

    Example: 0.5 each on "1" and "7" is 4.

    Raises:
        ValueError: there are not seven probabilities.
    """
    _check_seven(probabilities)
    return float(sum(label * p for label, p in enumerate(probabilities, start=1)))


def reranker_contrast(probabilities: Sequence[float]) -> float:
    """Return the other score of the LB reranker, mean(p_4 .. p_7) - mean(p_1 .. p_4), in [-0.25, 0.25].

    Example: 1 on "7" is 0.25.

    Raises:
        ValueError: there are not seven probabilities.

    Source: the notebook of the LB reranker on BEIR (sheet 4.2).
    """
    _check_seven(probabilities)
    return float(sum(probabilities[3:]) / 4 - sum(probabilities[:4]) / 4)


def _check_seven(probabilities: Sequence[float]) -> None:
    if len(probabilities) != len(RERANKER_LABELS):
        raise ValueError(f"probabilities: got {len(probabilities)}, expected 7")
