import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iclr_repro.review_insights.bootstrap import bootstrap
from iclr_repro.review_insights.data import read_score_table
from iclr_repro.review_insights.predictors import logistic_change_model
from iclr_repro.review_insights.ranking import accepted_against_ranking, churn
from iclr_repro.review_insights.scores import ScorePairs
from iclr_repro.review_insights.statistics import (
    change_by_initial_rating,
    coreviewer_effect,
    disagreement,
    paper_changes,
    review_changes,
    top_changes,
    transition_matrix,
)
from support import golden_dir

GOLDEN = golden_dir("review_insights")
SETS = sorted(path.parent for path in GOLDEN.glob("small_*/expected.json"))
TOLERANCE = 1e-9


@pytest.fixture(params=SETS, ids=lambda path: path.name)
def case(request: pytest.FixtureRequest) -> tuple[ScorePairs, dict[str, Any]]:
    folder: Path = request.param
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    return read_score_table(folder / "scores.csv"), expected


def close(value: float | None) -> Any:
    """The reference value within its tolerance; null stands for "no case"."""
    return pytest.approx(math.nan if value is None else value, rel=0, abs=TOLERANCE, nan_ok=True)


def test_there_is_a_reference_set() -> None:
    assert SETS, f"no small_*/expected.json in {GOLDEN}"


def test_table_2_of_the_reviews(case: tuple[ScorePairs, dict[str, Any]]) -> None:
    pairs, expected = case
    table = review_changes(pairs)
    assert len(pairs.reviews) == expected["table2"]["n_reviews"]
    for change, row in expected["table2"]["reviews"].items():
        for name, value in row.items():
            assert table.at[change, name] == close(value), (change, name)


def test_table_2_of_the_papers(case: tuple[ScorePairs, dict[str, Any]]) -> None:
    pairs, expected = case
    table = paper_changes(pairs)
    assert len(pairs.papers) == expected["table2"]["n_papers"]
    for change, row in expected["table2"]["papers"].items():
        for name, value in row.items():
            assert table.at[change, name] == close(value), (change, name)


def test_transitions(case: tuple[ScorePairs, dict[str, Any]]) -> None:
    pairs, expected = case
    matrix = transition_matrix(pairs)
    assert matrix.index.tolist() == expected["transition"]["scale"]
    assert matrix.to_numpy().tolist() == expected["transition"]["matrix"]
    found = [[[row.before, row.after], row.n] for row in top_changes(pairs).itertuples()]
    assert found == expected["transition"]["top_changes"]


def test_churn(case: tuple[ScorePairs, dict[str, Any]]) -> None:
    pairs, expected = case
    assert expected["churn"]
    for fraction, value in expected["churn"].items():
        assert churn(pairs, float(fraction)) == close(value), fraction


def test_disagreement(case: tuple[ScorePairs, dict[str, Any]]) -> None:
    pairs, expected = case
    table = disagreement(pairs)
    for name, value in expected["disagreement"].items():
        assert table.at["overall", name] == close(value), name


def test_co_reviewers(case: tuple[ScorePairs, dict[str, Any]]) -> None:
    pairs, expected = case
    table = coreviewer_effect(pairs)
    for side, row in expected["coreviewer"].items():
        for name, value in row.items():
            assert table.at[side, name] == close(value), (side, name)


def test_changes_by_initial_rating(case: tuple[ScorePairs, dict[str, Any]]) -> None:
    pairs, expected = case
    table = change_by_initial_rating(pairs)
    filled = {int(rating): row for rating, row in expected["by_initial"].items() if row["n"]}
    assert set(table.index) == set(filled)
    for rating, row in filled.items():
        for name, value in row.items():
            assert table.at[rating, name] == close(value), (rating, name)


def test_accepted_papers_against_the_ranking(case: tuple[ScorePairs, dict[str, Any]]) -> None:
    pairs, expected = case
    result = accepted_against_ranking(pairs)
    for name, value in expected["boost"].items():
        assert result[name] == close(value), name


def test_the_logistic_change_model(case: tuple[ScorePairs, dict[str, Any]]) -> None:
    pairs, expected = case
    wanted = expected["logreg"]
    result = logistic_change_model(pairs)
    assert result.n == wanted["n"]
    coefficients = result.coefficients.loc[wanted["features"], wanted["classes"]].to_numpy()
    for row, values in zip(coefficients, wanted["coef_centered"], strict=True):
        assert row.tolist() == pytest.approx(values, abs=2e-3)
    assert result.macro_f1_mean == pytest.approx(wanted["macro_f1_mean"], abs=5e-3)
    assert result.macro_f1_std == pytest.approx(wanted["macro_f1_std"], abs=5e-3)
    found = [result.per_class_f1[name] for name in wanted["classes"]]
    assert found == pytest.approx(wanted["per_class_f1"], abs=5e-3)


def test_the_bootstrap_starts_from_the_same_values(case: tuple[ScorePairs, dict[str, Any]]) -> None:
    pairs, expected = case
    fractions = [float(fraction) for fraction in expected["churn"]]
    estimates = bootstrap(pairs, rng=np.random.default_rng(0), draws=0, fractions=fractions).estimates
    for fraction, value in expected["churn"].items():
        assert estimates[f"churn/{float(fraction):g}"] == close(value)
    for change, row in expected["table2"]["reviews"].items():
        assert estimates[f"reviews/{change}/share"] == close(row["share"])
    assert estimates["disagreement/overall/relative_change"] == close(expected["disagreement"]["relative_change"])
