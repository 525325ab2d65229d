"""Judges that need no language model: the simulator's, cached answers, and a text regression.

Source: sheet E1 to E3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from iclr_repro.pairwise_review.judging import BaseJudge, Judgement, JudgementLog, judgement_of
from iclr_repro.pairwise_review.papers import Paper, check_papers, citation_counts
from iclr_repro.pairwise_review.simulator import judge_pairs, preference_probability


class SimJudge(BaseJudge):
    """The simulator's pairwise judge behind the protocol; see `simulator.judge_pairs`."""

    def __init__(
        self,
        papers: Sequence[Paper],
        merit: np.ndarray,
        *,
        seed: int,
        kappa: float = 1.0,
        position_bias: float = 0.3,
    ) -> None:
        """Judge these papers by their merit [n]; the other arguments are those of `judge_pairs`."""
        check_papers(papers)
        self.name = f"sim(kappa={kappa:g}, position_bias={position_bias:g}, seed={seed})"
        self._index = {paper.id: position for position, paper in enumerate(papers)}
        self._merit, self._seed, self._kappa, self._position_bias = merit, seed, kappa, position_bias

    def compare_many(self, first: Sequence[Paper], second: Sequence[Paper]) -> list[Judgement]:
        """See `Judge`.

        Raises:
            ValueError: a paper is not of this venue.
        """
        a, b = (np.array([self._of(paper) for paper in papers], dtype=np.int64) for papers in (first, second))
        kappa, position_bias = self._kappa, self._position_bias
        wins = judge_pairs(self._merit, a, b, seed=self._seed, kappa=kappa, position_bias=position_bias)
        probability = preference_probability(self._merit, a, b, kappa=kappa, position_bias=position_bias)
        return [Judgement(bool(win), float(p), cost_usd=0.0) for win, p in zip(wins, probability, strict=True)]

    def _of(self, paper: Paper) -> int:
        if paper.id not in self._index:
            raise ValueError(f"the simulator knows no paper {paper.id!r}")
        return self._index[paper.id]


class ReplayJudge(BaseJudge):
    """Answers from a file of earlier judgements, by ordered pair."""

    def __init__(self, path: str | Path, *, judge: str | None = None) -> None:
        """Read a `JudgementLog`; `judge` chooses one of several in the file.

        Raises:
            ValueError: there is no such file, or it is damaged or holds no judgement of this judge.
        """
        if not Path(path).is_file():
            raise ValueError(f"there is no file of judgements {path}")
        self.name = f"replay({judge or Path(path).name})"
        self._answers: dict[tuple[str, str], Judgement] = {}
        for row in JudgementLog(path).rows():
            if judge is None or row.get("judge") == judge:
                self._answers[row["id_first"], row["id_second"]] = judgement_of(row)
        if not self._answers:
            raise ValueError(f"{path} holds no judgement{f' of {judge!r}' if judge else ''}")

    def compare_many(self, first: Sequence[Paper], second: Sequence[Paper]) -> list[Judgement]:
        """See `Judge`.

        Raises:
            ValueError: a pair is not in the file.
        """
        keys = [(a.id, b.id) for a, b in zip(first, second, strict=True)]
        missing = [key for key in keys if key not in self._answers]
        if missing:
            raise ValueError(f"{len(missing)} of {len(keys)} comparisons are not in the file, e.g. {missing[0]}")
        return [self._answers[key] for key in keys]


def prefer_by_scores(
    scores_KN: np.ndarray, judge: np.ndarray, first: np.ndarray, second: np.ndarray, *, rng: np.random.Generator
) -> np.ndarray:
    """Derive preferences from scores: the larger one of the same judge wins, equal ones (< 1e-9 apart) by a coin.

    Args:
        scores_KN: score of each judge for each paper.
        judge: [M] who judges each comparison.
        first: [M] indices of papers.
        second: [M] indices of papers.
        rng: source of the coins; one is drawn for every comparison.

    Returns:
        [M] bool, whether the first wins. Preferences derived from ratings, not answers to a pairwise prompt.
    """
    difference = scores_KN[judge, first] - scores_KN[judge, second]
    coin = rng.random(len(difference)) < 0.5
    return np.where(np.abs(difference) < 1e-9, coin, difference > 0)


@dataclass(frozen=True)
class TextRegression:
    """log(1 + citations) predicted from title and abstract by ridge regression on TF-IDF.

    Words and pairs of words in at least `min_df` training papers, sublinear counts, English stop words.
    """

    vectorizer: Any
    ridge: Any

    @classmethod
    def fit(
        cls, papers: Sequence[Paper], *, alpha: float = 1.0, min_df: int = 3, sample: np.ndarray | None = None
    ) -> TextRegression:
        """Train on the papers with known citations; `sample` are indices of these, for a bootstrap.

        Raises:
            ValueError: fewer than ten papers with known citations.
        """
        known = [paper for paper in papers if paper.citations is not None]
        if len(known) < 10:
            raise ValueError(f"{len(known)} of {len(papers)} papers have known citations: too few to learn from")
        check_papers(known, need_text=True)
        used = known if sample is None else [known[index] for index in sample]
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=min_df, sublinear_tf=True, stop_words="english")
        features = vectorizer.fit_transform([_text(paper) for paper in used])
        target = np.log1p(citation_counts(used))
        return cls(vectorizer, Ridge(alpha=alpha).fit(features, target))

    def predict(self, papers: Sequence[Paper]) -> np.ndarray:
        """Return [n] predicted log(1 + citations)."""
        return np.asarray(self.ridge.predict(self.vectorizer.transform([_text(paper) for paper in papers])))


def _text(paper: Paper) -> str:
    return f"{paper.title}. {paper.abstract}"


class TextJudge(BaseJudge):
    """Prefers the paper with the larger predicted citations: a real judge that costs nothing.

    P(first) = sigmoid((prediction_first - prediction_second) / T); it has no position effect and no noise.
    """

    def __init__(
        self, regression: TextRegression, papers: Sequence[Paper], *, temperature: float | None = None
    ) -> None:
        """Judge these papers; T defaults to the standard deviation of the predictions.

        Raises:
            ValueError: a paper without text, duplicate ids, or T not above 0.
        """
        check_papers(papers, need_text=True)
        predictions = regression.predict(papers)
        self.temperature = float(predictions.std()) if temperature is None else temperature
        if not self.temperature > 0:
            raise ValueError(f"the temperature must be > 0, got {self.temperature}")
        self.name = f"text(temperature={self.temperature:.4g})"
        self.predictions: Mapping[str, float] = dict(zip([p.id for p in papers], predictions.tolist(), strict=True))

    def compare_many(self, first: Sequence[Paper], second: Sequence[Paper]) -> list[Judgement]:
        """See `Judge`.

        Raises:
            ValueError: a paper was not among those the judge was made for.
        """
        unknown = [paper.id for paper in (*first, *second) if paper.id not in self.predictions]
        if unknown:
            raise ValueError(f"the judge was not made for paper {unknown[0]!r}")
        differences = np.array(
            [self.predictions[a.id] - self.predictions[b.id] for a, b in zip(first, second, strict=True)]
        )
        probabilities = expit(differences / self.temperature)
        return [
            Judgement(bool(difference > 0), float(p), cost_usd=0.0)
            for difference, p in zip(differences, probabilities, strict=True)
        ]


def text_reviews(
    train: Sequence[Paper], papers: Sequence[Paper], *, rng: np.random.Generator, reviewers: int = 3, alpha: float = 1.0
) -> np.ndarray:
    """Return [n, reviewers] whole ratings 1 to 10 by the text regression: the rating system over the same back-end.

    Each reviewer is trained on a bootstrap sample of the training papers; rating = clip(round(5.5 + 1.5 z), 1, 10), z
    its standardised prediction. Three identical models would be one reviewer.
    """
    num_known = sum(paper.citations is not None for paper in train)
    columns = []
    for _ in range(reviewers):
        sample = rng.integers(num_known, size=num_known)
        prediction = TextRegression.fit(train, alpha=alpha, sample=sample).predict(papers)
        z = (prediction - prediction.mean()) / prediction.std()
        columns.append(np.clip(np.rint(5.5 + 1.5 * z), 1, 10))
    return np.stack(columns, axis=1)
