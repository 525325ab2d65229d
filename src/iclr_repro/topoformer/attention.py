"""Self-attention whose units stand on sheets: spatial querying (SQ) and spatial reweighting (SR), sheet 2.3 to 2.5.

Shape letters: B = sequences, T = tokens, D = units, H = heads, E = units of a head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from iclr_repro.topoformer.sheet import MaskType, check_fraction, receptive_fields, territories

SHEETS = ("query", "key", "value", "fc_out")
OFF = -1.0
_INITIAL_GAIN = 10.0  # of the positive weights of the one-layer model (sheet 2.4)

HeadLayout = Literal["sheets", "territories"]


class SpatialQuerying(nn.Module):
    """Pool queries over receptive fields: Q~ = Q M, M = B / ||B||_F.

    A key unit v is then compared with the queries of the units within its field: Q~[.., v] = sum_u Q[.., u] M[u, v].
    M has no trained entry. With `learned`, column v is scaled by a trained gain g[v], drawn from N(0, 1).

    Args:
        mask: B, bool [D, D], for example `circular_mask(400, 0.1)`.
        num_sheets: sheets that stand side by side in the D units, as blocks of the mask; the norm is that of one block.
        learned: train a gain for each unit.

    Raises:
        ValueError: the mask has no true entry, so that there is nothing to pool.

    Source: sheet 2.3.
    """

    mask: Tensor

    def __init__(self, mask: Bool[Tensor, "D D"], *, num_sheets: int = 1, learned: bool = False) -> None:
        super().__init__()
        if mask.device.type != "meta" and not mask.any():
            raise ValueError("mask: no pair of units is in a receptive field: check the fraction that made it")
        self.num_sheets = num_sheets
        self.register_buffer("mask", mask)
        self.gain = nn.Parameter(torch.randn(mask.shape[1])) if learned else None

    def pooling_matrix(self, dtype: torch.dtype = torch.float64) -> Float[Tensor, "D D"]:
        """Return M (without the gain of `learned`)."""
        norm = (self.mask.sum() / self.num_sheets).to(torch.float64).sqrt()
        return self.mask.to(dtype) / norm.to(dtype)

    def forward(self, query_BTD: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Return the pooled queries; the gain of `learned` scales their columns."""
        pooled_BTD = query_BTD @ self.pooling_matrix(query_BTD.dtype)
        return pooled_BTD if self.gain is None else pooled_BTD * self.gain


class SpatialReweighting(nn.Module):
    """A linear layer of non-negative local weights: Y = O W^T + b, W >= 0, W[v, u] = 0 outside the field of v.

    The weights are reflected, W <- |W * B^T|, in the stored parameter and outside autograd at the start of every
    forward, in training and evaluation, as the authors' code does. The gradient is dense, so that an optimiser moves
    entries outside the field until the next forward, and a checkpoint may hold what the next forward reflects: loading
    it loses nothing. Reflecting twice is reflecting once, so several forwards before a backward are safe.

    Under `torch.compile`, in `torch.func`, and wherever a forward must not write to parameters, call
    `reflect_after_step(optimizer, model)`: the forward then uses the differentiable |W * B^T|, whose gradient is zero
    outside the field.

    Args:
        mask: B, bool [D, D].
        signed: keep the signs (ablation): the weights are W * B^T, initialised without |.|.

    Source: sheet 2.4, pitfalls P2 and P7. Weights start at 10 |W0|, W0 and the bias as in `torch.nn.Linear`.
    """

    mask: Tensor

    def __init__(self, mask: Bool[Tensor, "D D"], *, signed: bool = False) -> None:
        super().__init__()
        fresh = nn.Linear(mask.shape[1], mask.shape[0])
        weight = fresh.weight.detach()
        self.weight = nn.Parameter(_INITIAL_GAIN * (weight if signed else weight.abs()))
        self.bias = nn.Parameter(fresh.bias.detach())
        self.signed = signed
        self.reflects_in_forward = True
        self.register_buffer("mask", mask)

    def effective_weight(self) -> Float[Tensor, "D D"]:
        """Return the weights that count, |W * B^T|, differentiably; with `signed`, W * B^T."""
        masked_DD = self.weight * self.mask.T
        return masked_DD if self.signed else masked_DD.abs()

    @torch.no_grad()
    def reflect(self) -> None:
        """Write the effective weights into the parameter.

        Through `.data`, which autograd does not count as a change: after the first reflection the values stay the same,
        so that a graph of an earlier forward remains right.
        """
        self.weight.data.copy_(self.effective_weight())

    def forward(self, output_BTD: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Return the reweighted attention outputs."""
        if not self.reflects_in_forward or torch.compiler.is_compiling():
            return F.linear(output_BTD, self.effective_weight(), self.bias)
        self.reflect()
        return F.linear(output_BTD, self.weight, self.bias)


def reflect_after_step(optimizer: Optimizer, model: nn.Module) -> RemovableHandle:
    """Reflect the local weights of a model after each optimiser step instead of in each forward.

    For `torch.compile`, `torch.func` and DDP. What is computed differs from the reflection in the forward only in that
    weights outside the fields get no gradient: they enter neither Adam's moments nor a clipping norm.

    Returns:
        The handle of the hook.

    Raises:
        ValueError: the model has no `SpatialReweighting`.
    """
    layers = [module for module in model.modules() if isinstance(module, SpatialReweighting)]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no SpatialReweighting layer: build it with sr in (0, 1]")

    def reflect(*_: object) -> None:
        for layer in layers:
            layer.reflect()

    for layer in layers:
        layer.reflects_in_forward = False
    reflect()
    return optimizer.register_step_post_hook(reflect)


class TopographicSelfAttention(nn.Module):
    """Self-attention with units on sheets: S = Q M K^T / sqrt(E), O = softmax(S) V, Y = reweighted O.

    With `sq=-1` and `sr=-1` it is ordinary attention with a dense output layer, the control. Scores are never
    materialised: queries are pooled first, and the rest is `scaled_dot_product_attention`.

    More than one head (ours): `head_layout="sheets"` gives each head a square sheet of its own, and local weights join
    the same places of all sheets; `"territories"` gives each head a rectangle of one sheet, and pooling goes across
    their borders.

    Args:
        num_units: D, of all heads together; a perfect square for "territories" and one head, for "sheets" D / H is one.
        sq: share of the sheet that a query pool covers, in (0, 1]; -1: no pooling.
        sr: share of the sheet that a local output weight reaches, in (0, 1]; -1: a dense signed output layer.
        num_heads: H.
        head_layout: see above.
        mask_type: "circular" as above; "gaussian": connections drawn once, from torch's global generator, with `sq` and
            `sr` as widths; "full": all units, for `sq` and `sr` of 1: the released control taken at its word, whose
            scores have rank one, S_ab = (sum_u Q_au) (sum_v K_bv) / (d sqrt(d)), and whose output layer is dense and
            non-negative (pitfall P1).
        wrap: sheets are tori (True) or have borders.
        bias: of the query, key and value layers, and of a dense output layer; local layers always have one.
        rectify: apply ReLU to queries, keys, values and to the attention's output.
        learned_querying: scale the columns of M by trained gains.
        local_querying: share of the sheet that local non-negative query, key and value layers reach, in place of
            pooling; -1: off.
        signed_reweighting: do not reflect the weights of the output layer (ablation).
        attention_dropout: probability in [0, 1).
        causal: tokens attend to themselves and to those before.

    Raises:
        ValueError: a size or share out of range, or two ways of querying at once.

    Source: sheet 2.3 to 2.5.
    """

    order: Tensor

    def __init__(
        self,
        num_units: int,
        *,
        sq: float,
        sr: float,
        num_heads: int = 1,
        head_layout: HeadLayout = "sheets",
        mask_type: MaskType = "circular",
        wrap: bool = True,
        bias: bool = True,
        rectify: bool = False,
        learned_querying: bool = False,
        local_querying: float = OFF,
        signed_reweighting: bool = False,
        attention_dropout: float = 0.0,
        causal: bool = False,
    ) -> None:
        super().__init__()
        _check_options(sq, sr, local_querying, learned_querying=learned_querying, signed_reweighting=signed_reweighting)
        if num_heads < 1 or num_units % num_heads:
            raise ValueError(f"num_heads: got {num_heads} for {num_units} units, expected a divisor >= 1")
        if head_layout not in get_args(HeadLayout):
            raise ValueError(f"head_layout: got {head_layout!r}, expected one of {', '.join(get_args(HeadLayout))}")
        self.num_units, self.num_heads = num_units, num_heads
        self.rectify, self.causal, self.attention_dropout = rectify, causal, attention_dropout
        own_sheets = head_layout == "sheets"
        num_sheets = num_heads if own_sheets else 1

        def fields(area_frac: float) -> Tensor:
            size = num_units // num_sheets
            return receptive_fields(size, area_frac, mask_type, wrap=wrap, generator=torch.default_generator)

        def local_mask(area_frac: float) -> Tensor:
            return fields(area_frac).repeat(num_sheets, num_sheets)

        def projection() -> nn.Module:
            if local_querying != OFF:
                return SpatialReweighting(local_mask(local_querying))
            return nn.Linear(num_units, num_units, bias=bias)

        order = torch.arange(num_units) if own_sheets else territories(num_units, num_heads)
        self.register_buffer("order", order)
        self.query, self.key, self.value = projection(), projection(), projection()
        self.querying: SpatialQuerying | None = None
        if sq != OFF:
            pools = torch.block_diag(*[fields(sq)] * num_sheets).bool()
            self.querying = SpatialQuerying(pools, num_sheets=num_sheets, learned=learned_querying)
        self.fc_out: nn.Module = (
            nn.Linear(num_units, num_units, bias=bias)
            if sr == OFF
            else SpatialReweighting(local_mask(sr), signed=signed_reweighting)
        )

    def sheets(
        self, x_BTD: Float[Tensor, "B T D"], padding_mask: Bool[Tensor, "B T"] | None = None
    ) -> Mapping[str, Float[Tensor, "B T D"]]:
        """Return the activations of the four sheets: raw queries (before pooling), keys, values, and fc_out."""
        raw = {"query": self.query(x_BTD), "key": self.key(x_BTD), "value": self.value(x_BTD)}
        attended_BHTE = F.scaled_dot_product_attention(
            *self._compared(raw["query"], raw["key"]),
            self._split(F.relu(raw["value"]) if self.rectify else raw["value"]),
            attn_mask=self._allowed(padding_mask, x_BTD.shape[1]),
            dropout_p=self.attention_dropout if self.training else 0.0,
            is_causal=self.causal and padding_mask is None,
        )
        attended_BTD = self._join(attended_BHTE)
        return {**raw, "fc_out": self.fc_out(F.relu(attended_BTD) if self.rectify else attended_BTD)}

    def forward(
        self, x_BTD: Float[Tensor, "B T D"], padding_mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T D"]:
        """Return the output sheet.

        Args:
            x_BTD: token features.
            padding_mask: True where a token counts; others are not attended. None: all count (the authors' code). Each
                sequence needs a token that counts.
        """
        return self.sheets(x_BTD, padding_mask)["fc_out"]

    def scores(self, x_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B H T T"]:
        """Return S = Q M K^T / sqrt(E), for looking at: `forward` never makes them. No mask is applied."""
        query_BHTE, key_BHTE = self._compared(self.query(x_BTD), self.key(x_BTD))
        return query_BHTE @ key_BHTE.transpose(-1, -2) / math.sqrt(query_BHTE.shape[-1])

    def _compared(self, query_BTD: Tensor, key_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled queries and keys by head."""
        if self.rectify:
            query_BTD, key_BTD = F.relu(query_BTD), F.relu(key_BTD)
        if self.querying is not None:
            query_BTD = self.querying(query_BTD)
        return self._split(query_BTD), self._split(key_BTD)

    def _split(self, x_BTD: Tensor) -> Tensor:
        ordered_BTD = x_BTD if self.num_heads == 1 else x_BTD[..., self.order]
        return ordered_BTD.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _join(self, x_BHTE: Tensor) -> Tensor:
        joined_BTD = x_BHTE.transpose(1, 2).flatten(2)
        return joined_BTD if self.num_heads == 1 else joined_BTD[..., torch.argsort(self.order)]

    def _allowed(self, padding_mask: Tensor | None, num_tokens: int) -> Tensor | None:
        if padding_mask is None:
            return None
        allowed_B1TT = padding_mask[:, None, None, :]
        if self.causal:
            allowed_B1TT = allowed_B1TT & allowed_B1TT.new_ones(num_tokens, num_tokens).tril()
        return allowed_B1TT


def _check_options(
    sq: float, sr: float, local_querying: float, *, learned_querying: bool, signed_reweighting: bool
) -> None:
    for name, area_frac in (("sq", sq), ("sr", sr), ("local_querying", local_querying)):
        if area_frac != OFF:
            check_fraction(name, area_frac)
    if sq != OFF and local_querying != OFF:
        raise ValueError(
            f"sq={sq} and local_querying={local_querying}: queries are either pooled or made by local layers:"
            " set one of the two to -1"
        )
    if learned_querying and sq == OFF:
        raise ValueError("learned_querying scales the pools of spatial querying, but sq=-1 switches them off: set sq")
    if signed_reweighting and sr == OFF:
        raise ValueError("signed_reweighting is about local weights, but sr=-1 makes the output layer dense: set sr")


def alive_parameters(model: nn.Module) -> tuple[int, int]:
    """Return the number of trained parameters, and how many of them can differ from zero (inside local fields).

    Source: sheet 2.13: a local layer keeps d (d - n) entries that are always zero. Example: d = 784, sr = 0.3, n = 241:
    425,712 of a layer's 614,656 weights.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    dead = sum(int((~module.mask).sum()) for module in model.modules() if isinstance(module, SpatialReweighting))
    return total, total - dead
