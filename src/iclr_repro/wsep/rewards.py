"""Rewards of learned skills: DIAYN, DIAYN + LSEPIN, WSEP (dual, primal and METRA's temporal form), PWSEP, and goals.

Every reward learns from a rollout of all skills (`update`) and then pays each transition (`rewards`). Potentials and
networks are frozen while the policy learns. No mean over a skill's own batch is subtracted: it would erase what skills
differ in.

Shape letters: G = K = groups, one skill each, N = copies of a group, T = steps, B = N T samples, S = cells, D = state,
M = directions.

Source: sheet 2.7 and 4.4. The paper's own networks could not be read; DIAYN and METRA follow arXiv 1802.06070 and
2310.08887, the sliced form arXiv 2110.07940.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from iclr_repro.wsep.policies import Rollout
from iclr_repro.wsep.transport import HullDistances, kantorovich

_HISTORY = 0.7  # share of the old histogram of cells
_DISCRIMINATOR_STEPS = 4
_DISCRIMINATOR_LEARNING_RATE = 3e-3
_LEAST_TEMPERATURE = 0.1
_METRA_SLACK = 1e-3
_METRA_MULTIPLIER = 30.0
_DIRECTIONS = 5


@runtime_checkable
class SkillReward(Protocol):
    """Pays skills for transitions."""

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from the newest rollout; returns what was measured on it."""
        ...

    def rewards(self, rollout: Rollout) -> Tensor:
        """Return [G, N, T]."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all that later rewards depend on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        ...


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
    """

    def __init__(
        self,
        num_skills: int,
        state_size: int,
        *,
        lsepin_weight: float = 0.0,
        hidden: int = 64,
        generator: torch.Generator,
    ) -> None:
        self.num_skills, self.lsepin_weight = num_skills, lsepin_weight
        self.network = _network(state_size, 2 * num_skills, hidden, generator)
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


class _Histograms:
    """Running histograms of the cells that each skill visits: 0.7 old + 0.3 new, counts plus one."""

    def __init__(self, metric: np.ndarray) -> None:
        self.metric = metric
        self.histograms: Tensor | None = None

    def observe(self, rollout: Rollout) -> np.ndarray:
        """Take in a rollout and return [G, S] histograms.

        Raises:
            ValueError: the world has no cells.
        """
        if rollout.cells is None:
            raise ValueError("this objective needs cells, which the world does not have: use the sliced or METRA form")
        num_cells = len(self.metric)
        visited = rollout.cells[:, :, 1:].flatten(1)
        counts = torch.stack([torch.bincount(row, minlength=num_cells) for row in visited]).double() + 1.0
        new = counts / counts.sum(dim=1, keepdim=True)
        old = self.histograms
        self.histograms = new if old is None else _HISTORY * old + (1.0 - _HISTORY) * new
        return self.histograms.cpu().numpy()

    def state_dict(self) -> dict[str, Any]:
        """Return the histograms."""
        return {"histograms": self.histograms}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self.histograms = state["histograms"]


def _pay_by_cell(rollout: Rollout, payments: Sequence[np.ndarray]) -> Tensor:
    """[G, N, T] the payment of the next state's cell."""
    assert rollout.cells is not None
    table = torch.from_numpy(np.stack(payments)).float().to(rollout.inputs.device)
    groups = torch.arange(len(table), device=table.device)[:, None, None]
    return table[groups, rollout.cells[:, :, 1:]]


class CellWsep(_Histograms):
    """WSEP, dual form: R = mean over the other skills j of f_zj(s') - <f_zj, p_j>, f_zj the Kantorovich potential.

    Exact potentials between histograms of cells.

    Args:
        metric: [S, S] distances between cells.
    """

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Solve the transport problems of all pairs; returns the mean W between skills."""
        skills = self.observe(rollout)
        total, self._payments = 0.0, []
        for own in range(len(skills)):
            paid = np.zeros(len(self.metric))
            for other in range(len(skills)):
                if other != own:
                    found = kantorovich(skills[own], skills[other], self.metric)
                    total += found.value
                    paid += found.potential - found.potential @ skills[other]
            self._payments.append(paid / (len(skills) - 1))
        return {"mean_distance": total / (len(skills) * (len(skills) - 1))}

    def rewards(self, rollout: Rollout) -> Tensor:
        """Pay each transition by the cell of its next state."""
        return _pay_by_cell(rollout, self._payments)


class CellPwsep(_Histograms):
    """PWSEP: R = f(s') - max_j <f, p_j>, f the potential of skill z against the hull of the skills j < z.

    All skills learn at the same time; the first one against the mean histogram of the first rollout. Exact potentials.

    Args:
        metric: [S, S] distances between cells.
    """

    def __init__(self, metric: np.ndarray) -> None:
        super().__init__(metric)
        self.reference: Tensor | None = None

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Solve the linear programs; returns the mean distance of a skill to the hull of those before it."""
        skills = self.observe(rollout)
        if self.reference is None:
            self.reference = torch.from_numpy(skills.mean(axis=0, keepdims=True))
        self._payments, distances = [], []
        for own in range(len(skills)):
            hull = skills[:own] if own else self.reference.numpy()
            found = HullDistances(hull, self.metric).to(skills[own])
            distances.append(found.value)
            self._payments.append(found.potential - (hull @ found.potential).max())
        return {"mean_hull_distance": float(np.mean(distances[1:] or distances))}

    def rewards(self, rollout: Rollout) -> Tensor:
        """Pay each transition by the cell of its next state."""
        return _pay_by_cell(rollout, self._payments)

    def state_dict(self) -> dict[str, Any]:
        """Return the histograms and the reference."""
        return {**super().state_dict(), "reference": self.reference}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        super().load_state_dict(state)
        self.reference = state["reference"]


class SlicedWsep:
    """WSEP, primal and sampled: the distance of a state to its match in another skill's sample, averaged over skills.

    Along each of M random directions the samples of two skills are sorted and matched by rank (they are equally many);
    a state is paid its Euclidean distance to its match, in the full space, averaged over directions and other skills.

    Args:
        generator: draws the directions.
        nearest: pay by the nearest other skill instead of all of them.
    """

    def __init__(self, *, generator: torch.Generator, nearest: bool = False) -> None:
        self._generator, self._nearest = generator, nearest

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Match the samples; returns the mean sliced distance."""
        samples_GBD = rollout.inputs[:, :, 1:].flatten(1, 2)
        num_groups, _, size = samples_GBD.shape
        paid_GGB = torch.zeros(num_groups, num_groups, samples_GBD.shape[1], device=samples_GBD.device)
        for _ in range(_DIRECTIONS):
            direction = torch.randn(size, generator=self._generator).to(samples_GBD.device)
            order_GB = (samples_GBD @ (direction / direction.norm())).argsort(dim=1)
            ranked_GBD = samples_GBD.gather(1, order_GB[..., None].expand_as(samples_GBD))
            apart_GGB = (ranked_GBD[:, None] - ranked_GBD[None]).norm(dim=-1)
            # From ranks back to the samples' own order.
            paid_GGB += torch.zeros_like(paid_GGB).scatter(2, order_GB[:, None].expand_as(apart_GGB), apart_GGB)
        paid_GGB /= _DIRECTIONS
        means_GG = paid_GGB.mean(dim=2)
        if self._nearest:
            closest = (means_GG + torch.diag(torch.full((num_groups,), math.inf))).argmin(dim=1)
            chosen = paid_GGB[torch.arange(num_groups), closest]
        else:
            chosen = paid_GGB.sum(dim=1) / (num_groups - 1)
        self._paid = chosen.reshape(rollout.inputs.shape[0], rollout.inputs.shape[1], -1)
        return {"mean_distance": float(means_GG.sum() / (num_groups * (num_groups - 1)))}

    def rewards(self, rollout: Rollout) -> Tensor:
        """Pay each transition of the rollout that was last learnt from."""
        return self._paid

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: every rollout is matched anew."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore nothing."""


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
    """

    network: _Embedding

    def __init__(self, num_skills: int, state_size: int, *, hidden: int = 64, generator: torch.Generator) -> None:
        self.network = _Embedding(_network(state_size, num_skills, hidden, generator))
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=_DISCRIMINATOR_LEARNING_RATE)
        codes = torch.eye(num_skills) - 1.0 / num_skills
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
        return self._codes.to(rollout.inputs.device)[rollout.skills][:, None, None]


class GoalReward:
    """R = -(shortest path from the cell of s' to the goal) / (longest shortest path): a downstream task.

    Args:
        goals: [G] the cell of each group's task.
        metric: [S, S] distances between cells.
    """

    def __init__(self, goals: Sequence[int], metric: np.ndarray) -> None:
        self._payments = [-metric[goal] / metric.max() for goal in goals]

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn nothing; returns the mean reward."""
        return {"goal_return": float(self.rewards(rollout).mean())}

    def rewards(self, rollout: Rollout) -> Tensor:
        """Pay each transition by the cell of its next state."""
        return _pay_by_cell(rollout, self._payments)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore nothing."""
