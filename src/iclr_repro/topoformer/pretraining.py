"""Masked-language-model pre-training on streamed text: packed segments, a budget-triangle rate, a batch ramp (4.2).

Shape letters: B = segments of a micro-batch, T = tokens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from iclr_repro.topoformer.masked_lm import TopoformerForMaskedLM
from iclr_repro.topoformer.text import mask_tokens


class SegmentStream:
    """An endless stream of shuffled segments of a text data set, whose place can be saved and found again.

    Documents are tokenised as they come, joined with a separator and cut into segments; a pool of segments is drawn
    from at random and refilled. When the documents end they start again.

    Args:
        documents: a `datasets.IterableDataset` (streamed from anywhere) with a field "text".
        tokenize: text to ids.
        length: T.
        separator: id after each document.
        pool_size: segments to draw from; all of them in the checkpoint.
        seed: of the draws.
        max_segments: of an epoch, after which the documents start again as at their end; None: all.

    Raises:
        ValueError: the documents do not fill a single segment (when the first is taken).
    """

    def __init__(
        self,
        documents: datasets.IterableDataset,
        tokenize: Callable[[str], Sequence[int]],
        *,
        length: int,
        separator: int,
        pool_size: int,
        seed: int,
        max_segments: int | None = None,
    ) -> None:
        self._documents, self._tokenize = documents, tokenize
        self._length, self._separator, self._pool_size = length, separator, pool_size
        self._max_segments = max_segments
        self._generator = torch.Generator().manual_seed(seed)
        self._rest: list[int] = []
        self._pool: list[Tensor] = []
        self._iterator: Iterator[dict[str, Any]] = iter(documents)
        self._num_read = self._num_cut = 0  # documents and segments of this epoch

    def take(self, batch_size: int) -> Int64[Tensor, "B T"]:
        """Return the next micro-batch."""
        return torch.stack([self._draw() for _ in range(batch_size)])

    def state_dict(self) -> dict[str, Any]:
        """Return how far the epoch is, the tokens and segments that wait, and the state of the draws."""
        return {
            "documents": self._num_read,
            "segments": self._num_cut,
            "rest": list(self._rest),
            "pool": torch.stack(self._pool) if self._pool else torch.empty(0, self._length, dtype=torch.int64),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved place. Documents before it are read again and skipped: exact for every source, if slow."""
        self._num_read, self._num_cut = state["documents"], state["segments"]
        self._iterator = iter(self._documents.skip(self._num_read))
        self._rest, self._pool = list(state["rest"]), list(state["pool"].unbind())
        self._generator.set_state(state["generator"])

    def _draw(self) -> Tensor:
        while len(self._pool) < self._pool_size:
            self._pool.append(self._next_segment())
        place = int(torch.randint(self._pool_size, (), generator=self._generator))
        drawn, self._pool[place] = self._pool[place], self._pool[-1]
        self._pool.pop()
        return drawn

    def _next_segment(self) -> Tensor:
        restarted = False
        if self._num_cut == self._max_segments:
            self._restart()
        while len(self._rest) < self._length:
            document = next(self._iterator, None)
            if document is not None:
                self._num_read += 1
                self._rest.extend((*self._tokenize(document["text"]), self._separator))
                continue
            if restarted:
                raise ValueError(f"documents: all of them together have no {self._length} tokens: give more text")
            restarted = True
            self._restart()
        self._num_cut += 1
        segment, self._rest = torch.tensor(self._rest[: self._length]), self._rest[self._length :]
        return segment

    def _restart(self) -> None:
        self._iterator, self._num_read, self._num_cut = iter(self._documents), 0, 0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to pre-train; the values of the authors in brackets (sheet 4.2).

    Attributes:
        learning_rate: highest [1e-3].
        steps: micro-batches at most, the unit of the triangle where there is no budget of time [600,000].
        budget_s: seconds of the triangle; None: it is over `steps` [12 h].
        micro_batch: segments that go through the model at once [128].
        final_batch: segments of an update at the end of the ramp, a multiple of `micro_batch` [4096].
        ramp_steps: micro-batches until then; 0: no ramp [300,000].
        clip_norm: of the gradient [0.5].
        half_precision: fp16 with loss scaling, on a GPU.
    """

    learning_rate: float
    steps: int
    budget_s: float | None
    micro_batch: int
    final_batch: int
    ramp_steps: int
    clip_norm: float
    half_precision: bool

    def __post_init__(self) -> None:
        """Refuse a final batch that micro-batches cannot fill.

        Raises:
            ValueError: `final_batch` is no multiple of `micro_batch`.
        """
        if self.final_batch < self.micro_batch or self.final_batch % self.micro_batch:
            raise ValueError(
                f"final_batch: got {self.final_batch}, expected a multiple of micro_batch = {self.micro_batch}"
            )

    def accumulation(self, micro_steps: int) -> int:
        """Return the micro-batches of the next update: final_batch / micro_batch, approached in a straight line."""
        most = self.final_batch // self.micro_batch
        progress = min(micro_steps / self.ramp_steps, 1.0) if self.ramp_steps else 1.0
        return round(1 + (most - 1) * progress)

    def num_updates(self) -> int:
        """Return the updates that `steps` micro-batches make."""
        updates = micro_steps = 0
        while micro_steps < self.steps:
            micro_steps += self.accumulation(micro_steps)
            updates += 1
        return updates


def budget_triangle(progress: float) -> float:
    """Return lr / lr0 = min(0.25 + p, 4 - 4 p), for the spent share p of the budget; 0 beyond it.

    Source: sheet 4.2. Example: 0.25 at p = 0, 1 at p = 0.75, 0.4 at p = 0.9.
    """
    return max(min(0.25 + progress, 4.0 - 4.0 * progress), 0.0)


class Pretraining:
    """Pre-training as a learner: a `step` is one update of AdamW on as many micro-batches as the ramp says.

    Args:
        model: trained in place, on its device.
        stream: of segments.
        recipe: sizes and rates.
        mask_id: of the mask token.
        special_ids: tokens that are never predicted.
        generator: of the masks; its state is saved with the learner's.
    """

    def __init__(
        self,
        model: TopoformerForMaskedLM,
        stream: SegmentStream,
        recipe: Recipe,
        *,
        mask_id: int,
        special_ids: Sequence[int],
        generator: torch.Generator,
    ) -> None:
        self.model, self.stream, self.recipe = model, stream, recipe
        self.micro_steps = 0
        self._mask_id, self._special_ids, self._generator = mask_id, tuple(special_ids), generator
        self._device = next(model.parameters()).device
        self._optimizer = torch.optim.AdamW(
            _decayed_groups(model), lr=recipe.learning_rate, betas=(0.9, 0.98), eps=1e-12, fused=True
        )
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=recipe.half_precision)
        self._spent_s = 0.0

    @property
    def progress(self) -> float:
        """The spent share of the budget, in [0, 1]."""
        if self.recipe.budget_s is None:
            return min(self.micro_steps / self.recipe.steps, 1.0)
        return min(self._spent_s / self.recipe.budget_s, 1.0)

    def step(self) -> dict[str, float]:
        """Make one update; return its mean loss in nats, learning rate, batch and gradient norm."""
        started = time.perf_counter()
        rate = self.recipe.learning_rate * budget_triangle(self.progress)
        accumulation = self.recipe.accumulation(self.micro_steps)
        self.model.train()
        losses = [self._backward(accumulation) for _ in range(accumulation)]
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._scaler.unscale_(self._optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        self.micro_steps += accumulation
        loss = float(torch.stack(losses).mean())
        self._spent_s += time.perf_counter() - started
        found = {"loss": loss, "learning_rate": rate, "batch": float(accumulation * self.recipe.micro_batch)}
        # Infinite where fp16 overflowed: the scaler then skips the update and lowers its scale.
        return {**found, "gradient_norm": float(norm)} if math.isfinite(float(norm)) else found

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on."""
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "stream": self.stream.state_dict(),
            "masks": self._generator.get_state(),
            "micro_steps": self.micro_steps,
            "spent_s": self._spent_s,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self.stream.load_state_dict(state["stream"])
        self._generator.set_state(state["masks"])
        self.micro_steps, self._spent_s = state["micro_steps"], state["spent_s"]

    def _backward(self, accumulation: int) -> Tensor:
        segments_BT = self.stream.take(self.recipe.micro_batch)
        read_BT, labels_BT = mask_tokens(
            segments_BT,
            mask_id=self._mask_id,
            vocab_size=self.model.config.vocab_size,
            special_ids=self._special_ids,
            generator=self._generator,
        )
        half = self.recipe.half_precision
        with torch.autocast(self._device.type, torch.float16) if half else nullcontext():
            loss: Tensor = self.model(read_BT.to(self._device), labels=labels_BT.to(self._device)).loss
        self._scaler.scale(loss / accumulation).backward()
        return loss.detach()


def _decayed_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Weight decay 0.01, but none on biases and layer norms (sheet 4.2)."""
    exempt = {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if name == "bias" or isinstance(module, nn.LayerNorm)
    }
    groups: list[list[nn.Parameter]] = [[], []]
    for parameter in model.parameters():
        groups[id(parameter) in exempt].append(parameter)
    return [{"params": groups[0], "weight_decay": 0.01}, {"params": groups[1], "weight_decay": 0.0}]
