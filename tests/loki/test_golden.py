"""Every reference value of the golden folder; sizes, steps, quotas and options come from its files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from iclr_repro.loki.attribution import attribute
from iclr_repro.loki.layer import LokiLayer
from iclr_repro.loki.official import SplitLinear
from iclr_repro.loki.selection import select_rows, selection_counts
from support import golden_dir

GOLDEN = golden_dir("loki")
RULES = {"attr_left": "left", "attr_right": "right", "attr_mid": "mid"}


def files(pattern: str) -> list[Path]:
    found = sorted(GOLDEN.glob(pattern))
    assert found, f"{GOLDEN} has no file {pattern}"
    return found


def named(path: Path) -> str:
    return path.stem


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return {name: archive[name] for name in archive}


# --- kva_*.npz -------------------------------------------------------------------------------------------------------


def model_of(case: dict[str, np.ndarray], *, attention: str) -> LlamaForCausalLM:
    model = LlamaForCausalLM(LlamaConfig(**json.loads(str(case["config"])))).double().eval()
    model.set_attn_implementation(attention)
    weights = {name[2:]: torch.from_numpy(value).double() for name, value in case.items() if name.startswith("w/")}
    model.load_state_dict(weights)
    return model


def largest_deviations(path: Path, *, attention: str, reuse_prefix: bool) -> dict[str, float]:
    """Name -> largest absolute deviation from the reference; labels must be equal."""
    case = arrays(path)
    model, ids = model_of(case, attention=attention), torch.from_numpy(case["input_ids"]).long()
    found = {}
    for name, rule in RULES.items():
        got = attribute(model, ids, steps=int(case["steps"]), rule=rule, reuse_prefix=reuse_prefix)  # type: ignore[arg-type]
        assert (got.target.numpy() == case["label"]).all()
        found[name] = float(np.abs(got.values.numpy() - case[name]).max())
        found["p_full"] = float(np.abs(got.probability.numpy() - case["p_full"]).max())
    exact = attribute(model, ids, steps=32, rule="gauss", reuse_prefix=reuse_prefix).values.numpy()
    found["attr_exact"] = float(np.abs(exact - case["attr_exact"]).max())
    complete = case["p_full"][:, None] - case["p_layer_zeroed"]
    found["completeness"] = float(np.abs(exact.sum(axis=-1) - complete).max())
    return found


@pytest.mark.parametrize("reuse_prefix", [True, False])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("path", files("kva_*.npz"), ids=named)
def test_attributions(path: Path, attention: str, reuse_prefix: bool) -> None:
    """The double-precision model computes norms and softmax in float32, in another order on other processors."""
    found = largest_deviations(path, attention=attention, reuse_prefix=reuse_prefix)
    assert found.pop("completeness") < 1e-4
    assert max(found.values()) < 5e-6, found


@pytest.mark.parametrize("path", files("kva_*.npz"), ids=named)
def test_attributions_to_rounding_with_the_vector_instructions_of_the_reference(path: Path) -> None:
    """With AVX2 kernels the float32 parts are those of the reference; torch chooses its kernels when it loads."""
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("this processor has no AVX2")
    code = "import sys, pathlib, test_golden; print(max(test_golden.of_reference(pathlib.Path(sys.argv[1]))))"
    environment = {
        **os.environ,
        "ATEN_CPU_CAPABILITY": "avx2",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])]),
    }
    done = subprocess.run([sys.executable, "-c", code, str(path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-9


def of_reference(path: Path) -> list[float]:
    found = [largest_deviations(path, attention="eager", reuse_prefix=reuse) for reuse in (True, False)]
    return [value for each in found for name, value in each.items() if name != "completeness"]


# --- loki_linear_*.npz -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer_class", [LokiLayer, SplitLinear], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("path", files("loki_linear_*.npz"), ids=named)
def test_layer_under_plain_gradient_descent(path: Path, layer_class: Any) -> None:
    case = {name: torch.from_numpy(np.asarray(value)) for name, value in arrays(path).items()}
    has_bias = "b0" in case
    num_rows, num_columns = case["W0"].shape
    base = nn.Linear(num_columns, num_rows, bias=has_bias, dtype=torch.float64).requires_grad_(False)
    base.weight.copy_(case["W0"])
    if has_bias:
        base.bias.copy_(case["b0"])
    rows = case["active_pos"].tolist()
    if layer_class is LokiLayer:
        layer: Any = LokiLayer(base, "default", rows)
        trained = [layer.loki_rows["default"], *layer.loki_bias.values()]
        assert torch.equal(layer.loki_index["default"], case["active_rows_sorted"])
    else:
        layer = SplitLinear(base, rows)
        trained = list(layer.active.parameters())
        assert torch.equal(layer.index_map, case["index_map"])
    close: Any = {"rtol": 0.0, "atol": 1e-9}
    torch.testing.assert_close(layer(case["x"]), case["y0"], **close)
    optimizer = torch.optim.SGD(trained, lr=float(case["lr"]))
    for step in range(int(case["steps"])):
        loss = nn.functional.mse_loss(layer(case["x"]), case["target"])
        torch.testing.assert_close(loss.detach(), case["losses"][step], **close)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            torch.testing.assert_close(loss.detach(), case["loss0"], **close)
            torch.testing.assert_close(trained[0].grad, case["grad_active"], **close)
            if has_bias:
                torch.testing.assert_close(trained[1].grad, case["grad_active_bias"], **close)
        optimizer.step()
    if layer_class is LokiLayer:
        layer.merge()
        torch.testing.assert_close(base.weight.detach(), case["W_final"], **close)
        if has_bias:
            torch.testing.assert_close(base.bias.detach(), case["b_final"], **close)
        layer.unmerge()
        assert torch.equal(base.weight, case["W0"])


# --- selection_*.npz -------------------------------------------------------------------------------------------------


def quotas(case: dict[str, np.ndarray], prefix: str) -> list[str]:
    """The quotas of a file as its key names write them."""
    found = [match[1] for name in case if (match := re.fullmatch(rf"{prefix}_([\d.]+)_counts", name))]
    assert found
    return found


def agrees_off_the_boundary(mask: np.ndarray, official: np.ndarray, counts: np.ndarray) -> None:
    """Ties at the boundary count are broken arbitrarily by the official code."""
    boundary = counts[official].min()
    decided = counts != boundary
    assert (mask[decided] == official[decided]).all()
    assert counts[mask].min() >= counts[~mask].max()
    assert mask.sum() == official.sum()


@pytest.mark.parametrize("path", files("selection_*.npz"), ids=named)
def test_layer_balanced_selection(path: Path) -> None:
    case = arrays(path)
    num_layers, num_rows = case["attr"].shape[1:]
    for quota in quotas(case, "lb"):
        counts = selection_counts(case["attr"], float(quota))
        assert (counts == case[f"lb_{quota}_counts"]).all()
        mask = as_mask(select_rows(case["attr"], float(quota)), num_layers, num_rows)
        assert (mask.sum(axis=1) == int(case[f"lb_{quota}_k"])).all()
        official = case[f"lb_{quota}_official"].astype(bool)
        for layer in range(num_layers):
            agrees_off_the_boundary(mask[layer], official[layer], counts[layer])


@pytest.mark.parametrize(("prefix", "strategy"), [("gl", "global_low"), ("gh", "global_high")])
@pytest.mark.parametrize("path", files("selection_*.npz"), ids=named)
def test_global_selection(path: Path, prefix: str, strategy: Any) -> None:
    case = arrays(path)
    num_layers, num_rows = case["attr"].shape[1:]
    for quota in quotas(case, prefix):
        counts = selection_counts(case["attr"], float(quota), strategy=strategy)
        assert (counts == case[f"{prefix}_{quota}_counts"]).all()
        mask = as_mask(select_rows(case["attr"], float(quota), strategy=strategy), num_layers, num_rows)
        assert mask.sum() == int(case[f"{prefix}_{quota}_T"])
        agrees_off_the_boundary(mask, case[f"{prefix}_{quota}_official"].astype(bool), counts)


def as_mask(positions: list[list[int]], num_layers: int, num_rows: int) -> np.ndarray:
    mask = np.zeros((num_layers, num_rows), dtype=bool)
    for layer, rows in enumerate(positions):
        mask[layer, rows] = True
    return mask
