"""Other dynamics of quiescence: adaptation and momentum (sheet 10.3).

Ours: a form that is consistent with the abstracts of "RNN Replay: Leakage and Underdamped Dynamics" (NeurIPS 2024
workshop) and arXiv 2602.18401, whose equations were not available. Nothing here is in the paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from iclr_repro.reactivation_rnn.cells import Cells
from iclr_repro.reactivation_rnn.networks import Network
from iclr_repro.reactivation_rnn.quiescence import check_quiescence


@dataclass(frozen=True, kw_only=True)
class Replay:
    """How the state moves.

    With F(r) the network's own step without input and noise:

        c_{t+1} = c_t + (r_t - c_t) / adaptation_time
        v_{t+1} = (1 - friction) v_t + friction (F(r_t) - r_t - adaptation c_t) + sqrt(friction (2 - friction)) noise
        r_{t+1} = r_t + v_{t+1}

    friction = 1 and adaptation = 0 are the base model; smaller friction is underdamped Langevin dynamics.

    Raises:
        ValueError: a number is out of range.
    """

    adaptation: float = 0.0
    adaptation_time: float = 100.0
    friction: float = 1.0

    def __post_init__(self) -> None:
        """Refuse dynamics that explode by themselves."""
        if not self.adaptation >= 0.0:
            raise ValueError(f"adaptation: got {self.adaptation}, expected >= 0")
        if not self.adaptation_time >= 1.0:
            raise ValueError(f"adaptation_time: got {self.adaptation_time}, expected >= 1 step")
        if not 0.0 < self.friction <= 1.0:
            raise ValueError(f"friction: got {self.friction}, expected in (0, 1]")


@torch.no_grad()
def replay_run(
    network: Network,
    cells: Cells,
    start: np.ndarray,
    num_steps: int,
    *,
    dynamics: Replay,
    generator: torch.Generator,
    variance_factor: float = 2.0,
) -> np.ndarray:
    """Let a network run without input under other dynamics; return decoded values [T, B, D].

    Args:
        network: trained or not.
        cells: target code.
        start: positions [B, 2] or bearings [B, 1] whose code sets the first state; it starts at rest, unadapted.
        num_steps: T >= 2.
        dynamics: see `Replay`.
        generator: of the noise.
        variance_factor: c >= 0, as in `quiescent_run`.

    Raises:
        ValueError: as `quiescent_run`.
    """
    check_quiescence(network, start, num_steps, variance_factor=variance_factor, sigma_step=network.sigma_step)
    device = network.decoder.weight.device
    state_BN = network.initial_state(cells.encode(torch.from_numpy(start.astype(np.float32)).to(device)))
    velocity_BN, adapted_BN = torch.zeros_like(state_BN), torch.zeros_like(state_BN)
    friction = dynamics.friction
    scale = math.sqrt(variance_factor * friction * (2 - friction)) * network.sigma_step
    nothing_1BI = state_BN.new_zeros(1, len(state_BN), network.num_inputs)
    decoded = []
    for _ in range(num_steps):
        drift_BN = network.scan(state_BN, nothing_1BI, None)[0] - state_BN - dynamics.adaptation * adapted_BN
        adapted_BN = adapted_BN + (state_BN - adapted_BN) / dynamics.adaptation_time
        velocity_BN = (1 - friction) * velocity_BN + friction * drift_BN
        if scale > 0.0:
            velocity_BN += network.noise(state_BN.shape, sigma_step=scale, generator=generator, like=state_BN)
        state_BN = state_BN + velocity_BN
        decoded.append(cells.decode(network.decoder(state_BN)))
    return torch.stack(decoded).cpu().numpy().astype(np.float64)
