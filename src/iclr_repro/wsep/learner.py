"""Learning skills: rollouts of all skills, their reward, PPO; one step is one episode of every copy."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from iclr_repro.wsep.network_rewards import Diayn, Metra, SampledPwsep
from iclr_repro.wsep.policies import PPOSettings, Rollout, SkillPolicy, World, collect, ppo_update
from iclr_repro.wsep.rewards import CellPwsep, CellWsep, SkillReward, SlicedWsep

Method = Literal[
    "diayn",
    "diayn_lsepin",
    "wsep",
    "wsep_sliced",
    "wsep_nearest",
    "metra",
    "pwsep",
    "pwsep_frozen",
    "pwsep_sampled",
]
ONE_BY_ONE = ("pwsep_frozen", "pwsep_sampled")
"""Methods whose skills learn one after the other; those before stay as they are."""
NEED_CELLS = ("wsep", "pwsep", "pwsep_frozen")
"""Methods that compare histograms of cells."""
LEARNT_REWARDS = ("diayn", "diayn_lsepin", "metra", "pwsep_sampled")
"""Methods whose reward is a network."""
_REWARD_SIZE = 0.3
_RUNNING = 0.9


class SkillLearner:
    """Learns a skill-conditioned policy from a reward that tells skills apart.

    A step: one episode of every copy, the reward learns from it, PPO learns from the rewards, which are scaled by
    0.3 / (running standard deviation over all skills).

    Args:
        world: the environment.
        policy: that learns, on the device of the world's states.
        reward: of the skills.
        skills: [G] skills that the groups of copies follow, by default all of the policy's.
        settings: of PPO.
        generator: draws actions and minibatches.
        frozen_every: None, or after how many steps the next skill learns: skill 0 first, then skill 1, ...; those
            before it stay as they are. Needs a policy with separate networks.

    Raises:
        ValueError: `frozen_every` with a policy whose skills share a network.
    """

    def __init__(
        self,
        world: World,
        policy: SkillPolicy,
        reward: SkillReward,
        *,
        generator: torch.Generator,
        skills: Tensor | None = None,
        settings: PPOSettings | None = None,
        frozen_every: int | None = None,
    ) -> None:
        if frozen_every is not None and not policy.actor.separate:
            raise ValueError("skills that share a network cannot be frozen one by one: use SkillPolicy(separate=True)")
        self.world, self.policy, self.reward, self.generator = world, policy, reward, generator
        skills = torch.arange(policy.num_skills) if skills is None else skills
        self.skills = skills.to(policy.log_std.device)
        self.settings = settings or PPOSettings()
        self.frozen_every = frozen_every
        self.optimizer = self._new_optimizer()
        self._square, self._steps = 0.0, 0

    def step(self) -> dict[str, float]:
        """Play one episode with every copy and learn from it."""
        rollout = collect(self.world, self.policy, self.skills, generator=self.generator)
        found = self.reward.update(rollout)
        paid = self.reward.rewards(rollout)
        active = self._active()
        variance = float(paid[active].var())
        self._square = variance if not self._steps else _RUNNING * self._square + (1.0 - _RUNNING) * variance
        scaled = _REWARD_SIZE * paid / (math.sqrt(self._square) + 1e-8)
        if self.frozen_every is not None:
            if self._steps % self.frozen_every == 0:  # Adam's moments of the skill before would move it on
                self.optimizer = self._new_optimizer()
            rollout = Rollout(
                rollout.skills[active],
                rollout.states[active],
                rollout.inputs[active],
                rollout.actions[active],
                None if rollout.cells is None else rollout.cells[active],
            )
            scaled = scaled[active]
        learnt = ppo_update(self.policy, self.optimizer, rollout, scaled, self.settings, generator=self.generator)
        self._steps += 1
        return {**found, "reward": float(paid.mean()), **learnt}

    def state_dict(self) -> dict[str, Any]:
        """Return the policy, its optimiser, the reward and the scale."""
        return {
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "reward": self.reward.state_dict(),
            "square": self._square,
            "steps": self._steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.reward.load_state_dict(state["reward"])
        self._square, self._steps = state["square"], state["steps"]

    def _active(self) -> Tensor:
        """The groups that learn."""
        if self.frozen_every is None:
            return torch.arange(len(self.skills), device=self.skills.device)
        learning = min(self._steps // self.frozen_every, len(self.skills) - 1)
        return torch.tensor([learning], device=self.skills.device)

    def _new_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.policy.parameters(), lr=self.settings.learning_rate)


def make_reward(
    method: Method,
    num_skills: int,
    world: World,
    *,
    metric: np.ndarray | None,
    generator: torch.Generator,
    hidden: int = 64,
    device: torch.device | str = "cpu",
) -> SkillReward:
    """Make the reward of a method.

    diayn, diayn_lsepin: `Diayn`; wsep: `CellWsep`; wsep_sliced, wsep_nearest: `SlicedWsep`; metra: `Metra`; pwsep,
    pwsep_frozen: `CellPwsep`; pwsep_sampled: `SampledPwsep`.

    Args:
        method: which.
        num_skills: K.
        world: where skills live.
        metric: [S, S] distances between cells, for the methods in `NEED_CELLS`.
        generator: draws weights and directions.
        hidden: units of the layers of discriminators.
        device: where their networks live, as the world's states.

    Raises:
        ValueError: an unknown method, or no metric where one is needed.
    """
    if method not in get_args(Method):
        raise ValueError(f"method is {method!r}, expected one of {', '.join(get_args(Method))}")
    if method in ("diayn", "diayn_lsepin"):
        weight = 1.0 if method == "diayn_lsepin" else 0.0
        return Diayn(
            num_skills, world.state_size, lsepin_weight=weight, hidden=hidden, generator=generator, device=device
        )
    if method == "metra":
        return Metra(num_skills, world.state_size, hidden=hidden, generator=generator, device=device)
    if method in ("wsep_sliced", "wsep_nearest"):
        return SlicedWsep(generator=generator, nearest=method == "wsep_nearest")
    if method == "pwsep_sampled":
        return SampledPwsep(num_skills, world.state_size, hidden=hidden, generator=generator, device=device)
    if metric is None:
        raise ValueError(f"{method} needs the distances between cells, which this world does not have")
    return CellWsep(metric) if method == "wsep" else CellPwsep(metric)


def cell_occupancies(rollout: Rollout, num_cells: int) -> np.ndarray:
    """Return [G, S] the shares of cells that each group's copies visit after their first step.

    Raises:
        ValueError: the world has no cells.
    """
    if rollout.cells is None:
        raise ValueError("the world has no cells to count")
    visited = rollout.cells[:, :, 1:].flatten(1).cpu()
    counts = torch.stack([torch.bincount(row, minlength=num_cells) for row in visited]).double()
    return np.asarray((counts / counts.sum(dim=1, keepdim=True)).numpy())


def goal_distances(rollout: Rollout, metric: np.ndarray) -> np.ndarray:
    """Return [S] for each cell the shortest path from where the best skill for it ends, a mean over its copies."""
    if rollout.cells is None:
        raise ValueError("the world has no cells to end in")
    ends_GN = rollout.cells[:, :, -1].cpu().numpy()
    return np.asarray(metric[ends_GN].mean(axis=1).min(axis=0))


def covered_cells(occupancies: np.ndarray, share: float = 0.01) -> int:
    """Return the number of cells in which some skill spends more than a share of its time, of occupancies [K, S]."""
    return int((occupancies > share).any(axis=0).sum())
