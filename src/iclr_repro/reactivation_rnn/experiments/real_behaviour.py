"""A third behaviour: whether quiescence reproduces where a real rat was (sheet 10.5; not in the paper)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from iclr_repro.core.data import DATA_CHOICE, DataChoice, real_or_synthetic
from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.footprint import Network
from iclr_repro.core.measurements import Measurements
from iclr_repro.core.rundir import Run
from iclr_repro.reactivation_rnn import figures
from iclr_repro.reactivation_rnn.analysis import step_distances
from iclr_repro.reactivation_rnn.cells import PlaceCells
from iclr_repro.reactivation_rnn.data import Path2D, load_sargolini, synthetic_path
from iclr_repro.reactivation_rnn.density import kl_divergence, kl_from_uniform, scott_factor
from iclr_repro.reactivation_rnn.experiments._networks import OfNavigation, decoding_error
from iclr_repro.reactivation_rnn.experiments.spatial import SIDE_M, density_of
from iclr_repro.reactivation_rnn.quiescence import active_run, quiescent_run
from iclr_repro.reactivation_rnn.trajectories import Trajectories

_PATH_POINTS = 6000  # of the recording, and of a path in place of it
_STARTS = ("test", "uniform", "centre")
_BLOCK_WINDOWS, _EVERY = 5, 5  # every fifth block of the path, five windows long, is for tests: no point is in both


@dataclass(frozen=True, kw_only=True)
class RealBehaviour(OfNavigation):
    """Train on windows of a rat's path; quiescent runs start where tests do, uniformly, or all at the centre."""

    data: DataChoice = parameter(DATA_CHOICE)
    nets: tuple[str, ...] = parameter("networks to train", choices=["nt_real", "dt_real"])
    replay_steps: int = parameter("of a quiescent run; its second half is compared", low=10)
    kde_points: int = parameter("of a pool that a density is estimated from", low=10)
    kl_samples: int = parameter("of a KL estimate", low=10)

    def __post_init__(self) -> None:
        """Refuse windows of which a path does not hold enough."""
        longest = _PATH_POINTS // (_BLOCK_WINDOWS * _EVERY) - 1
        if self.num_steps > longest:
            raise ValueError(
                f"num_steps: got {self.num_steps}, expected at most {longest}: every {_EVERY}th block of "
                f"{_BLOCK_WINDOWS} windows is for tests, and a path has about {_PATH_POINTS} points"
            )

    def run(self, run: Run) -> Result:
        """Train on four fifths of the path, test on the rest, compare quiescent positions with the active ones."""
        found = Measurements()
        path, kind = real_or_synthetic(
            self.data, load_sargolini, lambda: synthetic_path(_PATH_POINTS, rng=run.rng("path"))
        )
        cells = self.cells(run)
        training, testing = self._split(path)
        test = path.windows(self.trajectories, self.num_steps, rng=run.rng("test"), starts=testing)
        simulated = self.tests(run, "u", self.trajectories)
        uniform = run.rng("starts").uniform(-SIDE_M / 2, SIDE_M / 2, size=test.start.shape)
        starts = dict(zip(_STARTS, (test.start, uniform, np.zeros_like(uniform)), strict=True))
        read = _read(cells, run.rng("uniform").uniform(-SIDE_M / 2, SIDE_M / 2, size=test.targets.shape))
        rng = run.rng("kl")
        decoded = {}
        for name in self.nets:

            def draw(num: int, name: str = name) -> Trajectories:
                return path.windows(num, self.num_steps, rng=run.rng(f"train/{name}"), starts=training)

            net = self.trained(run, name, cells, test, draw)
            active = active_run(net.network, net.cells, test, generator=run.torch_rng(f"active/{name}")).decoded
            found.add(f"{name}/decoding_distance", decoding_error(active, test.targets))
            found.add(f"{name}/step_active", float(step_distances(active).mean()))
            p = density_of(active, num=self.kde_points, rng=rng)
            decoded[f"{name} active"] = active
            for start, positions in starts.items():
                recording = quiescent_run(
                    net.network,
                    net.cells,
                    positions,
                    self.replay_steps,
                    generator=run.torch_rng(f"quiescent/{name}/{start}"),
                ).decoded
                late = recording[self.replay_steps // 2 :]
                q = density_of(late, num=self.kde_points, rng=rng, num_pool=active.shape[0] * active.shape[1])
                found.add(f"{name}/kl/{start}", kl_divergence(q, p, rng=rng, num_samples=self.kl_samples))
                if start == "test":
                    found.add(f"{name}/step_quiescent", float(step_distances(recording[: self.num_steps]).mean()))
                if start == "uniform":
                    decoded[f"{name} quiescent"] = late
            found.add(f"{name}/kl/uniform_box", kl_from_uniform(p, side_m=SIDE_M, rng=rng, num_samples=self.kl_samples))
            q = density_of(read, num=self.kde_points, rng=rng, num_pool=active.shape[0] * active.shape[1])
            found.add(f"{name}/kl/uniform_read", kl_divergence(q, p, rng=rng, num_samples=self.kl_samples))
            q = density_of(simulated.targets, num=self.kde_points, rng=rng)
            found.add(f"{name}/kl/simulated", kl_divergence(q, p, rng=rng, num_samples=self.kl_samples))
        found.add("bandwidth_factor", scott_factor(test.targets.shape[0] * test.targets.shape[1], 2))
        found.add("n", self.trajectories)
        return found.result(
            figures={
                "rat": figures.occupancy_grid(decoded, nets=self.nets, side_m=SIDE_M),
                "trajectories": figures.trajectory_grid(
                    decoded, nets=self.nets, side_m=SIDE_M, num=12, num_steps=self.num_steps
                ),
            },
            data=kind,
        )

    def networks(self) -> Iterator[Network]:
        """Describe the networks."""
        return self.described(self.nets)

    def _split(self, path: Path2D) -> tuple[np.ndarray, np.ndarray]:
        """Starts of training and of test windows: those that lie in one block, every fifth block being for tests."""
        starts = path.window_starts(self.num_steps)
        block = _BLOCK_WINDOWS * (self.num_steps + 1)
        starts = starts[starts // block == (starts + self.num_steps) // block]
        testing = starts // block % _EVERY == _EVERY - 1
        return starts[~testing], starts[testing]


def _read(cells: PlaceCells, positions: np.ndarray) -> np.ndarray:
    """Positions as a perfect network would say them: through the place cells and the decoder."""
    code = cells.encode(torch.from_numpy(positions.astype(np.float32)).to(cells.centers.device))
    return cells.decode(code).cpu().numpy().astype(np.float64)
