"""The sample-size law: how well strengths from random comparisons follow the truth.

Source: sheet A, "Sample size law" (known theory; the constants of the paper's theorem are not available).
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

_NODES = 64


def mean_information(kappa: float = 1.0) -> float:
    """Return c = E[s(D) s(-D)], D = kappa (q_i - q_j), q ~ N(0, 1): the information of one comparison of random papers.

    Example: kappa 1 gives 0.1816.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    difference = kappa * np.sqrt(2.0) * nodes
    return float(weights @ (expit(difference) * expit(-difference)) / weights.sum())


def predicted_correlation(comparisons_per_paper: float, kappa: float = 1.0) -> float:
    """Return the Pearson correlation with the truth, 1 / sqrt(1 + 1 / (kappa^2 m c)): asymptotic, from m = 32 on.

    Raises:
        ValueError: a number of comparisons not above 0.

    Example: m = 32, kappa 1 gives 0.924.
    """
    if not comparisons_per_paper > 0:
        raise ValueError(f"expected a number of comparisons above 0, got {comparisons_per_paper}")
    return float(1 / np.sqrt(1 + 1 / (kappa**2 * comparisons_per_paper * mean_information(kappa))))
