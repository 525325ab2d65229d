"""Every reference value of the golden folder; sizes, constants and options come from its files."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from iclr_repro.topoformer import (
    SpatialQuerying,
    SpatialReweighting,
    TopographicSelfAttention,
    circular_mask,
    morans_i,
    pca_maps,
    pls_svd,
    selectivity_map,
    topographic_statistic,
)
from iclr_repro.topoformer.baselines import materialised_attention, topographic_statistic_by_loop
from support import golden_dir, read_json

GOLDEN = golden_dir("topoformer")
CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-10}


def files(pattern: str) -> list[Path]:
    found = sorted(GOLDEN.glob(pattern))
    assert found, f"{GOLDEN} has no file {pattern}"
    return found


def named(path: Path) -> str:
    return path.stem


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return {name: archive[name] for name in archive}


# --- masks*.npz ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", files("masks*.npz"), ids=named)
def test_circular_masks(path: Path) -> None:
    for name, packed in arrays(path).items():
        match = re.fullmatch(r"mask_d(\d+)_r([\d.]+)_wrap([01])", name)
        assert match, name
        num_units, area_frac, wrap = int(match[1]), float(match[2]), match[3] == "1"
        expected = np.unpackbits(packed)[: num_units**2].reshape(num_units, num_units).astype(bool)
        assert (circular_mask(num_units, area_frac, wrap=wrap).numpy() == expected).all(), name


def test_numbers_of_connections() -> None:
    summary = GOLDEN / "summary.json"
    counts = read_json(summary)["mask_counts"] if summary.is_file() else {}
    for name, count in counts.items():
        num_units, area_frac, wrap = re.fullmatch(r"mask_d(\d+)_r([\d.]+)_wrap([01])", name).groups()  # type: ignore[union-attr]
        assert int(circular_mask(int(num_units), float(area_frac), wrap=wrap == "1").sum()) == count, name


# --- attention_head_*.npz --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", files("attention_head_*.npz"), ids=named)
def test_attention_head(path: Path) -> None:
    case = {name: torch.from_numpy(value) for name, value in arrays(path).items()}
    num_units, rectify = case["x"].shape[-1], bool(case["relu"])
    attention = TopographicSelfAttention(num_units, sq=float(case["sq"]), sr=-1.0, rectify=rectify).double()
    attention.load_state_dict(
        {
            **attention.state_dict(),
            **{f"{name}.weight": case[f"w{name[0]}"] for name in ("query", "key", "value")},
            **{f"{name}.bias": case[f"b{name[0]}"] for name in ("query", "key", "value")},
            "fc_out.weight": torch.eye(num_units, dtype=torch.float64),
            "fc_out.bias": torch.zeros(num_units, dtype=torch.float64),
        }
    )
    sheets = attention.sheets(case["x"])
    torch.testing.assert_close(sheets["query"], case["query"], **CLOSE)
    torch.testing.assert_close(sheets["fc_out"], case["out"], **CLOSE)
    assert isinstance(attention.querying, SpatialQuerying)
    torch.testing.assert_close(attention.querying.pooling_matrix(), case["mask_normalised"], **CLOSE)
    query, key, value = (sheets[name].relu() if rectify else sheets[name] for name in ("query", "key", "value"))
    torch.testing.assert_close(attention.querying(query), case["pooled_query"], **CLOSE)
    out, weights = materialised_attention(query, key, value, case["mask_normalised"])
    torch.testing.assert_close(weights, case["attn"], **CLOSE)
    torch.testing.assert_close(out.relu() if rectify else out, case["out"], **CLOSE)


@pytest.mark.parametrize("path", files("attention_head_*.npz"), ids=named)
def test_attention_head_in_single_precision(path: Path) -> None:
    case = {name: torch.from_numpy(value) for name, value in arrays(path).items()}
    querying = SpatialQuerying(circular_mask(case["x"].shape[-1], float(case["sq"])))
    query = case["query"].relu() if case["relu"] else case["query"]
    torch.testing.assert_close(querying(query.float()).double(), case["pooled_query"], rtol=1e-5, atol=1e-5)


# --- locally_connected_*.npz -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", files("locally_connected_*.npz"), ids=named)
def test_locally_connected_layer_under_plain_gradient_descent(path: Path) -> None:
    case = {name: torch.from_numpy(value) for name, value in arrays(path).items()}
    layer = SpatialReweighting(circular_mask(case["x"].shape[-1], float(case["sr"]))).double()
    layer.load_state_dict({**layer.state_dict(), "weight": case["w_after_construct"], "bias": case["bias0"]})
    optimizer = torch.optim.SGD(layer.parameters(), lr=float(case["lr"]))
    num_steps = sum(re.fullmatch(r"y\d+", name) is not None for name in case)
    assert num_steps > 0
    for step in range(num_steps):
        found = layer(case["x"])
        torch.testing.assert_close(found, case[f"y{step}"], **CLOSE)
        torch.testing.assert_close(layer.weight.detach(), case[f"w_used{step}"], **CLOSE)
        loss = torch.nn.functional.mse_loss(found, case["target"])
        torch.testing.assert_close(loss.detach(), case[f"loss{step}"], **CLOSE)
        optimizer.zero_grad()
        loss.backward()
        assert layer.weight.grad is not None
        torch.testing.assert_close(layer.weight.grad, case[f"grad{step}"], **CLOSE)
        optimizer.step()
        torch.testing.assert_close(layer.weight.detach(), case[f"w_after_step{step}"], **CLOSE)


# --- topographic_statistic*.npz with .json ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", files("topographic_statistic*.json"), ids=named)
def test_topographic_statistic(path: Path) -> None:
    activations = arrays(path.with_suffix(".npz"))
    expected = read_json(path)
    assert expected
    for case, variants in expected.items():
        x = activations[case].astype(np.float64)
        for variant, values in variants.items():
            is_exact = variant.endswith("_exact_integer_distance")
            kind = variant.removesuffix("_exact_integer_distance")
            found = topographic_statistic(x, kind=kind, distances="exact" if is_exact else "float")
            each, mean = (1e-6, 1e-6) if is_exact else (2e-2, 5e-3)
            given = np.array(values["per_dist"], dtype=float)
            defined = np.isfinite(given) & np.isfinite(found.per_threshold)
            assert defined.any()
            np.testing.assert_allclose(
                found.per_threshold[defined], given[defined], rtol=0, atol=each, err_msg=f"{case} {variant}"
            )
            if defined.all():
                assert found.mean == pytest.approx(values["mean"], abs=mean), (case, variant)


@pytest.mark.parametrize("path", files("topographic_statistic*.json"), ids=named)
def test_the_plain_loop_agrees(path: Path) -> None:
    activations = arrays(path.with_suffix(".npz"))
    case, variants = next(iter(read_json(path).items()))
    expected = variants["rankcorr_exact_integer_distance"]["mean"]
    assert topographic_statistic_by_loop(activations[case].astype(np.float64)) == pytest.approx(expected, abs=1e-6)


# --- analysis*.npz ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", files("analysis*.npz"), ids=named)
def test_selectivity_and_its_clustering(path: Path) -> None:
    case = arrays(path)
    found = selectivity_map(case["X"], case["label"])
    np.testing.assert_allclose(found.t, case["t"], **CLOSE)
    np.testing.assert_allclose(10.0**found.log10_p, case["p"], **CLOSE)
    np.testing.assert_allclose(found.values, case["selectivity"], **CLOSE)
    np.testing.assert_allclose(morans_i(found.t), case["moran_t"], **CLOSE)


@pytest.mark.parametrize("path", files("analysis*.npz"), ids=named)
def test_principal_components(path: Path) -> None:
    case = arrays(path)
    found = pca_maps(case["X"], max(len(case["pc_abs"]), len(case["explained"])))
    maps = found.weights[: len(case["pc_abs"])]
    np.testing.assert_allclose(np.abs(maps), case["pc_abs"], **CLOSE)
    np.testing.assert_allclose(found.explained[: len(case["explained"])], case["explained"], **CLOSE)
    np.testing.assert_allclose(morans_i(maps), case["moran_pc"], **CLOSE)


@pytest.mark.parametrize("path", files("analysis*.npz"), ids=named)
def test_pls_svd(path: Path) -> None:
    case = arrays(path)
    folds, components = case["pls_cv_r"].shape
    found = pls_svd(case["X"], case["Y"], num_components=components, folds=folds)
    np.testing.assert_allclose(found.r_by_fold, case["pls_cv_r"], **CLOSE)
    singular = found.singular_values_by_fold[0]
    np.testing.assert_allclose(singular, case["pls_singular_fold0"][: len(singular)], **CLOSE)
    assert len(singular) == min(case["X"].shape[1], case["Y"].shape[1])
    assert math.isclose(found.r[0], case["pls_cv_r"][:, 0].mean(), rel_tol=1e-9)
