"""Gridworlds with best responses only: what each objective's skills are good for (W7, W8)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.measurements import Measurements
from iclr_repro.core.rundir import Run
from iclr_repro.wsep import figures
from iclr_repro.wsep.builders import find_layout, grid_mdp
from iclr_repro.wsep.costs import adaptation_costs
from iclr_repro.wsep.discovery import distinct
from iclr_repro.wsep.experiments._methods import GRID_METHODS, grid_skills
from iclr_repro.wsep.information import lsepin, mutual_information
from iclr_repro.wsep.mdp import goal_occupancies


@dataclass(frozen=True, kw_only=True)
class Gridworlds:
    """Skills of each objective in gridworlds, and the regret and cost of adapting the best one to every goal."""

    layouts: tuple[str, ...] = parameter("a grid of the package for each case")
    num_skills: tuple[int, ...] = parameter("K of each case", low=2)
    runs: tuple[int, ...] = parameter("paired runs of each case", low=1)
    restarts: int = parameter("restarts a round of PWSEP", low=1)

    def __post_init__(self) -> None:
        """Refuse lists of different lengths and unknown grids."""
        if not len(self.layouts) == len(self.num_skills) == len(self.runs):
            raise ValueError("layouts, num_skills and runs have different lengths, expected one element a case")
        for layout in self.layouts:
            find_layout(layout)

    def run(self, run: Run) -> Result:
        """Measure; the elements of a metric are paired runs: the methods of a run begin with the same draws."""
        rows, pictures = [], {}
        for layout, num_skills, runs in zip(self.layouts, self.num_skills, self.runs, strict=True):
            case = f"{layout}_k{num_skills}"
            mdp = grid_mdp(find_layout(layout))
            goals = goal_occupancies(mdp)
            shown: dict[str, np.ndarray] = {}
            for index in range(runs):
                seed = int(run.rng(f"pair/{case}/{index}").integers(2**62))
                for method in GRID_METHODS:
                    rng = np.random.default_rng(seed)
                    skills = grid_skills(method, mdp, num_skills, restarts=self.restarts, rng=rng)
                    rows.append({"case": case, "method": method, **measures(skills, goals, mdp.distances())})
                    shown.setdefault(method, skills)
            pictures[f"heat_{case}"] = figures.heat_maps(find_layout(layout), shown)
        table = pd.DataFrame(rows)
        found = Measurements()
        for (case, method), group in table.groupby(["case", "method"], sort=False):
            for quantity in table.columns.drop(["case", "method"]):
                found.add(f"{case}/{method}/{quantity}", group[quantity].to_numpy(float))
        for case, group in table.groupby("case", sort=False):
            plain, with_lsepin = (
                group.loc[group["method"] == method, "regret"].to_numpy() for method in ("misl", "misl_lsepin")
            )
            found.add(f"{case}/misl_lsepin/lower_regret", (with_lsepin < plain).astype(float))
        grouped = table.groupby(["case", "method"], sort=False)
        summary = (
            pd.concat({"mean": grouped.mean(), "sd": grouped.std(ddof=1)}, axis=1).swaplevel(axis=1).sort_index(axis=1)
        )
        found.add("n", float(len(table)))
        return found.result(tables={"gridworlds": summary}, figures=pictures)


def measures(skills: np.ndarray, goals: np.ndarray, metric: np.ndarray) -> dict[str, float]:
    """Return what is measured of skills [K, S]; the tasks are all one-hot rewards, `goals` [S, S] their optima.

    regret = mean over goals of 1 - max_z p_z(goal) / d*(goal), before any adaptation.
    """
    return {
        "distinct": float(len(distinct(skills))),
        "information": float(mutual_information(skills)) if len(skills) > 1 else 0.0,
        "lsepin": float(lsepin(skills)) if len(skills) > 1 else 0.0,
        "regret": float((1.0 - skills.max(axis=0) / np.diag(goals)).mean()),
        **adaptation_costs(skills, goals, metric).as_dict(),
    }
