"""When and how reviewers act: order of submission, aspect scores, author-reviewer threads, timing (sheet M9-M12).

Threads are tables with a row a note: `paper_id`, `review_id`, `role` ("author", "reviewer" for the reviewer who opened
the thread, anything else for others), `time` (datetime64); `openreview.parse_forums` makes them.
"""

import numpy as np
import pandas as pd

from iclr_repro.review_insights.scores import ASPECTS, ScorePairs
from iclr_repro.review_insights.statistics import CHANGES, PaperTerms, ratios_of_sums


def order_effect(pairs: ScorePairs, *, sizes: tuple[int, ...] = (3, 4, 5)) -> pd.DataFrame:
    """Mean initial rating by order of submission, over papers with exactly k reviews.

    Args:
        pairs: with the column `created_utc`. OpenReview numbers reviewers in reverse display order: the paper's
            "Reviewer 1" is the last to submit, here position k.
        sizes: the k to report.

    Returns:
        Index (`n_reviews` = k, `position` = 1..k, first to last), columns `n` (papers), `mean_before`.

    Raises:
        ValueError: no submission times.

    Source: sheet M9.
    """
    terms = order_terms(pairs, sizes=sizes)
    index = pd.MultiIndex.from_tuples([tuple(map(int, name.split("/"))) for name in terms])
    counts = [int(denominator.sum()) for _, denominator in terms.values()]
    values = ratios_of_sums(terms).to_numpy()
    return pd.DataFrame({"n": counts, "mean_before": values}, index=index.set_names(["n_reviews", "position"]))


def order_terms(pairs: ScorePairs, *, sizes: tuple[int, ...] = (3, 4, 5)) -> PaperTerms:
    """Terms of `order_effect`, named "k/position"."""
    if "created_utc" not in pairs.reviews.columns:
        raise ValueError("the reviews have no submission times (column created_utc): only ICLR 2026 has them")
    in_time = np.lexsort((pairs.reviews["created_utc"], pairs.paper_index))
    rating = pairs.reviews["before"].to_numpy()[in_time]
    num_reviews = pairs.papers["n_reviews"].to_numpy()
    terms: PaperTerms = {}
    for size in sizes:
        chosen = num_reviews == size
        for position in range(size):
            at_position = np.zeros(len(num_reviews))
            at_position[chosen] = rating[pairs.starts[chosen] + position]
            terms[f"{size}/{position + 1}"] = at_position, chosen * 1.0
    return terms


def aspect_updates(pairs: ScorePairs) -> pd.DataFrame:
    """How often a changed rating comes without a change of the other scores.

    Args:
        pairs: with `<score>_before` and `<score>_after` of confidence, soundness, presentation and contribution;
            reviews that lack one of them are left out.

    Returns:
        Index `changed`, `increase`, `decrease` (of the rating); columns `n`, `aspects_unchanged` = share with
        soundness, presentation and contribution as before, `confidence_unchanged`, `all_unchanged` = share with all
        four as before.

    Raises:
        ValueError: the aspect scores are missing.

    Source: sheet M10; Table 6 of the paper.
    """
    terms = aspect_terms(pairs)
    values = ratios_of_sums(terms)
    columns = ("aspects_unchanged", "confidence_unchanged", "all_unchanged")
    rows = {
        change: {"n": int(terms[f"{change}/{columns[0]}"][1].sum())}
        | {column: values[f"{change}/{column}"] for column in columns}
        for change in ("changed", "increase", "decrease")
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def aspect_terms(pairs: ScorePairs) -> PaperTerms:
    """Terms of `aspect_updates`."""
    missing = [score for score in ("confidence", *ASPECTS) if f"{score}_after" not in pairs.reviews.columns]
    if missing:
        raise ValueError(f"the reviews have no {missing} before and after: only ICLR 2026 has them")
    before, after = (
        pairs.reviews[[f"{score}_{when}" for score in ("confidence", *ASPECTS)]].to_numpy(dtype=float, na_value=np.nan)
        for when in ("before", "after")
    )
    complete = ~(np.isnan(before) | np.isnan(after)).any(axis=1)
    same = before == after
    confidence, aspects = same[:, 0], same[:, 1:].all(axis=1)
    difference = np.where(complete, pairs.reviews["after"] - pairs.reviews["before"], 0)
    terms: PaperTerms = {}
    for change, chosen in (("changed", difference != 0), ("increase", difference > 0), ("decrease", difference < 0)):
        count = pairs.paper_sums(chosen)
        terms[f"{change}/aspects_unchanged"] = pairs.paper_sums(chosen & aspects), count
        terms[f"{change}/confidence_unchanged"] = pairs.paper_sums(chosen & confidence), count
        terms[f"{change}/all_unchanged"] = pairs.paper_sums(chosen & aspects & confidence), count
    return terms


def engagement(threads: pd.DataFrame, reviews: pd.DataFrame) -> pd.DataFrame:
    """How author and reviewer met in the thread below each review.

    A turn is an author's note that the reviewer's note follows, notes of others aside; several notes of one side in a
    row count once. (The paper's exact rule is not known.)

    Args:
        threads: see the module.
        reviews: one row a review with `paper_id`, `review_id`; reviews without a thread get zeros.

    Returns:
        `paper_id`, `review_id`, `n_notes` (of author and reviewer), `n_author_notes`, `turns`, `author_replied`,
        `reviewer_replied` (after the author's first note), `first_author_time` (NaT without one), in the order of
        `reviews`.

    Source: sheet M11. Example: notes author, author, reviewer, author, reviewer make 2 turns.
    """
    key = ["paper_id", "review_id"]
    notes = threads[threads["role"].isin(["author", "reviewer"])].sort_values([*key, "time"], kind="stable")
    by_author = notes["role"] == "author"
    same_thread = (notes[key] == notes[key].shift()).all(axis=1)
    notes = notes.assign(
        author=by_author,
        turn=~by_author & by_author.shift(fill_value=False) & same_thread,
        author_time=notes["time"].where(by_author),
    )
    grouped = notes.groupby(key, sort=False)
    counts = pd.DataFrame(
        {"n_notes": grouped.size(), "n_author_notes": grouped["author"].sum(), "turns": grouped["turn"].sum()}
    )
    wanted = pd.MultiIndex.from_frame(reviews[key])
    result = counts.reindex(wanted, fill_value=0).astype("int64")
    result["author_replied"] = result["n_author_notes"] > 0
    result["reviewer_replied"] = result["turns"] > 0  # a reviewer's note after an author's makes a turn
    result["first_author_time"] = grouped["author_time"].min().reindex(wanted)
    return result.reset_index()


def engagement_by_change(activity: pd.DataFrame, reviews: pd.DataFrame) -> pd.DataFrame:
    """Engagement of the reviews that went up, went down or stayed.

    Args:
        activity: from `engagement`.
        reviews: `paper_id`, `review_id`, `before`, `after`.

    Returns:
        Index increase, decrease, keep; columns `n`, `turns_mean`, `turns_std` (population), `author_participation`,
        `reviewer_participation` (shares of the reviews).

    Source: sheet M11; Table 2 of the paper, lower part.
    """
    joined = _with_change(activity, reviews)
    grouped = joined.groupby("change")
    table = pd.DataFrame(
        {
            "n": grouped.size(),
            "turns_mean": grouped["turns"].mean(),
            "turns_std": grouped["turns"].std(ddof=0),
            "author_participation": grouped["author_replied"].mean(),
            "reviewer_participation": grouped["reviewer_replied"].mean(),
        }
    ).reindex(list(CHANGES))
    return table.assign(n=table["n"].fillna(0).astype(int))


def message_timing(activity: pd.DataFrame, reviews: pd.DataFrame) -> pd.DataFrame:
    """Probability of an increase by the day (UTC) of the author's first note.

    Returns:
        Index `date`, columns `n` (reviews), `p_increase`; reviews without an author's note are left out.

    Source: sheet M12.
    """
    joined = _with_change(activity, reviews).dropna(subset=["first_author_time"])
    grouped = (joined["change"] == "increase").groupby(joined["first_author_time"].dt.floor("D").rename("date"))
    return pd.DataFrame({"n": grouped.size(), "p_increase": grouped.mean()})


def reviewer_replies_by_day(threads: pd.DataFrame) -> pd.Series:
    """Number of reviewers' notes a day (UTC), days without one between the first and the last included.

    Source: sheet M12.
    """
    times = threads.loc[threads["role"] == "reviewer", "time"]
    counts = times.dt.floor("D").value_counts().sort_index()
    return counts.asfreq("D", fill_value=0).rename("n").rename_axis("date")


def _with_change(activity: pd.DataFrame, reviews: pd.DataFrame) -> pd.DataFrame:
    change = np.sign(reviews["after"] - reviews["before"]).map({1: "increase", -1: "decrease", 0: "keep"})
    labelled = reviews[["paper_id", "review_id"]].assign(change=change)
    return activity.merge(labelled, on=["paper_id", "review_id"], validate="one_to_one")
