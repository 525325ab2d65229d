"""E4: time and memory against the number of nodes, for attention alone and for the whole host.

What is reported is the median over repeats, or a function of medians; intervals resample the repeats.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import scipy.stats
import torch
from torch import Tensor, nn

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.footprint import Network, example
from iclr_repro.core.measurements import Measurements
from iclr_repro.core.rundir import Run
from iclr_repro.core.statistics import log_log_slopes
from iclr_repro.core.timing import time_in_turn
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
_IN_HOST = (_EALA, _MATERIALISED, _FUSED)
_Key = TypeVar("_Key")
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
        """Refuse lists that name something twice."""
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
            actions: dict[tuple[str, str], Callable[[], object]] = {}
            for name in self.attentions:
                if name == _MATERIALISED and num_nodes > self.materialised_limit:
                    continue
                actions["forward", name], backward = self._actions(run, name, num_nodes)
                memory[name][num_nodes] = peak_memory(actions["forward", name], run.device)
                if name != _FUSED or num_nodes <= self.fused_backward_limit:
                    actions["forward_backward", name] = backward
            seconds = self._timed(actions, run.device)
            for (kind, name), of_action in seconds.items():
                times[kind][name][num_nodes] = of_action
            for name in self.attentions:
                if num_nodes in memory[name]:
                    medians = {
                        f"{kind}_ms": 1e3 * float(np.median(times[kind][name][num_nodes]))
                        for kind in times
                        if (kind, name) in seconds
                    }
                    peak = memory[name][num_nodes]
                    rows.append({"attention": name, "num_nodes": num_nodes, "peak_bytes": peak, **medians})
        table = pd.DataFrame(rows).set_index(["attention", "num_nodes"])
        measured = Timings()
        measured.metrics |= {
            f"{name}/n{number}/{quantity}": float(value)
            for (name, number), row in table.iterrows()
            for quantity, value in row.items()
            if np.isfinite(value)
        }
        measured.metrics |= {
            **self._errors(run),
            "timings/n": float(self.repeats),
        }
        for kind, of_kind in times.items():
            for name, of_name in of_kind.items():
                measured.slope(f"{name}/{kind}_slope", of_name, least=_SLOPE_FROM)
            measured.speedups("n{number}/" + kind + "_speedup_over_{name}", of_kind)
        self._add_memory(memory, measured)
        self._add_model(run, measured)
        self._add_estimate(run, measured)
        break_even = self._add_break_even(times["forward"], measured)
        return measured.result(tables={"scaling": table}, figures={"scaling": figures.scaling(table, break_even)})

    def networks(self) -> Iterator[Network]:
        """Describe the host with most nodes; attention alone has no weights."""
        for name in _IN_HOST:
            fitting = [n for n in self.model_nodes if name != _MATERIALISED or n <= self.materialised_limit]
            if fitting:
                build = _host_of(name, max(fitting), torch.Generator())
                yield Network(name=f"host {name}", build=build, inputs={"x": example(1, 1, max(fitting), 3)})

    def _timed(self, actions: Mapping[_Key, Callable[[], object]], device: torch.device) -> dict[_Key, np.ndarray]:
        """Seconds of one call of each action, [repeats]."""
        seconds = time_in_turn(*actions.values(), repeats=self.repeats, device=device, least_s=_LEAST_S)
        return dict(zip(actions, seconds, strict=True))

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

    def _errors(self, run: Run) -> dict[str, float]:
        """How far output and gradients of what is timed as EALA are from those of its dense weights, at the smallest N.

        Both in units of the largest of the latter.
        """
        generator = run.torch_rng("check")
        shape = (1, self.num_heads, min(self.num_nodes), self.head_dim)
        inputs = [torch.randn(shape, generator=generator).to(run.device).requires_grad_() for _ in range(3)]
        mechanism = make_mechanism(_EALA, num_heads=self.num_heads, head_dim=self.head_dim, generator=generator)
        q, k, v = inputs
        outputs = mechanism.to(run.device)(q, k, v), attention_weights(q, k) @ v
        towards = torch.randn(shape, generator=generator).to(run.device)
        gradients = [
            torch.cat(torch.autograd.grad(out, inputs, towards, allow_unused=True, materialize_grads=True))
            for out in outputs
        ]
        return {
            f"{_EALA}/largest_{name}_error": float((found - dense).detach().abs().max() / dense.detach().abs().max())
            for name, (found, dense) in (("output", outputs), ("gradient", gradients))
        }

    def _add_memory(self, memory: Mapping[str, Mapping[int, int]], measured: Timings) -> None:
        """Slopes of log memory against log N, and EALA's share of the memory of each other attention."""
        for name, of_name in memory.items():
            held = {number: size for number, size in of_name.items() if number >= _SLOPE_FROM}
            if len(held) > 1:
                slopes = log_log_slopes(np.array(list(held)), np.array([list(held.values())]).T)
                measured.add_exact(f"{name}/memory_slope", float(slopes[0]))
            for number in memory.get(_EALA, {}).keys() & of_name.keys():
                if name != _EALA:
                    measured.add_exact(f"n{number}/memory_over_{name}", memory[_EALA][number] / of_name[number])

    def _add_break_even(self, forward: Mapping[str, Mapping[int, np.ndarray]], measured: Timings) -> float | None:
        """The N from which on EALA is faster than materialised softmax, between two measured ones on the log scale."""
        softmax, eala = forward.get(_MATERIALISED, {}), forward.get(_EALA, {})
        sizes = [number for number in softmax if number in eala]
        gains = [float(np.log(np.median(softmax[number]) / np.median(eala[number]))) for number in sizes]
        for i in range(1, len(sizes)):
            if gains[i - 1] < 0 <= gains[i]:
                share = -gains[i - 1] / (gains[i] - gains[i - 1])
                logs = np.log(sizes[i - 1 : i + 1])
                found = float(np.exp((1 - share) * logs[0] + share * logs[1]))
                measured.add("break_even_nodes", found)
                return found
        return None

    def _add_model(self, run: Run, measured: Timings) -> None:
        """Forward pass and training step of the whole host for one time step of N nodes, with EALA and with softmax."""
        times: dict[str, dict[str, dict[int, np.ndarray]]] = {
            kind: {name: {} for name in _IN_HOST} for kind in ("forward", "step")
        }
        for num_nodes in self.model_nodes:
            x = torch.rand(1, 1, num_nodes, 3, generator=run.torch_rng(f"model/{num_nodes}")).to(run.device)
            actions: dict[tuple[str, str], Callable[[], object]] = {}
            for name in _IN_HOST:
                if name == _MATERIALISED and num_nodes > self.materialised_limit:
                    continue
                build = _host_of(name, num_nodes, run.torch_rng(f"model/{name}"))
                model = initialised(build, seed=run.seed).to(run.device)
                optimizer = torch.optim.Adam(model.parameters())
                actions["forward", name] = functools.partial(_forward, model, x)
                actions["step", name] = functools.partial(_training_step, model, optimizer, x)
            for (kind, name), seconds in self._timed(actions, run.device).items():
                times[kind][name][num_nodes] = seconds
                measured.add(f"model/{name}/n{num_nodes}/{kind}_ms", 1e3 * float(np.median(seconds)))
        for kind, of_kind in times.items():
            for name in _IN_HOST:
                measured.slope(f"model/{name}/{kind}_slope", of_kind[name], least=_MODEL_SLOPE_FROM)
            measured.speedups("model/n{number}/" + kind + "_speedup_over_{name}", of_kind)

    def _add_estimate(self, run: Run, measured: Timings) -> None:
        """Entropy of every query by its estimate against the exact one."""
        number = min(self.materialised_limit, max(self.num_nodes))
        generator = run.torch_rng("estimate")
        q, k = (torch.randn(1, number, self.head_dim, generator=generator).to(run.device) for _ in range(2))
        actions: dict[str, Callable[[], object]] = {
            estimate: functools.partial(entropy_estimate, q, k, estimate=estimate) for estimate in ("gauss2", "cum3")
        }
        seconds = self._timed({"exact": lambda: softmax_entropy(q, k), **actions}, run.device)
        for estimate in actions:
            name = f"estimate/{estimate}/speedup"
            measured.of_medians(name, lambda a, b: a / b, seconds["exact"], seconds[estimate])
        measured.add("estimate/num_keys", float(number))


def _host_of(name: str, num_nodes: int, generator: torch.Generator) -> Callable[[], ELinFormer]:
    """What makes the host for one time step of N nodes."""
    return functools.partial(
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
        generator=generator,
    )


class Timings(Measurements):
    """Metrics of timings, and their intervals."""

    def of_medians(self, name: str, function: Callable[..., Any], *seconds: np.ndarray) -> None:
        """Note a function of the medians of timings, with its bootstrap interval over repeats where there are several.

        Rounds are resampled, those of all of `seconds` [repeats] together. The interval is that of one process.
        """
        value = float(function(*(np.median(one) for one in seconds)))
        interval = None
        if min(len(one) for one in seconds) > 1:
            found = scipy.stats.bootstrap(
                seconds,
                lambda *samples, axis: function(*(np.median(one, axis=axis) for one in samples)),
                n_resamples=_RESAMPLES,
                vectorized=True,
                paired=True,  # the actions took turns: what slowed a round slowed all of it
                method="percentile",
                rng=np.random.default_rng(0),
            )
            interval = (float(found.confidence_interval.low), float(found.confidence_interval.high))
        self.add(name, value, interval)

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


def _forward(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(x)
    return out


def _training_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()
