"""Attainment and dead rate of trained models as metrics, the same for every experiment that trains (E3, E5, E7)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from iclr_repro.entropy_linear_attention.conversion import attainment_report


def attainment_metrics(model: nn.Module, x: Tensor, *, generator: torch.Generator, prefix: str) -> dict[str, float]:
    """`<prefix>/attainment/<layer>` and `<prefix>/dead/<layer>` of the EALA layers of a model on inputs x."""
    report = attainment_report(model, x, generator=generator)
    return {
        f"{prefix}/{quantity}/{layer}": float(value)
        for layer, row in report.iterrows()
        for quantity, value in row.items()
    }
