from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from iclr_repro.reactivation_rnn.cells import PlaceCells
from iclr_repro.reactivation_rnn.networks import NoisyGRU, NoisyRNN
from iclr_repro.reactivation_rnn.quiescence import active_run, quiescent_run
from iclr_repro.reactivation_rnn.replay import Replay, replay_run
from iclr_repro.reactivation_rnn.trajectories import Trajectories, simulate_navigation

UNITS, CELLS = 6, 12


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cells() -> PlaceCells:
    return PlaceCells.uniform(CELLS, rng=np.random.default_rng(0))


def walks() -> Trajectories:
    return simulate_navigation(5, 230, rng=np.random.default_rng(1))


def test_active_runs_in_chunks_are_runs_in_one_piece() -> None:
    """230 steps are more than two chunks of 100."""
    network, trajectories = NoisyRNN(2, UNITS, CELLS), walks()
    found = active_run(network, cells(), trajectories, generator=generator(), keep_hidden=True)
    start, inputs, targets = (
        torch.from_numpy(part.astype(np.float32))
        for part in (trajectories.start, trajectories.inputs, trajectories.targets)
    )
    noise = torch.cat([
        network.noise((length, 5, UNITS), sigma_step=1.0, generator=stream, like=start)
        for stream in [generator()] for length in (100, 100, 30)
    ])  # fmt: skip
    whole = network(inputs, cells().encode(start), unit_noise_TBN=noise)
    assert found.hidden is not None
    np.testing.assert_allclose(found.hidden, whole.hidden.detach(), atol=1e-6)
    np.testing.assert_allclose(found.decoded, cells().decode(whole.output).detach(), atol=1e-6)
    np.testing.assert_allclose(found.peak, whole.output.detach().amax(dim=-1), atol=1e-6)
    loss = torch.nn.functional.mse_loss(whole.output, cells().encode(targets))
    assert found.loss == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0, 4.0])
def test_quiescence_multiplies_the_variance_of_the_noise(factor: float) -> None:
    network = NoisyRNN(2, UNITS, CELLS, sigma_step=0.05)
    for module in (network.recurrent, network.encoder):
        torch.nn.init.zeros_(module.weight)
    found = quiescent_run(
        network, cells(), np.zeros((400, 2)), 2, generator=generator(), variance_factor=factor, keep_hidden=True
    )
    assert found.hidden is not None
    assert found.hidden[0].std() == pytest.approx(0.05 * math.sqrt(factor), rel=0.05)


def test_quiescence_of_a_noiseless_network_has_no_noise_unless_told() -> None:
    network = NoisyRNN(2, UNITS, CELLS, sigma_step=0.0)
    start = np.random.default_rng(0).uniform(-1, 1, size=(5, 2))
    first, again = (quiescent_run(network, cells(), start, 10, generator=generator(k)).decoded for k in (0, 1))
    assert (first == again).all()
    noisy = [quiescent_run(network, cells(), start, 10, generator=generator(k), sigma_step=0.1).peak for k in (0, 1)]
    assert not np.allclose(noisy[0], noisy[1])


def test_quiescence_has_no_input() -> None:
    network = NoisyRNN(2, UNITS, CELLS, sigma_step=0.0)
    start = np.zeros((3, 2))
    before = quiescent_run(network, cells(), start, 5, generator=generator()).peak
    torch.nn.init.constant_(network.input.weight, 100.0)
    assert (quiescent_run(network, cells(), start, 5, generator=generator()).peak == before).all()


def test_bad_quiescence_is_refused() -> None:
    network = NoisyRNN(2, UNITS, CELLS)
    with pytest.raises(ValueError, match=r"variance_factor: got -1.0, expected a number >= 0"):
        quiescent_run(network, cells(), np.zeros((3, 2)), 5, generator=generator(), variance_factor=-1.0)
    with pytest.raises(ValueError, match=r"num_steps: got 1, expected >= 2"):
        quiescent_run(network, cells(), np.zeros((3, 2)), 1, generator=generator())
    with pytest.raises(ValueError, match=r"start: 6 values are NaN or infinite"):
        quiescent_run(network, cells(), np.full((3, 2), np.nan), 5, generator=generator())


@pytest.mark.parametrize("sigma_step", [float("nan"), float("inf"), -0.1])
def test_noise_that_is_none_is_refused_and_not_left_out(sigma_step: float) -> None:
    network, message = NoisyRNN(2, UNITS, CELLS), f"sigma_step: got {sigma_step}, expected a number >= 0"
    with pytest.raises(ValueError, match=message):
        quiescent_run(network, cells(), np.zeros((3, 2)), 5, generator=generator(), sigma_step=sigma_step)
    with pytest.raises(ValueError, match=message):
        active_run(network, cells(), walks(), generator=generator(), sigma_step=sigma_step)


@pytest.mark.parametrize("run", [quiescent_run, partial(replay_run, dynamics=Replay())])
def test_runs_without_input_refuse_the_same(run: Callable[..., object]) -> None:
    network = NoisyRNN(2, UNITS, CELLS)
    with pytest.raises(ValueError, match=r"variance_factor: got inf, expected a number >= 0"):
        run(network, cells(), np.zeros((3, 2)), 5, generator=generator(), variance_factor=math.inf)
    with pytest.raises(ValueError, match=r"start: 6 values are NaN or infinite"):
        run(network, cells(), np.full((3, 2), np.nan), 5, generator=generator())
    with pytest.raises(ValueError, match=r"start: got shape \(3,\), expected \[B, 2\]"):
        run(network, cells(), np.zeros(3), 5, generator=generator())


@pytest.mark.parametrize("kind", [NoisyRNN, NoisyGRU])
def test_the_base_replay_is_quiescence(kind: type[NoisyRNN]) -> None:
    network = kind(2, UNITS, CELLS, sigma_step=0.0)
    start = np.random.default_rng(0).uniform(-1, 1, size=(5, 2))
    base = quiescent_run(network, cells(), start, 20, generator=generator()).decoded
    found = replay_run(network, cells(), start, 20, dynamics=Replay(), generator=generator())
    np.testing.assert_allclose(found, base, atol=1e-6)


@pytest.mark.parametrize(("friction", "adaptation"), [(0.3, 0.0), (1.0, 0.2), (0.5, 0.1)])
def test_replay_follows_its_equations(friction: float, adaptation: float) -> None:
    """By hand for one unit and trajectory without noise: F(r) = (1 - a) r + a ReLU(w r)."""
    network = NoisyRNN(2, 1, 3, sigma_step=0.0, leak=0.5)
    torch.nn.init.constant_(network.recurrent.weight, 0.6)
    torch.nn.init.constant_(network.encoder.weight, 1.0)
    with torch.no_grad():
        network.decoder.weight.copy_(torch.tensor([[3.0], [2.0], [1.0]]))
    places = PlaceCells(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    dynamics = Replay(friction=friction, adaptation=adaptation, adaptation_time=4.0)
    states: list[float] = []
    state, velocity, adapted = 1.0, 0.0, 0.0
    for _ in range(8):
        drift = 0.5 * state + 0.5 * max(0.6 * state, 0.0) - state - adaptation * adapted
        adapted += (state - adapted) / 4.0
        velocity = (1 - friction) * velocity + friction * drift
        state += velocity
        states.append(state)

    class Recorded(PlaceCells):
        def decode(self, activity: torch.Tensor, *, k: int = 3) -> torch.Tensor:
            return activity[..., :2]  # 3 r and 2 r

    found = replay_run(network, Recorded(places.centers), np.zeros((1, 2)), 8, dynamics=dynamics, generator=generator())
    np.testing.assert_allclose(found[:, 0], np.outer(states, [3.0, 2.0]), rtol=1e-5)


def test_the_noise_of_underdamped_replay_has_the_stationary_variance_of_velocities() -> None:
    """Without drift, v' = (1 - friction) v + sqrt(friction (2 - friction)) noise has the variance of the noise."""
    network = NoisyRNN(2, UNITS, 3, sigma_step=0.1, leak=1.0)
    torch.nn.init.zeros_(network.recurrent.weight)
    torch.nn.init.zeros_(network.encoder.weight)

    class Recorded(PlaceCells):
        def decode(self, activity: torch.Tensor, *, k: int = 3) -> torch.Tensor:
            return activity[..., :2]

    torch.nn.init.zeros_(network.decoder.weight)
    with torch.no_grad():
        network.decoder.weight[0, 0] = network.decoder.weight[1, 1] = 1.0
    found = replay_run(
        network,
        Recorded(torch.zeros(3, 2)),
        np.zeros((4000, 2)),
        2,
        dynamics=Replay(friction=0.3),
        generator=generator(),
    )
    assert found[0].std() == pytest.approx(0.1 * math.sqrt(2 * 0.3 * 1.7), rel=0.03)


def test_replay_that_explodes_by_itself_is_refused() -> None:
    with pytest.raises(ValueError, match=r"friction: got 0.0, expected in \(0, 1\]"):
        Replay(friction=0.0)
    with pytest.raises(ValueError, match=r"adaptation: got -1.0, expected >= 0"):
        Replay(adaptation=-1.0)
    with pytest.raises(ValueError, match=r"adaptation_time: got 0.5, expected >= 1 step"):
        Replay(adaptation_time=0.5)
    network, start = NoisyRNN(2, UNITS, CELLS), np.zeros((3, 2))
    with pytest.raises(ValueError, match=r"variance_factor: got -1.0, expected a number >= 0"):
        replay_run(network, cells(), start, 5, dynamics=Replay(), generator=generator(), variance_factor=-1.0)
