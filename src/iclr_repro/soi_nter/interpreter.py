"""SOInter: a selector trained by differences of energies, alternating with the energy network (sheet 2)."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from iclr_repro.soi_nter.energy import MAX_EXACT_OUTPUTS, EnergyKind, EnergyModule, make_energy
from iclr_repro.soi_nter.explainer import AmortisedExplainer, BlackBox, Target
from iclr_repro.soi_nter.losses import (
    EnergyLoss,
    Objective,
    draw_negatives,
    exact_nll,
    interpreter_loss,
    margin_hinge,
    ranking_nce,
    target_probability,
)
from iclr_repro.soi_nter.selector import hard_top_k, relaxed_top_k

_NEGATIVES = 16  # sheet 2.3c


class SOInter(AmortisedExplainer):
    """Explain one binary output of a black box that gives many at once.

    1. Pre-train E_q on pairs (x', sb(x')): a third of them full inputs, the rest with random features removed.
    2. Alternate: one Adam step of the selector on the interpreter's loss, with E_q fixed and given the relaxed mask,
    the black box the hard one; one Adam step of E_q on (x, sb(x)) and the pair just asked for.

    Example:
        soi = SOInter(black_box, n_features=10, n_outputs=2, target=0, k=4, objective="free")
        soi.fit(x)
        soi.explain(x[:5])  # [5, 10], four ones a row

    Args:
        black_box, n_features, n_outputs, target, k: see `AmortisedExplainer`.
        objective: "diff", the paper's loss, "cond" or "free" (see `losses.interpreter_loss`). `diff` learns from inputs
            whose target changes and may miss indirect features for good; `free` learns from every input.
        structured: False is the control: an energy of the target alone, all else equal.
        energy: "mlp" (few outputs), "spen" (many) or "conv" (images).
        energy_loss: "nll" (exact, at most 10 outputs), "hinge" or "nce"; None: nll where it can be, nce elsewhere.
        pretrain_steps: of E_q before the selector's first.
        options: of `AmortisedExplainer`.

    Attributes:
        energy: E_q; of one output where `structured` is False.

    Raises:
        ValueError: an argument does not fit, such as energy_loss="nll" with more than 10 outputs.

    Source: sheet 2; architecture and training are decisions, since the paper's full text was not available.
    """

    def __init__(
        self,
        black_box: BlackBox,
        n_features: int,
        n_outputs: int,
        target: Target,
        k: int,
        *,
        objective: Objective = "diff",
        structured: bool = True,
        energy: EnergyKind = "mlp",
        energy_loss: EnergyLoss | None = None,
        pretrain_steps: int = 1000,
        **options: Any,
    ) -> None:
        if objective not in get_args(Objective):
            raise ValueError(f"objective: got {objective!r}, expected one of {', '.join(get_args(Objective))}")
        if pretrain_steps < 0:
            raise ValueError(f"pretrain_steps: got {pretrain_steps}, expected >= 0")
        if not structured and target == "all":
            raise ValueError("structured=False knows one output only: give a target instead of 'all'")
        if not structured and energy == "conv":
            raise ValueError("structured=False has one output: use energy='mlp'")
        self.modelled_outputs = n_outputs if structured else 1
        few = self.modelled_outputs <= MAX_EXACT_OUTPUTS
        energy_loss = energy_loss or ("nll" if few else "nce")
        if energy_loss not in get_args(EnergyLoss):
            raise ValueError(f"energy_loss: got {energy_loss!r}, expected one of {', '.join(get_args(EnergyLoss))}")
        if energy_loss == "nll" and not few:
            raise ValueError(
                f"energy_loss 'nll' sums over 2^{n_outputs} answers, at most 2^{MAX_EXACT_OUTPUTS} are possible:"
                " use energy_loss='nce' or 'hinge'"
            )
        self.objective, self.structured, self.energy_kind, self.energy_loss = objective, structured, energy, energy_loss
        super().__init__(black_box, n_features, n_outputs, target, k, **options)
        self.total_steps = pretrain_steps + self.steps

    def _build(self) -> dict[str, nn.Module]:
        self.energy: EnergyModule = make_energy(
            self.energy_kind, self.n_features, self.modelled_outputs, hidden=self.hidden
        )
        return {"energy": self.energy}

    def _update(self) -> dict[str, float]:
        x_BD, y_BM, target_B = self._batch()
        if self._done < self.total_steps - self.steps:
            x_BD = self.masked(x_BD, self._random_masks(len(x_BD)))
            return {"energy_loss": self._energy_step(x_BD, self.black_box(x_BD), target_B)}
        relaxed_BN = relaxed_top_k(self.selector(x_BD, target_B), self.k, self.tau, generator=self._generator)
        hard_BD = self.masked(x_BD, hard_top_k(relaxed_BN.detach(), self.k))
        answered_BM = self.black_box(hard_BD)
        found = self._selector_step(self.masked(x_BD, relaxed_BN), y_BM, answered_BM, target_B)
        both = torch.cat((x_BD, hard_BD)), torch.cat((y_BM, answered_BM)), target_B.repeat(2)
        return {**found, "energy_loss": self._energy_step(*both)}

    def _selector_step(self, x_BD: Tensor, y_BM: Tensor, answered_BM: Tensor, target_B: Tensor) -> dict[str, float]:
        y, answered, target = *(self._modelled(part, target_B) for part in (y_BM, answered_BM)), self._index(target_B)
        loss_B = interpreter_loss(self.objective, self.energy, x_BD, y, answered, target, generator=self._generator)
        loss = loss_B.mean()
        self._optimizers["selector"].zero_grad()
        loss.backward(inputs=list(self.selector.parameters()))
        self._optimizers["selector"].step()
        own = [part.gather(1, target[:, None]) for part in (y, answered)]
        return {
            "interpreter_loss": loss.item(),
            "changed": (own[0] != own[1]).float().mean().item(),
            "negative": (loss_B < 0.0).float().mean().item(),  # the health of E_q where `diff` is below 0
        }

    def _energy_step(self, x_BD: Tensor, y_BM: Tensor, target_B: Tensor) -> float:
        x_BD, y, target = x_BD.detach(), self._modelled(y_BM, target_B), self._index(target_B)
        if self.energy_loss == "nll":
            loss = exact_nll(self.energy, x_BD, y).mean()
        elif self.energy_loss == "hinge":
            loss = margin_hinge(self.energy, x_BD, y, exact=self.modelled_outputs <= MAX_EXACT_OUTPUTS).mean()
        else:
            negatives = draw_negatives(y, target, _NEGATIVES, generator=self._generator)
            loss = ranking_nce(self.energy, x_BD, y, negatives).mean()
        self._optimizers["energy"].zero_grad()
        loss.backward(inputs=list(self.energy.parameters()))
        self._optimizers["energy"].step()
        return loss.item()

    def _random_masks(self, num: int) -> Tensor:
        """A third all ones, the rest with P(keep) uniform in (0, 1) for each row."""
        kept_B1 = torch.rand((num, 1), generator=self._generator)
        kept_B1[: num // 3] = 1.0
        drawn = torch.rand((num, self.num_selectable), generator=self._generator) < kept_B1
        return drawn.float().to(self.device)

    def _modelled(self, y_BM: Tensor, target_B: Tensor) -> Tensor:
        """The outputs that the energy is about: all, or the target alone."""
        return y_BM if self.structured else y_BM.gather(1, target_B[:, None])

    def _index(self, target_B: Tensor) -> Tensor:
        return target_B if self.structured else torch.zeros_like(target_B)

    @torch.no_grad()
    def adaptive_masks(self, x: Tensor | np.ndarray, *, confidence: float = 0.95, target: int | None = None) -> Tensor:
        """Return [B, N] masks with the fewest features for which E_q gives the target's value that probability.

        The value is the one that E_q finds likelier on the full input; where no number of features reaches the
        confidence, all are selected. Asks no black box.

        Raises:
            ValueError: the confidence is not in (0.5, 1), more than 10 outputs, or see `scores`.
        """
        if not 0.5 < confidence < 1.0:
            raise ValueError(f"confidence: got {confidence}, expected in (0.5, 1)")
        x_BD, scores_BN = self._inputs(x), self.scores(x, target=target)
        target_B = self._index(self._target_rows(target, len(x_BD)))
        own_B = target_probability(self.energy, x_BD, target_B) > 0.5
        chosen = torch.ones_like(scores_BN)
        for k in range(self.num_selectable, 0, -1):
            mask = hard_top_k(scores_BN, k)
            probability_B = target_probability(self.energy, self.masked(x_BD, mask), target_B)
            sure_B = torch.where(own_B, probability_B, 1.0 - probability_B) >= confidence
            chosen = torch.where(sure_B[:, None], mask, chosen)
        return chosen
