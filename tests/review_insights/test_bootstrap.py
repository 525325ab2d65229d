import numpy as np
import pandas as pd
import pytest

import iclr_repro.review_insights.bootstrap as bootstrap_module
from iclr_repro.review_insights.bootstrap import bootstrap, bootstrap_terms, resampling_counts
from iclr_repro.review_insights.engagement import aspect_updates, order_effect
from iclr_repro.review_insights.plain import bootstrap_by_loop, plain_papers, plain_statistics
from iclr_repro.review_insights.ranking import accepted_against_ranking, churn
from iclr_repro.review_insights.scores import ScorePairs
from iclr_repro.review_insights.statistics import coreviewer_effect, disagreement, review_changes
from score_pairs import score_pairs

FRACTIONS = (0.05, 0.1, 0.3)


def random_year(num_papers: int, *, seed: int, decided: bool = True) -> ScorePairs:
    rng = np.random.default_rng(seed)
    scale = np.array([1, 3, 5, 6, 8, 10])
    decisions = ["oral", "spotlight", "poster", "reject", "reject", "desk_reject", "withdrawn"]
    papers = []
    for _ in range(num_papers):
        before = rng.integers(0, 6, size=rng.integers(1, 6))
        after = np.clip(before + rng.choice([-1, 0, 0, 0, 1, 2], size=len(before)), 0, 5)
        decision = str(rng.choice(decisions)) if decided else None
        papers.append((scale[before].tolist(), scale[after].tolist(), decision))
    return score_pairs(*papers, scale=tuple(scale.tolist()))


@pytest.mark.parametrize("decided", [True, False])
def test_draws_equal_those_of_a_loop_over_papers_and_reviews(decided: bool) -> None:
    pairs = random_year(80, seed=1, decided=decided)
    fast = bootstrap(pairs, rng=np.random.default_rng(7), draws=6, fractions=FRACTIONS).draws
    slow = bootstrap_by_loop(pairs, rng=np.random.default_rng(7), draws=6, fractions=FRACTIONS)
    assert set(fast.columns) == set(slow.columns)
    pd.testing.assert_frame_equal(fast, slow[fast.columns], rtol=1e-12, atol=1e-12)


def test_estimates_are_the_statistics_of_the_papers_themselves() -> None:
    pairs = random_year(60, seed=2)
    estimates = bootstrap(pairs, rng=np.random.default_rng(0), draws=0, fractions=FRACTIONS).estimates
    assert estimates.to_dict() == pytest.approx(plain_statistics(plain_papers(pairs), fractions=FRACTIONS))
    assert estimates["churn/0.3"] == churn(pairs, 0.3)
    benefit = accepted_against_ranking(pairs)
    for name in ("share_increased", "share_outside_top_before", "share_outside_top_after"):
        assert estimates[f"accepted/{name}"] == pytest.approx(benefit[name])


def test_random_ties_reach_the_draws() -> None:
    pairs = random_year(60, seed=3)
    result = bootstrap(pairs, rng=np.random.default_rng(0), draws=50, ties="random")
    by_id = bootstrap(pairs, rng=np.random.default_rng(0), draws=50)
    assert result.estimates["churn/0.3"] == pytest.approx(churn(pairs, 0.3, ties="random"))
    assert result.draws["churn/0.3"].between(0, 1).all()
    assert not np.allclose(result.draws["churn/0.3"], by_id.draws["churn/0.3"])
    assert np.allclose(result.draws["reviews/keep/share"], by_id.draws["reviews/keep/share"])


def test_order_and_aspects_are_included_where_the_data_have_them() -> None:
    pairs = random_year(60, seed=4)
    rng = np.random.default_rng(0)
    columns = {"created_utc": rng.integers(0, 10**6, size=len(pairs.reviews))}
    for score in ("confidence", "soundness", "presentation", "contribution"):
        for when in ("before", "after"):
            columns[f"{score}_{when}"] = rng.integers(2, 4, size=len(pairs.reviews))
    pairs = ScorePairs.from_reviews(pairs.reviews.assign(**columns), scale=pairs.scale)
    result = bootstrap(pairs, rng=rng, draws=20)
    assert result.estimates["order/4/2"] == order_effect(pairs).loc[(4, 2), "mean_before"]
    assert result.estimates["aspects/changed/aspects_unchanged"] == pytest.approx(
        aspect_updates(pairs).loc["changed", "aspects_unchanged"]
    )
    assert result.draws["order/4/2"].std() > 0


def test_unaligned_pairs_have_paper_statistics_only() -> None:
    pairs = random_year(30, seed=5)
    unaligned = ScorePairs.from_reviews(pairs.reviews, decisions=pairs.papers["decision"], aligned=False)
    names = bootstrap(unaligned, rng=np.random.default_rng(0), draws=2).estimates.index
    assert {name.split("/")[0] for name in names} == {"papers", "disagreement", "churn", "accepted"}


def test_a_constant_has_an_interval_of_width_zero() -> None:
    pairs = score_pairs(*[([5, 5], [6, 6])] * 20)
    intervals = bootstrap(pairs, rng=np.random.default_rng(0), draws=30).intervals()
    for name, value in (("reviews/increase/share", 1.0), ("reviews/increase/mean_after", 6.0)):
        assert intervals.loc[name].tolist() == [value] * 3


def test_intervals_hold_the_central_draws() -> None:
    result = bootstrap(random_year(50, seed=6), rng=np.random.default_rng(0), draws=400)
    draws = result.draws["reviews/keep/share"]
    interval = result.intervals(level=0.9).loc["reviews/keep/share"]
    assert interval["low"] == pytest.approx(np.quantile(draws, 0.05))
    assert interval["high"] == pytest.approx(np.quantile(draws, 0.95))
    assert interval["estimate"] == result.estimates["reviews/keep/share"]


def test_the_interval_of_a_mean_agrees_with_its_standard_error() -> None:
    pairs = random_year(400, seed=8)
    draws = bootstrap(pairs, rng=np.random.default_rng(0), draws=1500).draws["papers/overall/mean_before"]
    standard_error = pairs.papers["mean_before"].std() / np.sqrt(400)
    assert draws.std() == pytest.approx(standard_error, rel=0.08)


def test_draws_do_not_depend_on_how_many_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = random_year(21, seed=9)
    whole = bootstrap(pairs, rng=np.random.default_rng(3), draws=11).draws
    monkeypatch.setattr(bootstrap_module, "_CHUNK_ELEMENTS", 50)
    pieces = bootstrap(pairs, rng=np.random.default_rng(3), draws=11).draws
    pd.testing.assert_frame_equal(whole, pieces)


def test_the_same_seed_gives_the_same_draws() -> None:
    pairs = random_year(20, seed=10)
    first, second = (bootstrap(pairs, rng=np.random.default_rng(1), draws=5).draws for _ in range(2))
    assert first.equals(second)


def test_every_resample_has_as_many_papers_as_the_conference() -> None:
    counts = resampling_counts(50, 200, rng=np.random.default_rng(0))
    assert (counts.sum(axis=1) == 50).all()
    assert counts.mean() == 1.0
    assert counts.var() == pytest.approx(1 - 1 / 50, rel=0.05)


def test_rows_are_counted_in_papers_or_reviews() -> None:
    pairs = random_year(60, seed=6)
    found = bootstrap(pairs, rng=np.random.default_rng(0), draws=0, fractions=(0.05, 0.3)).row_counts()
    changes = review_changes(pairs)["n"]
    assert {name: found[f"reviews/{name}"] for name in changes.index} == changes.to_dict()
    assert found["papers/overall"] == 60
    assert (found["churn/0.05"], found["churn/0.3"]) == (3, 18)
    assert found["accepted"] == accepted_against_ranking(pairs)["n_accepted"]
    assert {name: found[f"disagreement/{name}"] for name in disagreement(pairs).index} == disagreement(pairs)[
        "n"
    ].to_dict()
    assert found["by_initial/5"] == (pairs.reviews["before"] == 5).sum()
    assert (
        sum(found[f"coreviewer/{name}"] for name in coreviewer_effect(pairs).index)
        == coreviewer_effect(pairs)["n"].sum()
    )


def test_terms_are_resampled_with_what_comes_with_them() -> None:
    terms = {"share": (np.array([1.0, 0.0, 1.0]), np.ones(3))}
    found = bootstrap_terms(
        terms, rng=np.random.default_rng(0), draws=200, further=lambda weights: {"size": weights.sum(axis=1)}
    )
    assert found.estimates.to_dict() == {"share": pytest.approx(2 / 3), "size": 3}
    assert (found.draws["size"] == 3).all()
    assert set((found.draws["share"] * 3).round().astype(int)) == {0, 1, 2, 3}
    assert found.counts.to_dict() == {"share": 3}
