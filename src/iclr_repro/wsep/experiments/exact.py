"""Random MDPs, exactly: vertices (W1-W3), correlations (W4, W6), growing numbers of skills (W5), identities (W9)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from scipy.special import comb
from scipy.stats import rankdata

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.measurements import Measurements
from iclr_repro.core.rundir import Run
from iclr_repro.wsep import figures
from iclr_repro.wsep.ascent import best_wsep_multiset, random_skills, set_scores, swap_ascent
from iclr_repro.wsep.builders import garnet
from iclr_repro.wsep.costs import PairTables, mac_bounds, total_mac_bounds
from iclr_repro.wsep.discovery import Discovery, distinct, pwsep_oracle
from iclr_repro.wsep.experiments._methods import exact_pwsep
from iclr_repro.wsep.information import Capacity, channel_capacity, kl_divergence, mutual_information
from iclr_repro.wsep.invariants import (
    bound_violations,
    capacity_violations,
    discovery_violations,
    information_violations,
)
from iclr_repro.wsep.mdp import TabularMDP, deterministic_occupancies
from iclr_repro.wsep.polytope import hull_vertices
from iclr_repro.wsep.transport import reduced_distances

_LARGE = 14  # vertices from which on a small share is expected of MISL
_SAME = 1e-7  # two occupancies
_RANDOM_SETS = 100  # whose mean is the baseline: a single one would be mostly luck


def draw_mdps(
    run: Run, sizes: tuple[tuple[int, int], ...], number: int, gamma: float
) -> Iterator[tuple[str, TabularMDP, np.ndarray, np.ndarray]]:
    """Yield name, MDP, all deterministic occupancies and the vertices, of `number` random MDPs of each size."""
    for num_states, num_actions in sizes:
        for index in range(number):
            name = f"s{num_states}a{num_actions}/{index}"
            mdp = garnet(num_states, num_actions, rng=run.rng(f"mdp/{name}"), gamma=gamma)
            everything = deterministic_occupancies(mdp)
            yield name, mdp, everything, everything[hull_vertices(everything)]


@dataclass(frozen=True, kw_only=True)
class Vertices:
    """How many vertices of the polytope of occupancies each objective finds, in random MDPs."""

    sizes: tuple[tuple[int, int], ...] = parameter("numbers of states and actions (S, A) of the MDPs")
    mdps: int = parameter("MDPs of each size", low=1)
    gamma: float = parameter("discount", low=0.0, high=0.999)
    compared_sizes: tuple[tuple[int, int], ...] = parameter("sizes on which WSEP is compared with MISL")
    starts: int = parameter("ascents of WSEP, the best of which counts", low=1)
    restarts: int = parameter("restarts a round of PWSEP with best responses only", low=1)

    def run(self, run: Run) -> Result:
        """Measure; the elements of a metric are MDPs."""
        rows, curves, picture = [], {}, None
        for name, mdp, everything, vertices in draw_mdps(run, self.sizes, self.mdps, self.gamma):
            # From all deterministic policies, so that it does not know which of them are vertices.
            discovery = exact_pwsep(mdp, everything)
            optimum = channel_capacity(vertices)
            distances = PairTables.of(vertices, mdp.distances()).distances
            multiset = best_wsep_multiset(distances, len(vertices), rng=run.rng(f"wsep/{name}"), starts=self.starts)
            drawn = random_skills(mdp, len(vertices), rng=run.rng(f"random/{name}"))
            oracle = pwsep_oracle(mdp, len(vertices), rng=run.rng(f"oracle/{name}"), restarts=self.restarts)
            rows.append(
                {
                    "mdp": name,
                    "states": mdp.num_states,
                    "vertices": len(vertices),
                    **_of_pwsep(discovery, vertices),
                    "pwsep_oracle": len(distinct(oracle.skills)),
                    **_of_misl(optimum, vertices),
                    "wsep": len(set(multiset.tolist())),
                    "wsep_swap_gain": best_swap_gain(distances, multiset) / distances.max(),
                    "random": len(distinct(drawn)),
                }
            )
            curves[name] = discovery.gains / distances.max()
            if picture is None and mdp.num_states == 3:
                skills = {
                    "MISL, optimal p(z)": vertices[optimum.support()],
                    **_best_threes(run, vertices, distances),
                    "PWSEP, in order": discovery.skills,
                    "random rewards": drawn[:3],
                }
                picture = figures.polytope(everything, vertices, skills, optimum.mean)
        table = pd.DataFrame(rows).set_index("mdp")
        return self._measured(table).result(
            tables={"vertices": table},
            figures={
                **({"polytope": picture} if picture is not None else {}),
                "certificate": figures.certificate(curves),
            },
        )

    def _measured(self, table: pd.DataFrame) -> Measurements:
        """Vertices found and their shares; what else a method is judged by; WSEP over MISL on the sizes compared."""
        found = Measurements()
        sizes = table.index.str.split("/").str[0]
        found.add("vertices", table["vertices"].to_numpy(float))
        for method in ("pwsep", "pwsep_oracle", "misl", "wsep", "random"):
            found.add(f"{method}/found", table[method].to_numpy(float))
            found.add(f"{method}/share", (table[method] / table["vertices"]).to_numpy())
        quantities = ("pwsep_others", "pwsep_extra_rounds", "pwsep_remaining", "misl_excess", "misl_below")
        for quantity in (*quantities, "misl_over_states", "wsep_swap_gain"):
            method, _, rest = quantity.partition("_")
            found.add(f"{method}/{rest}", table[quantity].to_numpy(float))
        large = table[table["vertices"] >= _LARGE]
        if len(large):
            found.add("misl/share_of_many", (large["misl"] / large["vertices"]).to_numpy())
        compared = table[sizes.isin([f"s{states}a{actions}" for states, actions in self.compared_sizes])]
        if len(compared):
            found.add("wsep_over_misl/ratio", (compared["wsep"] / compared["misl"]).to_numpy())
            found.add("wsep_over_misl/not_fewer", (compared["wsep"] >= compared["misl"]).to_numpy(float))
        found.add("n", len(table))
        return found


def _of_pwsep(discovery: Discovery, vertices: np.ndarray) -> dict[str, float]:
    """How many vertices PWSEP found, and what else, in how many rounds too many and with what left outside."""
    apart = np.abs(discovery.skills[:, None] - vertices).max(axis=-1)
    return {
        "pwsep": int((apart.min(axis=0) <= _SAME).sum()),
        "pwsep_others": int((apart.min(axis=1) > _SAME).sum()),
        "pwsep_extra_rounds": len(discovery.order) - len(vertices),
        "pwsep_remaining": discovery.remaining,
    }


def _of_misl(optimum: Capacity, vertices: np.ndarray) -> dict[str, float]:
    """How many vertices MISL uses, by how much KL from the average misses the capacity, and skills beyond S."""
    # From the weights alone: what the solver says of its own result is not what is judged.
    divergences = kl_divergence(vertices, optimum.weights @ vertices)
    capacity = float(optimum.weights @ divergences)
    support = optimum.support()
    return {
        "misl": len(support),
        "misl_excess": float(divergences.max() - capacity),
        "misl_below": float(capacity - divergences[support].min()),
        "misl_over_states": max(len(support) - vertices.shape[1], 0),
    }


def _best_threes(run: Run, vertices: np.ndarray, distances: np.ndarray) -> dict[str, np.ndarray]:
    """Three vertices [3, S] for LSEPIN and three for WSEP, for the picture."""
    scores = set_scores(vertices, distances)
    found = {}
    for objective, score in (("LSEPIN, K = 3", "lsepin"), ("WSEP, K = 3", "wsep")):
        chosen = swap_ascent(scores[score], len(vertices), 3, rng=run.rng(f"picture/{objective}"))
        found[objective] = vertices[chosen]
    return found


@dataclass(frozen=True, kw_only=True)
class Correlations:
    """How separability and adaptation costs go together over sets of K distinct vertices of random MDPs."""

    sizes: tuple[tuple[int, int, int], ...] = parameter("(S, A, K)")
    mdps: int = parameter("MDPs of each size", low=1)
    gamma: float = parameter("discount", low=0.0, high=0.999)
    max_sets: int = parameter("sets of an MDP; all of them if they are no more, a sample otherwise", low=10)

    def run(self, run: Run) -> Result:
        """Measure; the elements of a metric are MDPs."""
        rows, picture = [], None
        for num_states, num_actions, num_skills in self.sizes:
            size = f"s{num_states}a{num_actions}k{num_skills}"
            for name, mdp, _, vertices in draw_mdps(run, ((num_states, num_actions),), self.mdps, self.gamma):
                sets = all_or_some_sets(len(vertices), num_skills, self.max_sets, run.rng(f"sets/{size}/{name}"))
                tables = PairTables.of(vertices, mdp.distances())
                costs = tables.costs(sets)
                scores = {score: function(sets) for score, function in set_scores(vertices, tables.distances).items()}
                scores["random"] = run.rng(f"random/{size}/{name}").random(len(sets))
                bounds = mac_bounds(tables.distances, sets)
                second = total_mac_bounds(tables.distances, sets)
                row: dict[str, float | str] = {"size": size, "mdp": name, "sets": len(sets)}
                for score, cost in itertools.product(scores, ("wac_kl_fwd", "wac_kl_rev", "mac_kl", "mac_w", "wac_w")):
                    row[f"{score}~{cost}"] = spearman(scores[score], costs[cost])
                for score, cost in (("wsep", "mac_w"), ("lsepin", "wac_kl_fwd"), ("random", "mac_w")):
                    row[f"{score}~{cost}|mi"] = partial_spearman(scores[score], costs[cost], scores["mi"])
                within = (costs["mac_w"] <= bounds + 1e-9) & (costs["mac_w"] <= second + 1e-9)
                row["violations"] = float((~within).sum())  # NaN is not within
                row["largest_share_of_bound"] = float((costs["mac_w"] / bounds).max())
                rows.append(row)
                if picture is None:
                    picture = figures.scatters(scores, costs, bounds)
        table = pd.DataFrame(rows).set_index(["size", "mdp"])
        found = Measurements()
        for size in dict.fromkeys(table.index.get_level_values("size")):
            for column in table.columns.drop("sets"):
                found.add(f"{size}/{column}", table.loc[size, column].to_numpy(float))
        threes = table[table.index.get_level_values("size").str.endswith("k3")]
        if len(threes):
            for score in ("lsepin", "random"):
                found.add(f"k3/{score}~wac_kl_fwd", threes[f"{score}~wac_kl_fwd"].to_numpy(float))
            found.add("k3/lsepin~wac_kl_fwd/negative", (threes["lsepin~wac_kl_fwd"] < 0.0).to_numpy(float))
        found.add("n", float(table["sets"].sum()))
        means = table.drop(columns="sets").groupby("size", sort=False).mean()
        return found.result(
            tables={"correlations": table, "means": means.T}, figures={"scatters": picture} if picture else {}
        )


@dataclass(frozen=True, kw_only=True)
class GrowingSkills:
    """Adaptation costs against the number of skills, for equal numbers of each objective.

    The baseline `random` is the mean over 100 sets of distinct vertices.
    """

    sizes: tuple[tuple[int, int], ...] = parameter("(S, A) of the MDPs")
    mdps: int = parameter("MDPs of each size", low=1)
    gamma: float = parameter("discount", low=0.0, high=0.999)
    num_skills: tuple[int, ...] = parameter("numbers of skills K", low=2)
    starts: int = parameter("swap ascents, the best of which counts", low=1)

    def run(self, run: Run) -> Result:
        """Measure; the elements of a metric are MDPs. W costs are divided by the largest W between vertices."""
        rows = []
        for name, mdp, _, vertices in draw_mdps(run, self.sizes, self.mdps, self.gamma):
            tables = PairTables.of(vertices, mdp.distances())
            diameter = tables.distances.max()
            scores = set_scores(vertices, tables.distances)
            for reduction in ("min", "energy"):
                scores[f"wsep_{reduction}"] = lambda sets, how=reduction, d=tables.distances: reduced_distances(  # type: ignore[misc]
                    d[sets[:, :, None], sets[:, None, :]], how
                )
            discovery = exact_pwsep(mdp, vertices)
            everything = {("misl_optimal", 0): channel_capacity(vertices).support()[None]}
            everything["pwsep", len(vertices)] = discovery.order[None]
            for number in self.num_skills:
                for objective, score in scores.items():
                    rng = run.rng(f"{objective}/{number}/{name}")
                    chosen = swap_ascent(score, len(vertices), number, rng=rng, starts=self.starts)
                    everything[objective, number] = chosen[None]
                everything["pwsep", number] = discovery.order[None, :number]
                shuffled = run.rng(f"random/{number}/{name}").random((_RANDOM_SETS, len(vertices))).argsort(axis=1)
                everything["random", number] = shuffled[:, :number]
            for (method, number), sets in everything.items():
                costs = {cost: float(values.mean()) for cost, values in tables.costs(sets).items()}
                kept = "all" if method == "pwsep" and number == len(vertices) else f"k{number}"
                rows.append(
                    {
                        "mdp": name,
                        "method": method,
                        "skills": "optimal" if number == 0 else kept,
                        "distinct": float(np.mean([len(np.unique(chosen)) for chosen in sets])),
                        "information": float(mutual_information(vertices[sets]).mean()),
                        **costs,
                        "wac_w": costs["wac_w"] / diameter,
                        "mac_w": costs["mac_w"] / diameter,
                    }
                )
        table = pd.DataFrame(rows)
        found = Measurements()
        for (method, skills), group in table.groupby(["method", "skills"], sort=False):
            for quantity in table.columns.drop(["mdp", "method", "skills"]):
                found.add(f"{method}/{skills}/{quantity}", group[quantity].to_numpy(float))
        below = table.pivot(index="mdp", columns=["method", "skills"], values="wac_kl_fwd")
        at_equal_numbers = [f"k{number}" for number in self.num_skills]
        for method in ("random", "pwsep"):
            found.add(f"{method}/mean/wac_kl_fwd", below[method][at_equal_numbers].mean(axis=1).to_numpy())
        found.add("n", float(table["mdp"].nunique()))
        means = table.drop(columns="mdp").groupby(["skills", "method"], sort=False).mean()
        return found.result(tables={"means": means}, figures={"growing": figures.growing(means)})


@dataclass(frozen=True, kw_only=True)
class Identities:
    """The worst violations of what holds for theory reasons: T1 to T6 and the capacity theorem."""

    uses_seeds: ClassVar[bool] = False

    draws: int = parameter("random sets of skills for the identities of information", low=250)
    sizes: tuple[tuple[int, int], ...] = parameter("(S, A) of the MDPs")
    mdps: int = parameter("MDPs of each size", low=1)
    gamma: float = parameter("discount", low=0.0, high=0.999)
    sets: int = parameter("sets of distinct vertices an MDP and number of skills", low=1)

    def run(self, run: Run) -> Result:
        """Measure; a violation is at most rounding."""
        found = information_violations(self.draws, rng=run.rng("information"))

        def note(violations: dict[str, float]) -> None:
            for name, violation in violations.items():
                found[name] = float(np.maximum(found.get(name, 0.0), violation))  # NaN stays

        for name, mdp, _, vertices in draw_mdps(run, self.sizes, self.mdps, self.gamma):
            rng = run.rng(f"checks/{name}")
            note(capacity_violations(vertices, rng=rng))
            note(discovery_violations(mdp, vertices, rng=rng))
            for num_skills in range(1, min(len(vertices), 8) + 1):
                sets = all_or_some_sets(len(vertices), num_skills, self.sets, rng)
                note(bound_violations(vertices, mdp.distances(), sets))
        table = pd.Series(found, name="worst violation").rename_axis("identity").to_frame()
        return Result(metrics={**found, "n": float(self.draws)}, tables={"identities": table})


def best_swap_gain(distances: np.ndarray, chosen: np.ndarray) -> float:
    """Return by how much the best replacement of one member raises the sum of distances in a multiset [K].

    At most 0, up to rounding, at a local maximum of WSEP; more says that the multiset does not maximise it.
    """
    identity = np.eye(len(distances))
    counts = identity[chosen].sum(axis=0)
    replaced = (counts - identity[chosen][:, None] + identity).reshape(-1, len(distances))  # [K n, n]
    return float(((replaced @ distances) * replaced).sum(axis=1).max() - counts @ distances @ counts) / 2.0


def all_or_some_sets(num_candidates: int, num_skills: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Return [B, K] all sets of K distinct candidates, or a random sample of them without repeats if there are more."""
    if comb(num_candidates, num_skills) <= 10 * most:
        sets = np.array(list(itertools.combinations(range(num_candidates), num_skills)))
        return sets if len(sets) <= most else sets[np.sort(rng.choice(len(sets), size=most, replace=False))]
    drawn = np.sort(rng.random((2 * most, num_candidates)).argsort(axis=1)[:, :num_skills], axis=1)
    return np.unique(drawn, axis=0)[:most]


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Return the rank correlation of two samples [B]; 0 where one is constant, which then says nothing."""
    ranks = rankdata(x), rankdata(y)
    if min(np.ptp(rank) for rank in ranks) == 0.0:
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def partial_spearman(x: np.ndarray, y: np.ndarray, given: np.ndarray) -> float:
    """Return the partial rank correlation of x and y given a third sample.

    (r_xy - r_xg r_yg) / sqrt((1 - r_xg^2) (1 - r_yg^2))
    """
    xy, xg, yg = spearman(x, y), spearman(x, given), spearman(y, given)
    rest = (1.0 - xg**2) * (1.0 - yg**2)
    return float((xy - xg * yg) / np.sqrt(rest)) if rest > 0.0 else 0.0
