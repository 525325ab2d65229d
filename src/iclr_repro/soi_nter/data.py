"""The shipped multi-label sets and horse images, and generated ones to stand in for them (sheet 9)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from iclr_repro.core.data import locate
from iclr_repro.soi_nter.arff import read_arff

Find = Callable[[str], Path]

MULTILABEL = {
    "emotions": (72, 6),
    "yeast": (103, 14),
    "cal500": (68, 174),
    "medical": (1449, 45),
    "enron": (1001, 53),
    "bibtex": (1836, 159),
    "flags": (19, 7),
}
"""Features and labels of the shipped sets by name."""
_SPLIT_SEED = 0  # of the one set that comes without a split
_TRAIN_SHARE = 0.7
_WORDS_A_TOPIC = 8


@dataclass(frozen=True, eq=False)
class MultiLabelData:
    """Inputs with several binary labels each; the first rows are for training.

    Attributes:
        x: [n, d] float32.
        y: [n, m] zeros and ones, uint8.
        feature_names: d names.
        label_names: m names.
        n_train: rows for training.
    """

    x: np.ndarray
    y: np.ndarray
    feature_names: tuple[str, ...]
    label_names: tuple[str, ...]
    n_train: int

    def standardised(self) -> np.ndarray:
        """Return the inputs with mean 0 and deviation 1 on the training rows; a constant feature becomes 0."""
        train = self.x[: self.n_train].astype(np.float64)
        mean, deviation = train.mean(axis=0), train.std(axis=0)
        centred = self.x - mean
        return np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0).astype(np.float32)

    def frequent_labels(self, num: int) -> list[int]:
        """Return the labels with the most training rows, most frequent first; equals in their order."""
        return np.argsort(-self.y[: self.n_train].sum(axis=0, dtype=np.int64), kind="stable")[:num].tolist()


@dataclass(frozen=True, eq=False)
class Horses:
    """Images [num, 32, 32, 3] uint8 and masks [num, 32, 32] of horses, for training, validation and testing."""

    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def load_multilabel(name: str, *, find: Find = locate) -> MultiLabelData:
    """Load a shipped set by name: emotions, yeast, cal500, medical, enron, bibtex or flags.

    The published split is kept; cal500 has none and gets a fixed random one of 70 to 30.

    Raises:
        ValueError: an unknown name.
        DataError: the file is missing or damaged.
    """
    if name not in MULTILABEL:
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(MULTILABEL)}")
    with np.load(find(f"soi_nter/{name}.npz"), allow_pickle=False) as archive:
        y, n_train = archive["Y"], int(archive["n_train"])
        if "X" in archive:
            x = archive["X"]
        else:
            indptr = archive["X_indptr"]
            x = np.zeros(archive["X_shape"], dtype=np.float32)
            x[np.repeat(np.arange(len(x)), np.diff(indptr)), archive["X_indices"]] = 1.0
        names = tuple(archive["feature_names"].tolist()), tuple(archive["label_names"].tolist())
    if n_train == 0:
        order = np.random.default_rng(_SPLIT_SEED).permutation(len(x))
        x, y, n_train = x[order], y[order], round(_TRAIN_SHARE * len(x))
    return MultiLabelData(x, y, *names, n_train)


def load_arff(train: Path, xml: Path, test: Path | None = None) -> MultiLabelData:
    """Load files in Mulan's form; see `read_arff`.

    Raises:
        DataError: a file cannot be read.
    """
    parts = [read_arff(path, xml) for path in (train, test) if path is not None]
    x, y = (np.concatenate([part[index] for part in parts]) for index in (0, 1))
    return MultiLabelData(x, y, parts[0][2], parts[0][3], len(parts[0][0]))


def load_horses(*, find: Find = locate) -> Horses:
    """Load the Weizmann horses at 32 x 32: 160 images for training, 40 for validation, 128 for testing.

    Raises:
        DataError: the file is missing or damaged.
    """
    with np.load(find("soi_nter/weizmann_horses_32.npz"), allow_pickle=False) as archive:
        return Horses(*((archive[f"images_{part}"], archive[f"masks_{part}"]) for part in ("train", "val", "test")))


def synthetic_multilabel(num: int, num_features: int, num_labels: int, *, rng: np.random.Generator) -> MultiLabelData:
    """Make words and topics: words with P = 0.05, the 8 words of a topic that is on with P = 0.4.

    Topics are a chain: P(on | previous on) = 0.7, P(on | previous off) = 0.15. 70 % of the rows are for training.

    Raises:
        ValueError: too few features for the topics' words.

    Source: sheet 9.
    """
    if num_features < _WORDS_A_TOPIC * num_labels:
        raise ValueError(f"num_features: got {num_features}, expected >= {_WORDS_A_TOPIC} a label")
    y = np.zeros((num, num_labels), dtype=np.uint8)
    previous = np.zeros(num, dtype=np.uint8)
    for label in range(num_labels):
        previous = (rng.random(num) < np.where(previous, 0.7, 0.15)).astype(np.uint8)
        y[:, label] = previous
    chance = np.full((num, num_features), 0.05)
    chance[:, : _WORDS_A_TOPIC * num_labels] += 0.35 * np.repeat(y, _WORDS_A_TOPIC, axis=1)
    x = (rng.random(chance.shape) < chance).astype(np.float32)
    names = tuple(f"w{index}" for index in range(num_features)), tuple(f"topic{index}" for index in range(num_labels))
    return MultiLabelData(x, y, *names, round(_TRAIN_SHARE * num))


def synthetic_horses(num: int, *, rng: np.random.Generator) -> Horses:
    """Make images of a dark ellipse on a bright ground with noise, and its mask; `num` in each part."""

    def part() -> tuple[np.ndarray, np.ndarray]:
        rows, columns = np.mgrid[:32, :32]
        centre, radii = rng.uniform(12, 20, (2, num, 1, 1)), rng.uniform(5, 10, (2, num, 1, 1))
        masks = ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 < 1
        images = np.where(masks[..., None], 80.0, 180.0) + rng.normal(0, 30, (num, 32, 32, 3))
        return images.clip(0, 255).astype(np.uint8), masks.astype(np.uint8)

    return Horses(part(), part(), part())
