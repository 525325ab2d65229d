"""The categories for labelling reviews and rebuttals, read from `taxonomy.yaml`, and the hand-labelled snippets.

Source: sheet L. The paper's full label lists are not available; the file says what is ours.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

Labels = dict[str, list[str]]
"""Category -> sub-categories; {} where no category applies, an empty list where a category has no fitting
sub-category."""

_TASK_KEYS = {"instruction", "exclusive", "otherwise", "categories"}


@dataclass(frozen=True)
class Task:
    """One labelling question.

    Attributes:
        name: e.g. "weaknesses".
        instruction: the question as put to a language model.
        exclusive: whether a text has at most one category.
        otherwise: the category of a text to which none applies; None where such a text gets none.
        lexicon: category -> sub-category -> pattern (None without any); a category without sub-categories has the one
            key "".
    """

    name: str
    instruction: str
    exclusive: bool
    otherwise: str | None
    lexicon: Mapping[str, Mapping[str, re.Pattern[str] | None]]

    @property
    def categories(self) -> tuple[str, ...]:
        """All categories, in the order of the file."""
        return tuple(self.lexicon)

    def sub_categories(self, category: str) -> tuple[str, ...]:
        """The sub-categories of a category, possibly none."""
        return tuple(name for name in self.lexicon[category] if name)

    def check(self, labels: Any) -> Labels:
        """Return `labels` if they are valid for this task.

        Raises:
            ValueError: not a mapping of categories to lists of their sub-categories, or two categories where one only
                is possible.
        """
        if not isinstance(labels, dict):
            raise ValueError(f"{self.name}: labels are {{category: [sub-category, ...]}}, got {labels!r}")
        for category, subs in labels.items():
            if category not in self.lexicon:
                raise ValueError(f"{self.name}: no category {category!r}; there are {list(self.categories)}")
            known = self.sub_categories(category)
            if not isinstance(subs, list) or any(sub not in known for sub in subs):
                raise ValueError(f"{self.name}: sub-categories {subs!r} of {category!r}; there are {list(known)}")
        if self.exclusive and len(labels) > 1:
            raise ValueError(f"{self.name}: at most one category is possible, got {list(labels)}")
        return labels


@dataclass(frozen=True)
class Snippet:
    """A hand-labelled text: task name -> its labels, for the tasks that concern it."""

    text: str
    labels: Mapping[str, Labels]


def load_taxonomy(path: Path | None = None) -> dict[str, Task]:
    """Read and check a taxonomy: task name -> task.

    Args:
        path: a file of the form that the head of the shipped `taxonomy.yaml` explains; None for that one.

    Raises:
        ValueError: naming the place, whatever is not of this form.
    """
    document = _read(path, "taxonomy.yaml")
    if not isinstance(document, dict) or not document:
        raise ValueError(f"{path or 'taxonomy.yaml'}: expected a mapping of task names to tasks")
    return {name: _task(name, entry) for name, entry in document.items()}


def load_snippets(taxonomy: Mapping[str, Task], path: Path | None = None) -> list[Snippet]:
    """Read hand-labelled texts and check their labels against a taxonomy.

    Args:
        taxonomy: the tasks.
        path: a file of the form of the shipped `labelled_snippets.yaml`; None for that one.

    Raises:
        ValueError: an entry without text, or with a task or label that the taxonomy lacks.
    """
    snippets = []
    for number, entry in enumerate(_read(path, "labelled_snippets.yaml"), start=1):
        labels = {key: value for key, value in entry.items() if key != "text"}
        unknown = [name for name in labels if name not in taxonomy]
        if "text" not in entry or unknown:
            raise ValueError(
                f"snippet {number}: needs a text and labels of the tasks {list(taxonomy)}, has {list(entry)}"
            )
        try:
            checked = {name: taxonomy[name].check(value) for name, value in labels.items()}
        except ValueError as error:
            raise ValueError(f"snippet {number}: {error}") from None
        snippets.append(Snippet(entry["text"].strip(), checked))
    return snippets


def _read(path: Path | None, shipped: str) -> Any:
    source = path if path is not None else files(__package__).joinpath(shipped)
    return yaml.safe_load(source.read_text(encoding="utf-8"))


def _task(name: str, entry: Any) -> Task:
    if not isinstance(entry, dict) or set(entry) != _TASK_KEYS:
        found = sorted(entry) if isinstance(entry, dict) else entry
        raise ValueError(f"task {name!r}: expected the keys {sorted(_TASK_KEYS)}, found {found}")
    categories = entry["categories"]
    if not isinstance(categories, dict) or not categories or not isinstance(entry["exclusive"], bool):
        raise ValueError(f"task {name!r}: categories must be a mapping that is not empty, exclusive true or false")
    if entry["otherwise"] is not None and entry["otherwise"] not in categories:
        raise ValueError(
            f"task {name!r}: otherwise is {entry['otherwise']!r}; expected null or one of {list(categories)}"
        )
    _check_first_words(f"task {name!r}", list(categories))
    lexicon = {}
    for category, patterns in categories.items():
        place = f"task {name!r}, category {category!r}"
        by_sub = patterns if isinstance(patterns, dict) else {"": patterns}
        _check_first_words(place, [sub for sub in by_sub if sub])
        lexicon[category] = {sub: _pattern(place, listed) for sub, listed in by_sub.items()}
    return Task(name, entry["instruction"], entry["exclusive"], entry["otherwise"], lexicon)


def _pattern(place: str, patterns: Any) -> re.Pattern[str] | None:
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(f"{place}: expected a list of patterns, got {patterns!r}")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{place}: {pattern!r} is not a regular expression ({error})") from None
    return re.compile(rf"\b(?:{'|'.join(patterns)})", re.IGNORECASE) if patterns else None


def _check_first_words(place: str, names: Sequence[str]) -> None:
    first_words = [re.split(r"\W", name.lower(), maxsplit=1)[0] for name in names]
    twice = sorted({word for word in first_words if first_words.count(word) > 1})
    if twice:
        raise ValueError(
            f"{place}: several names start with {twice}; a model that answers by one token needs distinct words"
        )
