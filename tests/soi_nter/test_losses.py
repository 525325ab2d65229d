"""Losses that draw or search, against the exact ones where both are known."""

from __future__ import annotations

import numpy as np
import torch

from iclr_repro.soi_nter import (
    EnergyNetwork,
    SpenEnergy,
    all_outputs,
    exact_nll,
    interpreter_loss,
    margin_hinge,
    ranking_nce,
)
from iclr_repro.soi_nter.losses import draw_negatives


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def answers(rows: int, outputs: int, seed: int = 1) -> torch.Tensor:
    return (draws(rows, outputs, seed=seed) > 0).double()


def independent(outputs: int) -> SpenEnergy:
    """E(x, y) = -y . b(x): outputs do not act on each other."""
    energy = SpenEnergy(5, outputs, hidden=7, gated=False).double()
    energy.weights.data.zero_()
    return energy


def test_ranking_against_all_answers_is_the_exact_likelihood() -> None:
    energy, x, y = EnergyNetwork(5, 3, hidden=7).double(), draws(9, 5), answers(9, 3)
    everything = all_outputs(3, like=x).expand(9, -1, -1)
    found = ranking_nce(energy, x, y, everything)  # holds y itself, which does not count twice
    np.testing.assert_allclose(found.detach(), exact_nll(energy, x, y).detach(), rtol=1e-12)


def test_negatives_are_flips_of_the_answer_and_answers_of_other_rows() -> None:
    y, target = answers(200, 8), torch.arange(200) % 8
    drawn = draw_negatives(y, target, 16, generator=torch.Generator().manual_seed(0))
    flips = drawn[:, :8] != y[:, None]
    assert flips[torch.arange(200), 0, target].all(), "the target's bit, in one of them"
    assert abs(flips[:, 1:].double().mean().item() - 1 / 8) < 0.01
    known = {tuple(row) for row in y.tolist()}
    assert {tuple(row) for row in drawn[:, 8:].flatten(0, 1).tolist()} <= known


def test_search_for_the_worst_answer_finds_it_where_it_is_uphill() -> None:
    energy = independent(4)
    x = draws(30, 5)
    y = torch.zeros(30, 4, dtype=torch.float64)  # the gain y'^2 + b y' rises from 0 where b > 0
    energy.local.weight.data.abs_()
    exact, found = (margin_hinge(energy, x, y, exact=one).detach() for one in (True, False))
    np.testing.assert_allclose(found, exact, rtol=1e-9)
    y = answers(30, 4)
    exact, found = (margin_hinge(energy, x, y, exact=one).detach() for one in (True, False))
    assert (found <= exact + 1e-9).all()


def test_free_with_many_outputs_needs_no_luck_where_they_are_independent() -> None:
    """p(y_t | x) does not depend on the other outputs then, whichever answers are drawn."""
    energy, x, own, answered = independent(14), draws(11, 5), answers(11, 14), answers(11, 14, seed=2)
    target = torch.arange(11)
    generator = torch.Generator().manual_seed(0)
    free = interpreter_loss("free", energy, x, own, answered, target, generator=generator)
    cond = interpreter_loss("cond", energy, x, own, answered, target)
    np.testing.assert_allclose(free.detach(), cond.detach(), rtol=1e-9)
