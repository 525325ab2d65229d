"""Through which outputs a feature acts on the target, by interventions on an energy (ours, sheet 12.1).

Shape letters: B = inputs, N = features, M = outputs; S and R are outputs too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclr_repro.soi_nter.energy import Energy


@dataclass(frozen=True, eq=False)
class InteractionPaths:
    """How features reach outputs.

    Attributes:
        direct: [B, N, M], |change of p(y_s = 1 | the other outputs, x)| when a feature becomes the baseline.
        links: [B, M, M], [s, r] is |change of p(y_r = 1 | the other outputs, x)| when y_s is flipped.
        strength: [B, N], of the strongest path from a feature to the target, the product of its steps.
        routes: for each input and feature the outputs of that path, the target last; () where the strength is 0.
    """

    direct: Tensor
    links: Tensor
    strength: Tensor
    routes: tuple[tuple[tuple[int, ...], ...], ...]

    def described(self, row: int, features: Sequence[int]) -> list[str]:
        """Write out paths, counted from 1, such as "x3 -> y2 -> y1"."""
        return [
            " -> ".join([f"x{feature + 1}", *(f"y{output + 1}" for output in self.routes[row][feature])])
            for feature in features
            if self.routes[row][feature]
        ]


@torch.no_grad()
def interaction_paths(
    energy: Energy,
    x_BN: Float[Tensor, "B N"],
    y_BM: Float[Tensor, "B M"],
    target: int,
    *,
    baseline_N: Float[Tensor, " N"] | None = None,
) -> InteractionPaths:
    """Find the strongest path from each feature to the target in p(y | x) ~ exp(-E(x, y)), around the answers y.

    A feature acts on y_s directly where removing it changes p(y_s | the other outputs held at y); y_s acts on y_r where
    flipping it does. A path's strength is the product of these changes.

    Args:
        energy: learned, or a formula with `of_candidates`.
        x_BN: inputs, masked by the explanation if only its features shall count.
        y_BM: the black box's answers to them.
        target: t, 0 to M - 1.
        baseline_N: what a removed feature becomes; None: 0.

    Raises:
        ValueError: the target is no output of the energy.
    """
    num_outputs = energy.n_outputs
    if not 0 <= target < num_outputs:
        raise ValueError(f"target: got {target}, expected 0 to {num_outputs - 1}")
    num_B, num_N = x_BN.shape
    baseline = torch.zeros_like(x_BN[0]) if baseline_N is None else baseline_N
    own_BM = _conditionals(energy, x_BN, y_BM)
    removed_BNN = torch.where(torch.eye(num_N, device=x_BN.device).bool(), baseline, x_BN[:, None])
    without = _conditionals(energy, removed_BNN.flatten(0, 1), y_BM.repeat_interleave(num_N, 0))
    direct_BNM = (own_BM[:, None] - without.reshape(num_B, num_N, num_outputs)).abs()
    flipped_BMM = (y_BM[:, None] - torch.eye(num_outputs).to(y_BM)).abs()
    with_flip = _conditionals(energy, x_BN.repeat_interleave(num_outputs, 0), flipped_BMM.flatten(0, 1))
    links_BSR = (own_BM[:, None] - with_flip.reshape(num_B, num_outputs, num_outputs)).abs()
    links_BSR.diagonal(dim1=1, dim2=2).zero_()

    reach_BNM = direct_BNM
    best: dict[int, list[list[tuple[int, ...]]]] = {
        s: [[(s,)] * num_N for _ in range(num_B)] for s in range(num_outputs)
    }
    for _ in range(num_outputs - 1):
        through_BNSR = reach_BNM[..., None] * links_BSR[:, None]
        value_BNR, by_BNR = through_BNSR.max(dim=2)
        longer = value_BNR > reach_BNM
        previous = {s: [list(row) for row in best[s]] for s in best}
        for b, n, r in longer.nonzero().tolist():
            best[r][b][n] = (*previous[int(by_BNR[b, n, r])][b][n], r)
        reach_BNM = torch.where(longer, value_BNR, reach_BNM)
    strength_BN = reach_BNM[..., target]
    found = tuple(
        tuple(best[target][b][n] if strength_BN[b, n] > 0 else () for n in range(num_N)) for b in range(num_B)
    )
    return InteractionPaths(direct_BNM, links_BSR, strength_BN, found)


def _conditionals(energy: Energy, x_BN: Tensor, y_BM: Tensor) -> Tensor:
    """Return [B, M] p(y_s = 1 | the other outputs at y, x)."""
    num = y_BM.shape[1]
    eye = torch.eye(num, dtype=torch.bool, device=y_BM.device)
    zero_BMM, one_BMM = (torch.where(eye, value, y_BM[:, None]) for value in (0.0, 1.0))
    energies = energy.of_candidates(x_BN, torch.cat((zero_BMM, one_BMM), dim=1))
    return torch.sigmoid(energies[:, :num] - energies[:, num:])
