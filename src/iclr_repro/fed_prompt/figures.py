"""The figures of the experiments, each from tables to a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from iclr_repro.core.plotting import COLORS, figure

LABELS = {
    "local": "local",
    "federated": "federated, prompts + head",
    "federated_iid": "federated, IID",
    "centralised": "centralised, as many updates",
    "centralised_few_steps": "centralised, a client's updates",
    "zero_shot_eng": "English only",
    "head": "federated, head only",
    "head_local": "local, head only",
    "ptuning": "federated, P-tuning",
    "prefix": "federated, prefix",
    "lora": "federated, LoRA",
    "full": "federated, everything",
    "local_poor": "local, all poor",
    "local_rich": "local, all rich",
    "low_poor": "federated, first half poor",
    "high_poor": "federated, other half poor",
    "all_rich": "federated, all rich",
}


def gains(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Gain of each language by the federation in points, when poor and when rich; a panel a track, languages by gain.

    Args:
        tables: track -> columns gain_poor, gain_rich (shares), and gain_poor_half_width where there is a 95 % interval
            over test texts.
    """
    made, axes = figure(width=8.6, height=1.2 + 0.22 * len(next(iter(tables.values()))), ncols=len(tables), sharex=True)
    for ax, (track, table) in zip(axes[0], tables.items(), strict=True):
        ordered = table.sort_values("gain_poor")
        y = np.arange(len(ordered))
        ax.hlines(y, 100 * ordered["gain_rich"], 100 * ordered["gain_poor"], color="0.75", linewidth=1.5)
        ax.plot(100 * ordered["gain_rich"], y, "s", color=COLORS[0], markersize=4, label="rich")
        bars = 100 * ordered["gain_poor_half_width"] if "gain_poor_half_width" in ordered else None
        style = {"fmt": "o", "color": COLORS[1], "markersize": 5, "elinewidth": 0.8}
        ax.errorbar(100 * ordered["gain_poor"], y, xerr=bars, label="poor", **style)
        ax.axvline(0.0, color="0.3", linewidth=0.8)
        ax.axvline(100 * ordered["gain_poor"].mean(), color=COLORS[1], linewidth=0.8, linestyle="--")
        ax.set_yticks(y, ordered.index)
        ax.set_title(track, loc="left", fontsize=9)
        ax.set_xlabel("federated - local accuracy (points)")
    axes[0, 0].legend(fontsize=8, frameon=False, loc="lower right")
    return made


def convergence(table: pd.DataFrame) -> Figure:
    """Mean accuracy on dev against rounds, a line a run."""
    made, axes = figure(width=6.8, height=3.4)
    for number, name in enumerate(table.columns):
        style = "--" if str(name).startswith("local") else "-"
        axes[0, 0].plot(
            table.index, table[name], style, marker="o", markersize=3, color=COLORS[number], label=LABELS[str(name)]
        )
    axes[0, 0].set(xlabel="round", ylabel="mean accuracy on dev")
    made.legend(loc="outside right center", fontsize=8, frameon=False)
    return made


def clients(labels: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Which client holds what: the share of each label among the training texts of a language, with their number."""
    shares = np.array([np.bincount(values, minlength=len(names)) / len(values) for values in labels.values()])
    made, axes = figure(width=5.6, height=1.2 + 0.24 * len(labels))
    ax = axes[0, 0]
    image = ax.imshow(shares, cmap="viridis", vmin=0.0, aspect="auto")
    ax.grid(visible=False)
    ax.set_yticks(range(len(labels)), [f"{name} ({len(values):,})" for name, values in labels.items()])
    ax.set_ylabel("client (texts)")
    ax.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
    made.colorbar(image, ax=ax, label="share of the client's texts")
    return made


def data_efficiency(table: pd.DataFrame, halves: Mapping[str, Sequence[str]]) -> Figure:
    """Mean test accuracy against the number of labelled texts of every language, for both halves of the languages.

    Args:
        table: columns n, method, language, accuracy.
        halves: name -> languages.
    """
    made, axes = figure(width=7.6, height=3.2, ncols=len(halves), sharey=True)
    for ax, (half, members) in zip(axes[0], halves.items(), strict=True):
        means = table[table["language"].isin(members)].groupby(["n", "method"])["accuracy"].mean().unstack()
        for number, method in enumerate(("local", "federated", "centralised")):
            ax.plot(means.index, means[method], "o-", color=COLORS[number], markersize=4, label=method)
        ax.set_xscale("log", base=2)
        ax.set_xticks(means.index, means.index)
        ax.set_title(f"{half}-resource half, {len(members)} languages", loc="left", fontsize=9)
        ax.set_xlabel("labelled texts of every language")
    axes[0, 0].set_ylabel("test accuracy, head only")
    axes[0, 0].legend(fontsize=8, frameon=False)
    return made


def data_efficiency_by_language(table: pd.DataFrame) -> Figure:
    """Test accuracy against the number of labelled texts of every language, a panel a language.

    Args:
        table: columns n, method, language, accuracy.
    """
    names, ncols = list(dict.fromkeys(table["language"])), 4
    nrows = -(-len(names) // ncols)
    made, axes = figure(width=8.6, height=0.6 + 1.5 * nrows, nrows=nrows, ncols=ncols, sharex=True, sharey=True)
    for ax, name in zip(axes.flat, names, strict=False):
        means = table[table["language"] == name].groupby(["n", "method"])["accuracy"].mean().unstack()
        for number, method in enumerate(("local", "federated")):
            ax.plot(means.index, means[method], "o-", color=COLORS[number], markersize=3, label=method)
        ax.set_xscale("log", base=2)
        ax.set_xticks(means.index, means.index, fontsize=7)
        ax.set_title(name, loc="left", fontsize=9)
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    axes[0, 0].legend(fontsize=7, frameon=False)
    made.supxlabel("labelled texts of every language", fontsize=9)
    made.supylabel("test accuracy, head only", fontsize=9)
    return made


def methods(accuracy: pd.DataFrame) -> Figure:
    """Test accuracy by method: the mean over languages, and each language as a dot.

    Args:
        accuracy: a row a language, a column a method.
    """
    ordered = accuracy.mean().sort_values().index
    made, axes = figure(width=7.2, height=1.0 + 0.3 * len(ordered))
    ax = axes[0, 0]
    for y, name in enumerate(ordered):
        ax.plot(accuracy[name], np.full(len(accuracy), y), "o", color="0.7", markersize=3)
        ax.plot(accuracy[name].mean(), y, "D", color=COLORS[1] if name == "federated" else COLORS[0], markersize=6)
    ax.set_yticks(range(len(ordered)), [LABELS[str(name)] for name in ordered])
    ax.set_xlabel("test accuracy (dots: languages, diamond: their mean)")
    return made


def communication(curves: Mapping[str, Sequence[float]], num_bytes: Mapping[str, float]) -> Figure:
    """Mean accuracy on dev against bytes sent so far, on a logarithmic axis."""
    made, axes = figure(width=6.8, height=3.4)
    for number, (name, curve) in enumerate(curves.items()):
        sent = num_bytes[name] * np.arange(1, len(curve) + 1) / len(curve) / 1e6
        axes[0, 0].plot(sent, curve, "o-", color=COLORS[number % len(COLORS)], markersize=3, label=LABELS[name])
    axes[0, 0].set_xscale("log")
    axes[0, 0].set(xlabel="sent up and down by all clients (MB)", ylabel="mean accuracy on dev")
    made.legend(loc="outside right center", fontsize=8, frameon=False)
    return made


def spread(found: Mapping[str, Sequence[Mapping[str, float]]], languages: Sequence[str]) -> Figure:
    """Test accuracy of each poor language over draws of its labelled texts, local and federated."""
    made, axes = figure(width=7.2, height=3.2)
    ax = axes[0, 0]
    for number, (method, draws) in enumerate(found.items()):
        for place, language in enumerate(languages):
            values = [draw[language] for draw in draws]
            x = np.full(len(values), place + 0.3 * number - 0.15)
            ax.plot(x, values, "o", color=COLORS[number], markersize=3, alpha=0.6, label="" if place else method)
    ax.set_xticks(range(len(languages)), languages)
    ax.set_ylabel("test accuracy, head only")
    made.legend(loc="outside right center", fontsize=8, frameon=False)
    return made


def distance_scatter(table: pd.DataFrame, distance: str) -> Figure:
    """Gain and accuracies of poor languages against their distance to the federation, with their names."""
    columns = {"gain_poor": "gain (points)", "local_poor": "local accuracy", "federated_poor": "federated accuracy"}
    made, axes = figure(width=9.0, height=3.0, ncols=3)
    for ax, (column, label) in zip(axes[0], columns.items(), strict=True):
        values = table[column] * (100.0 if column == "gain_poor" else 1.0)
        ax.plot(table[distance], values, "o", color=COLORS[0], markersize=4)
        for language, x, y in zip(table.index, table[distance], values, strict=True):
            ax.annotate(str(language), (x, y), xytext=(3, 2), textcoords="offset points", fontsize=7)
        ax.set(xlabel=f"distance to the others ({distance})", ylabel=label)
    return made


def counts(table: pd.DataFrame) -> Figure:
    """Trained parameters of XLM-R-base by kind, and with the second copy of the head that early peft counted."""
    of_task = table.loc[table.index.get_level_values(0)[0]]
    made, axes = figure(width=6.4, height=3.0)
    ax = axes[0, 0]
    y = np.arange(len(of_task))
    ax.barh(y + 0.2, of_task["trainable"], height=0.35, color=COLORS[0], label="counted once")
    ax.barh(y - 0.2, of_task["head_twice"], height=0.35, color=COLORS[4], label="head counted twice")
    ax.set_xscale("log")
    ax.set_yticks(y, of_task.index)
    ax.set_xlabel("trained parameters of XLM-R-base, 10 labels")
    ax.legend(fontsize=8, frameon=False, loc="lower right")
    return made
