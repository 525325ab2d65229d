"""A claim check that anything passes is worthless: scores that did not come from a rebuttal must fail them.

Each impostor keeps the real ratings before the rebuttal and makes up those after it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iclr_repro.core.claims import Judgement, Results, claims_of, judge
from iclr_repro.core.data import MissingDataError
from iclr_repro.core.experiment import Experiment
from iclr_repro.review_insights import ScorePairs, claims, load_scores
from iclr_repro.review_insights.experiments import Disagreement, Rankings, ScoreChanges, _years
from iclr_repro.review_insights.herding import NullModel, nearest_rating
from support import bare_run

Impostor = Callable[[ScorePairs, np.random.Generator], np.ndarray]


def frozen(pairs: ScorePairs, rng: np.random.Generator) -> np.ndarray:
    """Nobody changes anything."""
    return pairs.reviews["before"].to_numpy()


def constant(pairs: ScorePairs, rng: np.random.Generator) -> np.ndarray:
    """Everybody ends at 6."""
    return np.full(len(pairs.reviews), 6)


def random_choice(pairs: ScorePairs, rng: np.random.Generator) -> np.ndarray:
    """Everybody draws a rating at random."""
    return rng.choice(pairs.scale, size=len(pairs.reviews))


def shuffled(pairs: ScorePairs, rng: np.random.Generator) -> np.ndarray:
    """The real ratings after, dealt out to the reviews of all papers."""
    return rng.permutation(pairs.reviews["after"].to_numpy())


def shuffled_within_papers(pairs: ScorePairs, rng: np.random.Generator) -> np.ndarray:
    """The ratings before, dealt out again among the reviewers of each paper: papers stay, reviewers seem to move."""
    return pairs.reviews["before"].to_numpy()[np.lexsort((rng.random(len(pairs.reviews)), pairs.paper_index))]


def null_model(pairs: ScorePairs, rng: np.random.Generator) -> np.ndarray:
    """Reviewers who read again without seeing each other: a quarter draws anew around the quality + 0.35 (Beyond 3).

    The quality of a paper is drawn as its first ratings leave it open, if it is N(mean, 1.4) and they scatter by 1.5.
    """
    before = pairs.reviews["before"].to_numpy()
    model = NullModel(
        pairs.scale, before.mean(), quality_std=1.4, noise=1.5, reread_noise=1.2, reread_rate=0.25, drift=0.35
    )
    n, mean = (pairs.papers[name].to_numpy() for name in ("n_reviews", "mean_before"))
    precision = 1 / model.quality_std**2 + n / model.noise**2
    centre = (model.quality_mean / model.quality_std**2 + n * mean / model.noise**2) / precision
    quality = rng.normal(centre, precision**-0.5)[pairs.paper_index]
    second = nearest_rating(quality + model.drift + rng.normal(0.0, model.reread_noise, len(before)), model.scale)
    return np.where(rng.random(len(before)) < model.reread_rate, second, before)


def genuine(pairs: ScorePairs, rng: np.random.Generator) -> np.ndarray:
    """The real ratings after: what the impostors must be told from."""
    return pairs.reviews["after"].to_numpy()


def judged(after: Impostor, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Judgement]:
    """Run the experiments of the headline claims on such ratings and judge the claims on their results."""
    rng = np.random.default_rng(0)

    def load(year: int, *, after_name: str | None = None) -> ScorePairs:
        try:
            pairs = load_scores(year, after=after_name)
        except MissingDataError as error:
            pytest.skip(f"no real data on this machine: {error}")
        scale = sorted({*pairs.scale, 6})  # the scale of ICLR 2020 has the constant's 6 too
        return ScorePairs.from_reviews(
            pairs.reviews.assign(after=after(pairs, rng)), decisions=pairs.papers["decision"], year=year, scale=scale
        )

    monkeypatch.setattr(_years, "load_scores", lambda year, after=None: load(year, after_name=after))
    shared: dict[str, Any] = {
        "data": "real",
        "draws": 100,
        "official_dir": None,
        "max_trace_score": None,
        "decisions_dir": None,
    }
    experiments: dict[str, Experiment] = {
        "score_changes": ScoreChanges(years=(2021, 2023, 2024), **shared),
        "rankings": Rankings(years=(2024,), fractions=(0.05, 0.3), **shared),
        "disagreement": Disagreement(years=(2020, 2021, 2023, 2024), **shared),
    }
    metrics = {name: experiment.run(bare_run(folder)).metrics for name, experiment in experiments.items()}
    for other in ("predictors", "order_effect", "tracing", "engagement", "efficiency"):
        metrics[other] = {}
    results = Results.from_metrics(metrics)
    return {judgement.claim.id: judgement for judgement in judge(claims_of(claims), results, "cpu")}


@pytest.mark.parametrize("impostor", [frozen, constant, random_choice, shuffled, shuffled_within_papers, null_model])
def test_no_headline_claim_holds_for_an_impostor(
    impostor: Impostor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judgements = judged(impostor, tmp_path, monkeypatch)
    passed = [one.claim.id for one in judgements.values() if one.claim.headline and one.check.verdict == "reproduced"]
    assert not passed


def test_the_headline_claims_hold_for_the_genuine_ratings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judgements = judged(genuine, tmp_path, monkeypatch)
    headline = {one.claim.id: one.check for one in judgements.values() if one.claim.headline}
    assert set(headline) == {"R2", "R3", "R4", "R7"}
    assert {name: (check.verdict, check.note) for name, check in headline.items()} == dict.fromkeys(
        headline, ("reproduced", "")
    )
