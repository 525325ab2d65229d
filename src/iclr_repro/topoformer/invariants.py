"""The identities I1 to I6 of the sheet (2.12), as violations that are 0 up to rounding.

Shape letters: B = sequences, N = examples, T = tokens, D = units.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import Tensor

from iclr_repro.topoformer.attention import SpatialQuerying, SpatialReweighting, TopographicSelfAttention
from iclr_repro.topoformer.baselines import materialised_attention
from iclr_repro.topoformer.brain import smooth_fields
from iclr_repro.topoformer.sheet import circular_mask, sheet_side
from iclr_repro.topoformer.statistic import topographic_null, topographic_statistic

FLAGS = ("i3_permutation_changes_scores", "i6_flipped_signs_change_it")
_PERMUTATIONS = 60


def violations(num_units: int, area_frac: float, *, num_examples: int, generator: torch.Generator) -> dict[str, float]:
    """Return the largest deviation from each identity, on drawn numbers in float64; keys "i1_symmetric", ...

    Two are no violations but 1 where what must change does (see `FLAGS`): the scores of spatial querying under a random
    permutation of units, by more than a hundredth of the largest, and t_g of a smooth map under flipped signs of half
    of the units, by more than 0.1. `i6_deviation_of_permutations` is the standard deviation of t_g over random
    permutations of a smooth map, times d / 100: 0.01 to 0.02 (it falls as 1 / d), where its mean is 0.
    """
    draws = torch.randn(num_examples, num_units, generator=generator, dtype=torch.float64)
    x_BTD = torch.randn(2, num_examples // 2, num_units, generator=generator, dtype=torch.float64)
    return {
        **_of_the_pool(num_units, area_frac),
        **_of_the_gauge(num_units, area_frac, x_BTD, generator),
        **_of_the_attention(num_units, area_frac, x_BTD, generator),
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


def _of_the_gauge(num_units: int, area_frac: float, x_BTD: Tensor, generator: torch.Generator) -> dict[str, float]:
    """Permute the units of the query and key layers of whole modules; compare scores and what comes out."""
    control, querying = (
        _drawn(TopographicSelfAttention(num_units, sq=sq, sr=-1.0), generator) for sq in (-1.0, area_frac)
    )
    anywhere = torch.randperm(num_units, generator=generator)
    moved = translation(num_units, 2, 1)
    quarter_turn = torch.arange(num_units).reshape(sheet_side(num_units), -1).rot90().reshape(-1)

    def changed_by(order: Tensor, module: TopographicSelfAttention) -> float:
        other = copy.deepcopy(module)
        with torch.no_grad():
            for layer in (other.query, other.key):
                for parameter in layer.parameters():
                    parameter.copy_(parameter[order].clone())
        return max(_largest(other.scores(x_BTD) - module.scores(x_BTD)), _largest(other(x_BTD) - module(x_BTD)))

    scale = _largest(querying.scores(x_BTD))
    return {
        "i3_permutation_of_control": changed_by(anywhere, control),
        "i3_translation_of_control": changed_by(moved, control),
        "i3_translation": changed_by(moved, querying),
        "i3_quarter_turn": changed_by(quarter_turn, querying),
        "i3_permutation_changes_scores": float(changed_by(anywhere, querying) > 1e-2 * scale),
    }


def _of_the_attention(num_units: int, area_frac: float, x_BTD: Tensor, generator: torch.Generator) -> dict[str, float]:
    module = _drawn(TopographicSelfAttention(num_units, sq=area_frac, sr=area_frac), generator)
    assert module.querying is not None
    out_BTD = module(x_BTD)
    query, key, value = (module.sheets(x_BTD)[name] for name in ("query", "key", "value"))
    pool_DD = module.querying.pooling_matrix()
    scores_BTT = module.scores(x_BTD)[:, 0]
    attention_BTT = torch.softmax(scores_BTT, dim=-1)
    plain, _ = materialised_attention(query, key, value, pool_DD)
    return {
        "i4_rows_of_attention": _largest(attention_BTT.sum(dim=-1) - 1.0),
        "i4_pooled_keys": _largest(query @ (key @ pool_DD).mT / math.sqrt(num_units) - scores_BTT),
        "i4_scores": _largest(module.fc_out(attention_BTT @ value) - out_BTD),
        "i4_fused": _largest(module.fc_out(plain) - out_BTD),
    }


def _drawn(module: TopographicSelfAttention, generator: torch.Generator) -> TopographicSelfAttention:
    """In float64, with weights and biases of an own generator and of a size at which scores are of order 1 or less."""
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(drawn / math.sqrt(module.num_units))
    return module


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
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    x_ND = smooth_fields(40, num_units, sigma=1.5, rng=rng)
    quarter_turn = np.rot90(np.arange(num_units).reshape(sheet_side(num_units), -1)).reshape(-1)
    changed = {
        "i6_translation": x_ND[:, translation(num_units, 3, 1).numpy()],
        "i6_quarter_turn": x_ND[:, quarter_turn],
        "i6_affine": x_ND * rng.uniform(0.5, 1.5, num_units) + rng.uniform(0.0, 1.0, num_units),
        "flipped": x_ND * rng.choice((-1.0, 1.0), num_units),
    }
    plain = topographic_statistic(x_ND).mean
    found = {name: abs(topographic_statistic(other).mean - plain) for name, other in changed.items()}
    null = topographic_null(x_ND, permutations=_PERMUTATIONS, rng=rng)
    return {
        "i6_flipped_signs_change_it": float(found.pop("flipped") > 0.1),
        **found,
        "i6_mean_of_permutations": abs(float(null.mean())),
        "i6_deviation_of_permutations": float(null.std()) * num_units / 100,
    }


def _largest(deviation: Tensor) -> float:
    return float(deviation.detach().abs().max())
