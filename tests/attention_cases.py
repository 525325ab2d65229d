"""What the tests of entropy_linear_attention share: random attention inputs, and experiments of a small size."""

from typing import Any

import torch
from hypothesis import strategies as st

from iclr_repro.entropy_linear_attention import FEATURE_MAPS, SOLVERS
from iclr_repro.entropy_linear_attention.experiments import Forecasting, Mixing


@st.composite
def attention_cases(draw: st.DrawFn, *, feature_maps: tuple[str, ...] = ("relu",)) -> dict[str, Any]:
    """q (M, d), k (N, d), v (N, e), float64, of random sizes and spread; a mask or none; a solver."""
    num_queries, num_keys, head_dim, value_dim = (draw(st.integers(1, high)) for high in (6, 40, 12, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    spread = draw(st.sampled_from([0.1, 1.0, 3.0]))
    shapes = ((num_queries, head_dim), (num_keys, head_dim), (num_keys, value_dim))
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    mask = None
    if draw(st.booleans()):
        mask = torch.rand(num_keys, generator=generator) < 0.7
        mask[draw(st.integers(0, num_keys - 1))] = True
    options = {
        "key_mask": mask,
        "solver": draw(st.sampled_from(list(SOLVERS))),
        "feature_map": draw(st.sampled_from(feature_maps)),
    }
    return {"q": spread * q, "k": k, "v": v, "options": options}


ALL_MAPS = tuple(FEATURE_MAPS)


def small_mixing(**changes: Any) -> Mixing:
    """Two clusters of 16 nodes, a few updates."""
    settings: dict[str, Any] = {
        "long_trainings": 1,
        "short_trainings": 1,
        "num_nodes": 16,
        "num_clusters": 2,
        "long_steps": 60,
        "long": ("softmax", "eala_collision", "uniform"),
        "short_steps": 30,
        "short": ("eala_collision", "linear_relu", "linear_elu"),
        "dim": 16,
        "num_heads": 1,
        "ffn_dim": 16,
        "num_layers": 1,
        "batch_size": 16,
        "learning_rate": 0.01,
        "clip_norm": 5.0,
        "test_samples": 64,
    }
    return Mixing(**{**settings, **changes})


def small_forecasting() -> Forecasting:
    """Six generated sensors, four updates."""
    return Forecasting(
        data="synthetic",
        dataset="pems08_tail",
        data_dir=None,
        num_nodes=6,
        attentions=("softmax_sdpa", "eala_collision"),
        temporal_attention="softmax",
        input_dim=4,
        tod_dim=4,
        dow_dim=4,
        adaptive_dim=4,
        num_heads=2,
        ffn_dim=8,
        temporal_layers=1,
        spatial_layers=1,
        dropout=0.0,
        steps=4,
        batch_size=4,
        learning_rate=0.003,
        weight_decay=0.0,
        schedule="onecycle",
        milestones=(),
        clip_norm=5.0,
        loss="masked_mae",
        anchor="last",
        eval_every=4,
        patience=None,
        validation_every=100,
        test_every=100,
        fine_tune_steps=0,
    )
