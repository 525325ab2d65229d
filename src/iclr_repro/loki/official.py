"""The split realisation of LoKI Linear, as the authors have it, to compare ours with in time and memory."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class SplitLinear(nn.Module):
    """y = cat(x W_S^T, x W_rest^T)[..., index_map]: two products and a permutation of the outputs.

    index_map[S_i] = i, index_map[rest_i] = k + i, S and rest sorted. A bias is split in the same way.

    Source: sheet 2.3.
    """

    def __init__(self, base: nn.Linear, rows: list[int]) -> None:
        super().__init__()
        mask = torch.zeros(base.out_features, dtype=torch.bool)
        mask[rows] = True
        self.active = _part(base, mask, trained=True)
        self.frozen = _part(base, ~mask, trained=False)
        order = torch.cat([mask.nonzero()[:, 0], (~mask).nonzero()[:, 0]])
        self.index_map: Tensor
        self.register_buffer("index_map", order.argsort())

    def forward(self, x: Float[Tensor, "*batch f"]) -> Float[Tensor, "*batch d"]:
        """Apply both parts."""
        y: Tensor = torch.cat([self.active(x), self.frozen(x)], dim=-1)[..., self.index_map]
        return y


def _part(base: nn.Linear, mask: Tensor, *, trained: bool) -> nn.Linear:
    part = nn.Linear(base.in_features, int(mask.sum()), bias=base.bias is not None, dtype=base.weight.dtype)
    with torch.no_grad():
        part.weight.copy_(base.weight[mask])
        if base.bias is not None:
            part.bias.copy_(base.bias[mask])
    return part.requires_grad_(trained)
