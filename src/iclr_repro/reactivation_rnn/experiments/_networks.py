"""What the experiments on navigation share: the fields of a training, and networks trained once for all of them."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from iclr_repro.core.checkpoint import load_checkpoints, save_checkpoint
from iclr_repro.core.experiment import parameter
from iclr_repro.core.files import sha256_of_json
from iclr_repro.core.footprint import Network as Described
from iclr_repro.core.footprint import example
from iclr_repro.core.provenance import source_digests
from iclr_repro.core.rundir import Run
from iclr_repro.reactivation_rnn.cells import Cells, PlaceCells, PlaceCode
from iclr_repro.reactivation_rnn.networks import Network, NoiseLaw, NoisyGRU, NoisyRNN
from iclr_repro.reactivation_rnn.quiescence import active_run
from iclr_repro.reactivation_rnn.training import PathIntegration, Schedule
from iclr_repro.reactivation_rnn.trajectories import (
    Arena,
    DriftLaw,
    StartRange,
    Trajectories,
    simulate_navigation,
    wrap_angle,
)

# What the weights of a trained network depend on, besides the core.
_TRAINING_SOURCES = (
    "cells",
    "data",
    "networks",
    "quiescence",
    "scan",
    "training",
    "trajectories",
    "experiments/_networks",
)
LEAK = 0.2  # dt / tau, table A.1


@dataclass(frozen=True)
class Kind:
    """A network by name: trained with noise (NT) or without (DT), on which behaviour, vanilla or gated."""

    noisy: bool
    behaviour: str
    gated: bool = False


KINDS = {
    "nt_u": Kind(True, "u"),
    "dt_u": Kind(False, "u"),
    "nt_b": Kind(True, "b"),
    "dt_b": Kind(False, "b"),
    "gru_u": Kind(True, "u", gated=True),
    "gru_b": Kind(True, "b", gated=True),
    "nt_real": Kind(True, "real"),
    "dt_real": Kind(False, "real"),
}


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network, its target code, and its test loss during training: updates, loss, decoding distance in m."""

    network: Network
    cells: Cells
    curve: np.ndarray


@dataclass(frozen=True, kw_only=True)
class OfNavigation:
    """The fields of a training on navigation (table A.1; sizes and optimiser as the sheet's scales say)."""

    num_units: int = parameter("N", low=2)
    num_cells: int = parameter("P, place cells", low=3)
    batch_size: int = parameter("B, trajectories of an update", low=1)
    num_steps: int = parameter("T of a training trajectory", low=2)
    updates: int = parameter("of a training", low=1)
    eval_every: int = parameter("updates between tests during a training (100: paper)", low=1)
    learning_rate: float = parameter("of Adam; the largest of one_cycle", low=0.0)
    schedule: Schedule = parameter("of the learning rate: constant (paper) or one_cycle")
    sigma_step: float = parameter("noise of a step of noisy training, sigma sqrt(dt)", low=0.0)
    noise_law: NoiseLaw = parameter("gaussian (paper) or uniform_official (the authors' code)")
    bias: bool = parameter("a trainable bias inside the ReLU (false: paper)")
    place_code: PlaceCode = parameter("softmax (the authors' code) or gaussian (Eq. 20)")
    drift: float = parameter("of the biased behaviour", low=0.0)
    drift_law: DriftLaw = parameter("per_step (the authors' code) or per_second")
    start_range: StartRange = parameter("box (the authors' code) or double (as printed)")
    speed_scale: float = parameter("of the Rayleigh distribution of speed; printed as 0.2", unit="m/s", low=0.0)
    trajectories: int = parameter("of the test set, and of a quiescent run", low=4)

    def arena(self, behaviour: str) -> Arena:
        """Return the box of a behaviour: "u" unbiased, "b" biased towards the centre."""
        return Arena(
            drift=self.drift if behaviour == "b" else 0.0,
            drift_law=self.drift_law,
            start_range=self.start_range,
            speed_scale=self.speed_scale,
        )

    def cells(self, run: Run) -> PlaceCells:
        """Return the seed's place cells; call it once a run."""
        cells = PlaceCells.uniform(self.num_cells, rng=run.rng("cells"), code=self.place_code)
        return cells.to(run.device)

    def tests(self, run: Run, behaviour: str, num: int) -> Trajectories:
        """Return the seed's test trajectories of a behaviour; call it once a run and behaviour.

        The first `trajectories` are the same whatever `num` is, so that all experiments test networks on the same ones;
        those beyond them are draws of their own.
        """
        first, beyond = (
            simulate_navigation(max(1, many), self.num_steps, rng=run.rng(stream), arena=self.arena(behaviour))
            for stream, many in (
                (f"test/{behaviour}", self.trajectories),
                (f"test/{behaviour}/beyond", num - self.trajectories),
            )
        )
        if num == self.trajectories:
            return first
        return Trajectories(
            np.concatenate([first.start, beyond.start])[:num],
            np.concatenate([first.inputs, beyond.inputs], axis=1)[:, :num],
            np.concatenate([first.targets, beyond.targets], axis=1)[:, :num],
        )

    def untrained(self, run: Run, name: str) -> Network:
        """Return a network as it is before training; all of one architecture and seed start from the same weights."""
        with seeded(run):
            return self.network(name, compiled=compiles(run.device)).to(run.device)

    def network(self, name: str, *, compiled: bool = False) -> Network:
        """Return a network whose weights are drawn from torch's global generator."""
        kind = KINDS[name]
        options: dict[str, Any] = {
            "leak": LEAK,
            "sigma_step": self.sigma_step if kind.noisy else 0.0,
            "noise_law": self.noise_law,
        }
        if kind.gated:
            return NoisyGRU(2, self.num_units, self.num_cells, **options)
        return NoisyRNN(2, self.num_units, self.num_cells, bias=self.bias, compiled=compiled, **options)

    def described(self, nets: Iterable[str]) -> Iterator[Described]:
        """Describe networks by name in their training."""
        for name in nets:
            yield described(name, partial(self.network, name), self.num_steps, self.batch_size)

    def trained(
        self,
        run: Run,
        name: str,
        cells: PlaceCells,
        test: Trajectories,
        draw: Callable[[int], Trajectories] | None = None,
    ) -> Trained:
        """Return the trained network of a kind, as stage `name` of the run or as another experiment has trained it.

        Args:
            run: what it belongs to.
            name: one of `KINDS`.
            cells: of the seed.
            test: what the loss is followed on during training, with the network's noise.
            draw: returns training trajectories; None: those of the behaviour of the kind.
        """
        network = self.untrained(run, name)

        def simulated(num: int) -> Trajectories:
            behaviour = KINDS[name].behaviour
            rng = run.rng(f"train/{name}")
            return simulate_navigation(num, self.num_steps, rng=rng, arena=self.arena(behaviour))

        recipe = {f.name: getattr(self, f.name) for f in dataclasses.fields(OfNavigation)}
        return trained_network(
            run,
            name,
            network,
            cells,
            draw or simulated,
            test,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            schedule=self.schedule,
            updates=self.updates,
            eval_every=self.eval_every,
            recipe=recipe if draw is None else None,
        )


def trained_network(
    run: Run,
    name: str,
    network: Network,
    cells: Cells,
    draw: Callable[[int], Trajectories],
    test: Trajectories,
    *,
    batch_size: int,
    learning_rate: float,
    schedule: Schedule,
    updates: int,
    eval_every: int,
    recipe: dict[str, Any] | None,
) -> Trained:
    """Train a network, or take it from the folder of trained networks of this `runs_dir`, where that has it.

    Several experiments look at the same networks. What is kept is found by its recipe, seed, device, versions of numpy,
    torch and the code that trains, so that a network from there is the one that training would give, bit for bit, and
    its test losses are those that this training would have measured. Without a recipe nothing is kept, nor by a run
    without a folder for checkpoints (a test).
    """
    folder = None
    if recipe is not None and run.loop.checkpoints is not None:
        sources = {key: value for key, value in _sources().items() if key.startswith("core/") or _trains(key)}
        device = [run.device.type, torch.get_num_threads(), torch.__version__, np.__version__, compiles(run.device)]
        folder = run.dir.parents[3] / ".networks" / sha256_of_json([name, recipe, run.seed, device, sources])[:16]
        for _, state in load_checkpoints(folder, run.log) if folder.is_dir() else []:
            network.load_state_dict(state["network"])
            run.log.info("%s: trained before, by another experiment", name)
            return Trained(network, cells, state["curve"])
    learner = PathIntegration(
        network,
        cells,
        draw,
        batch_size=batch_size,
        learning_rate=learning_rate,
        schedule=schedule,
        steps=updates,
        generator=noise_generator(run, f"noise/{name}"),
    )

    def evaluate() -> dict[str, float]:
        found = active_run(network, cells, test, generator=run.torch_rng(f"evaluation/{name}"))
        assert found.loss is not None
        return {"test_loss": found.loss, "error": decoding_error(found.decoded, test.targets)}

    history = run.fit(learner, updates, name=name, evaluate=evaluate, eval_every=eval_every, log_every=20)
    kinds = ("test_loss", "error")
    curve = np.array(
        [history.steps(kinds[0], kind="evaluate"), *(history.values(each, kind="evaluate") for each in kinds)]
    )
    if folder is not None:
        save_checkpoint(folder, updates, {"network": dict(network.state_dict()), "curve": curve})
    return Trained(network, cells, curve)


def described(name: str, build: Callable[[], Network], num_steps: int, batch_size: int) -> Described:
    """Describe a network in its training."""
    with torch.device("meta"):
        shapes = build()
    inputs = {
        "inputs_TBI": example(num_steps, batch_size, shapes.num_inputs),
        "start_code_BP": example(batch_size, shapes.num_cells),
        "unit_noise_TBN": example(num_steps, batch_size, shapes.num_units),
    }
    return Described(name=name, build=build, inputs=inputs)


def noise_generator(run: Run, name: str) -> torch.Generator:
    """Return a generator of the noise of training that draws where the run computes; on a CPU the stream itself."""
    stream = run.torch_rng(name)
    if run.device.type == "cpu":
        return stream
    return torch.Generator(run.device).manual_seed(stream.initial_seed())


def check_nets(nets: Sequence[str]) -> None:
    """Refuse names of `KINDS` none of which is trained with noise.

    Raises:
        ValueError: there is none.
    """
    if not any(KINDS[name].noisy for name in nets):
        raise ValueError(f"nets: got {list(nets)}, expected one that is trained with noise, e.g. nt_u")


def decoding_error(decoded: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean distance of decoded and true values over steps and trajectories; of bearings, the short way."""
    off = decoded - targets
    if off.shape[-1] == 1:
        return float(np.abs(wrap_angle(off)).mean())
    return float(np.linalg.norm(off, axis=-1).mean())


def compiles(device: torch.device) -> bool:
    """Return whether vanilla networks are trained by a compiled scan there: on a GPU with Triton."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


@contextmanager
def seeded(run: Run) -> Iterator[None]:
    """Let torch's global generator, which first weights are drawn from, start from the seed's own stream."""
    stream = torch.Generator().manual_seed(run.torch_rng("initialisation").initial_seed())
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**62, (), generator=stream)))
        yield


def _sources() -> dict[str, str]:
    package = __name__.rsplit(".", 2)[0]
    return source_digests(package, f"{package.rpartition('.')[0]}.core")


def _trains(key: str) -> bool:
    return any(key.endswith(f"/{name}.py") for name in _TRAINING_SOURCES)
