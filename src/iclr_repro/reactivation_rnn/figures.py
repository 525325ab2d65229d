"""The figures of the experiments, in the layout of the paper's, each from arrays or tables to a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from iclr_repro.core.plotting import COLORS, figure
from iclr_repro.core.statistics import mean_interval
from iclr_repro.reactivation_rnn.analysis import angular_steps, step_distances
from iclr_repro.reactivation_rnn.density import KernelDensity, scott_factor, thinned

_TITLES = {
    "nt_u": "noisy, unbiased",
    "dt_u": "noiseless, unbiased",
    "nt_b": "noisy, biased",
    "dt_b": "noiseless, biased",
    "gru_u": "noisy GRU, unbiased",
    "gru_b": "noisy GRU, biased",
    "nt_real": "noisy, rat",
    "dt_real": "noiseless, rat",
    "untrained": "untrained",
    "uniform": "uniform",
}
_GRID = 44  # places a side at which a density is drawn
_JUMP_M = 0.2  # steps longer than this are not drawn: the decoder hops there


def title_of(name: str) -> str:
    """Return the words for a network's name; "nt_u_c1" is without doubling, "dt_u_noise" with quiescent noise."""
    for suffix, words in (("_c1", ", c = 1"), ("_noise", " + noise")):
        if name.endswith(suffix):
            return title_of(name.removesuffix(suffix)) + words
    return _TITLES.get(name, name)


def learning_curves(curves: Mapping[str, np.ndarray]) -> Figure:
    """Test loss and decoding distance against updates (Fig. 1b); name -> [3, evaluations]: updates, loss, distance."""
    made, axes = figure(width=7.2, height=2.8, ncols=2)
    for number, (name, (updates, loss, error)) in enumerate(curves.items()):
        style = {"color": COLORS[number % len(COLORS)], "linestyle": "-" if "nt" in name else "--", "marker": "."}
        axes[0, 0].semilogy(updates, loss, label=title_of(name), **style)
        axes[0, 1].plot(updates, error, **style)
    axes[0, 0].set(xlabel="updates", ylabel="test loss")
    axes[0, 1].set(xlabel="updates", ylabel="decoding error", ylim=(0.0, None))
    made.legend(loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    return made


def trajectory_grid(
    decoded: Mapping[str, np.ndarray], *, nets: Sequence[str], side_m: float, num: int, num_steps: int
) -> Figure:
    """Decoded trajectories (Fig. 1d-e, 2a), a row a phase, a column a network; a cross where each starts.

    Args:
        decoded: "<net> active", "<net> quiescent" and, for noiseless ones, "<net> + noise" -> positions [T, B, 2].
        nets: columns.
        side_m: of the box.
        num: trajectories shown.
        num_steps: of each.
    """
    phases = [p for p in ("active", "quiescent", "+ noise") if any(f"{name} {p}" in decoded for name in nets)]
    made, axes = figure(
        width=1.9 * len(nets) + 0.6, height=1.95 * len(phases) + 0.4, nrows=len(phases), ncols=len(nets)
    )
    for row, phase in zip(axes, phases, strict=True):
        labelled = False
        for ax, name in zip(row, nets, strict=True):
            key = f"{name} {phase}"
            if key not in decoded:
                ax.set_axis_off()
                continue
            _box(ax, side_m)
            for k in range(min(num, decoded[key].shape[1])):
                path = decoded[key][:num_steps, k].copy()
                color = COLORS[k % len(COLORS)]
                path[1:][step_distances(path[:, None])[:, 0] > _JUMP_M] = np.nan
                ax.plot(path[:, 0], path[:, 1], linewidth=0.7, color=color)
                ax.plot(*decoded[key][0, k], "x", markersize=3, color=color)
            if phase == "+ noise":  # its steps are nearly all jumps
                ax.scatter(*decoded[key][:num_steps, :num].reshape(-1, 2).T, s=0.6, color="0.4", linewidths=0)
            if phase == phases[0]:
                ax.set_title(title_of(name), fontsize=8)
            if not labelled:
                ax.set_ylabel("quiescent + noise" if phase == "+ noise" else phase, fontsize=8)
                labelled = True
    axes[-1, -1].annotate(
        f"first {num_steps} steps; steps over {_JUMP_M} m are not drawn",
        (1.0, -0.03), xycoords="axes fraction", ha="right", va="top", fontsize=6,
    )  # fmt: skip
    return made


def occupancy_grid(decoded: Mapping[str, np.ndarray], *, nets: Sequence[str], side_m: float) -> Figure:
    """Kernel density of decoded positions (Fig. 1h-i, 2c-d), active above quiescent; a column a network, a scale."""
    phases = ("active", "quiescent")
    made, axes = figure(width=1.9 * len(nets) + 0.4, height=4.6, nrows=2, ncols=len(nets))
    middles = side_m * ((np.arange(_GRID) + 0.5) / _GRID - 0.5)
    grid = np.stack(np.meshgrid(middles, middles), axis=-1).reshape(-1, 2)
    densities = {
        key: _density(decoded[key]).pdf(grid).reshape(_GRID, _GRID)
        for key in (f"{n} {p}" for n in nets for p in phases)
    }
    for column, name in zip(axes.T, nets, strict=True):
        highest = max(float(np.quantile(densities[f"{name} {phase}"], 0.995)) for phase in phases)
        for ax, phase in zip(column, phases, strict=True):
            _box(ax, side_m)
            image = ax.imshow(
                densities[f"{name} {phase}"],
                origin="lower",
                extent=(-side_m / 2, side_m / 2, -side_m / 2, side_m / 2),
                vmin=0.0,
                vmax=highest,
                cmap="viridis",
            )
        column[0].set_title(title_of(name), fontsize=8)
        made.colorbar(image, ax=list(column), shrink=0.7, location="bottom", label="density (1/m²)")
    for ax, phase in zip(axes[:, 0], phases, strict=True):
        ax.set_ylabel(phase, fontsize=8)
    return made


def kl_matrix(table: pd.DataFrame) -> Figure:
    """KL in nats of quiescent (rows) to active positions (columns), as in Fig. 2e."""
    made, axes = figure(width=1.9 + 0.75 * table.shape[1], height=1.1 + 0.3 * len(table))
    ax = axes[0, 0]
    ax.grid(visible=False)
    image = ax.imshow(table, cmap="magma_r", vmin=0.0, vmax=10.0, aspect="auto")
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color="w" if value > 5 else "k")
    ax.set_xticks(range(table.shape[1]), [title_of(name).replace(", ", ",\n") for name in table.columns], fontsize=7)
    ax.set_yticks(range(len(table)), [title_of(name) for name in table.index], fontsize=7)
    ax.set(xlabel="active", ylabel="quiescent")
    made.colorbar(image, ax=ax, label="KL (nats)")
    return made


def exploration(
    late: Mapping[str, np.ndarray], quiescent: Mapping[str, np.ndarray], active: Mapping[str, np.ndarray]
) -> Figure:
    """Variance of the output (Fig. 2f) and mean step distance (Fig. C.4) of each trajectory, both in log scale.

    Args:
        late: net -> quiescent positions [T, B, 2] whose variance is measured.
        quiescent: net, or net with other noise -> positions whose steps are measured.
        active: net -> positions.
    """
    made, axes = figure(width=8.4, height=3.8, ncols=2, width_ratios=(1, 2))
    variances = {name: positions.var(axis=0, ddof=1).sum(axis=-1) for name, positions in late.items()}
    # Each network's active and quiescent steps beside each other, noisy networks first within a behaviour.
    steps = {f"{title_of(name)}\nactive": step_distances(positions).mean(axis=0) for name, positions in active.items()}
    steps |= {f"{title_of(name)}\nquiet": step_distances(paths).mean(axis=0) for name, paths in quiescent.items()}
    order = sorted(steps, key=lambda label: ("unbiased" not in label, "noiseless" in label, "+ noise" in label, label))
    _boxes(axes[0, 0], {title_of(name): values for name, values in variances.items()})
    _boxes(axes[0, 1], {label: steps[label] for label in order})
    axes[0, 0].set_ylabel("variance of a quiescent trajectory (m²)")
    axes[0, 1].set_ylabel("mean step (m)")
    return made


def principal_components(variances: pd.DataFrame, projections: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Cumulative variance (Fig. 1c) and projections of states on the first two active components (Fig. 1f-g)."""
    nets = list(projections)
    made, axes = figure(width=1.9 * len(nets) + 0.6, height=5.6, nrows=3, ncols=len(nets))
    for column, name in zip(axes.T, nets, strict=True):
        for phase, style in (("active", "-o"), ("quiescent", "--s")):
            color = COLORS[0 if phase == "active" else 1]
            column[0].plot(variances.index, variances[name, phase], style, color=color, markersize=3, label=phase)
        column[0].set(ylim=(0.0, 1.02), xlabel="components")
        column[0].set_title(title_of(name), fontsize=8)
        limits = _limits(projections[name]["active"])
        for ax, phase in zip(column[1:], ("active", "quiescent"), strict=True):
            counts, x, y = np.histogram2d(*_columns(projections[name][phase]), bins=40, range=[limits] * 2)
            ax.pcolormesh(x, y, counts.T, cmap="viridis", rasterized=True)
            ax.grid(visible=False)
            ax.set(xticks=[], yticks=[], aspect="equal")
    axes[0, 0].legend(fontsize=7, frameon=False, loc="lower right")
    for ax, label in zip(axes[:, 0], ("cumulative variance", "active PC 1, 2", "quiescent PC 1, 2"), strict=True):
        ax.set_ylabel(label, fontsize=8)
    return made


def head_direction(
    bearings: Mapping[str, Mapping[str, np.ndarray]], projections: Mapping[str, Mapping[str, np.ndarray]]
) -> Figure:
    """Bearings, states on the first two active components, and turns (Fig. 3, C.5); a row a behaviour.

    Args:
        bearings: behaviour -> phase -> [T, B] in rad.
        projections: behaviour -> phase -> [T, B, 2].
    """
    made, axes = figure(width=8.4, height=2.3 * len(bearings) + 0.3, nrows=len(bearings), ncols=4)
    for row, name in zip(axes, bearings, strict=True):
        for number, phase in enumerate(("active", "quiescent")):
            angles = bearings[name][phase]
            style = {"histtype": "step", "color": COLORS[number], "label": phase, "density": True}
            row[0].hist(angles.ravel(), bins=36, range=(-np.pi, np.pi), **style)
            row[3].hist(angular_steps(angles).ravel(), bins=61, range=(-1.0, 1.0), **style)
            points = projections[name][phase].reshape(-1, 2)
            colors = angles.ravel()
            shown = np.linspace(0, len(points) - 1, min(len(points), 3000)).astype(int)
            row[1 + number].scatter(
                *points[shown].T, c=colors[shown], cmap="twilight", s=1, linewidths=0, rasterized=True
            )
            limits = _limits(projections[name]["active"])
            row[1 + number].set(title=f"{phase}, PC 1 and 2", xlim=limits, ylim=limits, aspect="equal")
            row[1 + number].title.set_fontsize(8)
        row[0].set(xlabel="decoded bearing (rad)", ylabel=f"{name}\ndensity")
        row[3].set(xlabel="turn (rad a step)", yscale="log", ylim=(1e-3, None))
        row[0].set_ylim(0.0, None)
    axes[0, 0].legend(fontsize=7, frameon=False, loc="lower center")
    return made


def mixing(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], *, floor: float = 0.01) -> Figure:
    """KL to the own active distribution against time, from one common start; name -> (middle of window, nats)."""
    made, axes = figure(width=5.6, height=3.2)
    ax = axes[0, 0]
    for number, (name, (steps, nats)) in enumerate(curves.items()):
        style = {"color": COLORS[number % len(COLORS)], "linestyle": "-" if "nt" in name else "--", "marker": "o"}
        ax.plot(steps, np.maximum(nats, floor), label=title_of(name), **style)
    ax.set(yscale="log", xlabel="steps since the common start", ylabel="KL(quiescent, active) (nats)")
    ax.legend(fontsize=7, frameon=False)
    return made


def displacement(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Mean squared displacement against the lag, both in log scale; name -> (lags, m²)."""
    made, axes = figure(width=5.0, height=3.2)
    ax = axes[0, 0]
    for number, (name, (lags, squares)) in enumerate(curves.items()):
        style = {"color": COLORS[number % len(COLORS)], "linestyle": "-" if "nt" in name else "--", "marker": "o"}
        kept = squares > 0
        ax.loglog(lags[kept], squares[kept], label=title_of(name), **style)
    ax.set(xlabel="lag (steps)", ylabel="mean squared displacement (m²)")
    ax.legend(fontsize=7, frameon=False)
    return made


def langevin(centers: np.ndarray, densities: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> Figure:
    """Histograms of the dynamics for each variance factor, with p^(2/c) as a line; keys "c = 2", ..."""
    made, axes = figure(width=2.4 * len(densities), height=2.5, ncols=len(densities), sharey=True)
    for ax, (name, density) in zip(axes[0], densities.items(), strict=True):
        ax.bar(centers, density, width=np.diff(centers).mean(), color=COLORS[4], label="sampled")
        ax.plot(centers, expected[name], color=COLORS[1], label="p^(2/c)")
        ax.plot(centers, expected["c = 2"], color="0.3", linestyle=":", label="p")
        ax.set_title(name, fontsize=9)
        ax.set_xlabel("r")
    axes[0, 0].set_ylabel("density")
    axes[0, -1].legend(fontsize=7, frameon=False)
    return made


def vector_fields(fields: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Figure:
    """Quiescent drift and score of the active states in the plane of the first two components, a column a network.

    Args:
        fields: name -> (states [n, 2], drift [n, 2], sigma^2 grad log p [n, 2]); arrows have the same scale in a panel.
    """
    made, axes = figure(width=2.5 * len(fields) + 0.4, height=5.0, nrows=2, ncols=len(fields))
    for column, (name, (states, drift, score)) in zip(axes.T, fields.items(), strict=True):
        for ax, arrows, label in zip(column, (drift, score), ("drift F(r) - r", "σ² score"), strict=True):
            ax.scatter(*states.T, s=2, color="0.8", linewidths=0)
            ax.quiver(*states.T, *arrows.T, color=COLORS[0], angles="xy", width=0.004)
            ax.set(xticks=[], yticks=[])
            if ax is column[0]:
                ax.set_title(title_of(name), fontsize=8)
            if ax in axes[:, 0]:
                ax.set_ylabel(label, fontsize=8)
    return made


def contraction(steps: Sequence[int], left: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """What is left of a perturbation against steps without input and noise, a panel a direction, both in log scale.

    Args:
        steps: at which it was measured.
        left: name -> direction ("isotropic" or "along" the manifold) -> mean distance over the first one.
    """
    made, axes = figure(width=7.2, height=3.0, ncols=2, sharey=True)
    for ax, (kind, label) in zip(
        axes[0], {"isotropic": "any direction", "along": "along the manifold"}.items(), strict=True
    ):
        for number, (name, ratios) in enumerate(left.items()):
            style = {"color": COLORS[number % len(COLORS)], "linestyle": "-" if "nt" in name else "--", "marker": "o"}
            ax.loglog(steps, ratios[kind], label=title_of(name), **style)
        ax.set(xlabel="steps", title=label)
    axes[0, 0].set_ylabel("distance, relative to the first")
    axes[0, 0].legend(fontsize=7, frameon=False)
    return made


def temperatures(table: pd.DataFrame) -> Figure:
    """KL of quiescent positions to p (line) and to p^(2/c) (dashes) against c; index c, columns (net, reference)."""
    made, axes = figure(width=5.0, height=3.0)
    ax = axes[0, 0]
    for number, name in enumerate(dict.fromkeys(table.columns.get_level_values(0))):
        for reference, style in (("p", "-o"), ("p^(2/c)", "--s")):
            ax.plot(
                table.index, table[name, reference], style, color=COLORS[number], label=f"{title_of(name)}: {reference}"
            )
    ax.set_xscale("log", base=2)
    ax.set(xlabel="variance factor c", ylabel="KL of quiescent positions (nats)", ylim=(0.0, None))
    ax.legend(fontsize=7, frameon=False)
    return made


def replay(table: pd.DataFrame) -> Figure:
    """Speed over waking, share of the box that a trajectory visits, and KL, by kind of dynamics; index dynamics."""
    columns = {
        "speed_ratio": "step over waking step",
        "occupied": "share of the box visited",
        "kl": "KL to active (nats)",
    }
    made, axes = figure(width=8.4, height=0.9 + 0.3 * len(table), ncols=len(columns), sharey=True)
    y = np.arange(len(table))
    for ax, (column, label) in zip(axes[0], columns.items(), strict=True):
        ax.barh(y, table[column], color=COLORS[0], height=0.6)
        ax.set_xlabel(label)
        if column == "speed_ratio":
            ax.axvline(1.0, color="0.3", linewidth=0.8)
    axes[0, 0].set_yticks(y, [str(name).replace("_", " ") for name in table.index])
    axes[0, 0].invert_yaxis()
    return made


def ratios(values: Mapping[str, np.ndarray], *, thresholds: Mapping[str, float]) -> Figure:
    """Speed-ups with their 95 % intervals, and a mark at what is claimed."""
    made, axes = figure(width=6.4, height=0.9 + 0.4 * len(values))
    ax = axes[0, 0]
    for y, (name, repeats) in enumerate(values.items()):
        low, high = mean_interval(repeats) or (np.nan, np.nan)
        mean = float(np.mean(repeats))
        ax.errorbar(mean, y, xerr=[[mean - low], [high - mean]], fmt="o", capsize=3, color=COLORS[0])
        if name in thresholds:
            ax.plot(thresholds[name], y, "|", color=COLORS[1], markersize=14, markeredgewidth=2)
    ax.set_yticks(range(len(values)), [name.replace("_", " ") for name in values])
    ax.set(ylim=(-0.5, len(values) - 0.5), xlabel="times as fast; bar: what is claimed", xlim=(0.0, None))
    return made


def _box(ax: Axes, side_m: float) -> None:
    half = side_m / 2
    ax.plot([-half, half, half, -half, -half], [-half, -half, half, half, -half], color="0.3", linewidth=0.8)
    ax.grid(visible=False)
    ax.set(xticks=[], yticks=[], aspect="equal", xlim=(-1.08 * half, 1.08 * half), ylim=(-1.08 * half, 1.08 * half))
    ax.spines[:].set_visible(False)


def _boxes(ax: Axes, values: Mapping[str, np.ndarray]) -> None:
    ax.boxplot([np.maximum(each, 1e-7) for each in values.values()], widths=0.6, flierprops={"markersize": 2})
    ax.set_yscale("log")
    ax.set_xticks(range(1, len(values) + 1), list(values), fontsize=7, rotation=45, ha="right")


def _density(decoded_TB2: np.ndarray) -> KernelDensity:
    """The density of 3,000 positions of the pool, with the bandwidth factor of all of it."""
    points = decoded_TB2.reshape(-1, 2)
    shown = thinned(points, 3000, rng=np.random.default_rng(0))
    return KernelDensity(shown, factor=scott_factor(len(points), 2))


def _columns(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return points[..., 0].ravel(), points[..., 1].ravel()


def _limits(points: np.ndarray) -> tuple[float, float]:
    largest = 1.25 * float(np.quantile(np.abs(points), 0.999))
    return -largest, largest
