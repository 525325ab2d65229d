"""Skill-conditioned Gaussian policies, and PPO for them.

Shape letters: G = groups of copies (one skill each), N = copies of a group, T = steps, D = state, A = action,
B = samples of a group.

Source: sheet 4.4 (settings of its prototype); PPO and generalised advantages are the standard ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


class StackedLinear(nn.Module):
    """One linear layer for all groups, or one a group: y = x W_g + b_g.

    Args:
        num_stacks: 1 (shared) or G.
        size_in, size_out: of a layer.
        generator: draws the weights, U(-1, 1) / sqrt(size_in) as `torch.nn.Linear`.
    """

    def __init__(self, num_stacks: int, size_in: int, size_out: int, *, generator: torch.Generator) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(size_in)
        self.weight = nn.Parameter((2 * torch.rand(num_stacks, size_in, size_out, generator=generator) - 1) * bound)
        self.bias = nn.Parameter((2 * torch.rand(num_stacks, 1, size_out, generator=generator) - 1) * bound)

    def forward(self, x_GBD: Tensor, stacks: Tensor) -> Tensor:
        """Apply the layer `stacks` [G] of each group."""
        if len(self.weight) == 1:
            return x_GBD @ self.weight[0] + self.bias[0]
        return torch.baddbmm(self.bias[stacks], x_GBD, self.weight[stacks])


class SkillNetwork(nn.Module):
    """A two-layer tanh network of state and skill.

    Args:
        num_skills: K; a skill is a one-hot input of a shared network.
        size_in, size_out: of state and output.
        hidden: units of each layer.
        separate: a network of its own for each skill, so that a finished skill stays as it is.
        generator: draws the weights.
    """

    def __init__(
        self,
        num_skills: int,
        size_in: int,
        size_out: int,
        *,
        hidden: int,
        separate: bool = False,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        stacks = num_skills if separate else 1
        sizes = [size_in + (0 if separate else num_skills), hidden, hidden, size_out]
        self.num_skills, self.separate = num_skills, separate
        self.layers = nn.ModuleList(
            StackedLinear(stacks, one, two, generator=generator) for one, two in itertools.pairwise(sizes)
        )

    def forward(self, states_GBD: Tensor, skills_G: Tensor) -> Tensor:
        """Return [G, B, size_out] for groups of states that each follow one skill."""
        x = states_GBD
        if not self.separate:
            codes = nn.functional.one_hot(skills_G, self.num_skills).to(x.dtype)
            x = torch.cat([x, codes[:, None].expand(-1, x.shape[1], -1)], dim=-1)
        for layer in self.layers[:-1]:
            x = torch.tanh(layer(x, skills_G))
        out: Tensor = self.layers[-1](x, skills_G)
        return out


class SkillPolicy(nn.Module):
    """A Gaussian policy pi(a | s, z) with a value network.

    Args:
        num_skills: K.
        state_size, action_size: D and A.
        hidden: units of the two layers of each network.
        log_std: at the start; learnt, one for each action and skill.
        separate: networks of its own for each skill.
        generator: draws the weights.
    """

    def __init__(
        self,
        num_skills: int,
        state_size: int,
        action_size: int,
        *,
        hidden: int = 64,
        log_std: float = -0.3,
        separate: bool = False,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        made = {"hidden": hidden, "separate": separate, "generator": generator}
        self.num_skills = num_skills
        self.actor = SkillNetwork(num_skills, state_size, action_size, **made)  # type: ignore[arg-type]
        self.critic = SkillNetwork(num_skills, state_size, 1, **made)  # type: ignore[arg-type]
        self.log_std = nn.Parameter(torch.full((num_skills, 1, action_size), log_std))

    def act(self, states_GND: Tensor, skills_G: Tensor, *, generator: torch.Generator) -> Tensor:
        """Draw actions [G, N, A]."""
        mean = self.actor(states_GND, skills_G)
        noise = torch.randn(mean.shape, generator=generator).to(mean.device)
        return mean + self.log_std[skills_G].exp() * noise

    def log_prob(self, states_GBD: Tensor, skills_G: Tensor, actions_GBA: Tensor) -> Tensor:
        """Return [G, B] log pi(a | s, z)."""
        log_std = self.log_std[skills_G]
        scaled = (actions_GBA - self.actor(states_GBD, skills_G)) * (-log_std).exp()
        return (-0.5 * scaled.square() - log_std - 0.5 * math.log(2.0 * math.pi)).sum(dim=-1)

    def entropy(self, skills_G: Tensor) -> Tensor:
        """Return the mean entropy over the groups' skills, in nats."""
        per_action = self.log_std[skills_G] + 0.5 * math.log(2.0 * math.pi * math.e)
        return per_action.sum(dim=-1).mean()

    def value(self, states_GBD: Tensor, skills_G: Tensor) -> Tensor:
        """Return [G, B] values."""
        out: Tensor = self.critic(states_GBD, skills_G)
        return out[..., 0]


@runtime_checkable
class World(Protocol):
    """What a skill learner needs of an environment: all copies at once, episodes of one length.

    Attributes:
        num_envs: copies.
        horizon: T.
        state_size, action_size: D and A.
    """

    num_envs: int
    horizon: int
    state_size: int
    action_size: int

    def start(self) -> Tensor:
        """Begin episodes and return states [copies, D]."""
        ...

    def move(self, actions: Tensor) -> Tensor:
        """Take actions [copies, A] and return states [copies, D]."""
        ...

    def scaled(self, states: Tensor) -> Tensor:
        """Scale states [..., D] for networks."""
        ...

    def cells(self, states: Tensor) -> Tensor | None:
        """Return [...] numbers of the cells of states, None in a world without cells."""
        ...


@dataclass(frozen=True, eq=False)
class Rollout:
    """One episode of every copy.

    Attributes:
        skills: [G], the skill that each group follows.
        states: [G, N, T + 1, D], as the world gives them.
        inputs: [G, N, T + 1, D], scaled.
        actions: [G, N, T, A].
        cells: [G, N, T + 1] numbers of cells, or None where the world has none.
    """

    skills: Tensor
    states: Tensor
    inputs: Tensor
    actions: Tensor
    cells: Tensor | None


@torch.no_grad()
def collect(world: World, policy: SkillPolicy, skills: Tensor, *, generator: torch.Generator) -> Rollout:
    """Play one episode with every copy; the copies are split evenly among the groups.

    Raises:
        ValueError: the number of copies is no multiple of the number of groups.
    """
    num_groups = len(skills)
    if world.num_envs % num_groups:
        raise ValueError(f"{world.num_envs} copies cannot be split evenly among {num_groups} skills")
    states = [world.start().reshape(num_groups, -1, world.state_size)]
    actions = []
    for _ in range(world.horizon):
        drawn = policy.act(world.scaled(states[-1]), skills, generator=generator)
        actions.append(drawn)
        states.append(world.move(drawn.flatten(0, 1)).reshape(states[0].shape))
    states_GNTD = torch.stack(states, dim=2)
    return Rollout(
        skills, states_GNTD, world.scaled(states_GNTD), torch.stack(actions, dim=2), world.cells(states_GNTD)
    )


@dataclass(frozen=True, kw_only=True)
class PPOSettings:
    """How PPO learns; the defaults are those of the sheet's prototype.

    Attributes:
        learning_rate: of Adam.
        clip: of the probability ratio.
        epochs, minibatches: passes over an episode of all copies, and parts of a pass.
        gamma, gae: discount and its factor lambda of generalised advantages.
        entropy: weight of the entropy bonus.
        value_weight: of the squared error of the value.
        max_norm: of the gradient.
    """

    learning_rate: float = 3e-3
    clip: float = 0.2
    epochs: int = 3
    minibatches: int = 2
    gamma: float = 0.97
    gae: float = 0.95
    entropy: float = 1e-3
    value_weight: float = 0.5
    max_norm: float = 0.5


def advantages(rewards_GNT: Tensor, values_GNT1: Tensor, *, gamma: float, gae: float) -> Tensor:
    """Return [G, N, T] generalised advantages; the state after the last step counts by its value (time limit)."""
    deltas = rewards_GNT + gamma * values_GNT1[..., 1:] - values_GNT1[..., :-1]
    total = torch.zeros_like(deltas[..., 0])
    out = torch.empty_like(deltas)
    for step in reversed(range(deltas.shape[-1])):
        total = deltas[..., step] + gamma * gae * total
        out[..., step] = total
    return out


def ppo_update(
    policy: SkillPolicy,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    rewards_GNT: Tensor,
    settings: PPOSettings,
    *,
    generator: torch.Generator,
) -> dict[str, float]:
    """Improve the policy on one rollout by clipped policy gradients; returns policy loss, value loss and entropy."""
    skills, inputs = rollout.skills, rollout.inputs
    with torch.no_grad():
        values = policy.value(inputs.flatten(1, 2), skills).reshape(inputs.shape[:-1])
        gained = advantages(rewards_GNT, values, gamma=settings.gamma, gae=settings.gae)
        returns_GB = (gained + values[..., :-1]).flatten(1)
        # Over all groups together: a mean for each skill would erase what the skills differ in.
        gained_GB = ((gained - gained.mean()) / (gained.std() + 1e-8)).flatten(1)
        states_GBD, actions_GBA = inputs[..., :-1, :].flatten(1, 2), rollout.actions.flatten(1, 2)
        old_GB = policy.log_prob(states_GBD, skills, actions_GBA)
    losses: Sequence[Tensor] = ()
    for _ in range(settings.epochs):
        order = torch.randperm(states_GBD.shape[1], generator=generator).to(states_GBD.device)
        for part in order.chunk(settings.minibatches):
            log_prob = policy.log_prob(states_GBD[:, part], skills, actions_GBA[:, part])
            ratio = (log_prob - old_GB[:, part]).exp()
            clipped = ratio.clamp(1.0 - settings.clip, 1.0 + settings.clip)
            gain = torch.minimum(ratio * gained_GB[:, part], clipped * gained_GB[:, part]).mean()
            error = (policy.value(states_GBD[:, part], skills) - returns_GB[:, part]).square().mean()
            entropy = policy.entropy(skills)
            optimizer.zero_grad()
            (-gain + settings.value_weight * error - settings.entropy * entropy).backward()
            nn.utils.clip_grad_norm_(policy.parameters(), settings.max_norm)
            optimizer.step()
            losses = (-gain, error, entropy)
    return dict(zip(("policy_loss", "value_loss", "entropy"), (float(loss.detach()) for loss in losses), strict=True))
