"""Loading conference years for the experiments: the public captures, the authors' files, or generated scores."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import pandas as pd

from iclr_repro.core.data import DATA_CHOICE, DataChoice, real_or_synthetic
from iclr_repro.core.experiment import DataKind, parameter
from iclr_repro.core.rundir import Run
from iclr_repro.review_insights.bootstrap import Bootstrap, bootstrap
from iclr_repro.review_insights.data import YEARS, load_scores, read_decisions, read_score_table
from iclr_repro.review_insights.openreview import official_pairs, read_official
from iclr_repro.review_insights.scores import SCALES, ScorePairs
from iclr_repro.review_insights.synthetic import add_capture_columns, generate_score_table

_OFFICIAL_HELP = "iclr<year>_threshold6_*_reviewers.json (folder dataset/ of github.com/papercopilot/iclr-insights)"
_OFFICIAL_FILES = "iclr20[0-9][0-9]_*_reviewers.json"
_SYNTHETIC_PAPERS = 300
_WINDOWS = {
    2020: "to final",
    2021: "to final",
    2023: "reviews to 20 Nov, papers to final",
    2024: "to 3 Dec",
    2026: "to 22 Nov",
}

_ByYear = tuple[dict[int, ScorePairs], dict[int, ScorePairs]]


class LoadedYears(NamedTuple):
    """Conference years, all real or all generated.

    Attributes:
        dated: year -> scores with the reviewers in the same order before and after.
        final: year -> the same, but ICLR 2023 up to its final scores, which are sorted: for paper-level statistics.
        kind: "real" or "synthetic".
        official: the years that come from the authors' files.
    """

    dated: dict[int, ScorePairs]
    final: dict[int, ScorePairs]
    kind: DataKind
    official: frozenset[int]

    def source_of(self, year: int) -> str:
        """Name where a year's scores come from, in a few words."""
        if self.kind == "synthetic":
            return "generated"
        return "authors' files" if year in self.official else "independent capture"

    def heading(self, year: int) -> str:
        """Name a year in a table, with the window of its capture."""
        captured = self.kind == "real" and year not in self.official
        return f"ICLR {year} ({_WINDOWS[year] if captured else self.source_of(year)})"


@dataclass(frozen=True, kw_only=True)
class OfYears:
    """The parameters of experiments on several conference years."""

    uses_seeds: ClassVar[bool] = False

    data: DataChoice = parameter(DATA_CHOICE)
    years: tuple[int, ...] = parameter("ICLR years", choices=[2020, 2021, 2023, 2024, 2025, 2026])
    draws: int = parameter("bootstrap draws over papers", low=1, high=100_000)
    official_dir: str | None = parameter(
        "folder with the authors' files iclr<year>_threshold6_*_reviewers.json, used for their years; null: captures"
    )
    max_trace_score: int | None = parameter(
        "leave out reviews of the authors' files with a higher trace score (1 is strict); null: keep all", low=-1
    )
    decisions_dir: str | None = parameter(
        "folder with iclr<year>_decisions.csv (paper_id,decision) for the authors' files; null: no decisions"
    )

    def __post_init__(self) -> None:
        """Refuse folders that do not exist."""
        require_folder("official_dir", self.official_dir, _OFFICIAL_HELP)
        require_folder("decisions_dir", self.decisions_dir, "iclr<year>_decisions.csv (paper_id,decision)")
        if self.decisions_dir is not None and self.official_dir is None:
            raise ValueError("decisions_dir goes with the authors' files: set official_dir too")

    def load(self, run: Run, *, dated: Sequence[int] = (), final: Sequence[int] = ()) -> LoadedYears:
        """Load years, those of the authors' files from there; see `load_years`.

        Raises:
            ValueError: a year that neither the public captures nor the authors' files at hand cover.
        """
        years = {*dated, *final}
        official = {}
        uncaptured = sorted(years - set(YEARS))
        if uncaptured and self.official_dir is None and self.data != "synthetic":
            raise ValueError(
                f"years: there is no public capture of {uncaptured}; set official_dir to a folder with {_OFFICIAL_HELP}"
            )
        if self.official_dir is not None and self.data != "synthetic":
            official = self._read_official(Path(self.official_dir), years)
        return load_years(self.data, run, dated=dated, final=final, official=official)

    def _read_official(self, folder: Path, years: Set[int]) -> dict[int, ScorePairs]:
        """Read the authors' files of those of the years that have one."""
        files = {int(path.name[4:8]): path for path in sorted(folder.glob(_OFFICIAL_FILES))}
        missing = sorted(years - set(files) - set(YEARS))
        if missing or not files:
            raise ValueError(
                f"official_dir: {folder} has files of the years {sorted(files)}"
                f"{f', not of {missing}' if missing else ''}; expected {_OFFICIAL_HELP}"
            )
        return {
            year: official_pairs(
                read_official(files[year]),
                year=year,
                decisions=self._read_decisions(year),
                max_trace_score=self.max_trace_score,
            )
            for year in sorted(years & set(files))
        }

    def _read_decisions(self, year: int) -> pd.Series | None:
        if self.decisions_dir is None:
            return None
        path = Path(self.decisions_dir) / f"iclr{year}_decisions.csv"
        if not path.is_file():
            raise ValueError(f"decisions_dir: no file {path}; expected a table with the columns paper_id,decision")
        return read_decisions(path)


def load_years(
    choice: DataChoice,
    run: Run,
    *,
    dated: Sequence[int] = (),
    final: Sequence[int] = (),
    official: Mapping[int, ScorePairs] | None = None,
) -> LoadedYears:
    """Load conference years, all real or all generated.

    Args:
        choice: "auto", "real" or "synthetic", see `core.data.real_or_synthetic`.
        run: gives the random stream of generated years.
        dated: ICLR years for `LoadedYears.dated`.
        final: ICLR years for `LoadedYears.final`.
        official: scores by year that take the place of the captures.
    """
    instead = official or {}

    def real() -> _ByYear:
        first = {year: instead[year] if year in instead else load_scores(year) for year in {*dated, *final} - {2023}}
        if 2023 in dated:
            first[2023] = load_scores(2023)
        last = first | ({2023: load_scores(2023, after="final")} if 2023 in final else {})
        return {year: first[year] for year in dated}, {year: last[year] for year in final}

    def synthetic() -> _ByYear:
        made = {year: _generated_year(run.rng(f"synthetic/{year}"), year) for year in sorted({*dated, *final})}
        return {year: made[year] for year in dated}, {year: made[year] for year in final}

    (first, last), kind = real_or_synthetic(choice, real, synthetic)
    return LoadedYears(first, last, kind, frozenset(instead if kind == "real" else ()))


def bootstrapped(run: Run, year: int, pairs: ScorePairs, draws: int) -> Bootstrap:
    """Bootstrap all statistics of a year; the same draws in every experiment."""
    return bootstrap(pairs, rng=run.rng(f"bootstrap/{year}"), draws=draws)


def title_of(year: int, kind: DataKind) -> str:
    """Name a year in a figure, generated data as such."""
    return f"ICLR {year}" if kind == "real" else f"generated data (in place of ICLR {year})"


def require_folder(name: str, folder: str | None, content: str) -> None:
    """Refuse a folder parameter that names no folder.

    Raises:
        ValueError: saying what should be there.
    """
    if folder is not None and not Path(folder).is_dir():
        raise ValueError(f"{name} is {folder!r}, which is no folder: put {content} into one and give its path, or null")


def _generated_year(rng: np.random.Generator, year: int) -> ScorePairs:
    """Generate scores and read them as a user's table is read, so that the filter and the decisions are run too."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.csv"
        generate_score_table(rng, num_papers=_SYNTHETIC_PAPERS).to_csv(path, index=False)
        pairs = read_score_table(path, scale=SCALES[2024])
    return replace(add_capture_columns(pairs, rng), year=year)
