"""E4: time and memory against the number of nodes, for attention alone and for the whole host.

What is reported is the median over repeats, or a function of medians; intervals resample the repeats.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
import torch
from torch import Tensor, nn

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.rundir import Run
from iclr_repro.entropy_linear_attention import figures
from iclr_repro.entropy_linear_attention._choices import check_listed
from iclr_repro.entropy_linear_attention.attention import attention_weights
from iclr_repro.entropy_linear_attention.entropy import entropy_estimate, softmax_entropy
from iclr_repro.entropy_linear_attention.host import ELinFormer
from iclr_repro.entropy_linear_attention.mechanisms import MECHANISMS, make_mechanism
from iclr_repro.entropy_linear_attention.memory import peak_memory
from iclr_repro.entropy_linear_attention.training import initialised

_SLOPE_FROM = 1024
_MODEL_SLOPE_FROM = 256
_RESAMPLES = 9_999
_LEAST_S = 0.02  # a timing repeats what is shorter, so that the clock does not decide
_MATERIALISED, _FUSED = "softmax", "softmax_sdpa"
_EALA = "eala_collision"
_HOST: dict[str, Any] = {
    "input_dim": 12,
    "tod_dim": 12,
    "dow_dim": 8,
    "adaptive_dim": 32,
    "num_heads": 4,
    "ffn_dim": 128,
}


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Medians over repeats, all attentions in one process in turn; slopes of log time over N >= 1024."""

    uses_seeds = False

    attentions: tuple[str, ...] = parameter("mechanisms to time", choices=list(MECHANISMS))
    num_nodes: tuple[int, ...] = parameter("nodes", low=2, high=1_000_000)
    materialised_limit: int = parameter("most nodes for softmax with its N x N matrix", low=2)
    fused_backward_limit: int = parameter("most nodes for forward and backward of the fused softmax", low=2)
    head_dim: int = parameter("features of a head", low=1, high=256)
    num_heads: int = parameter("heads", low=1, high=64)
    repeats: int = parameter("timings, after one to warm up", low=1, high=1_000)
    model_nodes: tuple[int, ...] = parameter("nodes of the whole host", low=2, high=1_000_000)

    def __post_init__(self) -> None:
        """Refuse lists that are empty or name something twice."""
        check_listed("attentions", self.attentions)
        check_listed("num_nodes", self.num_nodes)
        check_listed("model_nodes", self.model_nodes)

    def run(self, run: Run) -> Result:
        """Time and measure."""
        rows = []
        times: dict[str, dict[str, dict[int, np.ndarray]]] = {
            kind: {name: {} for name in self.attentions} for kind in ("forward", "forward_backward")
        }
        memory: dict[str, dict[int, int]] = {name: {} for name in self.attentions}
        for num_nodes in self.num_nodes:
            for name in self.attentions:
                if name == _MATERIALISED and num_nodes > self.materialised_limit:
                    continue
                forward, backward = self._actions(run, name, num_nodes)
                memory[name][num_nodes] = peak_memory(forward, run.device)
                row = {"attention": name, "num_nodes": num_nodes, "peak_bytes": memory[name][num_nodes]}
                for kind, action in (("forward", forward), ("forward_backward", backward)):
                    if kind == "forward" or name != _FUSED or num_nodes <= self.fused_backward_limit:
                        seconds = timings(action, repeats=self.repeats, device=run.device)
                        times[kind][name][num_nodes] = seconds
                        row[f"{kind}_ms"] = 1e3 * float(np.median(seconds))
                rows.append(row)
        table = pd.DataFrame(rows).set_index(["attention", "num_nodes"])
        measured = Measured()
        measured.metrics |= {
            f"{name}/n{number}/{quantity}": float(value)
            for (name, number), row in table.iterrows()
            for quantity, value in row.items()
            if np.isfinite(value)
        }
        measured.metrics |= {
            f"{_EALA}/largest_output_error": self._output_error(run),
            "timings/n": float(self.repeats),
        }
        for kind, of_kind in times.items():
            for name, of_name in of_kind.items():
                measured.slope(f"{name}/{kind}_slope", of_name, least=_SLOPE_FROM)
            measured.speedups("n{number}/" + kind + "_speedup_over_{name}", of_kind)
        self._add_memory(memory, measured)
        self._add_break_even(times["forward"], measured)
        self._add_model(run, measured)
        self._add_estimate(run, measured)
        return Result(
            metrics=measured.metrics,
            intervals=measured.intervals,
            tables={"scaling": table},
            figures={"scaling": figures.scaling(table, measured.metrics.get("break_even_nodes"))},
        )

    def _actions(self, run: Run, name: str, num_nodes: int) -> tuple[Callable[[], Tensor], Callable[[], None]]:
        generator = run.torch_rng(f"inputs/{num_nodes}")
        shape = (1, self.num_heads, num_nodes, self.head_dim)
        q, k, v = (torch.randn(shape, generator=generator).to(run.device) for _ in range(3))
        mechanism = make_mechanism(
            name, num_heads=self.num_heads, head_dim=self.head_dim, generator=run.torch_rng(f"features/{name}")
        ).to(run.device)
        q2, k2, v2 = (x.clone().requires_grad_() for x in (q, k, v))

        def forward() -> Tensor:
            with torch.no_grad():
                out: Tensor = mechanism(q, k, v)
            return out

        def forward_backward() -> None:
            mechanism(q2, k2, v2).sum().backward()

        return forward, forward_backward

    def _output_error(self, run: Run) -> float:
        """How far what is timed as EALA is from its dense weights applied to the values, at the smallest N."""
        generator = run.torch_rng("check")
        shape = (1, self.num_heads, min(self.num_nodes), self.head_dim)
        q, k, v = (torch.randn(shape, generator=generator).to(run.device) for _ in range(3))
        mechanism = make_mechanism(_EALA, num_heads=self.num_heads, head_dim=self.head_dim, generator=generator)
        with torch.no_grad():
            return float((mechanism.to(run.device)(q, k, v) - attention_weights(q, k) @ v).abs().max())

    def _add_memory(self, memory: Mapping[str, Mapping[int, int]], measured: Measured) -> None:
        """Slopes of log memory against log N, and EALA's share of the memory of each other attention."""
        for name, of_name in memory.items():
            held = {number: size for number, size in of_name.items() if number >= _SLOPE_FROM}
            if len(held) > 1:
                slope = np.polyfit(np.log(list(held)), np.log(list(held.values())), 1)[0]
                measured.counted(f"{name}/memory_slope", float(slope))
            for number in memory.get(_EALA, {}).keys() & of_name.keys():
                if name != _EALA:
                    measured.counted(f"n{number}/memory_over_{name}", memory[_EALA][number] / of_name[number])

    def _add_break_even(self, forward: Mapping[str, Mapping[int, np.ndarray]], measured: Measured) -> None:
        """The N from which on EALA is faster than materialised softmax, between two measured ones on the log scale."""
        softmax, eala = forward.get(_MATERIALISED, {}), forward.get(_EALA, {})
        sizes = [number for number in softmax if number in eala]
        gains = [float(np.log(np.median(softmax[number]) / np.median(eala[number]))) for number in sizes]
        for i in range(1, len(sizes)):
            if gains[i - 1] < 0 <= gains[i]:
                share = -gains[i - 1] / (gains[i] - gains[i - 1])
                logs = np.log(sizes[i - 1 : i + 1])
                measured.metrics["break_even_nodes"] = float(np.exp((1 - share) * logs[0] + share * logs[1]))
                return

    def _add_model(self, run: Run, measured: Measured) -> None:
        """Forward pass and training step of the whole host for one time step of N nodes, with EALA and with softmax."""
        names = (_EALA, _MATERIALISED, _FUSED)
        times: dict[str, dict[str, dict[int, np.ndarray]]] = {
            kind: {name: {} for name in names} for kind in ("forward", "step")
        }
        for num_nodes in self.model_nodes:
            x = torch.rand(1, 1, num_nodes, 3, generator=run.torch_rng(f"model/{num_nodes}")).to(run.device)
            for name in names:
                if name == _MATERIALISED and num_nodes > self.materialised_limit:
                    continue
                build = functools.partial(
                    ELinFormer,
                    num_nodes,
                    num_steps=1,
                    horizon=1,
                    **_HOST,
                    temporal_layers=1,
                    spatial_layers=1,
                    attention=name,
                    temporal_attention="softmax",
                    dropout=0.0,
                    generator=run.torch_rng(f"model/{name}"),
                )
                model = initialised(build, seed=run.seed).to(run.device)
                actions: dict[str, Callable[[], object]] = {
                    "forward": functools.partial(_forward, model, x),
                    "step": functools.partial(_training_step, model, torch.optim.Adam(model.parameters()), x),
                }
                for kind, action in actions.items():
                    seconds = timings(action, repeats=self.repeats, device=run.device)
                    times[kind][name][num_nodes] = seconds
                    measured.metrics[f"model/{name}/n{num_nodes}/{kind}_ms"] = 1e3 * float(np.median(seconds))
        for kind, of_kind in times.items():
            for name in names:
                measured.slope(f"model/{name}/{kind}_slope", of_kind[name], least=_MODEL_SLOPE_FROM)
            measured.speedups("model/n{number}/" + kind + "_speedup_over_{name}", of_kind)

    def _add_estimate(self, run: Run, measured: Measured) -> None:
        """Entropy of every query by its estimate against the exact one."""
        number = min(self.materialised_limit, max(self.num_nodes))
        generator = run.torch_rng("estimate")
        q, k = (torch.randn(1, number, self.head_dim, generator=generator).to(run.device) for _ in range(2))
        exact = timings(lambda: softmax_entropy(q, k), repeats=self.repeats, device=run.device)
        for estimate in ("gauss2", "cum3"):
            action = functools.partial(entropy_estimate, q, k, estimate=estimate)
            found = timings(action, repeats=self.repeats, device=run.device)
            measured.of_medians(f"estimate/{estimate}/speedup", lambda a, b: a / b, exact, found)
        measured.metrics["estimate/num_keys"] = float(number)


class Measured:
    """Metrics of timings, and their intervals.

    Attributes:
        metrics: by name.
        intervals: 95 %, of those that have one.
    """

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.intervals: dict[str, tuple[float, float]] = {}

    def of_medians(self, name: str, function: Callable[..., Any], *seconds: np.ndarray) -> None:
        """Note a function of the medians of timings, with its bootstrap interval over repeats where there are several.

        Each of `seconds` [repeats] is resampled on its own.
        """
        self.metrics[name] = float(function(*(np.median(one) for one in seconds)))
        if min(len(one) for one in seconds) > 1:
            found = scipy.stats.bootstrap(
                seconds,
                lambda *samples, axis: function(*(np.median(one, axis=axis) for one in samples)),
                n_resamples=_RESAMPLES,
                vectorized=True,
                method="percentile",
                rng=np.random.default_rng(0),
            )
            interval = found.confidence_interval
            self.intervals[name] = (float(interval.low), float(interval.high))

    def slope(self, name: str, seconds: Mapping[int, np.ndarray], *, least: int) -> None:
        """Note the power of N with which the median time grows from N = `least` on, where there are two such N."""
        sizes = [number for number in seconds if number >= least]
        if len(sizes) > 1:

            def power(*medians: Any) -> Any:
                return np.polyfit(np.log(sizes), np.log(np.stack(medians)), 1)[0]

            self.of_medians(name, power, *(seconds[number] for number in sizes))

    def speedups(self, pattern: str, seconds: Mapping[str, Mapping[int, np.ndarray]]) -> None:
        """Note how many times as fast EALA is as each other attention, by median times."""
        for name, of_name in seconds.items():
            for number in of_name.keys() & seconds.get(_EALA, {}).keys():
                if name != _EALA:
                    label = pattern.format(number=number, name=name)
                    self.of_medians(label, lambda a, b: a / b, of_name[number], seconds[_EALA][number])

    def counted(self, name: str, value: float) -> None:
        """Note a quantity that is counted, not sampled: its interval has no width."""
        self.metrics[name] = value
        self.intervals[name] = (value, value)


def timings(action: Callable[[], object], *, repeats: int, device: torch.device) -> np.ndarray:
    """Seconds of one call, measured `repeats` times after one to warm up; short ones as the mean of several calls."""

    def seconds(calls: int) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        for _ in range(calls):
            action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - start) / calls

    seconds(1)
    calls = max(1, int(_LEAST_S / max(seconds(1), 1e-6)))
    return np.array([seconds(calls) for _ in range(repeats)])


def _forward(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(x)
    return out


def _training_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()
