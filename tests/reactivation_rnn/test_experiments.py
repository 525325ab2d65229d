"""What the experiments accept and how they measure, at scale smoke or smaller."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest

from iclr_repro import command_line
from iclr_repro.core.claims import Results, claims_of, judge
from iclr_repro.core.experiment import build
from iclr_repro.reactivation_rnn import claims, figures
from iclr_repro.reactivation_rnn.data import Path2D
from iclr_repro.reactivation_rnn.experiments.real_behaviour import RealBehaviour
from iclr_repro.reactivation_rnn.experiments.variants import VARIANTS
from support import bare_run


def settings(scale: str) -> dict[str, Any]:
    composed = command_line.compose(["paper=reactivation_rnn", f"scale={scale}"])
    found: dict[str, Any] = command_line.checked_settings(composed)["experiments"]
    return found


SMOKE = settings("smoke")
SHORT = {"updates": 5, "trajectories": 12}


def test_spatial_measures_every_network_against_every_active_distribution(tmp_path: Path) -> None:
    config = {**SMOKE["spatial"], **SHORT, "nets": ["nt_u", "dt_u", "gru_b"], "pca_trajectories": 5}
    result = build("spatial", config).run(bare_run(tmp_path))
    result.check()
    rows = ["nt_u", "dt_u", "gru_b", "untrained", "nt_u_c1", "dt_u_noise", "uniform"]
    assert list(result.tables["kl"].index) == rows
    for row in rows:
        for column in ("nt_u", "dt_u", "gru_b"):
            assert np.isfinite(float(result.metrics[f"kl/{row}/{column}"]))
    assert result.metrics["n"] == 12
    assert float(result.metrics["kl_official/uniform/nt_u"]) > float(result.metrics["kl/uniform/nt_u"])
    assert set(result.figures) == {
        "learning", "trajectories", "occupancy", "kl_matrix", "exploration", "principal_components",
    }  # fmt: skip


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(tmp_path: Path) -> None:
    config = {**SMOKE["common_start"], **SHORT, "nets": ["nt_u"]}
    first, again = (build("common", config).run(bare_run(tmp_path)).metrics for _ in range(2))
    assert first == again
    assert build("common", config).run(bare_run(tmp_path, seed=1)).metrics != first


def test_all_networks_of_a_seed_start_from_the_same_weights(tmp_path: Path) -> None:
    experiment: Any = build("spatial", SMOKE["spatial"])
    run = bare_run(tmp_path)
    noisy, noiseless = (experiment.untrained(run, name) for name in ("nt_u", "dt_b"))
    assert all((a == b).all() for a, b in zip(noisy.parameters(), noiseless.parameters(), strict=True))
    assert (noisy.sigma_step, noiseless.sigma_step) == (0.01, 0.0)
    other = experiment.untrained(bare_run(tmp_path, seed=1), "nt_u")
    assert not (noisy.recurrent.weight == other.recurrent.weight).all()


def test_the_first_test_trajectories_are_the_same_for_every_number(tmp_path: Path) -> None:
    """So that networks that experiments share are tested on the same."""
    experiment: Any = build("common", SMOKE["common_start"])
    few, same, more = (experiment.tests(bare_run(tmp_path), "u", num) for num in (20, 32, 50))
    assert [len(some) for some in (few, same, more)] == [20, 32, 50]
    for some in (few, more):
        for name in ("start", "inputs", "targets"):
            shared, own = (np.moveaxis(getattr(each, name), -2, 0)[:20] for each in (same, some))
            assert (shared == own).all()


def test_variants_change_one_thing_each(tmp_path: Path) -> None:
    config = {**SMOKE["variants"], **SHORT, "variants": list(VARIANTS), "replay_steps": 40}
    result = build("variants", config).run(bare_run(tmp_path))
    result.check()
    assert list(result.tables["variants"].index) == list(VARIANTS)
    assert [len(changes) for _, changes in VARIANTS.values()] == [0, 1, 1, 1, 1, 1, 0, 1]
    steps = result.tables["variants"]["step_quiescent"]
    assert steps.nunique() == len(steps)


def test_head_direction_measures_both_behaviours(tmp_path: Path) -> None:
    config = {**SMOKE["head_direction"], "behaviours": ["unbiased", "counter_clockwise"], "updates": 5}
    result = build("hd", config).run(bare_run(tmp_path))
    result.check()
    for name in ("unbiased", "counter_clockwise"):
        assert {f"{name}/bearing_kl", f"{name}/radius_quiescent", f"{name}/turn_mean_quiescent"} <= set(result.metrics)
        assert 0 < float(result.metrics[f"{name}/error"]) < np.pi


def test_training_and_test_windows_of_the_rat_share_no_point() -> None:
    experiment = build("rat", {**SMOKE["real_behaviour"]})
    assert isinstance(experiment, RealBehaviour)
    path = Path2D(np.zeros((1000, 2)), np.arange(1000) != 400)
    training, testing = experiment._split(path)
    assert len(training)
    assert len(testing)
    points = [
        set((starts[:, None] + np.arange(experiment.num_steps + 1)).ravel().tolist()) for starts in (training, testing)
    ]
    assert not points[0] & points[1]
    assert 400 not in points[0] | points[1]


def test_generated_paths_are_marked_and_not_judged(tmp_path: Path) -> None:
    result = build("rat", {**SMOKE["real_behaviour"], **SHORT}).run(bare_run(tmp_path))
    assert result.data == "synthetic"
    results = Results.from_metrics({"real_behaviour": result.metrics}, data="synthetic")
    (one,) = judge([claim for claim in claims_of(claims) if claim.id == "R1"], results, "cpu")
    assert one.check.verdict == "not run"
    assert "needs the real data" in one.check.note


@pytest.mark.parametrize(
    ("experiment", "change", "message"),
    [
        ("spatial", {"noise_law": "cauchy"}, "noise_law: got 'cauchy', expected one of gaussian, uniform_official"),
        ("spatial", {"place_code": "dog"}, "place_code: got 'dog', expected one of softmax, gaussian"),
        ("spatial", {"num_steps": 1}, "num_steps: got 1, expected >= 2"),
        ("spatial", {"variance_steps": 30}, "variance_steps: got 30, expected at least kl_steps, 60"),
        ("spatial", {"nets": ["nt_x"]}, "nets: got ['nt_x'], expected one of nt_u"),
        ("common_start", {"windows": [100, 50]}, "windows: got [100, 50], expected at least two boundaries, ascending"),
        ("common_start", {"windows": [0, 5]}, "windows: got [0, 5], expected the last boundary at 10 steps or later"),
        ("common_start", {"nets": []}, "nets: got [], expected at least one"),
        ("common_start", {"num_steps": 10}, "num_steps: got 10, expected more than the 10 that motion is judged over"),
        ("spatial", {"nets": []}, "nets: got [], expected at least one"),
        ("spatial", {"nets": ["dt_u"]}, "nets: got ['dt_u'], expected one that is trained with noise"),
        ("spatial", {"num_steps": 10}, "num_steps: got 10, expected more than the 10 that motion is judged over"),
        ("score_alignment", {"nets": ["dt_u"]}, "nets: got ['dt_u'], expected one that is trained with noise"),
        ("score_alignment", {"components": 49}, "components: got 49, expected at most num_units, 48"),
        ("replay_dynamics", {"nets": []}, "nets: got [], expected at least one"),
        ("replay_dynamics", {"dynamics": {}}, "dynamics: got none, expected at least one"),
        ("real_behaviour", {"nets": []}, "nets: got [], expected at least one"),
        (
            "real_behaviour",
            {"num_steps": 3000},
            "num_steps: got 3000, expected at most 239: every 5th block of 5 windows",
        ),
        (
            "head_direction",
            {"behaviours": []},
            "behaviours: got [], expected at least one",
        ),
        ("head_direction", {"active_turn_steps": 21}, "active_turn_steps: got 21, expected at most num_steps, 20"),
        ("head_direction", {"trajectories": 5}, "trajectories: 5 of 20 steps are 100 bearings, expected at least 360"),
        ("replay_dynamics", {"dynamics": {"x": {"mass": 1.0}}}, "dynamics.x: "),
        ("replay_dynamics", {"dynamics": {"x": {"friction": 2.0}}}, "friction: got 2.0, expected in (0, 1]"),
        ("score_alignment", {"temperatures": [0.0]}, "temperatures: got [0.0], expected >= 0.01"),
        ("head_direction", {"bearing_code": "none"}, "bearing_code: got 'none', expected one of peak, density"),
        ("efficiency", {"sizes": [[1, 2, 3]]}, "sizes: got [[1, 2, 3]], expected N, P and B >= 3"),
        ("real_behaviour", {"data": "rael"}, "data: got 'rael', expected one of auto"),
    ],
)
def test_bad_parameters_are_refused(experiment: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build(experiment, {**SMOKE[experiment], **change})


def test_the_scales_keep_the_constants_of_the_method() -> None:
    """Sheet 6: the same a, noise, drift and generator at all scales; only sizes and budgets change."""
    for scale in ("smoke", "cpu", "paper"):
        spatial = settings(scale)["spatial"]
        constants = (
            spatial[name] for name in ("sigma_step", "drift", "speed_scale", "noise_law", "place_code", "bias")
        )
        assert tuple(constants) == (0.01, 0.05, pytest.approx(0.26 * np.pi), "gaussian", "softmax", False)
    paper = settings("paper")
    assert paper["spatial_bias"]["bias"] is True
    for name in ("spatial", "head_direction", "common_start"):
        official = paper[f"{name}_official_noise"]
        assert official == {**paper[name], "noise_law": "uniform_official"}
        assert (official["eval_every"], official["batch_size"], official["num_cells"]) == (100, 200, 512)
    assert {"gru_u", "gru_b"} < set(paper["spatial_official_noise"]["nets"])
    turning = paper["head_direction"]
    assert (turning["active_turn_steps"], turning["turn_steps"], turning["updates"]) == (50, 500, 20_000)


TINY = {
    "num_units": 16, "num_cells": 64, "batch_size": 4, "num_steps": 12, "updates": 3, "eval_every": 2,
    "trajectories": 100, "kl_steps": 20, "variance_steps": 30, "variance_dropped": 10, "variance_trajectories": 20,
    "pca_trajectories": 20, "pca_steps": 20, "kl_samples": 50, "histogram_steps": 24, "turn_steps": 20,
    "active_turn_steps": 12, "windows": [0, 10, 20], "components": 4, "probes": 20, "temperature_steps": 20,
    "replay_steps": 20, "data": "synthetic", "cases": 2, "draws": 50, "chains": 20, "dropped": 5,
    "sizes": [[8, 8, 4]], "batch": 4, "kde": [50, 20], "repeats": 2,
}  # fmt: skip


@pytest.mark.parametrize("experiment", sorted(settings("paper")))
def test_every_experiment_of_scale_paper_runs_at_tiny_sizes(experiment: str, tmp_path: Path) -> None:
    config = settings("paper")[experiment]
    tiny = {name: value for name, value in TINY.items() if name in config}
    assert len(tiny) >= 2
    build(experiment, config | tiny).run(bare_run(tmp_path)).check()


def test_a_claim_about_the_official_noise_asks_for_its_experiment() -> None:
    (claim,) = [one for one in claims_of(claims) if one.id == "C5p"]
    (judged,) = judge([claim], Results.from_metrics({"spatial": {}}), "paper")
    assert judged.check.verdict == "not run"
    assert judged.check.note == "needs the experiment spatial_official_noise of scale paper"


@pytest.mark.parametrize(
    ("turns", "verdict"),
    [
        ([0.1, 0.2, 0.1, 0.1, -0.1], "reproduced"),
        ([0.1, 0.2, 0.1, -0.1, -0.1], "not reproduced"),
        ([0.1, 0.2, 0.1, 0.1, -2.9], "inconclusive"),  # as fast as waking on average, the other way round
    ],
)
def test_the_sense_of_rotation_is_counted_over_seeds(turns: list[float], verdict: str) -> None:
    metrics = {
        "counter_clockwise/turn_mean_quiescent": np.array(turns),
        "counter_clockwise/turn_mean_active": np.full(5, 0.5),
    }
    (claim,) = [one for one in claims_of(claims) if one.id == "C13"]
    (judged,) = judge([claim], Results.from_metrics({"head_direction": metrics}), "paper")
    assert judged.check.verdict == verdict


def test_figures_are_in_the_layout_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    decoded = {
        f"{net} {phase}": rng.normal(size=(20, 6, 2)) for net in ("nt_u", "dt_u") for phase in ("active", "quiescent")
    }
    decoded["dt_u + noise"] = rng.normal(size=(20, 6, 2))
    made = figures.trajectory_grid(decoded, nets=["nt_u", "dt_u"], side_m=2.2, num=3, num_steps=10)
    assert isinstance(made, matplotlib.figure.Figure)
    assert [ax.get_title() for ax in made.axes[:2]] == ["noisy, unbiased", "noiseless, unbiased"]
    assert [ax.get_ylabel() for ax in made.axes] == ["active", "", "quiescent", "", "", "quiescent + noise"]
    table = pd.DataFrame([[0.1, 7.0], [6.0, 0.2]], index=["nt_u_c1", "dt_u_noise"], columns=["nt_u", "nt_b"])
    shown = figures.kl_matrix(table).axes[0]
    assert [text.get_text() for text in shown.texts] == ["0.10", "7.00", "6.00", "0.20"]
    assert [label.get_text() for label in shown.get_yticklabels()] == [
        "noisy, unbiased, c = 1",
        "noiseless, unbiased + noise",
    ]
