"""The head-only track: softmax regression on fixed features, many federations at once (sheet 7a).

Shape letters: S = independent draws, K = clients, N = texts of a client (padded), H = features, C = labels.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


def fit_softmax(
    x: Float[np.ndarray, "*K N H"],
    y: Int[np.ndarray, "*K N"],
    weights: Float[np.ndarray, "*K N"],
    *,
    steps: int,
    start: Float[np.ndarray, "*K H1 C"],
    learning_rate: float = 0.5,
    l2: float = 1e-3,
) -> Float[np.ndarray, "*K H1 C"]:
    """Take full-batch gradient steps on the mean cross-entropy plus l2/2 ||W||^2, each problem by itself.

    Args:
        x: features; a column of ones for the bias is added here.
        y: labels.
        weights: of each text in its client's mean, summing to 1; 0 is padding.
        steps: gradient steps.
        start: [H + 1, C] weights to start from, the last row the bias.
        learning_rate: step size.
        l2: penalty of W (not of the bias).
    """
    ones = np.concatenate([x, np.ones((*x.shape[:-1], 1))], axis=-1)
    targets = np.eye(start.shape[-1])[y]
    w = np.array(start)
    penalty = np.full((start.shape[-2], 1), l2)
    penalty[-1] = 0.0
    for _ in range(steps):
        error = (_softmax(ones @ w) - targets) * weights[..., None]
        w = w - learning_rate * (np.swapaxes(ones, -1, -2) @ error + penalty * w)
    return w


def federated_softmax(
    x: Float[np.ndarray, "K N H"],
    y: Int[np.ndarray, "K N"],
    sizes: Int[np.ndarray, " K"],
    *,
    num_labels: int,
    rounds: int,
    local_steps: int,
    exponent: float = 1.0,
) -> Float[np.ndarray, "H1 C"]:
    """Return the FedAvg of softmax regressions: clients take `local_steps` from the average, weighted by n_k^a."""
    weights = text_weights(sizes, x.shape[1])
    shares = sizes.astype(np.float64) ** exponent
    shares /= shares.sum()
    w = np.zeros((x.shape[-1] + 1, num_labels))
    for _ in range(rounds):
        own = fit_softmax(x, y, weights, steps=local_steps, start=np.broadcast_to(w, (len(x), *w.shape)))
        w = np.einsum("k,khc->hc", shares, own)
    return w


def text_weights(sizes: Int[np.ndarray, " K"], width: int) -> Float[np.ndarray, "K N"]:
    """Return 1 / n_k for the first n_k places of a client's row, 0 for its padding."""
    return np.where(np.arange(width) < sizes[:, None], 1.0 / sizes[:, None], 0.0)


def predicted(
    w: Float[np.ndarray, "H1 C"], x: Float[np.ndarray, "n H"], log_prior: Float[np.ndarray, " C"] | None = None
) -> Int[np.ndarray, " n"]:
    """Return the most probable labels, after adding a log prior where one is given."""
    scores = x @ w[:-1] + w[-1] + (0.0 if log_prior is None else log_prior)
    return np.asarray(scores.argmax(axis=1))


def log_frequencies(labels: Int[np.ndarray, " n"], num_labels: int) -> Float[np.ndarray, " C"]:
    """Return log((n_c + 1) / (n + C)), a client's label frequencies smoothed by one (prior correction, sheet 7)."""
    counts = np.bincount(labels, minlength=num_labels) + 1.0
    return np.asarray(np.log(counts / counts.sum()))


def _softmax(scores: np.ndarray) -> np.ndarray:
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(p / p.sum(axis=-1, keepdims=True))
