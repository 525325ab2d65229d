"""What must hold exactly (C1, C2, C4, C5), and how fast it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from iclr_repro.core import plotting
from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.footprint import Network, example
from iclr_repro.core.rundir import Run
from iclr_repro.core.timing import time_in_turn
from iclr_repro.loki.attribution import attribute
from iclr_repro.loki.baselines import baseline_model, with_adapter
from iclr_repro.loki.config import LokiConfig
from iclr_repro.loki.experiments._public import QWEN_05B
from iclr_repro.loki.experiments._world import seeded, without_cache
from iclr_repro.loki.invariants import adapter_violations, attribution_violations
from iclr_repro.loki.layer import LokiLayer
from iclr_repro.loki.official import SplitLinear

_VOCABULARY = 512


@dataclass(frozen=True, kw_only=True)
class Identities:
    """Attributions against a direct loop and completeness; what training, saving and merging an adapter may change."""

    uses_seeds: ClassVar[bool] = False

    hidden_size: int = parameter("d of the random model", low=8)
    num_layers: int = parameter("its layers", low=2)
    num_samples: int = parameter("prompts", low=2)
    length: int = parameter("tokens of a prompt", low=2)
    kva_steps: int = parameter("interpolation points m", low=1)
    training_steps: int = parameter("updates of the adapter, with weight decay", low=2)

    def run(self, run: Run) -> Result:
        """Measure in float64; all 0 up to rounding."""
        # Few tokens and large weights, so that probabilities, and with them attributions, are far from 0; with larger
        # ones still, 32 Gauss points do not resolve the path.
        model = _random_llama(
            run, hidden_size=self.hidden_size, num_layers=self.num_layers, vocab_size=29, initializer_range=0.3
        ).double()
        ids = torch.randint(1, 29, (self.num_samples, self.length), generator=run.torch_rng("prompts"))
        found = {f"kva/{name}": value for name, value in self._attributions(model, ids).items()}
        rng = run.rng("rows")
        positions = [
            sorted(rng.choice(self.hidden_size, size=self.hidden_size // 4, replace=False).tolist())
            for _ in range(self.num_layers)
        ]
        positions[1] = []
        for name, rank in (("loki", None), ("loki_lora", 2)):
            with seeded(run, "adapter"):
                violations = adapter_violations(model, positions, ids, steps=self.training_steps, lora_r=rank)
            found |= {f"{name}/{key}": value for key, value in violations.items()}
        table = pd.Series(found, name="violation").rename_axis("identity").to_frame()
        return Result(metrics={**found, "n": self.num_samples}, tables={"identities": table})

    def _attributions(self, model: LlamaForCausalLM, ids: Tensor) -> dict[str, float]:
        model.set_attn_implementation("eager")
        found = attribution_violations(model, ids, steps=self.kva_steps)
        model.requires_grad_()
        return found


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Ratios of times in one process: fast to plain attribution, a training step of LoKI and its layer to others.

    Processor times, on a CUDA device times until it has finished.
    """

    uses_seeds: ClassVar[bool] = False

    kva: tuple[int, int, int, int] = parameter("d, layers, tokens and prompts of the attribution", low=1)
    step: tuple[int, int, int, int] = parameter("d, layers, sequences and tokens of a training step", low=1)
    layer: tuple[int, int, int] = parameter("d, f and tokens of one layer", low=1)
    quota: float = parameter("q of the rows", low=0.0, high=100.0, unit="%")
    lora_r: int = parameter("rank of LoRA on all linear layers", low=1)
    repeats: int = parameter("timings after the warm-up", low=2)

    def run(self, run: Run) -> Result:
        """Time alternately after a warm-up; a ratio a repeat."""
        with seeded(run, "models"):
            metrics = self._attribution(run) | self._training_step(run) | self._layer(run)
            if run.device.type == "cuda":
                metrics |= _throughput(run.device)
        shown = {name: value for name, value in metrics.items() if "_over_" in name and "memory" not in name}
        return Result(metrics=metrics | {"n": self.repeats}, figures={"ratios": plotting.ratios(shown)})

    def _attribution(self, run: Run) -> dict[str, float | np.ndarray]:
        hidden_size, num_layers, length, num_samples = self.kva
        model = _random_llama(run, hidden_size=hidden_size, num_layers=num_layers).to(run.device)
        ids = torch.randint(1, _VOCABULARY, (num_samples, length), generator=run.torch_rng("prompts")).to(run.device)
        fast, plain = time_in_turn(
            lambda: attribute(model, ids),
            lambda: attribute(model, ids, reuse_prefix=False),
            repeats=self.repeats,
            device=run.device,
        )
        values = [attribute(model, ids, reuse_prefix=reuse).values for reuse in (True, False)]
        return {
            "kva/speedup": plain / fast,
            "kva/relative_difference": float((values[0] - values[1]).abs().max() / values[1].abs().max()),
            "kva/fast_ms": 1e3 * float(np.median(fast)),
            "kva/plain_ms": 1e3 * float(np.median(plain)),
        }

    def _training_step(self, run: Run) -> dict[str, float | np.ndarray]:
        hidden_size, num_layers, num_sequences, length = self.step
        ids = torch.randint(1, _VOCABULARY, (num_sequences, length), generator=run.torch_rng("batch")).to(run.device)

        def fresh() -> LlamaForCausalLM:
            return _random_llama(run, hidden_size=hidden_size, num_layers=num_layers).to(run.device)

        models = {name: self._with_method(name, fresh(), self.lora_r) for name in ("loki", "lora", "full")}
        counts = {f"step/{name}/parameters": _trained(model) for name, model in models.items()}
        # LoRA of the rank with about as many trained numbers, besides the usual one.
        rank = max(round(self.lora_r * counts["step/loki/parameters"] / counts["step/lora/parameters"]), 1)
        models["lora_same_size"] = self._with_method("lora", fresh(), rank)
        counts |= {
            "step/lora_same_size/rank": rank,
            "step/lora_same_size/parameters": _trained(models["lora_same_size"]),
        }
        steps = {name: _training_step(model, ids) for name, model in models.items()}
        timed = time_in_turn(*steps.values(), repeats=self.repeats, device=run.device)
        seconds = dict(zip(steps, timed, strict=True))
        return {
            "step/loki_over_lora": seconds["loki"] / seconds["lora"],
            "step/loki_over_lora_same_size": seconds["loki"] / seconds["lora_same_size"],
            "step/loki_over_full": seconds["loki"] / seconds["full"],
            "step/loki_ms": 1e3 * float(np.median(seconds["loki"])),
            **counts,
        }

    def networks(self) -> Iterator[Network]:
        """Describe the models of a training step; the others are smaller or have no optimizer."""
        hidden_size, num_layers, num_sequences, length = self.step
        for name in ("loki", "lora", "full"):

            def build(name: str = name) -> nn.Module:
                return self._with_method(name, _llama(hidden_size=hidden_size, num_layers=num_layers), self.lora_r)

            ids = example(num_sequences, length, dtype=torch.int64)
            yield Network(name=f"step {name}", build=build, inputs={"input_ids": ids}, forward=without_cache)

    def _with_method(self, name: str, model: nn.Module, r: int) -> nn.Module:
        if name == "loki":
            hidden_size, num_layers, _, _ = self.step
            num_rows = max(int(self.quota * hidden_size / 100), 1)
            positions = [list(range(num_rows)) for _ in range(num_layers)]
            return with_adapter(model, LokiConfig(active_pos=positions, task_type="CAUSAL_LM"))
        return baseline_model(name, model, r=r, alpha=16.0, preserve=lambda: None)  # type: ignore[arg-type]

    def _layer(self, run: Run) -> dict[str, float | np.ndarray]:
        num_rows, num_columns, length = self.layer
        base = nn.Linear(num_columns, num_rows, bias=False).to(run.device)
        rows = list(range(0, num_rows, max(round(100 / self.quota), 1)))
        ours, official = LokiLayer(base, "default", rows), SplitLinear(base, rows).to(run.device)
        base.requires_grad_(False)
        ours.loki_rows.requires_grad_()
        x = torch.randn(1, length, num_columns, device=run.device, requires_grad=True)
        steps = [partial(_forward_backward, layer, x) for layer in (ours, official)]
        seconds = time_in_turn(*steps, repeats=self.repeats, device=run.device)
        kept = [_bytes_kept(layer, x) for layer in (ours, official)]
        peak = [_peak_bytes(step) for step in steps]
        difference = (ours(x) - official(x)).abs().max() / official(x).abs().max()
        return {
            "layer/ours_over_split": seconds[0] / seconds[1],
            "layer/kept_memory_ours_over_split": kept[0] / kept[1],
            "layer/peak_memory_ours_over_split": peak[0] / peak[1],
            "layer/relative_difference": float(difference.detach()),
        }


def _random_llama(run: Run, **options: Any) -> LlamaForCausalLM:
    with seeded(run, "initialisation"):
        return _llama(**options).eval()


def _llama(
    *, hidden_size: int, num_layers: int, vocab_size: int = _VOCABULARY, initializer_range: float = 0.1
) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        initializer_range=initializer_range,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config)


def _trained(model: nn.Module) -> int:
    return sum(one.numel() for one in model.parameters() if one.requires_grad)


def _training_step(model: nn.Module, ids: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        logits = without_cache(model, input_ids=ids).logits
        F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()

    return step


def _forward_backward(layer: nn.Module, x: Tensor) -> None:
    layer(x).square().sum().backward()


def _bytes_kept(layer: nn.Module, x: Tensor) -> int:
    """Return the bytes that a forward keeps for its backward, each storage once, the layer's parameters left out."""
    own = {one.untyped_storage().data_ptr() for one in layer.parameters()}
    storages: dict[int, int] = {}
    held: list[Tensor] = []

    def pack(x: Tensor) -> Tensor:
        held.append(x)  # so that no address is used again meanwhile
        if x.untyped_storage().data_ptr() not in own:
            storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        held.append(layer(x))
    return sum(storages.values())


def _peak_bytes(step: Callable[[], object]) -> int:
    """Return the most bytes that a step, run once before, holds at a time beyond what it found.

    After each operation the tensors that exist then are counted, not what an operation needs inside.
    """
    with _LiveStorages() as live:
        step()
    return live.peak


class _LiveStorages(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._found: set[StorageWeakRef] = set()
        self._made: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for storage in _storages((args, kwargs)):
            if (reference := StorageWeakRef(storage)) not in self._made:
                self._found.add(reference)
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if (reference := StorageWeakRef(storage)) not in self._found:
                self._made[reference] = storage.nbytes()
        self._made = {reference: size for reference, size in self._made.items() if not reference.expired()}
        self.peak = max(self.peak, sum(self._made.values()))
        return result


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor)]


def _throughput(device: torch.device) -> dict[str, float]:
    """Attribute prompts of 128 tokens by a random model of the size of Qwen2.5-0.5B in bf16; samples a second."""
    config = Qwen2Config(**QWEN_05B)
    with device:
        model = Qwen2ForCausalLM(config).to(torch.bfloat16).eval()
        ids = torch.randint(config.vocab_size, (8, 128))
    (seconds,) = time_in_turn(lambda: attribute(model, ids), repeats=3, device=device)
    return {"kva/samples_per_s_of_0.5B_on_gpu": len(ids) / float(np.median(seconds))}
