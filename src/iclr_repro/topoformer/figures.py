"""The figures of the experiments, each from maps or tables to a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from iclr_repro.core.plotting import COLORS, figure
from iclr_repro.topoformer.attention import SHEETS
from iclr_repro.topoformer.maps import SelectivityMap, morans_i
from iclr_repro.topoformer.sheet import sheet_side

_DIVERGING = "RdBu_r"
_UNTRAINED = "untrained_"
_PARTS = (attrgetter("values"), attrgetter("t"))


Maps = Mapping[str, Mapping[str, np.ndarray]]  # row -> column -> values of the units [D]


def map_grid(maps: Maps, *, title: str, clustered: Maps | None = None) -> Figure:
    """Maps as an image grid, a row a model, a column a sheet; above each its Moran's I on the torus.

    Each map has its own symmetric colour scale, since their sizes differ by more than their shapes: red positive, blue
    negative, white zero. The columns are those of the first row; one that a row lacks is left blank.

    Args:
        maps: what is drawn.
        title: what the values are.
        clustered: the same rows and columns: of these maps is Moran's I, where not of those drawn.
    """
    clustered = maps if clustered is None else clustered
    columns = list(next(iter(maps.values())))
    size = {"width": 0.9 + 1.3 * len(columns), "height": 0.5 + 1.5 * len(maps)}
    made, axes = figure(**size, nrows=len(maps), ncols=len(columns))
    for row, (name, of_row) in zip(axes, maps.items(), strict=True):
        for ax, column in zip(row, columns, strict=True):
            ax.grid(visible=False)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(False)
            if column not in of_row:
                continue
            values = of_row[column]
            side = sheet_side(len(values))
            limit = np.abs(values).max() or 1.0
            ax.imshow(values.reshape(side, side), cmap=_DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
            heading = f"I = {morans_i(clustered[name][column]):.2f}"
            ax.set_title(f"{column}\n{heading}" if ax in axes[0] else heading, fontsize=7, pad=2)
        row[0].set_ylabel(name.replace("_", " "), fontsize=8)
    made.suptitle(title, x=0.01, ha="left", fontsize=9)
    return made


def selectivity_grid(found: Mapping[str, Mapping[str, SelectivityMap]], *, title: str) -> Figure:
    """Selectivity maps, -log10(p) * sign(t), as `map_grid` draws them; Moran's I is that of t (sheet 2.9, 2.10)."""
    values, t = ({row: {c: part(x) for c, x in maps.items()} for row, maps in found.items()} for part in _PARTS)
    return map_grid(values, title=f"-log10(p) with the sign of t, {title}; I of t", clustered=t)


def statistic_bars(table: pd.DataFrame) -> Figure:
    """t_g of each sheet, a group a sheet, a bar a variant; untrained models are hatched.

    Args:
        table: index variant (untrained ones begin with "untrained_"), columns sheets.
    """
    made, axes = figure(width=8.4, height=3.6)
    ax = axes[0, 0]
    width = 0.84 / len(table)
    trained = [name for name in table.index if not name.startswith(_UNTRAINED)]
    for number, (name, row) in enumerate(table.iterrows()):
        base = name.removeprefix(_UNTRAINED)
        style: dict[str, Any] = {"color": COLORS[trained.index(base) % len(COLORS)] if base in trained else "0.5"}
        if name not in trained:
            style |= {"alpha": 0.45, "hatch": "////", "edgecolor": "white"}
        places = np.arange(len(SHEETS)) + (number - (len(table) - 1) / 2) * width
        ax.bar(places, row[list(SHEETS)], width, label=name.replace("_", " "), **style)
    ax.axhline(0.0, color="0.3", linewidth=0.8)
    ax.set_xticks(range(len(SHEETS)), SHEETS)
    ax.set_ylabel("topographic statistic t_g")
    made.legend(loc="outside lower center", ncols=5, fontsize=7, frameon=False)
    return made


def sweep(table: pd.DataFrame) -> Figure:
    """t_g of the four sheets, before training (hollow) and after, and accuracy against the sizes of receptive fields.

    Args:
        table: index (sq, sr), columns the sheets, untrained_<sheet> and accuracy.
    """
    made, axes = figure(width=8.4, height=3.4, ncols=2)
    left, right = axes[0]
    labels = [f"{sq:g}\n{sr:g}".replace("-1", "off") for sq, sr in table.index]
    x = np.arange(len(table))
    for number, sheet in enumerate(SHEETS):
        left.plot(x, table[sheet], "o", markersize=6, color=COLORS[number], label=sheet)
        left.plot(x, table[_UNTRAINED + sheet], "o", markersize=6, color=COLORS[number], fillstyle="none")
    left.axhline(0.0, color="0.3", linewidth=0.8)
    left.set_ylabel("t_g")
    left.legend(fontsize=8, frameon=False)
    right.bar(x, table["accuracy"], color="0.6")
    right.axhline(0.5, color="0.3", linewidth=0.8, linestyle=":")
    right.set(ylabel="accuracy on the test set", ylim=(0.45, None))
    for ax in (left, right):
        ax.set_xticks(x, labels, fontsize=8)
        ax.set_xlabel("sq (above) and sr (below)")
    return made


def suite_matrix(table: pd.DataFrame) -> Figure:
    """Moran's I of the t-maps (above) and decoding accuracy (below), a row a suite, a column a sheet, a panel a model.

    Args:
        table: index (model, suite, sheet), columns moran and accuracy.
    """
    models = list(dict.fromkeys(table.index.get_level_values("model")))
    suites = list(dict.fromkeys(table.index.get_level_values("suite")))
    sheets = list(dict.fromkeys(table.index.get_level_values("sheet")))
    quantities = (("moran", "Moran's I", _DIVERGING, -1.0, 1.0), ("accuracy", "accuracy", "viridis", 0.0, 1.0))
    made, axes = figure(
        width=1.6 + len(models) * (0.4 + 0.55 * len(sheets)), height=1.0 + 0.5 * len(suites), nrows=2, ncols=len(models)
    )
    for row, (quantity, label, colors, low, high) in zip(axes, quantities, strict=True):
        for ax, model in zip(row, models, strict=True):
            values = table.xs(model, level="model")[quantity].unstack("sheet").loc[suites, sheets]
            image = ax.imshow(values, cmap=colors, vmin=low, vmax=high, aspect="auto")
            for place, value in np.ndenumerate(values.to_numpy()):
                dark = abs(value) > 0.6 if quantity == "moran" else value < 0.6
                if len(sheets) <= len(SHEETS):
                    color = "white" if dark else "black"
                    ax.text(*place[::-1], f"{value:.2f}", ha="center", va="center", fontsize=6, color=color)
            ax.grid(visible=False)
            ax.set_xticks(range(len(sheets)), sheets, fontsize=7)
            ax.set_yticks(
                range(len(suites)), [suite.replace("_", " ") for suite in suites] if ax is row[0] else [], fontsize=7
            )
            ax.set_title(f"{model.replace('_', ' ')}: {label}", fontsize=8, loc="left")
        made.colorbar(image, ax=list(row), shrink=0.8)
    return made


def alignment(table: pd.DataFrame) -> Figure:
    """Held-out correlation of the first component, with the 95 % point of its permutation null; a row an alignment."""
    made, axes = figure(width=6.4, height=0.8 + 0.32 * len(table))
    ax = axes[0, 0]
    y = np.arange(len(table))
    ax.barh(y, table["r1"], color=COLORS[0], height=0.6, label="r of the first component")
    ax.plot(table["null95"], y, "|", color=COLORS[1], markersize=12, markeredgewidth=2, label="95 % point of the null")
    ax.set_yticks(y, [name.replace("_", " ") for name in table.index])
    ax.invert_yaxis()
    ax.set_xlabel("correlation on held-out sentences")
    made.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return made


def statistic_by_layer(table: pd.DataFrame) -> Figure:
    """t_g of the four sheets against depth, a panel a model; dotted and hollow: before training.

    Args:
        table: index (model, layer), a model and untrained_<model>; columns sheets.
    """
    named = dict.fromkeys(table.index.get_level_values("model"))
    models = [name for name in named if not name.startswith(_UNTRAINED)]
    made, axes = figure(width=3.4 * len(models), height=3.2, ncols=len(models), sharey=True)
    for ax, model in zip(axes[0], models, strict=True):
        rows, before = table.loc[model], table.loc[_UNTRAINED + model]
        for number, sheet in enumerate(SHEETS):
            style: dict[str, Any] = {"marker": "o", "markersize": 4, "color": COLORS[number]}
            ax.plot(rows.index, rows[sheet], label=sheet, **style)
            ax.plot(before.index, before[sheet], fillstyle="none", linestyle=":", **style)
        ax.axhline(0.0, color="0.3", linewidth=0.8)
        ax.set_title(model, loc="left", fontsize=9)
        ax.set_xticks(rows.index[:: max(len(rows) // 8, 1)])
        ax.set_xlabel("layer")
    axes[0, 0].set_ylabel("t_g")
    axes[0, 0].legend(fontsize=8, frameon=False)
    return made


def loss_curves(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Training loss against updates, averaged over the last 20; model -> (updates, loss)."""
    made, axes = figure(width=5.2, height=3.2)
    ax = axes[0, 0]
    for number, (name, (steps, loss)) in enumerate(curves.items()):
        smooth = pd.Series(loss).rolling(20, min_periods=1).mean()
        ax.plot(steps, smooth, color=COLORS[number], linestyle=("-", "--", ":")[number % 3], label=name)
    ax.set(xlabel="updates", ylabel="loss (nats a predicted token)")
    ax.legend(frameon=False)
    return made
