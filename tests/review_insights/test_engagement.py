import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iclr_repro.review_insights.engagement import (
    aspect_updates,
    engagement,
    engagement_by_change,
    message_timing,
    order_effect,
    reviewer_replies_by_day,
)
from iclr_repro.review_insights.scores import ScorePairs
from score_pairs import score_pairs

START = pd.Timestamp("2024-11-20T10:00:00")


def threads(**notes: str) -> pd.DataFrame:
    """Threads by review id: one letter a note, 12 hours apart; a = author, r = reviewer, o = another reviewer."""
    roles = {"a": "author", "r": "reviewer", "o": "other_reviewer"}
    rows = [
        {"paper_id": "p", "review_id": review, "role": roles[letter], "time": START + pd.Timedelta(hours=12 * number)}
        for review, letters in notes.items()
        for number, letter in enumerate(letters)
    ]
    return pd.DataFrame(rows, columns=["paper_id", "review_id", "role", "time"]).astype({"time": "datetime64[ms]"})


def reviews(**changes: tuple[int, int]) -> pd.DataFrame:
    rows = [{"paper_id": "p", "review_id": name, "before": b, "after": a} for name, (b, a) in changes.items()]
    return pd.DataFrame(rows)


def test_order_effect_sorts_by_time_and_keeps_paper_sizes_apart() -> None:
    pairs = score_pairs(([8, 2, 4], [8, 2, 4]), ([6, 6, 1], [6, 6, 1]), ([3, 3, 3, 3], [3, 3, 3, 3]))
    times = [30, 10, 20, 1, 2, 3, 1, 2, 3, 4]
    pairs = ScorePairs.from_reviews(pairs.reviews.assign(created_utc=times))
    table = order_effect(pairs, sizes=(3, 4))
    assert table.loc[3, "mean_before"].tolist() == [(2 + 6) / 2, (4 + 6) / 2, (8 + 1) / 2]
    assert table.loc[3, "n"].tolist() == [2, 2, 2]
    assert table.loc[4, "mean_before"].tolist() == [3.0] * 4
    assert order_effect(pairs, sizes=(5,))["mean_before"].isna().all()


def test_order_effect_needs_submission_times() -> None:
    with pytest.raises(ValueError, match=r"no submission times \(column created_utc\)"):
        order_effect(score_pairs(([5], [5])))


def with_aspects(pairs: ScorePairs, **changes: list[float]) -> ScorePairs:
    columns = {}
    for score in ("confidence", "soundness", "presentation", "contribution"):
        columns[f"{score}_before"] = [3.0] * len(pairs.reviews)
        columns[f"{score}_after"] = changes.get(score, [3.0] * len(pairs.reviews))
    return ScorePairs.from_reviews(pairs.reviews.assign(**columns))


def test_aspect_updates_count_changed_ratings_only() -> None:
    pairs = with_aspects(
        score_pairs(([3, 5, 6, 5, 5], [5, 6, 5, 5, 6])),
        soundness=[3, 4, 3, 4, 3],
        confidence=[4, 3, 3, 3, 3],
    )
    table = aspect_updates(pairs)
    assert table.loc["changed"].tolist() == [4, 3 / 4, 3 / 4, 2 / 4]
    assert table.loc["increase"].tolist() == [3, 2 / 3, 2 / 3, 1 / 3]
    assert table.loc["decrease"].tolist() == [1, 1.0, 1.0, 1.0]


def test_aspect_updates_leave_out_reviews_with_a_missing_score() -> None:
    pairs = with_aspects(score_pairs(([3, 5], [5, 6])), contribution=[np.nan, 3])
    assert aspect_updates(pairs).loc["changed"].tolist() == [1, 1.0, 1.0, 1.0]


def test_aspect_updates_need_the_aspect_scores() -> None:
    with pytest.raises(ValueError, match=r"no \['confidence', 'soundness', 'presentation', 'contribution'\]"):
        aspect_updates(score_pairs(([5], [6])))


@pytest.mark.parametrize(
    ("notes", "turns", "author", "reviewer"),
    [
        ("aarar", 2, True, True),
        ("a", 0, True, False),
        ("ra", 0, True, False),
        ("rar", 1, True, True),
        ("aor", 1, True, True),
        ("or", 0, False, False),
        ("arr", 1, True, True),
    ],
)
def test_turns_are_author_notes_that_the_reviewer_answers(notes: str, turns: int, author: bool, reviewer: bool) -> None:
    row = engagement(threads(x=notes), reviews(x=(5, 5))).iloc[0]
    assert (row["turns"], row["author_replied"], row["reviewer_replied"]) == (turns, author, reviewer)
    assert row["n_notes"] == len(notes.replace("o", ""))
    assert row["n_author_notes"] == notes.count("a")
    assert row["first_author_time"] == START + pd.Timedelta(hours=12 * notes.find("a")) or not author


def test_a_turn_does_not_cross_from_one_thread_to_the_next() -> None:
    activity = engagement(threads(x="ra", y="ra"), reviews(y=(5, 5), x=(5, 5), z=(5, 5)))
    assert activity["review_id"].tolist() == ["y", "x", "z"]
    assert activity["turns"].tolist() == [0, 0, 0]
    assert activity["author_replied"].tolist() == [True, True, False]


def test_notes_are_ordered_by_time_not_by_row() -> None:
    table = threads(x="arar").iloc[::-1]
    assert engagement(table, reviews(x=(5, 5)))["turns"].tolist() == [2]


def test_without_any_thread_nobody_took_part() -> None:
    activity = engagement(threads(), reviews(x=(5, 6), y=(5, 5)))
    assert activity["turns"].tolist() == [0, 0]
    assert not activity[["author_replied", "reviewer_replied"]].any(axis=None)
    assert message_timing(activity, reviews(x=(5, 6), y=(5, 5))).empty


def test_engagement_is_summarised_by_the_change_of_the_rating() -> None:
    scores = reviews(x=(5, 6), y=(3, 5), z=(5, 5))
    table = engagement_by_change(engagement(threads(x="arar", y="a"), scores), scores)
    assert table.index.tolist() == ["increase", "decrease", "keep"]
    assert table.loc["increase"].tolist() == [2, 1.0, 1.0, 1.0, 0.5]
    assert table.loc["keep"].tolist() == [1, 0.0, 0.0, 0.0, 0.0]
    assert table.loc["decrease", "n"] == 0


def test_timing_groups_by_the_day_of_the_first_author_note() -> None:
    scores = reviews(x=(5, 6), y=(5, 5), z=(5, 6), w=(5, 6))
    table = message_timing(engagement(threads(x="a", y="ra", z="rra", w="r"), scores), scores)
    assert table.index.tolist() == [pd.Timestamp("2024-11-20"), pd.Timestamp("2024-11-21")]
    assert table["n"].tolist() == [2, 1]
    assert table["p_increase"].tolist() == [0.5, 1.0]


def test_reviewer_replies_are_counted_on_every_day_between() -> None:
    counts = reviewer_replies_by_day(threads(x="araaaar"))
    assert counts.tolist() == [1, 0, 0, 1]
    assert counts.index[0] == pd.Timestamp("2024-11-20")


@settings(deadline=None, max_examples=20)
@given(st.dictionaries(st.sampled_from("uvwxyz"), st.text("aro", max_size=8), min_size=1))
def test_turns_equal_the_answered_runs_of_author_notes(notes: dict[str, str]) -> None:
    scores = reviews(**dict.fromkeys(notes, (5, 5)))
    activity = engagement(threads(**notes), scores).set_index("review_id")
    for review, letters in notes.items():
        assert activity.at[review, "turns"] == letters.replace("o", "").count("ar")
