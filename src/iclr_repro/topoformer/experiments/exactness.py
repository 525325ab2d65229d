"""What must hold exactly (the identities of the sheet), and how fast the vectorised code is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from iclr_repro.core import plotting
from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.footprint import Network, example
from iclr_repro.core.rundir import Run
from iclr_repro.core.timing import time_in_turn
from iclr_repro.topoformer.attention import TopographicSelfAttention
from iclr_repro.topoformer.baselines import materialised_attention, topographic_statistic_by_loop
from iclr_repro.topoformer.classifier import TopoformerClassifier
from iclr_repro.topoformer.experiments._training import seeded
from iclr_repro.topoformer.invariants import FLAGS, violations
from iclr_repro.topoformer.masked_lm import TopoformerBlock, TopoformerConfig
from iclr_repro.topoformer.statistic import forget_distances, topographic_statistic

_VOCABULARY = 2000


@dataclass(frozen=True, kw_only=True)
class Identities:
    """The worst violations of the identities I1 to I6, in float64 (T8)."""

    uses_seeds: ClassVar[bool] = False

    sheets: tuple[tuple[int, float], ...] = parameter("pairs of d and the share of a receptive field")
    num_examples: int = parameter("random examples", low=10)

    def run(self, run: Run) -> Result:
        """Measure; 0 up to rounding."""
        found = pd.DataFrame(
            violations(num_units, area_frac, num_examples=self.num_examples, generator=run.torch_rng("draws"))
            for num_units, area_frac in self.sheets
        )
        worst = found.max(skipna=False)  # NaN stays, and no result holds it
        worst[list(FLAGS)] = found[list(FLAGS)].min(skipna=False)  # to hold on every sheet
        deviations = found["i6_deviation_of_permutations"]
        worst["i6_smallest_deviation_of_permutations"] = deviations.min(skipna=False)
        table = worst.rename("worst violation").rename_axis("identity").to_frame()
        return Result(metrics={**worst.astype(float), "n": self.num_examples}, tables={"identities": table})


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Ratios of processor times in one process: SQR to control, t_g to a loop, SDPA to score matrices."""

    uses_seeds: ClassVar[bool] = False

    classifier: tuple[int, int, int] = parameter("d, texts and tokens of a training step of the one-layer model", low=1)
    block: tuple[int, int, int] = parameter("d, sequences and tokens of a training step of a BERT block", low=1)
    statistic: tuple[int, int] = parameter("examples and d of the activations of t_g", low=9)
    attention: tuple[int, int, int] = parameter("d, sequences and tokens of the attention alone", low=1)
    repeats: int = parameter("timings after the warm-up", low=2)

    def run(self, run: Run) -> Result:
        """Time each pair after a warm-up, alternately; a ratio a repeat."""
        with seeded(run):
            classifier = time_in_turn(
                *(_classifier_step(*self.classifier, sq=sq, sr=sr) for sq, sr in _PAIR), repeats=self.repeats
            )
            block = time_in_turn(
                *(_block_step(*self.block, sq=sq, sr=sr) for sq, sr in _BLOCK_PAIR), repeats=self.repeats
            )
            fused, materialised = _attention_steps(*self.attention)
        num_examples, num_units = self.statistic
        activations = run.rng("activations").standard_normal((num_examples, num_units))
        vectorised = time_in_turn(lambda: topographic_statistic(activations), repeats=self.repeats)[0]
        first_call = time_in_turn(lambda: _statistic_without_tables(activations), repeats=self.repeats)[0]
        loop = time_in_turn(lambda: topographic_statistic_by_loop(activations), repeats=2)[0]
        attention = time_in_turn(fused, materialised, repeats=self.repeats)
        kept = [_bytes_kept(step) for step in (fused, materialised)]
        metrics: dict[str, float | np.ndarray] = {
            "classifier/sqr_over_control": classifier[0] / classifier[1],
            "block/sqr_over_control": block[0] / block[1],
            "t_g/speedup": np.median(loop) / vectorised,
            "t_g/speedup_first_call": np.median(loop) / first_call,
            "t_g/difference": abs(topographic_statistic(activations).mean - topographic_statistic_by_loop(activations)),
            "attention/fused_over_materialised": attention[0] / attention[1],
            "attention/memory_fused_over_materialised": kept[0] / kept[1],
            "attention/fused_keeps_less": float(kept[0] < kept[1]),
            "classifier/sqr_ms": 1e3 * float(np.median(classifier[0])),
            "t_g/vectorised_ms": 1e3 * float(np.median(vectorised)),
            "t_g/first_call_ms": 1e3 * float(np.median(first_call)),
            "t_g/loop_ms": 1e3 * float(np.median(loop)),
            "attention/fused_ms": 1e3 * float(np.median(attention[0])),
            "n": self.repeats,
        }
        ratios = {name: value for name, value in metrics.items() if "_over_" in name and "memory" not in name}
        return Result(metrics=metrics, figures={"ratios": plotting.ratios(ratios)})

    def networks(self) -> Iterator[Network]:
        """Describe the model and the block of the training steps, SQR and control."""
        width, num_texts, num_tokens = self.classifier
        ids = {"ids_BT": example(num_texts, num_tokens, dtype=torch.int64)}
        for name, (sq, sr) in zip(("SQR", "control"), _PAIR, strict=True):
            yield Network(name=f"classifier {name}", build=partial(_classifier, width, num_tokens, sq, sr), inputs=ids)
        width, num_sequences, num_tokens = self.block
        x_BTD = example(num_sequences, num_tokens, width)
        for name, (sq, sr) in zip(("SQR", "control"), _BLOCK_PAIR, strict=True):
            yield Network(
                name=f"block {name}",
                build=partial(_block, width, sq, sr),
                inputs={"x_BTD": x_BTD},
                forward=lambda block, x_BTD: block(x_BTD, None)[0],
            )


def _statistic_without_tables(activations: np.ndarray) -> None:
    """As the first call for a number of units, which makes the tables of distances that later ones share."""
    forget_distances()
    topographic_statistic(activations)


_PAIR = ((0.1, 0.3), (-1.0, -1.0))  # sq and sr of SQR and control
_BLOCK_PAIR = ((0.3, 0.3), (-1.0, -1.0))


def _classifier(num_units: int, num_tokens: int, sq: float, sr: float) -> TopoformerClassifier:
    return TopoformerClassifier(
        TopographicSelfAttention(num_units, sq=sq, sr=sr),
        vocab_size=_VOCABULARY,
        max_length=num_tokens,
        padding_id=0,
    )


def _block(num_units: int, sq: float, sr: float) -> TopoformerBlock:
    return TopoformerBlock(
        TopoformerConfig(hidden_size=num_units, intermediate_size=4 * num_units, sq=sq, sr=sr, hidden_dropout_prob=0.0)
    )


def _classifier_step(num_units: int, num_texts: int, num_tokens: int, *, sq: float, sr: float) -> Callable[[], None]:
    model = _classifier(num_units, num_tokens, sq, sr)
    ids = torch.randint(1, _VOCABULARY, (num_texts, num_tokens))
    labels = torch.arange(num_texts) % 2
    return _training_step(model, lambda: F.cross_entropy(model(ids), labels))


def _block_step(num_units: int, num_sequences: int, num_tokens: int, *, sq: float, sr: float) -> Callable[[], None]:
    block = _block(num_units, sq, sr)
    x_BTD = torch.randn(num_sequences, num_tokens, num_units)
    return _training_step(block, lambda: block(x_BTD, None)[0].square().mean())


def _training_step(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def _attention_steps(
    num_units: int, num_sequences: int, num_tokens: int
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Forward and backward of pooled attention, with the fused kernel and with scores in memory; both make M."""
    attention = TopographicSelfAttention(num_units, sq=0.1, sr=-1.0)
    assert attention.querying is not None
    pool = attention.querying
    inputs = [torch.randn(num_sequences, num_tokens, num_units, requires_grad=True) for _ in range(3)]

    def fused() -> Tensor:
        query, key, value = inputs
        out = F.scaled_dot_product_attention(pool(query).unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1))
        out.sum().backward()
        return out

    def materialised() -> Tensor:
        query, key, value = inputs
        out, _ = materialised_attention(query, key, value, pool.pooling_matrix(torch.float32))
        out.sum().backward()
        return out

    return fused, materialised


def _bytes_kept(step: Callable[[], object]) -> int:
    """Return the bytes that a forward keeps for its backward, each storage counted once."""
    storages: dict[int, int] = {}
    held: list[Tensor] = []

    def pack(x: Tensor) -> Tensor:
        held.append(x)  # so that no address is used again meanwhile
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        step()
    return sum(storages.values())
