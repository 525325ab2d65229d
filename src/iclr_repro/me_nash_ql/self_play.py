"""Self-play: what every learner of a zero-sum Markov game offers, and how it plays episodes.

`SelfPlayLearner` is the interface, `SelfPlay` plays its episodes and is what the training loop advances. A learner
advances R independent runs in lock-step; they share the game but no number, and may have constants of their own.

Shape letters: H = steps, S = states, A, B = actions of the max and the min player, R = runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int

from iclr_repro.me_nash_ql.cce import solve_cce
from iclr_repro.me_nash_ql.certified import ActionMixture, StateMixture, VisitHistory
from iclr_repro.me_nash_ql.games import SUM_TOLERANCE, MarkovGame
from iclr_repro.me_nash_ql.ledger import Ledger


@dataclass(frozen=True)
class MarkovPolicies:
    """One Markov policy for each player, all runs: mu [R, H, S, A] of the max player, nu [R, H, S, B] of the other."""

    mu: Float64[np.ndarray, "R H S A"]
    nu: Float64[np.ndarray, "R H S B"]

    @classmethod
    def marginals(cls, joint: Float64[np.ndarray, "R H S A B"]) -> MarkovPolicies:
        """The marginals of a joint policy: what each player does on its own."""
        return cls(joint.sum(axis=-1), joint.sum(axis=-2))


class SelfPlayLearner(ABC):
    """A learner of a two-player zero-sum Markov game, R independent runs at once.

    Args:
        shape: (H, S, A, B), the shape of the game's rewards.
        num_runs: R.
        start_state: s_1.

    Attributes:
        shape: as given.
        num_runs: as given.
        start_state: as given.
        episodes: number of episodes that have ended.
        cce_solves: number of equilibria computed, a run.
        history: what playing the certified mixture needs; None for a method without one.
        mixture: computes the certified mixture's exploitability; None where it was not asked for.

    Raises:
        ValueError: a size is below 1 or the start state does not exist.
    """

    def __init__(self, shape: tuple[int, int, int, int], *, num_runs: int, start_state: int) -> None:
        if len(shape) != 4 or min(shape) < 1 or num_runs < 1 or not 0 <= start_state < shape[1]:
            raise ValueError(
                f"got shape {tuple(shape)}, {num_runs} runs and start state {start_state}: expected (H, S, A, B) and"
                " runs, all >= 1, and a start state in 0..S-1"
            )
        self.shape = shape
        self.num_runs = num_runs
        self.start_state = start_state
        self.episodes = 0
        self.cce_solves = 0
        self.history: VisitHistory | None = None
        self.mixture: StateMixture | ActionMixture | None = None

    @abstractmethod
    def play_policy(self, h: int, s: Int[np.ndarray, " R"]) -> Float64[np.ndarray, "R A B"]:
        """The joint distribution that actions are drawn from at step h in states s."""

    @abstractmethod
    def end_episode(self) -> None:
        """Finish the episode: plan, or keep the output policy if it is the best so far."""

    @abstractmethod
    def value_bounds(self) -> tuple[Float64[np.ndarray, "R H1 S"], Float64[np.ndarray, "R H1 S"]]:
        """Upper and lower estimates of the Nash value, the zero row at h = H included; not copies."""

    @abstractmethod
    def current(self) -> MarkovPolicies:
        """The policies as they stand."""

    @abstractmethod
    def output(self) -> MarkovPolicies:
        """The policies that the method returns."""

    @abstractmethod
    def best_gap(self) -> Float64[np.ndarray, " R"]:
        """The gap at s_1 that certifies `output`; H, which always holds, where the method has no certificate."""

    @abstractmethod
    def tables(self) -> dict[str, np.ndarray]:
        """All live arrays of fixed size by name; not copies, and no two share memory."""

    @abstractmethod
    def update(
        self,
        h: int,
        s: Int[np.ndarray, " R"],
        a: Int[np.ndarray, " R"],
        b: Int[np.ndarray, " R"],
        reward: Float64[np.ndarray, " R"],
        next_state: Int[np.ndarray, " R"],
    ) -> None:
        """Learn from one step of every run; the steps of an episode come in order, h = 0 first."""

    def gap(self) -> Float64[np.ndarray, " R"]:
        """Upper minus lower value at s_1 as they stand; not clipped, negative where optimism has failed."""
        upper, lower = self.value_bounds()
        return upper[:, 0, self.start_state] - lower[:, 0, self.start_state]

    def ledger(self) -> Ledger:
        """What the learner costs, a run."""
        return Ledger(
            table_bytes=sum(array.nbytes for array in self.tables().values()) / self.num_runs,
            history_bytes=self.history.num_bytes / self.num_runs if self.history is not None else 0.0,
            cce_solves=self.cce_solves,
            episodes=self.episodes,
        )

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on besides the random stream, as copies."""
        return {
            "tables": {name: array.copy() for name, array in self.tables().items()},
            "history": self.history.arrays() if self.history is not None else None,
            "mixture": {name: array.copy() for name, array in self.mixture.tables().items()}
            if self.mixture is not None
            else None,
            "episodes": self.episodes,
            "cce_solves": self.cce_solves,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: the state is that of another kind of learner or of other sizes.
        """
        restore(self.tables(), state["tables"])
        for name, part in (("history", self.history), ("mixture", self.mixture)):
            if (part is None) != (state[name] is None):
                raise ValueError(
                    f"the saved state has {'no' if state[name] is None else 'a'} {name}, this learner"
                    f" {'none' if part is None else 'needs one'}: create it with the same options"
                )
        if self.history is not None:
            self.history.load(state["history"])
        if self.mixture is not None:
            restore(self.mixture.tables(), state["mixture"])
        self.episodes = state["episodes"]
        self.cce_solves = state["cce_solves"]


class MinGapOutput:
    """The output of optimistic self-play: the marginals at the end of the episode with the smallest gap at s_1.

    Attributes:
        gap: [R] the smallest gap so far, Delta; H at first.
        policies: the marginals at that time; uniform at first.

    Source: sheet 3.2, Theorem 2.
    """

    def __init__(self, shape: tuple[int, int, int, int], *, num_runs: int) -> None:
        self._horizon = float(shape[0])
        self.gap = np.full(num_runs, self._horizon)
        self.policies = MarkovPolicies.marginals(uniform_policy(shape, num_runs=num_runs))

    def offer(self, gap_R: np.ndarray, policy_RHSAB: np.ndarray) -> None:
        """Keep the marginals of the joint policy in runs whose gap is smaller than all before."""
        better_R = gap_R < self.gap
        if better_R.any():
            marginals = MarkovPolicies.marginals(policy_RHSAB[better_R])
            self.gap[better_R] = gap_R[better_R]
            self.policies.mu[better_R] = marginals.mu
            self.policies.nu[better_R] = marginals.nu

    def withdraw(self, wrong_R: np.ndarray) -> None:
        """Forget the smallest gap, but not the policies, of runs in which it is known not to hold."""
        self.gap[wrong_R] = self._horizon

    def tables(self) -> dict[str, np.ndarray]:
        """All arrays by name; not copies."""
        return {"best_gap": self.gap, "output_mu": self.policies.mu, "output_nu": self.policies.nu}


class MinGapLearner(SelfPlayLearner):
    """A learner that plays equilibria of its bounds and returns the policy of the smallest gap.

    Args:
        shape: (H, S, A, B), the shape of the game's rewards.
        num_runs: R.
        start_state: s_1.
        backend: of `solve_cce`.
        objective: of `solve_cce`.

    Attributes:
        policy: [R, H, S, A, B] pi, the joint policy; uniform at first.
    """

    def __init__(
        self, shape: tuple[int, int, int, int], *, num_runs: int, start_state: int, backend: str, objective: str
    ) -> None:
        super().__init__(shape, num_runs=num_runs, start_state=start_state)
        self._backend = backend
        self._objective = objective
        self._equilibria(*np.zeros((2, 1, 1, 1)))  # refuses an unknown name now, not in the first episode
        self.cce_solves = 0
        self.policy = uniform_policy(shape, num_runs=num_runs)
        self._output = MinGapOutput(shape, num_runs=num_runs)

    def current(self) -> MarkovPolicies:
        """The marginals of pi."""
        return MarkovPolicies.marginals(self.policy)

    def output(self) -> MarkovPolicies:
        """The marginals of pi at the end of the episode with the smallest gap; uniform before the first; no copies."""
        return self._output.policies

    def best_gap(self) -> Float64[np.ndarray, " R"]:
        """The smallest gap at the end of an episode; H before the first; no copy."""
        return self._output.gap

    def _equilibria(self, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """Solve a batch of games, as many for every run, and count them."""
        self.cce_solves += upper[..., 0, 0].size // self.num_runs
        return solve_cce(upper, lower, backend=self._backend, objective=self._objective).policy

    def _keep_if_best(self) -> None:
        """End the episode: keep the marginals of pi if the gap at s_1 is the smallest so far."""
        self._output.offer(self.gap(), self.policy)
        self.episodes += 1


class SelfPlay:
    """Plays episodes of a game with a learner; one step of the training loop is one episode of every run.

    Args:
        game: whose rewards and next states the learner sees.
        learner: of the game's shape.
        rng: draws actions and next states. Its state belongs to the caller and is not part of `state_dict`.

    Raises:
        ValueError: the learner is for games of another shape or start state.
    """

    def __init__(self, game: MarkovGame, learner: SelfPlayLearner, *, rng: np.random.Generator) -> None:
        if learner.shape != game.rewards.shape or learner.start_state != game.start_state:
            raise ValueError(
                f"the learner is for games of shape {learner.shape} that start in state {learner.start_state}, the game"
                f" has shape {game.rewards.shape} and starts in {game.start_state}"
            )
        self._game = game
        self._learner = learner
        self._rng = rng

    def step(self) -> dict[str, float]:
        """Play one episode; return the mean sum of rewards and the mean gap of the runs."""
        game, learner = self._game, self._learner
        num_runs = learner.num_runs
        uniforms = self._rng.random((game.num_steps, 2, num_runs))
        states = np.full(num_runs, game.start_state)
        total = 0.0
        if learner.mixture is not None:
            learner.mixture.start_episode()
        for h, (for_actions, for_states) in enumerate(uniforms):
            policy = learner.play_policy(h, states)
            a, b = np.divmod(draw(policy.reshape(num_runs, -1), for_actions), game.num_actions_min)
            reward = game.rewards[h, states, a, b]
            next_states = game.next_states(h, states=states, max_actions=a, min_actions=b, uniforms=for_states)
            learner.update(h, states, a, b, reward, next_states)
            states = next_states
            total += float(reward.mean())
        learner.end_episode()
        return {"reward": total, "gap": float(learner.gap().mean())}

    def state_dict(self) -> dict[str, Any]:
        """The learner's state; between two episodes nothing else is alive."""
        return self._learner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the learner."""
        self._learner.load_state_dict(state)


def uniform_policy(shape: tuple[int, int, int, int], *, num_runs: int) -> Float64[np.ndarray, "R H S A B"]:
    """The joint policy that draws both actions uniformly."""
    return np.full((num_runs, *shape), 1.0 / (shape[2] * shape[3]))


def visited_cells(
    shape: tuple[int, ...],
    h: int,
    s: np.ndarray,
    actions: Sequence[np.ndarray],
    rewards: np.ndarray,
    next_state: np.ndarray,
    *,
    num_runs: int,
) -> Int[np.ndarray, " R"]:
    """Flat indices of the entries that R runs visit, in an array [R, H, S, A_1 .. A_M], after a check of the visits.

    Args:
        shape: (H, S, A_1 .. A_M).
        h: the step.
        s: [R] states.
        actions: [R] for each player.
        rewards: [..., R], to be checked.
        next_state: [R].
        num_runs: R.

    Raises:
        ValueError: not one value a run, a step, state or action that does not exist, or a reward outside [0, 1].
    """
    lengths = {array.shape[-1:] for array in (s, *actions, rewards, next_state)}
    if lengths != {(num_runs,)}:
        found = sorted(lengths)
        raise ValueError(
            f"step {h}: states, actions, rewards and next states have lengths {found}, expected {num_runs} runs"
        )
    if not (rewards.min() >= 0.0 and rewards.max() <= 1.0):  # NaN is wrong, too
        raise ValueError(f"step {h}: rewards range from {rewards.min()} to {rewards.max()}, expected within [0, 1]")
    num_states = shape[1]
    try:
        cells = np.ravel_multi_index((np.arange(num_runs), h, s, *actions, next_state), (num_runs, *shape, num_states))
    except ValueError as error:
        played = " and ".join(str(action) for action in actions)
        raise ValueError(
            f"step {h}, states {s}, actions {played} or next states {next_state} are outside a game of shape {shape}"
            f" = (H, S, actions of each player) with {num_runs} runs"
        ) from error
    return np.asarray(cells // num_states)


def draw(probabilities: Float64[np.ndarray, "R N"], uniforms: Float64[np.ndarray, " R"]) -> Int[np.ndarray, " R"]:
    """Draw an index from each row: the first whose cumulative probability exceeds the uniform in [0, 1).

    Example: the row [0.2, 0.8] gives 0 for the uniform 0.1 and 1 for 0.2.
    """
    cumulative = probabilities.cumsum(axis=1)
    cumulative /= cumulative[:, -1:]  # the last is then 1 exactly, above every uniform
    return np.asarray((cumulative <= uniforms[:, None]).sum(axis=1))


def check_distributions(pi: Float64[np.ndarray, "R ..."], shape: tuple[int, ...]) -> None:
    """Refuse joint policies of another shape, with a negative entry, or with a sum other than 1 up to 1e-9.

    Args:
        pi: one joint policy a run.
        shape: (R, A_1 .. A_M), as expected.

    Raises:
        ValueError: naming the shape, or the first run in which it is no distribution.
    """
    if pi.shape != shape:
        raise ValueError(f"pi has shape {pi.shape}, expected {shape} = (runs, actions of each player)")
    flat = pi.reshape(len(pi), -1)
    sums, least = flat.sum(axis=1), flat.min(axis=1)
    wrong = ~((np.abs(sums - 1.0) <= SUM_TOLERANCE) & (least >= 0.0))  # NaN is wrong, too
    if wrong.any():
        run = int(wrong.argmax())
        raise ValueError(
            f"pi of run {run} sums to {sums[run]:.12g}, smallest entry {least[run]:.6g}: expected a distribution over"
            " the joint actions"
        )


def restore(arrays: Mapping[str, np.ndarray], saved: Mapping[str, np.ndarray]) -> None:
    """Copy saved arrays into live ones of the same names and shapes.

    Raises:
        ValueError: names or shapes differ; the message lists both sides.
    """
    shapes, saved_shapes = ({name: array.shape for name, array in given.items()} for given in (arrays, saved))
    if shapes != saved_shapes:
        raise ValueError(
            f"the saved state is of another learner or another shape: it has {saved_shapes}, this one {shapes}"
        )
    for name, array in arrays.items():
        array[...] = saved[name]
