"""That figures show what they are given; how they look is for the eye."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from iclr_repro.core.plotting import save_figure
from iclr_repro.me_nash_ql import figures


def curve(value: float) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    episodes = np.array([10, 100, 1000])
    names = ("output", "gap", "best_gap", "mixture")
    return episodes, {"certificate_ok": np.ones((3, 4)), **{name: np.full((3, 4), value) for name in names}}


@pytest.mark.parametrize("uniform", [1.5, 0.0])
def test_learning_curves_have_a_line_a_method_and_can_be_saved(tmp_path: Path, uniform: float) -> None:
    wrong, broken = curve(0.1)
    broken["certificate_ok"][-1, 0] = 0.0
    made = figures.learning_curves(
        {"a": curve(0.5), "b": curve(2.0), "c": (wrong, broken)}, title="game", horizon=2, uniform=uniform
    )
    left, right = made.axes
    labels = [str(line.get_label()) for line in left.lines]
    assert [label for label in labels if not label.startswith("_")] == ["a", "b", "c (wrong in 25%)"]
    shown = [line.get_label() for line in right.lines]
    assert shown == ["a", "c (wrong in 25%)"], "a gap that stays at H certifies nothing"
    save_figure(made, tmp_path, "curves")
    assert (tmp_path / "curves.svg").stat().st_size > 0


def test_ablations_name_the_share_of_broken_runs() -> None:
    rows = {("g", method, quantity): (value, value - 0.1, value + 0.1)
            for method, ok in (("good", 1.0), ("bad", 0.25))
            for quantity, value in (("gap", 0.5), ("output", 0.1), ("optimism_ok", ok))}  # fmt: skip
    final = pd.DataFrame(rows, index=["mean", "low", "high"]).T.rename_axis(index=["game", "method", "quantity"])
    (axes,) = figures.ablations(final).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["good", "bad  (75% broken)"]


def test_the_median_of_a_gap_that_is_mostly_negative_is_not_shown_as_positive() -> None:
    episodes, values = curve(0.2)
    values["gap"][-1] = [0.2, -0.3, -0.2, -0.1]
    made = figures.learning_curves({"a": (episodes, values)}, title="game", horizon=2, uniform=1.0)
    assert np.isnan(np.asarray(made.axes[1].lines[0].get_ydata(), dtype=float)).tolist() == [False, False, True]


def test_a_board_shows_likely_actions_and_the_ball(tmp_path: Path) -> None:
    shares = np.array([[0.7, 0.27, 0.03, 0.0, 0.0]])
    made = figures.soccer_play((2, 3), [((0, 0), (1, 2), 1)], {"exact": (shares, shares[:, ::-1])})
    (axes,) = made.axes
    assert sorted(text.get_text() for text in axes.texts if text.get_text()) == ["0.27", "0.27", "0.70", "0.70"]
    rims = [line.get_markeredgecolor() for line in axes.lines]
    assert [rim == "black" for rim in rims] == [False, True]
    save_figure(made, tmp_path, "board")
