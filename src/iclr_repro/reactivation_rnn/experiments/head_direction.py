"""Head direction: the ring of bearings, active and quiescent (E10, E11)."""

from __future__ import annotations

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
    angular_steps,
    bearing_kl,
    cumulative_variance,
    output_variance,
    reach,
    smooth_share,
)
from iclr_repro.reactivation_rnn.cells import BearingCode, HeadDirectionCells
from iclr_repro.reactivation_rnn.experiments._networks import (
    Trained,
    compiles,
    decoding_error,
    described,
    seeded,
    trained_network,
)
from iclr_repro.reactivation_rnn.networks import NoiseLaw, NoisyRNN
from iclr_repro.reactivation_rnn.quiescence import Recording, active_run, quiescent_run
from iclr_repro.reactivation_rnn.training import Schedule
from iclr_repro.reactivation_rnn.trajectories import Trajectories, simulate_head_direction

_LEAK = 0.5  # dt / tau, table A.2
_RING_STEPS = 200  # first quiescent steps, of the radius
_LONGEST, _LAG = 1.0, 10  # rad, of a turn that is no leap: over four standard deviations; steps of `reach` (C17)
_LEAST_BEARINGS = 360
_BIASED = {"unbiased": False, "counter_clockwise": True}


@dataclass(frozen=True, kw_only=True)
class HeadDirection:
    """Whether bearings, the ring of states and the sense of rotation are kept in quiescence (C11 to C13)."""

    behaviours: tuple[str, ...] = parameter("to train on", choices=list(_BIASED))
    num_units: int = parameter("N", low=2)
    num_cells: int = parameter("P, head-direction cells", low=3)
    batch_size: int = parameter("B, trajectories of an update", low=1)
    num_steps: int = parameter("T of a trajectory", low=2)
    updates: int = parameter("of a training", low=1)
    eval_every: int = parameter("updates between tests during a training (100: paper)", low=1)
    learning_rate: float = parameter("of Adam; the largest of one_cycle", low=0.0)
    schedule: Schedule = parameter("of the learning rate: constant (paper) or one_cycle")
    sigma_step: float = parameter("noise of a step, sigma sqrt(dt)", low=0.0)
    noise_law: NoiseLaw = parameter("gaussian (paper) or uniform_official (the authors' code)")
    bearing_code: BearingCode = parameter("peak (the authors' code) or density (Eq. 21)")
    trajectories: int = parameter("of the test set, and of a quiescent run", low=4)
    histogram_steps: int = parameter("of the quiescent run whose bearings are counted", low=2 * (_LAG + 2))
    turn_steps: int = parameter("of the quiescent run whose turns are measured (Fig. C.5)", low=_LAG + 2)
    active_turn_steps: int = parameter("first steps of the active run whose turns are measured", low=_LAG + 2)

    def __post_init__(self) -> None:
        """Refuse turns beyond the run, and too few bearings for a histogram."""
        if self.active_turn_steps > self.num_steps:
            raise ValueError(
                f"active_turn_steps: got {self.active_turn_steps}, expected at most num_steps, {self.num_steps}"
            )
        if (bearings := self.trajectories * self.num_steps) < _LEAST_BEARINGS:
            raise ValueError(
                f"trajectories: {self.trajectories} of {self.num_steps} steps are {bearings} bearings, "
                f"expected at least {_LEAST_BEARINGS}: ten a bin of the histogram"
            )

    def run(self, run: Run) -> Result:
        """Train a noisy network a behaviour and look at it without input."""
        found = Measurements()
        cells = HeadDirectionCells(self.num_cells, code=self.bearing_code).to(run.device)
        curves = {}
        bearings: dict[str, dict[str, np.ndarray]] = {}
        projections: dict[str, dict[str, np.ndarray]] = {}
        for name in self.behaviours:
            test = self._draw(run, f"test/{name}", name, self.trajectories)
            net = self._trained(run, name, cells, test)
            curves[name] = net.curve
            active, quiescent = self._recorded(run, name, net, test)
            assert active.loss is not None
            awake, resting = active.decoded[..., 0], quiescent.decoded[..., 0]
            found.add(f"{name}/loss", active.loss)
            found.add(f"{name}/error", decoding_error(active.decoded, test.targets))
            found.add(f"{name}/bearing_kl", bearing_kl(resting[: self.histogram_steps], awake))
            found.add(f"{name}/variance_official", output_variance(resting[: self.histogram_steps, :, None]))
            projections[name] = _ring(found, name, active, quiescent)
            common = self._from_common_start(run, name, net, test)
            found.add(f"{name}/bearing_kl_common_start", bearing_kl(common, awake))
            _turns(found, f"{name}/{{}}_active", awake[: self.active_turn_steps])
            _turns(found, f"{name}/{{}}_quiescent", resting[: self.turn_steps])
            _turns(found, f"{name}/{{}}_common_start", common)
            bearings[name] = {"active": awake, "quiescent": resting[:_RING_STEPS]}
        found.add("n", self.trajectories)
        table = pd.DataFrame({name: curve[2] for name, curve in curves.items()}, index=curves[name][0].astype(int))
        return found.result(
            tables={"error": table.rename_axis(index="updates")},
            figures={"head_direction": figures.head_direction(bearings, projections)},
        )

    def networks(self) -> Iterator[Network]:
        """Describe a network for each behaviour."""
        for name in self.behaviours:
            yield described(name, self._network, self.num_steps, self.batch_size)

    def _network(self, *, compiled: bool = False) -> NoisyRNN:
        return NoisyRNN(
            1,
            self.num_units,
            self.num_cells,
            leak=_LEAK,
            sigma_step=self.sigma_step,
            noise_law=self.noise_law,
            compiled=compiled,
        )

    def _trained(self, run: Run, name: str, cells: HeadDirectionCells, test: Trajectories) -> Trained:
        """Train a noisy network on a behaviour."""
        with seeded(run):
            network = self._network(compiled=compiles(run.device)).to(run.device)
        return trained_network(
            run,
            name,
            network,
            cells,
            lambda num: self._draw(run, f"train/{name}", name, num),
            test,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            schedule=self.schedule,
            updates=self.updates,
            eval_every=self.eval_every,
            recipe=None,
        )

    def _recorded(self, run: Run, name: str, net: Trained, test: Trajectories) -> tuple[Recording, Recording]:
        """Follow the test trajectories, and run without input for the longer of the analyses; both with states."""
        active = active_run(net.network, net.cells, test, generator=run.torch_rng(f"active/{name}"), keep_hidden=True)
        quiescent = quiescent_run(
            net.network,
            net.cells,
            test.start,
            max(self.histogram_steps, self.turn_steps),
            generator=run.torch_rng(f"quiescent/{name}"),
            keep_hidden=True,
        )
        return active, quiescent

    def _from_common_start(self, run: Run, name: str, net: Trained, test: Trajectories) -> np.ndarray:
        """Return the bearings [T, B] of the second half of a quiescent run in which all start at bearing 0."""
        recording = quiescent_run(
            net.network,
            net.cells,
            np.zeros_like(test.start),
            self.histogram_steps,
            generator=run.torch_rng(f"common/{name}"),
        )
        return recording.decoded[self.histogram_steps // 2 :, :, 0]

    def _draw(self, run: Run, stream: str, name: str, num: int) -> Trajectories:
        return simulate_head_direction(num, self.num_steps, rng=run.rng(stream), biased=_BIASED[name])


def _ring(found: Measurements, name: str, active: Recording, quiescent: Recording) -> dict[str, np.ndarray]:
    """Measure the radius of the ring of states in the active principal components; return phase -> projections."""
    assert active.hidden is not None
    assert quiescent.hidden is not None
    components = PrincipalComponents.fit(active.hidden)
    found.add(f"{name}/variance_of_2_pcs", float(cumulative_variance(active.hidden, num_components=2)[-1]))
    states = {"active": active.hidden, "quiescent": quiescent.hidden[:_RING_STEPS]}
    projections = {phase: components.project(hidden) for phase, hidden in states.items()}
    for phase, projected in projections.items():
        radii = np.linalg.norm(projected, axis=-1)
        found.add(f"{name}/radius_{phase}", float(radii.mean()))
        found.add(f"{name}/radius_cv_{phase}", float(radii.std() / radii.mean()))
    return projections


def _turns(found: Measurements, key: str, bearings_TB: np.ndarray) -> None:
    """Measure length, smoothness, reach and sense of the turns; `key` has a gap for the name of each."""
    turns = angular_steps(bearings_TB)
    far = np.abs(angular_steps(bearings_TB, lag=_LAG))
    found.add(key.format("turn_length"), float(np.abs(turns).mean()))
    found.add(key.format("smooth_share"), smooth_share(np.abs(turns), longest=_LONGEST))
    found.add(key.format("reach"), reach(np.abs(turns), far))
    found.add(key.format("turn_mean"), float(turns.mean()))
    found.add(key.format("turn_std"), float(turns.std()))
