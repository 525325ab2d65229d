"""The paper's claims as checks W1-W10 (sheet 5), with the sheet's thresholds, and ours on speed (S1-S3).

No number of the paper is known; its statements are those of the abstract and the reviews. The sheet set its thresholds
after a prototype's measurements; here they are checked on other draws. Quantities have a value an MDP, or a paired run.
"""

from __future__ import annotations

import numpy as np

from iclr_repro.core.claims import Check, Results, Values, all_of, at_least, at_most, claim, exact, less, more_than

_NONE = "no number available"
_ROUNDING = 1e-10
_SOLVER = 1e-8


def _share(values: Values) -> Values:
    """The share of runs or MDPs in which something holds (values 0 and 1): a count, known exactly."""
    share = float(np.mean(values.values == 1.0))
    return Values(f"share of {values.name}", np.array([share]), interval=(share, share))


@claim(id="W1", headline=True, source="Thm 3.5", paper=_NONE, scales=("smoke", "cpu", "paper"))
def pwsep_discovers_all_vertices(r: Results) -> Check:
    """PWSEP finds every vertex of the polytope in |V| rounds, in every MDP, nothing else, and certifies it."""
    return all_of(
        exact(r.vertices["pwsep/share"], 1.0),
        exact(r.vertices["pwsep/others"], 0.0),
        exact(r.vertices["pwsep/remaining"], 0.0, tolerance=_SOLVER),
    )


@claim(id="W2", headline=True, source="abstract; arXiv 2110.02719", paper=_NONE)
def misl_finds_only_a_few(r: Results) -> Check:
    """MISL finds at most S vertices, at KL = Cap from the average, with none farther: 30 % or less of 14 and more."""
    return all_of(
        at_most(r.vertices["misl/over_states"], 0.0),
        exact(r.vertices["misl/below"], 0.0, tolerance=1e-6),  # slow where a weight is small
        exact(r.vertices["misl/excess"], 0.0, tolerance=_SOLVER),
        exact(r.vertices["misl/gap"], 0.0, tolerance=_SOLVER),
        at_most(r.vertices["misl/share_of_many"], 0.3),
    )


@claim(id="W3", headline=True, source="abstract", paper=_NONE)
def wsep_discovers_more_than_misl(r: Results) -> Check:
    """WSEP finds at least 1.5 times as many vertices as MISL in random MDPs, and not fewer in 80 % of them."""
    return all_of(
        at_least(r.vertices["wsep_over_misl/ratio"], 1.5),
        at_least(_share(r.vertices["wsep_over_misl/not_fewer"]), 0.8),
    )


@claim(id="W4", headline=True, source="abstract; reviews", paper=_NONE)
def wsep_controls_the_mean_cost(r: Results) -> Check:
    """WSEP bounds MAC_W without exception and ranks sets of skills by it: Spearman <= -0.45, given I <= -0.25."""
    return all_of(
        *(exact(r.correlations[f"{size}/violations"], 0.0) for size in ("s4a3k3", "s5a2k3")),
        *(at_most(r.correlations[f"{size}/wsep~mac_w"], -0.45) for size in ("s4a3k3", "s5a2k3")),
        *(at_most(r.correlations[f"{size}/wsep~mac_w|mi"], -0.25) for size in ("s4a3k3", "s5a2k3")),
    )


@claim(id="W5", headline=True, source="abstract; Thm 3.5", paper=_NONE)
def cost_of_pwsep_vanishes_with_skills(r: Results) -> Check:
    """With 8 skills PWSEP's WAC_KL is at most half of MISL's, which stays above 0.8 of that with 3; at |V| it is 0."""
    cost = {
        (method, skills): r.growing_skills[f"{method}/{skills}/wac_kl_fwd"]
        for method, skills in (("pwsep", "k8"), ("mi", "k8"), ("mi", "k3"), ("pwsep", "all"))
    }
    return all_of(
        at_most(cost["pwsep", "k8"] - cost["mi", "k8"] * 0.5, 0.0),
        at_least(cost["mi", "k8"] - cost["mi", "k3"] * 0.8, 0.0),
        more_than(cost["mi", "k3"], 0.0),
        exact(cost["pwsep", "all"], 0.0, tolerance=1e-9),
    )


@claim(id="W6", source="Thm 3.1", paper=_NONE)
def lsepin_is_inversely_related_to_the_worst_cost(r: Results) -> Check:
    """Over sets of three distinct vertices LSEPIN and WAC_KL correlate negatively: mean <= -0.25, in 80 % of MDPs."""
    return all_of(
        at_most(r.correlations["all/lsepin~wac_kl_fwd"], -0.25),
        at_least(_share(r.correlations["all/lsepin~wac_kl_fwd/negative"]), 0.8),
    )


@claim(id="W7", headline=True, source="abstract", paper=_NONE)
def lsepin_helps_misl(r: Results) -> Check:
    """Adding LSEPIN to MISL raises LSEPIN by 5 % and lowers regret by 0.02, in 75 % of pairs, in both gridworlds."""
    checks = []
    for case in ("empty5_k16", "rooms7_k16"):
        plain, added = (
            {name: r.gridworlds[f"{case}/{method}/{name}"] for name in ("lsepin", "regret")}
            for method in ("misl", "misl_lsepin")
        )
        checks += [
            at_least(added["lsepin"] - plain["lsepin"] * 1.05, 0.0),
            at_least(plain["regret"] - added["regret"], 0.02),
            at_least(_share(r.gridworlds[f"{case}/misl_lsepin/lower_regret"]), 0.75),
        ]
    return all_of(*checks)


@claim(id="W8", headline=True, source="abstract", paper=_NONE)
def pwsep_has_the_lowest_worst_cost(r: Results) -> Check:
    """PWSEP's WAC_W is at most 0.85 of MISL's and below all others'; MAC_W and, by 0.03, regret are lower, in both."""
    checks = []
    for case in ("empty5_k16", "rooms7_k16"):
        worst = r.gridworlds[f"{case}/pwsep/wac_w"]
        others = [r.gridworlds[f"{case}/{method}/wac_w"] for method in ("misl_lsepin", "wsep", "random")]
        checks += [
            at_most(worst - r.gridworlds[f"{case}/misl/wac_w"] * 0.85, 0.0),
            *(less(worst, other) for other in others),
            less(r.gridworlds[f"{case}/pwsep/mac_w"], r.gridworlds[f"{case}/misl/mac_w"]),
            at_least(r.gridworlds[f"{case}/misl/regret"] - r.gridworlds[f"{case}/pwsep/regret"], 0.03),
        ]
    return all_of(*checks)


@claim(id="W9", source="derived; arXiv 2110.02719", paper="theorems", scales=("smoke", "cpu", "paper"))
def identities_hold(r: Results) -> Check:
    """Chain rule, bounds and compensation of information (T1, T2, T4), T3, T5, T6 and the capacity theorem hold."""
    information = ("t1_chain", "t1_least", "t1_entropy", "t1_disjoint", "t2", "t4")
    solved = ("capacity_gap", "capacity_inside", "t3", "t5", "t5_total", "w_triangle")
    discovered = ("t6_rise", "t6_inside", "t6_convex", "t6_certificate")
    return all_of(
        *(exact(r.identities[name], 0.0, tolerance=_ROUNDING) for name in information),
        *(exact(r.identities[name], 0.0, tolerance=_SOLVER) for name in (*solved, *discovered)),
        exact(r.identities["t6_missed"], 0.0),
    )


@claim(id="W10", source="protocol of the sheet", paper=_NONE)
def wasserstein_skills_cover_more_of_the_maze(r: Results) -> Check:
    """WSEP and PWSEP skills cover 2 cells more than MISL's, and PWSEP's worst goal distance is at most 0.85 of it."""
    cells = {method: r.maze[f"{method}/cells"] for method in ("diayn", "wsep", "pwsep")}
    farthest = {method: r.maze[f"{method}/max_goal_distance"] for method in ("diayn", "pwsep")}
    return all_of(
        *(at_least(cells[method] - cells["diayn"], 2.0) for method in ("wsep", "pwsep")),
        at_most(farthest["pwsep"] - farthest["diayn"] * 0.85, 0.0),
    )


@claim(id="S1", source="ours", paper="no claim of the paper")
def lazy_pwsep_solves_fewer_programs(r: Results) -> Check:
    """With lazy bounds PWSEP solves at most 0.4 of the linear programs at 60 vertices or more, with the same result."""
    return all_of(
        at_most(r.efficiency["pwsep/programs_ratio"], 0.4),
        exact(r.efficiency["pwsep/order_differences"], 0.0),
        at_least(r.efficiency["pwsep/vertices"], 60.0),
    )


@claim(id="S2", source="ours", paper="no claim of the paper")
def tables_are_computed_at_once(r: Results) -> Check:
    """All pairwise W and the scores of 4,000 sets take at most a 20th of a Python loop's time, with equal values."""
    return all_of(
        at_least(r.efficiency["tables/speedup"], 20.0),
        exact(r.efficiency["tables/largest_difference"], 0.0, tolerance=1e-9),
    )


@claim(id="S3", source="ours", paper="no claim of the paper")
def the_maze_is_fast(r: Results) -> Check:
    """The maze makes a million steps a second of processor time on one core, and moves as a loop over points does."""
    return all_of(
        at_least(r.efficiency["maze/steps_per_s"], 1e6),
        exact(r.efficiency["maze/largest_difference"], 0.0, tolerance=1e-4),
    )
