from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from iclr_repro.wsep import (
    LAYOUTS,
    Layout,
    TabularMDP,
    find_layout,
    garnet,
    goal_occupancies,
    grid_mdp,
    hull_vertices,
    occupancy,
    policy_iteration,
    polytope_vertices,
)
from iclr_repro.wsep.mdp import deterministic_occupancies

P = np.array([[[0.5, 0.5], [1.0, 0.0]], [[0.0, 1.0], [0.3, 0.7]]])
START = np.array([0.6, 0.4])
LINE = np.abs(np.subtract.outer(np.arange(3.0), np.arange(3.0)))


def changed(array: np.ndarray, index: tuple[int, ...], value: float) -> np.ndarray:
    copy = array.copy()
    copy[index] = value
    return copy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transitions": P[:, :, :1]}, r"transitions has shape \(2, 2, 1\), expected \[states, actions, states\]"),
        ({"transitions": changed(P, (0, 1, 0), 0.9)}, r"transitions\[s, a\] sums to 0.9 at \(0, 1\), expected 1"),
        ({"transitions": changed(P, (1, 0, 0), -0.5)}, r"has the negative entry -0.5 at \(1, 0, 0\)"),
        ({"transitions": changed(P, (0, 0, 0), np.nan)}, "entries that are not finite"),
        ({"start": np.array([1.0])}, r"start has shape \(1,\), expected \(2,\)"),
        ({"start": np.array([0.5, 0.4])}, r"start sums to 0.9"),
        ({"gamma": 1.0}, "gamma is 1.0, expected 0 <= gamma < 1"),
        ({"gamma": -0.1}, "gamma is -0.1"),
        ({"gamma": float("nan")}, "gamma is nan"),
        ({"metric": np.zeros((3, 3))}, r"metric has shape \(3, 3\), expected \(2, 2\)"),
        ({"metric": np.zeros((2, 2))}, r"metric\[0, 1\] is 0, expected a positive distance"),
        (
            {"metric": np.array([[0.0, 1.0], [2.0, 0.0]])},
            r"metric\[0, 1\] is 1 but metric\[1, 0\] is 2: it must be sym",
        ),
        ({"metric": np.array([[0.0, np.inf], [np.inf, 0.0]])}, "are all states connected"),
        ({"metric": np.eye(2)}, r"metric\[0, 0\] is 1, expected 0 on the diagonal"),
    ],
)
def test_bad_mdps_are_refused_with_the_reason(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "transitions": P,
        "start": START,
        "gamma": 0.9,
        "metric": np.array([[0.0, 1.0], [1.0, 0.0]]),
    }
    TabularMDP(**good)
    with pytest.raises(ValueError, match=message):
        TabularMDP(**{**good, **change})


def test_a_metric_without_the_triangle_inequality_is_refused() -> None:
    transitions = np.full((3, 1, 3), 1 / 3)
    with pytest.raises(ValueError, match=r"the triangle inequality fails: metric\[0, 2\] = 5 > metric\[0, 1\] \+"):
        TabularMDP(transitions, np.full(3, 1 / 3), 0.9, changed(changed(LINE, (0, 2), 5.0), (2, 0), 5.0))


def test_unreachable_states_are_named() -> None:
    transitions = np.eye(3)[:, None]
    with pytest.raises(ValueError, match=r"no policy reaches the states \[1, 2\]"):
        TabularMDP(transitions, np.array([1.0, 0.0, 0.0]), 0.9)


def test_without_discounting_of_the_future_only_the_start_is_reached() -> None:
    moves = np.array([[[0.0, 1.0]], [[0.0, 1.0]]])
    with pytest.raises(ValueError, match=r"no policy reaches the states \[1\]"):
        TabularMDP(moves, np.array([1.0, 0.0]), 0.0)


def test_occupancy_is_the_discounted_sum_over_time() -> None:
    mdp = garnet(4, 3, rng=np.random.default_rng(0))
    policy = np.random.default_rng(1).dirichlet(np.ones(3), size=4)
    followed = np.einsum("sa,sat->st", policy, mdp.transitions)
    at_time, total = mdp.start, np.zeros(4)
    for step in range(600):
        total += (1 - mdp.gamma) * mdp.gamma**step * at_time
        at_time = at_time @ followed
    np.testing.assert_allclose(occupancy(mdp, policy), total, atol=1e-12)


def test_policies_are_evaluated_in_batches_of_any_shape() -> None:
    mdp = garnet(3, 2, rng=np.random.default_rng(0))
    actions = np.array([[[0, 1, 0], [1, 1, 1]]])
    batch = occupancy(mdp, actions)
    assert batch.shape == (1, 2, 3)
    np.testing.assert_allclose(batch[0, 1], occupancy(mdp, np.eye(2)[[1, 1, 1]]), atol=1e-14)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (np.array([0, 1]), "an action a state"),
        (np.array([0, 1, 2]), "policy has actions 0..2, expected 0..1"),
        (np.full((3, 3), 1 / 3), r"expected \[..., 3, 2\] probabilities"),
        (np.full((3, 2), 0.4), r"policy\[s\] sums to 0.8"),
    ],
)
def test_bad_policies_are_refused(policy: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        occupancy(garnet(3, 2, rng=np.random.default_rng(0)), policy)


def test_policy_iteration_equals_the_best_of_all_policies() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        mdp = garnet(4, 3, rng=rng)
        reward = rng.normal(size=4)
        everything = deterministic_occupancies(mdp) @ reward
        assert policy_iteration(mdp, reward).value == pytest.approx(everything.max(), abs=1e-12)


def test_ties_keep_the_old_action() -> None:
    mdp = TabularMDP(np.full((2, 3, 2), 0.5), np.array([0.5, 0.5]), 0.9)
    plan = policy_iteration(mdp, np.array([1.0, 2.0]), policy=np.array([2, 1]))
    np.testing.assert_array_equal(plan.policy, [2, 1])


def test_a_reward_of_a_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reward has shape \(2,\), expected \(3,\)"):
        policy_iteration(garnet(3, 2, rng=np.random.default_rng(0)), np.zeros(2))


def test_too_many_policies_to_enumerate() -> None:
    with pytest.raises(ValueError, match="use pwsep_oracle"):
        deterministic_occupancies(grid_mdp(LAYOUTS["empty5"]))


def test_vertices_are_not_all_deterministic_policies_and_hull_contains_all() -> None:
    mdp = garnet(4, 3, rng=np.random.default_rng(3))
    everything, vertices = deterministic_occupancies(mdp), polytope_vertices(mdp)
    assert len(vertices) < len(everything) == 81
    rewards = np.random.default_rng(4).normal(size=(500, 4))
    np.testing.assert_allclose((rewards @ vertices.T).max(1), (rewards @ everything.T).max(1), atol=1e-12)


def test_points_inside_edges_faces_and_the_hull_are_no_vertices() -> None:
    corners = np.array(list(itertools.product([0.0, 1.0], repeat=3)))
    others = np.array([[0.5, 0.0, 0.0], [0.5, 0.5, 1.0], [0.5, 0.5, 0.5], [0.2, 1.0, 0.7]])
    np.testing.assert_array_equal(hull_vertices(np.vstack([corners, others])), np.arange(8))
    flat = np.column_stack([np.vstack([corners, others]), np.ones(12)])  # a lower-dimensional affine hull
    np.testing.assert_array_equal(hull_vertices(flat), np.arange(8))
    np.testing.assert_array_equal(hull_vertices(np.array([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]])), [0, 1])
    np.testing.assert_array_equal(hull_vertices(np.zeros((1, 2))), [0])


def test_linear_programs_find_the_same_vertices_as_qhull(monkeypatch: pytest.MonkeyPatch) -> None:
    from iclr_repro.wsep import polytope

    points = deterministic_occupancies(garnet(4, 2, rng=np.random.default_rng(5)))
    expected = hull_vertices(points)
    monkeypatch.setattr(polytope, "_MAX_QHULL_DIMENSION", 0)
    np.testing.assert_array_equal(hull_vertices(points), expected)


# --- grids -----------------------------------------------------------------------------------------------------------


def test_a_grid_moves_slips_and_stays_at_walls() -> None:
    mdp = grid_mdp(Layout(rows=("..", ".#"), start=0), slip=0.2)
    assert mdp.num_states == 3
    up, right = 1, 4
    np.testing.assert_allclose(mdp.transitions[0, right], [0.1, 0.8 + 0.05, 0.05], atol=1e-12)
    np.testing.assert_allclose(mdp.transitions[2, up], [0.8 + 0.05, 0.0, 0.15], atol=1e-12)
    np.testing.assert_allclose(mdp.distances()[1, 2], 2.0)
    np.testing.assert_allclose(mdp.start, [0.98 + 0.02 / 3, 0.02 / 3, 0.02 / 3])


def test_goal_policies_stay_most_in_their_goal() -> None:
    mdp = grid_mdp(find_layout("empty5"))
    occupancies = goal_occupancies(mdp)
    assert (occupancies.argmax(axis=1) == np.arange(25)).mean() > 0.5
    assert (occupancies.argmax(axis=0) == np.arange(25)).all()


def test_unconnected_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="not connected"):
        grid_mdp(Layout(rows=(".#.",), start=0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Layout(rows=("..", "."), start=0), "strings of one length"),
        (lambda: Layout(rows=("x.",), start=0), r"rows contain \['x'\]"),
        (lambda: Layout(rows=("..",), start=2), "start is 2, expected the number of one of the 2 free cells"),
        (lambda: find_layout("empty"), "no layout 'empty', expected one of empty5"),
        (lambda: grid_mdp(LAYOUTS["empty5"], slip=1.5), "slip is 1.5, expected a probability"),
    ],
)
def test_bad_grids_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_layouts_are_those_of_the_data_folder() -> None:
    import json

    from iclr_repro.core.data import data_folders

    files = [folder / "wsep" / "layouts.json" for folder in data_folders()]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        pytest.skip("wsep/layouts.json is not here (ICLR_REPRO_DATA)")
    for name, stored in json.loads(found.read_text()).items():
        layout = LAYOUTS[name]
        assert layout.rows == tuple(stored["rows"])
        start = stored.get("start_free_index")
        if start is None:
            start = layout.numbers()[tuple(int(position) for position in stored["start_rowcol"])]
        assert layout.start == start
