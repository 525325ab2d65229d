"""The tabular part against reference values that were computed independently (README of the golden folder)."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iclr_repro.wsep import (
    TabularMDP,
    adaptation_costs,
    channel_capacity,
    hull_distance,
    lsepin,
    mac_bounds,
    mutual_information,
    occupancy,
    policy_iteration,
    polytope_vertices,
    pwsep,
    sepin,
    uniform_policy,
    wasserstein_matrix,
    wsep,
)
from iclr_repro.wsep.ascent import set_scores
from iclr_repro.wsep.mdp import deterministic_occupancies
from support import golden_dir

GOLDEN = golden_dir("wsep")
EXACT, TRANSPORT, CAPACITY = 1e-9, 1e-7, 1e-8
MAX_MULTISETS = 200_000


@dataclass(frozen=True)
class Case:
    file: dict[str, np.ndarray]
    sets: list[dict[str, Any]]
    summary: dict[str, Any]

    @property
    def mdp(self) -> TabularMDP:
        return TabularMDP(self.file["P"], self.file["p0"], float(self.file["gamma"]), self.file["M"])

    def __getitem__(self, key: str) -> np.ndarray:
        return self.file[key]


PATHS = sorted(GOLDEN.glob("case*.npz"))


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def case(request: pytest.FixtureRequest) -> Case:
    path: Path = request.param
    with np.load(path) as stored:
        file = {key: stored[key] for key in stored.files}
    beside = path.with_name(f"{path.stem}_sets.json")
    summary = GOLDEN / "summary.json"
    return Case(
        file=file,
        sets=json.loads(beside.read_text()) if beside.is_file() else [],
        summary=json.loads(summary.read_text()).get(path.stem.split("_")[0], {}) if summary.is_file() else {},
    )


def test_there_are_cases() -> None:
    assert PATHS, f"no case*.npz in {GOLDEN}"


def test_occupancies_of_uniform_and_stochastic_policies(case: Case) -> None:
    np.testing.assert_allclose(occupancy(case.mdp, uniform_policy(case.mdp)), case["ref"], atol=EXACT)
    if "sto_pi" in case.file:
        np.testing.assert_allclose(occupancy(case.mdp, case["sto_pi"]), case["sto_occ"], atol=EXACT)


def test_policy_iteration_solves_the_task(case: Case) -> None:
    if "task_r" not in case.file:
        pytest.skip("no task in this file")
    plan = policy_iteration(case.mdp, case["task_r"])
    np.testing.assert_array_equal(plan.policy, case["task_pi"])
    np.testing.assert_allclose(plan.occupancy, case["task_occ"], atol=EXACT)


def test_vertices(case: Case) -> None:
    assert len(deterministic_occupancies(case.mdp)) == case["n_det_unique"]
    found, expected = polytope_vertices(case.mdp), case["V"]
    assert found.shape == expected.shape
    gaps = np.abs(found[:, None] - expected).max(axis=-1)
    assert (gaps.min(axis=0) <= 1e-8).all()
    assert (gaps.min(axis=1) <= 1e-8).all()


@pytest.mark.parametrize("solver", ["transport", "potentials", "auto"])
def test_distances_of_all_vertices(case: Case, solver: Any) -> None:
    if solver == "potentials" and len(case["M"]) > 7:
        pytest.skip("too many extreme potentials")
    found = wasserstein_matrix(case["V"], case["V"], case["M"], solver=solver)
    np.testing.assert_allclose(found, case["W"], atol=TRANSPORT)


def test_capacity(case: Case) -> None:
    found = channel_capacity(case["V"])
    assert found.gap < EXACT
    assert found.value == pytest.approx(float(case["capacity"]), abs=CAPACITY)
    np.testing.assert_allclose(found.mean, case["cap_mean"], atol=1e-4)
    if "support" in case.summary:
        assert len(found.support()) == case.summary["support"]


@pytest.mark.parametrize("lazy", [True, False])
def test_pwsep_finds_all_vertices_in_order(case: Case, lazy: bool) -> None:
    found = pwsep(case["V"], case["M"], reference=case["ref"], lazy=lazy)
    assert sorted(found.order) == list(range(len(case["V"])))
    assert found.certified()
    np.testing.assert_allclose(found.gains, case["pwsep_gain"], atol=1e-6)
    # Two candidates that are equally far may change places.
    for position in np.flatnonzero(found.order != case["pwsep_order"]):
        recorded = case["V"][case["pwsep_order"][position]]
        before = case["V"][found.order[:position]]
        assert hull_distance(recorded, before, case["M"]).value >= found.gains[position] - 1e-6


def test_weighted_information(case: Case) -> None:
    if "nu_Z" not in case.file:
        pytest.skip("no weights in this file")
    skills, weights = case["V"][case["nu_Z"]], case["nu_w"]
    assert mutual_information(skills, weights) == pytest.approx(float(case["nu_MI"]), abs=EXACT)
    np.testing.assert_allclose(sepin(skills, weights), case["nu_SEPIN"], atol=EXACT)


def test_sets_of_skills(case: Case) -> None:
    if not case.sets:
        pytest.skip("no sets beside this file")
    vertices, metric = case["V"], case["M"]
    for entry in case.sets:
        skills = vertices[entry["Z"]]
        assert mutual_information(skills) == pytest.approx(entry["MI"], abs=EXACT)
        np.testing.assert_allclose(sepin(skills), entry["SEPIN"], atol=EXACT)
        assert lsepin(skills) == pytest.approx(entry["LSEPIN"], abs=EXACT)
        assert wsep(skills, metric) == pytest.approx(entry["WSEP_unordered"], abs=TRANSPORT)
        costs = adaptation_costs(skills, vertices, metric)
        assert costs.wac_kl_fwd == pytest.approx(entry["WAC_KL_target_from_skill"], abs=TRANSPORT)
        assert costs.wac_kl_rev == pytest.approx(entry["WAC_KL_reverse"], abs=TRANSPORT)
        assert costs.mac_kl == pytest.approx(entry["MAC_KL"], abs=TRANSPORT)
        assert costs.mac_w == pytest.approx(entry["MAC_W"], abs=TRANSPORT)
        assert costs.wac_w == pytest.approx(entry["WAC_W"], abs=TRANSPORT)
        bound = mac_bounds(case["W"], np.array([entry["Z"]]))[0]
        assert bound == pytest.approx(entry["MAC_bound"], abs=TRANSPORT)
        distance = hull_distance(vertices[entry["hullproj_vertex"]], skills, metric).value
        assert distance == pytest.approx(entry["hullproj_W"], abs=TRANSPORT)


@pytest.mark.parametrize(
    ("key", "score", "repeated"),
    [("wsep4_value", "wsep", True), ("mi4_max", "mi", True), ("lsepin4_max", "lsepin", False)],
)
def test_best_sets_of_four(case: Case, key: str, score: str, repeated: bool) -> None:
    if key not in case.file:
        pytest.skip(f"no {key} in this file")
    choose = itertools.combinations_with_replacement if repeated else itertools.combinations
    sets = np.array(list(itertools.islice(choose(range(len(case["V"])), 4), MAX_MULTISETS)))
    best = set_scores(case["V"], case["W"])[score](sets).max()
    assert best == pytest.approx(float(case[key]), abs=TRANSPORT)
