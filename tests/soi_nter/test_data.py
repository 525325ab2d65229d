"""Loaders: the shipped files against the originals, and files made for the purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from iclr_repro.core.data import DataError, is_present, locate
from iclr_repro.soi_nter.arff import read_arff
from iclr_repro.soi_nter.data import MULTILABEL, load_arff, load_horses, load_multilabel, synthetic_multilabel

SHAPES = {  # rows, features, labels, training rows; sheet 9
    "emotions": (593, 72, 6, 391),
    "yeast": (2417, 103, 14, 1500),
    "cal500": (502, 68, 174, 351),
    "medical": (978, 1449, 45, 333),
    "enron": (1702, 1001, 53, 1123),
    "bibtex": (7395, 1836, 159, 4880),
    "flags": (194, 19, 7, 129),
}
LABELS_A_ROW = {
    "emotions": 1.87,
    "yeast": 4.24,
    "cal500": 26.0,
    "medical": 1.25,
    "enron": 3.38,
    "bibtex": 2.40,
    "flags": 3.39,
}


def needs(name: str) -> None:
    if not is_present(f"soi_nter/{name}"):
        pytest.skip(f"no {name} (ICLR_REPRO_DATA)")


@pytest.mark.parametrize("name", MULTILABEL)
def test_shapes_of_the_shipped_sets(name: str) -> None:
    needs(f"{name}.npz")
    data = load_multilabel(name)
    assert (*data.x.shape, data.y.shape[1], data.n_train) == SHAPES[name]
    assert len(data.y) == len(data.x)
    assert data.y.sum(axis=1).mean() == pytest.approx(LABELS_A_ROW[name], abs=0.06)
    assert len(data.feature_names) == data.x.shape[1]
    assert len(data.label_names) == data.y.shape[1]


def test_dense_original_gives_the_shipped_arrays() -> None:
    for name in ("emotions-train.arff.gz", "emotions-test.arff.gz", "emotions.xml.gz", "emotions.npz"):
        needs(name)
    files = (locate(f"soi_nter/emotions{part}.gz") for part in ("-train.arff", ".xml", "-test.arff"))
    ours, shipped = load_arff(*files), load_multilabel("emotions")
    np.testing.assert_array_equal(ours.x, shipped.x)
    np.testing.assert_array_equal(ours.y, shipped.y)
    assert (ours.feature_names, ours.label_names, ours.n_train) == (
        shipped.feature_names,
        shipped.label_names,
        shipped.n_train,
    )


def test_sparse_original_gives_the_shipped_arrays() -> None:
    for name in ("medical-train.arff.gz", "medical.xml.gz", "medical.npz"):
        needs(name)
    ours = load_arff(locate("soi_nter/medical-train.arff.gz"), locate("soi_nter/medical.xml.gz"))
    shipped = load_multilabel("medical")
    np.testing.assert_array_equal(ours.x, shipped.x[: shipped.n_train])
    order = [shipped.label_names.index(name) for name in ours.label_names]
    np.testing.assert_array_equal(ours.y, shipped.y[: shipped.n_train, order])


def test_horses() -> None:
    needs("weizmann_horses_32.npz")
    horses = load_horses()
    parts = (horses.train, horses.validation, horses.test)
    assert [len(images) for images, _ in parts] == [160, 40, 128]
    assert all(images.shape[1:] == (32, 32, 3) and masks.shape[1:] == (32, 32) for images, masks in parts)
    assert np.concatenate([masks for _, masks in parts]).mean() == pytest.approx(0.277, abs=5e-4)


XML = '<labels xmlns="http://mulan.sourceforge.net/labels"><label name="b, c"/><label name="it\'s"/></labels>'


def written(folder: Path, body: str) -> tuple[Path, Path]:
    (folder / "a.arff").write_text(body)
    (folder / "a.xml").write_text(XML)
    return folder / "a.arff", folder / "a.xml"


HEAD = """% a comment
@RELATION r
@attribute 'b, c' {0,1}
@attribute x numeric
@ATTRIBUTE "it's" {0,1}
@attribute colour {red, 'dark blue'}
@data
"""


@pytest.mark.parametrize(
    "rows", ["1,0.5,0,'dark blue'\n% between\n0,-2,1,red\n", "{0 1,1 0.5,3 'dark blue'}\n{1 -2, 2 1}\n"]
)
def test_quoted_names_and_label_columns_anywhere(tmp_path: Path, rows: str) -> None:
    x, y, features, labels = read_arff(*written(tmp_path, HEAD + rows))
    np.testing.assert_array_equal(x, [[0.5, 1.0], [-2.0, 0.0]])
    np.testing.assert_array_equal(y, [[1, 0], [0, 1]])
    assert (features, labels) == (("x", "colour"), ("b, c", "it's"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (HEAD + "1,0.5,0\n", "got 3 values, expected 4"),
        (HEAD + "1,?,0,red\n", "cannot read it"),
        (HEAD + "1,2,0,green\n", "cannot read it"),
        (HEAD + "{9 1}\n", "cannot read it"),
        (HEAD.replace("@data\n", ""), "no @data"),
        (HEAD.replace("x numeric", "x string") + "1,2,0,red\n", "not supported"),
        (HEAD.replace("it's", "its") + "1,2,0,red\n", "are no attributes"),
        (HEAD.replace('"it\'s" {0,1}', '"it\'s" {0,1,2}') + "1,2,2,red\n", "a label is 2"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_arff(*written(tmp_path, body))


def test_standardised_on_training_rows_with_constant_features_at_zero() -> None:
    data = synthetic_multilabel(300, 40, 4, rng=np.random.default_rng(0))
    data.x[:, 39] = 1.0
    train = data.standardised()[: data.n_train]
    np.testing.assert_allclose(train.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(train.std(axis=0)[:39], 1.0, atol=1e-4)
    assert (train[:, 39] == 0.0).all()


def test_labels_of_the_stand_in_are_a_chain() -> None:
    y = synthetic_multilabel(20_000, 32, 4, rng=np.random.default_rng(0)).y
    assert y[y[:, 0] == 1, 1].mean() == pytest.approx(0.7, abs=0.03)
    assert y[y[:, 0] == 0, 1].mean() == pytest.approx(0.15, abs=0.02)


def test_unknown_set_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of emotions"):
        load_multilabel("delicious")
