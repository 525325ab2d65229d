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
from iclr_repro.entropy_linear_attention.experiments import EntropyApproximation, Resemblance, Theory, theory
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


def test_a_full_set_without_its_folder_is_refused(tmp_path: Path) -> None:
    experiment = dataclasses.replace(small_forecasting(), dataset="PEMS08", data="real")
    with pytest.raises(ValueError, match=r"dataset PEMS08 needs data_dir, the folder with PEMS08.npz"):
        experiment.run(bare_run(tmp_path))
