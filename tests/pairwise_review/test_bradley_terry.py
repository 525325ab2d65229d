from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iclr_repro.pairwise_review import (
    RANKERS,
    choose_penalty,
    count_pairs,
    elo,
    fit_bradley_terry,
    fit_counts,
    win_rate,
)
from pairwise_review.cases import comparisons


def test_two_items_have_the_log_odds() -> None:
    fit = fit_bradley_terry(2, [0], [1], [3], [1], penalty=0.0)
    np.testing.assert_allclose(fit.beta[0] - fit.beta[1], np.log(3), atol=1e-8)
    np.testing.assert_allclose(fit.probability([0, 1], [1, 0]), [0.75, 0.25], atol=1e-8)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), penalty=st.sampled_from([0.001, 0.1, 3.0]), factor=st.sampled_from([0.5, 2.0, 9.0]))
def test_negation_scaling_and_zero_sum(seed: int, penalty: float, factor: float) -> None:
    _, (first, second, won) = comparisons(15, 60, seed=seed)
    fit = fit_bradley_terry(15, first, second, won, penalty=penalty)
    negated = fit_bradley_terry(15, first, second, ~won, penalty=penalty)
    swapped = fit_bradley_terry(15, second, first, ~won, penalty=penalty)
    scaled = fit_bradley_terry(15, first, second, factor * won, factor * ~won, penalty=factor * penalty)
    np.testing.assert_allclose(negated.beta, -fit.beta, atol=1e-6)
    np.testing.assert_allclose(swapped.beta, fit.beta, atol=1e-6)
    np.testing.assert_allclose(scaled.beta, fit.beta, atol=1e-6)
    np.testing.assert_allclose(scaled.standard_errors() * np.sqrt(factor), fit.standard_errors(), atol=1e-6)
    assert abs(fit.beta.sum()) < 1e-6


def test_both_solvers_minimise_the_same_objective() -> None:
    _, data = comparisons(40, 400)
    traits = np.random.default_rng(1).standard_normal((40, 2))
    for options in (
        {},
        {"position_effect": True},
        {"covariates": traits},
        {"position_effect": True, "covariates": traits},
    ):
        newton = fit_bradley_terry(40, *data, **options)
        lbfgs = fit_bradley_terry(40, *data, **options, solver="lbfgs")
        np.testing.assert_allclose(newton.beta, lbfgs.beta, atol=1e-5)
        np.testing.assert_allclose(newton.covariate_effects, lbfgs.covariate_effects, atol=1e-5)
        assert newton.max_abs_gradient < 1e-6


def test_gradient_of_the_objective_is_that_of_finite_differences() -> None:
    _, (first, second, won) = comparisons(8, 40, position_bias=0.5)
    counts = count_pairs(8, first, second, won, ordered=True)
    problem = fit_counts(counts, position_effect=True, covariates=np.arange(8.0)[:, None] % 3)._problem
    theta = np.random.default_rng(0).standard_normal(10)
    _, gradient = problem.value_and_gradient(theta)
    steps = 1e-6 * np.eye(10)
    numeric = [
        (problem.value_and_gradient(theta + h)[0] - problem.value_and_gradient(theta - h)[0]) / 2e-6 for h in steps
    ]
    np.testing.assert_allclose(gradient, numeric, atol=1e-6)
    hessian = problem.hessian(theta)
    columns = [
        (problem.value_and_gradient(theta + h)[1] - problem.value_and_gradient(theta - h)[1]) / 2e-6 for h in steps
    ]
    np.testing.assert_allclose(hessian.dense(), columns, atol=1e-6)
    np.testing.assert_allclose(hessian @ theta, hessian.dense() @ theta, atol=1e-10)


def test_position_effect_is_recovered() -> None:
    quality, data = comparisons(200, 12_000, position_bias=1.0)
    fit = fit_bradley_terry(200, *data, position_effect=True)
    assert fit.position_effect == pytest.approx(1.0, abs=0.1)
    assert 0.01 < fit.effect_errors()[0] < 0.05
    assert np.corrcoef(fit.beta, quality)[0, 1] > 0.97


def test_covariates_take_what_they_explain() -> None:
    rng = np.random.default_rng(0)
    trait = rng.standard_normal(150)
    quality = rng.standard_normal(150) + 0.8 * trait
    first, second = rng.integers(150, size=(2, 8000))
    keep = first != second
    won = rng.random(8000) < 1 / (1 + np.exp(quality[second] - quality[first]))
    fit = fit_bradley_terry(150, first[keep], second[keep], won[keep], penalty=1.0, covariates=trait[:, None])
    assert fit.covariate_effects[0] == pytest.approx(0.8, abs=0.25)
    assert abs(np.corrcoef(fit.beta, trait)[0, 1]) < 0.1


@pytest.mark.parametrize("penalty", [0.0, 0.01, 1.0])
def test_approximate_errors_are_close_to_the_dense_ones(penalty: float) -> None:
    _, data = comparisons(150, 6000)
    fit = fit_bradley_terry(150, *data, penalty=penalty)
    dense = fit.standard_errors("dense")
    np.testing.assert_allclose(fit.standard_errors("probes"), dense, rtol=0.03)
    if penalty != 0.01:  # its common shift is known to 1 / (n lambda) only, which the diagonal leaves out
        np.testing.assert_allclose(fit.standard_errors("diagonal"), dense, rtol=0.1)


def test_complete_design_ranks_by_wins() -> None:
    n = 30
    row, column = np.triu_indices(n, 1)
    won = np.random.default_rng(3).random(len(row)) < 0.5
    fit = fit_bradley_terry(n, row, column, won)
    wins = count_pairs(n, row, column, won).wins
    assert ((np.round(fit.beta[:, None] - fit.beta, 6) > 0) == (wins[:, None] > wins)).all()


def test_items_without_a_comparison_stay_at_zero() -> None:
    fit = fit_bradley_terry(4, [0, 0, 1], [1, 1, 0], [1, 0, 1])
    assert fit.beta[2] == fit.beta[3] == 0


def test_penalty_is_chosen_by_held_out_comparisons() -> None:
    _, (first, second, won) = comparisons(60, 900)
    train, test = (count_pairs(60, first[part], second[part], won[part]) for part in (slice(700), slice(700, None)))
    best, losses = choose_penalty(train, test, (0.001, 0.1, 1000.0))
    assert losses[best] == min(losses.values())
    assert losses[1000.0] == pytest.approx(np.log(2), abs=0.02)


# --- what cannot be fitted


def test_likelihood_without_penalty_names_the_groups() -> None:
    with pytest.raises(ValueError, match=r"falls into 2 groups .*\(0, 1; 2, 3\).*penalty > 0"):
        fit_bradley_terry(4, [0, 1, 2, 3, 0], [1, 0, 3, 2, 2], [1, 1, 1, 1, 1], penalty=0.0)


def test_one_sided_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="the item shown first won every comparison"):
        fit_bradley_terry(3, [0, 1, 2], [1, 2, 0], [1, 1, 1], position_effect=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0], [0], [1]), "row 0 compares item 0 with itself"),
        (([0], [3], [1]), "second names item 3, expected ids from 0 to 2"),
        (([-1], [1], [1]), "first names item -1"),
        (([0.5], [1], [1]), "must be a list of whole numbers"),
        (([0], [1], [np.nan]), "wins_first holds nan in row 0"),
        (([0], [1], [np.inf]), "wins_first holds inf"),
        (([0], [1], [-1.0], [1.0]), "wins_first holds -1 in row 0: a count is not negative"),
        (([0], [1], [2.0]), "pass wins_second for counts"),
        (([0, 1], [1], [1]), "one value a comparison in each list"),
        (([], [], []), "there is no comparison to fit"),
    ],
)
def test_bad_comparisons_are_refused(arguments: tuple[list[float], ...], message: str) -> None:
    arrays = [np.array(one, dtype=np.int64) if one == [] else one for one in arguments]
    with pytest.raises(ValueError, match=message):
        fit_bradley_terry(3, *arrays)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": -1.0}, "penalty must be >= 0"),
        ({"penalty": float("nan")}, "penalty must be >= 0"),
        ({"covariates": [[1.0], [np.nan], [0.0]]}, "covariates must be finite"),
        ({"covariates": [[1.0], [2.0]]}, r"shape \[3, c\]"),
        ({"covariates": [[1.0], [1.0], [1.0]]}, "must vary"),
        ({"covariates": [[1.0], [2.0], [1.0]], "penalty": 0.0}, "covariates need penalty > 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_bradley_terry(3, [0, 1, 2], [1, 2, 0], [1, 1, 1], **options)  # type: ignore[arg-type]


# --- other rankers


@pytest.mark.parametrize("name", RANKERS)
def test_every_ranker_finds_the_order_of_many_comparisons(name: str) -> None:
    quality, data = comparisons(40, 1500)
    scores = RANKERS[name](40, *data)
    assert np.corrcoef(scores, quality)[0, 1] > 0.9, name


def test_win_rate_of_an_item_without_comparisons_is_not_a_number() -> None:
    assert np.isnan(win_rate(3, [0], [1], [1])[2])
    assert win_rate(2, [0], [1], [2], [1], [1])[0] == 0.625


def test_elo_depends_on_the_order() -> None:
    assert not np.allclose(elo(3, [0, 1], [1, 2], [1, 1], k=40), elo(3, [1, 0], [2, 1], [1, 1], k=40))
    with pytest.raises(ValueError, match="row 1 is not one comparison"):
        elo(2, [0, 0], [1, 1], [1, 2], [0, 1])


@pytest.mark.parametrize("name", ["mm", "luce_spectral", "rank_centrality"])
def test_likelihood_rankers_need_connected_comparisons(name: str) -> None:
    with pytest.raises(ValueError, match="falls into 3 groups"):
        RANKERS[name](3, [0, 1], [1, 2], [1, 1])


def test_other_libraries_agree() -> None:
    choix = pytest.importorskip("choix", reason="optional: pip install 'iclr-repro[benchmarks]'")
    _, (first, second, won) = comparisons(30, 600)
    outcomes = list(zip(np.where(won, first, second).tolist(), np.where(won, second, first).tolist(), strict=True))
    theirs = choix.ilsr_pairwise(30, outcomes)
    ours = fit_bradley_terry(30, first, second, won, penalty=0.0).beta
    np.testing.assert_allclose(ours, theirs - theirs.mean(), atol=1e-6)
    # choix adds penalty ||b||^2, without the half.
    penalised = choix.opt_pairwise(30, outcomes, alpha=0.05, tol=1e-10)
    ours = fit_bradley_terry(30, first, second, won, penalty=0.1).beta
    np.testing.assert_allclose(ours, penalised - penalised.mean(), atol=1e-4)
