"""The claims of the paper as checks; thresholds are fixed before the first run."""

from __future__ import annotations

from iclr_repro.core.claims import Check, Results, claim, within


@claim(id="C1", headline=True, source="none: a claim of the skeleton, not of the paper", paper="not available")
def coin_is_fair(r: Results) -> Check:
    """A fair coin shows heads in 45 to 55 % of the flips."""
    return within(r.flips["flips/heads"], 0.45, 0.55)
