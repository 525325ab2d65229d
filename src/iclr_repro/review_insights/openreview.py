"""Scores from the authors' files and from OpenReview itself.

Three ways in, none needed for the public captures of `data.py`:

- `read_official` and `official_pairs`: the JSON files of the paper's repository (github.com/papercopilot/iclr-insights,
  `dataset/iclr<year>_threshold6_*_reviewers.json`), in which every score is a string "before;after".
- `parse_forums`: notes of the OpenReview API v2 -> reviews, threads and decisions.
- `OpenReviewClient`: fetches such notes. OpenReview overwrites scores: their history needs snapshots taken in time,
  paired by `pair_reviews`.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from iclr_repro.core.data import note_file
from iclr_repro.review_insights.scores import ScorePairs, harmonise_decision

SCORES = ("rating", "confidence", "soundness", "presentation", "contribution")
TEXTS = ("summary", "strengths", "weaknesses", "questions")

_PAIR = re.compile(r"(-?\d+);(-?\d+)")
_LEADING_INTEGER = re.compile(r"\s*(-?\d+)")
_VENUE_DECISIONS = {
    "Withdrawn_Submission": "withdrawn",
    "Desk_Rejected_Submission": "desk_reject",
    "Rejected_Submission": "reject",
}


class OpenReviewError(RuntimeError):
    """OpenReview could not be asked, or did not answer as its API promises."""


@dataclass(frozen=True, eq=False)
class Forums:
    """What the notes of a set of papers say.

    Attributes:
        reviews: one row an official review: `paper_id` (forum), `review_id` (note), `reviewer` (last part of the
            signature), `created_utc`, `modified_utc` (Unix seconds), the five scores (nullable integers), the texts.
        threads: one row a note below a review: `paper_id`, `review_id`, `note_id`, `role` ("author", "reviewer" for
            the writer of the review, "other_reviewer", "area_chair", "other"), `time` (datetime64, UTC), `text`.
        decisions: by paper id, harmonised, None where not known.
    """

    reviews: pd.DataFrame
    threads: pd.DataFrame
    decisions: pd.Series


def read_official(path: Path) -> pd.DataFrame:
    """Read a score file of the paper's authors.

    The exact spelling of the keys is not documented, so the reader looks for what it knows: a mapping with a "rating"
    of the form "before;after" is a review; key names count without case, spaces and underscores.

    Returns:
        One row a review: `paper_id` (top-level key), `reviewer_id` (keys below it, joined by "/"), `<score>_before` and
        `<score>_after` (nullable integers; a negative number means not recorded), `trace_score` (nullable: -1 nothing
        ever changed, 0 only the rating, 1 still reliable, from 2 on to be double-checked), `extra` (the other keys).

    Raises:
        ValueError: not JSON, a key (a paper) that is there twice, not a mapping of papers, or without any review.
    """
    try:
        forums = json.loads(note_file(path).read_text(encoding="utf-8"), object_pairs_hook=_without_duplicates)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(forums, Mapping):
        raise ValueError(f"{path}: holds a {type(forums).__name__}, expected a mapping from forum ids to reviews")
    rows = [
        {"paper_id": paper, "reviewer_id": reviewer, **_official_review(record)}
        for paper, content in forums.items()
        for reviewer, record in _walk_reviews(content, ())
    ]
    if not rows:
        raise ValueError(f'{path}: no review found, i.e. no mapping with a "rating" such as "5;6"')
    columns = [f"{score}_{when}" for score in SCORES for when in ("before", "after")]
    table = pd.DataFrame(rows).reindex(columns=["paper_id", "reviewer_id", *columns, "trace_score", "extra"])
    numbers = [*columns, "trace_score"]
    return table.astype(dict.fromkeys(numbers, "Int64"))


def official_pairs(
    reviews: pd.DataFrame,
    *,
    year: int,
    decisions: pd.Series | None = None,
    max_trace_score: int | None = None,
) -> ScorePairs:
    """Pairs of ratings from `read_official`, of papers whose reviews all have a rating before and after.

    Args:
        reviews: as `read_official` returns them.
        year: 2024 or 2025.
        decisions: as `ScorePairs.from_reviews` takes them, e.g. `Forums.decisions`.
        max_trace_score: leave out reviews with a higher trace score or none: 1 is strict; None, the default, keeps all,
            as the paper seems to do.
    """
    present = reviews[["rating_before", "rating_after"]].notna()
    paper = reviews["paper_id"]
    rated = present.groupby(paper).transform("any").all(axis=1)
    paired = (present["rating_before"] == present["rating_after"]).groupby(paper).transform("all")
    dropped = {
        "no_ratings": int(paper[~rated].nunique()),
        "unequal_counts": int(paper[rated & ~paired].nunique()),
    }
    kept = reviews[rated & paired & present["rating_before"]]
    if max_trace_score is not None:
        kept = kept[(kept["trace_score"] <= max_trace_score).fillna(False).astype(bool)]
    kept = kept.rename(columns={"reviewer_id": "review_id", "rating_before": "before", "rating_after": "after"})
    return ScorePairs.from_reviews(kept, decisions=decisions, year=year, dropped=dropped)


def pair_reviews(before: Forums, after: Forums, *, year: int) -> ScorePairs:
    """Two snapshots of the same forums, review by review; decisions are those of the later one.

    Papers with a rating that stands in one of the two only are dropped (sheet M, "Filter").
    """
    key = ["paper_id", "review_id"]
    later = after.reviews[[*key, *SCORES]]
    joined = before.reviews.merge(later, on=key, how="outer", suffixes=("_before", "_after"), validate="one_to_one")
    joined = joined.rename(columns={"review_id": "reviewer_id"})
    return official_pairs(joined, year=year, decisions=after.decisions)


def read_forum_notes(folder: Path) -> list[dict[str, Any]]:
    """Read all notes from the JSON files of a folder, each a list of notes or an API answer {"notes": [...]}.

    Raises:
        ValueError: no such folder, no JSON file in it, or a file that is neither; the message names it.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ValueError(f"{folder}: no *.json file with OpenReview notes there")
    notes: list[dict[str, Any]] = []
    for path in files:
        try:
            content = json.loads(note_file(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: not JSON ({error})") from None
        found = content.get("notes") if isinstance(content, dict) else content
        if not isinstance(found, list) or not all(isinstance(note, dict) and "id" in note for note in found):
            raise ValueError(f'{path}: expected a list of notes with ids, or {{"notes": [...]}}')
        notes.extend(found)
    return notes


def parse_forums(notes: Iterable[Mapping[str, Any]]) -> Forums:
    """Sort the notes of any number of forums into reviews, review threads and decisions.

    Args:
        notes: notes of the API v2, in any order; replies may also lie in a submission's `details.replies`.

    Raises:
        ValueError: no official review among the notes.
    """
    by_id = {note["id"]: note for outer in notes for note in (outer, *outer.get("details", {}).get("replies", ()))}
    reviews = {key: note for key, note in by_id.items() if _is_kind(note, "Official_Review")}
    if not reviews:
        raise ValueError(f"none of the {len(by_id)} notes is an official review (invitation .../-/Official_Review)")
    threads = []
    for key, note in by_id.items():
        review = _review_above(note, by_id, reviews)
        if key not in reviews and review is not None:
            threads.append(_thread_row(note, review))
    columns = ["paper_id", "review_id", "note_id", "role", "time", "text"]
    thread_table = pd.DataFrame(threads, columns=columns)
    thread_table["time"] = pd.to_datetime(thread_table["time"].astype("int64"), unit="ms")
    return Forums(
        reviews=pd.DataFrame([_review_row(note) for note in reviews.values()])
        .astype(dict.fromkeys(SCORES, "Int64"))
        .sort_values(["paper_id", "created_utc", "review_id"], ignore_index=True),
        threads=thread_table.sort_values(["paper_id", "review_id", "time", "note_id"], ignore_index=True),
        decisions=_forum_decisions(by_id.values()),
    )


class OpenReviewClient:
    """Reads public notes from the OpenReview API v2, a page at a time.

    Args:
        base_url: of the API.
        token: bearer token of a login, for what is not public.
        page_size: notes a request, at most 1,000.
        num_retries: of a request that fails or is refused for its rate (with growing pauses, or as the server says).
        timeout_s: of a request.
    """

    def __init__(
        self,
        *,
        base_url: str = "https://api2.openreview.net",
        token: str | None = None,
        page_size: int = 1000,
        num_retries: int = 5,
        timeout_s: float = 60.0,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._page_size = page_size
        self._timeout_s = timeout_s
        self._session = requests.Session()
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"
        retry = Retry(total=num_retries, backoff_factor=1.0, status_forcelist=(429, 500, 502, 503, 504))
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry))

    def submissions(self, year: int) -> Iterator[dict[str, Any]]:
        """Submissions of an ICLR year with all their replies, as `parse_forums` takes them."""
        return self.notes(invitation=f"ICLR.cc/{year}/Conference/-/Submission", details="replies")

    def notes(self, **query: str) -> Iterator[dict[str, Any]]:
        """All notes that a query finds, e.g. `forum="<id>"`.

        Raises:
            OpenReviewError: no answer, an error status, or an answer without notes.
        """
        offset = 0
        while True:
            page = self._page({**query, "limit": str(self._page_size), "offset": str(offset)})
            yield from page
            offset += len(page)
            if len(page) < self._page_size:
                return

    def _page(self, query: Mapping[str, str]) -> list[dict[str, Any]]:
        url = f"{self._base_url}/notes"
        try:
            response = self._session.get(url, params=query, timeout=self._timeout_s)
            response.raise_for_status()
            page = response.json()["notes"]
        except (requests.RequestException, KeyError) as error:
            raise OpenReviewError(
                f"{url} did not give the notes of {dict(query)}: {error!r}. Check the address and the network; for "
                "notes that are not public pass the token of a login"
            ) from error
        if not isinstance(page, list):
            raise OpenReviewError(f"{url} gave a {type(page).__name__} of notes, expected a list")
        return page


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; the standard reader would silently keep the last of two entries for one paper."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} is there twice in one object; keep one of the two entries")
    return found


def _walk_reviews(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping with a rating pair, with the keys that lead to it."""
    if isinstance(node, Mapping):
        if any(_plain(key) == "rating" and _is_pair(value) for key, value in node.items()):
            yield "/".join(path), node
            return
        children: Iterable[tuple[Any, Any]] = node.items()
    elif isinstance(node, list):
        children = enumerate(node)
    else:
        return
    for key, child in children:
        yield from _walk_reviews(child, (*path, str(key)))


def _official_review(record: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    extra = {}
    for key, value in record.items():
        name = _plain(key)
        if name in SCORES and _is_pair(value):
            before, after = (int(part) for part in value.split(";"))
            row[f"{name}_before"] = before if before >= 0 else None
            row[f"{name}_after"] = after if after >= 0 else None
        elif name == "tracingscore" and re.fullmatch(r"-?\d+", str(value)):
            row["trace_score"] = int(value)
        else:
            extra[key] = value
    return {**row, "extra": extra}


def _plain(key: Any) -> str:
    return str(key).lower().replace(" ", "").replace("_", "")


def _is_pair(value: Any) -> bool:
    return isinstance(value, str) and _PAIR.fullmatch(value) is not None


def _is_kind(note: Mapping[str, Any], kind: str) -> bool:
    return any(invitation.endswith(f"/-/{kind}") for invitation in note.get("invitations", ()))


def _content(note: Mapping[str, Any], field: str) -> Any:
    """A field of the note's content: the API v2 wraps values as {"value": ...}."""
    value = note.get("content", {}).get(field)
    return value.get("value") if isinstance(value, Mapping) else value


def _signature(note: Mapping[str, Any]) -> str:
    return next(iter(note.get("signatures", ())), "").rsplit("/", 1)[-1]


def _review_row(note: Mapping[str, Any]) -> dict[str, Any]:
    row = {
        "paper_id": note["forum"],
        "review_id": note["id"],
        "reviewer": _signature(note),
        "created_utc": note["tcdate"] // 1000,
        "modified_utc": note.get("tmdate", note["tcdate"]) // 1000,
    }
    for score in SCORES:
        # scores come as numbers or as text that begins with one, e.g. "6: marginally above the threshold"
        found = _LEADING_INTEGER.match(str(_content(note, score)))
        row[score] = int(found[1]) if found else None
    return row | {text: _content(note, text) or "" for text in TEXTS}


def _review_above(
    note: Mapping[str, Any], by_id: Mapping[str, Mapping[str, Any]], reviews: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """The review that a note answers, directly or through other notes."""
    passed: set[str] = set()  # damaged data could make notes answer each other in a circle
    parent = note.get("replyto")
    while parent is not None and parent in by_id and parent not in passed:
        if parent in reviews:
            return reviews[parent]
        passed.add(parent)
        parent = by_id[parent].get("replyto")
    return None


def _thread_row(note: Mapping[str, Any], review: Mapping[str, Any]) -> dict[str, Any]:
    signature = _signature(note)
    if signature == "Authors":
        role = "author"
    elif signature == _signature(review):
        role = "reviewer"
    elif signature.startswith("Reviewer"):
        role = "other_reviewer"
    else:
        role = "area_chair" if signature.startswith("Area_Chair") else "other"
    return {
        "paper_id": note["forum"],
        "review_id": review["id"],
        "note_id": note["id"],
        "role": role,
        "time": note["tcdate"],
        "text": _content(note, "comment") or "",
    }


def _forum_decisions(notes: Iterable[Mapping[str, Any]]) -> pd.Series:
    """A withdrawal or desk rejection counts before a decision note."""
    venues: dict[str, str | None] = {}
    decided: dict[str, str | None] = {}
    for note in notes:
        if note["id"] == note["forum"]:
            venues[note["forum"]] = _VENUE_DECISIONS.get(str(_content(note, "venueid")).rsplit("/", 1)[-1])
        elif _is_kind(note, "Decision"):
            decided[note["forum"]] = harmonise_decision(str(_content(note, "decision")))
    papers = sorted({*venues, *decided})
    return pd.Series([venues.get(paper) or decided.get(paper) for paper in papers], index=papers, dtype=object)
