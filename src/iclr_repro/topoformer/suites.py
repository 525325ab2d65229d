"""Eight linguistic test suites from published stimuli, and what is measured on them (sheet 2.10).

The authors' own suites are not public. Shape letters: N = sentences, D = units.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from iclr_repro.core.data import locate
from iclr_repro.topoformer.data import Find, read_table
from iclr_repro.topoformer.maps import SelectivityMap, morans_i, morans_null, selectivity_map
from iclr_repro.topoformer.statistic import permutation_p_value

Row = Mapping[str, str]
Encode = Callable[[Sequence[str]], Mapping[str, Float[np.ndarray, "N D"]]]

_NPI = ("npi_orc_any", "npi_src_any", "npi_src_ever")
_REFLEXIVE = ("reflexive_orc_masc", "reflexive_prep_fem", "reflexive_prep_masc", "reflexive_src_fem")
_NUMBER = ("number_prep", "number_src", "number_orc")
_GARDEN_PATH = {
    "npz_obj": ("no-obj_no-comma", "no-obj_comma"),
    "npz_ambig": ("ambig_nocomma", "ambig_comma"),
    "mvrr": ("reduced_ambig", "unreduced_ambig"),
}


@dataclass(frozen=True, eq=False)
class TestSuite:
    """Sentences of two groups.

    Attributes:
        name: of the contrast.
        sentences: [N].
        labels: [N] 1 for group A of the sheet's table, 0 for group B.
        groups: [N] sentences of one item share a number and must stay in one fold.
        sources: [N] the file (without ending) that a sentence comes from.
    """

    __test__ = False  # for pytest, which takes a class of this name for tests

    name: str
    sentences: tuple[str, ...]
    labels: np.ndarray
    groups: np.ndarray
    sources: tuple[str, ...]

    @classmethod
    def from_items(cls, name: str, items: Iterable[tuple[str, int, object, str]]) -> TestSuite:
        """Make a suite of (sentence, label, item, source); an item is anything that can be compared and hashed."""
        sentences, labels, names, sources = zip(*items, strict=True)
        numbers = {item: number for number, item in enumerate(dict.fromkeys(names))}
        return cls(name, sentences, np.array(labels), np.array([numbers[item] for item in names]), sources)


def load_test_suites(*, find: Find = locate) -> list[TestSuite]:
    """Build the eight suites: intactness, animacy, concreteness, visuomotor, acceptability, agreement, licensing,
    garden_path.

    Suites of several files join them; an item number means the same item in all SyntaxGym files of a suite.

    Raises:
        DataError: a file is missing or damaged.

    Source: the table of sheet 2.10.
    """  # noqa: D205 - the eight names do not fit into a line
    elli = read_table("suites_elli_word_pairs.csv", find=find)
    moseley = read_table("suites_moseley_words.csv", find=find)
    fedorenko = read_table("suites_fedorenko_conditions.csv", find=find)

    def gym(files: Iterable[str], label_of: Callable[[str], int | None]) -> list[tuple[str, int, object, str]]:
        return [item for file in files for item in _syntaxgym(file, label_of, find=find)]

    garden_path = [
        item
        for file, (ambiguous, clear) in _GARDEN_PATH.items()
        for item in _syntaxgym(file, {ambiguous: 1, clear: 0}.get, find=find)
    ]
    return [
        TestSuite.from_items("intactness", _words(fedorenko, "sentence", "condition", {"S": 1, "W": 0}, "fedorenko")),
        TestSuite.from_items(
            "animacy",
            _words(elli, "pair", "category", {"bird": 1, "mammal": 1, "manmade": 0, "natural": 0}, "elli"),
        ),
        TestSuite.from_items(
            "concreteness", _words(moseley, "word", "category", {"concrete": 1, "abstract": 0}, "moseley")
        ),
        TestSuite.from_items("visuomotor", _words(elli, "pair", "category", {"light": 1, "hand": 0}, "elli")),
        TestSuite.from_items("acceptability", _acceptability(find=find)),
        TestSuite.from_items("agreement", gym(_NUMBER, _matches)),
        TestSuite.from_items("licensing", gym(_NPI, _negative_licensor) + gym(_REFLEXIVE, _matches)),
        TestSuite.from_items("garden_path", garden_path),
    ]


def load_noun_verb_contrasts(*, find: Find = locate) -> list[TestSuite]:
    """Build concrete_nouns_verbs and abstract_nouns_verbs: 40 nouns (1) against 40 verbs (0) of either kind.

    The contrasts of a later paper's numbers on the released model (sheet 4.4); they are not among the eight suites.

    Raises:
        DataError: the file is missing or damaged.
    """
    moseley = read_table("suites_moseley_words.csv", find=find)
    found = []
    for kind in ("concrete", "abstract"):
        rows = [row for row in moseley if row["category"] == kind]
        items = _words(rows, "word", "class", {"noun": 1, "verb": 0}, "moseley")
        found.append(TestSuite.from_items(f"{kind}_nouns_verbs", items))
    return found


def run_test_suites(
    encode: Encode, suites: Sequence[TestSuite], *, folds: int, permutations: int, rng: np.random.Generator
) -> tuple[pd.DataFrame, dict[tuple[str, str], SelectivityMap]]:
    """Measure how a model's sheets tell the groups of each suite apart.

    Args:
        encode: sentences to token-mean activations [N, D] of each sheet by name.
        suites: to measure.
        folds: of the cross-validation, at most the number of items of the smallest suite.
        permutations: of the units of each t-map, for the null of Moran's I.
        rng: of the assignment of items to folds, and of the permutations.

    Returns:
        A table, index (suite, sheet), with n (sentences), significant_share (of units, p_FDR < 0.05), moran (of the
        t-map, on the torus), moran_p (against permuted units) and accuracy (of a logistic regression on held-out items,
        averaged over sentences); and the selectivity maps by (suite, sheet).

    Raises:
        ValueError: a suite has fewer items than folds.

    Source: sheet 2.10.
    """
    rows, maps = {}, {}
    for suite in suites:
        seed = int(rng.integers(2**31))
        for sheet, activations in encode(suite.sentences).items():
            found = maps[suite.name, sheet] = selectivity_map(activations, suite.labels)
            moran = float(morans_i(found.t))
            null = morans_null(found.t, permutations=permutations, rng=np.random.default_rng(seed))
            rows[suite.name, sheet] = {
                "n": len(suite.sentences),
                "significant_share": float(found.significant.mean()),
                "moran": moran,
                "moran_p": permutation_p_value(moran, null),
                "accuracy": decoding_accuracy(activations, suite, folds=folds, seed=seed),
            }
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.rename_axis(index=["suite", "sheet"]), maps


def decoding_accuracy(activations: Float[np.ndarray, "N D"], suite: TestSuite, *, folds: int, seed: int) -> float:
    """Return the share of sentences whose group a logistic regression names that has not seen their item.

    Units are standardised on the training sentences. Every sentence is held out once.

    Raises:
        ValueError: there are fewer items than folds.
    """
    num_items = len(np.unique(suite.groups))
    if not 2 <= folds <= num_items:
        raise ValueError(f"folds: got {folds} for the {num_items} items of {suite.name}, expected 2 to {num_items}")
    correct = np.zeros(len(suite.labels), dtype=bool)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for train, test in splitter.split(activations, suite.labels, suite.groups):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
        model.fit(activations[train], suite.labels[train])
        correct[test] = model.predict(activations[test]) == suite.labels[test]
    return float(correct.mean())


def _words(
    rows: Sequence[Row], text: str, column: str, labels: Mapping[str, int], source: str
) -> list[tuple[str, int, object, str]]:
    """Rows whose category has a label; each is an item of its own."""
    return [
        (row[text], labels[row[column]], number, source) for number, row in enumerate(rows) if row[column] in labels
    ]


def _acceptability(*, find: Find) -> list[tuple[str, int, object, str]]:
    """Plausible against implausible, active voice: the animate-inanimate trials of EventsAdapt, and DTFit."""
    events = [
        row
        for row in read_table("suites_EventsAdapt_sentences.csv", find=find)
        if row["TrialType"] == "AI" and row["Voice"] == "active"
    ]
    joined = _joined_items(events)
    found: list[tuple[str, int, object, str]] = []
    for row in events:
        label = int(row["Plausibility"] == "Plausible")
        found.append((row["Sentence"], label, ("events", joined[row["ItemNum"]]), "EventsAdapt"))
    for row in read_table("suites_DTFit_sentences.csv", find=find):
        if row["Voice"] == "active":
            label = int(row["Plausibility"] == "Plausible")
            found.append((row["Sentence"], label, ("dtfit", row["ItemNum"]), "DTFit"))
    return found


def _joined_items(rows: Sequence[Row]) -> dict[str, str]:
    """Give items that share a synonym pair one name: its two versions say the same in other words."""
    name = {row["ItemNum"]: row["ItemNum"] for row in rows}
    items_of_pair = defaultdict(list)
    for row in rows:
        if row["SynonymPair"] != "NA":
            items_of_pair[row["SynonymPair"]].append(row["ItemNum"])
    for items in items_of_pair.values():
        for old in {name[item] for item in items}:
            for item, current in name.items():
                if current == old:
                    name[item] = name[items[0]]
    return name


def _syntaxgym(file: str, label_of: Callable[[str], int | None], *, find: Find) -> list[tuple[str, int, object, str]]:
    """Sentences of the conditions with a label; the item number is the item, in every file."""
    regions: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for row in read_table(f"syntaxgym/{file}.csv", find=find):
        regions[row["item_number"], row["condition_name"]].append((int(row["region_number"]), row["content"]))
    found: list[tuple[str, int, object, str]] = []
    for (item, condition), parts in regions.items():
        label = label_of(condition)
        if label is not None:
            found.append((join_regions(content for _, content in sorted(parts)), label, int(item), file))
    return found


def join_regions(contents: Iterable[str]) -> str:
    """Join the regions of a sentence with blanks: empty ones skipped, blanks collapsed, none before punctuation.

    Source: sheet 2.10. Example: ["As the criminal", " shot", "", ", the woman"] gives
    "As the criminal shot, the woman".
    """
    joined = " ".join(" ".join(contents).split())
    return re.sub(r"\s+([.,;:!?])", r"\1", joined)


def _matches(condition: str) -> int | None:
    return {"match": 1, "mismatch": 0}.get(condition.split("_")[0])


def _negative_licensor(condition: str) -> int | None:
    """The licensor comes first in the name of a condition: neg_pos, neg_neg are grammatical."""
    return {"neg": 1, "pos": 0}.get(condition.split("_")[0])
