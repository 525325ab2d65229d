"""Knowledge vector attribution (KVA): how much each row of each down projection speaks for the model's own next token.

Shape letters: B = samples of equal length, T = tokens, L = layers, d = rows (hidden size), M = interpolation points.

Source: paper, eqs. 2-5, and the authors' first code, which has the factor z and reads the probability (sheet 2.1).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from iclr_repro.loki.decoder import DownProjection, down_projections

Rule = Literal["right", "left", "mid", "trapezoid", "gauss"]
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Attribution:
    """The attributions of some prompts of equal length.

    Attributes:
        values: [B, L, d], z times the mean gradient of the probability of `target`; the model's dtype.
        target: [B], the model's own most probable next token.
        probability: [B], of the target.
    """

    values: Float[Tensor, "B L d"]
    target: Int[Tensor, " B"]
    probability: Float[Tensor, " B"]


def interpolation_points(rule: Rule, steps: int) -> Points:
    """Return the points a_k in [0, 1] and their weights w_k, which add up to 1.

    right: k/m, k = 1..m (paper, eq. 5). left: k/m, k = 0..m-1 (the authors' code). mid: (k + 1/2)/m. trapezoid: the
    mean of left and right, m + 1 points. gauss: m-point Gauss-Legendre.

    Example: right, 2 steps is [(0.5, 0.5), (1.0, 0.5)].

    Raises:
        ValueError: an unknown rule, or fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"steps: got {steps}, expected >= 1 interpolation points")
    k = np.arange(steps)
    if rule == "right":
        points, weights = (k + 1) / steps, np.full(steps, 1 / steps)
    elif rule == "left":
        points, weights = k / steps, np.full(steps, 1 / steps)
    elif rule == "mid":
        points, weights = (k + 0.5) / steps, np.full(steps, 1 / steps)
    elif rule == "trapezoid":
        points = np.arange(steps + 1) / steps
        weights = np.full(steps + 1, 1 / steps)
        weights[[0, -1]] /= 2
    elif rule == "gauss":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        points, weights = (nodes + 1) / 2, weights / 2
    else:
        raise ValueError(f"rule: got {rule!r}, expected one of {', '.join(get_args(Rule))}")
    return list(zip(points.tolist(), weights.tolist(), strict=True))


def attribute(
    model: nn.Module,
    input_ids: Int[Tensor, "B T"],
    *,
    steps: int = 7,
    rule: Rule = "right",
    reuse_prefix: bool = True,
) -> Attribution:
    """Attribute the probability of the next token to the rows of every down projection.

    attr[l, j] = z[l, j] * sum_k w_k dP(a_k z[l]) / d(a_k z[l])[j]

    z[l] is the output of the down projection of layer l at the last position; P(v) is the probability of the model's
    own most probable next token when that output, and nothing else, is replaced by v. The baseline is 0.

    Args:
        model: a decoder in evaluation mode; its weights get no gradients and are left as they are.
        input_ids: prompts of equal length without padding.
        steps: m; the paper has 7.
        rule: see `interpolation_points`.
        reuse_prefix: compute only the last token, in the layers from l on, with keys and values of the earlier
            positions from one pass over the prompt. False: whole prompts through the whole model for every layer, as in
            the authors' code. Equal up to rounding.

    Raises:
        ValueError: a model without recognised down projections, prompts longer than its context, or a bad rule.
    """
    projections = down_projections(model)
    points = interpolation_points(rule, steps)
    check_prompt_length(model, input_ids.shape[1])
    with _frozen(model):
        if reuse_prefix and input_ids.shape[1] > 1:
            return _with_prefix(model, projections, input_ids, points)
        return _with_whole_prompts(model, projections, input_ids, points)


def check_prompt_length(model: nn.Module, length: int) -> None:
    """Refuse prompts without a token or longer than the positions that the model knows (ValueError)."""
    context = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if length < 1:
        raise ValueError("a prompt has no tokens, expected at least 1: leave it out")
    if context is not None and length > context:
        raise ValueError(
            f"a prompt has {length} tokens, the model's context holds 1 to {context}: shorten it or leave it out"
        )


def unpadded_prompts(input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]) -> list[list[int]]:
    """Return the tokens of left-padded prompts without their padding.

    Raises:
        ValueError: a prompt is padded on the right or is empty: its last position is no token of the prompt, and
            attributing it would score the padding.
    """
    for row, mask in enumerate(attention_mask.bool()):
        if not mask[-1] or (mask[:-1] & ~mask[1:]).any():
            raise ValueError(
                f"prompt {row} is padded on the right (or empty): expected padding on the left only; set"
                " tokenizer.padding_side = 'left'"
            )
    return [ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)]


def _with_whole_prompts(
    model: nn.Module, projections: Sequence[DownProjection], input_ids: Tensor, points: Points
) -> Attribution:
    """The plain version: for every layer, M copies of each prompt through the whole model."""
    size, length = input_ids.shape
    with torch.no_grad(), _recorded(projections, size) as z:
        target, probability = _most_probable(_next_token_logits(model, input_ids=input_ids))
    copies = input_ids.repeat_interleave(len(points), dim=0)
    values = []
    for projection, z_Bd in zip(projections, z, strict=True):
        injected, weights = _interpolated(z_Bd, points)
        with torch.enable_grad(), _injected(projection, injected, length):
            logits = _next_token_logits(model, input_ids=copies)
        values.append(_attributed(logits, target, injected, weights, z_Bd))
    return Attribution(torch.stack(values, dim=1), target, probability)


def _with_prefix(
    model: nn.Module, projections: Sequence[DownProjection], input_ids: Tensor, points: Points
) -> Attribution:
    """The fast version: the last token alone, from the injected layer on, beside cached keys and values."""
    size = len(input_ids)
    last = input_ids[:, -1:]
    with torch.no_grad():
        prefix = _cache(model, input_ids[:, :-1])
        with _recorded(projections, size) as z, _layer_outputs(projections) as outputs:
            logits = _next_token_logits(model, input_ids=last, past_key_values=_branch(prefix))
    target, probability = _most_probable(logits)
    prefix.batch_repeat_interleave(len(points))
    copies = last.repeat_interleave(len(points), dim=0)
    values = []
    for layer, (projection, z_Bd) in enumerate(zip(projections, z, strict=True)):
        injected, weights = _interpolated(z_Bd, points)
        below = [projection.block for projection in projections[:layer]]
        known = _repeated(outputs[layer - 1], len(points)) if layer else None
        with torch.enable_grad(), _injected(projection, injected, 1), _skipped(below, known):
            logits = _next_token_logits(model, input_ids=copies, past_key_values=_branch(prefix))
        values.append(_attributed(logits, target, injected, weights, z_Bd))
    return Attribution(torch.stack(values, dim=1), target, probability)


def _interpolated(z_Bd: Tensor, points: Points) -> tuple[Tensor, Tensor]:
    """Return a_k z as [B M, d] with gradient, and the weights [M]."""
    a_M, weights_M = (z_Bd.new_tensor(column) for column in zip(*points, strict=True))
    return (a_M[None, :, None] * z_Bd[:, None]).flatten(0, 1).requires_grad_(), weights_M


def _attributed(logits: Tensor, target: Tensor, injected: Tensor, weights_M: Tensor, z_Bd: Tensor) -> Tensor:
    """Return z times the weighted mean of the gradients, [B, d]."""
    num_points = len(weights_M)
    chosen = _probabilities(logits).gather(1, target.repeat_interleave(num_points)[:, None])
    (gradient,) = torch.autograd.grad(chosen.sum(), injected)
    mean_Bd = torch.einsum("m,bmd->bd", weights_M, gradient.unflatten(0, (-1, num_points)))
    return z_Bd * mean_Bd


def _most_probable(logits: Tensor) -> tuple[Tensor, Tensor]:
    probability, target = _probabilities(logits).max(dim=-1)
    return target, probability


def _probabilities(logits: Tensor) -> Tensor:
    """Softmax over the vocabulary, in float32 or better."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=-1)


def _next_token_logits(model: nn.Module, **inputs: Any) -> Tensor:
    """Return the logits at the last position, [batch, vocabulary]."""
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        inputs["logits_to_keep"] = 1  # a whole prompt's logits would fill the memory at large vocabularies
    logits: Tensor = model(**inputs, use_cache="past_key_values" in inputs).logits
    return logits[:, -1]


def _cache(model: nn.Module, input_ids: Tensor) -> Any:
    """Return the keys and values of all layers after a pass over tokens."""
    keep = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    return model(input_ids=input_ids, use_cache=True, **keep).past_key_values


def _branch(cache: Any) -> Any:
    """Return a cache that grows without changing the one given; both share what they hold so far.

    A dynamic cache layer binds new tensors when it grows and never writes into the old ones.
    """
    branch = copy.copy(cache)
    branch.layers = [copy.copy(layer) for layer in cache.layers]
    return branch


def _repeated(output: Any, number: int) -> Any:
    """Return a layer's output with each sample `number` times."""
    if isinstance(output, Tensor):
        return output.repeat_interleave(number, dim=0)
    return (output[0].repeat_interleave(number, dim=0), *output[1:])


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Keep the weights without gradients and the model in evaluation mode meanwhile."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_()
        for module in in_training:
            module.training = True


@contextmanager
def _recorded(projections: Sequence[DownProjection], size: int) -> Iterator[list[Tensor]]:
    """Collect the output of each down projection at the last position, [B, d] a layer.

    Some models (OPT) hand their feed-forward block the tokens of all samples in one row after the other.
    """
    found: list[Tensor] = []

    def record(module: nn.Module, inputs: Any, output: Tensor) -> None:
        found.append(output.unflatten(0, (size, -1))[:, -1] if output.ndim == 2 else output[:, -1])

    with _hooks((projection.module, record) for projection in projections):
        yield found


@contextmanager
def _layer_outputs(projections: Sequence[DownProjection]) -> Iterator[list[Any]]:
    """Collect what each decoder layer returns: hidden states [B, 1, d], or a tuple that begins with them."""
    found: list[Any] = []

    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        found.append(output)

    with _hooks((projection.block, record) for projection in projections):
        yield found


@contextmanager
def _injected(projection: DownProjection, injected: Tensor, length: int) -> Iterator[None]:
    """Replace the output of a down projection at the last of `length` positions; the others keep theirs."""

    def replace(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        by_sample = output.reshape(len(injected), length, -1)
        return torch.cat([by_sample[:, :-1], injected[:, None]], dim=1).reshape(output.shape)

    with _hooks([(projection.module, replace)]):
        yield


@contextmanager
def _hooks(pairs: Any) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _skipped(blocks: Sequence[nn.Module], known: Any) -> Iterator[None]:
    """Let decoder layers return what the last of them is known to return, without computing it."""
    own = [vars(block).get("forward") for block in blocks]  # what accelerate puts there for models in several places
    for block in blocks:
        block.forward = lambda *inputs, **options: known
    try:
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            del block.forward
            if forward is not None:
                block.forward = forward
