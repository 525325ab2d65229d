"""The paper's table for a venue of real papers, with any judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from iclr_repro.core.data import DATA_CHOICE, DataChoice, DataError, real_or_synthetic
from iclr_repro.core.experiment import ParameterError, Result, parameter
from iclr_repro.core.footprint import Network, language_models
from iclr_repro.core.measurements import Measurements
from iclr_repro.core.rundir import Run
from iclr_repro.pairwise_review import figures
from iclr_repro.pairwise_review.audit import cyclic_triads, flip_rate, trait_regression
from iclr_repro.pairwise_review.bradley_terry import fit_counts
from iclr_repro.pairwise_review.cost import CostForecast, forecast, forecast_expected_ratings, forecast_ratings
from iclr_repro.pairwise_review.counts import PairCounts, count_pairs, require_connected
from iclr_repro.pairwise_review.data import (
    add_full_texts,
    known_citations,
    load_papers,
    mean_ratings,
    read_paperlist,
    simulate_text_papers,
)
from iclr_repro.pairwise_review.experiments._judged import TRAIT_PENALTY, check_judge, control_areas, make_judge
from iclr_repro.pairwise_review.experiments._venue_sets import Venue, compare_budgets, compare_sets, compare_tiers
from iclr_repro.pairwise_review.judges import TextRegression, text_reviews
from iclr_repro.pairwise_review.judging import Collected, Judge, collect
from iclr_repro.pairwise_review.language_judge import AGAIN_TOKENS, ANSWER_TOKENS, Reading
from iclr_repro.pairwise_review.language_rater import (
    META_TOKENS,
    REVIEW_TOKENS,
    LanguageModelRater,
    expected_ratings,
)
from iclr_repro.pairwise_review.measures import impact, nearest_distances
from iclr_repro.pairwise_review.papers import Paper
from iclr_repro.pairwise_review.prompts import Answering
from iclr_repro.pairwise_review.rating import meta_scores
from iclr_repro.pairwise_review.schedule import PairSchedule

_JUDGE_HELP = "text, untrained, hf:<name> (next token), local:<name> or openai:<name> (text)"


@dataclass(frozen=True, kw_only=True)
class VenueTable:
    """The paper's table for one venue: accepted sets of humans, comparisons, ratings and chance."""

    uses_seeds: ClassVar[bool] = False

    data: DataChoice = parameter(DATA_CHOICE)
    papers: str | None = parameter("JSON file of paperlists with the venue; null is CoRL 2023")
    full_texts: str | None = parameter(
        "JSON lines with id and text of papers for a language model, cut to `budget`; null for title and abstract"
    )
    venue: str = parameter("name of the venue, for the prompts")
    num_papers: int | None = parameter("papers at most; null for all", low=20)
    comparisons: int | None = parameter("comparisons; null for all ordered pairs", low=1)
    judge: str = parameter(_JUDGE_HELP)
    answering: Answering = parameter(
        "text, or next_token, which adds the expected rating (local: and openai:; hf: is by next token always)"
    )
    rate: bool = parameter("also run the rating system on the same judge")
    dry_run: bool = parameter("forecast the cost and ask nothing")
    base_url: str | None = parameter("of an OpenAI-compatible endpoint")
    api_key_env: str | None = parameter("environment variable with its key; null for none")
    continue_final_message: bool = parameter(
        "by next token, begin the answer in the assistant's message, which the endpoint goes on with (vLLM); "
        "false ends the user's with it"
    )
    answers: str | None = parameter("file of paid answers (SQLite); null keeps one in the run's folder")
    judgements: str | None = parameter("JSON-lines file of judgements, goes on where it ends; null in the run's folder")
    concurrency: int = parameter("requests under way at once", low=1)
    price_input: float = parameter("dollars per million input tokens of an endpoint, not batched", low=0)
    price_output: float = parameter("dollars per million output tokens of an endpoint, not batched", low=0)
    answer_tokens: float = parameter("expected in an answer by text, for the forecast", low=0)
    review_tokens: float = parameter("expected in a review, for the forecast", low=0)
    budget: int = parameter(
        "tokens shown of a manuscript: of the model's own tokenizer for hf:, four characters each for others", low=1
    )
    anonymise: bool = parameter("hide names, affiliations, acknowledgements and URLs")
    swap: bool = parameter("ask both orders of each pair")
    penalty: float = parameter("lambda", low=0)
    draws: int = parameter("bootstrap draws, permutations, and random sets (these at least 100)", low=20)

    def __post_init__(self) -> None:
        """Refuse a judge that there is not, and full texts for the one that does not read them."""
        check_judge(self.judge)
        if self.full_texts is not None and self.judge == "text":
            raise ParameterError("full_texts are for a language model; the judge `text` reads title and abstract only")

    def networks(self) -> list[Network]:
        """Name the language model, if the judge is one."""
        return language_models(self.judge)

    def run(self, run: Run) -> Result:
        """Judge, rank, select the venue's own numbers, and set the sets beside each other."""
        (papers, train), kind = real_or_synthetic(self.data, lambda: self._real(run), lambda: self._synthetic(run))
        if self.full_texts is not None:
            papers = add_full_texts(papers, self.full_texts)
        reading = self._reading()
        schedule = PairSchedule(len(papers), int(run.rng("pairs").integers(2**62)))
        num = len(schedule) if self.comparisons is None else min(self.comparisons, len(schedule))
        # Whatever could stop the comparison of the sets is found before anything is paid.
        venue = Venue.of(papers)
        if self.penalty == 0:
            require_connected(count_pairs(len(papers), *schedule.pairs(0, num), np.full(num, 0.5)))
        found = Measurements()
        self._add_forecast(papers, schedule, num, reading, run, found)
        if self.judge != "text":
            found.add_exact("full_texts/n", sum(paper.text is not None for paper in papers))
            found.add_exact("truncated/n", sum(reading.is_cut(paper) for paper in papers))
        found.add_exact("n", len(papers))
        found.add_exact("unknown_citations/n", sum(paper.citations is None for paper in papers))
        if self.dry_run:
            return found.result(data=kind)
        judge, model = self._make_judge(papers, train, reading, run)
        log = self.judgements or (None if self.judge == "text" else run.dir / "judgements.jsonl")
        judged = collect(judge, papers, schedule, num, log=log)
        self._add_judging(judged, run, found)
        scores = self._rank(papers, train, judged.counts, run)
        tables: dict[str, pd.DataFrame] = {}
        if self.rate:
            ratings, mass = self._ratings(papers, train, judge, model, reading, run)
            for system, of_papers in ratings.items():
                found.add_exact(f"{system}/unusable", float(np.isnan(of_papers).sum()))
                scores[system] = np.nan_to_num(of_papers, nan=0.0)  # below every rating
            if mass is not None:
                found.add_exact("rating_expected/mass", float(mass.mean()))
                rated = {"id": venue.ids, "rating": ratings["rating_expected"], "mass": mass}
                tables["rating_expected"] = pd.DataFrame(rated).set_index("id")
        scores["human_rating"] = mean_ratings(papers)
        tables["traits"], scores["debiased"] = _audit(venue, judged.counts, reading, found)
        # As much shrunk as the de-biased one, so that the two differ by the traits alone.
        scores["shrunk"] = fit_counts(judged.counts.unordered(), penalty=TRAIT_PENALTY).beta
        compared, drawn = self._compare(venue, scores, judged.counts, schedule, num, run, found)
        return found.result(tables=tables | compared, figures=drawn, data=kind)

    def _real(self, run: Run) -> tuple[list[Paper], list[Paper]]:
        # The one paper of CoRL 2023 whose citations are unknown is not among the paper's 198; other venues keep them.
        papers = (
            known_citations(load_papers("corl2023", find=run.locate))
            if self.papers is None
            else read_paperlist(self.papers)
        )
        try:
            train = [paper for venue in ("iclr2017", "iclr2018") for paper in load_papers(venue, find=run.locate)]
        except DataError as reason:
            if self.judge == "text":
                raise
            run.log.warning("the text regression is left out: %s", reason)
            train = []
        return papers[: self.num_papers], train

    def _synthetic(self, run: Run) -> tuple[list[Paper], list[Paper]]:
        rng = run.rng("papers")
        papers = simulate_text_papers(198, rng=rng, prefix="a")[: self.num_papers]
        return papers, simulate_text_papers(400, rng=rng, prefix="b")

    def _reading(self) -> Reading:
        reading = Reading(venue=self.venue, budget=self.budget, blind=self.anonymise)
        if not self.judge.startswith("hf:"):
            return reading
        from iclr_repro.pairwise_review.hf_judge import load_token_counter

        return replace(reading, count_tokens=load_token_counter(self.judge.removeprefix("hf:")))

    def _add_forecast(
        self, papers: Sequence[Paper], schedule: PairSchedule, num: int, reading: Reading, run: Run, found: Measurements
    ) -> None:
        """Note and log what the run should cost, and what it costs at most."""
        expected, at_most = self._forecast(papers, schedule, num, reading)
        bill, most = (sum(one.cost_usd for one in bills.values()) for bills in (expected, at_most))
        for system, one in (at_most | expected).items():
            for name in ("calls", "input_tokens", "output_tokens", "cost_usd"):
                found.add_exact(f"forecast/{system}/{name}", getattr(one, name))
        found.add_exact("forecast/cost_usd", bill)
        found.add_exact("forecast/cost_usd_at_most", most)
        run.log.info(
            "%s: %s comparisons by %s, about %.4g dollars, at most about %.4g",
            self.venue,
            f"{num:,}",
            self.judge,
            bill,
            most,
        )

    def _forecast(
        self, papers: Sequence[Paper], schedule: PairSchedule, num: int, reading: Reading
    ) -> tuple[dict[str, CostForecast], dict[str, CostForecast]]:
        """What each system should cost, and what it costs at most, with answers as long as their limits."""
        first, second = schedule.pairs(0, num)
        endpoint = self.judge.startswith(("openai:", "local:"))
        by_text = endpoint and self.answering == "text"
        paid = float(self.judge.startswith("openai:"))  # the others run here
        prices: dict[str, Any] = {
            "price_per_million_input": paid * self.price_input,
            "price_per_million_output": paid * self.price_output,
        }
        expected, at_most = {}, {}
        if self.rate and endpoint:
            ratings: dict[str, Any] = {"reading": reading, **prices}
            expected["ratings"] = forecast_ratings(papers, review_tokens=self.review_tokens, **ratings)
            at_most["ratings"] = forecast_ratings(
                papers, review_tokens=REVIEW_TOKENS, meta_tokens=META_TOKENS, **ratings
            )
            if not by_text:
                expected["expected_ratings"] = forecast_expected_ratings(papers, **ratings)
                at_most["expected_ratings"] = expected["expected_ratings"]
        pairs: dict[str, Any] = {"first": first, "second": second, "reading": reading, "swap": self.swap, **prices}
        if by_text:
            expected["comparisons"], at_most["comparisons"] = (
                forecast(papers, **pairs, answering="text", output_tokens=tokens)
                for tokens in (self.answer_tokens, ANSWER_TOKENS)
            )
            at_most["asked_again_at_most"] = forecast(
                papers, **pairs, answering="text", output_tokens=AGAIN_TOKENS, again=True
            )
        else:
            expected["comparisons"] = at_most["comparisons"] = forecast(papers, **pairs, answering="next_token")
        return expected, at_most

    def _make_judge(
        self, papers: Sequence[Paper], train: Sequence[Paper], reading: Reading, run: Run
    ) -> tuple[Judge, Any]:
        return make_judge(
            self.judge,
            papers,
            run,
            train=train,
            reading=reading,
            options={
                "base_url": self.base_url,
                "api_key_env": self.api_key_env,
                "continue_final_message": self.continue_final_message,
                "max_concurrency": self.concurrency,
                "price_per_million_input": self.price_input,
                "price_per_million_output": self.price_output,
            },
            answers=None if self.answers is None else Path(self.answers),
            answering=self.answering,
            swap=self.swap,
        )

    def _add_judging(self, judged: Collected, run: Run, found: Measurements) -> None:
        """Note what the comparisons took, how many could not be read, and whether they agree with each other."""
        found.add_exact("judge/is_language_model", float(self.judge.startswith(("hf:", "local:", "openai:"))))
        for name in ("comparisons", "unreadable", "asked_again", "input_tokens", "output_tokens"):
            found.add_exact(f"judge/{name}", float(getattr(judged, name)))
        for name in ("cost_usd", "mass"):
            if (value := getattr(judged, name)) is not None:
                found.add_exact(f"judge/{name}", value)
        if self.judge != "text" and judged.asked:
            found.add_exact("judge/first_just_read", judged.first_just_read / judged.asked)
        for name, measure in (("flip_rate", flip_rate), ("cyclic_triads", cyclic_triads)):
            try:
                share, number = measure(judged.counts)
            except ValueError as reason:
                run.log.info("no %s: %s", name, reason)
            else:
                found.add(f"judge/{name}", share)
                found.add_exact(f"judge/{name}/n", number)

    def _rank(
        self, papers: Sequence[Paper], train: Sequence[Paper], counts: PairCounts, run: Run
    ) -> dict[str, np.ndarray]:
        """[n] scores by the comparisons where they allow a fit, and by the text regression where it is no judge."""
        scores = {}
        try:
            scores["pairwise"] = fit_counts(counts.unordered(), penalty=self.penalty).beta
        except ValueError as reason:  # the answers are paid for, and kept: what does not need the ranking is reported
            run.log.warning("no ranking by the comparisons of %s: %s", self.venue, reason)
        if train and self.judge != "text":
            scores["text"] = TextRegression.fit(train).predict(papers)
        return scores

    def _ratings(
        self, papers: Sequence[Paper], train: Sequence[Paper], judge: Any, model: Any, reading: Reading, run: Run
    ) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """The rating system, and by next token the expected rating; a model that writes no text has the latter only.

        Returns:
            ratings by system, and the digits' mass of the expected ones.
        """
        if self.judge == "text":
            return {"rating": meta_scores(text_reviews(train, papers, rng=run.rng("reviews")))}, None
        if model is None:
            fine = judge.expected_ratings(papers)
            return {"rating_expected": fine.expected}, fine.mass
        ratings = {"rating": LanguageModelRater(model, reading=reading).rate(papers).final}
        if self.answering == "text":
            return ratings, None
        fine = expected_ratings(model, papers, reading=reading)
        return ratings | {"rating_expected": fine.expected}, fine.mass

    def _compare(
        self,
        venue: Venue,
        scores: dict[str, np.ndarray],
        counts: PairCounts,
        schedule: PairSchedule,
        num: int,
        run: Run,
        found: Measurements,
    ) -> tuple[dict[str, pd.DataFrame], dict[str, Figure]]:
        """Tables and figures of the sets that the scores select; what needs a ranking by comparisons only with one."""
        sets, tables, drawn = {"human": [venue.chosen]}, {}, {}
        ranking = scores.get("pairwise")
        if ranking is not None and any(paper.area for paper in venue.papers):
            areas, best = [paper.area or "none stated" for paper in venue.papers], venue.top(ranking)
            controlled, tables["areas"] = control_areas(
                found, areas, ranking, best, venue.chosen, name="pairwise", ids=venue.ids
            )
            sets["controlled"] = [controlled]
            drawn["areas"] = figures.areas(tables["areas"], venue=self.venue)
        elif ranking is not None:
            run.log.warning("the list of %s states no area: the control by area is left out", self.venue)
        table = compare_sets(venue, sets, scores, run=run, found=found, draws=self.draws)
        tables["venue"] = table
        if ranking is not None:
            by_budget = self._rank_by_budget(venue, ranking, counts, schedule, num, run)
            if curve := compare_budgets(venue, by_budget, run=run, found=found, draws=self.draws):
                levels = table["mean"].reindex(_LEVELS).dropna().to_dict()
                drawn["citations"] = figures.citations_by_budget(curve, levels, venue=self.venue, per_paper=False)
            if venue.tiers:
                tables["tiers"] = compare_tiers(venue, ranking, found=found)
        drawn["venue"] = figures.venue(table.dropna(subset=["mean"]))
        return tables, drawn

    def _rank_by_budget(
        self, venue: Venue, ranking: np.ndarray, counts: PairCounts, schedule: PairSchedule, num: int, run: Run
    ) -> dict[int, np.ndarray]:
        """[n] strengths by the first comparisons, for each number of them that selects papers with known citations."""
        by_budget = {}
        for budget in _budgets(num):
            try:
                beta = ranking
                if budget < num:
                    so_far = counts.of_pairs(*schedule.pairs(0, budget)).unordered()
                    beta = fit_counts(so_far, penalty=self.penalty).beta
                impact(venue.citations, venue.top(beta))
            except ValueError as reason:  # the answers are paid for: what they do allow is reported
                run.log.warning("%s comparisons are left out of the curve: %s", f"{budget:,}", reason)
            else:
                by_budget[budget] = beta
        return by_budget


_LEVELS = ("human", "rating", "rating_expected", "text", "random")


def _budgets(num: int) -> list[int]:
    """10^3, 10^3.5, ... (Fig. 2) below `num`, and `num`."""
    steps = [round(10 ** (3 + index / 2)) for index in range(12)]
    return [*(step for step in steps if step < num), num]


def _audit(venue: Venue, counts: PairCounts, reading: Reading, found: Measurements) -> tuple[pd.DataFrame, np.ndarray]:
    """Which traits the judge rewards, and the strengths without them; traits that do not vary are left out."""
    words = [len(reading.show(paper).split()) for paper in venue.papers]
    traits = pd.DataFrame(
        {
            "length": np.log1p(words),
            # Papers in the list of the institution that has most.
            "prestige": np.log1p((venue.places * venue.places.sum(axis=0)).max(axis=1, initial=0)),
            "novelty": nearest_distances(venue.embedding, np.arange(len(venue.papers)), pool="all"),
        }
    )
    traits = traits.loc[:, np.ptp(traits.to_numpy(), axis=0) > 1e-9]
    rewarded, fit = trait_regression(counts, traits, penalty=TRAIT_PENALTY)
    for trait, row in rewarded.iterrows():
        value, half = float(row["coefficient"]), 1.96 * float(row["standard_error"])
        found.add(f"judge/coefficient/{trait}", value, (value - half, value + half))
    return rewarded, fit.beta
