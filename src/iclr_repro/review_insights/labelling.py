"""Labels for reviews and rebuttals: one interface, three back-ends, agreement with a reader, shares by rating group.

    task = load_taxonomy()["weaknesses"]
    RulesLabeller(task).label(["No ablation study.", "Typos."])
    # [{"Experiments & Evaluation": ["ablations"]}, {"Clarity & Presentation": ["writing"]}]

`RulesLabeller` is a deterministic lexicon, `ZeroShotLabeller` reads the next-token scores of a language model, and
`PromptedLabeller` asks one for JSON. The paper used GPT-4o with prompts that are not available: the prompts here are
ours.

Source: sheet L.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from scipy.special import softmax
from sklearn.metrics import cohen_kappa_score, f1_score

from iclr_repro.core.language_model import LanguageModel, UnusableAnswersError
from iclr_repro.review_insights.bootstrap import resampling_counts
from iclr_repro.review_insights.taxonomy import Labels, Task


@runtime_checkable
class Labeller(Protocol):
    """Labels texts for one task."""

    @property
    def task(self) -> Task:
        """The task."""
        ...

    def label(self, texts: Sequence[str]) -> list[Labels | None]:
        """Labels of each text; None where the back-end gave no usable answer."""
        ...


# --- back-ends -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RulesLabeller:
    """Labels by the patterns of the taxonomy.

    A text gets every sub-category with a match, and their categories. In an exclusive task the category with the most
    matches wins, the first of the taxonomy on a tie. Without any match it gets the category `otherwise`, if there is
    one.
    """

    task: Task

    def label(self, texts: Sequence[str]) -> list[Labels | None]:
        """See `Labeller`; no label is None."""
        return [self._label(text) for text in texts]

    def _label(self, text: str) -> Labels:
        labels: Labels = {}
        num_matches = {}
        for category, lexicon in self.task.lexicon.items():
            found = {sub: sum(1 for _ in pattern.finditer(text)) for sub, pattern in lexicon.items() if pattern}
            num_matches[category] = sum(found.values())
            if num_matches[category]:
                labels[category] = [sub for sub, count in found.items() if sub and count]
        if self.task.exclusive and labels:
            best = max(labels, key=lambda category: num_matches[category])
            labels = {best: labels[best]}
        if not labels and self.task.otherwise is not None:
            labels = {self.task.otherwise: []}
        return labels


_NONE = "None"
_NO_CONTENT = "N/A"


@dataclass(frozen=True)
class ZeroShotLabeller:
    """Labels by the next-token scores that a language model gives to the names of the labels.

    p(label | text) = softmax over the labels of score(label | text) - score(label | "N/A")

    The second score, of a text without content, removes the model's liking for some names. Every label with
    p >= `threshold` is given, at least the best one; in an exclusive task the best one. Where the task has no category
    `otherwise`, the name "None" competes and, as the best, leaves the text without label. Sub-categories are asked in
    the same way, below each category that a text got.

    Attributes:
        task: the labels.
        model: any language model.
        threshold: smallest probability of a label beside the best, 0 to 1.
        prefix: put before each name, so that its first token is the one that would follow the prompt.
    """

    task: Task
    model: LanguageModel
    threshold: float = 0.25
    prefix: str = " "

    def label(self, texts: Sequence[str]) -> list[Labels | None]:
        """See `Labeller`; no label is None."""
        if not texts:
            return []
        names = self.task.categories + ((_NONE,) if self.task.otherwise is None else ())
        chosen = self._choose(self.task.instruction, names, texts)
        answers: list[Labels] = [{name: [] for name in found if name != _NONE} for found in chosen]
        for category in self.task.categories:
            subs = self.task.sub_categories(category)
            members = [labels for labels in answers if category in labels]
            if len(subs) > 1 and members:
                question = f"{self.task.instruction} Which kind of: {category}?"
                inside = [text for text, labels in zip(texts, answers, strict=True) if category in labels]
                for labels, found in zip(members, self._choose(question, subs, inside), strict=True):
                    labels[category] = found
            for labels in members if len(subs) == 1 else ():
                labels[category] = list(subs)
        return list(answers)

    def _choose(self, question: str, names: Sequence[str], texts: Sequence[str]) -> list[list[str]]:
        """The names chosen for each text, in the order of `names`."""
        prompts = [_zero_shot_prompt(question, names, text) for text in (*texts, _NO_CONTENT)]
        scores = self.model.next_token_scores(prompts, [self.prefix + name for name in names])
        probabilities = softmax(scores[:-1] - scores[-1], axis=1)
        best = probabilities.argmax(axis=1)
        taken = np.arange(len(names)) == best[:, None]
        if not self.task.exclusive:
            taken |= probabilities >= self.threshold
            if _NONE in names:
                taken[:, -1] = best == len(names) - 1
                taken[taken[:, -1], :-1] = False
        return [[name for name, use in zip(names, row, strict=True) if use] for row in taken]


def _zero_shot_prompt(question: str, names: Sequence[str], text: str) -> str:
    return f"{question}\nPossible answers: {'; '.join(names)}\n\nText: {text.strip()}\n\nAnswer:"


@dataclass(frozen=True)
class PromptedLabeller:
    """Labels by asking a language model for JSON.

    An answer that is not JSON of the schema, or that names an impossible label, is asked for once more with the reason;
    if the second is no better, the text stays unlabelled (None).

    Attributes:
        task: the labels.
        model: any language model; its cache keeps the answers.
        max_tokens: limit of an answer.
    """

    task: Task
    model: LanguageModel
    max_tokens: int = 400

    def label(self, texts: Sequence[str]) -> list[Labels | None]:
        """See `Labeller`."""
        prompts = [_labelling_prompt(self.task, text) for text in texts]
        answers = self._ask(prompts)
        again = [index for index, answer in enumerate(answers) if isinstance(answer, str)]
        if again:
            reminders = [
                f"{prompts[index]}\n\nYour last answer could not be used: {answers[index]}\n"
                "Answer with the JSON object only."
                for index in again
            ]
            for index, answer in zip(again, self._ask(reminders), strict=True):
                answers[index] = answer
        return [None if isinstance(answer, str) else answer for answer in answers]

    def _ask(self, prompts: list[str]) -> list[Labels | str]:
        """The labels in the answer to each prompt, or why it has none."""
        schema, problems = _answer_schema(self.task), {}
        try:
            completions: list[Any] = list(self.model.complete(prompts, schema=schema, max_tokens=self.max_tokens))
        except UnusableAnswersError as error:
            completions, problems = list(error.completions), error.problems
        return [
            problems[index] if completion is None else _parse_answer(self.task, completion.text)
            for index, completion in enumerate(completions)
        ]


def _labelling_prompt(task: Task, text: str) -> str:
    """Our wording; that of the paper is not available."""
    listed = "\n".join(
        f"- {category}" + (f" (sub-categories: {'; '.join(subs)})" if (subs := task.sub_categories(category)) else "")
        for category in task.categories
    )
    count = "at most one label" if task.exclusive else "every label that clearly applies"
    return (
        f"You label texts from the peer review of a machine-learning conference.\n{task.instruction}\n\n"
        f"Categories:\n{listed}\n\n"
        f'Answer with a JSON object {{"labels": [{{"category": "...", "sub_category": "..."}}]}} that has {count}. '
        'Use the names above. "sub_category" is "" where none fits. Without a label the list is empty.\n\n'
        f'Text:\n"""\n{text.strip()}\n"""'
    )


def _answer_schema(task: Task) -> dict[str, Any]:
    subs = dict.fromkeys(sub for category in task.categories for sub in task.sub_categories(category))
    label = {
        "type": "object",
        "properties": {
            "category": {"type": "string", "enum": list(task.categories)},
            "sub_category": {"type": "string", "enum": ["", *subs]},
        },
        "required": ["category", "sub_category"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"labels": {"type": "array", "items": label}},
        "required": ["labels"],
        "additionalProperties": False,
    }


def _parse_answer(task: Task, text: str) -> Labels | str:
    """The labels in a JSON answer, or why there are none."""
    labels: Labels = {}
    try:
        for label in json.loads(text)["labels"]:
            subs = labels.setdefault(label["category"], [])
            if label["sub_category"] and label["sub_category"] not in subs:
                subs.append(label["sub_category"])
        return task.check(labels)
    except (KeyError, TypeError):
        return f"expected an object with the list 'labels' of category and sub_category, got {text[:80]!r}"
    except ValueError as error:  # not JSON, or a label that the task lacks
        return str(error)


# --- agreement and shares --------------------------------------------------------------------------------------------


def indicators(labels: Sequence[Labels | None], task: Task, *, sub_categories: bool = False) -> pd.DataFrame:
    """Labels as a table of booleans: a row a text, a column a category, or "category/sub-category".

    An unlabelled text (None) has no label. Categories without sub-categories are left out at that level.
    """
    if sub_categories:
        names = [(category, sub) for category in task.categories for sub in task.sub_categories(category)]
        cells = [[sub in (row or {}).get(category, []) for category, sub in names] for row in labels]
        return pd.DataFrame(cells, columns=["/".join(name) for name in names], dtype=bool)
    cells = [[category in (row or {}) for category in task.categories] for row in labels]
    return pd.DataFrame(cells, columns=list(task.categories), dtype=bool)


@dataclass(frozen=True, eq=False)
class Agreement:
    """How well a labeller agrees with a reader.

    Attributes:
        n: texts.
        unlabelled: texts without a usable answer; they count as having no label.
        kappa: Cohen's kappa of all yes/no decisions (text, label) pooled; 0 for chance, 1 for equality.
        micro_f1: F1 of the pooled decisions.
        macro_f1: mean F1 over the labels that the reader used.
        table: a row a label: `n_reader`, `n_labeller` (texts with it), `kappa` (NaN where both never or both always
            gave it), `f1` (NaN where neither gave it).
    """

    n: int
    unlabelled: int
    kappa: float
    micro_f1: float
    macro_f1: float
    table: pd.DataFrame


def agreement(
    reader: Sequence[Labels], labeller: Sequence[Labels | None], task: Task, *, sub_categories: bool = False
) -> Agreement:
    """Compare the labels of a labeller with a reader's, by category or by sub-category.

    Raises:
        ValueError: not the same number of texts, or none.
    """
    if not reader or len(reader) != len(labeller):
        raise ValueError(
            f"{len(reader)} texts of the reader beside {len(labeller)} of the labeller: expected as many, not 0"
        )
    true, given = (indicators(labels, task, sub_categories=sub_categories) for labels in (reader, labeller))
    table = pd.DataFrame({"n_reader": true.sum(), "n_labeller": given.sum()})
    table["kappa"] = [_kappa(true[name], given[name]) for name in true]
    table["f1"] = [f1_score(true[name], given[name], zero_division=np.nan) for name in true]
    return Agreement(
        n=len(reader),
        unlabelled=sum(labels is None for labels in labeller),
        kappa=_kappa(true.to_numpy().ravel(), given.to_numpy().ravel()),
        micro_f1=float(f1_score(true.to_numpy().ravel(), given.to_numpy().ravel(), zero_division=0.0)),
        macro_f1=float(table.loc[table["n_reader"] > 0, "f1"].mean()),
        table=table,
    )


def _kappa(one: Any, other: Any) -> float:
    if len(np.unique(np.concatenate([one, other]))) < 2:
        return float("nan")
    return float(cohen_kappa_score(one, other))


RATING_GROUPS = ("low", "mid", "high")


def rating_groups(ratings: np.ndarray) -> np.ndarray:
    """[n] "low" for ratings up to 3, "high" from 6 (above the acceptance threshold) on, "mid" between.

    The paper's groups are not available beyond low ones ending at 3.
    """
    ratings = np.asarray(ratings)
    return np.select([ratings <= 3, ratings < 6], RATING_GROUPS[:2], RATING_GROUPS[2])


def category_shares(
    given: pd.DataFrame,
    ratings: np.ndarray,
    paper_ids: Sequence[str],
    *,
    rng: np.random.Generator,
    draws: int = 1000,
    level: float = 0.95,
) -> pd.DataFrame:
    """Share of reviews that name each category, by rating group.

    Args:
        given: [n, num_categories] from `indicators`.
        ratings: [n] ratings of the reviews.
        paper_ids: [n] their papers, which are resampled.
        rng: source of the resampling.
        draws: bootstrap draws.
        level: of the percentile intervals.

    Returns:
        Index (`group`, `category`), columns `n` (reviews of the group), `share`, `low`, `high`; NaN for a group without
        reviews.
    """
    papers, paper = np.unique(np.asarray(paper_ids, dtype=str), return_inverse=True)
    counts = resampling_counts(len(papers), draws, rng=rng)[:, paper]
    groups = rating_groups(ratings)
    values = given.to_numpy(dtype=np.float64)
    parts = {}
    for group in RATING_GROUPS:
        member = groups == group
        drawn = counts[:, member]
        size = drawn.sum(axis=1, keepdims=True)
        shares = np.divide(drawn @ values[member], size, out=np.full((draws, values.shape[1]), np.nan), where=size > 0)
        shares = shares[size[:, 0] > 0]
        low, high = np.quantile(shares, [(1 - level) / 2, (1 + level) / 2], axis=0) if len(shares) else (np.nan, np.nan)
        share = values[member].mean(axis=0) if member.any() else np.nan
        parts[group] = pd.DataFrame({"n": member.sum(), "share": share, "low": low, "high": high}, index=given.columns)
    return pd.concat(parts, names=["group", "category"])
