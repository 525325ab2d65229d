"""What a network takes, counted on the meta device: by hand, and against what a real forward pass keeps."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F  # noqa: N812

from iclr_repro.core.footprint import Network, WithNetworks, example, footprint, language_models


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


class Attention(nn.Module):
    """Two heads of four, from one projection of eight features."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.projection(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class Checked(nn.Module):
    """Refuses inputs by their values, in the ways of our code and of libraries."""

    def __init__(self, also: Callable[[Tensor], object] = lambda x: None) -> None:
        super().__init__()
        self.linear, self.also = nn.Linear(3, 3), also

    def forward(self, x: Tensor) -> Tensor:
        if bool((x < 0).any()) or not torch.isfinite(x).all():
            raise ValueError("x is wrong")
        self.also(x)
        out: Tensor = self.linear(x)
        return out


def kept_by_a_real_pass(module: nn.Module, inputs: Iterable[Tensor]) -> int:
    """Bytes that a forward pass on the CPU keeps, each storage once, without parameters and buffers."""
    own = {one.untyped_storage().data_ptr() for one in (*module.parameters(), *module.buffers())}
    held: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = module.train()(*inputs)
    assert outputs.requires_grad
    return sum(storage.nbytes() for storage in held.values())


def test_an_mlp_takes_what_counting_by_hand_gives() -> None:
    found = footprint(Network(name="mlp", build=mlp, inputs={"input": example(5, 3)}))
    parameters = (3 * 4 + 4) + (4 * 2 + 2)
    assert (found.num_parameters, found.num_trained) == (parameters, parameters)
    assert (found.weights_bytes, found.gradients_bytes, found.optimizer_bytes) == (
        4 * parameters,
        4 * parameters,
        8 * parameters,
    )
    assert found.activations_bytes == 4 * (5 * 3 + 5 * 4), "inputs, and ReLU's outputs, which the second layer shares"
    assert (found.inputs, found.outputs, found.why_not) == (((5, 3),), ((5, 2),), "")
    assert found.total_bytes == 16 * parameters + 4 * 35


def test_the_example_of_the_docstring_holds() -> None:
    network = Network(
        name="one", build=lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU()), inputs={"input": example(2, 3)}
    )
    found = footprint(network)
    assert (found.num_parameters, found.weights_bytes, found.gradients_bytes) == (16, 64, 64)
    assert (found.optimizer_bytes, found.activations_bytes) == (128, 56)


def test_frozen_parameters_are_weights_only_and_what_is_before_them_is_not_kept() -> None:
    def frozen_first() -> nn.Sequential:
        model = mlp()
        model[0].requires_grad_(False)
        return model

    found = footprint(Network(name="half", build=frozen_first, inputs={"input": example(5, 3)}))
    assert (found.num_parameters, found.num_trained) == (26, 10)
    assert (found.weights_bytes, found.gradients_bytes, found.optimizer_bytes) == (104, 40, 80)
    assert found.activations_bytes == 4 * 5 * 4


def test_what_is_not_trained_has_no_gradients_and_keeps_nothing() -> None:
    found = footprint(Network(name="frozen", build=mlp, inputs={"input": example(5, 3)}, is_trained=False))
    assert (found.num_parameters, found.num_trained, found.total_bytes) == (26, 0, 4 * 26)
    assert found.outputs == ((5, 2),)


def test_the_optimizer_has_the_slots_that_are_stated() -> None:
    found = footprint(Network(name="sgd", build=mlp, inputs={"input": example(5, 3)}, optimizer_slots=0))
    assert found.optimizer_bytes == 0


def test_buffers_are_weights_and_shared_parameters_count_once() -> None:
    def tied() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
        model[2].weight = model[0].weight
        return model

    found = footprint(Network(name="tied", build=tied, inputs={"input": example(5, 4)}))
    assert found.num_parameters == 16 + 4 + 4 + (4 + 4)
    assert found.weights_bytes == 4 * found.num_parameters + 4 * (4 + 4) + 8, "running mean, variance and their number"


def test_half_precision_takes_half() -> None:
    found = footprint(
        Network(name="bf16", build=lambda: mlp().bfloat16(), inputs={"input": example(5, 3, dtype=torch.bfloat16)})
    )
    assert (found.weights_bytes, found.activations_bytes) == (2 * 26, 2 * 35)


@pytest.mark.parametrize(
    ("build", "shape"),
    [(mlp, (5, 3)), (Attention, (2, 100, 8)), (lambda: nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 3)), (7, 3))],
)
def test_activations_are_those_that_a_real_pass_on_the_cpu_keeps(
    build: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    name = "x" if build is Attention else "input"
    found = footprint(Network(name="one", build=build, inputs={name: example(*shape)}))
    assert found.activations_bytes == kept_by_a_real_pass(build(), [torch.randn(shape)])


def test_fused_attention_keeps_memory_that_is_linear_in_the_tokens() -> None:
    few, many = (
        footprint(Network(name="one", build=Attention, inputs={"x": example(1, tokens, 8)})).activations_bytes
        for tokens in (100, 10_000)
    )
    assert few == 4 * 100 * (8 + 24 + 8 + 2), "inputs, queries, keys and values, outputs, and a number a query and head"
    assert many == 100 * few


def test_a_hundred_billion_parameters_allocate_nothing_and_draw_nothing() -> None:
    state, before = torch.get_rng_state(), psutil.Process(os.getpid()).memory_info().rss
    found = footprint(Network(name="vast", build=lambda: nn.Linear(10**6, 10**5), inputs={"input": example(8, 10**6)}))
    assert found.num_parameters == 10**11 + 10**5
    assert found.outputs == ((8, 10**5),)
    assert psutil.Process(os.getpid()).memory_info().rss - before < 2**28
    assert torch.equal(torch.get_rng_state(), state)


def test_checks_of_values_pass_and_other_questions_are_told_as_the_reason() -> None:
    inputs = {"x": example(5, 3)}
    assert footprint(Network(name="checked", build=Checked, inputs=inputs)).outputs == ((5, 3),)

    def asking(also: Callable[[Tensor], object]) -> Any:
        return footprint(Network(name="asking", build=lambda: Checked(also), inputs=inputs))

    for question in (lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: bool(x.sum() > 0)):
        found = asking(question)
        assert found.why_not
        assert (found.outputs, found.activations_bytes, found.num_parameters) == (None, None, 12)


def test_what_a_module_refuses_is_not_taken_for_missing_values() -> None:
    with pytest.raises(TypeError, match="unexpected keyword"):
        footprint(Network(name="wrong", build=mlp, inputs={"x": example(5, 3)}))
    with pytest.raises(RuntimeError, match=r"same reduction dim|cannot be multiplied"):
        footprint(Network(name="wrong", build=mlp, inputs={"input": example(5, 4)}))


def test_outputs_are_found_however_they_are_nested() -> None:
    network = Network(
        name="nested",
        build=mlp,
        inputs={"input": example(5, 3)},
        forward=lambda module, input: {"logits": module(input), "others": [input, (module(input).mean(), "text")]},
    )
    assert footprint(network).outputs == ((5, 2), (5, 3), ())


def test_a_network_without_a_builder_or_trained_on_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="network 'far' has no way to build it"):
        footprint(Network(name="far", build=None))
    with pytest.raises(ValueError, match="network 'idle' is trained, but has no inputs: give those of an update"):
        footprint(Network(name="idle", build=mlp))
    found = footprint(Network(name="counted", build=mlp, is_trained=False))
    assert (found.num_parameters, found.outputs, found.why_not) == (26, None, "")


def test_language_models_are_named_and_rules_are_none() -> None:
    (network,) = language_models("hf:Qwen/Qwen2.5-7B-Instruct")
    assert (network.name, network.build, network.note) == (
        "Qwen/Qwen2.5-7B-Instruct",
        None,
        "a hub's or a folder's model",
    )
    assert language_models("openai:gpt-4o-mini")[0].note == "it runs at a server"
    assert language_models("rules") == language_models("untrained") == []


def test_an_experiment_with_a_method_networks_is_known_by_it() -> None:
    class Has:
        def networks(self) -> list[Network]:
            return []

    assert isinstance(Has(), WithNetworks)
    assert not isinstance(object(), WithNetworks)


def test_attention_that_is_called_by_keywords_is_left_to_torch() -> None:
    def forward(_: nn.Module, query: Tensor, key: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query=query, key=key, value=key)

    inputs = {name: example(1, 2, 5, 4) for name in ("query", "key")}
    assert footprint(Network(name="named", build=mlp, inputs=inputs, forward=forward)).outputs == ((1, 2, 5, 4),)
