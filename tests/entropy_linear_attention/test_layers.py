from typing import Any

import pytest
import torch
from torch import Tensor, nn

from iclr_repro.entropy_linear_attention import (
    EntropyLinearAttention,
    MultiheadAttention,
    attention_weights,
    causal_entropy_linear_attention,
    entropy_linear_attention,
)
from iclr_repro.entropy_linear_attention.layers import projected_heads
from iclr_repro.entropy_linear_attention.mechanisms import Softmax, Uniform


def x(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("sizes", [{}, {"kdim": 5, "vdim": 6}])
def test_with_softmax_it_is_torch_multihead_attention(bias: bool, batch_first: bool, sizes: dict[str, int]) -> None:
    theirs = nn.MultiheadAttention(8, 2, bias=bias, batch_first=batch_first, **sizes).eval()
    ours = MultiheadAttention(8, 2, Softmax(), bias=bias, batch_first=batch_first, **sizes)
    ours.load_state_dict(theirs.state_dict())
    query, key, value = x(3, 4, 8), x(3, 7, sizes.get("kdim", 8)), x(3, 7, sizes.get("vdim", 8))
    padding = torch.zeros(3, 7, dtype=torch.bool)
    padding[1, 5:] = True
    inputs = [query, key, value] if batch_first else [part.transpose(0, 1) for part in (query, key, value)]
    expected, _ = theirs(*inputs, key_padding_mask=padding, need_weights=False)
    found, weights = ours(*inputs, key_padding_mask=padding)
    torch.testing.assert_close(found, expected)
    assert weights is None


def test_self_attention_takes_one_projection_and_gives_the_same() -> None:
    layer, one = EntropyLinearAttention(8, 2), x(2, 5, 8)
    torch.testing.assert_close(layer(one, one, one)[0], layer(one, one.clone(), one.clone())[0])


def test_heads_are_those_of_the_function() -> None:
    layer, one = EntropyLinearAttention(8, 2, solver="shannon4"), x(1, 6, 8)
    q, k, v = projected_heads(layer, one, one, one)
    assert q.shape == (1, 2, 6, 4)
    merged = entropy_linear_attention(q, k, v, solver="shannon4").transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer(one, one, one)[0], layer.out_proj(merged))


@pytest.mark.parametrize("average", [True, False])
def test_weights_on_request_are_the_dense_ones(average: bool) -> None:
    layer, one = EntropyLinearAttention(8, 2), x(3, 6, 8)
    _, weights = layer(one, one, one, need_weights=True, average_attn_weights=average)
    q, k, _ = projected_heads(layer, one, one, one)
    dense = attention_weights(q, k)
    torch.testing.assert_close(weights, dense.mean(dim=1) if average else dense)


def test_input_without_a_batch() -> None:
    layer, one = EntropyLinearAttention(8, 2), x(6, 8)
    out, weights = layer(one, one, one, need_weights=True)
    batched, batched_weights = layer(one[None], one[None], one[None], need_weights=True)
    torch.testing.assert_close(out, batched[0])
    torch.testing.assert_close(weights, batched_weights[0])


def test_causal_attention_needs_no_mask_of_pairs() -> None:
    layer, one = EntropyLinearAttention(8, 2), x(2, 6, 8)
    q, k, v = projected_heads(layer, one, one, one)
    expected = layer.out_proj(causal_entropy_linear_attention(q, k, v).transpose(1, 2).flatten(2))
    mask = nn.Transformer.generate_square_subsequent_mask(6)
    torch.testing.assert_close(layer(one, one, one, attn_mask=mask, is_causal=True)[0], expected)


@pytest.mark.parametrize("training", [True, False])
def test_torch_encoder_layer_really_calls_it(training: bool) -> None:
    """In evaluation mode torch's layer would compute fused softmax attention from the weights of the module here."""
    host: Any = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).train(training)
    softmax = host(x(2, 5, 8))
    own = EntropyLinearAttention(8, 2)
    own.load_state_dict(host.self_attn.state_dict())
    attended = own(x(2, 5, 8), x(2, 5, 8), x(2, 5, 8))[0]
    host.self_attn = own.train(training)
    with torch.no_grad():
        found = host(x(2, 5, 8))
        mixed = host.norm1(x(2, 5, 8) + attended)
        expected = host.norm2(mixed + host.linear2(torch.relu(host.linear1(mixed))))
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, softmax)


def test_torch_encoder_passes_its_padding_mask_on() -> None:
    host: Any = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).eval()
    host.self_attn = EntropyLinearAttention(8, 2)
    padding = torch.tensor([[False, False, False, True, True]])
    with torch.no_grad():
        found = host(x(1, 5, 8), src_key_padding_mask=padding)[:, :3]
        torch.testing.assert_close(found, host(x(1, 5, 8)[:, :3]))


def test_dropout_acts_in_training_only() -> None:
    layer, one = EntropyLinearAttention(8, 2, dropout=0.5), x(2, 5, 8)
    assert not torch.allclose(layer(one, one, one)[0], layer(one, one, one)[0])
    layer.eval()
    torch.testing.assert_close(layer(one, one, one)[0], layer(one, one, one)[0])


def test_parameters_are_made_on_the_device_and_in_the_dtype_asked_for() -> None:
    layer = EntropyLinearAttention(8, 2, solver="fixed", device="meta", dtype=torch.float64)
    assert {(weights.device.type, weights.dtype) for weights in layer.parameters()} == {("meta", torch.float64)}
    assert EntropyLinearAttention(8, 2, dtype=torch.bfloat16)(*[x(2, 5, 8).bfloat16()] * 3)[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: EntropyLinearAttention(8, 2, add_bias_kv=True),
            "add_bias_kv: got True, expected False: EALA has no keys besides those it is given",
        ),
        (lambda: EntropyLinearAttention(8, 2, add_zero_attn=True), "add_zero_attn: got True, expected False: EALA has"),
        (
            lambda: EntropyLinearAttention(10, 4),
            "embed_dim 10 cannot be cut into 4 heads of equal size: choose num_heads",
        ),
        (lambda: EntropyLinearAttention(8, 2, dropout=1.0), r"dropout: got 1.0, expected a probability in \[0, 1\)"),
        (lambda: EntropyLinearAttention(8, 2, feature_map="rel"), "feature_map: got 'rel'; did you mean 'relu'"),
        (lambda: called(attn_mask=torch.zeros(5, 5)), "attn_mask: linear attention cannot mask single pairs"),
        (lambda: called(is_causal=True, need_weights=True), "need_weights: not together with is_causal"),
        (lambda: called(mechanism=Uniform(), is_causal=True), "is_causal: only for the mechanism EntropyEquality, not"),
        (
            lambda: called(mechanism=Uniform(), need_weights=True),
            "need_weights: only for the mechanism EntropyEquality",
        ),
        (
            lambda: EntropyLinearAttention(8, 2)(x(2, 5, 7), x(2, 5, 8), x(2, 5, 8)),
            r"query: got shape \[2, 5, 7\], exp",
        ),
        (
            lambda: called(key_padding_mask=torch.tensor([[False] * 5, [True] * 5])),
            r"key_mask: no key is left in row\(s\) \[\(1, 0\)\]",
        ),
    ],
)
def test_bad_input_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def called(mechanism: nn.Module | None = None, **options: Any) -> Any:
    layer = EntropyLinearAttention(8, 2) if mechanism is None else MultiheadAttention(8, 2, mechanism)
    return layer(x(2, 5, 8), x(2, 5, 8), x(2, 5, 8), **options)
