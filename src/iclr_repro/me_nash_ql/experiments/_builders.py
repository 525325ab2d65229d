"""Games and learners from the options that a configuration gives them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from iclr_repro.core.experiment import nearest
from iclr_repro.me_nash_ql.baselines import NashQ, VLearning
from iclr_repro.me_nash_ql.board_games import goofspiel, grid_soccer
from iclr_repro.me_nash_ql.bonuses import BonusConstants
from iclr_repro.me_nash_ql.bounds import BoundRules
from iclr_repro.me_nash_ql.builders import load_game, lock, matching_pennies, random_game, rrps_metagame
from iclr_repro.me_nash_ql.games import MarkovGame
from iclr_repro.me_nash_ql.learner import MENashQL
from iclr_repro.me_nash_ql.planning import NashVI, PlugIn
from iclr_repro.me_nash_ql.self_play import SelfPlayLearner

Options = dict[str, int | float | str | bool | tuple[int, ...] | tuple[float, ...]]

_GAMES: dict[str, Callable[..., MarkovGame]] = {
    builder.__name__: builder
    for builder in (random_game, lock, matching_pennies, grid_soccer, goofspiel, rrps_metagame, load_game)
}
_BASELINES: dict[str, type[SelfPlayLearner]] = {
    "nash_q": NashQ,
    "nash_vi": NashVI,
    "v_learning": VLearning,
    "plug_in": PlugIn,
}
_SET_BY_THE_EXPERIMENT = {"shape", "num_runs", "start_state", "certify_in"}


def check_game(where: str, options: Mapping[str, Any]) -> None:
    """Refuse options that describe no game; builds nothing.

    Raises:
        ValueError: an unknown builder or option, or one that is missing; names the valid ones.
    """
    builder = _chosen(f"{where}.builder", options, "builder", _GAMES)
    parameters = inspect.signature(_GAMES[builder]).parameters
    given = options.keys() - {"builder"}
    _refuse_unknown(where, given, set(parameters) - {"payoffs"})
    missing = [
        key
        for key, one in parameters.items()
        if one.default is inspect.Parameter.empty and key not in {*given, "payoffs"}
    ]
    if missing:
        raise ValueError(f"{where}: {builder} needs {', '.join(missing)}")


def build_game(options: Mapping[str, Any], payoffs: pd.DataFrame) -> MarkovGame:
    """Build a game; `builder` names the function, the other options are its arguments.

    Args:
        options: checked by `check_game`.
        payoffs: table of the meta-games, for the builder `rrps_metagame`.
    """
    arguments = {key: value for key, value in options.items() if key != "builder"}
    if options["builder"] == "rrps_metagame":
        arguments["payoffs"] = payoffs
    return _GAMES[options["builder"]](**arguments)


def check_method(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that describe no learner.

    Raises:
        ValueError: an unknown learner, an unknown option, or a value out of range.
    """
    _chosen(f"methods.{name}.learner", options, "learner", {"me_nash_ql", *_BASELINES})
    _refuse_unknown(f"methods.{name}", options.keys() - {"learner"}, _known_options(options["learner"]))
    one_step = matching_pennies(1)
    try:
        build_learner(options, one_step, num_runs=1, episodes=1)
    except ValueError as error:
        raise ValueError(f"methods.{name}: {error}") from error


def build_learner(options: Mapping[str, Any], game: MarkovGame, *, num_runs: int, episodes: int) -> SelfPlayLearner:
    """Build a learner of a game; `learner` names the method, the other options are its arguments.

    Two options are the experiments' own: `certify: true` lets a baseline compute the exploitability of its certified
    mixture, `theory_failure: delta` gives ME-Nash-QL the constants of the proofs for this many episodes.

    Args:
        options: checked by `check_method`.
        game: to be learnt.
        num_runs: independent runs at once.
        episodes: that will be played.
    """
    arguments = {key: value for key, value in options.items() if key != "learner"}
    shape = game.rewards.shape
    common: dict[str, Any] = {"num_runs": num_runs, "start_state": game.start_state}
    if options["learner"] != "me_nash_ql":
        if arguments.pop("certify", False):
            arguments["certify_in"] = game
        return _BASELINES[options["learner"]](shape, **common, **arguments)
    rules = BoundRules(**_taken(arguments, BoundRules))
    if "theory_failure" in arguments:
        constants = BonusConstants.theory(
            num_states=game.num_states,
            num_joint_actions=game.num_actions_max * game.num_actions_min,
            total_steps=episodes * game.num_steps,
            failure=arguments.pop("theory_failure"),
        )
    else:
        constants = BonusConstants(**_taken(arguments, BonusConstants))
    return MENashQL(shape, constants=constants, rules=rules, **common, **arguments)


def _known_options(learner: str) -> set[str]:
    if learner == "me_nash_ql":
        of_tables = {field.name for of in (BonusConstants, BoundRules) for field in dataclasses.fields(of)}
        return of_tables | {"objective", "backend", "theory_failure"}
    known = set(inspect.signature(_BASELINES[learner]).parameters) - _SET_BY_THE_EXPERIMENT
    return known | ({"certify"} if learner in ("nash_q", "v_learning") else set())


def _taken(arguments: dict[str, Any], of: type[BonusConstants] | type[BoundRules]) -> dict[str, Any]:
    """Take the fields of a dataclass out of the arguments."""
    return {field.name: arguments.pop(field.name) for field in dataclasses.fields(of) if field.name in arguments}


def _chosen(where: str, options: Mapping[str, Any], key: str, known: Any) -> str:
    choice = options.get(key)
    if choice not in known:
        raise ValueError(f"{where}: got {choice!r}{nearest(str(choice), known)}")
    return str(choice)


def _refuse_unknown(where: str, given: Any, known: set[str]) -> None:
    for key in sorted(given):
        if key not in known:
            raise ValueError(f"{where}: no option {key!r}{nearest(key, known)}")
