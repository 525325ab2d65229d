"""What holds exactly (claim C8), as the largest violation on random energies, inputs and masks, in float64."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from iclr_repro.soi_nter.baselines import kernel_shap
from iclr_repro.soi_nter.black_boxes import SyntheticBlackBox, closed_form_e1
from iclr_repro.soi_nter.energy import Energy, EnergyNetwork, all_outputs
from iclr_repro.soi_nter.losses import draw_negatives, exact_nll, interpreter_loss, margin_hinge, ranking_nce

OBJECTIVES = ("diff", "cond", "free")
ZERO = (
    "diff_below_zero",
    "diff_on_unchanged_rows",
    "cond_is_softplus_of_diff",
    "gauge",
    "one_output_is_cross_entropy",
    "shapley_sum",
    "closed_form_of_e1",
)
FLAGS = ("some_rows_change", "some_rows_do_not")


class _Shifted:
    """An energy with a function of x alone added."""

    def __init__(self, energy: Energy) -> None:
        self.energy, self.n_outputs = energy, energy.n_outputs

    def of_candidates(self, x_BN: Tensor, y: Tensor) -> Tensor:
        return self.energy.of_candidates(x_BN, y) + 5.0 * torch.sin(x_BN.sum(dim=1, keepdim=True))


@torch.no_grad()
def violations(*, n_features: int, n_outputs: int, num: int, generator: torch.Generator) -> dict[str, float]:
    """Return the largest violation of each identity, 0 up to rounding, and two flags that must be 1.

    Args:
        n_features: N, at most 12 so that Shapley values are exact.
        n_outputs: M, at most 10.
        num: rows.
        generator: of all draws.
    """
    energy = _random_energy(n_features, n_outputs, generator)
    x, z = (torch.randn(num, n_features, generator=generator, dtype=torch.float64) for _ in range(2))
    masked = x * torch.sigmoid(z)
    target = torch.randint(n_outputs, (num,), generator=generator)
    outputs = all_outputs(n_outputs, like=x)
    answered = outputs[energy.of_candidates(masked, outputs).argmin(dim=1)]
    own = (torch.rand(num, n_outputs, generator=generator) < 0.5).double()
    changed = (own.gather(1, target[:, None]) != answered.gather(1, target[:, None]))[:, 0]
    diff, cond, _ = _losses(energy, masked, own, answered, target)
    negatives = draw_negatives(answered, target, 6, generator=generator)

    def everything(of: Energy) -> Tensor:
        fits = [exact_nll(of, masked, own), margin_hinge(of, masked, own), ranking_nce(of, masked, own, negatives)]
        return torch.stack([*fits, *_losses(of, masked, own, answered, target)])

    single = _random_energy(n_features, 1, generator)
    zeros = torch.zeros(num, dtype=torch.long)
    _, cond_1, free_1 = _losses(single, masked, own[:, :1], answered[:, :1], zeros)
    both = single.of_candidates(masked, all_outputs(1, like=x))
    entropy = F.binary_cross_entropy_with_logits(both[:, 0] - both[:, 1], own[:, 0], reduction="none")

    black_box = SyntheticBlackBox("E1", n_features)
    phi = kernel_shap(lambda points: black_box(points)[:, 0], x)
    difference = black_box(x)[:, 0] - black_box(torch.zeros_like(x))[:, 0]
    return {
        "diff_below_zero": _largest(diff.clamp_max(0.0)),
        "diff_on_unchanged_rows": _largest(diff[~changed]),
        "cond_is_softplus_of_diff": _largest((cond - F.softplus(diff))[changed]),
        "gauge": _largest(everything(energy) - everything(_Shifted(energy))),
        "one_output_is_cross_entropy": _largest(torch.stack((cond_1 - entropy, free_1 - entropy))),
        "shapley_sum": _largest(phi.sum(dim=1) - difference),
        "closed_form_of_e1": _largest(closed_form_e1(x) - black_box(x)),
        "some_rows_change": float(changed.any()),
        "some_rows_do_not": float((~changed).any()),
    }


def _losses(energy: Energy, x: Tensor, own: Tensor, answered: Tensor, target: Tensor) -> list[Tensor]:
    return [interpreter_loss(objective, energy, x, own, answered, target) for objective in OBJECTIVES]  # type: ignore[arg-type]


def _random_energy(n_features: int, n_outputs: int, generator: torch.Generator) -> EnergyNetwork:
    energy = EnergyNetwork(n_features, n_outputs, hidden=16).double()
    for parameter in energy.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return energy


def _largest(deviation: Tensor) -> float:
    return float(deviation.abs().max()) if deviation.numel() else float("nan")
