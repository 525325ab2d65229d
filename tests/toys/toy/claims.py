"""Claims of the test paper."""

from __future__ import annotations

from iclr_repro.core.claims import Check, Results, all_of, at_least, claim, exact, within


@claim(id="T1", source="made up", paper="3", headline=True, scales=("smoke", "cpu"))
def constant_is_three(r: Results) -> Check:
    """The constant is three."""
    return exact(r.constant["constant/value"], 3.0)


@claim(id="T2", source="made up", paper="not available")
def walk_goes_somewhere(r: Results) -> Check:
    """The walk moves away from its start."""
    return all_of(at_least(r.walk["walk/distance"], 0.0), within(r.walk["walk/n"], 1, 1e6))
