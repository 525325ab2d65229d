import subprocess
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from iclr_repro.core.plotting import COLORS, figure, save_figure


def make_figure() -> Figure:
    made, axes = figure(width=5.0, height=3.0, ncols=2, sharey=True)
    axes[0, 0].plot([0, 1, 2], [0.5, 0.25, 0.125], label="loss")
    axes[0, 0].legend()
    axes[0, 1].scatter([1, 2], [0.1, 0.2], label="points")
    axes[0, 1].set_title("accuracy & co.")
    return made


def test_equal_figures_give_equal_files_also_in_another_process(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        save_figure(make_figure(), tmp_path / folder, "curve")
    script = (
        f"import pathlib, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_plotting;"
        f"test_plotting.save_figure(test_plotting.make_figure(), pathlib.Path({str(tmp_path / 'three')!r}), 'curve')"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    for ending in ("svg", "png"):
        contents = [(tmp_path / folder / f"curve.{ending}").read_bytes() for folder in ("one", "two", "three")]
        assert len(contents[0]) > 1000
        assert contents[1:] == [contents[0]] * 2


def test_the_svg_holds_text_as_text_and_neither_file_a_date_or_a_version(tmp_path: Path) -> None:
    save_figure(make_figure(), tmp_path, "curve")
    svg = (tmp_path / "curve.svg").read_text()
    assert "accuracy &amp; co." in svg
    assert "<dc:date>" not in svg
    assert f"v{matplotlib.__version__}" not in svg
    assert b"Software" not in (tmp_path / "curve.png").read_bytes()


def test_axes_are_always_a_two_dimensional_array() -> None:
    for nrows, ncols in [(1, 1), (1, 3), (2, 1), (2, 2)]:
        made, axes = figure(nrows=nrows, ncols=ncols)
        assert isinstance(axes, np.ndarray)
        assert axes.shape == (nrows, ncols)
        assert list(axes.flat) == made.axes


def test_size_is_in_inches_and_options_reach_the_axes() -> None:
    made, axes = figure(width=4.0, height=2.0, ncols=2, sharey=True)
    assert made.get_size_inches().tolist() == [4.0, 2.0]
    assert axes[0, 0].get_shared_y_axes().joined(axes[0, 0], axes[0, 1])


def test_figures_use_the_colours_of_the_house_in_order() -> None:
    _, axes = figure()
    lines = [axes[0, 0].plot([0, 1])[0].get_color() for _ in COLORS]
    assert lines == list(COLORS)
    assert len(set(COLORS)) == len(COLORS)


def test_neither_pyplot_nor_its_settings_are_touched(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    save_figure(make_figure(), tmp_path, "curve")
    assert plt.get_fignums() == []
    assert dict(matplotlib.rcParams) == before
