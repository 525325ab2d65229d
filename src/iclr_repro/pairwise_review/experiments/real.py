"""On real papers and real judges: the replay of six LLM reviewers, the text judge, a venue's table, costs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from iclr_repro.core.data import DATA_CHOICE, DataChoice, real_or_synthetic
from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.measurements import Measurements
from iclr_repro.core.rundir import Run
from iclr_repro.pairwise_review import figures
from iclr_repro.pairwise_review.audit import agreement, calibration, cyclic_triads, fit_judge_aware, flip_rate
from iclr_repro.pairwise_review.bradley_terry import choose_penalty, fit_bradley_terry, fit_counts
from iclr_repro.pairwise_review.cost import CostForecast, forecast, price
from iclr_repro.pairwise_review.counts import count_pairs
from iclr_repro.pairwise_review.data import (
    ReviewerScores,
    known_citations,
    load_papers,
    load_reviewer_scores,
    mean_ratings,
    read_paperlist,
    simulate_reviewer_scores,
    simulate_text_papers,
)
from iclr_repro.pairwise_review.embedding import embed_texts
from iclr_repro.pairwise_review.experiments._judged import make_judge, spearman
from iclr_repro.pairwise_review.judges import TextJudge, TextRegression, prefer_by_scores, text_reviews
from iclr_repro.pairwise_review.judging import collect
from iclr_repro.pairwise_review.language_judge import LanguageModelRater, Reading
from iclr_repro.pairwise_review.measures import gini as gini_of
from iclr_repro.pairwise_review.measures import (
    impact,
    institution_counts,
    novelty,
    overlap,
    random_selection_spread,
    swap_p_value,
)
from iclr_repro.pairwise_review.papers import Paper, citation_counts
from iclr_repro.pairwise_review.rating import CALLS_PER_PAPER, break_ties, meta_scores, tie_share
from iclr_repro.pairwise_review.schedule import PairSchedule, random_pairs_with_replacement
from iclr_repro.pairwise_review.selection import fill_tiers, select_top

_PENALTIES = (0.001, 0.01, 0.1, 1.0)
_PAPER_COSTS = {"ICLR 2023": (3_000_000, 1350), "EMNLP 2023": (3_871_056, 1700), "CoRL 2023": (39_006, 17)}
"""Comparisons and dollars of the paper (sheet, results table)."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Comparisons against ratings from the same six real LLM reviewers (C4, C5)."""

    data: DataChoice = parameter(DATA_CHOICE)
    num_papers: int = parameter("papers, the first of the file", low=12, high=500)
    runs: int = parameter("lists of comparisons a seed", low=1)
    budgets: tuple[int, ...] = parameter("comparisons of a paper, m; prefixes of one list", low=1)
    penalty: float = parameter("lambda", low=0.0)
    judge_aware: int = parameter("m at which the model with a temper for each judge is fitted, one of `budgets`", low=1)

    def run(self, run: Run) -> Result:
        """Rank by each protocol; the reference is the mean human rating."""
        scores, kind = real_or_synthetic(
            self.data,
            lambda: load_reviewer_scores(find=run.locate).head(self.num_papers),
            lambda: simulate_reviewer_scores(self.num_papers, rng=run.rng("scores")),
        )
        found: dict[str, list[float]] = {}
        for index in range(self.runs):
            for name, value in self._one(scores, run, index).items():
                found.setdefault(name, []).append(value)
        metrics: dict[str, float | np.ndarray] = {name: np.array(values) for name, values in found.items()}
        metrics["n"] = len(scores.ids)
        curves = {m: metrics[f"pairwise/m{m}/spearman"] for m in self.budgets}
        levels = {
            name: metrics[f"{name}/spearman"] for name in ("rating_one", "rating_three_rounded", "rating_three_z")
        }
        rng = run.rng("audit")
        judge, first, second = self._comparisons(scores, max(self.budgets), rng)
        won = prefer_by_scores(scores.combined, judge, first, second, rng=rng)
        table = calibration(*_held_out(len(scores.ids), first, second, won, self.penalty))
        one, other = random_pairs_with_replacement(len(scores.ids), 5000, rng=rng)
        answers = [
            prefer_by_scores(scores.combined, np.full(len(one), k), one, other, rng=rng)
            for k in range(len(scores.judges))
        ]
        agreed = pd.DataFrame(agreement(answers), index=scores.judges, columns=scores.judges)
        return Result(
            metrics=metrics,
            tables={"agreement": agreed, "calibration": table},
            figures={
                "replay": figures.replay(curves, levels),  # type: ignore[arg-type]
                "calibration": figures.calibration_plot(table),
            },
            data=kind,
        )

    def _comparisons(
        self, scores: ReviewerScores, budget: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n = len(scores.ids)
        num = budget * n // 2
        judge = rng.integers(len(scores.judges), size=num)
        return (judge, *random_pairs_with_replacement(n, num, rng=rng))

    def _one(self, scores: ReviewerScores, run: Run, index: int) -> dict[str, float]:
        n, num_judges = len(scores.ids), len(scores.judges)
        rng = run.rng(f"ratings/{index}")
        # Three distinct judges, drawn anew for each paper.
        drawn = np.argsort(rng.random((n, num_judges)), axis=1)[:, :3].T
        three = np.take_along_axis(scores.overall, drawn, axis=0)
        three_combined = np.take_along_axis(scores.combined, drawn, axis=0)
        centred = scores.combined - scores.combined.mean(axis=1, keepdims=True)
        standardised = centred / scores.combined.std(axis=1, keepdims=True)
        ratings = {
            "rating_one": three[0],
            "rating_three_rounded": np.rint(three.mean(axis=0)),
            "rating_three": three.mean(axis=0),
            "rating_three_aspects": three_combined.mean(axis=0),
            "rating_three_z": np.take_along_axis(standardised, drawn, axis=0).mean(axis=0),
        }
        found = {f"{name}/spearman": spearman(score, scores.human) for name, score in ratings.items()}
        rng = run.rng(f"comparisons/{index}")
        judge, first, second = self._comparisons(scores, max(self.budgets), rng)
        won = prefer_by_scores(scores.combined, judge, first, second, rng=rng)
        by_overall = prefer_by_scores(scores.overall, judge, first, second, rng=rng)
        for budget in self.budgets:
            num = budget * n // 2
            for name, outcome in (("pairwise", won), ("pairwise_overall", by_overall)):
                fit = fit_bradley_terry(n, first[:num], second[:num], outcome[:num], penalty=self.penalty)
                found[f"{name}/m{budget}/spearman"] = spearman(fit.beta, scores.human)
            difference = found[f"pairwise/m{budget}/spearman"] - found["rating_three_rounded/spearman"]
            found[f"pairwise_minus_rating/m{budget}"] = difference
        for one, two in itertools.pairwise(self.budgets):
            gain = found[f"pairwise/m{two}/spearman"] - found[f"pairwise/m{one}/spearman"]
            found[f"pairwise/m{one}_to_m{two}/gain"] = gain
        num = self.judge_aware * n // 2
        aware = fit_judge_aware(n, first[:num], second[:num], won[:num], judge[:num], penalty=self.penalty)
        found["judge_aware/spearman"] = spearman(aware.beta, scores.human)
        plain = found[f"pairwise/m{self.judge_aware}/spearman"]
        found["judge_aware_minus_plain"] = found["judge_aware/spearman"] - plain
        for name, value in zip(scores.judges, aware.discrimination, strict=True):
            found[f"judge_aware/discrimination/{name.replace(' ', '_')}"] = float(value)
        found["held_out/best_penalty"] = _best_penalty(n, first[:num], second[:num], won[:num])
        return found


def _held_out(
    n: int, first: np.ndarray, second: np.ndarray, won: np.ndarray, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the last fifth of the comparisons from a fit of the others, and the outcomes."""
    cut = 4 * len(first) // 5
    fit = fit_bradley_terry(n, first[:cut], second[:cut], won[:cut], penalty=penalty)
    return fit.probability(first[cut:], second[cut:]), won[cut:]


def _best_penalty(n: int, first: np.ndarray, second: np.ndarray, won: np.ndarray) -> float:
    cut = 4 * len(first) // 5
    train, test = (count_pairs(n, first[part], second[part], won[part]) for part in (slice(cut), slice(cut, None)))
    return choose_penalty(train, test, _PENALTIES)[0]


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


_JUDGE_HELP = "text, untrained, hf:<name> (next token), local:<name> or openai:<name> (text)"


@dataclass(frozen=True, kw_only=True)
class VenueTable:
    """The paper's table for one venue: accepted sets of humans, comparisons, ratings and chance."""

    uses_seeds: ClassVar[bool] = False

    data: DataChoice = parameter(DATA_CHOICE)
    papers: str | None = parameter("JSON file of paperlists with the venue; null is CoRL 2023")
    venue: str = parameter("name of the venue, for the prompts")
    num_papers: int | None = parameter("papers at most; null for all", low=20)
    comparisons: int | None = parameter("comparisons; null for all ordered pairs", low=1)
    judge: str = parameter(_JUDGE_HELP)
    rate: bool = parameter("also run the rating system on the same judge")
    dry_run: bool = parameter("forecast the cost and ask nothing")
    base_url: str | None = parameter("of an OpenAI-compatible endpoint")
    api_key_env: str | None = parameter("environment variable with its key; null for none")
    answers: str | None = parameter("file of paid answers (SQLite); null keeps one in the run's folder")
    judgements: str | None = parameter("JSON-lines file of judgements, goes on where it ends; null in the run's folder")
    concurrency: int = parameter("requests under way at once", low=1)
    price_input: float = parameter("dollars per million input tokens", low=0)
    price_output: float = parameter("dollars per million output tokens", low=0)
    budget: int = parameter("tokens shown of a manuscript", low=1)
    anonymise: bool = parameter("hide names, affiliations, acknowledgements and URLs")
    swap: bool = parameter("ask both orders of each pair")
    penalty: float = parameter("lambda", low=0)
    draws: int = parameter("bootstrap draws, tie-breaks and permutations", low=20)

    def run(self, run: Run) -> Result:
        """Judge, rank, select the venue's own numbers, and set the sets beside each other."""
        (papers, train), kind = real_or_synthetic(self.data, lambda: self._real(run), lambda: self._synthetic(run))
        reading = Reading(venue=self.venue, budget=self.budget, blind=self.anonymise)
        schedule = PairSchedule(len(papers), int(run.rng("pairs").integers(2**62)))
        num = len(schedule) if self.comparisons is None else min(self.comparisons, len(schedule))
        found = Measurements()
        expected = self._forecast(papers, schedule, num, reading)
        for name, amount in asdict(expected).items():
            found.add_exact(f"forecast/{name}", amount)
        run.log.info(
            "%s: %s comparisons by %s, about %.4g dollars", self.venue, f"{num:,}", self.judge, expected.cost_usd
        )
        found.add_exact("n", len(papers))
        if self.dry_run:
            return found.result(data=kind)
        judge, model = make_judge(
            self.judge, papers, run, train=train, reading=reading, options=self._options(), swap=self.swap
        )
        log = self.judgements or (None if self.judge == "text" else run.dir / "judgements.jsonl")
        judged = collect(judge, papers, schedule, num, log=log)
        for name in ("comparisons", "unreadable", "asked_again", "input_tokens", "output_tokens"):
            found.add_exact(f"judge/{name}", float(getattr(judged, name)))
        found.add_exact("judge/flip_rate", flip_rate(judged.counts)[0])
        found.add_exact("judge/cyclic_triads", cyclic_triads(judged.counts)[0])
        scores = {"pairwise": fit_counts(judged.counts.unordered(), penalty=self.penalty).beta}
        if self.rate:
            scores["rating"] = self._ratings(papers, train, model, reading, run)
        scores["human_rating"] = mean_ratings(papers)
        table, extra = self._compare(papers, scores, run, found)
        return found.result(tables={"venue": table, **extra}, figures={"venue": figures.venue(table)}, data=kind)

    def _real(self, run: Run) -> tuple[list[Paper], list[Paper]]:
        papers = load_papers("corl2023", find=run.locate) if self.papers is None else read_paperlist(self.papers)
        train = [*load_papers("iclr2017", find=run.locate), *load_papers("iclr2018", find=run.locate)]
        return known_citations(papers)[: self.num_papers], train

    def _synthetic(self, run: Run) -> tuple[list[Paper], list[Paper]]:
        rng = run.rng("papers")
        papers = simulate_text_papers(198, rng=rng, prefix="a")[: self.num_papers]
        return papers, simulate_text_papers(400, rng=rng, prefix="b")

    def _options(self) -> dict[str, Any]:
        return {
            "base_url": self.base_url,
            "api_key_env": self.api_key_env,
            "max_concurrency": self.concurrency,
            "price_per_million_input": self.price_input,
            "price_per_million_output": self.price_output,
            "answers": None if self.answers is None else Path(self.answers),
        }

    def _forecast(self, papers: Sequence[Paper], schedule: PairSchedule, num: int, reading: Reading) -> CostForecast:
        first, second = schedule.pairs(0, num)
        by_text = self.judge.startswith(("openai:", "local:"))
        return forecast(
            papers,
            first,
            second,
            reading=reading,
            answering="text" if by_text else "next_token",
            output_tokens=100.0 if by_text else 1.0,
            swap=self.swap,
            price_per_million_input=self.price_input,
            price_per_million_output=self.price_output,
        )

    def _ratings(
        self, papers: Sequence[Paper], train: Sequence[Paper], model: Any, reading: Reading, run: Run
    ) -> np.ndarray:
        if self.judge == "text":
            return meta_scores(text_reviews(train, papers, rng=run.rng("reviews")))
        if model is None:
            raise ValueError(f"judge={self.judge} only compares: set rate=false, or use local:<name> or openai:<name>")
        return np.nan_to_num(LanguageModelRater(model, reading=reading).rate(papers).final, nan=0.0)

    def _compare(
        self, papers: Sequence[Paper], scores: dict[str, np.ndarray], run: Run, found: Measurements
    ) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
        """The best tier that humans chose, beside sets of the same size by each rule."""
        citations, ids = citation_counts(papers), [paper.id for paper in papers]
        accepted = np.array([bool(paper.accepted) for paper in papers])
        # Where all were accepted, as in CoRL's list, the decision to compare is who is an oral.
        human = accepted if not accepted.all() else np.array([paper.tier == "oral" for paper in papers])
        chosen, k = np.flatnonzero(human), int(human.sum())
        embedding = embed_texts(papers)
        places = institution_counts([paper.institutions for paper in papers])
        measures = {"novelty": lambda members: novelty(embedding, members)}
        if places.any():
            measures["gini"] = lambda members: gini_of(places[members].sum(axis=0))
        sets = {"human": [chosen]}
        for name, score in scores.items():
            sets[name] = break_ties(score, k, rng=run.rng(f"ties/{name}"), draws=20)
            found.add_exact(f"{name}/tie_share", tie_share(score, k))
            found.add_exact(f"{name}/spearman_citations", spearman(score, citations))
        rng = run.rng("random")
        sets["random"] = [rng.permutation(len(papers))[:k] for _ in range(max(self.draws, 100))]
        rows: dict[str, dict[str, float]] = {}
        for name, several in sets.items():
            outcomes = [impact(citations, members) for members in several]
            row = {field: float(np.mean([getattr(one, field) for one in outcomes])) for field in _IMPACT}
            row["overlap_human"] = float(np.mean([overlap(members, chosen) for members in several]))
            for measure, statistic in measures.items():
                row[measure] = float(np.mean([statistic(members) for members in several]))
            rows[name] = row
            samples = run.rng(f"bootstrap/{name}")
            for field, value in row.items():
                if field == "mean" and name != "random":
                    known = citations[several[0]]
                    draws = known[samples.integers(k, size=(self.draws, k))].mean(axis=1)
                    found.add_draws(f"{name}/mean", value, draws)
                else:
                    found.add_exact(f"{name}/{field}", value)
        if "rating" in sets:
            self._add_difference(found, citations, sets, run)
        best = select_top(scores["pairwise"], k, ids=ids)
        for measure, statistic in measures.items():
            p, _ = swap_p_value(statistic, best, chosen, rng=run.rng(f"swap/{measure}"), draws=self.draws)
            found.add_exact(f"pairwise_minus_human/{measure}/p_value", p)
        found.add_exact("chance/overlap_human", k / len(papers))
        found.add_exact("accepted/n", k)
        tiers = {t: sum(paper.tier == t for paper in papers) for t in ("oral", "spotlight", "poster")}
        order = select_top(scores["pairwise"], sum(tiers.values()), ids=ids)
        by_tier = {}
        for tier, members in fill_tiers(order, tiers).items():
            if len(members):
                theirs = np.array([index for index, paper in enumerate(papers) if paper.tier == tier])
                by_tier[tier] = {
                    "n": len(members),
                    "pairwise_mean": impact(citations, members).mean,
                    "pairwise_median": impact(citations, members).median,
                    "human_mean": impact(citations, theirs).mean,
                    "human_median": impact(citations, theirs).median,
                }
                found.add_exact(f"pairwise/{tier}/mean", by_tier[tier]["pairwise_mean"])
                found.add_exact(f"human/{tier}/mean", by_tier[tier]["human_mean"])
        return pd.DataFrame(rows).T.rename_axis("set"), {"tiers": pd.DataFrame(by_tier).T.rename_axis("tier")}

    def _add_difference(
        self, found: Measurements, citations: np.ndarray, sets: dict[str, list[np.ndarray]], run: Run
    ) -> None:
        """Mean citations of the two systems' sets, resampled over all papers; the rating's over its tie-breaks."""
        n, rng = len(citations), run.rng("bootstrap/difference")
        share = {
            name: np.mean([np.isin(np.arange(n), members) for members in sets[name]], axis=0)
            for name in ("pairwise", "rating")
        }
        counts = rng.multinomial(n, np.full(n, 1 / n), size=self.draws)
        known = np.where(np.isnan(citations), 0.0, citations)
        counted = ~np.isnan(citations)

        def mean(weights: np.ndarray) -> np.ndarray:
            return np.asarray((weights @ known) / (weights @ counted))

        draws = mean(counts * share["pairwise"]) - mean(counts * share["rating"])
        value = float(mean(share["pairwise"]) - mean(share["rating"]))
        found.add_draws("pairwise_minus_rating/mean", value, draws)


_IMPACT = ("mean", "median", "log_mean")


@dataclass(frozen=True, kw_only=True)
class LanguageJudge:
    """The judge on a local language model: how its answers depend on the order, and that prefixes may be reused."""

    uses_seeds: ClassVar[bool] = False

    data: DataChoice = parameter(DATA_CHOICE)
    judge: str = parameter("untrained or hf:<name>")
    num_papers: int = parameter("papers, the first of CoRL 2023", low=3)
    comparisons: int = parameter("pairs, each judged in both orders", low=1)
    budget: int = parameter("tokens shown of a manuscript", low=1)

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
        probabilities = {reuse: np.array([a.prob_first for a in given]) for reuse, given in answers.items()}
        counts = count_pairs(len(papers), first, second, probabilities[True] > 0.5, ordered=True)
        rate, pairs = flip_rate(counts)
        logit = np.log(probabilities[True] / (1 - probabilities[True]))
        return Result(
            metrics={
                "flip_rate": rate,
                "first_share": float((probabilities[True] > 0.5).mean()),
                "position_log_odds": float(logit.mean()),
                "reuse/largest_difference": float(np.abs(probabilities[True] - probabilities[False]).max()),
                "input_tokens": float(sum(a.input_tokens for a in answers[True])),
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

    def run(self, run: Run) -> Result:
        """Compute; nothing is asked."""
        prices = {"price_per_million_input": self.price_input, "price_per_million_output": self.price_output}
        found = Measurements()
        rows = {}
        for venue, (calls, dollars) in _PAPER_COSTS.items():
            bill = price(calls, self.tokens_per_call, 1, **prices)
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
        ours = forecast(papers, first, second, reading=Reading(venue="CoRL 2023"), **prices)
        found.add_exact("corl2023_abstracts/usd", ours.cost_usd)
        found.add_exact("corl2023_abstracts/input_tokens", ours.input_tokens)
        found.add_exact("rating_calls_over_papers", CALLS_PER_PAPER)
        return found.result(tables={"cost": pd.DataFrame(rows).T.rename_axis("venue")}, data=kind)
