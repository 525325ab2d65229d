"""Multi-head attention with an exchangeable mechanism, and EALA as a drop-in for `torch.nn.MultiheadAttention`.

Shape letters: B = batch, M = queries, N = keys, H = heads, D = features of a head, C = embed_dim = H D.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from iclr_repro.entropy_linear_attention.attention import attention_weights
from iclr_repro.entropy_linear_attention.feature_maps import FeatureMap
from iclr_repro.entropy_linear_attention.mechanisms import EntropyEquality
from iclr_repro.entropy_linear_attention.solvers import Solver


class MultiheadAttention(nn.Module):
    """Multi-head attention with any mechanism: out = W_o concat_h mechanism(W_q,h x, W_k,h y, W_v,h z) + b_o.

    A state dict of `torch.nn.MultiheadAttention` loads as it is. Weights start as those of `nn.Linear`.

    Args:
        embed_dim: C; a multiple of num_heads.
        num_heads: H.
        mechanism: see `mechanisms`.
        dropout: probability; there is no weight matrix to drop from, so it acts on the concatenated heads.
        bias: of the projections.
        kdim: features of the keys; None: embed_dim.
        vdim: features of the values; None: embed_dim.
        batch_first: whether inputs are (B, N, C) rather than (N, B, C).

    Raises:
        ValueError: num_heads does not divide embed_dim.
    """

    # torch's TransformerEncoderLayer asks for this before it takes a fused path that computes softmax attention from
    # the weights of any module here, without calling it. False keeps it from that.
    _qkv_same_embed_dim = False

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        mechanism: nn.Module,
        *,
        dropout: float = 0.0,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = True,
    ) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim < 1 or embed_dim % num_heads:
            raise ValueError(
                f"embed_dim {embed_dim} cannot be cut into {num_heads} heads of equal size: choose num_heads among the"
                " divisors of embed_dim"
            )
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: got {dropout}, expected a probability in [0, 1)")
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.dropout, self.batch_first = dropout, batch_first
        self.kdim, self.vdim = kdim or embed_dim, vdim or embed_dim
        sizes = (embed_dim, self.kdim, self.vdim)
        weights = [nn.Linear(size, embed_dim, bias=False).weight for size in sizes]
        if set(sizes) == {embed_dim}:
            self.in_proj_weight = nn.Parameter(torch.cat([weight.detach() for weight in weights]))
            for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
                self.register_parameter(name, None)
        else:
            self.register_parameter("in_proj_weight", None)
            self.q_proj_weight, self.k_proj_weight, self.v_proj_weight = weights
        if bias:
            bound = embed_dim**-0.5
            self.in_proj_bias = nn.Parameter(torch.empty(3 * embed_dim).uniform_(-bound, bound))
        else:
            self.register_parameter("in_proj_bias", None)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.mechanism = mechanism

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend, with the arguments of torch's module.

        Args:
            query: (B, M, C), or (M, B, C) unless `batch_first`, or (M, C) without a batch.
            key: the same with N and kdim.
            value: the same with N and vdim.
            key_padding_mask: (B, N), True where a key is padding, as in torch (the reverse of our `key_mask`); a float
                mask of 0 and -inf is taken too.
            need_weights: return the weights as well, which forms the M x N matrix; unlike in torch the default is
                False.
            attn_mask: only together with `is_causal`, which says what it holds: linear attention cannot mask pairs.
            average_attn_weights: whether weights are averaged over heads.
            is_causal: query n sees keys 1..n; EALA only.

        Returns:
            Outputs in the layout of `query`, and the weights (B, M, N) or (B, H, M, N), or None.

        Raises:
            ValueError: what a linear mechanism cannot do, shapes that do not fit, a row with no key left.
        """
        if attn_mask is not None and not is_causal:
            raise ValueError(
                "attn_mask: linear attention cannot mask single pairs of query and key; use key_padding_mask, or"
                " is_causal=True for a causal mask"
            )
        q, k, v = projected_heads(self, query, key, value)
        key_mask = key_mask_of(key_padding_mask, batched=query.ndim == 3)
        if is_causal:
            heads = self._equality("is_causal").causal(q, k, v, key_mask)
        else:
            heads = self.mechanism(q, k, v, key_mask)
        merged = functional.dropout(heads.transpose(1, 2).flatten(2), self.dropout, self.training)
        out = self._laid_out(self.out_proj(merged), query)
        if not need_weights:
            return out, None
        if is_causal:
            raise ValueError("need_weights: not together with is_causal, where each query has moments of its own")
        mechanism = self._equality("need_weights")
        weights = attention_weights(
            q,
            k,
            key_mask=key_mask,
            feature_map=mechanism.feature_map,
            solver=mechanism.solver,
            scale=mechanism.scale,
            theta=mechanism.theta,
        )
        weights = weights.mean(dim=1) if average_attn_weights else weights
        return out, weights if query.ndim == 3 else weights[0]

    def _equality(self, asking: str) -> EntropyEquality:
        if not isinstance(self.mechanism, EntropyEquality):
            raise ValueError(f"{asking}: only for the mechanism EntropyEquality, not {type(self.mechanism).__name__}")
        return self.mechanism

    def _laid_out(self, out: Tensor, query: Tensor) -> Tensor:
        if query.ndim == 2:
            return out[0]
        return out if self.batch_first else out.transpose(0, 1)


class EntropyLinearAttention(MultiheadAttention):
    """Drop-in for `torch.nn.MultiheadAttention` (batch_first) with the weights of `entropy_linear_attention`.

    Args:
        embed_dim: C; a multiple of num_heads.
        num_heads: H.
        dropout: probability, on the concatenated heads.
        bias: of the projections.
        kdim: features of the keys; None: embed_dim.
        vdim: features of the values; None: embed_dim.
        batch_first: whether inputs are (B, N, C) rather than (N, B, C).
        feature_map: phi, name or function.
        solver: "collision", "shannon2", "shannon4", "fixed" (theta is learned per head), or a function from var to r.
        scale: positive factor of the scores; None: 1/sqrt(D).
        detach_theta: cut the gradient through theta.
        add_bias_kv: of torch's signature; must be False.
        add_zero_attn: of torch's signature; must be False.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError: num_heads does not divide embed_dim, an unknown feature map or solver, add_bias_kv or add_zero_attn.

    Example: `EntropyLinearAttention(64, 4)(x, x, x)[0]` for x of shape (B, N, 64).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        *,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = True,
        feature_map: str | FeatureMap = "relu",
        solver: str | Solver = "collision",
        scale: float | None = None,
        detach_theta: bool = False,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        for option, wanted in (("add_bias_kv", add_bias_kv), ("add_zero_attn", add_zero_attn)):
            if wanted:
                raise ValueError(
                    f"{option}: got True, expected False: EALA has no keys besides those it is given; append the key to"
                    " key and value instead"
                )
        mechanism = EntropyEquality(
            num_heads, feature_map=feature_map, solver=solver, scale=scale, detach_theta=detach_theta
        )
        super().__init__(
            embed_dim, num_heads, mechanism, dropout=dropout, bias=bias, kdim=kdim, vdim=vdim, batch_first=batch_first
        )
        self.to(device=device, dtype=dtype)


AttentionLayer = MultiheadAttention | nn.MultiheadAttention


def projected_heads(layer: AttentionLayer, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of each head of a layer, ours or torch's: (B, H, M or N, D).

    Raises:
        ValueError: an input has not two or three axes, or not the features that the layer expects.
    """
    joint: Tensor | None = layer.in_proj_weight  # torch annotates its own as never None
    separate = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
    weights = separate if joint is None else joint.chunk(3)
    biases = (None,) * 3 if layer.in_proj_bias is None else layer.in_proj_bias.chunk(3)
    if query is key and key is value and query.ndim == 3 and joint is not None and layer.batch_first:
        _check_input("query", query, weights[0])
        q, k, v = functional.linear(query, joint, layer.in_proj_bias).chunk(3, dim=-1)
        return _by_head(q, layer), _by_head(k, layer), _by_head(v, layer)
    found = []
    for name, x, weight, bias in zip(("query", "key", "value"), (query, key, value), weights, biases, strict=True):
        _check_input(name, x, weight)
        batched = x[None] if x.ndim == 2 else x if layer.batch_first else x.transpose(0, 1)
        found.append(_by_head(functional.linear(batched, weight, bias), layer))
    return found[0], found[1], found[2]


def _by_head(x: Tensor, layer: AttentionLayer) -> Tensor:
    return x.unflatten(-1, (layer.num_heads, layer.head_dim)).transpose(1, 2)


def _check_input(name: str, x: Tensor, weight: Tensor) -> None:
    if x.ndim not in (2, 3) or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"{name}: got shape {list(x.shape)}, expected (batch, length, {weight.shape[1]}) or (length,"
            f" {weight.shape[1]})"
        )


def key_mask_of(padding: Tensor | None, *, batched: bool) -> Tensor | None:
    """(B, 1, N), True where a key exists, from torch's mask (B, N), True or -inf where it is padding."""
    if padding is None:
        return None
    additive = padding.dtype != torch.bool and not torch.compiler.is_compiling()
    if additive and not bool(((padding == 0) | (padding == -torch.inf)).all()):
        raise ValueError("key_padding_mask: expected True or -inf where a key is padding, False or 0 elsewhere")
    exists = ~padding if padding.dtype == torch.bool else padding == 0
    return exists[:, None] if batched else exists[None, None]
