from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iclr_repro.core.data import DataError, is_present
from iclr_repro.reactivation_rnn.data import Path2D, load_sargolini, ratinabox_path, recorded_path, synthetic_path

needs_data = pytest.mark.skipif(not is_present("reactivation_rnn/sargolini.npz"), reason="no data (ICLR_REPRO_DATA)")


def recording(gap_at: float | None = None) -> Path2D:
    """A straight walk through the unit box in 10 s, sampled every 20 ms; from `gap_at` on half a second is missing."""
    time = np.arange(0.0, 10.0, 0.02)
    if gap_at is not None:
        time = time[(time <= gap_at) | (time >= gap_at + 0.5)]
    return recorded_path(time, np.stack([time / 10, np.full_like(time, 0.5)], axis=1))


def test_a_recording_is_interpolated_centred_and_scaled() -> None:
    path = recording()
    assert len(path.positions) == 100
    np.testing.assert_allclose(path.positions[:, 0], 2.2 * (np.arange(100) / 100 - 0.5), atol=1e-12)
    np.testing.assert_allclose(path.positions[:, 1], 0.0, atol=1e-12)
    assert path.usable.all()


def test_windows_do_not_cross_gaps() -> None:
    path = recording(gap_at=3.0)
    assert np.flatnonzero(~path.usable).tolist() == [31, 32, 33, 34]
    starts = path.window_starts(10)
    blocked = set(range(21, 35))
    assert not blocked & set(starts.tolist())
    assert {20, 35} <= set(starts.tolist())
    with pytest.raises(ValueError, match=re.escape("starts: windows at [25] cross a gap of the recording or its end")):
        path.windows(3, 10, rng=np.random.default_rng(0), starts=np.array([25]))
    with pytest.raises(ValueError, match="no window of 81 points among 100 avoids the gaps"):
        path.window_starts(80)
    with pytest.raises(ValueError, match="num_steps: got 1, expected >= 2"):
        path.window_starts(1)


def test_windows_are_turned_and_mirrored_in_eight_ways() -> None:
    path = recording()
    found = path.windows(400, 10, rng=np.random.default_rng(0))
    np.testing.assert_allclose(found.start + np.cumsum(found.inputs, axis=0), found.targets, atol=1e-12)
    directions = {tuple(np.sign(step.round(9)).astype(int).tolist()) for step in found.inputs[0]}
    assert directions == {(1, 0), (-1, 0), (0, 1), (0, -1)}
    assert np.abs(found.targets).max() <= 1.1
    curved = Path2D(np.stack([np.linspace(0, 1, 30) ** 2, np.linspace(0, 0.5, 30)], axis=1), np.ones(30, dtype=bool))
    signs = {
        (*np.sign(step), abs(step[0]) > abs(step[1]))
        for step in curved.windows(600, 28, rng=np.random.default_rng(0)).inputs[-1]
    }
    assert len(signs) == 8


def test_broken_recordings_are_refused() -> None:
    time = np.arange(5.0)
    with pytest.raises(ValueError, match="recording: times must ascend"):
        recorded_path(time[::-1].copy(), np.zeros((5, 2)))
    with pytest.raises(ValueError, match="recording: 5 times, 5 positions, expected as many, all finite"):
        recorded_path(time, np.full((5, 2), np.nan))
    with pytest.raises(ValueError, match="path: 1 positions are NaN or infinite; interpolate or drop them first"):
        Path2D(np.array([[0.0, np.nan], [0.0, 0.0]]), np.ones(2, dtype=bool))
    with pytest.raises(ValueError, match=re.escape("expected [n, 2], [n]")):
        Path2D(np.zeros((4, 3)), np.ones(4, dtype=bool))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "sargolini.npz", time=np.arange(3.0))
    with pytest.raises(DataError, match="expected the arrays t and pos, got time"):
        load_sargolini(find=lambda name: tmp_path / "sargolini.npz")


@needs_data
def test_the_rat() -> None:
    """Sheet 7: 5,997 points, mean step 0.0259 m."""
    path = load_sargolini()
    assert len(path.positions) == 5997
    steps = np.linalg.norm(np.diff(path.positions, axis=0), axis=1)
    assert steps.mean() == pytest.approx(0.0259, abs=0.0002)
    assert np.abs(path.positions).max() <= 1.1
    assert 0 < (~path.usable).sum() < 300


def test_a_generated_path_stays_in_the_box() -> None:
    path = synthetic_path(500, rng=np.random.default_rng(0))
    assert path.positions.shape == (500, 2)
    assert np.abs(path.positions).max() <= 1.1


def test_ratinabox_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ratinabox", None)
    with pytest.raises(ImportError, match="pip install ratinabox"):
        ratinabox_path(1.0)


def test_a_path_of_ratinabox_is_scaled_to_the_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with the interface of RatInABox 1.15, which is not installed for the tests."""

    class Agent:
        def __init__(self, environment: Any, params: dict[str, Any]) -> None:
            self.params = params
            self.history: dict[str, list[list[float]]] = {"pos": []}

        def update(self) -> None:
            self.history["pos"].append([0.5, 0.1 * len(self.history["pos"])])

    fake = types.ModuleType("ratinabox")
    fake.Environment = lambda params: params  # type: ignore[attr-defined]
    fake.Agent = Agent  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ratinabox", fake)
    path = ratinabox_path(0.5, agent={"speed_mean": 0.2})
    np.testing.assert_allclose(path.positions, 2.2 * (np.array([[0.5, 0.1 * k] for k in range(5)]) - 0.5))
