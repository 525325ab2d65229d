"""Black boxes that are trained, identities, and experiments on generated data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from iclr_repro import command_line
from iclr_repro.core.experiment import build
from iclr_repro.soi_nter.data import synthetic_multilabel
from iclr_repro.soi_nter.energy import ConvEnergy, EnergyNetwork, SpenEnergy
from iclr_repro.soi_nter.invariants import FLAGS, ZERO, violations
from iclr_repro.soi_nter.structured_models import AscentModel, ExactModel, StructuredTraining, overlap
from support import bare_run


@pytest.mark.parametrize("sizes", [(4, 1), (6, 3)])
def test_identities(sizes: tuple[int, int]) -> None:
    found = violations(n_features=sizes[0], n_outputs=sizes[1], num=60, generator=torch.Generator().manual_seed(0))
    assert max(found[name] for name in ZERO) < 1e-9
    assert all(found[name] == 1.0 for name in FLAGS)


def test_overlap() -> None:
    first, second = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    assert overlap(first, second, "iou").tolist() == [pytest.approx(1 / 3), 1.0]
    first.requires_grad_(True)
    overlap(first, second, "iou").sum().backward()
    assert first.grad is not None
    assert torch.isfinite(first.grad).all(), "also where both are empty"
    first = first.detach()
    assert overlap(first, second, "f1").tolist() == [pytest.approx(0.5), 1.0]


@pytest.mark.parametrize("loss", ["nll", "hinge", "value"])
def test_structured_models_learn_labels(loss: Any) -> None:
    data = synthetic_multilabel(600, 32, 4, rng=np.random.default_rng(0))
    x, y = torch.from_numpy(data.standardised()), torch.from_numpy(data.y).float()
    torch.manual_seed(0)
    energy = EnergyNetwork(32, 4, hidden=16) if loss == "nll" else SpenEnergy(32, 4, hidden=16, gated=False)
    optimizer = torch.optim.Adam(energy.parameters(), lr=1e-2)
    training = StructuredTraining(
        energy, x[:420], y[:420], loss=loss, optimizer=optimizer, batch_size=32, seed=0, step_size=2.0
    )
    for _ in range(40):
        training.step()
    model = ExactModel(energy) if loss == "nll" else AscentModel(energy, value=loss == "value", step_size=2.0)
    assert set(model(x[420:]).flatten().tolist()) <= {0.0, 1.0}
    truth = y[420:]
    other = torch.zeros_like(truth) if loss == "value" else truth.roll(1, dims=0)
    differ = (truth != other).any(dim=1)
    right = energy(x[420:], truth)[differ] < energy(x[420:], other)[differ]
    assert right.float().mean() > 0.65, "chance is 0.5"


def test_training_of_a_model_resumes() -> None:
    def fresh() -> StructuredTraining:
        torch.manual_seed(0)
        energy = ConvEnergy(8, channels=(2, 2, 2), dense=4)
        optimizer = torch.optim.SGD(energy.parameters(), lr=0.1)
        x, y = torch.rand(20, 192, generator=torch.Generator().manual_seed(1)), torch.zeros(20, 64)
        y[:, :20] = 1.0
        return StructuredTraining(
            energy, x, y, loss="value", optimizer=optimizer, batch_size=4, seed=0, quality="iou", milestones=(2,)
        )

    whole, part = fresh(), fresh()
    for learner in (whole, part):
        torch.manual_seed(2)
        for _ in range(3):
            learner.step()
    state = part.state_dict()
    rest = fresh()
    rest.load_state_dict(state)
    torch.manual_seed(3)
    one = whole.step()
    torch.manual_seed(3)
    assert rest.step() == one


def settings(name: str) -> dict[str, Any]:
    composed = command_line.compose(["paper=soi_nter", "scale=smoke"])
    found: dict[str, Any] = command_line.checked_settings(composed)["experiments"][name]
    return found


def test_every_table_has_the_target_only_controls(tmp_path: Path) -> None:
    result = build("multilabel", settings("multilabel")).run(bare_run(tmp_path))
    methods = set(result.tables["methods"].index.get_level_values("method"))
    assert {
        "diff",
        "diff_target_only",
        "free",
        "free_target_only",
        "l2x",
        "lime",
        "shap",
        "random",
        "largest",
    } <= methods
    assert result.data == "synthetic"
    assert result.metrics["full_input/post_hoc_accuracy"] == 1.0
    result.check()
