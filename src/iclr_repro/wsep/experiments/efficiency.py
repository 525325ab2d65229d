"""Speed: lazy PWSEP, tables of distances and scores at once, a maze in one tensor, and where PPO's time goes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import ot
import pandas as pd
import torch

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.measurements import Measurements
from iclr_repro.core.plotting import ratios
from iclr_repro.core.rundir import Run
from iclr_repro.core.statistics import mean_interval
from iclr_repro.core.timing import time_in_turn
from iclr_repro.wsep.ascent import set_scores
from iclr_repro.wsep.builders import Layout, find_layout, garnet
from iclr_repro.wsep.costs import PairTables
from iclr_repro.wsep.discovery import pwsep
from iclr_repro.wsep.envs import PointMaze2DVectorEnv
from iclr_repro.wsep.experiments.exact import all_or_some_sets
from iclr_repro.wsep.information import lsepin, mutual_information
from iclr_repro.wsep.learner import Method, make_reward
from iclr_repro.wsep.mdp import occupancy, uniform_policy
from iclr_repro.wsep.policies import PPOSettings, SkillPolicy, collect, ppo_update
from iclr_repro.wsep.polytope import polytope_vertices
from iclr_repro.wsep.worlds import MazeWorld


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Ratios of processor times in one process, with equal results."""

    uses_seeds: ClassVar[bool] = False

    discovery_size: tuple[int, int] = parameter("(S, A) of the MDP in which PWSEP is timed")
    tables_size: tuple[int, int] = parameter("(S, A) of the MDP whose distances and sets are computed")
    sets: int = parameter("sets of three vertices that are scored", low=1)
    copies: int = parameter("copies of the maze", low=1)
    env_steps: int = parameter("steps of all copies a timing", low=1)
    repeats: int = parameter("timings after the warm-up", low=2)
    slow_repeats: int = parameter("timings of what takes seconds", low=2)

    def run(self, run: Run) -> Result:
        """Time each pair in turn; a ratio a repeat."""
        found = Measurements()
        self._discovery(run, found)
        self._tables(run, found)
        self._maze(run, found)
        profile = self._profile(run, found)
        speedups = {name: found.metrics[name] for name in ("tables/speedup", "maze/speedup")}
        return found.result(tables={"profile": profile}, figures={"ratios": ratios(speedups)})

    def _discovery(self, run: Run, found: Measurements) -> None:
        mdp = garnet(*self.discovery_size, rng=run.rng("discovery"))
        vertices, reference = polytope_vertices(mdp), occupancy(mdp, uniform_policy(mdp))
        results = {}

        def discover(lazy: bool) -> None:
            results[lazy] = pwsep(vertices, mdp.distances(), reference=reference, lazy=lazy)

        lazy_s, full_s = time_in_turn(lambda: discover(True), lambda: discover(False), repeats=self.slow_repeats)
        found.add("pwsep/time_ratio", lazy_s / full_s)
        found.add_exact("pwsep/programs_ratio", results[True].num_programs / results[False].num_programs)
        found.add_exact("pwsep/order_differences", float((results[True].order != results[False].order).sum()))
        found.add_exact("pwsep/vertices", float(len(vertices)))

    def _tables(self, run: Run, found: Measurements) -> None:
        mdp = garnet(*self.tables_size, rng=run.rng("tables"))
        vertices, metric = polytope_vertices(mdp), mdp.distances()
        sets = all_or_some_sets(len(vertices), 3, self.sets, run.rng("sets"))
        results = {}

        def at_once() -> None:
            tables = PairTables.of(vertices, metric)
            scores = set_scores(vertices, tables.distances)
            columns = [*(scores[name](sets) for name in ("mi", "lsepin", "wsep")), tables.costs(sets)["mac_w"]]
            results["at_once"] = np.column_stack(columns)

        def in_a_loop() -> None:
            results["loop"] = looped_scores(vertices, metric, sets)

        vectorised, loop = time_in_turn(at_once, in_a_loop, repeats=self.repeats)
        found.add("tables/speedup", loop / vectorised)
        found.add("tables/largest_difference", float(np.abs(results["at_once"] - results["loop"]).max()))
        found.add("tables/vertices", len(vertices))
        found.add("tables/n", len(sets))

    def _maze(self, run: Run, found: Measurements) -> None:
        layout = find_layout("square5_walls")
        env = PointMaze2DVectorEnv(self.copies, layout, horizon=self.env_steps)
        actions = 2.0 * torch.rand(self.copies, 2, generator=run.torch_rng("actions")) - 1.0
        few = min(self.copies, 64)
        starts = env.reset(seed=0)[0][:few].numpy()
        states: dict[str, np.ndarray] = {}

        def tensor() -> None:
            env.reset(seed=0)
            for _ in range(self.env_steps):
                ends = env.step(actions)[0]
            states["tensor"] = ends.numpy()

        def loop() -> None:
            states["loop"] = looped_maze(layout, starts, actions[:few].numpy(), self.env_steps, env.action_scale)

        together, apart = time_in_turn(tensor, loop, repeats=self.repeats)
        steps_per_s = self.copies * self.env_steps / together
        found.add("maze/steps_per_s", float(steps_per_s.mean()), mean_interval(steps_per_s))
        found.add("maze/speedup", (apart / few) / (together / self.copies))
        difference = np.abs(states["tensor"][:few] - states["loop"]).max()
        found.add("maze/largest_difference", float(difference))
        found.add("maze/n", self.copies)

    def _profile(self, run: Run, found: Measurements) -> pd.DataFrame:
        """Seconds of one iteration of each part, at the settings of the experiment `maze`."""
        generator = run.torch_rng("profile")
        metric = find_layout("square5_walls").distances()
        world = MazeWorld(PointMaze2DVectorEnv(48), generator=generator)
        policy, skills = SkillPolicy(6, 2, 2, generator=generator), torch.arange(6)
        rollout = collect(world, policy, skills, generator=generator)
        optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
        methods: tuple[Method, ...] = ("diayn", "wsep", "wsep_sliced", "metra", "pwsep")
        learners = {method: make_reward(method, 6, world, metric=metric, generator=generator) for method in methods}
        rewards = torch.randn(rollout.actions.shape[:-1], generator=generator)
        parts = {
            "collect": lambda: collect(world, policy, skills, generator=generator),
            "ppo": lambda: ppo_update(policy, optimizer, rollout, rewards, PPOSettings(), generator=generator),
            **{f"reward_{name}": lambda r=reward: r.update(rollout) for name, reward in learners.items()},  # type: ignore[misc]
        }
        seconds = dict(zip(parts, time_in_turn(*parts.values(), repeats=self.repeats), strict=True))
        for name, values in seconds.items():
            found.add(f"profile/{name}_ms", 1e3 * float(np.median(values)))
        table = pd.Series({name: 1e3 * float(np.median(values)) for name, values in seconds.items()}, name="ms")
        return table.rename_axis("part").to_frame()


def looped_scores(vertices: np.ndarray, metric: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """Return [B, 4] I, LSEPIN, WSEP and MAC_W of sets, pair by pair and set by set, as one would first write it."""
    distances = np.zeros((len(vertices), len(vertices)))
    for i, j in itertools.combinations(range(len(vertices)), 2):
        p, q = vertices[i] / vertices[i].sum(), vertices[j] / vertices[j].sum()
        distances[i, j] = distances[j, i] = ot.emd2(p, q, metric, check_marginals=False)
    rows = []
    for chosen in sets:
        skills, among = vertices[chosen], distances[np.ix_(chosen, chosen)]
        rows.append(
            (mutual_information(skills), lsepin(skills), among.sum() / 2.0, distances[:, chosen].min(axis=1).mean())
        )
    return np.array(rows)


def looped_maze(layout: Layout, starts: np.ndarray, actions: np.ndarray, steps: int, action_scale: float) -> np.ndarray:
    """Return [N, 2] where points end that move one after the other, the reference for the time of a copy."""
    rows, columns = layout.walls.shape
    free = ~layout.walls
    ends = []
    for (row, column), (down, right) in zip(starts.tolist(), actions.tolist(), strict=True):
        for _ in range(steps):
            to_row, to_column = row + action_scale * down, column + action_scale * right
            if 0 <= to_row < rows and free[int(to_row), int(column)]:
                row = to_row
            if 0 <= to_column < columns and free[int(row), int(to_column)]:
                column = to_column
        ends.append((row, column))
    return np.array(ends)
