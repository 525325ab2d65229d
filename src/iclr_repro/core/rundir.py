"""Run: one experiment with one seed - its folder, random streams, loop and record.

runs/<paper>/<experiment>/<scale>/<key>/seed<k>/
config.yaml     the resolved parameters        run.json      status and provenance
metrics.jsonl   what was logged on the way     result.json   what came out; written last
checkpoints/  figures/  tables/  log.txt       traceback.txt where it failed
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iclr_repro.core import data
from iclr_repro.core.experiment import Result
from iclr_repro.core.files import write_atomically, write_json
from iclr_repro.core.loop import History, Learner, Loop
from iclr_repro.core.plotting import mark_generated, save_figure
from iclr_repro.core.seeding import RandomStreams


@dataclass(frozen=True, kw_only=True)
class Run:
    """What an experiment is given.

    Attributes:
        dir: the run's folder.
        seed: >= 0; draw from `rng(name)` or `torch_rng(name)` rather than from the seed itself.
        device: where to compute.
        scale: "smoke", "cpu", "paper" or a scale of the user's own.
        config: the experiment's resolved parameters.
        log: shown to the user and kept in log.txt; warnings also go into run.json.
        loop: the training loop; `fit` is its method.
        streams: the named random streams.
    """

    dir: Path
    seed: int
    device: torch.device
    scale: str
    config: Mapping[str, Any]
    log: logging.Logger
    loop: Loop
    streams: RandomStreams

    def rng(self, name: str) -> np.random.Generator:
        """Return the numpy stream `name`: it depends on the seed and the name only, and is saved in checkpoints."""
        return self.streams.numpy(name)

    def torch_rng(self, name: str) -> torch.Generator:
        """Return the torch stream `name` (a CPU generator); see `rng`."""
        return self.streams.torch(name)

    def locate(self, name: str) -> Path:
        """Return the path of a catalogued data file ("paper/file"); see `core.data.locate`."""
        return data.locate(name)

    def fit(
        self,
        learner: Learner,
        steps: int,
        *,
        name: str = "train",
        evaluate: Callable[[], Mapping[str, float]] | None = None,
        eval_every: int | None = None,
        eval_at: Collection[int] = (),
        checkpoint_every: int | None = None,
        log_every: int = 1,
        stop: Callable[[History], bool] | None = None,
    ) -> History:
        """Advance a learner by the one training loop; see `core.loop.Loop.fit`."""
        return self.loop.fit(
            learner,
            steps,
            name=name,
            evaluate=evaluate,
            eval_every=eval_every,
            eval_at=eval_at,
            checkpoint_every=checkpoint_every,
            log_every=log_every,
            stop=stop,
        )


def save_result(folder: Path, result: Result) -> None:
    """Write figures and tables, then result.json: where that exists, all of it does. Figures of generated data say so.

    Raises:
        ValueError: the result is not valid (see `Result.check`), or a name is no plain file name.
        OSError: the disk is full or not writable; there is no result.json then.
    """
    result.check()
    for name in (*result.figures, *result.tables):
        if Path(name).name != name:
            raise ValueError(f"{name!r} cannot name a figure or table: use a plain file name without an ending")
    for name, made in result.figures.items():
        if result.data == "synthetic":
            mark_generated(made)
        save_figure(made, folder / "figures", name)
    for name, table in result.tables.items():
        text = table.to_csv()
        write_atomically(folder / "tables" / f"{name}.csv", lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]
    write_json(
        folder / "result.json",
        {
            "metrics": {name: np.asarray(value, dtype=np.float64).tolist() for name, value in result.metrics.items()},
            "intervals": {name: [float(low), float(high)] for name, (low, high) in result.intervals.items()},
            "tables": sorted(result.tables),
            "figures": sorted(result.figures),
            "data": result.data,
        },
    )
