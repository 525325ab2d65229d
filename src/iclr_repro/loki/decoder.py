"""The down projections of a Hugging Face decoder, and its row view of their weights.

Shape letters: d = hidden size (rows), f = size of the feed-forward layer (columns).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

# The last matrix of the feed-forward block, by model type of `transformers`.
TARGET_MODULES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3", "gemma3_text"), ("down_proj",)),
    **dict.fromkeys(("phi3", "olmo2", "smollm3", "granite"), ("down_proj",)),
    "gpt2": ("mlp.c_proj",),
    "opt": ("fc2",),
}
_DOWN_PROJECTION = re.compile(r"(?P<block>(?:.*\.)?(?:layers|h)\.(?P<layer>\d+))\.(?:mlp\.(?:down_proj|c_proj)|fc2)")


@dataclass(frozen=True)
class DownProjection:
    """One feed-forward block's last matrix.

    Attributes:
        name: of the module in the model, for example "model.layers.3.mlp.down_proj".
        module: `nn.Linear` or `transformers`' Conv1D, whose weight is transposed.
        block: the decoder layer that it belongs to.
        num_rows: d, its number of output coordinates.
    """

    name: str
    module: Any
    block: nn.Module
    num_rows: int


def down_projections(model: nn.Module) -> list[DownProjection]:
    """Return the down projections of a decoder in the order of its layers.

    Raises:
        ValueError: the model has none that are recognised, or not exactly one a layer (a mixture of experts), or they
            are already wrapped by an adapter or quantised.
    """
    found: dict[int, DownProjection] = {}
    for name, module in model.named_modules():
        match = _DOWN_PROJECTION.fullmatch(name)
        if match is None:
            continue
        if not isinstance(module, (nn.Linear, Conv1D)):
            raise ValueError(
                f"{name} is a {type(module).__name__}: expected nn.Linear or Conv1D. Unload its adapter first"
                " (`unload()` or `merge_and_unload()`)"
            )
        layer = int(match["layer"])
        if layer in found:
            raise ValueError(f"layer {layer} has two down projections, {found[layer].name} and {name}: expected one")
        weight = dense_rows(module)
        found[layer] = DownProjection(name, module, model.get_submodule(match["block"]), weight.shape[0])
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no down projection that is recognised (.mlp.down_proj, .mlp.c_proj or .fc2 of"
            f" numbered layers): expected a decoder such as {', '.join(TARGET_MODULES)}"
        )
    if sorted(found) != list(range(len(found))):
        raise ValueError(f"down projections were found in layers {sorted(found)} only: expected one in every layer")
    return [found[layer] for layer in range(len(found))]


def dense_rows(module: nn.Module) -> Float[Tensor, "d f"]:
    """Return the weight as a view whose row j makes output coordinate j (Conv1D stores the transpose).

    Raises:
        ValueError: the weight is quantised: its packed numbers have no rows to replace.
    """
    weight = module.weight
    assert isinstance(weight, Tensor)
    if not weight.is_floating_point():
        raise ValueError(
            f"the weight of {type(module).__name__} is quantised ({weight.dtype}, {list(weight.shape)}), so that rows"
            " cannot be read or replaced: load the model in bf16 or float32, or use LoKI with `lora_r`"
        )
    return weight.T if isinstance(module, Conv1D) else weight


def check_positions(positions: Sequence[Sequence[int]], num_rows: Sequence[int]) -> None:
    """Refuse row positions that do not fit the layers.

    Args:
        positions: for each layer its row indices, in any order; a layer may have none.
        num_rows: d of each layer.

    Raises:
        ValueError: another number of layers, an index outside [0, d) or twice in a layer, or no row at all.
    """
    if len(positions) != len(num_rows):
        raise ValueError(
            f"positions hold {len(positions)} layers, the model has {len(num_rows)}: were they made for another model?"
        )
    for layer, (rows, size) in enumerate(zip(positions, num_rows, strict=True)):
        outside = [row for row in rows if not 0 <= row < size]
        if outside:
            raise ValueError(f"layer {layer}: rows {outside[:5]} lie outside [0, {size}): expected output coordinates")
        if len(set(rows)) != len(rows):
            twice = sorted({row for row in rows if list(rows).count(row) > 1})
            raise ValueError(f"layer {layer}: rows {twice[:5]} are listed more than once")
    if not any(positions):
        raise ValueError("no layer has a row: expected at least one (is the quota too small?)")
