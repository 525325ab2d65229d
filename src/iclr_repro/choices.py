"""What there is to choose from: the papers and scales that `configs/` describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from iclr_repro.core.resources import configs_dir


def papers() -> list[str]:
    """Return the names of the papers: every `configs/paper/<name>.yaml` but none.yaml."""
    return [name for name in _options("paper") if name != "none"]


def scales() -> list[str]:
    """Return the names of the scales, every `configs/scale/<name>.yaml`: smoke, cpu, paper, then a user's own."""
    ours = ("smoke", "cpu", "paper")
    return sorted(_options("scale"), key=lambda name: ours.index(name) if name in ours else len(ours))


def paper_files() -> dict[str, Any]:
    """Return the content of every paper's file, by name: `paper` (title, fidelity, ...) and `experiments`.

    Experiments that only `configs/paper_scale/<name>/` has, for some scales, are among them, after the others.
    """
    contents = {}
    for name in papers():
        contents[name] = _read(configs_dir() / "paper" / f"{name}.yaml")
        for path in sorted((configs_dir() / "paper_scale" / name).glob("*.yaml")):
            for experiment, config in _read(path).get("experiments", {}).items():
                contents[name]["experiments"].setdefault(experiment, config)
    return contents


def _read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def _options(group: str) -> list[str]:
    return sorted(path.stem for path in (configs_dir() / group).glob("*.yaml"))
