import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from iclr_repro.entropy_linear_attention import MECHANISMS, entropy_linear_attention, make_mechanism
from iclr_repro.entropy_linear_attention.conversion import mechanism_weights
from iclr_repro.entropy_linear_attention.mechanisms import EPSILON, EntropyEquality, Performer

HEADS, DIM = 2, 4


def tensors(num_keys: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, HEADS, 5, DIM), (3, HEADS, num_keys, DIM), (3, HEADS, num_keys, 6))
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)  # type: ignore[return-value]


def make(name: str) -> torch.nn.Module:
    return make_mechanism(name, num_heads=HEADS, head_dim=DIM, generator=torch.Generator().manual_seed(1)).double()


def weights_by_numpy(name: str, q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """The weights of one head from the formulas of the sheet, dense."""
    d, n = q.shape[1], len(k)
    relu = lambda x: np.maximum(x, 0)  # noqa: E731
    if name.startswith("softmax"):
        temperature = float(name.partition("_t")[2] or 1)
        e = np.exp(q @ k.T / math.sqrt(d) / temperature)
        return e / e.sum(axis=1, keepdims=True)
    if name == "uniform":
        return np.full((len(q), n), 1 / n)
    if name == "linear_elu":
        phi = [np.where(x > 0, x + 1, np.exp(x)) for x in (q, k)]
        e = phi[0] @ phi[1].T
    elif name == "linear_relu":
        e = relu(q) @ relu(k).T
    else:  # cosformer
        length = max(len(q), n)
        distance = np.arange(len(q))[:, None] - np.arange(n)
        e = relu(q) @ relu(k).T * np.cos(math.pi / 2 * distance / length)
    return e / (e.sum(axis=1, keepdims=True) + EPSILON)


@pytest.mark.parametrize(
    "name", ["softmax", "softmax_t0.25", "softmax_t4", "uniform", "linear_elu", "linear_relu", "cosformer"]
)
def test_baselines_follow_their_formulas(name: str) -> None:
    q, k, v = tensors()
    out = make(name)(q, k, v)
    for b in range(3):
        for h in range(HEADS):
            weights = weights_by_numpy(name, q[b, h].numpy(), k[b, h].numpy())
            np.testing.assert_allclose(out[b, h].numpy(), weights @ v[b, h].numpy(), atol=1e-12)


def test_fused_softmax_is_softmax() -> None:
    torch.testing.assert_close(make("softmax_sdpa")(*tensors()), make("softmax")(*tensors()))


@pytest.mark.parametrize("solver", ["collision", "shannon2", "shannon4"])
def test_eala_is_the_function(solver: str) -> None:
    torch.testing.assert_close(make(f"eala_{solver}")(*tensors()), entropy_linear_attention(*tensors(), solver=solver))


def test_fixed_theta_starts_at_one_and_is_learned_per_head() -> None:
    mechanism: Any = make("eala_fixed")
    torch.testing.assert_close(mechanism.theta, torch.ones(HEADS, 1, dtype=torch.float64))
    out = mechanism(*tensors())
    expected = entropy_linear_attention(*tensors(), solver="fixed", theta=torch.ones(()))
    torch.testing.assert_close(out, expected)
    out.square().sum().backward()
    assert (mechanism.raw_theta.grad != 0).all()


def test_performer_estimates_softmax_and_does_so_better_with_more_features() -> None:
    q, k, v = (0.5 * x for x in tensors(40))
    exact = make("softmax")(q, k, v)
    errors = []
    for num_features in (16, 4096):
        mechanism = Performer(DIM, generator=torch.Generator().manual_seed(0), num_features=num_features).double()
        errors.append(float((mechanism(q, k, v) - exact).abs().mean()))
    assert errors[1] < errors[0] / 5


def test_performer_features_are_orthogonal_in_blocks() -> None:
    omega: Any = make("performer").omega
    assert omega.shape == (64, DIM)
    gram = omega[:DIM] @ omega[:DIM].T
    torch.testing.assert_close(gram, torch.diag(gram.diag()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MECHANISMS)
def test_masked_keys_have_no_influence(name: str) -> None:
    if name == "cosformer":
        pytest.skip("positions of the keys that are left change with their number")
    q, k, v = tensors()
    mask = torch.tensor([True] * 6 + [False] * 3)
    spoiled = [torch.cat([x[..., :6, :], 50 + x[..., 6:, :]], dim=-2) for x in (k, v)]
    masked = make(name)(q, *spoiled, mask.expand(3, 1, 9))
    torch.testing.assert_close(masked, make(name)(q, k[..., :6, :], v[..., :6, :]))


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_row_without_any_key_is_refused_by_all(name: str) -> None:
    mask = torch.ones(3, 1, 9, dtype=torch.bool)
    mask[2] = False
    with pytest.raises(ValueError, match=r"key_mask: no key is left in row\(s\) \[\(2, 0\)\]: drop them"):
        make(name)(*tensors(), mask)


@pytest.mark.parametrize("name", MECHANISMS)
def test_weights_read_off_are_those_that_are_used(name: str) -> None:
    q, k, v = tensors()
    torch.testing.assert_close(mechanism_weights(make(name), q, k) @ v, make(name)(q, k, v))


@pytest.mark.parametrize("name", MECHANISMS)
def test_half_precision_stays_finite(name: str) -> None:
    q, k, v = (x.to(torch.bfloat16) for x in tensors())
    out = make_mechanism(name, num_heads=HEADS, head_dim=DIM, generator=torch.Generator())(q, k, v)
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()


def test_an_unknown_mechanism_or_solver_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"attention: got 'sofmax'; did you mean 'softmax'. Valid: softmax, softmax_sdpa"
    ):
        make("sofmax")
    with pytest.raises(ValueError, match="solver: got 'nothing'; Valid: collision"):
        EntropyEquality(2, solver="nothing")
