"""The judge on a language model: local or behind an OpenAI-compatible endpoint, with core's cache in front.

Source: sheet E5 and "Prompt structure".
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.special import softmax

from iclr_repro.core.language_model import BaseLanguageModel, CachedLanguageModel, Completion, UnusableAnswersError
from iclr_repro.pairwise_review.judging import BaseJudge, Judgement
from iclr_repro.pairwise_review.papers import Paper
from iclr_repro.pairwise_review.prompts import (
    PROMPT_VERSION,
    TOKEN_BUDGET,
    Answering,
    CountTokens,
    estimate_tokens,
    excerpt,
    load_template,
    parse_winner,
)

ANSWER_TOKENS = 300
"""Limit of an answer by text."""

AGAIN_TOKENS = 20
"""Limit of the answer to a question that is asked again."""

LEAST_MASS = 0.5
"""Of an answer by next token: where its candidates have less probability together, the model says something else, and
the answer is unreadable (ours)."""


@dataclass(frozen=True)
class Reading:
    """How papers are shown to a model.

    Attributes:
        venue: named in the prompts.
        budget: tokens a manuscript.
        blind: without names, affiliations, acknowledgements and URLs; false measures the effect of prestige.
        count_tokens: of a text.
        template_version: of the prompts.
    """

    venue: str = "a machine-learning conference"
    budget: int = TOKEN_BUDGET
    blind: bool = True
    count_tokens: CountTokens = estimate_tokens
    template_version: int = PROMPT_VERSION
    _shown: dict[Paper, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def show(self, paper: Paper) -> str:
        """Return the excerpt of a paper, made once."""
        if paper not in self._shown:
            self._shown[paper] = excerpt(paper, budget=self.budget, count_tokens=self.count_tokens, blind=self.blind)
        return self._shown[paper]

    def is_cut(self, paper: Paper) -> bool:
        """Return whether the budget keeps a part of the excerpt from being shown."""
        return self.show(paper) != excerpt(paper, budget=sys.maxsize, count_tokens=self.count_tokens, blind=self.blind)


class LanguageModelJudge(BaseJudge):
    """Asks a language model which of two manuscripts is better.

    By "text" the model may reason and ends with "Winner: A" or "Winner: B". An answer without such a line is asked for
    once more; if that fails too, the preference is None. By "next_token" the probabilities of A and B as the next
    token after "Winner:" decide: prob_first = P(A) / (P(A) + P(B)), and equal ones are no preference, None. Where their
    mass P(A) + P(B) is below `least_mass`, the answer is unreadable, None.

    With `swap`, both orders are asked and prob_first is the mean of the two (by text, of two votes; a split vote is
    no preference, None).
    """

    def __init__(
        self,
        model: BaseLanguageModel,
        *,
        reading: Reading | None = None,
        answering: Answering = "text",
        swap: bool = False,
        max_tokens: int = ANSWER_TOKENS,
        candidates: tuple[str, str] = ("A", "B"),
        least_mass: float = LEAST_MASS,
    ) -> None:
        """Make a judge.

        Args:
            model: see `core.language_model.load_language_model`; its system message should be that of
                `load_template(...).system_message(venue)`.
            reading: how papers are shown.
            answering: "text" or "next_token".
            swap: ask both orders.
            max_tokens: limit of an answer by text.
            candidates: the letters as the model writes them.
            least_mass: of a readable answer by next token, 0 to 1.
        """
        self.model, self.reading, self.answering = model, reading or Reading(), answering
        self.swap, self.max_tokens, self.candidates, self.least_mass = swap, max_tokens, candidates, least_mass
        self._template = load_template(self.reading.template_version)
        blind = "" if self.reading.blind else ", not blind"
        order = ", both orders" if swap else ""
        by_token = f"of {candidates[0]!r}, {candidates[1]!r}, mass >= {least_mass:g}"
        read = f"up to {max_tokens} tokens" if answering == "text" else by_token
        self.name = f"{model.name}({answering} {read}, prompt {self._template.version}{order}{blind})"
        # The name of a model says neither where it is asked nor how an answer is begun for it; its identity does.
        asked = json.dumps(model.identity(), sort_keys=True)
        self.question = f"{asked}\n{self._template.question_of(self.reading.venue, answering)}"

    def shown(self, paper: Paper) -> str:
        """See `BaseJudge`."""
        return self.reading.show(paper)

    def prompt(self, first: Paper, second: Paper) -> str:
        """Return the prompt of one comparison, without the system message and what the answer begins with."""
        texts = self.shown(first), self.shown(second)
        return self._template.comparison(*texts, venue=self.reading.venue, answering=self.answering)

    def compare_many(self, first: Sequence[Paper], second: Sequence[Paper]) -> list[Judgement]:
        """See `Judge`.

        Raises:
            ValueError: a paper without text.
            LanguageModelError: the model cannot be asked; what was answered is in its cache.
        """
        ask = self._by_text if self.answering == "text" else self._by_next_token
        answers = ask([self.prompt(a, b) for a, b in zip(first, second, strict=True)])
        if not self.swap:
            return answers
        swapped = ask([self.prompt(b, a) for a, b in zip(first, second, strict=True)])
        return [_averaged(one, other) for one, other in zip(answers, swapped, strict=True)]

    def _by_text(self, prompts: list[str]) -> list[Judgement]:
        completions = complete_all(self.model, prompts, max_tokens=self.max_tokens)
        judgements = [_read(completion) for completion in completions]
        again = [index for index, judgement in enumerate(judgements) if judgement.prefer_first is None]
        reminders = [f"{prompts[index]}\n\n{self._template.again}" for index in again]
        for index, completion in zip(again, complete_all(self.model, reminders, max_tokens=AGAIN_TOKENS), strict=True):
            judgements[index] = _joined(judgements[index], _read(completion))
        return judgements

    def _by_next_token(self, prompts: list[str]) -> list[Judgement]:
        before = _spent(self.model)
        scores = self.model.next_token_scores(prompts, self.candidates, answer_begins=self._template.winner_begins)
        spent = _spent(self.model) - before
        # The model accounts for the batch; each comparison carries an equal share of it, the first the remainder.
        shares = np.diff(np.floor(np.outer(np.arange(len(prompts) + 1) / max(len(prompts), 1), spent[:2])), axis=0)
        judgements = []
        masses = answer_mass(scores).tolist()
        for row, mass, (input_tokens, output_tokens) in zip(scores, masses, shares.astype(int).tolist(), strict=True):
            probability = float(softmax(row)[0]) if mass > 0 and mass >= self.least_mass else None
            judgements.append(
                Judgement(
                    prefer_first=preference(probability),
                    prob_first=probability,
                    mass=mass,
                    raw=json.dumps([float(score) if np.isfinite(score) else None for score in row]),
                    input_tokens=input_tokens,
                    output_tokens=output_tokens,
                    cost_usd=None if np.isnan(spent[2]) else float(spent[2] / len(prompts)),
                )
            )
        return judgements


def preference(probability: float | None) -> bool | None:
    """Return what a probability of the first prefers; None for exactly one half, or without a probability."""
    return None if probability is None or probability == 0.5 else probability > 0.5


def answer_mass(scores: np.ndarray) -> np.ndarray:
    """Return [n] the probability that the next token is one of the candidates, from [n, c] log-probabilities."""
    return np.asarray(np.minimum(np.exp(scores).sum(axis=1), 1.0))  # a sum of rounded ones may exceed 1


def complete_all(
    model: BaseLanguageModel,
    prompts: Sequence[str],
    *,
    max_tokens: int,
    schema: dict[str, Any] | None = None,
    seed: int = 0,
    temperature: float = 0.0,
) -> list[Completion | None]:
    """Ask for texts; None where an answer cannot be used, while the others are kept."""
    try:
        return list(model.complete(prompts, max_tokens=max_tokens, schema=schema, seed=seed, temperature=temperature))
    except UnusableAnswersError as error:
        return error.completions


def _read(completion: Completion | None) -> Judgement:
    if completion is None:
        return Judgement(None)
    winner = parse_winner(completion.text)
    return Judgement(
        prefer_first=winner,
        prob_first=None,
        raw=completion.text,
        input_tokens=completion.input_tokens,
        output_tokens=completion.output_tokens,
        cost_usd=completion.cost_usd,
        cached=completion.cached,
    )


def _joined(unreadable: Judgement, again: Judgement) -> Judgement:
    """The second answer, with what both cost."""
    return replace(
        again,
        raw=f"{unreadable.raw}\n---\n{again.raw}",
        input_tokens=unreadable.input_tokens + again.input_tokens,
        output_tokens=unreadable.output_tokens + again.output_tokens,
        cost_usd=_sum(unreadable.cost_usd, again.cost_usd),
        cached=unreadable.cached and again.cached,
        asked_again=True,
    )


def _averaged(straight: Judgement, swapped: Judgement) -> Judgement:
    """One judgement of both orders; `swapped` was asked with the second paper first."""
    probability = None
    prefer: bool | None = None
    if straight.prob_first is not None and swapped.prob_first is not None:
        probability = (straight.prob_first + 1.0 - swapped.prob_first) / 2
        prefer = preference(probability)
    elif straight.prefer_first is not None and swapped.prefer_first is not None:
        agree = straight.prefer_first != swapped.prefer_first
        prefer = straight.prefer_first if agree else None
        probability = (straight.prefer_first + 1 - swapped.prefer_first) / 2
    return Judgement(
        prefer_first=prefer,
        prob_first=probability,
        mass=None if straight.mass is None or swapped.mass is None else min(straight.mass, swapped.mass),
        raw=json.dumps([straight.raw, swapped.raw]),
        input_tokens=straight.input_tokens + swapped.input_tokens,
        output_tokens=straight.output_tokens + swapped.output_tokens,
        cost_usd=_sum(straight.cost_usd, swapped.cost_usd),
        cached=straight.cached and swapped.cached,
        asked_again=straight.asked_again or swapped.asked_again,
    )


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _spent(model: BaseLanguageModel) -> np.ndarray:
    """[3] input tokens, output tokens and dollars (NaN: unknown) of all answers so far, reused ones at their price."""
    total = np.zeros(3)
    usages = [model.usage, model.reused] if isinstance(model, CachedLanguageModel) else [model.usage]
    for usage in usages:
        cost = np.nan if usage.cost_usd is None else usage.cost_usd
        total += (usage.input_tokens, usage.output_tokens, cost)
    return total
