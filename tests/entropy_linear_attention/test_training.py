import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from iclr_repro.entropy_linear_attention import Series, Windows, errors, masked_errors, synthetic_traffic
from iclr_repro.entropy_linear_attention.training import (
    KeepBest,
    forecast_errors,
    forecast_learner,
    forecast_loss,
    forecasts,
    mean_squared_error,
    squared_error_learner,
)


@functools.cache
def series() -> Series:
    return synthetic_traffic(4, 3, rng=np.random.default_rng(0))


class Linear(nn.Module):
    """The last value of each node times a weight, at every step ahead."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x[:, -1:, :, 0].expand(-1, 12, -1)


def learner(model: nn.Module, **changes: object) -> KeepBest:
    settings = {
        "anchor": "last",
        "loss": "masked_mae",
        "batch_size": 8,
        "steps": 20,
        "learning_rate": 0.01,
        "weight_decay": 0.0,
        "schedule": "onecycle",
        "milestones": (),
        "clip_norm": 5.0,
        "validation_every": 4,
        "seed": 0,
        "device": torch.device("cpu"),
        **changes,
    }
    return forecast_learner(model, series(), **settings)  # type: ignore[arg-type]


def test_losses_are_those_of_denormalised_forecasts() -> None:
    x, anchor, truth = (
        torch.stack(part)
        for part in zip(*[Windows(series(), series().train, "last")[i] for i in range(3)], strict=True)
    )
    truth[0, 0, 0] = 0.0
    model = Linear()
    predicted = anchor + series().std * 0.1 * x[:, -1:, :, 0]
    torch.testing.assert_close(forecasts(model, x, anchor, series().std), predicted.expand_as(truth))
    error = (predicted - truth).abs()
    masked = forecast_loss(model, (x, anchor, truth), series=series(), loss="masked_mae")
    torch.testing.assert_close(masked, error[truth != 0].mean())
    huber = torch.where(error < 1, error**2 / 2, error - 0.5).mean()
    torch.testing.assert_close(forecast_loss(model, (x, anchor, truth), series=series(), loss="huber"), huber)


def test_every_test_window_is_counted_once() -> None:
    model = Linear()
    found = forecast_errors(learner(model).learner, series(), series().test, "last")
    last = series().values[series().test + 11]
    z = (last - series().mean) / series().std
    predicted = np.repeat((last + series().std * 0.1 * z)[:, None], 12, axis=1)
    truth = series().targets(series().test)
    expected = masked_errors(predicted, truth, zeros_are_missing=True)
    np.testing.assert_allclose(found * len(series().test), expected, rtol=1e-5)
    assert expected[3].sum() == (truth != 0).sum()
    assert errors(found) == pytest.approx(errors(expected), rel=1e-5)


def test_the_best_weights_are_kept_and_given_back() -> None:
    model = Linear()
    keeper = KeepBest(learner(model).learner, functools.partial(next, iter([3.0, 1.0, 2.0])))
    for weight in (0.3, 0.1, 0.2):
        with torch.no_grad():
            model.weight.fill_(weight)
        keeper.evaluate()
    keeper.restore_best()
    assert float(model.weight.detach()) == pytest.approx(0.1)


def test_a_resumed_learner_knows_the_best_weights() -> None:
    first = learner(Linear())
    first.step()
    first.evaluate()
    state = first.state_dict()
    model = Linear()
    second = learner(model)
    second.load_state_dict(state)
    assert second.step() == first.step()
    second.restore_best()
    first.restore_best()
    assert torch.equal(model.weight, first.learner.model.state_dict()["weight"])


def test_training_lowers_the_validation_error() -> None:
    keeper = learner(Linear())
    before = keeper.evaluate()["mae"]
    for _ in range(20):
        keeper.step()
    assert keeper.evaluate()["mae"] < before


def test_multistep_divides_the_rate_by_ten_at_its_epochs() -> None:
    keeper = learner(Linear(), schedule="multistep", milestones=(1,), batch_size=64)
    epoch = len(series().train) // 64
    rates = [keeper.step()["learning_rate"] for _ in range(epoch + 1)]
    assert rates == pytest.approx([0.01] * epoch + [0.001])


def test_a_constant_rate_stays() -> None:
    keeper = learner(Linear(), schedule="constant", batch_size=64)
    before = float(keeper.learner.model.state_dict()["weight"])
    assert "learning_rate" not in keeper.step()  # no schedule to report
    # The first update of Adam is as long as the learning rate.
    assert abs(float(keeper.learner.model.state_dict()["weight"]) - before) == pytest.approx(0.01, rel=1e-3)


def test_squared_error_over_all_samples_and_nodes() -> None:
    class Zero(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset = nn.Parameter(torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0.0 * x + self.offset

    x, y = torch.zeros(300, 4), torch.randn(300, 4)
    samples = TensorDataset(x, y)
    one = squared_error_learner(
        Zero(), samples, batch_size=30, steps=5, learning_rate=0.1, clip_norm=5.0, seed=0, device=torch.device("cpu")
    )
    assert mean_squared_error(one, samples) == pytest.approx(float(y.square().mean()), rel=1e-5)
    first = one.step()["loss"]
    chosen = one.batches.indices(0)
    assert first == pytest.approx(float(y[chosen].square().mean()), rel=1e-5)
