"""The figures, each from numbers to a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from iclr_repro.core.plotting import COLORS, figure


def recovery(curves: Mapping[int, np.ndarray], law: pd.Series, ratings: Mapping[str, np.ndarray]) -> Figure:
    """Spearman with the true quality against the budget, all venues and their mean, beside the ratings and the law."""
    made, axes = figure(width=5.2, height=3.4)
    ax = axes[0, 0]
    _curve(ax, curves, "comparisons")
    ax.plot(law.index, law.to_numpy(), ":", color="0.35", label="law (Pearson, asymptotic)")
    names = {"rating": "ratings, 4 calls a paper", "rating_unrounded": "the same, unrounded"}
    for color, (name, values) in zip(COLORS[1:], ratings.items(), strict=False):
        ax.axhline(values.mean(), color=color, linestyle="--", label=names.get(name, name))
    ax.axvline(8, color="0.7", linewidth=0.8)
    ax.text(8.3, 0.02, "equal calls", transform=ax.get_xaxis_transform(), fontsize=8, color="0.35")
    _budget_axis(ax, list(curves))
    ax.set(ylabel="Spearman with true quality", title="Simulated judge without faults")
    ax.legend(fontsize=8)
    return made


def replay(curves: Mapping[int, np.ndarray], levels: Mapping[str, np.ndarray]) -> Figure:
    """Spearman with human ratings against the budget, beside the ratings by the same reviewers."""
    made, axes = figure(width=5.2, height=3.4)
    ax = axes[0, 0]
    _curve(ax, curves, "comparisons, one random judge each")
    names = {
        "rating_one": "one judge's rating",
        "rating_three_rounded": "three judges, rounded mean",
        "rating_three_z": "three judges, z-scored",
    }
    for color, (name, values) in zip(COLORS[1:], levels.items(), strict=False):
        ax.axhline(np.mean(values), color=color, linestyle="--", label=names.get(name, name))
    _budget_axis(ax, list(curves))
    ax.set(ylabel="Spearman with mean human rating", title="Six real LLM reviewers, ICLR 2022")
    ax.legend(fontsize=8, loc="lower right")
    return made


def citations_by_budget(
    curve: Mapping[int, np.ndarray], levels: Mapping[str, float], *, venue: str, per_paper: bool
) -> Figure:
    """Mean citations of the accepted set against the budget, with 95 % bootstrap intervals over its papers."""
    made, axes = figure(width=5.2, height=3.4)
    ax = axes[0, 0]
    budgets = list(curve)
    mean = np.array([draws.mean() for draws in curve.values()])
    low, high = np.quantile(np.stack(list(curve.values())), [0.025, 0.975], axis=1)
    ax.fill_between(budgets, low, high, color=COLORS[0], alpha=0.15, linewidth=0)
    ax.plot(budgets, mean, "o-", color=COLORS[0], label="comparisons (95 % over papers)")
    for color, (name, value) in zip(COLORS[1:], levels.items(), strict=False):
        ax.axhline(value, color=color, linestyle="--", label=name)
    if per_paper:
        _budget_axis(ax, budgets)
    else:
        ax.set(xscale="log", xlabel="comparisons, M")
    ax.set_ylim(bottom=0.9 * min(*levels.values(), low.min()))
    ax.set(ylabel="mean citations of the accepted", title=f"Impact of the accepted set, {venue}")
    ax.legend(fontsize=8)
    return made


def selection_bias(values: Mapping[str, Mapping[str, float]], nulls: Mapping[str, np.ndarray]) -> Figure:
    """Novelty and Gini of the accepted sets among random sets of the same size."""
    made, axes = figure(width=6.4, height=3.1, ncols=2)
    labels = {"novelty": "mean distance to the nearest neighbour", "gini": "Gini of papers by institution"}
    names = {"fair": "fair judge", "biased": "biased judge", "best": "truly best"}
    for ax, (measure, of_sets) in zip(axes[0], values.items(), strict=True):
        ax.hist(nulls[measure], bins=30, color="0.8", label="random sets")
        for color, (name, value) in zip(COLORS, of_sets.items(), strict=False):
            ax.axvline(value, color=color, linewidth=1.8, label=names.get(name, name))
        ax.set(xlabel=labels[measure])
        ax.margins(x=0.08)
    axes[0, 0].set_ylabel("random sets of equal size")
    handles, shown = axes[0, 0].get_legend_handles_labels()
    made.legend(handles, shown, fontsize=8, loc="outside upper center", ncols=4)
    return made


def calibration_plot(table: pd.DataFrame) -> Figure:
    """Observed shares of wins against fitted probabilities, on comparisons that were held out."""
    made, axes = figure(width=3.6, height=3.4)
    ax = axes[0, 0]
    ax.plot([0, 1], [0, 1], ":", color="0.35")
    ax.errorbar(table["predicted"], table["observed"], 1.96 * table["standard_error"], fmt="o", color=COLORS[0])
    ax.set(xlabel="fitted P(first wins)", ylabel="share of wins, held out", title="Calibration", aspect="equal")
    return made


def active_curves(curves: Mapping[str, pd.DataFrame], share: float) -> Figure:
    """Overlap with the truly best K against the number of comparisons, mean over venues."""
    made, axes = figure(width=5.2, height=3.2)
    ax = axes[0, 0]
    names = {"active": "around the boundary", "random": "random pairs"}
    for color, (name, table) in zip(COLORS, curves.items(), strict=False):
        mean = table.mean()
        ax.plot(mean.index, mean.to_numpy(), "o-", color=color, markersize=4, label=names[name])
    ax.axhline(curves["random"].mean().iloc[-1], color="0.6", linewidth=0.8)
    ax.axvline(share, color="0.7", linewidth=0.8)
    ax.set(xlabel="comparisons", ylabel="overlap with the truly best K", title="Choosing the pairs, simulated venue")
    ax.legend(fontsize=8, loc="lower right")
    return made


def bands(beta: np.ndarray, errors: np.ndarray, probability: np.ndarray, k: int, confidence: float) -> Figure:
    """Strengths by rank with 95 % intervals, coloured by whether the decision is settled (errors without the shift)."""
    made, axes = figure(width=6.4, height=3.2)
    ax = axes[0, 0]
    order = np.argsort(-beta, kind="stable")
    rank = np.arange(1, len(beta) + 1)
    p = probability[order]
    groups = {
        "accept": (p >= confidence, COLORS[2]),
        "borderline": ((p < confidence) & (p > 1 - confidence), COLORS[1]),
        "reject": (p <= 1 - confidence, "0.6"),
    }
    for name, (members, color) in groups.items():
        label = f"{name} ({int(members.sum())})"
        ax.errorbar(
            rank[members],
            beta[order][members],
            1.96 * errors[order][members],
            fmt=".",
            color=color,
            elinewidth=0.5,
            markersize=4,
            label=label,
        )
    ax.axvline(k + 0.5, color="0.5", linewidth=0.8)
    ax.set(xlabel="rank", ylabel="strength", title=f"Settled decisions at {100 * confidence:g} % confidence")
    ax.legend(fontsize=8)
    return made


def venue(table: pd.DataFrame) -> Figure:
    """Mean and median citations of each accepted set."""
    made, axes = figure(width=6.4, height=2.8, ncols=2)
    names = {"human_rating": "human rating", "pairwise": "comparisons", "rating": "ratings"}
    labels = [names.get(name, name) for name in table.index]
    for ax, quantity in zip(axes[0], ("mean", "median"), strict=True):
        colors = [COLORS[0] if name == "pairwise" else "0.7" for name in table.index]
        ax.barh(labels[::-1], table[quantity].to_numpy()[::-1], color=colors[::-1])
        for position, value in enumerate(table[quantity].to_numpy()[::-1]):
            ax.text(value, position, f" {value:.1f}", va="center", fontsize=8)
        ax.set(xlabel=f"{quantity} citations")
        ax.margins(x=0.15)
        ax.grid(visible=False, axis="y")
    return made


def areas(shift: pd.DataFrame, *, venue: str) -> Figure:
    """Acceptance rate of each area by comparisons minus that by humans (Fig. 4)."""
    ordered = shift.sort_values("shift")
    made, axes = figure(width=5.2, height=1.0 + 0.22 * len(ordered))
    ax = axes[0, 0]
    names = [f"{area} ({int(n)})" for area, n in ordered["n"].items()]
    ax.barh(names, ordered["shift"], color=[COLORS[0] if shift > 0 else COLORS[1] for shift in ordered["shift"]])
    ax.axvline(0.0, color="0.35", linewidth=0.8)
    ax.set(xlabel="acceptance rate, comparisons minus humans", title=f"Areas, {venue}")
    ax.grid(visible=False, axis="y")
    return made


def _curve(ax: Axes, curves: Mapping[int, np.ndarray], label: str) -> None:
    budgets = list(curves)
    for budget, values in curves.items():
        ax.plot(np.full(len(values), budget), values, ".", color=COLORS[0], alpha=0.35, markersize=5)
    ax.plot(budgets, [np.mean(values) for values in curves.values()], "o-", color=COLORS[0], label=label)


def _budget_axis(ax: Axes, budgets: list[int]) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(budgets, [str(budget) for budget in budgets])
    ax.minorticks_off()
    ax.set_xlabel("comparisons of a paper, m")
