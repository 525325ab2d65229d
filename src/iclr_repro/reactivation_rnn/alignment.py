"""Whether the quiescent drift of a network follows the score of its waking states (sheet 10.1; not in the paper).

The theory says that the network's step without input is r -> r + sigma^2 dt grad log p(r), with p the density of its
active states. Here p is a kernel density in the first principal components of these states. What is "along the
manifold" of active states is ours: the first principal directions of the nearest of them, as many as the variable has.

Shape letters: T = steps, B = trajectories, N = units, K = components, D = dimensions of the manifold, n = states,
S = numbers of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.special
import torch
from jaxtyping import Float
from scipy.spatial import KDTree

from iclr_repro.reactivation_rnn.analysis import PrincipalComponents
from iclr_repro.reactivation_rnn.density import scott_factor
from iclr_repro.reactivation_rnn.networks import Network

_KERNELS = 2000  # states that the density is made of
_NEIGHBOURS = 100  # of the states, that a tangent is made of: wider than the noise around the manifold
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
        tangents: orthonormal directions along the manifold, [n, K, D].
    """

    at: np.ndarray
    drift: np.ndarray
    score: np.ndarray
    outside: float
    tangents: np.ndarray

    def metrics(self) -> dict[str, float]:
        """Return mean cosine and slope of drift on score, in all and along and across the manifold, and lengths.

        `length_ratio` is the median length of the drift over that of the score, `drift_outside` the share of the
        squared drift outside the components, `drift_along` the share of what is inside that lies along the manifold.
        """
        along, across = zip(*(split(vectors, self.tangents) for vectors in (self.drift, self.score)), strict=True)
        lengths = [np.linalg.norm(each, axis=1) for each in (self.drift, self.score)]
        found = {
            "length_ratio": float(np.median(lengths[0]) / np.median(lengths[1])),
            "drift_outside": self.outside,
            "drift_along": _ratio(np.square(along[0]).sum(), np.square(self.drift).sum()),
        }
        for suffix, (drift, score) in {"": (self.drift, self.score), "_along": along, "_across": across}.items():
            product = (drift * score).sum(axis=1)
            norms = np.linalg.norm(drift, axis=1) * np.linalg.norm(score, axis=1)
            kept = norms > 0.0
            found["cosine" + suffix] = float((product[kept] / norms[kept]).mean()) if kept.any() else 0.0
            found["slope" + suffix] = _ratio(product.sum(), np.square(score).sum())
        return found

    def plane(self, num: int = 150) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (at, drift, score) of the first `num` states in the first two components, for a figure."""
        return self.at[:num, :2], self.drift[:num, :2], self.score[:num, :2]


def local_tangents(
    points: Float[np.ndarray, "n K"], at: Float[np.ndarray, "m K"], *, num_dims: int
) -> Float[np.ndarray, "m K D"]:
    """Return the first principal directions of the 100 points nearest to each place: along the manifold there."""
    _, nearest = KDTree(points).query(at, k=min(_NEIGHBOURS, len(points)))
    around = points[nearest]
    _, _, directions = np.linalg.svd(around - around.mean(axis=1, keepdims=True), full_matrices=False)
    return np.asarray(directions[:, :num_dims].transpose(0, 2, 1))


def split(
    vectors: Float[np.ndarray, "n K"], tangents: Float[np.ndarray, "n K D"]
) -> tuple[Float[np.ndarray, "n K"], Float[np.ndarray, "n K"]]:
    """Return the parts of vectors along and across the manifold; their sum is the vector."""
    along = np.einsum("nkd,njd,nj->nk", tangents, tangents, vectors)
    return along, vectors - along


def alignment(
    network: Network,
    density: StateDensity,
    *,
    num: int,
    sigma_step: float,
    rng: np.random.Generator,
    manifold_dims: int = 2,
) -> Alignment:
    """Compare at states off the manifold: active states moved by a random vector in the components' space.

    Args:
        network: whose step without input and noise is the drift.
        density: of its active states.
        num: of states.
        sigma_step: sigma sqrt(dt).
        rng: of the states.
        manifold_dims: of the variable: 2 for positions, 1 for bearings.
    """
    chosen = rng.integers(len(density.states), size=num)
    move = _DISTANCE * density.width * rng.standard_normal((num, density.points.shape[1]))
    states = density.states[chosen] + move @ density.components.axes.T
    drift = _after(network, states, 1)[0] - states
    inside = drift @ density.components.axes
    outside = 1.0 - float(np.square(inside).sum() / np.square(drift).sum())
    at = density.components.project(states)
    tangents = local_tangents(density.points, density.points[chosen], num_dims=manifold_dims)
    return Alignment(at, inside, sigma_step**2 * density.score(at), outside, tangents)


def contraction(
    network: Network,
    density: StateDensity,
    *,
    num: int,
    length: float,
    steps: Sequence[int],
    rng: np.random.Generator,
    manifold_dims: int = 2,
) -> dict[str, Float[np.ndarray, " S"]]:
    """Return how much of a perturbation is left after so many steps without input and noise, on average.

    Active states are moved in a random direction of the state space ("isotropic") or along the manifold ("along"), and
    both they and the states themselves run on: mean distance over the first one.

    Args:
        network: what runs.
        density: of its active states.
        num: of states.
        length: of the perturbation; sqrt(2 N) sigma sqrt(dt) is that of a step's noise in quiescence.
        steps: at which to look.
        rng: of states and directions.
        manifold_dims: see `alignment`.
    """
    chosen = rng.integers(len(density.states), size=num)
    states = density.states[chosen]
    tangents = local_tangents(density.points, density.points[chosen], num_dims=manifold_dims)
    mixed = np.einsum("nkd,nd->nk", tangents, rng.standard_normal((num, manifold_dims)))
    directions = {"isotropic": rng.standard_normal(states.shape), "along": mixed @ density.components.axes.T}
    last = max(steps)
    alone = _after(network, states, last)
    found = {}
    for name, direction in directions.items():
        moved = states + length * direction / np.linalg.norm(direction, axis=1, keepdims=True)
        apart = np.linalg.norm(_after(network, moved, last) - alone, axis=-1).mean(axis=1) / length
        found[name] = apart[np.array(steps) - 1]
    return found


@torch.no_grad()
def _after(network: Network, states: Float[np.ndarray, "n N"], num_steps: int) -> Float[np.ndarray, "T n N"]:
    """States after 1, 2, ... steps without input and noise."""
    start = torch.from_numpy(states.astype(np.float32)).to(network.decoder.weight.device)
    after = network.scan(start, start.new_zeros(num_steps, len(states), network.num_inputs), None)
    return after.double().cpu().numpy()


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0.0 else 0.0
