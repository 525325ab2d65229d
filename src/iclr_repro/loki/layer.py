"""LokiLayer: a linear layer some of whose rows are trained.

Shape letters: d = rows (output coordinates), f = columns, k = trained rows, r = rank.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers.pytorch_utils import Conv1D

from iclr_repro.loki.decoder import dense_rows


class LokiLayer(nn.Module, BaseTunerLayer):
    """A frozen linear layer W with rows S replaced by trained ones.

    y = x W'^T + b', where W' is W with W'[S] = `loki_rows` [k, f], and b' is b with b'[S] = `loki_bias` [k]. With a
    rank, the rows move by (alpha / r) B A instead, with A `loki_lora_A` [r, f] and B `loki_lora_B` [k, r], 0 at first;
    b stays.

    One matrix product forward; backward the gradient of the k rows alone. The gradient of the other rows is never made.
    W' is made for each product and not kept between them; under autocast a copy of W in the lower precision is kept.

    Args:
        base_layer: `nn.Linear`, Conv1D, or with a rank any linear layer with `in_features` and `out_features`.
        adapter_name: of the first adapter.
        rows: S, in any order; they are kept sorted.
        lora_r: rank r, or None.
        lora_alpha: alpha.

    Raises:
        ValueError: a row outside [0, d) or given twice, a quantised weight without a rank, or a layer that is not
            linear.

    Source: paper, "LoKI Linear" and eq. 11; the realisation is (c) of sheet 2.3.
    """

    adapter_layer_names = ("loki_rows", "loki_bias", "loki_lora_A", "loki_lora_B")
    other_param_names = ("loki_index", "loki_scaling")

    # Of BaseTunerLayer; stated since a type checker, to which peft is unknown, finds nn.Module.__getattr__ instead.
    get_base_layer: Any
    set_adapter: Any
    active_adapters: Any
    merged: Any
    disable_adapters: Any

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        rows: list[int],
        *,
        lora_r: int | None = None,
        lora_alpha: float = 8.0,
        inference_mode: bool = False,
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = _features(base_layer)
        self.loki_rows = nn.ParameterDict()
        self.loki_bias = nn.ParameterDict()
        self.loki_lora_A = nn.ParameterDict()
        self.loki_lora_B = nn.ParameterDict()
        self.loki_index = BufferDict(persistent=False)
        self.loki_scaling: dict[str, float] = {}
        self.merged_adapters: list[str] = []
        self._before_merge: list[tuple[Tensor, Tensor | None]] = []
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, rows, lora_r=lora_r, lora_alpha=lora_alpha, inference_mode=inference_mode)

    def update_layer(
        self,
        adapter_name: str,
        rows: list[int],
        *,
        lora_r: int | None = None,
        lora_alpha: float = 8.0,
        inference_mode: bool = False,
    ) -> None:
        """Add an adapter that starts from the base layer's own rows; see the class for the arguments.

        Raises:
            ValueError: see the class; or an adapter is merged, whose rows would be taken for the base layer's.
        """
        if self.merged:
            raise ValueError(f"adapters {self.merged_adapters} are merged: unmerge them before adding {adapter_name!r}")
        if any(not 0 <= row < self.out_features for row in rows):
            outside = [row for row in rows if not 0 <= row < self.out_features]
            raise ValueError(
                f"adapter {adapter_name!r}: rows {outside[:5]} lie outside [0, {self.out_features}): were they made for"
                " another model?"
            )
        if len(set(rows)) < len(rows):
            twice = sorted({row for row in rows if rows.count(row) > 1})
            raise ValueError(f"adapter {adapter_name!r}: rows {twice[:5]} are given more than once")
        base = self.get_base_layer()
        index = torch.tensor(sorted(rows), dtype=torch.int64, device=base.weight.device)
        self.loki_index[adapter_name] = index
        if lora_r is None:
            self.loki_rows[adapter_name] = nn.Parameter(dense_rows(base).detach()[index].clone())
            if base.bias is not None:
                self.loki_bias[adapter_name] = nn.Parameter(base.bias.detach()[index].clone())
        else:
            dtype = base.weight.dtype if base.weight.is_floating_point() else torch.float32
            options: Any = {"device": base.weight.device, "dtype": dtype}
            down = torch.empty(lora_r, self.in_features, **options)
            if down.device.type != "meta":
                nn.init.kaiming_uniform_(down, a=math.sqrt(5))
            self.loki_lora_A[adapter_name] = nn.Parameter(down)
            self.loki_lora_B[adapter_name] = nn.Parameter(torch.zeros(len(rows), lora_r, **options))
            self.loki_scaling[adapter_name] = lora_alpha / lora_r
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Write adapters into the base layer's weight; `unmerge` puts the old rows back bit for bit.

        Adapters that replace rows come before those that add to them, whatever their order, as in `forward`.

        Args:
            safe_merge: refuse rows that are not finite.
            adapter_names: which; None: the active ones.

        Raises:
            ValueError: rows that are not finite, two adapters that replace the same row, one that would replace a row
                to which a merged one has added, or a quantised base layer.
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.loki_index]
        names.sort(key=lambda name: name not in self.loki_rows)
        self._refuse_overlaps([*self.merged_adapters, *names])
        self._refuse_replacing_what_was_added(names)
        base = self.get_base_layer()
        if not base.weight.is_floating_point():
            raise ValueError(
                f"adapters {names} cannot be merged into a quantised weight ({base.weight.dtype}): load the model in"
                " bf16 or float32 and the adapter on top of it, and merge there"
            )
        weight, bias = dense_rows(base), base.bias
        with torch.no_grad():
            for name in names:
                index = self.loki_index[name]
                new = self._merged_rows(name)
                if safe_merge and not new.isfinite().all():
                    raise ValueError(f"adapter {name!r} has rows that are not finite: it was left unmerged")
                trains_bias = name in self.loki_bias
                self._before_merge.append((weight[index].clone(), bias[index].clone() if trains_bias else None))
                weight[index] = new.to(weight.dtype)
                if trains_bias:
                    bias[index] = self.loki_bias[name].to(bias.dtype)
                self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Put back the rows that `merge` replaced, bit for bit."""
        base = self.get_base_layer()
        weight = dense_rows(base)
        with torch.no_grad():
            while self.merged_adapters:
                index = self.loki_index[self.merged_adapters.pop()]
                rows, bias = self._before_merge.pop()
                weight[index] = rows
                if bias is not None:
                    base.bias[index] = bias

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter.

        Raises:
            ValueError: it is merged.
        """
        if adapter_name in self.merged_adapters:
            raise ValueError(f"adapter {adapter_name!r} is merged: unmerge it before deleting it")
        super().delete_adapter(adapter_name)

    def forward(self, x: Float[Tensor, "*batch f"], *args: Any, **kwargs: Any) -> Float[Tensor, "*batch d"]:
        """Apply the layer with its active adapters."""
        if "adapter_names" in kwargs:
            raise ValueError("LoKI does not mix adapters within a batch: call the model once for each adapter")
        if self.disable_adapters and self.merged:
            self.unmerge()
        active = [name for name in self.active_adapters if name in self.loki_index]
        if self.disable_adapters or self.merged or not active:
            return self.base_layer(x, *args, **kwargs)
        self._refuse_overlaps(active)
        replacing = [name for name in active if name in self.loki_rows]
        y: Tensor = self._with_rows(x, replacing) if replacing else self.base_layer(x, *args, **kwargs)
        for name in active:
            if name in self.loki_lora_A:
                down, up = self.loki_lora_A[name], self.loki_lora_B[name]
                delta = F.linear(F.linear(x.to(down.dtype), down), up) * self.loki_scaling[name]
                y = y.index_add(-1, self.loki_index[name], delta.to(y.dtype))
        return y

    def _with_rows(self, x: Tensor, names: list[str]) -> Tensor:
        base = self.get_base_layer()
        kind = x.device.type
        is_autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)  # meta has none
        dtype = torch.get_autocast_dtype(kind) if is_autocast else base.weight.dtype
        index = _joined([self.loki_index[name] for name in names])
        rows = _joined([self.loki_rows[name] for name in names]).to(dtype)
        bias = None
        if base.bias is not None:
            bias = base.bias.to(dtype).index_copy(0, index, _joined([self.loki_bias[name] for name in names]).to(dtype))
        y: Tensor = _LinearWithRows.apply(x.to(dtype), dense_rows(base).to(dtype), rows, index, bias)
        return y

    def _merged_rows(self, name: str) -> Tensor:
        if name in self.loki_rows:
            return self.loki_rows[name].detach()
        delta = self.loki_lora_B[name] @ self.loki_lora_A[name] * self.loki_scaling[name]
        rows = dense_rows(self.get_base_layer())[self.loki_index[name]]
        return (rows.to(delta.dtype) + delta).detach()

    def _refuse_overlaps(self, names: list[str]) -> None:
        replacing = [name for name in names if name in self.loki_rows]
        if len(replacing) > 1:
            index = torch.cat([self.loki_index[name] for name in replacing])
            if len(index.unique()) < len(index):
                raise ValueError(f"adapters {replacing} replace the same rows: activate or merge one of them at a time")

    def _refuse_replacing_what_was_added(self, names: list[str]) -> None:
        added = {
            row for name in self.merged_adapters if name in self.loki_lora_A for row in self.loki_index[name].tolist()
        }
        for name in names:
            if name in self.loki_rows and added.intersection(self.loki_index[name].tolist()):
                raise ValueError(
                    f"adapter {name!r} would replace rows to which {self.merged_adapters} have added: unmerge these,"
                    " then merge all at once"
                )

    def __repr__(self) -> str:
        return f"loki.{super().__repr__()}"


class _LinearWithRows(torch.autograd.Function):
    """x W'^T + b with W' = W but for the given rows; W is a constant."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "*batch f"],
        weight: Float[Tensor, "d f"],
        rows: Float[Tensor, "k f"],
        index: Int[Tensor, " k"],
        bias: Float[Tensor, " d"] | None,
    ) -> Float[Tensor, "*batch d"]:
        # W' is made again in the backward pass: a copy of k rows costs less than keeping d x f numbers a layer.
        ctx.save_for_backward(x if ctx.needs_input_grad[2] else None, weight, rows, index)
        return F.linear(x, weight.index_copy(0, index, rows), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (grad,) = gradients
        x, weight, rows, index = ctx.saved_tensors
        grad_x = grad_rows = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight.index_copy(0, index, rows)
        if ctx.needs_input_grad[2]:
            grad_rows = grad[..., index].flatten(0, -2).T @ x.flatten(0, -2)
        if ctx.needs_input_grad[4]:
            grad_bias = grad.flatten(0, -2).sum(dim=0)
        return grad_x, None, grad_rows, None, grad_bias


def _joined(tensors: list[Any]) -> Any:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _features(module: nn.Module) -> tuple[int, int]:
    """Return (f, d) of a linear layer."""
    if isinstance(module, Conv1D):
        return int(module.nx), int(module.nf)
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return int(module.in_features), int(module.out_features)  # type: ignore[arg-type]
    raise ValueError(f"{type(module).__name__} is no linear layer: expected nn.Linear or Conv1D")
