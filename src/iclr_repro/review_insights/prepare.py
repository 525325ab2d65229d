"""Recipes: from the bytes of the public originals to the content of our data files (see `iclr_repro.core.data`)."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence


def iclr2020_reviews(reviews: bytes) -> bytes:
    """Make `iclr2020_reviews.csv` from `2020.csv` of mlech26l/iclr-analysis: same rows, columns in our order.

    The original writes experience, thoroughness and n_words as floats ("2.0"); all are whole.
    """
    columns = ("paper_id", "review_id", "initial_rating", "rating", "experience", "thoroughness", "n_words")
    rows = ([row["paper_id"], row["review_id"], *_whole(row[name] for name in columns[2:])] for row in _read(reviews))
    return _csv(columns, rows)


def iclr2021_snapshots(before: bytes, after: bytes) -> bytes:
    """Make `iclr2021_snapshots.csv` from the two captures of evanzd/ICLR2021-OpenReviewData, sorted by paper id.

    Each capture has one row a paper with its ratings as floats in the columns "0" to "5", empty beyond the last
    review. In `before` (`ratings.20201111.tsv`) the paper id is the first, unnamed column; `after` (`ratings.tsv`) has
    the columns paper_id and decision.
    """
    ratings_before = {row[""]: _ratings(row) for row in _read(before, delimiter="\t")}
    rows_after = {row["paper_id"]: row for row in _read(after, delimiter="\t")}
    if ratings_before.keys() != rows_after.keys():
        raise ValueError(f"{len(ratings_before.keys() ^ rows_after.keys())} papers are in only one of the two captures")
    columns = ("paper_id", "ratings_20201111", "ratings_final", "decision")
    rows = ([paper, ratings_before[paper], _ratings(row), row["decision"]] for paper, row in sorted(rows_after.items()))
    return _csv(columns, rows)


def _ratings(row: dict[str, str]) -> str:
    return ";".join(_whole(row[column] for column in "012345" if row[column]))


def _whole(numbers: Iterable[str]) -> list[str]:
    """Rewrite numbers without their decimal point; a fraction is an error, never cut off."""
    values = [float(number) for number in numbers]
    if fractions := [value for value in values if not value.is_integer()]:
        raise ValueError(f"expected whole numbers, found {fractions}")
    return [str(int(value)) for value in values]


def _read(raw: bytes, *, delimiter: str = ",") -> Iterator[dict[str, str]]:
    return csv.DictReader(io.StringIO(raw.decode("utf-8"), newline=""), delimiter=delimiter)


def _csv(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8")
