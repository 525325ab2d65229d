"""The loaders on the real files."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iclr_repro.core.catalogue import catalogue
from iclr_repro.core.data import DataError, MissingDataError, locate
from iclr_repro.fed_prompt import load_masakhanews, load_sib200, load_uriel, load_xnli
from iclr_repro.fed_prompt.data import LABELS, MASAKHANEWS, disjoint_rows, load_corpus, load_parallel
from iclr_repro.fed_prompt.pretraining import MOST_UNKNOWN, train_tokenizer, unknown_rate

try:
    for name in catalogue("fed_prompt"):
        locate(f"fed_prompt/{name}", download=False)
except MissingDataError as error:
    pytest.skip(str(error), allow_module_level=True)

_SIZES = {"lin": (608, 87, 175), "eng": (299, 472, 948), "amh": (194, 178, 376), "yor": (1433, 206, 411)}


@pytest.mark.parametrize("language", MASAKHANEWS)
def test_news_have_their_sizes_and_no_text_in_dev_and_test(language: str) -> None:
    news = load_masakhanews(language)
    if language in _SIZES:
        found = tuple(len(news[split]) for split in ("train", "dev", "test"))
        assert (found[0], found[2]) == (_SIZES[language][0], _SIZES[language][2])
        assert abs(found[1] - _SIZES[language][1]) <= 1
    dev, test = (set(zip(news[split].first, news[split].second, strict=True)) for split in ("dev", "test"))
    assert not dev & test
    for split in news.values():
        assert split.labels.min() >= 0
        assert split.labels.max() < len(LABELS)
        assert all(split.first)


def test_all_test_files_together() -> None:
    assert sum(len(load_masakhanews(language)["test"]) for language in MASAKHANEWS) == 6242


def test_sib200_is_parallel_and_can_be_divided_without_a_common_sentence() -> None:
    sib = load_sib200(["eng", "swa", "rus"])
    assert [len(sib["eng"][split]) for split in ("train", "dev", "test")] == [701, 99, 204]
    assert sib["eng"]["train"].labels.tolist() == sib["rus"]["train"].labels.tolist()
    parts = disjoint_rows(701, 3)
    assert sorted(np.concatenate(parts).tolist()) == list(range(701))
    with pytest.raises(ValueError, match="SIB-200 here has no pcm"):
        load_sib200(["pcm"])


def test_xnli_and_parallel_text() -> None:
    xnli = load_xnli("sw")
    assert [len(xnli[split]) for split in ("dev", "test")] == [2490, 5010]
    assert xnli["dev"].labels.tolist() == load_xnli("en")["dev"].labels.tolist()
    assert np.bincount(xnli["test"].labels).tolist() == [1670, 1670, 1670]
    assert len(load_parallel()) == 19_767
    with pytest.raises(ValueError, match="XNLI here has no language 'de'"):
        load_xnli("de")


def test_uriel_has_its_blocks() -> None:
    uriel = load_uriel()
    assert [sum(name.startswith(p) for name in uriel.names) for p in ("S_", "P_", "INV_")] == [103, 28, 158]
    assert uriel.features.shape == (30, 289)
    assert set(MASAKHANEWS) <= {*uriel.languages, "swa"}


def test_an_unknown_language_is_named() -> None:
    with pytest.raises(ValueError, match="MasakhaNEWS has no language 'deu', it has amh"):
        load_masakhanews("deu")


def test_a_label_outside_the_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lin.tsv.gz"
    path.write_bytes(gzip.compress(b"split\tcategory\theadline\ttext\ntrain\tgossip\ta\tb\n"))
    with pytest.raises(DataError, match="has the labels gossip, expected only business"):
        load_masakhanews("lin", find=lambda name: path)
    path.write_bytes(gzip.compress(b"split\tcategory\theadline\ttext\ntrain\tsports\ta\n"))
    with pytest.raises(DataError, match=re.escape("line 2: got 3 fields, expected 4 as in its header")):
        load_masakhanews("lin", find=lambda name: path)


def test_the_tokenizer_knows_every_script() -> None:
    corpus: Any = load_corpus(["amh", "tir", "yor"])
    tokenizer = train_tokenizer(corpus, vocab_size=2000, articles=60)
    for splits in corpus.languages.values():
        assert unknown_rate(tokenizer, splits["dev"]) < MOST_UNKNOWN
