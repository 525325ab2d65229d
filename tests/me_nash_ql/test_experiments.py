"""What the experiments accept, and how they measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from iclr_repro.core.experiment import ParameterError, build
from iclr_repro.me_nash_ql.baselines import NashQ
from iclr_repro.me_nash_ql.board_games import grid_soccer
from iclr_repro.me_nash_ql.bounds import BoundRules
from iclr_repro.me_nash_ql.builders import matching_pennies
from iclr_repro.me_nash_ql.exact import nash_value
from iclr_repro.me_nash_ql.experiments import _study
from iclr_repro.me_nash_ql.experiments._builders import build_game, build_learner
from iclr_repro.me_nash_ql.experiments._study import (
    Curves,
    episodes_until,
    geometric_checkpoints,
    play,
    reached,
    resampled_runs,
)
from iclr_repro.me_nash_ql.experiments.games import soccer_picture
from iclr_repro.me_nash_ql.learner import MENashQL
from iclr_repro.me_nash_ql.self_play import MarkovPolicies
from nash_learners import small_game
from support import bare_run

PENNIES = {"builder": "matching_pennies", "num_steps": 2}
ME = {"learner": "me_nash_ql", "init": "H-h", "c0": 0.4}
CURVES: dict[str, Any] = {
    "_target_": "iclr_repro.me_nash_ql.experiments.LearningCurves",
    "data": "auto",
    "runs": 3,
    "checkpoints": 4,
    "marks": [20],
    "draws": 20,
    "games": {"pennies": PENNIES},
    "methods": {"me_nash_ql": ME, "nash_q": {"learner": "nash_q", "certify": True}},
    "plays": {"pennies": ["me_nash_ql", "nash_q"]},
    "episodes": {"pennies": 30},
}
FAMILY = {
    "builder": "random_game",
    "num_steps": 2,
    "num_actions_max": 2,
    "num_actions_min": 2,
    "concentration": 0.5,
    "rewards": "bern",
    "seed": 7,
}
SPACE: dict[str, Any] = {
    "_target_": "iclr_repro.me_nash_ql.experiments.Space",
    "game": FAMILY,
    "runs": 2,
    "states": [1, 2, 40],
    "episodes": 5,
    "reference": "me_nash_ql",
    "methods": {"me_nash_ql": ME, "nash_vi": {"learner": "nash_vi"}, "v_learning": {"learner": "v_learning"}},
}


def changed(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with the entry at "a/b" replaced, or left out where the value is None."""
    key, _, rest = path.partition("/")
    if rest:
        return {**config, key: changed(config[key], rest, value)}
    return {name: one for name, one in {**config, key: value}.items() if one is not None}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("games/pennies/builder", "x", "games.pennies.builder: got 'x'; Valid: goofspiel, grid_soccer, load_game"),
        ("games/pennies/builder", "lok", "games.pennies.builder: got 'lok'; did you mean 'lock'?"),
        ("games/pennies/num_step", 3, "games.pennies: no option 'num_step'; did you mean 'num_steps'?"),
        ("games/pennies/num_steps", None, "games.pennies: matching_pennies needs num_steps"),
        ("games/pennies/num_steps", "two", "games.pennies.num_steps: got 'two', expected a whole number"),
        ("games/pennies/num_steps", 2.5, "games.pennies.num_steps: got 2.5, expected a whole number"),
        ("games/pennies/num_steps", 0, "games.pennies: num_steps is 0, expected at least 1"),
        ("games/pennies/weights", [0.5], r"games.pennies: weights is \(0.5,\), expected 2 numbers in"),
        (
            "games/pennies",
            {"builder": "load_game", "path": "nowhere.npz"},
            r"games.pennies: \[Errno 2\] No such file or directory: 'nowhere.npz'",
        ),
        ("methods/nash_q/learner", "nash", "methods.nash_q.learner: got 'nash'; did you mean 'nash_q'?"),
        ("methods/nash_q/c0", 0.2, "methods.nash_q: no option 'c0'; did you mean 'c'?"),
        ("methods/nash_q/c", -1.0, r"methods.nash_q: c: got -1.0, expected finite and >= 0"),
        (
            "methods/me_nash_ql/reference",
            "texts",
            "methods.me_nash_ql: reference is 'texts', expected one of mono, text",
        ),
        ("methods/me_nash_ql/certify", True, "methods.me_nash_ql: no option 'certify'"),
        (
            "methods/me_nash_ql/theory_failure",
            0.1,
            "methods.me_nash_ql: theory_failure sets all constants, leave out c0",
        ),
        ("methods/me_nash_ql", {"learner": "me_nash_ql", "theory_failure": 2.0}, "methods.me_nash_ql: got 1 states"),
        (
            "methods/me_nash_ql/monotone_v",
            "false",
            "methods.me_nash_ql.monotone_v: got 'false', expected true or false",
        ),
        (
            "methods/me_nash_ql/settle_gap",
            -1.0,
            "methods.me_nash_ql: settle_gap is -1.0, expected a finite number >= 0",
        ),
        (
            "methods/me_nash_ql/c0",
            [0.1, 0.2],
            r"methods.me_nash_ql: c0 has shape \(2,\), expected one number or one for",
        ),
        ("methods/nash_q/certify", "no", "methods.nash_q.certify: got 'no', expected true or false"),
        (
            "plays/pennies",
            ["nash_q", "nash_q"],
            r"plays.pennies: got \['nash_q', 'nash_q'\], expected each method once",
        ),
        ("plays/pennies", ["nash_w"], "plays.pennies: no method 'nash_w'; did you mean 'nash_q'?"),
        ("plays/lock", ["nash_q"], "plays and games must name the same games, lock is in one only"),
        ("episodes/pennies", 0, "episodes.pennies: got 0, expected >= 1"),
    ],
)
def test_wrong_names_and_values_are_refused_with_the_valid_ones(path: str, value: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=f"^experiments.curves: {message}"):
        build("curves", changed(CURVES, path, value))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("game/num_states", 4, "game: num_states is varied, leave it out"),
        ("states", [4], r"game: num_states takes the values \[4\], expected at least two, ascending"),
        ("states", [4, 2], r"game: num_states takes the values \[4, 2\], expected at least two, ascending"),
        ("game/builder", "lock", "game: no option"),
        ("game/builder", "rrps_metagame", "game.builder: got 'rrps_metagame'; did you mean"),
        ("reference", "me", "reference: no method 'me'; Valid: me_nash_ql, nash_vi, v_learning"),
    ],
)
def test_a_family_of_games_must_leave_its_size_open(path: str, value: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=f"^experiments.space: {message}"):
        build("space", changed(SPACE, path, value))


def test_options_reach_the_learner() -> None:
    game = small_game((3, 2, 2, 2))
    learner = build_learner({**ME, "reference": "text"}, game, num_runs=2, episodes=9)
    assert isinstance(learner, MENashQL)
    assert learner.bounds.v[0, 0, 0].tolist() == [[3, 3], [2, 2], [1, 1], [0, 0]]
    assert learner.tables()["c0"].tolist() == [0.4, 0.4]
    theory = build_learner({"learner": "me_nash_ql", "theory_failure": 0.1}, game, num_runs=1, episodes=100)
    assert theory.tables()["iota"] == pytest.approx(np.log(2 * 4 * 300 / 0.1))
    certified = build_learner({"learner": "nash_q", "certify": True}, game, num_runs=1, episodes=1)
    assert isinstance(certified, NashQ)
    assert certified.mixture is not None


def test_the_users_own_game_can_be_played(tmp_path: Path) -> None:
    game = small_game((2, 2, 2, 2))
    np.savez(tmp_path / "own.npz", P=game.transitions, r=game.rewards)
    found = build_game({"builder": "load_game", "path": str(tmp_path / "own.npz")}, pd.DataFrame())
    assert (found.rewards == game.rewards).all()


def test_learning_curves_measure_all_methods_and_draw_them(tmp_path: Path) -> None:
    result = build("curves", CURVES).run(bare_run(tmp_path))
    result.check()
    assert result.data == "none"
    assert result.metrics["pennies/nash_value"] == pytest.approx(1.0)
    assert result.metrics["pennies/uniform_exploitability"] == pytest.approx(0.0)
    for name in ("me_nash_ql/output", "nash_q/mixture", "nash_q/gap_at_20"):
        assert np.shape(result.metrics[f"pennies/{name}"]) == (3,)
    assert "pennies/me_nash_ql/mixture" not in result.metrics
    assert result.tables["final"].loc[("pennies", "nash_q", "gap"), "mean"] == pytest.approx(
        np.mean(result.metrics["pennies/nash_q/gap"])
    )
    assert list(result.figures) == ["pennies"]


def test_every_run_may_have_constants_of_its_own(tmp_path: Path) -> None:
    result = build("curves", changed(CURVES, "methods/me_nash_ql/c0", [0.1, 0.4, 1.6])).run(bare_run(tmp_path))
    gaps = result.metrics["pennies/me_nash_ql/gap"]
    assert isinstance(gaps, np.ndarray)
    assert (np.diff(gaps) > 0).all()


def test_games_of_no_method_are_left_out(tmp_path: Path) -> None:
    config = changed(
        changed(changed(CURVES, "games/lock", {"builder": "lock", "num_steps": 2}), "plays/lock", []),
        "episodes/lock",
        5,
    )
    assert list(build("curves", config).run(bare_run(tmp_path)).figures) == ["pennies"]


def test_space_is_counted_exactly(tmp_path: Path) -> None:
    result = build("space", SPACE).run(bare_run(tmp_path))
    assert result.metrics["me_nash_ql/growth"] == 1.0
    assert result.metrics["v_learning/growth"] > 1.5
    assert result.metrics["nash_vi/over_me_nash_ql/passes_1_at"] == 40
    table = result.tables["bytes_by_states"]
    assert result.metrics["nash_vi/over_me_nash_ql/s2"] == table.loc[2, "nash_vi"] / table.loc[2, "me_nash_ql"]
    assert result.intervals["me_nash_ql/growth"] == (1.0, 1.0)
    assert np.shape(result.metrics["me_nash_ql/output_over_uniform"]) == (2,)
    assert "v_learning/over_formula/s2" not in result.metrics, "the formula is ME-Nash-QL's"


def test_passages_are_counted_with_what_the_bounds_were_worth(tmp_path: Path) -> None:
    config = {
        "_target_": "iclr_repro.me_nash_ql.experiments.BurnIn",
        "game": FAMILY,
        "states": [1, 2],
        "methods": {"me_nash_ql": ME},
        "runs": 3,
        "gap_frac": 0.5,
        "episodes": 400,
        "every": 5,
        "draws": 20,
    }
    found = build("burn_in", config).run(bare_run(tmp_path)).metrics
    small, large = (found[f"me_nash_ql/episodes/s{size}"] for size in (1, 2))
    assert 5 <= small < large < 400
    assert found["me_nash_ql/ratio/s1_s2"] == pytest.approx(large / small)
    assert found["me_nash_ql/slope/s1_s2"] == pytest.approx(np.log2(large / small))
    assert np.all(found["me_nash_ql/reached/s2"] == 1.0)
    never = build("burn_in", {**config, "gap_frac": 0.0, "episodes": 20}).run(bare_run(tmp_path)).metrics
    assert never["me_nash_ql/episodes/s2"] == 20.0, "a lower bound"
    assert np.all(never["me_nash_ql/reached/s2"] == 0.0)


def test_rates_compare_the_methods_at_every_horizon(tmp_path: Path) -> None:
    family = {key: value for key, value in FAMILY.items() if key != "num_steps"} | {"num_states": 2}
    config = {
        "_target_": "iclr_repro.me_nash_ql.experiments.Rates",
        "methods": {"nash_q": {"learner": "nash_q", "init": "H-h", "c": 0.4}, "me_nash_ql": ME},
        "runs": 3,
        "gap_frac": 0.5,
        "episodes": 300,
        "every": 10,
        "draws": 20,
        "game": {**FAMILY, "num_states": 2},
        "slope_episodes": 100,
        "checkpoints": 12,
        "family": family,
        "horizons": [1, 2],
        "reference": "me_nash_ql",
    }
    result = build("rates", config).run(bare_run(tmp_path))
    difference = result.metrics["nash_q/episodes/h2"] - result.metrics["me_nash_ql/episodes/h2"]
    assert result.metrics["nash_q_minus_me_nash_ql/episodes/h2"] == difference
    curve = result.tables["gap_nash_q"].xs("gap", level="quantity")["mean"]
    last = curve[curve.index >= 10]
    slope = np.polyfit(np.log(last.index), np.log(last), 1)[0]
    assert np.mean(result.metrics["nash_q/gap_slope"]) == pytest.approx(slope, abs=0.05)
    with pytest.raises(ParameterError, match="reference: no method 'me'"):
        build("rates", {**config, "reference": "me"})


def test_equilibria_are_counted_where_they_are_solved(tmp_path: Path) -> None:
    config = {
        "_target_": "iclr_repro.me_nash_ql.experiments.Computation",
        "game": FAMILY,
        "states": [2, 4],
        "methods": {"me_nash_ql": ME, "nash_vi": {"learner": "nash_vi"}, "plug_in": {"learner": "plug_in"}},
        "runs": 3,
        "episodes": 2,
        "repeats": 2,
    }
    found = build("computation", config).run(bare_run(tmp_path)).metrics
    assert [found[f"{name}/cce_per_episode/s4"] for name in config["methods"]] == [2.0, 8.0, 8.0]  # type: ignore[attr-defined]
    assert np.shape(found["nash_vi/time_slope"]) == (2,)


def test_identities_and_efficiency_measure_what_they_say(tmp_path: Path) -> None:
    identities = {
        "_target_": "iclr_repro.me_nash_ql.experiments.Identities",
        "runs": 2,
        "episodes": 20,
        "visits": 20,
        "horizons": [1, 3],
        "num_games": 5,
        "actions": [1, 3],
    }
    found = build("identities", identities).run(bare_run(tmp_path)).metrics
    assert {"i1/sum", "i2", "i3", "i5", "i9/nash", "i10"} <= found.keys()
    assert found["i1/sum"] <= 1e-12
    efficiency = {
        "_target_": "iclr_repro.me_nash_ql.experiments.Efficiency",
        "num_games": 4,
        "actions": [2],
        "runs": 2,
        "episodes": 1,
        "repeats": 3,
    }
    found = build("efficiency", efficiency).run(bare_run(tmp_path)).metrics
    assert np.shape(found["cce/2x2/speedup"]) == (3,)
    assert found["cce/2x2/gap_difference"] <= 1e-9
    assert found["cce/2x2/violation"] <= 1e-9


def test_soccer_is_drawn_until_the_game_is_over() -> None:
    game = grid_soccer(rows=2, columns=3, num_steps=3, start_max=(1, 2), start_min=(0, 0))
    nash = nash_value(game)
    east = np.broadcast_to(np.eye(5)[3], nash.max_policy.shape)
    learnt = MarkovPolicies(east[None], nash.min_policy[None])
    assert len(soccer_picture(game, (2, 3), nash, learnt).axes) == 2, "it scores at once: one step, two rows"


def curves_of(gaps_CR: list[list[float]]) -> Curves:
    learner = NashQ((1, 1, 1, 1), num_runs=len(gaps_CR[0]))
    return Curves(learner, 10 * np.arange(1, len(gaps_CR) + 1), {"gap": np.array(gaps_CR)})


def test_the_passage_is_where_the_median_gap_is_small() -> None:
    curves = curves_of([[3.0, 3.0, 3.0], [0.5, 2.0, 2.0], [0.5, 0.5, 2.0]])
    runs_DR = np.array([[0, 1, 2], [0, 0, 2], [2, 2, 1]])
    assert episodes_until(curves, 1.0, runs_DR).tolist() == [30.0, 20.0, 30.0], "the last is a lower bound"
    assert reached(curves, 1.0).tolist() == [1.0, 1.0, 0.0]


def test_the_first_resample_is_all_runs_once() -> None:
    found = resampled_runs(4, 50, rng=np.random.default_rng(0))
    assert found.shape == (51, 4)
    assert found[0].tolist() == [0, 1, 2, 3]
    assert found.max() == 3


def test_checkpoints_are_geometric_with_the_marks_within_reach() -> None:
    assert geometric_checkpoints(1000, number=3, marks=[300, 5000]) == [10, 100, 300, 1000]
    assert geometric_checkpoints(5, number=3) == [5]


def test_a_study_goes_on_with_what_it_measured_before(tmp_path: Path) -> None:
    game = matching_pennies(2)

    def measured(episodes: list[int]) -> dict[str, np.ndarray]:
        learner = NashQ(game.rewards.shape, num_runs=2, certify_in=game)
        study = _study._MeasuredPlay(game, nash_value(game), learner, np.random.default_rng(0))
        for episode in range(1, 21):
            study.step()
            if episode % 5 == 0:
                study.evaluate()
            if episode in episodes:
                state = study.state_dict()
                rng_state = study._play._rng.bit_generator.state
                learner = NashQ(game.rewards.shape, num_runs=2, certify_in=game)
                study = _study._MeasuredPlay(game, nash_value(game), learner, np.random.default_rng(1))
                study.load_state_dict(state)
                study._play._rng.bit_generator.state = rng_state
        return {name: np.array(values) for name, values in study.measured.items()}

    whole, resumed = measured([]), measured([3, 10])
    assert whole.keys() == resumed.keys()
    assert all((whole[name] == resumed[name]).all() for name in whole)
    assert whole["mixture"].shape == (4, 2)


def test_curves_hold_the_checkpoints_and_the_end(tmp_path: Path) -> None:
    game = matching_pennies(2)
    learner = MENashQL(game.rewards.shape, num_runs=3, rules=BoundRules(init="H-h"))
    curves = play(bare_run(tmp_path), "x", game, nash_value(game), learner, episodes=12, checkpoints=[5, 10])
    assert curves.episodes.tolist() == [5, 10, 12]
    assert curves.values["gap"].shape == (3, 3)
    assert (curves.at("gap", 12) == learner.gap()).all()
    summary = curves.summary()
    assert summary.loc[("gap", 10), "mean"] == pytest.approx(curves.at("gap", 10).mean())
