"""The method of the skeleton: named after an idea of the paper, it knows neither Hydra nor runs."""

from __future__ import annotations

import numpy as np
from jaxtyping import Integer


def share_of_heads(flips: Integer[np.ndarray, " N"]) -> float:
    """Return the share of heads.

    p = (1 / N) sum_i x_i

    Args:
        flips: [N], 1 is heads and 0 is tails.

    Raises:
        ValueError: there is no flip, or one that is neither 0 nor 1.

    Source: none; this is the skeleton's.
    Example: [1, 0, 1, 1] gives 0.75.
    """
    if flips.size == 0 or not np.isin(flips, (0, 1)).all():
        raise ValueError(f"flips: got {flips.tolist()[:10]}, expected at least one, each 0 (tails) or 1 (heads)")
    return float(flips.mean())
