"""Gradient training as a `Learner`: model, loss, optimiser and data on Accelerate, resumable bit for bit.

The batch size is the number of samples behind one update. How they are cut up, over processes (DDP) and over
micro-batches (gradient accumulation), is a matter of time and memory and does not change what is computed.

    def loss(model, batch):
        inputs, labels = batch
        return cross_entropy(model(inputs), labels)

    batches = ResumableBatches(dataset, 64, seed=run.seed)
    learner = Supervised(model, loss, optimizer, batches, device=run.device, precision="bf16", accumulation=4)
    run.fit(learner, steps=1000)
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedType, GradientAccumulationPlugin, patch_environment, send_to_device
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Subset

from iclr_repro.core import distributed
from iclr_repro.core.batches import Collate, ResumableBatches, Samples, differences, refuse

Loss = Float[Tensor, ""]
LossFunction = Callable[[nn.Module, Any], Loss | tuple[Loss, Mapping[str, float | Tensor]]]
Metric = Callable[[nn.Module, Any], Mapping[str, Tensor]]
Precision = Literal["no", "bf16", "fp16"]

_OWN_NAMES = {"loss", "learning_rate"}  # what `step` itself reports


class Supervised:
    """A model trained by gradient steps: one `step` is one update of the optimiser.

    Device, mixed precision and processes are Accelerate's: under `torchrun` or `accelerate launch` the same code trains
    on several processes, and an update is the one that a single process would make (up to the order of a sum), provided
    that the loss is a mean over samples and samples do not influence each other (batch norm lets them).

    FSDP is refused: its sharded state cannot be checkpointed here yet.

    Args:
        model: trained in place; moved to the device. Learners may use a model one after the other.
        loss: loss(model, batch) returns the mean loss of a batch, alone or with a dict of further scalars to report. It
            is given the batch on the device, and the model or its DDP wrapper, which it calls. In mixed precision the
            model computes in bf16 or fp16 and returns float32.
        optimizer: over the parameters of `model`.
        batches: what to train on.
        device: `cpu`, `cuda`, `cuda:<index>` or `mps`. Under a launcher each process has a GPU of its own: `cuda`.
        scheduler: of the learning rate of `optimizer`; stepped once an update.
        precision: "no" (that of the model), "bf16" or "fp16" (with loss scaling; not on the CPU).
        accumulation: micro-batches that a process works through for an update, >= 1. More of them need less memory.
        clip_norm: largest Euclidean norm of the gradient of an update; None: any.

    Attributes:
        model: the model itself, never wrapped.
        batches: the training data.
        accelerator: the `accelerate.Accelerator`, for its device and process index.

    Raises:
        ValueError: the batch cannot be cut up evenly, the device does not offer what is asked of it, or FSDP.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: LossFunction,
        optimizer: Optimizer,
        batches: ResumableBatches,
        *,
        device: str | torch.device,
        scheduler: LRScheduler | None = None,
        precision: Precision = "no",
        accumulation: int = 1,
        clip_norm: float | None = None,
    ) -> None:
        self.accelerator = _new_accelerator(torch.device(device), precision)
        if self.accelerator.distributed_type == DistributedType.FSDP:
            raise ValueError(
                "under FSDP each process holds a shard of the model and of the optimiser, and checkpoints of shards are"
                " not supported: launch with DDP (torchrun, or accelerate launch --multi_gpu)"
            )
        batches.split(
            process=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
            accumulation=accumulation,
        )
        self.model = model
        self.batches = batches
        self._loss = loss
        _forget_preparation(model)
        self._wrapped, self._optimizer = self.accelerator.prepare(model, optimizer)
        # Not prepared: Accelerate would step it once a process, for loaders whose batch grows with their number.
        self._scheduler = scheduler
        self._precision = precision
        self._clip_norm = clip_norm

    def step(self) -> dict[str, float]:
        """Make one update; return its loss, the further values and, with a scheduler, the learning rate it used.

        Loss and values are means over micro-batches and processes.

        Raises:
            ValueError: the loss function returned something else than it should.
        """
        micro_batches = self.batches.take()
        reports = []
        for number, batch in enumerate(micro_batches, start=1):
            # Processes add up their gradients in the backward pass: once an update is enough.
            with nullcontext() if number == len(micro_batches) else self.accelerator.no_sync(self._wrapped):
                loss, report = self._loss_and_report(batch)
                self.accelerator.backward(loss / len(micro_batches))
            reports.append(report)
        if self._clip_norm is not None:
            self.accelerator.clip_grad_norm_(self._wrapped.parameters(), self._clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        means = self._means(reports)
        if self._scheduler is not None:
            means["learning_rate"] = float(self._optimizer.param_groups[0]["lr"])
            if not self.accelerator.optimizer_step_was_skipped:  # by the loss scaling of fp16
                self._scheduler.step()
        return means

    def evaluate(
        self,
        dataset: Samples,
        metric: Metric,
        *,
        batch_size: int,
        collate_fn: Collate | None = None,
        num_workers: int = 0,
    ) -> dict[str, float]:
        """Average per-sample values over a dataset, each sample once, whatever the number of processes.

        Processes take equal shares; where the number of samples does not divide, the last sample is computed again to
        fill up, and those values are thrown away. Meanwhile the model is in evaluation mode and keeps no gradients.

        Args:
            dataset: at least one sample.
            metric: metric(model, batch) returns tensors [samples in the batch] by name, for example
                `{"accuracy": model(inputs).argmax(1) == labels}`. It is given the batch on the device.
            batch_size: samples of one call in one process; changes time and memory only.
            collate_fn: makes a batch of a list of samples; None: torch's `default_collate`.
            num_workers: processes that load ahead; 0: none.

        Returns:
            The mean over the samples of each value, taken in float64, and `n`, the number of samples.

        Raises:
            ValueError: there is no sample, or `metric` does not return one value a sample, or names one `n`.
        """
        num_samples = len(dataset)
        if num_samples == 0:
            raise ValueError("evaluate: the dataset has no sample, so there is no mean")
        share = -(-num_samples // self.accelerator.num_processes)
        first = self.accelerator.process_index * share
        indices = [min(index, num_samples - 1) for index in range(first, first + share)]
        loader: DataLoader[Any] = DataLoader(
            Subset(dataset, indices),  # type: ignore[arg-type]  # torch annotates its own class; any Samples will do
            batch_size=batch_size,
            collate_fn=collate_fn,
            num_workers=num_workers,
            generator=torch.Generator(),  # a loader without one draws from torch's global one
        )
        values: dict[str, list[Tensor]] = defaultdict(list)
        with torch.no_grad(), _evaluation_mode(self.model):
            for batch in loader:
                for name, value in metric(self._wrapped, send_to_device(batch, self.accelerator.device)).items():
                    values[name].append(torch.atleast_1d(value))
        if "n" in values:
            raise ValueError("evaluate: 'n' is the number of samples in the result: give that metric another name")
        means = {}
        for name, parts in values.items():
            local = torch.cat(parts)
            if local.shape != (share,):
                raise ValueError(
                    f"metric {name!r}: got shape {list(local.shape)} for {share} samples, expected [{share}]:"
                    " return one value a sample, not their mean"
                )
            # Shares are consecutive, so what is gathered stands in the dataset's order, with the fill-up at the end.
            everywhere = self.accelerator.gather(local.to(_report_dtype(local)))[:num_samples]
            means[name] = everywhere.cpu().double().mean().item()
        return {**means, "n": float(num_samples)}

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on but torch's global random state (dropout), which `fit` saves.

        As in torch, the tensors are those in use: save or copy them before the next step.
        """
        return {
            "settings": self._settings(),
            "batches": self.batches.state_dict(),
            "model": dict(self.model.state_dict()),
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict() if self._scheduler is not None else None,
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state, which may come from another number of processes or micro-batches.

        Raises:
            ValueError: the state does not fit. Every mismatch is listed with both sides, and nothing has been changed.
        """
        own = self.state_dict()
        refuse(_key_differences("entries", state, own))
        refuse(
            [
                *differences(state["settings"], own["settings"]),
                *self.batches.mismatches(state["batches"]),
                *_model_differences(state["model"], own["model"]),
            ]
        )
        self.batches.load_state_dict(state["batches"])
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state["scheduler"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _settings(self) -> dict[str, Any]:
        return {
            "precision": self._precision,
            "optimizer": type(self._optimizer.optimizer).__name__,
            "parameters by optimizer group": [len(group["params"]) for group in self._optimizer.param_groups],
            "scheduler": None if self._scheduler is None else type(self._scheduler).__name__,
        }

    def _loss_and_report(self, batch: Any) -> tuple[Loss, dict[str, Loss]]:
        """Return the loss of a micro-batch, and it and the further values as tensors of one dtype without gradient."""
        returned = self._loss(self._wrapped, send_to_device(batch, self.accelerator.device))
        loss, metrics = returned if isinstance(returned, tuple) else (returned, {})
        if loss.ndim != 0:
            raise ValueError(
                f"the loss function returned a tensor of shape {list(loss.shape)}, expected a scalar:"
                " return the mean over the samples of the batch"
            )
        if taken := sorted(_OWN_NAMES & metrics.keys()):
            raise ValueError(f"the loss function reports {taken}, which `step` itself reports: choose another name")
        dtype = _report_dtype(loss)
        values = {"loss": loss, **metrics}
        return loss, {
            name: torch.as_tensor(value, dtype=dtype, device=loss.device).detach() for name, value in values.items()
        }

    def _means(self, reports: list[dict[str, Loss]]) -> dict[str, float]:
        names = list(reports[0])
        if any(list(report) != names for report in reports):
            raise ValueError(f"the loss function reports different values by batch: {[list(r) for r in reports]}")
        stacked = torch.stack([torch.stack(list(report.values())) for report in reports])
        means = self.accelerator.reduce(stacked.mean(dim=0), reduction="mean")
        return dict(zip(names, means.tolist(), strict=True))


def _new_accelerator(device: torch.device, precision: Precision) -> Accelerator:
    """Build an Accelerator with its own device and precision, whatever this process has trained before.

    Accelerate keeps these for the whole process, in dictionaries that all its objects share, and refuses to change
    them. New dictionaries leave earlier objects theirs; Accelerate's own reset would empty them under earlier learners.
    """
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("precision: 'fp16' needs a GPU: use 'bf16' or 'no' on the CPU")
    for shared in (PartialState, AcceleratorState, GradientState):
        shared._shared_state = {}
    launched = "LOCAL_RANK" in os.environ  # then each process is given the GPU of its rank
    distributed.keep_to_this_host()
    with patch_environment(**({} if launched else {"ACCELERATE_TORCH_DEVICE": device})):
        accelerator = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=precision,
            # Stated here, since a launcher's environment could set it otherwise: `step` does its own accumulation.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        )
    if accelerator.device.type != device.type:
        raise ValueError(
            f"device: {str(device)!r} asked for, but under this launcher Accelerate puts the process on"
            f" {str(accelerator.device)!r}: use device={accelerator.device.type}, or launch it for {device.type}"
        )
    return accelerator


def _forget_preparation(model: nn.Module) -> None:
    """Undo what Accelerate did to a model of an earlier learner; it would leave it as it is, in its old precision."""
    if "_original_forward" in vars(model):
        model.forward = vars(model).pop("_original_forward")
    vars(model).pop("_is_accelerate_prepared", None)


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, then those of its modules that were in training mode back into it."""
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


def _report_dtype(values: Tensor) -> torch.dtype:
    """Return the dtype to average in: that of the values, but float32 for integers, bool and half precision."""
    return torch.promote_types(values.dtype, torch.float32)


def _key_differences(what: str, saved: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    sides = {"only in the checkpoint": saved.keys() - own.keys(), "only here": own.keys() - saved.keys()}
    return [f"{what} {where}: {', '.join(sorted(names))}" for where, names in sides.items() if names]


def _model_differences(saved: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """Compare two state dicts of models by their names and the shapes of their tensors."""
    shapes = [
        f"{name}: shape {list(saved[name].shape)} in the checkpoint, {list(value.shape)} here"
        for name, value in own.items()
        if isinstance(value, Tensor) and isinstance(saved.get(name), Tensor) and saved[name].shape != value.shape
    ]
    return [*_key_differences("model entries", saved, own), *shapes]
