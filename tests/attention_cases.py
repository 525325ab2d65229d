"""Hypothesis strategies shared by the tests of this paper."""

from typing import Any

import torch
from hypothesis import strategies as st

from iclr_repro.entropy_linear_attention import FEATURE_MAPS, SOLVERS


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
