"""What experiments on years and threads accept, and the authors' files in the place of the captures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iclr_repro.core.claims import Results, claims_of, judge
from iclr_repro.core.data import MissingDataError
from iclr_repro.core.experiment import ParameterError, build
from iclr_repro.core.used_files import recording
from iclr_repro.review_insights import claims
from iclr_repro.review_insights.experiments import Disagreement, Rankings, ScoreChanges, _years
from score_pairs import score_pairs
from support import bare_run

PACKAGE = "iclr_repro.review_insights.experiments"
SHARED: dict[str, Any] = {
    "data": "real",
    "years": [2024, 2025],
    "draws": 20,
    "official_dir": None,
    "max_trace_score": None,
    "decisions_dir": None,
}


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """Files of 40 papers with three reviews each: one rises, one falls in every tenth paper, trace scores 0 to 2."""
    for year in (2024, 2025):
        papers = {
            f"p{number:02d}": {
                "1": {"rating": "5;6", "tracing_score": 0},
                "2": {"rating": "6;5" if number % 10 == 0 else "3;3", "tracing_score": 1},
                "3": {"rating": "3;5" if number % 4 == 0 else "8;8", "tracing_score": 2},
            }
            for number in range(40)
        }
        (tmp_path / f"iclr{year}_threshold6_40_reviewers.json").write_text(json.dumps(papers))
        decisions = ("Accept (Poster)" if number % 3 == 0 else "Reject" for number in range(40))
        rows = [f"p{number:02d},{decision}" for number, decision in enumerate(decisions)]
        (tmp_path / f"iclr{year}_decisions.csv").write_text("\n".join(["paper_id,decision", *rows]) + "\n")
    return tmp_path


def problem(name: str, **values: Any) -> str:
    with pytest.raises(ParameterError) as caught:
        build("tried", {"_target_": f"{PACKAGE}.{name}", **values})
    return str(caught.value)


def test_official_years_without_the_files_name_the_parameter(tmp_path: Path) -> None:
    experiment = build("tried", {"_target_": f"{PACKAGE}.ScoreChanges", **SHARED})
    with pytest.raises(ValueError, match=r"no public capture of \[2025\]; set official_dir to a folder with"):
        experiment.run(bare_run(tmp_path))


@pytest.mark.parametrize("name", ["official_dir", "decisions_dir"])
def test_folders_must_exist(name: str, tmp_path: Path) -> None:
    message = problem("Disagreement", **{**SHARED, "official_dir": str(tmp_path), name: str(tmp_path / "no")})
    assert f"{name} is {str(tmp_path / 'no')!r}, which is no folder: put iclr<year>_" in message


def test_decisions_need_the_official_files(tmp_path: Path) -> None:
    values = {**SHARED, "years": [2024], "decisions_dir": str(tmp_path)}
    assert "decisions_dir goes with the authors' files: set official_dir too" in problem("Disagreement", **values)


def test_the_folder_of_threads_must_exist() -> None:
    message = problem("Engagement", threads_dir="nowhere", year=2024, num_papers=20, draws=10)
    assert "threads_dir is 'nowhere', which is no folder: put OpenReview API v2 notes (before/*.json" in message


def test_a_folder_without_the_year_says_what_it_has(official: Path) -> None:
    (official / "iclr2025_threshold6_40_reviewers.json").unlink()
    experiment = Disagreement(**{**SHARED, "years": (2024, 2025), "official_dir": str(official)})
    with pytest.raises(ValueError, match=r"official_dir: .* has files of the years \[2024\], not of \[2025\]"):
        experiment.run(bare_run(official))


def test_a_missing_table_of_decisions_is_named(official: Path) -> None:
    (official / "iclr2025_decisions.csv").unlink()
    folder = str(official)
    experiment = Disagreement(**{**SHARED, "years": (2025,), "official_dir": folder, "decisions_dir": folder})
    with pytest.raises(ValueError, match=r"decisions_dir: no file .*iclr2025_decisions.csv"):
        experiment.run(bare_run(official))


def test_official_files_take_the_place_of_captures_and_are_recorded(official: Path) -> None:
    values = {**SHARED, "years": (2024, 2025), "official_dir": str(official), "decisions_dir": str(official)}
    with recording() as used:
        result = ScoreChanges(**values).run(bare_run(official))
    assert result.data == "real"
    assert result.metrics["iclr2025/reviews/increase/n"] == 40 + 10
    assert result.metrics["iclr2025/reviews/decrease/n"] == 4
    assert result.metrics["iclr2024/papers/increase/accept_rate_all"] == pytest.approx(13 / 38)
    assert {Path(file["name"]).name for file in used} == {path.name for path in official.glob("iclr*")}
    assert "ours (authors' files)" in result.tables["iclr2024_table2_beside_paper"].columns
    strict = ScoreChanges(**{**values, "max_trace_score": 1}).run(bare_run(official))
    assert strict.metrics["iclr2025/reviews/n"] == 80


def test_claims_take_the_years_from_what_was_measured(official: Path) -> None:
    values = {**SHARED, "years": (2024, 2025), "official_dir": str(official), "decisions_dir": str(official)}
    metrics: dict[str, Mapping[str, float | np.ndarray]] = {
        "score_changes": ScoreChanges(**values).run(bare_run(official)).metrics,
        "rankings": Rankings(fractions=(0.05, 0.3), **values).run(bare_run(official)).metrics,
    }
    for other in ("disagreement", "predictors", "order_effect", "tracing", "engagement", "efficiency"):
        metrics[other] = {}
    checks = {one.claim.id: one.check for one in judge(claims_of(claims), Results.from_metrics(metrics), "paper")}
    assert checks["R1"].verdict == "not run"
    assert "comes from the authors' files" in checks["R1"].note
    assert {part.name.split("/")[0] for part in checks["R1p"].parts} == {"iclr2024", "iclr2025"}
    assert checks["R1p"].verdict == "not reproduced"
    assert {part.name.split("/")[0] for part in checks["R12"].parts} == {"iclr2024", "iclr2025"}
    assert "measured no 'iclr2020/disagreement/overall/relative_change'" in checks["R7"].note


def test_all_years_are_real_or_all_generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[int] = []

    def load(year: int, **_: Any) -> Any:
        loaded.append(year)
        if year == 2021:
            raise MissingDataError("not here")
        return score_pairs(([5], [6]))

    monkeypatch.setattr(_years, "load_scores", load)
    years = _years.load_years("auto", bare_run(tmp_path), dated=[2020], final=[2021])
    assert loaded == [2020, 2021]
    assert years.kind == "synthetic"
    assert years.dated[2020].year == 2020
    assert years.final[2021].papers["decision"].isin(["poster", "reject", "withdrawn"]).all()
    assert years.final[2021].dropped["unequal_counts"] > 0


def test_the_final_scores_of_2023_are_for_papers_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {(year, after): score_pairs(([5], [6])) for year in (2021, 2023) for after in (None, "final")}
    monkeypatch.setattr(_years, "load_scores", lambda year, after=None: made[year, after])
    years = _years.load_years("real", bare_run(tmp_path), dated=[2021, 2023], final=[2021, 2023])
    assert years.dated == {2021: made[2021, None], 2023: made[2023, None]}
    assert years.final == {2021: made[2021, None], 2023: made[2023, "final"]}
    assert years.heading(2023) == "ICLR 2023 (reviews to 20 Nov, papers to final)"
    assert years.heading(2026) == "ICLR 2026 (to 22 Nov)"


@pytest.mark.parametrize("data", ["synthetic", "real"])
def test_a_result_says_what_it_was_measured_on(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = _years.load_years("synthetic", bare_run(tmp_path), final=[2021]).final[2021]
    monkeypatch.setattr(_years, "load_scores", lambda year, after=None: made)
    values = {**SHARED, "data": data, "years": (2021,)}
    result = Rankings(fractions=(0.1,), **values).run(bare_run(tmp_path))
    assert result.data == data
    assert result.metrics["iclr2021/churn/0.1/n"] == round(0.1 * len(made.papers))
