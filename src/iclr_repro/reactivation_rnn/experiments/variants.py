"""What each choice does that the paper and the authors' code leave open or disagree on (the ledger; not judged)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.footprint import Network
from iclr_repro.core.measurements import Measurements
from iclr_repro.core.rundir import Run
from iclr_repro.reactivation_rnn.analysis import jump_fraction, output_variance, step_distances
from iclr_repro.reactivation_rnn.cells import PlaceCells
from iclr_repro.reactivation_rnn.density import kl_divergence
from iclr_repro.reactivation_rnn.experiments._networks import (
    KINDS,
    OfNavigation,
    decoding_error,
    described,
    trained_network,
)
from iclr_repro.reactivation_rnn.experiments.spatial import LONGEST_M, density_of
from iclr_repro.reactivation_rnn.quiescence import active_run, quiescent_run
from iclr_repro.reactivation_rnn.trajectories import simulate_navigation

_EARLY = 100  # quiescent steps
# Name -> network, and what is changed; `default` and `biased` are what the others are compared with.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "default": ("nt_u", {}),
    "uniform_noise": ("nt_u", {"noise_law": "uniform_official"}),
    "bias": ("nt_u", {"bias": True}),
    "double_start": ("nt_u", {"start_range": "double"}),
    "printed_speed": ("nt_u", {"speed_scale": 0.2}),
    "gaussian_code": ("nt_u", {"place_code": "gaussian"}),
    "biased": ("nt_b", {}),
    "drift_per_second": ("nt_b", {"drift_law": "per_second"}),
}


@dataclass(frozen=True, kw_only=True)
class Variants(OfNavigation):
    """One noisy network for each switch of the ledger, tested on its own behaviour."""

    variants: tuple[str, ...] = parameter("switches, one at a time", choices=list(VARIANTS))
    replay_steps: int = parameter("of a quiescent run, whose second half is late", low=10)
    kde_points: int = parameter("of a pool that a density is estimated from", low=10)
    kl_samples: int = parameter("of a KL estimate", low=10)

    def run(self, run: Run) -> Result:
        """Train and measure decoding, and of quiescence the occupancy, the jumps and the late variance."""
        found = Measurements()
        centers = self.cells(run).centers
        rng = run.rng("kl")
        rows = {}
        for name in self.variants:
            kind, changes = VARIANTS[name]
            varied = replace(self, **changes)
            arena = varied.arena(KINDS[kind].behaviour)
            cells = PlaceCells(centers, code=varied.place_code)
            test = simulate_navigation(varied.trajectories, varied.num_steps, rng=run.rng(f"test/{name}"), arena=arena)
            network = varied.untrained(run, kind)
            trained_network(
                run,
                name,
                network,
                cells,
                lambda num, name=name, arena=arena: simulate_navigation(  # type: ignore[misc]
                    num, self.num_steps, rng=run.rng(f"train/{name}"), arena=arena
                ),
                test,
                batch_size=self.batch_size,
                learning_rate=self.learning_rate,
                schedule=self.schedule,
                updates=self.updates,
                eval_every=self.eval_every,
                recipe=None,
            )
            active = active_run(network, cells, test, generator=run.torch_rng(f"active/{name}")).decoded
            decoded = quiescent_run(
                network, cells, test.start, self.replay_steps, generator=run.torch_rng(f"quiescent/{name}")
            ).decoded
            late = decoded[self.replay_steps // 2 :]
            q, p = (density_of(pool, num=self.kde_points, rng=rng) for pool in (decoded, active))
            rows[name] = {
                "decoding_distance": decoding_error(active, test.targets),
                "step_active": float(step_distances(active).mean()),
                "step_quiescent": float(step_distances(decoded[:_EARLY]).mean()),
                "jump_fraction": jump_fraction(decoded[:_EARLY], longer_than=LONGEST_M),
                "jump_fraction_late": jump_fraction(late, longer_than=LONGEST_M),
                "variance_late": output_variance(late),
                "kl": kl_divergence(q, p, rng=rng, num_samples=self.kl_samples),
            }
            for quantity, value in rows[name].items():
                found.add(f"{name}/{quantity}", value)
        found.add("n", self.trajectories)
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(index="variant")
        return found.result(tables={"variants": table})

    def networks(self) -> Iterator[Network]:
        """Describe a network for each switch."""
        for name in self.variants:
            kind, changes = VARIANTS[name]
            varied = replace(self, **changes)
            yield described(name, partial(varied.network, kind), self.num_steps, self.batch_size)
