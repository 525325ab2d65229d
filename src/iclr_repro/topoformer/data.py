"""The shipped texts, responses and stimuli, and generated ones to stand in for them (sheet 7)."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pandas as pd

from iclr_repro.core.data import DataError, locate

Find = Callable[[str], Path]

RT_TEST_SIZE = 1600
ROIS = ("lang_LH_AntTemp", "lang_LH_IFG", "lang_LH_IFGorb", "lang_LH_MFG", "lang_LH_PostTemp")
_SPLIT_SEED = 0  # of the fixed permutations: of the test set of Rotten Tomatoes, and of the splits of other sources


@dataclass(frozen=True, eq=False)
class LabelledTexts:
    """Texts with labels (1 = positive), split into training and test."""

    train_texts: tuple[str, ...]
    train_labels: np.ndarray
    test_texts: tuple[str, ...]
    test_labels: np.ndarray

    @classmethod
    def from_rows(cls, texts: list[str], labels: np.ndarray, *, order: np.ndarray, test_size: int) -> LabelledTexts:
        """Take the first `test_size` of an order of the rows as test set, the others for training."""
        test, train = order[:test_size], order[test_size:]
        return cls(tuple(texts[row] for row in train), labels[train], tuple(texts[row] for row in test), labels[test])


def load_rotten_tomatoes(*, find: Find = locate) -> LabelledTexts:
    """Load 10,662 sentences of film reviews: 1,600 for testing by a fixed permutation, 9,062 for training.

    Raises:
        DataError: the file is missing or damaged.
    """
    rows = _gzipped_rows(find("topoformer/rt_polarity.tsv.gz"))[1:]
    texts, labels = [row[1] for row in rows], np.array([int(row[0]) for row in rows])
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(rows))
    return LabelledTexts.from_rows(texts, labels, order=order, test_size=RT_TEST_SIZE)


def load_imdb(*, find: Find = locate) -> LabelledTexts:
    """Load the shipped subset of IMDB: 5,000 reviews for training, 2,500 for testing, balanced.

    Raises:
        DataError: a file is missing or damaged.
    """
    parts = []
    for part in ("train", "test"):
        rows = _gzipped_rows(find(f"topoformer/imdb_{part}.tsv.gz"))[1:]
        parts.append((tuple(row[3] for row in rows), np.array([int(row[1]) for row in rows])))
    return LabelledTexts(*parts[0], *parts[1])


def load_sst2(*, find: Find = locate) -> LabelledTexts:
    """Load the sentences of SST-2: 6,920 for training, 1,821 for testing.

    Raises:
        DataError: a file is missing or damaged.
    """
    parts = []
    for part in ("train", "test"):
        rows = _gzipped_rows(find(f"topoformer/sst2_{part}.tsv.gz"))
        parts.append((tuple(row[0] for row in rows), np.array([int(row[1]) for row in rows])))
    return LabelledTexts(*parts[0], *parts[1])


def load_splits(source: str) -> LabelledTexts:
    """Load the splits "train" and "test", with fields "text" and "label", of a `datasets` name or folder.

    IMDB comes sorted by label. Here rows are in a fixed random order in which labels alternate, so that any number of
    first ones is balanced: 500 + 500 test texts for the statistics (sheet 2.8), three quarters for training (4.1).
    """
    parts = []
    for part in ("train", "test"):
        rows = datasets.load_dataset(source, split=part)
        texts, labels = list(rows["text"]), np.array(rows["label"])
        order = alternating_order(labels, rng=np.random.default_rng(_SPLIT_SEED))
        parts.append((tuple(texts[row] for row in order), labels[order]))
    return LabelledTexts(*parts[0], *parts[1])


def alternating_order(labels: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Return a random order of rows in which the labels take turns while there are some of each.

    Example: of the labels [0, 0, 0, 1, 1] it could be rows [3, 0, 1, 4, 2].
    """
    order = rng.permutation(len(labels))
    shuffled = labels[order]
    turn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        turn[shuffled == label] = np.arange((labels == label).sum())
    return order[np.argsort(turn, kind="stable")]


def load_roi_responses(*, find: Find = locate) -> tuple[list[str], np.ndarray]:
    """Load 1,000 sentences and the responses [1000, 5] of five left-hemisphere language regions, z-scored BOLD.

    Averages over the participants; there are no voxels, hence no map of the cortex (sheet 2.11).

    Raises:
        DataError: the file is missing or damaged.
    """
    table = pd.read_csv(find("topoformer/tuckute2024_lang_lh_roi_1000.csv"))
    return table["sentence"].tolist(), table[list(ROIS)].to_numpy(dtype=np.float64)


def read_table(name: str, *, find: Find = locate) -> list[dict[str, str]]:
    """Read a shipped csv file of stimuli as rows of named fields.

    Raises:
        DataError: the file is missing or damaged.
    """
    with find(f"topoformer/{name}").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def synthetic_sentiment(num_train: int, num_test: int, *, rng: np.random.Generator) -> LabelledTexts:
    """Make sentences of 12 draws from 200 words, two of which are of the label's 20 positive or 20 negative words.

    Source: sheet 7.
    """
    labels = rng.permuted(np.arange(num_train + num_test) % 2)
    words = rng.integers(40, 200, size=(len(labels), 12))
    places = np.argsort(rng.random(words.shape), axis=1)[:, :2]
    np.put_along_axis(words, places, rng.integers(20, size=places.shape) + 20 * labels[:, None], axis=1)
    texts = [" ".join(f"w{word}" for word in row) for row in words]
    return LabelledTexts.from_rows(texts, labels, order=np.arange(len(texts)), test_size=num_test)


def _gzipped_rows(path: Path) -> list[list[str]]:
    """Read tab-separated rows, lines ended by a newline alone (pitfall P12)."""
    text = gzip.decompress(path.read_bytes()).decode("utf-8")
    rows = [line.split("\t") for line in text.rstrip("\n").split("\n")]
    width = len(rows[0])
    for number, row in enumerate(rows, start=1):
        if len(row) != width:
            raise DataError(f"{path}, line {number}: got {len(row)} fields, expected {width} as in the first line")
    return rows
