"""What the vectorised code is timed against: the straightforward way, in the style of the authors' code (sheet 2.7)."""

from __future__ import annotations

import numpy as np
import scipy.stats
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from iclr_repro.reactivation_rnn.cells import PlaceCells
from iclr_repro.reactivation_rnn.networks import NoisyRNN
from iclr_repro.reactivation_rnn.trajectories import Trajectories


def plain_forward(
    network: NoisyRNN,
    inputs_TBI: Tensor,
    start_code_BP: Tensor,
    noise: Tensor | torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return hidden states [T, B, N] and outputs [T, B, P] by a loop over steps, each with its own readout.

    Args:
        network: whose weights are used.
        inputs_TBI: changes of the variable.
        start_code_BP: code of the start.
        noise: already scaled, [T, B, N], or the generator that the network's own noise is drawn from in each step.
    """
    state = network.encoder(start_code_BP)
    states, outputs = [], []
    for t, input_BI in enumerate(inputs_TBI):
        drive = F.linear(state, network.recurrent.weight) + network.input(input_BI)
        if network.bias is not None:
            drive = drive + network.bias
        state = (1 - network.leak) * state + network.leak * torch.relu(drive)
        if isinstance(noise, torch.Generator):
            drawn = torch.randn(state.shape, generator=noise, device=noise.device)
            state = state + network.sigma_step * drawn.to(state.device)
        else:
            state = state + noise[t]
        states.append(state)
        outputs.append(network.decoder(state))
    return torch.stack(states), torch.stack(outputs)


def plain_place_code(cells: PlaceCells, position: Tensor) -> Tensor:
    """Return the softmax place code from the tensor of all differences [.., P, 2]."""
    squares = (position.unsqueeze(-2) - cells.centers).square().sum(dim=-1)
    return torch.softmax(-squares / (2 * cells.sigma_m**2), dim=-1)


def official_style_forward(
    network: NoisyRNN, inputs_BTI: Tensor, start_code_BP: Tensor, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return hidden states [B, T, N] and outputs [B, T, P] as the authors' loop does (sheet 2.7).

    Trajectories first; in each step a readout, slices written into the results, and draws of input and output noise of
    size zero that change nothing.
    """
    device = inputs_BTI.device

    def noise(like: Tensor, scale: float) -> Tensor:
        return scale * torch.randn(like.shape, generator=generator, device=generator.device).to(device)

    num_trajectories, num_steps, _ = inputs_BTI.shape
    hidden = torch.zeros(num_trajectories, num_steps, network.num_units, device=device)
    outputs = torch.zeros(num_trajectories, num_steps, network.num_cells, device=device)
    state = network.encoder(start_code_BP)
    for t in range(num_steps):
        input_BI = inputs_BTI[:, t]
        drive = network.recurrent(state) + network.input(input_BI + noise(input_BI, 0.0))
        state = (1 - network.leak) * state + network.leak * torch.relu(drive) + noise(state, network.sigma_step)
        output = network.decoder(state)
        hidden[:, t] = state
        outputs[:, t] = output + noise(output, 0.0)
    return hidden, outputs


def plain_training_step(
    network: NoisyRNN,
    cells: PlaceCells,
    optimizer: torch.optim.Optimizer,
    trajectories: Trajectories,
    generator: torch.Generator,
    *,
    official_style: bool,
) -> float:
    """Make one update with a loop over steps and `plain_place_code`; return the loss.

    Args:
        network: trained in place.
        cells: target code.
        optimizer: of the network.
        trajectories: the batch.
        generator: of the noise, drawn on its device.
        official_style: by `official_style_forward`, otherwise by the lean `plain_forward`.
    """
    start, inputs, targets = (
        torch.from_numpy(part.astype(np.float32)).to(network.decoder.weight.device)
        for part in (trajectories.start, trajectories.inputs, trajectories.targets)
    )
    code = plain_place_code(cells, start)
    if official_style:
        inputs, targets = inputs.transpose(0, 1).contiguous(), targets.transpose(0, 1).contiguous()
        _, outputs = official_style_forward(network, inputs, code, generator=generator)
    else:
        _, outputs = plain_forward(network, inputs, code, generator)
    loss = nn.functional.mse_loss(outputs, plain_place_code(cells, targets))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def scipy_pdf(points_nd: np.ndarray, at_md: np.ndarray) -> np.ndarray:
    """Return the density of `scipy.stats.gaussian_kde` with its defaults."""
    return np.asarray(scipy.stats.gaussian_kde(points_nd.T)(at_md.T))
