"""Topoformer: self-attention whose units stand on a sheet, and how to see whether the sheet is a map.

Fidelity: code. The method follows the authors' released modules; the body of the paper could not be read. The eight
test suites, PLS-SVD and the fMRI-like readout are reconstructions, as their docstrings say. Symbols and names:

    d = s^2           units of a sheet, on a grid of s x s              `num_units`
    f; sq, sr         share of the sheet in a receptive field           `area_frac`; `sq`, `sr`, -1 is off
    B                 circular mask, bool [d, d]                        `circular_mask`
    M = B / ||B||_F   fixed pool of queries, S = Q M K^T / sqrt(d)      `SpatialQuerying`
    W >= 0            local output weights, Y = O W^T + b               `SpatialReweighting`
    C, D              correlations and torus distances of units         `unit_correlations`, `squared_distances`
    t_g               -Spearman(C, D), averaged over radii              `topographic_statistic`
    U, V, r           weights and held-out alignment of PLS-SVD         `pls_svd`

Importing the package registers the model type "topoformer" with `transformers`' auto classes.
"""

from iclr_repro.topoformer.attention import (
    SpatialQuerying,
    SpatialReweighting,
    TopographicSelfAttention,
    alive_parameters,
    reflect_after_step,
)
from iclr_repro.topoformer.brain import (
    fmri_smoothing,
    localise,
    response_profile,
    selective_clusters,
    synthetic_sheets,
)
from iclr_repro.topoformer.classifier import TopoformerClassifier, token_mean
from iclr_repro.topoformer.layout import posthoc_layout, topographize
from iclr_repro.topoformer.maps import (
    cross_correlation_maps,
    morans_i,
    morans_null,
    pca_maps,
    selectivity_map,
)
from iclr_repro.topoformer.masked_lm import (
    TopoformerConfig,
    TopoformerForMaskedLM,
    TopoformerForSequenceClassification,
    TopoformerModel,
)
from iclr_repro.topoformer.pls import pls_null, pls_svd
from iclr_repro.topoformer.sheet import circular_mask, gaussian_mask, sheet_side, squared_distances
from iclr_repro.topoformer.statistic import (
    permutation_p_value,
    topographic_null,
    topographic_statistic,
    unit_correlations,
)
from iclr_repro.topoformer.suites import TestSuite, load_test_suites, run_test_suites

__all__ = [
    "SpatialQuerying",
    "SpatialReweighting",
    "TestSuite",
    "TopoformerClassifier",
    "TopoformerConfig",
    "TopoformerForMaskedLM",
    "TopoformerForSequenceClassification",
    "TopoformerModel",
    "TopographicSelfAttention",
    "alive_parameters",
    "circular_mask",
    "cross_correlation_maps",
    "fmri_smoothing",
    "gaussian_mask",
    "load_test_suites",
    "localise",
    "morans_i",
    "morans_null",
    "pca_maps",
    "permutation_p_value",
    "pls_null",
    "pls_svd",
    "posthoc_layout",
    "reflect_after_step",
    "response_profile",
    "run_test_suites",
    "selective_clusters",
    "selectivity_map",
    "sheet_side",
    "squared_distances",
    "synthetic_sheets",
    "token_mean",
    "topographic_null",
    "topographic_statistic",
    "topographize",
    "unit_correlations",
]
