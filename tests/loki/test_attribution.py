"""Knowledge vector attribution: its formula, its two realisations, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn

from iclr_repro.loki import (
    attribute,
    attribution,
    down_projections,
    interpolation_points,
    knowledge_vector_attribution,
    unpadded_prompts,
)
from iclr_repro.loki.attribution import Rule
from iclr_repro.loki.decoder import check_positions, dense_rows
from iclr_repro.loki.invariants import attribution_by_loop, attribution_violations
from tiny_models import CONFIGS, prompts, tiny_model

FAMILIES = list(CONFIGS)


def test_points_of_the_rules() -> None:
    assert interpolation_points("right", 2) == [(0.5, 0.5), (1.0, 0.5)]
    assert interpolation_points("left", 2) == [(0.0, 0.5), (0.5, 0.5)]
    assert interpolation_points("mid", 2) == [(0.25, 0.5), (0.75, 0.5)]
    assert interpolation_points("trapezoid", 2) == [(0.0, 0.25), (0.5, 0.5), (1.0, 0.25)]
    (point,) = interpolation_points("gauss", 1)
    assert point == pytest.approx((0.5, 1.0))


@pytest.mark.parametrize("rule", get_args(Rule))
def test_weights_add_up_to_one(rule: Rule) -> None:
    points, weights = zip(*interpolation_points(rule, 7), strict=True)
    assert sum(weights) == pytest.approx(1.0)
    assert 0.0 <= min(points) <= max(points) <= 1.0


@pytest.mark.parametrize("family", FAMILIES)
def test_reusing_the_prefix_changes_nothing(family: str) -> None:
    model, ids = tiny_model(family).double(), prompts(3, 9)
    plain = attribute(model, ids, steps=3, reuse_prefix=False)
    fast = attribute(model, ids, steps=3, reuse_prefix=True)
    assert torch.equal(plain.target, fast.target)
    largest = plain.values.abs().max()
    assert largest > 1e-4
    # Norms and softmax stay in float32 in some families.
    assert (plain.values - fast.values).abs().max() < 1e-5 * largest


@pytest.mark.parametrize("family", FAMILIES)
def test_single_precision_agrees_to_a_hundred_thousandth(family: str) -> None:
    model, ids = tiny_model(family), prompts(2, 9)
    plain, fast = (attribute(model, ids, steps=3, reuse_prefix=reuse).values for reuse in (False, True))
    assert (plain - fast).abs().max() < 1e-5 * plain.abs().max()


def test_identities_in_double_precision() -> None:
    model = tiny_model("llama").double()
    model.set_attn_implementation("eager")
    found = attribution_violations(model, prompts(3, 7), steps=5)
    assert found.pop("completeness") < 1e-4
    assert found.pop("are_large") == 1.0
    assert max(found.values()) < 1e-9


def test_the_target_is_the_models_own_choice() -> None:
    model, ids = tiny_model("qwen2"), prompts(4, 6)
    found = attribute(model, ids, steps=1)
    with torch.no_grad():
        probabilities = model(input_ids=ids).logits[:, -1].softmax(dim=-1)
    assert torch.equal(found.target, probabilities.argmax(dim=-1))
    torch.testing.assert_close(found.probability, probabilities.max(dim=-1).values)


def test_a_row_without_output_has_no_attribution() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        down_projections(model)[1].module.weight[5] = 0.0
    values = attribute(model, prompts(2, 6), steps=2).values
    assert (values[:, 1, 5] == 0).all()
    assert (values[:, 1] != 0).any()


def test_every_rule_agrees_where_the_readout_is_linear() -> None:
    """With logits far from saturation and a tiny injected vector P is nearly linear in it: gradient times input."""
    model = tiny_model("llama").double()
    last = down_projections(model)[-1]
    with torch.no_grad():
        last.module.weight *= 1e-6
    values = [attribute(model, prompts(2, 6), steps=4, rule=rule).values[:, -1] for rule in get_args(Rule)]
    for other in values[1:]:
        torch.testing.assert_close(other, values[0], rtol=1e-2, atol=1e-12)


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_model("gpt2").train()
    model.lm_head.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attribute(model, prompts(2, 5), steps=2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not model.lm_head.weight.requires_grad
    assert model.transformer.h[0].mlp.c_proj.weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any("forward" in vars(module) for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_prompt_of_one_token_has_no_prefix() -> None:
    model = tiny_model("llama")
    assert torch.equal(
        attribute(model, prompts(2, 1)).values, attribute(model, prompts(2, 1), reuse_prefix=False).values
    )


def test_conv1d_rows_are_its_columns() -> None:
    projections = down_projections(tiny_model("gpt2"))
    assert [projection.num_rows for projection in projections] == [16, 16, 16]
    assert dense_rows(projections[0].module).shape == (16, 24)


# --- many prompts ----------------------------------------------------------------------------------------------------


def mixed(seed: int = 0) -> list[list[int]]:
    return [prompts(1, length, seed=seed + number)[0].tolist() for number, length in enumerate((5, 7, 5, 6, 7, 5))]


def test_attributions_do_not_depend_on_batches() -> None:
    model = tiny_model("llama").double()
    one, three = (knowledge_vector_attribution(model, mixed(), steps=2, batch_size=size) for size in (1, 3))
    np.testing.assert_allclose(one, three, atol=1e-6)
    alone = attribute(model, torch.tensor([mixed()[4]]), steps=2).values[0].numpy()
    np.testing.assert_allclose(three[4], alone, atol=1e-6)
    assert one.dtype == np.float64


def test_what_was_kept_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    whole = knowledge_vector_attribution(model, mixed(), steps=2, batch_size=2)
    import iclr_repro.loki.probing as probing

    genuine, calls = probing.attribute, []

    def failing(*inputs: Any, **options: Any) -> Any:
        calls.append(len(inputs[1]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return genuine(*inputs, **options)

    monkeypatch.setattr(probing, "attribute", failing)
    with pytest.raises(KeyboardInterrupt):
        knowledge_vector_attribution(model, mixed(), steps=2, batch_size=2, folder=tmp_path)
    done: list[tuple[int, int]] = []
    resumed = knowledge_vector_attribution(
        model, mixed(), steps=2, batch_size=2, folder=tmp_path, progress=lambda *numbers: done.append(numbers)
    )
    assert np.array_equal(resumed, whole)
    assert len(calls) == 3 + 2, "four batches: two kept, two computed after the interruption"
    assert done[-1] == (6, 6)
    assert all(np.load(path).dtype == np.float32 for path in tmp_path.glob("*.npy"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": 3}, "steps"),
        ({"rule": "left"}, "rule"),
        ({"prompts": "other"}, "prompts"),
        ({"model": 1}, "weight_sums"),
    ],
)
def test_a_folder_of_other_attributions_is_refused(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    settings: dict[str, Any] = {"steps": 2, "batch_size": 2, "folder": tmp_path}
    knowledge_vector_attribution(tiny_model("llama"), mixed(), **settings)
    model = tiny_model("llama", seed=change.pop("model", 0))
    given = mixed(9) if change.pop("prompts", None) else mixed()
    with pytest.raises(ValueError, match=f"other .*{named}.*choose another folder"):
        knowledge_vector_attribution(model, given, **settings | change)


def test_other_weights_or_another_precision_are_refused(tmp_path: Path) -> None:
    """Attributions depend on every weight, not on the down projections alone."""
    settings: dict[str, Any] = {"steps": 1, "batch_size": 2, "folder": tmp_path}
    model = tiny_model("llama")
    knowledge_vector_attribution(model, mixed(), **settings)
    knowledge_vector_attribution(model, mixed(), **settings)
    half = tiny_model("llama").to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"other .*dtypes.*choose another folder"):
        knowledge_vector_attribution(half, mixed(), **settings)
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight[0, 0] += 0.5
    with pytest.raises(ValueError, match=r"other weight_sums: choose another folder"):
        knowledge_vector_attribution(model, mixed(), **settings)


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused() -> None:
    model = tiny_model("llama")
    with pytest.raises(ValueError, match="prompt has 33 tokens, the model's context holds 1 to 32"):
        attribute(model, prompts(1, 33))
    with pytest.raises(ValueError, match="rule: got 'middle', expected one of right, left, mid"):
        attribute(model, prompts(1, 4), rule="middle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps: got 0, expected >= 1"):
        attribute(model, prompts(1, 4), steps=0)
    with pytest.raises(ValueError, match="got none, expected at least one probe prompt"):
        knowledge_vector_attribution(model, [])
    with pytest.raises(ValueError, match="a prompt has no tokens, expected at least 1"):
        knowledge_vector_attribution(model, [[3], []])
    with pytest.raises(ValueError, match="a prompt has 40 tokens"):
        knowledge_vector_attribution(model, [[3] * 4, [3] * 40])


def test_a_model_without_down_projections_is_refused() -> None:
    with pytest.raises(ValueError, match="Sequential has no down projection that is recognised"):
        down_projections(nn.Sequential(nn.Linear(2, 2)))


def test_a_quantised_weight_has_no_rows() -> None:
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(torch.zeros(8, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ValueError, match=r"quantised \(torch.uint8, \[8, 1\]\).*bf16 or float32"):
        dense_rows(layer)


def test_right_padding_is_refused() -> None:
    ids = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 4]])
    assert unpadded_prompts(ids, torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])) == [[5, 6], [7, 8, 9, 4]]
    for mask in ([1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 1]):
        with pytest.raises(ValueError, match=r"prompt 1 is padded on the right \(or empty\)"):
            unpadded_prompts(ids, torch.tensor([[0, 0, 1, 1], mask]))


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([[0]], "hold 1 layers, the model has 2"),
        ([[0], [4]], r"layer 1: rows \[4\] lie outside \[0, 4\)"),
        ([[-1], []], r"layer 0: rows \[-1\] lie outside"),
        ([[2, 2], []], r"layer 0: rows \[2\] are listed more than once"),
        ([[], []], "no layer has a row"),
    ],
)
def test_positions_that_do_not_fit_are_refused(positions: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_positions(positions, [4, 4])


def test_the_loop_is_an_independent_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has points of its own: left and right sums that were exchanged in `attribute` would be far from it."""
    model, ids = tiny_model("llama").double(), prompts(2, 6)
    right, left = (attribution_by_loop(model, ids, steps=3, rule=rule) for rule in ("right", "left"))
    assert (attribute(model, ids, steps=3, rule="left").values - right).abs().max() > 1e-3 * right.abs().max()
    assert (attribute(model, ids, steps=3, rule="left").values - left).abs().max() < 1e-5 * left.abs().max()
    genuine = interpolation_points

    def exchanged(rule: Any, steps: int) -> Any:
        return genuine({"right": "left", "left": "right"}.get(rule, rule), steps)

    monkeypatch.setattr(attribution, "interpolation_points", exchanged)
    assert attribution_violations(model, ids, steps=3)["right_plain"] > 1e-3 * float(right.abs().max())


# --- against Captum --------------------------------------------------------------------------------------------------


class _Scaled(nn.Module):
    """A down projection whose output at the last position is times `scale` and goes through `last`, a layer of its own.

    With scale 0 that layer puts out 0: Captum takes its baseline from an input, and so it is zero activations.
    """

    def __init__(self, projection: nn.Module) -> None:
        super().__init__()
        self.projection, self.last = projection, nn.Identity()
        self.scale = torch.ones(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.projection(x)
        return torch.cat([y[:, :-1], self.last(y[:, -1] * self.scale)[:, None]], dim=1)


@pytest.mark.parametrize(
    ("rule", "method"), [("right", "riemann_right"), ("left", "riemann_left"), ("gauss", "gausslegendre")]
)
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_captum_agrees(family: str, rule: Rule, method: str) -> None:
    captum = pytest.importorskip("captum.attr")
    model, ids = tiny_model(family).double(), prompts(1, 9)
    ours = attribute(model, ids, steps=7, rule=rule, reuse_prefix=False)
    for layer, projection in enumerate(down_projections(model)):
        parent, _, name = projection.name.rpartition(".")
        scaled = _Scaled(projection.module)
        setattr(model.get_submodule(parent), name, scaled)

        def probability(scale: torch.Tensor, ids: torch.Tensor, scaled: _Scaled = scaled) -> torch.Tensor:
            scaled.scale = scale
            return model(input_ids=ids).logits[:, -1].softmax(dim=-1)[:, ours.target[0]]

        scale = torch.ones(1, 1, dtype=torch.float64)
        (found,) = captum.LayerIntegratedGradients(probability, scaled.last).attribute(
            scale, baselines=torch.zeros_like(scale), additional_forward_args=(ids,), n_steps=7, method=method
        )
        setattr(model.get_submodule(parent), name, projection.module)
        assert (found - ours.values[0, layer]).abs().max() < 1e-5 * ours.values[0, layer].abs().max()
