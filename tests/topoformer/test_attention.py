from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from iclr_repro.topoformer.attention import (
    SpatialQuerying,
    SpatialReweighting,
    TopographicSelfAttention,
    alive_parameters,
    reflect_after_step,
)
from iclr_repro.topoformer.baselines import materialised_attention
from iclr_repro.topoformer.sheet import circular_mask, territories

X = torch.randn(3, 7, 36, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def attention(**options: Any) -> Any:
    torch.manual_seed(0)
    return TopographicSelfAttention(36, **{"sq": 0.2, "sr": 0.3, **options}).double().eval()


def by_hand(module: Any, x: torch.Tensor, pool: torch.Tensor, allowed: torch.Tensor) -> np.ndarray:
    """One head, in numpy."""
    q, k, v = ((x @ layer.weight.T + layer.bias).detach().numpy() for layer in (module.query, module.key, module.value))
    scores = np.einsum("btu,uv,bsv->bts", q, pool.numpy(), k) / np.sqrt(x.shape[-1])
    scores = np.where(allowed.numpy(), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = weights / weights.sum(axis=-1, keepdims=True)
    w, b = module.fc_out.weight.detach().numpy(), module.fc_out.bias.detach().numpy()
    return weights @ v @ w.T + b


def test_pooling_divides_the_mask_by_its_norm() -> None:
    mask = circular_mask(36, 0.2)
    pool = SpatialQuerying(mask).pooling_matrix()
    n = int(mask[0].sum())
    torch.testing.assert_close(pool, mask.double() / np.sqrt(36 * n))


@pytest.mark.parametrize("sq", [-1.0, 0.2])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_attention_is_that_of_the_definition(sq: float, causal: bool, padded: bool) -> None:
    module = attention(sq=sq, sr=0.3, causal=causal)
    pool = torch.eye(36, dtype=torch.float64) if sq < 0 else module.querying.pooling_matrix()
    counts = torch.arange(7) < torch.tensor([[7], [3], [1]])
    allowed = torch.ones(3, 7, 7, dtype=torch.bool)
    if causal:
        allowed = allowed.tril()
    if padded:
        allowed = allowed & counts[:, None, :]
    found = module(X, counts if padded else None)
    np.testing.assert_allclose(found.detach(), by_hand(module, X, pool, allowed), rtol=1e-10, atol=1e-10)


def test_padding_has_no_influence() -> None:
    module, counts = attention(), torch.arange(7) < torch.tensor([[7], [3], [1]])
    other = torch.where(counts[..., None], X, 1e3)
    found, expected = module(other, counts), module(X, counts)
    torch.testing.assert_close(found[counts], expected[counts])
    assert not torch.allclose(module(other)[counts], module(X)[counts])


def test_later_tokens_have_no_influence_on_a_causal_model() -> None:
    module = attention(causal=True)
    other = X.clone()
    other[:, 4:] += 1.0
    torch.testing.assert_close(module(other)[:, :4], module(X)[:, :4])


def test_rectification_is_of_queries_keys_values_and_outputs() -> None:
    module = attention(rectify=True)
    sheets = module.sheets(X)
    q, k, v = (sheets[name].relu() for name in ("query", "key", "value"))
    assert (sheets["query"] < 0).any(), "the sheets are the raw ones"
    out, _ = materialised_attention(q, k, v, module.querying.pooling_matrix())
    torch.testing.assert_close(sheets["fc_out"], module.fc_out(out.relu()))


def test_learned_querying_scales_columns() -> None:
    module = attention(learned_querying=True)
    assert module.querying is not None
    assert module.querying.gain is not None
    expected = X @ module.querying.pooling_matrix() @ torch.diag(module.querying.gain)
    torch.testing.assert_close(module.querying(X), expected)
    assert sum(p.numel() for p in module.parameters()) == sum(p.numel() for p in attention().parameters()) + 36


def test_local_querying_makes_local_projections_without_pooling() -> None:
    module = attention(sq=-1.0, local_querying=0.2)
    assert module.querying is None
    outside = ~circular_mask(36, 0.2)
    for layer in (module.query, module.key, module.value):
        assert isinstance(layer, SpatialReweighting)
        layer(X)
        assert (layer.weight[outside] == 0).all()
        assert (layer.weight >= 0).all()


def test_each_head_can_have_a_sheet_of_its_own() -> None:
    module = attention(num_heads=4, head_layout="sheets")
    assert isinstance(module.querying, SpatialQuerying)
    single = SpatialQuerying(circular_mask(9, 0.2)).pooling_matrix()
    torch.testing.assert_close(module.querying.pooling_matrix(), torch.block_diag(*[single] * 4))
    q, k, v = (module.sheets(X)[name].unflatten(-1, (4, 9)).transpose(1, 2) for name in ("query", "key", "value"))
    heads, _ = materialised_attention(q, k, v, single)
    torch.testing.assert_close(module(X), module.fc_out(heads.transpose(1, 2).flatten(2)))
    assert isinstance(module.fc_out, SpatialReweighting)
    assert torch.equal(module.fc_out.mask, circular_mask(9, 0.3).repeat(4, 4))


def test_heads_can_share_a_sheet_as_territories() -> None:
    module = attention(num_heads=4, head_layout="territories")
    assert isinstance(module.querying, SpatialQuerying)
    torch.testing.assert_close(
        module.querying.pooling_matrix(), SpatialQuerying(circular_mask(36, 0.2)).pooling_matrix()
    )
    sheets, order = module.sheets(X), territories(36, 4)
    attended = torch.empty_like(X)
    pooled = module.querying(sheets["query"])
    for own in order.reshape(4, 9):
        q, k, v = (x[..., own] for x in (pooled, sheets["key"], sheets["value"]))
        attended[..., own] = materialised_attention(q, k, v, torch.eye(9, dtype=torch.float64))[0]
    torch.testing.assert_close(module(X), module.fc_out(attended))


def test_scores_are_those_that_attention_is_made_of() -> None:
    module = attention(num_heads=4, rectify=True)
    weights = torch.softmax(module.scores(X), dim=-1)
    value = module._split(module.value(X).relu())
    torch.testing.assert_close(module(X), module.fc_out(module._join(weights @ value).relu()))


def test_sheets_can_have_borders() -> None:
    module = attention(wrap=False)
    bounded = circular_mask(36, 0.2, wrap=False)
    torch.testing.assert_close(module.querying.pooling_matrix(), bounded.double() / bounded.sum().double().sqrt())
    assert torch.equal(module.fc_out.mask, circular_mask(36, 0.3, wrap=False))


def test_gaussian_connections_are_drawn_once_and_saved() -> None:
    module = attention(mask_type="gaussian")
    for layer in (module.querying, module.fc_out):
        assert layer.mask.diagonal().all()
        assert 36 < layer.mask.sum() < 36 * 36
    torch.manual_seed(1)
    other: Any = TopographicSelfAttention(36, sq=0.2, sr=0.3, mask_type="gaussian").double()
    assert not torch.equal(other.querying.mask, module.querying.mask)
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(other(X), module(X))
    torch.testing.assert_close(module.querying.pooling_matrix().norm(), torch.tensor(1.0, dtype=torch.float64))


def test_attention_dropout_is_off_in_evaluation() -> None:
    module = attention(attention_dropout=0.5)
    assert torch.equal(module(X), module(X))
    assert not torch.equal(module.train()(X), module(X))


def test_local_weights_start_ten_times_as_large_and_positive() -> None:
    torch.manual_seed(3)
    plain = nn.Linear(36, 36)
    torch.manual_seed(3)
    local = SpatialReweighting(circular_mask(36, 0.3))
    torch.testing.assert_close(local.weight.detach(), 10 * plain.weight.detach().abs())
    torch.testing.assert_close(local.bias, plain.bias)


def test_signed_weights_are_masked_but_not_reflected() -> None:
    torch.manual_seed(3)
    layer, mask = SpatialReweighting(circular_mask(36, 0.3), signed=True).double(), circular_mask(36, 0.3)
    raw = layer.weight.detach().clone()
    assert (raw < 0).any()
    layer(X)
    torch.testing.assert_close(layer.weight.detach(), raw * mask)


def test_reflection_happens_in_evaluation_and_leaves_an_earlier_graph_right() -> None:
    layer = SpatialReweighting(circular_mask(36, 0.3)).double().eval()
    with torch.no_grad():
        layer.weight.neg_()
    first = layer(X)
    assert (layer.weight >= 0).all()
    second = layer(2 * X)
    (first.sum() + second.sum()).backward()
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad[0], 3 * X.sum(dim=(0, 1)))


def test_a_checkpoint_between_step_and_forward_loses_nothing() -> None:
    layer = SpatialReweighting(circular_mask(36, 0.3)).double()
    optimizer = torch.optim.SGD(layer.parameters(), lr=5.0)
    layer(X).square().mean().backward()
    optimizer.step()
    assert (layer.weight < 0).any()
    restored = SpatialReweighting(circular_mask(36, 0.3)).double()
    restored.load_state_dict(layer.state_dict())
    torch.testing.assert_close(restored(X), layer(X))


def train(layer: SpatialReweighting, optimizer: torch.optim.Optimizer, forward: nn.Module, steps: int = 5) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        (forward(X) - X.roll(1, 0)).square().mean().backward()
        optimizer.step()
    layer.reflect()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_reflecting_after_the_step_is_the_same_descent(momentum: float) -> None:
    torch.manual_seed(0)
    plain = SpatialReweighting(circular_mask(36, 0.3)).double()
    hooked = SpatialReweighting(circular_mask(36, 0.3)).double()
    hooked.load_state_dict(plain.state_dict())
    optimizers = [torch.optim.SGD(x.parameters(), lr=0.3, momentum=momentum) for x in (plain, hooked)]
    handle = reflect_after_step(optimizers[1], hooked)
    train(plain, optimizers[0], plain)
    train(hooked, optimizers[1], hooked)
    torch.testing.assert_close(hooked.weight, plain.weight, rtol=1e-9, atol=1e-12)
    handle.remove()


_COMPILED = """
import torch
from iclr_repro.topoformer import TopographicSelfAttention, reflect_after_step

x = torch.randn(2, 5, 36, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
losses = []
for compiled in (False, True):
    torch.manual_seed(0)
    model = TopographicSelfAttention(36, sq=0.2, sr=0.3).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    if compiled:
        reflect_after_step(optimizer, model)
    forward = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
    for _ in range(4):
        optimizer.zero_grad()
        loss = (forward(x) - x.roll(1, 0)).square().mean()
        loss.backward()
        optimizer.step()
    losses.append(loss.item())
assert abs(losses[0] - losses[1]) < 1e-10 * losses[0], losses
"""


def test_a_compiled_model_descends_the_same_way() -> None:
    """In a process of its own: the run-time type checker of the tests cannot be compiled."""
    done = subprocess.run([sys.executable, "-c", _COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_reflecting_after_the_step_differs_from_adam_by_little() -> None:
    """Weights outside the fields enter neither moments nor the clipping norm (pitfall P7)."""
    torch.manual_seed(0)
    plain = SpatialReweighting(circular_mask(36, 0.3)).double()
    hooked = SpatialReweighting(circular_mask(36, 0.3)).double()
    hooked.load_state_dict(plain.state_dict())
    optimizers = [torch.optim.AdamW(x.parameters(), lr=1e-3) for x in (plain, hooked)]
    reflect_after_step(optimizers[1], hooked)
    train(plain, optimizers[0], plain, steps=20)
    train(hooked, optimizers[1], hooked, steps=20)
    torch.testing.assert_close(hooked.weight, plain.weight, rtol=1e-3, atol=1e-4)
    moments = optimizers[1].state[hooked.weight]["exp_avg"]
    assert (moments[~hooked.mask] == 0).all()


def test_functional_calls_leave_the_parameters_alone() -> None:
    layer = SpatialReweighting(circular_mask(36, 0.3)).double()
    reflect_after_step(torch.optim.SGD(layer.parameters(), lr=0.1), layer)
    given = {name: -value.detach().clone() for name, value in layer.named_parameters()}
    found = torch.func.functional_call(layer, given, (X,))
    assert (given["weight"][layer.mask] < 0).all()
    torch.testing.assert_close(found, X @ given["weight"].abs().mul(layer.mask).T + given["bias"])


def test_it_runs_under_automatic_mixed_precision() -> None:
    module = attention(sq=0.2, sr=0.3).float()
    x = X.float()
    with torch.autocast("cpu", torch.bfloat16):
        found = module(x)
    assert found.dtype == torch.bfloat16
    expected = module(x)
    assert (found.float() - expected).norm() < 2**-7 * expected.norm()  # the spacing of bf16 at 1
    torch.testing.assert_close(found.float(), expected, rtol=0.0, atol=2**-6)  # at values up to 2: a few roundings


def test_the_released_control_has_scores_of_rank_one_and_a_positive_dense_output() -> None:
    torch.manual_seed(0)
    module = attention(sq=1.0, sr=1.0, mask_type="full")
    assert module.querying is not None
    torch.testing.assert_close(module.querying.pooling_matrix(), torch.full((36, 36), 1 / 36, dtype=torch.float64))
    query, key = module.sheets(X)["query"][0], module.sheets(X)["key"][0]
    torch.testing.assert_close(module.scores(X)[0, 0], query.sum(dim=1)[:, None] * key.sum(dim=1) / (36 * 6))
    module(X)
    assert (module.fc_out.weight > 0).all()


def test_alive_parameters_leave_out_what_is_always_zero() -> None:
    total, alive = alive_parameters(TopographicSelfAttention(784, sq=0.3, sr=0.3, bias=False))
    assert total - alive == 425_712
    assert total == 4 * 784**2 + 784
    assert alive_parameters(TopographicSelfAttention(36, sq=-1.0, sr=-1.0)) == (4 * 36 * 37, 4 * 36 * 37)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sq": 0.0}, "sq: got 0.0, expected a share of the sheet's area in (0, 1]; -1 where a mechanism may be off"),
        ({"sr": 2.0}, "sr: got 2.0"),
        ({"sq": 0.2, "local_querying": 0.2}, "sq=0.2 and local_querying=0.2: queries are either pooled or made by"),
        ({"sq": -1.0, "learned_querying": True}, "learned_querying scales the pools of spatial querying, but sq=-1"),
        ({"sr": -1.0, "signed_reweighting": True}, "signed_reweighting is about local weights, but sr=-1"),
        ({"mask_type": "square"}, "mask_type: got 'square', expected one of circular, gaussian, full"),
        ({"mask_type": "full"}, 'mask_type "full" joins all units: got the share 0.2, set sq and sr to 1'),
        ({"num_heads": 5}, "num_heads: got 5 for 36 units, expected a divisor >= 1"),
        ({"num_heads": 3}, "num_units: got 12, expected a perfect square"),
    ],
)
def test_bad_options_are_refused(unchecked: None, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        attention(**options)


def test_a_mask_without_a_connection_is_refused() -> None:
    with pytest.raises(ValueError, match="mask: no pair of units is in a receptive field"):
        SpatialQuerying(torch.zeros(9, 9, dtype=torch.bool))


def test_a_model_without_local_weights_cannot_be_reflected() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"Linear has no SpatialReweighting layer: build it with sr in \(0, 1\]"):
        reflect_after_step(torch.optim.SGD(model.parameters(), lr=0.1), model)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_gives_what_the_cpu_gives() -> None:
    module, counts = attention().float(), torch.arange(7) < torch.tensor([[7], [3], [1]])
    expected = module(X.float(), counts)
    found = module.cuda()(X.float().cuda(), counts.cuda())
    torch.testing.assert_close(found.cpu()[counts], expected[counts], rtol=1e-4, atol=1e-4)
