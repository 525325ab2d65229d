import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from iclr_repro.review_insights.data import (
    YEARS,
    load_review_texts,
    load_review_versions,
    load_scores,
    pair_versions,
    read_decisions,
    read_review_texts,
    read_review_versions,
    read_score_table,
    read_scores,
    snapshots,
)
from iclr_repro.review_insights.scores import ScorePairs, harmonise_decision
from iclr_repro.review_insights.statistics import paper_changes, review_changes
from score_pairs import score_pairs

HEADER = "paper_id,ratings_before,ratings_after,decision\n"

TABLES = {
    2020: (
        "paper_id,review_id,initial_rating,rating,experience,thoroughness,n_words\n"
        "b,r1,3,6,2,1,300\na,r2,1,1,0,3,40\nb,r0,8,6,1,1,90\n"
    ),
    2021: (
        "paper_id,ratings_20201111,ratings_final,decision\n"
        "a,4;10,5;10,Accept (Oral)\nb,,3;4,Reject\nc,1;2;3,1;2;3,Unknown\n"
    ),
    2023: (
        "paper_id,ratings_20221105,ratings_20221120,confidences_20221105,confidences_20221120,"
        "review_words_20221105,status,final_ratings,final_confidences\n"
        "a,8;3,8;5,4;2,4;1,100;20,Top-5%,5;10,1;5\nb,3;5,,2;3,,7;8,Desk Reject,3;5,2;3\nc,1,1,5,5,9,Withdraw,1,5\n"
    ),
    2024: (
        "paper_id,ratings_20231111,ratings_20231125,ratings_20231203\n"
        "a,3;5,3;6,5;6\nb,1;3;5,1;3;5,1;3;5;8\n"
    ),
    2026: (
        "paper_id,review_id,version,created_utc,modified_utc,rating,confidence,soundness,presentation,contribution,"
        "words_summary,words_strengths,words_weaknesses,words_questions\n"
        "a,late,0,200,200,4,3,2,2,2,10,20,30,40\n"
        "a,late,1,200,260,6,3,2,3,2,10,20,30,41\n"
        "a,early,0,100,100,0,5,1,1,1,1,2,3,4\n"
    ),
}  # fmt: skip


@pytest.fixture
def table(tmp_path: Path):
    def write(text: str, name: str = "scores.csv") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_score_table_keeps_the_reviewer_order_and_sorts_papers_by_id(table) -> None:
    pairs = read_score_table(table(HEADER + "b,8;3,8;5,Reject\na,5;6;1,6;6;1,Accept (Spotlight)\n"))
    assert pairs.reviews[["paper_id", "position", "before", "after"]].to_numpy().tolist() == [
        ["a", 0, 5, 6],
        ["a", 1, 6, 6],
        ["a", 2, 1, 1],
        ["b", 0, 8, 8],
        ["b", 1, 3, 5],
    ]
    assert pairs.papers["decision"].to_dict() == {"a": "spotlight", "b": "reject"}
    assert pairs.papers["mean_before"].tolist() == [4.0, 5.5]
    assert pairs.papers["mean_after"].tolist() == [13 / 3, 6.5]
    assert pairs.scale == (1, 3, 5, 6, 8)


def test_papers_without_ratings_or_with_unequal_counts_are_dropped_and_counted(table) -> None:
    pairs = read_score_table(table(HEADER + "a,3,5,Reject\nb,,5,Reject\nc,5,,Reject\nd,5;6,5,Reject\ne,10;1,10;1;1,\n"))
    assert pairs.papers.index.tolist() == ["a"]
    assert pairs.dropped == {"no_ratings": 2, "unequal_counts": 2}
    assert pairs.scale == (3, 5)  # the dropped papers' ratings do not count


def test_a_paper_may_be_called_na(table) -> None:
    pairs = read_score_table(table(HEADER + "NA,3,3,Reject\n1e5,3,3,Reject\n"))
    assert pairs.papers.index.tolist() == ["1e5", "NA"]


def test_the_decision_column_may_be_absent_or_empty(table) -> None:
    without = read_score_table(table("paper_id,ratings_before,ratings_after\na,3;5,5;5\n"))
    empty = read_score_table(table(HEADER + "a,3;5,5;5,\n"))
    assert without.papers["decision"].tolist() == empty.papers["decision"].tolist() == [None]
    assert not without.has_decisions


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        (HEADER, "no row below the header"),
        ("paper_id,ratings_before\na,3\n", r"no column \['ratings_after'\]; found \['paper_id', 'ratings_before'\]"),
        (HEADER + "a,3,3,Reject\nb,3;x,3;3,Reject\n", "line 3: ratings_before has 'x', expected an integer"),
        (HEADER + "a,3;;5,3;3;5,Reject\n", "line 2: ratings_before has '', expected an integer"),
        (HEADER + "a,3,5.5,Reject\n", "line 2: ratings_after has '5.5', expected an integer"),
        (HEADER + "a,3,3,Reject\nb,5,5,Reject\na,3,3,Reject\n", r"line 4: \{'paper_id': 'a'\} is there twice"),
        (HEADER + "a,3,3,Reject\nb,3,3,Maybe\n", "line 3: unknown decision 'Maybe'; known"),
        (
            HEADER + "a,3,,Reject\nb,,3,Reject\n",
            "no paper has ratings both before and after; left out: .*no_ratings.: 2",
        ),
        (HEADER + "a,3,3,Reject\nb,3,3,Reject,more\n", "line 3: 5 cells, expected 4 as in the header"),
        (HEADER + "a,3\n", "line 2: 2 cells, expected 4"),
    ],
)
def test_a_bad_score_table_is_refused_with_file_line_and_reason(table, text: str, message: str) -> None:
    path = table(text)
    with pytest.raises(ValueError, match=message) as error:
        read_score_table(path)
    assert "no paper has" in message or str(path) in str(error.value)


def test_a_rating_off_a_declared_scale_is_refused(table) -> None:
    with pytest.raises(ValueError, match=r"scores.csv, line 3: ratings_after has '7', expected one of \[3, 5, 8\]"):
        read_score_table(table(HEADER + "a,3,5,\nb,8,7,\n"), scale=(3, 5, 8))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv.gz"
    path.write_bytes(gzip.compress((HEADER + "a,3,3,Reject\n" * 200).encode())[:-12])
    with pytest.raises(ValueError, match=r"scores.csv.gz: not a readable CSV table"):
        read_score_table(path)


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("Accept (Oral)", "oral"),
        ("Accept (Talk)", "oral"),
        ("Top-5%", "oral"),
        ("Accept: notable-top-25%", "spotlight"),
        ("Poster", "poster"),
        ("accept (poster)", "poster"),
        ("Reject", "reject"),
        ("Desk Reject", "desk_reject"),
        ("Unknown", "withdrawn"),
        ("Withdraw", "withdrawn"),
        ("", None),
    ],
)
def test_each_years_spelling_of_a_decision_is_known(text: str, category: str | None) -> None:
    assert harmonise_decision(text) == category


def test_iclr_2020_has_a_row_a_review_with_the_reviewers_experience(table) -> None:
    pairs = read_scores(table(TABLES[2020]), 2020)
    assert pairs.reviews["review_id"].tolist() == ["r2", "r1", "r0"]
    assert pairs.reviews["after"].tolist() == [1, 6, 6]
    assert pairs.reviews[["experience", "thoroughness", "words"]].to_numpy().tolist() == [
        [0, 3, 40],
        [2, 1, 300],
        [1, 1, 90],
    ]
    with pytest.raises(ValueError, match=r"line 5: \{'paper_id': 'b', 'review_id': 'r1'\} is there twice"):
        read_scores(table(TABLES[2020] + "b,r1,3,6,2,1,300\n"), 2020)
    with pytest.raises(ValueError, match=r"line 5: experience has '4', expected one of \[0, 1, 2, 3\]"):
        read_scores(table(TABLES[2020] + "b,r3,3,6,4,1,300\n"), 2020)


def test_iclr_2021_calls_withdrawn_papers_unknown(table) -> None:
    pairs = read_scores(table(TABLES[2021]), 2021)
    assert pairs.papers["decision"].to_dict() == {"a": "oral", "c": "withdrawn"}
    assert pairs.dropped == {"no_ratings": 1, "unequal_counts": 0}


def test_iclr_2023_compares_the_dated_snapshots_in_reviewer_order(table) -> None:
    pairs = read_scores(table(TABLES[2023]), 2023)
    assert snapshots(2023) == ("20221105", "20221120", "final")
    assert pairs.aligned
    assert pairs.reviews["after"].tolist() == [8, 5, 1]
    assert pairs.reviews["confidence_after"].tolist() == [4, 1, 5]
    assert pairs.reviews["words"].tolist() == [100, 20, 9]
    assert pairs.dropped == {"no_ratings": 1, "unequal_counts": 0}


def test_the_sorted_final_lists_of_iclr_2023_serve_papers_but_not_reviews(table) -> None:
    pairs = read_scores(table(TABLES[2023]), 2023, after="final")
    assert not pairs.aligned
    assert paper_changes(pairs)["n"].to_dict() == {"increase": 1, "decrease": 0, "keep": 2, "overall": 3}
    with pytest.raises(ValueError, match=r"use paper-level statistics .*tracing.trace_reviews"):
        review_changes(pairs)


def test_a_list_that_does_not_match_the_ratings_is_refused(table) -> None:
    ragged = TABLES[2023].replace("4;2,4;1", "4,4;1")
    with pytest.raises(ValueError, match="line 2: confidences_20221105 '4' do not match the ratings '8;3'"):
        read_scores(table(ragged), 2023)


def test_iclr_2024_offers_every_pair_of_its_captures(table) -> None:
    path = table(TABLES[2024])
    assert read_scores(path, 2024).dropped == {"no_ratings": 0, "unequal_counts": 1}
    assert len(read_scores(path, 2024, after="20231125").papers) == 2
    assert read_scores(path, 2024, before="20231125").reviews["before"].tolist() == [3, 6]
    with pytest.raises(ValueError, match="ICLR 2024: no pair '20231203' -> '20231111'; the snapshots are, in order"):
        read_scores(path, 2024, before="20231203", after="20231111")
    with pytest.raises(ValueError, match="no pair '20231111' -> 'final'"):
        read_scores(path, 2024, after="final")


def test_iclr_2026_compares_the_first_with_the_last_version_in_the_order_of_submission(table) -> None:
    papers = table("paper_id,withdrawn\na,1\nb,0\n", "papers.csv")
    pairs = read_scores(table(TABLES[2026]), 2026, papers_path=papers)
    assert pairs.reviews["review_id"].tolist() == ["early", "late"]
    assert pairs.reviews[["before", "after"]].to_numpy().tolist() == [[0, 0], [4, 6]]
    assert pairs.reviews["presentation_after"].tolist() == [1, 3]
    assert pairs.reviews["words"].tolist() == [10, 100]
    assert pairs.papers["decision"].tolist() == ["withdrawn"]
    assert not pairs.has_decisions  # a withdrawal says nothing about acceptance


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("b,x,1,5,5,4,3,2,2,2,1,1,1,1\n", "line 5: version 1 of review 'x', expected 0"),
        ("a,late,1,200,260,6,3,2,3,2,1,1,1,1\n", "version 1 of review 'late', expected 2"),
        ("b,x,0,5,5,5,3,2,2,2,1,1,1,1\n", r"line 5: rating has '5', expected one of \[0, 2, 4, 6, 8, 10\]"),
        ("b,x,0,5,5,4,3,5,2,2,1,1,1,1\n", r"line 5: soundness has '5', expected one of \[1, 2, 3, 4\]"),
        ("b,x,0,5,soon,4,3,2,2,2,1,1,1,1\n", "line 5: modified_utc has 'soon', expected an integer"),
    ],
)
def test_bad_review_versions_are_refused(table, row: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_review_versions(table(TABLES[2026] + row))


def test_review_texts_are_split_at_newlines_only(tmp_path: Path) -> None:
    record = {"paper_id": "a", "review_id": "r", "rating_first": 4, "rating_last": 6, "strengths": "", "questions": ""}
    lines = [
        json.dumps({**record, "summary": "one\u2028two\x85three", "weaknesses": w}, ensure_ascii=False) for w in "xy"
    ]
    path = tmp_path / "texts.jsonl.gz"
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
    texts = read_review_texts(path)
    assert texts["summary"].tolist() == ["one\u2028two\x85three"] * 2
    assert texts["weaknesses"].tolist() == ["x", "y"]
    assert load_review_texts(find=lambda name: path).equals(texts)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"paper_id": "a"', "line 1: not JSON"),
        ('\n["a"]', "line 2: expected a JSON object with the keys"),
        ('{"paper_id": "a"}', "line 1: expected a JSON object with the keys"),
        ("", "the file holds no review"),
    ],
)
def test_bad_review_texts_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "texts.jsonl.gz"
    path.write_bytes(gzip.compress(content.encode()))
    with pytest.raises(ValueError, match=message):
        read_review_texts(path)


def test_every_year_is_loaded_through_the_catalogue(table) -> None:
    asked = []

    def find(name: str) -> Path:
        asked.append(name)
        text = (
            "paper_id,withdrawn\na,0\n"
            if "papers" in name
            else TABLES[int(name.removeprefix("review_insights/iclr")[:4])]
        )
        return table(text, Path(name).name.removesuffix(".gz"))

    years = [load_scores(year, find=find).year for year in YEARS]
    assert years == [2020, 2021, 2023, 2024, 2026]
    assert len(load_review_versions(find=find)) == 3
    assert all(name.startswith("review_insights/iclr") and name.endswith(".csv.gz") for name in asked)
    with pytest.raises(
        ValueError, match=r"no captured scores of ICLR 2022; there are \[2020, 2021, 2023, 2024, 2026\]"
    ):
        load_scores(2022, find=find)


def test_equal_means_of_different_counts_are_equal_floats() -> None:
    pairs = score_pairs(([1, 3, 6], [1, 3, 6]), ([1, 3, 6] * 2, [1, 3, 6] * 2))
    assert pairs.papers["mean_before"].nunique() == 1


def test_pairs_keep_further_columns_and_use_a_given_position() -> None:
    reviews = pd.DataFrame(
        {"note": ["x", "y"], "paper_id": ["a", "a"], "position": [7, 2], "before": [1, 2], "after": [3, 4]}
    )
    pairs = ScorePairs.from_reviews(reviews)
    assert pairs.reviews.columns.tolist() == ["paper_id", "position", "before", "after", "note"]
    assert pairs.reviews["note"].tolist() == ["y", "x"]
    assert pairs.reviews["position"].tolist() == [0, 1]
    assert pairs.scale == (1, 2, 3, 4)


def test_pairs_refuse_what_they_cannot_hold() -> None:
    reviews = pd.DataFrame({"paper_id": ["a"], "before": [5], "after": [7]})
    with pytest.raises(ValueError, match=r"reviews lack the columns \['after'\]"):
        ScorePairs.from_reviews(reviews[["paper_id", "before"]])
    with pytest.raises(ValueError, match=r"paper a: rating 5 -> 7 is not on the scale \(1, 3, 5, 6, 8, 10\)"):
        ScorePairs.from_reviews(reviews, year=2024)
    with pytest.raises(ValueError, match=r"unknown decisions \['Poster'\]; expected \['oral'"):
        ScorePairs.from_reviews(reviews, decisions=pd.Series({"a": "Poster"}))


def test_sums_and_indices_by_paper_agree_with_pandas() -> None:
    pairs = score_pairs(([1, 2, 3], [1, 2, 4]), ([5], [5]), ([7, 9], [8, 9]))
    assert pairs.paper_sums(pairs.reviews["after"]).tolist() == [7.0, 5.0, 17.0]
    assert pairs.paper_index.tolist() == [0, 0, 0, 1, 2, 2]
    assert pairs.starts.tolist() == [0, 3, 4]


def test_a_selection_keeps_scale_and_decisions_of_the_chosen_papers() -> None:
    pairs = score_pairs(([1, 2], [1, 2], "oral"), ([5], [6], "reject"), ([3], [3]))
    chosen = pairs.select(pairs.papers["n_reviews"] == 1)
    assert chosen.reviews["paper_id"].tolist() == ["p001", "p002"]
    assert chosen.papers["decision"].tolist() == ["reject", None]
    assert chosen.scale == pairs.scale
    with pytest.raises(ValueError, match="keep selects no paper"):
        pairs.select(np.zeros(3, dtype=bool))
    with pytest.raises(ValueError, match=r"keep has shape \(2,\), expected one value for each of 3 papers"):
        pairs.select(np.ones(2, dtype=bool))


def test_paired_versions_of_a_review_that_never_changed_are_equal(table) -> None:
    versions = read_review_versions(table(TABLES[2026]))
    pairs = pair_versions(versions[versions["version"] == 0])
    assert (pairs.reviews["before"] == pairs.reviews["after"]).all()


def test_decisions_are_harmonised_by_paper(table) -> None:
    decisions = read_decisions(table("paper_id,decision\nb,Accept (Poster)\na,Reject\nc,\n"))
    assert decisions.to_dict() == {"b": "poster", "a": "reject", "c": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("paper_id,decision\na,Reject\na,Reject\n", "line 3: .* is there twice"),
        ("paper_id,decision\na,Perhaps\n", "line 2: unknown decision 'Perhaps'"),
        ("paper_id,verdict\na,Reject\n", r"no column \['decision'\]"),
    ],
)
def test_faulty_decisions_are_refused_with_the_line(table, text, message) -> None:
    with pytest.raises(ValueError, match=message):
        read_decisions(table(text))
