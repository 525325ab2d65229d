"""On simulated venues: recovery, selection, position bias, selection bias."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.measurements import Measurements
from iclr_repro.core.rundir import Run
from iclr_repro.pairwise_review import figures
from iclr_repro.pairwise_review.audit import trait_regression
from iclr_repro.pairwise_review.counts import count_pairs
from iclr_repro.pairwise_review.experiments._judged import (
    ACCEPT_HELP,
    M_HELP,
    N_HELP,
    PENALTY_HELP,
    TRAIT_PENALTY,
    citation_curve,
    control_areas,
    simulate,
    spearman,
)
from iclr_repro.pairwise_review.law import predicted_correlation
from iclr_repro.pairwise_review.measures import (
    gini,
    impact,
    institution_counts,
    novelty,
    overlap,
    random_selection_spread,
    random_subset_p_value,
    swap_p_value,
)
from iclr_repro.pairwise_review.rankers import win_rate
from iclr_repro.pairwise_review.rating import break_ties, meta_scores, tie_share
from iclr_repro.pairwise_review.selection import (
    fill_tiers,
    select_top,
)

_TIERS = {"oral": 0.05, "spotlight": 0.2}  # of the accepted, the rest are posters; ours


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """How well the strengths follow the true quality, against the budget, the law and the ratings (C2, C5, C6)."""

    n: int = parameter(N_HELP, low=12)
    runs: int = parameter("venues a seed", low=1)
    budgets: tuple[int, ...] = parameter(M_HELP, low=1)
    penalty: float = parameter(PENALTY_HELP, low=0)
    kappa: float = parameter("sharpness of the judge", low=0)

    def run(self, run: Run) -> Result:
        """Measure a judge without faults: no persistent error, no traits, no position effect."""
        found: dict[str, list[float]] = {}

        def note(name: str, value: float) -> None:
            found.setdefault(name, []).append(value)

        for index in range(self.runs):
            simulation = simulate(
                run, f"venue {index}", n=self.n, comparisons_per_paper=max(self.budgets), kappa=self.kappa
            )
            quality = simulation.papers.quality
            by_budget = {}
            for budget in self.budgets:
                beta = simulation.fit(budget, self.penalty).beta
                by_budget[budget] = spearman(beta, quality)
                pearson = float(np.corrcoef(beta, quality)[0, 1])
                note(f"pairwise/m{budget}/spearman", by_budget[budget])
                note(f"pairwise/m{budget}/pearson", pearson)
                law = predicted_correlation(budget, self.kappa)
                note(f"pairwise/m{budget}/pearson_minus_law", pearson - law)
            for one, two in itertools.pairwise(self.budgets):
                note(f"pairwise/m{one}_to_m{two}/gain", by_budget[two] - by_budget[one])
            rating = spearman(meta_scores(simulation.reviews), quality)
            note("rating/spearman", rating)
            note("rating_unrounded/spearman", spearman(simulation.reviews.mean(axis=1), quality))
            for budget in self.budgets:
                note(f"pairwise_minus_rating/m{budget}", by_budget[budget] - rating)
        metrics: dict[str, float | np.ndarray] = {name: np.array(values) for name, values in found.items()}
        table = pd.DataFrame(
            {
                "m": self.budgets,
                "spearman": [np.mean(found[f"pairwise/m{m}/spearman"]) for m in self.budgets],
                "pearson": [np.mean(found[f"pairwise/m{m}/pearson"]) for m in self.budgets],
                "law": [predicted_correlation(m, self.kappa) for m in self.budgets],
            }
        ).set_index("m")
        curves = {m: np.array(found[f"pairwise/m{m}/spearman"]) for m in self.budgets}
        ratings = {name: np.array(found[f"{name}/spearman"]) for name in ("rating", "rating_unrounded")}
        return Result(
            metrics={**metrics, "n": self.n},
            tables={"recovery": table},
            figures={"recovery": figures.recovery(curves, table["law"], ratings)},
        )


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Citations of what is accepted, by comparisons, by ratings, by humans and at random (C3, C6, C10)."""

    n: int = parameter(N_HELP, low=12)
    accept: float = parameter(ACCEPT_HELP, low=0.01, high=0.99)
    budgets: tuple[int, ...] = parameter(M_HELP, low=1)
    headline: int = parameter("m of the headline comparison, one of `budgets`", low=1)
    parity: int = parameter("m that costs as many calls as the ratings (4 a paper), one of `budgets`", low=1)
    penalty: float = parameter(PENALTY_HELP, low=0)
    position_bias: float = parameter("b_pos of the judge")
    error: float = parameter("tau, standard deviation of its persistent error", low=0)
    novelty_weight: float = parameter("g_nov of the judge")
    prestige_weight: float = parameter("g_inst of the judge")
    draws: int = parameter("tie-breaks of each rule", low=20)

    def __post_init__(self) -> None:
        """Refuse a headline without a fit."""
        if not {self.headline, self.parity} <= set(self.budgets):
            raise ValueError(f"headline and parity must be among the budgets {list(self.budgets)}")

    def run(self, run: Run) -> Result:
        """Select by each rule and measure."""
        simulation = simulate(
            run,
            "venue",
            n=self.n,
            comparisons_per_paper=max(self.budgets),
            position_bias=self.position_bias,
            error=self.error,
            novelty_weight=self.novelty_weight,
            prestige_weight=self.prestige_weight,
        )
        papers, k = simulation.papers, round(self.accept * self.n)
        human = select_top(simulation.human, k)
        fits = {budget: simulation.fit(budget, self.penalty) for budget in self.budgets}
        scores = {f"pairwise/m{budget}": fit.beta for budget, fit in fits.items()}
        num = self.headline * self.n // 2
        played = (simulation.first[:num], simulation.second[:num], simulation.won[:num])
        scores["win_rate"] = win_rate(self.n, *played)
        scores["rating"] = meta_scores(simulation.reviews)
        scores["rating_unrounded"] = simulation.reviews.mean(axis=1)
        scores["human"] = simulation.human
        found = Measurements()
        rows = {}
        for name, score in scores.items():
            chosen = break_ties(score, k, rng=run.rng(f"ties/{name}"), draws=self.draws)
            values = _means([_outcomes(papers.citations, one, human) for one in chosen])
            values |= {"spearman": spearman(score, papers.quality), "tie_share": tie_share(score, k)}
            rows[name] = values
            for quantity, value in values.items():
                found.add(f"{name}/{quantity}", value)
        log_citations = np.log1p(papers.citations)
        mean, spread = random_selection_spread(log_citations, k)
        rows["random"] = {"log_mean": mean, "mean": float(papers.citations.mean()), "overlap_human": k / self.n}
        found.add("random/log_mean", mean)
        found.add("random/log_mean_sd", spread)
        headline = f"pairwise/m{self.headline}"
        for other in ("rating", "rating_unrounded", "human", f"pairwise/m{self.parity}"):
            found.add(f"headline_minus_{other}/log_mean", rows[headline]["log_mean"] - rows[other]["log_mean"])
        at_parity = rows[f"pairwise/m{self.parity}"]["spearman"]
        found.add("parity_minus_rating/spearman", at_parity - rows["rating"]["spearman"])
        found.add("overlap/headline_minus_chance", rows[headline]["overlap_human"] - k / self.n)
        best = select_top(scores[headline], k)
        sizes = {tier: round(share * k) for tier, share in _TIERS.items()}
        sizes["poster"] = k - sum(sizes.values())
        for tier, members in fill_tiers(best, sizes).items():
            found.add(f"{headline}/{tier}/log_mean", impact(papers.citations, members).log_mean)
        found.add("n", self.n)
        curve = citation_curve(run, papers.citations, {budget: fit.beta for budget, fit in fits.items()}, k)
        levels = {name: rows[name]["mean"] for name in ("rating", "human", "random")}
        return found.result(
            tables={"selection": pd.DataFrame(rows).T.rename_axis("rule")},
            figures={"citations": figures.citations_by_budget(curve, levels, venue="simulated venue", per_paper=True)},
        )


@dataclass(frozen=True, kw_only=True)
class PositionBias:
    """What a judge's liking for the first position does, and what undoes it (C7)."""

    n: int = parameter(N_HELP, low=12)
    budget: int = parameter(M_HELP, low=1)
    position_bias: float = parameter("b_pos of the judge")
    penalty: float = parameter(PENALTY_HELP, low=0)

    def run(self, run: Run) -> Result:
        """Rank by comparisons in a fixed, a random and both orders, with and without the position term."""
        found = Measurements()
        for order in ("fixed", "random", "both"):
            simulation = simulate(
                run,
                "venue",
                n=self.n,
                comparisons_per_paper=self.budget,
                position_bias=self.position_bias,
                order=order,
            )
            for name, position_effect in ((order, False), (f"{order}_corrected", True)):
                fit = simulation.fit(self.budget, self.penalty, position_effect=position_effect)
                found.add(f"{name}/spearman", spearman(fit.beta, simulation.papers.quality))
                if fit.position_effect is not None:
                    found.add(f"{name}/gamma", fit.position_effect)
        value = found.metrics
        found.add("position_bias", self.position_bias)
        found.add("random_minus_fixed", value["random/spearman"] - value["fixed/spearman"])
        found.add("fixed_corrected_minus_random", value["fixed_corrected/spearman"] - value["random/spearman"])
        found.add("n", self.n)
        return found.result(tables={"position_bias": pd.Series(value, name="value").rename_axis("metric").to_frame()})


@dataclass(frozen=True, kw_only=True)
class SelectionBias:
    """What a judge's liking for familiar topics and famous institutions does to the accepted set (C8, C9)."""

    n: int = parameter(N_HELP, low=12)
    accept: float = parameter(ACCEPT_HELP, low=0.01, high=0.99)
    budget: int = parameter(M_HELP, low=1)
    penalty: float = parameter(PENALTY_HELP, low=0)
    position_bias: float = parameter("b_pos of both judges")
    error: float = parameter("tau of both judges", low=0)
    novelty_weight: float = parameter("g_nov of the biased judge")
    prestige_weight: float = parameter("g_inst of the biased judge")
    draws: int = parameter("permutations of the tests", low=20)

    def run(self, run: Run) -> Result:
        """Select by a fair and by a biased judge on the same venue, and test at equal K over one universe."""
        k = round(self.accept * self.n)
        selected = {}
        for name, share in (("fair", 0.0), ("biased", 1.0)):
            simulation = simulate(
                run,
                "venue",
                n=self.n,
                comparisons_per_paper=self.budget,
                position_bias=self.position_bias,
                error=self.error,
                novelty_weight=share * self.novelty_weight,
                prestige_weight=share * self.prestige_weight,
            )
            beta = simulation.fit(self.budget, self.penalty).beta
            selected[name] = select_top(beta, k)
        papers = simulation.papers
        # What the biased judge rewards besides quality, and the ranking without it.
        traits = pd.DataFrame({"novelty_trait": papers.novelty_trait, "prestige": papers.prestige})
        counts = count_pairs(self.n, simulation.first, simulation.second, simulation.won)
        rewarded, debiased = trait_regression(counts, traits, penalty=TRAIT_PENALTY)
        selected["debiased"] = select_top(debiased.beta, k)
        selected["best"] = select_top(papers.quality, k)
        human = select_top(simulation.human, k)
        table = institution_counts(papers.institutions, range(papers.n_institutions))
        measures = {
            "novelty": lambda members: novelty(papers.embedding, members),
            "novelty_all": lambda members: novelty(papers.embedding, members, pool="all"),
            "gini": lambda members: gini(table[members].sum(axis=0)),
        }
        found = Measurements()
        for trait, coefficient in rewarded["coefficient"].items():
            found.add(f"biased/coefficient/{trait}", float(coefficient))
        found.add("biased/spearman", spearman(beta, papers.quality))
        found.add("debiased/spearman", spearman(debiased.beta, papers.quality))
        nulls = {}
        for measure, statistic in measures.items():
            for name, members in selected.items():
                found.add(f"{name}/{measure}", statistic(members))
            found.add(f"biased_minus_fair/{measure}", statistic(selected["biased"]) - statistic(selected["fair"]))
            rng = run.rng(f"null/{measure}")
            p, null = random_subset_p_value(statistic, selected["fair"], self.n, rng=rng, draws=self.draws)
            found.add(f"fair/{measure}/p_value", p)
            nulls[measure] = null
            p, _ = swap_p_value(statistic, selected["biased"], selected["fair"], rng=rng, draws=self.draws)
            found.add(f"biased_minus_fair/{measure}/p_value", p)
        _, shift = control_areas(found, papers.area.tolist(), beta, selected["biased"], human, name="biased")
        found.add("n", self.n)
        values = {
            measure: {name: float(found.metrics[f"{name}/{measure}"]) for name in ("fair", "biased", "best")}
            for measure in ("novelty", "gini")
        }
        return found.result(
            tables={"areas": shift, "traits": rewarded},
            figures={"selection_bias": figures.selection_bias(values, nulls)},
        )


def _outcomes(citations: np.ndarray, selected: np.ndarray, human: np.ndarray) -> dict[str, float]:
    found = impact(citations, selected)
    return {
        "log_mean": found.log_mean,
        "mean": found.mean,
        "median": found.median,
        "overlap_human": overlap(selected, human),
    }


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
