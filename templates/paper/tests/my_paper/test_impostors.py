"""Stand-ins that must fail every headline claim."""

from __future__ import annotations

import numpy as np
import pytest

from iclr_repro.core.claims import Results, claims_of, judge
from iclr_repro.my_paper import claims, share_of_heads

IMPOSTORS = {
    "a coin with two heads": np.ones(1000, dtype=np.int64),
    "a coin with heads in three of ten flips": (np.arange(1000) % 10 < 3).astype(np.int64),
}


@pytest.mark.parametrize("flips", IMPOSTORS.values(), ids=IMPOSTORS)
def test_a_loaded_coin_is_not_fair(flips: np.ndarray) -> None:
    results = Results.from_metrics({"flips": {"flips/heads": share_of_heads(flips)}})
    for judged in judge(claims_of(claims), results, "cpu"):
        assert judged.check.verdict == "not reproduced" or not judged.claim.headline
