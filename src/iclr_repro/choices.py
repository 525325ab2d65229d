"""What there is to choose from: the papers and scales that `configs/` describes."""

from __future__ import annotations

from typing import Any

import yaml

from iclr_repro.core.resources import configs_dir


def papers() -> list[str]:
    """Return the names of the papers: every `configs/paper/<name>.yaml` but none.yaml."""
    return [name for name in _options("paper") if name != "none"]


def scales() -> list[str]:
    """Return the names of the scales: every `configs/scale/<name>.yaml`."""
    return _options("scale")


def paper_files() -> dict[str, Any]:
    """Return the content of every paper's file, by name: `paper` (title, fidelity, ...) and `experiments`."""
    folder = configs_dir() / "paper"
    return {name: yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8")) for name in papers()}


def _options(group: str) -> list[str]:
    return sorted(path.stem for path in (configs_dir() / group).glob("*.yaml"))
