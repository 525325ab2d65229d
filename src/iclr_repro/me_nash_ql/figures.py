"""The figures of the experiments, each from arrays or tables to a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, ScalarFormatter

from iclr_repro.core.plotting import COLORS, figure
from iclr_repro.me_nash_ql.board_games import SOCCER_MOVES, SoccerState

_LINES = ("-", "--", ":")
Curve = tuple[np.ndarray, Mapping[str, np.ndarray]]
"""Checkpoints [C] and what was measured there, quantity -> [C, R]."""


def learning_curves(curves: Mapping[str, Curve], *, title: str, horizon: int, uniform: float) -> Figure:
    """Exploitability of the output (and of certified mixtures), and the gap, against episodes: medians and ranges.

    The gap is shown of methods that certify their output by it. Where the certificate of more than 5 % of the runs is
    wrong at the end, the legend says so.

    Args:
        curves: of each method.
        title: the game.
        horizon: H; a method whose smallest gap stays there certifies nothing.
        uniform: exploitability of uniform play, as a line.
    """
    made, axes = figure(width=8.4, height=4.0, ncols=2, sharex=True)
    left, right = axes[0]
    for number, (method, (episodes, values)) in enumerate(curves.items()):
        style = {"color": COLORS[number % len(COLORS)], "linestyle": _LINES[number // len(COLORS)]}
        wrong = 1.0 - values["certificate_ok"][-1].mean()
        label = f"{method} (wrong in {wrong:.0%})" if wrong > 0.05 else method
        _band(left, episodes, values["output"], label=label, **style)
        if "mixture" in values:
            left.plot(episodes, np.median(values["mixture"], axis=1), color=style["color"], linestyle="-.", alpha=0.7)
        if (values["best_gap"] < horizon).any():
            _band(right, episodes, values["gap"], label=label, **style)
    if uniform > 0.0:  # 0 in matching pennies, where uniform play is the equilibrium
        left.axhline(uniform, color="0.5", linewidth=0.8)
        left.annotate("uniform play", (0.02, uniform), xycoords=("axes fraction", "data"), fontsize=7, va="bottom")
    left.set(xscale="log", yscale="log", xlabel="episodes", ylabel="exploitability of the output")
    right.set(xscale="log", yscale="log", xlabel="episodes", ylabel="gap (upper - lower value at the start)")
    left.set_title(f"{title}: median, range over runs", loc="left", fontsize=9)
    right.set_title("dash-dotted on the left: certified mixtures", loc="left", fontsize=8)
    handles, labels = left.get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    return made


def gap_rates(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """The gap against episodes with a line of slope -1/2 for comparison; method -> ([C], [C, R])."""
    made, axes = figure(width=5.2, height=3.6)
    ax = axes[0, 0]
    for number, (method, (episodes, gaps_CR)) in enumerate(curves.items()):
        _band(ax, episodes, gaps_CR, label=method, color=COLORS[number], linestyle="-")
    episodes, gaps_CR = next(iter(curves.values()))
    ends = np.array([10.0, episodes[-1]])
    ax.plot(ends, np.median(gaps_CR[-1]) * (ends / ends[-1]) ** -0.5, color="0.5", linestyle=":", label="slope -1/2")
    ax.set(xscale="log", yscale="log", xlabel="episodes", ylabel="gap at the start state")
    ax.legend(frameon=False)
    return made


def ablations(final: pd.DataFrame) -> Figure:
    """Gap and exploitability of the output at the end, a row a variant, a column a game.

    Args:
        final: index (game, method, quantity), columns mean, low, high; runs whose optimism is broken are named.
    """
    games = list(dict.fromkeys(final.index.get_level_values("game")))
    counts = [final.loc[game].index.get_level_values("method").nunique() for game in games]
    made, axes = figure(width=9.2, height=1.2 + 0.28 * max(counts), ncols=len(games))
    for ax, game in zip(axes[0], games, strict=True):
        rows = final.loc[game]
        methods = list(dict.fromkeys(rows.index.get_level_values("method")))
        for quantity, color, marker, shift in (("gap", COLORS[0], "o", -0.12), ("output", COLORS[1], "s", 0.12)):
            chosen = rows.xs(quantity, level="quantity").loc[methods]
            y = np.arange(len(methods)) + shift
            errors = np.abs(chosen[["low", "high"]].to_numpy().T - chosen["mean"].to_numpy())
            name = "gap" if quantity == "gap" else "exploitability of the output"
            ax.errorbar(chosen["mean"], y, xerr=errors, fmt=marker, color=color, markersize=4, label=name)
        broken = 1.0 - rows.xs("optimism_ok", level="quantity").loc[methods, "mean"]
        labels = [f"{name}  ({share:.0%} broken)" if share else name for name, share in broken.items()]
        ax.set_yticks(range(len(methods)), labels, fontsize=7)
        ax.invert_yaxis()
        ax.axvline(0.0, color="0.4", linewidth=0.8)
        ax.set_xscale("symlog", linthresh=0.1)
        ax.margins(x=0.1)
        ax.autoscale_view()
        ax.set_title(game, loc="left", fontsize=9)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return made


def space(by_episodes: pd.DataFrame, by_states: pd.DataFrame) -> Figure:
    """Bytes against episodes (left) and against states (right); a column a method."""
    made, axes = figure(width=8.4, height=3.8, ncols=2)
    for ax, table, label in ((axes[0, 0], by_episodes, "episodes"), (axes[0, 1], by_states, "states S")):
        for number, method in enumerate(table.columns):
            line = _LINES[number % len(_LINES)]
            ax.plot(
                table.index, table[method], marker="o", markersize=3, linestyle=line, color=COLORS[number], label=method
            )
        ax.set(xscale="log", yscale="log", xlabel=label, ylabel="bytes of one run")
        ticks = [value for value in table.index if value == table.index[0] or np.log2(value / table.index[0]) % 1 == 0]
        ax.set_xticks(ticks, [f"{value:,}" for value in ticks])
        ax.minorticks_off()
    axes[0, 0].set_title("tables and history", loc="left", fontsize=9)
    axes[0, 1].set_title("tables before the first episode", loc="left", fontsize=9)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return made


def computation(table: pd.DataFrame) -> Figure:
    """Processor time of an episode against states; index (method, states), columns median_s, low, high."""
    made, axes = figure(width=5.2, height=3.6)
    ax = axes[0, 0]
    for number, method in enumerate(dict.fromkeys(table.index.get_level_values("method"))):
        rows = 1e3 * table.loc[method]
        ax.plot(rows.index, rows["median_s"], marker="o", color=COLORS[number], label=method)
        ax.fill_between(rows.index, rows["low"], rows["high"], color=COLORS[number], alpha=0.2, linewidth=0)
    ax.set(xscale="log", yscale="log", xlabel="states S", ylabel="ms of processor time an episode")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(ScalarFormatter())
    sizes = table.index.get_level_values("states").unique()
    ax.set_xticks(sizes, sizes.astype(str))
    ax.minorticks_off()
    ax.legend(frameon=False)
    return made


def episodes_needed(table: pd.DataFrame, *, gap_frac: float) -> Figure:
    """Episodes until the median gap is small, against what is varied.

    Args:
        table: index (method, size), columns episodes, low, high.
        gap_frac: how small, as a share of H.
    """
    made, axes = figure(width=5.2, height=3.6)
    ax = axes[0, 0]
    varied = str(table.index.names[1])
    for number, method in enumerate(dict.fromkeys(table.index.get_level_values("method"))):
        rows = table.loc[method]
        errors = np.abs(rows[["low", "high"]].to_numpy().T - rows["episodes"].to_numpy())
        style = {"color": COLORS[number], "linestyle": _LINES[number % len(_LINES)]}
        ax.errorbar(
            rows.index, rows["episodes"], yerr=errors, marker="o", markersize=4, capsize=2, label=method, **style
        )
    ax.set(xscale="log", yscale="log", xlabel=varied, ylabel=f"episodes until gap <= {gap_frac:g} H")
    sizes = table.index.get_level_values(1).unique()
    ax.set_xticks(sizes, sizes.astype(str))
    ax.minorticks_off()
    ax.legend(frameon=False)
    return made


def soccer_play(
    board: tuple[int, int], positions: Sequence[SoccerState], policies: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> Figure:
    """What both players do in a sequence of positions: a board a step, a row of boards a pair of policies.

    Args:
        board: rows and columns.
        positions: one a step.
        policies: name -> probabilities of the actions in these positions, [steps, 5] of the max and of the min player.
    """
    rows, columns = board
    height = 0.5 + 1.1 * rows * len(policies)
    made, axes = figure(width=1.0 + 2.2 * len(positions), height=height, nrows=len(policies), ncols=len(positions))
    for row, (name, pair) in zip(axes, policies.items(), strict=True):
        for step, (ax, (cell_max, cell_min, ball)) in enumerate(zip(row, positions, strict=True)):
            for cell in np.ndindex(rows, columns):
                ax.add_patch(Rectangle((cell[1] - 0.5, cell[0] - 0.5), 1, 1, facecolor="0.96", edgecolor="0.7"))
            for player, (cell, color) in enumerate(((cell_max, COLORS[0]), (cell_min, COLORS[1]))):
                edge = "black" if ball == player else color
                ax.plot(cell[1], cell[0], "o", markersize=12, color=color, markeredgecolor=edge, markeredgewidth=2.5)
                _arrows(ax, cell, pair[player][step], color)
            ax.set(xlim=(-0.95, columns - 0.05), ylim=(rows - 0.05, -0.95), aspect="equal")
            ax.axis("off")
            ax.set_title(f"{name}, step {step + 1}", loc="left", fontsize=8)
    made.suptitle("blue: max player, scores at the right; orange: min player; black rim: the ball", fontsize=8)
    return made


def _arrows(ax: Axes, cell: tuple[int, int], shares: np.ndarray, color: str) -> None:
    """An arrow an action, as thick as it is likely, with its probability; standing still is written on the player."""
    y, x = cell
    for (down, right), share in zip(SOCCER_MOVES, shares, strict=True):
        if share < 0.05:
            continue
        if down or right:
            tip = (x + 0.55 * right, y + 0.55 * down)
            arrow = {"arrowstyle": "-|>", "color": color, "linewidth": 0.5 + 2.0 * share}
            ax.annotate("", tip, (x + 0.18 * right, y + 0.18 * down), arrowprops=arrow)
        place = (x + 0.72 * right, y + 0.68 * down)
        text_color = color if down or right else "white"
        ax.annotate(f"{share:.2f}", place, fontsize=6.5, color=text_color, ha="center", va="center")


def _band(ax: Axes, episodes: np.ndarray, values_CR: np.ndarray, *, label: str, color: str, linestyle: str) -> None:
    """Median and range over runs; where these are not positive they have no place on a logarithmic axis."""
    median, low, high = (
        np.where(line > 0.0, line, np.nan)
        for line in (np.median(values_CR, axis=1), values_CR.min(axis=1), values_CR.max(axis=1))
    )
    ax.plot(episodes, median, label=label, color=color, linestyle=linestyle)
    ax.fill_between(episodes, low, high, color=color, alpha=0.15, linewidth=0)
