"""Multinomial logistic regression with the objective, the standardisation and the centring of the sheet (M7)."""

from dataclasses import dataclass

import numpy as np
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression


@dataclass(frozen=True, eq=False)
class SoftmaxModel:
    """p(class | x) = softmax(((x - mean) / std) W + b), the rows of W and b summing to zero over the classes.

    Attributes:
        mean: [num_features], of the training data.
        std: [num_features], population std; 1 for a constant feature.
        weights: [num_features, num_classes] W; 0 for a class that the training data lack.
        intercepts: [num_classes] b; -inf for such a class.
    """

    mean: np.ndarray
    std: np.ndarray
    weights: np.ndarray
    intercepts: np.ndarray

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """[num_reviews, num_classes], rows sum to one."""
        return np.asarray(softmax((x - self.mean) / self.std @ self.weights + self.intercepts, axis=1))


def fit_softmax(
    x: np.ndarray, y: np.ndarray, *, class_weights: np.ndarray, case_weights: np.ndarray | None = None
) -> SoftmaxModel:
    """Minimise sum_i v_i w_{y_i} CE_i + 0.5 ||W||_F^2 over W and the unpenalised intercepts, features standardised.

    Scikit-learn solves it at C = 1. With two classes it has one coefficient vector u, the difference of ours: the
    penalty 0.5 ||W||_F^2 at W = (-u/2, u/2) is 0.25 ||u||^2, which is its C = 2.

    Args:
        x: [n, num_features].
        y: [n] classes 0..num_classes-1.
        class_weights: [num_classes] w.
        case_weights: [n] v, e.g. how often a bootstrap draw holds the case; the standardisation uses them too.

    Raises:
        ValueError: all cases are of one class.

    Source: sheet M7.
    """
    present = np.unique(y if case_weights is None else y[case_weights > 0])
    if len(present) < 2:
        raise ValueError(
            f"all training reviews are of class {present.tolist()}: a regression needs two or more classes"
        )
    mean = np.average(x, axis=0, weights=case_weights)
    std = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=case_weights))
    std[std == 0.0] = 1.0
    weights = class_weights[y] if case_weights is None else class_weights[y] * case_weights
    model = LogisticRegression(C=2.0 if len(present) == 2 else 1.0, max_iter=1000, tol=1e-6)
    model.fit((x - mean) / std, y, sample_weight=weights)
    coefficients, intercepts = model.coef_.T, model.intercept_
    if len(present) == 2:
        coefficients = coefficients * [-0.5, 0.5]
        intercepts = intercepts * [-0.5, 0.5]
    all_weights = np.zeros((x.shape[1], len(class_weights)))
    all_weights[:, present] = centred(coefficients)
    all_intercepts = np.full(len(class_weights), -np.inf)
    all_intercepts[present] = intercepts - intercepts.mean()
    return SoftmaxModel(mean, std, all_weights, all_intercepts)


def centred(coefficients: np.ndarray) -> np.ndarray:
    """Softmax coefficients [num_features, num_classes], shifted so that each feature's sum to zero over the classes.

    A softmax is blind to the shift. Example: (2, 3, 7) becomes (-2, -1, 3).
    """
    return np.asarray(coefficients - coefficients.mean(axis=1, keepdims=True))
