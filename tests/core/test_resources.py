from pathlib import Path

import pytest

from iclr_repro.core import resources


def test_in_a_checkout_its_own_folders_are_used() -> None:
    root = Path(__file__).parents[2]
    assert resources.configs_dir() == root / "configs"
    assert resources.records_dir() == root / "experiments"
    assert resources.checkout_dir() == root


def test_in_an_installed_wheel_the_packed_folders_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "iclr_repro"
    for name in ("_configs", "_experiments"):
        (package / name).mkdir(parents=True)
    monkeypatch.setattr(resources, "_PACKAGE", package)
    monkeypatch.setattr(resources, "_CHECKOUT", tmp_path)
    assert resources.configs_dir() == package / "_configs"
    assert resources.records_dir() == package / "_experiments"
    assert resources.checkout_dir() is None
