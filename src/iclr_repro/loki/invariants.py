"""What must hold exactly: attributions against a direct loop, completeness, and what an adapter may change.

Shape letters: B = samples, T = tokens, L = layers, d = rows.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from iclr_repro.loki.attribution import attribute
from iclr_repro.loki.baselines import with_adapter, without_old_names
from iclr_repro.loki.config import LokiConfig
from iclr_repro.loki.decoder import dense_rows, down_projections
from iclr_repro.loki.selection import Positions


def attribution_by_loop(
    model: LlamaForCausalLM, input_ids: Tensor, *, steps: int, rule: Literal["right", "left"]
) -> Tensor:
    """Return the attributions [B, L, d] as eqs. 2-5 read: one sample, one layer, one point at a time.

    The injection is an edit of the last position in place; nothing is shared with `attribute`.
    """
    model.requires_grad_(False)
    projections = [layer.mlp.down_proj for layer in model.model.layers]
    found = torch.zeros(len(input_ids), len(projections), model.config.hidden_size, dtype=model.dtype)
    for sample, ids in enumerate(input_ids[:, None]):
        target, natural_Ld = _target_and_outputs(model, projections, ids)
        for layer, module in enumerate(projections):
            for k in range(steps):
                point = (k + 1) / steps if rule == "right" else k / steps
                injected = (point * natural_Ld[layer]).requires_grad_()
                probability = _probability_with(model, module, ids, injected)[target]
                (gradient,) = torch.autograd.grad(probability, injected)
                found[sample, layer] += natural_Ld[layer] * gradient / steps
    return found


@torch.no_grad()
def _target_and_outputs(model: nn.Module, projections: Sequence[nn.Module], ids: Tensor) -> tuple[int, Tensor]:
    outputs: list[Tensor] = []
    handles = [module.register_forward_hook(lambda m, i, y: outputs.append(y[0, -1].clone())) for module in projections]
    target = int(model(input_ids=ids).logits[0, -1].argmax())
    for handle in handles:
        handle.remove()
    return target, torch.stack(outputs)


def _probability_with(model: nn.Module, module: nn.Module, ids: Tensor, injected: Tensor) -> Tensor:
    """Return the probabilities of the next token with the last position of a module's output replaced."""

    def edit(m: nn.Module, i: object, y: Tensor) -> Tensor:
        edited = y.clone()
        edited[0, -1] = injected
        return edited

    handle = module.register_forward_hook(edit)
    probabilities: Tensor = model(input_ids=ids).logits[0, -1].softmax(dim=-1)
    handle.remove()
    return probabilities


def attribution_violations(model: LlamaForCausalLM, input_ids: Tensor, *, steps: int) -> dict[str, float]:
    """Return the largest deviations of attributions from the direct loop, and from completeness (32 Gauss points).

    Keys: `<rule>_plain`, `<rule>_fast` for right and left; `trapezoid`; `completeness`; `batching`. `are_large` is no
    violation: 1 if the largest attribution is above 0.01, so that agreement means something.
    """
    found: dict[str, float] = {}
    values: dict[str, Tensor] = {}
    rules: tuple[Literal["right", "left"], ...] = ("right", "left")
    for rule in rules:
        loop = attribution_by_loop(model, input_ids, steps=steps, rule=rule)
        for name, reuse in (("plain", False), ("fast", True)):
            got = attribute(model, input_ids, steps=steps, rule=rule, reuse_prefix=reuse).values
            found[f"{rule}_{name}"] = float((got - loop).abs().max())
        values[rule] = got
    trapezoid = attribute(model, input_ids, steps=steps, rule="trapezoid").values
    found["trapezoid"] = float((trapezoid - (values["right"] + values["left"]) / 2).abs().max())
    exact = attribute(model, input_ids, steps=32, rule="gauss")
    gaps = []
    for layer, projection in enumerate(down_projections(model)):
        zeroed = _probability_without(model, projection.module, input_ids, exact.target)
        gaps.append(_largest(exact.values[:, layer].sum(dim=-1) - (exact.probability - zeroed)))
    found["completeness"] = float(np.max(gaps))  # NaN stays NaN
    found["are_large"] = float(exact.values.abs().max() > 0.01)
    alone = torch.cat([attribute(model, ids[None], steps=steps).values for ids in input_ids])
    found["batching"] = float((alone - values["right"]).abs().max())
    return found


@torch.no_grad()
def _probability_without(model: nn.Module, module: nn.Module, input_ids: Tensor, target: Tensor) -> Tensor:
    def zero(m: nn.Module, i: object, y: Tensor) -> Tensor:
        y = y.clone()
        y[:, -1] = 0.0
        return y

    handle = module.register_forward_hook(zero)
    probabilities: Tensor = model(input_ids=input_ids).logits[:, -1].softmax(dim=-1)
    handle.remove()
    return probabilities.gather(1, target[:, None])[:, 0]


def adapter_violations(
    model: LlamaForCausalLM, positions: Positions, input_ids: Tensor, *, steps: int, lora_r: int | None = None
) -> dict[str, float]:
    """Train a copy with AdamW and weight decay; return what an adapter broke, 0 or up to rounding.

    Keys: `moved_elsewhere`: parameters that changed outside the selected rows; `unmoved_rows`: selected rows that did
    not change (an adapter that does nothing); `loss_rise`: 1 if the loss did not fall; `start`: logits before
    training against the base model; `gradient`: of the rows against the dense weight's; `saved`, `merged`, `unmerged`,
    `disabled`: logits after a round trip.
    """
    config = LokiConfig(active_pos=positions, lora_r=lora_r, task_type="CAUSAL_LM")
    base = copy.deepcopy(model)
    adapted = with_adapter(copy.deepcopy(model), config)
    untuned = _logits(base, input_ids)
    found = {"start": _largest(_logits(adapted, input_ids) - untuned)}
    if lora_r is None:
        found["gradient"] = _gradient_deviation(base, adapted, input_ids)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = adapted(input_ids=input_ids, labels=input_ids).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    found["loss_rise"] = float(not losses[-1] < losses[0])  # NaN counts as a rise
    tuned = _logits(adapted, input_ids)
    with adapted.disable_adapter():
        found["disabled"] = _largest(_logits(adapted, input_ids) - untuned)
    adapted.merge_adapter()
    adapted.unmerge_adapter()
    found["unmerged"] = _largest(_logits(adapted, input_ids) - tuned)
    with tempfile.TemporaryDirectory() as folder:
        adapted.save_pretrained(folder)
        with without_old_names():
            loaded = PeftModel.from_pretrained(copy.deepcopy(model), folder)
    found["saved"] = _largest(_logits(loaded, input_ids) - tuned)
    merged = loaded.merge_and_unload()
    found["merged"] = _largest(_logits(merged, input_ids) - tuned)
    return found | _moved(model, merged, positions)


def _moved(before: nn.Module, after: nn.Module, positions: Positions) -> dict[str, float]:
    old, new = before.state_dict(), after.state_dict()
    elsewhere = float(old.keys() != new.keys())
    unmoved = 0.0
    selected = {f"{one.name}.weight": rows for one, rows in zip(down_projections(before), positions, strict=True)}
    for name, value in old.items():
        changed = value != new[name]
        if name in selected:
            unmoved += float((~changed[selected[name]].any(dim=1)).sum())
            changed[selected[name]] = False
        elsewhere += float(changed.sum())
    return {"moved_elsewhere": elsewhere, "unmoved_rows": unmoved}


def _gradient_deviation(base: nn.Module, adapted: PeftModel, input_ids: Tensor) -> float:
    base.requires_grad_()
    base(input_ids=input_ids, labels=input_ids).loss.backward()
    adapted(input_ids=input_ids, labels=input_ids).loss.backward()
    deviations = []
    layers = dict(adapted.base_model.model.named_modules())
    for projection in down_projections(base):
        layer = layers[projection.name]
        if hasattr(layer, "loki_index"):
            dense = dense_rows(projection.module)
            assert projection.module.weight.grad is not None
            gradient = projection.module.weight.grad if dense.is_contiguous() else projection.module.weight.grad.T
            rows = layer.loki_rows["default"]
            deviations.append(_largest(rows.grad - gradient[layer.loki_index["default"]]))
            rows.grad = None
    return float(np.max(deviations))


@torch.no_grad()
def _logits(model: nn.Module, input_ids: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=input_ids).logits
    return logits


def _largest(deviation: Tensor) -> float:
    return float(deviation.detach().abs().max())
