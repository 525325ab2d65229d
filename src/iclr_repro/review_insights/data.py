"""Readers for review scores: the public captures of five ICLR years, and a user's own tables.

Whatever in a file is not as it should be is refused with the file, the line and the reason; papers that the statistics
leave out (sheet M, "Filter") are dropped and counted in `ScorePairs.dropped`.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from iclr_repro.core.data import locate, note_file
from iclr_repro.review_insights.scores import ASPECTS, SCALES, ScorePairs, harmonise_decision


@dataclass(frozen=True)
class _Capture:
    """Where one year's scores lie: the file, and the columns of each dated snapshot in the order of time."""

    file: str
    ratings: Mapping[str, str]
    confidences: Mapping[str, str] = field(default_factory=dict)
    decision: str | None = None
    words: str | None = None  # column of word counts, in the reviewer order of the first snapshot
    sorted_snapshots: tuple[str, ...] = ()  # snapshots whose lists the source sorted by rating


_CAPTURES: Mapping[int, _Capture] = {
    2020: _Capture(
        "review_insights/iclr2020_reviews.csv.gz", {"initial": "initial_rating", "final": "rating"}, words="n_words"
    ),
    2021: _Capture(
        "review_insights/iclr2021_snapshots.csv.gz",
        {"20201111": "ratings_20201111", "final": "ratings_final"},
        decision="decision",
    ),
    2023: _Capture(
        "review_insights/iclr2023_snapshots.csv.gz",
        {"20221105": "ratings_20221105", "20221120": "ratings_20221120", "final": "final_ratings"},
        confidences={
            "20221105": "confidences_20221105",
            "20221120": "confidences_20221120",
            "final": "final_confidences",
        },
        decision="status",
        words="review_words_20221105",
        sorted_snapshots=("final",),
    ),
    2024: _Capture(
        "review_insights/iclr2024_snapshots.csv.gz",
        {name: f"ratings_{name}" for name in ("20231111", "20231125", "20231203")},
    ),
    2026: _Capture("review_insights/iclr2026_reviews.csv.gz", {"first": "rating", "last": "rating"}),
}
_PAPERS_2026 = "review_insights/iclr2026_papers.csv.gz"
_TEXTS_2026 = "review_insights/iclr2026_review_texts.jsonl.gz"

YEARS = tuple(_CAPTURES)
"""ICLR years with a public capture of the scores before and after the rebuttal."""

_VERSION_RANGES = {"confidence": range(1, 6), **{name: range(1, 5) for name in ASPECTS}}


def load_scores(
    year: int, *, before: str | None = None, after: str | None = None, find: Callable[[str], Path] = locate
) -> ScorePairs:
    """The scores of one ICLR year from the data catalogue, before and after the rebuttal.

    Args:
        year: one of `YEARS`.
        before: name of the earlier snapshot, default the first one (`snapshots(year)` lists them).
        after: name of the later one, default the last one in reviewer order. ICLR 2023 also has "final", whose lists
            are sorted by rating: the result is then not `aligned`.
        find: from a catalogue name to a local file.

    Raises:
        ValueError: an unknown year or snapshot, or a file that is not as its README says.
    """
    path = find(_capture(year).file)
    papers_path = find(_PAPERS_2026) if year == 2026 else None
    return read_scores(path, year, before=before, after=after, papers_path=papers_path)


def snapshots(year: int) -> tuple[str, ...]:
    """Names of the dated snapshots of an ICLR year, in the order of time."""
    return tuple(_capture(year).ratings)


def read_scores(
    path: Path,
    year: int,
    *,
    before: str | None = None,
    after: str | None = None,
    papers_path: Path | None = None,
) -> ScorePairs:
    """The scores of one ICLR year from a local file; arguments as in `load_scores`.

    `papers_path` is the table that marks the withdrawn papers of ICLR 2026 (`paper_id`, `withdrawn`).
    """
    capture = _capture(year)
    in_reviewer_order = [name for name in capture.ratings if name not in capture.sorted_snapshots]
    before, after = before or in_reviewer_order[0], after or in_reviewer_order[-1]
    names = list(capture.ratings)
    if before not in names or after not in names or names.index(before) >= names.index(after):
        raise ValueError(f"ICLR {year}: no pair {before!r} -> {after!r}; the snapshots are, in order, {names}")
    if year == 2026:
        return pair_versions(read_review_versions(path), papers=_read_withdrawn(papers_path) if papers_path else None)
    if year == 2020:
        return _read_scores_2020(path, capture)
    lists = {"before": capture.ratings[before], "after": capture.ratings[after]}
    if capture.confidences:
        lists |= {"confidence_before": capture.confidences[before], "confidence_after": capture.confidences[after]}
    if capture.words and before == names[0]:
        lists["words"] = capture.words
    aligned = before not in capture.sorted_snapshots and after not in capture.sorted_snapshots
    table = _read_csv(path, ["paper_id", *lists.values(), *([capture.decision] if capture.decision else [])])
    return _pair_lists(table, path, lists, decision=capture.decision, year=year, scale=SCALES[year], aligned=aligned)


def read_score_table(path: Path, *, scale: Sequence[int] | None = None) -> ScorePairs:
    """A table `paper_id, ratings_before, ratings_after, decision` with lists such as `5;3;6`, in reviewer order.

    The form of the reference files and of a user's own data; `decision` may be absent or empty.

    Args:
        path: CSV, compressed or not.
        scale: allowed ratings; by default those seen in the papers that are kept.

    Raises:
        ValueError: with file and line, whatever is not of this form.
    """
    lists = {"before": "ratings_before", "after": "ratings_after"}
    table = _read_csv(path, ["paper_id", *lists.values()])
    return _pair_lists(table, path, lists, decision="decision" if "decision" in table.columns else None, scale=scale)


def read_decisions(path: Path) -> pd.Series:
    """A table `paper_id, decision` with decisions as the conference spells them.

    Returns:
        Harmonised decisions (`scores.DECISIONS`, None where the cell is empty) by paper id.

    Raises:
        ValueError: with file and line, a paper that is there twice or an unknown decision.
    """
    table = _read_csv(note_file(path), ["paper_id", "decision"])
    _refuse_duplicates(table, ["paper_id"], path)
    return _decisions(table, "decision", path)


def load_review_versions(*, find: Callable[[str], Path] = locate) -> pd.DataFrame:
    """All versions of the ICLR 2026 reviews from the data catalogue; see `read_review_versions`."""
    return read_review_versions(find(_CAPTURES[2026].file))


def read_review_versions(path: Path) -> pd.DataFrame:
    """Versions of each review: a row each, sorted by paper, time of submission and version.

    Returns:
        `paper_id`, `review_id`, and as int64 `version` (0 = first seen), `created_utc`, `modified_utc` (Unix seconds),
        `rating`, `confidence` (1-5), `soundness`, `presentation`, `contribution` (1-4), `words_*`.

    Raises:
        ValueError: with file and line, a value that is not a number or out of range, a version that is missing or
            there twice.
    """
    words = [f"words_{part}" for part in ("summary", "strengths", "weaknesses", "questions")]
    allowed: dict[str, Collection[int] | None] = dict.fromkeys(["version", "created_utc", "modified_utc", *words])
    allowed |= {"rating": SCALES[2026], **_VERSION_RANGES}
    table = _read_csv(path, ["paper_id", "review_id", *allowed])
    for column, values in allowed.items():
        table[column] = _integers(table[column], path, values)
    table = table.sort_values(["paper_id", "created_utc", "review_id", "version"], kind="stable")
    expected = table.groupby(["paper_id", "review_id"]).cumcount()
    wrong = table.index[table["version"] != expected]
    if len(wrong):
        raise ValueError(
            f"{path}, line {wrong[0] + 2}: version {table.at[wrong[0], 'version']} of review "
            f"{table.at[wrong[0], 'review_id']!r}, expected {expected[wrong[0]]}; versions count from 0 without gaps"
        )
    return table.reset_index(drop=True)


def pair_versions(versions: pd.DataFrame, *, papers: pd.Series | None = None) -> ScorePairs:
    """First against last version of each ICLR 2026 review, in the order of submission.

    Args:
        versions: as `read_review_versions` returns it.
        papers: decisions by paper id, as far as they are known.

    Returns:
        Pairs with the columns `review_id`, `created_utc`, `words` (first version, all four parts) and
        `<score>_before`, `<score>_after` of confidence, soundness, presentation and contribution.
    """
    grouped = versions.groupby(["paper_id", "review_id"], sort=False)
    first, last = grouped.head(1).reset_index(drop=True), grouped.tail(1).reset_index(drop=True)
    reviews = first[["paper_id", "review_id", "created_utc"]].assign(before=first["rating"], after=last["rating"])
    for score in _VERSION_RANGES:
        reviews[f"{score}_before"], reviews[f"{score}_after"] = first[score], last[score]
    reviews["words"] = first.filter(like="words_").sum(axis=1)
    return ScorePairs.from_reviews(reviews, decisions=papers, year=2026)


def load_review_texts(*, find: Callable[[str], Path] = locate) -> pd.DataFrame:
    """The 400 ICLR 2026 reviews with their text from the data catalogue; see `read_review_texts`."""
    return read_review_texts(find(_TEXTS_2026))


def read_review_texts(path: Path) -> pd.DataFrame:
    r"""Review texts from gzipped JSON lines: one row a review, columns as the objects' keys.

    Lines end in "\n" only: some texts hold U+2028, at which `str.splitlines` would break them.

    Raises:
        ValueError: with file and line, what is not a JSON object with the expected keys.
    """
    required = {
        "paper_id",
        "review_id",
        "rating_first",
        "rating_last",
        "summary",
        "strengths",
        "weaknesses",
        "questions",
    }
    records = []
    for number, line in enumerate(gzip.decompress(path.read_bytes()).split(b"\n"), start=1):
        if not line:
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from None
        if not isinstance(record, dict) or not required <= record.keys():
            raise ValueError(f"{path}, line {number}: expected a JSON object with the keys {sorted(required)}")
        records.append(record)
    if not records:
        raise ValueError(f"{path}: the file holds no review")
    return pd.DataFrame(records)


def _capture(year: int) -> _Capture:
    if year not in _CAPTURES:
        raise ValueError(f"no captured scores of ICLR {year}; there are {list(_CAPTURES)}")
    return _CAPTURES[year]


def _read_scores_2020(path: Path, capture: _Capture) -> ScorePairs:
    table = _read_csv(
        path, ["paper_id", "review_id", *capture.ratings.values(), "experience", "thoroughness", "n_words"]
    )
    _refuse_duplicates(table, ["paper_id", "review_id"], path)
    columns: dict[str, tuple[str, Collection[int] | None]] = {
        "before": ("initial_rating", SCALES[2020]),
        "after": ("rating", SCALES[2020]),
        "experience": ("experience", range(4)),
        "thoroughness": ("thoroughness", range(4)),
        "words": ("n_words", None),
    }
    reviews = table[["paper_id", "review_id"]].assign(
        **{name: _integers(table[column], path, values) for name, (column, values) in columns.items()}
    )
    return ScorePairs.from_reviews(reviews, year=2020)


def _pair_lists(
    table: pd.DataFrame,
    path: Path,
    lists: Mapping[str, str],
    *,
    decision: str | None,
    year: int | None = None,
    scale: Sequence[int] | None,
    aligned: bool = True,
) -> ScorePairs:
    """Score pairs from a table with a row a paper and integer lists in its cells; `lists` maps our names to columns."""
    _refuse_duplicates(table, ["paper_id"], path)
    ranges = {"before": scale, "after": scale, "confidence_before": range(1, 6), "confidence_after": range(1, 6)}
    values = {name: _integer_lists(table[column], path, ranges.get(name)) for name, column in lists.items()}
    counts = {name: np.bincount(items.index, minlength=len(table)) for name, items in values.items()}
    rated = (counts["before"] > 0) & (counts["after"] > 0)
    keep = rated & (counts["before"] == counts["after"])
    for name, column in lists.items():
        ragged = np.flatnonzero(keep & (counts[name] != counts["before"]))
        if len(ragged):
            found, expected = table.at[ragged[0], column], table.at[ragged[0], lists["before"]]
            raise ValueError(f"{path}, line {ragged[0] + 2}: {column} {found!r} do not match the ratings {expected!r}")
    kept = {name: items[keep[items.index]] for name, items in values.items()}
    reviews = pd.DataFrame({name: items.to_numpy() for name, items in kept.items()})
    reviews.insert(0, "paper_id", table["paper_id"].reindex(kept["before"].index).to_numpy())
    return ScorePairs.from_reviews(
        reviews,
        decisions=_decisions(table, decision, path) if decision else None,
        year=year,
        scale=scale,
        dropped={"no_ratings": int((~rated).sum()), "unequal_counts": int((rated & ~keep).sum())},
        aligned=aligned,
    )


def _read_withdrawn(path: Path) -> pd.Series:
    table = _read_csv(path, ["paper_id", "withdrawn"])
    _refuse_duplicates(table, ["paper_id"], path)
    withdrawn = _integers(table["withdrawn"], path, (0, 1)) == 1
    return pd.Series(["withdrawn" if yes else None for yes in withdrawn], index=table["paper_id"], dtype=object)


def _read_csv(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """All cells as text; row i of the result is line i + 2 of the file."""
    # not pandas.read_csv: it fills up short rows and takes long ones for an index
    open_text = gzip.open if path.suffix == ".gz" else open
    try:
        with open_text(path, "rt", encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except (csv.Error, UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: not a readable CSV table ({error})") from None
    while rows and not rows[-1]:
        rows.pop()
    if len(rows) < 2:
        raise ValueError(f"{path}: {'no row below the header' if rows else 'the file is empty'}")
    header, *rows = rows
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise ValueError(f"{path}, line {line}: {len(row)} cells, expected {len(header)} as in the header")
    table = pd.DataFrame(rows, columns=header, dtype=str)
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ValueError(f"{path}: no column {missing}; found {list(table.columns)}")
    return table


def _refuse_duplicates(table: pd.DataFrame, key: list[str], path: Path) -> None:
    again = np.flatnonzero(table.duplicated(key))
    if len(again):
        raise ValueError(f"{path}, line {again[0] + 2}: {table.loc[again[0], key].to_dict()} is there twice")


def _integer_lists(cells: pd.Series, path: Path, allowed: Collection[int] | None) -> pd.Series:
    """The integers of cells such as "5;3;6", one after the other, indexed by the row they come from."""
    return _integers(cells[cells != ""].str.split(";").explode(), path, allowed)


def _integers(cells: pd.Series, path: Path, allowed: Collection[int] | None) -> pd.Series:
    """Cells as int64, each one of `allowed` (None: any); the index tells the line for the error."""
    wrong = ~cells.str.fullmatch(r"-?\d+").astype(bool)
    if not wrong.any():
        values = cells.astype("int64")
        if allowed is None:
            return values
        wrong = ~values.isin(list(allowed))
        if not wrong.any():
            return values
    row = cells.index[wrong][0]
    expected = "an integer" if allowed is None else f"one of {list(allowed)}"
    raise ValueError(f"{path}, line {row + 2}: {cells.name} has {cells[wrong].iloc[0]!r}, expected {expected}")


def _decisions(table: pd.DataFrame, column: str, path: Path) -> pd.Series:
    categories: dict[str, str | None] = {}
    for text in table[column].unique():
        try:
            categories[text] = harmonise_decision(text)
        except ValueError as error:
            line = int(np.flatnonzero(table[column] == text)[0]) + 2
            raise ValueError(f"{path}, line {line}: {error}") from None
    return pd.Series([categories[text] for text in table[column]], index=table["paper_id"], dtype=object)
