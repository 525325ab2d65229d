"""The house style of figures: legible at column width, safe for colour-blind readers, the same bytes every time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from iclr_repro.core.files import write_atomically
from iclr_repro.core.statistics import mean_interval

# Okabe and Ito's palette, without its yellow (too faint on white) and with black last.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")

_STYLE: Any = {
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=COLORS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 100,
    "font.size": 9,
    "grid.alpha": 0.25,
    "savefig.bbox": "tight",
    "savefig.dpi": 150,
    "svg.fonttype": "none",
    "svg.hashsalt": "iclr_repro",
}


def figure(
    *, width: float = 6.4, height: float = 3.6, nrows: int = 1, ncols: int = 1, **subplots: Any
) -> tuple[Figure, np.ndarray]:
    """Return a figure of `width` x `height` inches and its axes, always an array of shape [nrows, ncols].

    It is not registered with pyplot, so nothing has to be closed. Further keywords go to `Figure.subplots`.
    """
    with matplotlib.rc_context(_STYLE):
        made = Figure(figsize=(width, height), layout="constrained")
        axes = made.subplots(nrows, ncols, squeeze=False, **subplots)
    return made, axes


def ratios(values: Mapping[str, float | np.ndarray]) -> Figure:
    """Draw ratios of processor times, an array having one a repeat, with their 95 % intervals; 1 is equality."""
    made, axes = figure(width=6.4, height=0.9 + 0.4 * len(values))
    ax = axes[0, 0]
    for y, ratio in enumerate(values.values()):
        repeats = np.atleast_1d(ratio)
        low, high = mean_interval(repeats) or (np.nan, np.nan)
        ax.errorbar(repeats.mean(), y, xerr=[[repeats.mean() - low], [high - repeats.mean()]], fmt="o", capsize=3)
    ax.axvline(1.0, color="0.3", linewidth=0.8)
    ax.set_yticks(range(len(values)), [name.replace("_", " ") for name in values])
    ax.set_ylim(-0.5, len(values) - 0.5)
    ax.set_xlabel("ratio of processor times")
    return made


def mark_generated(made: Figure) -> None:
    """Say above a figure that it shows generated data, which are no evidence for the paper."""
    made.text(0.0, 1.0, "generated data", ha="left", va="bottom", color=COLORS[1], fontsize=8)


def save_figure(made: Figure, folder: Path, name: str) -> None:
    """Write `<name>.svg` and `<name>.png` into the folder; equal figures give equal files."""
    with matplotlib.rc_context(_STYLE):
        write_atomically(
            folder / f"{name}.svg",
            lambda file: made.savefig(file, format="svg", metadata={"Date": None, "Creator": None}),
        )
        write_atomically(
            folder / f"{name}.png", lambda file: made.savefig(file, format="png", metadata={"Software": None})
        )
