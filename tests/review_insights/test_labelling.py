"""Tests of taxonomy, labellers, agreement and shares; language models are stand-ins that answer from a table."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from iclr_repro.core._language_model_base import Answer, ScoreQuestion, ignore_answer, json_problem
from iclr_repro.core.language_model import BaseLanguageModel, Usage
from iclr_repro.review_insights.labelling import (
    PromptedLabeller,
    RulesLabeller,
    ZeroShotLabeller,
    agreement,
    category_shares,
    indicators,
    rating_groups,
)
from iclr_repro.review_insights.synthetic import generate_year
from iclr_repro.review_insights.taxonomy import Labels, Task, load_snippets, load_taxonomy

SMALL = {
    "fruit": {
        "instruction": "Which fruit?",
        "exclusive": False,
        "otherwise": None,
        "categories": {"Apple": {"red": ["red"], "green": ["green"]}, "Pear": ["pears?"], "Quince": []},
    },
    "mood": {
        "instruction": "Which mood?",
        "exclusive": True,
        "otherwise": "Calm",
        "categories": {"Glad": ["good", "happy"], "Sad": ["bad"], "Calm": []},
    },
}


def small(tmp_path, **changes) -> dict[str, Task]:
    document = json.loads(json.dumps(SMALL))
    document["fruit"].update(changes)
    (tmp_path / "taxonomy.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return load_taxonomy(tmp_path / "taxonomy.yaml")


# --- taxonomy --------------------------------------------------------------------------------------------------------


def test_shipped_taxonomy_has_the_categories_of_the_sheet() -> None:
    taxonomy = load_taxonomy()
    assert list(taxonomy) == ["weaknesses", "strengths", "strategy", "stance", "reaction"]
    assert taxonomy["weaknesses"].categories == taxonomy["strengths"].categories
    assert len(taxonomy["weaknesses"].categories) == 9
    assert len(taxonomy["strategy"].categories) == 7
    assert set(taxonomy["stance"].categories) == {"agree", "partly agree", "disagree"}
    assert taxonomy["stance"].exclusive
    assert set(taxonomy["reaction"].categories) == {"satisfied, raised", "not convinced", "acknowledged, unchanged"}
    assert taxonomy["reaction"].exclusive


def test_a_taxonomy_can_be_replaced(tmp_path) -> None:
    fruit = small(tmp_path)["fruit"]
    assert fruit.categories == ("Apple", "Pear", "Quince")
    assert fruit.sub_categories("Apple") == ("red", "green")
    assert fruit.sub_categories("Pear") == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, r"task 'fruit': expected the keys \['categories', 'exclusive', 'instruction', 'otherwise'\]"),
        ({"exclusive": "no"}, "task 'fruit': categories must be a mapping that is not empty, exclusive true or false"),
        ({"categories": {}}, "task 'fruit': categories must be a mapping that is not empty"),
        ({"otherwise": "Plum"}, r"task 'fruit': otherwise is 'Plum'; expected null or one of \['Apple', 'Pear'"),
        ({"categories": {"Pear": "pears?"}}, "category 'Pear': expected a list of patterns, got 'pears\\?'"),
        ({"categories": {"Pear": ["pear("]}}, r"category 'Pear': 'pear\(' is not a regular expression"),
        ({"categories": {"Pear tree": [], "Pear": []}}, r"task 'fruit': several names start with \['pear'\]"),
        (
            {"categories": {"Pear": {"big one": [], "big two": []}}},
            r"category 'Pear': several names start with \['big'\]",
        ),
    ],
)
def test_a_faulty_taxonomy_is_refused_with_the_place(tmp_path, change, message) -> None:
    with pytest.raises(ValueError, match=message):
        small(tmp_path, **change)


def test_an_empty_taxonomy_is_refused(tmp_path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(ValueError, match="expected a mapping of task names to tasks"):
        load_taxonomy(tmp_path / "empty.yaml")


def test_shipped_snippets_are_labelled_in_the_taxonomy() -> None:
    snippets = load_snippets(load_taxonomy())
    counts = {task: sum(task in snippet.labels for snippet in snippets) for task in load_taxonomy()}
    assert counts == {"weaknesses": 18, "strengths": 6, "strategy": 12, "stance": 12, "reaction": 5}
    assert len({snippet.text for snippet in snippets}) == 41


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"fruit": {}}, r"snippet 1: needs a text and labels of the tasks \['fruit', 'mood'\], has \['fruit'\]"),
        ({"text": "x", "animal": {}}, r"snippet 1: needs a text and labels"),
        ({"text": "x", "fruit": {"Plum": []}}, "snippet 1: fruit: no category 'Plum'; there are"),
        ({"text": "x", "fruit": {"Apple": ["blue"]}}, r"snippet 1: fruit: sub-categories \['blue'\] of 'Apple'"),
        ({"text": "x", "fruit": ["Apple"]}, "snippet 1: fruit: labels are"),
        ({"text": "x", "mood": {"Glad": [], "Sad": []}}, "snippet 1: mood: at most one category is possible"),
    ],
)
def test_faulty_snippets_are_refused(tmp_path, entry, message) -> None:
    taxonomy = small(tmp_path)
    (tmp_path / "snippets.yaml").write_text(yaml.safe_dump([entry]))
    with pytest.raises(ValueError, match=message):
        load_snippets(taxonomy, tmp_path / "snippets.yaml")


# --- rules -----------------------------------------------------------------------------------------------------------


def test_rules_give_every_label_with_a_match(tmp_path) -> None:
    labels = RulesLabeller(small(tmp_path)["fruit"]).label(["A Red one and two pears, green too.", "spears", ""])
    assert labels == [{"Apple": ["red", "green"], "Pear": []}, {}, {}]


def test_rules_take_the_category_with_most_matches_where_only_one_is_possible(tmp_path) -> None:
    labels = RulesLabeller(small(tmp_path)["mood"]).label(["good, then bad and bad", "good or bad", "neither"])
    assert labels == [{"Sad": []}, {"Glad": []}, {"Calm": []}]


def test_rules_label_plain_phrases_of_reviews() -> None:
    labeller = RulesLabeller(load_taxonomy()["weaknesses"])
    assert labeller.label(["No ablation study.", "There are typos.", "The weather was fine."]) == [
        {"Experiments & Evaluation": ["ablations"]},
        {"Clarity & Presentation": ["writing"]},
        {"Other": []},
    ]


@pytest.mark.parametrize(
    ("task", "kappa"), [("weaknesses", 0.5), ("strengths", 0.5), ("strategy", 0.7), ("stance", 0.4)]
)
def test_rules_agree_with_the_reader_better_than_chance(task, kappa) -> None:
    taxonomy = load_taxonomy()
    snippets = [snippet for snippet in load_snippets(taxonomy) if task in snippet.labels]
    given = RulesLabeller(taxonomy[task]).label([snippet.text for snippet in snippets])
    result = agreement([snippet.labels[task] for snippet in snippets], given, taxonomy[task])
    assert result.kappa > kappa
    assert result.unlabelled == 0


def test_rules_find_the_strategy_of_generated_rebuttals() -> None:
    year = generate_year(np.random.default_rng(0), num_papers=60)
    notes = year.threads[year.threads["role"] == "author"].merge(year.pairs.reviews, on="review_id")
    task = load_taxonomy()["strategy"]
    given = indicators(RulesLabeller(task).label(notes["text"].tolist()), task)
    for strategy, category in (("evidence", "Evidence-backed clarification"), ("promise", "Future promise")):
        assert (given[category] == (notes["strategy"] == strategy)).mean() > 0.85


# --- language models -------------------------------------------------------------------------------------------------


class TableModel(BaseLanguageModel):
    """Answers from a table: text -> scores by candidate, or text -> answers in turn."""

    name = "table"

    def __init__(self, scores=None, answers=None) -> None:
        self.scores, self.answers, self.usage = scores or {}, answers or {}, Usage()
        self.prompts: list[str] = []

    def identity(self):
        return {"name": self.name}

    def answer(self, prompts, question, on_answer=ignore_answer):
        self.prompts.extend(prompts)
        if isinstance(question, ScoreQuestion):
            rows: list[dict[str, float]] = [
                next((row for text, row in self.scores.items() if f"Text: {text}\n" in p), {}) for p in prompts
            ]
            return [Answer(scores=tuple(row.get(name.strip(), -5.0) for name in question.candidates)) for row in rows]
        texts = [next(left.pop(0) for text, left in self.answers.items() if f"\n{text}\n" in p) for p in prompts]
        return [Answer(text=text, problem=json_problem(text, question, cut_off=False)) for text in texts]


def answer(*labels: tuple[str, str]) -> str:
    return json.dumps({"labels": [{"category": category, "sub_category": sub} for category, sub in labels]})


def test_zero_shot_gives_the_probable_labels_and_their_kinds(tmp_path) -> None:
    model = TableModel(scores={"both": {"Apple": 0.0, "Pear": 0.0, "green": 0.0}, "one": {"Pear": 0.0}})
    labels = ZeroShotLabeller(small(tmp_path)["fruit"], model).label(["both", "one"])
    assert labels == [{"Apple": ["green"], "Pear": []}, {"Pear": []}]


def test_zero_shot_can_leave_a_text_without_label(tmp_path) -> None:
    model = TableModel(scores={"stone": {"None": 0.0, "Apple": -0.5}})
    assert ZeroShotLabeller(small(tmp_path)["fruit"], model).label(["stone"]) == [{}]


def test_zero_shot_takes_one_label_where_only_one_is_possible(tmp_path) -> None:
    model = TableModel(scores={"day": {"Glad": 0.0, "Sad": 0.1}})
    assert ZeroShotLabeller(small(tmp_path)["mood"], model).label(["day"]) == [{"Sad": []}]


def test_zero_shot_discounts_names_that_the_model_likes_anyway(tmp_path) -> None:
    model = TableModel(scores={"N/A": {"Glad": 0.0}, "day": {"Glad": -0.5, "Sad": -1.0}})
    assert ZeroShotLabeller(small(tmp_path)["mood"], model).label(["day"]) == [{"Sad": []}]


def test_zero_shot_asks_nothing_about_no_text(tmp_path) -> None:
    model = TableModel()
    assert ZeroShotLabeller(small(tmp_path)["fruit"], model).label([]) == []
    assert model.prompts == []


def test_prompted_labels_are_read_from_the_answer(tmp_path) -> None:
    model = TableModel(
        answers={"mixed": [answer(("Apple", "red"), ("Apple", "green"), ("Pear", ""))], "none": [answer()]}
    )
    labels = PromptedLabeller(small(tmp_path)["fruit"], model).label(["mixed", "none"])
    assert labels == [{"Apple": ["red", "green"], "Pear": []}, {}]
    assert "- Apple (sub-categories: red; green)" in model.prompts[0]


@pytest.mark.parametrize("bad", ["", "no JSON", "[]", '{"labels": 3}', answer(("Apple", "blue")), answer(("Plum", ""))])
def test_an_unusable_answer_is_asked_for_once_more(tmp_path, bad) -> None:
    model = TableModel(answers={"a": [bad, answer(("Pear", ""))], "b": [answer(("Apple", "red"))]})
    labels = PromptedLabeller(small(tmp_path)["fruit"], model).label(["a", "b"])
    assert labels == [{"Pear": []}, {"Apple": ["red"]}]
    assert len(model.prompts) == 3
    assert "Your last answer could not be used: " in model.prompts[2]
    assert model.prompts[2] not in model.prompts[:2]  # else a cache would give the same answer again


def test_a_text_stays_unlabelled_after_two_unusable_answers(tmp_path) -> None:
    model = TableModel(answers={"a": ["no JSON", "still no JSON"], "b": [answer(("Pear", ""))]})
    task = small(tmp_path)["fruit"]
    labels = PromptedLabeller(task, model).label(["a", "b"])
    assert labels == [None, {"Pear": []}]
    result = agreement([{"Pear": []}, {"Pear": []}], labels, task)
    assert result.unlabelled == 1
    assert result.table.at["Pear", "n_labeller"] == 1


def test_two_categories_where_one_is_possible_are_unusable(tmp_path) -> None:
    both = answer(("Glad", ""), ("Sad", ""))
    model = TableModel(answers={"a": [both, both]})
    assert PromptedLabeller(small(tmp_path)["mood"], model).label(["a"]) == [None]
    assert "at most one category is possible" in model.prompts[1]


# --- agreement and shares --------------------------------------------------------------------------------------------


def test_indicators_show_categories_or_kinds(tmp_path) -> None:
    task = small(tmp_path)["fruit"]
    labels: list[Labels | None] = [{"Apple": ["green"]}, None, {"Pear": []}]
    assert indicators(labels, task).to_numpy().tolist() == [
        [True, False, False],
        [False, False, False],
        [False, True, False],
    ]
    kinds = indicators(labels, task, sub_categories=True)
    assert list(kinds.columns) == ["Apple/red", "Apple/green"]
    assert kinds.to_numpy().sum() == 1


def test_agreement_by_hand(tmp_path) -> None:
    task = small(tmp_path)["fruit"]
    reader: list[Labels] = [{"Apple": ["red"]}, {"Apple": ["red"]}, {"Pear": []}, {}]
    labeller: list[Labels | None] = [{"Apple": ["green"]}, {"Pear": []}, {"Pear": []}, {}]
    result = agreement(reader, labeller, task)
    # Apple: reader 1 1 0 0, labeller 1 0 0 0: observed agreement 3/4, expected 1/2, kappa 1/2
    assert result.table.at["Apple", "kappa"] == pytest.approx(0.5)
    assert result.table.at["Apple", "f1"] == pytest.approx(2 / 3)
    assert result.table.at["Pear", "f1"] == pytest.approx(2 / 3)
    assert np.isnan(result.table.at["Quince", "kappa"])
    assert np.isnan(result.table.at["Quince", "f1"])
    assert result.macro_f1 == pytest.approx(2 / 3)
    assert result.micro_f1 == pytest.approx(2 / 3)  # 2 right of 3 given and 3 expected
    # pooled 12 decisions: observed 10/12, expected (3 * 3 + 9 * 9) / 144
    assert result.kappa == pytest.approx((10 / 12 - 90 / 144) / (1 - 90 / 144))
    assert agreement(reader, labeller, task, sub_categories=True).micro_f1 == 0.0


def test_perfect_agreement_is_one(tmp_path) -> None:
    labels: list[Labels] = [{"Apple": ["red"]}, {"Pear": []}]
    result = agreement(labels, labels, small(tmp_path)["fruit"])
    assert (result.kappa, result.micro_f1, result.macro_f1) == (1.0, 1.0, 1.0)


def test_agreement_needs_labels_of_the_same_texts(tmp_path) -> None:
    with pytest.raises(ValueError, match="1 texts of the reader beside 2 of the labeller"):
        agreement([{}], [{}, {}], small(tmp_path)["fruit"])


def test_ratings_fall_into_three_groups() -> None:
    assert rating_groups(np.array([0, 3, 4, 5, 6, 10])).tolist() == ["low", "low", "mid", "mid", "high", "high"]


def test_category_shares_by_rating_group() -> None:
    rng = np.random.default_rng(0)
    given = pd.DataFrame({"Apple": rng.random(600) < 0.3, "Pear": np.tile([True, False], 300)})
    ratings = np.repeat([2, 4, 8], 200)
    table = category_shares(given, ratings, [f"p{number // 2}" for number in range(600)], rng=rng, draws=400)
    assert table.loc[("low", "Apple"), "share"] == given["Apple"][:200].mean()
    assert (table["n"] == 200).all()
    apple = table.xs("Apple", level="category")
    assert ((apple["low"] < apple["share"]) & (apple["share"] < apple["high"])).all()
    # about 2 * 1.96 * sqrt(0.3 * 0.7 / 200)
    np.testing.assert_allclose(apple["high"] - apple["low"], 0.127, atol=0.03)
    # every paper has one review of each kind: resampling papers cannot move the share
    pear = table.xs("Pear", level="category")
    np.testing.assert_allclose(pear[["low", "high"]], 0.5)


def test_a_group_without_reviews_has_no_shares() -> None:
    table = category_shares(
        pd.DataFrame({"Apple": [True, False]}), np.array([2, 2]), ["a", "b"], rng=np.random.default_rng(0), draws=20
    )
    assert table.loc[("high", "Apple"), "n"] == 0
    assert table.loc["high", ["share", "low", "high"]].isna().all(axis=None)
