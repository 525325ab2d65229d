"""Answers of a language model kept on disk, so that none is paid for twice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from iclr_repro.core._language_model_base import (
    Answer,
    BaseLanguageModel,
    LanguageModelError,
    OnAnswer,
    Question,
    Usage,
    ignore_answer,
)

_LOCK_WAIT_S = 60.0


class CachedLanguageModel(BaseLanguageModel):
    """A model with its earlier answers in front: each different question goes to the model once, ever.

    key = sha256 of the canonical JSON of (the model's identity, kind and parameters of the question, prompt)

    The answers are JSON texts in one SQLite file, stored by key as they arrive and each in its own transaction: a run
    that is cut at any moment goes on where it was, and several processes may share the file. (Two that ask the same
    at the same time both pay; one answer stays.) Neither prompts nor API keys are in the file. It uses SQLite's
    rollback journal, since the faster write-ahead log needs memory that network file systems cannot share.

    Answers that cannot be used (`UnusableAnswersError`) are not stored: the next run asks again. A damaged entry is
    asked again with a warning.

    Attributes:
        usage: what was asked of the model, as the model counts it.
        reused: what came from the file, or from an equal prompt of the call; its cost is what was paid when it was
            asked.
    """

    def __init__(self, model: BaseLanguageModel, path: str | Path, *, offline: bool = False) -> None:
        """Put the file `path`, made when it is first needed, in front of `model`.

        Args:
            model: the model to ask for what the file does not hold.
            path: the file, e.g. "answers.sqlite".
            offline: never ask the model: a missing answer is an error that says how many are missing.
        """
        self.name = model.name
        self.usage = model.usage
        self.reused = Usage()
        self._model = model
        self._path = Path(path)
        self._offline = offline

    def identity(self) -> dict[str, object]:
        """That of the model: the cache changes no answer."""
        return self._model.identity()

    def answer(self, prompts: Sequence[str], question: Question, on_answer: OnAnswer = ignore_answer) -> list[Answer]:
        """Answer from the file where it can, else ask the model; equal prompts are asked once."""
        keys = self._keys(prompts, question)
        positions: dict[str, list[int]] = {}
        for index, key in enumerate(keys):
            positions.setdefault(key, []).append(index)
        answers: dict[int, Answer] = {}

        def give(key: str, answer: Answer) -> None:
            for index in positions[key]:
                answers[index] = answer if index == positions[key][0] else replace(answer, cached=True)
                if answers[index].cached:
                    self.reused.add(answer)
                on_answer(index, answers[index])

        with _opened(self._path) as database:
            missing = []
            for key in positions:
                if (found := _load(database, key)) is None:
                    missing.append(key)
                else:
                    give(key, found)
            if missing and self._offline:
                raise LanguageModelError(
                    f"{self._path} lacks the answers of {self.name} to {len(missing)} of {len(positions)} different "
                    "prompts, and offline mode asks for none: run once without offline, or use the cache of that run"
                )

            def keep(index: int, answer: Answer) -> None:
                if not answer.problem:
                    _store(database, missing[index], answer)
                give(missing[index], answer)

            if missing:
                self._model.answer([prompts[positions[key][0]] for key in missing], question, keep)
        return [answers[index] for index in range(len(prompts))]

    def _keys(self, prompts: Sequence[str], question: Question) -> list[str]:
        if not prompts:
            return []
        fields = asdict(question)
        if not fields.get("answer_begins"):
            fields.pop("answer_begins", None)  # answers from before there was this field keep their keys
        asked = {"model": self._model.identity(), "kind": type(question).__name__, "question": fields}
        shared = json.dumps(asked, sort_keys=True, allow_nan=False)
        return [hashlib.sha256(f"{shared}\n{json.dumps(prompt)}".encode()).hexdigest() for prompt in prompts]


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Back-ends report their answers from another thread, but only while this one waits for them.
        connection = sqlite3.connect(path, timeout=_LOCK_WAIT_S, isolation_level=None, check_same_thread=False)
        with closing(connection):
            connection.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT) WITHOUT ROWID")
            yield connection
    except sqlite3.Error as error:
        raise LanguageModelError(
            f"the answers in {path} cannot be read or written ({error}): check the disk and the permissions, "
            "or move the file away to start a new one"
        ) from error


def _load(database: sqlite3.Connection, key: str) -> Answer | None:
    row = database.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
    if row is None:
        return None
    try:
        fields = json.loads(row[0])
        return Answer(
            text=fields["text"],
            scores=tuple(float(score) for score in fields["scores"]),
            input_tokens=int(fields["input_tokens"]),
            output_tokens=int(fields["output_tokens"]),
            cost_usd=fields["cost_usd"],
            cached=True,
        )
    except (ValueError, KeyError, TypeError) as error:
        warnings.warn(f"a stored answer ({key}) is damaged and is asked again: {error!r}", stacklevel=2)
        return None


def _store(database: sqlite3.Connection, key: str, answer: Answer) -> None:
    fields = {
        "text": answer.text,
        "scores": answer.scores,
        "input_tokens": answer.input_tokens,
        "output_tokens": answer.output_tokens,
        "cost_usd": answer.cost_usd,
    }
    database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, json.dumps(fields)))
