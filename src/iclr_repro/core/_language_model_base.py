"""What all language-model back-ends share: the questions, the answers, the accounts and the public methods."""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64


class LanguageModelError(RuntimeError):
    """A model could not be asked, or did not answer as it should; the message says why and what to do."""


@dataclass(frozen=True)
class Completion:
    """One generated text.

    Attributes:
        text: what the model wrote; JSON that fits the schema where one was given.
        input_tokens: tokens of the prompt, system message and template included.
        output_tokens: tokens generated.
        cost_usd: dollars that the tokens cost when the model was asked; None without prices.
        cached: whether the answer was already there, so that nothing was paid for it now.
    """

    text: str
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    cached: bool


class UnusableAnswersError(LanguageModelError):
    """Every prompt was asked, but some answers cannot be used: not JSON, not of the schema, cut off or refused.

    Attributes:
        completions: one a prompt, None where the answer cannot be used. For a caller that counts and goes on.
        problems: why, by the index of the prompt.
    """

    def __init__(self, message: str, completions: list[Completion | None], problems: dict[int, str]) -> None:
        super().__init__(message)
        self.completions = completions
        self.problems = problems


@dataclass(frozen=True)
class ScoreQuestion:
    """Asks for the log-probability of each candidate as the next token of an answer that begins with a given text."""

    candidates: tuple[str, ...]
    answer_begins: str = ""


@dataclass(frozen=True)
class TextQuestion:
    """Asks for a text. The seed is None at temperature 0, where it has no influence."""

    schema: Mapping[str, Any] | None
    max_tokens: int
    temperature: float
    seed: int | None


Question = ScoreQuestion | TextQuestion


@dataclass(frozen=True)
class Answer:
    """The reply to one prompt: `scores` (a log-probability a candidate) or `text`, by the kind of the question.

    `problem` says why the text cannot be used, "" if it can. The other fields are those of `Completion`.
    """

    text: str = ""
    scores: tuple[float, ...] = ()
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    cached: bool = False
    problem: str = ""


OnAnswer = Callable[[int, Answer], None]


def ignore_answer(index: int, answer: Answer) -> None:
    """Do nothing with an answer that has just arrived."""


@dataclass
class Usage:
    """How many answers were given, with their tokens and their cost in dollars (None once a price is unknown)."""

    answers: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = 0.0

    def add(self, answer: Answer) -> None:
        """Count one answer."""
        self.answers += 1
        self.input_tokens += answer.input_tokens
        self.output_tokens += answer.output_tokens
        if self.cost_usd is not None:
            self.cost_usd = None if answer.cost_usd is None else self.cost_usd + answer.cost_usd


@runtime_checkable
class LanguageModel(Protocol):
    """What a paper asks of a language model; `BaseLanguageModel` describes the methods."""

    name: str

    def next_token_scores(
        self, prompts: Sequence[str], candidates: Sequence[str], *, answer_begins: str = ""
    ) -> Float64[np.ndarray, "prompts candidates"]: ...

    def complete(
        self,
        prompts: Sequence[str],
        *,
        schema: Mapping[str, Any] | None = None,
        max_tokens: int = 512,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[Completion]: ...


class BaseLanguageModel(ABC):
    """The public methods, over the one method `answer` that a back-end has to write.

    Attributes:
        name: the model's name, for messages and records.
        usage: what this object has asked the model so far; answers that cannot be used are paid for and count too.
    """

    name: str
    usage: Usage

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything besides question and prompt that an answer depends on, as JSON values: part of the cache's key."""

    @abstractmethod
    def answer(self, prompts: Sequence[str], question: Question, on_answer: OnAnswer = ignore_answer) -> list[Answer]:
        """Put the question to every prompt; `on_answer(index, answer)` is called at once as each answer arrives.

        An answer that cannot be used is returned with its `problem`, and the other prompts are asked all the same.

        Raises:
            LanguageModelError: the model cannot be asked. Answers that had arrived have been handed to `on_answer`.
        """

    def next_token_scores(
        self, prompts: Sequence[str], candidates: Sequence[str], *, answer_begins: str = ""
    ) -> Float64[np.ndarray, "prompts candidates"]:
        """Score the candidates as the next token after each prompt, without sampling.

        score[i, j] = log P(next token = first token of candidates[j] | prompts[i])

        P is over the whole vocabulary: the scores of a row need not sum to one; exp(score) normalised over the row is
        a forced choice. Which token stands for a candidate is stated by each back-end.

        Args:
            prompts: texts; may be none, which gives shape [0, candidates].
            candidates: different texts, at least one.
            answer_begins: text that the model has "said" already, e.g. "Winner:"; "" for none. How it is put in the
                model's mouth is stated by each back-end.

        Returns:
            natural logarithms, at most 0; -inf where a back-end does not see the candidate.

        Raises:
            ValueError: the candidates cannot be told apart by their first token, or a prompt cannot be used.
            LanguageModelError: the model could not be asked.
        """
        if not candidates or len(set(candidates)) < len(candidates):
            raise ValueError(f"candidates must be different texts, at least one: got {list(candidates)}")
        answers = self.answer(prompts, ScoreQuestion(tuple(candidates), answer_begins))
        return np.array([answer.scores for answer in answers], dtype=np.float64).reshape(len(prompts), len(candidates))

    def complete(
        self,
        prompts: Sequence[str],
        *,
        schema: Mapping[str, Any] | None = None,
        max_tokens: int = 512,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[Completion]:
        """Generate a text for each prompt.

        Args:
            prompts: texts; may be none.
            schema: a JSON schema that the answer must fit. OpenAI's strict form: every object lists all its
                properties as required and sets additionalProperties to false.
            max_tokens: limit of generated tokens. Without a schema, a text that reaches it is returned cut off.
            temperature: 0 takes the most probable token; above, tokens are drawn.
            seed: stream of the draws, without influence at temperature 0. A prompt has one answer for each seed:
                independent samples of a prompt need different seeds.

        Returns:
            one completion a prompt, in the order of the prompts.

        Raises:
            ValueError: an option out of its range, an invalid schema, or a prompt that cannot be used.
            UnusableAnswersError: some answers do not fit the schema or are empty; the others are in the exception.
            LanguageModelError: the model could not be asked.
        """
        if max_tokens < 1 or temperature < 0:
            raise ValueError(f"max_tokens must be >= 1 and temperature >= 0: got {max_tokens} and {temperature}")
        if schema is not None:
            _check_schema(schema)
        question = TextQuestion(schema, max_tokens, float(temperature), seed if temperature > 0 else None)
        answers = self.answer(prompts, question)
        completions = [
            None if a.problem else Completion(a.text, a.input_tokens, a.output_tokens, a.cost_usd, a.cached)
            for a in answers
        ]
        usable = [completion for completion in completions if completion is not None]
        if len(usable) < len(completions):
            problems = {index: answer.problem for index, answer in enumerate(answers) if answer.problem}
            first = min(problems)
            raise UnusableAnswersError(
                f"{self.name}: {len(problems)} of {len(prompts)} answers cannot be used; "
                f"the first is that to prompt {first}: {problems[first]}",
                completions,
                problems,
            )
        return usable


def require(package: str) -> Any:
    """Import a package of the optional group `llm`.

    Raises:
        LanguageModelError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise LanguageModelError(f"this needs the package {package}: pip install 'iclr-repro[llm]'") from error


def json_problem(text: str, question: TextQuestion, *, cut_off: bool) -> str:
    """Say why a text is not JSON of the question's schema; "" if it is, or if the question has no schema.

    Args:
        text: the answer.
        question: with the schema.
        cut_off: whether the answer ended at the limit of tokens, which is then the likely reason.
    """
    if question.schema is None:
        return ""
    try:
        value = json.loads(text)
    except ValueError as error:
        reason = f"cut off at max_tokens={question.max_tokens}" if cut_off else str(error)
        return f"not JSON ({reason}): {text[:80]!r}"
    jsonschema = require("jsonschema")
    errors = jsonschema.Draft202012Validator(question.schema).iter_errors(value)
    worst = jsonschema.exceptions.best_match(errors)
    return f"does not fit the schema at {worst.json_path}: {worst.message}" if worst else ""


def _check_schema(schema: Mapping[str, Any]) -> None:
    jsonschema = require("jsonschema")
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"the schema is not a valid JSON schema at {error.json_path}: {error.message}") from None
