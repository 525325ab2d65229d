"""ME-Nash-QL for general-sum Markov games of any number of players (sheet 3.5, Theorem 3 of the paper).

The paper states the bound, O(H^4 S prod_i A_i / eps^2), and gives no pseudo-code that could be read; the rules here are
a reconstruction. Every player has the upper and lower tables of the zero-sum method, indexed by the joint action; the
policy is a coarse correlated equilibrium of the upper tables; a reference settles when the largest gap of all players
is at most 1. The output is the joint policy of the smallest largest gap: a CCE of the game, no Nash equilibrium.

Shape letters: H = steps, S = states, M = players, J = joint actions, R = runs, N = games; `*A` stands for A_1 .. A_M.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from jaxtyping import Float64, Int

from iclr_repro.me_nash_ql.bonuses import BonusConstants
from iclr_repro.me_nash_ql.bounds import BoundRules, ValueBounds
from iclr_repro.me_nash_ql.games import SUM_TOLERANCE, MarkovGame
from iclr_repro.me_nash_ql.ledger import Ledger
from iclr_repro.me_nash_ql.linear_programs import simplex
from iclr_repro.me_nash_ql.self_play import check_distributions, draw, restore, visited_cells


@dataclass(frozen=True, eq=False)
class GeneralSumGame:
    """A finite-horizon Markov game in which every player has rewards of its own.

    Attributes:
        transitions: [H, S, *A, S] P, probabilities of the next state.
        rewards: [M, H, S, *A] r_i, in [0, 1].
        start_state: s_1.

    Raises:
        ValueError: shapes that disagree, rows of `transitions` that are no distribution, rewards outside [0, 1].

    Source: sheet 3.5.
    """

    transitions: np.ndarray
    rewards: np.ndarray
    start_state: int = 0

    def __post_init__(self) -> None:
        transitions, rewards = self.transitions, self.rewards
        num_players = rewards.ndim - 3
        if num_players < 1 or 0 in rewards.shape or rewards.shape[0] != num_players:
            raise ValueError(f"rewards has shape {rewards.shape}, expected (M, H, S, A_1 .. A_M), none of them 0")
        if transitions.shape != (*rewards.shape[1:], rewards.shape[2]):
            raise ValueError(
                f"transitions has shape {transitions.shape}, expected {(*rewards.shape[1:], rewards.shape[2])}"
                f" = (H, S, A_1 .. A_M, S) after the shape {rewards.shape} of rewards"
            )
        if not (transitions.min() >= 0.0 and np.abs(transitions.sum(axis=-1) - 1.0).max() <= SUM_TOLERANCE):
            raise ValueError("transitions holds rows that are no distribution: divide each row by its sum, in float64")
        if not (rewards.min() >= 0.0 and rewards.max() <= 1.0):
            raise ValueError(f"rewards range from {rewards.min()} to {rewards.max()}, expected within [0, 1]")
        if not 0 <= self.start_state < rewards.shape[2]:
            raise ValueError(f"start_state is {self.start_state}, expected one of the states 0..{rewards.shape[2] - 1}")

    @classmethod
    def from_zero_sum(cls, game: MarkovGame) -> GeneralSumGame:
        """The two-player game in which the min player's reward is 1 - r."""
        return cls(game.transitions, np.stack([game.rewards, 1.0 - game.rewards]), game.start_state)

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, S, A_1 .. A_M)."""
        return tuple(self.rewards.shape[1:])


def random_general_sum_game(
    num_steps: int, num_states: int, num_actions: tuple[int, ...], *, rng: np.random.Generator
) -> GeneralSumGame:
    """Next states from Dirichlet(1/2, .., 1/2), rewards uniform on [0, 1], all independent."""
    cells = (num_steps, num_states, *num_actions)
    transitions = rng.dirichlet(np.full(num_states, 0.5), size=cells)
    return GeneralSumGame(transitions, rng.random((len(num_actions), *cells)))


def cce_gap(game: GeneralSumGame, policy: Float64[np.ndarray, "R H S ..."]) -> Float64[np.ndarray, " R"]:
    """How much the player with most to gain gains at s_1 by leaving a joint Markov policy: max_i (V_i^dagger - V_i).

    The deviator gives up its recommendation for good and best-responds to the others' correlated marginals:

        V_i^dagger_h(s) = max_a' sum_a pi_h(a|s) [r_i + P V_i^dagger_{h+1}](s, a', a_-i)

    Args:
        game: with M players.
        policy: pi, distributions over the joint actions.

    Returns:
        [R], 0 for a CCE of the game and never below it.

    Source: sheet 3.5.
    """
    num_players, num_steps, num_states = game.rewards.shape[:3]
    players = range(1, num_players + 1)  # axes of the actions, after the state
    gaps = []
    for player in players:
        value_RS, best_RS = (np.zeros((len(policy), num_states)) for _ in range(2))
        for h in reversed(range(num_steps)):
            rewards, transitions, pi = game.rewards[player - 1, h], game.transitions[h], policy[:, h]
            q = rewards + np.moveaxis(transitions @ value_RS.T, -1, 0)
            value_RS = (pi * q).sum(axis=tuple(axis + 1 for axis in players))
            q = rewards + np.moveaxis(transitions @ best_RS.T, -1, 0)
            others = pi.sum(axis=player + 1, keepdims=True)
            deviating = (others * q).sum(axis=tuple(axis + 1 for axis in players if axis != player))
            best_RS = deviating.max(axis=-1)
        gaps.append((best_RS - value_RS)[:, game.start_state])
    return np.max(gaps, axis=0)


def solve_joint_cce(
    upper: Float64[np.ndarray, "N M ..."], lower: Float64[np.ndarray, "N M ..."]
) -> Float64[np.ndarray, "N ..."]:
    """A CCE of each game with payoffs `upper`, among all the one with the smallest sum_i E(upper_i - lower_i).

        minimise E sum_i (Qu_i - Ql_i)  subject to  E Qu_i(a) >= E Qu_i(a', a_-i) for all i and a'

    Source: sheet 3.5; the linear program as in 3.4, with one block of deviations a player.
    """
    num_games, num_players = upper.shape[:2]
    num_actions = upper.shape[2:]
    scale = np.maximum(np.abs(upper), np.abs(lower)).reshape(num_games, -1).max(axis=1)
    scale = np.where(scale > 0.0, scale, 1.0).reshape(num_games, *(1 for _ in upper.shape[1:]))
    upper, lower = upper / scale, lower / scale
    deviations = []
    for player in range(num_players):
        payoff = upper[:, player]
        for action in range(num_actions[player]):
            gain = np.take(payoff, [action], axis=player + 1) - payoff
            deviations.append(gain.reshape(num_games, -1))
    deviations.append(np.ones((num_games, prod(num_actions))))
    rows = np.stack(deviations, axis=1)
    bounds = np.zeros(rows.shape[:2])
    bounds[:, -1] = 1.0
    # positive, so that the optimum uses the whole probability; the scaled gaps add up to 2 M at most
    costs = 2.0 * num_players + 2.0 - (upper - lower).sum(axis=1).reshape(num_games, -1)
    policy = np.maximum(simplex(costs, rows, bounds)[0], 0.0)
    policy /= policy.sum(axis=1, keepdims=True)
    return policy.reshape(num_games, *num_actions)


class MultiMENashQL:
    """Multi-ME-Nash-QL: optimistic self-play of M players in memory O(M S prod_i A_i H).

    As `MENashQL`, with the bounds of every player, `solve_joint_cce` in line 13, and the joint policy as the output.

    Args:
        shape: (H, S, A_1 .. A_M).
        num_runs: R independent runs, advanced together.
        constants: of the bonuses; arrays [R] give every run its own.
        rules: the options of the tables.
        start_state: s_1.

    Attributes:
        bounds: the tables; the axis of joint actions is A_1 .. A_M flattened.
        policy: [R, H, S, *A] pi, uniform at first.
        output: [R, H, S, *A] pi at the end of the episode with the smallest gap; uniform at first.
        best_gap: [R] that gap; H at first.
        episodes: number of episodes that have ended.
        cce_solves: number of equilibria computed, a run.

    Raises:
        ValueError: a size, name or constant is out of range.

    Source: sheet 3.5, a reconstruction.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        num_runs: int = 1,
        constants: BonusConstants | None = None,
        rules: BoundRules | None = None,
        start_state: int = 0,
    ) -> None:
        if len(shape) < 3 or min(shape) < 1 or num_runs < 1 or not 0 <= start_state < shape[1]:
            raise ValueError(
                f"got shape {tuple(shape)}, {num_runs} runs and start state {start_state}: expected (H, S, A_1 .. A_M)"
                " and runs, all >= 1, and a start state in 0..S-1"
            )
        self.shape = shape
        self.num_runs = num_runs
        self.start_state = start_state
        self.bounds = ValueBounds(
            (shape[0], shape[1], prod(shape[2:])),
            num_players=len(shape) - 2,
            num_runs=num_runs,
            constants=constants or BonusConstants(),
            rules=rules or BoundRules(),
        )
        self.policy = np.full((num_runs, *shape), 1.0 / prod(shape[2:]))
        self.output = self.policy.copy()
        self.best_gap = np.full(num_runs, float(shape[0]))
        self.episodes = 0
        self.cce_solves = 0

    def update(
        self,
        h: int,
        s: Int[np.ndarray, " R"],
        actions: Int[np.ndarray, "M R"],
        rewards: Float64[np.ndarray, "M R"],
        next_state: Int[np.ndarray, " R"],
        pi: Float64[np.ndarray, "R ..."] | None = None,
    ) -> None:
        """Learn from one step of every run; the steps of an episode come in order, h = 0 first.

        Args:
            h: the step, from 0.
            s: states.
            actions: of each player.
            rewards: of each player, in [0, 1].
            next_state: s'.
            pi: policy to put in the place of the equilibrium; then none is solved.

        Raises:
            ValueError: a step, state or action does not exist, a reward is outside [0, 1], `pi` is no distribution.
        """
        cells = visited_cells(self.shape, h, s, tuple(actions), rewards, next_state, num_runs=self.num_runs)
        if pi is not None:
            check_distributions(pi, (self.num_runs, *self.shape[2:]))
        runs = np.arange(self.num_runs)
        healed = self.bounds.observe(h, cells, rewards, next_state)
        self.best_gap[healed] = self.shape[0]
        if pi is None:
            upper, lower = np.moveaxis(self.bounds.q[:, :, runs, h, s], 2, 1).reshape(
                2, self.num_runs, len(actions), *self.shape[2:]
            )
            pi = solve_joint_cce(upper, lower)
            self.cce_solves += 1
        self.policy[runs, h, s] = pi
        self.bounds.settle(h, s, pi.reshape(self.num_runs, -1))

    def end_episode(self) -> None:
        """Keep pi if the largest gap of all players at s_1 is the smallest so far."""
        gap = self.gap()
        better = gap < self.best_gap
        self.best_gap[better] = gap[better]
        self.output[better] = self.policy[better]
        self.episodes += 1

    def gap(self) -> Float64[np.ndarray, " R"]:
        """max_i (Vu_i - Vl_i)(s_1) as it stands; not clipped."""
        upper, lower = self.bounds.v[:, :, :, 0, self.start_state]
        return (upper - lower).max(axis=0)

    def ledger(self) -> Ledger:
        """What the learner costs, a run."""
        return Ledger(
            table_bytes=sum(array.nbytes for array in self.tables().values()) / self.num_runs,
            history_bytes=0.0,
            cce_solves=self.cce_solves,
            episodes=self.episodes,
        )

    def tables(self) -> dict[str, np.ndarray]:
        """All live arrays by name; not copies."""
        return {
            **self.bounds.tables(),
            "policy": self.policy,
            "output": self.output,
            "best_gap": self.best_gap,
        }

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on besides the random stream, as copies."""
        return {
            "tables": {name: array.copy() for name, array in self.tables().items()},
            "episodes": self.episodes,
            "cce_solves": self.cce_solves,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: the state is that of another kind of learner or of other sizes.
        """
        restore(self.tables(), state["tables"])
        self.episodes = state["episodes"]
        self.cce_solves = state["cce_solves"]


class MultiSelfPlay:
    """Plays episodes of a general-sum game; one step of the training loop is one episode of every run.

    Args:
        game: whose rewards and next states the learner sees.
        learner: of the game's shape.
        rng: draws actions and next states. Its state belongs to the caller and is not part of `state_dict`.

    Raises:
        ValueError: the learner is for games of another shape or start state.
    """

    def __init__(self, game: GeneralSumGame, learner: MultiMENashQL, *, rng: np.random.Generator) -> None:
        if learner.shape != game.shape or learner.start_state != game.start_state:
            raise ValueError(
                f"the learner is for games of shape {learner.shape} that start in state {learner.start_state}, the game"
                f" has shape {game.shape} and starts in {game.start_state}"
            )
        self._game = game
        self._learner = learner
        self._rng = rng

    def step(self) -> dict[str, float]:
        """Play one episode; return the mean gap of the runs."""
        game, learner = self._game, self._learner
        runs = np.arange(learner.num_runs)
        states = np.full(learner.num_runs, game.start_state)
        for h, (for_actions, for_states) in enumerate(self._rng.random((game.shape[0], 2, learner.num_runs))):
            policy = learner.policy[runs, h, states]
            joint = draw(policy.reshape(learner.num_runs, -1), for_actions)
            actions = np.array(np.unravel_index(joint, game.shape[2:]))
            next_states = draw(game.transitions[h, states, *actions], for_states)
            learner.update(h, states, actions, game.rewards[:, h, states, *actions], next_states)
            states = next_states
        learner.end_episode()
        return {"gap": float(learner.gap().mean())}

    def state_dict(self) -> dict[str, Any]:
        """The learner's state; between two episodes nothing else is alive."""
        return self._learner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the learner."""
        self._learner.load_state_dict(state)
