from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.optimize

from iclr_repro.wsep import (
    LAYOUTS,
    HullDistances,
    InfeasibleError,
    adaptation_costs,
    extreme_potentials,
    garnet,
    grid_mdp,
    hull_distance,
    kantorovich,
    mac_bounds,
    polytope_vertices,
    random_skills,
    wasserstein,
    wasserstein_matrix,
    wsep,
)
from iclr_repro.wsep.costs import PairTables, summed_distances
from iclr_repro.wsep.invariants import bound_violations

LINE = np.abs(np.subtract.outer(np.arange(3.0), np.arange(3.0)))
APART = np.eye(3)


def primal_hull_distance(p: np.ndarray, skills: np.ndarray, metric: np.ndarray) -> float:
    """The linear program over transport plans, as in the sheet."""
    num_states, num_skills = len(p), len(skills)
    plan = np.eye(num_states**2).reshape(num_states, num_states, -1)
    rows = np.vstack(
        [
            np.column_stack([plan.sum(axis=1), np.zeros((num_states, num_skills))]),
            np.column_stack([plan.sum(axis=0), -skills.T]),
            np.append(np.zeros(num_states**2), np.ones(num_skills)),
        ]
    )
    found = scipy.optimize.linprog(
        np.append(metric.ravel(), np.zeros(num_skills)),
        A_eq=rows,
        b_eq=np.concatenate([p, np.zeros(num_states), [1.0]]),
        bounds=(0.0, None),
    )
    assert found.status == 0
    return float(found.fun)


def test_mass_moves_as_far_as_the_metric_says() -> None:
    assert wasserstein(APART[0], APART[2], LINE) == pytest.approx(2.0)
    assert wasserstein(np.array([0.5, 0.5, 0.0]), APART[2], LINE) == pytest.approx(1.5)
    assert wasserstein(APART[1], APART[1], LINE) == 0.0


@pytest.mark.parametrize("layout", [None, "grid"])
def test_both_solvers_agree_also_on_degenerate_metrics(layout: str | None) -> None:
    rng = np.random.default_rng(0)
    # Shortest paths of a 2 x 3 grid have many ties.
    metric = (
        np.abs(np.subtract.outer(np.arange(6) // 3, np.arange(6) // 3))
        + np.abs(np.subtract.outer(np.arange(6) % 3, np.arange(6) % 3))
        if layout
        else garnet(6, 2, rng=rng).distances()
    ).astype(float)
    p, q = rng.dirichlet(np.full(6, 0.3), size=20), rng.dirichlet(np.full(6, 0.3), size=15)
    exact = wasserstein_matrix(p, q, metric, solver="transport")
    np.testing.assert_allclose(wasserstein_matrix(p, q, metric, solver="potentials"), exact, atol=1e-9)
    np.testing.assert_allclose(wasserstein_matrix(p, p, metric, solver="transport"), wasserstein_matrix(p, p, metric))


@pytest.mark.parametrize(("num_states", "number"), [(1, 1), (2, 2), (3, 6), (4, 20), (5, 70)])
def test_a_generic_metric_has_binomially_many_extreme_potentials(num_states: int, number: int) -> None:
    points = np.random.default_rng(1).random((num_states, 2))
    metric = np.linalg.norm(points[:, None] - points, axis=-1)
    extreme = extreme_potentials(metric)
    assert len(extreme) == number
    assert (extreme[:, :, None] - extreme[:, None] <= metric + 1e-9).all()


def test_potentials_are_lipschitz_and_reach_the_distance_also_without_mass() -> None:
    mdp = grid_mdp(LAYOUTS["rooms7"])
    rng = np.random.default_rng(2)
    for _ in range(10):
        p, q = rng.dirichlet(np.full(40, 0.05), size=2)
        p, q = np.where(p < 0.01, 0.0, p), np.where(q < 0.01, 0.0, q)
        p, q = p / p.sum(), q / q.sum()
        found = kantorovich(p, q, mdp.distances())
        assert found.value == pytest.approx(wasserstein(p, q, mdp.distances()), abs=1e-9)
        assert found.potential @ (p - q) == pytest.approx(found.value, abs=1e-9)
        slopes = found.potential[:, None] - found.potential
        assert (slopes <= mdp.distances() + 1e-9).all()


def test_distance_to_a_hull_equals_the_program_over_plans() -> None:
    rng = np.random.default_rng(3)
    mdp = grid_mdp(LAYOUTS["empty5"])
    skills = random_skills(mdp, 4, rng=rng)
    hull = HullDistances(skills, mdp.distances())
    for point in random_skills(mdp, 4, rng=rng):
        found = hull.to(point)
        assert found.value == pytest.approx(primal_hull_distance(point, skills, mdp.distances()), abs=1e-8)
        assert found.weights.sum() == pytest.approx(1.0)
        assert wasserstein(point, found.weights @ skills, mdp.distances()) == pytest.approx(found.value, abs=1e-7)
        slopes = found.potential[:, None] - found.potential
        assert (slopes <= mdp.distances() + 1e-7).all()
        reached = found.potential @ point - (skills @ found.potential).max()
        assert reached == pytest.approx(found.value, abs=1e-8)


def test_distance_to_one_skill_is_wasserstein_and_zero_inside() -> None:
    rng = np.random.default_rng(4)
    metric = garnet(5, 2, rng=rng).distances()
    skills = rng.dirichlet(np.ones(5), size=4)
    assert hull_distance(skills[0], skills[1:2], metric).value == pytest.approx(
        wasserstein(skills[0], skills[1], metric)
    )
    inside = rng.dirichlet(np.ones(4)) @ skills
    assert hull_distance(inside, skills, metric).value == pytest.approx(0.0, abs=1e-9)


def test_a_program_that_is_not_solved_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def fails(*args: Any, method: str, **kwargs: Any) -> scipy.optimize.OptimizeResult:
        tried.append(method)
        return scipy.optimize.OptimizeResult(status=4, message="Numerical difficulties.", fun=None, x=None)

    monkeypatch.setattr(scipy.optimize, "linprog", fails)
    with pytest.raises(InfeasibleError, match=r"Numerical difficulties\. Check that masses below 1e-6 are smoothed"):
        hull_distance(APART[0], APART[1:], LINE)
    assert tried == ["highs", "highs-ipm"]


# --- WSEP ------------------------------------------------------------------------------------------------------------


def test_reductions_of_pairwise_distances() -> None:
    assert wsep(APART, LINE) == pytest.approx(1 + 2 + 1)
    assert wsep(APART, LINE, reduction="min") == pytest.approx(1.0)
    assert wsep(APART, LINE, reduction="energy") == pytest.approx(-(1 + 0.5 + 1))
    repeated = APART[[0, 2, 2]]
    assert wsep(repeated, LINE) == pytest.approx(4.0)  # as good as three skills: the weakness of the plain sum
    assert wsep(repeated, LINE, reduction="min") == 0.0
    assert wsep(repeated, LINE, reduction="energy") == -np.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wasserstein(np.ones(3), APART[0], LINE), "p sums to 3"),
        (lambda: wasserstein(APART[0, :2], APART[1, :2], LINE), r"p has shape \(1, 2\), expected \[n, 3\]"),
        (lambda: wasserstein(APART[0], APART[1], np.triu(LINE)), "positive distance"),
        (lambda: wasserstein_matrix(APART, APART, LINE, solver="pot"), "solver is 'pot', expected one of auto"),  # type: ignore[arg-type]
        (lambda: wsep(APART[:1], LINE), "at least two skills"),
        (lambda: wsep(APART, LINE, reduction="max"), "reduction is 'max', expected one of sum, min, energy"),  # type: ignore[arg-type]
        (lambda: hull_distance(APART[0], APART[:0], LINE), "K >= 1"),
        (lambda: hull_distance(APART[0] * 2, APART, LINE), "p sums to 2"),
        (lambda: hull_distance(APART[0, :2], APART, LINE), r"p has shape \(2,\), expected \(3,\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_inputs_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# --- costs -----------------------------------------------------------------------------------------------------------


def test_costs_by_hand() -> None:
    targets, skills = np.array([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]), np.array([[0.8, 0.1, 0.1]])
    costs = adaptation_costs(skills, targets, LINE)
    assert costs.wac_w == pytest.approx(1.4)
    assert costs.mac_w == pytest.approx(0.7)
    assert costs.wac_kl_fwd == costs.wac_kl_rev == pytest.approx(0.7 * np.log(8))
    assert costs.mac_kl == pytest.approx(0.35 * np.log(8))


def test_states_without_mass_are_named_where_divergences_are_asked_for() -> None:
    skills = np.array([[0.5, 0.0, 0.5]])
    with pytest.raises(ValueError, match=r"skills give no mass to the states \[1\].*give p0 full support"):
        adaptation_costs(skills, np.full((1, 3), 1 / 3), LINE)
    with pytest.raises(ValueError, match=r"targets give no mass to the states \[0, 2\]"):
        adaptation_costs(np.full((1, 3), 1 / 3), APART[1:2], LINE)


def test_tables_of_pairs_give_the_costs_of_sets_also_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from iclr_repro.wsep import costs as module

    mdp = garnet(4, 2, rng=np.random.default_rng(5))
    vertices = polytope_vertices(mdp)
    tables = PairTables.of(vertices, mdp.distances())
    sets = np.array([[0, 1, 2], [3, 3, 7], [5, 2, 9]])
    monkeypatch.setattr(module, "_MAX_ENTRIES", 50)
    found = tables.costs(sets)
    for row, chosen in enumerate(sets):
        expected = adaptation_costs(vertices[chosen], vertices, mdp.distances()).as_dict()
        for name, value in expected.items():
            assert found[name][row] == pytest.approx(value, abs=1e-12), name
    np.testing.assert_allclose(summed_distances(tables.distances, sets[:1]), wsep(vertices[sets[0]], mdp.distances()))


def test_t5_bounds_hold_for_distinct_vertices_and_can_fail_for_repeated_ones() -> None:
    mdp = garnet(4, 3, rng=np.random.default_rng(6))
    vertices = polytope_vertices(mdp)
    rng = np.random.default_rng(7)
    for num_skills in (1, 2, 3, 6):
        sets = np.stack([rng.choice(len(vertices), size=num_skills, replace=False) for _ in range(500)])
        violations = bound_violations(vertices, mdp.distances(), sets)
        assert max(violations.values()) <= 1e-9
    distances = PairTables.of(vertices, mdp.distances()).distances
    farthest = np.unravel_index(distances.argmax(), distances.shape)
    repeated = np.array([np.resize(farthest, len(vertices))])
    cost = distances[:, list(farthest)].min(axis=1).mean()
    assert cost > mac_bounds(distances, repeated)[0]
