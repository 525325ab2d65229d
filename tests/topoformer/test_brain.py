from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from iclr_repro.topoformer import (
    fmri_smoothing,
    localise,
    morans_i,
    response_profile,
    selective_clusters,
    synthetic_sheets,
)
from iclr_repro.topoformer.brain import latent_scores, smooth_fields


def test_smoothing_weighs_units_by_a_gaussian_without_renormalising() -> None:
    x = np.zeros((1, 49))
    x[0, 24] = 1.0
    found = fmri_smoothing(x, fwhm=2.0)[0].reshape(7, 7)
    sigma = 2 / np.sqrt(8 * np.log(2))
    assert sigma == pytest.approx(0.849, abs=1e-3)
    assert found[3, 3] == pytest.approx(1 / (2 * np.pi * sigma**2))
    assert found[3, 4] / found[3, 3] == pytest.approx(np.exp(-1 / (2 * sigma**2)))
    assert found[1, 4] / found[3, 3] == pytest.approx(np.exp(-5 / (2 * sigma**2)))
    corner = np.zeros((1, 49))
    corner[0, 0] = 1.0
    assert fmri_smoothing(corner)[0, 48] < 1e-10, "no torus"
    assert fmri_smoothing(x, fwhm=4.0, spacing=2.0)[0, 24] == pytest.approx(found[3, 3] / 4)
    with pytest.raises(ValueError, match=r"fwhm and spacing: got 0\.0 and 1\.0, expected lengths > 0 in mm"):
        fmri_smoothing(x, fwhm=0.0)


def test_the_localiser_corrects_over_all_layers() -> None:
    rng = np.random.default_rng(0)
    sentences = {layer: rng.normal(size=(40, 25)) for layer in "ab"}
    nonwords = {layer: 2 * rng.normal(size=(30, 25)) for layer in "ab"}
    sentences["a"][:, :5] += 3
    sentences["b"][:, :5] -= 3
    sentences["b"][:, 7] = nonwords["b"][:, 7] = 1.0
    found = localise(sentences, nonwords)
    tests = {k: scipy.stats.ttest_ind(sentences[k], nonwords[k], equal_var=False) for k in "a"}
    np.testing.assert_allclose(found.t["a"], tests["a"].statistic)
    assert found.selective["a"][:5].all()
    assert not found.selective["b"][:8].any()
    assert found.t["b"][7] == 0.0
    with pytest.raises(ValueError, match=r"layers: \['a', 'b'\] for sentences, \['a'\] for non-words"):
        localise(sentences, {"a": nonwords["a"]})


def test_clusters_are_connected_large_and_sorted_by_their_best_unit() -> None:
    selective, t = np.zeros((10, 10), dtype=bool), np.ones((10, 10))
    selective[:2, :5], selective[5:9, 5:9], selective[9, 0] = True, True, True
    selective[2, 5] = True  # joined by a corner
    t[6, 6] = 9.0
    found = selective_clusters(t.reshape(-1), selective.reshape(-1)).reshape(10, 10)
    assert (found[5:9, 5:9] == 1).all()
    assert (found[:2, :5] == 2).all()
    assert found[2, 5] == 2
    assert found[9, 0] == 0, "too small"
    assert found.max() == 2


def test_profiles_average_the_size_of_responses() -> None:
    selective = np.array([True, False])
    assert response_profile({"S": np.array([[-2.0, 9.0], [4.0, 9.0]])}, selective) == {"S": 3.0}
    with pytest.raises(ValueError, match="no unit is selective"):
        response_profile({"S": np.ones((2, 2))}, np.zeros(2, dtype=bool))


def test_fields_are_smooth_and_of_unit_size() -> None:
    fields = smooth_fields(200, 144, sigma=2.0, rng=np.random.default_rng(0))
    np.testing.assert_allclose(fields.std(axis=1), 1.0)
    assert np.all(morans_i(fields) > 0.5)
    spectrum = (np.abs(np.fft.fft2(fields.reshape(-1, 12, 12))) ** 2).mean(axis=0)
    ratio = np.exp(-4 * (np.pi * 2.0) ** 2 * ((2 / 12) ** 2 - (1 / 12) ** 2))
    assert spectrum[0, 2] / spectrum[0, 1] == pytest.approx(ratio, rel=0.4)


def test_generated_sheets_share_what_the_amplitude_says() -> None:
    rng = np.random.default_rng(0)
    latents = latent_scores(2000, 3, rng=rng)
    np.testing.assert_allclose(latents.std(axis=0), 2.0 ** (-np.arange(3) / 3), rtol=0.05)
    sheets = synthetic_sheets(latents, num_units=36, num_voxels=49, sigma=2.0, rng=rng)
    assert sorted(map(tuple, sheets.control.T)) == sorted(map(tuple, sheets.topographic.T))
    assert not (sheets.control == sheets.topographic).all()
    np.testing.assert_allclose(sheets.voxels(0.5), 0.5 * sheets.signal + sheets.noise)
    assert sheets.noise.std() == pytest.approx(2.0, rel=0.02)
    assert np.linalg.matrix_rank(sheets.signal) == 3
