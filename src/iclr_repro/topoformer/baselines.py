"""What the method is compared with: plain implementations of the same formulas.

Shape letters: B = sequences, T = tokens, D = units, N = examples.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.stats
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclr_repro.topoformer.sheet import squared_distances


def materialised_attention(
    query_BTD: Float[Tensor, "*B T D"],
    key_BTD: Float[Tensor, "*B T D"],
    value_BTD: Float[Tensor, "*B T D"],
    pooling_DD: Float[Tensor, "D D"],
    padding_mask: Bool[Tensor, "*B T"] | None = None,
) -> tuple[Float[Tensor, "*B T D"], Float[Tensor, "*B T T"]]:
    """Attend with the score matrix in memory, as the authors' code does: A = softmax(Q M K^T / sqrt(d)), O = A V.

    Returns:
        O, and the attention weights A, whose rows sum to 1.
    """
    scores_BTT = query_BTD @ pooling_DD @ key_BTD.transpose(-1, -2) / math.sqrt(query_BTD.shape[-1])
    if padding_mask is not None:
        scores_BTT = scores_BTT.masked_fill(~padding_mask[..., None, :], -math.inf)
    attention_BTT = torch.softmax(scores_BTT, dim=-1)
    return attention_BTT @ value_BTD, attention_BTT


def topographic_statistic_by_loop(activations: Float[np.ndarray, "N D"]) -> float:
    """Compute t_g (exact distances, rank correlation) pair by pair: a loop over units, scipy for the ranks.

    The same number as `topographic_statistic(activations).mean`, for timing it.
    """
    num_examples, num_units = activations.shape
    squared_DD = squared_distances(num_units)
    centred = activations - activations.mean(axis=0)
    columns = np.ascontiguousarray((centred / centred.std(axis=0)).T)
    correlations, squares = [], []
    for u in range(num_units):
        for v in range(num_units):
            if u != v:
                correlations.append(float(columns[u] @ columns[v]) / num_examples)
                squares.append(int(squared_DD[u, v]))
    correlation_P, square_P = np.array(correlations), np.array(squares)
    found = []
    for tenths in range(1, 9):
        chosen = 100 * square_P <= tenths**2 * num_units
        if len(np.unique(square_P[chosen])) >= 2:
            found.append(-scipy.stats.spearmanr(correlation_P[chosen], np.sqrt(square_P[chosen])).statistic)
    return float(np.mean(found))
