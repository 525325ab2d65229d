"""What it costs to adapt the best of a set of skills to a task, and the bound that WSEP gives.

A task is a target distribution v; adapting skill z to it costs KL(v || p_z) in information, or W(v, p_z) in the metric
of the states. WAC is the worst target, MAC the mean one, each by its best skill.

Shape letters: B = sets of skills, K = skills of a set, n = targets and candidates, S = states.

Source: sheet 2.4 and 2.5. The paper's own direction of the KL and its set of targets could not be read: all are here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from iclr_repro.wsep.information import kl_divergence
from iclr_repro.wsep.mdp import check_distributions
from iclr_repro.wsep.transport import wasserstein_matrix

_MAX_ENTRIES = 20_000_000


@dataclass(frozen=True, kw_only=True)
class AdaptationCosts:
    """Worst and mean costs of adapting the best skill to a target; lower is better.

    Attributes:
        wac_kl_fwd: max_v min_z KL(v || p_z), nats.
        wac_kl_rev: max_v min_z KL(p_z || v), nats.
        mac_kl: mean_v min_z KL(v || p_z), nats.
        wac_w: max_v min_z W(v, p_z), in the unit of the metric.
        mac_w: mean_v min_z W(v, p_z).
    """

    wac_kl_fwd: float
    wac_kl_rev: float
    mac_kl: float
    wac_w: float
    mac_w: float

    def as_dict(self) -> Mapping[str, float]:
        """Return name -> cost."""
        return dict(vars(self))


def adaptation_costs(skills: np.ndarray, targets: np.ndarray, metric: np.ndarray) -> AdaptationCosts:
    """Return all adaptation costs of skills [K, S] to targets [n, S].

    Raises:
        ValueError: no distributions, no metric, or states to which a skill or target gives no mass, so that KL is
            infinite; the message names them.
    """
    skills, targets = np.asarray(skills, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    for name, points in (("skills", skills), ("targets", targets)):
        if points.ndim != 2 or len(points) == 0:
            raise ValueError(f"{name} has shape {points.shape}, expected [n, {len(metric)}] distributions")
        check_distributions(points, name)
        require_full_support(points, name)
    forward = kl_divergence(targets[:, None], skills).min(axis=1)
    backward = kl_divergence(skills, targets[:, None]).min(axis=1)
    transported = wasserstein_matrix(targets, skills, metric).min(axis=1)
    return AdaptationCosts(
        wac_kl_fwd=float(forward.max()),
        wac_kl_rev=float(backward.max()),
        mac_kl=float(forward.mean()),
        wac_w=float(transported.max()),
        mac_w=float(transported.mean()),
    )


def require_full_support(points: np.ndarray, name: str) -> None:
    """Refuse distributions [n, S] without mass somewhere, where KL divergences are asked for.

    Raises:
        ValueError: naming the states.
    """
    empty = np.flatnonzero((points <= 0.0).any(axis=0))
    if len(empty):
        raise ValueError(
            f"{name} give no mass to the states {empty.tolist()}, where KL divergences are infinite: give p0 full "
            "support (mix in a few per cent of the uniform distribution), or smooth counts by at least 1"
        )


@dataclass(frozen=True, eq=False)
class PairTables:
    """All that costs of sets of candidate skills need, computed once for all sets.

    Attributes:
        kl: [n, n], KL(candidate i || candidate j).
        distances: [n, n], W.
    """

    kl: np.ndarray
    distances: np.ndarray

    @classmethod
    def of(cls, candidates: np.ndarray, metric: np.ndarray) -> PairTables:
        """Compute the tables of candidates [n, S]; errors as for `adaptation_costs`."""
        candidates = np.asarray(candidates, dtype=np.float64)
        require_full_support(candidates, "candidates")
        return cls(
            kl=kl_divergence(candidates[:, None], candidates),
            distances=wasserstein_matrix(candidates, candidates, metric),
        )

    def costs(self, sets: np.ndarray) -> dict[str, np.ndarray]:
        """Return name -> [B] costs, as `AdaptationCosts` has, of sets [B, K] of candidates, with all as targets."""
        parts = [self._costs(part) for part in np.array_split(sets, 1 + sets.size * len(self.kl) // _MAX_ENTRIES)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _costs(self, sets: np.ndarray) -> dict[str, np.ndarray]:
        forward, backward = self.kl[:, sets].min(axis=2), self.kl.T[:, sets].min(axis=2)
        transported = self.distances[:, sets].min(axis=2)
        return {
            "wac_kl_fwd": forward.max(axis=0),
            "wac_kl_rev": backward.max(axis=0),
            "mac_kl": forward.mean(axis=0),
            "wac_w": transported.max(axis=0),
            "mac_w": transported.mean(axis=0),
        }


def summed_distances(distances: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """Return [B] WSEP of sets [B, K]: the sum over unordered pairs of distances [n, n] between candidates."""
    return np.asarray(distances[sets[:, :, None], sets[:, None, :]].sum(axis=(1, 2)) / 2.0)


def mac_bounds(distances: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """Return [B] the bound that WSEP puts on MAC_W for sets [B, K] of distinct vertices (T5 of the sheet).

    MAC_W <= ( L_V - (2 / K) WSEP_unordered ) / n,  L_V = max_u sum_v W(v, u)

    With repeated skills the bound can fail: apply it to the distinct ones.

    Args:
        distances: [n, n] W between all vertices.
        sets: [B, K] indices.
    """
    largest = distances.sum(axis=0).max()
    return np.asarray((largest - 2.0 / sets.shape[1] * summed_distances(distances, sets)) / len(distances))


def total_mac_bounds(distances: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """Return [B] the second bound, MAC_W <= (W_tot - WSEP_unordered) / (K n), W_tot over unordered pairs (T5')."""
    rest = distances.sum() / 2.0 - summed_distances(distances, sets)
    return np.asarray(rest / (sets.shape[1] * len(distances)))
