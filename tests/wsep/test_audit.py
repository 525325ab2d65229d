from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from iclr_repro.wsep import (
    LAYOUTS,
    audit_skills,
    goal_occupancies,
    grid_mdp,
    hull_distance,
    lsepin,
    mutual_information,
    random_skills,
    wsep,
)

LINE = np.abs(np.subtract.outer(np.arange(4.0), np.arange(4.0)))


def test_an_audit_of_occupancies_reports_every_quantity() -> None:
    mdp = grid_mdp(LAYOUTS["empty5"])
    skills = random_skills(mdp, 5, rng=np.random.default_rng(0))
    found = audit_skills(skills, mdp.distances(), targets=goal_occupancies(mdp))
    value = found.summary["value"]
    assert value["mutual_information"] == pytest.approx(float(mutual_information(skills)))
    assert value["lsepin"] == pytest.approx(float(lsepin(skills))) == found.skills["sepin"].min()
    assert value["wsep_sum"] == pytest.approx(wsep(skills, mdp.distances()))
    assert value["wac_kl_fwd"] > value["mac_kl"] > 0.0
    assert found.summary[["low", "high"]].isna().all().all()
    rest = hull_distance(skills[2], np.delete(skills, 2, axis=0), mdp.distances()).value
    assert found.skills.loc[2, "hull_distance"] == pytest.approx(rest)


def test_duplicates_and_mixtures_are_found() -> None:
    a, b = np.array([0.7, 0.1, 0.1, 0.1]), np.array([0.1, 0.1, 0.1, 0.7])
    found = audit_skills(np.stack([a, b, a, (a + b) / 2]), LINE)
    assert found.skills["duplicate_of"].tolist() == [-1, -1, 0, -1]
    assert found.skills.loc[3, "hull_distance"] == pytest.approx(0.0, abs=1e-9)
    assert found.summary.loc["duplicates", "value"] == 1.0
    assert found.skills["nearest_distance"].tolist() == pytest.approx([0.0, 0.9, 0.0, 0.9])


def test_rollouts_get_intervals_that_contain_the_value_and_shrink_with_episodes() -> None:
    rng = np.random.default_rng(1)

    def rollouts(episodes: int) -> list[list[np.ndarray]]:
        weights = np.array([[0.6, 0.2, 0.1, 0.1], [0.1, 0.1, 0.2, 0.6]])
        return [[rng.choice(4, size=20, p=row) for _ in range(episodes)] for row in weights]

    few, many = (audit_skills(rollouts(n), LINE, draws=100, rng=np.random.default_rng(2)).summary for n in (5, 80))
    for summary in (few, many):
        row = summary.loc["wsep_sum"]
        assert row["low"] <= row["value"] <= row["high"]
    widths = [summary.loc["wsep_sum", "high"] - summary.loc["wsep_sum", "low"] for summary in (few, many)]
    assert widths[1] < widths[0]


def test_the_bootstrap_is_repeatable() -> None:
    episodes = [[np.array([0, 1]), np.array([1, 1])], [np.array([3, 2]), np.array([3, 3])]]
    one, two = (audit_skills(episodes, LINE, draws=20, rng=np.random.default_rng(0)).summary for _ in range(2))
    assert one.equals(two)


@pytest.mark.parametrize(
    ("skills", "message"),
    [
        (np.ones((2, 4)), "skills sums to 4"),
        (np.full((1, 4), 0.25), r"expected \[K, 4\] occupancies with K >= 2"),
        ([[np.array([0])], []], "skill 1 has no episode"),
        ([[np.array([0])], [np.array([4])]], r"skill 1 visits states 4..4, expected 0..3"),
        ([[np.array([0])], [np.array([0.5])]], r"an episode of skill 1 is no array of state numbers: float64\(1,\)"),
        ([[np.array([0])], [np.array([1])]], "pass rng="),
    ],
)
def test_bad_skills_are_refused(skills: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        audit_skills(skills, LINE)
