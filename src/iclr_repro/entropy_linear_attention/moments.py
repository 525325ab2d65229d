"""Moments of a query's scores over the keys, without the scores: the linear-time heart of the method (sheet M3, M5).

Shape letters: M = queries, N = keys, D = features of a head, E = values of a head. Leading axes (batch, heads) are not
named.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclr_repro.entropy_linear_attention.feature_maps import FeatureMap, feature_map_of

WhenEmpty = Literal["error", "zero"]


class Features(NamedTuple):
    """Queries and keys as the scores s_ij = q[i] . k[j] see them, in float32 or wider.

    Attributes:
        q: scale * phi(q).
        k: phi(k), 0 where a key is masked.
        mask: 1 where a key exists, otherwise 0; None without a mask.
        num_keys: number of keys that exist, at least 1.
    """

    q: Float[Tensor, "*batch M D"]
    k: Float[Tensor, "*batch N D"]
    mask: Float[Tensor, "*#batch N 1"] | None
    num_keys: Float[Tensor, "*#batch 1 1"]


class ScoreMoments(NamedTuple):
    """Mean and population variance of each query's scores over the keys."""

    mean: Float[Tensor, "*batch M"]
    var: Float[Tensor, "*batch M"]


def features(
    q: Float[Tensor, "*batch M D"],
    k: Float[Tensor, "*batch N D"],
    *,
    key_mask: Bool[Tensor, "*#batch N"] | None = None,
    feature_map: str | FeatureMap = "relu",
    scale: float | None = None,
    empty: WhenEmpty = "error",
) -> Features:
    """Check queries and keys and pass them through the feature map.

    Args:
        q: queries.
        k: keys; masked ones may hold anything, NaN too.
        key_mask: True where a key exists; leading axes broadcast.
        feature_map: name or function.
        scale: positive factor of the scores; None: 1/sqrt(D).
        empty: what a row without any key does: "error" refuses it, "zero" lets it through (with num_keys 1).

    Raises:
        ValueError: shapes do not fit, there is no key or no feature, whole numbers, a scale that is not positive, an
            unknown `empty`, or a row has no key left.
    """
    _check_inputs(q, k)
    if empty not in get_args(WhenEmpty):
        raise ValueError(f"empty: got {empty!r}, expected one of {', '.join(get_args(WhenEmpty))}")
    phi = feature_map_of(feature_map)
    factor = 1.0 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    if not (factor > 0.0 and math.isfinite(factor)):
        raise ValueError(f"scale: got {scale}, expected a positive finite number, or None for 1/sqrt(head dimension)")
    q, k = widened(q), widened(k)
    if key_mask is None:
        return Features(phi(q) * factor, phi(k), None, k.new_full((1,) * k.ndim, k.shape[-2]))
    exists = checked_mask(key_mask, k)[..., None]
    # Masked twice: NaN in a missing key must not reach phi's gradient, and phi(0) is 1 for elu1.
    phi_k = phi(torch.where(exists, k, torch.zeros_like(k)))
    mask_N1 = exists.to(k.dtype)
    count_11 = mask_N1.sum(dim=-2, keepdim=True)
    if empty == "error":
        refuse_empty_rows(exists[..., 0], hint=", or ask for empty='zero'")
    return Features(phi(q) * factor, phi_k * mask_N1, mask_N1, count_11.clamp(min=1.0))


def centred(x_NF: Tensor, found: Features) -> tuple[Tensor, Tensor]:
    """Mean over the keys that exist, [..., 1, F], and deviations from it, 0 for masked keys.

    Centring before squaring keeps the variance where the mean is large against it (E[s^2] - mu^2 loses it in float32).
    """
    mean_1F = x_NF.sum(dim=-2, keepdim=True) / found.num_keys
    deviation_NF = x_NF - mean_1F
    return mean_1F, deviation_NF if found.mask is None else deviation_NF * found.mask


def score_moments(found: Features) -> ScoreMoments:
    """Mean and variance of the scores: mu_i = q_i . kbar, var_i = q_i^T C q_i, C the covariance of the keys.

    O((N + M) D^2) time; never forms an M x N matrix. Source: sheet M3, M5 steps 2-4.
    """
    mean_1D, centred_ND = centred(found.k, found)
    covariance_DD = centred_ND.mT @ centred_ND / found.num_keys
    return moments_of(found.q, mean_1D, covariance_DD)


def moments_of(q_MD: Tensor, mean_1D: Tensor, covariance_DD: Tensor) -> ScoreMoments:
    """Mean and variance of q . k for keys of the given mean and covariance; round-off below 0 is clipped."""
    mean_M = (q_MD * mean_1D).sum(dim=-1)
    var_M = ((q_MD @ covariance_DD) * q_MD).sum(dim=-1)
    return ScoreMoments(mean_M, var_M.clamp(min=0.0))


def third_central_moment(found: Features) -> Float[Tensor, "*batch M"]:
    """kappa_3 = (1/N) sum_j (s_ij - mu_i)^3, through the D x D x D third-moment tensor of the keys.

    O((N + M) D^3) time and O(N D^2) memory: meant for D <= 16. Source: sheet M3, cum3.
    """
    _, k_ND = centred(found.k, found)
    size = k_ND.shape[-1]
    pairs_NP = (k_ND[..., :, None] * k_ND[..., None, :]).flatten(-2)  # P = D * D
    tensor_PD = pairs_NP.mT @ k_ND / found.num_keys
    partly_MDD = (found.q @ tensor_PD.mT.reshape(*tensor_PD.shape[:-2], size, size * size)).unflatten(-1, (size, size))
    return torch.einsum("...mab,...ma,...mb->...m", partly_MDD, found.q, found.q)


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Leave mixed precision where the device of x has it; the meta device, which has no values, has none."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def widened(x: Tensor) -> Tensor:
    """Half precision as float32: sums over keys overflow in fp16 and lose digits in bf16."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def checked_mask(key_mask: Tensor, k: Tensor) -> Tensor:
    """Return the mask with as many axes as there are batch and key axes.

    Raises:
        ValueError: it is no bool tensor, or does not broadcast to [..., N].
    """
    wanted = k.shape[:-1]
    try:
        broadcast = torch.broadcast_shapes(key_mask.shape, wanted)
    except RuntimeError:
        broadcast = None
    if key_mask.dtype != torch.bool or broadcast != wanted or key_mask.shape[-1] != wanted[-1]:
        raise ValueError(
            f"key_mask: got {key_mask.dtype} of shape {list(key_mask.shape)}, expected bool that broadcasts to"
            f" {list(wanted)}, True where a key exists"
        )
    return key_mask.reshape((1,) * (len(wanted) - key_mask.ndim) + key_mask.shape)


def refuse_empty_rows(key_mask: Tensor, *, hint: str = "") -> None:
    """Refuse a mask [..., N] with a row in which no key exists: attention over nothing is not defined.

    Raises:
        ValueError: the message names the rows and ends with `hint`.
    """
    empty = ~key_mask.any(dim=-1)
    if bool(empty.any()):
        rows = [tuple(row) for row in torch.nonzero(empty).tolist()]
        raise ValueError(
            f"key_mask: no key is left in row(s) {rows}: drop them, check that True means 'this key exists'{hint}"
        )


def _check_inputs(q: Tensor, k: Tensor) -> None:
    if not (q.is_floating_point() and k.is_floating_point()):
        raise ValueError(f"q and k: got {q.dtype} and {k.dtype}, expected floating point: convert them, e.g. q.float()")
    if (q.dtype == torch.float64) != (k.dtype == torch.float64):
        raise ValueError(f"q and k: got {q.dtype} and {k.dtype}, expected both or none in float64: convert either")
    if q.ndim < 2 or q.shape[:-2] != k.shape[:-2] or q.shape[-1] != k.shape[-1]:
        raise ValueError(
            f"q and k: got shapes {list(q.shape)} and {list(k.shape)}, expected [..., M, d] and [..., N, d] with equal"
            " leading axes and d"
        )
    if k.shape[-1] == 0:
        raise ValueError(f"q and k: got shapes {list(q.shape)} and {list(k.shape)}, that is d = 0 features: no score")
    if k.shape[-2] == 0:
        raise ValueError(f"k: got shape {list(k.shape)}, that is N = 0 keys; attention needs at least one")
