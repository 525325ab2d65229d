from __future__ import annotations

import numpy as np
import pytest

from iclr_repro.wsep import (
    LAYOUTS,
    TabularMDP,
    choose_skill,
    garnet,
    goal_occupancies,
    grid_mdp,
    hull_distance,
    mutual_information,
    occupancy,
    oracle_ascent,
    polytope_vertices,
    pwsep,
    pwsep_oracle,
    random_skills,
    sepin,
    swap_ascent,
    uniform_policy,
    wasserstein,
    wsep,
)
from iclr_repro.wsep.ascent import best_wsep_multiset, set_scores
from iclr_repro.wsep.costs import PairTables
from iclr_repro.wsep.invariants import discovery_violations
from iclr_repro.wsep.mdp import deterministic_occupancies


@pytest.fixture(scope="module")
def grid() -> TabularMDP:
    return grid_mdp(LAYOUTS["empty5"])


@pytest.mark.parametrize(("seed", "size"), [(0, (3, 2)), (1, (4, 2)), (2, (4, 3)), (3, (5, 2))])
def test_all_vertices_and_nothing_else_are_found_among_all_policies(seed: int, size: tuple[int, int]) -> None:
    mdp = garnet(*size, rng=np.random.default_rng(seed))
    everything, vertices = deterministic_occupancies(mdp), polytope_vertices(mdp)
    found = pwsep(everything, mdp.distances(), reference=occupancy(mdp, uniform_policy(mdp)))
    assert len(found.order) == len(vertices)
    assert (np.abs(found.skills[:, None] - vertices).max(axis=-1).min(axis=0) <= 1e-7).all()
    assert found.certified()


def test_t6_holds() -> None:
    for seed, size in enumerate([(3, 2), (4, 2), (4, 3)]):
        mdp = garnet(*size, rng=np.random.default_rng(seed))
        violations = discovery_violations(mdp, polytope_vertices(mdp), rng=np.random.default_rng(seed))
        assert all(violation <= 1e-8 for violation in violations.values()), violations


def test_lazy_bounds_change_nothing_but_the_work() -> None:
    mdp = garnet(5, 2, rng=np.random.default_rng(4))
    vertices, reference = polytope_vertices(mdp), occupancy(mdp, uniform_policy(mdp))
    lazy, full = (pwsep(vertices, mdp.distances(), reference=reference, lazy=lazy) for lazy in (True, False))
    np.testing.assert_array_equal(lazy.order, full.order)
    np.testing.assert_allclose(lazy.gains, full.gains, atol=1e-12)
    assert lazy.num_programs < 0.5 * full.num_programs


def test_stopping_early_leaves_a_certificate_for_every_distribution() -> None:
    mdp = garnet(4, 3, rng=np.random.default_rng(5))
    vertices = polytope_vertices(mdp)
    found = pwsep(vertices, mdp.distances(), reference=occupancy(mdp, uniform_policy(mdp)), num_skills=5)
    assert len(found.order) == 5
    assert not found.certified()
    assert (np.diff(found.gains[1:]) <= 1e-12).all()
    for policy in np.random.default_rng(6).dirichlet(np.ones(3), size=(20, 4)):
        distance = hull_distance(occupancy(mdp, policy), found.skills, mdp.distances()).value
        assert distance <= found.remaining + 1e-9


def test_candidates_that_are_all_equal_give_one_skill() -> None:
    found = pwsep(np.full((3, 2), 0.5), np.array([[0.0, 1.0], [1.0, 0.0]]), reference=np.array([1.0, 0.0]))
    np.testing.assert_array_equal(found.order, [0])
    assert found.certified()


def test_the_oracle_finds_vertices_that_the_list_has_in_falling_distance() -> None:
    mdp = garnet(4, 2, rng=np.random.default_rng(7))
    vertices = polytope_vertices(mdp)
    found = pwsep_oracle(mdp, 6, rng=np.random.default_rng(8), restarts=8)
    assert len(found.skills) >= 4
    for number, skill in enumerate(found.skills):
        assert np.abs(vertices - skill).max(axis=1).min() <= 1e-9
        if number:
            distance = hull_distance(skill, found.skills[:number], mdp.distances()).value
            assert found.gains[number] == pytest.approx(distance, abs=1e-8)
    first = wasserstein(found.skills[0], occupancy(mdp, uniform_policy(mdp)), mdp.distances())
    assert found.gains[0] == pytest.approx(first, abs=1e-8)


@pytest.mark.usefixtures("unchecked")
def test_bad_numbers_and_missing_metrics_are_refused() -> None:
    mdp = garnet(3, 2, rng=np.random.default_rng(0))
    bare = TabularMDP(mdp.transitions, mdp.start, mdp.gamma)
    with pytest.raises(ValueError, match="num_skills is 0, expected at least 1"):
        pwsep(np.eye(3), mdp.distances(), reference=np.ones(3) / 3, num_skills=0)
    with pytest.raises(ValueError, match="num_skills and restarts are 2 and 0"):
        pwsep_oracle(mdp, 2, rng=np.random.default_rng(0), restarts=0)
    with pytest.raises(ValueError, match="this MDP has no metric"):
        pwsep_oracle(bare, 2, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="this MDP has no metric"):
        oracle_ascent(bare, 2, "wsep", rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="objective is 'mi', expected one of misl"):
        oracle_ascent(mdp, 2, "mi", rng=np.random.default_rng(0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_skills is 1, expected at least 2"):
        oracle_ascent(mdp, 1, "misl", rng=np.random.default_rng(0))


# --- ascents ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["misl", "wsep"])
def test_an_ascent_raises_its_objective_above_the_random_start(grid: TabularMDP, objective: str) -> None:
    score = mutual_information if objective == "misl" else lambda skills: wsep(skills, grid.distances())
    for seed in range(3):
        start = random_skills(grid, 6, rng=np.random.default_rng(seed))
        end = oracle_ascent(grid, 6, objective, rng=np.random.default_rng(seed))  # type: ignore[arg-type]
        assert score(end) > score(start) + 1e-3


def test_lsepin_in_the_objective_raises_lsepin_and_a_weight_of_zero_is_misl(grid: TabularMDP) -> None:
    plain, added = (
        np.mean([sepin(oracle_ascent(grid, 8, how, rng=np.random.default_rng(seed))).min() for seed in range(6)])
        for how in ("misl", "misl_lsepin")
    )
    assert added > plain
    without = oracle_ascent(grid, 5, "misl_lsepin", rng=np.random.default_rng(0), lsepin_weight=0.0)
    np.testing.assert_array_equal(without, oracle_ascent(grid, 5, "misl", rng=np.random.default_rng(0)))


def test_the_gradient_of_lsepin_is_that_of_finite_differences(grid: TabularMDP) -> None:
    from iclr_repro.wsep.ascent import _information_gradient

    skills, direction = random_skills(grid, 4, rng=np.random.default_rng(1)), np.random.default_rng(2).normal(size=25)
    direction -= direction.mean()

    def value(step: float, index: int) -> float:
        moved = skills.copy()
        moved[index] += step * direction
        return float(mutual_information(moved) + 4 * sepin(moved).min())

    for index in range(4):
        slope = (value(1e-7, index) - value(-1e-7, index)) / 2e-7
        assert 4 * slope == pytest.approx(float(_information_gradient(1.0)(skills, index) @ direction), rel=1e-5)


def test_swap_ascent_ends_where_no_replacement_helps_and_the_fast_form_agrees() -> None:
    mdp = garnet(4, 2, rng=np.random.default_rng(9))
    vertices = polytope_vertices(mdp)
    distances = PairTables.of(vertices, mdp.distances()).distances
    scores = set_scores(vertices, distances)
    for score in scores.values():
        chosen = swap_ascent(score, len(vertices), 3, rng=np.random.default_rng(0))
        value = score(chosen[None])[0]
        for place in range(3):
            for candidate in range(len(vertices)):
                changed = chosen.copy()
                changed[place] = candidate
                assert score(changed[None])[0] <= value + 1e-9
    slow = swap_ascent(scores["wsep"], len(vertices), 5, rng=np.random.default_rng(1), starts=6)
    fast = best_wsep_multiset(distances, 5, rng=np.random.default_rng(1), starts=6)
    assert scores["wsep"](slow[None])[0] == pytest.approx(scores["wsep"](fast[None])[0])


# --- choosing a skill ------------------------------------------------------------------------------------------------


def test_the_skill_of_a_task_is_the_one_nearest_to_it(grid: TabularMDP) -> None:
    goals = goal_occupancies(grid)
    skills = goals[[0, 12, 24]]
    assert choose_skill(skills, reward=np.eye(25)[23]) == 2
    assert choose_skill(skills, target=goals[1], metric=grid.distances()) == 0
    with pytest.raises(ValueError, match="give either reward or target"):
        choose_skill(skills)
    with pytest.raises(ValueError, match="a target needs a metric"):
        choose_skill(skills, target=goals[1])
