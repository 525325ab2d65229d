from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from iclr_repro.core.data import MissingDataError
from iclr_repro.topoformer import TestSuite, load_test_suites, morans_i, run_test_suites, selectivity_map
from iclr_repro.topoformer.brain import smooth_fields
from iclr_repro.topoformer.suites import _joined_items, decoding_accuracy, join_regions, load_noun_verb_contrasts


def suite(num_items: int = 20) -> TestSuite:
    items = [(f"s{k}", k % 2, k // 2, "x") for k in range(2 * num_items)]
    return TestSuite.from_items("toy", items)


def test_regions_are_joined_as_a_sentence() -> None:
    assert join_regions(["As the criminal", " shot", "", ", the woman"]) == "As the criminal shot, the woman"


def test_both_versions_of_a_synonym_pair_are_one_item() -> None:
    rows = [{"ItemNum": str(k), "SynonymPair": pair} for k, pair in enumerate(["1", "2", "1", "NA", "2"])]
    rows.append({"ItemNum": "0", "SynonymPair": "3"})
    rows.append({"ItemNum": "3", "SynonymPair": "3"})
    names = _joined_items(rows)
    assert names["0"] == names["2"] == names["3"]
    assert names["1"] == names["4"] != names["0"]


def test_measures_are_those_of_their_definitions() -> None:
    rng = np.random.default_rng(0)
    toy = suite()
    x = rng.normal(size=(40, 9)) + toy.labels[:, None] * np.linspace(0, 3, 9)
    table, maps = run_test_suites(lambda _: {"query": x}, [toy], folds=5, permutations=19, rng=rng)
    row = table.loc["toy", "query"]
    expected = selectivity_map(x, toy.labels)
    np.testing.assert_allclose(maps["toy", "query"].t, expected.t)
    assert row["moran"] == pytest.approx(morans_i(expected.t))
    assert row["moran_p"] * 20 == pytest.approx(round(row["moran_p"] * 20))
    assert row["significant_share"] == pytest.approx(expected.significant.mean())
    assert row["n"] == 40
    assert row["accuracy"] > 0.85


def test_only_a_clustered_map_is_beyond_the_null_of_permuted_units() -> None:
    rng = np.random.default_rng(0)
    toy = suite(100)
    field = smooth_fields(1, 100, sigma=2.0, rng=rng)[0]
    for effect, is_clustered in ((field, True), (rng.permutation(field), False)):
        x = rng.normal(size=(200, 100)) + toy.labels[:, None] * effect
        table, _ = run_test_suites(
            lambda _, x=x: {"query": x},  # type: ignore[misc]
            [toy],
            folds=5,
            permutations=99,
            rng=rng,
        )
        assert (table.loc["toy", "query"]["moran_p"] == 0.01) == is_clustered


def test_nouns_are_compared_with_verbs_among_concrete_and_among_abstract_words(tmp_path: Path) -> None:
    rows = [
        "oak,concrete,noun",
        "hit,concrete,verb",
        "hope,abstract,noun",
        "think,abstract,verb",
        "clue,abstract,noun",
    ]
    (tmp_path / "words.csv").write_text("\n".join(["word,category,class", *rows]))
    concrete, abstract = load_noun_verb_contrasts(find=lambda _: tmp_path / "words.csv")
    assert (concrete.name, concrete.sentences) == ("concrete_nouns_verbs", ("oak", "hit"))
    assert (abstract.name, abstract.sentences) == ("abstract_nouns_verbs", ("hope", "think", "clue"))
    assert (concrete.labels.tolist(), abstract.labels.tolist()) == ([1, 0], [1, 0, 1])


def test_items_are_kept_together_so_that_they_cannot_be_memorised() -> None:
    """Each item has features of its own and a label of its own: only a leak could tell the label."""
    rng = np.random.default_rng(0)
    labels, groups = np.repeat(np.arange(40) % 2, 5), np.repeat(np.arange(40), 5)
    x = rng.normal(size=(40, 30))[groups] + 0.01 * rng.normal(size=(200, 30))
    toy = TestSuite("toy", tuple(map(str, range(200))), labels, groups, ("x",) * 200)
    assert abs(decoding_accuracy(x, toy, folds=5, seed=0) - 0.5) < 0.2
    split = TestSuite("toy", toy.sentences, labels, np.arange(200), toy.sources)
    assert decoding_accuracy(x, split, folds=5, seed=0) > 0.95


def test_too_many_folds_are_refused() -> None:
    with pytest.raises(ValueError, match="folds: got 21 for the 20 items of toy, expected 2 to 20"):
        decoding_accuracy(np.zeros((40, 4)), suite(), folds=21, seed=0)


def test_the_eight_suites_have_the_sizes_of_the_sheet() -> None:
    try:
        suites = {one.name: one for one in load_test_suites()}
        contrasts = load_noun_verb_contrasts()
    except MissingDataError as error:
        pytest.skip(f"no real data on this machine (ICLR_REPRO_DATA): {error}")
    sizes = {name: Counter(one.labels.tolist()) for name, one in suites.items()}
    assert {name: (size[1], size[0]) for name, size in sizes.items()} == {
        "intactness": (160, 160),
        "animacy": (144, 144),
        "concreteness": (80, 80),
        "visuomotor": (72, 72),
        "acceptability": (523, 523),
        "agreement": (114, 114),
        "licensing": (380, 380),
        "garden_path": (76, 76),
    }
    assert [Counter(one.labels.tolist()) for one in contrasts] == [{1: 40, 0: 40}] * 2
    for name, size in (("npi_src_any", 76), ("reflexive_src_fem", 38)):
        licensing = suites["licensing"]
        chosen = np.array([source == name for source in licensing.sources])
        assert Counter(licensing.labels[chosen].tolist()) == {1: size, 0: size}
    assert len(np.unique(suites["agreement"].groups)) == 19
    gym = suites["garden_path"]
    pairs = dict(zip(gym.sentences, gym.labels, strict=True))
    assert pairs["As the criminal shot the woman yelled at the top of her lungs"] == 1
    assert pairs["As the criminal shot, the woman yelled at the top of her lungs"] == 0
    assert all("  " not in text and " ," not in text for text in gym.sentences)
