"""How a learner is judged: against the exact solution of its game, which it does not know (sheet 7.2).

Shape letters: R = runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from iclr_repro.me_nash_ql.exact import NashValue, exploitability
from iclr_repro.me_nash_ql.games import MarkovGame
from iclr_repro.me_nash_ql.self_play import SelfPlayLearner

_ROUNDING = 1e-9
"""By how much a bound may miss before it counts as wrong."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A learner against the exact solution of its game; arrays [R], values in units of reward.

    Attributes:
        current: exploitability of the policies as they stand.
        output: exploitability of the policies that the method returns.
        gap: upper minus lower value at s_1, not clipped.
        best_gap: the gap that certifies `output`; H for a method without a certificate.
        optimism_ok: whether lower <= V* <= upper at s_1. Where it fails, `gap` certifies nothing.
        optimism_frac: share of all (h, s) where lower <= V* <= upper.
        certificate_ok: whether the output's exploitability is at most `best_gap`.
    """

    current: Float64[np.ndarray, " R"]
    output: Float64[np.ndarray, " R"]
    gap: Float64[np.ndarray, " R"]
    best_gap: Float64[np.ndarray, " R"]
    optimism_ok: Bool[np.ndarray, " R"]
    optimism_frac: Float64[np.ndarray, " R"]
    certificate_ok: Bool[np.ndarray, " R"]


def evaluate(learner: SelfPlayLearner, game: MarkovGame, nash: NashValue) -> Evaluation:
    """Measure a learner; a bound counts as wrong when it misses by more than 1e-9.

    Args:
        learner: to measure; left as it is.
        game: it plays.
        nash: its value, from `exact.nash_value`; the same for all evaluations.

    Source: sheet 7.2.
    """
    upper, lower = learner.value_bounds()
    values = nash.values[:-1]
    holds = (lower[:, :-1] <= values + _ROUNDING) & (values <= upper[:, :-1] + _ROUNDING)
    current, output = (
        exploitability(game, policies.mu, policies.nu) for policies in (learner.current(), learner.output())
    )
    best_gap = learner.best_gap().copy()
    return Evaluation(
        current=current,
        output=output,
        gap=upper[:, 0, learner.start_state] - lower[:, 0, learner.start_state],
        best_gap=best_gap,
        optimism_ok=holds[:, 0, learner.start_state],
        optimism_frac=holds.mean(axis=(1, 2)),
        certificate_ok=output <= best_gap + _ROUNDING,
    )
