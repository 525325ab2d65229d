"""The shipped texts and typology, and generated languages to stand in for them (sheet 8)."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from iclr_repro.core.data import DataError, locate
from iclr_repro.fed_prompt.distance import Uriel

Find = Callable[[str], Path]

MASAKHANEWS = (
    "amh",
    "eng",
    "fra",
    "hau",
    "ibo",
    "lin",
    "lug",
    "orm",
    "pcm",
    "run",
    "sna",
    "som",
    "swa",
    "tir",
    "xho",
    "yor",
)
LOW = ("lin", "lug", "orm", "run", "sna", "som", "tir", "xho")
LABELS = ("business", "entertainment", "health", "politics", "religion", "sports", "technology")
SIB_LABELS = ("science/technology", "travel", "politics", "sports", "health", "entertainment", "geography")
XNLI_LABELS = ("entailment", "neutral", "contradiction")
XNLI_LANGUAGES = ("en", "sw", "ur", "my")
SPLITS = ("train", "dev", "test")


@dataclass(frozen=True, eq=False)
class LabelledTexts:
    """Texts with labels, in two parts each (headline and body, or premise and hypothesis; the second may be empty)."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, rows: Sequence[int] | np.ndarray) -> LabelledTexts:
        """Return some of the texts."""
        rows = np.asarray(rows)
        return LabelledTexts(
            tuple(self.first[row] for row in rows), tuple(self.second[row] for row in rows), self.labels[rows]
        )


Language = dict[str, LabelledTexts]  # split -> texts


def load_masakhanews(language: str, *, find: Find = locate) -> Language:
    """Load the news of one of 16 languages, splits train, dev, test; labels as in `LABELS`.

    Dev rows that are also test rows are left out of dev (pitfall 9b); the test files are whole.

    Raises:
        ValueError: a language that MasakhaNEWS does not have.
        DataError: the file is missing or damaged, or has a label outside the list.
    """
    if language not in MASAKHANEWS:
        raise ValueError(f"MasakhaNEWS has no language {language!r}, it has {', '.join(MASAKHANEWS)}")
    path = find(f"fed_prompt/masakhanews/{language}.tsv.gz")
    rows = _gzipped_rows(path)[1:]
    in_test = {(row[2], row[3]) for row in rows if row[0] == "test"}
    rows = [row for row in rows if row[0] != "dev" or (row[2], row[3]) not in in_test]
    made = {}
    for split in SPLITS:
        of_split = [row for row in rows if row[0] == split]
        made[split] = LabelledTexts(
            tuple(row[2] for row in of_split),
            tuple(row[3] for row in of_split),
            _label_ids([row[1] for row in of_split], LABELS, path),
        )
    return made


def load_sib200(languages: Sequence[str], *, find: Find = locate) -> dict[str, Language]:
    """Load the sentences of SIB-200 in some languages; the same rows in each, so that they are parallel.

    Raises:
        ValueError: a language that the file does not have.
        DataError: the file is missing or damaged.
    """
    path = find("fed_prompt/sib200/sib200_28langs.tsv.gz")
    header, *rows = _gzipped_rows(path)
    if missing := [language for language in languages if language not in header[3:]]:
        raise ValueError(f"SIB-200 here has no {', '.join(missing)}, it has {', '.join(header[3:])}")
    made: dict[str, Language] = {}
    for language in languages:
        column = header.index(language)
        made[language] = {
            split: LabelledTexts(
                tuple(row[column] for row in rows if row[0] == split),
                ("",) * sum(row[0] == split for row in rows),
                _label_ids([row[2] for row in rows if row[0] == split], SIB_LABELS, path),
            )
            for split in SPLITS
        }
    return made


def disjoint_rows(num_rows: int, num_clients: int) -> list[np.ndarray]:
    """Return the rows k, k + K, k + 2K, ... of each client k, so that no two hold one parallel sentence (sheet 8)."""
    return [np.arange(client, num_rows, num_clients) for client in range(num_clients)]


def load_xnli(language: str, *, find: Find = locate) -> Language:
    """Load premises and hypotheses of XNLI in en, sw, ur or my: dev and test (the training set is not shipped).

    Raises:
        ValueError: another language.
        DataError: the file is missing or damaged.
    """
    if language not in XNLI_LANGUAGES:
        raise ValueError(f"XNLI here has no language {language!r}, it has {', '.join(XNLI_LANGUAGES)}")
    path = find("fed_prompt/xnli/xnli_en_sw_ur_my.tsv.gz")
    header, *rows = _gzipped_rows(path)
    premise, hypothesis = header.index(f"premise_{language}"), header.index(f"hypothesis_{language}")
    made = {}
    for split in ("dev", "test"):
        of_split = [row for row in rows if row[0] == split]
        made[split] = LabelledTexts(
            tuple(row[premise] for row in of_split),
            tuple(row[hypothesis] for row in of_split),
            _label_ids([row[2] for row in of_split], XNLI_LABELS, path),
        )
    return made


def load_parallel(*, find: Find = locate) -> list[tuple[str, str, str]]:
    """Load (language, English, other) news sentence pairs of nine languages, for pre-training only.

    Raises:
        DataError: the file is missing or damaged.
    """
    return [(row[0], row[1], row[2]) for row in _gzipped_rows(find("fed_prompt/parallel/lafand_eng_x.tsv.gz"))[1:]]


def load_uriel(*, find: Find = locate) -> Uriel:
    """Load typological features of 30 languages (URIEL by lang2vec, gaps filled from near languages).

    Raises:
        DataError: the file is missing or damaged.
    """
    with np.load(find("fed_prompt/uriel/uriel_features.npz")) as values:
        return Uriel(
            tuple(map(str, values["langs"])), tuple(map(str, values["feats"])), values["knn"], values["family"]
        )


@dataclass(frozen=True, eq=False)
class Corpus:
    """A task in several languages, with unlabelled parallel text.

    Attributes:
        languages: name -> splits.
        parallel: (language, text, other language, text) pairs of the same content.
        merged: groups of sentences that all mean the same, {language: text}.
        labels: names of the C labels.
        closeness: of each language to the others, where it was generated with a known one.
    """

    languages: dict[str, Language]
    parallel: list[tuple[str, str, str, str]]
    merged: list[dict[str, str]]
    labels: tuple[str, ...]
    closeness: dict[str, float]

    @property
    def num_labels(self) -> int:
        """C."""
        return len(self.labels)


def load_corpus(languages: Sequence[str] = MASAKHANEWS, *, find: Find = locate) -> Corpus:
    """Load MasakhaNEWS in some languages with the parallel text that the small encoder is pre-trained on.

    Raises:
        DataError: a file is missing or damaged.
    """
    news = {language: load_masakhanews(language, find=find) for language in languages}
    path = find("fed_prompt/sib200/sib200_28langs.tsv.gz")
    header, *rows = _gzipped_rows(path)
    columns = {language: header.index(language) for language in languages if language in header}
    merged = [{language: row[column] for language, column in columns.items()} for row in rows]
    parallel = [("eng", english, language, text) for language, english, text in load_parallel(find=find)]
    return Corpus(news, [pair for pair in parallel if pair[2] in languages], merged, LABELS, {})


def synthetic_corpus(
    *,
    num_languages: int,
    num_labels: int,
    num_train: Sequence[int],
    num_test: int,
    closeness: float | Sequence[float] = 0.6,
    num_parallel: int = 200,
    label_skew: float | None = None,
    rng: np.random.Generator,
) -> Corpus:
    """Generate languages that share a known part of their words.

    Every label has 40 concepts, and 200 are neutral. Concept z has in language l the shared word with probability
    rho_l, else a word of l's own. A text of label y has 10 + Poisson(20) places, each a concept of y with probability
    0.3 (by Zipf's law), else a neutral one. At rho = 0 nothing can be transferred without parallel text, at rho = 1
    all.

    Args:
        num_languages: K.
        num_labels: c.
        num_train: training texts of each language.
        num_test: dev and test texts of each, as many of both.
        closeness: rho_l, 0 to 1, one for all or one a language.
        num_parallel: concept sequences rendered in all languages.
        label_skew: alpha of the Dirichlet prior of each language's labels; None: uniform.
        rng: draws everything.

    Raises:
        ValueError: sizes that do not fit together, or rho outside [0, 1].

    Source: sheet 8.
    """
    rho = np.broadcast_to(np.asarray(closeness, dtype=np.float64), (num_languages,))
    if len(num_train) != num_languages or not ((rho >= 0) & (rho <= 1)).all():
        raise ValueError(f"got {len(num_train)} sizes and rho {rho.tolist()} for {num_languages} languages")
    names = [f"l{number}" for number in range(num_languages)]
    num_concepts = 40 * num_labels + 200
    shared = rng.random((num_languages, num_concepts)) < rho[:, None]
    words = [
        [f"w{z}" if shared[k, z] else f"{names[k]}x{z}" for z in range(num_concepts)] for k in range(num_languages)
    ]
    zipf = 1 / np.arange(1, 41)
    zipf /= zipf.sum()

    def concepts(label: int) -> np.ndarray:
        places = 10 + rng.poisson(20)
        topical = 40 * label + rng.choice(40, size=places, p=zipf)
        neutral = 40 * num_labels + rng.integers(200, size=places)
        return np.where(rng.random(places) < 0.3, topical, neutral)

    def text(language: int, drawn: np.ndarray) -> str:
        return " ".join(words[language][z] for z in drawn)

    def texts(language: int, number: int, prior: np.ndarray) -> LabelledTexts:
        labels = rng.choice(num_labels, size=number, p=prior)
        drawn = [concepts(int(label)) for label in labels]
        return LabelledTexts(
            tuple(text(language, d[:5]) for d in drawn), tuple(text(language, d[5:]) for d in drawn), labels
        )

    languages = {}
    for k, name in enumerate(names):
        prior = np.full(num_labels, 1 / num_labels) if label_skew is None else rng.dirichlet([label_skew] * num_labels)
        sizes = dict(zip(SPLITS, (num_train[k], num_test, num_test), strict=True))
        languages[name] = {split: texts(k, size, prior) for split, size in sizes.items()}
    sequences = [concepts(int(rng.integers(num_labels))) for _ in range(num_parallel)]
    merged = [{name: text(k, drawn) for k, name in enumerate(names)} for drawn in sequences]
    parallel = [(names[0], group[names[0]], name, group[name]) for group in merged for name in names[1:]]
    label_names = tuple(f"label {number}" for number in range(num_labels))
    return Corpus(languages, parallel, merged, label_names, dict(zip(names, rho.tolist(), strict=True)))


def _label_ids(names: Sequence[str], labels: Sequence[str], path: Path) -> np.ndarray:
    if unknown := sorted(set(names) - set(labels)):
        raise DataError(f"{path} has the labels {', '.join(unknown)}, expected only {', '.join(labels)}")
    return np.array([labels.index(name) for name in names], dtype=np.int64)


def _gzipped_rows(path: Path) -> list[list[str]]:
    """Read tab-separated rows without quoting, a line each, a header line first."""
    rows = [line.split("\t") for line in gzip.decompress(path.read_bytes()).decode("utf-8").rstrip("\n").split("\n")]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise DataError(f"{path}, line {number}: got {len(row)} fields, expected {len(rows[0])} as in its header")
    return rows
