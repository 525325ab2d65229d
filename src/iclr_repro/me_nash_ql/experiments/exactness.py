"""What must hold exactly (the identities of the sheet), and how fast the vectorised code is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import pandas as pd
import torch

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.rundir import Run
from iclr_repro.core.timing import time_in_turn
from iclr_repro.me_nash_ql.bounds import BoundRules
from iclr_repro.me_nash_ql.builders import random_game
from iclr_repro.me_nash_ql.cce import cce_violation, solve_cce
from iclr_repro.me_nash_ql.experiments.scaling import play_episodes
from iclr_repro.me_nash_ql.invariants import (
    learning_rate_violations,
    telescoping_violation,
    violations_along_a_run,
    zero_sum_violations,
)
from iclr_repro.me_nash_ql.learner import MENashQL
from iclr_repro.me_nash_ql.self_play import SelfPlay

_RULES = BoundRules(init="H-h")


@dataclass(frozen=True, kw_only=True)
class Identities:
    """The worst violations of the identities I1 to I10, on drawn numbers and along runs of the method."""

    uses_seeds: ClassVar[bool] = False

    runs: int = parameter("independent runs, advanced together", low=1, high=100_000)
    episodes: int = parameter("episodes of self-play, all checked", low=1, high=1_000_000)
    visits: int = parameter("visits n of the averages", low=2, high=10_000)
    horizons: tuple[int, ...] = parameter("H of the averages", low=1, high=1_000)
    num_games: int = parameter("zero-sum matrix games", low=1, high=1_000_000)
    actions: tuple[int, ...] = parameter("A = B of these games", low=1, high=20)

    def run(self, run: Run) -> Result:
        """Measure; a violation is 0 up to rounding, and never below 0."""
        found: dict[str, float] = {}

        def note(name: str, violation: float) -> None:
            found[name] = float(np.maximum(found.get(name, 0.0), violation))  # NaN stays

        for horizon in self.horizons:
            for name, violation in learning_rate_violations(horizon, self.visits).items():
                note(f"i1/{name}", violation)
            note("i2", telescoping_violation(horizon, self.visits, rng=run.rng(f"telescoping/{horizon}")))
        for num_actions in self.actions:
            rng = run.rng(f"zero_sum/{num_actions}")
            for name, violation in zero_sum_violations(self.num_games, num_actions, rng=rng).items():
                note(f"i9/{name}", violation)
        game = random_game(3, 3, 2, 3, concentration=0.5, rewards="bern", seed=7)
        learner = MENashQL(game.rewards.shape, num_runs=self.runs, rules=_RULES)
        found |= violations_along_a_run(game, learner, episodes=self.episodes, rng=run.rng("self-play"))
        table = pd.Series(found, name="worst violation").rename_axis("identity").to_frame()
        return Result(metrics={**found, "n": self.runs * self.episodes * game.num_steps}, tables={"identities": table})


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Ratios of processor times in one process: batched equilibria against a loop, many runs against one."""

    uses_seeds: ClassVar[bool] = False

    num_games: int = parameter("games solved at once", low=1, high=100_000)
    actions: tuple[int, ...] = parameter("A = B of these games", low=2, high=20)
    runs: int = parameter("runs advanced together, against one", low=2, high=100_000)
    episodes: int = parameter("episodes of one timing", low=1, high=100_000)
    repeats: int = parameter("timings after the warm-up", low=2, high=1_000)

    def run(self, run: Run) -> Result:
        """Time each pair after a warm-up, alternately; a ratio a repeat."""
        metrics: dict[str, float | np.ndarray] = {}
        for num_actions in self.actions:
            rng = run.rng(f"games/{num_actions}")
            upper = rng.random((self.num_games, num_actions, num_actions))
            lower = upper - rng.random(upper.shape)
            tensors = torch.from_numpy(upper), torch.from_numpy(lower)
            batched, loop, torch_s = time_in_turn(
                lambda upper=upper, lower=lower: solve_cce(upper, lower),  # type: ignore[misc]
                lambda upper=upper, lower=lower: solve_cce(upper, lower, backend="lp"),  # type: ignore[misc]
                lambda tensors=tensors: solve_cce(*tensors),  # type: ignore[misc]
                repeats=self.repeats,
            )
            size = f"{num_actions}x{num_actions}"
            metrics[f"cce/{size}/speedup"] = loop / batched
            metrics[f"cce/{size}/torch_over_numpy"] = torch_s / batched
            metrics[f"cce/{size}/batched_ms"] = 1e3 * float(np.median(batched))
            metrics[f"cce/{size}/loop_ms"] = 1e3 * float(np.median(loop))
            solved = {backend: solve_cce(upper, lower, backend=backend) for backend in ("simplex", "lp")}
            metrics[f"cce/{size}/gap_difference"] = float(np.abs(solved["simplex"].gap - solved["lp"].gap).max())
            metrics[f"cce/{size}/violation"] = float(cce_violation(solved["simplex"].policy, upper, lower).max())
        game = random_game(4, 4, 2, 2, concentration=0.3, rewards="bern", seed=1)
        loops = [
            SelfPlay(game, MENashQL(game.rewards.shape, num_runs=count, rules=_RULES), rng=run.rng(f"runs/{count}"))
            for count in (self.runs, 1)
        ]
        many, one = time_in_turn(*(partial(play_episodes, loop, self.episodes) for loop in loops), repeats=self.repeats)
        metrics["step/many_over_one"] = many / one
        metrics["step/one_ms"] = 1e3 * float(np.median(one)) / (self.episodes * game.num_steps)
        metrics["step/n"] = self.runs
        metrics["cce/n"] = self.num_games
        return Result(metrics=metrics)
