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
from transformers import LlamaConfig, LlamaForCausalLM

from iclr_repro.loki.attribution import attribute
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
    """With AVX2 kernels the float32 parts are those of the reference bit for bit; the choice is made when torch loads."""
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


# --- selection_*.npz -------------------------------------------------------------------------------------------------


def quotas(case: dict[str, np.ndarray], prefix: str) -> list[float]:
    found = sorted({float(m[1]) for name in case if (m := re.match(rf"{prefix}_q_?([\d.]+)_", name))})
    return found or sorted({float(m[1]) for name in case if (m := re.match(rf"{prefix}_([\d.]+)_", name))})


def key(case: dict[str, np.ndarray], prefix: str, quota: float, what: str) -> str:
    (found,) = [
        name
        for name in case
        if (m := re.fullmatch(rf"{prefix}_(?:q_?)?([\d.]+)_{what}", name)) and float(m[1]) == quota
    ]
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
    assert quotas(case, "lb")
    for quota in quotas(case, "lb"):
        counts = selection_counts(case["attr"], quota)
        assert (counts == case[key(case, "lb", quota, "counts")]).all()
        mask = as_mask(select_rows(case["attr"], quota), num_layers, num_rows)
        assert (mask.sum(axis=1) == int(case[key(case, "lb", quota, "k")])).all()
        official = case[key(case, "lb", quota, "official")].astype(bool)
        for layer in range(num_layers):
            agrees_off_the_boundary(mask[layer], official[layer], counts[layer])


@pytest.mark.parametrize(("prefix", "strategy"), [("gl", "global_low"), ("gh", "global_high")])
@pytest.mark.parametrize("path", files("selection_*.npz"), ids=named)
def test_global_selection(path: Path, prefix: str, strategy: Any) -> None:
    case = arrays(path)
    num_layers, num_rows = case["attr"].shape[1:]
    assert quotas(case, prefix)
    for quota in quotas(case, prefix):
        counts = selection_counts(case["attr"], quota, strategy=strategy)
        assert (counts == case[key(case, prefix, quota, "counts")]).all()
        mask = as_mask(select_rows(case["attr"], quota, strategy=strategy), num_layers, num_rows)
        assert mask.sum() == int(case[key(case, prefix, quota, "T")])
        agrees_off_the_boundary(mask, case[key(case, prefix, quota, "official")].astype(bool), counts)


def as_mask(positions: list[list[int]], num_layers: int, num_rows: int) -> np.ndarray:
    mask = np.zeros((num_layers, num_rows), dtype=bool)
    for layer, rows in enumerate(positions):
        mask[layer, rows] = True
    return mask
