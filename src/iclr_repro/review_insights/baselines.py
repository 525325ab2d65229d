"""What the logistic change model is compared with, all judged by `predictors.evaluate` on the same folds.

Each baseline is a `Forecaster`: a function of training and test data. Models with balanced class weights decide by
their balanced probabilities and report probabilities at the class frequencies of the training data
(`balanced_forecast`).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from sklearn.ensemble import HistGradientBoostingClassifier

from iclr_repro.review_insights.predictors import (
    Cases,
    Forecast,
    Forecaster,
    balanced_forecast,
    balanced_logistic,
    change_cases,
    evaluate,
    log_losses,
)
from iclr_repro.review_insights.scores import ScorePairs

_LOG = logging.getLogger("iclr_repro")


def majority_class(train: Cases, test: Cases) -> Forecast:
    """The most frequent class of the training data for every review, with the class frequencies as probabilities."""
    frequencies = np.bincount(train.y, minlength=len(train.classes)) / len(train.y)
    labels = np.full(len(test.y), frequencies.argmax())
    return Forecast(labels, np.tile(frequencies, (len(test.y), 1)))


def own_rating_only(train: Cases, test: Cases) -> Forecast:
    """`balanced_logistic` with the reviewer's own initial rating as the only feature."""
    return balanced_logistic(train.columns("own_rating"), test.columns("own_rating"))


def regress_to_others(train: Cases, test: Cases) -> Forecast:
    """Increase if the others' mean lies at least tau above the own rating, else the other most frequent class.

    tau is the difference seen in training with the highest F1 of "increase" there, the smallest on a tie.

    Source: sheet, Baselines.
    """
    gaps, test_gaps = (
        data.x[:, data.features.index("others_mean")] - data.x[:, data.features.index("own_rating")]
        for data in (train, test)
    )
    increase = train.classes.index("increase")
    order = np.argsort(-gaps, kind="stable")
    hits = np.cumsum(train.y[order] == increase)
    # F1 = 2 TP / (forecast + true) when the i + 1 largest gaps are forecast to increase
    f1 = 2.0 * hits / (np.arange(1, len(gaps) + 1) + hits[-1])
    ends = np.append(np.diff(gaps[order]) != 0.0, True)  # equal gaps share one forecast
    candidates = np.flatnonzero(ends)
    best = candidates[f1[candidates] >= f1[candidates].max()][-1]
    tau = gaps[order][best]
    counts = np.bincount(train.y, minlength=len(train.classes))
    counts[increase] = -1
    return Forecast(np.where(test_gaps >= tau, increase, counts.argmax()))


# --- ordered logit ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class OrderedLogit:
    """Proportional odds: P(class <= j | x) = sigmoid(threshold_j - ((x - mean) / std) . coefficients).

    Attributes:
        mean: [num_features], of the training data.
        std: [num_features], population std; 1 for a constant feature.
        thresholds: [num_classes - 1], ascending.
        coefficients: [num_features]; positive moves towards the higher classes.
    """

    mean: np.ndarray
    std: np.ndarray
    thresholds: np.ndarray
    coefficients: np.ndarray

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """[num_reviews, num_classes], rows sum to one."""
        score = (x - self.mean) / self.std @ self.coefficients
        below = expit(self.thresholds - score[:, None])
        return np.diff(below, axis=1, prepend=0.0, append=1.0)


def ordered_logit_loss(
    parameters: np.ndarray, x: np.ndarray, y: np.ndarray, weights: np.ndarray, num_classes: int
) -> tuple[float, np.ndarray]:
    """Weighted negative log-likelihood of the ordered logit, plus 0.5 ||coefficients||^2, and its gradient.

    With a, b the upper and lower threshold of the true class minus the score,
    p = sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), whose logarithm does not cancel in the tails;
    d log p / da = sigmoid(-a) + r and d log p / db = -sigmoid(b) - r with r = 1 / (exp(a - b) - 1).

    Args:
        parameters: [num_classes - 1 + num_features]: the first threshold, the logarithms of the gaps to the next ones
            (so that they ascend for any parameters), the coefficients.
        x: [n, num_features].
        y: [n] classes 0..num_classes-1.
        weights: [n] case weights.
        num_classes: three or more, or two for a plain logit.

    Returns:
        The loss and its gradient, in the shape of `parameters`.
    """
    num_thresholds = num_classes - 1
    gaps = np.exp(parameters[1:num_thresholds])
    thresholds = parameters[0] + np.concatenate([[0.0], np.cumsum(gaps)])
    coefficients = parameters[num_thresholds:]
    bounds = np.concatenate([[-np.inf], thresholds, [np.inf]])
    score = x @ coefficients
    a, b = bounds[y + 1] - score, bounds[y] - score
    log_p = log_expit(a) + log_expit(-b) + np.log1p(-np.exp(b - a))
    loss = -(weights @ log_p) + 0.5 * coefficients @ coefficients

    with np.errstate(over="ignore"):  # exp overflows to inf for far thresholds, where r is 0 indeed
        ratio = 1.0 / np.expm1(a - b)
    d_a, d_b = weights * (expit(-a) + ratio), -weights * (expit(b) + ratio)
    d_bounds = np.bincount(y + 1, d_a, num_classes + 1) + np.bincount(y, d_b, num_classes + 1)
    d_thresholds = d_bounds[1:-1]
    d_gaps = gaps * np.cumsum(d_thresholds[::-1])[::-1][1:]  # a gap shifts all the thresholds above it
    d_coefficients = -(d_a + d_b) @ x - coefficients
    return float(loss), -np.concatenate([[d_thresholds.sum()], d_gaps, d_coefficients])


def fit_ordered_logit(x: np.ndarray, y: np.ndarray, *, class_weights: np.ndarray) -> OrderedLogit:
    """Fit the ordered logit by L-BFGS, features standardised, with the penalty and class weights of M7.

    Args:
        x: [n, num_features].
        y: [n] classes in their order, 0..num_classes-1, each present.
        class_weights: [num_classes].

    Raises:
        ValueError: a class without a case, whose thresholds could not be told.
        RuntimeError: no convergence.
    """
    num_classes = len(class_weights)
    counts = np.bincount(y, minlength=num_classes)
    if (counts == 0).any():
        raise ValueError(f"classes have {counts.tolist()} cases: the thresholds of an ordered logit need some of each")
    mean, std = x.mean(axis=0), x.std(axis=0)
    std[std == 0.0] = 1.0
    weights = class_weights[y]
    shares = np.cumsum(np.bincount(y, weights))[:-1] / weights.sum()
    thresholds = np.log(shares / (1.0 - shares))  # the optimum at coefficients zero
    start = np.concatenate([thresholds[:1], np.log(np.diff(thresholds)), np.zeros(x.shape[1])])
    fit = minimize(
        ordered_logit_loss,
        start,
        args=((x - mean) / std, y, weights, num_classes),
        jac=True,
        method="L-BFGS-B",
        options={"gtol": 1e-6, "maxiter": 1000},
    )
    if not fit.success:
        raise RuntimeError(f"the ordered logit did not converge in {fit.nit} steps: {fit.message}")
    found = fit.x[: num_classes - 1]
    thresholds = found[0] + np.concatenate([[0.0], np.cumsum(np.exp(found[1:]))])
    return OrderedLogit(mean, std, thresholds, fit.x[num_classes - 1 :])


def ordered_logit(train: Cases, test: Cases) -> Forecast:
    """Forecaster: ordered logit with balanced class weights, decrease < keep < increase."""
    weights = train.class_weights()
    return balanced_forecast(fit_ordered_logit(train.x, train.y, class_weights=weights).probabilities(test.x), weights)


# --- gradient boosting -----------------------------------------------------------------------------------------------

_LEAVES = (4, 12)
_MAX_TREES = 120
_TREE_STEP = 20


def _boosting(leaves: int, trees: int) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(
        learning_rate=0.1,
        max_iter=trees,
        max_leaf_nodes=leaves,
        min_samples_leaf=20,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=0,  # binning draws nothing below 200,000 rows: the fit is deterministic
    )


def _with_all_classes(probabilities: np.ndarray, present: np.ndarray, num_classes: int) -> np.ndarray:
    full = np.zeros((len(probabilities), num_classes))
    full[:, present] = probabilities
    return full


def gradient_boosting(train: Cases, test: Cases) -> Forecast:
    """Forecaster: boosted trees with balanced class weights, tuned inside the training folds.

    One of the training folds is set aside (all reviews of its papers), trees of 4 and 12 leaves are grown on the
    others, and the number of leaves and of trees (20, 40, .. 120) with the lowest balanced log loss on it is fitted to
    the whole training data.

    Source: sheet, Baselines (the grid is ours).
    """
    weights = train.class_weights()
    aside = train.fold == train.fold.max()
    inner, validation = train.rows(~aside), train.rows(aside)
    scores = {}
    for leaves in _LEAVES:
        model = _boosting(leaves, _MAX_TREES).fit(inner.x, inner.y, sample_weight=weights[inner.y])
        for trees, staged in enumerate(model.staged_predict_proba(validation.x), start=1):
            if trees % _TREE_STEP == 0:
                full = _with_all_classes(staged, model.classes_, len(weights))
                scores[leaves, trees] = weights[validation.y] @ log_losses(full, validation.y)
    leaves, trees = min(scores, key=lambda setting: scores[setting])
    model = _boosting(leaves, trees).fit(train.x, train.y, sample_weight=weights[train.y])
    probabilities = _with_all_classes(model.predict_proba(test.x), model.classes_, len(weights))
    return balanced_forecast(probabilities, weights)


FORECASTERS: Mapping[str, Forecaster] = MappingProxyType(
    {
        "majority": majority_class,
        "own_rating": own_rating_only,
        "regress_to_others": regress_to_others,
        "ordered_logit": ordered_logit,
        "logistic": balanced_logistic,
        "boosting": gradient_boosting,
    }
)
"""Name -> forecaster; "logistic" is M7 itself."""


def compare(
    pairs: ScorePairs, *, binary: bool = False, ranks: bool = False, models: Sequence[str] = tuple(FORECASTERS)
) -> pd.DataFrame:
    """Forecasters on the same reviews and folds.

    One that cannot be fitted, because some training data hold too few cases of a class, is left out with a warning.

    Args:
        pairs: scores in reviewer order.
        binary: see `change_cases`.
        ranks: see `change_cases`.
        models: names out of `FORECASTERS`.

    Returns:
        A row a forecaster: `n`, `macro_f1`, `macro_f1_std` over folds, `f1_<class>`, `log_loss` (NaN without
        probabilities).
    """
    data = change_cases(pairs, binary=binary, ranks=ranks)
    rows = {}
    for name in models:
        try:
            result = evaluate(FORECASTERS[name], data)
        except (ValueError, RuntimeError) as error:
            _LOG.warning("%s is left out of the comparison: it could not be fitted (%s)", name, error)
            continue
        rows[name] = {
            "n": result.n,
            "macro_f1": result.macro_f1_mean,
            "macro_f1_std": result.macro_f1_std,
            **{f"f1_{label}": value for label, value in result.per_class_f1.items()},
            "log_loss": np.nan if result.log_loss is None else result.log_loss,
        }
    return pd.DataFrame.from_dict(rows, orient="index")
