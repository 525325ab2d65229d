from typing import Any

import pytest
import torch
from torch import Tensor, nn

from iclr_repro.entropy_linear_attention import MECHANISMS, STID, ELinFormer, InvertedForecaster
from iclr_repro.entropy_linear_attention.host import TransformerBlock
from iclr_repro.entropy_linear_attention.training import initialised

SIZES = {"input_dim": 4, "tod_dim": 4, "dow_dim": 2, "adaptive_dim": 6, "ffn_dim": 8, "num_heads": 2}
LAYERS = {"temporal_layers": 1, "spatial_layers": 1}


def make(attention: str = "eala_collision", *, num_nodes: int = 5, **options: Any) -> Any:
    settings = {**SIZES, **LAYERS, "dropout": 0.0, **options}
    return initialised(
        lambda: ELinFormer(num_nodes, attention=attention, generator=torch.Generator(), **settings), seed=0
    )


def windows(num_nodes: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 12, num_nodes, 3, generator=generator)
    x[..., 2] = torch.randint(0, 7, (3, 12, num_nodes), generator=generator).float()
    return x


def test_the_default_is_the_hosts_own_size() -> None:
    model = ELinFormer(170, generator=torch.Generator())
    assert (len(model.temporal), len(model.spatial)) == (3, 3)
    block = model.spatial[0]
    assert isinstance(block, TransformerBlock)
    assert (block.attention.embed_dim, block.attention.num_heads, block.attention.head_dim) == (152, 4, 38)
    assert block.feed_forward[0].out_features == 256
    assert block.dropout.p == 0.1
    assert model.adaptive.shape == (12, 170, 80)
    assert (model.time_of_day.weight.shape, model.day_of_week.weight.shape) == ((288, 24), (7, 24))
    assert (model.read_out.in_features, model.read_out.out_features) == (12 * 152, 12)


def test_the_host_follows_its_equations() -> None:
    """The forward pass again, block by block, from the sheet: embeddings, time, nodes, read-out."""
    model, x = make("softmax"), windows()

    def block(layer: Any, h: Tensor) -> Tensor:
        h = layer.norm_attention(h + layer.attention(h, h, h)[0])
        return layer.norm_feed_forward(h + layer.feed_forward(h))

    slots = torch.floor(x[..., 1].double() * 288 + 1e-6).long()
    parts = [model.input_projection(x), model.time_of_day(slots), model.day_of_week(x[..., 2].long())]
    h = torch.cat([*parts, model.adaptive[None].repeat(3, 1, 1, 1)], dim=-1)
    h = torch.stack([block(model.temporal[0], h[:, :, n]) for n in range(5)], dim=2)
    h = torch.stack([block(model.spatial[0], h[:, t]) for t in range(12)], dim=1)
    expected = torch.stack([model.read_out(h[:, :, n].flatten(1)) for n in range(5)], dim=2)
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("attention", [*MECHANISMS, "none"])
def test_every_attention_learns_in_the_host(attention: str) -> None:
    model, x = make(attention), windows()
    out = model(x)
    assert out.shape == (3, 12, 5)
    out.square().sum().backward()
    for name, weights in model.named_parameters():
        assert weights.grad is not None, name
        assert weights.grad.isfinite().all(), name


def test_without_spatial_layers_nodes_do_not_see_each_other() -> None:
    x = windows()
    changed = x.clone()
    changed[:, :, 3, 0] += 1.0
    for attention, sees in (("none", False), ("uniform", True), ("eala_collision", True)):
        model = make(attention)
        same = torch.equal(model(x)[..., 0], model(changed)[..., 0])
        assert same != sees, attention


def test_models_of_one_seed_start_from_equal_weights_whatever_their_attention() -> None:
    first, second = make("softmax").state_dict(), make("performer").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_temporal_layers_take_the_attention_under_test_unless_told_otherwise() -> None:
    kinds = {
        (attention, temporal): type(
            make(attention, temporal_attention=temporal).temporal[0].attention.mechanism
        ).__name__
        for attention in ("uniform", "none")
        for temporal in ("same", "softmax")
    }
    assert kinds == {
        ("uniform", "same"): "Uniform",
        ("uniform", "softmax"): "Softmax",
        ("none", "same"): "Softmax",
        ("none", "softmax"): "Softmax",
    }


def test_every_slot_of_the_day_finds_its_embedding() -> None:
    model = make()
    slots = torch.arange(288)
    times = (slots.double() / 288).float()
    assert torch.equal((times * model.steps_per_day + 1e-3).long(), slots)


@pytest.mark.parametrize("build", [lambda: make(zero_output=True), lambda: STID(5, zero_output=True)])
def test_a_zero_read_out_starts_from_the_anchor(build: Any) -> None:
    assert (build()(windows()) == 0).all()


def test_stid_follows_its_equations() -> None:
    model: Any = STID(5, dim=3, num_layers=2).eval()
    x = windows()
    identities = [
        model.node.expand(3, -1, -1),
        model.time_of_day((x[:, -1, :, 1] * 288).floor().long()),
        model.day_of_week(x[:, -1, :, 2].long()),
    ]
    h = torch.cat([model.embedding(x.transpose(1, 2).reshape(3, 5, 36)), *identities], dim=-1)
    for layer in model.layers:
        h = h + layer[3](torch.relu(layer[0](h)))
    torch.testing.assert_close(model(x), model.read_out(h).transpose(1, 2))


def test_the_inverted_host_is_equivariant_to_the_scale_of_each_variate() -> None:
    model = InvertedForecaster(num_steps=12, horizon=4, dim=8, num_heads=2, ffn_dim=8).eval()
    x = windows()
    scaled = x.clone()
    scaled[..., 0] = 100.0 * x[..., 0] + 7.0
    expected = 100.0 * model(x) + 7.0
    assert expected.shape == (3, 4, 5)
    torch.testing.assert_close(model(scaled), expected, rtol=1e-3, atol=1e-1)


def test_a_variate_that_stands_still_is_forecast_near_its_value() -> None:
    model = InvertedForecaster(num_steps=12, horizon=4, dim=8, num_heads=2, ffn_dim=8).eval()
    x = windows()
    x[:, :, 2, 0] = 5.0
    assert (model(x)[..., 2] - 5.0).abs().max() < 0.05


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="embed_dim 16 cannot be cut into 3 heads"):
        make(num_heads=3)


def test_an_unknown_attention_over_time_is_refused(unchecked: None) -> None:
    with pytest.raises(ValueError, match="temporal_attention: got 'sofmax', expected one of same, softmax"):
        make(temporal_attention="sofmax")


@pytest.mark.parametrize("build", [make, lambda: STID(5)])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x[:, :, :4], r"x: got shape \[3, 12, 4, 3\], expected \(batch, 12, 5, 3\): value, time of day"),
        (lambda x: x[..., :2], r"x: got shape \[3, 12, 5, 2\], expected \(batch, 12, 5, 3\)"),
        (lambda x: x[:, :7], r"x: got shape \[3, 7, 5, 3\], expected \(batch, 12, 5, 3\)"),
        (
            lambda x: x + torch.tensor([0.0, 1.0, 0.0]),
            r"x: channel 1 is from 1.* to .*, expected the time of day",
        ),
        (lambda x: x - torch.tensor([0.0, 1.0, 0.0]), r"x: channel 1 is from -\d\.\d+ to .*, expected the time of day"),
        (lambda x: x + torch.tensor([0.0, 0.0, 7.0]), r"x: channel 2 is from \d+ to \d+, expected the weekday 0\.\.6"),
    ],
)
def test_windows_of_another_form_are_refused(unchecked: None, build: Any, spoil: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()(spoil(windows()))


def test_initialised_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    initialised(lambda: nn.Linear(3, 3), seed=1)
    assert torch.equal(torch.rand(3), expected)
