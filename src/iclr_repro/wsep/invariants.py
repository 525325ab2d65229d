"""By how much the identities that hold for theory reasons are violated, on drawn distributions and MDPs.

Every function returns its worst violations by name: 0 up to rounding in correct code. T1 to T6 as in the sheet.

Source: sheet 2.2 to 2.6.
"""

from __future__ import annotations

import numpy as np
from scipy.special import entr

from iclr_repro.wsep.costs import PairTables, mac_bounds, total_mac_bounds
from iclr_repro.wsep.discovery import pwsep
from iclr_repro.wsep.information import (
    channel_capacity,
    kl_divergence,
    mixture,
    mutual_information,
    others,
    sepin,
)
from iclr_repro.wsep.mdp import TabularMDP, occupancy, uniform_policy
from iclr_repro.wsep.transport import HullDistances, wasserstein_matrix


def information_violations(num_draws: int, *, rng: np.random.Generator) -> dict[str, float]:
    """T1, T2 and T4 on random skills, weights and reference distributions of random sizes and sparsities.

    t1_chain: I(S;Z) = I(S;1_z) + (1 - p(z)) I(S;Z | Z != z).  t1_least: LSEPIN <= I(S;Z).
    t1_entropy: I(S;1_z) <= h_b(p(z)), with equality for skills on different states (t1_disjoint).
    t2: I(S;1_z) <= h_b(p(z)) TV(p_z, p_nz).
    t4: sum_z p(z) KL(p_z || q) = I(S;Z) + KL(p || q).
    """
    worst = dict.fromkeys(("t1_chain", "t1_least", "t1_entropy", "t1_disjoint", "t2", "t4"), 0.0)

    def note(name: str, violation: np.ndarray) -> None:
        worst[name] = float(np.maximum(worst[name], np.max(violation)))  # NaN stays

    batch = 250
    for _ in range(max(1, num_draws // batch)):
        num_skills, num_states = int(rng.integers(2, 8)), int(rng.integers(2, 10))
        concentration = float(rng.choice([0.1, 0.5, 1.0, 5.0]))
        skills = rng.dirichlet(np.full(num_states, concentration), size=(batch, num_skills))
        weights = rng.dirichlet(np.ones(num_skills), size=batch)
        information, separate = mutual_information(skills, weights), sepin(skills, weights)
        entropies = entr(weights) + entr(1.0 - weights)
        for skill in range(num_skills):
            rest = np.delete(weights, skill, axis=1)
            left = rest.sum(axis=1)
            conditional = mutual_information(np.delete(skills, skill, axis=1), rest / left[:, None])
            note("t1_chain", np.abs(information - separate[:, skill] - left * conditional))
        note("t1_least", separate.min(axis=1) - information)
        note("t1_entropy", separate - entropies)
        variation = np.abs(skills - others(skills, weights)).sum(axis=-1) / 2.0
        note("t2", separate - entropies * variation)
        reference = rng.dirichlet(np.ones(num_states), size=batch)
        left_side = (weights * kl_divergence(skills, reference[:, None])).sum(axis=1)
        note("t4", np.abs(left_side - information - kl_divergence(mixture(skills, weights), reference)))
        apart = np.broadcast_to(np.eye(num_skills), (batch, num_skills, num_skills))
        note("t1_disjoint", np.abs(sepin(apart, weights) - entropies))
    return worst


def capacity_violations(vertices: np.ndarray, *, rng: np.random.Generator, num_points: int = 1000) -> dict[str, float]:
    """The redundancy-capacity theorem and T3 at a MISL optimum over vertices.

    capacity_gap: certificate of the solver.  capacity_support: |KL(p_z || p) - Cap| where p(z) > 1e-4.
    capacity_inside: KL(d || p) - Cap for points d inside the polytope.
    t3: I(S;1_z) = p(z) Cap + (1 - p(z)) KL(p_nz || p).
    """
    found = channel_capacity(vertices)
    support = found.support()
    divergences = kl_divergence(vertices, found.mean)
    inside = rng.dirichlet(np.ones(len(vertices)), size=num_points) @ vertices
    weights = found.weights
    predicted = weights * found.value + (1.0 - weights) * kl_divergence(others(vertices, weights), found.mean)
    return {
        "capacity_gap": found.gap,
        "capacity_support": float(np.abs(divergences[support] - found.value).max()),
        "capacity_inside": float((kl_divergence(inside, found.mean) - found.value).max()),
        "t3": float(np.abs(sepin(vertices, weights) - predicted)[support].max()),
    }


def bound_violations(vertices: np.ndarray, metric: np.ndarray, sets: np.ndarray) -> dict[str, float]:
    """T5 and T5': the bounds that WSEP puts on MAC_W, for sets [B, K] of distinct vertices."""
    tables = PairTables.of(vertices, metric)
    costs = tables.costs(sets)["mac_w"]
    return {
        "t5": float((costs - mac_bounds(tables.distances, sets)).max()),
        "t5_total": float((costs - total_mac_bounds(tables.distances, sets)).max()),
    }


def discovery_violations(
    mdp: TabularMDP, vertices: np.ndarray, *, rng: np.random.Generator, num_points: int = 20
) -> dict[str, float]:
    """T6: the distance to the hull is convex, zero inside, largest at a vertex, and never grows with more skills.

    t6_missed: vertices that PWSEP did not find.  t6_rise: by how much a gain exceeds the one before.
    t6_inside: distance of mixtures of the skills.  t6_convex, t6_certificate: at mixtures of vertices, by how much the
    distance exceeds the mixture of distances and the certificate.  w_triangle: the triangle inequality of W.
    """
    metric = mdp.distances()
    found = pwsep(vertices, metric, reference=occupancy(mdp, uniform_policy(mdp)))
    half = found.skills[: max(1, len(vertices) // 2)]
    hull = HullDistances(half, metric)
    at_vertices = np.array([hull.to(vertex).value for vertex in vertices])
    shares = rng.dirichlet(np.full(len(vertices), 0.5), size=num_points)
    at_mixtures = np.array([hull.to(point).value for point in shares @ vertices])
    inside = rng.dirichlet(np.ones(len(half)), size=num_points) @ half
    distances = wasserstein_matrix(vertices, vertices, metric)
    through = (distances[:, :, None] + distances[None]).min(axis=1)
    rises = np.diff(found.gains[1:])
    return {
        "t6_missed": float(len(vertices) - len(found.order)),
        "t6_rise": float(max(rises.max(initial=0.0), 0.0)),
        "t6_inside": max(hull.to(point).value for point in inside),
        "t6_convex": float((at_mixtures - shares @ at_vertices).max()),
        "t6_certificate": float((at_mixtures - at_vertices.max()).max()),
        "w_triangle": float((distances - through).max()),
    }
