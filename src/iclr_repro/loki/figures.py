"""The figures of the experiments, each from tables to a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from iclr_repro.core.plotting import COLORS, figure

LABELS = {
    "full": "full fine-tuning",
    "lora": "LoRA",
    "dora": "DoRA",
    "pissa": "PiSSA",
    "corda": "CorDA",
    "loki": "LoKI (signed low)",
    "random": "random rows",
    "high": "high rows",
    "low": "S-L, signed low",
    "abs_low": "|attribution| low",
    "abs_high": "|attribution| high",
    "global_low": "G-L, global low",
    "global_high": "G-H, global high",
    "loki_lora": "LoKI + LoRA",
    "layer_balanced": "layer-balanced, signed low",
}
_SET_LABELS = {**LABELS, "high": "S-H, signed high", "global_high": "global high", "global_low": "global low"}
_STYLES = {
    "full": ("#000000", "-", "o"),
    "lora": (COLORS[0], "-", "o"),
    "dora": (COLORS[0], "--", "s"),
    "pissa": (COLORS[4], "-", "^"),
    "corda": (COLORS[4], "--", "v"),
    "loki": (COLORS[1], "-", "o"),
    "loki_lora": (COLORS[1], "--", "s"),
    "random": ("0.55", "-", "D"),
    "high": (COLORS[3], "-", "^"),
    "low": (COLORS[1], "-", "o"),
    "abs_low": (COLORS[2], "-", "v"),
    "abs_high": (COLORS[2], "--", "^"),
    "global_low": (COLORS[5], "-", "s"),
    "global_high": (COLORS[5], "--", "P"),
    "layer_balanced": (COLORS[1], "-", "o"),
}


def pareto(fronts: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """The least forgetting at each target accuracy, over a method's rates and steps; lower right is better.

    Two panels, of methods and of choices of rows; LoKI is in both.

    Args:
        fronts: method -> pairs of accuracy and forgetting in percent, by rising accuracy.
    """
    made, axes = figure(width=9.0, height=3.9, ncols=2, sharey=True)
    panels = (
        ("methods", ("full", "lora", "dora", "pissa", "corda", "loki", "loki_lora")),
        ("choices of rows", ("loki", "random", "high", "abs_low", "global_low", "global_high")),
    )
    shown: dict[str, Any] = {}
    for ax, (title, methods) in zip(axes[0], panels, strict=True):
        for method in methods:
            if method in fronts:
                color, line, marker = _STYLES[method]
                x, y = np.array(fronts[method]).T
                style = {"color": color, "linestyle": line, "marker": marker, "markersize": 4, "linewidth": 1.2}
                (shown[LABELS[method]],) = ax.plot(x, y, drawstyle="steps-pre", **style)
        ax.set_title(title, loc="left", fontsize=9)
        ax.set_xlabel("accuracy on the new task")
    axes[0, 0].set_ylabel("forgetting of the skills (%)")
    made.legend(shown.values(), shown.keys(), loc="outside right center", fontsize=8, frameon=False)
    return made


def learning(table: pd.DataFrame, rate: float) -> Figure:
    """Target accuracy and forgetting against updates, at the equal learning rate.

    Args:
        table: columns method, learning_rate, step, accuracy, forgetting.
        rate: the equal rate.
    """
    made, axes = figure(width=8.4, height=3.6, ncols=2)
    for method, rows in table[table["learning_rate"] == rate].groupby("method", sort=False):
        color, line, marker = _STYLES[str(method)]
        style = {"color": color, "linestyle": line, "marker": marker, "markersize": 3, "linewidth": 1.2}
        axes[0, 0].plot(rows["step"], rows["accuracy"], label=LABELS[str(method)], **style)
        axes[0, 1].plot(rows["step"], rows["forgetting"], **style)
    axes[0, 0].set(xlabel="updates", ylabel="accuracy on the new task")
    axes[0, 1].set(xlabel="updates", ylabel="forgetting of the skills (%)")
    made.legend(loc="outside right center", fontsize=8, frameon=False)
    return made


def suppression(table: pd.DataFrame) -> Figure:
    """Forgetting against the share of rows that are set to zero; random rows are the control.

    Args:
        table: columns quota, rows, forgetting.
    """
    made, axes = figure(width=7.4, height=3.8)
    ax = axes[0, 0]
    for name, rows in table.groupby("rows", sort=False):
        color, line, marker = _STYLES[str(name)]
        ax.plot(
            rows["quota"],
            rows["forgetting"],
            color=color,
            linestyle=line,
            marker=marker,
            markersize=4,
            linewidth=2.4 if name == "random" else 1.2,
            label=_SET_LABELS[str(name)],
        )
    ax.axhline(0.0, color="0.3", linewidth=0.8)
    ax.set(xlabel="rows set to zero, of each layer or of all (%)", ylabel="forgetting of the skills (%)")
    ax.set_xticks(sorted(table["quota"].unique()))
    made.legend(loc="outside right center", fontsize=8, frameon=False)
    return made


def layer_heat_map(frequencies: Mapping[str, np.ndarray], quota: float) -> Figure:
    """How often each row is among the globally highest and lowest, a line a layer, rows by falling frequency.

    Args:
        frequencies: "high" and "low" -> share of the samples [L, d].
        quota: percent of all rows that count as highest or lowest.
    """
    made, axes = figure(width=8.4, height=1.4 + 0.28 * len(frequencies["high"]), ncols=len(frequencies), sharey=True)
    highest = max(values.max() for values in frequencies.values())
    for ax, (end, values) in zip(axes[0], frequencies.items(), strict=True):
        ranked = -np.sort(-values, axis=1)
        image = ax.imshow(ranked, aspect="auto", cmap="magma_r", vmin=0.0, vmax=highest, interpolation="nearest")
        ax.grid(visible=False)
        ax.set_title(f"among the {quota:g} % {end}est of all layers", fontsize=9, loc="left")
        ax.set_xlabel("rows of the layer, by rank")
    axes[0, 0].set_ylabel("layer")
    axes[0, 0].set_yticks(range(len(frequencies["high"])))
    made.colorbar(image, ax=list(axes[0]), label="share of prompts")
    return made


def overlap_matrix(table: pd.DataFrame, *, chance: float) -> Figure:
    """Share of the rows of one selection (line) that another one (column) holds as well, with the value by chance."""
    made, axes = figure(width=1.8 + 0.62 * len(table), height=1.3 + 0.45 * len(table))
    ax = axes[0, 0]
    image = ax.imshow(table, cmap="viridis", vmin=0.0, vmax=1.0, aspect="auto")
    for place, value in np.ndenumerate(table.to_numpy()):
        ax.text(*place[::-1], f"{value:.2f}", ha="center", va="center", fontsize=7, color="w" if value < 0.6 else "k")
    names = [_SET_LABELS.get(str(name), str(name)) for name in table.index]
    ax.grid(visible=False)
    ax.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_title(f"share of rows in common (by chance {chance:.2f})", fontsize=9, loc="left")
    made.colorbar(image, ax=ax)
    return made


def stability(table: pd.DataFrame, *, chance: float) -> Figure:
    """Overlap of a selection with that from another half of the prompts, against the number of prompts."""
    made, axes = figure(width=5.6, height=3.4)
    ax = axes[0, 0]
    for name, rows in table.groupby("rows", sort=False):
        color, line, marker = _STYLES[str(name)]
        ax.plot(rows["prompts"], rows["overlap"], color=color, linestyle=line, marker=marker, label=LABELS[str(name)])
    ax.axhline(chance, color="0.3", linewidth=0.8, linestyle=":", label="chance")
    ax.set_xscale("log")
    ax.set_xticks(sorted(table["prompts"].unique()), sorted(table["prompts"].unique()))
    ax.minorticks_off()
    ax.set(xlabel="probe prompts", ylabel="overlap with the other half", ylim=(0.0, 1.0))
    ax.legend(fontsize=8, frameon=False, loc="lower right")
    return made


def released_overlap(matrix: np.ndarray, name: str) -> Figure:
    """Share of rows that each pair of layers has in common, in the authors' positions.

    Args:
        matrix: [L, L]; the diagonal, which is 1, is left blank.
        name: of the model and quota.
    """
    made, axes = figure(width=4.6, height=3.8)
    ax = axes[0, 0]
    shown = np.where(np.eye(len(matrix), dtype=bool), np.nan, matrix)
    image = ax.imshow(shown, cmap="viridis", interpolation="nearest")
    ax.grid(visible=False)
    ax.set(xlabel="layer", ylabel="layer")
    ax.set_title(f"{name}: rows in common", fontsize=9, loc="left")
    made.colorbar(image, ax=ax)
    return made
