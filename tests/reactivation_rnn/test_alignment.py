from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from iclr_repro.reactivation_rnn.alignment import (
    Alignment,
    alignment,
    contraction,
    local_tangents,
    split,
    state_density,
)
from iclr_repro.reactivation_rnn.networks import NoisyRNN


def ring(num: int = 4000) -> np.ndarray:
    """States around a circle of radius 1 in the first two of six dimensions."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, size=num)
    states = rng.normal(0.0, 0.02, size=(num, 6))
    states[:, 0] += np.cos(angle)
    states[:, 1] += np.sin(angle)
    return states.reshape(40, -1, 6)


class Follows(NoisyRNN):
    """A network whose drift is minus the direction to the circle: it goes back to it."""

    def scan(self, start_BN: torch.Tensor, inputs_TBI: torch.Tensor, noise_TBN: torch.Tensor | None) -> torch.Tensor:
        states = []
        for _ in inputs_TBI:
            radius = start_BN[:, :2].norm(dim=1, keepdim=True)
            back = torch.zeros_like(start_BN)
            back[:, :2] = start_BN[:, :2] * (1 / radius - 1)
            start_BN = start_BN + 0.1 * self.sign * back
            states.append(start_BN)
        return torch.stack(states)

    sign = 1.0


def test_a_score_points_back_to_the_states() -> None:
    density = state_density(ring(), num_components=2, rng=np.random.default_rng(0))
    at = density.components.project(np.array([[1.3, 0, 0, 0, 0, 0], [0.7, 0, 0, 0, 0, 0]], dtype=float))
    centre = density.components.project(np.zeros((1, 6)))
    outwards = ((at - centre) * density.score(at)).sum(axis=1)
    assert outwards[0] < 0 < outwards[1]


def test_the_score_is_the_gradient_of_the_log_density() -> None:
    density = state_density(ring(), num_components=2, rng=np.random.default_rng(0))

    def log_density(at: np.ndarray) -> float:
        squares = np.square(at - density.points).sum(axis=1) / (2 * density.width**2)
        return float(np.log(np.exp(-squares).sum()))

    at, small = np.array([0.4, 0.5]), 1e-5
    numerical = [(log_density(at + small * axis) - log_density(at - small * axis)) / (2 * small) for axis in np.eye(2)]
    np.testing.assert_allclose(density.score(at[None])[0], numerical, rtol=1e-5)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_network_that_goes_back_is_aligned_and_one_that_flees_is_not(sign: float) -> None:
    density = state_density(ring(), num_components=2, rng=np.random.default_rng(0))
    network = Follows(2, 6, 4)
    network.sign = sign
    found = alignment(network, density, num=500, sigma_step=0.1, rng=np.random.default_rng(1)).metrics()
    assert sign * found["cosine"] > 0.6
    assert sign * found["slope"] > 0.0
    assert found["drift_outside"] < 0.05


def test_a_drift_that_is_the_score_has_cosine_and_slope_one() -> None:
    score = np.random.default_rng(0).normal(size=(50, 3))
    tangents = np.repeat(np.eye(3)[None, :, :2], 50, axis=0)
    found = Alignment(np.zeros((50, 3)), score, score, 0.0, tangents).metrics()
    for name in ("cosine", "slope", "cosine_along", "slope_along", "cosine_across", "slope_across", "length_ratio"):
        assert found[name] == pytest.approx(1.0), name
    assert found["drift_along"] == pytest.approx(np.square(score[:, :2]).sum() / np.square(score).sum())
    nothing = Alignment(np.zeros((50, 3)), np.zeros((50, 3)), score, 0.0, tangents).metrics()
    assert nothing["cosine"] == nothing["slope"] == nothing["drift_along"] == 0.0


def test_along_and_across_the_manifold_are_told_apart() -> None:
    """The score across, the opposite of it along."""
    score = np.random.default_rng(0).normal(size=(50, 3))
    tangents = np.repeat(np.eye(3)[None, :, :1], 50, axis=0)
    drift = score * np.array([-0.5, 2.0, 2.0])
    found = Alignment(np.zeros((50, 3)), drift, score, 0.0, tangents).metrics()
    assert (found["cosine_along"], found["slope_along"]) == pytest.approx((-1.0, -0.5))
    assert (found["cosine_across"], found["slope_across"]) == pytest.approx((1.0, 2.0))


def test_tangents_of_a_ring_are_its_tangents() -> None:
    density = state_density(ring(), num_components=3, rng=np.random.default_rng(0))
    places = np.array([[1.0, 0, 0, 0, 0, 0], [0, -1.0, 0, 0, 0, 0]])
    found = local_tangents(density.points, density.components.project(places), num_dims=1)
    lifted = density.components.axes @ found
    assert np.abs(lifted[0, 1, 0]) > 0.95
    assert np.abs(lifted[1, 0, 0]) > 0.95
    parts = split(np.array([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]]), found)
    np.testing.assert_allclose(sum(parts), [[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]])
    np.testing.assert_allclose((parts[0] * parts[1]).sum(axis=1), 0.0, atol=1e-12)


def test_a_perturbation_shrinks_across_a_ring_and_stays_along_it() -> None:
    """The radius goes back by a tenth a step; around the ring nothing happens, and four dimensions are left alone."""
    density = state_density(ring(), num_components=3, rng=np.random.default_rng(0))
    options: Any = {"num": 300, "length": 0.05, "steps": [1, 5, 20], "manifold_dims": 1}
    found = contraction(Follows(2, 6, 4), density, rng=np.random.default_rng(1), **options)
    assert (found["along"] > 0.9).all()
    assert (np.diff(found["isotropic"]) < 0).all()
    assert found["isotropic"][-1] < 0.95
    leaky = NoisyRNN(2, 6, 4, leak=0.2)
    torch.nn.init.zeros_(leaky.recurrent.weight)
    for ratios in contraction(leaky, density, rng=np.random.default_rng(1), **options).values():
        np.testing.assert_allclose(ratios, 0.8 ** np.array([1, 5, 20]), rtol=1e-3)
