"""Whether the quiescent drift of a network follows the score of its waking states (sheet 10.1; not in the paper).

The theory says that the network's step without input is r -> r + sigma^2 dt grad log p(r), with p the density of its
active states. Here p is a kernel density in the first principal components of these states.

Shape letters: T = steps, B = trajectories, N = units, K = components, n = states.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.special
import torch
from jaxtyping import Float

from iclr_repro.reactivation_rnn.analysis import PrincipalComponents
from iclr_repro.reactivation_rnn.density import scott_factor
from iclr_repro.reactivation_rnn.networks import Network

_KERNELS = 2000  # states that the density is made of
_DISTANCE = 1.0  # of probes from a state, in standard deviations of a kernel


@dataclass(frozen=True, eq=False)
class StateDensity:
    """A kernel density of states in their first principal components, with round kernels.

    Attributes:
        components: the axes.
        points: [n, K] states in them.
        width: standard deviation of a kernel.
        states: [n, N] the states themselves.
    """

    components: PrincipalComponents
    points: np.ndarray
    width: float
    states: np.ndarray

    def score(self, at: Float[np.ndarray, "m K"]) -> Float[np.ndarray, "m K"]:
        """Return grad log p in the components' coordinates: (weighted mean of the states - at) / width^2."""
        exponents = (at @ self.points.T - 0.5 * np.square(self.points).sum(axis=1)) / self.width**2
        return np.asarray((scipy.special.softmax(exponents, axis=1) @ self.points - at) / self.width**2)


def state_density(
    hidden_TBN: Float[np.ndarray, "T B N"], *, num_components: int, rng: np.random.Generator
) -> StateDensity:
    """Estimate the density of states from 2,000 of them, with Scott's factor times their mean standard deviation."""
    components = PrincipalComponents.fit(hidden_TBN, num_components=num_components)
    flat = hidden_TBN.reshape(-1, hidden_TBN.shape[-1])
    states = flat[rng.choice(len(flat), size=min(_KERNELS, len(flat)), replace=False)].astype(np.float64)
    spread = float(np.sqrt(components.variances.mean()))
    width = scott_factor(len(states), num_components) * spread
    return StateDensity(components, components.project(states), width, states)


@dataclass(frozen=True, eq=False)
class Alignment:
    """Drift and sigma^2 dt score at the same states, [n, K] each, in the components' coordinates.

    Attributes:
        at: where, [n, K].
        drift: F(r) - r, projected.
        score: sigma_step^2 grad log p.
        outside: share of the squared drift that lies outside the components.
    """

    at: np.ndarray
    drift: np.ndarray
    score: np.ndarray
    outside: float

    def metrics(self) -> dict[str, float]:
        """Return mean cosine, slope of drift on score, drift over score length, and the share outside."""
        product = (self.drift * self.score).sum(axis=1)
        lengths = [np.linalg.norm(each, axis=1) for each in (self.drift, self.score)]
        kept = (lengths[0] > 0.0) & (lengths[1] > 0.0)
        return {
            "cosine": float((product[kept] / (lengths[0] * lengths[1])[kept]).mean()) if kept.any() else 0.0,
            "slope": float(product.sum() / np.square(self.score).sum()),
            "length_ratio": float(np.median(lengths[0]) / np.median(lengths[1])),
            "drift_outside": self.outside,
        }

    def plane(self, num: int = 150) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (at, drift, score) of the first `num` states in the first two components, for a figure."""
        return self.at[:num, :2], self.drift[:num, :2], self.score[:num, :2]


@torch.no_grad()
def alignment(
    network: Network, density: StateDensity, *, num: int, sigma_step: float, rng: np.random.Generator
) -> Alignment:
    """Compare at states off the manifold: active states moved by a random vector in the components' space.

    Args:
        network: whose step without input and noise is the drift.
        density: of its active states.
        num: of states.
        sigma_step: sigma sqrt(dt).
        rng: of the states.
    """
    chosen = rng.integers(len(density.states), size=num)
    move = _DISTANCE * density.width * rng.standard_normal((num, density.points.shape[1]))
    states = (density.states[chosen] + move @ density.components.axes.T).astype(np.float32)
    state = torch.from_numpy(states).to(network.decoder.weight.device)
    after = network.scan(state, state.new_zeros(1, num, network.num_inputs), None)[0]
    drift = (after - state).double().cpu().numpy()
    at = density.components.project(states.astype(np.float64))
    inside = drift @ density.components.axes
    outside = 1.0 - float(np.square(inside).sum() / np.square(drift).sum())
    return Alignment(at, inside, sigma_step**2 * density.score(at), outside)
