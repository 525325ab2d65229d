"""A client's training: mini-batches, AdamW on phi, one client after the other or many in one pass (sheet 2.2, step 3).

Shape letters: K = clients, B = texts of a batch, T = tokens, H = hidden size, C = labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn import functional

from iclr_repro.core.batches import ResumableBatches
from iclr_repro.core.seeding import seed_sequence
from iclr_repro.fed_prompt.model import PromptModel, load_trainable_state, trainable_state
from iclr_repro.fed_prompt.strategies import ClientUpdate, Parameters


@dataclass(frozen=True, eq=False)
class Texts:
    """Encoded texts of one client or one language.

    Attributes:
        ids: [n, T] token ids.
        mask: [n, T], True where a token counts.
        labels: [n], 0 to C - 1.
        center: [n, H] or None: what is subtracted from the pooled features, the mean of the text's language.
    """

    ids: Int[Tensor, "n T"]
    mask: Bool[Tensor, "n T"]
    labels: Int[Tensor, " n"]
    center: Float[Tensor, "n H"] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, rows: Any) -> Texts:
        """Return some of the texts."""
        rows = torch.as_tensor(rows, dtype=torch.long)
        center = None if self.center is None else self.center[rows]
        return Texts(self.ids[rows], self.mask[rows], self.labels[rows], center)

    @classmethod
    def joined(cls, parts: Sequence[Texts]) -> Texts:
        """Put texts together; they have centers if all parts have."""
        centers = [part.center for part in parts if part.center is not None]
        return cls(
            torch.cat([part.ids for part in parts]),
            torch.cat([part.mask for part in parts]),
            torch.cat([part.labels for part in parts]),
            torch.cat(centers) if len(centers) == len(parts) else None,
        )


@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """How a client trains in a round.

    Attributes:
        steps: updates of a round; None: `epochs` passes over the client's texts, at least one update.
        epochs: E, where `steps` is None.
        batch_size: texts of an update; a client with fewer takes all of them.
        prompt_rate: learning rate of everything but the head.
        head_rate: learning rate of the head.
        weight_decay: of AdamW.
        optimizer: adamw or sgd (plain).
        optimizer_state: reset: AdamW starts anew in every round, as in Flower; keep: it lives on at the client.
        encoder_eval: no dropout in the encoder while training.
    """

    steps: int | None = 3
    epochs: int = 1
    batch_size: int = 16
    prompt_rate: float = 1e-2
    head_rate: float = 1e-2
    weight_decay: float = 0.01
    optimizer: Literal["adamw", "sgd"] = "adamw"
    optimizer_state: Literal["reset", "keep"] = "reset"
    encoder_eval: bool = False

    def num_steps(self, num_texts: int) -> int:
        """Return the updates of a round of a client with so many texts."""
        return self.steps or max(1, math.ceil(self.epochs * num_texts / min(self.batch_size, num_texts)))


class PromptTrainer:
    """Trains clients one after the other on one model: phi is loaded, trained, and returned.

    The texts of an update and the dropout of a round are functions of seed, client and round, whichever process trains.

    Args:
        model: the frozen encoder with its prompt module and head; phi in it is overwritten.
        clients: the texts of each.
        training: how.
        seed: of the order of the texts and of dropout.

    Raises:
        ValueError: a client without a text, or with a label that the head does not have.
    """

    def __init__(self, model: PromptModel, clients: Sequence[Texts], training: LocalTraining, *, seed: int) -> None:
        num_labels = model.head.out_proj.out_features
        for number, texts in enumerate(clients):
            if len(texts) == 0:
                raise ValueError(f"client {number} has no text: leave it out of the federation")
            if wrong := sorted({int(x) for x in texts.labels if not 0 <= x < num_labels}):
                raise ValueError(
                    f"client {number} has labels {wrong}, the head has {num_labels}: expected 0 to {num_labels - 1};"
                    " use one list of labels for all clients, and a head of its length"
                )
        self.model, self.clients, self.training = model, list(clients), training
        self._device = next(model.parameters()).device
        self._seed = seed
        self._optimizers: dict[int, dict[str, Any]] = {}

    def train(self, client: int, parameters: Parameters, round: int, *, proximal_mu: float = 0.0) -> ClientUpdate:
        """Train one client from `parameters`; see `Federation`."""
        load_trainable_state(self.model, tensors(parameters, self._device))
        self.model.train()
        if self.training.encoder_eval:
            self.model.encoder.eval()
        state = trainable_state(self.model)
        start = {name: value.detach().clone() for name, value in state.items()} if proximal_mu else {}
        optimizer = self._optimizer(state)
        if client in self._optimizers:
            optimizer.load_state_dict(self._optimizers[client])
        losses = []
        with _dropout_of(self._seed, client, round):
            for rows in self._batches(client, round):
                batch = self.clients[client].rows(rows)
                logits = self.model(*inputs_of(batch, self._device))
                loss = functional.cross_entropy(logits, batch.labels.to(self._device))
                losses.append(loss.detach())
                if proximal_mu:
                    loss = loss + proximal_mu / 2 * sum((state[n] - start[n]).square().sum() for n in state)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        if self.training.optimizer_state == "keep":
            self._optimizers[client] = optimizer.state_dict()
        return ClientUpdate(
            arrays(state), num_examples=len(self.clients[client]), loss=float(torch.stack(losses).mean())
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimisers that clients keep."""
        return {"optimizers": dict(self._optimizers)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it."""
        self._optimizers = {int(client): kept for client, kept in state["optimizers"].items()}

    def _batches(self, client: int, round: int) -> list[np.ndarray]:
        """Return the rows of each update of a round; the stream of shuffled texts goes on from round to round."""
        texts = self.clients[client]
        seed = int(seed_sequence(self._seed, f"order of client {client}").generate_state(1)[0])
        size = min(self.training.batch_size, len(texts))
        stream = ResumableBatches(range(len(texts)), size, seed=seed, drop_last=False)
        steps = self.training.num_steps(len(texts))
        return [stream.indices((round - 1) * steps + step) for step in range(steps)]

    def _optimizer(self, state: Mapping[str, Tensor]) -> torch.optim.Optimizer:
        training = self.training
        groups = [
            {"params": [v for n, v in state.items() if not n.startswith("head.")], "lr": training.prompt_rate},
            {"params": [v for n, v in state.items() if n.startswith("head.")], "lr": training.head_rate},
        ]
        groups = [group for group in groups if group["params"]]
        if training.optimizer == "sgd":
            return torch.optim.SGD(groups)
        return torch.optim.AdamW(groups, weight_decay=training.weight_decay)


class StackedPromptTrainer(PromptTrainer):
    """Trains all clients of a round in one pass, each with its own prompts and head (not lora, full).

    The clients' batches go through the frozen encoder together; prompts and heads are stacked, so that the gradient of
    the sum of the clients' losses is the gradient of each. Equal to `PromptTrainer` up to rounding.

    Raises:
        ValueError: the encoder differs between clients (lora, full), there is dropout, which would differ from one
            client at a time, optimiser states are kept, or clients have different numbers of updates or batch sizes.
    """

    def __init__(self, model: PromptModel, clients: Sequence[Texts], training: LocalTraining, *, seed: int) -> None:
        super().__init__(model, clients, training, seed=seed)
        if model.kind in ("lora", "full"):
            raise ValueError(f"kind {model.kind!r} changes the encoder at each client: use PromptTrainer")
        if not training.encoder_eval or model.head.dropout.p > 0 or training.optimizer_state == "keep":
            raise ValueError(
                "clients are stacked without dropout and with fresh optimisers only: set encoder_eval, dropout=0 and"
                " optimizer_state='reset', or use PromptTrainer"
            )
        sizes = {(training.num_steps(len(x)), min(training.batch_size, len(x))) for x in clients}
        if len(sizes) > 1:
            raise ValueError(
                f"clients have different (updates, batch sizes) {sorted(sizes)}: give `steps`, and a batch_size that no"
                " client is below, or use PromptTrainer"
            )

    def train_together(
        self, clients: Sequence[int], parameters: Sequence[Parameters], round: int, *, proximal_mu: float = 0.0
    ) -> list[ClientUpdate]:
        """Return what `train` returns for each of the clients, up to rounding."""
        self.model.eval()
        start = {
            name: torch.stack([torch.as_tensor(own[name]) for own in parameters]).to(self._device)
            for name in parameters[0]
        }
        stacked = {name: value.clone().requires_grad_() for name, value in start.items()}
        optimizer = self._optimizer(stacked)
        losses = []
        for rows_K in zip(*(self._batches(client, round) for client in clients), strict=True):
            batches = [self.clients[client].rows(rows) for client, rows in zip(clients, rows_K, strict=True)]
            logits_KBC = self._logits(stacked, batches)
            labels_KB = torch.stack([batch.labels for batch in batches]).to(self._device)
            loss_K = functional.cross_entropy(logits_KBC.transpose(1, 2), labels_KB, reduction="none").mean(dim=1)
            losses.append(loss_K.detach())
            total = loss_K.sum()
            if proximal_mu:
                total = total + proximal_mu / 2 * sum((stacked[n] - start[n]).square().sum() for n in stacked)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        mean_K = torch.stack(losses).mean(dim=0).tolist()
        found = arrays(stacked)
        return [
            ClientUpdate(
                {name: value[place].copy() for name, value in found.items()},
                num_examples=len(self.clients[client]),
                loss=mean_K[place],
            )
            for place, client in enumerate(clients)
        ]

    def _logits(self, stacked: Mapping[str, Tensor], batches: Sequence[Texts]) -> Float[Tensor, "K B C"]:
        model = self.model
        num_clients, size = len(batches), len(batches[0])
        ids, mask, center = inputs_of(Texts.joined(batches), self._device)
        virtual = None
        if model.prompt is not None:
            own = {n.removeprefix("prompt."): v for n, v in stacked.items() if n.startswith("prompt.")}
            module = model.prompt
            virtual_KmD = vmap(lambda p: functional_call(module, p, (model.virtual_ids,)))(own)
            virtual = virtual_KmD.repeat_interleave(size, dim=0)
        features = model.features(ids, mask, center, virtual=virtual)
        head = {n.removeprefix("head."): v for n, v in stacked.items() if n.startswith("head.")}
        logits: Tensor = vmap(lambda p, x: functional_call(model.head, p, (x,)))(
            head, features.view(num_clients, size, -1)
        )
        return logits


def predictions(model: PromptModel, texts: Texts, *, batch_size: int = 64) -> Int[Tensor, " n"]:
    """Return the most probable label of each text, over all outputs of the head."""
    device = next(model.parameters()).device
    model.eval()
    found = []
    with torch.inference_mode():
        for start in range(0, len(texts), batch_size):
            batch = texts.rows(torch.arange(start, min(start + batch_size, len(texts))))
            found.append(model(*inputs_of(batch, device)).argmax(dim=1).cpu())
    return torch.cat(found)


def language_center(model: PromptModel, texts: Texts, *, batch_size: int = 128) -> Float[Tensor, " H"]:
    """Return the mean pooled features of unlabelled texts under the model's present phi, before any scaling.

    Every client computes this for itself, of its own texts; nothing is shared (sheet 7, step 6).
    """
    device = next(model.parameters()).device
    model.eval()
    with torch.no_grad():
        parts = [
            model.features(*inputs_of(texts.rows(torch.arange(start, min(start + batch_size, len(texts)))), device)[:2])
            for start in range(0, len(texts), batch_size)
        ]
    return torch.cat(parts).mean(dim=0).cpu() / model.feature_scale


def inputs_of(batch: Texts, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return ids, mask and centers of a batch on a device, cut to its longest text."""
    length = int(batch.mask.sum(dim=1).max())
    center = None if batch.center is None else batch.center.to(device)
    return batch.ids[:, :length].to(device), batch.mask[:, :length].to(device), center


def arrays(state: Mapping[str, Tensor]) -> Parameters:
    """Return tensors as arrays of their own."""
    return {name: value.detach().cpu().numpy().copy() for name, value in sorted(state.items())}


def tensors(parameters: Parameters, device: torch.device) -> dict[str, Tensor]:
    """Return arrays as tensors on a device."""
    return {name: torch.as_tensor(value, device=device) for name, value in parameters.items()}


@contextmanager
def _dropout_of(seed: int, client: int, round: int) -> Iterator[None]:
    """Let dropout, which draws from torch's global generator, depend on seed, client and round alone."""
    with torch.random.fork_rng():
        torch.manual_seed(int(seed_sequence(seed, f"dropout of client {client}, round {round}").generate_state(1)[0]))
        yield
