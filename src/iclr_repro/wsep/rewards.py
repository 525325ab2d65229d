"""Rewards of learned skills that need no networks: WSEP (dual and primal), PWSEP, and goals.

Every reward learns from a rollout of all skills (`update`) and then pays each transition (`rewards`). Potentials are
frozen while the policy learns. No mean over a skill's own batch is subtracted: it would erase what skills differ in.

Shape letters: G = K = groups, one skill each, N = copies of a group, T = steps, B = N T samples, S = cells, D = state,
M = directions.

Source: sheet 2.7 and 4.4. How the paper's own rewards are computed could not be read; the sliced form follows arXiv
2110.07940.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from iclr_repro.wsep.policies import Rollout
from iclr_repro.wsep.transport import HullDistances, kantorovich

_HISTORY = 0.7  # share of the old histogram of cells
_DIRECTIONS = 5


@runtime_checkable
class SkillReward(Protocol):
    """Pays skills for transitions."""

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from the newest rollout; returns what was measured on it."""
        ...

    def rewards(self, rollout: Rollout) -> Tensor:
        """Return [G, N, T]."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all that later rewards depend on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        ...


class _Histograms:
    """Running histograms of the cells that each skill visits: 0.7 old + 0.3 new, counts plus one."""

    def __init__(self, metric: np.ndarray) -> None:
        self.metric = metric
        self.histograms: Tensor | None = None

    def observe(self, rollout: Rollout) -> np.ndarray:
        """Take in a rollout and return [G, S] histograms.

        Raises:
            ValueError: the world has no cells.
        """
        if rollout.cells is None:
            raise ValueError("this objective needs cells, which the world does not have: use the sliced or METRA form")
        num_cells = len(self.metric)
        visited = rollout.cells[:, :, 1:].flatten(1).cpu()  # programs are solved there
        counts = torch.stack([torch.bincount(row, minlength=num_cells) for row in visited]).double() + 1.0
        new = counts / counts.sum(dim=1, keepdim=True)
        old = self.histograms
        self.histograms = new if old is None else _HISTORY * old + (1.0 - _HISTORY) * new
        return self.histograms.numpy()

    def state_dict(self) -> dict[str, Any]:
        """Return the histograms."""
        return {"histograms": self.histograms}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self.histograms = state["histograms"]


def _pay_by_cell(rollout: Rollout, payments: Sequence[np.ndarray]) -> Tensor:
    """[G, N, T] the payment of the next state's cell."""
    assert rollout.cells is not None
    table = torch.from_numpy(np.stack(payments)).float().to(rollout.inputs.device)
    groups = torch.arange(len(table), device=table.device)[:, None, None]
    return table[groups, rollout.cells[:, :, 1:]]


class CellWsep(_Histograms):
    """WSEP, dual form: R = mean over the other skills j of f_zj(s') - <f_zj, p_j>, f_zj the Kantorovich potential.

    Exact potentials between histograms of cells.

    Args:
        metric: [S, S] distances between cells.
    """

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Solve the transport problems of all pairs; returns the mean W between skills."""
        skills = self.observe(rollout)
        total, self._payments = 0.0, []
        for own in range(len(skills)):
            paid = np.zeros(len(self.metric))
            for other in range(len(skills)):
                if other != own:
                    found = kantorovich(skills[own], skills[other], self.metric)
                    total += found.value
                    paid += found.potential - found.potential @ skills[other]
            self._payments.append(paid / (len(skills) - 1))
        return {"mean_distance": total / (len(skills) * (len(skills) - 1))}

    def rewards(self, rollout: Rollout) -> Tensor:
        """Pay each transition by the cell of its next state."""
        return _pay_by_cell(rollout, self._payments)


class CellPwsep(_Histograms):
    """PWSEP: R = f(s') - max_j <f, p_j>, f the potential of skill z against the hull of the skills j < z.

    All skills learn at the same time; the first one against the mean histogram of the first rollout. Exact potentials.

    Args:
        metric: [S, S] distances between cells.
    """

    def __init__(self, metric: np.ndarray) -> None:
        super().__init__(metric)
        self.reference: Tensor | None = None

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Solve the linear programs; returns the mean distance of a skill to the hull of those before it."""
        skills = self.observe(rollout)
        if self.reference is None:
            self.reference = torch.from_numpy(skills.mean(axis=0, keepdims=True))
        self._payments, distances = [], []
        for own in range(len(skills)):
            hull = skills[:own] if own else self.reference.numpy()
            found = HullDistances(hull, self.metric).to(skills[own])
            distances.append(found.value)
            self._payments.append(found.potential - (hull @ found.potential).max())
        return {"mean_hull_distance": float(np.mean(distances[1:] or distances))}

    def rewards(self, rollout: Rollout) -> Tensor:
        """Pay each transition by the cell of its next state."""
        return _pay_by_cell(rollout, self._payments)

    def state_dict(self) -> dict[str, Any]:
        """Return the histograms and the reference."""
        return {**super().state_dict(), "reference": self.reference}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        super().load_state_dict(state)
        self.reference = state["reference"]


class SlicedWsep:
    """WSEP, primal and sampled: the distance of a state to its match in another skill's sample, averaged over skills.

    Along each of M random directions the samples of two skills are sorted and matched by rank (they are equally many);
    a state is paid its Euclidean distance to its match, in the full space, averaged over directions and other skills.

    Args:
        generator: draws the directions.
        nearest: pay by the nearest other skill instead of all of them.
    """

    def __init__(self, *, generator: torch.Generator, nearest: bool = False) -> None:
        self._generator, self._nearest = generator, nearest

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Match the samples; returns the mean sliced distance."""
        samples_GBD = rollout.inputs[:, :, 1:].flatten(1, 2)
        num_groups, _, size = samples_GBD.shape
        paid_GGB = torch.zeros(num_groups, num_groups, samples_GBD.shape[1], device=samples_GBD.device)
        for _ in range(_DIRECTIONS):
            direction = torch.randn(size, generator=self._generator).to(samples_GBD.device)
            order_GB = (samples_GBD @ (direction / direction.norm())).argsort(dim=1)
            ranked_GBD = samples_GBD.gather(1, order_GB[..., None].expand_as(samples_GBD))
            apart_GGB = (ranked_GBD[:, None] - ranked_GBD[None]).norm(dim=-1)
            # From ranks back to the samples' own order.
            paid_GGB += torch.zeros_like(paid_GGB).scatter(2, order_GB[:, None].expand_as(apart_GGB), apart_GGB)
        paid_GGB /= _DIRECTIONS
        means_GG = paid_GGB.mean(dim=2)
        if self._nearest:
            itself = torch.eye(num_groups, dtype=torch.bool, device=means_GG.device)
            closest = means_GG.masked_fill(itself, math.inf).argmin(dim=1)
            chosen = paid_GGB[torch.arange(num_groups), closest]
        else:
            chosen = paid_GGB.sum(dim=1) / (num_groups - 1)
        self._paid = chosen.reshape(rollout.inputs.shape[0], rollout.inputs.shape[1], -1)
        return {"mean_distance": float(means_GG.sum() / (num_groups * (num_groups - 1)))}

    def rewards(self, rollout: Rollout) -> Tensor:
        """Pay each transition of the rollout that was last learnt from."""
        return self._paid

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: every rollout is matched anew."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore nothing."""


class GoalReward:
    """R = -(shortest path from the cell of s' to the goal) / (longest shortest path): a downstream task.

    Args:
        goals: [G] the cell of each group's task.
        metric: [S, S] distances between cells.
    """

    def __init__(self, goals: Sequence[int], metric: np.ndarray) -> None:
        self._payments = [-metric[goal] / metric.max() for goal in goals]

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn nothing; returns the mean reward."""
        return {"goal_return": float(self.rewards(rollout).mean())}

    def rewards(self, rollout: Rollout) -> Tensor:
        """Pay each transition by the cell of its next state."""
        return _pay_by_cell(rollout, self._payments)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore nothing."""
