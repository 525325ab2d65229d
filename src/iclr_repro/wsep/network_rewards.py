"""Rewards of learned skills that learn a network: DIAYN, DIAYN + LSEPIN, METRA's temporal WSEP, and PWSEP from samples.

See `rewards` for what a reward does. Networks are frozen while the policy learns.

Shape letters: G = K = groups, one skill each, N = copies of a group, T = steps, B = N T samples, D = state.

Source: sheet 2.7 and 4.4. The paper's own networks could not be read; DIAYN and METRA follow arXiv 1802.06070 and
2310.08887.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from iclr_repro.wsep.policies import Rollout

_DISCRIMINATOR_STEPS = 4
_DISCRIMINATOR_LEARNING_RATE = 3e-3
_LEAST_TEMPERATURE = 0.1
_METRA_SLACK = 1e-3
_METRA_MULTIPLIER = 30.0
_GRADIENT_PENALTY = 10.0  # this and the temperature are the sheet's untested choice
_SOFTNESS = 0.05


def _network(size_in: int, size_out: int, hidden: int, generator: torch.Generator) -> nn.Sequential:
    layers = [nn.Linear(size_in, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, size_out)]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            bound = 1.0 / math.sqrt(layer.in_features)
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return nn.Sequential(*layers)


class _Learnt:
    """A network with its optimiser, saved and restored together."""

    network: nn.Module
    optimizer: torch.optim.Optimizer

    def state_dict(self) -> dict[str, Any]:
        """Return the network and its optimiser."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


class Diayn(_Learnt):
    """R = log q(z | s') + log K with a learnt discriminator q: a lower bound of I(S;Z) on average.

    With `lsepin_weight` lambda > 0 the least separable skills get a bonus for being told from the rest,

    R += lambda K w_z (log q_z(s') + log K),  w = softmax over skills of -I_z / 0.1,
    I_z = h_b(1/K) + mean( 1_z log q_z(s') + (1 - 1_z) log(1 - q_z(s')) ) <= I(S; 1_z)

    with one-vs-rest probabilities q_z of the same network.

    Args:
        num_skills: K.
        state_size: D.
        lsepin_weight: lambda, 0 for DIAYN alone.
        hidden: units of both layers.
        generator: draws the weights.
        device: where the network lives.
    """

    def __init__(
        self,
        num_skills: int,
        state_size: int,
        *,
        lsepin_weight: float = 0.0,
        hidden: int = 64,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_skills, self.lsepin_weight = num_skills, lsepin_weight
        self.network = _network(state_size, 2 * num_skills, hidden, generator).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=_DISCRIMINATOR_LEARNING_RATE)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Take four full-batch steps of cross-entropy; returns the lower bounds of I(S;Z) and of LSEPIN."""
        states, skills = rollout.inputs[:, :, 1:], rollout.skills
        labels = skills[:, None, None].expand(states.shape[:-1])
        for _ in range(_DISCRIMINATOR_STEPS):
            which, rest = self._losses(states, labels)
            loss = which + (rest.sum() if self.lsepin_weight else 0.0)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        with torch.no_grad():
            which, rest = self._losses(states, labels)
        bounds = _binary_entropy(1.0 / self.num_skills) - rest
        found = {"information_bound": math.log(self.num_skills) - float(which)}
        return {**found, "lsepin_bound": float(bounds.min())} if self.lsepin_weight else found

    @torch.no_grad()
    def rewards(self, rollout: Rollout) -> Tensor:
        """Pay each transition by its next state."""
        states, skills = rollout.inputs[:, :, 1:], rollout.skills
        one_hot = nn.functional.one_hot(skills, self.num_skills).bool()[:, None, None]
        which, rest = self.network(states).chunk(2, dim=-1)
        paid = which.log_softmax(dim=-1)[one_hot.expand_as(which)].reshape(states.shape[:-1]) + math.log(
            self.num_skills
        )
        if self.lsepin_weight:
            losses = self._losses(states, skills[:, None, None].expand(states.shape[:-1]))[1]
            bounds = _binary_entropy(1.0 / self.num_skills) - losses
            least = torch.softmax(-bounds / _LEAST_TEMPERATURE, dim=0)[skills]
            bonus = nn.functional.logsigmoid(rest)[one_hot.expand_as(rest)].reshape(states.shape[:-1])
            weight = self.lsepin_weight * self.num_skills * least[:, None, None]
            paid = paid + weight * (bonus + math.log(self.num_skills))
        return paid

    def _losses(self, states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy, and [K] one-vs-rest cross-entropies."""
        which, rest = self.network(states.flatten(0, -2)).chunk(2, dim=-1)
        one_hot = nn.functional.one_hot(labels.flatten(), self.num_skills).to(rest.dtype)
        one_vs_rest = nn.functional.binary_cross_entropy_with_logits(rest, one_hot, reduction="none").mean(dim=0)
        return nn.functional.cross_entropy(which, labels.flatten()), one_vs_rest


def _binary_entropy(p: float) -> float:
    return -p * math.log(p) - (1.0 - p) * math.log(1.0 - p)


class _Embedding(nn.Module):
    """METRA's phi and the logarithm of its multiplier."""

    def __init__(self, phi: nn.Sequential) -> None:
        super().__init__()
        self.phi = phi
        self.log_multiplier = nn.Parameter(torch.tensor(math.log(_METRA_MULTIPLIER)))


class Metra(_Learnt):
    """METRA's discrete objective, a Wasserstein dependency in the temporal metric: R = (phi(s') - phi(s))^T m_z.

    m_z = (e_z - 1/K) K / (K - 1); phi maximises the mean of R under mean_k (phi(s') - phi(s))_k^2 <= 1, by a multiplier
    that is learnt as its logarithm. As in the public code the constraint takes the mean over k, not the sum.

    Args:
        num_skills: K.
        state_size: D.
        hidden: units of both layers.
        generator: draws the weights.
        device: where the network lives.
    """

    network: _Embedding

    def __init__(
        self,
        num_skills: int,
        state_size: int,
        *,
        hidden: int = 64,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
    ) -> None:
        self.network = _Embedding(_network(state_size, num_skills, hidden, generator)).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=_DISCRIMINATOR_LEARNING_RATE)
        codes = torch.eye(num_skills, device=device) - 1.0 / num_skills
        self._codes = codes * num_skills / (num_skills - 1)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Take four full-batch steps; returns the multiplier and the mean squared step of phi."""
        for _ in range(_DISCRIMINATOR_STEPS):
            steps = self._steps(rollout)
            gain = (steps * self._codes_of(rollout)).sum(dim=-1).mean()
            penalty = (1.0 - steps.square().mean(dim=-1)).clamp(max=_METRA_SLACK)
            log_multiplier = self.network.log_multiplier
            phi_loss = -gain - log_multiplier.exp().detach() * penalty.mean()
            self.optimizer.zero_grad()
            (phi_loss + log_multiplier * penalty.mean().detach()).backward()
            self.optimizer.step()
        return {
            "multiplier": float(log_multiplier.detach().exp()),
            "squared_step": float(steps.detach().square().mean()),
        }

    @torch.no_grad()
    def rewards(self, rollout: Rollout) -> Tensor:
        """Pay each transition."""
        return (self._steps(rollout) * self._codes_of(rollout)).sum(dim=-1)

    def _steps(self, rollout: Rollout) -> Tensor:
        embedded: Tensor = self.network.phi(rollout.inputs)
        return embedded[:, :, 1:] - embedded[:, :, :-1]

    def _codes_of(self, rollout: Rollout) -> Tensor:
        return self._codes[rollout.skills][:, None, None]


class SampledPwsep(_Learnt):
    """PWSEP from samples, for worlds without cells: R = f_z(s') - max_{j < z} mean f_z over skill j.

    f: state -> R^K is a learnt network, f_z the potential of skill z against the hull of the skills before it; the
    metric is Euclidean in scaled states:

    max_f  mean_z f_z - tau log sum_{j < z} exp( mean_j f_z / tau ) - 10 max(0, |grad f_z| - 1)^2

    with tau = 0.05, mean_j over the states of skill j and the penalty at random points between those of z and of all
    skills. The first skill is against the first rollout of all skills. Skills before z should be frozen.

    Args:
        num_skills: K.
        state_size: D.
        hidden: units of both layers.
        generator: draws the weights and the points of the penalty.
        device: where the network lives.
    """

    def __init__(
        self,
        num_skills: int,
        state_size: int,
        *,
        hidden: int = 64,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
    ) -> None:
        self.network = _network(state_size, num_skills, hidden, generator).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=_DISCRIMINATOR_LEARNING_RATE)
        self._generator = generator
        self.reference: Tensor | None = None

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Take four full-batch steps; returns the mean distance of a skill to the hull of those before it."""
        states_GBD = rollout.inputs[:, :, 1:].flatten(1, 2)
        if self.reference is None:
            self.reference = states_GBD.flatten(0, 1).clone()
        for _ in range(_DISCRIMINATOR_STEPS):
            own_G, hull_G = self._means(states_GBD, soft=True)
            loss = (hull_G - own_G).sum() + _GRADIENT_PENALTY * self._steepness(states_GBD)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        with torch.no_grad():
            own_G, hull_G = self._means(states_GBD, soft=False)
        self._hull_G = hull_G
        return {"mean_hull_distance": float((own_G - hull_G)[1:].mean())}

    @torch.no_grad()
    def rewards(self, rollout: Rollout) -> Tensor:
        """Pay each transition by its next state."""
        potentials_GNTK = self.network(rollout.inputs[:, :, 1:])
        groups = torch.arange(len(potentials_GNTK), device=potentials_GNTK.device)
        return potentials_GNTK[groups, :, :, groups] - self._hull_G[:, None, None]

    def state_dict(self) -> dict[str, Any]:
        """Return the network, its optimiser and the reference."""
        return {**super().state_dict(), "reference": self.reference}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        super().load_state_dict(state)
        self.reference = state["reference"]

    def _means(self, states_GBD: Tensor, *, soft: bool) -> tuple[Tensor, Tensor]:
        """[G] mean of each potential over its own skill, and its largest mean over a skill before."""
        means_GK = self.network(states_GBD).mean(dim=1)  # [j, z]
        before = torch.ones_like(means_GK, dtype=torch.bool).triu(1)[:, 1:]
        of_before = means_GK[:, 1:].masked_fill(~before, -math.inf)
        largest = _SOFTNESS * (of_before / _SOFTNESS).logsumexp(dim=0) if soft else of_before.max(dim=0).values
        first = self.network(self.reference).mean(dim=0)[:1]
        return means_GK.diagonal(), torch.cat([first, largest])

    def _steepness(self, states_GBD: Tensor) -> Tensor:
        """Mean square of what the gradients' norms exceed 1 by, summed over potentials."""
        groups, samples, _ = states_GBD.shape
        order = torch.randint(groups * samples, (groups, samples), generator=self._generator).to(states_GBD.device)
        others = states_GBD.flatten(0, 1)[order]
        share = torch.rand(groups, samples, 1, generator=self._generator).to(states_GBD.device)
        points_GBD = (share * states_GBD + (1.0 - share) * others).requires_grad_()
        own_BG = self.network(points_GBD).diagonal(dim1=0, dim2=2)
        (slopes_GBD,) = torch.autograd.grad(own_BG.sum(), points_GBD, create_graph=True)
        return (slopes_GBD.norm(dim=-1) - 1.0).clamp(min=0.0).square().mean(dim=1).sum()
