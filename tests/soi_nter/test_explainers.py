"""SOInter and L2X as a user meets them: masks, learning, queries, resuming, several targets, images, bad input."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from iclr_repro.soi_nter import (
    L2X,
    EnergyNetwork,
    QueriedBlackBox,
    SOInter,
    SyntheticBlackBox,
    exact_nll,
    hard_top_k,
    interaction_paths,
    kernel_shap,
    lime_tabular,
    recall,
    relaxed_top_k,
)
from iclr_repro.soi_nter.energy import make_energy
from iclr_repro.soi_nter.metrics import ranks

SMALL: dict[str, Any] = {"hidden": 32, "batch_size": 64, "validate_every": 20}


def inputs(num: int = 600, n: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(num, n, generator=torch.Generator().manual_seed(seed))


def explainer(**options: Any) -> SOInter:
    settings = {**SMALL, "pretrain_steps": 30, "steps": 30, **options}
    return SOInter(SyntheticBlackBox("E1", 6), 6, 2, settings.pop("target", 0), settings.pop("k", 4), **settings)


# ----- masks ----------------------------------------------------------------------------------------------------------


def test_relaxed_masks_lie_between_one_and_k() -> None:
    z = relaxed_top_k(inputs(500, 7), 3, 0.5, generator=torch.Generator().manual_seed(0))
    assert ((z > 0) & (z <= 1)).all()
    assert ((z.sum(1) >= 1 - 1e-5) & (z.sum(1) <= 3 + 1e-5)).all()


def test_draws_are_with_replacement() -> None:
    n, k = 8, 4
    z = relaxed_top_k(torch.zeros(4000, n), k, 0.01, generator=torch.Generator().manual_seed(0))
    distinct = (z > 0.5).sum(1).double().mean().item()
    assert distinct == pytest.approx(n * (1 - (1 - 1 / n) ** k), abs=0.05)
    far = torch.zeros(100, n)
    far[:, 2] = 50.0
    z = relaxed_top_k(far, k, 0.5, generator=torch.Generator().manual_seed(0))
    assert (z.sum(1) < 1.01).all(), "one large logit takes all draws"


def test_equal_scores_go_to_the_lower_index() -> None:
    assert hard_top_k(torch.tensor([[1.0, 2.0, 2.0, 2.0]]), 2).tolist() == [[0, 1, 1, 0]]


def test_a_selector_that_diverged_gives_no_masks() -> None:
    soi = explainer()
    for parameter in soi.selector.parameters():
        parameter.data.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"NaN.* in 5 of 5 rows"):
        soi.explain(inputs(5))
    with pytest.raises(ValueError, match=r"NaN.* in 5 of 5 rows"):
        ranks(soi.scores(inputs(5)), generator=torch.Generator())


# ----- learning -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("structured", [True, False])
def test_free_finds_the_features_of_e1(structured: bool) -> None:
    soi = explainer(objective="free", structured=structured, pretrain_steps=250, steps=250)
    soi.fit(inputs(2000))
    masks = soi.explain(inputs(200, seed=1))
    assert (masks.sum(1) == 4).all()
    assert recall(masks, (0, 1, 2, 3)) > 0.8, "chance is 0.67"


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "diff"},
        {"objective": "cond"},
        {"objective": "cond", "energy_loss": "hinge"},
        {"objective": "free", "energy_loss": "nce", "energy": "spen"},
        {"objective": "diff", "structured": False},
    ],
)
def test_every_objective_and_loss_moves_selector_and_energy(options: dict[str, Any]) -> None:
    soi = explainer(keep="last", **options)
    before = [p.clone() for network in (soi.selector, soi.energy) for p in network.parameters()]
    soi.fit(inputs())
    after = [p for network in (soi.selector, soi.energy) for p in network.parameters()]
    assert sum((a != b).any().item() for a, b in zip(after, before, strict=True)) >= len(before) - 1
    assert all(torch.isfinite(p).all() for p in after)


def test_selector_step_leaves_the_energy_and_the_reverse() -> None:
    soi = explainer(pretrain_steps=1)
    soi.prepare(inputs())
    before = {name: value.clone() for name, value in soi.selector.state_dict().items()}
    soi.step()
    assert all((before[name] == value).all() for name, value in soi.selector.state_dict().items())
    energy = {name: value.clone() for name, value in soi.energy.state_dict().items()}
    x, y, target = soi._batch()
    z = relaxed_top_k(soi.selector(x, target), 4, 0.5, generator=torch.Generator().manual_seed(0))
    soi._selector_step(x * z, y, 1 - y, target)
    assert all((energy[name] == value).all() for name, value in soi.energy.state_dict().items())
    assert any((before[name] != value).any() for name, value in soi.selector.state_dict().items())


def test_black_box_sees_hard_masks_only_and_explaining_asks_it_nothing() -> None:
    seen: list[Tensor] = []
    black_box = SyntheticBlackBox("E1", 6)

    def spy(x: Tensor) -> Tensor:
        seen.append(x)
        return black_box(x)

    soi = SOInter(spy, 6, 2, 0, 4, pretrain_steps=0, steps=5, **SMALL)
    x = inputs()
    soi.fit(x)
    values = set(x.flatten().tolist()) | {0.0}
    assert set(torch.cat(seen).flatten().tolist()) <= values
    assert soi.black_box.queries == 600 + 5 * 64 + 60, "all once, a query a row and step, one validation"
    soi.explain(x)
    soi.adaptive_masks(x)
    assert soi.black_box.queries == 600 + 5 * 64 + 60


def test_training_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole, part, rest = (explainer() for _ in range(3))
    whole.fit(inputs())
    part.prepare(inputs())
    for _ in range(40):
        part.step()
    part.save(tmp_path / "soi.pt")
    rest.prepare(inputs())
    rest.load(tmp_path / "soi.pt")
    for _ in range(20):
        rest.step()
    assert (rest.scores(inputs()) == whole.scores(inputs())).all()
    assert rest.black_box.queries == whole.black_box.queries
    with pytest.raises(ValueError, match="does not fit"):
        explainer(hidden=16).load(tmp_path / "soi.pt")


def test_restarts_keep_the_best_validation() -> None:
    scores = []
    for attempt in range(3):
        soi = explainer(objective="diff")
        soi._start(attempt)
        soi.prepare(inputs())
        for _ in range(soi.total_steps):
            soi.step()
        scores.append(soi.validation)
    best = explainer(objective="diff")
    best.fit(inputs(), restarts=3)
    assert best.validation == max(scores)
    once = explainer(objective="diff")
    once.fit(inputs())
    assert best.black_box.queries == 600 + 3 * (once.black_box.queries - 600), "answers on full inputs are kept"


def test_one_selector_for_all_targets() -> None:
    soi = explainer(target="all", objective="free", pretrain_steps=100, steps=100)
    soi.fit(inputs(1000))
    assert (soi.scores(inputs(20), target=0) != soi.scores(inputs(20), target=1)).any()
    with pytest.raises(ValueError, match="which of the 2 outputs"):
        soi.explain(inputs(20))


def test_adaptive_masks_are_the_smallest_that_convince_the_energy() -> None:
    soi = explainer(objective="free", pretrain_steps=150, steps=50)
    soi.fit(inputs(1500))
    few, many = (soi.adaptive_masks(inputs(100), confidence=c).sum(1) for c in (0.6, 0.95))
    assert (few <= many).all()
    assert few.mean() < many.mean()


def test_groups_and_baseline() -> None:
    soi = SOInter(
        SyntheticBlackBox("E1", 6), 6, 2, 0, 2, groups=[0, 0, 1, 1, 2, 2], baseline=torch.full((6,), 9.0), **SMALL
    )
    x, mask = inputs(3), torch.tensor([[1.0, 0.0, 1.0]] * 3)
    assert (soi.masked(x, mask)[:, 2:4] == 9.0).all()
    assert (soi.masked(x, mask)[:, [0, 1, 4, 5]] == x[:, [0, 1, 4, 5]]).all()
    attributed = soi.attribute(x.reshape(3, 2, 3))
    assert attributed.shape == (3, 2, 3)
    assert (attributed.sum((1, 2)) == 4).all(), "two groups of two entries"


def test_l2x_learns_and_never_asks_about_masked_inputs_in_training() -> None:
    l2x = L2X(SyntheticBlackBox("E1", 6), 6, 2, 0, 4, hidden=32, steps=200, validate_every=200)
    l2x.fit(inputs(2000))
    assert l2x.black_box.queries == 2000 + 200, "all once, and one validation"
    assert recall(l2x.explain(inputs(200, seed=1)), (0, 1, 2, 3)) > 0.7


# ----- other methods --------------------------------------------------------------------------------------------------


def test_lime_of_a_linear_function_gives_its_coefficients() -> None:
    weights = torch.tensor([1.0, -2.0, 0.0, 3.0], dtype=torch.float64)
    x = inputs(5, 4).double()
    fit = lime_tabular(lambda p: p @ weights + 1.0, x, ridge=0.0, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(fit.coefficients, weights.expand(5, -1), atol=1e-9)
    np.testing.assert_allclose(fit.intercepts, x @ weights + 1.0, atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 6, 15])
def test_shapley_values_of_a_linear_function_are_its_terms(n: int) -> None:
    weights = torch.arange(1.0, n + 1).double()
    x = inputs(4, n).double()
    phi = kernel_shap(lambda p: p @ weights, x, n_samples=200, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(phi, x * weights, atol=1e-8)


def test_drawn_coalitions_come_near_the_exact_values() -> None:
    """Features that are not read have the value 0, so that all 2^6 coalitions of six give the values of thirteen."""
    black_box, x = SyntheticBlackBox("E1", 6), inputs(20, 13)

    def function(points: Tensor) -> Tensor:
        return black_box(points[:, :6])[:, 0]

    exact = kernel_shap(function, x[:, :6])
    drawn = kernel_shap(function, x, n_samples=20_000, generator=torch.Generator().manual_seed(0))
    assert (drawn[:, :6] - exact).abs().max() < 0.03
    assert drawn[:, 6:].abs().max() < 0.03
    assert exact.abs().max() > 0.3


def test_lime_and_shap_agree_with_captum() -> None:
    attr = pytest.importorskip("captum.attr")
    black_box, x = SyntheticBlackBox("E1", 5), inputs(2, 5)

    def function(points: Tensor) -> Tensor:
        return black_box(points)[:, 0]

    ours = kernel_shap(function, x)
    torch.manual_seed(0)
    for row, phi in zip(x, ours, strict=True):
        theirs = attr.KernelShap(function).attribute(row[None], n_samples=1500)
        assert (phi - theirs[0]).abs().max() < 0.1
    shapley = attr.ShapleyValueSampling(function).attribute(x, n_samples=600)
    assert (ours - shapley).abs().max() < 0.1

    offsets = torch.randn(600, 5, generator=torch.Generator().manual_seed(1))
    rows = iter(range(10**9))

    def perturb(original: Tensor, **_: Any) -> Tensor:
        return original + offsets[next(rows) % len(offsets)]

    width = 0.75 * math.sqrt(5)
    lasso = pytest.importorskip("captum._utils.models.linear_model")
    lime = attr.LimeBase(
        function,
        lasso.SkLearnLinearRegression(),
        similarity_func=lambda original, perturbed, _, **__: torch.exp(
            -(perturbed - original).square().sum() / width**2
        ),
        perturb_func=perturb,
        perturb_interpretable_space=False,
        from_interp_rep_transform=None,
        to_interp_rep_transform=lambda perturbed, original, **_: perturbed - original,
    )
    theirs = lime.attribute(x[:1], n_samples=600)
    fit = lime_tabular(function, x[:1].double(), ridge=0.0, offsets_SN=offsets.double())
    np.testing.assert_allclose(theirs.flatten(), fit.coefficients[0], atol=2e-3)


def test_paths_of_e1_lead_through_the_second_output() -> None:
    black_box = SyntheticBlackBox("E1", 6)
    x = inputs(200).double()
    paths = interaction_paths(black_box, x, black_box(x), 0)
    assert paths.direct[:, 2:4, 0].max() < 1e-12, "x3 and x4 never reach y1 directly"
    assert paths.strength[:, 4:].max() == 0
    for routes, strength in zip(paths.routes, paths.strength, strict=True):
        assert all(routes[feature] == (1, 0) for feature in (2, 3) if strength[feature] > 1e-9)
    row = int(paths.strength[:, 2].argmax())
    assert "x3 -> y2 -> y1" in paths.described(row, [2])


def test_conv_energy_takes_images_and_masks() -> None:
    energy = make_energy("conv", 3 * 64, 64, hidden=1).eval()
    x, y = torch.rand(2, 192), (torch.rand(2, 5, 64) < 0.5).float()
    found = energy.of_candidates(x, y)
    np.testing.assert_allclose(found[:, 3].detach(), energy(x, y[:, 3]).detach(), atol=1e-5)


# ----- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 7}, "k: got 7, expected 1 to the number of features, 6"),
        ({"k": 0}, "k: got 0"),
        ({"target": 2}, "target: got 2, expected an output, 0 to 1"),
        ({"target": -1}, "target: got -1"),
        ({"tau": 0.0}, "tau"),
        ({"objective": "difference"}, "expected one of diff, cond, free"),
        ({"energy": "cnn"}, "expected one of mlp, spen, conv"),
        ({"energy_loss": "mse"}, "expected one of nll, hinge, nce"),
        ({"target": "all", "structured": False}, "give a target"),
        ({"groups": [0, 0, 2, 2, 2, 2]}, "groups"),
        ({"baseline": torch.zeros(3)}, "baseline"),
    ],
)
def test_bad_arguments_are_named(unchecked: None, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explainer(**options)


def test_exact_likelihood_of_many_outputs_is_refused_with_the_way_out(unchecked: None) -> None:
    with pytest.raises(ValueError, match="use energy_loss='nce'"):
        SOInter(lambda x: x, 6, 11, 0, 3, energy_loss="nll")
    with pytest.raises(ValueError, match="at most 10 outputs"):
        exact_nll(EnergyNetwork(6, 11), inputs(2), torch.zeros(2, 11))


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda x: x[:, :1] > 0, ValueError, r"returned shape \[600, 1\]"),
        (lambda x: torch.sigmoid(x[:, :2]), ValueError, "expected 0 or 1"),
        (lambda x: 1 / 0, RuntimeError, "the black box failed on inputs of shape .*ZeroDivisionError"),
        (lambda x: torch.ones(len(x), 2), ValueError, "output 0 of the black box is 1 for all 600 inputs"),
    ],
)
def test_bad_black_boxes_are_refused(answer: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SOInter(answer, 6, 2, 0, 4, **SMALL).fit(inputs())


def test_bad_inputs_are_refused() -> None:
    x = inputs()
    x[3, 2] = torch.nan
    with pytest.raises(ValueError, match="1 entries are not finite"):
        explainer().fit(x)
    with pytest.raises(ValueError, match=r"expected \[inputs, 6\]"):
        explainer().fit(inputs(100, 5))
    with pytest.raises(ValueError, match="at least 20"):
        explainer().fit(inputs(10))
    with pytest.raises(RuntimeError, match="call prepare"):
        explainer().step()


def test_black_box_may_return_arrays_and_counts_rows() -> None:
    black_box = QueriedBlackBox(lambda x: (x.numpy()[:, :2] > 0).astype(np.uint8), 2)
    assert black_box(inputs(7)).shape == (7, 2)
    assert black_box.queries == 7


def test_ranks_do_not_depend_on_rounding() -> None:
    scores = torch.tensor([[0.5, 0.0, 0.0, 0.25, 0.0, 1.0]], dtype=torch.float64).repeat(50, 1)
    noise = 1e-16 * torch.randn(scores.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = ranks(scores, generator=torch.Generator().manual_seed(1))
    assert torch.equal(ranks(scores + noise, generator=torch.Generator().manual_seed(1)), expected)
    assert (expected[:, [5, 0, 3]] == torch.tensor([1, 2, 3])).all()
    assert len(expected.unique(dim=0)) == 6, "the three ties come in any order"
