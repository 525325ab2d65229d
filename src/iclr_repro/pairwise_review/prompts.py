"""What a language model is shown: blinded texts cut to a budget, in a versioned template.

Source: sheet E, "Prompt structure" and "Truncation"; the paper's own wording is not available.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

import yaml

from iclr_repro.pairwise_review.papers import Paper

CountTokens = Callable[[str], int]
Answering = Literal["text", "next_token"]

TOKEN_BUDGET = 2900  # per manuscript; what the paper's cost implies (sheet A, point 2)

_URL = re.compile(r"(?:https?://|www\.)\S+|\b[\w.-]+@[\w-]+\.[\w.]+\b")
_HEADING = re.compile(r"^\s*(?:\d+(?:\.\d+)*\.?\s+)?([A-Z][A-Za-z ]{2,40})\s*$", re.MULTILINE)
_CAPTION = re.compile(r"^\s*((?:Figure|Fig\.|Table)\s*\d+[.:].*)$", re.MULTILINE)
_FINAL = re.compile(r"^\W*(?:winner\W+)?(?:manuscript\s+)?\W*([AB])\W*$", re.IGNORECASE)


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of an English text: a token for every four characters, rounded up."""
    return math.ceil(len(text) / 4)


def anonymise(text: str, names: Iterable[str] = ()) -> str:
    """Remove URLs, e-mail addresses, acknowledgements and the given names of people and institutions.

    Names of one word are removed as they are written only.

    Example: with the name "Meta", "meta-learning at Meta" becomes "meta-learning at [name]".
    """
    text = _without_section(text, "acknowledg")
    text = _URL.sub("[link]", text)
    for name in sorted({name.strip() for name in names if len(name.strip()) > 2}, key=len, reverse=True):
        # One word in another case is a word of the language: Meta and meta-learning, Apple and apple.
        flags = re.IGNORECASE if " " in name else re.NOFLAG
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "[name]", text, flags=flags)
    return text


def _sections(text: str) -> list[tuple[str, str]]:
    """Split a text at its heading lines into (lower-case heading, body)."""
    marks = list(_HEADING.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [(mark[1].strip().lower(), text[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=False)]


def _without_section(text: str, begins: str) -> str:
    marks = list(_HEADING.finditer(text))
    for mark, following in zip(marks, [*(m.start() for m in marks[1:]), len(text)], strict=False):
        if mark[1].strip().lower().startswith(begins):
            return text[: mark.start()] + text[following:]
    return text


def excerpt(
    paper: Paper, *, budget: int = TOKEN_BUDGET, count_tokens: CountTokens = estimate_tokens, blind: bool = True
) -> str:
    """Return what is shown of a paper: title, abstract, introduction, captions, conclusion, as far as the budget goes.

    A text without recognisable headings is shown from its beginning.

    Args:
        paper: with a title, an abstract or a text.
        budget: tokens, at least 1.
        count_tokens: of a text, for the model at hand.
        blind: see `anonymise`; the paper's authors and institutions are the names.

    Raises:
        ValueError: the budget is below 1, or the paper has nothing to show.
    """
    if budget < 1:
        raise ValueError(f"the budget must be at least 1 token, got {budget}")
    parts = [f"Title: {paper.title.strip()}" if paper.title.strip() else ""]
    parts.append(f"Abstract: {paper.abstract.strip()}" if paper.abstract.strip() else "")
    if paper.text:
        sections = _sections(paper.text)
        introduction = [body for heading, body in sections if heading.startswith("introduction")]
        conclusion = [body for heading, body in sections if heading.startswith(("conclusion", "discussion and concl"))]
        captions = [mark[1].strip() for mark in _CAPTION.finditer(paper.text)]
        parts += [*introduction, *captions, *conclusion] if introduction else [paper.text.strip()]
    names = (*paper.authors, *paper.institutions)
    shown = [anonymise(part, names) if blind else part for part in parts if part]
    if not shown:
        raise ValueError(f"paper {paper.id!r} has neither title, abstract nor text to show")
    kept: list[str] = []
    left = budget
    for part in shown:
        piece = _cut(part, left, count_tokens)
        if piece:
            kept.append(piece)
            left -= count_tokens(piece)
        if piece != part:
            break
    return "\n\n".join(kept)


def _cut(text: str, budget: int, count_tokens: CountTokens) -> str:
    """The longest beginning of a text, in whole words, that the budget holds."""
    if budget <= 0:
        return ""
    if count_tokens(text) <= budget:
        return text
    ends = [match.end() for match in re.finditer(r"\S+", text)]
    low, high = 0, len(ends)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count_tokens(text[: ends[middle - 1]]) <= budget else (low, middle - 1)
    return text[: ends[low - 1]] if low else ""


@dataclass(frozen=True)
class PromptTemplate:
    """The parts of the prompts; see prompt_v1.yaml, which states each."""

    version: int
    system: str
    manuscript: str
    question: str
    answer_by_text: str
    answer_by_next_token: str
    again: str
    review: str
    meta_review: str
    rating_by_next_token: str

    def system_message(self, venue: str) -> str:
        """Return the role."""
        return _fill(self.system, venue=venue)

    def first_part(self, text_first: str) -> str:
        """Return what comes before the second manuscript: equal for all pairs with the same first one."""
        return _fill(self.manuscript, label="A", text=text_first) + "\n\n"

    def second_part(self, text_second: str, *, venue: str, answering: Answering) -> str:
        """Return the second manuscript, the question and the rule of the answer."""
        rule = self.answer_by_text if answering == "text" else self.answer_by_next_token
        manuscript = _fill(self.manuscript, label="B", text=text_second)
        return f"{manuscript}\n\n{_fill(self.question, venue=venue)}\n\n{rule}"

    def question_of(self, venue: str, answering: Answering) -> str:
        """Return all that is sent beside the two texts."""
        empty = self.comparison("", "", venue=venue, answering=answering)
        return f"{self.system_message(venue)}\n{empty}"

    def comparison(self, text_first: str, text_second: str, *, venue: str, answering: Answering) -> str:
        """Return the whole prompt beside the system message."""
        return self.first_part(text_first) + self.second_part(text_second, venue=venue, answering=answering)


def _fill(template: str, **values: str) -> str:
    # Not str.format: texts of papers hold braces, and the values must not be filled in again.
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)


@cache
def load_template(version: int = 1) -> PromptTemplate:
    """Load a version of the prompts.

    Raises:
        ValueError: there is no such version.
    """
    try:
        text = resources.files(__package__).joinpath(f"prompt_v{version}.yaml").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"there is no version {version} of the prompts") from None
    return PromptTemplate(**yaml.safe_load(text))


def parse_winner(answer: str) -> bool | None:
    r"""Read a decision: True for A, False for B, None for anything else.

    The answer must end with a line of a single letter A or B ("Winner: A", "Manuscript A"), or with a JSON object with
    such a field "winner".

    Example: "Both are good.\nWinner: B" gives False; 'Reasons.\n{"winner": "A"}' gives True; "A or B?" gives None.
    """
    stripped = answer.strip().removesuffix("```").strip()
    if stripped.endswith("}"):
        try:
            value = json.loads(stripped[stripped.rfind("{") :])
        except ValueError:
            # Braces within the object: it begins at the first one.
            try:
                value = json.loads(stripped[stripped.find("{") :])
            except ValueError:
                return None
        decision = value.get("winner")
    else:
        decision = next((line for line in reversed(stripped.splitlines()) if line.strip()), None)
    if not isinstance(decision, str) or decision.lstrip().startswith("{"):  # JSON that was cut off
        return None
    found = _FINAL.match(decision.strip())
    return None if found is None else found[1].upper() == "A"
