"""What the experiments measure, against the independent measurements of the sheet, and what they refuse."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attention_cases import small_forecasting, small_mixing
from iclr_repro.core.experiment import ParameterError, build
from iclr_repro.entropy_linear_attention import entropy_equality
from iclr_repro.entropy_linear_attention.experiments import EntropyApproximation, PlugIn, Resemblance, Theory, theory
from iclr_repro.entropy_linear_attention.experiments.efficiency import timings
from iclr_repro.entropy_linear_attention.experiments.entropy import gaussian_keys, with_variance
from support import bare_run


def test_estimates_are_as_accurate_as_the_sheet_measured(tmp_path: Path) -> None:
    experiment = EntropyApproximation(
        dims=(16,), num_keys=(170, 2000), variances=(0.25, 1.0, 4.0), num_queries=64, draws=6
    )
    found = experiment.run(bare_run(tmp_path)).metrics
    expected = {
        "gaussian/d16/n170/var_0.25/gauss2": 0.0013,
        "gaussian/d16/n170/var_1.0/gauss2": 0.010,
        "gaussian/d16/n170/var_4.0/gauss2": 0.15,
        "gaussian/d16/n2000/var_1.0/gauss2": 0.0032,
        "gaussian/d16/n2000/var_4.0/gauss2": 0.078,
        "gaussian/d16/n170/var_1.0/taylor2": 0.048,
        "relu/d16/n170/var_natural/gauss2": 0.0043,
        "relu/d16/n170/var_natural/cum3": 0.0005,
    }
    for name, value in expected.items():
        assert found[f"{name}/entropy_error"] == pytest.approx(value, rel=0.6), name
    assert found["queries/n"] == 64 * 6


def test_weights_are_as_close_to_softmax_as_the_sheet_measured(tmp_path: Path) -> None:
    experiment = Resemblance(dims=(8, 16), num_keys=(170,), variances=(), num_queries=128, draws=6)
    found = experiment.run(bare_run(tmp_path)).metrics
    expected = {
        8: {"score_variance": 0.17, "deficit": 0.128, "attainment": 0.95, "tv": 0.048, "tv_uniform": 0.17},
        16: {"score_variance": 0.17, "deficit": 0.105, "attainment": 0.92, "tv": 0.044, "tv_uniform": 0.165},
    }
    for dim, values in expected.items():
        for name, value in values.items():
            assert found[f"d{dim}/n170/var_natural/collision/{name}"] == pytest.approx(value, rel=0.25), (dim, name)
        assert found[f"d{dim}/n170/var_natural/collision/spearman"] == pytest.approx(1.0)
    by_solver = [found[f"d16/n170/var_natural/{name}/entropy_gap"] for name in ("collision", "shannon2", "shannon4")]
    assert by_solver == sorted(by_solver)
    assert found["sweep/best_over_equal"] == pytest.approx(1.0, abs=0.3)


def test_queries_are_scaled_to_the_variance_asked_for() -> None:
    rng = np.random.default_rng(0)
    k, q = gaussian_keys(rng, 50, 8), gaussian_keys(rng, 20, 8)
    for feature_map in ("relu", "identity"):
        scaled = with_variance(q, k, feature_map, 0.7)
        assert float(entropy_equality(scaled, k, feature_map=feature_map).var.mean()) == pytest.approx(0.7)


def test_violated_invariants_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = theory.attention_weights

    def skewed(q: Tensor, k: Tensor, **options: Any) -> Tensor:
        return genuine(q, k, **options) + 1e-6

    experiment = Theory(cases=20, pairs=50, permutations=20)
    assert experiment.run(bare_run(tmp_path)).metrics["invariants/violations"] == 0
    monkeypatch.setattr(theory, "attention_weights", skewed)
    assert experiment.run(bare_run(tmp_path)).metrics["invariants/violations"] == 20


def test_weights_that_are_nan_violate_every_invariant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = theory.attention_weights

    def nan(q: Tensor, k: Tensor, **options: Any) -> Tensor:
        return torch.full_like(genuine(q, k, **options), torch.nan)

    monkeypatch.setattr(theory, "attention_weights", nan)
    result = Theory(cases=20, pairs=50, permutations=20).run(bare_run(tmp_path))
    assert result.metrics["invariants/violations"] == 20
    for name in ("invariants/largest_row_sum", "invariants/largest_negative", "taylor/largest_difference"):
        assert np.isnan(result.metrics[name]), name
    with pytest.raises(ValueError, match="nan"):
        result.check()


def test_outputs_that_are_nan_violate_the_invariants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = theory.entropy_linear_attention

    def nan(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        return torch.full_like(genuine(q, k, v, **options), torch.nan)

    monkeypatch.setattr(theory, "entropy_linear_attention", nan)
    found = Theory(cases=20, pairs=50, permutations=20).run(bare_run(tmp_path)).metrics
    assert found["invariants/violations"] == 20
    assert np.isnan(found["invariants/largest_dense"])


def test_divergence_and_entropy_that_are_nan_violate_the_inequalities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("kl_divergence", "entropy"):
        genuine = getattr(theory, name)
        with monkeypatch.context() as patch:
            patch.setattr(theory, name, lambda *p, genuine=genuine: torch.nan * genuine(*p))
            run = bare_run(tmp_path)
            if name == "kl_divergence":
                found = {**theory._pairs(run, 50), **theory._alignment(run, 10, 20)}
                assert found["kl/bound_violations"] == 50
                assert found["alignment/violations"] == found["alignment/n"] == 200
                assert np.isnan(found["kl/largest_identity_error"])
            else:
                found = {**theory._pairs(run, 50), **theory._families(run, 10)}
                assert found["concavity/violations"] == found["pinsker/violations"] == 50
                assert found["families/monotonicity_violations"] == 10 * 39
                assert np.isnan(found["families/largest_slope_error"])


def test_a_seed_gives_one_result_and_another_seed_another(tmp_path: Path) -> None:
    first, again, other = (small_mixing().run(bare_run(tmp_path, seed=seed)).metrics for seed in (1, 1, 2))
    assert first == again
    assert first["long/eala_collision/mse"] != other["long/eala_collision/mse"]


def test_forecasts_are_scored_on_every_test_window_asked_for(tmp_path: Path) -> None:
    result = small_forecasting().run(bare_run(tmp_path))
    assert result.metrics["test/n"] == len(range(0, 1436, 100))
    assert result.data == "synthetic"
    assert {"anchor", "persistence", "ha", "ha_ridge", "softmax", "eala_collision"} <= set(
        result.tables["errors"].index
    )
    assert result.metrics["anchor/mae"] == pytest.approx(result.metrics["persistence/mae"], rel=1e-6)


def test_timings_are_per_call_and_as_many_as_asked_for() -> None:
    calls = []
    found = timings(lambda: calls.append(1), repeats=3, device=torch.device("cpu"))
    assert found.shape == (3,)
    assert (found > 0).all()
    assert len(calls) > 100  # what is short is repeated


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, "num_heads is 3, expected a divisor of the 16 features of the embeddings"),
        ({"attentions": ["sofmax"]}, r"attentions: got \['sofmax'\], expected one of softmax, softmax_sdpa"),
    ],
)
def test_parameters_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    target = "iclr_repro.entropy_linear_attention.experiments.Forecasting"
    with pytest.raises(ParameterError, match=message):
        build("forecasting", {"_target_": target, **vars(small_forecasting()), **changes})


GRID: dict[str, Any] = {"dims": (8,), "num_keys": (64,), "variances": (), "num_queries": 4, "draws": 1}
PLUG_IN: dict[str, Any] = {
    "datasets": ["los_loop"],
    "dim": 8,
    "num_heads": 2,
    "ffn_dim": 8,
    "num_layers": 1,
    **{
        name: value
        for name, value in vars(small_forecasting()).items()
        if name in {field.name for field in dataclasses.fields(PlugIn)}
    },
}
TIMED: dict[str, Any] = {
    "attentions": ["softmax"],
    "num_nodes": [64],
    "materialised_limit": 64,
    "backward_limit": 64,
    "head_dim": 4,
    "num_heads": 1,
    "repeats": 1,
    "model_nodes": 8,
}


@pytest.mark.parametrize(
    ("target", "settings", "changes", "message"),
    [
        ("Forecasting", vars(small_forecasting()), {"attentions": []}, "attentions: got an empty list, expected"),
        (
            "Forecasting",
            vars(small_forecasting()),
            {"attentions": ["softmax", "none", "softmax"]},
            r"attentions: got .*, expected each element once: remove the second 'softmax'",
        ),
        (
            "Forecasting",
            vars(small_forecasting()),
            {"fine_tune_steps": 2, "attentions": ["eala_collision"]},
            r"fine_tune_steps is 2, but attentions \['eala_collision'\] has no softmax to convert: add one of softmax,",
        ),
        (
            "Forecasting",
            vars(small_forecasting()),
            {"schedule": "multistep"},
            "milestones is empty, expected at least one epoch with schedule=multistep",
        ),
        (
            "Forecasting",
            vars(small_forecasting()),
            {"milestones": [3]},
            r"milestones is \[3\], expected an empty list with schedule=onecycle",
        ),
        ("Forecasting", vars(small_forecasting()), {"clip_norm": 0.0}, "clip_norm is 0.0, expected a norm above 0, or"),
        ("PlugIn", PLUG_IN, {"clip_norm": 0.0}, "clip_norm is 0.0, expected a norm above 0, or null to clip nothing"),
        ("PlugIn", PLUG_IN, {"num_heads": 3}, "num_heads is 3, expected a divisor of dim = 8: change either"),
        ("PlugIn", PLUG_IN, {"datasets": []}, "datasets: got an empty list, expected at least 1 element"),
        ("Mixing", vars(small_mixing()), {"num_heads": 3}, "num_heads is 3, expected a divisor of dim = 16"),
        (
            "Mixing",
            vars(small_mixing()),
            {"num_clusters": 3},
            "num_clusters is 3, expected a divisor of num_nodes = 16",
        ),
        ("Mixing", vars(small_mixing()), {"long": []}, "long: got an empty list"),
        ("Mixing", vars(small_mixing()), {"short": ["uniform"] * 2}, "short: .* remove the second 'uniform'"),
        ("Mixing", vars(small_mixing()), {"clip_norm": 0.0}, "clip_norm is 0.0, expected a norm above 0: no update"),
        ("Efficiency", TIMED, {"attentions": []}, "attentions: got an empty list"),
        ("Efficiency", TIMED, {"attentions": ["softmax"] * 2}, "attentions: .* remove the second 'softmax'"),
        ("Efficiency", TIMED, {"num_nodes": []}, "num_nodes: got an empty list"),
        ("EntropyApproximation", GRID, {"dims": []}, "dims: got an empty list"),
        ("EntropyApproximation", GRID, {"num_keys": [64, 64]}, "num_keys: .* remove the second 64"),
        ("EntropyApproximation", GRID, {"dims": [38]}, r"dims: got \[38\], expected one of at most 16"),
        ("EntropyApproximation", GRID, {"variances": [0.0]}, "variances: got 0.0, expected positive finite numbers"),
        ("Resemblance", GRID, {"variances": [float("inf")]}, "variances: got inf"),
        ("Resemblance", GRID, {"num_keys": []}, "num_keys: got an empty list"),
    ],
)
def test_combinations_that_cannot_work_are_refused_at_once(
    target: str, settings: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    target = f"iclr_repro.entropy_linear_attention.experiments.{target}"
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    build("experiment", {"_target_": target, **plain})
    with pytest.raises(ParameterError, match=message):
        build("experiment", {"_target_": target, **plain, **changes})


def test_the_fused_softmax_is_reported_on_where_it_is_the_only_one(tmp_path: Path) -> None:
    experiment = dataclasses.replace(
        small_forecasting(), attentions=("softmax_sdpa", "eala_collision"), fine_tune_steps=1
    )
    found = experiment.run(bare_run(tmp_path))
    assert {"host_keys/attainment", "converted_relu/mae", "converted_identity/fine_tuned_mae"} <= set(found.metrics)
    assert {"attention_entropy", "attention_entropy_plain"} <= set(found.tables)
    assert "attention_entropy_report" in found.figures


def test_a_full_set_without_its_folder_is_refused(tmp_path: Path) -> None:
    experiment = dataclasses.replace(small_forecasting(), dataset="PEMS08", data="real")
    with pytest.raises(ValueError, match=r"dataset PEMS08 needs data_dir, the folder with PEMS08.npz"):
        experiment.run(bare_run(tmp_path))
