"""What the tests of me_nash_ql's learners share: small games, and the replay of recorded bonuses and runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from iclr_repro.me_nash_ql.bonuses import BonusConstants, Moments, advantage_bonus, learning_rate
from iclr_repro.me_nash_ql.bounds import BoundRules
from iclr_repro.me_nash_ql.builders import random_game
from iclr_repro.me_nash_ql.games import MarkovGame
from iclr_repro.me_nash_ql.learner import MENashQL


def small_game(shape: tuple[int, int, int, int] = (3, 2, 2, 2), *, seed: int = 7) -> MarkovGame:
    """A random game with rewards 0 and 1."""
    return random_game(*shape, concentration=0.5, rewards="bern", seed=seed)


def random_visits(
    game: MarkovGame, *, num_runs: int, episodes: int, seed: int = 0
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Episodes of uniform play: (h, s, a, b, reward, next state), step by step."""
    rng = np.random.default_rng(seed)
    for _ in range(episodes):
        s = np.full(num_runs, game.start_state)
        for h in range(game.num_steps):
            a, b = rng.integers(game.num_actions_max, size=num_runs), rng.integers(game.num_actions_min, size=num_runs)
            after = game.next_states(h, states=s, max_actions=a, min_actions=b, uniforms=rng.random(num_runs))
            yield h, s, a, b, game.rewards[h, s, a, b], after
            s = after


def cases(folder: Path, pattern: str, key: str) -> Iterator[tuple[str, NpzFile]]:
    """(prefix, file) of every case in every file of a set; a case is known by its key, as in "t0_log"."""
    found = 0
    for path in sorted(folder.glob(pattern)):
        with np.load(path) as file:
            prefixes = sorted(name.removesuffix(f"_{key}") for name in file if name.endswith(f"_{key}"))
            found += len(prefixes)
            for prefix in prefixes:
                yield prefix, file
    assert found, f"no case {key} in {folder / pattern}"


def replayed_bonuses(prefix: str, file: Mapping[str, np.ndarray]) -> np.ndarray:
    """The columns n, eta, mu_ref, sig_ref, mu_adv, sig_adv, B, delta, b, R of one recorded recursion, a row a visit."""
    horizon, c1, c2, iota = (float(number) for number in file[f"{prefix}_H_c1_c2_iota"])
    moments = Moments(*np.zeros((5, 1)))
    average = np.zeros(1)
    rows = []
    pairs = zip(file[f"{prefix}_vref"], file[f"{prefix}_adv"], strict=True)
    for n, (reference, advantage) in enumerate(pairs, start=1):
        before, count = moments, np.array([n])
        moments = before.advance(
            count,
            reference=np.array([reference]),
            advantage=np.array([advantage]),
            horizon=int(horizon),
            c1=c1,
            iota=iota,
        )
        bonus = advantage_bonus(before, moments, count, horizon=int(horizon), c2=c2, iota=iota)
        eta = learning_rate(count, int(horizon))
        average = (1 - eta) * average + eta * (bonus - c2 * horizon**2 * iota * n**-0.75)
        rows.append(np.concatenate([count, eta, *moments, moments.bonus - before.bonus, bonus, average]))
    return np.array(rows)


def replayed_trace(prefix: str, file: Mapping[str, np.ndarray]) -> tuple[MENashQL, np.ndarray]:
    """Feed a recorded run, with its policies, to a learner.

    Returns:
        The learner and, a row a step, what the record holds after it: Qucb, Qlcb, QRu, QRl, Qu, Ql at (h, s, a, b),
        Vu, Vl, VRu, VRl, u_ref at (h, s).
    """
    *sizes, c0, c1, c2, iota, init_is_h, threshold = file[f"{prefix}_H_S_A_B_K_c0_c1_c2_iota_initIsH_thr"].tolist()
    horizon, num_states, num_max, num_min, _ = (int(size) for size in sizes)
    learner = MENashQL(
        (horizon, num_states, num_max, num_min),
        constants=BonusConstants(c0=c0, c1=c1, c2=c2, iota=iota),
        rules=BoundRules(
            init="H" if init_is_h else "H-h", reference=str(file[f"{prefix}_ref_rule"]), settle_gap=threshold
        ),
    )
    bounds, policies = learner.bounds, file[f"{prefix}_pi"]
    rows = []
    for record in file[f"{prefix}_log"]:
        k, h, s, a, b = (int(number) for number in record[:5])
        state, row, column, after = (np.array([number]) for number in (s, a, b, int(record[6])))
        learner.update(h, state, row, column, record[5:6], after, pi=policies[k, h][None])
        entry, cell = (0, 0, h, s, a * num_min + b), (0, 0, h, s)
        rows.append(
            [table[side][index] for table in (bounds.q_hoeffding, bounds.q_reference, bounds.q) for side in (0, 1)
             for index in [entry]]
            + [table[side][cell] for table in (bounds.v, bounds.v_reference) for side in (0, 1)]
            + [float(bounds.unsettled[0, h, s])]
        )  # fmt: skip
        if h == horizon - 1:
            learner.end_episode()
    return learner, np.array(rows)
