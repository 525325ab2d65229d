"""Which reviews change: the multinomial logistic regression of the paper, and its table.

`change_cases` turns score pairs into features and classes, `evaluate` judges any forecaster on folds that keep a
paper's reviews together, `logistic_change_model` is model M7 and `coefficient_table` its presentation in the paper
(sheet P). What the same regression finds without any influence: `herding.half_split_placebo`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score

from iclr_repro.review_insights.bootstrap import resampling_counts
from iclr_repro.review_insights.scores import ScorePairs
from iclr_repro.review_insights.softmax import SoftmaxModel, centred, fit_softmax

CLASSES = ("decrease", "keep", "increase")
"""What can become of a rating, in the order of the sign of its change."""

BINARY_CLASSES = ("rest", "increase")

FEATURES = ("own_rating", "others_mean", "others_std", "n_reviews")
"""Features of M7: own rating before; mean and population std of the co-reviewers' before; reviews of the paper."""

NUM_FOLDS = 5

_SMALLEST_PROBABILITY = 1e-6  # in log losses


@dataclass(frozen=True, eq=False)
class Cases:
    """Reviews (or papers) as features and classes, with what is needed to keep the reviews of a paper together.

    Attributes:
        x: [n, num_features] float64.
        y: [n] index into `classes`.
        fold: [n] in 0..4, equal for all reviews of a paper.
        paper: [n] row of the paper in `ScorePairs.papers`.
        features: names of the columns of `x`.
        classes: names of the classes.
    """

    x: np.ndarray
    y: np.ndarray
    fold: np.ndarray
    paper: np.ndarray
    features: tuple[str, ...]
    classes: tuple[str, ...]

    def rows(self, keep: np.ndarray) -> "Cases":
        """Those selected by a boolean or integer index."""
        return replace(self, x=self.x[keep], y=self.y[keep], fold=self.fold[keep], paper=self.paper[keep])

    def columns(self, *features: str) -> "Cases":
        """The same cases with some of the features."""
        return replace(self, x=self.x[:, [self.features.index(name) for name in features]], features=features)

    def class_weights(self) -> np.ndarray:
        """[num_classes] balanced weights w_c = n / (num_classes n_c); 0 for a class without a case."""
        return _balanced_weights(np.bincount(self.y, minlength=len(self.classes)))


def _balanced_weights(class_counts: np.ndarray) -> np.ndarray:
    total, num_classes = class_counts.sum(), len(class_counts)
    return np.divide(total, num_classes * class_counts, out=np.zeros(num_classes), where=class_counts > 0)


def co_reviewers(pairs: ScorePairs, ratings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population std of the other reviewers' ratings, for each review.

    Args:
        pairs: gives the papers.
        ratings: [num_reviews] whole numbers, in the order of `pairs.reviews`; sums of them stay exact.

    Returns:
        Two arrays [num_reviews], NaN for the only review of a paper.

    Example: ratings 3, 5, 8 of one paper have the others' means 6.5, 5.5, 4 and stds 1.5, 2.5, 1.
    """
    index = pairs.paper_index
    others = pairs.papers["n_reviews"].to_numpy()[index] - 1
    total = pairs.paper_sums(ratings)[index] - ratings
    squares = pairs.paper_sums(ratings**2)[index] - ratings**2
    count = np.where(others > 0, others, np.nan)
    return total / count, np.sqrt(others * squares - total**2) / count


def change_cases(
    pairs: ScorePairs, *, features: Sequence[str] = FEATURES, ranks: bool = False, binary: bool = False
) -> Cases:
    """Features, classes and folds of the reviews with at least one co-reviewer.

    fold = (index of the paper id in the sorted ids of the papers with >= 2 reviews) mod 5

    Args:
        pairs: scores in reviewer order.
        features: names out of `FEATURES` and of numeric columns of `pairs.reviews`, e.g. counts of notes or labels of
            the rebuttal.
        ranks: use the rank of a rating on the scale (0, 1, ...) in place of the rating, since the scales are not
            equidistant (5 -> 6 is one step as 6 -> 8 is).
        binary: classes `BINARY_CLASSES` instead of `CLASSES`.

    Raises:
        ValueError: pairs without reviewer identity, fewer than 5 papers with co-reviewers, an unknown feature, or one
            with missing values.

    Source: sheet M7; pitfall "the rating scale is not equidistant".
    """
    if not pairs.aligned:
        raise ValueError("the ratings before and after are not in one reviewer order: changes of a review are unknown")
    num_reviews = pairs.papers["n_reviews"].to_numpy()
    shared = num_reviews >= 2
    if shared.sum() < NUM_FOLDS:
        raise ValueError(f"{shared.sum()} papers have two or more reviews, {NUM_FOLDS} folds need at least {NUM_FOLDS}")
    before = pairs.reviews["before"].to_numpy()
    own = np.searchsorted(pairs.scale, before) if ranks else before
    mean, std = co_reviewers(pairs, own)
    known = dict(zip(FEATURES, (own, mean, std, num_reviews[pairs.paper_index]), strict=True))
    unknown = [name for name in features if name not in known and name not in pairs.reviews.columns]
    if unknown:
        raise ValueError(f"unknown features {unknown}; there are {[*known, *pairs.reviews.columns[4:]]}")
    table = pairs.reviews.assign(**known)[list(features)].to_numpy(dtype=np.float64)
    keep = shared[pairs.paper_index]
    if not np.isfinite(table[keep]).all():
        holes = [name for name, column in zip(features, table[keep].T, strict=True) if not np.isfinite(column).all()]
        raise ValueError(
            f"features {holes} have missing or infinite values: fill them, or select the papers that have all"
        )
    change = np.sign(pairs.reviews["after"].to_numpy() - before)
    return Cases(
        x=table[keep],
        y=((change > 0) if binary else change + 1)[keep].astype(np.int64),
        fold=((np.cumsum(shared) - 1) % NUM_FOLDS)[pairs.paper_index][keep],
        paper=pairs.paper_index[keep],
        features=tuple(features),
        classes=BINARY_CLASSES if binary else CLASSES,
    )


# --- forecasts and their evaluation ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Forecast:
    """What a forecaster says of some reviews.

    Attributes:
        labels: [num_reviews] the class it decides for.
        probabilities: [num_reviews, num_classes] at the class frequencies of the training data, None if it has none.
    """

    labels: np.ndarray
    probabilities: np.ndarray | None = None


Forecaster = Callable[[Cases, Cases], Forecast]
"""Learns from the first data, forecasts for the second, whose classes it must not look at."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Quality of a forecaster over the 5 folds.

    Attributes:
        n: reviews, each forecast exactly once.
        macro_f1_folds: F1 averaged over all classes, a value a fold; higher is better.
        per_class_f1: class -> mean over folds.
        log_loss: mean of -log p(true class) over reviews, in nats; lower is better. None without probabilities.
        labels: [n] the class forecast for each review.
    """

    n: int
    macro_f1_folds: tuple[float, ...]
    per_class_f1: dict[str, float]
    log_loss: float | None
    labels: np.ndarray

    @property
    def macro_f1_mean(self) -> float:
        """Mean of macro F1 over folds."""
        return float(np.mean(self.macro_f1_folds))

    @property
    def macro_f1_std(self) -> float:
        """Population standard deviation of macro F1 over folds."""
        return float(np.std(self.macro_f1_folds))


def evaluate(forecaster: Forecaster, data: Cases) -> Evaluation:
    """Train on four folds, forecast the fifth, in turn.

    Macro F1 always runs over all classes; a class without true and forecast cases has F1 = 0.

    Source: sheet M7; pitfalls "class imbalance" and "leakage".
    """
    f1, losses, forecasts = [], [], np.empty_like(data.y)
    for fold in range(NUM_FOLDS):
        test = data.rows(data.fold == fold)
        forecast = forecaster(data.rows(data.fold != fold), test)
        forecasts[data.fold == fold] = forecast.labels
        labels = range(len(data.classes))
        f1.append(f1_score(test.y, forecast.labels, labels=labels, average=None, zero_division=0.0))
        if forecast.probabilities is not None:
            losses.append(log_losses(forecast.probabilities, test.y))
    return Evaluation(
        n=len(data.y),
        macro_f1_folds=tuple(np.mean(f1, axis=1).tolist()),
        per_class_f1=dict(zip(data.classes, np.mean(f1, axis=0).tolist(), strict=True)),
        log_loss=float(np.concatenate(losses).mean()) if losses else None,
        labels=forecasts,
    )


def macro_f1_of_papers(data: Cases, labels: np.ndarray, weights_DP: np.ndarray) -> np.ndarray:
    """[D] mean over folds of macro F1 on weighted papers, for bootstrap intervals: the models stay as they are.

    F1 of a class = 2 hits / (true + forecast cases), 0 without any, from the sums of the papers' counts.

    Args:
        data: cases that were forecast.
        labels: [n] the forecasts, e.g. `Evaluation.labels`.
        weights_DP: [D, num_papers] how often a draw holds each paper of `ScorePairs.papers`; all 1 gives
            `Evaluation.macro_f1_mean`.
    """
    classes = np.arange(len(data.classes))
    forecast_NC, true_NC = labels[:, None] == classes, data.y[:, None] == classes
    scores = []
    for fold in range(NUM_FOLDS):
        member = data.fold == fold
        papers, paper = np.unique(data.paper[member], return_inverse=True)
        hits_DC, forecast_DC, true_DC = (
            weights_DP[:, papers] @ np.stack([np.bincount(paper, column) for column in cases_NC[member].T], axis=1)
            for cases_NC in (forecast_NC & true_NC, forecast_NC, true_NC)
        )
        cases_DC = forecast_DC + true_DC
        scores.append(np.divide(2 * hits_DC, cases_DC, out=np.zeros_like(hits_DC), where=cases_DC > 0).mean(axis=1))
    return np.asarray(np.mean(scores, axis=0))


def log_losses(probabilities: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[n] -log p(true class) in nats, for probabilities [n, num_classes] and classes y [n].

    A p below 1e-6 counts as 1e-6, so that a class that was absent from the training data costs 13.8, not infinity.
    """
    true = probabilities[np.arange(len(y)), y]
    return np.asarray(-np.log(np.maximum(true, _SMALLEST_PROBABILITY)))


def balanced_forecast(balanced: np.ndarray, class_weights: np.ndarray) -> Forecast:
    """The forecast of a model that was trained with balanced class weights.

    It decides by the balanced probabilities q, so that rare classes are named at all; since a loss weighted by w_c has
    its minimum at q_c proportional to w_c p_c, the probabilities at the true class frequencies are p_c = (q_c / w_c) /
    sum.

    Args:
        balanced: [num_reviews, num_classes] q; 0 for classes that the training data lack.
        class_weights: [num_classes] w; 0 for those.
    """
    odds = np.divide(balanced, class_weights, out=np.zeros_like(balanced), where=class_weights > 0)
    return Forecast(balanced.argmax(axis=1), odds / odds.sum(axis=1, keepdims=True))


# --- multinomial logistic regression ---------------------------------------------------------------------------------


def balanced_logistic(train: Cases, test: Cases) -> Forecast:
    """Forecaster M7: multinomial logistic regression with balanced class weights."""
    weights = train.class_weights()
    return balanced_forecast(fit_softmax(train.x, train.y, class_weights=weights).probabilities(test.x), weights)


@dataclass(frozen=True, eq=False)
class LogisticResult:
    """Model M7 on one data set.

    Attributes:
        features: names of the features.
        classes: names of the classes.
        n: reviews used.
        coefficients: feature x class, of the fit on all data, standardised and centred over the classes.
        macro_f1_mean: see `Evaluation`, as the next two.
        macro_f1_std: population std over folds.
        per_class_f1: class -> mean over folds.
    """

    features: tuple[str, ...]
    classes: tuple[str, ...]
    n: int
    coefficients: pd.DataFrame
    macro_f1_mean: float
    macro_f1_std: float
    per_class_f1: dict[str, float]


def logistic_change_model(
    pairs: ScorePairs, *, features: Sequence[str] = FEATURES, ranks: bool = False, binary: bool = False
) -> LogisticResult:
    """Predict what becomes of a rating from the ratings before the rebuttal (M7), or from any further features (P).

    Arguments and errors as in `change_cases`. A positive coefficient of a feature for a class means that reviews with a
    high value tend to that class; regression to the mean alone makes those of the own rating negative and of the
    others' mean positive for "increase" (see `herding.half_split_placebo`): they license no causal reading.

    Source: sheet M7 and P.
    """
    data = change_cases(pairs, features=features, ranks=ranks, binary=binary)
    evaluation = evaluate(balanced_logistic, data)
    model = fit_softmax(data.x, data.y, class_weights=data.class_weights())
    return LogisticResult(
        features=data.features,
        classes=data.classes,
        n=evaluation.n,
        coefficients=pd.DataFrame(model.weights, index=list(data.features), columns=list(data.classes)),
        macro_f1_mean=evaluation.macro_f1_mean,
        macro_f1_std=evaluation.macro_f1_std,
        per_class_f1=evaluation.per_class_f1,
    )


def bootstrap_models(
    cases: Cases, *, draws: int, rng: np.random.Generator, balanced: bool = False
) -> list[SoftmaxModel]:
    """`fit_softmax` on papers resampled with replacement, `draws` times.

    Equal cases are merged first: ratings are few whole numbers, so some thousand distinct ones stand for all reviews.

    Args:
        cases: training data.
        draws: number of models.
        rng: source of the resampling.
        balanced: class weights balanced in each draw, as in M7; otherwise all 1, for calibrated probabilities.
    """
    # 9 digits: sums in different order leave equal features apart by rounding
    distinct, member = np.unique(np.column_stack([cases.x, cases.y]).round(9), axis=0, return_inverse=True)
    x, y = distinct[:, :-1], distinct[:, -1].astype(np.int64)
    papers, paper = np.unique(cases.paper, return_inverse=True)
    models = []
    for _ in range(draws):
        counts = resampling_counts(len(papers), 1, rng=rng)[0]
        case_weights = np.bincount(member, counts[paper], len(x))
        class_counts = np.bincount(y, case_weights, len(cases.classes))
        class_weights = _balanced_weights(class_counts) if balanced else np.ones(len(cases.classes))
        models.append(fit_softmax(x, y, class_weights=class_weights, case_weights=case_weights))
    return models


def coefficient_intervals(cases: Cases, *, draws: int, rng: np.random.Generator, level: float = 0.95) -> pd.DataFrame:
    """The coefficients of M7 with percentile intervals over resampled papers.

    Returns:
        Index (`feature`, `class`), columns `coefficient` (fit on all data), `low`, `high`.
    """
    estimate = fit_softmax(cases.x, cases.y, class_weights=cases.class_weights()).weights
    drawn = [model.weights for model in bootstrap_models(cases, draws=draws, rng=rng, balanced=True)]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    index = pd.MultiIndex.from_product([cases.features, cases.classes], names=["feature", "class"])
    return pd.DataFrame({"coefficient": estimate.ravel(), "low": low.ravel(), "high": high.ravel()}, index=index)


def coefficient_table(coefficients: pd.DataFrame) -> pd.DataFrame:
    """The paper's layout of a three-class model: a row a feature, by mean absolute coefficient, highest first.

    Args:
        coefficients: feature x `CLASSES`, as in `LogisticResult`, centred or not.

    Returns:
        Columns `mean_abs` = (|INC| + |KEEP| + |DEC|) / 3, `INC`, `KEEP`, `DEC`; the last three sum to zero.

    Example: DEC, KEEP, INC of 0.93, 0.08, -1.01 give the mean absolute coefficient 0.67.

    Source: sheet P, table.
    """
    if set(coefficients.columns) != set(CLASSES):
        raise ValueError(f"the table shows the classes {list(CLASSES)}, the model has {list(coefficients.columns)}")
    values = centred(coefficients[list(CLASSES)].to_numpy())
    table = pd.DataFrame(
        {"mean_abs": np.abs(values).mean(axis=1), "INC": values[:, 2], "KEEP": values[:, 1], "DEC": values[:, 0]},
        index=coefficients.index,
    )
    return table.sort_values("mean_abs", ascending=False, kind="stable")
