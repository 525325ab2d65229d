"""The venue's table with an endpoint, its forecast, and synthetic stand-ins."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.openai_server import API_KEY, MODEL, OpenAIServer, Reply, Request, prompt_of, says
from iclr_repro import command_line
from iclr_repro.core.data import DataError
from iclr_repro.core.experiment import ParameterError, Result, build
from iclr_repro.pairwise_review.experiments import venues
from iclr_repro.pairwise_review.hf_judge import HFJudge
from iclr_repro.pairwise_review.prompts import load_template
from support import bare_run

REVIEW = {"summary": "s", "strengths": "s", "weaknesses": "w", "soundness": 3, "presentation": 3, "contribution": 3}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv("OPENAI_API_KEY", API_KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with OpenAIServer(answer) as running:
        yield running


def answer(request: Request) -> Reply:
    """Prefer the longer text, rate everything 6, the third seed 7."""
    prompt = prompt_of(request)
    if "area chair" in prompt:
        return says('{"overall": 6}')
    if "Review the manuscript" in prompt:
        return says(json.dumps({**REVIEW, "overall": 6, "confidence": 4}))
    if request.get("logprobs") and prompt.endswith("Rating:"):
        seven = 0.1 + 0.5 * (len(prompt) % 97) / 97  # of each paper its own
        return says(
            "6", completion_tokens=1, top_logprobs={"6": math.log(0.9 - seven), "7": math.log(seven), "The": -4.0}
        )
    first, second = prompt.split("### Manuscript ")[1:]
    if request.get("logprobs"):
        best = 0.9 if len(first) > len(second) else 0.1
        return says("A", completion_tokens=1, top_logprobs={"A": math.log(best), "B": math.log(1 - best)})
    return says(f"Winner: {'A' if len(first) > len(second) else 'B'}")


def run(name: str, folder: Path, **changes: Any) -> Result:
    settings = command_line.checked_settings(command_line.compose(["paper=pairwise_review"]))["experiments"]
    return build(name, {**settings[name], **changes}).run(bare_run(folder))


def table(folder: Path, server: OpenAIServer | None = None, **changes: Any) -> Result:
    endpoint = {"judge": f"openai:{MODEL}", "base_url": server.base_url} if server else {}
    few = {"data": "synthetic", "num_papers": 20, "comparisons": 300, "draws": 20}
    return run("corl_table", folder, **{**few, **endpoint, **changes})


def test_a_venue_is_judged_and_rated_by_an_endpoint_once(server: OpenAIServer, tmp_path: Path) -> None:
    files = {"answers": str(tmp_path / "answers.sqlite"), "judgements": str(tmp_path / "judgements.jsonl")}
    found = table(tmp_path, server, **files)
    assert found.metrics["judge/comparisons"] == 300
    tokens = (found.metrics[f"judge/{name}_tokens"] for name in ("input", "output"))
    paid = sum(number * price for number, price in zip(tokens, (0.15, 0.6), strict=True)) / 1e6
    assert found.metrics["judge/cost_usd"] == pytest.approx(paid)
    assert found.metrics["rating/tie_share"] == 1.0  # all papers have the same rating
    assert "rating/spearman_citations" not in found.metrics
    assert {"human", "pairwise", "rating", "random"} <= set(found.tables["venue"].index)
    assert len(server.requests) == 300 + 4 * 20
    # The curve ends with all comparisons.
    assert found.metrics["pairwise/M300/mean"] == pytest.approx(found.metrics["pairwise/mean"])
    low, high = found.intervals["pairwise/M300/mean"]
    assert low < high
    again = table(tmp_path, server, **files)
    assert len(server.requests) == 300 + 4 * 20
    assert again.metrics["pairwise/mean"] == found.metrics["pairwise/mean"]


def test_a_dry_run_asks_nothing(server: OpenAIServer, tmp_path: Path) -> None:
    found = table(tmp_path, server, dry_run=True, comparisons=None)
    assert server.requests == []
    assert (found.metrics["forecast/comparisons/calls"], found.metrics["forecast/ratings/calls"]) == (380, 80)
    assert found.metrics["forecast/ratings/cost_usd"] > 0
    assert 0 < found.metrics["forecast/cost_usd"] < found.metrics["forecast/cost_usd_at_most"] < 1
    # The larger the answers, the larger the bill.
    longer = table(tmp_path, server, dry_run=True, comparisons=None, answer_tokens=1000, review_tokens=500)
    added = longer.metrics["forecast/cost_usd"] - found.metrics["forecast/cost_usd"]
    # A review is written once and read once.
    assert added == pytest.approx((380 * 900 * 0.6 + 60 * 100 * (0.6 + 0.15)) / 1e6)


def test_the_most_that_questions_asked_again_can_cost_is_what_they_cost(server: OpenAIServer, tmp_path: Path) -> None:
    again = load_template().again
    server.respond = lambda request: says("Winner: A" if again in prompt_of(request) else "Neither.")
    forecast = table(tmp_path, server, rate=False, dry_run=True).metrics
    found = table(tmp_path, server, rate=False)
    assert found.metrics["judge/asked_again"] == len(server.requests) / 2 == 300
    assert forecast["forecast/asked_again_at_most/calls"] == 300
    characters = sum(len(prompt_of(request)) for request in server.requests if again in prompt_of(request))
    system = 300 * len(load_template().system_message("CoRL 2023"))
    assert forecast["forecast/asked_again_at_most/input_tokens"] == pytest.approx((characters + system) / 4, rel=0.01)
    next_token = table(tmp_path, server, answering="next_token", rate=False, dry_run=True).metrics
    assert next_token["forecast/cost_usd"] == next_token["forecast/cost_usd_at_most"]


def test_the_bill_at_most_is_that_of_the_limits(server: OpenAIServer, tmp_path: Path) -> None:
    found = table(tmp_path, server, dry_run=True).metrics
    # Answers of 300, asked again for 20 more; three reviews of 800, each read once, and a meta-review of 20.
    longer = 300 * 200 * 0.6 + 20 * (3 * 400 * (0.6 + 0.15) + 10 * 0.6)
    again = found["forecast/asked_again_at_most/cost_usd"]
    assert found["forecast/asked_again_at_most/output_tokens"] == 300 * 20
    added = found["forecast/cost_usd_at_most"] - found["forecast/cost_usd"]
    assert added == pytest.approx(again + longer / 1e6)
    next_token = table(tmp_path, server, answering="next_token", dry_run=True).metrics
    assert next_token["forecast/expected_ratings/calls"] == 20
    systems = ("comparisons", "ratings", "expected_ratings")
    assert next_token["forecast/cost_usd"] == pytest.approx(
        sum(next_token[f"forecast/{system}/cost_usd"] for system in systems)
    )


def test_judges_that_run_here_cost_nothing(tmp_path: Path) -> None:
    made = HFJudge.untrained(hidden_size=8, layers=1)
    made._model.save_pretrained(tmp_path / "model")
    made._tokenizer.save_pretrained(tmp_path / "model")
    tokens = {}
    for judge in ("text", "untrained", f"hf:{tmp_path / 'model'}", "local:some-model"):
        found = table(tmp_path, judge=judge, dry_run=True).metrics
        assert found["forecast/cost_usd"] == found["forecast/cost_usd_at_most"] == 0
        tokens[judge.partition(":")[0]] = found["forecast/comparisons/input_tokens"]
    # The model's own tokenizer, a byte a token, and not the estimate of four characters each.
    assert tokens["hf"] == pytest.approx(4 * tokens["untrained"], rel=0.01)


def test_full_texts_are_shown_cut_and_paid_for(server: OpenAIServer, tmp_path: Path) -> None:
    path, text = tmp_path / "texts.jsonl", "1 Introduction\nWe show {length}. " + "more " * 30

    def write(*rows: Any) -> str:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    rows = [{"id": f"p{index}", "text": text if index else text * 100} for index in range(12)]
    options = {"data": "real", "num_papers": None, "comparisons": 100, "rate": False, "budget": 300}
    options["papers"] = listed(tmp_path / "list.json", {"Accept": 8, "Reject": 14})
    plain = table(tmp_path, server, **options, dry_run=True).metrics
    assert (plain["full_texts/n"], plain["truncated/n"]) == (0, 0)
    found = table(tmp_path, server, **options, full_texts=write(*rows, {"id": "of another venue", "text": ""})).metrics
    assert (found["full_texts/n"], found["truncated/n"]) == (12, 1)
    name = "forecast/comparisons/input_tokens"
    characters = sum(len(prompt_of(request)) for request in server.requests)
    system = len(load_template().system_message("CoRL 2023"))
    assert found[name] == pytest.approx((characters + 100 * system) / 4, rel=0.01)
    assert found[name] > plain[name]
    assert any("We show {length}. more" in prompt for prompt in server.prompts)
    for bad, message in (
        (({"id": "p1"},), "line 1 is no full text"),
        ((rows[0], rows[0]), "line 2 is no full text.*each id occur once"),
        (({"id": "p1", "text": None},), "must be strings"),
        (({"id": "q", "text": "a"},), "no text of the 22 papers, e.g. of 'p0'"),
    ):
        with pytest.raises(DataError, match=message):
            table(tmp_path, server, **options, full_texts=write(*bad))
    with pytest.raises(DataError, match="cannot be read"):
        table(tmp_path, server, **options, full_texts=str(tmp_path / "none.jsonl"))
    with pytest.raises(ParameterError, match="reads title and abstract only"):
        table(tmp_path, judge="text", full_texts=str(path))
    assert len(server.requests) == 100


def listed(path: Path, statuses: dict[str, int], *, citations: int | None = None) -> str:
    """A file of paperlists with so many papers of each status, some with unknown citations."""
    every = [status for status, number in statuses.items() for _ in range(number)]
    rows = [
        {
            "id": f"p{index}",
            "title": f"Title of paper {index}",
            "abstract": "word " * (index + 1),
            "status": status,
            "rating": "5;6",
            "gs_citation": citations if citations is not None else (-1 if index % 4 == 0 else index),
            "aff_unique_norm": f"Institute {index % 5};Institute {index % 3}",
        }
        for index, status in enumerate(every)
    ]
    path.write_text(json.dumps(rows))
    return str(path)


def test_a_list_of_main_and_findings_is_judged(server: OpenAIServer, tmp_path: Path) -> None:
    statuses = {"Long Main": 6, "Short Main": 3, "Long Findings": 8, "Short Findings": 4, "Reject": 1}
    options = {"data": "real", "papers": listed(tmp_path / "emnlp.json", statuses), "venue": "EMNLP 2023"}
    found = table(tmp_path, server, **options, num_papers=None, comparisons=200)
    assert (found.metrics["n"], found.metrics["accepted/n"], found.metrics["unknown_citations/n"]) == (22, 9, 6)
    assert list(found.tables["tiers"].index) == ["main", "findings"]
    assert found.tables["tiers"]["n"].tolist() == [9, 12]
    assert found.metrics["judge/is_language_model"] == 1.0
    assert found.intervals["pairwise/median"][0] < found.intervals["pairwise/median"][1]
    assert "pairwise/novelty" not in found.intervals
    found.check()


def test_a_list_with_top_shares_has_their_tiers(server: OpenAIServer, tmp_path: Path) -> None:
    statuses = {"Top-5%": 2, "Top-25%": 3, "Poster": 6, "Reject": 15}
    options = {"data": "real", "papers": listed(tmp_path / "iclr.json", statuses), "venue": "ICLR 2023"}
    found = table(tmp_path, server, **options, num_papers=None, comparisons=200)
    assert found.tables["tiers"]["n"].to_dict() == {"oral": 2, "spotlight": 3, "poster": 6}
    assert table(tmp_path).metrics["judge/is_language_model"] == 0.0  # the text regression


@pytest.mark.parametrize(
    ("statuses", "citations", "message"),
    [
        ({"Oral": 3, "Accept": 5, "Reject": 14}, None, "5 of 8 accepted papers are in no tier.*'Accept'"),
        ({"Accept": 22}, None, "humans chose 0 of 22"),
        ({"Poster": 22}, None, "humans chose 22 of 22"),
        ({"Poster": 1, "Reject": 21}, None, "humans chose 1 of 22"),
        ({"Poster": 8, "Reject": 14}, -1, "none of the 8 papers that humans chose"),
    ],
)
def test_lists_that_cannot_be_compared_are_refused_before_a_call(
    server: OpenAIServer, tmp_path: Path, statuses: dict[str, int], citations: int | None, message: str
) -> None:
    papers = listed(tmp_path / "list.json", statuses, citations=citations)
    with pytest.raises(ValueError, match=message):
        table(tmp_path, server, data="real", papers=papers, num_papers=None)
    assert server.requests == []


def test_budgets_whose_best_have_no_known_citations_are_left_out(
    server: OpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(venues, "_budgets", lambda num: [60, num])
    path = Path(listed(tmp_path / "list.json", {"Poster": 8, "Reject": 14}))
    rows = json.loads(path.read_text())
    for row in rows[8:]:  # the longest, which the judge prefers
        row["gs_citation"] = -1
    path.write_text(json.dumps(rows))

    def prefer_longer(request: Request) -> Reply:
        first, second = (text.count("word ") for text in prompt_of(request).split("### Manuscript ")[1:])
        return says(f"Winner: {'A' if first > second else 'B'}")

    server.respond = prefer_longer
    found = table(tmp_path, server, data="real", papers=str(path), num_papers=None, comparisons=None, rate=False)
    found.check()
    assert "pairwise/M462/mean" not in found.metrics
    assert "citations" not in found.figures or "pairwise/M60/mean" in found.metrics
    assert "462 comparisons are left out of the curve: none of the 8 papers" in caplog.text
    assert found.metrics["human/mean"] > 0


def test_budgets_too_small_for_a_fit_without_penalty_are_left_out(
    server: OpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(venues, "_budgets", lambda num: [5, num])
    # Always the first: with all ordered pairs everyone beats everyone.
    server.respond = lambda request: says("Winner: A")
    found = table(tmp_path, server, comparisons=None, penalty=0.0, rate=False)
    found.check()
    assert "pairwise/M5/mean" not in found.metrics
    assert "5 comparisons are left out of the curve" in caplog.text
    assert "pairwise/M380/mean" in found.metrics


def test_a_list_without_tiers_has_no_table_of_them(server: OpenAIServer, tmp_path: Path) -> None:
    papers = listed(tmp_path / "list.json", {"Accept": 8, "Reject": 14})
    # Nor does it state areas.
    assert set(table(tmp_path, server, data="real", papers=papers, num_papers=None).tables) == {"venue", "traits"}


def test_areas_are_controlled_where_the_list_states_them(server: OpenAIServer, tmp_path: Path) -> None:
    path = Path(listed(tmp_path / "list.json", {"Accept": 8, "Reject": 14}))
    rows = [{**row, "primary_area": "abc"[index % 3]} for index, row in enumerate(json.loads(path.read_text()))]
    path.write_text(json.dumps(rows))
    found = table(tmp_path, server, data="real", papers=str(path), num_papers=None)
    # The longest papers win, and they are the last ones, which humans rejected.
    assert found.metrics["pairwise/overlap_human"] < 0.5
    assert found.metrics["controlled/area/largest_difference"] == 0
    assert found.metrics["controlled/area/largest_shift"] == 0
    assert found.tables["areas"].index.tolist() == ["a", "b", "c"]
    assert "controlled" in found.tables["venue"].index
    assert found.metrics["judge/coefficient/length"] > 0
    assert {"areas", "citations"} <= set(found.figures)


def test_answers_by_next_token_bring_a_rating_almost_without_ties(server: OpenAIServer, tmp_path: Path) -> None:
    found = table(tmp_path, server, answering="next_token")
    assert len(server.requests) == 300 + (4 + 1) * 20
    assert {"rating", "rating_expected"} <= set(found.tables["venue"].index)
    assert found.metrics["rating_expected/unusable"] == 0
    assert found.metrics["rating/tie_share"] == 1.0
    assert found.metrics["rating_expected/tie_share"] < 0.3
    low, high = found.intervals["pairwise_minus_rating_expected/mean"]
    assert low <= found.metrics["pairwise_minus_rating_expected/mean"] <= high
    rows = found.tables["venue"]["mean"]
    assert found.metrics["pairwise_minus_rating_expected/mean"] == pytest.approx(
        rows["pairwise"] - rows["rating_expected"]
    )
    assert "shrunk" in rows.index  # beside the de-biased one
    assert not any("compare" in message["content"] for one in server.requests for message in one["messages"])
    assert all(request["max_tokens"] <= 2 for request in server.requests if request.get("logprobs"))


def test_a_local_model_compares_and_rates_by_next_token(tmp_path: Path) -> None:
    rated = table(tmp_path, judge="untrained", comparisons=25, budget=20)
    assert "rating" not in rated.tables["venue"].index
    assert rated.metrics["rating_expected/tie_share"] == 0
    assert 0 < rated.metrics["judge/first_just_read"] < 1
    found = table(tmp_path, judge="untrained", comparisons=25, budget=20, rate=False)
    assert found.metrics["judge/comparisons"] == 25
    assert "judge/first_just_read" not in found.metrics  # all of them were in the file
    for unknown in ("oracle", "hf:", "openai:", "text:x"):
        with pytest.raises(ParameterError, match="judge must be text, untrained"):
            table(tmp_path, judge=unknown, dry_run=True)


@pytest.mark.parametrize("name", ["replay", "text_judge", "cost", "language_judge"])
def test_synthetic_data_stand_in_and_say_so(name: str, tmp_path: Path) -> None:
    sizes: dict[str, dict[str, Any]] = {
        "replay": {"num_papers": 60, "runs": 1, "budgets": [16], "judge_aware": 16},
        "text_judge": {"num_papers": 60, "draws": 20},
        "language_judge": {"num_papers": 3, "comparisons": 2, "budget": 30},
    }
    found = run(name, tmp_path, data="synthetic", **sizes.get(name, {}))
    found.check()
    assert found.data == "synthetic"


def test_simulated_results_depend_on_the_seed_alone(tmp_path: Path) -> None:
    one, other = (run("selection", tmp_path, n=60, budgets=[8, 64]).metrics for _ in range(2))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_headline_without_a_budget_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="headline and parity must be among the budgets"):
        run("selection", tmp_path, headline=3)
