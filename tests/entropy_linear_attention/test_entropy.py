import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given

from attention_cases import ALL_MAPS, attention_cases
from iclr_repro.entropy_linear_attention import entropy_estimate, softmax_entropy
from iclr_repro.entropy_linear_attention.moments import features, score_moments, third_central_moment


def dense_scores(case: dict[str, Any]) -> np.ndarray:
    """Scores of the keys that exist, by plain numpy."""
    maps = {
        "relu": lambda x: np.maximum(x, 0),
        "identity": lambda x: x,
        "elu1": lambda x: np.where(x > 0, x + 1, np.exp(x)),
    }
    phi = maps[case["options"]["feature_map"]]
    q, k = case["q"].numpy(), case["k"].numpy()
    mask = case["options"]["key_mask"]
    kept = k if mask is None else k[mask.numpy()]
    return phi(q) @ phi(kept).T / math.sqrt(q.shape[1])


def options(case: dict[str, Any]) -> dict[str, Any]:
    return {name: case["options"][name] for name in ("key_mask", "feature_map")}


@given(attention_cases(feature_maps=ALL_MAPS))
def test_softmax_entropy_is_that_of_the_dense_weights(case: dict[str, Any]) -> None:
    s = dense_scores(case)
    p = np.exp(s - s.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    expected = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1)
    np.testing.assert_allclose(softmax_entropy(case["q"], case["k"], **options(case)).numpy(), expected, atol=1e-10)


@given(attention_cases(feature_maps=ALL_MAPS))
def test_moments_are_those_of_the_dense_scores(case: dict[str, Any]) -> None:
    s = dense_scores(case)
    found = features(case["q"], case["k"], **options(case))
    mean, var = score_moments(found)
    np.testing.assert_allclose(mean.numpy(), s.mean(axis=1), atol=1e-11)
    np.testing.assert_allclose(var.numpy(), s.var(axis=1), atol=1e-11)
    third = ((s - s.mean(axis=1, keepdims=True)) ** 3).mean(axis=1)
    np.testing.assert_allclose(third_central_moment(found).numpy(), third, atol=1e-10)


@given(attention_cases(feature_maps=ALL_MAPS))
def test_estimates_follow_their_formulas_and_stay_in_range(case: dict[str, Any]) -> None:
    s = dense_scores(case)
    log_n, var = math.log(s.shape[1]), s.var(axis=1)
    third = ((s - s.mean(axis=1, keepdims=True)) ** 3).mean(axis=1)
    z = 1 + var / 2
    expected = {
        "gauss2": log_n - var / 2,
        "cum3": log_n - var / 2 - third / 3,
        "taylor2": log_n + np.log(z) - var / z,
    }
    for name, values in expected.items():
        found = entropy_estimate(case["q"], case["k"], estimate=name, **options(case)).numpy()
        np.testing.assert_allclose(found, np.clip(values, 0.0, log_n), atol=1e-10, err_msg=name)


def test_equal_keys_have_the_entropy_of_the_uniform_distribution() -> None:
    q, k = torch.randn(3, 4, dtype=torch.float64), torch.ones(5, 4, dtype=torch.float64)
    for found in (softmax_entropy(q, k), entropy_estimate(q, k)):
        torch.testing.assert_close(found, torch.full((3,), math.log(5), dtype=torch.float64))


def test_gauss2_is_exact_for_many_gaussian_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    k = torch.randn(400_000, 4, generator=generator, dtype=torch.float64)
    q = torch.tensor([[1.0, 0.5, -0.5, 0.2]], dtype=torch.float64)
    exact = float(softmax_entropy(q, k, feature_map="identity"))
    assert float(entropy_estimate(q, k, feature_map="identity")) == pytest.approx(exact, abs=2e-3)
    assert math.log(400_000) - exact > 0.1


def test_taylor2_is_not_monotone_beyond_a_variance_of_two() -> None:
    k = torch.tensor([[-1.0], [1.0]], dtype=torch.float64).repeat(500, 1)
    q = torch.tensor([[2.0], [3.0], [6.0]], dtype=torch.float64).sqrt()
    found = entropy_estimate(q, k, estimate="taylor2", feature_map="identity")
    assert found[0] < found[1] < found[2]
    assert (entropy_estimate(q, k, feature_map="identity").diff() < 0).all()


def test_an_unknown_estimate_is_refused() -> None:
    with pytest.raises(ValueError, match=r"estimate: got 'gaus2'; did you mean 'gauss2'. Valid: gauss2, cum3, taylor2"):
        entropy_estimate(torch.randn(2, 3), torch.randn(4, 3), estimate="gaus2")
