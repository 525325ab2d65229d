"""The theory of M1, as properties."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from iclr_repro.entropy_linear_attention.distributions import (
    co_monotone,
    entropy,
    kl_bound,
    kl_divergence,
    linear_family,
    linear_term,
    ranking_violation,
    softmax_family,
    total_variation,
)


@st.composite
def simplexes(draw: st.DrawFn, number: int = 2) -> list[Tensor]:
    size = draw(st.integers(2, 20))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    sharpness = draw(st.sampled_from([0.1, 1.0, 4.0]))
    return [
        torch.softmax(sharpness * torch.randn(size, generator=generator, dtype=torch.float64), dim=0)
        for _ in range(number)
    ]


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_examples_of_the_docstrings() -> None:
    assert float(entropy(tensor(0.5, 0.25, 0.25))) == pytest.approx(1.5 * math.log(2))
    assert float(kl_divergence(tensor(1.0, 0.0), tensor(0.5, 0.5))) == pytest.approx(math.log(2))
    assert float(total_variation(tensor(0.5, 0.5), tensor(0.75, 0.25))) == 0.25
    assert float(ranking_violation(tensor(1, 2, 3), tensor(0.2, 0.5, 0.3))) == pytest.approx(0.2)
    assert bool(co_monotone(tensor(0.5, 0.3, 0.2), tensor(0.4, 0.4, 0.2)))


def test_divergence_is_infinite_where_only_the_second_is_zero() -> None:
    assert float(kl_divergence(tensor(0.5, 0.5), tensor(1.0, 0.0))) == math.inf


@given(simplexes(), st.floats(0.05, 0.95))
def test_entropy_is_strictly_concave(pair: list[Tensor], t: float) -> None:
    p, q = pair
    assume(float((p - q).abs().max()) > 1e-4)
    assert entropy(t * p + (1 - t) * q) > t * entropy(p) + (1 - t) * entropy(q)


@given(simplexes(1))
def test_pinsker_bounds_the_deficit(one: list[Tensor]) -> None:
    (p,) = one
    uniform = torch.full_like(p, 1 / len(p))
    deficit = math.log(len(p)) - entropy(p)
    torch.testing.assert_close(deficit, kl_divergence(p, uniform), rtol=0, atol=1e-12)
    assert deficit >= 2 * total_variation(p, uniform) ** 2 - 1e-12


@given(simplexes())
def test_the_identity_has_the_sign_of_the_sheet(pair: list[Tensor]) -> None:
    p, q = pair
    torch.testing.assert_close(kl_divergence(q, p), entropy(p) - entropy(q) + linear_term(p, q), rtol=0, atol=1e-12)
    assume(abs(float(entropy(p) - entropy(q))) > 1e-6)
    wrong = entropy(q) - entropy(p) + linear_term(p, q)
    assert abs(float(kl_divergence(q, p) - wrong)) > 1e-7


@given(simplexes())
def test_the_bound_holds_for_pairs_of_any_ranking(pair: list[Tensor]) -> None:
    p, q = pair
    assert kl_divergence(q, p) <= kl_bound(p, q) + 1e-12


@given(simplexes(), st.integers(0, 2**31))
def test_no_reordering_is_closer_than_the_aligned_one(pair: list[Tensor], seed: int) -> None:
    p, q = (x.sort().values for x in pair)
    assert bool(co_monotone(p, q))
    generator = torch.Generator().manual_seed(seed)
    orders = torch.rand(1000, len(q), generator=generator).argsort(dim=1)
    assert kl_divergence(q[orders], p.expand_as(orders)).min() >= kl_divergence(q, p) - 1e-12


@given(simplexes(), st.data())
def test_co_monotone_is_the_pairwise_definition(pair: list[Tensor], data: st.DataObject) -> None:
    p, q = ((x * 6).round() for x in pair)  # with ties
    if data.draw(st.booleans()):
        p, q = p.sort().values, q.sort().values
    pairwise = (p[:, None] - p) * (q[:, None] - q)
    assert bool(co_monotone(p, q)) == bool((pairwise >= 0).all())


@given(simplexes(1))
def test_entropy_grows_with_theta_and_falls_with_t(one: list[Tensor]) -> None:
    s = one[0].log()
    assume(float(s.max() - s.min()) > 1e-3)
    thetas = [-float(s.min()) + shift for shift in (1e-3, 0.1, 1.0, 10.0, 50.0)]
    along = torch.stack([entropy(linear_family(s, theta)) for theta in thetas])
    assert (along.diff() > 0).all()
    step, t = 1e-5, 1.3
    slope = (entropy(softmax_family(s, t + step)) - entropy(softmax_family(s, t - step))) / (2 * step)
    p = softmax_family(s, t)
    variance = (p * s.square()).sum() - (p * s).sum() ** 2
    torch.testing.assert_close(slope, -t * variance, rtol=1e-4, atol=1e-8)


def test_theta_below_the_least_score_is_refused() -> None:
    with pytest.raises(ValueError, match=r"theta: with the smallest score -1 a weight is negative or all are 0"):
        linear_family(tensor(-1.0, 2.0), 0.5)
