"""The networks of the paper: noisy, leaky, driven by changes of the variable alone (suppl. A.3).

Shape letters: T = steps, B = trajectories, I = inputs, N = units, P = cells of the target code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from iclr_repro.reactivation_rnn.scan import compiled_relu_scan, gru_scan, relu_scan

NoiseLaw = Literal["gaussian", "uniform_official"]


@dataclass(frozen=True, eq=False)
class Activity:
    """What a network did.

    Attributes:
        hidden: r_1 .. r_T, [T, B, N].
        output: D r_1 .. D r_T, [T, B, P].
    """

    hidden: Tensor
    output: Tensor


def check_not_negative(name: str, value: float) -> None:
    """Refuse what is no strength of noise.

    Raises:
        ValueError: `value` is negative, infinite or NaN.
    """
    if not (math.isfinite(value) and value >= 0.0):
        raise ValueError(f"{name}: got {value}, expected a number >= 0")


class _NoisyNetwork(nn.Module):
    """What both networks share: encoder, readout, noise; abstract."""

    def __init__(
        self, num_inputs: int, num_units: int, num_cells: int, *, leak: float, sigma_step: float, noise_law: NoiseLaw
    ) -> None:
        super().__init__()
        if noise_law not in get_args(NoiseLaw):
            raise ValueError(f"noise_law: got {noise_law!r}, expected one of {', '.join(get_args(NoiseLaw))}")
        if not 0.0 < leak <= 1.0:
            raise ValueError(f"leak: got {leak}, expected dt / tau in (0, 1]")
        check_not_negative("sigma_step", sigma_step)
        self.num_inputs, self.num_units, self.num_cells = num_inputs, num_units, num_cells
        self.leak, self.sigma_step, self.noise_law = leak, sigma_step, noise_law
        self.encoder = nn.Linear(num_cells, num_units, bias=False)
        self.decoder = nn.Linear(num_units, num_cells, bias=False)

    def initial_state(self, code_BP: Float[Tensor, "B P"]) -> Float[Tensor, "B N"]:
        """Return r_0 = W_enc f(s_0), from the code of the start. Source: the authors' code; the paper does not say."""
        state: Tensor = self.encoder(code_BP)
        return state

    def scan(
        self, start_BN: Float[Tensor, "B N"], inputs_TBI: Float[Tensor, "T B I"], noise_TBN: Tensor | None
    ) -> Float[Tensor, "T B N"]:
        """Return r_1 .. r_T from r_0, the inputs and scaled noise (None: none), which is overwritten."""
        raise NotImplementedError

    def forward(
        self,
        inputs_TBI: Float[Tensor, "T B I"],
        start_code_BP: Float[Tensor, "B P"],
        *,
        generator: torch.Generator | None = None,
        unit_noise_TBN: Float[Tensor, "T B N"] | None = None,
    ) -> Activity:
        """Run for T steps with the network's own noise; outputs belong to the states after each input.

        Args:
            inputs_TBI: changes of the variable, not divided by dt.
            start_code_BP: code of the variable before the first change.
            generator: of the noise; needed unless `sigma_step` is 0 or the noise is given. A CPU generator gives equal
                noise on every device.
            unit_noise_TBN: xi_t itself, in place of draws.

        Raises:
            ValueError: the number of inputs is wrong, or there is noise to draw and no generator.
        """
        if inputs_TBI.shape[-1] != self.num_inputs:
            raise ValueError(f"inputs: got {inputs_TBI.shape[-1]} values a step, expected {self.num_inputs}")
        start_BN = self.initial_state(start_code_BP)
        noise = self.sigma_step * unit_noise_TBN if unit_noise_TBN is not None else None
        if noise is None and self.sigma_step > 0.0:
            noise = self.noise(
                (len(inputs_TBI), *start_BN.shape), sigma_step=self.sigma_step, generator=generator, like=start_BN
            )
        hidden_TBN = self.scan(start_BN, inputs_TBI, noise)
        return Activity(hidden_TBN, F.linear(hidden_TBN, self.decoder.weight))

    def noise(
        self, shape: tuple[int, ...], *, sigma_step: float, generator: torch.Generator | None, like: Tensor
    ) -> Tensor:
        """Draw sigma_step xi for all steps at once, on the device and in the dtype of `like`.

        "gaussian": xi ~ N(0, 1), as the paper says. "uniform_official": xi ~ U[0, 1), as the authors' code does: a
        constant drive of sigma_step / 2 and a standard deviation of sigma_step / sqrt(12).

        Raises:
            ValueError: there is no generator.
        """
        if generator is None:
            raise ValueError(
                "generator: None, expected a torch.Generator, for the noise of a network with sigma_step > 0"
            )
        drawn = torch.empty(shape, dtype=like.dtype, device=generator.device)
        if self.noise_law == "gaussian":
            drawn.normal_(0.0, sigma_step, generator=generator)
        else:
            drawn.uniform_(0.0, sigma_step, generator=generator)
        return drawn.to(like.device)


class NoisyRNN(_NoisyNetwork):
    """The vanilla network: r_{t+1} = (1 - a) r_t + a ReLU(W_rec r_t + W_in x_t) + sigma_step xi_t, o = D r (A.1, A.2).

    Noise stands outside the leak and the non-linearity and is not multiplied by a. All weights start from
    U(-1/sqrt(fan_in), 1/sqrt(fan_in)) of torch's global generator, as in the authors' code.

    Args:
        num_inputs: 2 for displacements, 1 for turns.
        num_units: N.
        num_cells: P.
        leak: a = dt / tau; 0.2 for positions, 0.5 for bearings.
        sigma_step: sigma sqrt(dt), the noise of one step; 0.01 for positions, 0.1 for bearings, 0: none.
        noise_law: "gaussian" as in the paper, or "uniform_official" as in the authors' code.
        bias: a trainable bias inside the ReLU, 0 at first; neither in the paper nor in its code (sheet 10.4).
        compiled: train by `compiled_relu_scan`; see there what it needs.

    Raises:
        ValueError: an option is unknown or out of range.
    """

    def __init__(
        self,
        num_inputs: int,
        num_units: int,
        num_cells: int,
        *,
        leak: float = 0.2,
        sigma_step: float = 0.01,
        noise_law: NoiseLaw = "gaussian",
        bias: bool = False,
        compiled: bool = False,
    ) -> None:
        super().__init__(num_inputs, num_units, num_cells, leak=leak, sigma_step=sigma_step, noise_law=noise_law)
        self.compiled = compiled
        self.input = nn.Linear(num_inputs, num_units, bias=False)
        self.recurrent = nn.Linear(num_units, num_units, bias=False)
        self.bias = nn.Parameter(torch.zeros(num_units)) if bias else None

    def scan(
        self, start_BN: Float[Tensor, "B N"], inputs_TBI: Float[Tensor, "T B I"], noise_TBN: Tensor | None
    ) -> Float[Tensor, "T B N"]:
        """Return r_1 .. r_T; see `relu_scan`."""
        drive_TBN = F.linear(inputs_TBI, self.input.weight, self.bias)
        scan = compiled_relu_scan if self.compiled and torch.is_grad_enabled() else relu_scan
        return scan(start_BN, drive_TBN, self.recurrent.weight, noise_TBN, self.leak)


class NoisyGRU(_NoisyNetwork):
    """The gated network (A.3 - A.6).

    r_{t+1} = r_t + a (1 - z)(tanh(Wr_rec (g r_t) + Wr_in x_t) - r_t) + sigma_step xi_t,
    z and g are sigmoids of their own weights times r_t and x_t; there are no biases. For arguments and errors see
    `NoisyRNN`.
    """

    def __init__(
        self,
        num_inputs: int,
        num_units: int,
        num_cells: int,
        *,
        leak: float = 0.2,
        sigma_step: float = 0.01,
        noise_law: NoiseLaw = "gaussian",
    ) -> None:
        super().__init__(num_inputs, num_units, num_cells, leak=leak, sigma_step=sigma_step, noise_law=noise_law)
        # The two gates one above the other, z first: one product a step.
        self.gate_input = nn.Linear(num_inputs, 2 * num_units, bias=False)
        self.gate_recurrent = nn.Linear(num_units, 2 * num_units, bias=False)
        self.input = nn.Linear(num_inputs, num_units, bias=False)
        self.recurrent = nn.Linear(num_units, num_units, bias=False)

    def scan(
        self, start_BN: Float[Tensor, "B N"], inputs_TBI: Float[Tensor, "T B I"], noise_TBN: Tensor | None
    ) -> Float[Tensor, "T B N"]:
        """Return r_1 .. r_T; see `gru_scan`."""
        return gru_scan(
            start_BN,
            self.gate_input(inputs_TBI),
            self.input(inputs_TBI),
            self.gate_recurrent.weight,
            self.recurrent.weight,
            noise_TBN,
            self.leak,
        )


Network = NoisyRNN | NoisyGRU
