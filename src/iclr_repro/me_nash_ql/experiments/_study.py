"""Playing a game with a method, and what is measured on the way.

Shape letters: C = checkpoints, R = runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from iclr_repro.core.loop import History
from iclr_repro.core.measurements import Measurements
from iclr_repro.core.rundir import Run
from iclr_repro.core.statistics import mean_interval
from iclr_repro.me_nash_ql.evaluation import evaluate
from iclr_repro.me_nash_ql.exact import NashValue, exploitability
from iclr_repro.me_nash_ql.games import MarkovGame
from iclr_repro.me_nash_ql.self_play import MarkovPolicies, SelfPlay, SelfPlayLearner, uniform_policy

_LOG_EVERY = 100
_FIRST_CHECKPOINT = 10


@dataclass(frozen=True, eq=False)
class Curves:
    """What was measured while a learner played.

    Attributes:
        learner: at the end.
        episodes: int [C], after which it was measured.
        values: quantity -> [C, R]; the fields of `Evaluation`, truth values as 0 and 1, and `mixture`, the
            exploitability of the certified mixture, where the learner computes it.
    """

    learner: SelfPlayLearner
    episodes: np.ndarray
    values: dict[str, np.ndarray]

    def at(self, quantity: str, episode: int) -> np.ndarray:
        """[R] the quantity after so many episodes, which must be a checkpoint."""
        (position,) = np.flatnonzero(self.episodes == episode)
        return np.asarray(self.values[quantity][position])

    def summary(self) -> pd.DataFrame:
        """A row a checkpoint and quantity: mean, median, least and largest value over runs."""
        parts = {
            quantity: pd.DataFrame(
                {
                    "mean": values_CR.mean(axis=1),
                    "median": np.median(values_CR, axis=1),
                    "min": values_CR.min(axis=1),
                    "max": values_CR.max(axis=1),
                },
                index=pd.Index(self.episodes, name="episode"),
            )
            for quantity, values_CR in self.values.items()
        }
        return pd.concat(parts, names=["quantity"])

    def final(self) -> pd.DataFrame:
        """A row a quantity: its mean over runs at the end, with the 95 % interval (low, high)."""
        rows = {}
        for quantity, values_CR in self.values.items():
            low, high = mean_interval(values_CR[-1]) or (np.nan, np.nan)
            rows[quantity] = {"mean": values_CR[-1].mean(), "low": low, "high": high}
        return pd.DataFrame(rows).T.rename_axis(index="quantity")


class _MeasuredPlay:
    """Self-play that keeps what was measured, run by run, through checkpoints."""

    def __init__(self, game: MarkovGame, nash: NashValue, learner: SelfPlayLearner, rng: np.random.Generator) -> None:
        self._game, self._nash = game, nash
        self._play = SelfPlay(game, learner, rng=rng)
        self.learner = learner
        self.measured: dict[str, list[np.ndarray]] = {}

    def step(self) -> dict[str, float]:
        return self._play.step()

    def evaluate(self) -> dict[str, float]:
        """Measure, and return the means over runs."""
        found = {name: np.asarray(value, dtype=float) for name, value in self._evaluation()}
        for name, values_R in found.items():
            self.measured.setdefault(name, []).append(values_R)
        means = {name: float(values_R.mean()) for name, values_R in found.items()}
        return {**means, "largest_gap": float(found["gap"].max())}

    def state_dict(self) -> dict[str, Any]:
        measured = {name: np.array(values) for name, values in self.measured.items()}
        return {"play": self._play.state_dict(), "measured": measured}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._play.load_state_dict(state["play"])
        self.measured = {name: list(values) for name, values in state["measured"].items()}

    def _evaluation(self) -> Sequence[tuple[str, np.ndarray]]:
        found = list(vars(evaluate(self.learner, self._game, self._nash)).items())
        if self.learner.mixture is not None:
            found.append(("mixture", self.learner.mixture.exploitability))
        return found


def play(
    run: Run,
    name: str,
    game: MarkovGame,
    nash: NashValue,
    learner: SelfPlayLearner,
    *,
    episodes: int,
    checkpoints: Sequence[int],
    stop: Callable[[History], bool] | None = None,
) -> Curves:
    """Let a learner play, as a stage of the run, and measure it at the checkpoints and after the last episode.

    Args:
        run: whose loop and random stream `name` are used.
        name: of the stage.
        game: to play.
        nash: its exact solution.
        learner: that plays.
        episodes: K, at most.
        checkpoints: numbers of episodes.
        stop: asked at each checkpoint whether to end there.
    """
    measured = _MeasuredPlay(game, nash, learner, run.rng(name))
    history = run.fit(
        measured,
        episodes,
        name=name,
        evaluate=measured.evaluate,
        eval_at=frozenset(checkpoints),
        log_every=_LOG_EVERY,
        stop=stop,
    )
    values = {quantity: np.array(found) for quantity, found in measured.measured.items()}
    return Curves(learner, history.steps("gap", kind="evaluate"), values)


def uniform_exploitability(game: MarkovGame) -> float:
    """Exploitability of uniform play, what a method that has learnt nothing outputs."""
    uniform = MarkovPolicies.marginals(uniform_policy(game.rewards.shape, num_runs=1))
    return float(exploitability(game, uniform.mu, uniform.nu)[0])


def geometric_checkpoints(episodes: int, *, number: int, marks: Sequence[int] = ()) -> list[int]:
    """About `number` numbers of episodes from 10 to `episodes`, evenly spread in the logarithm, and the marks."""
    grid = np.geomspace(min(_FIRST_CHECKPOINT, episodes), episodes, number).round().astype(int)
    return sorted({*grid.tolist(), *(mark for mark in marks if mark <= episodes)})


def resampled_runs(num_runs: int, draws: int, *, rng: np.random.Generator) -> np.ndarray:
    """[1 + draws, R] indices of runs: all of them once, then bootstrap samples."""
    return np.concatenate([np.arange(num_runs)[None], rng.integers(num_runs, size=(draws, num_runs))])


def episodes_until(curves: Curves, threshold: float, runs_DR: np.ndarray) -> np.ndarray:
    """[D] the first checkpoint at which the median gap of the chosen runs is at most `threshold`.

    Where it never is, the number of episodes played, which is then a lower bound: see `reached`.

    Source: sheet 7.4, E4.
    """
    passed_CD = np.median(curves.values["gap"][:, runs_DR], axis=2) <= threshold
    return np.where(passed_CD.any(axis=0), curves.episodes[passed_CD.argmax(axis=0)], curves.episodes[-1]).astype(float)


def reached(curves: Curves, threshold: float) -> np.ndarray:
    """[R] 1 where the gap of a run was at most `threshold` at some checkpoint, else 0."""
    return (curves.values["gap"] <= threshold).any(axis=0).astype(float)


def all_passed(threshold: float) -> Callable[[History], bool]:
    """Stop when the gap of every run is at most `threshold`."""

    def stop(history: History) -> bool:
        return bool(history.values("largest_gap", kind="evaluate")[-1] <= threshold)

    return stop


def with_interval(found: Measurements, name: str) -> tuple[float, float, float]:
    """A noted metric and the ends of its interval."""
    return float(found.metrics[name]), *found.intervals[name]
