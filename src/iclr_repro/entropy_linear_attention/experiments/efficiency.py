"""E4: time and memory against the number of nodes, for attention alone and for a whole training step."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.rundir import Run
from iclr_repro.core.statistics import mean_interval
from iclr_repro.entropy_linear_attention import figures
from iclr_repro.entropy_linear_attention._choices import check_listed
from iclr_repro.entropy_linear_attention.attention import attention_weights
from iclr_repro.entropy_linear_attention.entropy import entropy_estimate, softmax_entropy
from iclr_repro.entropy_linear_attention.host import ELinFormer
from iclr_repro.entropy_linear_attention.mechanisms import MECHANISMS, make_mechanism
from iclr_repro.entropy_linear_attention.memory import tensor_memory
from iclr_repro.entropy_linear_attention.training import initialised

_SLOPE_FROM = 1024
_LEAST_S = 0.02  # a timing repeats what is shorter, so that the clock does not decide
_MATERIALISED = "softmax"
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
    backward_limit: int = parameter("most nodes for forward and backward", low=2)
    head_dim: int = parameter("features of a head", low=1, high=256)
    num_heads: int = parameter("heads", low=1, high=64)
    repeats: int = parameter("timings, after one to warm up", low=1, high=1_000)
    model_nodes: int = parameter("nodes of the whole model", low=2)

    def __post_init__(self) -> None:
        """Refuse lists that are empty or name something twice."""
        check_listed("attentions", self.attentions)
        check_listed("num_nodes", self.num_nodes)

    def run(self, run: Run) -> Result:
        """Time and measure."""
        rows = []
        times: dict[tuple[str, str, int], np.ndarray] = {}
        memory: dict[tuple[str, int], int] = {}
        for num_nodes in self.num_nodes:
            for name in self.attentions:
                if name == _MATERIALISED and num_nodes > self.materialised_limit:
                    continue
                forward, backward = self._actions(run, name, num_nodes)
                found = self._memory(run, forward)
                memory[name, num_nodes] = found["peak_bytes"]
                row = {"attention": name, "num_nodes": num_nodes, **found}
                for kind, action in (("forward", forward), ("forward_backward", backward)):
                    if kind == "forward" or num_nodes <= self.backward_limit:
                        times[kind, name, num_nodes] = timings(action, repeats=self.repeats, device=run.device)
                        row[f"{kind}_ms"] = 1e3 * float(np.median(times[kind, name, num_nodes]))
                rows.append(row)
        table = pd.DataFrame(rows).set_index(["attention", "num_nodes"])
        metrics = {
            f"{name}/n{number}/{quantity}": float(value)
            for (name, number), row in table.iterrows()
            for quantity, value in row.items()
            if np.isfinite(value)
        }
        intervals: dict[str, tuple[float, float]] = {}
        metrics[f"{_EALA}/largest_output_error"] = self._output_error(run)
        self._add_slopes(times, memory, metrics, intervals)
        self._add_ratios(times, memory, metrics, intervals)
        self._add_model(run, metrics, intervals)
        self._add_estimate(run, metrics, intervals)
        metrics["timings/n"] = float(self.repeats)
        return Result(
            metrics=metrics,
            intervals=intervals,
            tables={"scaling": table},
            figures={"scaling": figures.scaling(table, metrics.get("break_even_nodes"))},
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

    def _memory(self, run: Run, action: Callable[[], object]) -> dict[str, int]:
        """On a GPU what its allocator gave at most, elsewhere what the tensors held."""
        if run.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            action()
            torch.cuda.synchronize()
            return {"peak_bytes": torch.cuda.max_memory_allocated() - before}
        found = tensor_memory(action)
        return {"peak_bytes": found.peak_bytes, "largest_bytes": found.largest_bytes}

    def _add_slopes(
        self,
        times: dict[tuple[str, str, int], np.ndarray],
        memory: dict[tuple[str, int], int],
        metrics: dict[str, float],
        intervals: dict[str, tuple[float, float]],
    ) -> None:
        """Slopes of log time (with intervals over repeats) and of log memory against log N."""
        for name in self.attentions:
            for kind in ("forward", "forward_backward"):
                measured = {
                    n: times[kind, name, n] for n in self.num_nodes if (kind, name, n) in times and n >= _SLOPE_FROM
                }
                if len(measured) > 1:
                    slopes = np.polyfit(np.log(list(measured)), np.log(np.stack(list(measured.values()))), 1)[0]
                    _add(metrics, intervals, f"{name}/{kind}_slope", slopes)
            held = {n: memory[name, n] for n in self.num_nodes if (name, n) in memory and n >= _SLOPE_FROM}
            if len(held) > 1:
                slope = float(np.polyfit(np.log(list(held)), np.log(list(held.values())), 1)[0])
                metrics[f"{name}/memory_slope"] = slope
                intervals[f"{name}/memory_slope"] = (slope, slope)  # counted, not sampled

    def _add_ratios(
        self,
        times: dict[tuple[str, str, int], np.ndarray],
        memory: dict[tuple[str, int], int],
        metrics: dict[str, float],
        intervals: dict[str, tuple[float, float]],
    ) -> None:
        """How many times as fast EALA is as each other attention, its share of the memory, and the break-even N."""
        for (kind, name, number), seconds in times.items():
            if name != _EALA and (kind, _EALA, number) in times:
                _add(metrics, intervals, f"n{number}/{kind}_speedup_over_{name}", seconds / times[kind, _EALA, number])
        for (name, number), held in memory.items():
            if name != _EALA and (_EALA, number) in memory:
                ratio = memory[_EALA, number] / held
                metrics[f"n{number}/memory_over_{name}"] = ratio
                intervals[f"n{number}/memory_over_{name}"] = (ratio, ratio)
        sizes = [n for n in self.num_nodes if ("forward", _MATERIALISED, n) in times and ("forward", _EALA, n) in times]
        gains = np.array(
            [
                np.log(np.median(times["forward", _MATERIALISED, n]) / np.median(times["forward", _EALA, n]))
                for n in sizes
            ]
        )
        crossings = [i for i in range(1, len(sizes)) if gains[i - 1] < 0 <= gains[i]]
        if crossings:
            i = crossings[0]
            share = -gains[i - 1] / (gains[i] - gains[i - 1])
            metrics["break_even_nodes"] = float(np.exp((1 - share) * np.log(sizes[i - 1]) + share * np.log(sizes[i])))

    def _add_model(self, run: Run, metrics: dict[str, float], intervals: dict[str, tuple[float, float]]) -> None:
        """A training step of the whole host for one time step of many nodes, against the softmax hosts."""
        x = (
            torch.randn(1, 1, self.model_nodes, 3, generator=run.torch_rng("model"))
            .abs()
            .clamp(max=0.99)
            .to(run.device)
        )
        seconds = {}
        for name in (_EALA, _MATERIALISED, "softmax_sdpa"):
            build = functools.partial(
                ELinFormer,
                self.model_nodes,
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
            step = functools.partial(_training_step, model, torch.optim.Adam(model.parameters()), x)
            seconds[name] = timings(step, repeats=self.repeats, device=run.device)
            metrics[f"model/{name}/step_ms"] = 1e3 * float(np.median(seconds[name]))
        for name in (_MATERIALISED, "softmax_sdpa"):
            _add(metrics, intervals, f"model/speedup_over_{name}", seconds[name] / seconds[_EALA])

    def _add_estimate(self, run: Run, metrics: dict[str, float], intervals: dict[str, tuple[float, float]]) -> None:
        """Entropy of every query by its estimate against the exact one."""
        number = min(self.materialised_limit, max(self.num_nodes))
        generator = run.torch_rng("estimate")
        q, k = (torch.randn(1, number, self.head_dim, generator=generator).to(run.device) for _ in range(2))
        exact = timings(lambda: softmax_entropy(q, k), repeats=self.repeats, device=run.device)
        for estimate in ("gauss2", "cum3"):
            action = functools.partial(entropy_estimate, q, k, estimate=estimate)
            found = timings(action, repeats=self.repeats, device=run.device)
            _add(metrics, intervals, f"estimate/{estimate}/speedup", exact / found)
        metrics["estimate/num_keys"] = float(number)


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


def _training_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def _add(metrics: dict[str, float], intervals: dict[str, tuple[float, float]], name: str, values: np.ndarray) -> None:
    """Note the mean over repeats with its interval, where there are several."""
    metrics[name] = float(values.mean())
    interval = mean_interval(values)
    if interval is not None:
        intervals[name] = interval
