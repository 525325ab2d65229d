"""The figures, each from a table to a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from iclr_repro.core.plotting import COLORS, figure

_STYLES = ("-", "--", ":", "-.")
_NUM_SENSORS = 3


def entropy_error(table: pd.DataFrame, *, dim: int) -> Figure:
    """Relative error of the estimates of entropy (left) and of the deficit (right) against the variance of the scores.

    Args:
        table: indexed by keys, d, num_keys, variance, estimate; columns entropy_error, deficit_error.
        dim: the head size to show, for Gaussian keys.
    """
    shown = table.xs("gaussian", level="keys").xs(dim, level="d")
    sizes = sorted(set(shown.index.get_level_values("num_keys")))
    chosen = sizes if len(sizes) < 3 else [sizes[0], sizes[-1]]
    made, axes = figure(width=7.2, height=3.4, ncols=2)
    for ax, column, label in zip(axes[0], ("entropy_error", "deficit_error"), ("H", "log N - H"), strict=True):
        for color, estimate in zip(COLORS, ("gauss2", "cum3", "taylor2"), strict=False):
            for style, size in zip(_STYLES, chosen, strict=False):
                values = shown.xs((size, estimate), level=("num_keys", "estimate"))[column].sort_index()
                ax.plot(
                    values.index.astype(float), values, style, color=color, marker=".", label=f"{estimate}, N = {size}"
                )
        ax.set(xscale="log", yscale="log", xlabel="variance of the scores", ylabel=f"mean relative error of {label}")
    axes[0, 0].set_title(f"Gaussian keys, d = {dim}", loc="left")
    axes[0, 1].legend(fontsize=7)
    return made


def theta_sweep(sweep: pd.DataFrame) -> Figure:
    """Distance to softmax and entropy gap when theta is moved away from the entropy-equal value; one over the other."""
    made, axes = figure(width=8.4, height=3.0, ncols=3)
    x = sweep["total_over_equal"]
    labels = (("tv", "total variation to softmax"), ("entropy_gap", "H(w) - H(softmax), nats"))
    for ax, (column, label) in zip(axes[0], labels, strict=False):
        ax.plot(x, sweep[column], color=COLORS[0])
        ax.axvline(1.0, color=COLORS[1], linestyle="--", label="entropy-equal theta")
        ax.set(xscale="log", xlabel=r"$(\theta + \mu)$ / its entropy-equal value", ylabel=label)
        ax.set_xticks([0.25, 0.5, 1, 2, 4, 8], ["1/4", "1/2", "1", "2", "4", "8"])
        ax.xaxis.set_minor_locator(NullLocator())
    axes[0, 1].axhline(0.0, color="0.5", linewidth=0.8)
    axes[0, 2].plot(sweep["entropy_gap"], sweep["tv"], color=COLORS[0])
    axes[0, 2].axvline(0.0, color="0.5", linewidth=0.8)
    axes[0, 2].set(xlabel=labels[1][1], ylabel=labels[0][1])
    axes[0, 0].legend(fontsize=8)
    return made


def scaling(table: pd.DataFrame, break_even: float | None) -> Figure:
    """Time of a forward pass and memory of its tensors against N, log-log, a line an attention."""
    made, axes = figure(width=7.6, height=3.8, ncols=2)
    for index, name in enumerate(dict.fromkeys(table.index.get_level_values("attention"))):
        rows = table.loc[name]
        style = {"color": COLORS[index % len(COLORS)], "linestyle": _STYLES[index // len(COLORS)], "marker": "."}
        axes[0, 0].plot(rows.index, rows["forward_ms"], label=name, **style)
        axes[0, 1].plot(rows.index, rows["peak_bytes"] / 2**20, label=name, **style)
    for ax, label in zip(axes[0], ("forward pass, ms", "most held in tensors, MiB"), strict=True):
        ax.set(xscale="log", yscale="log", xlabel="nodes N", ylabel=label)
    if break_even is not None:
        axes[0, 0].axvline(break_even, color="0.4", linestyle=":", linewidth=1)
        label = f"EALA is faster than\nsoftmax from N = {break_even:.0f} on"
        axes[0, 0].text(0.03, 0.97, label, transform=axes[0, 0].transAxes, fontsize=7, va="top")
    made.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return made


def mixing_curves(curves: Mapping[tuple[int, str], pd.Series], *, best: float, lonely: float) -> Figure:
    """Training error of each attention on the mixing task, a panel a number of steps."""
    lengths = sorted({steps for steps, _ in curves})
    made, axes = figure(width=7.2, height=3.4, ncols=len(lengths), sharey=True)
    names = list(dict.fromkeys(name for _, name in curves))
    for ax, length in zip(axes[0], lengths, strict=True):
        for color, name in zip(COLORS, names, strict=False):
            if (length, name) in curves:
                ax.plot(curves[length, name].rolling(5, min_periods=1).mean(), color=color, label=name, linewidth=1.2)
        ax.axhline(best, color="0.3", linestyle="--", linewidth=0.9)
        ax.axhline(lonely, color="0.3", linestyle=":", linewidth=0.9)
        ax.set(yscale="log", xlabel="update", title=f"{length} updates")
        ax.set_yticks([0.1, 0.2, 0.4, 0.8], ["0.1", "0.2", "0.4", "0.8"])
        ax.yaxis.set_minor_locator(NullLocator())
        ax.legend(fontsize=7)
    axes[0, 0].set_ylabel("training error (mean of 5)")
    axes[0, 0].annotate("least possible", (0, best), xytext=(2, 2), textcoords="offset points", fontsize=7)
    axes[0, 0].annotate("least without mixing", (0, lonely), xytext=(2, 2), textcoords="offset points", fontsize=7)
    return made


def error_by_horizon(errors: Mapping[str, Mapping[int, Mapping[str, float]]]) -> Figure:
    """MAE of each model and each forecast without a network against the step ahead."""
    made, axes = figure(width=6.4, height=3.8)
    ax = axes[0, 0]
    for index, (name, by_step) in enumerate(errors.items()):
        style = _STYLES[index // len(COLORS)]
        values = [one["mae"] for one in by_step.values()]
        ax.plot(list(by_step), values, style, color=COLORS[index % len(COLORS)], marker=".", label=name)
    ax.set(xlabel="steps ahead", ylabel="MAE")
    made.legend(*ax.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return made


def forecasts(truth: np.ndarray, predicted: Mapping[str, np.ndarray]) -> Figure:
    """Truth and forecasts one horizon ahead, [windows, N], for sensors of small, middle and large flow."""
    order = np.argsort(truth.mean(axis=0))
    sensors = [int(order[int(share * (len(order) - 1))]) for share in np.linspace(0.1, 0.9, _NUM_SENSORS)]
    made, axes = figure(width=7.2, height=4.8, nrows=len(sensors), sharex=True)
    for ax, sensor in zip(axes[:, 0], sensors, strict=True):
        ax.plot(truth[:, sensor], color="0.6", linewidth=1, label="truth")
        for color, style, (name, values) in zip(COLORS, _STYLES, predicted.items(), strict=False):
            ax.plot(values[:, sensor], style, color=color, linewidth=1.2, label=name)
        ax.set_ylabel(f"sensor {sensor}")
    axes[0, 0].legend(fontsize=7, ncols=3)
    axes[-1, 0].set_xlabel("test window; forecast of its last step")
    return made


def entropy_report(report: pd.DataFrame) -> Figure:
    """What `attention_entropy_report` says of each layer and head: deficit, attainment, distance to softmax."""
    made, axes = figure(width=7.2, height=3.2, ncols=3)
    labels = [f"{layer.replace('.attention', '')}, head {head}" for layer, head in report.index]
    columns = {
        "deficit": "deficit of softmax(s), nats",
        "attainment": "share of queries that attain",
        "tv_to_plain": "total variation to softmax(q.k)",
    }
    for ax, (column, label) in zip(axes[0], columns.items(), strict=True):
        ax.barh(range(len(report)), report[column], color=COLORS[0])
        ax.set_yticks(range(len(report)), labels if ax is axes[0, 0] else [""] * len(report))
        ax.invert_yaxis()
        ax.set_xlabel(label)
    return made
