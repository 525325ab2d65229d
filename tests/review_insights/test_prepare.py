import csv
import gzip
import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from iclr_repro.core.catalogue import catalogue
from iclr_repro.review_insights.prepare import iclr2020_reviews, iclr2021_snapshots

REVIEWS_2020 = b"""\
experience,initial_rating,n_words,paper_id,rating,review_id,thoroughness
2.0,3,287.0,paperB,6,review1,3.0
0.0,8,90.0,paperA,8,review2,1.0
"""
BEFORE_2021 = b"""\
\t0\t1\t2\t3\t4\t5
paperB\t6.0\t10.0\t5.0\t\t\t
-paperA\t4.0\t\t\t\t\t
_paperC\t\t\t\t\t\t
"""
AFTER_2021 = b"""\
paper_id\t0\t1\t2\t3\t4\t5\tdecision
-paperA\t5.0\t\t\t\t\t\tUnknown
_paperC\t3.0\t\t\t\t\t\tReject
paperB\t7.0\t9.0\t5.0\t\t\t\tAccept (Poster)
"""
FOLDERS = os.environ.get("ICLR_REPRO_DATA", str(Path(__file__).parents[3] / "shared" / "data")).split(os.pathsep)


def read_real_file(name: str) -> list[dict[str, str]]:
    for folder in FOLDERS:
        path = Path(folder) / "review_insights" / name
        if path.is_file():
            return list(csv.DictReader(io.StringIO(gzip.decompress(path.read_bytes()).decode(), newline="")))
    pytest.skip(f"no {name} in {', '.join(FOLDERS)}")


def content_sha256(name: str) -> str | None:
    return catalogue("review_insights")[name].content_sha256


def test_2020_keeps_the_order_of_the_reviews_and_drops_decimal_points() -> None:
    assert iclr2020_reviews(REVIEWS_2020) == (
        b"paper_id,review_id,initial_rating,rating,experience,thoroughness,n_words\n"
        b"paperB,review1,3,6,2,3,287\n"
        b"paperA,review2,8,8,0,1,90\n"
    )


def test_2020_refuses_a_fraction() -> None:
    with pytest.raises(ValueError, match=r"expected whole numbers, found \[2\.5\]"):
        iclr2020_reviews(REVIEWS_2020.replace(b"2.0", b"2.5"))


def test_2021_joins_the_captures_by_paper_and_sorts_them() -> None:
    assert iclr2021_snapshots(BEFORE_2021, AFTER_2021) == (
        b"paper_id,ratings_20201111,ratings_final,decision\n"
        b"-paperA,4,5,Unknown\n"
        b"_paperC,,3,Reject\n"
        b"paperB,6;10;5,7;9;5,Accept (Poster)\n"
    )


def test_2021_refuses_captures_of_different_papers() -> None:
    with pytest.raises(ValueError, match="1 papers are in only one of the two captures"):
        iclr2021_snapshots(BEFORE_2021, AFTER_2021.replace(b"_paperC\t3.0\t\t\t\t\t\tReject\n", b""))


# The originals are not at hand in a test. Written back in their form, our rows must have the lengths that the originals
# have at their source, and the recipes must make our files of them.


def test_2020_makes_the_catalogued_file_of_an_original_of_the_published_length() -> None:
    def line(row: Mapping[str, str]) -> str:
        return (
            f"{row['experience']}.0,{row['initial_rating']},{row['n_words']}.0,{row['paper_id']},{row['rating']},"
            f"{row['review_id']},{row['thoroughness']}.0\n"
        )

    rows = read_real_file("iclr2020_reviews.csv.gz")
    original = REVIEWS_2020.splitlines(keepends=True)[0] + "".join(map(line, rows)).encode()
    assert len(original) == 307_750
    content = iclr2020_reviews(original)
    assert hashlib.sha256(content).hexdigest() == content_sha256("iclr2020_reviews.csv.gz")


def test_2021_makes_the_catalogued_file_of_originals_of_the_published_length() -> None:
    def line(row: Mapping[str, str], column: str) -> str:
        cells = [f"{rating}.0" for rating in row[column].split(";") if rating]
        return "\t".join([row["paper_id"], *cells, *[""] * (6 - len(cells))])

    rows = read_real_file("iclr2021_snapshots.csv.gz")
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]  # the originals are not sorted
    before = "".join(f"{line(row, 'ratings_20201111')}\n" for row in shuffled).encode()
    after = "".join(f"{line(row, 'ratings_final')}\t{row['decision']}\n" for row in shuffled).encode()
    before = BEFORE_2021.splitlines(keepends=True)[0] + before
    after = AFTER_2021.splitlines(keepends=True)[0] + after
    assert (len(before), len(after)) == (87_002, 116_167)
    content = iclr2021_snapshots(before, after)
    assert hashlib.sha256(content).hexdigest() == content_sha256("iclr2021_snapshots.csv.gz")
