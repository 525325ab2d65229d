"""Losses of the energy network (sheet 2.3) and of the interpreter (2.4), a value for each row.

All are unchanged when a function of x alone is added to the energy. Shape letters: B = rows, C = answers, M = outputs.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from iclr_repro.soi_nter.energy import MAX_EXACT_OUTPUTS, Energy, all_outputs

Objective = Literal["diff", "cond", "free"]
EnergyLoss = Literal["nll", "hinge", "nce"]

# ----- of the energy network ----------------------------------------------------------------------------------------


def exact_nll(energy: Energy, x_BN: Float[Tensor, "B N"], y_BM: Float[Tensor, "B M"]) -> Float[Tensor, " B"]:
    """Return E(x, y) + log sum_{y'} exp(-E(x, y')) over all 2^M answers.

    Raises:
        ValueError: more than 10 outputs.
    """
    energies_BC = energy.of_candidates(x_BN, all_outputs(energy.n_outputs, like=x_BN))
    own_B = energies_BC.gather(1, answer_index(y_BM)[:, None])[:, 0]
    return own_B + torch.logsumexp(-energies_BC, dim=1)


def margin_hinge(
    energy: Energy,
    x_BN: Float[Tensor, "B N"],
    y_BM: Float[Tensor, "B M"],
    *,
    exact: bool = True,
    steps: int = 20,
    step_size: float = 0.5,
) -> Float[Tensor, " B"]:
    """Return max(0, max_{y'} [|y' - y|^2 - E(x, y')] + E(x, y)).

    Args:
        energy: E.
        x_BN: inputs.
        y_BM: answers of the black box.
        exact: the inner maximum over all 2^M answers; False: over [0, 1]^M by projected gradient ascent from 0, the
            answer found being held fixed.
        steps: of the ascent.
        step_size: of the ascent.

    Raises:
        ValueError: `exact` with more than 10 outputs.
    """
    if exact:
        candidates = all_outputs(energy.n_outputs, like=x_BN)
        energies_BC = energy.of_candidates(x_BN, candidates)
        own_B = energies_BC.gather(1, answer_index(y_BM)[:, None])[:, 0]
        distance_BC = (candidates[None] - y_BM[:, None]).square().sum(dim=-1)
        worst_B = (distance_BC - energies_BC).amax(dim=1)
    else:
        worst = torch.zeros_like(y_BM)
        for _ in range(steps):
            with torch.enable_grad():
                worst.requires_grad_(True)
                gain = (worst - y_BM).square().sum(1) - energy.of_candidates(x_BN.detach(), worst[:, None])[:, 0]
                (slope,) = torch.autograd.grad(gain.sum(), worst)
            worst = (worst.detach() + step_size * slope).clamp(0.0, 1.0)
        energies_B2 = energy.of_candidates(x_BN, torch.stack((worst, y_BM), dim=1))
        worst_B = (worst - y_BM).square().sum(dim=1) - energies_B2[:, 0]
        own_B = energies_B2[:, 1]
    return F.relu(worst_B + own_B)


def ranking_nce(
    energy: Energy, x_BN: Float[Tensor, "B N"], y_BM: Float[Tensor, "B M"], negatives_BSM: Float[Tensor, "B S M"]
) -> Float[Tensor, " B"]:
    """Return E(x, y) + log sum over y and the negatives of exp(-E); negatives equal to y do not count."""
    energies_BC = energy.of_candidates(x_BN, torch.cat((y_BM[:, None], negatives_BSM), dim=1))
    same_BS = (negatives_BSM == y_BM[:, None]).all(dim=-1)
    counts_BC = torch.cat((torch.zeros_like(same_BS[:, :1]), same_BS), dim=1)
    return energies_BC[:, 0] + torch.logsumexp((-energies_BC).masked_fill(counts_BC, -torch.inf), dim=1)


def draw_negatives(
    y_BM: Float[Tensor, "B M"], target_B: Int64[Tensor, " B"], num: int, *, generator: torch.Generator
) -> Float[Tensor, "B S M"]:
    """Draw `num` answers a row: half of them flips of y, bits with probability 1/M, half answers of other rows.

    The first flip flips the target's bit. Source: sheet 2.3c.
    """
    rows, outputs = y_BM.shape
    num_flips = num - num // 2
    flips = torch.rand((rows, num_flips, outputs), generator=generator) < 1.0 / outputs
    flips[torch.arange(rows), 0, target_B.cpu()] = True
    others = torch.randint(rows, (rows, num // 2), generator=generator).to(y_BM.device)
    return torch.cat(((y_BM[:, None] - flips.to(y_BM)).abs(), y_BM[others]), dim=1)


# ----- of the interpreter -------------------------------------------------------------------------------------------


def kept_answer(
    y_sb_BM: Float[Tensor, "B M"], y_masked_BM: Float[Tensor, "B M"], target_B: Int64[Tensor, " B"]
) -> Float[Tensor, "B M"]:
    """Return a = [y_t of the full input, the other outputs of the masked one]."""
    own_B1 = y_sb_BM.gather(1, target_B[:, None])
    return y_masked_BM.scatter(1, target_B[:, None], own_B1)


def interpreter_loss(
    objective: Objective,
    energy: Energy,
    x_masked_BN: Float[Tensor, "B N"],
    y_sb_BM: Float[Tensor, "B M"],
    y_masked_BM: Float[Tensor, "B M"],
    target_B: Int64[Tensor, " B"],
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " B"]:
    """Return the interpreter's loss of each row, on inputs that were multiplied by relaxed masks.

    diff: E(x~, a) - E(x~, y~), the paper's loss; 0 where the target's value is kept.
    cond: softplus(E(x~, a) - E(x~, b)), b being a with the target's bit flipped: -log p(y_t | y~_{-t}, x~).
    free: -log p(y_t | x~), over all answers up to 10 outputs; beyond them over y~, 16 answers as for `ranking_nce`, and
    all these with the target's bit flipped.

    Args:
        objective: one of the three; `diff` is from the paper, the others are decisions of the sheet.
        energy: E.
        x_masked_BN: x~.
        y_sb_BM: answers of the black box on the full inputs.
        y_masked_BM: y~, its answers on inputs with hard masks.
        target_B: t.
        generator: of the answers of `free` with more than 10 outputs.

    Raises:
        ValueError: an unknown objective, or no generator where one is needed.

    Source: sheet 2.4; the caption of the paper's Fig. 2 and a reviewer's description of its Eq. 5.
    """
    if objective not in get_args(Objective):
        raise ValueError(f"objective: got {objective!r}, expected one of {', '.join(get_args(Objective))}")
    kept_BM = kept_answer(y_sb_BM, y_masked_BM, target_B)
    if objective == "free":
        return _free_loss(energy, x_masked_BN, kept_BM, y_masked_BM, target_B, generator)
    other_BM = y_masked_BM if objective == "diff" else _flipped(kept_BM, target_B)
    energies_B2 = energy.of_candidates(x_masked_BN, torch.stack((kept_BM, other_BM), dim=1))
    difference_B = energies_B2[:, 0] - energies_B2[:, 1]
    return difference_B if objective == "diff" else F.softplus(difference_B)


def _free_loss(
    energy: Energy,
    x_BN: Tensor,
    kept_BM: Tensor,
    y_masked_BM: Tensor,
    target_B: Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    if energy.n_outputs <= MAX_EXACT_OUTPUTS:
        candidates = all_outputs(energy.n_outputs, like=x_BN)
        keeps_BC = candidates.T[target_B] == kept_BM.gather(1, target_B[:, None])
    else:
        if generator is None:
            raise ValueError("objective 'free' with more than 10 outputs draws answers: give a generator")
        drawn = torch.cat((y_masked_BM[:, None], draw_negatives(y_masked_BM, target_B, 16, generator=generator)), dim=1)
        index = target_B[:, None, None].expand(-1, drawn.shape[1], 1)
        value = kept_BM.gather(1, target_B[:, None])[:, None].expand(-1, drawn.shape[1], 1)
        candidates = torch.cat((drawn.scatter(2, index, value), drawn.scatter(2, index, 1.0 - value)), dim=1)
        keeps_BC = torch.arange(candidates.shape[1], device=x_BN.device)[None] < drawn.shape[1]
        keeps_BC = keeps_BC.expand(len(x_BN), -1)
    scores_BC = -energy.of_candidates(x_BN, candidates)
    return torch.logsumexp(scores_BC, 1) - torch.logsumexp(scores_BC.masked_fill(~keeps_BC, -torch.inf), 1)


def _flipped(y_BM: Tensor, target_B: Tensor) -> Tensor:
    return y_BM.scatter(1, target_B[:, None], 1.0 - y_BM.gather(1, target_B[:, None]))


def answer_index(y_BM: Float[Tensor, "B M"]) -> Int64[Tensor, " B"]:
    """Return the row of `all_outputs` that holds each answer: sum_j y_j 2^(M-1-j)."""
    powers = 2 ** torch.arange(y_BM.shape[1] - 1, -1, -1, device=y_BM.device)
    return (y_BM.long() * powers).sum(dim=1)


@torch.no_grad()
def target_probability(
    energy: Energy, x_BN: Float[Tensor, "B N"], target_B: Int64[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Return p(y_t = 1 | x), summed over the other outputs.

    Raises:
        ValueError: more than 10 outputs.
    """
    candidates = all_outputs(energy.n_outputs, like=x_BN)
    probabilities_BC = torch.softmax(-energy.of_candidates(x_BN, candidates), dim=1)
    return (probabilities_BC * candidates.T[target_B]).sum(dim=1)
