"""Games and learners from the options that a configuration gives them."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

from iclr_repro.core.experiment import converted, nearest
from iclr_repro.me_nash_ql.baselines import NashQ, VLearning
from iclr_repro.me_nash_ql.board_games import goofspiel, grid_soccer
from iclr_repro.me_nash_ql.bonuses import BonusConstants
from iclr_repro.me_nash_ql.bounds import BoundRules
from iclr_repro.me_nash_ql.builders import load_game, lock, matching_pennies, random_game, rrps_metagame
from iclr_repro.me_nash_ql.data import synthetic_payoffs
from iclr_repro.me_nash_ql.games import MarkovGame
from iclr_repro.me_nash_ql.learner import MENashQL
from iclr_repro.me_nash_ql.planning import NashVI, PlugIn
from iclr_repro.me_nash_ql.self_play import SelfPlayLearner

Options = dict[str, int | float | str | bool | tuple[int, ...] | tuple[float, ...]]

NUM_BOTS = 43
"""The size of the real payoff table, and of a generated one."""
_GAMES: dict[str, Callable[..., MarkovGame]] = {
    builder.__name__: builder for builder in (random_game, lock, matching_pennies, grid_soccer, goofspiel, load_game)
}
_META_GAMES: dict[str, Callable[..., MarkovGame]] = {"rrps_metagame": rrps_metagame}
_BASELINES: dict[str, type[SelfPlayLearner]] = {
    "nash_q": NashQ,
    "nash_vi": NashVI,
    "v_learning": VLearning,
    "plug_in": PlugIn,
}
_SET_BY_THE_EXPERIMENT = {"shape", "num_runs", "start_state", "certify_in", "payoffs", "constants", "rules"}
_PLAIN_TYPES = (int, float, bool, str)


def check_game(where: str, options: Mapping[str, Any], *, meta_games: bool) -> None:
    """Refuse options that describe no game, by building it.

    Args:
        where: of the options, for the message.
        options: `builder` and its arguments.
        meta_games: whether there are payoffs for the builder `rrps_metagame`.

    Raises:
        ValueError: an unknown builder or option, one that is missing, of another type, or out of range.
    """
    builder = _chosen(f"{where}.builder", options, "builder", _GAMES | (_META_GAMES if meta_games else {}))
    arguments = {key: value for key, value in options.items() if key != "builder"}
    parameters = _own_parameters((_GAMES | _META_GAMES)[builder])
    _check_arguments(where, arguments, parameters)
    missing = [
        key for key, one in parameters.items() if one.default is inspect.Parameter.empty and key not in arguments
    ]
    if missing:
        raise ValueError(f"{where}: {builder} needs {', '.join(missing)}")
    try:
        build_game(options, synthetic_payoffs(NUM_BOTS, rng=np.random.default_rng(0)))
    except (ValueError, OSError) as error:
        raise ValueError(f"{where}: {error}") from error


def build_game(options: Mapping[str, Any], payoffs: pd.DataFrame | None = None) -> MarkovGame:
    """Build a game; `builder` names the function, the other options are its arguments.

    Args:
        options: checked by `check_game`.
        payoffs: table of the meta-games, for the builder `rrps_metagame`.
    """
    arguments = {key: value for key, value in options.items() if key != "builder"}
    if options["builder"] in _META_GAMES:
        return rrps_metagame(payoffs, **arguments)
    return _GAMES[options["builder"]](**arguments)


def check_method(name: str, options: Mapping[str, Any], *, num_runs: int) -> None:
    """Refuse options that describe no learner, by building it for a small game.

    Raises:
        ValueError: an unknown learner or option, an option of another type or out of range, or constants of ME-Nash-QL
            beside `theory_failure`, which sets them.
    """
    where = f"methods.{name}"
    learner = _chosen(f"{where}.learner", options, "learner", {"me_nash_ql", *_BASELINES})
    arguments = {key: value for key, value in options.items() if key != "learner"}
    _check_arguments(where, arguments, _options_of(learner))
    constants = [field.name for field in dataclasses.fields(BonusConstants) if field.name in arguments]
    if "theory_failure" in arguments and constants:
        raise ValueError(f"{where}: theory_failure sets all constants, leave out {', '.join(constants)}")
    try:
        build_learner(options, matching_pennies(1), num_runs=num_runs, episodes=1)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


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
    arguments: dict[str, Any] = {
        key: np.array(value, dtype=np.float64) if isinstance(value, (list, tuple)) else value  # a constant a run
        for key, value in options.items()
        if key != "learner"
    }
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


def _options_of(learner: str) -> dict[str, inspect.Parameter]:
    """The options of a learner by name, with their types."""
    if learner != "me_nash_ql":
        extra = {"certify": bool} if learner in ("nash_q", "v_learning") else {}
        return _own_parameters(_BASELINES[learner]) | _parameters(extra)
    tables = _own_parameters(BonusConstants) | _own_parameters(BoundRules)
    return tables | _own_parameters(MENashQL) | _parameters({"theory_failure": float})


def _own_parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a builder or class that a configuration may set, with their types evaluated."""
    hints = typing.get_type_hints(function.__init__ if isinstance(function, type) else function)  # type: ignore[misc]
    return {
        name: one.replace(annotation=hints.get(name))
        for name, one in inspect.signature(function).parameters.items()
        if name not in _SET_BY_THE_EXPERIMENT
    }


def _parameters(types: Mapping[str, type]) -> dict[str, inspect.Parameter]:
    keyword = inspect.Parameter.KEYWORD_ONLY
    return {name: inspect.Parameter(name, keyword, annotation=of) for name, of in types.items()}


def _check_arguments(where: str, arguments: Mapping[str, Any], known: Mapping[str, inspect.Parameter]) -> None:
    for key, value in sorted(arguments.items()):
        if key not in known:
            raise ValueError(f"{where}: no option {key!r}{nearest(key, known)}")
        if known[key].annotation in _PLAIN_TYPES:
            try:
                converted(value, known[key].annotation)
            except ValueError as error:
                raise ValueError(f"{where}.{key}: got {value!r}, expected {error}") from error


def _taken(arguments: dict[str, Any], of: type[BonusConstants] | type[BoundRules]) -> dict[str, Any]:
    """Take the fields of a dataclass out of the arguments."""
    return {field.name: arguments.pop(field.name) for field in dataclasses.fields(of) if field.name in arguments}


def _chosen(where: str, options: Mapping[str, Any], key: str, known: Collection[str]) -> str:
    choice = options.get(key)
    if choice not in known:
        raise ValueError(f"{where}: got {choice!r}{nearest(str(choice), known)}")
    return str(choice)
