"""The shipped files: what the sheet says of them. Skipped where they are not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from iclr_repro.core.data import DataError, is_present
from iclr_repro.pairwise_review import embed_texts, impact, load_papers, load_reviewer_scores, read_paperlist
from iclr_repro.pairwise_review.data import VENUES, known_citations, mean_ratings
from iclr_repro.pairwise_review.papers import citation_counts

NAMES = (*VENUES, "iclr2022_llm_reviews")
here = pytest.mark.skipif(
    not all(is_present(f"pairwise_review/{name}.jsonl.gz") for name in NAMES),
    reason="the files are not there (ICLR_REPRO_DATA)",
)


@here
def test_corl_2023_has_the_numbers_of_the_sheet() -> None:
    papers = load_papers("corl2023")
    known = known_citations(papers)
    assert (len(papers), len(known)) == (199, 198)
    found = {
        tier: impact(citation_counts([paper for paper in known if paper.tier == tier])) for tier in ("oral", "poster")
    }
    assert (found["oral"].known, round(found["oral"].mean, 2), found["oral"].median) == (33, 89.21, 27)
    assert (found["poster"].known, round(found["poster"].mean, 2), found["poster"].median) == (165, 32.41, 11)
    correlation = scipy.stats.spearmanr(mean_ratings(known), citation_counts(known)).statistic
    assert correlation == pytest.approx(0.226, abs=1e-3)
    assert all(paper.accepted for paper in papers)
    embedding = embed_texts(papers)
    assert embedding.shape == (199, 128)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1)


@here
def test_iclr_2018_has_the_numbers_of_the_sheet() -> None:
    known = known_citations(load_papers("iclr2018"))
    assert len(known) == 955
    assert scipy.stats.spearmanr(mean_ratings(known), citation_counts(known)).statistic == pytest.approx(
        0.611, abs=1e-3
    )
    expected = {"Oral": (23, 1312, 452), "Poster": (309, 589, 204), "Workshop": (87, 379, 50), "Reject": (478, 114, 5)}
    for status, (number, mean, median) in expected.items():
        found = impact(citation_counts([paper for paper in known if paper.status == status]))
        assert (found.known, round(found.mean), found.median) == (number, mean, median)
    assert {paper.status for paper in known if paper.accepted} == {"Oral", "Poster"}


@here
def test_other_venues_load() -> None:
    assert len(load_papers("iclr2017")) == 490
    emnlp, iclr2021 = load_papers("emnlp2023_meta"), load_papers("iclr2021_meta")
    assert (len(emnlp), sum(not paper.accepted for paper in emnlp)) == (2020, 9)
    assert (len(iclr2021), sum(bool(paper.accepted) for paper in iclr2021)) == (3014, 860)
    assert sum(paper.tier == "oral" for paper in iclr2021) == 53


@here
def test_reviewer_scores_load() -> None:
    scores = load_reviewer_scores()
    assert scores.overall.shape == (6, 500)
    assert len(scores.judges) == 6
    assert (scores.combined - scores.overall).min() >= 0.07 - 1e-9
    assert (scores.combined - scores.overall).max() <= 0.28 + 1e-9
    assert np.ptp(scores.overall.mean(axis=1)) > 2  # judges are calibrated differently


def test_unknown_venue_is_refused() -> None:
    with pytest.raises(ValueError, match="venue must be one of corl2023"):
        load_papers("icml2023")


def test_lists_of_paperlists_are_read(tmp_path: Path) -> None:
    row = {
        "id": "a",
        "title": "T",
        "abstract": "Abstract.",
        "keywords": "one;two",
        "primary_area": "theory",
        "status": "Spotlight",
        "rating": "6;8",
        "gs_citation": -1,
        "aff_unique_norm": "MIT;Stanford;MIT",
    }
    path = tmp_path / "venue2023.json"
    path.write_text(json.dumps([row, {**row, "id": "b", "primary_area": "", "status": "Reject", "gs_citation": 4}]))
    one, other = read_paperlist(path)
    assert (one.tier, one.accepted, one.citations, one.area) == ("spotlight", True, None, "theory")
    assert one.ratings == (6.0, 8.0)
    assert one.institutions == ("MIT", "Stanford")
    assert (other.tier, other.accepted, other.citations, other.area) == (None, False, 4, None)
    path.write_text('{"id": 1}')
    with pytest.raises(DataError, match="no list of papers of paperlists"):
        read_paperlist(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_paperlist(tmp_path / "none.json")
