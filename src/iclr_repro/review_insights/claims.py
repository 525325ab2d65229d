"""The paper's claims R1-R14 as checks (sheet, "Claims"), with the thresholds of its reduced scale.

Intervals are over papers (bootstrap). ICLR 2024 is an independent capture of the paper's review round, unless the
authors' files are given; claims on other years ask whether the finding holds there. Where a claim speaks of every year,
these are the years of the sheet that were measured with what it needs, at least one.
"""

from __future__ import annotations

from collections.abc import Sequence

from iclr_repro.core.claims import (
    Check,
    ExperimentResults,
    NotRun,
    Results,
    all_of,
    at_least,
    at_most,
    claim,
    exact,
    more_than,
    within,
)
from iclr_repro.review_insights import paper_values

_ROUNDING = 5e-5  # of the reference values with four digits


@claim(id="R1", source="ours", paper="not available", data="real")
def statistics_are_exact(r: Results) -> Check:
    """Counts and means on the public captures equal the reference values: every step from file to table is right."""
    if "iclr2024/from_official_files" in r.score_changes.metrics:
        raise NotRun("ICLR 2024 comes from the authors' files, the reference values are of the public capture: see R1p")
    counts = {
        "iclr2024/papers/n": 7013,
        "iclr2024/reviews/n": 27034,
        "iclr2024/dropped/unequal_counts": 202,
        "iclr2024/reviews/increase/n": 4295,
        "iclr2024/reviews/decrease/n": 266,
        "iclr2024/reviews/keep/n": 22473,
        "iclr2024/papers/increase/n": 2790,
        "iclr2024/papers/decrease/n": 209,
        "iclr2024/papers/keep/n": 4014,
        "iclr2021/papers/n": 2948,
        "iclr2021/reviews/increase/n": 1984,
        "iclr2021/reviews/decrease/n": 294,
        "iclr2021/reviews/keep/n": 9097,
        "iclr2026/reviews/n": 75848,
        "iclr2026/reviews/increase/n": 554,
        "iclr2026/reviews/decrease/n": 606 - 554,
    }
    means = {
        "iclr2024/reviews/increase/mean_before": 4.5898,
        "iclr2024/reviews/increase/mean_after": 6.3362,
        "iclr2024/reviews/decrease/mean_before": 6.1391,
        "iclr2024/reviews/decrease/mean_after": 4.3722,
        "iclr2024/reviews/keep/mean_before": 4.9183,
        "iclr2024/papers/increase/mean_before": 5.3179,
        "iclr2024/papers/increase/mean_after": 6.0092,
        "iclr2024/papers/decrease/mean_before": 4.8893,
        "iclr2024/papers/decrease/mean_after": 4.4396,
        "iclr2024/papers/keep/mean_before": 4.5594,
        "iclr2024/papers/overall/mean_before": 4.8710,
        "iclr2024/papers/overall/mean_after": 5.1326,
        "iclr2020/reviews/keep/share": 1 - 0.1179,
        "iclr2020/reviews/mean_before": 3.9068,
        "iclr2020/reviews/mean_after": 4.1831,
    }
    return all_of(
        *(exact(r.score_changes[name], expected) for name, expected in counts.items()),
        *(exact(r.score_changes[name], expected, tolerance=_ROUNDING) for name, expected in means.items()),
        exact(r.rankings["iclr2024/churn/0.05"], 140 / 351, tolerance=1e-12),
        exact(r.disagreement["iclr2024/disagreement/overall/before"], 1.1345, tolerance=_ROUNDING),
        exact(r.disagreement["iclr2024/disagreement/overall/after"], 1.0483, tolerance=_ROUNDING),
    )


@claim(id="R1p", source="Table 2", paper="4,666/359 (2024), 10,728/640 (2025)", scales=("paper",), data="real")
def official_counts_are_exact(r: Results) -> Check:
    """On the authors' own files the counts of Table 2 come out exactly."""
    years = _years(r.score_changes, (2024, 2025), "from_official_files")
    return all_of(
        *(
            exact(r.score_changes[f"iclr{year}/reviews/{change}/n"], expected)
            for year in years
            for change, expected in paper_values.TABLE_2_REVIEWS["n"].loc[year].items()
        )
    )


@claim(id="R2", headline=True, source="Table 2", paper="13:1 (2024), 17:1 (2025)", data="real")
def increases_outnumber_decreases(r: Results) -> Check:
    """Far more reviews go up than down (ICLR 2024)."""
    return within(r.score_changes["iclr2024/reviews/up_down_ratio"], 10, 25)


@claim(id="R3", headline=True, source="Table 2", paper="81.3 % keep, 17.4 % up, 1.3 % down (2024)", data="real")
def most_reviews_keep_their_rating(r: Results) -> Check:
    """Most reviews keep their rating and few go down: shares within 3 points of the paper's (ICLR 2024)."""
    counts = paper_values.TABLE_2_REVIEWS["n"].loc[2024]
    checks = []
    for change, share in (counts / counts.sum()).round(3).items():
        measured = r.score_changes[f"iclr2024/reviews/{change}/share"]
        checks.append(within(measured, max(0.0, share - 0.03), share + 0.03))
    return all_of(*checks)


@claim(id="R4", headline=True, source="Table 2", paper="57.6 / 12.4 / 6.4 % accepted (2024)", data="real")
def increased_papers_are_accepted_more_often(r: Results) -> Check:
    """Papers that rose are accepted at least twice as often as those that stayed, those that fell least often."""
    checks = []
    for year in _years(r.score_changes, (2021, "2023_final", 2024, 2025), "accept_rate_increase_over_keep"):
        capture = f"iclr{year}"
        for rate in ("accept_rate", "accept_rate_all"):
            checks.append(at_least(r.score_changes[f"{capture}/{rate}_increase_over_keep"], 2.0))
            checks.append(_positive(r.score_changes, f"{capture}/{rate}_keep_minus_decrease"))
    return all_of(*checks)


@claim(id="R5", source="Fig. 3", paper="5->6 first, then 6->8, 3->5", data="real")
def movement_is_at_the_borderline(r: Results) -> Check:
    """5 -> 6 is the most frequent change; P(increase) is larger at 5 than at any other rating, and at 3 than at 8."""
    steps = ["5_minus_3", "3_minus_8", "5_minus_1", "5_minus_6"]
    if "iclr2024/by_initial/p_increase_5_minus_10" in r.predictors.metrics:
        steps.append("5_minus_10")
    return all_of(
        exact(r.score_changes["iclr2024/top_change_1/before"], 5),
        exact(r.score_changes["iclr2024/top_change_1/after"], 6),
        *(_positive(r.predictors, f"iclr2024/by_initial/p_increase_{step}") for step in steps),
    )


# No headline: readers who draw a quarter of the ratings anew, seeing nobody, replace as much of the top.
@claim(id="R6", source="text", paper="> 40 % of the top 5 %, nearly 20 % of the top 30 %", data="real")
def rankings_churn(r: Results) -> Check:
    """The rebuttal replaces 35-45 % of the top 5 % and 15-25 % of the top 30 % (ICLR 2024)."""
    return all_of(
        within(r.rankings["iclr2024/churn/0.05"], 0.35, 0.45),
        within(r.rankings["iclr2024/churn/0.3"], 0.15, 0.25),
    )


@claim(id="R7", headline=True, source="text", paper="-9 to -10 %; rejected and withdrawn under 7 %", data="real")
def disagreement_falls(r: Results) -> Check:
    """Reviewers end up closer: by 5-13 % in every year, most for orals and spotlights, least for withdrawn papers."""
    overall = [
        within(r.disagreement[f"iclr{year}/disagreement/overall/relative_change"], -0.13, -0.05)
        for year in _years(r.disagreement, (2020, 2021, 2023, 2024, 2025), "disagreement/overall/relative_change")
    ]
    steps = ("poster_minus_oral_spotlight", "reject_minus_poster", "withdrawn_minus_reject")
    decided = _years(r.disagreement, (2021, 2023, 2024, 2025), f"disagreement/{steps[0]}")
    order = [_positive(r.disagreement, f"iclr{year}/disagreement/{step}") for year in decided for step in steps]
    return all_of(*overall, *order)


@claim(id="R8", source="text", paper="own rating -1.01, others' mean +0.55", data="real")
def own_and_other_ratings_predict_increases(r: Results) -> Check:
    """A low own rating and high co-reviewers go with increases in every year, alone and in the regression."""
    checks = []
    for year in _years(r.predictors, (2020, 2021, 2024, 2025), "increase_coefficient/own_rating"):
        checks.append(at_most(r.predictors[f"iclr{year}/increase_coefficient/own_rating"], -0.3))
        checks.append(at_least(r.predictors[f"iclr{year}/increase_coefficient/others_mean"], 0.3))
        checks.append(at_least(r.predictors[f"iclr{year}/coreviewer/p_increase_higher_over_lower"], 3.0))
    return all_of(*checks)


@claim(id="R9", source="text", paper="macro F1 0.51 (three classes), 0.69 (binary), with text labels", data="real")
def scores_alone_predict_little(r: Results) -> Check:
    """Initial scores beat the majority class but stay below the paper's 0.51, which needs text labels (2021 on)."""
    checks = []
    for year in _years(r.predictors, (2021, 2024, 2025), "three_classes/macro_f1"):
        checks.append(_positive(r.predictors, f"iclr{year}/three_classes/macro_f1_over_majority"))
        checks.append(at_most(r.predictors[f"iclr{year}/three_classes/macro_f1"], 0.51))
    return all_of(*checks)


@claim(id="R10", source="Table 6", paper="71 % of changes touch the overall rating only", data="real")
def changes_rarely_touch_the_aspects(r: Results) -> Check:
    """60-80 % of changed ratings come with unchanged soundness, presentation and contribution (ICLR 2026)."""
    return within(r.score_changes["iclr2026/aspects/changed/aspects_unchanged"], 0.6, 0.8)


@claim(id="R11", source="text", paper="increasingly generous from the first to the last reviewer", data="real")
def later_reviewers_are_more_generous(r: Results) -> Check:
    """With four reviews each later one starts higher, the last 0.1-0.3 points above the first (ICLR 2026)."""
    steps = [_positive(r.order_effect, f"iclr2026/order/4/difference_{k + 1}_{k}") for k in (1, 2, 3)]
    return all_of(*steps, within(r.order_effect["iclr2026/order/4/difference_4_1"], 0.1, 0.3))


@claim(id="R12", source="text", paper="about 20 %", data="real")
def a_fifth_of_accepted_papers_profits(r: Results) -> Check:
    """15-30 % of accepted papers were outside the top before, fewer after the rebuttal, in every year."""
    checks = []
    for year in _years(r.rankings, (2021, 2023, 2024, 2025), "accepted/share_outside_top_before"):
        checks.append(within(r.rankings[f"iclr{year}/accepted/share_outside_top_before"], 0.15, 0.30))
        checks.append(_positive(r.rankings, f"iclr{year}/accepted/outside_before_minus_after"))
    return all_of(*checks)


@claim(id="R13", source="README of the authors", paper="not available (audit: generally valid)", data="real")
def tracing_works(r: Results) -> Check:
    """Shuffled reviews find their later version: five scores (ICLR 2026), and rating with confidence (ICLR 2023)."""
    return all_of(
        at_least(r.tracing["iclr2026/all/right_review"], 0.94),
        at_least(r.tracing["iclr2026/all/right_scores"], 0.98),
        at_least(r.tracing["iclr2026/changed/right_review"], 0.87),
        at_least(r.tracing["iclr2026/changed/right_scores"], 0.90),
        at_least(r.tracing["iclr2023_confidence_only/rating_changed/right_rating"], 0.80),
    )


@claim(id="R14", source="Table 2", paper="2.04 against 1.35 turns (2024), 2.21 against 1.47 (2025)", data="real")
def engagement_goes_with_increases(r: Results) -> Check:
    """Reviews that rise had more turns of discussion than those that stay."""
    return _positive(r.engagement, "reviews/turns_increase_minus_keep")


@claim(id="R14x", source="ours", paper="not available", scales=("smoke", "cpu", "paper"))
def turns_are_counted_exactly(r: Results) -> Check:
    """In generated threads every turn that the generator wrote is counted, and no other."""
    return exact(r.engagement["generated/wrong_turns"], 0)


@claim(id="E1", source="ours", paper="not available")
def bootstrap_is_fast(r: Results) -> Check:
    """The vectorised bootstrap of all statistics is at least 10 times as fast as the plain loop, draw by draw."""
    return at_least(r.efficiency["bootstrap/speedup"], 10.0)


def _years(experiment: ExperimentResults, candidates: Sequence[int | str], metric: str) -> list[int | str]:
    """Return those of the candidates for which "iclr<year>/<metric>" was measured; without any the claim is not run."""
    found = [year for year in candidates if f"iclr{year}/{metric}" in experiment.metrics]
    if not found:
        experiment[f"iclr{candidates[0]}/{metric}"]  # says why there is none
    return found


def _positive(experiment: ExperimentResults, metric: str) -> Check:
    """Check that a difference is above zero."""
    return more_than(experiment[metric], 0.0)
