"""Alignment of two sheets of measurements by PLS-SVD, cross-validated without leakage (sheet 2.11).

Shape letters: N = examples, D = model units, V = voxels, K = components, F = folds, R = permutations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int


@dataclass(frozen=True, eq=False)
class PLSAlignment:
    """Components that covary, and how they correlate on examples that they were not fitted to.

    Attributes:
        r: [K] correlation of the two scores on held-out examples, averaged over folds.
        r_by_fold: [F, K].
        model_maps: [K, D] weights U of the fit to all examples; the largest model weight of each is positive.
        voxel_maps: [K, V] weights V of the same fit.
        singular_values: [K] covariances of the scores in that fit.
        singular_values_by_fold: [F, min(D, V)], of the training examples of each fold.
    """

    r: Float64[np.ndarray, " K"]
    r_by_fold: Float64[np.ndarray, "F K"]
    model_maps: Float64[np.ndarray, "K D"]
    voxel_maps: Float64[np.ndarray, "K V"]
    singular_values: Float64[np.ndarray, " K"]
    singular_values_by_fold: Float64[np.ndarray, "F L"]


def pls_svd(
    model: Float[np.ndarray, "N D"],
    voxels: Float[np.ndarray, "M V"],  # M = N, checked below with a message that says more
    *,
    num_components: int,
    folds: int | Int[np.ndarray, " N"],
) -> PLSAlignment:
    """Align two domains: C = A^T B / (n - 1) = U diag(sigma) V^T, A and B z-scored; scores A U and B V.

    In each fold means, scales (n - 1 in the denominator) and weights come from the training examples alone; r is the
    correlation of the scores of the held-out ones. r does not depend on where units or voxels lie: only the smoothness
    of the maps does.

    Args:
        model: activations of a sheet.
        voxels: responses to the same examples.
        num_components: K.
        folds: F, and example i is then held out in fold i % F; or the fold of each example.

    Raises:
        ValueError: the numbers of examples differ, fewer than 2 folds, more components than there are, a column that is
            constant in the training examples of a fold, or a fold with fewer than 3 examples.

    Source: sheet 2.11.
    """
    model, voxels = np.asarray(model, dtype=np.float64), np.asarray(voxels, dtype=np.float64)
    fold_N = _fold_of_examples(model, voxels, num_components, folds)
    numbers = np.unique(fold_N)
    r_FK, singular_FL = [], []
    for number in numbers:
        held_out_N = fold_N == number
        (a_train, a_test), (b_train, b_test) = (
            _z_scored(domain, held_out_N, name) for domain, name in ((model, "model"), (voxels, "voxels"))
        )
        left, singular, right = np.linalg.svd(a_train.T @ b_train / (len(a_train) - 1), full_matrices=False)
        r_FK.append(_correlations(a_test @ left[:, :num_components], b_test @ right[:num_components].T))
        singular_FL.append(singular)
    everything = np.zeros(len(model), dtype=bool)
    a_all, b_all = _z_scored(model, everything, "model")[0], _z_scored(voxels, everything, "voxels")[0]
    left, singular, right = np.linalg.svd(a_all.T @ b_all / (len(model) - 1), full_matrices=False)
    model_maps, voxel_maps = left.T[:num_components], right[:num_components]
    signs = np.sign(model_maps[np.arange(num_components), np.abs(model_maps).argmax(axis=1)])[:, None]
    return PLSAlignment(
        r=np.mean(r_FK, axis=0),
        r_by_fold=np.array(r_FK),
        model_maps=model_maps * signs,
        voxel_maps=voxel_maps * signs,
        singular_values=singular[:num_components],
        singular_values_by_fold=np.array(singular_FL),
    )


def pls_null(
    model: Float[np.ndarray, "N D"],
    voxels: Float[np.ndarray, "M V"],
    *,
    num_components: int,
    folds: int | Int[np.ndarray, " N"],
    permutations: int,
    rng: np.random.Generator,
) -> Float64[np.ndarray, "R K"]:
    """Return r with the examples of the voxels shuffled, in training and test alike, one row a permutation.

    Raises:
        ValueError: see `pls_svd`.
    """
    fold_N = _fold_of_examples(model, voxels, num_components, folds)
    splits = []
    for number in np.unique(fold_N):
        held_out_N = fold_N == number
        splits.append((held_out_N, *_z_scored(np.asarray(model, dtype=np.float64), held_out_N, "model")))
    r_RK = np.empty((permutations, num_components))
    for row in range(permutations):
        shuffled = np.asarray(voxels, dtype=np.float64)[rng.permutation(len(voxels))]
        r_FK = []
        for held_out_N, a_train, a_test in splits:
            b_train, b_test = _z_scored(shuffled, held_out_N, "voxels")
            left, right = _leading(a_train.T @ b_train, num_components)
            r_FK.append(_correlations(a_test @ left, b_test @ right))
        r_RK[row] = np.mean(r_FK, axis=0)
    return r_RK


def _leading(covariance_DV: np.ndarray, num_components: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the leading singular vectors from the smaller Gram matrix: three times as fast as all of them.

    Their relative precision is the root of the machine's, plenty for a null distribution.
    """
    if covariance_DV.shape[0] > covariance_DV.shape[1]:
        right, left = _leading(covariance_DV.T, num_components)
        return left, right
    left = np.linalg.eigh(covariance_DV @ covariance_DV.T)[1][:, : -num_components - 1 : -1]
    return left, covariance_DV.T @ left


def _z_scored(values: np.ndarray, held_out_N: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    train, test = values[~held_out_N], values[held_out_N]
    mean, deviation = train.mean(axis=0), train.std(axis=0, ddof=1)
    if constant := np.flatnonzero(deviation == 0.0).tolist():
        raise ValueError(f"{name}: columns {constant[:10]} are constant in the training examples: leave them out")
    return (train - mean) / deviation, (test - mean) / deviation


def _correlations(a_NK: np.ndarray, b_NK: np.ndarray) -> np.ndarray:
    a_NK, b_NK = a_NK - a_NK.mean(axis=0), b_NK - b_NK.mean(axis=0)
    return np.asarray((a_NK * b_NK).sum(axis=0) / (np.linalg.norm(a_NK, axis=0) * np.linalg.norm(b_NK, axis=0)))


def _fold_of_examples(
    model: np.ndarray, voxels: np.ndarray, num_components: int, folds: int | np.ndarray
) -> np.ndarray:
    if len(model) != len(voxels):
        raise ValueError(f"model has {len(model)} examples and voxels {len(voxels)}: expected the same sentences")
    most = min(model.shape[1], voxels.shape[1])
    if not 1 <= num_components <= most:
        raise ValueError(f"num_components: got {num_components}, expected 1 to {most} (units and voxels)")
    fold_N = np.arange(len(model)) % folds if isinstance(folds, int) else np.asarray(folds)
    numbers, sizes = np.unique(fold_N, return_counts=True)
    if fold_N.shape != (len(model),) or len(numbers) < 2 or sizes.min() < 3:
        raise ValueError(
            f"folds: got {len(numbers)} folds of {sizes.min()} or more of {len(model)} examples, expected at least 2"
            " folds of at least 3 examples, or the fold of each example"
        )
    return fold_N
