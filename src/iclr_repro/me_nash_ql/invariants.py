"""By how much the identities that hold for theory reasons are violated, on drawn numbers and along real runs.

Every function returns its worst violations by name, 0 up to rounding in correct code; I1 to I10 as in the sheet.

Shape letters: R = runs, H = steps, S = states, J = joint actions, N = games, A = actions of each player.

Source: sheet 4.
"""

from __future__ import annotations

import numpy as np

from iclr_repro.me_nash_ql.bonuses import Moments, advantage_bonus, learning_rate
from iclr_repro.me_nash_ql.cce import cce_violation, solve_cce
from iclr_repro.me_nash_ql.exact import exploitability, nash_value, solve_matrix_games
from iclr_repro.me_nash_ql.games import MarkovGame
from iclr_repro.me_nash_ql.learner import MENashQL
from iclr_repro.me_nash_ql.self_play import draw

_POWERS = (0.5, 0.75, 1.0)


def learning_rate_violations(horizon: int, num_visits: int) -> dict[str, float]:
    """I1: the weights eta_i^n = eta_i prod_{i < j <= n} (1 - eta_j) of a running average, for all n up to `num_visits`.

    sum_{i <= n} eta_i^n = 1,  max_i eta_i^n <= 2H/n,  sum_i (eta_i^n)^2 <= 2H/n,  sum_{n >= i} eta_i^n = 1 + 1/H, and
    n^-a <= sum_i eta_i^n i^-a <= 2 n^-a for a in [1/2, 1]. The infinite sum is cut at the last n; what is left of it
    is eta_i^n n / H.
    """
    visits = np.arange(1, num_visits + 1)
    eta = learning_rate(visits, horizon)
    weights = np.zeros((num_visits, num_visits))  # [n, i]
    row = np.zeros(num_visits)
    for n in range(num_visits):
        row *= 1.0 - eta[n]
        row[n] = eta[n]
        weights[n] = row
    bound = 2.0 * horizon / visits
    columns = weights.sum(axis=0) + weights[-1] * num_visits / horizon
    averages = [(weights @ visits**-power) / visits**-power for power in _POWERS]
    return {
        "sum": float(np.abs(weights.sum(axis=1) - 1.0).max()),
        "largest": float((weights.max(axis=1) - bound).max()),
        "squares": float(((weights**2).sum(axis=1) - bound).max()),
        "series": float(np.abs(columns - (1.0 + 1.0 / horizon)).max()),
        "powers": float(max(max((1.0 - average).max(), (average - 2.0).max()) for average in averages)),
    }


def telescoping_violation(horizon: int, num_visits: int, *, rng: np.random.Generator) -> float:
    """I2: the average of the bonuses b_n, without their lower-order term, with weights eta_i^n is B_n itself."""
    moments, average, worst = Moments(*np.zeros((5, 1))), np.zeros(1), 0.0
    for number in range(1, num_visits + 1):
        n, before = np.array([number]), moments
        moments = before.advance(
            n,
            reference=rng.uniform(0.0, horizon, size=1),
            advantage=rng.uniform(-1.0, 1.0, size=1),
            horizon=horizon,
            c1=1.0,
            iota=1.0,
        )
        eta = learning_rate(n, horizon)
        bonus = advantage_bonus(before, moments, n, horizon=horizon, c2=0.0, iota=1.0)
        average = (1.0 - eta) * average + eta * bonus
        worst = float(np.maximum(worst, np.abs(average - moments.bonus).max()))  # NaN stays
    return worst


def zero_sum_violations(num_games: int, num_actions: int, *, rng: np.random.Generator) -> dict[str, float]:
    """I9: where Qu = Ql, every CCE has the value of the matrix game, and its marginals are a Nash equilibrium."""
    payoffs_NAA = rng.random((num_games, num_actions, num_actions))
    equilibrium = solve_cce(payoffs_NAA, payoffs_NAA)
    values_N = solve_matrix_games(payoffs_NAA).values
    mu_NA, nu_NA = equilibrium.policy.sum(axis=2), equilibrium.policy.sum(axis=1)
    best_N = np.einsum("nab,nb->na", payoffs_NAA, nu_NA).max(axis=1)
    worst_N = np.einsum("nab,na->nb", payoffs_NAA, mu_NA).min(axis=1)
    return {
        "value": float(np.abs(equilibrium.value_upper - values_N).max()),
        "nash": float((best_N - worst_N).max()),
    }


def violations_along_a_run(
    game: MarkovGame, learner: MENashQL, *, episodes: int, rng: np.random.Generator
) -> dict[str, float]:
    """I3 to I8 and I10, checked at every step of self-play.

    Args:
        game: to play.
        learner: a fresh one, with any rules but `self_healing`, which puts bounds back.
        episodes: to play.
        rng: draws actions and next states.

    Returns:
        `i3`, by how much an upper bound rose or a lower one fell; `i4`, visits of a stage against episodes; `i5`, the
        largest CCE violation; `i6`, V against E_pi Q; `i8`, settled references that became unsettled; `i10`, how far a
        mean reference left the range of the references seen, and `i10_variance`, how far a variance was below 0.
        I7 speaks of the runs and episodes in which Ql <= Q* <= Qu everywhere, whose share is `i7_frac`: `i7_values` is
        the most by which V* left [Vl, Vu] there, `i7_certificate` the most by which the exploitability of the marginals
        exceeded the gap. The latter is no identity: its proof needs values that only tighten, and these may not.
    """
    bounds, nash = learner.bounds, nash_value(game)
    runs = np.arange(learner.num_runs)
    seen = np.stack([np.full(bounds.q.shape, np.inf), np.full(bounds.q.shape, -np.inf)])
    worst: dict[str, float] = dict.fromkeys(
        ("i3", "i4", "i5", "i6", "i7_values", "i7_certificate", "i8", "i10", "i10_variance"), 0.0
    )
    good_cases = 0

    def note(name: str, violation: np.ndarray | float) -> None:
        worst[name] = float(np.maximum(worst[name], np.max(violation)))  # NaN stays

    for episode in range(1, episodes + 1):
        states = np.full(learner.num_runs, game.start_state)
        for h in range(game.num_steps):
            joint = draw(learner.play_policy(h, states).reshape(learner.num_runs, -1), rng.random(learner.num_runs))
            a, b = np.divmod(joint, game.num_actions_min)
            after = game.next_states(
                h, states=states, max_actions=a, min_actions=b, uniforms=rng.random(learner.num_runs)
            )
            q_before, unsettled_before = bounds.q.copy(), bounds.unsettled.copy()
            entry = (slice(None), 0, runs, h, states, joint)
            reference = bounds.v_reference[:, 0, runs, h + 1, after]
            seen[0][entry] = np.minimum(seen[0][entry], reference)
            seen[1][entry] = np.maximum(seen[1][entry], reference)
            learner.update(h, states, a, b, game.rewards[h, states, a, b], after)

            q = bounds.q[:, 0, runs, h, states]
            policy = learner.policy[runs, h, states]
            upper, lower = q.reshape(2, *policy.shape)
            note("i3", bounds.q[0] - q_before[0])
            note("i3", q_before[1] - bounds.q[1])
            note("i4", np.abs(bounds.visits[:, h].sum(axis=(1, 2)) - episode))
            note("i5", cce_violation(policy, upper, lower))
            gap = ((upper - lower) * policy).sum(axis=(1, 2))
            v = bounds.v[:, 0, runs, h, states]
            note("i6", np.abs(v[0] - v[1] - gap))
            note("i6", np.where((upper >= lower).all(axis=(1, 2)), -gap, 0.0))
            note("i8", (bounds.unsettled & ~unsettled_before).astype(float))
            moments = Moments(*bounds.moments[:, :, 0, runs, h, states, joint])
            note("i10", np.maximum(seen[0][entry] - moments.ref_mean, moments.ref_mean - seen[1][entry]))
            note("i10_variance", moments.ref_mean**2 - moments.ref_square)
            states = after
        learner.end_episode()
        good = optimistic_runs(learner, nash.action_values)
        good_cases += int(good.sum())
        if good.any():
            v_upper, v_lower = learner.value_bounds()
            note("i7_values", np.maximum(nash.values - v_upper, v_lower - nash.values)[good])
            policies = learner.current()
            note("i7_certificate", (exploitability(game, policies.mu, policies.nu) - learner.gap())[good])
    return {**worst, "i7_frac": good_cases / (episodes * learner.num_runs)}


def optimistic_runs(learner: MENashQL, action_values: np.ndarray) -> np.ndarray:
    """[R] whether Ql <= Q* <= Qu at every entry: the good event of the proofs, up to rounding."""
    flat = action_values.reshape(*action_values.shape[:2], -1)
    upper, lower = learner.bounds.q[:, 0]
    holds = (lower <= flat + 1e-9) & (flat <= upper + 1e-9)
    return np.asarray(holds.all(axis=(1, 2, 3)))
