"""Efficient linear attention for multivariate time series by entropy equality: a reconstruction.

The full text of the paper was not available. What is known of it (abstract, opening, third-party summaries): weights
with the ranking of the dot products, one parameter theta per query with an analytic solution, an entropy equal to that
of softmax, which is estimated in linear time; a forecaster ELinFormer. The formulas here are the plainest ones that
satisfy these statements, and were checked numerically. Solver and feature map are arguments: the paper's own can take
their place.

What the paper and the summaries write, and where it lives here:

    q_i, k_j, v_j   queries (..., M, d), keys (..., N, d), values (..., N, e)
    s_ij            scores: scale phi(q_i) . phi(k_j)                         `FEATURE_MAPS`
    H(softmax(s_i)) entropy, exactly                                          `softmax_entropy`
                    entropy, in linear time                                   `entropy_estimate`, `ESTIMATES`
    theta_q*        from the variance of the scores, in closed form           `SOLVERS`, `entropy_equality`
    EALA            the attention                                             `entropy_linear_attention`
    ELinFormer      the forecaster                                            `ELinFormer`

Nonnegative linear weights cannot be sharp: EALA cannot imitate peaked attention. `attention_entropy_report` tells where
that matters.
"""

from iclr_repro.entropy_linear_attention.attention import (
    Equality,
    attention_weights,
    entropy_equality,
    entropy_linear_attention,
)
from iclr_repro.entropy_linear_attention.causal import RunningMoments, causal_entropy_linear_attention
from iclr_repro.entropy_linear_attention.conversion import (
    attainment_report,
    attention_entropy_report,
    attention_layers,
    convert_attention,
    relative_attention_entropy,
)
from iclr_repro.entropy_linear_attention.data import (
    FULL_SETS,
    LOADERS,
    load_full,
    load_los_loop,
    load_montevideo_bus,
    load_nycbike1,
    load_pems08_edges,
    load_pems08_tail,
)
from iclr_repro.entropy_linear_attention.entropy import ESTIMATES, entropy_estimate, softmax_entropy
from iclr_repro.entropy_linear_attention.feature_maps import FEATURE_MAPS
from iclr_repro.entropy_linear_attention.forecasters import average_and_ridge, persistence, seasonal_average
from iclr_repro.entropy_linear_attention.host import STID, ELinFormer, InvertedForecaster
from iclr_repro.entropy_linear_attention.layers import EntropyLinearAttention, MultiheadAttention
from iclr_repro.entropy_linear_attention.mechanisms import MECHANISMS, make_mechanism
from iclr_repro.entropy_linear_attention.metrics import errors, masked_errors
from iclr_repro.entropy_linear_attention.mixing import ClusterTask, MixingModel
from iclr_repro.entropy_linear_attention.series import Series, Windows
from iclr_repro.entropy_linear_attention.solvers import SOLVERS
from iclr_repro.entropy_linear_attention.synthetic import synthetic_traffic

__all__ = [
    "ESTIMATES",
    "FEATURE_MAPS",
    "FULL_SETS",
    "LOADERS",
    "MECHANISMS",
    "SOLVERS",
    "STID",
    "ClusterTask",
    "ELinFormer",
    "EntropyLinearAttention",
    "Equality",
    "InvertedForecaster",
    "MixingModel",
    "MultiheadAttention",
    "RunningMoments",
    "Series",
    "Windows",
    "attainment_report",
    "attention_entropy_report",
    "attention_layers",
    "attention_weights",
    "average_and_ridge",
    "causal_entropy_linear_attention",
    "convert_attention",
    "entropy_equality",
    "entropy_estimate",
    "entropy_linear_attention",
    "errors",
    "load_full",
    "load_los_loop",
    "load_montevideo_bus",
    "load_nycbike1",
    "load_pems08_edges",
    "load_pems08_tail",
    "make_mechanism",
    "masked_errors",
    "persistence",
    "relative_attention_entropy",
    "seasonal_average",
    "softmax_entropy",
    "synthetic_traffic",
]
