"""Claims of the second test paper."""

from __future__ import annotations

from iclr_repro.core.claims import Check, Results, claim, exact


@claim(id="O1", source="made up", paper="6", headline=True, data="real")
def total_is_ten(r: Results) -> Check:
    """The total is ten."""
    return exact(r.learner_on_data["total"], 10.0)
