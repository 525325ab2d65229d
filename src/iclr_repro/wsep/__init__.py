"""Task adaptation from skills: the information geometry of MISL, LSEPIN, WSEP and PWSEP, and learned skills.

Fidelity: reconstruction. The paper's abstract and its public reviews could be read, its full text could not, and no
number of it is known: none is printed here. Objectives and algorithms follow the abstract, the reviews and the cited
literature; the theorems used are derived anew and checked numerically (T1 to T6 of the tests). What the paper writes,
and where it lives here:

    (S, A, P, p0, gamma)    reward-free MDP                                 `TabularMDP`
    d_pi                    state distribution of a policy, [S]             `occupancy`
    C, V                    polytope of state distributions, its vertices   `polytope_vertices`
    p(s|z), p(z)            skills [K, S] and their weights [K]             `skills`, `weights`
    I(S;Z)                  what MISL maximises                             `mutual_information`, `channel_capacity`
    I(S;1_z), LSEPIN        separability of a skill, of the least one       `sepin`, `lsepin`
    W                       1-Wasserstein distance                          `wasserstein`, `wasserstein_matrix`
    WSEP                    sum of pairwise W                               `wsep` (over unordered pairs)
    PWSEP(i)                W to the convex hull of the skills before       `hull_distance`, `pwsep`, `pwsep_oracle`
    WAC, MAC                worst and mean adaptation cost                  `adaptation_costs`

Importing the package registers the gymnasium environments `iclr_repro/GridSkills-v0` and, as a vector environment,
`iclr_repro/PointMaze2D-v0`.
"""

from iclr_repro.wsep.ascent import oracle_ascent, random_skills, swap_ascent
from iclr_repro.wsep.audit import SkillAudit, audit_skills
from iclr_repro.wsep.builders import LAYOUTS, Layout, find_layout, garnet, grid_mdp
from iclr_repro.wsep.costs import AdaptationCosts, adaptation_costs, mac_bounds
from iclr_repro.wsep.discovery import Discovery, choose_skill, pwsep, pwsep_oracle
from iclr_repro.wsep.information import (
    Capacity,
    channel_capacity,
    kl_divergence,
    lsepin,
    mutual_information,
    sepin,
)
from iclr_repro.wsep.mdp import Plan, TabularMDP, goal_occupancies, occupancy, policy_iteration, uniform_policy
from iclr_repro.wsep.polytope import hull_vertices, polytope_vertices
from iclr_repro.wsep.transport import (
    HullDistance,
    HullDistances,
    InfeasibleError,
    Transport,
    extreme_potentials,
    hull_distance,
    kantorovich,
    wasserstein,
    wasserstein_matrix,
    wsep,
)

__all__ = [
    "LAYOUTS",
    "AdaptationCosts",
    "Capacity",
    "Discovery",
    "HullDistance",
    "HullDistances",
    "InfeasibleError",
    "Layout",
    "Plan",
    "SkillAudit",
    "TabularMDP",
    "Transport",
    "adaptation_costs",
    "audit_skills",
    "channel_capacity",
    "choose_skill",
    "extreme_potentials",
    "find_layout",
    "garnet",
    "goal_occupancies",
    "grid_mdp",
    "hull_distance",
    "hull_vertices",
    "kantorovich",
    "kl_divergence",
    "lsepin",
    "mac_bounds",
    "mutual_information",
    "occupancy",
    "oracle_ascent",
    "policy_iteration",
    "polytope_vertices",
    "pwsep",
    "pwsep_oracle",
    "random_skills",
    "sepin",
    "swap_ascent",
    "uniform_policy",
    "wasserstein",
    "wasserstein_matrix",
    "wsep",
]
