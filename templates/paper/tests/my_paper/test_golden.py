"""The method against reference values that were computed independently; shapes come from the files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from iclr_repro.my_paper import share_of_heads
from support import golden_dir

GOLDEN = golden_dir("my_paper")


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("flips*.npz")), ids=lambda path: path.stem)
def test_share_of_heads(path: Path) -> None:
    with np.load(path) as expected:
        assert share_of_heads(expected["flips"]) == pytest.approx(float(expected["share"]), rel=1e-12)
