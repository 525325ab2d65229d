"""Generated conference years with a known mechanism: scores, rebuttal threads and strategies (sheet, Data).

Public data hold no threads, so everything that needs them (engagement, strategies, labelling) runs on these. All texts
are our own.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import expit

from iclr_repro.review_insights.herding import nearest_rating
from iclr_repro.review_insights.scores import ASPECTS, SCALES, ScorePairs

_AUTHOR_TEXTS = {
    "evidence": (
        "We ran the comparison you asked for on a second data set: the gain is 1.4 points (new table below).",
        "This case is covered in Section 4.1, where the encoder is frozen and no label can leak.",
        "The bound holds without that condition: the inequality needs only bounded variance, see the derivation below.",
    ),
    "generic": (
        "Our method is novel and effective, and we believe it makes a valuable contribution to the field.",
        "Our choices follow common practice, and we are confident in the value of this work.",
    ),
    "concession": (
        "You are right, the claim was too strong. We have revised the abstract.",
        "Thank you for spotting the mistake in Figure 2. We have corrected it.",
    ),
    "promise": (
        "We will add results with larger models in the final version.",
        "We plan to release the training code with the camera-ready version.",
    ),
    "evasion": (
        "Robustness to attacks is beyond the scope of this paper.",
        "This is an orthogonal question, which we leave to others.",
    ),
}
STRATEGIES = tuple(_AUTHOR_TEXTS)
"""What the authors of a generated thread do; "evidence" and "generic" move the rating (`increase_log_odds`)."""

_REVIEWER_TEXTS = {
    "increase": (
        "Thank you, this answers my questions. I raise my score.",
        "My main doubt is resolved; rating increased.",
    ),
    "keep": ("Thank you for the reply. I keep my rating.", "I have read the response and my assessment stands."),
    "decrease": ("The reply confirms my doubts, so I lower my rating.",),
}
_DISCUSSION_START = np.datetime64("2030-11-10T00:00:00", "s")
_DISCUSSION_DAYS = 12


@dataclass(frozen=True, kw_only=True)
class SyntheticSettings:
    """The generator's constants; those of the sheet as defaults, shares that the sheet leaves open chosen by us.

    Attributes:
        quality_mean: mean of the papers' quality q, rating points.
        quality_std: its standard deviation.
        review_noise: standard deviation of a first rating around q.
        review_counts: number of reviews of a paper -> probability (ours; about as in ICLR 2024).
        author_reply_probability: that the authors answer a review.
        reviewer_reply_probability: that the reviewer answers the authors (ours).
        strategies: strategy of a thread -> probability, one per thread (ours).
        decrease_probability: of a lower rating.
        two_step_probability: that a rating moves by two points of the scale instead of one.
        decision_noise: standard deviation of the decision around the mean rating after.
        acceptance_threshold: papers above it are accepted.

    Raises:
        ValueError: shares that do not sum to one, papers with fewer than two reviews, an unknown strategy.
    """

    quality_mean: float = 5.0
    quality_std: float = 1.4
    review_noise: float = 1.5
    review_counts: tuple[tuple[int, float], ...] = ((3, 0.25), (4, 0.6), (5, 0.15))
    author_reply_probability: float = 0.72
    reviewer_reply_probability: float = 0.5
    strategies: tuple[tuple[str, float], ...] = (
        ("evidence", 0.4),
        ("generic", 0.25),
        ("concession", 0.2),
        ("promise", 0.1),
        ("evasion", 0.05),
    )
    decrease_probability: float = 0.03
    two_step_probability: float = 0.2
    decision_noise: float = 0.4
    acceptance_threshold: float = 5.8

    def __post_init__(self) -> None:
        for name in ("review_counts", "strategies"):
            shares = [share for _, share in getattr(self, name)]
            if min(shares) < 0 or not np.isclose(sum(shares), 1.0):
                raise ValueError(f"{name}: shares {shares} sum to {sum(shares):g}, expected 1 and none below 0")
        if min(count for count, _ in self.review_counts) < 2:
            raise ValueError(
                f"review_counts {self.review_counts}: an increase depends on co-reviewers, use counts >= 2"
            )
        unknown = {strategy for strategy, _ in self.strategies} - set(STRATEGIES)
        if unknown:
            raise ValueError(f"strategies {sorted(unknown)} have no texts; there are {list(STRATEGIES)}")


@dataclass(frozen=True, eq=False)
class SyntheticYear:
    """One generated conference year.

    Attributes:
        pairs: scores, with decisions `poster` and `reject`. Further columns of `pairs.reviews`: `review_id`,
            `author_replied`, `reviewer_replied` (bool), `turns` (0 without an author's reply), `n_notes` (of the
            thread), `strategy` (None without an author's reply), `evidence` and `generic` (0 or 1).
        threads: a row a note: `paper_id`, `review_id`, `position` (of the review), `role` ("author" or "reviewer"),
            `time` (datetime64), `text`.
    """

    pairs: ScorePairs
    threads: pd.DataFrame


def increase_log_odds(
    own: np.ndarray, others_mean: np.ndarray, evidence: np.ndarray, generic: np.ndarray, turns: np.ndarray
) -> np.ndarray:
    """Log-odds of an increase: -1.6 + 0.4 (others - own) + 0.8 [evidence] - 0.8 [generic] + 0.5 (turns - 1).

    A review that the authors did not answer has turns = 0. Source: sheet, Data.
    """
    return np.asarray(-1.6 + 0.4 * (others_mean - own) + 0.8 * evidence - 0.8 * generic + 0.5 * (turns - 1.0))


def generate_year(
    rng: np.random.Generator, *, num_papers: int, settings: SyntheticSettings | None = None
) -> SyntheticYear:
    """Draw a conference year on the rating scale of ICLR 2024.

    q ~ N(5, 1.4); first ratings nearest to q + N(0, 1.5); turns = 1 + Poisson(0.5 + 0.6 [reviewer replied]) where the
    authors replied; P(increase) by `increase_log_odds`, P(decrease) = 0.03 (less where increases leave less); one point
    of the scale, two with 20 %, never past its ends; accepted if the mean rating after + N(0, 0.4) exceeds 5.8. One
    strategy a thread. In a thread the authors write `turns` notes; a reviewer who replies answers each of them.

    Source: sheet, Data (synthetic generator).
    """
    settings = settings or SyntheticSettings()
    scale = SCALES[2024]
    sizes, shares = zip(*settings.review_counts, strict=True)
    num_reviews = rng.choice(sizes, size=num_papers, p=shares)
    paper = np.repeat(np.arange(num_papers), num_reviews)
    quality = rng.normal(settings.quality_mean, settings.quality_std, num_papers)[paper]
    before = nearest_rating(quality + rng.normal(0.0, settings.review_noise, len(paper)), scale)
    others_mean = (np.bincount(paper, before)[paper] - before) / (num_reviews[paper] - 1)
    rebuttals = _draw_rebuttals(rng, len(paper), settings)
    steps = _draw_steps(rng, before, others_mean, rebuttals, settings)
    after = np.asarray(scale)[np.clip(np.searchsorted(scale, before) + steps, 0, len(scale) - 1)]

    paper_ids = np.array([f"paper{number:0{len(str(num_papers - 1))}d}" for number in range(num_papers)])
    reviews = pd.DataFrame({"paper_id": paper_ids[paper], "before": before, "after": after}).join(rebuttals)
    number = reviews.groupby("paper_id").cumcount() + 1
    reviews.insert(0, "review_id", reviews["paper_id"] + "_R" + number.astype(str))
    mean_after = np.bincount(paper, after) / num_reviews
    accepted = mean_after + rng.normal(0.0, settings.decision_noise, num_papers) > settings.acceptance_threshold
    decisions = pd.Series(np.where(accepted, "poster", "reject"), index=paper_ids)
    pairs = ScorePairs.from_reviews(reviews, decisions=decisions, scale=scale)
    return SyntheticYear(pairs, _write_threads(pairs.reviews, rng))


def _draw_rebuttals(rng: np.random.Generator, n: int, settings: SyntheticSettings) -> pd.DataFrame:
    """The columns of `SyntheticYear.pairs.reviews` that describe the thread."""
    author_replied = rng.random(n) < settings.author_reply_probability
    reviewer_replied = author_replied & (rng.random(n) < settings.reviewer_reply_probability)
    turns = np.where(author_replied, 1 + rng.poisson(0.5 + 0.6 * reviewer_replied), 0)
    names, shares = zip(*settings.strategies, strict=True)
    strategy = np.array(names, dtype=object)[rng.choice(len(names), size=n, p=shares)]
    strategy[~author_replied] = None
    return pd.DataFrame(
        {
            "author_replied": author_replied,
            "reviewer_replied": reviewer_replied,
            "turns": turns,
            "n_notes": turns * (1 + reviewer_replied),
            "strategy": strategy,
            "evidence": (strategy == "evidence").astype(int),
            "generic": (strategy == "generic").astype(int),
        }
    )


def _draw_steps(
    rng: np.random.Generator,
    before: np.ndarray,
    others_mean: np.ndarray,
    rebuttals: pd.DataFrame,
    settings: SyntheticSettings,
) -> np.ndarray:
    """[num_reviews] by how many points of the scale each rating moves, if the scale allows it."""
    evidence, generic, turns = (rebuttals[name].to_numpy() for name in ("evidence", "generic", "turns"))
    p_increase = expit(increase_log_odds(before, others_mean, evidence, generic, turns))
    draw = rng.random(len(before))
    direction = np.where(draw < p_increase, 1, np.where(draw >= 1.0 - settings.decrease_probability, -1, 0))
    return direction * np.where(rng.random(len(before)) < settings.two_step_probability, 2, 1)


def _write_threads(reviews: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Notes of all threads: the authors' `turns` notes, each answered where the reviewer replied."""
    notes = reviews.loc[reviews.index.repeat(reviews["n_notes"])]
    number = notes.groupby(level=0).cumcount().to_numpy()
    by_reviewer = notes["reviewer_replied"].to_numpy() & (number % 2 == 1)
    step = (notes["after"] - notes["before"]).to_numpy()
    last = number == notes["n_notes"].to_numpy() - 1
    reaction = np.select([last & (step > 0), last & (step < 0)], ["increase", "decrease"], "keep")
    text = np.empty(len(notes), dtype=object)
    for name, choices in _AUTHOR_TEXTS.items():
        chosen = ~by_reviewer & (notes["strategy"] == name).to_numpy()
        text[chosen] = rng.choice(choices, size=chosen.sum())
    for name, choices in _REVIEWER_TEXTS.items():
        chosen = by_reviewer & (reaction == name)
        text[chosen] = rng.choice(choices, size=chosen.sum())
    # a thread starts in the discussion period; each further note comes up to a day after the one before
    hours = pd.Series(rng.uniform(1.0, 24.0, len(notes)), index=notes.index)
    first_hours = pd.Series(rng.uniform(0.0, 24.0 * _DISCUSSION_DAYS, len(reviews)), index=reviews.index)
    elapsed = first_hours.reindex(notes.index) + hours.where(number > 0, 0.0).groupby(level=0).cumsum()
    time = _DISCUSSION_START + (elapsed.to_numpy() * 3600).astype("timedelta64[s]")
    columns = notes[["paper_id", "review_id", "position"]].reset_index(drop=True)
    return columns.assign(role=np.where(by_reviewer, "reviewer", "author"), time=time, text=text)


def add_capture_columns(pairs: ScorePairs, rng: np.random.Generator) -> ScorePairs:
    """Add to generated scores all that a capture of ICLR 2026 has besides ratings.

    Times of submission are independent (so that their order has no effect), and so are the confidences (1-5) and aspect
    scores (1-4); with a changed rating each of these is drawn anew with probability 0.1.

    Returns:
        Pairs with the further columns `created_utc` (Unix seconds), `<score>_before` and `<score>_after`.
    """
    n = len(pairs.reviews)
    submitted = _DISCUSSION_START.astype("int64") - rng.integers(1, 30 * 24 * 3600, size=n)
    columns = {"created_utc": submitted}
    changed = (pairs.reviews["after"] != pairs.reviews["before"]).to_numpy()
    for score, highest in (("confidence", 5), *((aspect, 4) for aspect in ASPECTS)):
        before, anew = rng.integers(1, highest + 1, size=(2, n))
        columns[f"{score}_before"] = before
        columns[f"{score}_after"] = np.where(changed & (rng.random(n) < 0.1), anew, before)
    return replace(pairs, reviews=pairs.reviews.assign(**columns))


def generate_score_table(rng: np.random.Generator, *, num_papers: int) -> pd.DataFrame:
    """A score table as `data.read_score_table` reads it, for runs without data.

    A generated year in which about 2 % of the papers have an additional rating after (the statistics must drop them)
    and about 10 % of the rejected are withdrawn.

    Returns:
        Columns `paper_id`, `ratings_before`, `ratings_after` (lists such as "5;3;6"), `decision` (Reject, Accept
        (Poster) or Unknown = withdrawn).
    """
    pairs = generate_year(rng, num_papers=num_papers).pairs
    lists = pairs.reviews.astype({"before": str, "after": str}).groupby("paper_id")[["before", "after"]].agg(";".join)
    late = rng.random(num_papers) < 0.02
    rejected = (pairs.papers["decision"] == "reject").to_numpy()
    decision = np.where(rejected, np.where(rng.random(num_papers) < 0.1, "Unknown", "Reject"), "Accept (Poster)")
    after = np.where(late, lists["after"] + ";5", lists["after"])
    return pd.DataFrame(
        {
            "paper_id": lists.index,
            "ratings_before": lists["before"].to_numpy(),
            "ratings_after": after,
            "decision": decision,
        }
    )
