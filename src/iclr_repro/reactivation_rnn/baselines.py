"""What the vectorised code is timed against: the straightforward way, in the style of the authors' code (sheet 2.7)."""

from __future__ import annotations

import numpy as np
import scipy.stats
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from iclr_repro.reactivation_rnn.cells import PlaceCells
from iclr_repro.reactivation_rnn.networks import NoisyRNN
from iclr_repro.reactivation_rnn.trajectories import Arena, Trajectories


def plain_forward(
    network: NoisyRNN,
    inputs_TBI: Tensor,
    start_code_BP: Tensor,
    noise_TBN: Tensor | None,
    *,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Return hidden states [T, B, N] and outputs [T, B, P] by a loop over steps, each with its own readout.

    Args:
        network: whose weights are used.
        inputs_TBI: changes of the variable.
        start_code_BP: code of the start.
        noise_TBN: already scaled; None: drawn in each step from `generator` (then for the network's sigma_step).
        generator: see above.
    """
    state = network.encoder(start_code_BP)
    device = state.device
    states, outputs = [], []
    for t, input_BI in enumerate(inputs_TBI):
        drive = F.linear(state, network.recurrent.weight) + network.input(input_BI)
        if network.bias is not None:
            drive = drive + network.bias
        state = (1 - network.leak) * state + network.leak * torch.relu(drive)
        if noise_TBN is not None:
            state = state + noise_TBN[t]
        elif network.sigma_step > 0.0:
            state = state + network.sigma_step * torch.randn(state.shape, generator=generator).to(device)
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
        return scale * torch.randn(like.shape, generator=generator).to(device)

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
        generator: of the noise.
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
        _, outputs = plain_forward(network, inputs, code, None, generator=generator)
    loss = nn.functional.mse_loss(outputs, plain_place_code(cells, targets))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def plain_walk(
    position_B2: np.ndarray, heading_B: np.ndarray, turn_TB: np.ndarray, speed_TB: np.ndarray, *, arena: Arena
) -> Trajectories:
    """Walk as `trajectories.walk` does, a trajectory and a step at a time, written from the rules of sheet 2.3."""
    half = arena.side_m / 2
    num_steps, num = turn_TB.shape
    positions = np.empty((num_steps + 1, num, 2))
    steps = np.empty((num_steps, num, 2))
    for b in range(num):
        (x, y), heading = position_B2[b], heading_B[b]
        positions[0, b] = x, y
        for t in range(num_steps):
            distances = (half - x, half - y, half + x, half + y)
            wall = distances.index(min(distances))
            angle = (heading - wall * np.pi / 2 + np.pi) % (2 * np.pi) - np.pi
            near = distances[wall] < arena.border_m and abs(angle) < np.pi / 2
            speed = speed_TB[t, b] * (arena.border_slow if near else 1.0)
            u = speed * arena.dt_s * np.cos(heading) + arena.drift * (arena.anchor[0] - x)
            v = speed * arena.dt_s * np.sin(heading) + arena.drift * (arena.anchor[1] - y)
            heading += (np.sign(angle) * (np.pi / 2 - abs(angle)) if near else 0.0) + arena.dt_s * turn_TB[t, b]
            x, y = x + u, y + v
            positions[t + 1, b], steps[t, b] = (x, y), (u, v)
    return Trajectories(positions[1], steps[1:], positions[2:])


def scipy_pdf(points_nd: np.ndarray, at_md: np.ndarray) -> np.ndarray:
    """Return the density of `scipy.stats.gaussian_kde` with its defaults."""
    return np.asarray(scipy.stats.gaussian_kde(points_nd.T)(at_md.T))
