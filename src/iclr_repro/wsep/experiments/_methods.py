"""Skills of every objective, as the experiments compare them; stand-ins for a method take its place here in tests."""

from __future__ import annotations

import numpy as np

from iclr_repro.wsep.ascent import oracle_ascent, random_skills
from iclr_repro.wsep.discovery import Discovery, pwsep, pwsep_oracle
from iclr_repro.wsep.mdp import TabularMDP, occupancy, uniform_policy

GRID_METHODS = ("random", "misl", "misl_lsepin", "wsep", "pwsep")


def grid_skills(
    method: str, mdp: TabularMDP, num_skills: int, *, restarts: int, rng: np.random.Generator
) -> np.ndarray:
    """Return [K, S] skills of one of `GRID_METHODS`, by best responses only; PWSEP may stop before K."""
    if method == "random":
        return random_skills(mdp, num_skills, rng=rng)
    if method == "pwsep":
        return pwsep_oracle(mdp, num_skills, restarts=restarts, rng=rng).skills
    return oracle_ascent(mdp, num_skills, method, rng=rng)  # type: ignore[arg-type]


def exact_pwsep(mdp: TabularMDP, candidates: np.ndarray, num_skills: int | None = None) -> Discovery:
    """Run PWSEP on a list of candidates, against the occupancy of the uniform policy first."""
    reference = occupancy(mdp, uniform_policy(mdp))
    return pwsep(candidates, mdp.distances(), reference=reference, num_skills=num_skills)
