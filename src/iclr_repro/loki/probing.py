"""Attributing many prompts: batched by length, kept in float32 shards, resumed where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import nn

from iclr_repro.core.files import read_json, write_atomically, write_json
from iclr_repro.loki.attribution import Rule, attribute, check_prompt_length, interpolation_points
from iclr_repro.loki.decoder import down_projections

_SETTINGS = "attribution.json"


def knowledge_vector_attribution(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    steps: int = 7,
    rule: Rule = "right",
    reuse_prefix: bool = True,
    batch_size: int = 16,
    folder: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Float[npt.NDArray, "N L d"]:
    """Attribute the model's own next token to every row of every down projection, for each prompt.

    Args:
        model: a Hugging Face decoder; see `attribute` for the formula.
        prompts: token ids, of any lengths; prompts of equal length are computed together, so that none is padded.
        steps: interpolation points m.
        rule: where they lie.
        reuse_prefix: compute the last token alone; equal up to rounding.
        batch_size: prompts at once; `steps` times as many sequences.
        folder: keep each batch there as it is done; the same call goes on after an interruption. None: keep nothing.
        progress: called with the number of prompts done and their total.

    Returns:
        [N, L, d] in the order of `prompts`: float32, or float64 for a double-precision model that is not kept in a
        folder (half precision would underflow to ties, sheet 9, pitfall 14).

    Raises:
        ValueError: no prompts, one longer than the context, a model without recognised down projections, or a folder
            that holds attributions of other prompts, settings or weights.
    """
    if not prompts:
        raise ValueError("prompts: got none, expected at least one probe prompt")
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, expected >= 1")
    for prompt in prompts:
        check_prompt_length(model, len(prompt))
    projections = down_projections(model)
    interpolation_points(rule, steps)
    store = None if folder is None else _Shards(Path(folder), _fingerprint(model, prompts, steps, rule, batch_size))
    device = next(model.parameters()).device
    is_double = projections[0].module.weight.dtype == torch.float64 and store is None
    values = np.zeros(
        (len(prompts), len(projections), projections[0].num_rows), dtype=np.float64 if is_double else np.float32
    )
    done = 0
    for number, batch in enumerate(_batches_by_length(prompts, batch_size)):
        found = store.read(number) if store is not None else None
        if found is None:
            ids = torch.tensor([list(prompts[index]) for index in batch], device=device)
            attributed = attribute(model, ids, steps=steps, rule=rule, reuse_prefix=reuse_prefix)
            found = attributed.values.to(torch.float64 if is_double else torch.float32).cpu().numpy()
            if store is not None:
                store.write(number, found)
        values[batch] = found
        done += len(batch)
        if progress is not None:
            progress(done, len(prompts))
    return values


def _batches_by_length(prompts: Sequence[Sequence[int]], batch_size: int) -> list[list[int]]:
    """Return indices of prompts in batches of one length each; a function of the lengths alone."""
    by_length: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(index)
    return [
        indices[start : start + batch_size]
        for _, indices in sorted(by_length.items())
        for start in range(0, len(indices), batch_size)
    ]


def _fingerprint(
    model: nn.Module, prompts: Sequence[Sequence[int]], steps: int, rule: Rule, batch_size: int
) -> dict[str, Any]:
    """What the attributions depend on; weights by the sum of each parameter, which any training changes."""
    sums = {name: float(value.detach().sum(dtype=torch.float64)) for name, value in model.named_parameters()}
    return {
        "prompts": hashlib.sha256(json.dumps([list(map(int, prompt)) for prompt in prompts]).encode()).hexdigest(),
        "num_prompts": len(prompts),
        "rule": rule,
        "steps": steps,
        "batch_size": batch_size,
        "model": type(model).__name__,
        "dtypes": sorted({str(value.dtype) for value in model.parameters()}),
        "weight_sums": sums,
    }


class _Shards:
    """Attributions of batches as float32 .npy files in a folder, beside the settings that they belong to."""

    def __init__(self, folder: Path, fingerprint: dict[str, Any]) -> None:
        self._folder = folder
        settings = folder / _SETTINGS
        if not settings.exists():
            write_json(settings, fingerprint)
        saved = read_json(settings)
        other = [name for name, value in fingerprint.items() if saved.get(name) != value]
        if other:
            raise ValueError(
                f"{folder} holds attributions with other {', '.join(other)}: choose another folder, or delete this one"
            )

    def read(self, number: int) -> npt.NDArray[np.float32] | None:
        path = self._path(number)
        if not path.exists():
            return None
        found: npt.NDArray[np.float32] = np.load(path, allow_pickle=False)
        return found

    def write(self, number: int, values: npt.NDArray[np.float32]) -> None:
        write_atomically(self._path(number), lambda file: np.save(file, values, allow_pickle=False))

    def _path(self, number: int) -> Path:
        return self._folder / f"batch{number:06d}.npy"
