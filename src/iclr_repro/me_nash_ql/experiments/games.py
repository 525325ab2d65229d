"""Experiments that let methods play games: learning curves of all methods (E1), ablations of ours (E6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from iclr_repro.core.data import DataChoice, real_or_synthetic
from iclr_repro.core.experiment import DataKind, Result, nearest, parameter
from iclr_repro.core.measurements import Measurements
from iclr_repro.core.rundir import Run
from iclr_repro.me_nash_ql import figures
from iclr_repro.me_nash_ql.board_games import soccer_states
from iclr_repro.me_nash_ql.bounds import EVENTS
from iclr_repro.me_nash_ql.data import load_rrps_payoffs, synthetic_payoffs
from iclr_repro.me_nash_ql.exact import NashValue, nash_value
from iclr_repro.me_nash_ql.experiments._builders import (
    NUM_BOTS,
    Options,
    build_game,
    build_learner,
    check_game,
    check_method,
)
from iclr_repro.me_nash_ql.experiments._study import (
    Curves,
    geometric_checkpoints,
    play,
    resampled_runs,
    uniform_exploitability,
)
from iclr_repro.me_nash_ql.games import MarkovGame
from iclr_repro.me_nash_ql.learner import MENashQL
from iclr_repro.me_nash_ql.self_play import MarkovPolicies

_SHOWN = "me_nash_ql_narrow"
"""The method whose soccer is drawn: the wide default constants need many more episodes."""


@dataclass(frozen=True, eq=False)
class _Played:
    """A game with its exact solution, and the curves of the methods that played it."""

    game: MarkovGame
    nash: NashValue
    curves: dict[str, Curves]


@dataclass(frozen=True, kw_only=True)
class OfGames:
    """The parameters of experiments in which methods play games."""

    uses_seeds: ClassVar[bool] = False

    data: DataChoice = parameter(
        "payoffs of the meta-games: auto, the real table or a generated one with a warning; real; synthetic"
    )
    runs: int = parameter("independent runs of every method, advanced together", low=2, high=100_000)
    games: dict[str, Options] = parameter("name -> builder and its arguments")
    methods: dict[str, Options] = parameter("name -> learner and its options")
    plays: dict[str, tuple[str, ...]] = parameter("game -> the methods that play it; a game without any is left out")
    episodes: dict[str, int] = parameter("game -> episodes K")
    checkpoints: int = parameter("about how many, geometric", low=2, high=1_000)
    marks: tuple[int, ...] = parameter("further episodes after which results are metrics", low=1)
    draws: int = parameter("bootstrap draws over runs, for medians", low=1, high=100_000)

    def __post_init__(self) -> None:
        """Refuse options of games and methods that do not exist, and names that are not among them."""
        for name, options in self.games.items():
            check_game(f"games.{name}", options, meta_games=True)
        for name, options in self.methods.items():
            check_method(name, options, num_runs=self.runs)
        for field in ("plays", "episodes"):
            for game in getattr(self, field).keys() ^ self.games.keys():
                raise ValueError(f"{field} and games must name the same games, {game} is in one only")
        for game, methods in self.plays.items():
            if len(set(methods)) < len(methods):
                raise ValueError(f"plays.{game}: got {list(methods)}, expected each method once")
            for method in methods:
                if method not in self.methods:
                    raise ValueError(f"plays.{game}: no method {method!r}{nearest(method, self.methods)}")
            if self.episodes[game] < 1:
                raise ValueError(f"episodes.{game}: got {self.episodes[game]}, expected >= 1")

    def play_all(self, run: Run) -> tuple[dict[str, _Played], DataKind]:
        """Play every game with its methods; tell what the payoffs of the meta-games are."""
        kind: DataKind = "none"
        payoffs = pd.DataFrame()
        if any(self.games[name]["builder"] == "rrps_metagame" for name, methods in self.plays.items() if methods):
            payoffs, kind = real_or_synthetic(
                self.data, load_rrps_payoffs, lambda: synthetic_payoffs(NUM_BOTS, rng=run.rng("payoffs"))
            )
        played = {}
        for name, options in self.games.items():
            if not self.plays[name]:
                continue
            game = build_game(options, payoffs)
            nash = nash_value(game)
            curves = {}
            for method in self.plays[name]:
                episodes = self.episodes[name]
                learner = build_learner(self.methods[method], game, num_runs=self.runs, episodes=episodes)
                curves[method] = play(
                    run,
                    f"{name}-{method}",
                    game,
                    nash,
                    learner,
                    episodes=episodes,
                    checkpoints=geometric_checkpoints(episodes, number=self.checkpoints, marks=self.marks),
                )
            played[name] = _Played(game, nash, curves)
        return played, kind

    def measurements(self, run: Run, played: dict[str, _Played]) -> Measurements:
        """Metrics of every game and method, at the end and at the marks."""
        found = Measurements()
        for name, one in played.items():
            found.add(f"{name}/nash_value", float(one.nash.values[0, one.game.start_state]))
            found.add(f"{name}/uniform_exploitability", uniform_exploitability(one.game))
            for method, curves in one.curves.items():
                prefix = f"{name}/{method}"
                found.add(f"{prefix}/n", self.runs)
                for quantity, values_CR in curves.values.items():
                    found.add(f"{prefix}/{quantity}", values_CR[-1])
                    for mark in self.marks:
                        if mark <= self.episodes[name]:
                            found.add(f"{prefix}/{quantity}_at_{mark}", curves.at(quantity, mark))
                chosen_DR = resampled_runs(self.runs, self.draws, rng=run.rng(f"bootstrap/{prefix}"))
                medians_D = np.median(curves.values["output"][-1][chosen_DR], axis=1)
                found.add_draws(f"{prefix}/output_median", medians_D[0], medians_D[1:])
                if isinstance(curves.learner, MENashQL):
                    updates = curves.learner.episodes * one.game.num_steps
                    for event, count_R in zip(EVENTS, curves.learner.bounds.events, strict=True):
                        found.add(f"{prefix}/{event}_per_update", count_R / updates)
        return found


@dataclass(frozen=True, kw_only=True)
class LearningCurves(OfGames):
    """Exploitability and certified gap of all methods against episodes (E1), and a picture of soccer."""

    def run(self, run: Run) -> Result:
        """Play, measure, draw a figure a game."""
        played, kind = self.play_all(run)
        found = self.measurements(run, played)
        pictures = {
            name: figures.learning_curves(
                {method: (curves.episodes, curves.values) for method, curves in one.curves.items()},
                horizon=one.game.num_steps,
                title=name,
                uniform=uniform_exploitability(one.game),
            )
            for name, one in played.items()
        }
        for name, one in played.items():
            options = self.games[name]
            if options["builder"] == "grid_soccer" and _SHOWN in one.curves:
                board = cast("tuple[int, int]", (options["rows"], options["columns"]))
                learnt = one.curves[_SHOWN].learner.output()
                pictures[f"{name}_play"] = soccer_picture(one.game, board, one.nash, learnt)
        tables = {
            f"{name}_{method}": curves.summary()
            for name, one in played.items()
            for method, curves in one.curves.items()
        }
        return found.result(
            figures=pictures,
            tables={**tables, "final": final_table(played)},
            data=kind,
        )


@dataclass(frozen=True, kw_only=True)
class Ablations(OfGames):
    """What each part of ME-Nash-QL is worth, and what breaks it (E6)."""

    def run(self, run: Run) -> Result:
        """Play, measure, draw the final state of every variant."""
        played, kind = self.play_all(run)
        found = self.measurements(run, played)
        final = final_table(played)
        return found.result(
            figures={"ablations": figures.ablations(final)},
            tables={"final": final},
            data=kind,
        )


def soccer_picture(game: MarkovGame, board: tuple[int, int], nash: NashValue, learnt: MarkovPolicies) -> Figure:
    """Draw the likeliest position of each step when the first run plays against itself, with the exact policies beside.

    Args:
        game: grid soccer.
        board: rows and columns.
        nash: its exact solution.
        learnt: policies of all runs.
    """
    mu, nu = learnt.mu[0], learnt.nu[0]
    reached = np.zeros(game.num_states)
    reached[game.start_state] = 1.0
    shown = []
    for h in range(game.num_steps):
        if reached[-1] > 1.0 - 1e-9:  # the last state is the end
            break
        shown.append(int(reached[:-1].argmax()))
        reached = np.einsum("s,sa,sb,sabt->t", reached, mu[h], nu[h], game.transitions[h])
    positions = [soccer_states(*board)[state] for state in shown]
    steps = np.arange(len(shown))
    return figures.soccer_play(
        board,
        positions,
        {
            "exact": (nash.max_policy[steps, shown], nash.min_policy[steps, shown]),
            "learnt": (mu[steps, shown], nu[steps, shown]),
        },
    )


def final_table(played: dict[str, _Played]) -> pd.DataFrame:
    """A row a game, method and quantity at the end: mean over runs with its interval."""
    parts = {(name, method): curves.final() for name, one in played.items() for method, curves in one.curves.items()}
    return pd.concat(parts, names=["game", "method"])
