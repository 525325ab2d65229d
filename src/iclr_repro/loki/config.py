"""LokiConfig: which rows of which down projections an adapter trains."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from peft.config import PeftConfig

from iclr_repro.loki.registration import LOKI


@dataclass
class LokiConfig(PeftConfig):
    """Configuration of a LoKI adapter for `peft.get_peft_model`.

    Import `iclr_repro.loki` before `PeftModel.from_pretrained` reads such an adapter: peft has no public hook by which
    a method outside it could be found.

    Raises:
        ValueError: `active_pos` is missing or without a row, or has a row that is negative, repeated or no integer;
            `lora_r` below 1; `layers_to_transform` beside a regular expression.
    """

    active_pos: dict[str, list[int]] | list[list[int]] | None = field(
        default=None,
        metadata={"help": "rows to train: a list for each layer, or full module name -> rows. Layers may have none."},
    )
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "names or regular expression of the down projections; None: by model type"}
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "modules to leave alone"})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "only these layers"})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "name of the list of layers"})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "further modules to train and save"})
    quota: float | None = field(default=None, metadata={"help": "q in percent that gave the rows, for the record"})
    strategy: str | None = field(default=None, metadata={"help": "strategy that gave the rows, for the record"})
    lora_r: int | None = field(
        default=None,
        metadata={"help": "train the rows by a low-rank update of this rank (LoKI + LoRA); None: directly"},
    )
    lora_alpha: float = field(default=8.0, metadata={"help": "the low-rank update is scaled by lora_alpha / lora_r"})

    def __post_init__(self) -> None:
        """Check what can be checked without a model."""
        super().__post_init__()
        self.peft_type = LOKI
        if not self.active_pos or not any(len(rows) for rows in _lists(self.active_pos)):
            raise ValueError("active_pos: got none, expected rows (see select_rows or load_positions)")
        self.active_pos = (
            {name: _checked(rows, name) for name, rows in self.active_pos.items()}
            if isinstance(self.active_pos, dict)
            else [_checked(rows, f"layer {layer}") for layer, rows in enumerate(self.active_pos)]
        )
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # type: ignore[assignment]  # as peft compares them
        if isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            raise ValueError("layers_to_transform goes with a list of target_modules, not with a regular expression")
        if self.lora_r is not None and self.lora_r < 1:
            raise ValueError(f"lora_r: got {self.lora_r}, expected >= 1")


def _lists(positions: dict[str, list[int]] | list[list[int]]) -> Iterable[list[int]]:
    return positions.values() if isinstance(positions, dict) else positions


def _checked(rows: Any, where: str) -> list[int]:
    try:
        found = [operator.index(row) for row in rows]
    except TypeError as error:
        raise ValueError(f"active_pos, {where}: got {list(rows)[:5]}, expected integers") from error
    if any(row < 0 for row in found):
        raise ValueError(f"active_pos, {where}: row {min(found)} is negative, expected indices in [0, hidden size)")
    if len(set(found)) != len(found):
        twice = sorted({row for row in found if found.count(row) > 1})
        raise ValueError(f"active_pos, {where}: rows {twice[:5]} are listed more than once")
    return found
