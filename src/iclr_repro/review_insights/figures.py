"""The figures of the paper and ours beside them, each from a table to a matplotlib figure."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from iclr_repro.core.plotting import COLORS, figure


def transition_heatmap(counts: pd.DataFrame, *, title: str) -> Figure:
    """Row shares of a transition matrix, each cell with its number of reviews."""
    made, axes = figure(width=4.8, height=4.2)
    ax = axes[0, 0]
    shares = counts.div(counts.sum(axis=1).replace(0, 1), axis=0).to_numpy()
    image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts.to_numpy()):
        if count:
            color = "white" if shares[row, column] > 0.5 else "black"
            ax.text(column, row, f"{count:,}", ha="center", va="center", color=color, fontsize=8)
    ax.set_xticks(range(counts.shape[1]), counts.columns.astype(str))
    ax.set_yticks(range(counts.shape[0]), counts.index.astype(str))
    ax.set(xlabel="rating after the rebuttal", ylabel="rating before", title=title)
    ax.grid(visible=False)
    made.colorbar(image, label="share of the reviews with that rating before", shrink=0.8)
    return made


def alluvial(counts: pd.DataFrame, *, title: str) -> Figure:
    """Reviews as bands from their rating before (left) to their rating after (right); only changes are coloured."""
    made, axes = figure(width=6.4, height=4.4)
    ax = axes[0, 0]
    matrix = counts.to_numpy()
    gap = 0.03 * matrix.sum()
    starts = [
        np.concatenate([[0], np.cumsum(totals + gap)[:-1]]) for totals in (matrix.sum(axis=1), matrix.sum(axis=0))
    ]
    left, right = (position.astype(float) for position in starts)
    x = np.linspace(0.0, 1.0, 60)
    ease = x**2 * (3 - 2 * x)
    for row in range(len(matrix)):
        for column in range(len(matrix)):
            count = matrix[row, column]
            if not count:
                continue
            color = COLORS[2] if column > row else COLORS[1] if column < row else "0.8"
            lower = left[row] + (right[column] - left[row]) * ease
            ax.fill_between(x, lower, lower + count, color=color, alpha=0.4 if row == column else 0.8, linewidth=0)
            left[row] += count
            right[column] += count
    sides = ((-0.02, matrix.sum(axis=1), starts[0], "right"), (1.02, matrix.sum(axis=0), starts[1], "left"))
    for side, totals, position, align in sides:
        for label, start, total in zip(counts.index, position, totals, strict=True):
            ax.text(side, start + total / 2, f"{label}  ({total:,})", ha=align, va="center", fontsize=8)
    ax.text(0, -2 * gap, "before", ha="center")
    ax.text(1, -2 * gap, "after", ha="center")
    ax.plot([], [], color=COLORS[2], linewidth=6, label="increase")
    ax.plot([], [], color=COLORS[1], linewidth=6, label="decrease")
    ax.plot([], [], color="0.8", linewidth=6, label="keep")
    ax.legend(loc="upper center", ncols=3)
    ax.set_title(title)
    ax.set_xlim(-0.22, 1.22)
    ax.axis("off")
    return made


_PARTIAL = {2023: "to 20 Nov", 2026: "to 22 Nov"}  # captures that end before the discussion does


def change_shares(shares: pd.DataFrame, *, paper: Mapping[str, float]) -> Figure:
    """Shares of increases and decreases by year with intervals, and the paper's values as lines.

    Args:
        shares: index year, columns (`increase` | `decrease`, `estimate` | `low` | `high`).
        paper: "increase" and "decrease" -> the paper's share in ICLR 2024.
    """
    made, axes = figure(width=6.4, height=3.0, ncols=2)
    for ax, change, color in zip(axes[0], ("increase", "decrease"), (COLORS[2], COLORS[1]), strict=True):
        table = 100 * shares[change]
        x = np.arange(len(table))
        errors = [table["estimate"] - table["low"], table["high"] - table["estimate"]]
        ax.bar(x, table["estimate"], yerr=errors, color=color, capsize=3, width=0.6)
        ax.axhline(100 * paper[change], color="black", linewidth=1, linestyle="--", label="paper, ICLR 2024")
        ax.set_xticks(x, [f"{year}\n{_PARTIAL.get(year, '')}" for year in table.index])
        ax.set(title=f"reviews that {change}", ylabel="% of reviews")
        ax.legend(fontsize=8)
    return made


def churn_curves(curves: Mapping[int, pd.DataFrame]) -> Figure:
    """Share of the top papers that are replaced, against the size of the top.

    Args:
        curves: year -> index fraction, columns `estimate`, `low`, `high`.
    """
    made, axes = figure(width=5.6, height=3.6)
    ax = axes[0, 0]
    for (year, curve), color in zip(curves.items(), COLORS, strict=False):
        ax.plot(100 * curve.index, 100 * curve["estimate"], marker="o", markersize=3, color=color, label=f"ICLR {year}")
        ax.fill_between(
            100 * curve.index, 100 * curve["low"], 100 * curve["high"], color=color, alpha=0.15, linewidth=0
        )
    ax.plot([5, 30], [40, 20], color="black", marker="x", linestyle="", label="paper: over 40 %, nearly 20 %")
    ax.set(
        xlabel="top papers by mean rating before (% of all)", ylabel="replaced after the rebuttal (%)", ylim=(0, None)
    )
    ax.legend(fontsize=8)
    return made


def disagreement_changes(table: pd.DataFrame) -> Figure:
    """Relative change of the disagreement by year and decision.

    Args:
        table: index (`year`, `group`), columns `estimate`, `low`, `high` (fractions).
    """
    made, axes = figure(width=6.4, height=0.9 + 0.24 * len(table))
    ax = axes[0, 0]
    y = np.arange(len(table))[::-1]
    years = table.index.get_level_values("year")
    colors = [COLORS[sorted(set(years)).index(year) % len(COLORS)] for year in years]
    for position, color, row in zip(y, colors, table.itertuples(), strict=True):
        ax.plot([100 * row.low, 100 * row.high], [position, position], color=color, linewidth=2)
        ax.plot(100 * row.estimate, position, marker="o", color=color)
    ax.axvspan(-10, -9, color="black", alpha=0.12, label="paper, all papers: -9 to -10 %")
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(y, [f"{year} {str(group).replace('_', '/')}" for year, group in table.index])
    ax.set(xlabel="change of the mean standard deviation of a paper's ratings (%)")
    ax.legend(fontsize=8, loc="lower left")
    return made


def coefficient_plot(table: pd.DataFrame, *, paper: Mapping[str, float]) -> Figure:
    """Coefficients of the class "increase" with intervals, by feature and year; the paper's values as crosses.

    Args:
        table: index (`feature`, `source`), columns `estimate`, `low`, `high`; a source is a year or "placebo 2021".
        paper: feature -> the paper's coefficient, for the features that it has too.
    """
    features = list(dict.fromkeys(table.index.get_level_values(0)))
    sources = list(dict.fromkeys(table.index.get_level_values(1)))
    made, axes = figure(width=6.4, height=1.0 + 0.7 * len(features))
    ax = axes[0, 0]
    for place, feature in enumerate(reversed(features)):
        for number, source in enumerate(sources):
            row = table.loc[(feature, source)]
            y = place + 0.3 - 0.6 * number / max(1, len(sources) - 1)
            color = COLORS[number % len(COLORS)]
            label = source if place == 0 else None
            ax.plot([row["low"], row["high"]], [y, y], color=color, linewidth=2)
            ax.plot(row["estimate"], y, marker="o", markersize=4, color=color, linestyle="", label=label)
        if feature in paper:
            label = "paper (other features too)" if feature == features[0] else None
            ax.plot(paper[feature], place, marker="x", color="black", linestyle="", label=label)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(range(len(features)), [feature.replace("_", " ") for feature in reversed(features)])
    ax.set(xlabel='coefficient of "increase" (features standardised, centred over classes)')
    ax.legend(fontsize=8)
    return made


def probability_bars(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """P(increase) and P(decrease) with intervals; a panel a table.

    Args:
        tables: title -> index group, columns (`p_increase` | `p_decrease`, `estimate` | `low` | `high`).
    """
    made, axes = figure(width=3.4 * len(tables), height=3.2, ncols=len(tables))
    for ax, (title, table) in zip(axes[0], tables.items(), strict=True):
        x = np.arange(len(table))
        for offset, name, color in ((-0.2, "p_increase", COLORS[2]), (0.2, "p_decrease", COLORS[1])):
            part = 100 * table[name]
            errors = [part["estimate"] - part["low"], part["high"] - part["estimate"]]
            ax.bar(x + offset, part["estimate"], 0.4, yerr=errors, color=color, capsize=2, label=name[2:])
        ax.set_xticks(x, [str(group).replace("_", "\n") for group in table.index])
        ax.set(title=title, ylabel="% of reviews")
        ax.legend(fontsize=8)
    return made


def order_plot(table: pd.DataFrame) -> Figure:
    """Mean initial rating by the order of submission.

    Args:
        table: index (`n_reviews`, `position`), columns `estimate`, `low`, `high`.
    """
    made, axes = figure(width=5.2, height=3.4)
    ax = axes[0, 0]
    for (size, part), color in zip(table.groupby(level="n_reviews"), COLORS, strict=False):
        x = part.index.get_level_values("position").to_numpy()
        errors = [part["estimate"] - part["low"], part["high"] - part["estimate"]]
        ax.errorbar(x, part["estimate"], yerr=errors, marker="o", capsize=3, color=color, label=f"{size} reviews")
    ax.set_xticks(sorted(set(table.index.get_level_values("position"))))
    ax.set(xlabel="order of submission (1 = first)", ylabel="mean initial rating")
    ax.legend(fontsize=8)
    return made


def reliability_diagram(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """Observed against predicted probability; a panel a forecast, see `calibration.reliability`."""
    made, axes = figure(width=2.9 * len(panels), height=3.1, ncols=len(panels))
    for ax, (title, points) in zip(axes[0], panels.items(), strict=True):
        errors = [points["observed"] - points["low"], points["high"] - points["observed"]]
        ax.errorbar(
            points["predicted"], points["observed"], yerr=np.maximum(errors, 0), fmt="o", markersize=4, capsize=2
        )
        top = 1.05 * max(points["predicted"].max(), points["high"].max())
        ax.plot([0, top], [0, top], color="black", linewidth=0.8, linestyle="--")
        ax.set(title=title, xlabel="predicted", ylabel="observed", xlim=(0, top), ylim=(0, top))
        ax.title.set_fontsize(9)
    return made


def label_shares(table: pd.DataFrame, *, what: str) -> Figure:
    """Share of reviews that name a category, by rating group.

    Args:
        table: index (`group`, `category`), columns `share`, `low`, `high`.
        what: is labelled, e.g. "weakness".
    """
    groups = list(dict.fromkeys(table.index.get_level_values("group")))
    order = table.loc[groups[0]].sort_values("share").index
    made, axes = figure(width=6.4, height=0.8 + 0.42 * len(order))
    ax = axes[0, 0]
    for number, group in enumerate(groups):
        part = 100 * table.loc[group].reindex(order)[["share", "low", "high"]]
        y = np.arange(len(order)) + 0.25 * (1 - number)
        errors = [part["share"] - part["low"], part["high"] - part["share"]]
        ax.barh(y, part["share"], 0.25, xerr=errors, color=COLORS[number], label=f"{group} rating", error_kw={"lw": 1})
    ax.set_yticks(range(len(order)), list(order))
    ax.set(xlabel=f"% of reviews that name such a {what}")
    ax.legend(fontsize=8)
    return made


def gradient_bars(tables: Mapping[int, pd.DataFrame]) -> Figure:
    """P(increase) by the distance to the co-reviewers, in the data and under the null model; a panel a year."""
    made, axes = figure(width=2.9 * len(tables), height=3.2, ncols=len(tables))
    bins = ("others_lower", "others_close", "others_higher")
    for ax, (year, table) in zip(axes[0], tables.items(), strict=True):
        part = 100 * table.loc[[f"{name}/p_increase" for name in bins]]
        x = np.arange(len(bins))
        errors = [part["data"] - part["low"], part["high"] - part["data"]]
        ax.bar(x - 0.2, part["data"], 0.4, yerr=errors, capsize=2, color=COLORS[0], label="data")
        ax.bar(x + 0.2, part["null"], 0.4, color="0.7", label="independent readers")
        ax.set_xticks(x, ["others\nlower", "others\nclose", "others\nhigher"])
        ax.set(title=f"ICLR {year}", ylabel="% of reviews that increase")
        ax.legend(fontsize=8)
    return made


def timing_plot(timing: pd.DataFrame, *, title: str) -> Figure:
    """P(increase) by the day of the authors' first message, and the number of reviews behind it."""
    made, axes = figure(width=6.4, height=3.2)
    ax = axes[0, 0]
    x = np.arange(len(timing))
    ax.bar(x, timing["n"], color="0.85", label="reviews")
    ax.set(ylabel="reviews", xlabel="day of the authors' first message", title=title)
    ax.set_xticks(x, [f"{day:%d %b}" for day in timing.index], rotation=45, ha="right")
    twin = ax.twinx()
    twin.plot(x, 100 * timing["p_increase"], marker="o", color=COLORS[2], label="increase")
    twin.set(ylabel="% that increase", ylim=(0, None))
    twin.grid(visible=False)
    made.legend(fontsize=8, loc="outside upper right", ncols=2)
    return made
