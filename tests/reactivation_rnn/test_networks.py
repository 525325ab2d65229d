from __future__ import annotations

import math
import shutil
from typing import Any

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from iclr_repro.reactivation_rnn import scan
from iclr_repro.reactivation_rnn.baselines import official_style_forward, plain_forward
from iclr_repro.reactivation_rnn.networks import Activity, Network, NoisyGRU, NoisyRNN
from iclr_repro.reactivation_rnn.scan import gru_scan, relu_scan

STEPS, BATCH, UNITS, CELLS = 6, 4, 5, 7


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.randn(STEPS, BATCH, 2, generator=generator()),
        torch.rand(BATCH, CELLS, generator=generator(1)),
    )


def plain_gru(network: NoisyGRU, inputs_TBI: torch.Tensor, code_BP: torch.Tensor, noise_TBN: torch.Tensor) -> Any:
    """Equations A.3 to A.6, a step at a time."""
    state = network.encoder(code_BP)
    (wz_rec, wg_rec), (wz_in, wg_in) = (m.weight.chunk(2) for m in (network.gate_recurrent, network.gate_input))
    states = []
    for t, x in enumerate(inputs_TBI):
        z = torch.sigmoid(state @ wz_rec.T + x @ wz_in.T)
        g = torch.sigmoid(state @ wg_rec.T + x @ wg_in.T)
        candidate = torch.tanh((g * state) @ network.recurrent.weight.T + x @ network.input.weight.T)
        state = state + network.leak * (1 - z) * (candidate - state) + noise_TBN[t]
        states.append(state)
    return torch.stack(states), network.decoder(torch.stack(states))


@pytest.mark.parametrize("bias", [False, True])
def test_the_fused_scan_is_a_loop_over_steps(bias: bool) -> None:
    network = NoisyRNN(2, UNITS, CELLS, bias=bias).double()
    if network.bias is not None:
        torch.nn.init.uniform_(network.bias)
    x, code = (part.double() for part in inputs())
    noise = 0.1 * torch.randn(STEPS, BATCH, UNITS, generator=generator(2)).double()
    plain = plain_forward(network, x, code, noise)
    fused = network(x, code, unit_noise_TBN=noise / network.sigma_step)
    assert_same_gradients(network, fused, plain)


def test_the_loop_in_the_official_style_computes_the_same() -> None:
    """With equal noise: in each step it draws for the input, for the state, and for the output."""
    network = NoisyRNN(2, UNITS, CELLS, sigma_step=0.1)
    x, code = inputs()
    hidden, output = official_style_forward(network, x.transpose(0, 1), code, generator=generator(3))
    stream = generator(3)
    drawn = [[torch.randn(BATCH, size, generator=stream) for size in (2, UNITS, CELLS)] for _ in range(STEPS)]
    ours = network(x, code, unit_noise_TBN=torch.stack([step[1] for step in drawn]))
    silent = network(x, code, unit_noise_TBN=torch.zeros(STEPS, BATCH, UNITS))
    assert not torch.allclose(ours.hidden, silent.hidden, atol=1e-2)
    assert_same_gradients(network, ours, (hidden.transpose(0, 1), output.transpose(0, 1)), tolerance=1e-5)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch.compile's own
def test_the_compiled_scan_is_the_fused_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six steps in chunks of four and two."""
    monkeypatch.setattr(scan, "_CHUNK", 4)
    network, compiled = NoisyRNN(2, UNITS, CELLS), NoisyRNN(2, UNITS, CELLS, compiled=True)
    compiled.load_state_dict(network.state_dict())
    x, code = inputs()
    results = []
    for one in (network, compiled):
        found = one(x, code, generator=generator(2))
        found.output.pow(2).sum().backward()
        results.append([found.hidden, found.output, *(parameter.grad for parameter in one.parameters())])
    for fused, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, fused, rtol=1e-5, atol=1e-6)
    with torch.no_grad():  # there it is the fused scan itself
        first, second = (one(x, code, generator=generator(2)).hidden for one in (network, compiled))
    assert (first == second).all()


def test_the_fused_gru_is_a_loop_over_steps() -> None:
    network = NoisyGRU(2, UNITS, CELLS).double()
    x, code = (part.double() for part in inputs())
    noise = 0.1 * torch.randn(STEPS, BATCH, UNITS, generator=generator(2)).double()
    fused = network(x, code, unit_noise_TBN=noise / network.sigma_step)
    assert_same_gradients(network, fused, plain_gru(network, x, code, noise))


def assert_same_gradients(network: Network, fused: Activity, plain: Any, *, tolerance: float = 1e-10) -> None:
    gradients = []
    for hidden, output in ((fused.hidden, fused.output), plain):
        network.zero_grad()
        weights = torch.linspace(-1.0, 2.0, output.numel(), dtype=output.dtype).reshape(output.shape)
        ((output * weights).sum() + hidden.pow(3).sum()).backward()
        gradients.append(
            {
                name: parameter.grad.clone()
                for name, parameter in network.named_parameters()
                if parameter.grad is not None
            }
        )
    assert len(gradients[0]) == len(list(network.parameters()))
    torch.testing.assert_close((fused.hidden, fused.output), tuple(plain), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("noisy", [False, True])
def test_gradients_are_those_of_finite_differences(noisy: bool) -> None:
    def draw(*shape: int, seed: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator(seed), dtype=torch.float64).requires_grad_()

    noise = torch.randn(3, 2, 4, generator=generator(9), dtype=torch.float64) if noisy else None

    def relu(start: torch.Tensor, drive: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return relu_scan(start, drive, weight, None if noise is None else noise.clone(), 0.3)

    def gru(
        start: torch.Tensor,
        gates: torch.Tensor,
        drive: torch.Tensor,
        gate_weight: torch.Tensor,
        weight: torch.Tensor,
    ) -> torch.Tensor:
        added = None if noise is None else noise.clone()
        return gru_scan(start, gates, drive, gate_weight, weight, added, 0.3)

    start, drive, weight = draw(2, 4, seed=0), draw(3, 2, 4, seed=1), draw(4, 4, seed=2)
    assert torch.autograd.gradcheck(relu, (start, drive, weight))
    gates, gate_weight = draw(3, 2, 8, seed=3), draw(8, 4, seed=4)
    assert torch.autograd.gradcheck(gru, (start, gates, drive, gate_weight, weight))


def test_without_input_and_noise_a_network_with_no_weights_leaks() -> None:
    network = NoisyRNN(2, UNITS, CELLS, leak=0.2, sigma_step=0.0)
    torch.nn.init.zeros_(network.recurrent.weight)
    code = torch.rand(BATCH, CELLS, generator=generator())
    found = network(torch.zeros(STEPS, BATCH, 2), code)
    torch.testing.assert_close(found.hidden[-1], network.initial_state(code) * 0.8**STEPS)
    torch.testing.assert_close(found.output, F.linear(found.hidden, network.decoder.weight))


def test_outputs_belong_to_the_state_after_the_input() -> None:
    network = NoisyRNN(2, UNITS, CELLS, sigma_step=0.0)
    x, code = inputs()
    other = x.clone()
    other[-1] += 1.0
    first, second = network(x, code).hidden, network(other, code).hidden
    torch.testing.assert_close(first[:-1], second[:-1])
    assert not torch.allclose(first[-1], second[-1])


@pytest.mark.parametrize(("law", "mean", "std"), [("gaussian", 0.0, 1.0), ("uniform_official", 0.5, 1 / math.sqrt(12))])
def test_the_noise_laws_have_their_moments(law: Any, mean: float, std: float) -> None:
    network = NoisyRNN(2, UNITS, CELLS, noise_law=law)
    drawn = network.noise((400, 100, 5), sigma_step=0.01, generator=generator(), like=torch.zeros(1)) / 0.01
    assert drawn.mean().item() == pytest.approx(mean, abs=0.01)
    assert drawn.std().item() == pytest.approx(std, rel=0.01)


def test_noise_is_added_unscaled_to_every_unit_once() -> None:
    network = NoisyRNN(2, UNITS, CELLS, sigma_step=0.3)
    for module in (network.recurrent, network.input, network.encoder):
        torch.nn.init.zeros_(module.weight)
    x, code = inputs()
    noise = torch.randn(STEPS, BATCH, UNITS, generator=generator(5))
    hidden = network(x, code, unit_noise_TBN=noise).hidden
    torch.testing.assert_close(hidden[0], 0.3 * noise[0])
    torch.testing.assert_close(hidden[1], 0.8 * 0.3 * noise[0] + 0.3 * noise[1])
    again = network(x, code, generator=generator(7)).hidden
    torch.testing.assert_close(again, network(x, code, generator=generator(7)).hidden)


def test_weights_start_within_the_bounds_of_torch() -> None:
    network = NoisyRNN(2, 64, 256)
    for module in (network.encoder, network.input, network.recurrent, network.decoder):
        bound = 1 / math.sqrt(module.in_features)
        assert 0.95 * bound < module.weight.abs().max() <= bound
    assert {name for name, _ in network.named_parameters()} == {
        "encoder.weight", "decoder.weight", "input.weight", "recurrent.weight",
    }  # fmt: skip


@pytest.mark.usefixtures("unchecked")
def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="noise_law: got 'cauchy', expected one of gaussian, uniform_official"):
        NoisyRNN(2, UNITS, CELLS, noise_law="cauchy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"leak: got 0.0, expected dt / tau in \(0, 1\]"):
        NoisyRNN(2, UNITS, CELLS, leak=0.0)
    with pytest.raises(ValueError, match=r"sigma_step: got -0.1, expected a number >= 0"):
        NoisyGRU(2, UNITS, CELLS, sigma_step=-0.1)
    x, code = inputs()
    with pytest.raises(ValueError, match=r"generator: None, expected a torch.Generator"):
        NoisyRNN(2, UNITS, CELLS)(x, code)
    with pytest.raises(ValueError, match="inputs: got 2 values a step, expected 1"):
        NoisyRNN(1, UNITS, CELLS, sigma_step=0.0)(x, code)
