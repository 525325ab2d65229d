"""Invariants of M5, edge cases, dtypes and refusals of the attention."""

import functools
import math
from typing import Any

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_cases import ALL_MAPS, attention_cases
from iclr_repro.entropy_linear_attention import (
    ESTIMATES,
    attention_weights,
    entropy_equality,
    entropy_estimate,
    entropy_linear_attention,
    softmax_entropy,
)
from iclr_repro.entropy_linear_attention.distributions import ranking_violation
from iclr_repro.entropy_linear_attention.entropy import scores
from iclr_repro.entropy_linear_attention.memory import tensor_memory
from iclr_repro.entropy_linear_attention.moments import features

CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-12}  # signed features with solver collision have weights far beyond 1


def existing(case: dict[str, Any]) -> torch.Tensor:
    mask = case["options"]["key_mask"]
    return torch.ones(len(case["k"]), dtype=torch.bool) if mask is None else mask


def attend(case: dict[str, Any], **changes: Any) -> torch.Tensor:
    inputs = {name: changes.pop(name, case[name]) for name in ("q", "k", "v")}
    return entropy_linear_attention(**inputs, **{**case["options"], **changes})


@given(attention_cases())
def test_rows_sum_to_one_and_weights_are_not_negative(case: dict[str, Any]) -> None:
    weights = attention_weights(case["q"], case["k"], **case["options"])
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(len(weights), dtype=torch.float64), **CLOSE)
    assert weights.min() >= -1e-15
    assert (weights[:, ~existing(case)] == 0).all()


@given(attention_cases())
def test_weights_rank_keys_as_their_scores(case: dict[str, Any]) -> None:
    weights = attention_weights(case["q"], case["k"], **case["options"])[:, existing(case)]
    dense = scores(features(case["q"], case["k"], key_mask=case["options"]["key_mask"]))[:, existing(case)]
    assert ranking_violation(dense, weights).max() <= 1e-15
    for s, w in zip(dense, weights, strict=True):
        if len(s) > 1 and s.unique().numel() == len(s):
            assert scipy.stats.spearmanr(s, w).statistic == pytest.approx(1.0)


@given(attention_cases(feature_maps=ALL_MAPS))
def test_linear_time_evaluation_equals_the_dense_weights(case: dict[str, Any]) -> None:
    weights = attention_weights(case["q"], case["k"], **case["options"])
    values = torch.where(existing(case)[:, None], case["v"], torch.zeros_like(case["v"]))
    torch.testing.assert_close(attend(case), weights @ values, **CLOSE)


@given(attention_cases(feature_maps=("relu", "elu1")), st.floats(-3, 3))
def test_shifting_and_scaling_values_shifts_and_scales_the_output(case: dict[str, Any], by: float) -> None:
    out = attend(case)
    torch.testing.assert_close(attend(case, v=case["v"] + by), out + by, **CLOSE)
    torch.testing.assert_close(attend(case, v=case["v"] * by), out * by, **CLOSE)


@given(attention_cases(feature_maps=ALL_MAPS), st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(case: dict[str, Any], random: Any) -> None:
    order = list(range(len(case["k"])))
    random.shuffle(order)
    mask = case["options"]["key_mask"]
    permuted = attend(case, k=case["k"][order], v=case["v"][order], key_mask=None if mask is None else mask[order])
    torch.testing.assert_close(permuted, attend(case), **CLOSE)


@given(attention_cases(feature_maps=ALL_MAPS), st.sampled_from([0.0, math.nan, math.inf]))
def test_masked_keys_have_no_influence_whatever_they_hold(case: dict[str, Any], filling: float) -> None:
    kept = existing(case)
    k, v = (torch.where(kept[:, None], case[name], torch.full_like(case[name], filling)) for name in ("k", "v"))
    alone = attend(case, k=case["k"][kept], v=case["v"][kept], key_mask=None)
    torch.testing.assert_close(attend(case, k=k, v=v, key_mask=kept), alone, **CLOSE)


@given(attention_cases())
def test_equal_keys_get_uniform_weights(case: dict[str, Any]) -> None:
    k = case["k"][:1].expand_as(case["k"])
    weights = attention_weights(case["q"], k, **case["options"])
    n = int(existing(case).sum())
    torch.testing.assert_close(weights[:, existing(case)], torch.full_like(weights[:, existing(case)], 1 / n), **CLOSE)


@given(attention_cases())
def test_a_query_without_active_features_gets_the_mean_of_the_values(case: dict[str, Any]) -> None:
    out = attend(case, q=-case["q"].abs())
    torch.testing.assert_close(out, case["v"][existing(case)].mean(dim=0).expand_as(out), **CLOSE)


@given(attention_cases(feature_maps=ALL_MAPS))
def test_one_key_gives_its_value(case: dict[str, Any]) -> None:
    out = attend(case, k=case["k"][:1], v=case["v"][:1], key_mask=None)
    torch.testing.assert_close(out, case["v"][:1].expand_as(out), **CLOSE)


@given(attention_cases(feature_maps=("relu", "elu1")))
def test_theta_zero_is_plain_kernel_attention(case: dict[str, Any]) -> None:
    found = features(case["q"], case["k"], feature_map=case["options"]["feature_map"])
    alive = (found.q @ found.k.mT).sum(dim=-1) > 0
    plain = found.q @ (found.k.mT @ case["v"]) / (found.q @ found.k.sum(dim=0))[:, None]
    out = attend(case, key_mask=None, solver="fixed", theta=torch.zeros(()))
    torch.testing.assert_close(out[alive], plain[alive], **CLOSE)
    torch.testing.assert_close(out[~alive], case["v"].mean(dim=0).expand_as(out[~alive]), **CLOSE)


def test_a_large_theta_gives_the_mean() -> None:
    case = random_case()
    out = attend(case, solver="fixed", theta=torch.tensor(1e12))
    torch.testing.assert_close(out, case["v"].mean(dim=0).expand_as(out), rtol=0, atol=1e-10)


@pytest.mark.parametrize("solver", ["collision", "shannon2", "shannon4"])
def test_theta_is_solved_where_positive_and_clamped_elsewhere(solver: str) -> None:
    case = random_case(spread=2.0)
    equal = entropy_equality(case["q"], case["k"], solver=solver)
    attains = equal.theta > 0
    assert 0 < attains.sum() < len(attains)
    torch.testing.assert_close((equal.theta + equal.mean)[attains], (1 / equal.r)[attains], **CLOSE)
    torch.testing.assert_close(equal.gain, 1 / (equal.theta + equal.mean), **CLOSE)
    assert (equal.mean[~attains] >= 1 / equal.r[~attains]).all()


def test_shannon2_is_the_first_order_expansion_of_softmax() -> None:
    case = random_case(spread=0.3)
    s = scores(features(case["q"], case["k"]))
    first_order = (1 + s - s.mean(dim=-1, keepdim=True)) / len(case["k"])
    assert (entropy_equality(case["q"], case["k"], solver="shannon2").theta > 0).all()
    torch.testing.assert_close(attention_weights(case["q"], case["k"], solver="shannon2"), first_order, **CLOSE)


def test_batches_and_heads_are_independent() -> None:
    q, k, v = (torch.randn(2, 3, n, d, generator=generator(), dtype=torch.float64) for n, d in ((4, 5), (7, 5), (7, 2)))
    mask = torch.rand(2, 1, 7, generator=generator()) < 0.6
    mask[..., 0] = True
    out = entropy_linear_attention(q, k, v, key_mask=mask)
    for b in range(2):
        for h in range(3):
            torch.testing.assert_close(
                out[b, h], entropy_linear_attention(q[b, h], k[b, h], v[b, h], key_mask=mask[b, 0]), **CLOSE
            )


def test_no_queries_give_no_output() -> None:
    case = random_case()
    assert attend(case, q=case["q"][:0]).shape == (0, 3)


def test_gradients_are_those_of_the_dense_formula() -> None:
    case = random_case()
    for name in ("q", "k", "v"):
        case[name].requires_grad_()
    inputs = [case[name] for name in ("q", "k", "v")]
    linear = torch.autograd.grad(attend(case).square().sum(), inputs)
    dense = torch.autograd.grad((attention_weights(*inputs[:2], solver="collision") @ inputs[2]).square().sum(), inputs)
    for a, b in zip(linear, dense, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_detach_theta_changes_gradients_and_no_values() -> None:
    case = random_case()
    case["q"].requires_grad_()
    both = [attend(case, detach_theta=detach) for detach in (False, True)]
    torch.testing.assert_close(both[0], both[1], **CLOSE)
    gradients = [torch.autograd.grad(out.square().sum(), case["q"])[0] for out in both]
    assert not torch.allclose(*gradients)


def test_gradients_are_finite_for_dead_queries_equal_keys_and_missing_keys() -> None:
    case = random_case()
    q = torch.cat([case["q"], -case["q"].abs()]).requires_grad_()
    k = torch.cat([case["k"][:1].expand(5, -1), torch.full((1, 4), math.nan, dtype=torch.float64)]).requires_grad_()
    mask = torch.tensor([True] * 5 + [False])
    out = entropy_linear_attention(q, k, torch.randn(6, 3, dtype=torch.float64), key_mask=mask)
    for gradient in torch.autograd.grad(out.square().sum(), [q, k]):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    q, k, v = (torch.randn(4096, 8, generator=generator()).to(dtype) for _ in range(3))
    k = k.abs() * 40  # sums over keys overflow float16
    expected = entropy_linear_attention(q.float(), k.float(), v.float())
    out = entropy_linear_attention(q, k, v)
    assert out.dtype == dtype
    torch.testing.assert_close(out, expected.to(dtype), rtol=0, atol=0)


def test_autocast_does_not_lower_the_moments() -> None:
    q, k, v = (torch.randn(64, 8, generator=generator()) for _ in range(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = entropy_linear_attention(q, k, v)
    torch.testing.assert_close(out, entropy_linear_attention(q, k, v), rtol=0, atol=0)


def test_autocast_lowers_neither_weights_nor_entropies() -> None:
    q, k = (torch.randn(64, 8, generator=generator()) for _ in range(2))
    functions: list[Any] = [
        attention_weights,
        softmax_entropy,
        *(functools.partial(entropy_estimate, estimate=name) for name in ESTIMATES),
        lambda q, k: torch.stack(entropy_equality(q, k)),
    ]
    for function in functions:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = function(q, k)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, function(q, k), rtol=0, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = attention_weights(q, k).sum(dim=-1)
    torch.testing.assert_close(rows, torch.ones(64), rtol=0, atol=1e-5)


def test_a_large_mean_does_not_hide_a_small_variance() -> None:
    k = 1e3 + 0.1 * torch.randn(500, 4, generator=generator(), dtype=torch.float64)
    q = torch.ones(1, 4, dtype=torch.float64)
    exact = entropy_equality(q, k).var
    torch.testing.assert_close(entropy_equality(q.float(), k.float()).var.double(), exact, rtol=1e-2, atol=0)


def test_variances_beyond_the_cap_stay_finite() -> None:
    q, k, v = (300.0 * torch.randn(50, 4, generator=generator()) for _ in range(3))
    assert entropy_equality(q, k).var.max() > 1e6
    assert entropy_linear_attention(q, k, v).isfinite().all()


def test_no_tensor_is_larger_than_the_inputs_side_by_side() -> None:
    q, k, v = (torch.randn(1, 2, 2000, 8) for _ in range(3))
    largest = tensor_memory(lambda: entropy_linear_attention(q, k, v)).largest_bytes
    assert largest <= (k.numel() + v.numel()) * 4


def test_an_own_feature_map_and_solver_take_the_place_of_ours() -> None:
    case = random_case()
    own = attend(case, feature_map=lambda x: x.clamp(min=0.0), solver=torch.ones_like)
    torch.testing.assert_close(own, attend(case, feature_map="relu", solver="shannon2"), **CLOSE)


def test_scale_one_is_possible() -> None:
    case = random_case()
    torch.testing.assert_close(attend(case, scale=1.0), attend(case, q=2.0 * case["q"]), **CLOSE)  # d = 4


def test_compiling_does_not_change_the_output(unchecked: None) -> None:
    case = random_case()
    compiled = torch.compile(entropy_linear_attention, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(case["q"], case["k"], case["v"]), attend(case, solver="collision"), **CLOSE)


def test_a_row_without_keys_is_named_or_gives_zero() -> None:
    q, k, v = (torch.randn(2, 3, 4, 5, generator=generator()) for _ in range(3))
    mask = torch.ones(2, 1, 4, dtype=torch.bool)
    mask[1] = False
    with pytest.raises(
        ValueError, match=r"key_mask: no key is left in row\(s\) \[\(1, 0\)\]: drop them, check that True"
    ):
        entropy_linear_attention(q, k, v, key_mask=mask)
    out = entropy_linear_attention(q, k, v, key_mask=mask, empty="zero")
    assert (out[1] == 0).all()
    torch.testing.assert_close(out[0], entropy_linear_attention(q[0], k[0], v[0]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 0.0}, r"scale: got 0.0, expected a positive finite number, or None for 1/sqrt\(head dimension\)"),
        ({"scale": -1.0}, "scale: got -1.0"),
        ({"scale": math.inf}, "scale: got inf"),
        ({"feature_map": "rellu"}, "feature_map: got 'rellu'; did you mean 'relu'. Valid: relu, elu1, identity"),
        (
            {"solver": "colision"},
            "solver: got 'colision'; did you mean 'collision'. Valid: collision, shannon2, shannon4",
        ),
        ({"solver": "fixed"}, "theta: missing with solver 'fixed'; solver='fixed' needs theta >= 0"),
        ({"theta": torch.ones(())}, "theta: given with solver 'collision'"),
        ({"k": torch.randn(7, 3), "v": torch.randn(7, 2)}, r"q and k: got shapes \[5, 4\] and \[7, 3\]"),
        ({"k": torch.randn(0, 4), "v": torch.randn(0, 2)}, r"k: got shape \[0, 4\], that is N = 0 keys"),
        ({"v": torch.randn(6, 2)}, r"k and v: got shapes \[9, 4\] and \[6, 2\]"),
        ({"key_mask": torch.ones(9)}, r"key_mask: got torch.float32 of shape \[9\], expected bool"),
        ({"key_mask": torch.ones(8, dtype=torch.bool)}, r"key_mask: got torch.bool of shape \[8\], expected bool"),
        (
            {"q": torch.full((5, 4), math.nan)},
            "scores: 5 of 5 queries have scores that are not finite, the first at index",
        ),
        ({"k": torch.full((9, 4), math.inf)}, "scores: 5 of 5 queries have scores that are not finite"),
        (
            {"solver": "fixed", "theta": torch.ones(4)},
            r"theta: got shape \[4\], expected one that broadcasts to \[5\], the queries",
        ),
        (
            {"solver": "fixed", "theta": torch.tensor([1.0, 1.0, -0.5, 1.0, 1.0])},
            "theta: got values from -0.5, expected >= 0 everywhere",
        ),
        ({"solver": "fixed", "theta": torch.full((5,), math.nan)}, "theta: got values from nan, expected >= 0"),
        ({"solver": lambda var: var * math.nan}, "solver: returned nan for 5 of 5 queries, expected finite r > 0"),
        ({"solver": lambda var: 0 * var}, "solver: returned 0.0 for 5 of 5 queries, expected finite r > 0"),
        ({"solver": lambda var: torch.ones(1)}, r"solver: returned shape \[1\] for variances of shape \[5\]"),
        ({"empty": "nan"}, "empty: got 'nan', expected one of error, zero"),
        ({"q": torch.ones(5, 4, dtype=torch.long)}, "q and k: got torch.int64 and torch.float32, expected floating"),
        ({"v": torch.ones(9, 2, dtype=torch.int32)}, "v: got torch.int32, expected floating point"),
        ({"q": torch.ones(5, 0), "k": torch.ones(9, 0)}, r"q and k: got shapes \[5, 0\] and \[9, 0\], that is d = 0"),
    ],
)
def test_bad_input_is_refused(unchecked: None, changes: dict[str, Any], message: str) -> None:
    arguments = {"q": torch.randn(5, 4).abs(), "k": torch.randn(9, 4), "v": torch.randn(9, 2), **changes}
    with pytest.raises(ValueError, match=message):
        entropy_linear_attention(**arguments)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@settings(max_examples=20)
@given(attention_cases(feature_maps=ALL_MAPS))
def test_gpu_gives_what_the_cpu_gives(case: dict[str, Any]) -> None:
    on_gpu = {name: case[name].cuda() for name in ("q", "k", "v")}
    mask = case["options"]["key_mask"]
    out = attend(case, **on_gpu, key_mask=None if mask is None else mask.cuda())
    torch.testing.assert_close(out.cpu(), attend(case), rtol=0, atol=1e-10)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def random_case(*, spread: float = 1.0) -> dict[str, Any]:
    shapes = ((20, 4), (9, 4), (9, 3))
    draws = generator()
    q, k, v = (torch.randn(shape, generator=draws, dtype=torch.float64) for shape in shapes)
    return {
        "q": spread * q,
        "k": k,
        "v": v,
        "options": {"key_mask": None, "solver": "collision", "feature_map": "relu"},
    }


def test_queries_and_keys_of_different_precision_are_refused() -> None:
    q, k, v = torch.randn(3, 4), torch.randn(5, 4), torch.randn(5, 2)
    with pytest.raises(ValueError, match=r"q and k: got torch.float32 and torch.float64, expected both or none"):
        entropy_linear_attention(q, k.double(), v)
