"""Forecasting traffic with each attention in the same host (E3, E5), without a network, and in a second host (E6)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import nn

from iclr_repro.core.data import DATA_CHOICE, DataChoice, real_or_synthetic
from iclr_repro.core.experiment import DataKind, Result, parameter
from iclr_repro.core.footprint import Network, example
from iclr_repro.core.loop import EarlyStopping
from iclr_repro.core.rundir import Run
from iclr_repro.entropy_linear_attention import figures
from iclr_repro.entropy_linear_attention._choices import check_clip_norm, check_heads, check_listed
from iclr_repro.entropy_linear_attention.conversion import (
    attention_layers,
    convert_attention,
    relative_attention_entropy,
)
from iclr_repro.entropy_linear_attention.data import FULL_SETS, LOADERS, NUM_NODES, load_full, load_pems08_tail
from iclr_repro.entropy_linear_attention.experiments._inspection import SOFTMAX, examples, softmax_of, softmax_scores
from iclr_repro.entropy_linear_attention.experiments.attainment import attainment_metrics
from iclr_repro.entropy_linear_attention.forecasters import anchor_errors, naive_errors
from iclr_repro.entropy_linear_attention.host import NONE, STID, ELinFormer, InvertedForecaster
from iclr_repro.entropy_linear_attention.mechanisms import MECHANISMS
from iclr_repro.entropy_linear_attention.memory import peak_memory
from iclr_repro.entropy_linear_attention.metrics import errors, errors_at, errors_by_horizon
from iclr_repro.entropy_linear_attention.series import ANCHORS, Series, Windows
from iclr_repro.entropy_linear_attention.synthetic import synthetic_traffic
from iclr_repro.entropy_linear_attention.training import (
    KeepBest,
    forecast_errors,
    forecast_learner,
    forecast_loss,
    initialised,
)

_STID = "stid"
_FINE_TUNING_RATE = 0.1  # of the largest learning rate; ours, chosen before any run
_DAYS, _NODES = 25, 170  # of generated traffic, as pems08_tail
_VARIATES = 64  # of the second host's
_SHOWN_HORIZONS = (3, 6, 12)


@dataclass(frozen=True, kw_only=True)
class _Trained:
    """What the experiments that train forecasters share: how they train."""

    data: DataChoice = parameter(DATA_CHOICE)
    steps: int = parameter("updates of each model", low=1, high=10_000_000)
    batch_size: int = parameter("windows of an update", low=1, high=4_096)
    learning_rate: float = parameter("of Adam; the largest of the cycle", low=0.0, high=1.0)
    weight_decay: float = parameter("of Adam", low=0.0, high=1.0)
    schedule: Literal["onecycle", "multistep", "constant"] = parameter("of the learning rate")
    milestones: tuple[int, ...] = parameter("where multistep divides by ten", unit="epochs", low=1, may_be_empty=True)
    clip_norm: float | None = parameter("largest norm of the gradient; null: any", low=0.0)
    loss: Literal["masked_mae", "huber"] = parameter("masked MAE, or the host's Huber loss with delta 1")
    anchor: str = parameter("what the network corrects", choices=ANCHORS)
    eval_every: int = parameter("updates between validations; the best weights are kept", low=1)
    patience: int | None = parameter("validations without improvement before training ends; null: never", low=1)
    validation_every: int = parameter("use each how many-th validation window", low=1, high=10_000)
    test_every: int = parameter("use each how many-th test window", low=1, high=10_000)

    def __post_init__(self) -> None:
        """Refuse milestones that the schedule does not use, or a schedule without them, and a norm of 0."""
        check_clip_norm(self.clip_norm, optional=True)
        if self.schedule == "multistep" and not self.milestones:
            raise ValueError(
                "milestones is empty, expected at least one epoch with schedule=multistep: name where the learning rate"
                " is divided, or choose schedule=onecycle"
            )
        if self.schedule != "multistep" and self.milestones:
            raise ValueError(
                f"milestones is {list(self.milestones)}, expected an empty list with schedule={self.schedule}, which"
                " has none: choose schedule=multistep, or milestones=[]"
            )

    def learner(self, run: Run, model: nn.Module, series: Series) -> KeepBest:
        """What trains and tests a model."""
        return forecast_learner(
            model,
            series,
            anchor=self.anchor,
            loss=self.loss,
            batch_size=self.batch_size,
            steps=self.steps,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            milestones=self.milestones,
            clip_norm=self.clip_norm,
            validation_every=self.validation_every,
            seed=run.seed,
            device=run.device,
        )

    def trained(self, run: Run, learner: KeepBest, *, stage: str) -> None:
        """Train, and give the model its best weights."""
        stop = (
            None
            if self.patience is None
            else EarlyStopping(metric="mae", patience=self.patience, higher_is_better=False)
        )
        run.fit(
            learner,
            self.steps,
            name=stage,
            evaluate=learner.evaluate,
            eval_every=self.eval_every,
            log_every=10,
            stop=stop,
        )
        learner.restore_best()

    def tested(self, learner: KeepBest, series: Series) -> np.ndarray:
        """Errors of a trained model on the test windows, [4, P]."""
        return forecast_errors(learner.learner, series, series.test[:: self.test_every], self.anchor)

    def described(self, name: str, build: Callable[[], nn.Module], num_nodes: int) -> Network:
        """Describe a model as it is trained."""
        return Network(name=name, build=build, inputs={"x": example(self.batch_size, Series.num_steps, num_nodes, 3)})


@dataclass(frozen=True, kw_only=True)
class Forecasting(_Trained):
    """E3 and E5: the host with each attention, equal budgets; forecasts without a network; what a conversion costs."""

    dataset: str = parameter("pems08_tail, or a full public set", choices=["pems08_tail", *FULL_SETS])
    data_dir: str | None = parameter("folder of the full public sets (see data.load_full)")
    num_nodes: int | None = parameter("use the first nodes only; null: all", low=3)
    attentions: tuple[str, ...] = parameter("of the spatial layers", choices=[*MECHANISMS, NONE, _STID])
    temporal_attention: Literal["same", "softmax"] = parameter("of the temporal layers")
    input_dim: int = parameter("features of the input embedding", low=1)
    tod_dim: int = parameter("features of the time-of-day embedding", low=1)
    dow_dim: int = parameter("features of the weekday embedding", low=1)
    adaptive_dim: int = parameter("features of the adaptive embedding", low=1)
    num_heads: int = parameter("heads; a divisor of the sum of the four", low=1)
    ffn_dim: int = parameter("hidden units of a layer", low=1)
    temporal_layers: int = parameter("layers over time", low=0)
    spatial_layers: int = parameter("layers over nodes", low=0)
    dropout: float = parameter("probability", low=0.0, high=0.9)
    fine_tune_steps: int = parameter("updates after converting the softmax model; 0: convert nothing", low=0)

    def __post_init__(self) -> None:
        """Refuse heads that do not divide the model dimension, no attention, and nothing to convert."""
        super().__post_init__()
        check_listed("attentions", self.attentions)
        dim = self.input_dim + self.tod_dim + self.dow_dim + self.adaptive_dim
        if dim % self.num_heads:
            raise ValueError(
                f"num_heads is {self.num_heads}, expected a divisor of the {dim} features of the embeddings"
            )
        if self.fine_tune_steps and softmax_of(self.attentions) is None:
            raise ValueError(
                f"fine_tune_steps is {self.fine_tune_steps}, but attentions {list(self.attentions)} has no softmax to"
                f" convert: add one of {', '.join(SOFTMAX)}, or set fine_tune_steps=0"
            )

    def run(self, run: Run) -> Result:
        """Train every model from equal weights in the same order of windows, and test it."""
        series, kind = self.load(run)
        models = {name: self.model(run, name, series) for name in self.attentions}
        starts = series.test[:: self.test_every]
        sums = naive_errors(series, starts)
        sums["anchor"] = anchor_errors(series, starts, self.anchor)
        costs, learners = {}, {}
        for name, model in models.items():
            learners[name] = self.learner(run, model, series)
            self.trained(run, learners[name], stage=name)
            sums[name] = self.tested(learners[name], series)
            costs[name] = self.costs(run, name, model, series)
            run.log.info("%s: test MAE %.3f", name, errors(sums[name])["mae"])
        metrics = {"test/n": float(len(starts)), "train/n": float(len(series.train)), "nodes": float(series.num_nodes)}
        for name, of_model in sums.items():
            found = errors_at(of_model, _SHOWN_HORIZONS) | costs.get(name, {})
            metrics |= {f"{name}/{quantity}": value for quantity, value in found.items()}
        shown: dict[str, Any] = {}
        x, _, _ = (
            part[None].to(run.device) for part in Windows(series, series.test, self.anchor)[len(series.test) // 2]
        )
        table = pd.DataFrame({name: errors(one) for name, one in sums.items()}).T
        for name, model in models.items():
            if name in (NONE, _STID):
                continue
            of_layer = relative_attention_entropy(model, x, generator=run.torch_rng(f"entropy/{name}"))
            metrics |= {f"{name}/relative_entropy/{layer}": value for layer, value in of_layer.items()}
            if spatial := [value for layer, value in of_layer.items() if layer.startswith("spatial")]:
                table.loc[name, "relative_entropy"] = float(np.mean(spatial))
            metrics |= attainment_metrics(model, x, generator=run.torch_rng(f"attainment/{name}"), prefix=name)
        tables = {"errors": table}
        if (softmax := softmax_of(self.attentions)) is not None:
            reports, means = softmax_scores(run, models[softmax], x)
            tables |= reports
            metrics |= means
            shown["attention_entropy_report"] = figures.entropy_report(reports["attention_entropy"])
            if self.fine_tune_steps:
                metrics |= self.conversions(run, models[softmax], series)
        truth, predicted = examples(learners, series, self.anchor)
        shown |= {
            "error_by_horizon": figures.error_by_horizon({name: errors_by_horizon(one) for name, one in sums.items()}),
            "forecasts": figures.forecasts(truth, predicted),
        }
        return Result(metrics=metrics, tables=tables, figures=shown, data=kind)

    def load(self, run: Run) -> tuple[Series, DataKind]:
        """The series, or generated traffic in its place, with as many nodes as asked for."""
        if self.dataset == "pems08_tail":
            real: Callable[[], Series] = load_pems08_tail
        elif self.data_dir is None and self.data != "synthetic":
            raise ValueError(
                f"dataset {self.dataset} needs data_dir, the folder with {self.dataset}.npz (see the lab note)"
            )
        else:
            real = functools.partial(load_full, self.dataset, Path(self.data_dir or ""))
        nodes = self.num_nodes or _NODES
        series, kind = real_or_synthetic(self.data, real, lambda: synthetic_traffic(nodes, _DAYS, rng=run.rng("data")))
        return series if self.num_nodes is None else series.first_nodes(self.num_nodes), kind

    def networks(self) -> Iterator[Network]:
        """Describe the models; those that are converted after training have the parameters of EALA's."""
        whole = _NODES if self.data == "synthetic" else NUM_NODES[self.dataset]
        nodes = self.num_nodes or whole
        for name in self.attentions:
            yield self.described(name, self.builder(name, nodes, generator=torch.Generator()), nodes)

    def model(self, run: Run, name: str, series: Series) -> nn.Module:
        """The host with one attention, or STID, with weights that the run's seed determines."""
        build = self.builder(
            name,
            series.num_nodes,
            num_steps=series.num_steps,
            horizon=series.horizon,
            steps_per_day=series.steps_per_day,
            generator=run.torch_rng(f"features/{name}"),
        )
        return initialised(build, seed=run.seed)

    def builder(
        self, name: str, num_nodes: int, *, generator: torch.Generator, **windows: int
    ) -> Callable[[], nn.Module]:
        """What makes the host with one attention, or STID, for windows other than the public sets' where given."""
        corrects = self.anchor != "mean"
        if name == _STID:
            return functools.partial(STID, num_nodes, **windows, zero_output=corrects)
        return functools.partial(
            ELinFormer,
            num_nodes,
            **windows,
            input_dim=self.input_dim,
            tod_dim=self.tod_dim,
            dow_dim=self.dow_dim,
            adaptive_dim=self.adaptive_dim,
            num_heads=self.num_heads,
            ffn_dim=self.ffn_dim,
            temporal_layers=self.temporal_layers,
            spatial_layers=self.spatial_layers,
            attention=name,
            temporal_attention=self.temporal_attention,
            dropout=self.dropout,
            zero_output=corrects,
            generator=generator,
        )

    def costs(self, run: Run, name: str, model: nn.Module, series: Series) -> dict[str, float]:
        """Parameters of a model trained as stage `name`, seconds of an epoch, and memory of an update."""
        timing = run.loop.timings[name]
        return {
            "parameters": float(sum(weights.numel() for weights in model.parameters())),
            "epoch_s": len(series.train) / self.batch_size * timing.seconds / max(timing.steps, 1),
            "step_peak_bytes": float(self.step_memory(run, model, series)),
        }

    def step_memory(self, run: Run, model: nn.Module, series: Series) -> int:
        """Most bytes held by the forward and backward pass of one update, weights and optimiser state not counted."""
        windows = Windows(series, series.train[: self.batch_size], self.anchor)
        batch = [
            torch.stack(part).to(run.device)
            for part in zip(*(windows[index] for index in range(len(windows))), strict=True)
        ]

        def forward_backward() -> None:
            forecast_loss(model, batch, series=series, loss=self.loss).backward()

        model.train()
        held = peak_memory(forward_backward, run.device)
        model.zero_grad(set_to_none=True)
        return held

    def conversions(self, run: Run, softmax: nn.Module, series: Series) -> dict[str, float]:
        """Test MAE of the trained softmax model with its spatial layers turned into EALA, and after fine-tuning.

        Fine-tuning keeps a tenth of the largest learning rate: a new cycle would first undo what was learned.
        """
        tuning = dataclasses.replace(
            self,
            steps=self.fine_tune_steps,
            learning_rate=_FINE_TUNING_RATE * self.learning_rate,
            schedule="constant",
            milestones=(),
        )
        layers = [name for name in attention_layers(softmax) if name.startswith("spatial")]
        found = {}
        for feature_map in ("relu", "identity"):
            model = convert_attention(softmax, layers=layers, feature_map=feature_map)
            learner = tuning.learner(run, model, series)
            found[f"converted_{feature_map}/mae"] = errors(self.tested(learner, series))["mae"]
            tuning.trained(run, learner, stage=f"fine_tune_{feature_map}")
            found[f"converted_{feature_map}/fine_tuned_mae"] = errors(self.tested(learner, series))["mae"]
        return found


@dataclass(frozen=True, kw_only=True)
class NaiveForecasts:
    """Persistence, HA and HA + ridge on the official PEMS08 test windows, with all rows before them as history."""

    uses_seeds = False

    data: DataChoice = parameter(DATA_CHOICE)

    def run(self, run: Run) -> Result:
        """Score them on every test window."""
        series, kind = real_or_synthetic(
            self.data, load_pems08_tail, lambda: synthetic_traffic(_NODES, _DAYS, rng=run.rng("data"))
        )
        sums = naive_errors(series, series.test, history_rows=int(series.test[0]) + series.num_steps - 1)
        metrics = {f"{name}/{quantity}": value for name, one in sums.items() for quantity, value in errors(one).items()}
        table = pd.DataFrame({name: errors(one) for name, one in sums.items()}).T
        return Result(metrics={**metrics, "test/n": float(len(series.test))}, tables={"errors": table}, data=kind)


@dataclass(frozen=True, kw_only=True)
class PlugIn(_Trained):
    """E6: a second host, written with torch's own encoder, before and after `convert_attention`, trained alike."""

    datasets: tuple[str, ...] = parameter("catalogued sets", choices=list(LOADERS))
    dim: int = parameter("features of a token", low=1)
    num_heads: int = parameter("heads; a divisor of dim", low=1)
    ffn_dim: int = parameter("hidden units of a layer", low=1)
    num_layers: int = parameter("layers", low=1)

    def __post_init__(self) -> None:
        """Refuse heads that do not divide the model dimension, and no set."""
        super().__post_init__()
        check_listed("datasets", self.datasets)
        check_heads(self.num_heads, self.dim)

    def run(self, run: Run) -> Result:
        """Train the host as it is and converted, from equal weights, on each set."""
        metrics: dict[str, float] = {}
        kinds = set()
        for dataset in self.datasets:
            series, kind = real_or_synthetic(
                self.data, LOADERS[dataset], lambda: synthetic_traffic(_VARIATES, _DAYS, rng=run.rng("data"))
            )
            kinds.add(kind)
            plain = initialised(functools.partial(self.host, series.num_steps, series.horizon), seed=run.seed)
            sums = naive_errors(series, series.test[:: self.test_every])
            for name, model in {"eala_collision": convert_attention(plain), "softmax": plain}.items():
                learner = self.learner(run, model, series)
                self.trained(run, learner, stage=f"{dataset}_{name}")
                sums[name] = self.tested(learner, series)
            for name, one in sums.items():
                metrics |= {f"{dataset}/{name}/{quantity}": errors(one)[quantity] for quantity in ("mae", "rmse")}
            metrics[f"{dataset}/test/n"] = float(len(series.test[:: self.test_every]))
        return Result(metrics=metrics, data="synthetic" if "synthetic" in kinds else "real")

    def host(self, num_steps: int, horizon: int) -> InvertedForecaster:
        """The second host, its weights drawn from torch's global generator."""
        return InvertedForecaster(
            num_steps=num_steps,
            horizon=horizon,
            dim=self.dim,
            num_heads=self.num_heads,
            ffn_dim=self.ffn_dim,
            num_layers=self.num_layers,
        )

    def networks(self) -> Iterator[Network]:
        """Describe the host on each set, as it is and converted."""
        plain = functools.partial(self.host, Series.num_steps, Series.horizon)
        for dataset in self.datasets:
            nodes = _VARIATES if self.data == "synthetic" else NUM_NODES[dataset]
            yield self.described(f"{dataset} eala_collision", lambda: convert_attention(plain()), nodes)
            yield self.described(f"{dataset} softmax", plain, nodes)
