"""The rating system over the same language models as the judge, and ratings by the digit that is expected.

Source: sheet B.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from iclr_repro.core.language_model import BaseLanguageModel, Completion
from iclr_repro.pairwise_review.language_judge import LEAST_MASS, Reading, answer_mass, complete_all
from iclr_repro.pairwise_review.papers import Paper, check_papers
from iclr_repro.pairwise_review.prompts import load_template

REVIEW_TOKENS = 800
"""Limit of a review."""

META_TOKENS = 20
"""Limit of a meta-review."""

_SCORES = {"soundness": 4, "presentation": 4, "contribution": 4, "overall": 10, "confidence": 5}
_TEXTS = ("summary", "strengths", "weaknesses")
_REVIEW_SCHEMA = {
    "type": "object",
    "properties": {
        **{name: {"type": "string"} for name in _TEXTS},
        **{name: {"type": "integer", "enum": list(range(1, high + 1))} for name, high in _SCORES.items()},
    },
    "required": [*_TEXTS, *_SCORES],
    "additionalProperties": False,
}
_META_SCHEMA = {
    "type": "object",
    "properties": {"overall": {"type": "integer", "enum": list(range(1, 11))}},
    "required": ["overall"],
    "additionalProperties": False,
}


@dataclass(frozen=True, eq=False)
class Ratings:
    """What the rating system came to.

    Attributes:
        final: [n] the meta-reviewer's rating, NaN without a usable answer.
        reviews: [n, reviewers] overall ratings, NaN likewise.
    """

    final: np.ndarray
    reviews: np.ndarray


class LanguageModelRater:
    """The paper's baseline: independent reviews and a meta-review of each manuscript by a language model.

    The paper's prompts are not available; ours ask for the usual form (summary, strengths, weaknesses, scores).
    """

    def __init__(
        self,
        model: BaseLanguageModel,
        *,
        reading: Reading | None = None,
        reviewers: int = 3,
        temperature: float = 0.7,
        max_tokens: int = REVIEW_TOKENS,
    ) -> None:
        """Make a rater. At temperature 0 the reviewers would be copies of each other."""
        self.model, self.reading, self.reviewers = model, reading or Reading(), reviewers
        self.temperature, self.max_tokens = temperature, max_tokens
        self._template = load_template(self.reading.template_version)

    def rate(self, papers: Sequence[Paper]) -> Ratings:
        """Review all papers, 1 + `reviewers` calls each.

        Raises:
            ValueError: duplicate ids, or a paper without text.
            LanguageModelError: the model cannot be asked.
        """
        check_papers(papers, need_text=True)
        shown = [f"### Manuscript\n{self.reading.show(paper)}" for paper in papers]
        question = self._template.review.replace("{venue}", self.reading.venue)
        columns = []
        for seed in range(self.reviewers):
            columns.append(
                complete_all(
                    self.model,
                    [f"{text}\n\n{question}" for text in shown],
                    schema=_REVIEW_SCHEMA,
                    max_tokens=self.max_tokens,
                    temperature=self.temperature,
                    seed=seed,
                )
            )
        rows = list(zip(*columns, strict=True))
        prompts = [f"{text}\n\n{self._meta(row)}" for text, row in zip(shown, rows, strict=True)]
        finals = complete_all(self.model, prompts, schema=_META_SCHEMA, max_tokens=META_TOKENS)
        return Ratings(
            final=np.array([_overall(answer) for answer in finals]),
            reviews=np.array([[_overall(answer) for answer in row] for row in rows]),
        )

    def _meta(self, reviews: Sequence[Completion | None]) -> str:
        listed = "\n\n".join(f"Review {k}: {r.text}" for k, r in enumerate(reviews, start=1) if r is not None)
        return self._template.meta_review.replace("{reviews}", listed or "(no usable review)")


@dataclass(frozen=True, eq=False)
class ExpectedRatings:
    """Ratings almost without ties, by the probabilities of digits as the next token.

    Attributes:
        expected: [n] sum over d of d P(d), P over the digits 1 to 9; NaN where the answer is unreadable.
        mass: [n] the digits' probability together; below `LEAST_MASS` an answer is unreadable.
    """

    expected: np.ndarray
    mass: np.ndarray


def expected_ratings(
    model: BaseLanguageModel, papers: Sequence[Paper], *, reading: Reading, digits: Sequence[str] = "123456789"
) -> ExpectedRatings:
    """Rate papers by the digit that is expected after "Rating:", one call a paper.

    A 10 would be two tokens to many tokenizers.

    Args:
        model: any that scores next tokens.
        papers: to be rated.
        reading: how papers are shown.
        digits: as the model writes them.

    Raises:
        ValueError: duplicate ids, or a paper without text.
        LanguageModelError: the model cannot be asked.
    """
    check_papers(papers, need_text=True)
    template = load_template(reading.template_version)
    question = template.rating_by_next_token.replace("{venue}", reading.venue)
    prompts = [f"### Manuscript\n{reading.show(paper)}\n\n{question}" for paper in papers]
    return expected_digit(model.next_token_scores(prompts, list(digits), answer_begins=template.rating_begins))


def expected_digit(scores: np.ndarray, *, least_mass: float = LEAST_MASS) -> ExpectedRatings:
    """Return the expected digits 1 to 9 of [n, 9] log-probabilities, and their mass."""
    mass = answer_mass(scores)
    readable = (mass > 0) & (mass >= least_mass)
    expected = np.full(len(scores), np.nan)
    expected[readable] = softmax(scores[readable], axis=1) @ np.arange(1, scores.shape[1] + 1)
    return ExpectedRatings(expected, mass)


def _overall(completion: Completion | None) -> float:
    return np.nan if completion is None else float(json.loads(completion.text)["overall"])
