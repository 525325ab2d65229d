"""What LoKI is compared with: full fine-tuning, and LoRA, DoRA, PiSSA and CorDA by peft (sheet 3)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from torch import nn

Baseline = Literal["full", "lora", "dora", "pissa", "corda"]


def baseline_model(
    name: Baseline,
    model: nn.Module,
    *,
    r: int,
    alpha: float,
    preserve: Callable[[], Any],
) -> nn.Module:
    """Return a model ready for training by a baseline; the model given is changed in place.

    The low-rank updates are of all linear layers but the head, which is what the counts in the paper fit.

    Args:
        name: `full` trains every weight; `lora`, `dora`, `pissa` and `corda` (knowledge-preserved mode) are peft's.
        model: pretrained.
        r: rank of the low-rank updates.
        alpha: they are scaled by alpha / r.
        preserve: runs the model over samples whose knowledge CorDA is to keep (the covariance is taken meanwhile).
    """
    if name == "full":
        return model.requires_grad_()
    targets = _linear_layers(model)
    options: dict[str, Any] = {"r": r, "lora_alpha": alpha, "target_modules": targets, "task_type": "CAUSAL_LM"}
    if name == "dora":
        options["use_dora"] = True
    elif name == "pissa":
        options["init_lora_weights"] = "pissa"
    elif name == "corda":
        options |= {"init_lora_weights": "corda", "corda_config": CordaConfig(corda_method="kpm")}
    config = LoraConfig(**options)
    if name == "corda":
        with torch.no_grad():
            preprocess_corda(model, config, run_model=preserve)
    return with_adapter(model, config)


def with_adapter(model: nn.Module, config: PeftConfig) -> PeftModel:
    """Return `peft.get_peft_model(model, config)`."""
    with without_old_names():
        return get_peft_model(model, config)


@contextmanager
def without_old_names() -> Iterator[None]:
    """Keep the user from the warning that peft 0.21 causes by asking transformers 5 for an attribute's old name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def _linear_layers(model: Any) -> list[str]:
    """Return the last parts of the names of all linear layers but the head (CorDA does not know "all-linear")."""
    head = model.get_output_embeddings()
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head}
    return sorted({name.rpartition(".")[2] for name in linear})
