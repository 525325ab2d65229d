"""Every reference value of the golden folder; sizes and constants come from its files."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from iclr_repro.soi_nter import (
    EnergyNetwork,
    SyntheticBlackBox,
    all_outputs,
    closed_form_e1,
    exact_nll,
    f1_score,
    hard_top_k,
    interpreter_loss,
    kernel_shap,
    lime_tabular,
    margin_hinge,
    median_rank,
    recall,
    relaxed_top_k,
)
from iclr_repro.soi_nter.metrics import ranks
from support import golden_dir

GOLDEN = golden_dir("soi_nter")
FILES = sorted(GOLDEN.glob("ops*.npz"))
assert FILES, f"{GOLDEN} has no file ops*.npz"
CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-12}
GRADIENT: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-9}

pytestmark = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
Arrays = dict[str, torch.Tensor]


def arrays(path: Path) -> Arrays:
    with np.load(path) as archive:
        found = {name: torch.from_numpy(np.asarray(archive[name])) for name in archive}
    return {name: value.double() if value.is_floating_point() else value for name, value in found.items()}


def box(name: str, given: Arrays) -> SyntheticBlackBox:
    outputs = int(math.log2(given[f"bb_{name}_energy"].shape[1]))
    return SyntheticBlackBox(name, given["bb_X"].shape[1], n_outputs=outputs)  # type: ignore[arg-type]


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def close(ours: torch.Tensor, theirs: torch.Tensor, **tolerance: Any) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), theirs.numpy(), **(tolerance or CLOSE))


@pytest.mark.parametrize("name", ["E1", "E2", "E3"])
def test_black_boxes(path: Path, name: str) -> None:
    given = arrays(path)
    black_box, x = box(name, given), given["bb_X"]
    close(black_box.energies(x), given[f"bb_{name}_energy"])
    assert (black_box(x) == given[f"bb_{name}_y"]).all()
    shared = black_box.of_candidates(x, all_outputs(black_box.n_outputs, like=x))
    close(shared, given[f"bb_{name}_energy"])


def test_closed_form_of_e1(path: Path) -> None:
    given = arrays(path)
    x = given["bb_X"]
    tied = (given["bb_E1_energy"] == given["bb_E1_energy"].amin(1, keepdim=True)).sum(1) > 1
    assert (closed_form_e1(x)[~tied] == given["bb_E1_y"][~tied]).all()


def test_masks(path: Path) -> None:
    given = arrays(path)
    logits, k, tau = given["gs_logits"], int(given["gs_k"]), float(given["gs_tau"])
    sample = relaxed_top_k(logits, k, tau, uniform_BKN=given["gs_u"])
    close(sample, given["gs_sample"])
    assert (hard_top_k(logits, k) == given["gs_hard"]).all()
    assert (hard_top_k(sample, k) == given["gs_zq"]).all()


def energy_block(given: Arrays) -> EnergyNetwork:
    hidden = len(given["en_b1"])
    outputs = int(math.log2(given["en_all"].numel()))
    network = EnergyNetwork(given["en_W1"].shape[0] - outputs, outputs, hidden=hidden).double()
    weights = (("first", "W1", "b1"), ("second", "W2", "b2"), ("last", "w3", "b3"))
    with torch.no_grad():
        for layer, weight, bias in weights:
            module = getattr(network, layer)
            module.weight.copy_(given[f"en_{weight}"].reshape(module.weight.shape[::-1]).T)
            module.bias.copy_(given[f"en_{bias}"].reshape(module.bias.shape))
    return network


def rows(given: Arrays) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    z = given["en_z"].reshape(1, -1).clone().requires_grad_(True)
    answers = [given[name].reshape(1, -1).double() for name in ("en_ysb", "en_ytilde")]
    return z, given["en_x"].reshape(1, -1) * z, answers[0], answers[1]


def test_energies_and_their_losses(path: Path) -> None:
    given = arrays(path)
    energy, (_, masked, _, answered) = energy_block(given), rows(given)
    close(energy.of_candidates(masked, all_outputs(energy.n_outputs, like=masked))[0], given["en_all"].flatten())
    close(exact_nll(energy, masked, answered)[0], given["en_nll"].reshape(()))
    close(margin_hinge(energy, masked, answered)[0], given["en_hinge"].reshape(()))


@pytest.mark.parametrize("objective", ["diff", "cond", "free"])
def test_interpreter_losses_and_gradients(path: Path, objective: Any) -> None:
    given = arrays(path)
    z, masked, own, answered = rows(given)
    target = torch.tensor([int(given["en_t"])])
    loss = interpreter_loss(objective, energy_block(given), masked, own, answered, target)[0]
    close(loss, given[f"en_L{objective}"].reshape(()))
    (gradient,) = torch.autograd.grad(loss, z)
    close(gradient[0], given[f"en_g{objective}"].flatten(), **GRADIENT)


def target_of_e1(given: Arrays, num_features: int) -> Callable[[torch.Tensor], torch.Tensor]:
    black_box = SyntheticBlackBox("E1", num_features)
    return lambda x: black_box(x)[:, 0]


def test_shapley_values(path: Path) -> None:
    given = arrays(path)
    x = given["sh_x"].reshape(1, -1)
    function = target_of_e1(given, x.shape[1])
    phi = kernel_shap(function, x)[0]
    close(phi, given["sh_phi"])
    close(function(x)[0], given["sh_f1"].double().reshape(()))
    close(function(torch.zeros_like(x))[0], given["sh_f0"].double().reshape(()))


def test_lime(path: Path) -> None:
    given = arrays(path)
    x, offsets = given["li_x"].reshape(1, -1), given["li_Z"]
    function = target_of_e1(given, x.shape[1])
    assert (function(x + offsets) == given["li_y"]).all()
    fit = lime_tabular(function, x, width=float(given["li_width"]), ridge=float(given["li_ridge"]), offsets_SN=offsets)
    close(torch.cat((fit.intercepts, fit.coefficients[0])), given["li_coef"])


def test_metrics(path: Path) -> None:
    given = arrays(path)
    scores, relevant = given["me_scores"], given["me_rel"].tolist()
    generator = torch.Generator().manual_seed(0)
    assert (ranks(scores, generator=generator) == given["me_rank"]).all()
    close(number(recall(hard_top_k(scores, len(relevant)), relevant)), given["me_acc"].reshape(()))
    median = median_rank(scores, relevant, generator=generator)
    close(number(median), given["me_median"].reshape(()))
    score = f1_score(given["f1_true"].double(), given["f1_pred"].double())
    close(number(score), given["f1"].reshape(()))
