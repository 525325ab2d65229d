"""Position estimation: four networks, trained with or without noise on unbiased or biased behaviour (E1 to E9)."""

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
from iclr_repro.reactivation_rnn.analysis import (
    PrincipalComponents,
    cumulative_variance,
    jump_fraction,
    output_variance,
    reach,
    smooth_share,
    step_distances,
)
from iclr_repro.reactivation_rnn.density import (
    KernelDensity,
    jittered,
    kl_divergence,
    kl_from_uniform,
    scott_factor,
    thinned,
)
from iclr_repro.reactivation_rnn.experiments._networks import (
    KINDS,
    OfNavigation,
    Trained,
    check_nets,
    decoding_error,
)
from iclr_repro.reactivation_rnn.quiescence import Recording, active_run, quiescent_run
from iclr_repro.reactivation_rnn.trajectories import Trajectories

SIDE_M = 2.2
JITTER_M = 1e-4  # where a network stands still (sheet 2.6)
_STEP_STEPS = 100  # of the step distances (Fig. C.4)
LONGEST_M, MOTION_LAG = 0.2, 10  # of a step that is no jump; in steps, of `reach` (C16)
_RING_ACTIVE, _RING_QUIESCENT = 100, slice(500, 1000)  # active steps, of which the second half, and quiescent (C4, C16)
_SHOWN = 12  # trajectories in a figure
_COMPONENTS = 10


@dataclass(frozen=True, kw_only=True)
class Spatial(OfNavigation):
    """Whether quiescent networks revisit what they saw while active, and what noise in training has to do with it."""

    nets: tuple[str, ...] = parameter("networks to train", choices=[name for name in KINDS if "real" not in name])
    kl_steps: int = parameter("of a quiescent run whose density is compared", low=10)
    variance_steps: int = parameter("of a quiescent run whose variance is measured", low=10)
    variance_dropped: int = parameter("first steps of it that do not count", low=0)
    variance_trajectories: int = parameter("of the variance", low=2)
    pca_trajectories: int = parameter("of the principal components", low=2)
    pca_steps: int = parameter("of a quiescent run for the principal components", low=2)
    kde_points: int | None = parameter("of a pool that a density is estimated from; null: all", low=10)
    kl_samples: int = parameter("of a KL estimate", low=10)

    def __post_init__(self) -> None:
        """Refuse a run that is too short for what is measured on it, and one without a noisy network."""
        check_nets(self.nets)  # the untrained control has its noise
        if self.variance_steps < max(self.kl_steps, self.variance_dropped + 2):
            raise ValueError(
                f"variance_steps: got {self.variance_steps}, expected at least kl_steps, {self.kl_steps}, "
                f"and more than variance_dropped, {self.variance_dropped}"
            )
        if self.num_steps <= MOTION_LAG:
            raise ValueError(
                f"num_steps: got {self.num_steps}, expected more than the {MOTION_LAG} that motion is judged over"
            )

    def run(self, run: Run) -> Result:
        """Train, run with and without input, measure."""
        found = Measurements()
        cells = self.cells(run)
        num = max(self.trajectories, self.variance_trajectories, self.pca_trajectories)
        tests = {name: self.tests(run, name, num) for name in dict.fromkeys(KINDS[net].behaviour for net in self.nets)}
        nets = {
            name: self.trained(run, name, cells, _first(tests[KINDS[name].behaviour], self.trajectories))
            for name in self.nets
        }
        active = {name: self._active(run, found, name, net, tests[KINDS[name].behaviour]) for name, net in nets.items()}
        quiescent = {
            name: self._quiescent(run, found, name, net, tests[KINDS[name].behaviour]) for name, net in nets.items()
        }
        starts = next(iter(tests.values())).start[: self.trajectories]
        resting = quiescent_run(
            self.untrained(run, next(name for name in self.nets if KINDS[name].noisy)),
            cells,
            starts,
            self.kl_steps,
            generator=run.torch_rng("quiescent/untrained"),
        ).decoded
        pools = {name: recording.decoded[: self.kl_steps, : self.trajectories] for name, recording in quiescent.items()}
        pools["untrained"] = resting
        found.add("untrained/step_quiescent", float(step_distances(resting[:_STEP_STEPS]).mean()))
        for name, net in nets.items():
            pools |= self._with_other_noise(run, found, name, net, tests[KINDS[name].behaviour])
        matrix = self._divergences(run, found, pools, {name: recording.decoded for name, recording in active.items()})
        self._ring(found, active, quiescent)
        profiles = self._principal_components(run, found, nets, tests)
        found.add("n", self.trajectories)
        curves = {name: net.curve for name, net in nets.items()}
        decoded = {
            **{f"{name} active": recording.decoded for name, recording in active.items()},
            **{f"{name} quiescent": pools[name] for name in nets},
        }
        noisy_pools = {name: pool for name, pool in pools.items() if name.endswith("_noise")}
        return found.result(
            tables={"kl": matrix, "cumulative_variance": profiles.variances},
            figures={
                "learning": figures.learning_curves(curves),
                "trajectories": figures.trajectory_grid(
                    decoded | {f"{name.removesuffix('_noise')} + noise": pool for name, pool in noisy_pools.items()},
                    nets=self.nets,
                    side_m=SIDE_M,
                    num=_SHOWN,
                    num_steps=_STEP_STEPS,
                ),
                "occupancy": figures.occupancy_grid(decoded, nets=self.nets, side_m=SIDE_M),
                "kl_matrix": figures.kl_matrix(matrix),
                "exploration": figures.exploration(
                    {name: quiescent[name].decoded[self.variance_dropped :] for name in nets},
                    {**{name: pools[name][:_STEP_STEPS] for name in nets},
                     **{name: pool[:_STEP_STEPS] for name, pool in noisy_pools.items()}},
                    {name: recording.decoded for name, recording in active.items()},
                ),
                "principal_components": figures.principal_components(profiles.variances, profiles.projections),
            },
        )  # fmt: skip

    def networks(self) -> Iterator[Network]:
        """Describe the networks."""
        return self.described(self.nets)

    def _active(self, run: Run, found: Measurements, name: str, net: Trained, test: Trajectories) -> Recording:
        """Follow the test trajectories: loss, decoding, step distance."""
        test = _first(test, self.trajectories)
        recording = active_run(net.network, net.cells, test, generator=run.torch_rng(f"active/{name}"))
        assert recording.loss is not None
        found.add(f"{name}/loss", recording.loss)
        found.add(f"{name}/pos_mse", float(np.square(recording.decoded - test.targets).mean()))
        found.add(f"{name}/decoding_distance", decoding_error(recording.decoded, test.targets))
        found.add(f"{name}/decoding_distance_weighted", decoding_error(recording.weighted, test.targets))
        found.add(f"{name}/step_active", float(step_distances(recording.decoded).mean()))
        found.add(f"{name}/peak_active", float(recording.peak.mean()))
        motion(found, f"{name}/{{}}_active", recording.decoded)
        if not KINDS[name].noisy:
            noisy = active_run(
                net.network,
                net.cells,
                test,
                generator=run.torch_rng(f"active_noise/{name}"),
                sigma_step=self.sigma_step,
            )
            found.add(f"{name}_noise/decoding_distance", decoding_error(noisy.decoded, test.targets))
        return recording

    def _quiescent(self, run: Run, found: Measurements, name: str, net: Trained, test: Trajectories) -> Recording:
        """Run without input for the longest of the analyses: step distance, variance, jumps, height of the bump."""
        num = max(self.trajectories, self.variance_trajectories)
        recording = quiescent_run(
            net.network,
            net.cells,
            test.start[:num],
            self.variance_steps,
            generator=run.torch_rng(f"quiescent/{name}"),
            variance_factor=own_factor(name),
        )
        early = recording.decoded[:_STEP_STEPS, : self.trajectories]
        late = recording.decoded[self.variance_dropped :, : self.variance_trajectories]
        found.add(f"{name}/step_quiescent", float(step_distances(early).mean()))
        found.add(f"{name}/step_quiescent_median", float(np.median(step_distances(early))))
        found.add(f"{name}/jump_fraction", jump_fraction(early, longer_than=LONGEST_M))
        found.add(f"{name}/jump_fraction_late", jump_fraction(late, longer_than=LONGEST_M))
        motion(found, f"{name}/{{}}_quiescent", early)
        motion(found, f"{name}/{{}}_late", late)
        if self.variance_steps >= _RING_QUIESCENT.stop:
            motion(found, f"{name}/{{}}_settled", recording.decoded[_RING_QUIESCENT, : self.trajectories])
        found.add(f"{name}/variance", output_variance(late))
        found.add(f"{name}/variance_weighted", output_variance(recording.weighted[self.variance_dropped :]))
        found.add(f"{name}/peak_quiescent", float(recording.peak[:_STEP_STEPS].mean()))
        found.add(f"{name}/peak_quiescent_late", float(recording.peak[self.variance_dropped :].mean()))
        return recording

    def _with_other_noise(
        self, run: Run, found: Measurements, name: str, net: Trained, test: Trajectories
    ) -> dict[str, np.ndarray]:
        """Run a noisy network without doubling, or a noiseless one with quiescent noise; return the positions."""
        if KINDS[name].gated:
            return {}
        other = f"{name}_c1" if KINDS[name].noisy else f"{name}_noise"
        decoded = quiescent_run(
            net.network,
            net.cells,
            test.start[: self.trajectories],
            self.kl_steps,
            generator=run.torch_rng(f"quiescent/{other}"),
            variance_factor=1.0 if KINDS[name].noisy else 2.0,
            sigma_step=self.sigma_step,
        ).decoded
        found.add(f"{other}/step_quiescent", float(step_distances(decoded[:_STEP_STEPS]).mean()))
        found.add(f"{other}/step_quiescent_median", float(np.median(step_distances(decoded[:_STEP_STEPS]))))
        found.add(f"{other}/jump_fraction", jump_fraction(decoded[:_STEP_STEPS], longer_than=LONGEST_M))
        return {other: decoded}

    def _divergences(
        self, run: Run, found: Measurements, quiescent: dict[str, np.ndarray], active: dict[str, np.ndarray]
    ) -> pd.DataFrame:
        """KL of every quiescent pool, and of the uniform distribution, to every active one."""
        rng = run.rng("kl")
        columns = {name: self._density(pool, rng) for name, pool in active.items()}
        rows = {name: self._density(pool, rng) for name, pool in quiescent.items()}
        table = pd.DataFrame(index=[*rows, "uniform"], columns=list(columns), dtype=float).rename_axis(
            index="quiescent"
        )
        for column, p in columns.items():
            for row, q in rows.items():
                value = kl_divergence(q, p, rng=rng, num_samples=self.kl_samples)
                found.add(f"kl/{row}/{column}", value)
                table.loc[row, column] = value
            for official, key in ((False, "kl"), (True, "kl_official")):
                value = kl_from_uniform(p, side_m=SIDE_M, rng=rng, num_samples=self.kl_samples, official=official)
                found.add(f"{key}/uniform/{column}", value)
            table.loc["uniform", column] = found.metrics[f"kl/uniform/{column}"]
            for other, p_other in columns.items():
                if other != column:
                    value = kl_divergence(p_other, p, rng=rng, num_samples=self.kl_samples)
                    found.add(f"kl_active/{other}/{column}", value)
        return table

    def _density(self, pool_TB2: np.ndarray, rng: np.random.Generator) -> KernelDensity:
        return density_of(pool_TB2, num=self.kde_points, rng=rng)

    def _ring(self, found: Measurements, active: dict[str, Recording], quiescent: dict[str, Recording]) -> None:
        """Median distance from the centre: active steps 50-100 (or the second half of fewer), quiescent 500-1000."""
        for name in self.nets:
            stop = min(self.num_steps, _RING_ACTIVE)
            settled = active[name].decoded[stop // 2 : stop]
            found.add(f"{name}/radius_active", float(np.median(np.linalg.norm(settled, axis=-1))))
            if self.variance_steps >= _RING_QUIESCENT.stop:
                late = quiescent[name].decoded[_RING_QUIESCENT, : self.trajectories]
                found.add(f"{name}/radius_quiescent", float(np.median(np.linalg.norm(late, axis=-1))))

    def _principal_components(
        self, run: Run, found: Measurements, nets: dict[str, Trained], tests: dict[str, Trajectories]
    ) -> Profiles:
        """Cumulative variance of states, each phase in its own components; projections on the active ones."""
        columns, projections = {}, {}
        for name, net in nets.items():
            test = _first(tests[KINDS[name].behaviour], self.pca_trajectories)
            generator = run.torch_rng(f"pca/{name}")
            active = active_run(net.network, net.cells, test, generator=generator, keep_hidden=True).hidden
            quiescent = quiescent_run(
                net.network,
                net.cells,
                test.start,
                self.pca_steps,
                generator=generator,
                variance_factor=own_factor(name),
                keep_hidden=True,
            ).hidden
            assert active is not None
            assert quiescent is not None
            shares = [cumulative_variance(states, num_components=_COMPONENTS) for states in (active, quiescent)]
            columns[name, "active"], columns[name, "quiescent"] = shares
            for phase, share in zip(("active", "quiescent"), shares, strict=True):
                found.add(f"{name}/variance_of_2_pcs/{phase}", float(share[1]))
            found.add(f"{name}/pca_difference", float(np.abs(shares[0] - shares[1]).max()))
            components = PrincipalComponents.fit(active)
            projections[name] = {"active": components.project(active), "quiescent": components.project(quiescent)}
        table = pd.DataFrame(columns, index=pd.Index(range(1, len(shares[0]) + 1), name="components"))
        table.columns.names = ["net", "phase"]
        return Profiles(table, projections)


@dataclass(frozen=True, eq=False)
class Profiles:
    """Cumulative variance by number of components, and projections on the first two: net -> phase -> [T, B, 2]."""

    variances: pd.DataFrame
    projections: dict[str, dict[str, np.ndarray]]


def motion(found: Measurements, name: str, decoded_TB2: np.ndarray) -> None:
    """Measure how positions move, by walking or by jumps, and how far in ten steps, as `name.format(quantity)`."""
    steps = step_distances(decoded_TB2)
    found.add(name.format("smooth_share"), smooth_share(steps, longest=LONGEST_M))
    found.add(name.format("reach"), reach(steps, step_distances(decoded_TB2, lag=MOTION_LAG)))


def own_factor(name: str) -> float:
    """Return the variance factor of a network's own quiescence: 2, but 1 for GRUs (suppl. C.2)."""
    return 1.0 if KINDS[name].gated else 2.0


def density_of(
    pool_TB2: np.ndarray, *, num: int | None, rng: np.random.Generator, num_pool: int | None = None
) -> KernelDensity:
    """Return the density of all positions of a pool, from `num` of them but with the bandwidth factor of all.

    A pool that stands still is jittered by 0.1 mm, since its covariance is singular.

    Args:
        pool_TB2: positions.
        num: of points; None: all.
        rng: of the choice and the jitter.
        num_pool: whose bandwidth factor is taken; None: the pool's size.
    """
    points = pool_TB2.reshape(-1, 2)
    factor = scott_factor(num_pool or len(points), 2)
    if num is not None:
        points = thinned(points, num, rng=rng)
    if math.sqrt(np.linalg.eigvalsh(np.cov(points, rowvar=False))[0].clip(0.0)) < JITTER_M:
        points = jittered(points, std=JITTER_M, rng=rng)
    return KernelDensity(points, factor=factor)


def _first(trajectories: Trajectories, num: int) -> Trajectories:
    return Trajectories(trajectories.start[:num], trajectories.inputs[:, :num], trajectories.targets[:, :num])
