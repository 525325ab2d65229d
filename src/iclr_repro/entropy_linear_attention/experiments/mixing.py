"""E7: a synthetic task that no forecaster solves without mixing the nodes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch.utils.data import TensorDataset

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.footprint import Network, example
from iclr_repro.core.rundir import Run
from iclr_repro.core.seeding import RandomStreams
from iclr_repro.entropy_linear_attention import figures
from iclr_repro.entropy_linear_attention._choices import check_clip_norm, check_heads, check_listed
from iclr_repro.entropy_linear_attention.experiments.attainment import attainment_metrics
from iclr_repro.entropy_linear_attention.mechanisms import MECHANISMS
from iclr_repro.entropy_linear_attention.mixing import ClusterTask, MixingModel
from iclr_repro.entropy_linear_attention.training import initialised, mean_squared_error, squared_error_learner

_OBSERVED = 16  # test samples on which attainment is measured


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Test error of each attention after a long and a short training on hidden clusters; every sample is used once.

    Each metric has a value for each training: clusters, weights and samples are drawn anew. Short trainings vary
    more, so that there may be more of them.
    """

    uses_seeds = False  # the trainings are its seeds

    num_nodes: int = parameter("nodes", low=2, high=100_000)
    num_clusters: int = parameter("hidden clusters; a divisor of the nodes", low=1, high=10_000)
    long_trainings: int = parameter("independent long trainings of each attention", low=1, high=1_000)
    long_steps: int = parameter("updates of a long training", low=1, high=1_000_000)
    long: tuple[str, ...] = parameter("attentions trained long", choices=list(MECHANISMS))
    short_trainings: int = parameter("independent short trainings of each attention", low=1, high=1_000)
    short_steps: int = parameter("updates of a short training", low=1, high=1_000_000)
    short: tuple[str, ...] = parameter("attentions trained short", choices=list(MECHANISMS))
    dim: int = parameter("model dimension", low=2, high=4_096)
    num_heads: int = parameter("heads; a divisor of the dimension", low=1, high=64)
    ffn_dim: int = parameter("hidden units of a block", low=1, high=16_384)
    num_layers: int = parameter("blocks", low=1, high=64)
    batch_size: int = parameter("samples of an update", low=1, high=65_536)
    learning_rate: float = parameter("largest learning rate of the cycle", low=0.0, high=1.0)
    clip_norm: float = parameter("largest norm of the gradient", low=0.0)
    test_samples: int = parameter("fresh samples for the test", low=1, high=1_000_000)

    def __post_init__(self) -> None:
        """Refuse nodes or dimensions that do not divide, no attention, and a norm of 0."""
        for option, names in (("long", self.long), ("short", self.short)):
            check_listed(option, names)
        if self.num_nodes % self.num_clusters:
            raise ValueError(
                f"num_clusters is {self.num_clusters}, expected a divisor of num_nodes ="
                f" {self.num_nodes}: change either"
            )
        check_heads(self.num_heads, self.dim)
        check_clip_norm(self.clip_norm, optional=False)

    def run(self, run: Run) -> Result:
        """Train all attentions from equal weights on equal samples, and test them on equal samples."""
        seeds = run.rng("trainings").integers(2**31, size=max(self.long_trainings, self.short_trainings))
        measured = [self.measured(run, number, int(seed)) for number, seed in enumerate(seeds)]
        names = dict.fromkeys(name for metrics, _ in measured for name in metrics)
        metrics: dict[str, float | np.ndarray] = {
            name: np.array([metrics[name] for metrics, _ in measured if name in metrics]) for name in names
        }
        task = self.task(RandomStreams(int(seeds[0])))  # every draw of the clusters has the same least errors
        reachable = {"cluster_mean": task.cluster_mean_error, "best": task.best_error, "lonely": task.lonely_error}
        metrics |= {f"{name}/mse": value for name, value in reachable.items()}
        metrics["test/n"] = float(self.test_samples)
        curves = figures.mixing_curves(measured[0][1], best=task.best_error, lonely=task.lonely_error)
        return Result(metrics=metrics, figures={"learning": curves}, data="none")

    def networks(self) -> Iterator[Network]:
        """Describe the model with each attention."""
        for name in dict.fromkeys((*self.long, *self.short)):
            inputs = {"x": example(self.batch_size, self.num_nodes)}
            yield Network(name=name, build=self.builder(name, torch.Generator()), inputs=inputs)

    def builder(self, name: str, generator: torch.Generator) -> Callable[[], MixingModel]:
        """What makes the model with one attention."""
        return functools.partial(
            MixingModel,
            self.num_nodes,
            name,
            dim=self.dim,
            num_heads=self.num_heads,
            ffn_dim=self.ffn_dim,
            num_layers=self.num_layers,
            generator=generator,
        )

    def task(self, streams: RandomStreams) -> ClusterTask:
        """The task with clusters drawn anew."""
        return ClusterTask.balanced(self.num_nodes, self.num_clusters, rng=streams.numpy("clusters"))

    def measured(self, run: Run, number: int, seed: int) -> tuple[dict[str, float], dict[tuple[int, str], pd.Series]]:
        """Metrics and learning curves (steps, attention) of training number `number`, all of it drawn from `seed`."""
        streams = RandomStreams(seed)
        task = self.task(streams)
        test = TensorDataset(*task.sample(self.test_samples, generator=streams.torch("test")))
        metrics: dict[str, float] = {}
        curves = {}
        trainings = {
            "long": (self.long_trainings, self.long_steps, self.long),
            "short": (self.short_trainings, self.short_steps, self.short),
        }
        for training, (repeats, steps, names) in trainings.items():
            if number >= repeats:
                continue
            drawn = task.sample(steps * self.batch_size, generator=streams.torch(f"train/{training}"))
            samples = TensorDataset(*drawn)
            for name in names:
                build = self.builder(name, streams.torch(f"features/{training}/{name}"))
                model = initialised(build, seed=seed)
                learner = squared_error_learner(
                    model,
                    samples,
                    batch_size=self.batch_size,
                    steps=steps,
                    learning_rate=self.learning_rate,
                    clip_norm=self.clip_norm,
                    seed=seed,
                    device=run.device,
                )
                history = run.fit(learner, steps, name=f"{training}_{name}_{number}", log_every=10)
                metrics[f"{training}/{name}/mse"] = mean_squared_error(learner, test)
                metrics |= attainment_metrics(
                    model,
                    test.tensors[0][:_OBSERVED].to(run.device),
                    generator=streams.torch(f"attainment/{training}/{name}"),
                    prefix=f"{training}/{name}",
                )
                curves[steps, name] = pd.Series(history.values("loss"), index=history.steps("loss"))
        return metrics, curves
