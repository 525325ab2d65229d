"""A layout for units that were trained without one, and spatial querying for existing encoders (sheet, Beyond 3).

In ordinary attention the units of queries and keys can be permuted together at no cost (identity I3). So a trained
control may be given the best layout that can be found after training: the fair control of spatial querying.

Shape letters: N = examples, D = units.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from iclr_repro.topoformer.attention import SpatialQuerying
from iclr_repro.topoformer.sheet import circular_mask, sheet_side, squared_distances
from iclr_repro.topoformer.statistic import statistic_of_correlations, unit_correlations

_PROJECTIONS = (("query", "key"), ("q_lin", "k_lin"))  # BERT and its kin; DistilBERT
_WIDTHS = (0.4, 0.25, 0.15, 0.1)  # of the kernel, in sides of the tissue: from the coarse order to the fine one
_MAX_SWAPS_PER_UNIT = 20


def posthoc_layout(
    *activations: Float[np.ndarray, "N D"], rng: np.random.Generator, restarts: int = 20
) -> Int64[np.ndarray, " D"]:
    """Find one layout for sheets whose units move together, by greedy swaps on the mean of their correlations.

    Queries and keys of ordinary attention can be permuted together only (I3): give both, C = (C_q + C_k) / 2.

    Args:
        *activations: of one sheet or more, over the same examples.
        rng: see `layout_of_correlations`.
        restarts: see there.

    Returns:
        The order of the units, the same for each sheet; see `layout_of_correlations`.

    Raises:
        ValueError: no sheet, or what `unit_correlations` and `layout_of_correlations` refuse.
    """
    if not activations:
        raise ValueError("activations: got no sheet, expected one or more to lay out together")
    mean_DD = np.mean([unit_correlations(sheet) for sheet in activations], axis=0)
    return layout_of_correlations(mean_DD, rng=rng, restarts=restarts)


def layout_of_correlations(
    correlations: Float[np.ndarray, "D D"], *, rng: np.random.Generator, restarts: int = 20
) -> Int64[np.ndarray, " D"]:
    """Find a layout that raises sum_uv C_uv K(u, v), K a Gaussian of the torus distance of their places.

    From a random layout, the best swap of two units is made until none helps, for kernels from wide to narrow. Of
    several such layouts the one with the largest t_g on the same correlations is taken: measure it on other examples.

    Args:
        correlations: between units.
        rng: of the first layouts.
        restarts: number of first layouts, >= 1.

    Returns:
        A permutation: place u of the sheet is for unit result[u]; `activations[:, result]` is the laid-out sheet.

    Raises:
        ValueError: D is no perfect square or below 9, or `restarts` is below 1.
    """
    if restarts < 1:
        raise ValueError(f"restarts: got {restarts}, expected >= 1")
    num_units = len(correlations)
    distances_DD = np.sqrt(squared_distances(num_units)) / sheet_side(num_units)
    kernels = [np.exp(-0.5 * (distances_DD / width) ** 2) for width in _WIDTHS]
    best, best_order_D = -np.inf, np.arange(num_units)
    for _ in range(restarts):
        order_D = rng.permutation(num_units)
        for kernel_DD in kernels:
            order_D = _greedy_swaps(correlations, kernel_DD, order_D)
        found = statistic_of_correlations(correlations[np.ix_(order_D, order_D)]).mean
        if found > best:
            best, best_order_D = found, order_D
    return best_order_D


def _greedy_swaps(correlations: np.ndarray, kernel_DD: np.ndarray, order_D: np.ndarray) -> np.ndarray:
    """Swap the best pair of places until no swap raises the sum.

    With C the correlations in the order of the places and G = C K, swapping the units at u and v raises half the sum by
    G_uv + G_vu - G_uu - G_vv - 2 (1 - C_uv) (K_uv - K_uu); an O(D^2) update keeps G.
    """
    order_D = order_D.copy()
    c_DD = correlations[np.ix_(order_D, order_D)]
    c_DD[np.diag_indices_from(c_DD)] = 1.0
    g_DD = c_DD @ kernel_DD
    for _ in range(_MAX_SWAPS_PER_UNIT * len(order_D)):
        diagonal = np.diag(g_DD)
        gain_DD = g_DD + g_DD.T - diagonal - diagonal[:, None] - 2 * (1 - c_DD) * (kernel_DD - kernel_DD[0, 0])
        u, v = np.unravel_index(int(gain_DD.argmax()), gain_DD.shape)
        if gain_DD[u, v] <= 1e-10:
            break
        # Rows u and v of C change places, and with them its columns: G = C K follows.
        old_u, old_v = c_DD[:, u].copy(), c_DD[:, v].copy()
        g_DD += np.outer(old_v - old_u, kernel_DD[u] - kernel_DD[v])
        g_DD[[u, v]] = g_DD[[v, u]]
        c_DD[:, u], c_DD[:, v] = old_v, old_u
        c_DD[[u, v]] = c_DD[[v, u]]
        order_D[[u, v]] = order_D[[v, u]]
    return order_D


class PooledLinear(nn.Linear):
    """A query projection followed by spatial querying, head by head, in place of an encoder's own `nn.Linear`."""

    def __init__(self, linear: nn.Linear, mask: Tensor, *, num_heads: int) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None)
        self.load_state_dict(linear.state_dict())
        self.num_heads = num_heads
        self.querying = SpatialQuerying(mask)
        self.to(linear.weight.device, linear.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled queries of all heads."""
        query = F.linear(x, self.weight, self.bias)
        pooled: Tensor = self.querying(query.unflatten(-1, (self.num_heads, -1))).flatten(-2)
        return pooled


def topographize(
    model: nn.Module, inputs: Mapping[str, Tensor], *, sq: float, num_heads: int, rng: np.random.Generator
) -> int:
    """Put spatial querying on every attention of an existing encoder, for training it on (sheet, Beyond 3).

    Each head gets a sheet. Its query and key units are laid out together by their correlations on `inputs`, which
    changes nothing that the model computes (I3); then queries are pooled, and scaled so that on `inputs` they keep the
    size they had. From there on the model is another one: train it on.

    Args:
        model: changed in place; its attentions have linear layers `query` and `key` (BERT, RoBERTa, ELECTRA, ViT) or
            `q_lin` and `k_lin` (DistilBERT).
        inputs: of `model(**inputs)`, a batch of real text: several hundred tokens.
        sq: share of a head's sheet that a query pool covers, in (0, 1].
        num_heads: of each attention; the units of a head must be a perfect square.
        rng: of the layouts.

    Returns:
        The number of attentions changed.

    Raises:
        ValueError: no such attention, or the units of a head do not fill a square.
    """
    pairs = [
        (module, names)
        for module in model.modules()
        for names in _PROJECTIONS
        if all(isinstance(getattr(module, name, None), nn.Linear) for name in names)
    ]
    if not pairs:
        raise ValueError(
            f"{type(model).__name__} has no attention with linear layers named query and key, or q_lin and k_lin: other"
            " models (fused projections, rotary positions) cannot be laid out"
        )
    for module, (query_name, key_name) in pairs:
        query, key = cast(nn.Linear, getattr(module, query_name)), cast(nn.Linear, getattr(module, key_name))
        if query.out_features % num_heads:
            raise ValueError(f"num_heads: got {num_heads} for {query.out_features} units, expected a divisor")
        units = query.out_features // num_heads
        mask = circular_mask(units, sq)
        query_ND, key_ND = _outputs(model, inputs, query, key)
        order = np.empty(query.out_features, dtype=np.int64)
        for first in range(0, query.out_features, units):
            head = slice(first, first + units)
            order[head] = first + posthoc_layout(query_ND[:, head], key_ND[:, head], rng=rng)
        _permute_outputs(query, order)
        _permute_outputs(key, order)
        pooled = PooledLinear(query, mask, num_heads=num_heads)
        laid_out = torch.from_numpy(query_ND[:, order])
        after = pooled.querying.double()(laid_out.unflatten(-1, (num_heads, -1)))
        pooled.querying.to(query.weight.dtype)
        gain = float(laid_out.norm() / after.norm())
        with torch.no_grad():
            for parameter in pooled.parameters():
                parameter.mul_(gain)
        setattr(module, query_name, pooled)
    return len(pairs)


def _outputs(model: nn.Module, inputs: Mapping[str, Tensor], *layers: nn.Module) -> list[np.ndarray]:
    """Return what linear layers give for a batch, [tokens, D] each."""
    found: dict[int, Tensor] = {}
    handles = [
        layer.register_forward_hook(lambda _layer, _inputs, output, at=at: found.__setitem__(at, output))
        for at, layer in enumerate(layers)
    ]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return [found[at].flatten(0, -2).double().cpu().numpy() for at in range(len(layers))]


@torch.no_grad()
def _permute_outputs(linear: nn.Linear, order: np.ndarray) -> None:
    linear.weight.copy_(linear.weight[order])
    if linear.bias is not None:
        linear.bias.copy_(linear.bias[order])
