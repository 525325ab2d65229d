"""The simulated venue of an experiment with its judges, and the judge that a configuration names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from iclr_repro.core.experiment import ParameterError
from iclr_repro.core.language_model import load_language_model
from iclr_repro.core.measurements import Measurements
from iclr_repro.core.rundir import Run
from iclr_repro.pairwise_review.bradley_terry import BradleyTerryFit, fit_bradley_terry
from iclr_repro.pairwise_review.judges import TextJudge, TextRegression
from iclr_repro.pairwise_review.judging import Judge
from iclr_repro.pairwise_review.language_judge import LanguageModelJudge, Reading
from iclr_repro.pairwise_review.measures import area_shift, bootstrap_means
from iclr_repro.pairwise_review.papers import Paper
from iclr_repro.pairwise_review.prompts import Answering, load_template
from iclr_repro.pairwise_review.schedule import Order, schedule_pairs
from iclr_repro.pairwise_review.selection import select_top, select_top_by_area
from iclr_repro.pairwise_review.simulator import SimulatedPapers, judge_pairs, rate_papers, simulate_papers

N_HELP = "papers of a venue"
M_HELP = "comparisons of a paper, m = 2 M / n"
PENALTY_HELP = "lambda of the Bradley-Terry fit"
ACCEPT_HELP = "accepted share K / n"

TRAIT_PENALTY = 1.0
"""Of the regression on traits: the strengths beside them are N(0, 1) in the simulator."""

HUMAN_NOISE = 1.0
"""Of the simulated human decision, in standard deviations of quality: ours, the sheet has none."""


@dataclass(frozen=True, eq=False)
class Simulation:
    """A venue and one judge of it, who compares and rates by the same merit.

    Attributes:
        papers: the venue.
        merit: [n] what the judge goes by.
        first, second, won: [M] all its comparisons; smaller budgets are prefixes.
        reviews: [n, 3] its ratings.
        human: [n] scores of the simulated human decision.
    """

    papers: SimulatedPapers
    merit: np.ndarray
    first: np.ndarray
    second: np.ndarray
    won: np.ndarray
    reviews: np.ndarray
    human: np.ndarray

    def fit(self, comparisons_per_paper: int, penalty: float, *, position_effect: bool = False) -> BradleyTerryFit:
        """Fit the first m n / 2 comparisons."""
        n = len(self.papers)
        num = comparisons_per_paper * n // 2
        return fit_bradley_terry(
            n,
            self.first[:num],
            self.second[:num],
            self.won[:num],
            penalty=penalty,
            position_effect=position_effect,
        )


def simulate(
    run: Run,
    stream: str,
    *,
    n: int,
    comparisons_per_paper: int,
    kappa: float = 1.0,
    position_bias: float = 0.0,
    error: float = 0.0,
    novelty_weight: float = 0.0,
    prestige_weight: float = 0.0,
    order: Order = "random",
) -> Simulation:
    """Draw a venue and a judge's answers from the run's streams named `stream`.

    The papers, and the seed of the judge's uniforms, depend on the stream alone, so that judges with other weights are
    compared on the same venue.
    """
    papers = simulate_papers(n, rng=run.rng(f"{stream}/papers"))
    persistent = error * run.rng(f"{stream}/judge error").standard_normal(n)
    merit = papers.merit(error=persistent, novelty_weight=novelty_weight, prestige_weight=prestige_weight)
    schedule_seed, judge_seed = run.rng(f"{stream}/seeds").integers(2**62, size=2).tolist()
    first, second = schedule_pairs(n, comparisons_per_paper * n // 2, seed=schedule_seed, order=order)
    won = judge_pairs(merit, first, second, seed=judge_seed, kappa=kappa, position_bias=position_bias)
    reviews = rate_papers(merit, rng=run.rng(f"{stream}/reviews"))
    human = papers.quality + HUMAN_NOISE * run.rng(f"{stream}/human").standard_normal(n)
    return Simulation(papers, merit, first, second, won, reviews, human)


def citation_curve(
    run: Run,
    citations: np.ndarray,
    scores: Mapping[int, np.ndarray],
    k: int,
    *,
    ids: Sequence[str] | None = None,
    draws: int = 2000,
) -> dict[int, np.ndarray]:
    """Return, for each budget, [draws] mean citations of its top k, resampled over these papers (Fig. 2)."""
    return {
        budget: bootstrap_means(
            citations[select_top(score, k, ids=ids)], rng=run.rng(f"bootstrap/{budget}"), draws=draws
        )
        for budget, score in scores.items()
    }


def control_areas(
    found: Measurements,
    areas: Sequence[str | int],
    score: np.ndarray,
    selected: np.ndarray,
    human: np.ndarray,
    *,
    name: str,
    ids: Sequence[str] | None = None,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Select inside each area as many papers as humans did (Fig. 4), and note how far each set shifts the areas.

    Returns:
        the controlled selection, and the shift of each area in the selection without control.
    """
    controlled = select_top_by_area(score, areas, Counter(areas[index] for index in human), ids=ids)
    shifts = {one: area_shift(areas, members, human) for one, members in ((name, selected), ("controlled", controlled))}
    for one, shift in shifts.items():
        found.add(f"{one}/area/largest_shift", float(shift["shift"].abs().max()))
    counts = shifts["controlled"]["shift"] * shifts["controlled"]["n"]
    found.add("controlled/area/largest_difference", float(np.abs(np.rint(counts)).max()))
    return controlled, shifts[name]


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Return the rank correlation, NaN if one side is constant."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(scipy.stats.spearmanr(one, other).statistic)


def check_judge(spec: str) -> None:
    """Refuse the name of a judge that `make_judge` does not know.

    Raises:
        ParameterError: it has another form.
    """
    backend, _, name = spec.partition(":")
    if spec not in ("text", "untrained") and (backend not in ("hf", "local", "openai") or not name):
        raise ParameterError(f"judge must be text, untrained, hf:<name>, local:<name> or openai:<name>, got {spec!r}")


def make_judge(
    spec: str,
    papers: Sequence[Paper],
    run: Run,
    *,
    train: Sequence[Paper],
    reading: Reading,
    options: Mapping[str, Any],
    answers: Path | None = None,
    answering: Answering = "text",
    swap: bool = False,
) -> tuple[Judge, Any]:
    """Make the judge that a configuration names, and the language model behind it (None without one).

    Args:
        spec: "text", "untrained", "hf:<name>", "local:<name>" or "openai:<name>".
        papers: to be judged.
        run: its device and folder are used.
        train: papers that the text judge learns from.
        reading: how papers are shown.
        options: of `load_language_model` for an endpoint.
        answers: file of a language model's answers; None keeps one in the run's folder.
        answering: how a language model of "local:" or "openai:" answers; the others answer by next token.
        swap: ask both orders.

    Raises:
        ParameterError: another form.
    """
    check_judge(spec)
    backend, _, name = spec.partition(":")
    if spec == "text":
        return TextJudge(TextRegression.fit(train), papers), None
    if backend in ("untrained", "hf"):
        from iclr_repro.pairwise_review.hf_judge import HFJudge

        if backend == "untrained":
            return HFJudge.untrained(seed=run.seed, reading=reading, swap=swap), None
        return HFJudge.from_pretrained(name, device=run.device, reading=reading, swap=swap), None
    system = load_template(reading.template_version).system_message(reading.venue)
    used = {"device": run.device} if backend == "local" else options
    model = load_language_model(spec, cache=answers or run.dir / "answers.sqlite", system=system, **used)
    return LanguageModelJudge(model, reading=reading, answering=answering, swap=swap), model
