"""The paper's table for a venue of real papers, with any judge."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import scipy.stats

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
from iclr_repro.pairwise_review.embedding import embed_texts
from iclr_repro.pairwise_review.experiments._judged import (
    TRAIT_PENALTY,
    check_judge,
    citation_curve,
    control_areas,
    make_judge,
    spearman,
)
from iclr_repro.pairwise_review.judges import TextRegression, text_reviews
from iclr_repro.pairwise_review.judging import collect
from iclr_repro.pairwise_review.language_judge import (
    AGAIN_TOKENS,
    ANSWER_TOKENS,
    META_TOKENS,
    REVIEW_TOKENS,
    LanguageModelRater,
    Reading,
    expected_ratings,
)
from iclr_repro.pairwise_review.measures import gini as gini_of
from iclr_repro.pairwise_review.measures import (
    impact,
    institution_counts,
    nearest_distances,
    novelty,
    overlap,
    swap_p_value,
)
from iclr_repro.pairwise_review.papers import Paper, citation_counts, human_choice, tier_sizes
from iclr_repro.pairwise_review.prompts import Answering
from iclr_repro.pairwise_review.rating import break_ties, meta_scores, tie_share
from iclr_repro.pairwise_review.schedule import PairSchedule
from iclr_repro.pairwise_review.selection import fill_tiers, select_top

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
        reading = Reading(venue=self.venue, budget=self.budget, blind=self.anonymise)
        if self.judge.startswith("hf:"):
            from iclr_repro.pairwise_review.hf_judge import load_token_counter

            reading = replace(reading, count_tokens=load_token_counter(self.judge.removeprefix("hf:")))
        schedule = PairSchedule(len(papers), int(run.rng("pairs").integers(2**62)))
        num = len(schedule) if self.comparisons is None else min(self.comparisons, len(schedule))
        found = Measurements()
        # Whatever could stop the comparison of the sets is found before anything is paid.
        human, tiers = human_choice(papers), tier_sizes(papers)
        if self.penalty == 0:
            require_connected(count_pairs(len(papers), *schedule.pairs(0, num), np.full(num, 0.5)))
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
        if self.judge != "text":
            found.add_exact("full_texts/n", sum(paper.text is not None for paper in papers))
            found.add_exact("truncated/n", sum(reading.is_cut(paper) for paper in papers))
        found.add_exact("n", len(papers))
        found.add_exact("unknown_citations/n", sum(paper.citations is None for paper in papers))
        if self.dry_run:
            return found.result(data=kind)
        judge, model = make_judge(
            self.judge,
            papers,
            run,
            train=train,
            reading=reading,
            options=self._options(),
            answers=None if self.answers is None else Path(self.answers),
            answering=self.answering,
            swap=self.swap,
        )
        log = self.judgements or (None if self.judge == "text" else run.dir / "judgements.jsonl")
        judged = collect(judge, papers, schedule, num, log=log)
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
        tables: dict[str, pd.DataFrame] = {}
        scores: dict[str, np.ndarray] = {}
        try:
            scores["pairwise"] = fit_counts(judged.counts.unordered(), penalty=self.penalty).beta
        except ValueError as reason:  # the answers are paid for, and kept: what does not need the ranking is reported
            run.log.warning("no ranking by the comparisons of %s: %s", self.venue, reason)
        ranked = "pairwise" in scores
        if train and self.judge != "text":
            scores["text"] = TextRegression.fit(train).predict(papers)
        if self.rate:
            ratings, mass = self._ratings(papers, train, judge, model, reading, run)
            for name, of_papers in ratings.items():
                found.add_exact(f"{name}/unusable", float(np.isnan(of_papers).sum()))
                scores[name] = np.nan_to_num(of_papers, nan=0.0)  # below every rating
            if mass is not None:
                found.add_exact("rating_expected/mass", float(mass.mean()))
                rated = {"id": [paper.id for paper in papers], "rating": ratings["rating_expected"], "mass": mass}
                tables["rating_expected"] = pd.DataFrame(rated).set_index("id")
        scores["human_rating"] = mean_ratings(papers)
        embedding, chosen = embed_texts(papers), np.flatnonzero(human)
        places = institution_counts([paper.institutions for paper in papers])
        rewarded, scores["debiased"] = _audit(papers, judged.counts, embedding, places, reading, found)
        # As much shrunk as the de-biased one, so that the two differ by the traits alone.
        scores["shrunk"] = fit_counts(judged.counts.unordered(), penalty=TRAIT_PENALTY).beta
        k, ids, citations = len(chosen), [paper.id for paper in papers], citation_counts(papers)
        sets = {"human": [chosen]}
        tables["traits"], made = rewarded, {}
        areas = [paper.area or "none stated" for paper in papers]
        if ranked and any(paper.area for paper in papers):
            best = select_top(scores["pairwise"], k, ids=ids)
            controlled, tables["areas"] = control_areas(
                found, areas, scores["pairwise"], best, chosen, name="pairwise", ids=ids
            )
            sets["controlled"] = [controlled]
            made["areas"] = figures.areas(tables["areas"], venue=self.venue)
        elif ranked:
            run.log.warning("the list of %s states no area: the control by area is left out", self.venue)
        table = self._compare(papers, scores, sets, embedding, places, run, found)
        tables["venue"] = table
        by_budget = {}
        for budget in _budgets(num) if ranked else []:
            try:
                beta = scores["pairwise"]
                if budget < num:
                    counts = judged.counts.of_pairs(*schedule.pairs(0, budget)).unordered()
                    beta = fit_counts(counts, penalty=self.penalty).beta
                impact(citations, select_top(beta, k, ids=ids))
            except ValueError as reason:  # the answers are paid for: what they do allow is reported
                run.log.warning("%s comparisons are left out of the curve: %s", f"{budget:,}", reason)
            else:
                by_budget[budget] = beta
        curve = citation_curve(run, citations, by_budget, k, ids=ids, draws=self.draws)
        for budget, beta in by_budget.items():
            mean = impact(citations, select_top(beta, k, ids=ids)).mean
            found.add_draws(f"pairwise/M{budget}/mean", mean, curve[budget])
        selected = {budget: [select_top(beta, k, ids=ids)] for budget, beta in by_budget.items()}
        steps = {f"M{one}_to_M{other}": (one, other) for one, other in itertools.pairwise(selected)}
        if len(selected) > 1:
            steps["first_to_last"] = (min(selected), max(selected))
        for step, (fewer, more) in steps.items():
            self._add_difference(found, f"pairwise/{step}/gain", citations, selected[more], selected[fewer], run)
        levels = table["mean"].reindex(_LEVELS).dropna().to_dict()
        if curve:
            made["citations"] = figures.citations_by_budget(curve, levels, venue=self.venue, per_paper=False)
        if tiers and ranked:
            tables["tiers"] = self._compare_tiers(papers, scores["pairwise"], tiers, found)
        return found.result(
            tables=tables, figures={**made, "venue": figures.venue(table.dropna(subset=["mean"]))}, data=kind
        )

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

    def _options(self) -> dict[str, Any]:
        return {
            "base_url": self.base_url,
            "api_key_env": self.api_key_env,
            "continue_final_message": self.continue_final_message,
            "max_concurrency": self.concurrency,
            "price_per_million_input": self.price_input,
            "price_per_million_output": self.price_output,
        }

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
        papers: Sequence[Paper],
        scores: dict[str, np.ndarray],
        sets: dict[str, list[np.ndarray]],
        embedding: np.ndarray,
        places: np.ndarray,
        run: Run,
        found: Measurements,
    ) -> pd.DataFrame:
        """What humans chose and other given sets, beside sets of the same size by each rule."""
        citations, ids = citation_counts(papers), [paper.id for paper in papers]
        known = ~np.isnan(citations)
        chosen = sets["human"][0]
        k = len(chosen)
        measures = {"novelty": lambda members: novelty(embedding, members)}
        if places.any():
            measures["gini"] = lambda members: gini_of(places[members].sum(axis=0))
        for name, score in scores.items():
            sets[name] = break_ties(score, k, rng=run.rng(f"ties/{name}"), draws=20)
            found.add(f"{name}/tie_share", tie_share(score, k))
            if not np.isnan(correlation := spearman(score[known], citations[known])):
                found.add(f"{name}/spearman_citations", correlation)
        rng = run.rng("random")
        sets["random"] = [rng.permutation(len(papers))[:k] for _ in range(max(self.draws, 100))]
        rows: dict[str, dict[str, float]] = {}
        for name, several in sets.items():
            # A set without any known count has no impact.
            counted = [citations[members[known[members]]] for members in several if known[members].any()]
            row = {field: float(np.mean([getattr(impact(c), field) for c in counted])) for field in _IMPACT if counted}
            row["overlap_human"] = float(np.mean([overlap(members, chosen) for members in several]))
            for measure, statistic in measures.items():
                row[measure] = float(np.mean([statistic(members) for members in several]))
            rows[name] = row
            samples = _resampled(counted, run.rng(f"bootstrap/{name}"), self.draws)
            for field, value in row.items():
                if field in _IMPACT:
                    found.add_draws(f"{name}/{field}", value, [getattr(impact(one), field) for one in samples])
                else:
                    found.add(f"{name}/{field}", value)
        if "pairwise" in scores:
            for name in ("rating", "rating_expected"):
                if name in sets:
                    metric = f"pairwise_minus_{name}/mean"
                    self._add_difference(found, metric, citations, sets["pairwise"], sets[name], run)
            best = select_top(scores["pairwise"], k, ids=ids)
            for measure, statistic in measures.items():
                p, _ = swap_p_value(statistic, best, chosen, rng=run.rng(f"swap/{measure}"), draws=self.draws)
                found.add(f"pairwise_minus_human/{measure}/p_value", p)
            shared = np.isin(best, chosen).sum()
            # Of a random set of k papers to share as many with the human one.
            found.add("pairwise/overlap_human/p_value", float(scipy.stats.hypergeom.sf(shared - 1, len(papers), k, k)))
        if {"pairwise", "text"} <= scores.keys():
            self._add_gain_over_text(found, citations, scores, run)
        found.add_exact("chance/overlap_human", k / len(papers))
        found.add_exact("accepted/n", k)
        return pd.DataFrame(rows).T.rename_axis("set")

    def _compare_tiers(
        self, papers: Sequence[Paper], score: np.ndarray, sizes: dict[str, int], found: Measurements
    ) -> pd.DataFrame:
        """Citations of the venue's tiers and of those that comparisons fill, of the same sizes."""
        citations, ids = citation_counts(papers), [paper.id for paper in papers]
        by_tier: dict[str, dict[str, float]] = {}
        for tier, members in fill_tiers(select_top(score, sum(sizes.values()), ids=ids), sizes).items():
            theirs = np.flatnonzero([bool(paper.accepted) and paper.tier == tier for paper in papers])
            row = by_tier[tier] = {"n": float(len(members))}
            for name, those in (("pairwise", members), ("human", theirs)):
                if not np.isnan(citations[those]).all():
                    outcome = impact(citations, those)
                    row |= {f"{name}_mean": outcome.mean, f"{name}_median": outcome.median}
                    found.add(f"{name}/{tier}/mean", outcome.mean)
        return pd.DataFrame(by_tier).T.rename_axis("tier")

    def _add_gain_over_text(
        self, found: Measurements, citations: np.ndarray, scores: dict[str, np.ndarray], run: Run
    ) -> None:
        """Spearman with citations by comparisons, minus that of the text regression, resampled over the papers."""
        known, rng = np.flatnonzero(~np.isnan(citations)), run.rng("bootstrap/text")

        def gain(papers: np.ndarray) -> float:
            return spearman(scores["pairwise"][papers], citations[papers]) - spearman(
                scores["text"][papers], citations[papers]
            )

        if not np.isnan(value := gain(known)):
            draws = [gain(rng.choice(known, len(known))) for _ in range(self.draws)]
            found.add_draws("pairwise_minus_text/spearman_citations", value, draws)

    def _add_difference(
        self,
        found: Measurements,
        name: str,
        citations: np.ndarray,
        ours: list[np.ndarray],
        theirs: list[np.ndarray],
        run: Run,
    ) -> None:
        """Mean citations of one set minus another's, resampled over all papers; each over its tie-breaks."""
        n, rng = len(citations), run.rng("bootstrap/difference")
        our_share, their_share = (
            np.mean([np.isin(np.arange(n), members) for members in sets], axis=0) for sets in (ours, theirs)
        )
        counts = rng.multinomial(n, np.full(n, 1 / n), size=self.draws)
        known = np.where(np.isnan(citations), 0.0, citations)
        counted = ~np.isnan(citations)

        def mean(weights: np.ndarray) -> np.ndarray:
            total = np.asarray(weights @ counted)
            return np.divide(weights @ known, total, out=np.full(total.shape, np.nan), where=total > 0)

        draws = mean(counts * our_share) - mean(counts * their_share)
        value = float(mean(our_share) - mean(their_share))
        if not np.isnan(value):
            found.add_draws(name, value, draws)


_LEVELS = ("human", "rating", "rating_expected", "text", "random")
_IMPACT = ("mean", "median", "log_mean")


def _budgets(num: int) -> list[int]:
    """10^3, 10^3.5, ... (Fig. 2) below `num`, and `num`."""
    steps = [round(10 ** (3 + index / 2)) for index in range(12)]
    return [*(step for step in steps if step < num), num]


def _audit(
    papers: Sequence[Paper],
    counts: PairCounts,
    embedding: np.ndarray,
    places: np.ndarray,
    reading: Reading,
    found: Measurements,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Which traits the judge rewards, and the strengths without them; traits that do not vary are left out."""
    words = [len(reading.show(paper).split()) for paper in papers]
    traits = pd.DataFrame(
        {
            "length": np.log1p(words),
            # Papers in the list of the institution that has most.
            "prestige": np.log1p((places * places.sum(axis=0)).max(axis=1, initial=0)),
            "novelty": nearest_distances(embedding, np.arange(len(papers)), pool="all"),
        }
    )
    traits = traits.loc[:, np.ptp(traits.to_numpy(), axis=0) > 1e-9]
    rewarded, fit = trait_regression(counts, traits, penalty=TRAIT_PENALTY)
    for trait, row in rewarded.iterrows():
        value, half = float(row["coefficient"]), 1.96 * float(row["standard_error"])
        found.add(f"judge/coefficient/{trait}", value, (value - half, value + half))
    return rewarded, fit.beta


def _resampled(sets: list[np.ndarray], rng: np.random.Generator, draws: int) -> list[np.ndarray]:
    """A set at random (a tie-break, a random choice), and papers of it with replacement."""
    chosen = [sets[index] for index in rng.integers(len(sets), size=draws)] if sets else []
    return [values[rng.integers(len(values), size=len(values))] for values in chosen]
