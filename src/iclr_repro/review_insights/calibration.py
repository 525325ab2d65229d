"""Calibrated probabilities that a rating rises, that it falls, and that a paper is accepted, with their uncertainty.

The models are logistic regressions without class weights, hence calibrated on the training data in the mean and along
every feature. Features are portable between conference years with different rating scales (`portable_ratings`), so that
a model of one year can be tested on another.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from iclr_repro.review_insights.bootstrap import resampling_counts
from iclr_repro.review_insights.predictors import NUM_FOLDS, Cases, change_cases
from iclr_repro.review_insights.scores import ACCEPTED, REJECTED, ScorePairs
from iclr_repro.review_insights.softmax import SoftmaxModel, fit_softmax

OUTCOMES = ("rejected", "accepted")
"""Classes of `acceptance_cases`."""


def portable_ratings(pairs: ScorePairs) -> np.ndarray:
    """[num_reviews] initial ratings as normal scores of their year: 0 = median, 1 = one sigma above it.

    score(r) = Phi^-1(P(rating < r) + P(rating = r) / 2)

    with shares over all initial ratings of the year. It depends only on the order of the points of the scale, not on
    their values (1..10 in 2021, 1, 3, 5, 6, 8, 10 in 2024), and on nothing that happens after the first reviews.

    Example: ratings 3, 3, 5, 5 have mid-ranks 0.25 and 0.75 and the scores -0.674, -0.674, 0.674, 0.674.
    """
    points = np.searchsorted(pairs.scale, pairs.reviews["before"].to_numpy())
    shares = np.bincount(points, minlength=len(pairs.scale)) / len(points)
    return np.asarray(norm.ppf(np.cumsum(shares) - shares / 2)[points])


def review_cases(pairs: ScorePairs) -> Cases:
    """Reviews with a co-reviewer; classes decrease, keep, increase; portable features.

    Features: own score s, the others' mean m and population std, number of reviews, and s^2, m^2, s m, since a rating
    in the middle of the scale rises most easily. Errors as in `predictors.change_cases`.
    """
    cases = change_cases(pairs)
    scores = portable_ratings(pairs)
    index = pairs.paper_index
    num_reviews = pairs.papers["n_reviews"].to_numpy()[index]
    keep = num_reviews >= 2
    own, num_others = scores[keep], num_reviews[keep] - 1
    mean = (pairs.paper_sums(scores)[index][keep] - own) / num_others
    square = (pairs.paper_sums(scores**2)[index][keep] - own**2) / num_others
    std = np.sqrt(np.maximum(square - mean**2, 0.0))  # rounding can leave -1e-16 for equal scores
    return replace(
        cases,
        x=np.stack([own, mean, std, num_others + 1, own**2, mean**2, own * mean], axis=1),
        features=("own", "others_mean", "others_std", "n_reviews", "own^2", "others_mean^2", "own*others_mean"),
    )


def acceptance_cases(pairs: ScorePairs) -> Cases:
    """Papers that were accepted or rejected; portable features of the initial ratings.

    Features: mean m and population std of the scores of a paper's reviews, number of reviews, m^2. Withdrawn papers are
    left out: the probability is that of a paper whose authors stay until the decision. fold = row in `papers` mod 5.

    Raises:
        ValueError: no decision is known.
    """
    if not pairs.has_decisions:
        raise ValueError(
            f"the scores of ICLR {pairs.year} come without decisions: acceptance cannot be learnt from them"
        )
    scores = portable_ratings(pairs)
    num_reviews = pairs.papers["n_reviews"].to_numpy()
    mean = pairs.paper_sums(scores) / num_reviews
    std = np.sqrt(np.maximum(pairs.paper_sums(scores**2) / num_reviews - mean**2, 0.0))
    decision = pairs.papers["decision"]
    paper = np.flatnonzero(decision.isin([*ACCEPTED, *REJECTED]))
    return Cases(
        x=np.stack([mean, std, num_reviews, mean**2], axis=1)[paper],
        y=decision.isin(ACCEPTED).to_numpy()[paper].astype(np.int64),
        fold=paper % NUM_FOLDS,
        paper=paper,
        features=("mean", "std", "n_reviews", "mean^2"),
        classes=OUTCOMES,
    )


# --- models ----------------------------------------------------------------------------------------------------------


def fit_calibrated(cases: Cases) -> SoftmaxModel:
    """Logistic regression at the true class frequencies."""
    return fit_softmax(cases.x, cases.y, class_weights=np.ones(len(cases.classes)))


def cross_fitted(cases: Cases) -> np.ndarray:
    """[n, num_classes] probabilities, each from the model of the four folds without the case's paper."""
    probabilities = np.empty((len(cases.y), len(cases.classes)))
    for fold in range(NUM_FOLDS):
        held_out = cases.fold == fold
        probabilities[held_out] = fit_calibrated(cases.rows(~held_out)).probabilities(cases.x[held_out])
    return probabilities


def probability_intervals(models: list[SoftmaxModel], x: np.ndarray, *, level: float = 0.95) -> np.ndarray:
    """Percentile interval of each probability over models of resampled papers (`predictors.bootstrap_models`).

    It shows how well the training data determine the probability, not whether the event will happen.

    Returns:
        [2, n, num_classes]: low and high.
    """
    probabilities = np.stack([model.probabilities(x) for model in models])
    return np.asarray(np.quantile(probabilities, [(1 - level) / 2, (1 + level) / 2], axis=0))


# --- quality ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ForecastQuality:
    """Quality of forecast probabilities p of an event that happened (1) or not (0).

    Attributes:
        n: forecasts.
        base_rate: share of events.
        mean_forecast: mean p; equal to the base rate when calibrated in the large.
        brier: mean (p - happened)^2, 0 to 1, lower is better.
        brier_skill: 1 - brier / (base_rate (1 - base_rate)): 0 for the base rate as forecast, 1 at best; NaN without
            both outcomes.
        ece: expected calibration error, sum_b n_b / n |observed_b - mean p_b| over the bins of `reliability`.
        auc: probability that an event had the higher p than a non-event, 0.5 for chance; NaN without both outcomes.
    """

    n: int
    base_rate: float
    mean_forecast: float
    brier: float
    brier_skill: float
    ece: float
    auc: float


def forecast_quality(forecast: np.ndarray, happened: np.ndarray, *, bins: int = 10) -> ForecastQuality:
    """Measure forecast probabilities [n] against what happened [n] (bool).

    Example: p = 0.2, 0.8 for no, yes: Brier 0.04, skill 1 - 0.04 / 0.25 = 0.84, AUC 1, ECE 0.2 with two bins.
    """
    base_rate = happened.mean()
    brier = float(np.mean((forecast - happened) ** 2))
    both = 0 < base_rate < 1
    members = _bins(forecast, bins)
    gaps = np.bincount(members, happened) - np.bincount(members, forecast)
    return ForecastQuality(
        n=len(forecast),
        base_rate=float(base_rate),
        mean_forecast=float(forecast.mean()),
        brier=brier,
        brier_skill=float(1 - brier / (base_rate * (1 - base_rate))) if both else np.nan,
        ece=float(np.abs(gaps).sum() / len(forecast)),
        auc=float(roc_auc_score(happened, forecast)) if both else np.nan,
    )


def reliability(
    forecast: np.ndarray,
    happened: np.ndarray,
    paper: np.ndarray,
    *,
    rng: np.random.Generator,
    bins: int = 10,
    draws: int = 1000,
    level: float = 0.95,
) -> pd.DataFrame:
    """The points of a reliability diagram.

    Args:
        forecast: [n] probabilities.
        happened: [n] bool.
        paper: [n] the paper of each forecast; papers are resampled, because reviews of one paper move together.
        rng: source of the resampling.
        bins: bins of about equally many forecasts; equal forecasts share a bin, so there may be fewer.
        draws: bootstrap draws.
        level: of the intervals.

    Returns:
        A row a bin by rising forecast: `n`, `predicted` (mean forecast), `observed` (share of events), `low`, `high`
        (percentile interval of `observed`).
    """
    members = _bins(forecast, bins)
    num_bins = members.max() + 1
    papers, index = np.unique(paper, return_inverse=True)
    cell = index * num_bins + members
    size = len(papers) * num_bins
    counts, events = (np.bincount(cell, weights, size).reshape(-1, num_bins) for weights in (None, happened))
    drawn = resampling_counts(len(papers), draws, rng=rng)
    drawn_counts, drawn_events = drawn @ counts, drawn @ events
    shares = np.divide(drawn_events, drawn_counts, out=np.full_like(drawn_events, np.nan), where=drawn_counts > 0)
    low, high = np.nanquantile(shares, [(1 - level) / 2, (1 + level) / 2], axis=0)
    n = counts.sum(axis=0)
    predicted, observed = np.bincount(members, forecast) / n, events.sum(axis=0) / n
    return pd.DataFrame({"n": n, "predicted": predicted, "observed": observed, "low": low, "high": high})


def transfer_table(cases: Mapping[int, Cases], *, events: tuple[str, ...]) -> pd.DataFrame:
    """Every year's model on every year: how well probabilities learnt in one year hold in another.

    Args:
        cases: year -> cases with the same portable features and classes.
        events: classes whose probabilities are judged.

    Returns:
        Index (`trained_on`, `tested_on`, `event`), columns as `ForecastQuality`. Where both years are the same, the
        probabilities are cross-fitted.
    """
    rows = {}
    for trained_on, training in cases.items():
        model = fit_calibrated(training)
        for tested_on, testing in cases.items():
            same = tested_on == trained_on
            probabilities = cross_fitted(testing) if same else model.probabilities(testing.x)
            for event in events:
                label = testing.classes.index(event)
                quality = forecast_quality(probabilities[:, label], testing.y == label)
                rows[trained_on, tested_on, event] = asdict(quality)
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = table.index.set_names(["trained_on", "tested_on", "event"])
    return table


def _bins(forecast: np.ndarray, bins: int) -> np.ndarray:
    """[n] number of each forecast's bin, 0, 1, .. without gaps; bins are cut at quantiles."""
    inner = np.quantile(forecast, np.arange(1, bins) / bins)
    return np.unique(np.searchsorted(inner, forecast, side="left"), return_inverse=True)[1]
