from __future__ import annotations

import numpy as np
import pytest
import torch

from iclr_repro.reactivation_rnn.alignment import Alignment, alignment, state_density
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
        radius = start_BN[:, :2].norm(dim=1, keepdim=True)
        back = torch.zeros_like(start_BN)
        back[:, :2] = start_BN[:, :2] * (1 / radius - 1)
        return (start_BN + 0.1 * self.sign * back).unsqueeze(0)

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
    found = Alignment(np.zeros((50, 3)), score, score, 0.0).metrics()
    assert found["cosine"] == pytest.approx(1.0)
    assert found["slope"] == pytest.approx(1.0)
    assert found["length_ratio"] == pytest.approx(1.0)
    assert Alignment(np.zeros((50, 3)), np.zeros((50, 3)), score, 0.0).metrics()["cosine"] == 0.0
