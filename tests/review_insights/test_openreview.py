import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest

from iclr_repro.review_insights.engagement import engagement
from iclr_repro.review_insights.openreview import (
    OpenReviewClient,
    OpenReviewError,
    official_pairs,
    pair_reviews,
    parse_forums,
    read_forum_notes,
    read_official,
)

VENUE = "ICLR.cc/2024/Conference"

OFFICIAL = {
    "forumB": {
        "reviewers": {
            "1": {"Rating": "5;6", "confi_dence": "4;4", "Soundness": "3;3", "Tracing Score": 0, "note": "kept"},
            "2": {
                "rating": "8;8",
                "confidence": "3;2",
                "Presentation": "2;3",
                "tracing_score": "2",
                "extra pair": "1;2",
            },
        }
    },
    "forumA": [{"rating": "3;3", "contribution": "2;2", "Tracing Score": -1}],
    "late": {"1": {"rating": "-1;5"}, "2": {"rating": "6;6"}},
    "unrated": {"1": {"rating": "-1;3"}},
}


@pytest.fixture
def official(tmp_path: Path) -> Path:
    path = tmp_path / "official.json"
    path.write_text(json.dumps(OFFICIAL), encoding="utf-8")
    return path


def test_official_scores_are_found_whatever_the_nesting_and_spelling(official: Path) -> None:
    table = read_official(official)
    assert table[["paper_id", "reviewer_id"]].to_numpy().tolist()[:3] == [
        ["forumB", "reviewers/1"],
        ["forumB", "reviewers/2"],
        ["forumA", "0"],
    ]
    assert table["rating_before"].tolist()[:3] == [5, 8, 3]
    assert table["rating_after"].tolist()[:3] == [6, 8, 3]
    assert table["confidence_after"].tolist()[:2] == [4, 2]
    assert table["presentation_after"].tolist()[1] == 3
    assert table["trace_score"].tolist()[:3] == [0, 2, -1]
    assert table["extra"].tolist()[:2] == [{"note": "kept"}, {"extra pair": "1;2"}]


def test_negative_and_absent_scores_are_missing(official: Path) -> None:
    table = read_official(official).set_index("paper_id")
    assert table.loc["unrated", "rating_before"] is pd.NA
    assert table.loc["forumA", "soundness_before"] is pd.NA
    assert table.loc["unrated", "trace_score"] is pd.NA


def test_official_pairs_leave_out_incomplete_papers_and_count_them(official: Path) -> None:
    pairs = official_pairs(read_official(official), year=2024, decisions=pd.Series({"forumA": "reject"}))
    assert pairs.reviews[["paper_id", "review_id", "before", "after"]].to_numpy().tolist() == [
        ["forumA", "0", 3, 3],
        ["forumB", "reviewers/1", 5, 6],
        ["forumB", "reviewers/2", 8, 8],
    ]
    assert pairs.dropped == {"no_ratings": 1, "unequal_counts": 1}
    assert pairs.papers["decision"].tolist() == ["reject", None]
    assert {"confidence_before", "trace_score", "extra"} <= set(pairs.reviews.columns)


def test_the_trace_score_filter_drops_reviews_not_papers(official: Path) -> None:
    table = read_official(official)
    strict = official_pairs(table, year=2024, max_trace_score=1)
    assert strict.reviews["review_id"].tolist() == ["0", "reviewers/1"]
    assert strict.papers["n_reviews"].tolist() == [1, 1]
    unscored = official_pairs(table.assign(trace_score=[0, pd.NA, 0, 0, 0, 0]), year=2024, max_trace_score=6)
    assert unscored.reviews["review_id"].tolist() == ["0", "reviewers/1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "official.json: not JSON"),
        ("[1]", "official.json: holds a list, expected a mapping from forum ids to reviews"),
        ('{"a": {"1": {"rating": 5}}}', 'no review found, i.e. no mapping with a "rating" such as "5;6"'),
    ],
)
def test_bad_official_files_are_refused(official: Path, text: str, message: str) -> None:
    official.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_official(official)


def note(
    key: str, kind: str, signature: str, *, replyto: str | None = None, time_s: int = 0, **content: Any
) -> dict[str, Any]:
    """A note of the API v2 in forum f1; times in seconds after 2023-11-20 00:00 UTC."""
    return {
        "id": key,
        "forum": "f1",
        "replyto": replyto,
        "invitations": [f"{VENUE}/Submission1/-/{kind}", f"{VENUE}/-/Edit"],
        "signatures": [f"{VENUE}/Submission1/{signature}"],
        "tcdate": 1_700_438_400_000 + 1000 * time_s,
        "content": {name: {"value": value} for name, value in content.items()},
    }


def forum() -> list[dict[str, Any]]:
    scores = {"confidence": 4, "soundness": "3 good", "presentation": 2, "contribution": 1}
    return [
        note("f1", "Submission", "Authors", title="T", venueid=f"{VENUE}/Submission"),
        note("r1", "Official_Review", "Reviewer_aaaa", replyto="f1", time_s=60, rating="6: weak accept", **scores),
        note("r2", "Official_Review", "Reviewer_bbbb", replyto="f1", time_s=30, rating=3, summary="S", **scores),
        note("c3", "Official_Comment", "Reviewer_aaaa", replyto="c2", time_s=400, comment="thanks"),
        note("c1", "Official_Comment", "Authors", replyto="r1", time_s=200, comment="we did"),
        note("c2", "Official_Comment", "Authors", replyto="c1", time_s=300, comment="and more"),
        note("c4", "Official_Comment", "Reviewer_bbbb", replyto="r1", time_s=500, comment="I differ"),
        note("c5", "Official_Comment", "Area_Chair_cccc", replyto="r2", time_s=600, comment="please answer"),
        note("c6", "Official_Comment", "Authors", replyto="f1", time_s=700, comment="to all"),
        note("c7", "Public_Comment", "Someone", replyto="r2", time_s=800, comment="hello"),
        note("d1", "Decision", "Program_Chairs", replyto="f1", time_s=900, decision="Accept (spotlight)"),
    ]


def test_reviews_are_read_from_the_notes_in_the_order_of_time() -> None:
    reviews = parse_forums(forum()).reviews
    assert reviews["review_id"].tolist() == ["r2", "r1"]
    assert reviews["reviewer"].tolist() == ["Reviewer_bbbb", "Reviewer_aaaa"]
    assert reviews["rating"].tolist() == [3, 6]
    assert reviews["soundness"].tolist() == [3, 3]
    assert reviews["created_utc"].tolist() == [1_700_438_430, 1_700_438_460]
    assert reviews["summary"].tolist() == ["S", ""]


def test_threads_hold_what_answers_a_review_directly_or_through_other_notes() -> None:
    threads = parse_forums(forum()).threads
    assert threads[["review_id", "note_id", "role"]].to_numpy().tolist() == [
        ["r1", "c1", "author"],
        ["r1", "c2", "author"],
        ["r1", "c3", "reviewer"],
        ["r1", "c4", "other_reviewer"],
        ["r2", "c5", "area_chair"],
        ["r2", "c7", "other"],
    ]
    assert threads["time"][0] == pd.Timestamp("2023-11-20T00:03:20")
    assert threads["text"][0] == "we did"


def test_parsed_threads_are_what_engagement_takes() -> None:
    forums = parse_forums(forum())
    activity = engagement(forums.threads, forums.reviews).set_index("review_id")
    assert activity["turns"].to_dict() == {"r2": 0, "r1": 1}
    assert activity.loc["r1", "first_author_time"] == pd.Timestamp("2023-11-20T00:03:20")


def test_replies_inside_a_submission_are_the_same_as_notes_beside_it() -> None:
    submission, *replies = forum()
    nested = parse_forums([{**submission, "details": {"replies": replies}}])
    flat = parse_forums(forum())
    pd.testing.assert_frame_equal(nested.reviews, flat.reviews)
    pd.testing.assert_frame_equal(nested.threads, flat.threads)


@pytest.mark.parametrize(
    ("venue", "decision", "expected"),
    [
        ("Submission", "Accept (oral)", "oral"),
        ("Withdrawn_Submission", "Reject", "withdrawn"),
        ("Desk_Rejected_Submission", None, "desk_reject"),
        ("Rejected_Submission", None, "reject"),
        ("Submission", None, None),
    ],
)
def test_a_withdrawal_counts_before_the_decision(venue: str, decision: str | None, expected: str | None) -> None:
    notes = forum()[:3]
    notes[0]["content"]["venueid"] = {"value": f"{VENUE}/{venue}"}
    if decision:
        notes.append(note("d1", "Decision", "Program_Chairs", replyto="f1", decision=decision))
    assert parse_forums(notes).decisions.to_dict() == {"f1": expected}


def test_notes_that_answer_each_other_in_a_circle_belong_to_no_thread() -> None:
    notes = [*forum()[:3], note("x", "Official_Comment", "Authors", replyto="y")]
    notes.append(note("y", "Official_Comment", "Authors", replyto="x"))
    threads = parse_forums(notes).threads
    assert threads.empty
    assert threads["time"].dtype.kind == "M"


def test_notes_without_a_review_are_refused() -> None:
    with pytest.raises(ValueError, match="none of the 1 notes is an official review"):
        parse_forums(forum()[:1])


def test_notes_are_read_from_the_json_files_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text(json.dumps(forum()[:2]))
    (tmp_path / "2.json").write_text(json.dumps({"notes": forum()[2:], "count": 9}))
    assert read_forum_notes(tmp_path) == forum()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"no \*.json file with OpenReview notes there"),
        ("{", "1.json: not JSON"),
        ('[{"forum": "f1"}]', "1.json: expected a list of notes with ids"),
        ('{"results": []}', "1.json: expected a list of notes with ids"),
    ],
)
def test_a_folder_without_notes_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "1.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_forum_notes(tmp_path)


def test_two_snapshots_of_a_forum_give_score_pairs() -> None:
    later = forum()
    later[1]["content"]["rating"] = {"value": 8}
    pairs = pair_reviews(parse_forums(forum()), parse_forums(later), year=2024)
    assert pairs.reviews[["review_id", "before", "after"]].to_numpy().tolist() == [["r1", 6, 8], ["r2", 3, 3]]
    assert pairs.papers["decision"].tolist() == ["spotlight"]
    with pytest.raises(
        ValueError, match=r"no paper has ratings both .* left out: \{'no_ratings': 0, 'unequal_counts': 1\}"
    ):
        pair_reviews(parse_forums(forum()), parse_forums(later[:2]), year=2024)


class Server(ThreadingHTTPServer):
    """Answers /notes with slices of `notes` after the error statuses of `failures`; keeps the queries."""

    notes: Any
    failures: list[int]
    queries: list[dict[str, list[str]]]
    authorization: str | None = None


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        self.server.queries.append(query)
        self.server.authorization = self.headers["Authorization"]
        status = self.server.failures.pop(0) if self.server.failures else 200
        offset, limit = int(query["offset"][0]), int(query["limit"][0])
        notes = self.server.notes
        body = json.dumps({"notes": notes[offset : offset + limit] if isinstance(notes, list) else notes}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 429:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test output clean."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.notes, server.failures, server.queries = [], [], []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def client(server: Server, **options: Any) -> OpenReviewClient:
    return OpenReviewClient(base_url=f"http://127.0.0.1:{server.server_port}/", **options)


@pytest.mark.parametrize(("num_notes", "num_pages"), [(0, 1), (3, 2), (4, 3)])
def test_the_client_reads_page_after_page(server: Server, num_notes: int, num_pages: int) -> None:
    server.notes = [{"id": str(number)} for number in range(num_notes)]
    assert list(client(server, page_size=2).notes(forum="f1")) == server.notes
    assert [query["offset"] for query in server.queries] == [[str(2 * page)] for page in range(num_pages)]
    assert server.queries[0]["forum"] == ["f1"]


def test_the_client_asks_for_the_submissions_of_a_year_with_their_replies(server: Server) -> None:
    submission, *replies = forum()
    server.notes = [{**submission, "details": {"replies": replies}}]
    forums = parse_forums(client(server, token="secret").submissions(2024))
    assert len(forums.reviews) == 2
    assert server.queries[0]["invitation"] == ["ICLR.cc/2024/Conference/-/Submission"]
    assert server.queries[0]["details"] == ["replies"]
    assert server.authorization == "Bearer secret"


def test_the_client_tries_again_when_refused_for_its_rate(server: Server) -> None:
    server.notes, server.failures = [{"id": "n"}], [429]
    assert list(client(server).notes(forum="f1")) == [{"id": "n"}]
    assert len(server.queries) == 2


def test_the_client_says_what_it_asked_and_what_to_do(server: Server) -> None:
    server.failures = [403]
    with pytest.raises(OpenReviewError, match=r"did not give the notes of \{'forum': 'f1'.*403.*token of a login"):
        list(client(server).notes(forum="f1"))


def test_an_answer_without_a_list_of_notes_is_refused(server: Server) -> None:
    server.notes = {"a": 1}
    with pytest.raises(OpenReviewError, match="/notes gave a dict of notes, expected a list"):
        list(client(server).notes(forum="f1"))


def test_a_server_that_is_not_there_is_a_clear_error(server: Server) -> None:
    port = server.server_port
    server.server_close()
    with pytest.raises(OpenReviewError, match="Check the address and the network"):
        list(OpenReviewClient(base_url=f"http://127.0.0.1:{port}", num_retries=0).notes(forum="f1"))


def test_a_paper_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "official.json"
    path.write_text('{"forumA": {"1": {"rating": "5;6"}}, "forumA": {"1": {"rating": "3;3"}}}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"official.json: the key 'forumA' is there twice in one object"):
        read_official(path)
