"""Offline reactivation in recurrent networks: noisy path integration, and what such networks do without input.

Fidelity: paper and code. What the paper writes, and where it lives here (arrays are [T, B, ...], steps first):

    s(t)              variable: position in m [T, B, 2], bearing in rad [T, B, 1]   `Trajectories.targets`
    x_t               its change in a step, not divided by dt                       `Trajectories.inputs`
    f(s)              target code [T, B, P]                                         `PlaceCells.encode`, ...
    r(t)              state [T, B, N]                                               `Activity.hidden`
    o = D r           output [T, B, P]                                              `Activity.output`
    a = dt / tau      leak                                                          `NoisyRNN.leak`
    sigma sqrt(dt)    noise of one step                                             `NoisyRNN.sigma_step`
    c                 factor of the noise variance in quiescence, 2 in Eq. 19       `quiescent_run(variance_factor=...)`
    grad log p        score, and the theory around it, in float64                   `score_theory`

Networks are trained with `PathIntegration` (a learner of `core.loop`) or by any loop of yours. Importing the package
registers the gymnasium environment `iclr_repro/PathIntegration-v0`.
"""

from iclr_repro.reactivation_rnn import score_theory
from iclr_repro.reactivation_rnn.alignment import alignment, contraction, state_density
from iclr_repro.reactivation_rnn.analysis import (
    PrincipalComponents,
    angular_steps,
    autocorrelation_time,
    bearing_kl,
    cumulative_variance,
    diffusion_exponent,
    jump_fraction,
    mean_squared_displacement,
    occupied_fraction,
    output_variance,
    reach,
    smooth_share,
    step_distances,
)
from iclr_repro.reactivation_rnn.cells import HeadDirectionCells, PlaceCells
from iclr_repro.reactivation_rnn.data import Path2D, load_sargolini, ratinabox_path, recorded_path
from iclr_repro.reactivation_rnn.density import KernelDensity, RaisedDensity, kl_divergence, kl_from_uniform
from iclr_repro.reactivation_rnn.env import PathIntegrationEnv
from iclr_repro.reactivation_rnn.networks import Activity, NoisyGRU, NoisyRNN
from iclr_repro.reactivation_rnn.quiescence import Recording, active_run, quiescent_run
from iclr_repro.reactivation_rnn.replay import Replay, replay_run
from iclr_repro.reactivation_rnn.training import PathIntegration
from iclr_repro.reactivation_rnn.trajectories import Arena, Trajectories, simulate_head_direction, simulate_navigation

__all__ = [
    "Activity",
    "Arena",
    "HeadDirectionCells",
    "KernelDensity",
    "NoisyGRU",
    "NoisyRNN",
    "Path2D",
    "PathIntegration",
    "PathIntegrationEnv",
    "PlaceCells",
    "PrincipalComponents",
    "RaisedDensity",
    "Recording",
    "Replay",
    "Trajectories",
    "active_run",
    "alignment",
    "angular_steps",
    "autocorrelation_time",
    "bearing_kl",
    "contraction",
    "cumulative_variance",
    "diffusion_exponent",
    "jump_fraction",
    "kl_divergence",
    "kl_from_uniform",
    "load_sargolini",
    "mean_squared_displacement",
    "occupied_fraction",
    "output_variance",
    "quiescent_run",
    "ratinabox_path",
    "reach",
    "recorded_path",
    "replay_run",
    "score_theory",
    "simulate_head_direction",
    "simulate_navigation",
    "smooth_share",
    "state_density",
    "step_distances",
]
