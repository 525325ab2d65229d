"""Real judges that cost nothing: the text regression, an untrained language model; and what others cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from iclr_repro.core.data import DATA_CHOICE, DataChoice, real_or_synthetic
from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.footprint import Network, language_models
from iclr_repro.core.measurements import Measurements
from iclr_repro.core.rundir import Run
from iclr_repro.pairwise_review.audit import flip_rate
from iclr_repro.pairwise_review.bradley_terry import fit_counts
from iclr_repro.pairwise_review.cost import forecast, price
from iclr_repro.pairwise_review.counts import count_pairs
from iclr_repro.pairwise_review.data import (
    known_citations,
    load_papers,
    mean_ratings,
    simulate_text_papers,
)
from iclr_repro.pairwise_review.experiments._judged import spearman
from iclr_repro.pairwise_review.judges import TextJudge, TextRegression
from iclr_repro.pairwise_review.judging import collect
from iclr_repro.pairwise_review.language_judge import Reading
from iclr_repro.pairwise_review.measures import (
    impact,
    random_selection_spread,
)
from iclr_repro.pairwise_review.papers import Paper, citation_counts
from iclr_repro.pairwise_review.rating import CALLS_PER_PAPER
from iclr_repro.pairwise_review.schedule import PairSchedule
from iclr_repro.pairwise_review.selection import select_top

_PAPER_COSTS = {"ICLR 2023": (3_000_000, 1350), "EMNLP 2023": (3_871_056, 1700), "CoRL 2023": (39_006, 17)}
"""Comparisons and dollars of the paper (sheet, results table)."""


@dataclass(frozen=True, kw_only=True)
class TextJudgeStudy:
    """Does a real judge that costs nothing find later citations? Trained on one venue, judged on another (C11)."""

    uses_seeds: ClassVar[bool] = False

    data: DataChoice = parameter(DATA_CHOICE)
    num_papers: int = parameter("papers of the judged venue at most", low=20)
    budget: int = parameter("comparisons of a paper, m", low=1)
    accept: float = parameter("selected share K / n", low=0.01, high=0.99)
    alpha: float = parameter("ridge penalty", low=0)
    penalty: float = parameter("lambda", low=0)
    draws: int = parameter("bootstrap draws over papers", low=20)

    def run(self, run: Run) -> Result:
        """Learn on ICLR 2017, compare ICLR 2018; intervals over papers, the selection fixed."""

        def real() -> tuple[list[Paper], list[Paper]]:
            return load_papers("iclr2017", find=run.locate), load_papers("iclr2018", find=run.locate)

        def synthetic() -> tuple[list[Paper], list[Paper]]:
            rng = run.rng("papers")
            return simulate_text_papers(300, rng=rng, prefix="a"), simulate_text_papers(300, rng=rng, prefix="b")

        (train, test), kind = real_or_synthetic(self.data, real, synthetic)
        papers = known_citations(test)[: self.num_papers]
        judge = TextJudge(TextRegression.fit(train, alpha=self.alpha), papers)
        schedule = PairSchedule(len(papers), int(run.rng("pairs").integers(2**62)))
        num = min(self.budget * len(papers) // 2, len(schedule))
        fit = fit_counts(collect(judge, papers, schedule, num).counts.unordered(), penalty=self.penalty)
        citations = citation_counts(papers)
        log_citations = np.log1p(citations)
        # ICLR 2018: 36 % of 955 are 344 papers.
        selected = select_top(fit.beta, round(self.accept * len(papers)), ids=[paper.id for paper in papers])
        member = np.isin(np.arange(len(papers)), selected)
        human = mean_ratings(papers)
        samples = run.rng("bootstrap").integers(len(papers), size=(self.draws, len(papers)))
        found = Measurements()
        for name, score in (("text", fit.beta), ("human", human)):
            draws = [spearman(score[sample], citations[sample]) for sample in samples]
            found.add_draws(f"{name}/spearman", spearman(score, citations), draws)
        gains = [log_citations[s][member[s]].mean() - log_citations[s].mean() for s in samples]
        found.add_draws(
            "selected_minus_population/log_mean", log_citations[member].mean() - log_citations.mean(), gains
        )
        ours, everyone = impact(citations, selected), impact(citations)
        for name, value in (("selected", ours), ("population", everyone)):
            found.add_exact(f"{name}/mean", value.mean)
            found.add_exact(f"{name}/median", value.median)
        found.add_exact("random/log_mean_sd", random_selection_spread(log_citations, len(selected))[1])
        found.add_exact("n", len(papers))
        found.add_exact("selected/n", len(selected))
        found.add_exact("train/n", len(known_citations(train)))
        table = pd.DataFrame({name: asdict(value) for name, value in (("selected", ours), ("population", everyone))})
        return found.result(tables={"text_judge": table}, data=kind)


@dataclass(frozen=True, kw_only=True)
class LanguageJudge:
    """The judge on a local language model: how its answers depend on the order, and that prefixes may be reused."""

    uses_seeds: ClassVar[bool] = False

    data: DataChoice = parameter(DATA_CHOICE)
    judge: str = parameter("untrained or hf:<name>")
    num_papers: int = parameter("papers, the first of CoRL 2023", low=3)
    comparisons: int = parameter("pairs, each judged in both orders", low=1)
    budget: int = parameter("tokens shown of a manuscript", low=1)

    def networks(self) -> list[Network]:
        """Name the language model, if the judge is one."""
        return language_models(self.judge)

    def run(self, run: Run) -> Result:
        """Judge pairs in both orders with and without reuse."""
        from iclr_repro.pairwise_review.hf_judge import HFJudge

        papers, kind = real_or_synthetic(
            self.data,
            lambda: load_papers("corl2023", find=run.locate),
            lambda: simulate_text_papers(60, rng=run.rng("papers"), prefix="a"),
        )
        papers = papers[: self.num_papers]
        schedule = PairSchedule(len(papers), int(run.rng("pairs").integers(2**62)), "both")
        first, second = schedule.pairs(0, min(2 * self.comparisons, len(schedule)))
        one, other = [papers[i] for i in first], [papers[i] for i in second]
        answers = {}
        for reuse in (True, False):
            options: dict[str, Any] = {
                "reading": Reading(venue="CoRL 2023", budget=self.budget),
                "swap": False,
                "reuse_prefix": reuse,
            }
            name = self.judge.removeprefix("hf:")
            judge = (
                HFJudge.untrained(seed=run.seed, **options)
                if self.judge == "untrained"
                else HFJudge.from_pretrained(name, device=run.device, **options)
            )
            answers[reuse] = judge.compare_many(one, other)
        every = {
            reuse: np.array([np.nan if a.prob_first is None else a.prob_first for a in given])
            for reuse, given in answers.items()
        }
        read = np.isfinite(every[True]) & np.isfinite(every[False])
        probabilities = {reuse: values[read] for reuse, values in every.items()}
        counts = count_pairs(len(papers), first[read], second[read], probabilities[True] > 0.5, ordered=True)
        rate, pairs = flip_rate(counts)
        logit = np.log(probabilities[True] / (1 - probabilities[True]))
        return Result(
            metrics={
                "flip_rate": rate,
                "first_share": float((probabilities[True] > 0.5).mean()),
                "position_log_odds": float(logit.mean()),
                "reuse/largest_difference": float(np.abs(probabilities[True] - probabilities[False]).max()),
                "input_tokens": float(sum(a.input_tokens for a in answers[True])),
                "mass": float(np.mean([a.mass for a in answers[True]])),
                "unreadable": float((~read).sum()),
                "n": pairs,
            },
            data=kind,
        )


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the paper's runs cost, from tokens and prices, and what CoRL 2023 would cost with our prompts (C12)."""

    uses_seeds: ClassVar[bool] = False

    data: DataChoice = parameter(DATA_CHOICE)
    price_input: float = parameter("dollars per million input tokens (batched)", low=0)
    price_output: float = parameter("dollars per million output tokens (batched)", low=0)
    tokens_per_call: float = parameter("input tokens of a comparison that the paper's bill implies", low=0)
    tokens_per_answer: float = parameter("output tokens of a comparison", low=0)

    def run(self, run: Run) -> Result:
        """Compute; nothing is asked."""
        found = Measurements()
        rows = {}
        for venue, (calls, dollars) in _PAPER_COSTS.items():
            bill = price(
                calls,
                self.tokens_per_call,
                self.tokens_per_answer,
                price_per_million_input=self.price_input,
                price_per_million_output=self.price_output,
            )
            key = venue.lower().replace(" ", "")
            found.add_exact(f"{key}/usd", bill.cost_usd)
            found.add_exact(f"{key}/n", calls)
            rows[venue] = {"comparisons": calls, "paper, $": dollars, "ours, $": bill.cost_usd}
        papers, kind = real_or_synthetic(
            self.data,
            lambda: known_citations(load_papers("corl2023", find=run.locate)),
            lambda: simulate_text_papers(198, rng=run.rng("papers"), prefix="a"),
        )
        schedule = PairSchedule(len(papers), 0)
        first, second = schedule.pairs(0, len(schedule))
        ours = forecast(
            papers,
            first,
            second,
            reading=Reading(venue="CoRL 2023"),
            output_tokens=self.tokens_per_answer,
            price_per_million_input=self.price_input,
            price_per_million_output=self.price_output,
        )
        found.add_exact("corl2023_abstracts/usd", ours.cost_usd)
        found.add_exact("corl2023_abstracts/input_tokens", ours.input_tokens)
        found.add_exact("rating_calls_over_papers", CALLS_PER_PAPER)
        return found.result(tables={"cost": pd.DataFrame(rows).T.rename_axis("venue")}, data=kind)
