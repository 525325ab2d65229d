import importlib.util
import io
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from iclr_repro.core.batches import ResumableBatches
from iclr_repro.core.supervised import Supervised
from support import launch_two

SCRIPT = Path(__file__).with_name("two_processes.py")


def make_samples(num_samples: int) -> list[tuple[Tensor, Tensor]]:
    inputs = torch.randn(num_samples, 5, generator=torch.Generator().manual_seed(0))
    return [(row, (row.sum() > 0).long()) for row in inputs]


def make_model(width: int = 8, dropout: float = 0.0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(5, width), nn.Dropout(dropout), nn.Tanh(), nn.Linear(width, 2))


def loss(model: nn.Module, batch: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    inputs, labels = batch
    scores = model(inputs)
    return cross_entropy(scores, labels), {"accuracy": (scores.argmax(1) == labels).float().mean()}


def make_learner(model: nn.Module | None = None, **options: Any) -> Supervised:
    """Return a learner that any of its arguments can be changed of; `optimizer` and `scheduler` are made from them."""
    model = make_model() if model is None else model
    make_optimizer = options.pop("optimizer", lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9))
    make_scheduler = options.pop("scheduler", lambda optimizer: None)
    batches = options.pop("batches", None) or ResumableBatches(make_samples(21), 8, seed=2, drop_last=False)
    optimizer = make_optimizer(model.parameters())
    options = {"loss": loss, "device": "cpu", "scheduler": make_scheduler(optimizer), **options}
    return Supervised(model, options.pop("loss"), optimizer, batches, **options)


def vector(model: nn.Module) -> Tensor:
    return torch.cat([weight.detach().cpu().flatten() for weight in model.parameters()])


def test_a_step_is_the_update_of_plain_torch() -> None:
    samples, expected = make_samples(21), make_model()
    batches = ResumableBatches(samples, 8, seed=2, drop_last=False)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.9)
    learner = make_learner(batches=ResumableBatches(samples, 8, seed=2, drop_last=False))
    for position in range(6):
        chosen = [samples[index] for index in batches.indices(position)]
        value = cross_entropy(expected(torch.stack([x for x, _ in chosen])), torch.stack([y for _, y in chosen]))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        assert learner.step()["loss"] == value.item()
    assert torch.equal(vector(learner.model), vector(expected))


def test_accumulation_changes_nothing_but_the_order_of_sums() -> None:
    runs = {}
    for accumulation in (1, 4):
        learner = make_learner(
            make_model().double(), accumulation=accumulation, batches=double_batches(), clip_norm=0.1
        )
        runs[accumulation] = [learner.step() for _ in range(10)], vector(learner.model)
    for whole, in_parts in zip(runs[1][0], runs[4][0], strict=True):
        assert in_parts == pytest.approx(whole, abs=1e-12)
    torch.testing.assert_close(runs[4][1], runs[1][1], rtol=0, atol=1e-12)


def double_batches() -> ResumableBatches:
    return ResumableBatches([(x.double(), y) for x, y in make_samples(21)], 8, seed=2, drop_last=False)


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        ("cpu", "no"),
        ("cpu", "bf16"),
        pytest.param(
            "cuda", "fp16", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
        ),
    ],
)
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_a_restored_learner_goes_on_bit_for_bit(device: str, precision: str, optimizer: type) -> None:
    options = {"lr": 0.05, "momentum": 0.9} if optimizer is torch.optim.SGD else {"lr": 0.05}

    def make() -> Supervised:
        return make_learner(
            make_model(dropout=0.3),
            optimizer=lambda parameters: optimizer(parameters, **options),
            scheduler=lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=60),
            device=device,
            precision=precision,
            accumulation=2,
            clip_norm=1.0,
        )

    learner = make()
    torch.manual_seed(3)
    reports, states = [], io.BytesIO()
    for step in range(40):
        if step == 23:
            torch.save({"learner": learner.state_dict(), "random": random_states()}, states)
        reports.append(learner.step())

    restored = make()
    restored.step()
    state = torch.load(io.BytesIO(states.getvalue()), weights_only=True)
    restored.load_state_dict(state["learner"])
    for set_state, value in zip((torch.set_rng_state, torch.cuda.set_rng_state), state["random"], strict=False):
        set_state(value)
    assert [restored.step() for _ in range(17)] == reports[23:]
    assert torch.equal(vector(restored.model), vector(learner.model))
    assert len({report["loss"] for report in reports}) == 40


def random_states() -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_available() else [])]


def test_clipping_bounds_the_gradient_of_the_whole_batch() -> None:
    for accumulation in (1, 4):
        learner = make_learner(
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0), accumulation=accumulation, clip_norm=0.01
        )
        before = vector(learner.model)
        learner.step()
        assert (vector(learner.model) - before).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_the_scheduler_steps_once_an_update_and_its_rate_is_reported() -> None:
    learner = make_learner(
        scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1), accumulation=2
    )
    rates = [learner.step()["learning_rate"] for _ in range(6)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert "learning_rate" not in make_learner().step()


def test_reported_values_are_means_over_the_micro_batches() -> None:
    counts = iter([1, 2, 6, 7])
    learner = make_learner(loss=lambda model, batch: (loss(model, batch)[0], {"count": next(counts)}), accumulation=4)
    assert learner.step()["count"] == 4.0


class Recording(nn.Module):
    """A linear layer that notes the type of what it computed."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 2)
        self.computed: list[torch.dtype] = []

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.linear(inputs)
        self.computed.append(scores.dtype)
        return scores


def test_in_mixed_precision_the_model_computes_in_bf16_and_the_loss_in_float32() -> None:
    seen = []

    def recording_loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
        value = cross_entropy(model(batch[0]), batch[1])
        seen.append(value.dtype)
        return value

    model = Recording()
    make_learner(model, loss=recording_loss, precision="bf16").step()
    assert model.computed == [torch.bfloat16]
    assert seen == [torch.float32]
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_learners_of_different_precision_do_not_disturb_each_other() -> None:
    alone = make_learner(precision="no")
    expected = [alone.step() for _ in range(5)]
    first, recording = make_learner(precision="no"), Recording()
    reports = [first.step()]
    second = make_learner(recording, precision="bf16")
    for _ in range(4):
        second.step()
        reports.append(first.step())
    assert reports == expected
    assert recording.computed == [torch.bfloat16] * 4
    assert (first.accelerator.mixed_precision, second.accelerator.mixed_precision) == ("no", "bf16")


def test_a_model_can_be_trained_on_in_another_precision() -> None:
    model = Recording()
    for precision in ("bf16", "no", "bf16"):
        make_learner(model, precision=precision).step()
    assert model.computed == [torch.bfloat16, torch.float32, torch.bfloat16]


def test_evaluation_counts_each_sample_once() -> None:
    learner = make_learner()

    def metric(model: nn.Module, batch: list[Tensor]) -> dict[str, Tensor]:
        return {"power": batch[0], "even": batch[0] < 0}

    for num_samples in (1, 4, 7):
        powers = [(torch.tensor(2.0**number, dtype=torch.float64), 0) for number in range(num_samples)]
        result = learner.evaluate(powers, metric, batch_size=3)
        assert result["power"] * result["n"] == 2.0**num_samples - 1
        assert (result["n"], result["even"]) == (num_samples, 0.0)


def test_evaluation_is_the_mean_over_samples_with_the_model_in_evaluation_mode() -> None:
    model = make_model(dropout=0.5)
    model[2].eval()  # kept out of training by its owner
    learner = make_learner(model)

    def metric(model: nn.Module, batch: list[Tensor]) -> dict[str, Tensor]:
        assert not torch.is_grad_enabled()
        return {"right": model(batch[0]).argmax(1) == batch[1]}

    samples, random = make_samples(10), torch.get_rng_state()
    result = learner.evaluate(samples, metric, batch_size=4)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model] == [True, True, False, True]
    scores = model.eval()(torch.stack([inputs for inputs, _ in samples]))
    assert result["right"] == (scores.argmax(1) == torch.stack([label for _, label in samples])).double().mean().item()


def test_evaluation_refuses_means_a_metric_called_n_and_empty_data() -> None:
    learner = make_learner()
    with pytest.raises(ValueError, match=r"metric 'loss': got shape \[3\] for 7 samples, expected \[7\]"):
        learner.evaluate(make_samples(7), lambda model, batch: {"loss": loss(model, batch)[0]}, batch_size=3)
    with pytest.raises(ValueError, match="'n' is the number of samples in the result"):
        learner.evaluate(make_samples(7), lambda model, batch: {"n": batch[1]}, batch_size=3)
    with pytest.raises(ValueError, match="the dataset has no sample"):
        learner.evaluate([], lambda model, batch: {}, batch_size=3)


@pytest.mark.parametrize(
    ("bad_loss", "message"),
    [
        (lambda model, batch: model(batch[0])[:, 0], r"tensor of shape \[8\], expected a scalar: return the mean"),
        (lambda model, batch: (loss(model, batch)[0], {"loss": 1.0}), r"reports \['loss'\], which `step` itself"),
    ],
)
def test_a_wrong_loss_function_is_explained(bad_loss: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_learner(loss=bad_loss).step()


def test_values_that_only_some_micro_batches_report_are_refused() -> None:
    extra = iter([{"extra": 1.0}, {}])
    learner = make_learner(loss=lambda model, batch: (loss(model, batch)[0], next(extra)), accumulation=2)
    with pytest.raises(ValueError, match=r"different values by batch: \[\['loss', 'extra'\], \['loss'\]\]"):
        learner.step()


def test_fp16_on_the_cpu_is_refused() -> None:
    with pytest.raises(ValueError, match="'fp16' needs a GPU: use 'bf16' or 'no' on the CPU"):
        make_learner(precision="fp16")


def test_a_checkpoint_that_does_not_fit_is_refused_with_both_sides_and_changes_nothing() -> None:
    saved = make_learner(nn.Sequential(*make_model(), nn.PReLU()), optimizer=torch.optim.AdamW)
    saved.step()
    model = nn.Sequential(*make_model(width=4), nn.BatchNorm1d(2))
    del model[1]
    batches = ResumableBatches(make_samples(21), 4, seed=9, drop_last=False)
    learner = make_learner(
        model, batches=batches, precision="bf16", scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 3)
    )
    before = vector(learner.model)
    with pytest.raises(ValueError, match="the checkpoint does not fit") as caught:
        learner.load_state_dict(saved.state_dict())
    for line in (
        "precision: 'no' in the checkpoint, 'bf16' here",
        "optimizer: 'AdamW' in the checkpoint, 'SGD' here",
        "parameters by optimizer group: [5] in the checkpoint, [6] here",
        "scheduler: None in the checkpoint, 'StepLR' here",
        "seed: 2 in the checkpoint, 9 here",
        "batch_size: 8 in the checkpoint, 4 here",
        "model entries only in the checkpoint: 4.weight",
        "model entries only here: 2.bias, 2.weight, 3.num_batches_tracked, 3.running_mean, 3.running_var",
        "3.weight: shape [2, 8] in the checkpoint, [2] here",
        "0.weight: shape [8, 5] in the checkpoint, [4, 5] here",
    ):
        assert line in str(caught.value)
    assert torch.equal(vector(learner.model), before)
    assert learner.batches.position == 0


def test_a_state_of_something_else_is_refused() -> None:
    learner = make_learner()
    with pytest.raises(ValueError, match=r"entries only in the checkpoint: table\n  entries only here: batches, model"):
        learner.load_state_dict({"table": 1, "settings": {}})


def test_fsdp_is_refused_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
    with pytest.raises(ValueError, match=r"checkpoints of shards are not supported: launch with DDP"):
        make_learner()


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the script in two processes and return the folder that it wrote to."""
    folder = tmp_path_factory.mktemp("two_processes")
    done = launch_two(SCRIPT, folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_two_processes_train_as_one(script: ModuleType, launched: Path) -> None:
    report = json.loads((launched / "report.json").read_text())
    assert report["num_processes"] == 2
    learner = script.make_learner()
    expected = [learner.step() for _ in range(script.STEPS)]
    for steps in (report["reports"], report["reports of 2 micro-batches"]):
        assert len(steps) == script.STEPS
        for ours, theirs in zip(expected, steps, strict=True):
            assert theirs == pytest.approx(ours, abs=1e-6)
    assert report["weights"] == pytest.approx(script.weights(learner), abs=1e-6)
    result = learner.evaluate(script.make_samples(), script.metric, batch_size=4)
    assert report["evaluation"] == pytest.approx(result, abs=1e-6)
    assert report["evaluation"]["n"] == script.NUM_SAMPLES
    assert report["evaluation"]["power"] * script.NUM_SAMPLES == 2.0**script.NUM_SAMPLES - 1


def test_one_process_goes_on_from_the_checkpoint_of_two(script: ModuleType, launched: Path) -> None:
    report = json.loads((launched / "report.json").read_text())
    learner = script.make_learner()
    learner.load_state_dict(torch.load(launched / "checkpoint.pt", weights_only=True))
    for theirs in report["reports"][script.CHECKPOINT :]:
        assert learner.step() == pytest.approx(theirs, abs=1e-6)


def test_a_device_other_than_the_launchers_is_refused(launched: Path) -> None:
    error = json.loads((launched / "report.json").read_text())["error"]
    assert error.startswith("device: 'cuda' asked for, but under this launcher Accelerate puts the process on 'cpu'")
    assert error.endswith("use device=cpu, or launch it for cuda")
