"""Where the configurations and the recorded results are: in the checkout, or packed into the wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_CHECKOUT = _PACKAGE.parents[1]


def configs_dir() -> Path:
    """Return the folder of the Hydra configurations (`configs/` of the checkout, `_configs/` of an installed wheel)."""
    return _packed_or_checked_out("_configs", "configs")


def records_dir() -> Path:
    """Return the folder of the recorded results (`experiments/` of the checkout, `_experiments/` of a wheel)."""
    return _packed_or_checked_out("_experiments", "experiments")


def checkout_dir() -> Path | None:
    """Return the root of the checkout that this code runs from, or None when it runs from an installed wheel."""
    return _CHECKOUT if (_CHECKOUT / "pyproject.toml").is_file() else None


def _packed_or_checked_out(packed: str, checked_out: str) -> Path:
    folder = _PACKAGE / packed
    return folder if folder.is_dir() else _CHECKOUT / checked_out
