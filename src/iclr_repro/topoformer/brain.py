"""A sheet as fMRI would see it: smoothing, localiser, clusters; and generated voxels with known shared components.

Shape letters: N = sentences, D = units, V = voxels, K = latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.ndimage
import scipy.stats
from jaxtyping import Bool, Float, Float64, Int64

from iclr_repro.topoformer.sheet import sheet_side, squared_distances

_SMALLEST_CLUSTER = 10  # units (sheet 2.14)


def fmri_smoothing(
    activations: Float[np.ndarray, "N D"], *, fwhm: float = 2.0, spacing: float = 1.0
) -> Float64[np.ndarray, "N D"]:
    """Return what one voxel a unit would measure: sum_u a_u exp(-|x_u - g|^2 / (2 sigma^2)) / (2 pi sigma^2).

    sigma = FWHM / sqrt(8 ln 2). The sheet has borders, at which nothing is renormalised. Smooth activations before
    contrasts, not the maps after them.

    Args:
        activations: of a sheet.
        fwhm: full width at half maximum, in mm.
        spacing: between neighbouring units, in mm.

    Raises:
        ValueError: D is no perfect square, or a width is not positive.

    Source: sheet 2.14.
    """
    if not (fwhm > 0 and spacing > 0):
        raise ValueError(f"fwhm and spacing: got {fwhm} and {spacing}, expected lengths > 0 in mm")
    sigma = fwhm / np.sqrt(8 * np.log(2))
    squared_mm_DD = squared_distances(activations.shape[1], wrap=False) * spacing**2
    kernel_DD = np.exp(-squared_mm_DD / (2 * sigma**2)) / (2 * np.pi * sigma**2)
    return np.asarray(activations, dtype=np.float64) @ kernel_DD


@dataclass(frozen=True, eq=False)
class Localiser:
    """Units that respond more to sentences than to strings of non-words, by layer.

    Attributes:
        t: name of the layer -> [D] Welch's t, sentences minus non-words.
        selective: name -> [D] p_FDR < 0.05, over all units of all layers, and t > 0.
    """

    t: dict[str, Float64[np.ndarray, " D"]]
    selective: dict[str, Bool[np.ndarray, " D"]]


def localise(
    sentences: Mapping[str, Float[np.ndarray, "N D"]], nonwords: Mapping[str, Float[np.ndarray, "M D"]]
) -> Localiser:
    """Find language-selective units: Welch's t-test a unit, Benjamini and Hochberg's correction over all layers.

    A unit that is constant in both conditions has t = 0 and p = 1.

    Args:
        sentences: name of the layer -> activations for sentences.
        nonwords: the same layers for strings of non-words.

    Raises:
        ValueError: the layers differ.

    Source: sheet 2.14.
    """
    if sentences.keys() != nonwords.keys():
        raise ValueError(f"layers: {sorted(sentences)} for sentences, {sorted(nonwords)} for non-words: give the same")
    t, p = {}, {}
    for layer, a_ND in sentences.items():
        b_ND = nonwords[layer]
        varies_D = (np.ptp(a_ND, axis=0) > 0) | (np.ptp(b_ND, axis=0) > 0)
        t[layer], p[layer] = np.zeros(a_ND.shape[1]), np.ones(a_ND.shape[1])
        test = scipy.stats.ttest_ind(a_ND[:, varies_D], b_ND[:, varies_D], equal_var=False)
        t[layer][varies_D], p[layer][varies_D] = test.statistic, test.pvalue
    corrected = scipy.stats.false_discovery_control(np.concatenate(list(p.values())))
    ends = np.cumsum([len(values) for values in p.values()])[:-1]
    significant = dict(zip(p, np.split(corrected < 0.05, ends), strict=True))
    return Localiser(t=t, selective={layer: significant[layer] & (t[layer] > 0) for layer in t})


def selective_clusters(
    t: Float[np.ndarray, " D"], selective: Bool[np.ndarray, " D"], *, smallest: int = _SMALLEST_CLUSTER
) -> Int64[np.ndarray, " D"]:
    """Return the cluster of each unit, 1 for that with the largest t, 2, ...; 0: none.

    Growing from the best unit by its best selective neighbours ends with all that are joined to it, so that clusters
    are the connected sets of selective units (eight neighbours, sheet with borders) of at least `smallest` units.

    Source: sheet 2.14.
    """
    side = sheet_side(len(t))
    labels, number = scipy.ndimage.label(selective.reshape(side, side), structure=np.ones((3, 3)))
    flat = labels.reshape(-1)
    kept = [label for label in range(1, number + 1) if (flat == label).sum() >= smallest]
    kept.sort(key=lambda label: -t[flat == label].max())
    clusters = np.zeros(len(t), dtype=np.int64)
    for rank, label in enumerate(kept, start=1):
        clusters[flat == label] = rank
    return clusters


def response_profile(
    activations: Mapping[str, Float[np.ndarray, "N D"]], selective: Bool[np.ndarray, " D"]
) -> dict[str, float]:
    """Return the mean |activation| of the selective units for each condition (S, W, J, N).

    Raises:
        ValueError: no unit is selective.
    """
    if not selective.any():
        raise ValueError("no unit is selective, so that there is no response to average")
    return {condition: float(np.abs(values[:, selective]).mean()) for condition, values in activations.items()}


def smooth_fields(
    num_fields: int, num_units: int, *, sigma: float, rng: np.random.Generator
) -> Float64[np.ndarray, "K D"]:
    """Draw smooth random maps: white noise times exp(-2 (pi sigma |f|)^2) in Fourier space, scaled to deviation 1.

    Args:
        num_fields: K.
        num_units: D, a perfect square.
        sigma: in units of the grid; f is in cycles a unit.
        rng: of the noise.

    Source: sheet 7.
    """
    side = sheet_side(num_units)
    frequency = np.fft.fftfreq(side)
    transfer = np.exp(-2 * (np.pi * sigma) ** 2 * (frequency[:, None] ** 2 + frequency**2))
    noise = rng.standard_normal((num_fields, side, side))
    fields = np.fft.ifft2(np.fft.fft2(noise) * transfer).real.reshape(num_fields, num_units)
    return fields / fields.std(axis=1, keepdims=True)


@dataclass(frozen=True, eq=False)
class SyntheticSheets:
    """Generated responses to the same N sentences.

    Attributes:
        topographic: [N, D] model sheet whose latents have smooth maps.
        control: the same sheet with its units at random places.
        signal: [N, V] noise-free voxels of amplitude 1, with smooth maps.
        noise: [N, V] N(0, 2^2).
    """

    topographic: Float64[np.ndarray, "N D"]
    control: Float64[np.ndarray, "N D"]
    signal: Float64[np.ndarray, "N V"]
    noise: Float64[np.ndarray, "N V"]

    def voxels(self, amplitude: float) -> Float64[np.ndarray, "N V"]:
        """Return a * signal + noise: with a = 0 nothing is shared with the model."""
        return amplitude * self.signal + self.noise


def latent_scores(num_sentences: int, num_latents: int, *, rng: np.random.Generator) -> Float64[np.ndarray, "N K"]:
    """Draw latents of falling size: column k = 0, 1, ... is N(0, 1) times 2^(-k / 3) (sheet 7)."""
    return rng.standard_normal((num_sentences, num_latents)) * 2.0 ** (-np.arange(num_latents) / 3)


def synthetic_sheets(
    latents: Float[np.ndarray, "N K"], *, num_units: int, num_voxels: int, sigma: float, rng: np.random.Generator
) -> SyntheticSheets:
    """Generate a model sheet and voxels that share latents: X = Z Wm + N(0, 1), Y = a Z Wv + 2 N(0, 1).

    Wm and Wv are smooth fields (see `smooth_fields`) on their own grids.

    Source: sheet 7.
    """
    num_sentences, num_latents = latents.shape
    model = latents @ smooth_fields(num_latents, num_units, sigma=sigma, rng=rng)
    model = model + rng.standard_normal((num_sentences, num_units))
    signal = latents @ smooth_fields(num_latents, num_voxels, sigma=sigma, rng=rng)
    return SyntheticSheets(
        topographic=model,
        control=model[:, rng.permutation(num_units)],
        signal=signal,
        noise=2.0 * rng.standard_normal((num_sentences, num_voxels)),
    )
