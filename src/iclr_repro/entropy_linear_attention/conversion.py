"""Putting EALA into a trained model, and telling beforehand where that is safe (sheet, "Beyond" 1 and 2).

Shape letters: B = batch, H = heads, M = queries, N = keys, D = features of a head.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from iclr_repro.entropy_linear_attention.attention import Equality, attention_weights, entropy_equality
from iclr_repro.entropy_linear_attention.distributions import entropy, total_variation
from iclr_repro.entropy_linear_attention.entropy import entropy_estimate, entropy_of_scores, scores
from iclr_repro.entropy_linear_attention.feature_maps import FeatureMap
from iclr_repro.entropy_linear_attention.layers import (
    AttentionLayer,
    EntropyLinearAttention,
    MultiheadAttention,
    key_mask_of,
    projected_heads,
)
from iclr_repro.entropy_linear_attention.mechanisms import EntropyEquality, Softmax
from iclr_repro.entropy_linear_attention.moments import features, full_precision
from iclr_repro.entropy_linear_attention.solvers import Solver


def attention_layers(model: nn.Module) -> dict[str, AttentionLayer]:
    """The attention layers of a model by name: ours and torch's."""
    found = dict(model.named_modules())
    return {
        name: layer for name, layer in found.items() if isinstance(layer, MultiheadAttention | nn.MultiheadAttention)
    }


def convert_attention(
    model: nn.Module,
    *,
    layers: Collection[str] | None = None,
    feature_map: str | FeatureMap = "relu",
    solver: str | Solver = "collision",
) -> nn.Module:
    """Return a copy of a model in which attention layers use EALA, with all weights kept; the model is left as it was.

    Nothing is retrained. The scale of the scores is kept, also that of a softmax of another temperature. With "relu"
    the scores change with the feature map, so expect to fine-tune; "identity" keeps the scores of the softmax layers
    but allows negative weights.

    Args:
        model: holds `torch.nn.MultiheadAttention` or our `MultiheadAttention` layers.
        layers: names of those to convert (`attention_layers` lists them); None: all. Leave out those whose attainment
            in `attention_entropy_report` is low: softmax stays there.
        feature_map: phi of the new layers.
        solver: of the new layers.

    Raises:
        ValueError: no such layer, none at all, a layer with bias_k or add_zero_attn, which linear attention has not, or
            a layer of ours whose mechanism is not softmax.
    """
    found = attention_layers(model)
    chosen = list(found) if layers is None else list(layers)
    if unknown := [name for name in chosen if name not in found]:
        raise ValueError(f"layers: the model has no attention layer {unknown}; it has {list(found)}")
    if not chosen:
        raise ValueError(f"layers: got {layers} of the model's attention layers {list(found)}: nothing to convert")
    for name in chosen:
        if isinstance(found[name], nn.MultiheadAttention) and (
            found[name].bias_k is not None or found[name].add_zero_attn
        ):
            raise ValueError(f"layer {name!r} adds keys of its own (add_bias_kv or add_zero_attn), which EALA cannot")
        if isinstance(found[name], MultiheadAttention) and not isinstance(found[name].mechanism, Softmax):
            raise ValueError(
                f"layer {name!r} has the mechanism {type(found[name].mechanism).__name__}, expected Softmax, whose"
                " ranking and entropy EALA takes over: name the softmax layers in `layers`"
            )
    converted = copy.deepcopy(model)
    for name in chosen:
        layer = converted.get_submodule(name)
        new = _with_entropy_equality(layer, feature_map, solver)
        if name == "":
            return new
        parent, _, child = name.rpartition(".")
        setattr(converted.get_submodule(parent), child, new)
    return converted


def _with_entropy_equality(layer: Any, feature_map: str | FeatureMap, solver: str | Solver) -> nn.Module:
    """A layer with EALA and the weights of `layer`, on its device, in its dtype and mode."""
    if isinstance(layer, MultiheadAttention):
        mechanism = EntropyEquality(layer.num_heads, feature_map=feature_map, solver=solver, scale=_scale_of(layer))
        layer.mechanism = mechanism.to(layer.out_proj.weight).train(layer.training)
        return layer
    new = EntropyLinearAttention(
        layer.embed_dim,
        layer.num_heads,
        layer.dropout,
        layer.in_proj_bias is not None,
        kdim=layer.kdim,
        vdim=layer.vdim,
        batch_first=layer.batch_first,
        feature_map=feature_map,
        solver=solver,
    )
    new.load_state_dict(layer.state_dict(), strict=False)  # but for raw_theta of solver "fixed", which softmax lacks
    return new.to(layer.out_proj.weight).train(layer.training)


def _scale_of(layer: AttentionLayer) -> float | None:
    """Factor of the layer's scores q . k; None: 1/sqrt(D)."""
    mechanism = layer.mechanism if isinstance(layer, MultiheadAttention) else None
    if isinstance(mechanism, Softmax) and mechanism.temperature != 1.0:
        return 1.0 / (math.sqrt(layer.head_dim) * mechanism.temperature)
    return mechanism.scale if isinstance(mechanism, EntropyEquality) else None


@torch.no_grad()
def attention_entropy_report(
    model: nn.Module,
    *inputs: Any,
    generator: torch.Generator,
    num_queries: int = 64,
    feature_map: str | FeatureMap = "relu",
    solver: str | Solver = "collision",
) -> pd.DataFrame:
    """How EALA would fare in each attention layer and head of a model, on a sample of the queries of `model(*inputs)`.

    Scores have the layer's own scale: 1/sqrt(D), over the temperature where a softmax has one.

    Args:
        model: with attention layers, trained or not; it is called once, in evaluation mode.
        inputs: what to call it with.
        generator: of the sample of queries (the same places in all rows of a layer's batch).
        num_queries: to sample from each row, >= 1.
        feature_map: phi of the EALA to judge.
        solver: of the EALA to judge.

    Returns:
        A row for each (layer, head), means over sampled queries: `num_keys`; `variance` of the feature scores;
        `entropy` of softmax over them and `entropy_gauss2`, its linear-time estimate (nats); `relative_error` of the
        estimate; `deficit` = log N - entropy; `attainment`, the share of queries with an active feature and theta > 0
        (low: EALA flattens, keep softmax); `dead`, that of queries without any active feature; `tv_to_softmax` between
        the weights of EALA and softmax over the same scores, `tv_to_plain` to softmax over the plain scores q . k,
        which is what a conversion of a softmax layer changes.

    Raises:
        ValueError: the model has no attention layer, or `num_queries` is below 1.
    """
    found = attention_layers(model)
    if not found or num_queries < 1:
        raise ValueError(f"the model has {len(found)} attention layers and num_queries is {num_queries}: expected >= 1")
    tables = {}
    for name, seen in observed_attention(model, *inputs, generator=generator, num_queries=num_queries).items():
        options = {"key_mask": seen.key_mask, "scale": _scale_of(seen.layer)}
        with full_precision(seen.q):
            tables[name] = _layer_report(seen.sampled, seen.k, feature_map, solver, options)
    return pd.concat(tables, names=["layer", "head"])


@torch.no_grad()
def attainment_report(
    model: nn.Module, *inputs: Any, generator: torch.Generator, num_queries: int = 64
) -> pd.DataFrame:
    """Attainment and dead rate of the EALA layers that a model itself has, on a sample of the queries.

    Args:
        model: called once, in evaluation mode.
        inputs: what to call it with.
        generator: of the sample of queries.
        num_queries: to sample from each row, >= 1.

    Returns:
        A row for each layer with EALA, none for other layers: `attainment`, the share of queries with an active feature
        and theta > 0, and `dead`, that of queries without any active feature, over batch, heads and sampled queries.
    """
    rows = {}
    for name, seen in observed_attention(model, *inputs, generator=generator, num_queries=num_queries).items():
        mechanism = seen.layer.mechanism if isinstance(seen.layer, MultiheadAttention) else None
        if isinstance(mechanism, EntropyEquality):
            equal = entropy_equality(
                seen.sampled,
                seen.k,
                key_mask=seen.key_mask,
                feature_map=mechanism.feature_map,
                solver=mechanism.solver,
                scale=mechanism.scale,
                theta=mechanism.theta,
            )
            dead = _dead(equal)
            rows[name] = {"attainment": _share((equal.theta > 0) & ~dead), "dead": _share(dead)}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["attainment", "dead"])


@torch.no_grad()
def relative_attention_entropy(
    model: nn.Module, *inputs: Any, generator: torch.Generator, num_queries: int = 64
) -> dict[str, float]:
    """Mean entropy of the weights that each attention layer itself uses, relative to log N: layer -> [0, 1].

    Means over heads and sampled queries of `model(*inputs)`. Negative weights count as 0 and the others as their shares
    of the row; queries whose weights are all 0 do not count (a layer of such queries is left out). Key masks are not
    taken into account.

    Args:
        model: with our or torch's attention layers; called once, in evaluation mode.
        inputs: what to call it with.
        generator: of the sample of queries.
        num_queries: to sample from each row, >= 1.
    """
    found = {}
    for name, seen in observed_attention(model, *inputs, generator=generator, num_queries=num_queries).items():
        mechanism = seen.layer.mechanism if isinstance(seen.layer, MultiheadAttention) else Softmax()
        # Of all queries: what a query's place is (cosFormer) must not change by sampling.
        weights = mechanism_weights(mechanism, seen.q, seen.k)[..., seen.chosen, :].double().clamp(min=0.0)
        total = weights.sum(dim=-1)
        if (total > 0).any():
            shares = (weights / total[..., None])[total > 0]
            found[name] = float(entropy(shares).mean() / math.log(seen.k.shape[-2]))
    return found


class ObservedAttention(NamedTuple):
    """What an attention layer was called with.

    Attributes:
        layer: ours or torch's.
        q: queries of each head.
        k: keys of each head.
        key_mask: True where a key exists; None: all do.
        chosen: places of the sampled queries, the same in all rows of the batch.
    """

    layer: AttentionLayer
    q: Float[Tensor, "B H M D"]
    k: Float[Tensor, "B H N D"]
    key_mask: Bool[Tensor, "B 1 N"] | None
    chosen: Int[Tensor, " sampled"]

    @property
    def sampled(self) -> Float[Tensor, "B H sampled D"]:
        """The sampled queries of each head."""
        return self.q[..., self.chosen, :]


@torch.no_grad()
def observed_attention(
    model: nn.Module, *inputs: Any, generator: torch.Generator, num_queries: int = 64
) -> dict[str, ObservedAttention]:
    """Queries and keys of each attention layer, by its name, in one call `model(*inputs)` in evaluation mode.

    Args:
        model: with our or torch's attention layers.
        inputs: what to call it with.
        generator: of the sample of queries.
        num_queries: to sample from each row, >= 1.
    """
    seen: dict[str, ObservedAttention] = {}

    def noting(name: str) -> Any:
        def note(layer: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            given = dict(zip(("query", "key", "value", "key_padding_mask"), arguments, strict=False)) | keywords
            q, k, _ = projected_heads(layer, given["query"], given["key"], given["value"])
            chosen = torch.randperm(q.shape[-2], generator=generator)[:num_queries].to(q.device)
            mask = key_mask_of(given.get("key_padding_mask"), batched=given["query"].ndim == 3)
            seen[name] = ObservedAttention(layer, q, k, mask, chosen)

        return note

    hooks = [
        layer.register_forward_pre_hook(noting(name), with_kwargs=True)
        for name, layer in attention_layers(model).items()
    ]
    training, fast = model.training, torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused path of torch's encoder layer calls no attention layer
    try:
        model.eval()(*inputs)
    finally:
        model.train(training)
        torch.backends.mha.set_fastpath_enabled(fast)
        for hook in hooks:
            hook.remove()
    return seen


def _layer_report(
    q: Tensor, k: Tensor, feature_map: str | FeatureMap, solver: str | Solver, options: Mapping[str, Any]
) -> pd.DataFrame:
    """One row a head; q (B, H, M, D), k (B, H, N, D); options: key_mask (B, 1, N) and scale."""
    found = features(q, k, feature_map=feature_map, **options)
    dense = scores(found)
    equal = entropy_equality(q, k, feature_map=feature_map, solver=solver, **options)
    weights = attention_weights(q, k, feature_map=feature_map, solver=solver, **options)
    exact = entropy_of_scores(dense)
    estimated = entropy_estimate(q, k, feature_map=feature_map, **options)
    plain = scores(features(q, k, feature_map="identity", **options)).softmax(dim=-1)
    log_n = found.num_keys[..., 0].log()
    dead = _dead(equal)
    columns = {
        "num_keys": found.num_keys[..., 0].expand_as(exact),
        "variance": equal.var,
        "entropy": exact,
        "entropy_gauss2": estimated,
        "relative_error": (estimated - exact).abs() / exact,
        "deficit": log_n - exact,
        "attainment": ((equal.theta > 0) & ~dead).to(exact.dtype),
        "dead": dead.to(exact.dtype),
        "tv_to_softmax": total_variation(weights, dense.softmax(dim=-1)),
        "tv_to_plain": total_variation(weights, plain),
    }
    means = {name: value.double().mean(dim=(0, 2)).cpu().numpy() for name, value in columns.items()}
    return pd.DataFrame(means)


def _dead(equal: Equality) -> Tensor:
    """Queries without any active feature: all their scores are 0."""
    return equal.var + equal.mean.abs() == 0


def _share(of: Tensor) -> float:
    return float(of.double().mean())


@torch.no_grad()
def mechanism_weights(mechanism: nn.Module, q: Tensor, k: Tensor) -> Tensor:
    """The weights (B, H, M, N) of any mechanism, read off by letting it average the unit vectors of its N keys."""
    unit = torch.eye(k.shape[-2], dtype=k.dtype, device=k.device).expand(*k.shape[:2], -1, -1)
    weights: Tensor = mechanism(q, k, unit)
    return weights
