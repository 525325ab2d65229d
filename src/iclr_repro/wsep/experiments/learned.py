"""Learned skills: a continuous maze (W10), and locomotion through gymnasium at scale `paper`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import get_args

import numpy as np
import ot
import pandas as pd
import torch
from torch import Tensor, nn

from iclr_repro.core.experiment import Result, nearest, parameter
from iclr_repro.core.footprint import Network, example
from iclr_repro.core.measurements import Measurements
from iclr_repro.core.rundir import Run
from iclr_repro.wsep import figures
from iclr_repro.wsep.audit import audit_skills
from iclr_repro.wsep.builders import find_layout
from iclr_repro.wsep.discovery import choose_skill
from iclr_repro.wsep.envs import PointMaze2DVectorEnv
from iclr_repro.wsep.information import lsepin, mutual_information
from iclr_repro.wsep.learner import (
    LEARNT_REWARDS,
    NEED_CELLS,
    ONE_BY_ONE,
    Method,
    SkillLearner,
    cell_occupancies,
    covered_cells,
    goal_distances,
    make_reward,
)
from iclr_repro.wsep.policies import PPOSettings, Rollout, SkillPolicy, World, collect
from iclr_repro.wsep.rewards import GoalReward
from iclr_repro.wsep.transport import wsep
from iclr_repro.wsep.worlds import GymWorld, MazeWorld

_UNTRAINED = "untrained"


def check_methods(methods: tuple[str, ...]) -> None:
    """Refuse unknown methods.

    Raises:
        ValueError: naming the nearest one.
    """
    for method in methods:
        if method not in get_args(Method):
            raise ValueError(f"methods: no method {method!r}{nearest(method, get_args(Method))}")


@dataclass(frozen=True, kw_only=True)
class _Learned:
    """What learning skills takes, in any world."""

    methods: tuple[str, ...] = parameter("objectives; untrained policies are always beside them")
    num_skills: int = parameter("skills K", low=2)
    copies: int = parameter("copies of the environment for each skill", low=1)
    horizon: int = parameter("steps of an episode", low=1)
    iterations: int = parameter("episodes of every copy, each followed by learning", low=1)
    hidden: int = parameter("units of each layer of all networks", low=1)

    def new_learner(
        self,
        run: Run,
        method: str,
        world: World,
        *,
        metric: np.ndarray | None,
        policy_generator: torch.Generator,
        generator: torch.Generator,
    ) -> SkillLearner:
        """Make the learner of a method on the run's device; that of untrained policies is there to be measured."""
        frozen = method in ONE_BY_ONE
        policy = self.policy(method, world.state_size, world.action_size, policy_generator).to(run.device)
        reward = make_reward(
            "diayn" if method == _UNTRAINED else method,  # type: ignore[arg-type]
            self.num_skills,
            world,
            metric=metric,
            generator=generator,
            hidden=self.hidden,
            device=run.device,
        )
        every = max(1, self.iterations // self.num_skills) if frozen else None
        return SkillLearner(world, policy, reward, generator=generator, frozen_every=every)

    def policy(self, method: str, state_size: int, action_size: int, generator: torch.Generator) -> SkillPolicy:
        """Make the policy of a method; skills that learn one by one have networks of their own."""
        return SkillPolicy(
            self.num_skills,
            state_size,
            action_size,
            hidden=self.hidden,
            separate=method in ONE_BY_ONE,
            generator=generator,
        )


@dataclass(frozen=True, kw_only=True)
class Maze(_Learned):
    """Skills of each objective learnt by PPO in a maze: what they cover, and how well they start on goals."""

    layout: str = parameter("a grid of the package as the maze")
    runs: int = parameter("paired runs: the methods of a run begin with the same policy", low=1)
    episodes: int = parameter("episodes of each skill that are measured", low=2)
    audit_draws: int = parameter("bootstrap draws of the audit of the first run's skills", low=2)
    goals: int = parameter("goal cells to finetune on, drawn for each run", low=0)
    finetune_iterations: int = parameter("iterations of finetuning on a goal", low=1)
    finetune_runs: int = parameter("runs whose skills are finetuned", low=0)

    def __post_init__(self) -> None:
        """Refuse unknown mazes and methods."""
        find_layout(self.layout)
        check_methods(self.methods)

    def run(self, run: Run) -> Result:
        """Train every method in every run, then measure; the elements of a metric are runs."""
        layout = find_layout(self.layout)
        metric = layout.distances()
        rows, tuned, audits = [], [], {}
        shown: dict[str, Rollout] = {}
        for index in range(self.runs):
            seed = int(run.rng(f"policy/{index}").integers(2**62))
            goals = run.rng(f"goals/{index}").choice(len(metric), size=self.goals, replace=False)
            for method in (_UNTRAINED, *self.methods):
                learner = self._learner(run, method, index, seed, metric)
                if method != _UNTRAINED:
                    run.fit(learner, self.iterations, name=f"{method}_{index}", log_every=10)
                rollout = self._measured(run, learner.policy, f"{method}/{index}")
                occupancies = cell_occupancies(rollout, len(metric))
                distances = goal_distances(rollout, metric)
                rows.append(
                    {
                        "method": method,
                        "cells": float(covered_cells(occupancies)),
                        "max_goal_distance": float(distances.max()),
                        "mean_goal_distance": float(distances.mean()),
                        "information": float(mutual_information(occupancies)),
                        "lsepin": float(lsepin(occupancies)),
                        "wsep": wsep(occupancies, metric),
                    }
                )
                if index == 0:
                    shown[method] = rollout
                    visited = [list(cells.cpu().numpy()) for cells in rollout.cells[:, :, 1:]]  # type: ignore[index]
                    audits[method] = audit_skills(
                        visited, metric, draws=self.audit_draws, rng=run.rng(f"audit/{method}")
                    ).summary
                if index < self.finetune_runs and self.goals:
                    start, end = self._finetuned(run, learner.policy, occupancies, goals, metric, f"{method}_{index}")
                    tuned.append({"method": method, "return_before": start, "return_after": end})
        found, tables = Measurements(), {}
        for name, measured in (("maze", rows), ("finetuning", tuned)):
            table = pd.DataFrame(measured)
            if table.empty:
                continue
            for method, group in table.groupby("method", sort=False):
                for quantity in table.columns.drop("method"):
                    found.add(f"{method}/{quantity}", group[quantity].to_numpy(float))
            tables[name] = table.groupby("method", sort=False).mean()
        found.add("num_cells", float(len(metric)))
        found.add("n", float(len(rows)))
        return found.result(
            tables={**tables, "audit": pd.concat(audits, names=["method"])},
            figures={"trajectories": figures.trajectories(layout, shown)},
        )

    def networks(self) -> Iterator[Network]:
        """Describe the policy of each method in a minibatch of PPO, and the network of a learnt reward."""
        env = PointMaze2DVectorEnv(1, self.layout, horizon=self.horizon)
        world = MazeWorld(env, generator=torch.Generator())
        state_size, action_size = world.state_size, world.action_size
        steps = self.copies * self.horizon // PPOSettings.minibatches
        for method in self.methods:
            groups = 1 if method in ONE_BY_ONE else self.num_skills  # that learn at a time
            yield Network(
                name=f"{method} policy",
                build=partial(self.policy, method, state_size, action_size, torch.Generator()),
                inputs={
                    "states_GBD": example(groups, steps, state_size),
                    "skills_G": example(groups, dtype=torch.int64),
                    "actions_GBA": example(groups, steps, action_size),
                },
                forward=_policy_and_value,
            )
        for method in self.methods:
            if method in LEARNT_REWARDS:
                yield Network(
                    name=f"{method} reward",
                    build=partial(self._reward_network, method, world),
                    inputs={"states": example(self.num_skills, self.copies, self.horizon + 1, state_size)},
                    forward=_potentials,
                )

    def _reward_network(self, method: str, world: World) -> nn.Module:
        reward = make_reward(
            method,  # type: ignore[arg-type]
            self.num_skills,
            world,
            metric=None,
            generator=torch.Generator(),
            hidden=self.hidden,
            device="meta",
        )
        network: nn.Module = reward.network  # type: ignore[attr-defined]
        return network

    def _learner(self, run: Run, method: str, index: int, seed: int, metric: np.ndarray) -> SkillLearner:
        generator = run.torch_rng(f"{method}/{index}")
        return self.new_learner(
            run,
            method,
            self._world(run, self.copies * self.num_skills, generator),
            metric=metric,
            policy_generator=torch.Generator().manual_seed(seed),
            generator=generator,
        )

    def _world(self, run: Run, copies: int, generator: torch.Generator) -> MazeWorld:
        env = PointMaze2DVectorEnv(copies, self.layout, horizon=self.horizon, device=run.device)
        return MazeWorld(env, generator=generator)

    def _measured(self, run: Run, policy: SkillPolicy, name: str) -> Rollout:
        generator = run.torch_rng(f"measured/{name}")
        world = self._world(run, self.episodes * self.num_skills, generator)
        skills = torch.arange(self.num_skills, device=run.device)
        return collect(world, policy, skills, generator=generator)

    def _finetuned(
        self,
        run: Run,
        policy: SkillPolicy,
        occupancies: np.ndarray,
        goals: np.ndarray,
        metric: np.ndarray,
        name: str,
    ) -> tuple[float, float]:
        """Mean return over goals of the skill that is best before finetuning, before and after it."""
        before, after = [], []
        for goal in goals.tolist():
            reward = -metric[goal] / metric.max()
            skill = choose_skill(occupancies, reward=reward)
            before.append(float(occupancies[skill] @ reward))
            generator = run.torch_rng(f"finetune/{name}/{goal}")
            world = self._world(run, self.copies * self.num_skills, generator)
            skills = torch.tensor([skill], device=run.device)
            learner = SkillLearner(
                world, copy.deepcopy(policy), GoalReward([goal], metric), skills=skills, generator=generator
            )
            run.fit(learner, self.finetune_iterations, name=f"finetune_{name}_{goal}", log_every=10)
            rollout = collect(world, learner.policy, skills, generator=generator)
            after.append(float(cell_occupancies(rollout, len(metric))[0] @ reward))
        return float(np.mean(before)), float(np.mean(after))


@dataclass(frozen=True, kw_only=True)
class Locomotion(_Learned):
    """Skills of the objectives that need no cells, in an environment of gymnasium (MuJoCo: extra `mujoco`)."""

    environment: str = parameter("a gymnasium environment with vectors as states and actions")
    samples: int = parameter("states of each skill that are compared", low=2)

    def __post_init__(self) -> None:
        """Refuse unknown methods and those that need cells."""
        check_methods(self.methods)
        needing = set(self.methods) & set(NEED_CELLS)
        if needing:
            raise ValueError(
                f"methods: {', '.join(sorted(needing))} need cells, which {self.environment} does not have"
            )

    def run(self, run: Run) -> Result:
        """Train every method and measure exact W between samples of the skills' scaled states."""
        found, rows = Measurements(), []
        for method in (_UNTRAINED, *self.methods):
            seed = int(run.rng("environment").integers(2**31))
            copies = self.copies * self.num_skills
            world = GymWorld(self.environment, copies, horizon=self.horizon, seed=seed, device=run.device)
            generator = run.torch_rng(method)
            learner = self.new_learner(
                run, method, world, metric=None, policy_generator=run.torch_rng("policy"), generator=generator
            )
            if method != _UNTRAINED:
                run.fit(learner, self.iterations, name=method, log_every=10)
            rollout = collect(world, learner.policy, learner.skills, generator=generator)
            distances = sample_distances(rollout, self.samples, run.rng(f"samples/{method}"))
            apart = distances[~np.eye(len(distances), dtype=bool)].reshape(len(distances), -1)
            row = {"mean_distance": float(apart.mean()), "nearest_distance": float(apart.min(axis=1).mean())}
            for quantity, value in row.items():
                found.add(f"{method}/{quantity}", value)
            rows.append({"method": method, **row})
        found.add("n", self.samples)
        return found.result(tables={"locomotion": pd.DataFrame(rows).set_index("method")})

    def networks(self) -> list[Network]:
        """Name the networks, whose sizes the environment decides on."""
        note = f"as in the maze, with the sizes of {self.environment} (extra mujoco)"
        return [Network(name="policies and rewards", build=None, note=note)]


def _potentials(network: nn.Module, states: Tensor) -> Tensor:
    found: Tensor = getattr(network, "phi", network)(states)
    return found


def _policy_and_value(
    policy: SkillPolicy, states_GBD: Tensor, skills_G: Tensor, actions_GBA: Tensor
) -> tuple[Tensor, Tensor]:
    return policy.log_prob(states_GBD, skills_G, actions_GBA), policy.value(states_GBD, skills_G)


def sample_distances(rollout: Rollout, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Return [G, G] exact W, Euclidean in scaled states, between random samples of each group's states."""
    states_GBD = rollout.inputs[:, :, 1:].flatten(1, 2).cpu().numpy().astype(np.float64)
    drawn = [states[rng.choice(len(states), size=min(samples, len(states)), replace=False)] for states in states_GBD]
    distances = np.zeros((len(drawn), len(drawn)))
    for i, j in zip(*np.triu_indices(len(drawn), 1), strict=True):
        distances[i, j] = distances[j, i] = ot.emd2([], [], ot.dist(drawn[i], drawn[j], metric="euclidean"))
    return distances
