"""What a learner costs: the exact bytes that it keeps and the equilibria that it solves (sheet 13.3).

A learner declares its live arrays once; the ledger counts that declaration and the checkpoint saves it. What is not
counted is not restored either, so that a forgotten array shows at the first resume.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Memory and computation of one run of a learner, so far.

    A learner advances many independent runs at once; the numbers are those of a single one.

    Attributes:
        table_bytes: of all arrays of fixed size.
        history_bytes: of all that grows with the number of episodes; 0 for a learner without a history.
        cce_solves: number of coarse correlated equilibria computed.
        episodes: number of episodes played.
    """

    table_bytes: float
    history_bytes: float
    cce_solves: int
    episodes: int

    @property
    def total_bytes(self) -> float:
        """Tables and history together."""
        return self.table_bytes + self.history_bytes

    @property
    def cce_solves_per_episode(self) -> float:
        """Computation in equilibria an episode; 0 before the first episode."""
        return self.cce_solves / self.episodes if self.episodes else 0.0


def me_nash_ql_words(*, num_steps: int, num_states: int, num_actions_max: int, num_actions_min: int) -> int:
    """Float64 words of ME-Nash-QL by hand: 18 H S A B + 5 H S + 4 S + H S (A + B); no T, no S^2.

    18 tables over (h, s, a, b): six of Q, the visits, five moments a side, the policy. Five over (h, s): both values,
    both references, the flag; the four of values have a zero row at h = H + 1. Then the output's two marginals.

    Source: sheet 4, memory count. Example: H = S = 4, A = B = 2 gives 1152 + 80 + 16 + 64 = 1312.
    """
    cells = num_steps * num_states
    num_joint = num_actions_max * num_actions_min
    return cells * (18 * num_joint + 5 + num_actions_max + num_actions_min) + 4 * num_states
