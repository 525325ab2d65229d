from __future__ import annotations

import numpy as np
import pytest
import torch

from iclr_repro.me_nash_ql import hedge as module
from iclr_repro.me_nash_ql.cce import cce_violation
from iclr_repro.me_nash_ql.hedge import hedge


def games(num_max: int, num_min: int, *, num_games: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((num_games, num_max, num_min)), rng.random((num_games, num_max, num_min))


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 2), (12, 15)])
@pytest.mark.parametrize("tolerance", [0.1, 0.005])
def test_play_stops_at_the_tolerance(size: tuple[int, int], tolerance: float) -> None:
    upper, lower = games(*size)
    policy = hedge(upper, lower, tolerance=tolerance)
    assert cce_violation(policy, upper, lower).max() <= tolerance
    np.testing.assert_allclose(policy.sum(axis=(1, 2)), np.ones(5), rtol=0, atol=1e-9)
    assert policy.min() >= 0.0


def test_a_finer_tolerance_takes_more_rounds_than_a_coarse_one_reaches() -> None:
    upper, lower = games(6, 6)
    coarse = cce_violation(hedge(upper, lower, tolerance=0.1), upper, lower)
    assert coarse.max() > 0.005


def test_in_zero_sum_games_the_averages_approach_the_equilibrium() -> None:
    rock_paper_scissors = np.array([[0.5, 0.0, 1.0], [1.0, 0.5, 0.0], [0.0, 1.0, 0.5]])
    lopsided = np.array([[0.9, 0.1, 0.3], [0.2, 0.8, 0.6], [0.1, 0.1, 0.0]])
    payoffs = np.stack([rock_paper_scissors, lopsided])
    policy = hedge(payoffs, payoffs, tolerance=0.002)
    assert (policy * payoffs).sum(axis=(1, 2)).tolist() == pytest.approx([0.5, 0.48], abs=0.004)


def test_torch_plays_as_numpy() -> None:
    upper, lower = games(4, 3)
    tensor = hedge(torch.as_tensor(upper), torch.as_tensor(lower), tolerance=0.01)
    np.testing.assert_allclose(tensor.numpy(), hedge(upper, lower, tolerance=0.01), rtol=0, atol=1e-9)


def test_a_tolerance_that_is_not_reached_or_not_positive_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROUNDS", 20)
    with pytest.raises(ValueError, match=r"hedge reached a violation of 0\.\d+ in 20 rounds, not the tolerance 0.0001"):
        hedge(*games(4, 4), tolerance=1e-4)
    with pytest.raises(ValueError, match=r"tolerance is 0\.0, expected a positive share"):
        hedge(*games(2, 2), tolerance=0.0)
