"""A claim check that anything passes is worthless: random, repeated, untrained and shuffled skills must fail them.

Each impostor takes a method's place inside the experiment, at a size at which the method itself passes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from iclr_repro import command_line
from iclr_repro.core.claims import Check, Results, claims_of, judge
from iclr_repro.core.experiment import build
from iclr_repro.wsep import Capacity, Discovery, TabularMDP, claims, figures, random_skills
from iclr_repro.wsep.experiments import _methods, exact, grids
from support import bare_run

HEADLINE = {"W1", "W2", "W3", "W4", "W5", "W7", "W8"}
SMALLER: dict[str, dict[str, Any]] = {
    "vertices": {"sizes": [[4, 2], [4, 3]], "mdps": 3, "compared_sizes": [[4, 2], [4, 3]], "starts": 3, "restarts": 1},
    "correlations": {"sizes": [[4, 3, 3], [5, 2, 3]], "mdps": 5, "max_sets": 1000},
    "growing_skills": {"sizes": [[4, 3]], "mdps": 8, "num_skills": [3, 8], "starts": 1},
    "gridworlds": {"layouts": ["empty5", "rooms7"], "num_skills": [16, 16], "runs": [5, 5]},
}
Metrics = dict[str, dict[str, Any]]


def test_headline_claims_are_those_that_impostors_are_tried_on() -> None:
    assert {claim.id for claim in claims_of(claims) if claim.headline} == HEADLINE


def measured(experiment: str, folder: Path) -> Metrics:
    settings = command_line.checked_settings(command_line.compose(["paper=wsep"]))
    config = {**settings["experiments"][experiment], **SMALLER[experiment]}
    return {experiment: dict(build(experiment, config).run(bare_run(folder, seed=3)).metrics)}


def judged(metrics: Metrics) -> dict[str, Check]:
    return {one.claim.id: one.check for one in judge(claims_of(claims), Results.from_metrics(metrics), "cpu")}


def failing(check: Check) -> list[str]:
    return [part.name for part in check.parts or (check,) if part.verdict == "not reproduced"]


# --- exact MDPs ------------------------------------------------------------------------------------------------------


def random_discovery(mdp: TabularMDP, candidates: np.ndarray, num_skills: int | None = None) -> Discovery:
    """As many random vertices as there are candidates, and the claim to have finished."""
    order = np.random.default_rng(0).integers(len(candidates), size=len(candidates))[:num_skills]
    return Discovery(order, candidates[order], np.ones(len(order)), 0.0, 0)


def repeated_discovery(mdp: TabularMDP, candidates: np.ndarray, num_skills: int | None = None) -> Discovery:
    """The first two skills of PWSEP again and again."""
    honest = _methods.exact_pwsep(mdp, candidates, num_skills)
    order = np.resize(honest.order[:2], len(honest.order))
    return Discovery(order, candidates[order], np.ones(len(order)), 0.0, 0)


def untrained_capacity(candidates: np.ndarray) -> Capacity:
    """Equal weights of everything."""
    weights = np.full(len(candidates), 1.0 / len(candidates))
    return Capacity(0.0, 0.0, weights, weights @ candidates, 0)


def farthest_pair(distances: np.ndarray, num_skills: int, **_: Any) -> np.ndarray:
    """Two skills, repeated."""
    return np.resize(np.array(np.unravel_index(distances.argmax(), distances.shape)), num_skills)


def shuffled_scores(candidates: np.ndarray, distances: np.ndarray) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Scores of other sets than those asked for."""

    def shuffled(score: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        return lambda sets: np.random.default_rng(0).permutation(score(sets))

    return {name: shuffled(score) for name, score in HONEST_SCORES(candidates, distances).items()}


HONEST_SCORES = exact.set_scores


@pytest.mark.parametrize(
    ("experiment", "ids"),
    [("vertices", {"W1", "W2", "W3"}), ("correlations", {"W4", "W6"}), ("growing_skills", {"W5"})],
)
def test_the_methods_themselves_do_not_fail_at_this_size(experiment: str, ids: set[str], tmp_path: Path) -> None:
    checks = judged(measured(experiment, tmp_path))
    assert {name: checks[name].verdict for name in ids} == dict.fromkeys(ids, "reproduced")


@pytest.mark.parametrize(
    ("experiment", "place", "impostor", "ids"),
    [
        ("vertices", "exact_pwsep", random_discovery, {"W1"}),
        ("vertices", "exact_pwsep", repeated_discovery, {"W1"}),
        ("vertices", "channel_capacity", untrained_capacity, {"W2", "W3"}),
        ("vertices", "best_wsep_multiset", farthest_pair, {"W3"}),
        ("correlations", "set_scores", shuffled_scores, {"W4", "W6"}),
        ("growing_skills", "exact_pwsep", repeated_discovery, {"W5"}),
        ("growing_skills", "exact_pwsep", random_discovery, {"W5"}),
    ],
)
def test_impostors_fail(
    experiment: str, place: str, impostor: Any, ids: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, place, impostor)
    checks = judged(measured(experiment, tmp_path))
    assert {name: checks[name].verdict for name in ids} == dict.fromkeys(ids, "not reproduced")


# --- gridworlds ------------------------------------------------------------------------------------------------------

Skills = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def remembered() -> Skills:
    """The honest skills, computed once for all impostors; a run's generator is at its start and tells runs apart."""
    known: dict[tuple[str, int, int], np.ndarray] = {}

    def skills(method: str, mdp: TabularMDP, num_skills: int, *, restarts: int, rng: np.random.Generator) -> np.ndarray:
        key = (method, mdp.num_states, rng.bit_generator.state["state"]["state"])
        if key not in known:
            known[key] = _methods.grid_skills(method, mdp, num_skills, restarts=restarts, rng=rng)
        return known[key].copy()

    return skills


def replaced(honest: Skills, method: str, impostor: Callable[[TabularMDP, int, np.ndarray], np.ndarray]) -> Skills:
    def skills(asked: str, mdp: TabularMDP, num_skills: int, **rest: Any) -> np.ndarray:
        found = honest(asked, mdp, num_skills, **rest)
        return impostor(mdp, num_skills, found) if asked == method else found

    return skills


def drawn(mdp: TabularMDP, num_skills: int, _: np.ndarray) -> np.ndarray:
    return random_skills(mdp, num_skills, rng=np.random.default_rng(9))


def repeated(mdp: TabularMDP, num_skills: int, honest: np.ndarray) -> np.ndarray:
    return honest[np.resize([0, 1], num_skills)]


def untrained(mdp: TabularMDP, num_skills: int, _: np.ndarray) -> np.ndarray:
    from iclr_repro.wsep import occupancy, uniform_policy

    return np.repeat(occupancy(mdp, uniform_policy(mdp))[None], num_skills, axis=0)


def shuffled(mdp: TabularMDP, num_skills: int, honest: np.ndarray) -> np.ndarray:
    """The same numbers on other states."""
    return np.random.default_rng(1).permuted(honest, axis=1)


@pytest.fixture(scope="module")
def measures() -> Callable[..., dict[str, float]]:
    """`grids.measures`, computed once for the same skills."""
    known: dict[bytes, dict[str, float]] = {}

    def remember(skills: np.ndarray, goals: np.ndarray, metric: np.ndarray) -> dict[str, float]:
        key = skills.tobytes()
        if key not in known:
            known[key] = HONEST_MEASURES(skills, goals, metric)
        return dict(known[key])

    return remember


HONEST_MEASURES = grids.measures


@pytest.fixture(autouse=True)
def _faster(measures: Callable[..., dict[str, float]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grids, "measures", measures)
    monkeypatch.setattr(figures, "heat_maps", lambda *_: Figure())


def test_gridworld_skills_themselves_do_not_fail(
    remembered: Skills, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five pairs are too few to decide the narrowest part of W8; none may fail."""
    monkeypatch.setattr(grids, "grid_skills", remembered)
    checks = judged(measured("gridworlds", tmp_path))
    for name in ("W7", "W8"):
        assert not failing(checks[name]), checks[name].note


@pytest.mark.parametrize("impostor", [drawn, repeated, untrained, shuffled])
@pytest.mark.parametrize(("claim", "method"), [("W7", "misl_lsepin"), ("W8", "pwsep")])
def test_gridworld_impostors_fail(
    claim: str, method: str, impostor: Any, remembered: Skills, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grids, "grid_skills", replaced(remembered, method, impostor))
    assert judged(measured("gridworlds", tmp_path))[claim].verdict == "not reproduced"


# --- numbers that no sound method has --------------------------------------------------------------------------------


def test_learned_skills_that_cover_no_more_or_come_no_nearer_fail() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(scale=0.1, size=12)
    good = {
        "diayn/cells": 11.0 + noise,
        "wsep/cells": 14.0 + noise[::-1],
        "pwsep/cells": 14.0 - noise,
        "diayn/max_goal_distance": 4.5 + noise,
        "pwsep/max_goal_distance": 3.0 + noise,
    }
    assert judged({"maze": good})["W10"].verdict == "reproduced"
    for name, like in (
        ("wsep/cells", "diayn/cells"),
        ("pwsep/cells", "diayn/cells"),
        ("pwsep/max_goal_distance", "diayn/max_goal_distance"),
    ):
        assert judged({"maze": {**good, name: good[like]}})["W10"].verdict == "not reproduced"


def test_a_violated_identity_and_a_missing_one_are_not_reproduced() -> None:
    names = ("t1_chain", "t1_least", "t1_entropy", "t1_disjoint", "t2", "t4", "capacity_gap", "capacity_inside", "t3")
    rest = ("t5", "t5_total", "t6_missed", "t6_rise", "t6_inside", "t6_convex", "t6_certificate", "w_triangle")
    good = dict.fromkeys(names + rest, 0.0)
    assert judged({"identities": good})["W9"].verdict == "reproduced"
    for name in good:
        assert judged({"identities": {**good, name: 1e-3}})["W9"].verdict == "not reproduced"
        assert judged({"identities": {**good, name: float("nan")}})["W9"].verdict != "reproduced"
        assert (
            judged({"identities": {key: value for key, value in good.items() if key != name}})["W9"].verdict
            == "not run"
        )


SPEED: dict[str, dict[str, tuple[float, float]]] = {  # metric -> a good and a wrong value
    "S1": {"pwsep/programs_ratio": (0.3, 0.5), "pwsep/order_differences": (0.0, 1.0), "pwsep/vertices": (62.0, 33.0)},
    "S2": {"tables/speedup": (30.0, 3.0), "tables/largest_difference": (1e-12, 1e-3)},
    "S3": {"maze/steps_per_s": (2e7, 1e5), "maze/largest_difference": (1e-6, 0.1)},
}


@pytest.mark.parametrize("claim", SPEED)
def test_claims_on_speed_fail_on_wrong_numbers(claim: str) -> None:
    good = {name: value for name, (value, _) in SPEED[claim].items()}
    assert judged({"efficiency": good})[claim].verdict == "reproduced"
    for name, (_, wrong) in SPEED[claim].items():
        assert judged({"efficiency": {**good, name: wrong}})[claim].verdict == "not reproduced"
