"""How cost and learning scale: memory (E2), computation (E3), burn-in with S (E4), rates with K and H (E5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pandas as pd

from iclr_repro.core.experiment import Result, nearest, parameter
from iclr_repro.core.measurements import Measurements
from iclr_repro.core.rundir import Run
from iclr_repro.core.statistics import log_log_slopes, mean_interval
from iclr_repro.core.timing import time_in_turn
from iclr_repro.me_nash_ql import figures
from iclr_repro.me_nash_ql.exact import exploitability, nash_value
from iclr_repro.me_nash_ql.experiments._builders import Options, build_game, build_learner, check_game, check_method
from iclr_repro.me_nash_ql.experiments._study import (
    Curves,
    all_passed,
    episodes_until,
    geometric_checkpoints,
    play,
    reached,
    resampled_runs,
    uniform_exploitability,
    with_interval,
)
from iclr_repro.me_nash_ql.games import MarkovGame
from iclr_repro.me_nash_ql.learner import MENashQL
from iclr_repro.me_nash_ql.ledger import me_nash_ql_words
from iclr_repro.me_nash_ql.self_play import SelfPlay, SelfPlayLearner

_LONGER = 4


@dataclass(frozen=True, kw_only=True)
class OfStates:
    """The parameters of experiments on one family of games with a varying number of states."""

    uses_seeds: ClassVar[bool] = False

    runs: int = parameter("independent runs, advanced together", low=1, high=100_000)
    game: Options = parameter("builder and arguments of the games, without num_states")
    states: tuple[int, ...] = parameter("numbers of states S, ascending", low=1, high=10_000)
    methods: dict[str, Options] = parameter("name -> learner and its options")

    def __post_init__(self) -> None:
        """Refuse options of games and methods that do not exist, and fewer than two or unordered sizes."""
        check_family("game", self.game, "num_states", self.states)
        for name, options in self.methods.items():
            check_method(name, options, num_runs=self.runs)

    def game_of(self, num_states: int) -> MarkovGame:
        """The game with so many states."""
        return build_game({**self.game, "num_states": num_states})


@dataclass(frozen=True, kw_only=True)
class Space(OfStates):
    """Exact bytes of all that a learner keeps, against episodes and against states (E2)."""

    episodes: int = parameter("episodes K; four times as many are played, too", low=1, high=1_000_000)
    reference: str = parameter("the method whose bytes the others are compared with")

    def __post_init__(self) -> None:
        """Refuse a reference that is not among the methods, and what `OfStates` refuses."""
        super().__post_init__()
        check_reference(self.reference, self.methods)

    def run(self, run: Run) -> Result:
        """Count the bytes after K and 4 K episodes in the smallest game, and of fresh tables for every S."""
        small = self.game_of(self.states[0])
        learnt: dict[str, float | np.ndarray] = {}
        by_episodes, by_states = {}, {}
        counts: dict[str, float] = {}
        for name, options in self.methods.items():
            learner = build_learner(options, small, num_runs=self.runs, episodes=_LONGER * self.episodes)
            loop = SelfPlay(small, learner, rng=run.rng(name))
            for total, steps in ((self.episodes, self.episodes), (_LONGER * self.episodes, 3 * self.episodes)):
                run.fit(loop, steps, name=f"{name}-{total}", log_every=steps)
                by_episodes[name, total] = learner.ledger().total_bytes
            learnt[f"{name}/output_over_uniform"] = output_over_uniform(small, learner)
            counts[f"{name}/growth"] = by_episodes[name, _LONGER * self.episodes] / by_episodes[name, self.episodes]
            for size in self.states:
                fresh = build_learner(options, self.game_of(size), num_runs=1, episodes=1)
                by_states[name, size] = fresh.ledger().table_bytes
                if isinstance(fresh, MENashQL):
                    counts[f"{name}/over_formula/s{size}"] = by_states[name, size] / (8.0 * _words(fresh))
        table = pd.Series(by_states).unstack(level=0).loc[list(self.states), list(self.methods)]
        counts |= {f"{name}/bytes/s{size}": float(table.loc[size, name]) for name in table for size in self.states}
        for name in table.columns.drop(self.reference):
            counts |= self._against_the_reference(name, table)
        episodes = pd.Series(by_episodes).unstack(level=0)[list(self.methods)]
        return Result(
            metrics=learnt | counts,
            intervals={name: (count, count) for name, count in counts.items()},  # exact
            tables={"bytes_by_states": table, "bytes_by_episodes": episodes},
            figures={"space": figures.space(episodes, table)},
        )

    def _against_the_reference(self, name: str, table: pd.DataFrame) -> dict[str, float]:
        """The bytes of a method over those of the reference, where they pass 1, and their slope at the largest S."""
        ratio = table[name] / table[self.reference]
        found = {f"{name}/over_{self.reference}/s{size}": float(value) for size, value in ratio.items()}
        slopes = log_log_slopes(np.array(self.states[-2:]), ratio.to_numpy()[-2:, None])
        found[f"{name}/over_{self.reference}/slope"] = float(slopes[0])
        passed = ratio.index[ratio > 1.0]
        if len(passed):
            found[f"{name}/over_{self.reference}/passes_1_at"] = float(passed[0])
        return found


@dataclass(frozen=True, kw_only=True)
class Computation(OfStates):
    """Equilibria and processor time an episode against states (E3)."""

    episodes: int = parameter("episodes of one timing", low=1, high=1_000_000)
    repeats: int = parameter("timings after the warm-up", low=2, high=1_000)

    def run(self, run: Run) -> Result:
        """Time all sizes and methods in turn, repeatedly; a slope a repeat."""
        players: dict[tuple[str, int], tuple[SelfPlay, SelfPlayLearner]] = {}
        smallest = self.game_of(self.states[0])
        for size in self.states:
            game = self.game_of(size)
            for name, options in self.methods.items():
                learner = build_learner(options, game, num_runs=self.runs, episodes=self.episodes)
                players[name, size] = SelfPlay(game, learner, rng=run.rng(f"{name}/s{size}")), learner
        actions = [partial(play_episodes, loop, self.episodes) for loop, _ in players.values()]
        seconds = dict(zip(players, time_in_turn(*actions, repeats=self.repeats) / self.episodes, strict=True))
        found = Measurements()
        found.add("num_steps", smallest.num_steps)
        rows = []
        for name in self.methods:
            times_CR = np.array([seconds[name, size] for size in self.states])
            found.add(f"{name}/time_slope", log_log_slopes(np.array(self.states), times_CR))
            found.add(f"{name}/output_over_uniform", output_over_uniform(smallest, players[name, self.states[0]][1]))
            for size, times_R in zip(self.states, times_CR, strict=True):
                low, high = mean_interval(times_R) or (np.nan, np.nan)
                rows.append((name, size, np.median(times_R), low, high))
                found.add(f"{name}/s_per_episode/s{size}", float(np.median(times_R)))
                solves = players[name, size][1].ledger().cce_solves_per_episode
                found.add_exact(f"{name}/cce_per_episode/s{size}", solves)
        table = pd.DataFrame(rows, columns=["method", "states", "median_s", "low", "high"]).set_index(
            ["method", "states"]
        )
        return found.result(tables={"time": table}, figures={"computation": figures.computation(table)})


@dataclass(frozen=True, kw_only=True)
class OfPassages:
    """The parameters of experiments that count the episodes until the gap at s_1 is small."""

    methods: dict[str, Options] = parameter("name -> learner and its options")
    runs: int = parameter("independent runs, advanced together", low=2, high=100_000)
    gap_frac: float = parameter("the gap to reach, as a share of H", low=0.0, high=1.0)
    episodes: int = parameter("episodes at most", low=1, high=10_000_000)
    every: int = parameter("episodes between two checkpoints", low=1, high=1_000_000)
    draws: int = parameter("bootstrap draws over runs", low=1, high=100_000)

    def passage(self, run: Run, found: Measurements, method: str, size: str, game: MarkovGame) -> np.ndarray:
        """Play until the gap of every run is small enough; note the episodes and whether the bounds held.

        Args:
            run: whose loop is used.
            found: gets `<method>/episodes/<size>` and, run by run, whether the gap was `reached` and the flags at the
                end.
            method: that plays.
            size: of the game, for the names.
            game: to play.

        Returns:
            [1 + draws] episodes until the median gap was small: of the runs, then of bootstrap samples.
        """
        learner = build_learner(self.methods[method], game, num_runs=self.runs, episodes=self.episodes)
        threshold = self.gap_frac * game.num_steps
        curves = play(
            run,
            f"{method}-{size}",
            game,
            nash_value(game),
            learner,
            episodes=self.episodes,
            checkpoints=range(self.every, self.episodes, self.every),
            stop=all_passed(threshold),
        )
        chosen_DR = resampled_runs(self.runs, self.draws, rng=run.rng(f"bootstrap/{method}-{size}"))
        passage_D = episodes_until(curves, threshold, chosen_DR)
        found.add_draws(f"{method}/episodes/{size}", passage_D[0], passage_D[1:])
        found.add(f"{method}/reached/{size}", reached(curves, threshold))
        for flag in ("optimism_ok", "certificate_ok"):
            found.add(f"{method}/{flag}/{size}", curves.values[flag][-1])
        return passage_D


@dataclass(frozen=True, kw_only=True)
class BurnIn(OfPassages, OfStates):
    """Episodes until the median gap at s_1 is at most a share of H, against states (E4)."""

    def run(self, run: Run) -> Result:
        """Play until every run has passed; ratios and slopes between neighbouring sizes."""
        found = Measurements()
        rows = {}
        for method in self.methods:
            passages = {size: self.passage(run, found, method, f"s{size}", self.game_of(size)) for size in self.states}
            found.add(f"{method}/n", self.runs)
            for size in self.states:
                rows[method, size] = with_interval(found, f"{method}/episodes/s{size}")
            for small, large in pairwise(self.states):
                ratio_D = passages[large] / passages[small]
                found.add_draws(f"{method}/ratio/s{small}_s{large}", ratio_D[0], ratio_D[1:])
                slope_D = np.log(ratio_D) / np.log(large / small)
                found.add_draws(f"{method}/slope/s{small}_s{large}", slope_D[0], slope_D[1:])
        table = pd.DataFrame(rows, index=["episodes", "low", "high"]).T.rename_axis(index=["method", "states"])
        return found.result(
            tables={"burn_in": table},
            figures={"burn_in": figures.episodes_needed(table, gap_frac=self.gap_frac)},
        )


@dataclass(frozen=True, kw_only=True)
class Rates(OfPassages):
    """How the gap falls with episodes, and how the episodes to a gap grow with H (E5)."""

    uses_seeds: ClassVar[bool] = False

    game: Options = parameter("builder and arguments of the game of the slope against episodes")
    slope_episodes: int = parameter("its episodes; the slope is that of the last tenfold", low=20, high=10_000_000)
    checkpoints: int = parameter("of the slope, geometric", low=10, high=1_000)
    family: Options = parameter("builder and arguments of the games with varying H, without num_steps")
    horizons: tuple[int, ...] = parameter("H, ascending", low=1, high=1_000)
    reference: str = parameter("the method whose episodes are subtracted from those of the others")

    def __post_init__(self) -> None:
        """Refuse options of games and methods that do not exist."""
        check_game("game", self.game, meta_games=False)
        check_family("family", self.family, "num_steps", self.horizons)
        for name, options in self.methods.items():
            check_method(name, options, num_runs=self.runs)
        check_reference(self.reference, self.methods)

    def run(self, run: Run) -> Result:
        """Play one game for the slopes against K, then the family for the episodes against H."""
        found = Measurements()
        game = build_game(self.game)
        nash = nash_value(game)
        curves: dict[str, Curves] = {}
        for method, options in self.methods.items():
            learner = build_learner(options, game, num_runs=self.runs, episodes=self.slope_episodes)
            checkpoints = geometric_checkpoints(self.slope_episodes, number=self.checkpoints)
            curves[method] = play(
                run, method, game, nash, learner, episodes=self.slope_episodes, checkpoints=checkpoints
            )
            found.add(f"{method}/n", self.runs)
            for flag in ("optimism_ok", "certificate_ok"):
                found.add(f"{method}/{flag}", curves[method].values[flag][-1])
            last_C = curves[method].episodes >= self.slope_episodes / 10
            gaps_CR = curves[method].values["gap"][last_C]
            if (gaps_CR > 0.0).all():  # the gap of a broken bound has no rate
                found.add(f"{method}/gap_slope", log_log_slopes(curves[method].episodes[last_C], gaps_CR))
        rows = {}
        for horizon in self.horizons:
            varied = build_game({**self.family, "num_steps": horizon})
            passages = {}
            for method in self.methods:
                passages[method] = self.passage(run, found, method, f"h{horizon}", varied)
                rows[method, horizon] = with_interval(found, f"{method}/episodes/h{horizon}")
            for other in self.methods.keys() - {self.reference}:
                more_D = passages[other] - passages[self.reference]
                found.add_draws(f"{other}_minus_{self.reference}/episodes/h{horizon}", more_D[0], more_D[1:])
        table = pd.DataFrame(rows, index=["episodes", "low", "high"]).T.rename_axis(index=["method", "steps"])
        return found.result(
            tables={"horizons": table, **{f"gap_{method}": curve.summary() for method, curve in curves.items()}},
            figures={
                "gap": figures.gap_rates(
                    {name: (curve.episodes, curve.values["gap"]) for name, curve in curves.items()}
                ),
                "horizons": figures.episodes_needed(table, gap_frac=self.gap_frac),
            },
        )


def check_family(where: str, options: Options, varied: str, sizes: tuple[int, ...]) -> None:
    """Refuse a family of games whose builder has no such size, or sizes that are too few or not ascending.

    Raises:
        ValueError: naming what is wrong.
    """
    if varied in options:
        raise ValueError(f"{where}: {varied} is varied, leave it out")
    if len(sizes) < 2 or list(sizes) != sorted(set(sizes)):
        raise ValueError(f"{where}: {varied} takes the values {list(sizes)}, expected at least two, ascending")
    check_game(where, {**options, varied: sizes[0]}, meta_games=False)


def check_reference(reference: str, methods: Mapping[str, Options]) -> None:
    """Refuse a reference that is not among the methods.

    Raises:
        ValueError: naming the methods.
    """
    if reference not in methods:
        raise ValueError(f"reference: no method {reference!r}{nearest(reference, methods)}")


def output_over_uniform(game: MarkovGame, learner: SelfPlayLearner) -> np.ndarray:
    """[R] exploitability of what a learner outputs over that of uniform play: below 1 where something is learnt."""
    policies = learner.output()
    return exploitability(game, policies.mu, policies.nu) / uniform_exploitability(game)


def play_episodes(play: SelfPlay, episodes: int) -> None:
    """Play so many episodes, to be timed."""
    for _ in range(episodes):
        play.step()


def _words(learner: MENashQL) -> int:
    horizon, num_states, num_max, num_min = learner.shape
    return me_nash_ql_words(num_steps=horizon, num_states=num_states, num_actions_max=num_max, num_actions_min=num_min)
