"""A claim check that anything passes is worthless: judges that know nothing must fail every headline claim."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iclr_repro import command_line
from iclr_repro.core._language_model_base import Answer, BaseLanguageModel, OnAnswer, Question, Usage, ignore_answer
from iclr_repro.core.claims import ExperimentResults, Results, Values, claims_of, judge
from iclr_repro.core.experiment import build
from iclr_repro.pairwise_review import claims
from iclr_repro.pairwise_review.data import read_paperlist
from iclr_repro.pairwise_review.experiments import _judged, replay, venues
from support import bare_run

HEADLINE = {claim.id for claim in claims_of(claims) if claim.headline}
SIZES: dict[str, dict[str, Any]] = {
    "recovery": {"n": 200, "runs": 1, "budgets": [4, 8, 16, 32, 64, 128]},
    "selection": {"n": 500, "budgets": [8, 64]},
    "replay": {"data": "synthetic", "num_papers": 500, "runs": 1, "budgets": [4, 8, 16, 32], "judge_aware": 4},
    "selection_bias": {"n": 500, "draws": 40},
}
OTHERS: dict[str, dict[str, Any]] = {
    "identities": {"n": 30, "budget": 40},
    "position_bias": {"n": 60, "budget": 16},
    "text_judge": {"data": "synthetic", "num_papers": 60, "budget": 16, "draws": 50},
    "cost": {"data": "synthetic"},
    "active": {"n": 60, "runs": 1, "budget": 16, "rounds": 2},
    "efficiency": {
        "large": [200, 5000],
        "small": [50, 1000],
        "tokens": 64,
        "pairs": 2,
        "repeats": 2,
        "slow_repeats": 2,
    },
}
Impostor = Callable[[pytest.MonkeyPatch], None]


def random_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tosses a coin for every comparison."""
    rng = np.random.default_rng(0)

    def toss(*args: Any, **kwargs: Any) -> np.ndarray:
        return rng.random(len(args[1])) < 0.5

    monkeypatch.setattr(_judged, "judge_pairs", toss)
    monkeypatch.setattr(
        replay, "prefer_by_scores", lambda scores, judge, first, second, rng: rng.random(len(first)) < 0.5
    )


def shuffled_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compares properly, then hands the strengths to the wrong papers."""
    rng, fit = np.random.default_rng(0), _judged.fit_bradley_terry

    def shuffled(*args: Any, **kwargs: Any) -> Any:
        found = fit(*args, **kwargs)
        rng.shuffle(found.beta)
        return found

    monkeypatch.setattr(_judged, "fit_bradley_terry", shuffled)
    monkeypatch.setattr(replay, "fit_bradley_terry", shuffled)


def position_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefers the paper shown first, almost always, whatever it is."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(_judged, "judge_pairs", lambda merit, first, second, **rest: rng.random(len(first)) < 0.98)
    monkeypatch.setattr(
        replay, "prefer_by_scores", lambda scores, judge, first, second, rng: rng.random(len(first)) < 0.98
    )


Metrics = dict[str, dict[str, Any]]


def measured(folder: Path, sizes: dict[str, dict[str, Any]], *, seeds: int) -> Metrics:
    """Metrics of experiments over seeds."""
    settings = command_line.checked_settings(command_line.compose(["paper=pairwise_review"]))["experiments"]
    metrics: Metrics = {}
    for name, changes in sizes.items():
        experiment = build(name, {**settings[name], **changes})
        results = [experiment.run(bare_run(folder, seed=seed)).metrics for seed in range(seeds)]
        metrics[name] = {metric: np.hstack([result[metric] for result in results]) for metric in results[0]}
    return metrics


def verdicts_of(metrics: Metrics) -> dict[str, str]:
    """Verdicts of all claims, synthetic reviewers passed off as real ones."""
    found = judge(claims_of(claims), Results.from_metrics(metrics, data="real"), "cpu")
    return {one.claim.id: one.check.verdict for one in found}


@pytest.fixture(scope="module")
def real_metrics(tmp_path_factory: pytest.TempPathFactory) -> Metrics:
    return measured(tmp_path_factory.mktemp("real"), SIZES, seeds=5)


@pytest.mark.parametrize("impostor", [random_judge, shuffled_scores, position_judge])
def test_impostors_fail_every_headline_claim(
    impostor: Impostor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impostor(monkeypatch)
    verdicts = verdicts_of(measured(tmp_path, SIZES, seeds=3))
    assert {id: verdicts[id] for id in HEADLINE if verdicts[id] in ("reproduced", "not run")} == {}
    assert verdicts["C6"] != "reproduced"


def test_the_real_judge_passes_every_headline_claim(real_metrics: Metrics) -> None:
    verdicts = verdicts_of(real_metrics)
    assert {id: verdicts[id] for id in HEADLINE} == dict.fromkeys(HEADLINE, "reproduced")


@pytest.fixture(scope="module")
def all_metrics(real_metrics: Metrics, tmp_path_factory: pytest.TempPathFactory) -> Metrics:
    return real_metrics | measured(tmp_path_factory.mktemp("others"), OTHERS, seeds=2)


BAD = [np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("value", BAD)
def test_metrics_that_are_no_numbers_pass_no_claim(value: float, all_metrics: Metrics) -> None:
    bad = {name: dict.fromkeys(metrics, value) for name, metrics in all_metrics.items()}
    assert "reproduced" not in verdicts_of(bad).values()


def test_one_metric_that_is_no_number_passes_no_claim_that_reads_it(
    all_metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[tuple[str, str]] = set()
    get = ExperimentResults.__getitem__

    def recorded(self: ExperimentResults, metric: str) -> Values:
        read.add((self.name, metric))
        return get(self, metric)

    monkeypatch.setattr(ExperimentResults, "__getitem__", recorded)
    tried = set()
    for claim in claims_of(claims):
        read.clear()
        judge([claim], Results.from_metrics(all_metrics), "cpu")
        for experiment, metric in sorted(read & {(e, m) for e, metrics in all_metrics.items() for m in metrics}):
            for value in BAD:
                changed = {**all_metrics, experiment: {**all_metrics[experiment], metric: value}}
                [found] = judge([claim], Results.from_metrics(changed), "cpu")
                assert found.check.verdict != "reproduced", f"{claim.id}: {experiment}: {metric} = {value}"
            tried.add(claim.id)
    assert tried >= HEADLINE | {"C1", "C2", "C6", "C7", "C9", "C10", "C11", "C12", "S1", "S4", "B1", "B2"}


def test_a_rater_that_ignores_the_papers_does_not_make_comparisons_better(
    real_metrics: Metrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    monkeypatch.setattr(_judged, "rate_papers", lambda merit, rng=rng: rng.integers(1, 11, (len(merit), 3)))
    broken = measured(tmp_path, {name: SIZES[name] for name in ("recovery", "selection")}, seeds=5)
    # The comparisons do beat this rater, as a broken baseline always is.
    assert broken["recovery"]["pairwise_minus_rating/m64"].mean() > 0.5
    assert (broken["selection"]["headline_minus_rating/log_mean"] > 0).all()
    assert verdicts_of(real_metrics | broken)["C3"] == "not reproduced"


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "reproduced"),
        ({"judge/is_language_model": 0.0}, "not run"),  # a text regression
        ({"rating/unusable": 20.0, "judge/unreadable": 100.0}, "reproduced"),
        ({"rating/unusable": 21.0}, "not run"),
        ({"rating/unusable": 200.0}, "not run"),
        ({"judge/unreadable": 101.0}, "not run"),
        ({"rating/unusable": np.nan}, "not run"),
        ({"judge/unreadable": np.nan}, "not run"),
    ],
)
def test_only_a_language_model_that_answers_decides_real_venues(change: dict[str, float], verdict: str) -> None:
    metrics = {
        "judge/is_language_model": 1.0,
        "n": 200.0,
        "rating/unusable": 0.0,
        "judge/unreadable": 0.0,
        "judge/comparisons": 900.0,
    }
    table = {
        name: Values(name, np.array([value]), interval=(value, value)) for name, value in (metrics | change).items()
    }
    table["pairwise_minus_rating/mean"] = Values("difference", np.array([5.0]), interval=(1.0, 9.0))
    tables = {name: ExperimentResults(name, table, data="real") for name in ("corl_table", "iclr2023_table")}
    found = {one.claim.id: one.check.verdict for one in judge(claims_of(claims), Results(tables), "paper")}
    assert found["C3p"] == verdict


def venue_list(path: Path, *, seed: int, n: int = 240) -> str:
    """A venue in the form of the real lists: the longer a text the better, and the likelier cited and accepted.

    The best papers share a few institutions and, each in its area, most of their words.
    """
    rng = np.random.default_rng(seed)
    quality = rng.permutation(n)
    rows = []
    for index, rank in enumerate(quality.tolist()):
        share = rank / n
        humans = share + 0.6 * rng.standard_normal() > 0.9
        common = [f"area{index % 5}word{k}" for k in range(12)]
        own = [f"own{rng.integers(300)}" for _ in range(12)]
        words = [common[k] if rng.random() < share else own[k] for k in range(12)]
        institute = rng.integers(3) if rng.random() < share else rng.integers(3, 60)
        rows.append(
            {
                "id": f"p{index}",
                "title": f"Paper {rank:04d}",
                "abstract": " ".join(words),
                "status": "Poster" if humans else "Reject",
                "rating": "5",
                "gs_citation": int(np.expm1(1.0 + 3.0 * share + 0.3 * rng.standard_normal())),
                "aff_unique_norm": f"Institute {institute}",
            }
        )
    path.write_text(json.dumps(rows))
    return str(path)


def rank_of(text: str) -> int:
    return int(text.split("Title: Paper ")[1][:4])


class StandIn(BaseLanguageModel):
    """Compares by the rank that the titles state, by a coin, or by position."""

    def __init__(self, kind: str) -> None:
        self.name, self.usage, self.kind = kind, Usage(), kind

    def identity(self) -> dict[str, Any]:
        return {"model": self.name}

    def answer(self, prompts: Sequence[str], question: Question, on_answer: OnAnswer = ignore_answer) -> list[Answer]:
        preferred = []
        for prompt in prompts:
            first, second = prompt.split("### Manuscript ")[1:]
            coin = zlib.crc32(prompt.encode()) % 2 == 0
            preferred.append({"reads": rank_of(first) > rank_of(second), "coin": coin, "first": True}[self.kind])
        return [Answer(scores=(-0.01, -np.inf) if prefer else (-np.inf, -0.01)) for prefer in preferred]


def judged_tables(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> Results:
    """Tables of generated venues, judged by a model that reads the papers, tosses coins or always says A."""
    monkeypatch.setattr(_judged, "load_language_model", lambda spec, **options: StandIn(kind))
    monkeypatch.setattr(venues, "_budgets", lambda num: [240, 960, num])
    settings = command_line.checked_settings(command_line.compose(["paper=pairwise_review"]))["experiments"]
    tables = {}
    for seed, name in enumerate(("corl_table", "iclr2024_table")):
        changes = {
            "data": "real",
            "papers": venue_list(folder / f"{name}.json", seed=seed),
            "judge": "openai:stand-in",
            "answering": "next_token",
            "comparisons": 3000,
            "rate": False,
            "draws": 100,
        }
        (folder / name).mkdir()
        found = build(name, {**settings["corl_table"], **changes}).run(bare_run(folder / name))
        values = {
            metric: Values(metric, np.array([value], dtype=np.float64), interval=found.intervals.get(metric))
            for metric, value in found.metrics.items()
        }
        tables[name] = ExperimentResults(name, values, data="real")
    return Results(tables)


def on_real_venues(results: Results) -> dict[str, str]:
    ours = [claim for claim in claims_of(claims) if claim.id in ("C5p", "C8p", "C10p", "C11p")]
    return {one.claim.id: one.check.verdict for one in judge(ours, results, "paper")}


def test_a_judge_that_reads_passes_the_claims_on_real_venues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = [replace(paper, id=f"t{paper.id}") for paper in read_paperlist(venue_list(tmp_path / "train.json", seed=9))]
    monkeypatch.setattr(venues, "load_papers", lambda venue, find: train if venue == "iclr2017" else [])
    results = judged_tables(tmp_path, "reads", monkeypatch)
    assert on_real_venues(results) == dict.fromkeys(("C5p", "C8p", "C10p", "C11p"), "reproduced")
    tables = {name: getattr(results, name) for name in ("corl_table", "iclr2024_table")}
    for table, metric, claim in (
        ("corl_table", "pairwise/first_to_last/gain", "C5p"),
        ("iclr2024_table", "pairwise/M240_to_M960/gain", "C5p"),
        ("corl_table", "pairwise/novelty", "C8p"),
        ("iclr2024_table", "human/gini", "C8p"),
        ("corl_table", "pairwise_minus_human/gini/p_value", "C8p"),
        ("iclr2024_table", "pairwise/overlap_human", "C10p"),
        ("iclr2024_table", "pairwise/overlap_human/p_value", "C10p"),
        ("corl_table", "pairwise_minus_text/spearman_citations", "C11p"),
    ):
        bad = Values(metric, np.array([np.nan]), interval=(np.nan, np.nan))
        changed = ExperimentResults(table, {**tables[table].metrics, metric: bad}, data="real")
        assert on_real_venues(Results({**tables, table: changed}))[claim] != "reproduced", metric


@pytest.mark.parametrize("kind", ["coin", "first"])
def test_judges_that_do_not_read_fail_the_claims_on_real_venues(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = [replace(paper, id=f"t{paper.id}") for paper in read_paperlist(venue_list(tmp_path / "train.json", seed=9))]
    monkeypatch.setattr(venues, "load_papers", lambda venue, find: train if venue == "iclr2017" else [])
    verdicts = on_real_venues(judged_tables(tmp_path, kind, monkeypatch))
    assert set(verdicts.values()) <= {"not reproduced", "inconclusive"}


def test_claims_on_real_venues_need_a_language_model() -> None:
    text = {"judge/is_language_model": Values("x", np.array([0.0]))}
    tables = {name: ExperimentResults(name, text, data="real") for name in ("corl_table", "iclr2024_table")}
    assert set(on_real_venues(Results(tables)).values()) == {"not run"}


def test_every_headline_claim_is_tested() -> None:
    assert {"C3", "C4", "C5", "C8"} == HEADLINE
