"""The shipped papers and LLM scores, and how other venues are read.

Source: sheet "Data".
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from iclr_repro.core.data import DataError, locate
from iclr_repro.pairwise_review.papers import TIERS, Paper, check_papers
from iclr_repro.pairwise_review.simulator import simulate_papers

Find = Callable[[str], Path]

VENUES = ("corl2023", "iclr2017", "iclr2018", "emnlp2023_meta", "iclr2021_meta")
_NOT_ACCEPTED = ("reject", "withdraw", "active", "workshop", "invite to workshop")
# ICLR 2023 calls its orals and spotlights the top 5 % and the top 25 %.
_TIER_OF = {"top-5%": "oral", "top-25%": "spotlight", **{tier: tier for tier in TIERS}}
_ASPECTS = ("soundness", "presentation", "contribution", "originality", "quality", "clarity", "significance")
_MISSING_ASPECT = 2.5  # middle of 1 to 4 (sheet, replay experiment)


def load_papers(venue: str, *, find: Find = locate) -> list[Paper]:
    """Load the papers of one of `VENUES`.

    Raises:
        ValueError: no such venue.
        DataError: the file is missing or damaged.
    """
    if venue not in VENUES:
        raise ValueError(f"venue must be one of {', '.join(VENUES)}, got {venue!r}")
    papers = [_paper(row) for row in _rows(find(f"pairwise_review/{venue}.jsonl.gz"))]
    check_papers(papers)
    return papers


def _paper(row: Mapping[str, Any]) -> Paper:
    status = str(row["status"])
    citations = row.get("citations")
    institutions = row.get("institutions", row.get("author_affiliations", ()))
    return Paper(
        id=row["id"],
        title=row["title"],
        abstract=row.get("abstract") or "",
        area=row.get("primary_area") or None,
        status=status,
        accepted=not any(word in status.lower() for word in _NOT_ACCEPTED),
        tier=next((tier for word, tier in _TIER_OF.items() if word in status.lower()), None),
        ratings=tuple(float(rating) for rating in row.get("ratings", ())),
        citations=None if citations is None or citations < 0 else int(citations),
        institutions=tuple(dict.fromkeys(institutions)),
    )


def read_paperlist(path: str | Path) -> list[Paper]:
    """Read a venue of github.com/papercopilot/paperlists (`<venue>/<venue><year>.json`, one JSON list).

    Raises:
        DataError: the file is missing or of another form.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        papers = [_listed(row) for row in rows]
        check_papers(papers)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error}): get <venue>/<venue><year>.json of github.com/papercopilot/paperlists"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no list of papers of paperlists: {error!r}") from error
    return papers


def _listed(row: Mapping[str, Any]) -> Paper:
    split = re.compile(r"\s*;\s*")

    def parts(field: str) -> list[str]:
        return [part for part in split.split(str(row.get(field) or "")) if part]

    citations = int(row.get("gs_citation", -1))
    return _paper(
        {
            "id": row["id"],
            "title": row["title"],
            "abstract": row.get("abstract", ""),
            "primary_area": str(row.get("primary_area") or "").strip(),
            "status": row["status"],
            "ratings": [float(part) for part in parts("rating")],
            "citations": citations,
            "institutions": parts("aff_unique_norm"),
        }
    )


def add_full_texts(papers: Sequence[Paper], path: str | Path) -> list[Paper]:
    """Return the papers with their full texts from a file of JSON lines, `{"id": ..., "text": ...}` each.

    Papers that the file lacks stay as they are; rows of other papers are not used.

    Raises:
        DataError: the file is missing, a line is of another form, an id occurs twice, or no paper is in it.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            lines = file.readlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): expected JSON lines with id and text") from error
    texts: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not (isinstance(row["id"], str) and isinstance(row["text"], str)) or row["id"] in texts:
                raise ValueError("id and text must be strings, and each id occur once")
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}, line {number} is no full text ({error!r}): expected a JSON object with id and text"
            ) from error
        texts[row["id"]] = row["text"]
    if not any(paper.id in texts for paper in papers):
        raise DataError(f"{path} has no text of the {len(papers)} papers, e.g. of {papers[0].id!r}")
    return [replace(paper, text=texts.get(paper.id, paper.text)) for paper in papers]


def known_citations(papers: Sequence[Paper]) -> list[Paper]:
    """Return the papers whose citations are known (198 of the 199 of CoRL 2023, the paper's n)."""
    return [paper for paper in papers if paper.citations is not None]


def mean_ratings(papers: Sequence[Paper]) -> np.ndarray:
    """Return [n] mean human ratings, 0 without any (as the reference values do)."""
    return np.array([np.mean(paper.ratings) if paper.ratings else 0.0 for paper in papers])


@dataclass(frozen=True, eq=False)
class ReviewerScores:
    """Real LLM reviewers of one venue.

    Attributes:
        ids: of the papers.
        human: [n] mean human rating.
        judges: names of the K configurations.
        overall: [K, n] overall ratings.
        combined: [K, n] overall + 0.01 times the sum of the seven aspect scores, 2.5 for a missing one.
    """

    ids: tuple[str, ...]
    human: np.ndarray
    judges: tuple[str, ...]
    overall: np.ndarray
    combined: np.ndarray

    def head(self, n: int) -> ReviewerScores:
        """Return the first n papers."""
        return ReviewerScores(self.ids[:n], self.human[:n], self.judges, self.overall[:, :n], self.combined[:, :n])


def load_reviewer_scores(*, find: Find = locate) -> ReviewerScores:
    """Load six real LLM reviewer configurations on 500 papers of ICLR 2022.

    Raises:
        DataError: the file is missing or damaged.
    """
    rows = _rows(find("pairwise_review/iclr2022_llm_reviews.jsonl.gz"))
    judges = tuple(sorted(rows[0]["llm"]))
    overall = np.array([[row["llm"][judge]["overall"] for row in rows] for judge in judges], dtype=np.float64)
    aspects = np.array(
        [[sum(_aspect(row["llm"][judge].get(name)) for name in _ASPECTS) for row in rows] for judge in judges]
    )
    return ReviewerScores(
        ids=tuple(row["id"] for row in rows),
        human=np.array([np.mean(row["human_ratings"]) for row in rows]),
        judges=judges,
        overall=overall,
        combined=overall + 0.01 * aspects,
    )


def _aspect(value: float | None) -> float:
    return _MISSING_ASPECT if value is None else float(value)


def simulate_reviewer_scores(n: int, *, rng: np.random.Generator, num_judges: int = 6) -> ReviewerScores:
    """Generate reviewers with means up to two points apart and noises of their own, for want of real ones."""
    quality = rng.standard_normal(n)
    centre = 5.0 + rng.uniform(-1.0, 1.0, size=(num_judges, 1))
    latent = centre + 0.6 * quality + rng.uniform(0.6, 1.2, size=(num_judges, 1)) * rng.standard_normal((num_judges, n))
    overall = np.clip(np.rint(latent), 1, 10)
    aspects = np.clip(np.rint(2.5 + 0.4 * (latent - centre) + 0.5 * rng.standard_normal(latent.shape)), 1, 4)
    return ReviewerScores(
        ids=tuple(f"sim{index:05d}" for index in range(n)),
        human=5.0 + quality + 0.8 * rng.standard_normal(n),
        judges=tuple(f"judge {index}" for index in range(num_judges)),
        overall=overall,
        combined=overall + 0.01 * 7 * aspects,
    )


_WORDS = 400


def simulate_text_papers(n: int, *, rng: np.random.Generator, prefix: str) -> list[Paper]:
    """Generate papers whose citations depend on some of their words; for want of real ones."""
    simulated = simulate_papers(n, rng=rng)
    effect = np.random.default_rng(0).standard_normal(_WORDS) * 0.4  # the same words count in every venue
    papers = []
    for index, base in enumerate(simulated.as_papers()):
        words = rng.integers(_WORDS, size=60)
        log_citations = np.log1p(simulated.citations[index]) + effect[words].sum() / np.sqrt(10)
        papers.append(
            Paper(
                id=f"{prefix}{index:05d}",
                title=" ".join(f"word{word}" for word in words[:6]),
                abstract=" ".join(f"word{word}" for word in words[6:]),
                area=base.area,
                status="Oral" if index % 6 == 0 else "Poster" if index % 2 else "Reject",
                accepted=index % 6 == 0 or index % 2 == 1,
                tier="oral" if index % 6 == 0 else "poster" if index % 2 else None,
                ratings=tuple(np.clip(np.rint(5 + simulated.quality[index] + rng.standard_normal(3)), 1, 10)),
                citations=max(0, round(float(np.expm1(log_citations)))),
                institutions=base.institutions,
            )
        )
    return papers


def _rows(path: Path) -> list[dict[str, Any]]:
    # Split on "\n" only: abstracts hold other line separators.
    text = gzip.decompress(path.read_bytes()).decode("utf-8")
    return [json.loads(line) for line in text.split("\n") if line]
