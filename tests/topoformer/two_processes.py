"""Trains a small SQR model: imported by test_distributed.py, and run by it as `torchrun ... two_processes.py <folder>`.

Every rank writes its gradients and weights to <folder>/<rank>.json.
"""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from iclr_repro.core import distributed
from iclr_repro.core.batches import ResumableBatches
from iclr_repro.core.supervised import Supervised
from iclr_repro.topoformer import TopoformerClassifier, TopographicSelfAttention, reflect_after_step

STEPS = 5
MODES = ("in the forward", "after the step")


def loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    ids, labels = batch
    return nn.functional.cross_entropy(model(ids), labels)


def trained(mode: str) -> dict[str, list[list[float]]]:
    """Return the gradient of each step and the weights at the end, reflected in the way of the mode."""
    torch.manual_seed(5)
    attention = TopographicSelfAttention(16, sq=0.3, sr=0.3)
    model = TopoformerClassifier(attention, vocab_size=20, max_length=6, padding_id=0, dropout=0.0).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    if mode == "after the step":
        reflect_after_step(optimizer, model)
    gradients: list[list[float]] = []
    optimizer.register_step_pre_hook(
        lambda *_: gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]).tolist())  # type: ignore[union-attr]
    )
    ids = torch.randint(1, 20, (24, 6), generator=torch.Generator().manual_seed(3))
    samples = [(row, (row[0] > 9).long()) for row in ids]
    learner = Supervised(model, loss, optimizer, ResumableBatches(samples, 8, seed=11), device="cpu")
    for _ in range(STEPS):
        learner.step()
    attention.fc_out.reflect()  # type: ignore[operator]
    return {"gradients": gradients, "weights": [parameter.flatten().tolist() for parameter in model.parameters()]}


def main(folder: Path) -> None:
    found = {mode: trained(mode) for mode in MODES}
    rank = torch.distributed.get_rank()
    assert torch.distributed.get_world_size() == 2
    (folder / f"{rank}.json").write_text(json.dumps(found))
    distributed.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
