"""Controls that the paper lacks, on the networks of `spatial`: a common start, the score, other dynamics (sheet 10)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.footprint import Network
from iclr_repro.core.measurements import Measurements
from iclr_repro.core.rundir import Run
from iclr_repro.reactivation_rnn import figures
from iclr_repro.reactivation_rnn.alignment import alignment, contraction, state_density
from iclr_repro.reactivation_rnn.analysis import (
    autocorrelation_time,
    diffusion_exponent,
    mean_squared_displacement,
    occupied_fraction,
    step_distances,
)
from iclr_repro.reactivation_rnn.density import KernelDensity, RaisedDensity, jittered, kl_divergence, thinned
from iclr_repro.reactivation_rnn.experiments._networks import KINDS, OfNavigation, Trained, check_nets
from iclr_repro.reactivation_rnn.experiments.spatial import JITTER_M, MOTION_LAG, SIDE_M, density_of, motion
from iclr_repro.reactivation_rnn.quiescence import active_run, quiescent_run
from iclr_repro.reactivation_rnn.replay import Replay, replay_run
from iclr_repro.reactivation_rnn.trajectories import Trajectories

_SHORTEST = 10  # steps of a run from a common start
_LAGS = [1, 2, 5, 10, 20, 50, 100, 200]
_COMMON_FACTOR = 20_000 ** (-1 / 6)  # bandwidth factor of both densities of C15


@dataclass(frozen=True, kw_only=True)
class _OfTrained(OfNavigation):
    """Experiments on trained vanilla networks."""

    nets: tuple[str, ...] = parameter("networks", choices=["nt_u", "dt_u", "nt_b", "dt_b"])
    kde_points: int = parameter("of a pool that a density is estimated from", low=10)
    kl_samples: int = parameter("of a KL estimate", low=10)

    def networks(self) -> Iterator[Network]:
        """Describe the networks."""
        return self.described(self.nets)

    def trained_networks(self, run: Run) -> tuple[dict[str, Trained], dict[str, Trajectories]]:
        """Return the trained networks, and the test trajectories of their behaviours."""
        cells = self.cells(run)
        tests = {
            behaviour: self.tests(run, behaviour, self.trajectories)
            for behaviour in dict.fromkeys(KINDS[name].behaviour for name in self.nets)
        }
        return {name: self.trained(run, name, cells, tests[KINDS[name].behaviour]) for name in self.nets}, tests


@dataclass(frozen=True, kw_only=True)
class CommonStart(_OfTrained):
    """Whether quiescence finds the waking distribution from one start: all runs begin at the centre (C15)."""

    windows: tuple[int, ...] = parameter("boundaries in steps of the windows whose density is compared", low=0)

    def __post_init__(self) -> None:
        """Refuse windows that are none, or a run that is too short to speak of motion."""
        if self.num_steps <= MOTION_LAG:
            raise ValueError(
                f"num_steps: got {self.num_steps}, expected more than the {MOTION_LAG} that motion is judged over"
            )
        if len(self.windows) < 2 or list(self.windows) != sorted(set(self.windows)):
            raise ValueError(f"windows: got {list(self.windows)}, expected at least two boundaries, ascending")
        if self.windows[-1] < _SHORTEST:
            raise ValueError(
                f"windows: got {list(self.windows)}, expected the last boundary at {_SHORTEST} steps or later"
            )

    def run(self, run: Run) -> Result:
        """Start all quiescent runs at the centre and compare each window of time with the own active distribution."""
        found = Measurements()
        nets, tests = self.trained_networks(run)
        rng = run.rng("kl")
        curves, displacements = {}, {}
        for name, net in nets.items():
            test = tests[KINDS[name].behaviour]
            active = active_run(net.network, net.cells, test, generator=run.torch_rng(f"active/{name}")).decoded
            p = self._density(active, rng)
            motion(found, f"{name}/{{}}_active", active)
            decoded = quiescent_run(
                net.network,
                net.cells,
                np.zeros_like(test.start),
                self.windows[-1],
                generator=run.torch_rng(f"quiescent/{name}"),
            ).decoded
            nats = []
            for first, last in zip(self.windows[:-1], self.windows[1:], strict=True):
                q = self._density(decoded[first:last], rng)
                nats.append(kl_divergence(q, p, rng=rng, num_samples=self.kl_samples))
                found.add(f"{name}/kl/steps_{first}_{last}", nats[-1])
                if last - first > MOTION_LAG:
                    motion(found, f"{name}/{{}}/steps_{first}_{last}", decoded[first:last])
            lags = [lag for lag in _LAGS if lag < len(decoded) // 2]
            displacements[name] = np.array(lags), mean_squared_displacement(decoded, lags)
            exponent = diffusion_exponent(decoded, lags)
            if np.isfinite(exponent):
                found.add(f"{name}/diffusion_exponent", exponent)
            found.add(f"{name}/autocorrelation_steps", autocorrelation_time(decoded[self.windows[-2] :]))
            middles = (np.array(self.windows[:-1]) + np.array(self.windows[1:])) / 2
            curves[name] = middles, np.array(nats)
        found.add("n", self.trajectories)
        table = pd.DataFrame({name: nats for name, (_, nats) in curves.items()}, index=list(self.windows[1:]))
        return found.result(
            tables={"mixing": table.rename_axis(index="until step")},
            figures={"mixing": figures.mixing(curves), "displacement": figures.displacement(displacements)},
        )

    def _density(self, pool_TB2: np.ndarray, rng: np.random.Generator) -> KernelDensity:
        points = thinned(pool_TB2.reshape(-1, 2), self.kde_points, rng=rng)
        return KernelDensity(jittered(points, std=JITTER_M, rng=rng), factor=_COMMON_FACTOR)


@dataclass(frozen=True, kw_only=True)
class ScoreAlignment(_OfTrained):
    """Whether the drift follows the score of the waking states, and what other temperatures do (10.1, 10.2)."""

    components: int = parameter("principal components in which the score is estimated", low=3)
    probes: int = parameter("states at which drift and score are compared", low=10)
    contraction_steps: tuple[int, ...] = parameter("after which the rest of a perturbation is measured", low=1)
    temperatures: tuple[float, ...] = parameter("variance factors c", low=0.01)
    temperature_steps: int = parameter("of a quiescent run", low=10)

    def __post_init__(self) -> None:
        """Refuse more components than units, and temperatures of networks without noise."""
        check_nets(self.nets)
        if self.components > self.num_units:
            raise ValueError(f"components: got {self.components}, expected at most num_units, {self.num_units}")

    def run(self, run: Run) -> Result:
        """Compare drifts with scores, perturb, run at several temperatures and compare with p^(2/c)."""
        found = Measurements()
        nets, tests = self.trained_networks(run)
        networks = {name: net.network for name, net in nets.items()}
        networks["untrained"] = self.untrained(run, next(iter(self.nets)))
        fields, left = {}, {}
        for name, network in networks.items():
            cells = next(iter(nets.values())).cells
            test = tests[KINDS[name].behaviour] if name in nets else next(iter(tests.values()))
            hidden = active_run(
                network, cells, test, generator=run.torch_rng(f"active/{name}"), keep_hidden=True
            ).hidden
            assert hidden is not None
            density = state_density(hidden, num_components=self.components, rng=run.rng(f"states/{name}"))
            found.add(f"{name}/kernel_width", density.width)
            measured = alignment(
                network, density, num=self.probes, sigma_step=self.sigma_step, rng=run.rng(f"probes/{name}")
            )
            for quantity, value in measured.metrics().items():
                found.add(f"{name}/{quantity}", value)
            fields[name] = measured.plane()
            left[name] = contraction(
                network,
                density,
                num=self.probes,
                length=math.sqrt(2 * self.num_units) * self.sigma_step,
                steps=self.contraction_steps,
                rng=run.rng(f"perturbations/{name}"),
            )
            for kind, ratios in left[name].items():
                for steps, ratio in zip(self.contraction_steps, ratios, strict=True):
                    found.add(f"{name}/contraction_{kind}/{steps}", float(ratio))
        table = self._temperatures(run, found, nets, tests)
        found.add("n", self.probes)
        return found.result(
            tables={"temperatures": table},
            figures={
                "vector_fields": figures.vector_fields(fields),
                "contraction": figures.contraction(self.contraction_steps, left),
                "temperatures": figures.temperatures(table),
            },
        )

    def _temperatures(
        self, run: Run, found: Measurements, nets: dict[str, Trained], tests: dict[str, Trajectories]
    ) -> pd.DataFrame:
        """KL of quiescent positions at each c to p and to p^(2/c), for networks trained with noise."""
        columns: dict[tuple[str, str], list[float]] = {}
        rng = run.rng("kl")
        for name, net in nets.items():
            if not KINDS[name].noisy:
                continue
            test = tests[KINDS[name].behaviour]
            active = active_run(net.network, net.cells, test, generator=run.torch_rng(f"pool/{name}")).decoded
            p = density_of(active, num=self.kde_points, rng=rng)
            for factor in self.temperatures:
                decoded = quiescent_run(
                    net.network,
                    net.cells,
                    test.start,
                    self.temperature_steps,
                    generator=run.torch_rng(f"temperature/{name}/{factor:g}"),
                    variance_factor=factor,
                ).decoded
                q = density_of(decoded, num=self.kde_points, rng=rng)
                references: dict[str, KernelDensity | RaisedDensity] = {
                    "p": p,
                    "p^(2/c)": RaisedDensity(p, 2 / factor, side_m=1.5 * SIDE_M),
                }
                for reference, density in references.items():
                    value = kl_divergence(q, density, rng=rng, num_samples=self.kl_samples)
                    columns.setdefault((name, reference), []).append(value)
                    found.add(f"{name}/kl_to_{'p' if reference == 'p' else 'p_raised'}/c{factor:g}", value)
        index = pd.Index(self.temperatures, name="c")
        return pd.DataFrame(columns, index=index)


@dataclass(frozen=True, kw_only=True)
class ReplayDynamics(_OfTrained):
    """Adaptation and momentum switched on in quiescence: ours, after a follow-up (arXiv 2602.18401; 10.3)."""

    dynamics: dict[str, dict[str, float]] = parameter(
        "name -> adaptation, adaptation_time, friction; {}: the base model"
    )
    replay_steps: int = parameter("of a quiescent run", low=10)

    def __post_init__(self) -> None:
        """Refuse dynamics that do not exist."""
        if not self.dynamics:
            raise ValueError("dynamics: got none, expected at least one, e.g. base: {}")
        for name, options in self.dynamics.items():
            try:
                Replay(**options)
            except TypeError as error:
                raise ValueError(f"dynamics.{name}: {error}; valid: adaptation, adaptation_time, friction") from error

    def run(self, run: Run) -> Result:
        """Run each network with each dynamics: speed relative to waking, exploration, match with waking."""
        found = Measurements()
        nets, tests = self.trained_networks(run)
        rng = run.rng("kl")
        rows = {}
        for name, net in nets.items():
            test = tests[KINDS[name].behaviour]
            active = active_run(net.network, net.cells, test, generator=run.torch_rng(f"active/{name}")).decoded
            p = density_of(active, num=self.kde_points, rng=rng)
            waking = float(step_distances(active).mean())
            for dynamics, options in self.dynamics.items():
                decoded = replay_run(
                    net.network,
                    net.cells,
                    test.start,
                    self.replay_steps,
                    dynamics=Replay(**options),
                    generator=run.torch_rng(f"replay/{name}/{dynamics}"),
                )
                steps = step_distances(decoded)
                row = {
                    "speed_ratio": float(steps.mean()) / waking,
                    "speed_ratio_median": float(np.median(steps)) / waking,
                    "path_length": float(steps.sum(axis=0).mean()),
                    "occupied": occupied_fraction(decoded, side_m=SIDE_M),
                    "kl": kl_divergence(
                        density_of(decoded, num=self.kde_points, rng=rng), p, rng=rng, num_samples=self.kl_samples
                    ),
                }
                rows[f"{name} {dynamics}"] = row
                for quantity, value in row.items():
                    found.add(f"{name}/{dynamics}/{quantity}", value)
        found.add("n", self.trajectories)
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(index="dynamics")
        return found.result(tables={"replay": table}, figures={"replay": figures.replay(table)})
