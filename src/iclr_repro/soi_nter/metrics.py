"""What an explanation is judged by (sheet 5). Shape letters: B = inputs, N = features, R = relevant features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def recall(mask_BN: Float[Tensor, "B N"], features: Sequence[int]) -> float:
    """Return the mean share of `features` that the masks select; with k = |R| relevant features it is accuracy@k.

    Raises:
        ValueError: there is no feature.
    """
    return float(recall_of_each(mask_BN, features).mean())


def recall_of_each(mask_BN: Float[Tensor, "B N"], features: Sequence[int]) -> Float[Tensor, " R"]:
    """Return for each feature the share of masks that select it.

    Raises:
        ValueError: there is no feature or no mask.
    """
    if not len(features) or not len(mask_BN):
        raise ValueError(f"got {len(features)} features and {len(mask_BN)} masks, expected some of each")
    return mask_BN[:, list(features)].double().mean(dim=0)


def ranks(scores_BN: Float[Tensor, "B N"], *, generator: torch.Generator) -> Tensor:
    """Return the rank of each feature, 1 for the largest score; ties are broken at random.

    Scores are equal that agree to 1e-9 of the largest of their row: Shapley values of features that do nothing are 0 up
    to rounding, which differs between processes.

    Raises:
        ValueError: a score is NaN or infinite.
    """
    if (rows := int((~scores_BN.isfinite()).any(dim=1).sum())) > 0:
        raise ValueError(f"scores: NaN or infinite in {rows} of {len(scores_BN)} rows")
    scores_BN = scores_BN.double()
    largest_B1 = scores_BN.abs().amax(dim=1, keepdim=True)
    scores_BN = (scores_BN / largest_B1.clamp_min(torch.finfo(torch.float64).tiny) * 1e9).round()
    jitter = torch.rand(scores_BN.shape, generator=generator, dtype=torch.float64).to(scores_BN.device)
    order = torch.argsort(jitter, dim=1)
    by_score = torch.argsort(scores_BN.gather(1, order), dim=1, descending=True, stable=True)
    return order.gather(1, by_score).argsort(dim=1) + 1


def median_rank(scores_BN: Float[Tensor, "B N"], features: Sequence[int], *, generator: torch.Generator) -> float:
    """Return the mean over inputs of the median rank of `features`; at best (|R| + 1) / 2."""
    chosen = ranks(scores_BN, generator=generator)[:, list(features)].double()
    return float(torch.quantile(chosen, 0.5, dim=1).mean())


def agreement(first_B: Float[Tensor, " B"], second_B: Float[Tensor, " B"]) -> float:
    """Return the share of equal binary values: post-hoc accuracy, where one is on masked inputs."""
    return float((first_B == second_B).double().mean())


def f1_score(truth_B: Float[Tensor, " B"], predicted_B: Float[Tensor, " B"]) -> float:
    """Return 2 TP / (predicted + true positives); 0 where there is neither."""
    positives = float(truth_B.sum() + predicted_B.sum())
    return float(2 * (truth_B * predicted_B).sum()) / positives if positives else 0.0
