"""Exact values of known games: Nash values, best responses, exploitability. They judge learners and know the model.

V_h is the expected sum of the max player's rewards from step h on; arrays of values carry the zero row h = H. Policies
may have leading axes, for independent runs.

Source: sheet 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from iclr_repro.me_nash_ql.games import SUM_TOLERANCE, MarkovGame
from iclr_repro.me_nash_ql.linear_programs import simplex

MaxPolicy = Float[np.ndarray, "*runs H S A"]
MinPolicy = Float[np.ndarray, "*runs H S B"]


class MatrixGames(NamedTuple):
    """Solutions of zero-sum matrix games.

    Attributes:
        values: [...] max_x min_y x Q y.
        max_policies: [..., A] an optimal x.
        min_policies: [..., B] an optimal y.
    """

    values: np.ndarray
    max_policies: np.ndarray
    min_policies: np.ndarray


@dataclass(frozen=True, eq=False)
class NashValue:
    """The value of a Markov game and one of its Nash equilibria.

    Attributes:
        values: [H+1, S] V*, in [0, H - h].
        action_values: [H, S, A, B] Q* = r + P V*.
        max_policy: [H, S, A] mu*.
        min_policy: [H, S, B] nu*.
    """

    values: np.ndarray
    action_values: np.ndarray
    max_policy: np.ndarray
    min_policy: np.ndarray


class BestResponseValues(NamedTuple):
    """What each player can get against the other's policy.

    Attributes:
        max_values: [..., H+1, S] V^{dagger, nu}, of the best max player against nu.
        min_values: [..., H+1, S] V^{mu, dagger}, of the best min player against mu.
    """

    max_values: np.ndarray
    min_values: np.ndarray


def solve_matrix_games(payoffs: Float[np.ndarray, "*batch A B"]) -> MatrixGames:
    """Solve zero-sum matrix games, all of a batch at once.

    With Q mapped to [1, 2] by its range, the min player's policy y divided by the value solves: maximise sum z
    subject to Q z <= 1, z >= 0; the multipliers are the max player's policy, divided by the value.

    Args:
        payoffs: Q, to the max player, who picks the row.

    Raises:
        ValueError: no action, or a payoff that is not a finite number.

    Example: [[1, 0], [0, 1]] has the value 0.5 and uniform policies.
    """
    if 0 in payoffs.shape[-2:] or not np.isfinite(payoffs).all():
        raise ValueError(f"payoffs of shape {payoffs.shape} are empty or hold something else than finite numbers")
    games_NAB = payoffs.reshape(-1, *payoffs.shape[-2:])
    least_N = games_NAB.min(axis=(1, 2))
    range_N = games_NAB.max(axis=(1, 2)) - least_N
    scaled_NAB = 1.0 + (games_NAB - least_N[:, None, None]) / np.where(range_N > 0.0, range_N, 1.0)[:, None, None]
    z_NB, multipliers_NA = simplex(np.ones_like(scaled_NAB[:, 0]), scaled_NAB, np.ones_like(scaled_NAB[:, :, 0]))
    values_N = least_N + range_N * (1.0 / z_NB.sum(axis=1) - 1.0)
    max_policies_NA, min_policies_NB = (
        weights.clip(0.0) / weights.clip(0.0).sum(axis=1, keepdims=True) for weights in (multipliers_NA, z_NB)
    )
    batch = payoffs.shape[:-2]
    return MatrixGames(
        values_N.reshape(batch), max_policies_NA.reshape(*batch, -1), min_policies_NB.reshape(*batch, -1)
    )


def nash_value(game: MarkovGame) -> NashValue:
    """Compute the Nash value by backward induction: V*_H = 0, Q*_h = r_h + P_h V*_{h+1}, V*_h(s) = value of Q*_h(s).

    Example: a game of H rounds of matching pennies has V*_h = (H - h) / 2, with uniform policies.
    """
    values = np.zeros((game.num_steps + 1, game.num_states))
    action_values = np.zeros(game.rewards.shape)
    max_policy = np.zeros(game.rewards.shape[:3])
    min_policy = np.zeros((*game.rewards.shape[:2], game.num_actions_min))
    for h in reversed(range(game.num_steps)):
        action_values[h] = _action_values(game, h, values[h + 1])
        values[h], max_policy[h], min_policy[h] = solve_matrix_games(action_values[h])
    return NashValue(values, action_values, max_policy, min_policy)


def best_response_values(game: MarkovGame, max_policy: MaxPolicy, min_policy: MinPolicy) -> BestResponseValues:
    """Compute the values of the best responses to two Markov policies by backward induction.

        U_h(s) = max_a sum_b nu_h(b|s) [r_h + P_h U_{h+1}](s, a, b)
        L_h(s) = min_b sum_a mu_h(a|s) [r_h + P_h L_{h+1}](s, a, b)

    Args:
        game: the model.
        max_policy: [..., H, S, A] mu.
        min_policy: [..., H, S, B] nu, with the same leading axes.

    Raises:
        ValueError: a policy that does not fit the game or is no distribution.
    """
    _check_policies(game, max_policy, min_policy)
    max_values = np.zeros((*max_policy.shape[:-3], game.num_steps + 1, game.num_states))
    min_values = np.zeros_like(max_values)
    for h in reversed(range(game.num_steps)):
        q_max = _action_values(game, h, max_values[..., h + 1, :])
        q_min = _action_values(game, h, min_values[..., h + 1, :])
        max_values[..., h, :] = np.einsum("...sab,...sb->...sa", q_max, min_policy[..., h, :, :]).max(axis=-1)
        min_values[..., h, :] = np.einsum("...sab,...sa->...sb", q_min, max_policy[..., h, :, :]).min(axis=-1)
    return BestResponseValues(max_values, min_values)


def policy_values(
    game: MarkovGame, max_policy: MaxPolicy, min_policy: MinPolicy
) -> Float[np.ndarray, "*runs num_steps_plus_1 S"]:
    """Compute V^{mu, nu} of two Markov policies that draw independently; arguments as in `best_response_values`."""
    _check_policies(game, max_policy, min_policy)
    values = np.zeros((*max_policy.shape[:-3], game.num_steps + 1, game.num_states))
    for h in reversed(range(game.num_steps)):
        q = _action_values(game, h, values[..., h + 1, :])
        policies = max_policy[..., h, :, :], min_policy[..., h, :, :]
        values[..., h, :] = np.einsum("...sab,...sa,...sb->...s", q, *policies)
    return values


def exploitability(game: MarkovGame, max_policy: MaxPolicy, min_policy: MinPolicy) -> Float[np.ndarray, "*runs"]:
    """Measure how much two Markov policies can lose: (V^{dagger, nu}_1 - V^{mu, dagger}_1)(s_1), the duality gap.

    It is at least 0, and 0 for a Nash equilibrium. Arguments as in `best_response_values`.

    Example: in one round of matching pennies, always playing the first action against a uniform policy has the
    exploitability 0.5: 0.5 for the best response to the uniform policy, minus 0.
    """
    values = best_response_values(game, max_policy, min_policy)
    gap = values.max_values[..., 0, game.start_state] - values.min_values[..., 0, game.start_state]
    return np.asarray(gap)


def _action_values(game: MarkovGame, h: int, next_values: np.ndarray) -> np.ndarray:
    """[..., S, A, B] r_h + P_h V for V [..., S]."""
    return game.rewards[h] + np.tensordot(next_values, game.transitions[h], axes=([-1], [-1]))


def _check_policies(game: MarkovGame, max_policy: np.ndarray, min_policy: np.ndarray) -> None:
    shape = game.num_steps, game.num_states
    expected = ("max_policy", max_policy, game.num_actions_max), ("min_policy", min_policy, game.num_actions_min)
    for name, policy, num_actions in expected:
        if policy.shape[-3:] != (*shape, num_actions):
            raise ValueError(
                f"{name} has shape {policy.shape}, expected (..., H, S, actions) = {(*shape, num_actions)}"
            )
        off = np.abs(policy.sum(axis=-1) - 1.0)
        if not (policy >= 0.0).all() or not (off <= SUM_TOLERANCE).all():
            raise ValueError(
                f"{name} is no distribution over actions everywhere: the smallest probability is {policy.min():.6g}, "
                f"sums are off 1 by up to {off.max():.3g}"
            )
    if max_policy.shape[:-3] != min_policy.shape[:-3]:
        raise ValueError(
            f"max_policy has the leading axes {max_policy.shape[:-3]} and min_policy {min_policy.shape[:-3]}, "
            "expected the same"
        )
