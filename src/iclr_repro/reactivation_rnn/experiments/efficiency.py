"""How fast the vectorised code is beside the straightforward one, in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.footprint import Network
from iclr_repro.core.measurements import Measurements
from iclr_repro.core.rundir import Run
from iclr_repro.core.timing import time_in_turn
from iclr_repro.reactivation_rnn import figures
from iclr_repro.reactivation_rnn.baselines import plain_training_step, scipy_pdf
from iclr_repro.reactivation_rnn.cells import PlaceCells
from iclr_repro.reactivation_rnn.density import KernelDensity
from iclr_repro.reactivation_rnn.experiments._networks import compiles, described, noise_generator, seeded
from iclr_repro.reactivation_rnn.networks import NoisyRNN
from iclr_repro.reactivation_rnn.training import PathIntegration
from iclr_repro.reactivation_rnn.trajectories import simulate_navigation

_LEARNING_RATE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Training step, trajectories and KL against a plain loop, per-trajectory draws and scipy (ours)."""

    uses_seeds: ClassVar[bool] = False

    sizes: tuple[tuple[int, int, int], ...] = parameter("N, P and B of a training step")
    num_steps: int = parameter("T of a trajectory", low=2)
    batch: int = parameter("trajectories of one call of the generator", low=1)
    kde: tuple[int, int] = parameter("data points and points of evaluation of a KL", low=10)
    repeats: int = parameter("timings after the warm-up", low=2)

    def __post_init__(self) -> None:
        """Refuse sizes of nothing."""
        if bad := [list(size) for size in self.sizes if min(size) < 3]:
            raise ValueError(f"sizes: got {bad}, expected N, P and B >= 3")

    def run(self, run: Run) -> Result:
        """Time each pair in turn; a ratio a repeat."""
        found = Measurements()
        speedups = {}
        for size in self.sizes:
            name = "step/n{}_p{}_b{}".format(*size)
            seconds = time_in_turn(*self._training_steps(run, *size), repeats=self.repeats, device=run.device)
            speedups[name] = seconds[1] / seconds[0]
            found.add(f"{name}/speedup", speedups[name])
            found.add(f"{name}/speedup_over_lean_loop", seconds[2] / seconds[0])
            found.add(f"{name}/steps_per_s", 1 / seconds[0])
            if compiles(run.device):
                found.add(f"{name}/steps_per_s_compiled", 1 / seconds[3])
        walking = time_in_turn(
            lambda: simulate_navigation(self.batch, self.num_steps, rng=run.rng("walk")), repeats=self.repeats
        )[0]
        found.add("generator/agent_steps_per_s", self.batch * self.num_steps / walking)
        speedups["kl"] = self._kl(run, found)
        found.add("n", self.repeats)
        thresholds = {name: 5.0 if name == "kl" else 2.5 for name in speedups}
        return found.result(figures={"speedups": figures.ratios(speedups, thresholds=thresholds)})

    def networks(self) -> Iterator[Network]:
        """Describe a network for each size."""
        for num_units, num_cells, batch_size in self.sizes:
            name = f"n{num_units}_p{num_cells}_b{batch_size}"
            yield described(name, partial(NoisyRNN, 2, num_units, num_cells), self.num_steps, batch_size)

    def _training_steps(
        self, run: Run, num_units: int, num_cells: int, batch_size: int
    ) -> tuple[Callable[[], object], ...]:
        """One update of ours, of a loop in the authors' style, of a lean loop, each with fresh trajectories.

        On a GPU also one of ours with the compiled scan.
        """
        rng = run.rng("train")
        generator = noise_generator(run, "noise")  # as in every training; the loops have the same
        cells = PlaceCells.uniform(num_cells, rng=rng).to(run.device)
        with seeded(run):
            networks = [NoisyRNN(2, num_units, num_cells).to(run.device) for _ in range(3)]
            compiled = [NoisyRNN(2, num_units, num_cells, compiled=True).to(run.device)] * compiles(run.device)

        def ours(network: NoisyRNN) -> Callable[[], object]:
            return PathIntegration(
                network,
                cells,
                lambda num: simulate_navigation(num, self.num_steps, rng=rng),
                batch_size=batch_size,
                learning_rate=_LEARNING_RATE,
                schedule="constant",
                steps=1,
                generator=generator,
                batches_a_draw=1,  # so that every step timed pays for its own
            ).step

        def plain(network: NoisyRNN, *, official_style: bool) -> Callable[[], float]:
            optimizer = torch.optim.Adam(network.parameters(), lr=_LEARNING_RATE)

            def step() -> float:
                trajectories = simulate_navigation(batch_size, self.num_steps, rng=rng)
                return plain_training_step(
                    network, cells, optimizer, trajectories, generator, official_style=official_style
                )

            return step

        loops = [plain(networks[1], official_style=True), plain(networks[2], official_style=False)]
        return ours(networks[0]), *loops, *map(ours, compiled)

    def _kl(self, run: Run, found: Measurements) -> np.ndarray:
        """Both densities of a KL at the points of evaluation."""
        num_points, num_at = self.kde
        rng = run.rng("kde")
        q, p = rng.uniform(-1.0, 1.0, size=(num_points, 2)), rng.normal(0.0, 0.5, size=(num_points, 2))
        at = rng.uniform(-1.0, 1.0, size=(num_at, 2))
        seconds = time_in_turn(
            lambda: [KernelDensity(points).pdf(at, single=True) for points in (q, p)],
            lambda: [scipy_pdf(points, at) for points in (q, p)],
            repeats=self.repeats,
        )
        found.add("kl/speedup", seconds[1] / seconds[0])
        off = [
            np.abs(KernelDensity(points).pdf(at, single=True) / scipy_pdf(points, at) - 1).max() for points in (q, p)
        ]
        found.add_exact("kl/difference", float(max(off)))
        return np.asarray(seconds[1] / seconds[0])
