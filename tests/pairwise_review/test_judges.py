from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from iclr_repro.pairwise_review import (
    Judge,
    Judgement,
    JudgementLog,
    PairSchedule,
    Paper,
    ReplayJudge,
    SimJudge,
    TextJudge,
    TextRegression,
    check_papers,
    collect,
    count_rows,
    prefer_by_scores,
)
from iclr_repro.pairwise_review.data import simulate_text_papers
from iclr_repro.pairwise_review.hf_judge import HFJudge, load_token_counter
from iclr_repro.pairwise_review.judges import text_reviews
from iclr_repro.pairwise_review.judging import BaseJudge, Collected
from iclr_repro.pairwise_review.language_judge import Reading
from iclr_repro.pairwise_review.prompts import anonymise, estimate_tokens, excerpt, load_template, parse_winner
from pairwise_review.cases import papers


class Counting(BaseJudge):
    """Prefers the larger index, forgets nothing, and stops when told."""

    name = "counting"

    def __init__(self, stop_after: int = 10**9) -> None:
        self.asked: list[tuple[str, str]] = []
        self.stop_after = stop_after

    def compare_many(self, first: Sequence[Paper], second: Sequence[Paper]) -> list[Judgement]:
        if len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked += [(a.id, b.id) for a, b in zip(first, second, strict=True)]
        return [
            Judgement(int(a.id[1:]) > int(b.id[1:]), input_tokens=7, cost_usd=0.5)
            for a, b in zip(first, second, strict=True)
        ]


def sim_judge(n: int = 12, **options: float) -> tuple[list[Paper], SimJudge]:
    those = papers(n)
    return those, SimJudge(those, np.arange(n) / 3, seed=1, **options)


# --- every judge


def every_judge(tmp_path: Path) -> tuple[list[Paper], list[Judge]]:
    those, sim = sim_judge()
    log = JudgementLog(tmp_path / "answers.jsonl")
    first, second = PairSchedule(len(those), 0).pairs(0, 132)
    one, other = [those[i] for i in first], [those[i] for i in second]
    log.append(sim, one, other, sim.compare_many(one, other))
    train = simulate_text_papers(80, rng=np.random.default_rng(0), prefix="t")
    return those, [
        sim,
        ReplayJudge(log.path),
        TextJudge(TextRegression.fit(train), those, temperature=1.0),
        HFJudge.untrained(),
    ]


def test_every_judge_answers_one_pair_as_in_a_batch(tmp_path: Path) -> None:
    those, judges = every_judge(tmp_path)
    for judge in judges:
        assert isinstance(judge, Judge)
        many = judge.compare_many(those[:3], those[3:6])
        single = judge.compare(those[1], those[4])
        assert single.prefer_first == many[1].prefer_first, judge.name
        assert single.prob_first == pytest.approx(many[1].prob_first, abs=1e-6), judge.name
        assert judge.compare_many([], []) == []


def test_simulated_answers_do_not_depend_on_when_they_are_asked() -> None:
    those, judge = sim_judge()
    forward = judge.compare_many(those[:6], those[6:])
    backward = judge.compare_many(those[:6][::-1], those[6:][::-1])
    assert forward == backward[::-1]
    with pytest.raises(ValueError, match="knows no paper 'q'"):
        judge.compare(Paper(id="q", title="Q"), those[0])


def test_replay_needs_the_pairs_it_is_asked(tmp_path: Path) -> None:
    those, judges = every_judge(tmp_path)
    replay = judges[1]
    assert replay.compare(those[0], those[1]) == judges[0].compare(those[0], those[1])
    with pytest.raises(ValueError, match="1 of 1 comparisons are not in the file"):
        replay.compare(those[0], Paper(id="new", title="New"))
    with pytest.raises(ValueError, match="there is no file of judgements"):
        ReplayJudge(tmp_path / "nothing.jsonl")
    with pytest.raises(ValueError, match="holds no judgement of 'nobody'"):
        ReplayJudge(tmp_path / "answers.jsonl", judge="nobody")


def test_preferences_from_scores_follow_the_same_judge_and_toss_a_coin_for_equals() -> None:
    scores = np.array([[1.0, 2.0, 2.0], [5.0, 4.0, 4.0]])
    judge, first, second = np.array([0, 1, 0] * 400), np.array([0, 0, 1] * 400), np.array([1, 1, 2] * 400)
    won = prefer_by_scores(scores, judge, first, second, rng=np.random.default_rng(0)).reshape(400, 3)
    assert not won[:, 0].any()
    assert won[:, 1].all()
    assert won[:, 2].mean() == pytest.approx(0.5, abs=0.1)


def test_text_judge_finds_words_that_are_cited() -> None:
    rng = np.random.default_rng(0)
    train, test = (simulate_text_papers(400, rng=rng, prefix=prefix) for prefix in "ab")
    judge = TextJudge(TextRegression.fit(train), test)
    predictions = np.array([judge.predictions[paper.id] for paper in test])
    citations = np.log1p([paper.citations or 0 for paper in test])
    assert np.corrcoef(predictions, citations)[0, 1] > 0.2
    answer, swapped = judge.compare(test[0], test[1]), judge.compare(test[1], test[0])
    assert answer.prefer_first != swapped.prefer_first
    assert answer.prob_first == pytest.approx(1 - (swapped.prob_first or 0))
    reviews = text_reviews(train, test[:50], rng=rng)
    assert reviews.shape == (50, 3)
    assert reviews.min() >= 1
    assert reviews.max() <= 10
    assert (reviews[:, 0] != reviews[:, 1]).any()


def test_text_regression_needs_known_citations_and_text() -> None:
    with pytest.raises(ValueError, match="0 of 12 papers have known citations"):
        TextRegression.fit([Paper(id=str(i), title="a") for i in range(12)])
    with pytest.raises(ValueError, match=r"neither title, abstract nor text, e\.g\. '0'"):
        check_papers([Paper(id="0", title=" "), Paper(id="1", title="a")], need_text=True)
    with pytest.raises(ValueError, match=r"1 paper ids occur more than once, e\.g\. 'x'"):
        check_papers([Paper(id="x", title="a"), Paper(id="x", title="b")])
    with pytest.raises(ValueError, match="write None where they are unknown"):
        Paper(id="x", title="a", citations=-1)


# --- collecting


def test_a_cut_run_goes_on_without_asking_twice(tmp_path: Path) -> None:
    those, schedule, log = papers(10), PairSchedule(10, 0), tmp_path / "log.jsonl"
    cut = Counting(stop_after=20)
    with pytest.raises(KeyboardInterrupt):
        collect(cut, those, schedule, 60, log=log, chunk=10)
    with log.open("a") as file:
        file.write('{"id_first": "p1", "id_se')  # killed in the middle of a row
    resumed = Counting()
    found = collect(resumed, those, schedule, 60, log=log, chunk=10)
    assert len(cut.asked) == 20
    assert len(resumed.asked) == 40
    assert not set(cut.asked) & set(resumed.asked)
    whole = collect(Counting(), those, schedule, 60)
    for name in ("first", "second", "wins_first", "wins_second"):
        assert (getattr(found.counts, name) == getattr(whole.counts, name)).all()
    assert (found.reused, found.comparisons, found.input_tokens, found.cost_usd) == (20, 60, 420, 30.0)
    assert collect(Counting(stop_after=0), those, schedule, 60, log=log).reused == 60
    assert count_rows(JudgementLog(log).rows(), those).comparisons == 60


def test_a_log_keeps_judges_apart(tmp_path: Path) -> None:
    those, sim = sim_judge(10)
    schedule, log = PairSchedule(10, 0), tmp_path / "log.jsonl"
    collect(sim, those, schedule, 30, log=log)
    counting = Counting()
    assert collect(counting, those, schedule, 30, log=log).reused == 0
    assert len(counting.asked) == 30


def test_answers_to_another_prompt_are_asked_again(tmp_path: Path) -> None:
    those, schedule, log = papers(6), PairSchedule(6, 0), tmp_path / "log.jsonl"
    rows = 12

    def reused(judge: BaseJudge, these: list[Paper]) -> int:
        return collect(judge, these, schedule, rows, log=log).reused

    def judge(**reading: int | str) -> HFJudge:
        return HFJudge.untrained(swap=False, hidden_size=8, layers=1, reading=Reading(**reading))  # type: ignore[arg-type]

    assert reused(judge(), those) == 0
    assert reused(judge(), those) == rows
    assert reused(judge(budget=2), those) == 0
    assert reused(judge(venue="CoRL 2023"), those) == 0
    changed = [*those[:5], dataclasses.replace(those[5], abstract="Another text.")]
    first, second = schedule.pairs(0, rows)
    assert 0 < reused(judge(), changed) == rows - int(((first == 5) | (second == 5)).sum())
    assert reused(judge(), those) == reused(judge(budget=2), those) == rows  # all of them are kept


def test_pairs_are_asked_by_their_first_paper(tmp_path: Path) -> None:
    those, schedule, log = papers(9), PairSchedule(9, 0), tmp_path / "log.jsonl"

    def ask(num: int) -> tuple[list[tuple[str, str]], Collected]:
        asking = Counting()
        return asking.asked, collect(asking, those, schedule, num, log=log, chunk=8)

    def scheduled(start: int, stop: int) -> list[tuple[str, str]]:
        return sorted((those[a].id, those[b].id) for a, b in zip(*schedule.pairs(start, stop), strict=True))

    asked, found = ask(30)
    assert asked == scheduled(0, 30)
    # A call knows nothing of the one before.
    calls = [[first for first, _ in asked[start : start + 8]] for start in range(0, 30, 8)]
    assert (found.asked, found.first_just_read) == (30, sum(len(call) - len(set(call)) for call in calls))
    # A larger budget asks what is missing.
    asked, found = ask(72)
    assert asked == scheduled(30, 72)
    assert (found.asked, found.reused, found.comparisons) == (42, 30, 72)
    assert ask(30)[1].asked == 0


def test_damaged_rows_name_their_line(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"id_first": "p0", "id_second": "p1", "prefer_first": true}\nnot json\n')
    with pytest.raises(ValueError, match="line 2 is no judgement"):
        list(JudgementLog(log).rows())
    log.write_text(json.dumps({"id_first": "p0", "id_second": "zz", "prefer_first": True}) + "\n")
    with pytest.raises(ValueError, match="'zz', which is none of the 2 papers"):
        count_rows(JudgementLog(log).rows(), papers(2))


def test_a_schedule_of_other_papers_is_refused() -> None:
    with pytest.raises(ValueError, match="the schedule is of 4 items, there are 3 papers"):
        collect(Counting(), papers(3), PairSchedule(4, 0), 1)


# --- the local language model


@pytest.mark.parametrize("swap", [True, False])
def test_reading_the_first_text_once_changes_nothing(swap: bool) -> None:
    those = papers(5)
    first, second = [those[0], those[0], those[1], those[0]], [those[1], those[2], those[3], those[4]]
    answers = [
        HFJudge.untrained(swap=swap, reuse_prefix=reuse, batch_size=size).compare_many(first, second)
        for reuse, size in ((True, 2), (False, 3))
    ]
    for one, other in zip(*answers, strict=True):
        assert one.prob_first == pytest.approx(other.prob_first, abs=1e-5)
        assert one.input_tokens == other.input_tokens > 0


def test_both_orders_cancel_the_position() -> None:
    those = papers(4)
    judge = HFJudge.untrained(swap=True)
    forward, backward = judge.compare(those[0], those[1]), judge.compare(those[1], those[0])
    assert forward.prob_first is not None
    assert backward.prob_first is not None
    assert forward.prob_first == pytest.approx(1 - backward.prob_first, abs=1e-6)
    once = HFJudge.untrained(swap=False)
    one, other = once.compare(those[0], those[1]).prob_first, once.compare(those[1], those[0]).prob_first
    assert one is not None
    assert other is not None
    assert abs(one - (1 - other)) > 1e-4  # an untrained model does depend on it


def test_prob_first_is_the_softmax_of_the_two_letters() -> None:
    import torch

    those = papers(2)
    judge = HFJudge.untrained(swap=False)
    prefix, suffix = judge._parts(judge._reading.show(those[0]), judge._reading.show(those[1]))
    ids = torch.tensor([judge._tokens(prefix) + judge._tokens(suffix)])
    with torch.inference_mode():
        logits = judge._model(input_ids=ids).logits[0, -1]
    letters = logits[[judge._tokens("A")[0], judge._tokens("B")[0]]]
    assert judge.compare(*those).prob_first == pytest.approx(float(letters.softmax(0)[0]), abs=1e-6)


CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)


def test_chat_templates_wrap_the_prompt_and_keep_the_prefix_apart() -> None:
    import torch

    plain, those = HFJudge.untrained(), papers(4)
    plain._tokenizer.chat_template = CHAT

    def judge(*, reuse: bool) -> HFJudge:
        return HFJudge(plain._model, plain._tokenizer, name="chat", swap=False, chat_template=True, reuse_prefix=reuse)

    before, after = judge(reuse=True)._parts("one", "two")
    assert before.startswith("<system>You are")
    assert "<user>### Manuscript A\none" in before
    assert after.endswith("Winner:<a>")
    first, second = [those[0]] * 3, those[1:]
    reused, whole = (judge(reuse=reuse).compare_many(first, second) for reuse in (True, False))
    assert [a.prob_first for a in reused] == pytest.approx([a.prob_first for a in whole], abs=1e-5)
    # In half precision: close to full precision, whether the prefix is read once or not.
    plain._model.to(torch.bfloat16)
    for reuse in (True, False):
        half = judge(reuse=reuse).compare_many(first, second)
        assert [a.prob_first for a in half] == pytest.approx([a.prob_first for a in whole], abs=0.02)
    plain._model.to(torch.float32)
    rater = judge(reuse=True)
    question = rater._template.rating_by_next_token.replace("{venue}", rater._reading.venue)
    for paper, rating in zip(those, rater.expected_ratings(those), strict=True):
        system = rater._template.system_message(rater._reading.venue)
        text = f"<system>{system}<user>### Manuscript\n{rater.shown(paper)}\n\n{question}<a>"
        with torch.inference_mode():
            logits = rater._model(input_ids=torch.tensor([rater._tokens(text)])).logits[0, -1]
        digits = logits[[rater._tokens(str(digit))[0] for digit in range(1, 10)]].softmax(0)
        assert rating == pytest.approx(float(digits @ torch.arange(1.0, 10.0)), abs=1e-5)
    # A head without weights cannot tell A from B.
    plain._model.get_output_embeddings().weight.data.zero_()
    assert [(a.prefer_first, a.prob_first) for a in judge(reuse=True).compare_many(first, second)] == [(None, 0.5)] * 3


def test_close_logits_are_told_apart_in_half_precision() -> None:
    import torch

    judge = HFJudge.untrained(swap=False)
    judge._model.to(torch.bfloat16)
    head = judge._model.get_output_embeddings().weight
    a, b = judge._letters
    hidden = torch.ones(head.shape[1], dtype=torch.bfloat16)
    with torch.no_grad():
        head[[a, b]] = 0.5
        head[a, 0] += 2**-8
    assert (head[a] @ hidden) == (head[b] @ hidden)  # as bfloat16 has it
    judge._model.base_model.forward = lambda input_ids, **_: SimpleNamespace(
        last_hidden_state=hidden.expand(*input_ids.shape, -1)
    )
    with torch.no_grad():
        assert float(judge._score([1, 2], [[3]], None)) == pytest.approx(2**-8)


def test_too_long_prompts_and_bad_options_are_refused() -> None:
    those = [Paper(id=str(i), title="", text="x" * 40_000) for i in range(2)]
    judge = HFJudge.untrained(reading=Reading(budget=40_000, count_tokens=len))
    with pytest.raises(ValueError, match=r"holds 32768|holds 32,768|32768"):
        judge.compare(*those)
    with pytest.raises(ValueError, match="batch_size"):
        HFJudge.untrained(batch_size=0)
    with pytest.raises(ValueError, match="no chat template"):
        HFJudge.untrained(chat_template=True)


# --- what is shown, and what is read


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Both are good.\nWinner: B", False),
        ("Winner: A", True),
        ("winner: a.", True),
        ("**Winner: B**", False),
        ("A", True),
        ("reasons\n\nManuscript B\n", False),
        ('{"winner": "A"}', True),
        ('```json\n{"winner": "b"}\n```', False),
        ('Reasoning.\n{"winner": "A"}', True),
        ('Reasoning.\n```json\n{\n  "winner": "Manuscript B"\n}\n```', False),
        ('The set {x}.\n{"winner": "A"}', True),
        ('{"why": "the set {x}", "winner": "A"}', True),
        ('{"winner": "A or B"}', None),
        ('{"winner": "A"}\nOr not.', None),
        ("Winner: Manuscript A", True),
        ("The set {x}", None),
        ("A or B?", None),
        ("Winner: A\nBut B is close.", None),
        ("Winner: A or B", None),
        ("Winner: C", None),
        ('{"winner": 1}', None),
        ('{"winner": "A"', None),
        ("[1]", None),
        ("", None),
        ("   \n", None),
    ],
)
def test_decisions_are_read(answer: str, expected: bool | None) -> None:
    assert parse_winner(answer) is expected


def test_blinding_removes_names_links_and_acknowledgements() -> None:
    text = "See https://lab.org/x and me@lab.org, by Ada Lovelace of Stanford.\n"
    text += "Acknowledgments\nThanks to NSF.\nConclusion\nDone."
    blind = anonymise(text, ["Ada Lovelace", "Stanford"])
    assert "Done." in blind
    for hidden in ("lab.org", "Ada", "Stanford", "NSF"):
        assert hidden not in blind


def test_blinding_keeps_words_that_look_like_names() -> None:
    text = "Meta-learning with meta-data by Meta, an apple of Apple; MIT, mit and the University of oxford."
    assert anonymise(text, ["Meta", "Apple", "MIT", "University of Oxford"]) == (
        "[name]-learning with meta-data by [name], an apple of [name]; [name], mit and the [name]."
    )


def test_excerpts_follow_the_order_and_the_budget() -> None:
    text = "Introduction\nWhy we do it.\nMethod\nSecret sauce.\nFigure 1: A curve.\nConclusion\nIt works."
    paper = Paper(id="x", title="T", abstract="An abstract.", text=text, institutions=("MIT",))
    shown = excerpt(paper)
    order = [shown.index(part) for part in ("Title: T", "An abstract.", "Why we do it.", "Figure 1", "It works.")]
    assert order == sorted(order)
    assert "Secret" not in shown
    for budget in (1, 4, 8, 12):
        assert estimate_tokens(excerpt(paper, budget=budget).replace("\n\n", "")) <= budget
    plain = Paper(id="y", title="T", text="no headings here at all")
    assert "no headings here at all" in excerpt(plain)
    with pytest.raises(ValueError, match="budget must be at least 1"):
        excerpt(paper, budget=0)
    with pytest.raises(ValueError, match="'z' has neither"):
        excerpt(Paper(id="z", title=""))


def test_braces_in_a_paper_are_shown_as_they_are() -> None:
    template = load_template()
    prompt = template.comparison("f{x} {venue} {label}", "g", venue="CoRL", answering="next_token")
    assert "f{x} {venue} {label}" in prompt
    assert prompt.endswith("Winner:")
    assert "Manuscript A" in prompt
    assert "Manuscript B" in prompt
    with pytest.raises(ValueError, match="no version 99"):
        load_template(99)


def test_a_loaded_model_counts_with_its_own_tokenizer(tmp_path: Path) -> None:
    made = HFJudge.untrained(hidden_size=8, layers=1)
    made._model.save_pretrained(tmp_path)
    made._tokenizer.save_pretrained(tmp_path)
    text = Paper(id="x", title="", abstract="é" * 40)
    assert load_token_counter(str(tmp_path))("é") == 2  # a byte a token
    assert HFJudge.from_pretrained(str(tmp_path), reading=Reading(budget=100)).shown(text) == "Abstract: " + "é" * 40
    assert HFJudge.from_pretrained(str(tmp_path), reading=Reading(budget=89)).shown(text) == "Abstract:"
    given = Reading(budget=89, count_tokens=len)
    assert HFJudge.from_pretrained(str(tmp_path), reading=given).shown(text) == "Abstract: " + "é" * 40
