from __future__ import annotations

import re

import numpy as np
import pytest

from iclr_repro.topoformer.pls import pls_null, pls_svd

RNG = np.random.default_rng(0)
Z = RNG.normal(size=(60, 2))
X = Z @ RNG.normal(size=(2, 9)) + 0.5 * RNG.normal(size=(60, 9))
Y = Z @ RNG.normal(size=(2, 16)) + 0.5 * RNG.normal(size=(60, 16))


def test_training_covariance_of_the_scores_is_the_singular_values() -> None:
    found = pls_svd(X, Y, num_components=9, folds=5)
    z = [(v - v.mean(axis=0)) / v.std(axis=0, ddof=1) for v in (X, Y)]
    scores = z[0] @ found.model_maps.T, z[1] @ found.voxel_maps.T
    covariance = scores[0].T @ scores[1] / 59
    np.testing.assert_allclose(np.diag(covariance), found.singular_values, atol=1e-12)


def test_alignment_does_not_depend_on_places() -> None:
    found = pls_svd(X, Y, num_components=3, folds=5)
    moved = pls_svd(X[:, ::-1], Y[:, RNG.permutation(16)], num_components=3, folds=5)
    np.testing.assert_allclose(moved.r, found.r, atol=1e-10)
    np.testing.assert_allclose(np.abs(moved.model_maps[0]), np.abs(found.model_maps[0][::-1]), atol=1e-10)


def test_held_out_examples_do_not_leak() -> None:
    other = Y.copy()
    other[::5] = RNG.normal(size=other[::5].shape) * 100
    assert (
        pls_svd(X, other, num_components=2, folds=5).singular_values_by_fold[0]
        == pls_svd(X, Y, num_components=2, folds=5).singular_values_by_fold[0]
    ).all()


def test_shared_latents_are_found_beyond_the_null() -> None:
    found = pls_svd(X, Y, num_components=2, folds=5)
    null = pls_null(X, Y, num_components=2, folds=5, permutations=60, rng=np.random.default_rng(0))
    assert null.shape == (60, 2)
    assert found.r[0] > 0.8 > np.quantile(null[:, 0], 0.95)
    assert abs(null[:, 0].mean()) < 0.1


def test_the_null_without_shuffling_is_the_alignment() -> None:
    class NoShuffle(np.random.Generator):
        def permutation(self, x: int) -> np.ndarray:  # type: ignore[override]
            return np.arange(x)

    for x, y in ((X, Y), (Y, X)):
        rng = NoShuffle(np.random.PCG64(0))
        found = pls_null(x, y, num_components=2, folds=5, permutations=1, rng=rng)
        np.testing.assert_allclose(found[0], pls_svd(x, y, num_components=2, folds=5).r, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_components": 10, "folds": 5}, "num_components: got 10, expected 1 to 9 (units and voxels)"),
        ({"num_components": 1, "folds": 1}, "folds: got 1 folds of 60 or more of 60 examples"),
        ({"num_components": 1, "folds": 40}, "folds: got 40 folds of 1 or more"),
    ],
)
def test_bad_numbers_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        pls_svd(X, Y, **options)


def test_bad_data_are_refused() -> None:
    with pytest.raises(ValueError, match="model has 60 examples and voxels 59: expected the same sentences"):
        pls_svd(X, Y[1:], num_components=1, folds=5)
    constant = X.copy()
    constant[:, 4] = 1.0
    with pytest.raises(ValueError, match=r"model: columns \[4\] are constant in the training examples"):
        pls_svd(constant, Y, num_components=1, folds=5)
