"""How the server makes one state of many: weighted averages and server optimisers (sheet 2.2, 2.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Parameters = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class ClientUpdate:
    """What a client returns: its parameters phi_k, its number of texts n_k, and its mean training loss."""

    parameters: Parameters
    num_examples: int
    loss: float


def client_weights(num_examples: Sequence[int], exponent: float = 1.0) -> np.ndarray:
    """Return [K] weights w_k = n_k^a / sum_j n_j^a.

    Example: n = [30, 10] gives [0.75, 0.25] for a = 1, and [0.5, 0.5] for a = 0. A client with n = 0 has weight 0.

    Args:
        num_examples: n_k.
        exponent: a: 1 by size, 0 uniform, 0.5 by its root.

    Raises:
        ValueError: a size is negative, or all are 0.
    """
    n = np.asarray(num_examples, dtype=np.float64)
    if n.size == 0 or (n < 0).any() or not (n > 0).any():
        raise ValueError(f"numbers of texts {n.tolist()}: expected >= 0, one of them > 0")
    # Divided by the largest first, so that scaling all n_k changes nothing and no power overflows.
    weights = np.where(n > 0, np.power(np.where(n > 0, n / n.max(), 1.0), exponent), 0.0)
    return np.asarray(weights / weights.sum())


def weighted_average(states: Sequence[Mapping[str, np.ndarray]], weights: np.ndarray) -> Parameters:
    """Return sum_k w_k phi_k, each coordinate inside the range of the clients with w_k > 0 (up to rounding).

    Summed in the order of the clients in their own dtype, as Flower does, so that the engines give equal bits.
    """
    shares = [float(weight) for weight in weights]
    average = {}
    for name in states[0]:
        total = states[0][name] * shares[0]
        for state, share in zip(states[1:], shares[1:], strict=True):
            total += state[name] * share
        average[name] = np.asarray(total)
    return average


@dataclass(kw_only=True)
class FedAvg:
    """phi_{t+1} = sum_k w_k phi_k with w_k ~ n_k^exponent (McMahan et al.; sheet 2.2, step 5)."""

    exponent: float = 1.0

    @property
    def proximal_mu(self) -> float:
        """Factor mu of the clients' term mu/2 ||phi - phi_t||^2."""
        return 0.0

    def average(self, updates: Sequence[ClientUpdate]) -> Parameters:
        """Return the weighted average of the clients."""
        weights = client_weights([update.num_examples for update in updates], self.exponent)
        return weighted_average([update.parameters for update in updates], weights)

    def aggregate(self, current: Parameters, updates: Sequence[ClientUpdate]) -> Parameters:
        """Return phi_{t+1} from phi_t and the clients' updates."""
        return self.average(updates)

    def state_dict(self) -> dict[str, Any]:
        """Return what the next round depends on besides phi."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""


@dataclass(kw_only=True)
class FedProx(FedAvg):
    """FedAvg of clients that minimise loss + mu/2 ||phi - phi_t||^2; mu = 0 is FedAvg."""

    mu: float = 0.1

    @property
    def proximal_mu(self) -> float:
        """Factor mu of the clients' term mu/2 ||phi - phi_t||^2."""
        return self.mu


@dataclass(kw_only=True)
class FedAvgM(FedAvg):
    """Server momentum: g = phi_t - avg; m <- beta m + g; phi <- phi_t - eta m. beta = 0, eta = 1 is FedAvg."""

    server_momentum: float = 0.9
    server_learning_rate: float = 1.0
    _m: Parameters = field(default_factory=dict, init=False, repr=False)

    def aggregate(self, current: Parameters, updates: Sequence[ClientUpdate]) -> Parameters:
        """Return phi_{t+1} from phi_t and the clients' updates."""
        average = self.average(updates)
        for name, value in current.items():
            gradient = value - average[name]
            self._m[name] = self.server_momentum * self._m[name] + gradient if name in self._m else gradient
        return {name: value - self.server_learning_rate * self._m[name] for name, value in current.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the momentum."""
        return {"m": dict(self._m)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved momentum."""
        self._m = dict(state["m"])


@dataclass(kw_only=True)
class FedAdam(FedAvg):
    """Server Adam: delta = avg - phi_t; phi <- phi_t + eta_t m / (sqrt(v) + tau).

    eta_t = eta sqrt(1 - b2^(t+1)) / (1 - b1^(t+1)) with t from 1: the exponent t + 1 is Flower's, not Adam's t.
    """

    server_learning_rate: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.99
    tau: float = 1e-3
    _m: Parameters = field(default_factory=dict, init=False, repr=False)
    _v: Parameters = field(default_factory=dict, init=False, repr=False)
    _t: int = field(default=0, init=False, repr=False)

    def aggregate(self, current: Parameters, updates: Sequence[ClientUpdate]) -> Parameters:
        """Return phi_{t+1} from phi_t and the clients' updates."""
        average = self.average(updates)
        self._t += 1
        correction = math.sqrt(1 - self.beta_2 ** (self._t + 1)) / (1 - self.beta_1 ** (self._t + 1))
        rate = np.float64(self.server_learning_rate * correction)  # float64, as Flower takes the step
        new = {}
        for name, value in current.items():
            delta = average[name] - value
            self._m[name] = self.beta_1 * self._m.get(name, np.zeros_like(value)) + (1 - self.beta_1) * delta
            self._v[name] = self.beta_2 * self._v.get(name, np.zeros_like(value)) + (1 - self.beta_2) * delta**2
            step = rate * self._m[name] / (np.sqrt(self._v[name]) + self.tau)
            new[name] = (value + step).astype(value.dtype)
        return new

    def state_dict(self) -> dict[str, Any]:
        """Return both moments and the round."""
        return {"m": dict(self._m), "v": dict(self._v), "t": self._t}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from saved moments."""
        self._m, self._v, self._t = dict(state["m"]), dict(state["v"]), state["t"]
