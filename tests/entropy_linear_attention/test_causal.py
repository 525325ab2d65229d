from typing import Any

import pytest
import torch
from hypothesis import given

from attention_cases import ALL_MAPS, attention_cases
from iclr_repro.entropy_linear_attention import (
    RunningMoments,
    causal_entropy_linear_attention,
    entropy_linear_attention,
)

CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-11}


def prefixes(case: dict[str, Any]) -> torch.Tensor:
    """The output of query n over keys 1..n, one prefix after the other."""
    k, v, options = case["k"], case["v"], case["options"]
    mask = options["key_mask"]
    rows = []
    for n in range(1, len(k) + 1):
        masked = {**options, "key_mask": None if mask is None else mask[:n], "empty": "zero"}
        rows.append(entropy_linear_attention(k[n - 1 : n], k[:n], v[:n], **masked))
    return torch.cat(rows)


@given(attention_cases(feature_maps=ALL_MAPS))
def test_each_query_attends_to_its_prefix(case: dict[str, Any]) -> None:
    found = causal_entropy_linear_attention(case["k"], case["k"], case["v"], **case["options"])
    torch.testing.assert_close(found, prefixes(case), **CLOSE)


@given(attention_cases(feature_maps=ALL_MAPS))
def test_streaming_ends_where_all_keys_at_once_do(case: dict[str, Any]) -> None:
    options, k, v = case["options"], case["k"], case["v"]
    moments = RunningMoments.start(
        (), head_dim=k.shape[1], value_dim=v.shape[1], feature_map=options["feature_map"], dtype=torch.float64
    )
    for n in range(len(k)):
        moments = moments.observe(k[n], v[n], exists=None if options["key_mask"] is None else options["key_mask"][n])
    found = moments.attend(case["q"], solver=options["solver"])
    torch.testing.assert_close(found, entropy_linear_attention(case["q"], k, v, **options), **CLOSE)


def test_rows_of_a_stream_skip_the_sensors_that_are_missing() -> None:
    k, v = torch.randn(4, 2, 3), torch.randn(4, 2, 1)
    k[1, 1] = torch.nan  # the second row has no reading at time 1
    moments = RunningMoments.start((2,), head_dim=3, value_dim=1)
    for n in range(4):
        moments = moments.observe(k[n], v[n], exists=k[n].isfinite().all(dim=-1))
    assert moments.count[:, 0].tolist() == [4.0, 3.0]
    q = torch.randn(2, 5, 3)
    found = moments.attend(q)
    torch.testing.assert_close(found[0], entropy_linear_attention(q[0], k[:, 0], v[:, 0]))
    kept = [0, 2, 3]
    torch.testing.assert_close(found[1], entropy_linear_attention(q[1], k[kept, 1], v[kept, 1]))


def test_before_the_first_key_the_output_is_zero() -> None:
    x, v = torch.randn(3, 2), torch.randn(3, 2)
    out = causal_entropy_linear_attention(x, x, v, key_mask=torch.tensor([False, True, True]))
    assert (out[0] == 0).all()
    assert (RunningMoments.start((), head_dim=2, value_dim=2).attend(x) == 0).all()


def test_autocast_does_not_lower_the_running_moments() -> None:
    q, k, v = (torch.randn(20, 8) for _ in range(3))

    def attended() -> torch.Tensor:
        moments = RunningMoments.start((), head_dim=8, value_dim=8)
        for key, value in zip(k, v, strict=True):
            moments = moments.observe(key, value)
        return moments.attend(q)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attended()
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, attended(), rtol=0, atol=0)


def test_later_keys_have_no_influence() -> None:
    q, k, v = (torch.randn(9, 3) for _ in range(3))
    out = causal_entropy_linear_attention(q, k, v)
    changed = causal_entropy_linear_attention(q, torch.cat([k[:5], -k[5:]]), torch.cat([v[:5], 9 * v[5:]]))
    torch.testing.assert_close(changed[:5], out[:5], rtol=0, atol=0)
    assert not torch.allclose(changed[5:], out[5:])


def test_a_far_mean_does_not_spoil_the_running_variance() -> None:
    k = 1e3 + 0.1 * torch.randn(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = torch.randn(500, 1, dtype=torch.float64)
    single, double = (
        causal_entropy_linear_attention(k.to(dtype) * 1e-3, k.to(dtype), v.to(dtype), scale=1.0)
        for dtype in (torch.float32, torch.float64)
    )
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-3)


def test_shapes_that_do_not_fit_are_refused(unchecked: None) -> None:
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match=r"q, k, v: got shapes \[2, 3\], \[4, 3\], \[4, 3\], .* a query for each key"):
        causal_entropy_linear_attention(x[:2], x, x)
    with pytest.raises(
        ValueError, match=r"k and v: got shapes \[2\] and \[1\], expected \[3\] and \[1\] as at the start"
    ):
        RunningMoments.start((), head_dim=3, value_dim=1).observe(x[0, :2], x[0, :1])
