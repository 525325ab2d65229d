"""A short way to write down score pairs in tests of `review_insights`."""

import numpy as np
import pandas as pd

from iclr_repro.review_insights.scores import ScorePairs
from iclr_repro.review_insights.tracing import FIELDS


def score_pairs(*papers: tuple, scale: tuple[int, ...] | None = tuple(range(11))) -> ScorePairs:
    """Pairs from (ratings before, ratings after) or (before, after, decision); paper ids p000, p001, ..."""
    rows, decisions = [], {}
    for number, (before, after, *decision) in enumerate(papers):
        paper = f"p{number:03d}"
        decisions[paper] = decision[0] if decision else None
        rows += [{"paper_id": paper, "before": old, "after": new} for old, new in zip(before, after, strict=True)]
    return ScorePairs.from_reviews(pd.DataFrame(rows), decisions=pd.Series(decisions, dtype=object), scale=scale)


def known_pairs(num_papers: int, *, seed: int, change_probability: float) -> ScorePairs:
    """Random profiles, of which some ratings change and a few fields."""
    scale = (1, 3, 5, 6, 8, 10)
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 6, size=num_papers)
    n = sizes.sum()
    before = rng.choice(len(scale), size=n)
    after = np.where(rng.random(n) < change_probability, rng.choice(len(scale), size=n), before)
    columns = {"paper_id": np.repeat([f"p{i:04d}" for i in range(num_papers)], sizes)}
    columns |= {"before": np.array(scale)[before], "after": np.array(scale)[after]}
    for name in FIELDS:
        columns[f"{name}_before"] = rng.integers(1, 5, size=n)
        moved = rng.random(n) < change_probability / 10
        columns[f"{name}_after"] = np.where(moved, rng.integers(1, 5, size=n), columns[f"{name}_before"])
    return ScorePairs.from_reviews(pd.DataFrame(columns), scale=scale)
