"""The paper's claims."""

from __future__ import annotations

from iclr_repro.core.claims import Check, Results, at_least, claim


@claim(id="C6", headline=True, source="Table 4", paper="0.46 against 84.13")
def loki_forgets_less_than_full(r: Results) -> Check:
    """TODO."""
    return at_least(r.retention["equal/loki/accuracy"], 0.85)
