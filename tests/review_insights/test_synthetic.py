"""Tests of the generator: it follows its stated law, and the analyses recover what was put in."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from iclr_repro.review_insights.data import read_score_table
from iclr_repro.review_insights.engagement import engagement
from iclr_repro.review_insights.predictors import co_reviewers, logistic_change_model
from iclr_repro.review_insights.scores import SCALES
from iclr_repro.review_insights.synthetic import (
    STRATEGIES,
    SyntheticSettings,
    SyntheticYear,
    generate_score_table,
    generate_year,
    increase_log_odds,
)


@pytest.fixture(scope="module")
def year() -> SyntheticYear:
    return generate_year(np.random.default_rng(0), num_papers=4000)


def test_log_odds_of_an_increase_by_hand() -> None:
    one, none = np.array([1.0]), np.array([0.0])
    assert increase_log_odds(np.array([3.0]), np.array([5.0]), one, none, np.array([2.0])) == pytest.approx(0.5)
    assert increase_log_odds(np.array([6.0]), np.array([5.0]), none, one, np.array([0.0])) == pytest.approx(-3.3)


def test_ratings_are_points_of_the_scale_and_move_by_at_most_two(year) -> None:
    reviews = year.pairs.reviews
    assert year.pairs.scale == SCALES[2024]
    steps = np.searchsorted(SCALES[2024], reviews["after"]) - np.searchsorted(SCALES[2024], reviews["before"])
    assert set(steps) == {-2, -1, 0, 1, 2}
    free = reviews["before"] <= 6  # room for two steps up
    assert np.mean(steps[free & (steps > 0)] == 2) == pytest.approx(0.2, abs=0.02)


def test_shares_are_those_of_the_settings(year) -> None:
    reviews, papers = year.pairs.reviews, year.pairs.papers
    for size, share in SyntheticSettings().review_counts:
        assert np.mean(papers["n_reviews"] == size) == pytest.approx(share, abs=0.03)
    assert reviews["author_replied"].mean() == pytest.approx(0.72, abs=0.02)
    answered = reviews[reviews["author_replied"]]
    assert answered["reviewer_replied"].mean() == pytest.approx(0.5, abs=0.02)
    for strategy, share in SyntheticSettings().strategies:
        assert np.mean(answered["strategy"] == strategy) == pytest.approx(share, abs=0.02)
    assert reviews.loc[~reviews["author_replied"], "strategy"].isna().all()


def test_turns_are_one_and_a_poisson_number(year) -> None:
    answered = year.pairs.reviews[year.pairs.reviews["author_replied"]]
    for replied, mean in ((True, 1.1), (False, 0.5)):
        extra = answered.loc[answered["reviewer_replied"] == replied, "turns"] - 1
        assert extra.min() == 0
        assert extra.mean() == pytest.approx(mean, abs=0.04)
        assert extra.var() == pytest.approx(mean, abs=0.1)
    assert (year.pairs.reviews.loc[~year.pairs.reviews["author_replied"], "turns"] == 0).all()


def test_increases_follow_the_stated_probability(year) -> None:
    reviews = year.pairs.reviews
    others_mean, _ = co_reviewers(year.pairs, reviews["before"].to_numpy())
    probability = expit(
        increase_log_odds(
            reviews["before"].to_numpy(),
            others_mean,
            *(reviews[name].to_numpy() for name in ("evidence", "generic", "turns")),
        )
    )
    increased = (reviews["after"] > reviews["before"]).to_numpy()
    below_top = (reviews["before"] < 10).to_numpy()
    for low in (0.0, 0.2, 0.4, 0.6):
        bin_ = below_top & (probability >= low) & (probability < low + 0.2)
        assert increased[bin_].mean() == pytest.approx(probability[bin_].mean(), abs=0.03)


def test_decreases_are_three_percent(year) -> None:
    reviews = year.pairs.reviews[year.pairs.reviews["before"] > 1]
    assert (reviews["after"] < reviews["before"]).mean() == pytest.approx(0.03, abs=0.005)


def test_papers_far_above_the_threshold_are_accepted(year) -> None:
    papers = year.pairs.papers
    assert (papers.loc[papers["mean_after"] > 7.5, "decision"] == "poster").all()
    assert (papers.loc[papers["mean_after"] < 4.2, "decision"] == "reject").all()
    borderline = papers.loc[(papers["mean_after"] - 5.8).abs() < 0.1, "decision"] == "poster"
    assert 0.3 < borderline.mean() < 0.7


def test_regression_recovers_the_signs_of_the_mechanism(year) -> None:
    features = ("own_rating", "others_mean", "n_notes", "evidence", "generic")
    increase = logistic_change_model(year.pairs, features=features).coefficients["increase"]
    assert increase["own_rating"] < -0.3
    assert increase["others_mean"] > 0.3
    assert increase["n_notes"] > 0.2
    assert increase["evidence"] > 0.15
    assert increase["generic"] < -0.15


def test_threads_hold_the_turns_of_their_review(year) -> None:
    reviews = year.pairs.reviews
    activity = engagement(year.threads, reviews)
    np.testing.assert_array_equal(activity["n_notes"], reviews["n_notes"])
    np.testing.assert_array_equal(activity["turns"], reviews["turns"] * reviews["reviewer_replied"])
    np.testing.assert_array_equal(activity["author_replied"], reviews["author_replied"])
    np.testing.assert_array_equal(activity["reviewer_replied"], reviews["reviewer_replied"])


def test_notes_of_a_thread_follow_each_other_in_time(year) -> None:
    gaps = year.threads.groupby("review_id")["time"].diff().dropna()
    assert (gaps >= pd.Timedelta(hours=1)).all()
    assert (gaps <= pd.Timedelta(hours=24)).all()
    first = year.threads.groupby("review_id")["time"].first()
    assert first.min() >= pd.Timestamp("2030-11-10")
    assert first.max() < pd.Timestamp("2030-11-22")


def test_texts_say_what_the_columns_say(year) -> None:
    assert year.threads["text"].map(len).min() > 10
    notes = year.threads.merge(year.pairs.reviews, on="review_id")
    raised = notes[(notes["role"] == "reviewer") & notes["text"].str.contains("raise my score|rating increased")]
    assert len(raised) > 100
    assert (raised["after"] > raised["before"]).all()
    evidence = notes[(notes["role"] == "author") & notes["text"].str.contains("We ran the comparison")]
    assert set(evidence["strategy"]) == {"evidence"}


def test_the_same_generator_gives_the_same_year() -> None:
    one, two = (generate_year(np.random.default_rng(4), num_papers=30) for _ in range(2))
    pd.testing.assert_frame_equal(one.pairs.reviews, two.pairs.reviews)
    pd.testing.assert_frame_equal(one.threads, two.threads)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategies": (("evidence", 0.5),)}, r"strategies: shares \[0.5\] sum to 0.5, expected 1"),
        ({"strategies": (("bribe", 1.0),)}, r"strategies \['bribe'\] have no texts; there are \['evidence'"),
        ({"review_counts": ((1, 0.5), (4, 0.5))}, "an increase depends on co-reviewers, use counts >= 2"),
    ],
)
def test_impossible_settings_are_refused(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticSettings(**change)


def test_all_strategies_can_occur(year) -> None:
    assert set(year.pairs.reviews["strategy"].dropna()) == set(STRATEGIES)


def test_score_table_has_the_form_that_the_reader_expects(tmp_path) -> None:
    table = generate_score_table(np.random.default_rng(0), num_papers=500)
    table.to_csv(tmp_path / "scores.csv", index=False)
    pairs = read_score_table(tmp_path / "scores.csv")
    assert 0 < pairs.dropped["unequal_counts"] < 30
    assert len(pairs.papers) == 500 - pairs.dropped["unequal_counts"]
    assert set(pairs.papers["decision"]) == {"poster", "reject", "withdrawn"}
