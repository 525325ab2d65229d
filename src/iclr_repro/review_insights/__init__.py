"""Insights from the ICLR peer review and rebuttal process: how review scores move, and what goes with it.

The names below are the method. Beside them `bootstrap.bootstrap` gives intervals for all statistics at once, and
`engagement.engagement` measures discussion threads (not listed here: they would hide their modules). What the paper
writes, and where it lives here:

    r, r'                      rating of a review before and after the rebuttal     `ScorePairs.reviews` before, after
    sign(r' - r)               increase, decrease, keep                             `review_changes`, `paper_changes`
    d = mean(others) - own     distance to the co-reviewers' mean rating before     `coreviewer_effect`
    K = round(f n)             size of the top share f of n papers                  `churn`
    cost(a, b)                 distance of two review profiles                      `tracing.match_reviews`

All statistics are correlational: regression to the mean alone gives the pattern of the co-reviewers (`herding`,
`half_split_placebo`), so that no causal reading is licensed.
"""

from iclr_repro.review_insights.baselines import FORECASTERS, compare
from iclr_repro.review_insights.bootstrap import Bootstrap
from iclr_repro.review_insights.calibration import (
    acceptance_cases,
    fit_calibrated,
    forecast_quality,
    probability_intervals,
    reliability,
    review_cases,
    transfer_table,
)
from iclr_repro.review_insights.data import (
    YEARS,
    load_review_texts,
    load_review_versions,
    load_scores,
    pair_versions,
    read_review_texts,
    read_review_versions,
    read_score_table,
    read_scores,
    snapshots,
)
from iclr_repro.review_insights.engagement import (
    aspect_updates,
    engagement_by_change,
    message_timing,
    order_effect,
    reviewer_replies_by_day,
)
from iclr_repro.review_insights.herding import (
    NullModel,
    compare_coefficients,
    compare_gradients,
    fit_null_model,
    half_split_placebo,
)
from iclr_repro.review_insights.labelling import (
    PromptedLabeller,
    RulesLabeller,
    ZeroShotLabeller,
    agreement,
    category_shares,
    indicators,
)
from iclr_repro.review_insights.openreview import (
    Forums,
    OpenReviewClient,
    OpenReviewError,
    official_pairs,
    pair_reviews,
    parse_forums,
    read_forum_notes,
    read_official,
)
from iclr_repro.review_insights.predictors import (
    LogisticResult,
    change_cases,
    coefficient_intervals,
    coefficient_table,
    evaluate,
    logistic_change_model,
)
from iclr_repro.review_insights.ranking import accepted_against_ranking, churn
from iclr_repro.review_insights.scores import DECISIONS, SCALES, ScorePairs, harmonise_decision
from iclr_repro.review_insights.statistics import (
    ScoreChanges,
    change_by_initial_rating,
    coreviewer_effect,
    disagreement,
    paper_changes,
    review_changes,
    score_changes,
    top_changes,
    transition_matrix,
)
from iclr_repro.review_insights.synthetic import SyntheticSettings, SyntheticYear, generate_year
from iclr_repro.review_insights.taxonomy import load_snippets, load_taxonomy
from iclr_repro.review_insights.tracing import (
    Matching,
    Traces,
    expected_review_changes,
    match_reviews,
    profiles,
    trace_reviews,
)
from iclr_repro.review_insights.tracing_check import traced_changes, tracing_accuracy, tracing_sample

__all__ = [
    "DECISIONS",
    "FORECASTERS",
    "SCALES",
    "YEARS",
    "Bootstrap",
    "Forums",
    "LogisticResult",
    "Matching",
    "NullModel",
    "OpenReviewClient",
    "OpenReviewError",
    "PromptedLabeller",
    "RulesLabeller",
    "ScoreChanges",
    "ScorePairs",
    "SyntheticSettings",
    "SyntheticYear",
    "Traces",
    "ZeroShotLabeller",
    "acceptance_cases",
    "accepted_against_ranking",
    "agreement",
    "aspect_updates",
    "category_shares",
    "change_by_initial_rating",
    "change_cases",
    "churn",
    "coefficient_intervals",
    "coefficient_table",
    "compare",
    "compare_coefficients",
    "compare_gradients",
    "coreviewer_effect",
    "disagreement",
    "engagement_by_change",
    "evaluate",
    "expected_review_changes",
    "fit_calibrated",
    "fit_null_model",
    "forecast_quality",
    "generate_year",
    "half_split_placebo",
    "harmonise_decision",
    "indicators",
    "load_review_texts",
    "load_review_versions",
    "load_scores",
    "load_snippets",
    "load_taxonomy",
    "logistic_change_model",
    "match_reviews",
    "message_timing",
    "official_pairs",
    "order_effect",
    "pair_reviews",
    "pair_versions",
    "paper_changes",
    "parse_forums",
    "probability_intervals",
    "profiles",
    "read_forum_notes",
    "read_official",
    "read_review_texts",
    "read_review_versions",
    "read_score_table",
    "read_scores",
    "reliability",
    "review_cases",
    "review_changes",
    "reviewer_replies_by_day",
    "score_changes",
    "snapshots",
    "top_changes",
    "trace_reviews",
    "traced_changes",
    "tracing_accuracy",
    "tracing_sample",
    "transfer_table",
    "transition_matrix",
]
