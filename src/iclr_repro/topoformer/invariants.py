"""The identities I1 to I6 of the sheet (2.12), as violations that are 0 up to rounding.

Shape letters: N = examples, T = tokens, D = units.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from iclr_repro.topoformer.attention import SpatialQuerying, SpatialReweighting, TopographicSelfAttention
from iclr_repro.topoformer.baselines import materialised_attention
from iclr_repro.topoformer.sheet import circular_mask, sheet_side
from iclr_repro.topoformer.statistic import topographic_statistic


def violations(num_units: int, area_frac: float, *, num_examples: int, generator: torch.Generator) -> dict[str, float]:
    """Return the largest deviation from each identity, on drawn numbers in float64; keys "i1_symmetric", ...

    `i3_permutation_changes_scores` is no violation: 1 if a random permutation of units changes the scores of spatial
    querying by more than a thousandth, as it must unless the field is the whole sheet.
    """
    draws = torch.randn(num_examples, num_units, generator=generator, dtype=torch.float64)
    return {
        **_of_the_pool(num_units, area_frac),
        **_of_the_gauge(num_units, area_frac, draws, generator),
        **_of_the_attention(num_units, area_frac, draws),
        **_of_the_reweighting(num_units, area_frac, draws),
        **_of_the_statistic(num_units, generator),
    }


def translation(num_units: int, rows: int, columns: int) -> Tensor:
    """Return the permutation of units that moves a sheet's map around the torus."""
    side = sheet_side(num_units)
    return torch.arange(num_units).reshape(side, side).roll((rows, columns), (0, 1)).reshape(-1)


def _of_the_pool(num_units: int, area_frac: float) -> dict[str, float]:
    side = sheet_side(num_units)
    mask = circular_mask(num_units, area_frac)
    pool_DD = SpatialQuerying(mask).pooling_matrix()
    n = int(mask[0].sum())
    moved = translation(num_units, 1, 2)
    kernel = pool_DD[0].reshape(side, side).numpy()
    spectrum = np.sort(np.fft.fft2(kernel).real.reshape(-1))
    eigenvalues = np.sort(np.linalg.eigvalsh(pool_DD.numpy()))
    tiny = SpatialQuerying(circular_mask(num_units, 0.5 * math.pi / num_units)).pooling_matrix()
    identity = torch.eye(num_units, dtype=torch.float64)
    return {
        "i1_symmetric": _largest(mask.int() - mask.T.int()),
        "i1_circulant": _largest(mask.int() - mask[moved][:, moved].int()),
        "i1_row_sums": _largest(mask.sum(dim=1) - n),
        "i1_norm": abs(float(pool_DD.norm()) - 1.0),
        "i1_spectrum": float(np.abs(spectrum - eigenvalues).max()),
        "i1_largest": abs(float(eigenvalues[-1]) - math.sqrt(n / num_units)),
        "i2_tiny_field": _largest(tiny - identity / math.sqrt(num_units)),
    }


def _of_the_gauge(num_units: int, area_frac: float, draws: Tensor, generator: torch.Generator) -> dict[str, float]:
    query_ND, key_ND = draws.chunk(2)
    key_ND = key_ND[: len(query_ND)]
    anywhere = torch.randperm(num_units, generator=generator)
    identity = torch.eye(num_units, dtype=torch.float64) / math.sqrt(num_units)
    pool_DD = SpatialQuerying(circular_mask(num_units, area_frac)).pooling_matrix()
    quarter_turn = torch.arange(num_units).reshape(sheet_side(num_units), -1).rot90().reshape(-1)

    def moved_by(matrix_DD: Tensor, order: Tensor) -> float:
        before = query_ND @ matrix_DD @ key_ND.T
        return _largest(query_ND[:, order] @ matrix_DD @ key_ND[:, order].T - before)

    return {
        "i3_permutation_of_control": moved_by(identity, anywhere),
        "i3_translation": moved_by(pool_DD, translation(num_units, 2, 1)),
        "i3_quarter_turn": moved_by(pool_DD, quarter_turn),
        "i3_permutation_changes_scores": float(moved_by(pool_DD, anywhere) > 1e-3),
    }


def _of_the_attention(num_units: int, area_frac: float, draws: Tensor) -> dict[str, float]:
    query, key, value = (draws.roll(shift, 0)[None] for shift in (0, 1, 2))
    pool_DD = SpatialQuerying(circular_mask(num_units, area_frac)).pooling_matrix()
    out, attention = materialised_attention(query, key, value, pool_DD)
    identity = torch.eye(num_units, dtype=torch.float64)
    keys_pooled, _ = materialised_attention(query, key @ pool_DD, value, identity)
    fused = torch.nn.functional.scaled_dot_product_attention(query @ pool_DD, key, value)
    return {
        "i4_rows_of_attention": _largest(attention.sum(dim=-1) - 1.0),
        "i4_pooled_keys": _largest(out - keys_pooled),
        "i4_fused": _largest(out - fused),
    }


def _of_the_reweighting(num_units: int, area_frac: float, draws: Tensor) -> dict[str, float]:
    mask = circular_mask(num_units, area_frac)
    attention = TopographicSelfAttention(num_units, sq=-1.0, sr=area_frac).double()
    layer = attention.fc_out
    assert isinstance(layer, SpatialReweighting)
    with torch.no_grad():
        layer.weight.copy_(torch.cat([draws] * (num_units // len(draws) + 1))[:num_units])
    jacobian_DD = torch.autograd.functional.jacobian(lambda x: layer(x), draws[0])
    once = layer.weight.detach().clone()
    layer.reflect()
    return {
        "i5_locality": _largest(jacobian_DD[~mask.T]) if not mask.all() else 0.0,
        "i5_sign": max(-float(once.min()), 0.0),
        "i5_idempotent": _largest(layer.weight - once),
    }


def _of_the_statistic(num_units: int, generator: torch.Generator) -> dict[str, float]:
    x_ND = torch.randn(40, num_units, generator=generator, dtype=torch.float64)
    scale, shift = torch.rand(2, num_units, generator=generator, dtype=torch.float64)
    quarter_turn = torch.arange(num_units).reshape(sheet_side(num_units), -1).rot90().reshape(-1)
    plain = topographic_statistic(x_ND.numpy()).mean
    changed = {
        "i6_translation": x_ND[:, translation(num_units, 3, 1)],
        "i6_quarter_turn": x_ND[:, quarter_turn],
        "i6_affine": x_ND * (scale + 0.5) + shift,
    }
    return {name: abs(topographic_statistic(other.numpy()).mean - plain) for name, other in changed.items()}


def _largest(deviation: Tensor) -> float:
    return float(deviation.detach().abs().max())
