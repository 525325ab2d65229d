"""Trains a small model: imported by test_supervised.py, and run by it as `torchrun ... two_processes.py <folder>`.

Rank 0 writes what came out to <folder>/report.json, and a checkpoint after CHECKPOINT steps to <folder>/checkpoint.pt.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from iclr_repro.core import distributed
from iclr_repro.core.batches import ResumableBatches
from iclr_repro.core.supervised import Supervised

STEPS = 12
CHECKPOINT = 7
NUM_SAMPLES = 21  # with batches of 8 the epoch ends within a batch, and 2 processes do not divide it

Sample = tuple[Tensor, Tensor, float]


def make_samples() -> list[Sample]:
    """Return (inputs [5], label, 2 ** number of the sample): sums of the last tell which samples are in them."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(NUM_SAMPLES, 5, generator=generator, dtype=torch.float64)
    return [(row, (row.sum() > 0).long(), 2.0**number) for number, row in enumerate(inputs)]


def loss(model: nn.Module, batch: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    inputs, labels, _ = batch
    scores = model(inputs)
    return nn.functional.cross_entropy(scores, labels), {"accuracy": (scores.argmax(1) == labels).double().mean()}


def metric(model: nn.Module, batch: list[Tensor]) -> dict[str, Tensor]:
    inputs, labels, powers = batch
    scores = model(inputs)
    return {"loss": nn.functional.cross_entropy(scores, labels, reduction="none"), "power": powers}


def make_learner(accumulation: int = 1, *, device: str = "cpu") -> Supervised:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    batches = ResumableBatches(make_samples(), 8, seed=11, drop_last=False)
    return Supervised(
        model, loss, optimizer, batches, device=device, scheduler=scheduler, accumulation=accumulation, clip_norm=0.5
    )


def weights(learner: Supervised) -> list[float]:
    return torch.cat([weight.detach().flatten() for weight in learner.model.parameters()]).tolist()


def train(folder: Path) -> None:
    learner = make_learner()
    result: dict[str, Any] = {"num_processes": learner.accelerator.num_processes}
    result["reports"] = [learner.step() for _ in range(CHECKPOINT)]
    if learner.accelerator.is_main_process:
        torch.save(learner.state_dict(), folder / "checkpoint.pt")
    result["reports"] += [learner.step() for _ in range(STEPS - CHECKPOINT)]
    result["weights"] = weights(learner)
    result["evaluation"] = learner.evaluate(make_samples(), metric, batch_size=4)
    accumulating = make_learner(accumulation=2)
    result["reports of 2 micro-batches"] = [accumulating.step() for _ in range(STEPS)]
    try:
        make_learner(device="cuda")
    except ValueError as error:
        result["error"] = str(error)
    if learner.accelerator.is_main_process:
        (folder / "report.json").write_text(json.dumps(result))


if __name__ == "__main__":
    train(Path(sys.argv[1]))
    distributed.stop()
