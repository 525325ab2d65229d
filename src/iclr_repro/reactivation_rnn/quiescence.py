"""Running trained networks: with input (active), without (quiescent), and what their outputs say (sheet 2.2, 2.6).

Shape letters: T = steps, B = trajectories, N = units, P = cells, D = 2 for positions, 1 for bearings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from iclr_repro.reactivation_rnn.cells import Cells
from iclr_repro.reactivation_rnn.networks import Network, check_not_negative
from iclr_repro.reactivation_rnn.trajectories import Trajectories, check_num_steps

_CHUNK = 100  # steps whose states and outputs are in memory at once


@dataclass(frozen=True, eq=False)
class Recording:
    """What is read from a run, on the CPU.

    Attributes:
        decoded: positions in m or bearings in rad from the most active cells, [T, B, D].
        weighted: the same from all cells by the positive part of their activity, [T, B, D].
        peak: activity of the most active cell, [T, B]: small where the bump has faded.
        loss: mean squared difference of output and target code; None without targets.
        hidden: states [T, B, N], where they were asked for.
    """

    decoded: np.ndarray
    weighted: np.ndarray
    peak: np.ndarray
    loss: float | None = None
    hidden: np.ndarray | None = None


def active_run(
    network: Network,
    cells: Cells,
    trajectories: Trajectories,
    *,
    generator: torch.Generator,
    sigma_step: float | None = None,
    keep_hidden: bool = False,
) -> Recording:
    """Let a network follow trajectories, with its own noise or another.

    Args:
        network: trained or not.
        cells: target code.
        trajectories: what is followed.
        generator: of the noise.
        sigma_step: noise of a step; None: that of training.
        keep_hidden: return the states, too.

    Raises:
        ValueError: `sigma_step` < 0 or not finite.
    """
    device = network.decoder.weight.device
    start, inputs, targets = (
        torch.from_numpy(part.astype(np.float32)).to(device)
        for part in (trajectories.start, trajectories.inputs, trajectories.targets)
    )
    sigma_step = network.sigma_step if sigma_step is None else sigma_step
    check_not_negative("sigma_step", sigma_step)
    return _recorded(
        network, cells, start, len(inputs), inputs, targets, sigma_step, generator=generator, keep_hidden=keep_hidden
    )


def quiescent_run(
    network: Network,
    cells: Cells,
    start: np.ndarray,
    num_steps: int,
    *,
    generator: torch.Generator,
    variance_factor: float = 2.0,
    sigma_step: float | None = None,
    keep_hidden: bool = False,
) -> Recording:
    """Let a network run without input: x = 0, and the variance of its noise times c (Eq. 19).

    Args:
        network: trained or not.
        cells: target code.
        start: positions [B, 2] or bearings [B, 1] whose code sets the first state.
        num_steps: T >= 2.
        generator: of the noise.
        variance_factor: c >= 0; 2 in the paper, 1 in its Fig. C.1 and for GRUs, 0 for no noise at all.
        sigma_step: noise of a step before c; None: that of training, so that c does nothing where that was 0.
        keep_hidden: return the states, too.

    Raises:
        ValueError: c or `sigma_step` < 0 or not finite, T < 2, or start values of another shape or not finite.
    """
    sigma_step = network.sigma_step if sigma_step is None else sigma_step
    check_quiescence(network, start, num_steps, variance_factor=variance_factor, sigma_step=sigma_step)
    sigma_step *= math.sqrt(variance_factor)
    first = torch.from_numpy(start.astype(np.float32)).to(network.decoder.weight.device)
    return _recorded(
        network, cells, first, num_steps, None, None, sigma_step, generator=generator, keep_hidden=keep_hidden
    )


def check_quiescence(
    network: Network, start: np.ndarray, num_steps: int, *, variance_factor: float, sigma_step: float
) -> None:
    """Refuse a run without input that cannot be, here and in `replay_run`.

    Raises:
        ValueError: see `quiescent_run`.
    """
    check_num_steps(num_steps)
    check_not_negative("variance_factor", variance_factor)
    check_not_negative("sigma_step", sigma_step)
    if start.ndim != 2 or start.shape[1] != network.num_inputs:
        raise ValueError(f"start: got shape {start.shape}, expected [B, {network.num_inputs}]")
    if not np.isfinite(start).all():
        raise ValueError(f"start: {int((~np.isfinite(start)).sum())} values are NaN or infinite")


@torch.no_grad()
def _recorded(
    network: Network,
    cells: Cells,
    start_BD: Float[Tensor, "B D"],
    num_steps: int,
    inputs_TBD: Tensor | None,
    targets_TBD: Tensor | None,
    sigma_step: float,
    *,
    generator: torch.Generator,
    keep_hidden: bool,
) -> Recording:
    """Run in chunks of steps, so that long runs need little memory."""
    state_BN = network.initial_state(cells.encode(start_BD))
    parts = []
    hidden = []
    squares = 0.0
    for first in range(0, num_steps, _CHUNK):
        chunk = slice(first, min(first + _CHUNK, num_steps))
        length = chunk.stop - first
        inputs = start_BD.new_zeros(length, *start_BD.shape) if inputs_TBD is None else inputs_TBD[chunk]
        noise = None
        if sigma_step > 0.0:
            shape = (length, *state_BN.shape)
            noise = network.noise(shape, sigma_step=sigma_step, generator=generator, like=state_BN)
        hidden_TBN = network.scan(state_BN, inputs, noise)
        state_BN = hidden_TBN[-1]
        output_TBP = network.decoder(hidden_TBN)
        if targets_TBD is not None:
            squares += float((output_TBP - cells.encode(targets_TBD[chunk])).square().sum())
        parts.append((cells.decode(output_TBP), cells.decode_weighted(output_TBP), output_TBP.amax(dim=-1)))
        if keep_hidden:
            hidden.append(hidden_TBN.cpu())
    decoded, weighted, peak = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    return Recording(
        decoded.astype(np.float64),
        weighted.astype(np.float64),
        peak,
        loss=None if targets_TBD is None else squares / (num_steps * len(start_BD) * len(cells)),
        hidden=torch.cat(hidden).numpy() if keep_hidden else None,
    )
