"""The methods that are compared, each as a model ready for training (sheet 2.2, 3)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from iclr_repro.loki.baselines import baseline_model, with_adapter
from iclr_repro.loki.config import LokiConfig
from iclr_repro.loki.selection import Positions, Strategy

# Row methods: which strategy gives the rows.
ROW_STRATEGIES: dict[str, Strategy] = {
    "loki": "layer_balanced",
    "random": "random",
    "high": "high",
    "abs_low": "abs_low",
    "global_low": "global_low",
    "global_high": "global_high",
    "loki_lora": "layer_balanced",
}
GLOBAL = ("global_low", "global_high")
_CHANGING_THE_BASE = ("pissa", "corda")
METHODS = ("full", "lora", "dora", "pissa", "corda", *ROW_STRATEGIES)


def method_model(
    method: str,
    model: nn.Module,
    *,
    rows: Positions | None,
    quota: float | None = None,
    r: int,
    alpha: float,
    loki_r: int,
    preserve: Callable[[], Any],
) -> nn.Module:
    """Return a model ready for training by a method; the model given is changed in place.

    What is trained is in float32, whatever the model's precision: updates at small rates are lost in bf16.

    Args:
        method: one of `METHODS`.
        model: pretrained.
        rows: of the row methods; None for the others.
        quota: q in percent that gave them, for the record.
        r: rank of the low-rank baselines.
        alpha: their updates are scaled by alpha / r.
        loki_r: rank of `loki_lora`, whose alpha is twice that.
        preserve: see `baseline_model`.
    """
    if rows is None:
        adapted = baseline_model(method, model, r=r, alpha=alpha, preserve=preserve)  # type: ignore[arg-type]
        return (
            adapted.to(torch.promote_types(next(model.parameters()).dtype, torch.float32))
            if method == "full"
            else adapted
        )
    rank = loki_r if method == "loki_lora" else None
    config = LokiConfig(
        active_pos=rows,
        quota=quota,
        strategy=ROW_STRATEGIES[method],
        lora_r=rank,
        lora_alpha=2.0 * (rank or 1),
        task_type="CAUSAL_LM",
    )
    return with_adapter(model, config)


IN_FIRST_LAYERS = "as if its rows were in the first layers"  # what is told of a choice that attributions decide on


def without_values(method: str) -> str:
    """Return the method that makes the same shapes and needs no weights to look at: LoRA for PiSSA and CorDA."""
    return "lora" if method in _CHANGING_THE_BASE else method


@contextmanager
def adapter_kept(model: Any, method: str, folder: Path) -> Iterator[None]:
    """Save the adapter of a model that is trained within the context, so that it fits the public weights.

    PiSSA and CorDA change the base weights: theirs becomes a LoRA of twice the rank, the difference from what the
    adapter was when the context was entered. Full fine-tuning has none.
    """
    initial = folder / "initial"  # peft names an adapter after it, which cannot have a dot
    if method in _CHANGING_THE_BASE:
        model.save_pretrained(initial)
    yield
    if method in _CHANGING_THE_BASE:
        model.peft_config["default"].corda_config = None  # the difference is a plain LoRA
        with warnings.catch_warnings():  # peft advises the conversion that this is
            warnings.filterwarnings("ignore", message=".*changes the base weights of the model", category=UserWarning)
            model.save_pretrained(folder, path_initial_model_for_weight_conversion=str(initial))
    elif method != "full":
        model.save_pretrained(folder)
