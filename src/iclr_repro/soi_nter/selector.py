"""The selector network and its k-hot masks, relaxed for training and hard for everything else (sheet 2.2).

Shape letters: B = inputs, N = features, K = features to select.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn


class Selector(nn.Module):
    """W_alpha: logits of the features, N -> hidden -> hidden -> N with ReLU, torch's default initial weights.

    Args:
        n_inputs: width of x.
        n_features: N, of the logits; differs from `n_inputs` where features are groups of inputs.
        hidden: units of the two hidden layers.
        n_targets: with a number, one selector explains that many targets: an embedding of the target is added to the
            first layer. None: one target.

    Source: sheet 2.2 (the parts from the paper's Fig. 2, the layers from L2X).
    """

    def __init__(self, n_inputs: int, n_features: int, *, hidden: int = 100, n_targets: int | None = None) -> None:
        super().__init__()
        self.first = nn.Linear(n_inputs, hidden)
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, n_features))
        self.of_target = None if n_targets is None else nn.Embedding(n_targets, hidden)

    def forward(self, x_BN: Float[Tensor, "B inputs"], target_B: Int64[Tensor, " B"]) -> Float[Tensor, "B N"]:
        """Return the logits; the targets matter to a selector for several targets only."""
        h = self.first(x_BN)
        if self.of_target is not None:
            h = h + self.of_target(target_B)
        logits_BN: Tensor = self.rest(h)
        return logits_BN


def relaxed_top_k(
    logits_BN: Float[Tensor, "B N"],
    k: int,
    tau: float,
    *,
    generator: torch.Generator | None = None,
    uniform_BKN: Float[Tensor, "B K N"] | None = None,
) -> Float[Tensor, "B N"]:
    """Draw a relaxed k-hot mask: z = max_j softmax((l - log(-log u_j)) / tau) for j = 1..k, elementwise.

    Each z is in (0, 1] and their sum in [1, k]: draws are with replacement, so that fewer than k features may be hit.

    Args:
        logits_BN: l.
        k: draws, 1 to N.
        tau: temperature > 0; near 0 the mask is nearly hard.
        generator: of u, uniform in (0, 1).
        uniform_BKN: u itself, in place of a generator.

    Raises:
        ValueError: k or tau is out of range, or neither or both of `generator` and `uniform_BKN` are given.

    Source: sheet 2.2, the formula of the L2X authors' code.
    """
    _check_k(k, logits_BN.shape[1])
    if not tau > 0.0:
        raise ValueError(f"tau: got {tau}, expected > 0")
    if (generator is None) == (uniform_BKN is None):
        raise ValueError("give either a generator or the uniform draws")
    if uniform_BKN is None:
        shape = (len(logits_BN), k, logits_BN.shape[1])
        drawn = torch.rand(shape, generator=generator, dtype=logits_BN.dtype)
        uniform_BKN = drawn.clamp_min(torch.finfo(drawn.dtype).tiny).to(logits_BN.device)
    gumbel_BKN = -torch.log(-torch.log(uniform_BKN))
    return torch.softmax((logits_BN[:, None] + gumbel_BKN) / tau, dim=-1).amax(dim=1)


def hard_top_k(scores_BN: Float[Tensor, "B N"], k: int) -> Float[Tensor, "B N"]:
    """Return 1 at the k largest scores of a row and 0 elsewhere; equal scores go to the lower index.

    Raises:
        ValueError: k is not in 1..N, or a score is NaN: its row would be ordered by index, a mask like any other.
    """
    _check_k(k, scores_BN.shape[1])
    if (rows := int(scores_BN.isnan().any(dim=1).sum())) > 0:
        raise ValueError(f"scores: NaN in {rows} of {len(scores_BN)} rows; did the training diverge?")
    chosen = torch.argsort(scores_BN, dim=1, descending=True, stable=True)[:, :k]
    return torch.zeros_like(scores_BN).scatter_(1, chosen, 1.0)


def _check_k(k: int, n_features: int) -> None:
    if not 1 <= k <= n_features:
        raise ValueError(f"k: got {k}, expected 1 to the number of features, {n_features}")
