"""What a network takes: shapes, parameters and memory, found on torch's meta device, where tensors have no values.

A forward pass there takes neither memory nor time; what depends on values is as if all were valid and nothing padding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

_META = torch.device("meta")


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A network that an experiment trains or runs, described but not built.

    Attributes:
        name: which of the experiment's.
        build: makes the module, by the call that `run` makes; None: it is a hub's or saved, and not counted here.
        inputs: arguments of one forward pass by name, made by `example`: a batch of training where it is trained;
            without any it is counted and not run.
        forward: how `run` calls the module with them.
        is_trained: by gradient steps; the parameters that require a gradient.
        optimizer_slots: numbers that the optimizer keeps for each trained parameter; Adam 2, SGD 0.
        note: what the numbers leave out or assume.
    """

    name: str
    build: Callable[[], nn.Module] | None
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    forward: Callable[..., Any] = lambda module, **inputs: module(**inputs)
    is_trained: bool = True
    optimizer_slots: int = 2
    note: str = ""


@runtime_checkable
class WithNetworks(Protocol):
    """An experiment that tells its networks at its parameters; see `Experiment`."""

    def networks(self) -> Iterable[Network]:
        """Describe them; no weights are allocated, no data read, no stream of a run drawn from."""
        ...


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What a network takes, before loss, temporary results, data and what the libraries themselves hold.

    Attributes:
        inputs: shape of each input.
        outputs: shape of each output; None: it is not run, or needs values, which a meta tensor does not have.
        num_parameters: numbers; one that several modules share counts once.
        num_trained: those that a gradient step changes.
        weights_bytes: of parameters and buffers.
        gradients_bytes: of trained parameters.
        optimizer_bytes: the optimizer's state.
        activations_bytes: what the forward pass keeps for the backward pass, each storage once and without the weights;
            of `scaled_dot_product_attention` what fused kernels keep. 0 where nothing is trained; None: as `outputs`.
        why_not: the error that stopped the forward pass; empty: none did.
    """

    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...] | None
    num_parameters: int
    num_trained: int
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int | None
    why_not: str = ""

    @property
    def total_bytes(self) -> int:
        """The sum of what is known."""
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes + (self.activations_bytes or 0)


def example(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a tensor of a shape and type without values, to say what a network is given."""
    return torch.empty(shape, dtype=dtype, device=_META)


def language_models(spec: str) -> list[Network]:
    """Name the language model of a specification, which is not counted; none where it names something else.

    Args:
        spec: "hf:<name>" or "local:<name>" for a model of a hub or a folder, "openai:<name>" for one at a server.
    """
    where = {
        "hf": "a hub's or a folder's model",
        "local": "a hub's or a folder's model",
        "openai": "it runs at a server",
    }
    backend, _, name = spec.partition(":")
    return [Network(name=name, build=None, note=where[backend])] if backend in where else []


def footprint(network: Network) -> Footprint:
    """Build a network on the meta device, run it forward once, and count; its tensors take no memory.

    Raises:
        ValueError: there is no way to build it, or it is trained on nothing.
        Exception: what `build` or `forward` raises, as it would in a run; but for asking a meta tensor for its values.

    Example: Linear(3, 4) -> ReLU on 2 rows, trained by Adam, has 16 parameters, 64 bytes of weights, 64 of gradients,
    128 of the optimizer, and keeps the 2 x 3 inputs and the 2 x 4 outputs of ReLU: 56 bytes.
    """
    if network.build is None:
        raise ValueError(f"network {network.name!r} has no way to build it: its shape is not known here")
    if network.is_trained and not network.inputs:
        raise ValueError(f"network {network.name!r} is trained, but has no inputs: give those of an update")
    with torch.random.fork_rng(devices=[]), _META:
        module = network.build().to(_META).train(network.is_trained)
        trained = [weights for weights in module.parameters() if network.is_trained and weights.requires_grad]
        held = [*module.parameters(), *module.buffers()]
        outputs, activations, why_not = _forward(network, module, held)
    gradients = sum(_num_bytes(weights) for weights in trained)
    return Footprint(
        inputs=tuple(tuple(one.shape) for one in network.inputs.values()),
        outputs=outputs,
        num_parameters=sum(weights.numel() for weights in module.parameters()),
        num_trained=sum(weights.numel() for weights in trained),
        weights_bytes=sum(_num_bytes(one) for one in held),
        gradients_bytes=gradients,
        optimizer_bytes=network.optimizer_slots * gradients,
        activations_bytes=activations,
        why_not=why_not,
    )


def _forward(
    network: Network, module: nn.Module, held: Iterable[Tensor]
) -> tuple[tuple[tuple[int, ...], ...] | None, int | None, str]:
    """Return the shapes of the outputs, the bytes kept for the backward pass, and the error that prevented it."""
    # By identity of the storages, which are kept here: the place of one that is freed may be given to another.
    weights = {one.untyped_storage()._cdata for one in held}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor.new_empty(0)  # there is no backward pass

    if not network.inputs:
        return None, None, ""
    try:
        with (
            torch.set_grad_enabled(network.is_trained),
            saved_tensors_hooks(keep, lambda kept: kept),
            _OnMeta(),
        ):
            outputs = network.forward(module, **network.inputs)
    except RuntimeError as error:
        if "meta" not in str(error).lower():  # torch names the device where values are asked for
            raise
        return None, None, str(error).partition("\n")[0]
    return tuple(_shapes(outputs)), sum(storage.nbytes() for storage in kept.values()), ""


class _OnMeta(TorchFunctionMode):
    """Lets a forward pass run as it would with values in order, and keep what it would keep on a CPU or GPU.

    Checks of all values are told that all are right, or that none is wrong; whatever else asks for values fails.

    Attention keeps queries, keys, values, outputs and a number a query, as the fused kernels do; on the meta device
    torch would take the path that keeps all weights. Calls that no fused kernel takes are left to it: other than four
    axes, or heads of values that are not those of queries; and those with more than these three in their places. So is
    the attention within `torch.nn.MultiheadAttention`, which no mode reaches: its weights are counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self._answers: list[tuple[Tensor, bool]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.__bool__:
            for asked, answer in self._answers:
                if asked is args[0]:
                    return answer
        if func is F.scaled_dot_product_attention and len(args) == 3:
            query, _, value = args
            if query.ndim == 4 and query.shape[-1] == value.shape[-1]:
                options = {name: kwargs[name] for name in ("is_causal", "attn_mask", "scale") if name in kwargs}
                # Private, for want of a public call; without it (seen in torch 2.13) the weights are counted.
                return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args, **options)[0]
        result = func(*args, **kwargs)
        if func in (Tensor.all, torch.all, Tensor.any, torch.any):
            self._answers.append((result, func in (Tensor.all, torch.all)))
        return result


def _shapes(value: Any) -> Iterator[tuple[int, ...]]:
    """Yield the shapes of the tensors among a module's outputs, however they are nested."""
    if isinstance(value, Tensor):
        yield tuple(value.shape)
    elif isinstance(value, Mapping):
        yield from _shapes(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _shapes(one)
    elif dataclasses.is_dataclass(value):
        yield from _shapes(list(vars(value).values()))


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
