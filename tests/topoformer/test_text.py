from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from iclr_repro.core.data import DataError, MissingDataError
from iclr_repro.topoformer import data
from iclr_repro.topoformer.text import BOS, EOS, IGNORED, MASK, PAD, UNK, Vocabulary, basic_english, mask_tokens, pack


def test_the_tokenizer_splits_punctuation_and_drops_markup() -> None:
    assert basic_english("It's <br />GOOD; really!") == ["it", "'", "s", "good", "really", "!"]
    assert basic_english('a "b" (c), d: e.') == ["a", "b", "(", "c", ")", ",", "d", "e", "."]


def test_vocabularies_keep_frequent_words_in_a_fixed_order() -> None:
    vocabulary = Vocabulary.from_texts(["b a a", "c b a"], min_frequency=2)
    assert vocabulary.words[5:] == ("a", "b")
    assert Vocabulary.from_texts(["b a a"], max_size=6).words[5:] == ("a",)
    assert vocabulary.ids("a c b") == [5, UNK, 6]


def test_encoding_cuts_and_pads() -> None:
    vocabulary = Vocabulary.from_texts(["a b c"])
    assert vocabulary.encode(["a b c", "a", ""], 2).tolist() == [[5, 6], [5, PAD], [UNK, PAD]]
    assert vocabulary.encode(["a b c", "a b"], 3, overwrite_ends=True).tolist() == [[BOS, 6, EOS], [BOS, EOS, PAD]]


def test_a_sixth_of_the_tokens_is_predicted_and_most_of_those_masked() -> None:
    ids = torch.randint(5, 1000, (400, 50), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = PAD
    read, labels = mask_tokens(
        ids, mask_id=MASK, vocab_size=1000, special_ids=range(5), generator=torch.Generator().manual_seed(1)
    )
    chosen = labels != IGNORED
    assert chosen[:, 1:].double().mean() == pytest.approx(0.15, abs=0.01)
    assert not chosen[:, 0].any()
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(read[~chosen], ids[~chosen])
    assert (read[chosen] == MASK).double().mean() == pytest.approx(0.8, abs=0.02)
    assert (read[chosen] == ids[chosen]).double().mean() == pytest.approx(0.1, abs=0.02)
    random = read[chosen & (read != MASK) & (read != ids)]
    assert random.min() >= 5
    assert len(random.unique()) > 100


def test_segments_are_cut_from_joined_documents() -> None:
    assert pack([[5, 6], [7]], 2, separator=1).tolist() == [[5, 6], [1, 7]]


def test_generated_sentiment_has_two_words_of_its_label() -> None:
    found = data.synthetic_sentiment(300, 100, rng=np.random.default_rng(0))
    assert (len(found.train_texts), len(found.test_texts)) == (300, 100)
    for text, label in zip(found.train_texts, found.train_labels, strict=True):
        words = [int(word[1:]) for word in text.split()]
        assert len(words) == 12
        assert sum(20 * label <= word < 20 * (label + 1) for word in words) == 2
        assert sum(word < 40 for word in words) == 2
    assert found.train_labels.mean() == pytest.approx(0.5, abs=0.1)


def test_labels_take_turns_in_a_random_order() -> None:
    labels = np.array([0] * 30 + [1] * 20)
    order = data.alternating_order(labels, rng=np.random.default_rng(0))
    assert sorted(order) == list(range(50))
    assert labels[order[:40]].reshape(20, 2).sum(axis=1).tolist() == [1] * 20
    assert (labels[order[40:]] == 0).all()
    assert order[labels[order] == 0].tolist() != list(range(30)), "rows of a label are shuffled too"


def test_lines_end_at_newlines_only_and_have_equal_fields(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv.gz"
    path.write_bytes(gzip.compress("label\ttext\n1\tgood\u2028film\n0\tbad\n".encode()))
    found = data._gzipped_rows(path)
    assert found == [["label", "text"], ["1", "good\u2028film"], ["0", "bad"]]
    path.write_bytes(gzip.compress(b"a\tb\nc\n"))
    with pytest.raises(DataError, match="line 2: got 1 fields, expected 2 as in the first line"):
        data._gzipped_rows(path)


@pytest.fixture
def _real() -> None:
    try:
        data.load_rotten_tomatoes()
    except MissingDataError as error:
        pytest.skip(f"no real data on this machine (ICLR_REPRO_DATA): {error}")


@pytest.mark.usefixtures("_real")
def test_rotten_tomatoes_is_split_once_and_for_all() -> None:
    found = data.load_rotten_tomatoes()
    assert (len(found.train_texts), len(found.test_texts)) == (9062, 1600)
    assert found.train_labels.sum() + found.test_labels.sum() == 5331
    assert data.load_rotten_tomatoes().test_texts == found.test_texts
    # Each row is in one part only: 3 of the 10,662 sentences occur twice in the source.
    assert len(set(found.train_texts) & set(found.test_texts)) <= 3


@pytest.mark.usefixtures("_real")
def test_the_other_texts_have_their_documented_sizes() -> None:
    imdb = data.load_imdb()
    assert (len(imdb.train_texts), len(imdb.test_texts)) == (5000, 2500)
    assert (imdb.train_labels.mean(), imdb.test_labels.mean()) == (0.5, 0.5)
    sst2 = data.load_sst2()
    assert (len(sst2.train_texts), len(sst2.test_texts)) == (6920, 1821)
    assert sst2.train_labels.mean() == pytest.approx(0.52, abs=0.01)
    sentences, responses = data.load_roi_responses()
    assert len(sentences) == 1000
    assert responses.shape == (1000, 5)
    assert np.isfinite(responses).all()
