"""Every reference value of the golden folder; sizes, penalties and constants come from its files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from iclr_repro.pairwise_review import (
    elo,
    fit_bradley_terry,
    impact,
    institution_gini,
    judge_pairs,
    luce_spectral,
    mm,
    novelty,
    overlap,
    preference_probability,
    select_top,
    win_rate,
)
from support import golden_dir, read_json

GOLDEN = golden_dir("pairwise_review")
SOLVERS: tuple[Any, ...] = ("newton-cg", "lbfgs")


def files(pattern: str) -> list[Path]:
    found = sorted(GOLDEN.glob(pattern))
    assert found, f"{GOLDEN} has no file {pattern}"
    return found


def named(path: Path) -> str:
    return path.stem


def with_ties(case: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a fit: the comparisons, then the ties."""
    decided = np.array(case["comparisons"], dtype=np.int64).reshape(-1, 2)
    tied = np.array(case["ties"], dtype=np.int64).reshape(-1, 2)
    pairs = np.concatenate([decided, tied])
    is_tie = np.arange(len(pairs)) >= len(decided)
    return {"first": pairs[:, 0], "second": pairs[:, 1], "wins_first": ~is_tie, "ties": is_tie}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("path", files("bt_*.json"), ids=named)
def test_bradley_terry(path: Path, solver: Any) -> None:
    case = read_json(path)
    for penalty, expected in case["fits"].items():
        fit = fit_bradley_terry(case["n"], **with_ties(case), penalty=float(penalty), solver=solver)
        np.testing.assert_allclose(fit.beta, expected["beta"], atol=1e-6, rtol=0)
        np.testing.assert_allclose(fit.objective, expected["objective"], rtol=1e-8)
        np.testing.assert_allclose(fit.standard_errors("dense"), expected["stderr"], atol=1e-6, rtol=0)
        assert fit.ranking.tolist() == expected["ranking_best_first"]


@pytest.mark.parametrize("path", files("bt_*.json"), ids=named)
def test_other_maximum_likelihood_fits(path: Path) -> None:
    case = read_json(path)
    likelihood = [fit for penalty, fit in case["fits"].items() if float(penalty) == 0]
    for expected in likelihood:
        for ranker in (mm, luce_spectral):
            scores = ranker(case["n"], **with_ties(case))
            np.testing.assert_allclose(scores, expected["beta"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("path", files("bt_*.json"), ids=named)
def test_win_rate_and_elo(path: Path) -> None:
    case = read_json(path)
    np.testing.assert_allclose(win_rate(case["n"], **with_ties(case)), case["win_rate"], atol=1e-9, rtol=0)
    for name, expected in case.items():
        if match := re.fullmatch(r"elo_k([\d.]+)_scale([\d.]+)_init([\d.]+)", name):
            k, scale, start = map(float, match.groups())
            ratings = elo(case["n"], **with_ties(case), k=k, scale=scale, start=start)
            np.testing.assert_allclose(ratings, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("path", files("judge_*.json"), ids=named)
def test_simulated_judge(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = {name: np.array(value) if isinstance(value, list) else value for name, value in read_json(path).items()}
    merit = case["q"] + case["trait_weight"] * case["trait"]
    options: dict[str, Any] = {"kappa": case["kappa"], "position_bias": case["position_bias"]}
    probability = preference_probability(merit, case["first"], case["second"], **options)
    np.testing.assert_allclose(probability, case["p_first_wins"], atol=1e-12, rtol=0)
    monkeypatch.setattr("iclr_repro.pairwise_review.simulator.keyed_uniform", lambda *key: case["uniform"])
    assert (judge_pairs(merit, case["first"], case["second"], seed=0, **options) == case["first_wins"]).all()


@pytest.mark.parametrize("path", files("metrics_*.json"), ids=named)
def test_measures(path: Path) -> None:
    case = read_json(path)
    ids, citations, embedding = case["ids"], np.array(case["citations"]), np.array(case["embedding"])
    selected = {}
    for name in ("a", "b"):
        selected[name] = select_top(case[f"score_{name}"], case["k"], ids=ids)
        assert [ids[index] for index in selected[name]] == case[f"top_{name}"]
        found = impact(citations, selected[name])
        expected = {
            f"mean_citations_{name}": found.mean,
            f"median_citations_{name}": found.median,
            f"mean_nn_distance_{name}": novelty(embedding, selected[name]),
            f"gini_{name}": institution_gini(
                case["institutions"], selected[name], universe=range(case["n_institutions"])
            ),
        }
        for key, value in expected.items():
            if key in case:
                np.testing.assert_allclose(value, case[key], atol=1e-9, rtol=0, err_msg=key)
    np.testing.assert_allclose(overlap(selected["a"], selected["b"]), case["overlap"], atol=1e-9)
    spearman = scipy.stats.spearmanr(case["score_a"], citations).statistic
    kendall = scipy.stats.kendalltau(case["score_b"], citations).statistic
    np.testing.assert_allclose([spearman, kendall], [case["spearman_a"], case["kendall_b"]], atol=1e-9)
