from __future__ import annotations

import numpy as np
import pytest

from iclr_repro.my_paper import share_of_heads


def test_the_share_of_heads_by_hand() -> None:
    assert share_of_heads(np.array([1, 0, 1, 1])) == 0.75


@pytest.mark.parametrize("flips", [[], [0, 2]])
def test_what_is_no_flip_is_refused(flips: list[int]) -> None:
    with pytest.raises(ValueError, match=r"expected at least one, each 0 \(tails\) or 1 \(heads\)"):
        share_of_heads(np.array(flips, dtype=np.int64))
