from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import entr, rel_entr

from iclr_repro.wsep import (
    channel_capacity,
    garnet,
    kl_divergence,
    lsepin,
    mutual_information,
    polytope_vertices,
    sepin,
)
from iclr_repro.wsep.invariants import capacity_violations, information_violations

APART = np.eye(4)


def joint_information(skills: np.ndarray, weights: np.ndarray) -> float:
    """I(S;Z) from the table of joint probabilities, as an independent computation."""
    joint = weights[:, None] * skills
    return float(rel_entr(joint, np.outer(joint.sum(axis=1), joint.sum(axis=0))).sum())


def test_divergence_of_a_certain_and_a_uniform_state() -> None:
    assert kl_divergence(np.array([1.0, 0.0]), np.array([0.5, 0.5])) == pytest.approx(np.log(2))
    assert kl_divergence(np.array([0.5, 0.5]), np.array([1.0, 0.0])) == np.inf


def test_skills_on_different_states_have_all_the_information() -> None:
    assert mutual_information(APART) == pytest.approx(np.log(4))
    np.testing.assert_allclose(sepin(APART), 0.5623351446188083)
    assert lsepin(APART) == pytest.approx(entr(0.25) + entr(0.75))


def test_information_equals_that_of_the_joint_table() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        skills, weights = rng.dirichlet(np.full(5, 0.4), size=3), rng.dirichlet(np.ones(3))
        assert mutual_information(skills, weights) == pytest.approx(joint_information(skills, weights), abs=1e-12)
        for skill in range(3):
            rest = np.delete(weights, skill) @ np.delete(skills, skill, axis=0) / (1 - weights[skill])
            two = np.stack([skills[skill], rest])
            expected = joint_information(two, np.array([weights[skill], 1 - weights[skill]]))
            assert sepin(skills, weights)[skill] == pytest.approx(expected, abs=1e-12)


def test_batches_of_sets_equal_sets_one_by_one() -> None:
    rng = np.random.default_rng(1)
    skills, weights = rng.dirichlet(np.ones(6), size=(2, 5, 3)), rng.dirichlet(np.ones(3), size=(2, 5))
    for function in (mutual_information, sepin, lsepin):
        np.testing.assert_allclose(function(skills, weights)[1, 2], function(skills[1, 2], weights[1, 2]), atol=1e-14)


def test_skills_without_weight_do_not_count() -> None:
    skills, weights = np.vstack([APART[:2], [[0.0, 0.0, 0.5, 0.5]]]), np.array([0.5, 0.5, 0.0])
    assert mutual_information(skills, weights) == pytest.approx(np.log(2))
    assert lsepin(skills, weights) == pytest.approx(np.log(2))
    np.testing.assert_array_equal(sepin(skills[:1], np.array([1.0])), [0.0])


def test_a_duplicate_lowers_lsepin_but_not_to_zero() -> None:
    distinct, repeated = lsepin(APART), lsepin(APART[[0, 1, 2, 2]])
    assert 0.0 < repeated < distinct


def test_identities_t1_t2_t4_hold() -> None:
    violations = information_violations(5000, rng=np.random.default_rng(2))
    assert set(violations) == {"t1_chain", "t1_least", "t1_entropy", "t1_disjoint", "t2", "t4"}
    assert all(violation <= 1e-10 for violation in violations.values()), violations


def test_capacity_theorem_and_t3_hold_at_the_optimum() -> None:
    for seed, size in enumerate([(3, 2), (4, 2), (4, 3), (5, 2)]):
        vertices = polytope_vertices(garnet(*size, rng=np.random.default_rng(seed)))
        violations = capacity_violations(vertices, rng=np.random.default_rng(seed))
        assert violations["capacity_support"] <= 1e-5  # slow where a weight is small
        for name in ("capacity_gap", "capacity_inside", "t3"):
            assert violations[name] <= 1e-8, (name, violations)


def test_capacity_of_a_binary_symmetric_channel() -> None:
    found = channel_capacity(np.array([[0.9, 0.1], [0.1, 0.9]]))
    assert found.value == pytest.approx(np.log(2) - entr(0.1) - entr(0.9), abs=1e-12)
    np.testing.assert_allclose(found.weights, 0.5)


def test_what_lies_between_others_gets_no_weight() -> None:
    found = channel_capacity(np.array([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]]))
    np.testing.assert_array_equal(found.support(), [0, 2])


def test_iterations_that_run_out_leave_an_honest_gap() -> None:
    vertices = polytope_vertices(garnet(4, 2, rng=np.random.default_rng(0)))
    short, long = channel_capacity(vertices, max_iterations=3), channel_capacity(vertices)
    assert short.iterations == 3
    assert short.gap > 1e-6
    assert short.value <= long.value <= short.value + short.gap + 1e-9


@pytest.mark.parametrize(
    ("skills", "weights", "message"),
    [
        (np.ones((2, 3)), None, r"skills\[z\] sums to 3"),
        (np.ones(3) / 3, None, r"skills has shape \(3,\)"),
        (APART, np.array([0.5, 0.5]), r"weights has shape \(2,\), expected \(4,\)"),
        (APART, np.full(4, 0.3), "weights sums to 1.2"),
        (-APART, None, "negative entry"),
    ],
)
def test_bad_skills_are_refused(skills: Any, weights: Any, message: str) -> None:
    for function in (mutual_information, sepin, lsepin):
        with pytest.raises(ValueError, match=message):
            function(skills, weights)


def test_candidates_that_are_no_distributions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"candidates\[z\] sums to"):
        channel_capacity(np.ones((2, 2)))
