from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from iclr_repro.reactivation_rnn.cells import PlaceCells
from iclr_repro.reactivation_rnn.networks import NoisyGRU, NoisyRNN
from iclr_repro.reactivation_rnn.quiescence import active_run
from iclr_repro.reactivation_rnn.training import PathIntegration
from iclr_repro.reactivation_rnn.trajectories import simulate_navigation
from support import bare_run

STEPS = 60


class Setting:
    """A small training whose random state can be saved and restored, as `fit` does with a run's streams."""

    def __init__(self, **options: Any) -> None:
        torch.manual_seed(0)
        self.rng, self.generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
        self.network = options.pop("kind", NoisyRNN)(2, 24, 32)
        self.cells = PlaceCells.uniform(32, rng=np.random.default_rng(1))
        defaults: dict[str, Any] = {"batch_size": 16, "learning_rate": 5e-3, "schedule": "one_cycle", "steps": STEPS}
        self.learner = PathIntegration(
            self.network,
            self.cells,
            lambda num: simulate_navigation(num, 10, rng=self.rng),
            generator=self.generator,
            **(defaults | options),
        )


@pytest.mark.parametrize("kind", [NoisyRNN, NoisyGRU])
@pytest.mark.parametrize("schedule", ["constant", "one_cycle"])
def test_the_loss_falls(kind: type[NoisyRNN], schedule: str) -> None:
    learner = Setting(kind=kind, schedule=schedule).learner
    losses = [learner.step()["loss"] for _ in range(STEPS)]
    assert np.mean(losses[-5:]) < 0.7 * losses[0]


def test_a_resumed_training_is_an_uninterrupted_one() -> None:
    """Saved after 10 of 30 steps: in the middle of a draw of 16 batches, which is used up later."""
    whole = Setting()
    expected = [whole.learner.step() for _ in range(30)]
    first = Setting()
    for _ in range(10):
        first.learner.step()
    saved = copy.deepcopy(first.learner.state_dict())
    second = Setting()
    second.learner.load_state_dict(saved)
    second.rng.bit_generator.state = first.rng.bit_generator.state
    second.generator.set_state(first.generator.get_state())
    assert [second.learner.step() for _ in range(20)] == expected[10:]


def test_every_trajectory_is_used_once() -> None:
    drawn: list[int] = []
    setting = Setting(batches_a_draw=4)
    learner = PathIntegration(
        setting.network,
        setting.cells,
        lambda num: drawn.append(num) or simulate_navigation(num, 10, rng=setting.rng),  # type: ignore[func-returns-value]
        batch_size=16,
        learning_rate=1e-3,
        schedule="constant",
        steps=9,
        generator=setting.generator,
        batches_a_draw=4,
    )
    for _ in range(9):
        learner.step()
    assert drawn == [64, 64, 64]


def test_the_cycle_of_learning_rates() -> None:
    setting = Setting(steps=STEPS)
    optimizer = setting.learner._optimizer
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        setting.learner.step()
    assert rates[0] == pytest.approx(5e-4)
    assert max(rates) == pytest.approx(5e-3, rel=0.01)
    assert rates[-1] == pytest.approx(5e-3 / 300, rel=0.5)
    assert np.argmax(rates) in (5, 6)


@pytest.mark.usefixtures("unchecked")
def test_impossible_trainings_are_refused() -> None:
    with pytest.raises(ValueError, match="schedule: got 'cosine', expected one of constant, one_cycle"):
        Setting(schedule="cosine")
    with pytest.raises(ValueError, match=re.escape("batch_size, learning_rate: got 0, 0.005, expected >= 1 and > 0")):
        Setting(batch_size=0)


def test_a_trained_network_integrates_and_noise_matters(tmp_path: Path) -> None:
    """The sheet's smoke test: a mean decoding distance below 0.35 m after 200 updates, 0.8 m at the beginning."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network, cells = NoisyRNN(2, 48, 64), PlaceCells.uniform(64, rng=rng)
    learner = PathIntegration(
        network,
        cells,
        lambda num: simulate_navigation(num, 40, rng=rng),
        batch_size=32,
        learning_rate=5e-3,
        schedule="constant",
        steps=200,
        generator=generator,
    )
    test = simulate_navigation(64, 40, rng=np.random.default_rng(5))

    def distance() -> float:
        found = active_run(network, cells, test, generator=generator).decoded
        return float(np.linalg.norm(found - test.targets, axis=-1).mean())

    before = distance()
    history = bare_run(tmp_path).fit(learner, 200)
    assert before > 0.7
    assert distance() < 0.35
    losses = history.values("loss")
    assert losses[-10:].mean() < 0.6 * losses[0]


def test_networks_are_trained_once_for_all_experiments(tmp_path: Path) -> None:
    """The second experiment takes the network of the first, with the same numbers as if it had trained it."""
    from iclr_repro import command_line
    from iclr_repro.core.experiment import build

    settings = command_line.checked_settings(command_line.compose(["paper=reactivation_rnn", "scale=smoke"]))
    config = {**settings["experiments"]["replay_dynamics"], "updates": 10}

    def run_in(experiment: str) -> tuple[Any, Any]:
        run = bare_run(tmp_path)
        folder = tmp_path / "paper" / experiment / "smoke" / "key" / "seed0"
        run = replace(run, dir=folder, loop=replace(run.loop, checkpoints=folder / "checkpoints"))
        return build("replay", config).run(run).metrics, run.loop.timings

    first, trained = run_in("one")
    second, untrained = run_in("two")
    alone = build("replay", config).run(bare_run(tmp_path)).metrics
    assert first == second == alone
    assert list(trained) == ["nt_u"]
    assert not untrained
    assert len(list((tmp_path / "paper" / ".networks").iterdir())) == 1
