"""The figures of the experiments, each from arrays or tables to a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.spatial import ConvexHull

from iclr_repro.core.plotting import COLORS, figure
from iclr_repro.wsep.builders import Layout
from iclr_repro.wsep.policies import Rollout

_NAMES = {
    "mi": "MISL (I)",
    "lsepin": "LSEPIN",
    "wsep": "WSEP",
    "wsep_min": "WSEP, min",
    "wsep_energy": "WSEP, energy",
    "pwsep": "PWSEP",
    "random": "random",
    "misl": "MISL",
    "misl_lsepin": "MISL + LSEPIN",
}


def polytope(
    occupancies: np.ndarray, vertices: np.ndarray, skills: Mapping[str, np.ndarray], optimum: np.ndarray
) -> Figure:
    """The polytope of state distributions of an MDP with three states, and the skills of each objective in it.

    Args:
        occupancies: [n, 3] of all deterministic policies.
        vertices: [m, 3].
        skills: objective -> [K, 3].
        optimum: [3], MISL's average state distribution.
    """
    made, axes = figure(width=2.6 * len(skills), height=1.9, ncols=len(skills), sharex=True, sharey=True)
    outline = _flat(vertices)
    outline = outline[ConvexHull(outline).vertices]
    for number, (ax, (name, points)) in enumerate(zip(axes[0], skills.items(), strict=True)):
        ax.fill(*outline.T, facecolor="0.93", edgecolor="0.6", linewidth=0.8)
        ax.plot(*_flat(occupancies).T, ".", color="0.5", markersize=3)
        ax.plot(*_flat(optimum[None]).T, "x", color="0.3", markersize=5)
        place = _flat(points)
        ax.plot(*place.T, "o", color=COLORS[number % len(COLORS)], markersize=7)
        order: dict[tuple[float, ...], list[str]] = {}
        for position, point in enumerate(place, start=1):
            order.setdefault(tuple(point.round(6)), []).append(str(position))
        for point, positions in order.items():
            ax.annotate(",".join(positions), point, xytext=(5, 4), textcoords="offset points", fontsize=7)
        ax.set_title(name, loc="left", fontsize=9)
        ax.set_aspect("equal")
        ax.set_xticks([])
        ax.set_yticks([])
        ax.margins(0.15)
    made.supxlabel("dots: deterministic policies; cross: average distribution of MISL; numbers: skills", fontsize=8)
    return made


def _flat(points: np.ndarray) -> np.ndarray:
    """[n, 2] points of the probability simplex of three states, drawn as an equilateral triangle."""
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3.0) / 2.0]])
    return np.asarray(points @ corners)


def certificate(curves: Mapping[str, np.ndarray]) -> Figure:
    """Distance to the hull when a skill is found against the share of vertices found; name "size/number" -> gains."""
    made, axes = figure(width=6.0, height=3.6)
    ax = axes[0, 0]
    sizes = list(dict.fromkeys(name.split("/")[0] for name in curves))
    for name, gains in curves.items():
        size, number = name.split("/")
        label = f"{size.replace('s', 'S = ').replace('a', ', A = ')}, |V| = {len(gains)}" if number == "0" else None
        color = COLORS[sizes.index(size) % len(COLORS)]
        ax.plot(np.arange(1, len(gains) + 1) / len(gains), gains, color=color, label=label, linewidth=1.0)
    ax.set(yscale="log", xlabel="skills found / vertices", ylabel="distance to the hull / diameter")
    ax.legend(frameon=False, fontsize=7)
    return made


def scatters(scores: Mapping[str, np.ndarray], costs: Mapping[str, np.ndarray], bounds: np.ndarray) -> Figure:
    """Separability against adaptation cost of the sets of one MDP: WSEP with its bound, LSEPIN and a random score."""
    made, axes = figure(width=9.0, height=3.2, ncols=3)
    pairs = (
        ("wsep", "mac_w", "WSEP", "MAC_W"),
        ("lsepin", "wac_kl_fwd", "LSEPIN", "WAC_KL"),
        ("random", "mac_w", "a random score", "MAC_W"),
    )
    for number, (ax, (score, cost, x, y)) in enumerate(zip(axes[0], pairs, strict=True)):
        ax.plot(scores[score], costs[cost], ".", color=COLORS[number], markersize=2, alpha=0.4, rasterized=True)
        ax.set(xlabel=x, ylabel=y)
    order = np.argsort(scores["wsep"])
    axes[0, 0].plot(scores["wsep"][order], bounds[order], color="0.3", linewidth=1.0, label="bound T5")
    axes[0, 0].legend(frameon=False, fontsize=7)
    return made


def growing(means: pd.DataFrame) -> Figure:
    """Adaptation costs against the number of skills; index (skills "k3", method), columns of costs."""
    made, axes = figure(width=8.4, height=3.6, ncols=2)
    numbered = means[means.index.get_level_values("skills").str.fullmatch(r"k\d+")]
    for number, method in enumerate(dict.fromkeys(numbered.index.get_level_values("method"))):
        rows = numbered.xs(method, level="method")
        skills = [int(name[1:]) for name in rows.index]
        style = {"linestyle": "--" if method == "random" else "-", "color": COLORS[number % len(COLORS)]}
        for ax, cost in zip(axes[0], ("wac_kl_fwd", "mac_w"), strict=True):
            ax.plot(skills, rows[cost], marker="o", markersize=3, label=_NAMES[method], **style)
    for ax, label in zip(axes[0], ("WAC_KL, nats", "MAC_W / diameter"), strict=True):
        ax.set(xlabel="skills K", ylabel=label, ylim=(0.0, None))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    return made


def heat_maps(layout: Layout, skills: Mapping[str, np.ndarray], most: int = 8) -> Figure:
    """Occupancies of the first skills of each method in a grid: a row a method, a column a skill."""
    columns = min(most, max(len(one) for one in skills.values()))
    made, axes = figure(width=0.9 * columns + 1.0, height=0.95 * len(skills), nrows=len(skills), ncols=columns)
    for row, (method, occupancies) in zip(axes, skills.items(), strict=True):
        for number, ax in enumerate(row):
            ax.set_xticks([])
            ax.set_yticks([])
            if number >= len(occupancies):
                ax.axis("off")
                continue
            cells = np.full(layout.walls.shape, np.nan)
            cells[~layout.walls] = occupancies[number]
            ax.imshow(np.sqrt(cells), cmap="Blues", vmin=0.0, vmax=1.0)
            ax.set_facecolor("0.4")
            ax.grid(False)
        row[0].set_ylabel(_NAMES[method].replace(" + ", "\n+ "), fontsize=8)
    made.suptitle("first skills of one run; colour: square root of the occupancy; grey: walls", fontsize=8)
    return made


def trajectories(layout: Layout, rollouts: Mapping[str, Rollout], episodes: int = 6) -> Figure:
    """Paths of learned skills in the maze: a panel a method, a colour a skill."""
    columns = min(4, len(rollouts))
    rows = -(-len(rollouts) // columns)
    made, axes = figure(width=2.2 * columns, height=2.35 * rows, nrows=rows, ncols=columns)
    for ax in axes.ravel()[len(rollouts) :]:
        ax.axis("off")
    height, width = layout.walls.shape
    for ax, (method, rollout) in zip(axes.ravel(), rollouts.items(), strict=False):
        ax.imshow(layout.walls, cmap="Greys", vmin=0.0, vmax=2.0, extent=(0, width, height, 0))
        for skill, states in enumerate(rollout.states.cpu().numpy()):
            for path in states[:episodes]:
                ax.plot(path[:, 1], path[:, 0], color=COLORS[skill % len(COLORS)], linewidth=0.7, alpha=0.7)
        ax.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
        ax.grid(False)
        ax.set_title(method.replace("_", " "), loc="left", fontsize=8)
    return made
