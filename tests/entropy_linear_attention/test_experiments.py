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
from iclr_repro import command_line
from iclr_repro.core.experiment import ParameterError, build
from iclr_repro.entropy_linear_attention import FULL_SETS, entropy_equality
from iclr_repro.entropy_linear_attention.experiments import (
    Efficiency,
    EntropyApproximation,
    PlugIn,
    Resemblance,
    Theory,
    forecasting,
    theory,
)
from iclr_repro.entropy_linear_attention.experiments.efficiency import Timings
from iclr_repro.entropy_linear_attention.experiments.entropy import (
    estimate_errors,
    gaussian_keys,
    resemblance,
    with_variance,
)
from iclr_repro.entropy_linear_attention.series import split_starts
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
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert first["long/eala_collision/mse"] != other["long/eala_collision/mse"]


def test_trainings_are_independent_and_count_as_seeds(tmp_path: Path) -> None:
    steps = {"long_steps": 4, "short_steps": 2}
    found = small_mixing(long_trainings=2, short_trainings=3, **steps).run(bare_run(tmp_path)).metrics
    alone = small_mixing(long_trainings=1, short_trainings=1, **steps).run(bare_run(tmp_path)).metrics
    for name, number in (("long/softmax/mse", 2), ("short/linear_elu/mse", 3)):
        errors = np.asarray(found[name])
        assert len(set(errors)) == number
        assert np.asarray(alone[name]) == errors[:1]
    assert np.shape(found["long/eala_collision/attainment/blocks.0.attention"]) == (2,)
    assert {f"short/eala_collision/{what}/blocks.0.attention" for what in ("attainment", "dead")} <= set(found)


def test_forecasts_are_scored_on_every_test_window_asked_for(tmp_path: Path) -> None:
    result = small_forecasting().run(bare_run(tmp_path))
    assert result.metrics["test/n"] == len(range(0, 1436, 100))
    assert result.data == "synthetic"
    assert {"anchor", "persistence", "ha", "ha_ridge", "softmax_sdpa", "eala_collision"} <= set(
        result.tables["errors"].index
    )
    for what in ("attainment", "dead", "relative_entropy"):
        assert 0 <= result.metrics[f"eala_collision/{what}/spatial.0.attention"] <= 1
    entropies = result.tables["errors"]["relative_entropy"]
    assert entropies["softmax_sdpa"] == result.metrics["softmax_sdpa/relative_entropy/spatial.0.attention"]
    assert entropies.isna()["ha"]
    assert not {name for name in result.metrics if name.startswith("softmax_sdpa/attainment")}
    held = {name: result.metrics[f"{name}/step_peak_bytes"] for name in ("softmax_sdpa", "eala_collision")}
    assert min(held.values()) > 4 * 12 * 6 * 16 * 4  # more than one layer's tokens
    for estimate in ("gauss2", "cum3", "taylor2"):
        assert result.metrics[f"host_keys/{estimate}/entropy_error"] < 0.01
        assert result.metrics[f"host_keys/{estimate}/deficit_error"] > 0
    assert result.metrics["anchor/mae"] == pytest.approx(result.metrics["persistence/mae"], rel=1e-6)


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
    "fused_backward_limit": 64,
    "head_dim": 4,
    "num_heads": 1,
    "repeats": 1,
    "model_nodes": [8],
}


@pytest.mark.parametrize(
    ("target", "settings", "changes", "message"),
    [
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
        ("Mixing", vars(small_mixing()), {"num_heads": 3}, "num_heads is 3, expected a divisor of dim = 16"),
        (
            "Mixing",
            vars(small_mixing()),
            {"num_clusters": 3},
            "num_clusters is 3, expected a divisor of num_nodes = 16",
        ),
        ("Mixing", vars(small_mixing()), {"short": ["uniform"] * 2}, "short: .* remove the second 'uniform'"),
        ("Mixing", vars(small_mixing()), {"clip_norm": 0.0}, "clip_norm is 0.0, expected a norm above 0: no update"),
        ("Efficiency", TIMED, {"attentions": ["softmax"] * 2}, "attentions: .* remove the second 'softmax'"),
        ("Efficiency", TIMED, {"model_nodes": [8, 8]}, "model_nodes: .* remove the second 8"),
        ("EntropyApproximation", GRID, {"num_keys": [64, 64]}, "num_keys: .* remove the second 64"),
        ("EntropyApproximation", GRID, {"dims": [38]}, r"dims: got \[38\], expected one of at most 16"),
        ("EntropyApproximation", GRID, {"variances": [0.0]}, "variances: got 0.0, expected positive numbers"),
        ("Resemblance", GRID, {"variances": [float("inf")]}, r"variances: got \[inf\]"),
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
    experiment = dataclasses.replace(small_forecasting(), fine_tune_steps=1)
    found = experiment.run(bare_run(tmp_path))
    assert {
        "host_keys/plain/attainment",
        "host_keys/relu/tv_to_plain",
        "converted_relu/mae",
        "converted_identity/fine_tuned_mae",
    } <= set(found.metrics)
    assert {"attention_entropy", "attention_entropy_plain"} <= set(found.tables)
    assert "attention_entropy_report" in found.figures


def test_a_full_set_without_its_folder_is_refused(tmp_path: Path) -> None:
    experiment = dataclasses.replace(small_forecasting(), dataset="PEMS08", data="real")
    with pytest.raises(ValueError, match=r"dataset PEMS08 needs data_dir, the folder with PEMS08.npz"):
        experiment.run(bare_run(tmp_path))


def test_fine_tuning_keeps_a_tenth_of_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine, seen = forecasting.forecast_learner, []

    def noted(*args: Any, **options: Any) -> Any:
        seen.append((options["learning_rate"], options["schedule"], options["steps"]))
        return genuine(*args, **options)

    monkeypatch.setattr(forecasting, "forecast_learner", noted)
    dataclasses.replace(small_forecasting(), fine_tune_steps=2).run(bare_run(tmp_path))
    assert seen[:2] == [(0.003, "onecycle", 4)] * 2
    assert seen[2:] == [(pytest.approx(0.0003), "constant", 2)] * 2


def test_queries_without_active_features_do_not_count() -> None:
    rng = np.random.default_rng(0)
    q, k = gaussian_keys(rng, 30, 8).abs(), gaussian_keys(rng, 40, 8)
    with_dead = torch.cat([q, -q])
    expected = estimate_errors(q, k, "relu")
    for estimate, found in estimate_errors(with_dead, k, "relu").items():
        assert found == pytest.approx(expected[estimate])
    alone, beside = resemblance(q, k, "collision"), resemblance(with_dead, k, "collision")
    assert beside.pop("dead") == 0.5
    assert beside.pop("score_variance") == pytest.approx(alone.pop("score_variance") / 2)
    assert alone.pop("dead") == 0.0
    assert beside == pytest.approx(alone)


def test_slopes_and_speedups_are_those_of_medians() -> None:
    measured = Timings()
    seconds = {
        "softmax": {1024: np.array([1.0, 2.0, 90.0]), 4096: np.array([32.0, 30.0, 34.0])},
        "eala_collision": {1024: np.array([1.0, 1.0, 1.0]), 4096: np.array([4.0, 4.0, 70.0]), 64: np.ones(3)},
    }
    measured.slope("slope", seconds["softmax"], least=1024)
    measured.slope("eala", seconds["eala_collision"], least=1024)
    measured.slope("one", {1024: np.ones(3)}, least=1024)
    measured.speedups("n{number}/over_{name}", seconds)
    expected = {"slope": 2.0, "eala": 1.0, "n1024/over_softmax": 2.0, "n4096/over_softmax": 8.0}
    assert measured.metrics == pytest.approx(expected)
    low, high = measured.intervals["n4096/over_softmax"]
    assert low == pytest.approx(34 / 70)
    assert 8.0 <= high <= 34 / 4
    low, high = measured.intervals["slope"]
    assert low < 2.0 < high


def test_one_repeat_has_no_interval() -> None:
    measured = Timings()
    measured.of_medians("ratio", lambda a, b: a / b, np.array([4.0]), np.array([2.0]))
    assert (measured.metrics, measured.intervals) == ({"ratio": 2.0}, {})


def test_the_whole_host_is_timed_at_several_sizes(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {
        "num_nodes": (16, 32),
        "model_nodes": (256, 512),
        "materialised_limit": 256,
        "fused_backward_limit": 16,
    }
    attentions = ("softmax", "softmax_sdpa", "eala_collision", "uniform")
    found = Efficiency(attentions=attentions, **sizes, head_dim=4, num_heads=1, repeats=2).run(bare_run(tmp_path))
    assert {"model/eala_collision/step_slope", "model/softmax_sdpa/forward_slope"} <= set(found.intervals)
    assert "model/softmax/step_slope" not in found.metrics  # beyond its limit there is one size only
    assert {"model/n512/step_speedup_over_softmax_sdpa", "model/n256/forward_speedup_over_softmax"} <= set(
        found.metrics
    )
    assert "n32/forward_backward_speedup_over_softmax" in found.metrics
    assert "softmax_sdpa/n32/forward_backward_ms" not in found.metrics
    found.check()


# Rows and nodes of the public sets, and what the host's authors train them with (sheet M6).
HOST_TRAINING = {
    "PEMS03": (26208, 0.0005, (15, 30, 40), 20, 300, "huber"),
    "PEMS04": (16992, 0.0005, (15, 30, 50), 20, 300, "huber"),
    "PEMS07": (28224, 0.001, (15, 35, 50), 20, 300, "huber"),
    "PEMS08": (17856, 0.0015, (25, 45, 65), 30, 300, "huber"),
    "METR-LA": (34272, 0.0003, (20, 30), 30, 200, "masked_mae"),
    "PEMS-BAY": (52116, 0.0001, (10, 30), 20, 200, "masked_mae"),
}


def paper_settings(*overrides: str) -> dict[str, Any]:
    arguments = ["paper=entropy_linear_attention", "scale=paper", *overrides]
    return command_line.checked_settings(command_line.compose(arguments))["experiments"]


def test_every_public_set_has_the_training_of_the_host() -> None:
    assert set(HOST_TRAINING) == set(FULL_SETS)
    for name, (num_rows, weight_decay, milestones, patience, epochs, loss) in HOST_TRAINING.items():
        experiments = paper_settings(f"experiments.forecasting.dataset={name}")
        for key in ("forecasting", "ablation"):
            experiment: Any = build(key, experiments[key])
            assert experiment.dataset == name
            assert (experiment.weight_decay, experiment.milestones) == (weight_decay, milestones)
            assert (experiment.patience, experiment.loss) == (patience, loss)
            fractions = (0.7, 0.1) if name in ("METR-LA", "PEMS-BAY") else (0.6, 0.2)
            train, _, _ = split_starts(num_rows, fractions, num_steps=12, horizon=12)
            assert experiment.eval_every == len(train) // experiment.batch_size
            assert experiment.steps == epochs * experiment.eval_every


def test_a_set_without_a_training_of_the_host_is_refused() -> None:
    settings = paper_settings("experiments.forecasting.dataset=PEMS05")["forecasting"]
    with pytest.raises(ParameterError, match=r"dataset: got 'PEMS05', expected one of pems08_tail, PEMS03") as refused:
        build("forecasting", settings)
    assert "experiments.forecasting.steps: got None, expected a whole number" in str(refused.value)


@pytest.mark.parametrize("name", ["PEMS04", "METR-LA"])
def test_a_public_set_is_trained_on_from_its_folder(name: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(1, 90, (400, 5)).astype(float)
    np.savez(tmp_path / f"{name}.npz", data=values)
    settings = paper_settings(
        f"experiments.forecasting.dataset={name}", f"experiments.forecasting.data_dir={tmp_path}"
    )["forecasting"]
    small = {"steps": 3, "eval_every": 2, "attentions": ["softmax_sdpa", "eala_collision"], "ffn_dim": 8}
    dims = {"input_dim": 4, "tod_dim": 4, "dow_dim": 4, "adaptive_dim": 4, "temporal_layers": 1, "spatial_layers": 1}
    found = build("forecasting", {**settings, **small, **dims}).run(bare_run(tmp_path))
    assert found.data == "real"
    assert found.metrics["test/n"] == (76 if name == "PEMS04" else 75)


def test_the_task_of_64_nodes_stays_beside_that_of_512() -> None:
    experiments = paper_settings()
    sizes = {key: (experiments[key]["num_nodes"], experiments[key]["num_clusters"]) for key in ("mixing", "mixing_512")}
    assert sizes == {"mixing": (64, 4), "mixing_512": (512, 16)}
    build("mixing_512", experiments["mixing_512"])
