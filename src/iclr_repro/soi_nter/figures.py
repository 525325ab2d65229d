"""The figures: what methods find, how faithful they are, overlays on images, and the graph of one explanation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from iclr_repro.core import plotting
from iclr_repro.soi_nter.paths import InteractionPaths

_MARKERS = "osD^vP*X<>"
_PLAIN = {"random": "0.4", "largest": "0.65"}  # greys


def recall_by_feature(recalls: Mapping[str, Mapping[str, Sequence[float]]], *, num_direct: int) -> Figure:
    """Draw for each problem a grid of methods by relevant features; direct features stand left of the line."""
    width = 1.6 + sum(0.45 * len(next(iter(methods.values()))) + 0.3 for methods in recalls.values())
    first = next(iter(recalls.values()))
    made, axes = plotting.figure(width=width, height=1.0 + 0.3 * len(first), ncols=len(recalls), sharey=True)
    for ax, (problem, methods) in zip(axes[0], recalls.items(), strict=True):
        values = np.array([methods[name] for name in first])
        ax.imshow(values, vmin=0.0, vmax=1.0, cmap="Blues", aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            ax.text(
                column,
                row,
                f"{value:.2f}".removeprefix("0"),
                ha="center",
                va="center",
                color="white" if value > 0.6 else "black",
                fontsize=7,
            )
        ax.axvline(num_direct - 0.5, color=plotting.COLORS[1])
        ax.set_xticks(range(values.shape[1]), [f"$x_{{{index + 1}}}$" for index in range(values.shape[1])])
        ax.set_yticks(range(len(first)), [_readable(name) for name in first])
        ax.set_title(problem, fontsize=9)
        ax.grid(False)
    return made


def lines(
    values: Mapping[str, Mapping[float, float]],
    *,
    xlabel: str,
    ylabel: str,
    chance: Mapping[float, float] | None = None,
) -> Figure:
    """Draw a line a method over a number such as n or k, and chance where it is known."""
    made, axes = plotting.figure(width=6.4, height=3.4)
    ax = axes[0, 0]
    kinds = list(dict.fromkeys(name.removesuffix("_target_only") for name in values if name not in _PLAIN))
    for index, (name, points) in enumerate(values.items()):
        control = name.endswith("_target_only")
        kind = name.removesuffix("_target_only")
        ax.plot(
            list(points),
            list(points.values()),
            marker=_MARKERS[index % len(_MARKERS)],
            color=_PLAIN.get(name) or plotting.COLORS[kinds.index(kind) % len(plotting.COLORS)],
            linestyle="--" if control else "-",
            markersize=4,
            label=_readable(name),
        )
    if chance:
        ax.plot(list(chance), list(chance.values()), color="0.5", linestyle=":", label="chance")
    ax.set_xticks(sorted({x for points in values.values() for x in points}))
    ax.set(xlabel=xlabel, ylabel=ylabel, ylim=(-0.03, 1.03))
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7, frameon=False)
    return made


def bars(table: pd.DataFrame, *, ylabel: str) -> Figure:
    """Draw a group of bars a row of the table (a method), a colour a column."""
    made, axes = plotting.figure(width=6.4, height=1.0 + 0.28 * len(table) * max(1, len(table.columns)) * 0.6)
    ax = axes[0, 0]
    height = 0.8 / len(table.columns)
    for index, column in enumerate(table.columns):
        places = np.arange(len(table)) + (index - (len(table.columns) - 1) / 2) * height
        ax.barh(
            places,
            table[column],
            height=height,
            label=_readable(str(column)),
            color=plotting.COLORS[index % len(plotting.COLORS)],
        )
    ax.set_yticks(range(len(table)), [_readable(name) for name in table.index])
    ax.invert_yaxis()
    ax.set_xlabel(ylabel)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7, frameon=False)
    return made


def overlays(
    images: np.ndarray, answers: np.ndarray, masks: Mapping[str, np.ndarray], target: tuple[int, int]
) -> Figure:
    """Draw images [num, S, S, 3] with the model's outline [num, S, S], selected pixels [num, S, S] and the target."""
    num = len(images)
    made, axes = plotting.figure(width=1.3 * num + 0.6, height=1.35 * len(masks), nrows=len(masks), ncols=num)
    for row, (name, chosen) in enumerate(masks.items()):
        for column in range(num):
            ax = axes[row, column]
            ax.imshow(images[column])
            tint = np.zeros((*chosen[column].shape, 4))
            tint[chosen[column] > 0] = (0.84, 0.37, 0.0, 0.6)
            ax.imshow(tint)
            if 0 < answers[column].mean() < 1:
                ax.contour(answers[column], levels=[0.5], colors=[plotting.COLORS[4]], linewidths=0.8)
            ax.plot(target[1], target[0], marker="x", color="white", markersize=5)
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
        axes[row, 0].set_ylabel(_readable(name), fontsize=7)
    return made


def dependency_graph(paths: InteractionPaths, row: int, features: Sequence[int], target: int) -> Figure:
    """Draw features, outputs and the steps of the strongest paths from the selected features to the target."""
    made, axes = plotting.figure(width=4.6, height=3.0)
    ax = axes[0, 0]
    places = {("x", feature): (0.0, -float(index)) for index, feature in enumerate(features)}
    used = {output for feature in features for output in paths.routes[row][feature]}
    others = sorted(used - {target})
    middle = -(len(features) - 1) / 2
    places |= {("y", output): (1.0, 1.0 + index) for index, output in enumerate(others)}
    places["y", target] = (2.0, middle)
    edges: dict[tuple[tuple[str, int], tuple[str, int]], float] = {}
    for feature in features:
        node = ("x", feature)
        for output in paths.routes[row][feature]:
            here = ("y", output)
            size = float(paths.direct[row, feature, output] if node[0] == "x" else paths.links[row, node[1], output])
            edges[node, here] = size
            node = here
    for (start, end), size in edges.items():
        ax.annotate(
            "",
            xy=places[end],
            xytext=places[start],
            arrowprops={
                "arrowstyle": "-|>",
                "color": plotting.COLORS[0],
                "linewidth": 0.5 + 3 * size,
                "shrinkA": 13,
                "shrinkB": 13,
            },
        )
        (x0, y0), (x1, y1) = places[start], places[end]
        ax.text(0.7 * x0 + 0.3 * x1, 0.7 * y0 + 0.3 * y1 + 0.08, f"{size:.2f}", ha="center", fontsize=7)
    for (kind, index), place in places.items():
        face = plotting.COLORS[5] if (kind, index) == ("y", target) else "white"
        ax.text(
            *place,
            f"${kind}_{{{index + 1}}}$",
            ha="center",
            va="center",
            bbox={"boxstyle": "circle", "facecolor": face, "edgecolor": "0.3"},
        )
    ax.set_xlim(-0.3, 2.3)
    ax.set_ylim(min(place[1] for place in places.values()) - 0.6, max(place[1] for place in places.values()) + 0.6)
    ax.set_axis_off()
    return made


def _readable(name: str) -> str:
    known = {"l2x": "L2X", "lime": "LIME", "shap": "Kernel-SHAP", "largest": "largest |x|"}
    return known.get(name, name.replace("_target_only", ", target only").replace("_", " "))
