import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from iclr_repro.entropy_linear_attention import (
    ELinFormer,
    EntropyLinearAttention,
    InvertedForecaster,
    MultiheadAttention,
    attainment_report,
    attention_entropy_report,
    attention_layers,
    convert_attention,
    entropy_equality,
    entropy_estimate,
    relative_attention_entropy,
    softmax_entropy,
)
from iclr_repro.entropy_linear_attention.conversion import observed_attention
from iclr_repro.entropy_linear_attention.layers import projected_heads
from iclr_repro.entropy_linear_attention.mechanisms import EntropyEquality, Softmax


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def host(attention: str = "softmax") -> ELinFormer:
    sizes: dict[str, Any] = {
        "input_dim": 4,
        "tod_dim": 4,
        "dow_dim": 4,
        "adaptive_dim": 4,
        "ffn_dim": 8,
        "num_heads": 2,
    }
    return ELinFormer(
        6, **sizes, temporal_layers=1, spatial_layers=2, attention=attention, generator=torch.Generator(), dropout=0.0
    )


def window() -> Tensor:
    x = torch.rand(2, 12, 6, 3)
    x[..., 2] = 3
    return x


def test_conversion_keeps_all_weights_and_the_original() -> None:
    model = host()
    converted = convert_attention(model)
    assert all(isinstance(layer.mechanism, EntropyEquality) for layer in attention_layers(converted).values())
    assert all(isinstance(layer.mechanism, Softmax) for layer in attention_layers(model).values())
    for (name, a), (other, b) in zip(model.state_dict().items(), converted.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(a, b)
    assert not torch.allclose(model(window()), converted(window()))


def test_only_the_named_layers_are_converted() -> None:
    converted = convert_attention(host(), layers=["spatial.1.attention"])
    kinds = {name: type(layer.mechanism) for name, layer in attention_layers(converted).items()}
    assert kinds == {
        "temporal.0.attention": Softmax,
        "spatial.0.attention": Softmax,
        "spatial.1.attention": EntropyEquality,
    }


@pytest.mark.parametrize("solver", ["collision", "fixed"])
def test_torch_layers_become_the_drop_in_with_their_weights(solver: str) -> None:
    model = InvertedForecaster(num_steps=12, horizon=3, dim=8, num_heads=2, ffn_dim=8).eval()
    converted = convert_attention(model, solver=solver)
    layers = attention_layers(converted)
    before: Any = dict(model.named_modules())
    assert len(layers) == 2
    for name, layer in layers.items():
        assert isinstance(layer, EntropyLinearAttention)
        assert torch.equal(layer.in_proj_weight, before[name].in_proj_weight)
        assert not layer.training
    assert converted(window()).shape == (2, 3, 6)


def test_a_layer_on_its_own_is_converted() -> None:
    assert isinstance(convert_attention(nn.MultiheadAttention(8, 2, batch_first=True)), EntropyLinearAttention)


def test_conversion_with_identity_features_is_close_where_scores_are_small() -> None:
    layer = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x = 0.1 * torch.randn(2, 30, 8)
    expected = layer(x, x, x, need_weights=False)[0]
    found = convert_attention(layer, feature_map="identity", solver="shannon2")(x, x, x)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_report_has_the_exact_quantities_of_each_head() -> None:
    model = host().double()
    x = window().double()
    report = attention_entropy_report(model, x, generator=torch.Generator(), num_queries=100)
    assert list(report.index.get_level_values("layer").unique()) == list(attention_layers(model))
    layer: Any = attention_layers(model)["spatial.0.attention"]
    seen = []
    hook = layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    model.eval()(x)
    hook.remove()
    q, k, _ = (part.detach() for part in projected_heads(layer, *seen[0]))
    for head in range(2):
        row = report.loc["spatial.0.attention", head]
        exact = softmax_entropy(q[:, head], k[:, head])
        assert row["entropy"] == pytest.approx(float(exact.mean()))
        assert row["entropy_gauss2"] == pytest.approx(float(entropy_estimate(q[:, head], k[:, head]).mean()))
        assert row["deficit"] == pytest.approx(math.log(6) - row["entropy"])
        assert row["num_keys"] == 6
        assert 0 <= row["attainment"] <= 1
        assert 0 <= row["dead"] <= 1


def test_report_sees_torch_layers_in_evaluation_mode_and_leaves_the_model_as_it_was() -> None:
    model = InvertedForecaster(num_steps=12, horizon=3, dim=8, num_heads=2, ffn_dim=8)
    before = torch.backends.mha.get_fastpath_enabled()
    report = attention_entropy_report(model, window(), generator=torch.Generator())
    assert len(report) == 4
    assert model.training
    assert torch.backends.mha.get_fastpath_enabled() == before
    assert not any(layer._forward_pre_hooks for layer in attention_layers(model).values())


def test_report_leaves_padding_out() -> None:
    layer, x = MultiheadAttention(8, 2, Softmax()), torch.randn(1, 6, 8)
    padding = torch.tensor([[False] * 4 + [True] * 2])

    class Host(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, query: Tensor, key: Tensor, padding: Tensor | None) -> None:
            self.layer(query, key, key, key_padding_mask=padding)

    masked = attention_entropy_report(Host(), x, x, padding, generator=torch.Generator())
    alone = attention_entropy_report(Host(), x, x[:, :4], None, generator=torch.Generator())
    assert masked["num_keys"].tolist() == [4.0, 4.0]
    torch.testing.assert_close(torch.tensor(masked.to_numpy()), torch.tensor(alone.to_numpy()), rtol=1e-5, atol=1e-6)


def test_relative_entropy_is_one_for_uniform_attention_and_less_for_softmax() -> None:
    x = window()
    found = relative_attention_entropy(host("uniform"), x, generator=torch.Generator())
    assert found == pytest.approx(dict.fromkeys(found, 1.0))
    sharp = host("softmax_t0.25")
    for layer in attention_layers(sharp).values():
        layer.in_proj_weight.data *= 6
    assert max(relative_attention_entropy(sharp, x, generator=torch.Generator()).values()) < 0.97


def test_sampled_queries_keep_their_positions() -> None:
    """CosFormer's weights depend on the places of queries: those of a sample must be those they have among all."""
    model, x, layer = host("cosformer").double(), window().double(), "temporal.0.attention"
    for seed in range(3):
        sample: dict[str, Any] = {"generator": torch.Generator().manual_seed(seed), "num_queries": 1}
        found = relative_attention_entropy(model, x, **sample)[layer]
        seen = observed_attention(model, x, generator=torch.Generator().manual_seed(seed), num_queries=1)[layer]
        (place,) = seen.chosen.tolist()
        nearness = torch.cos(math.pi / 2 / 12 * (place - torch.arange(12)))
        weights = (seen.q[..., place, None, :].relu() * seen.k.relu()).sum(dim=-1) * nearness
        weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-6)
        assert found == pytest.approx(float(torch.special.entr(weights).sum(dim=-1).mean()) / math.log(12))


@pytest.mark.parametrize("solver", ["collision", "fixed"])
def test_attainment_is_that_of_the_models_own_layers(solver: str) -> None:
    model = host(f"eala_{solver}").double()
    x = window().double()
    for one in attention_layers(model).values():
        one.in_proj_weight.data *= 6
    report = attainment_report(model, x, generator=torch.Generator(), num_queries=12)
    assert list(report.index) == list(attention_layers(model))
    layer: Any = attention_layers(model)["spatial.0.attention"]
    seen = observed_attention(model, x, generator=torch.Generator(), num_queries=12)["spatial.0.attention"]
    equal = entropy_equality(seen.q, seen.k, solver=solver, theta=layer.mechanism.theta)
    assert report.at["spatial.0.attention", "attainment"] == pytest.approx(float((equal.theta > 0).double().mean()))
    assert report.at["spatial.0.attention", "dead"] == pytest.approx(float((seen.q.amax(dim=-1) <= 0).double().mean()))
    if solver == "collision":
        assert 0 < report.at["spatial.0.attention", "attainment"] < 1
    assert attainment_report(host(), window(), generator=torch.Generator()).empty


def test_report_has_the_temperature_of_the_layer() -> None:
    model = host("softmax_t4").double()
    x = window().double()
    row = attention_entropy_report(model, x, generator=torch.Generator(), feature_map="identity").loc[
        "spatial.0.attention", 1
    ]
    seen = observed_attention(model, x, generator=torch.Generator())["spatial.0.attention"]
    exact = softmax_entropy(seen.q[:, 1], seen.k[:, 1], feature_map="identity", scale=1 / (math.sqrt(8) * 4))
    assert row["entropy"] == pytest.approx(float(exact.mean()), rel=1e-12)


def test_what_cannot_be_converted_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"layers: the model has no attention layer \['spatial.7'\]; it has \['temporal.0"
    ):
        convert_attention(host(), layers=["spatial.7"])
    with pytest.raises(ValueError, match=r"layers: got None of the model.s attention layers \[\]: nothing to"):
        convert_attention(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="layer '' adds keys of its own"):
        convert_attention(nn.MultiheadAttention(4, 2, add_bias_kv=True))
    with pytest.raises(ValueError, match="the model has 0 attention layers and num_queries is 64: expected >= 1"):
        attention_entropy_report(nn.Linear(2, 2), torch.ones(2, 2), generator=torch.Generator())


@pytest.mark.parametrize("fused", [False, True])
def test_conversion_keeps_the_temperature_of_softmax(fused: bool) -> None:
    layer = MultiheadAttention(8, 2, Softmax(fused=fused, temperature=4.0)).eval()
    converted: Any = convert_attention(layer, feature_map="identity")
    assert converted.mechanism.scale == pytest.approx(1 / (math.sqrt(4) * 4.0))
    x = 0.5 * torch.randn(2, 30, 8)
    torch.testing.assert_close(converted(x, x, x)[0], layer(x, x, x)[0], rtol=0, atol=2e-3)
    default: Any = convert_attention(MultiheadAttention(8, 2, Softmax(fused=fused)))
    assert default.mechanism.scale is None


@pytest.mark.parametrize("attention", ["linear_elu", "eala_collision", "uniform"])
def test_a_layer_that_is_no_softmax_is_not_converted(attention: str) -> None:
    with pytest.raises(
        ValueError, match=r"layer 'temporal.0.attention' has the mechanism \w+, expected Softmax, whose"
    ):
        convert_attention(host(attention))
