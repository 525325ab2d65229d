"""Prompt models: pooling, positions, starts, counts; pre-training; generated languages."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from transformers import XLMRobertaConfig

from iclr_repro.fed_prompt import (
    Texts,
    build_prompt_model,
    language_center,
    load_trainable_state,
    parameter_counts,
    start_from_vocabulary,
    synthetic_corpus,
    trainable_state,
)
from iclr_repro.fed_prompt.data import Corpus, LabelledTexts
from iclr_repro.fed_prompt.model import KINDS
from iclr_repro.fed_prompt.pretraining import (
    ContrastivePretraining,
    encode,
    info_nce,
    lsa_documents,
    lsa_table,
    small_encoder,
    train_tokenizer,
)
from iclr_repro.fed_prompt.softmax import fit_softmax, log_frequencies, predicted, text_weights

IDS = torch.tensor([[0, 5, 6, 7, 2], [0, 8, 9, 1, 1]])
MASK = IDS != 1


def model(kind: Any = "prompt", **options: Any) -> Any:
    torch.manual_seed(0)
    encoder = small_encoder(40, hidden_size=16, num_layers=2, num_heads=2)
    options = {"num_virtual_tokens": 3, "generator": torch.Generator().manual_seed(1), **options}
    return build_prompt_model(encoder, 3, kind=kind, **options).eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pool", ["first", "cls", "mean"])
def test_padding_has_no_influence(kind: str, pool: str) -> None:
    one = model(kind, pool=pool)
    padded = torch.nn.functional.pad(IDS, (0, 3), value=1)
    assert torch.allclose(one(IDS, MASK), one(padded, padded != 1), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_only_prompt_and_head_are_trainable(kind: str) -> None:
    one = model(kind)
    names = trainable_state(one)
    assert list(names) == sorted(names)
    in_encoder = [name for name in names if name.startswith("encoder.")]
    assert bool(in_encoder) == (kind in ("lora", "full"))
    counts = parameter_counts(one)
    assert counts.trainable == sum(value.numel() for value in names.values())
    assert counts.backbone == 40 * 16 + 98 * 16 + 16 + 32 + 2 * (4 * (16 * 16 + 16) + 64 + 16 * 64 + 64 + 64 * 16 + 16)


def test_pooling_reads_what_it_says() -> None:
    first, cls, mean = (model(pool=pool) for pool in ("first", "cls", "mean"))
    hidden, mask = mean._encoded(IDS, MASK.long(), mean.prompt(mean.virtual_ids).expand(2, -1, -1))
    assert torch.allclose(first.features(IDS, MASK), hidden[:, 0])
    assert torch.allclose(cls.features(IDS, MASK), hidden[:, 3])
    assert torch.allclose(mean.features(IDS, MASK)[1], hidden[1, :6].mean(dim=0), atol=1e-6)
    assert mask.sum(dim=1).tolist() == [8, 6]


def test_prompts_without_positions_leave_the_text_where_it_was() -> None:
    """A zero prompt token without position is the same wherever it stands; with positions it is not."""
    free, placed = model(prompt_positions=False), model()
    for one in (free, placed):
        with torch.no_grad():
            one.prompt.embedding.weight.copy_(
                torch.randn(1, 16, generator=torch.Generator().manual_seed(2)).expand(3, 16)
            )
    hidden = [
        one._encoded(IDS, MASK.long(), one.prompt(one.virtual_ids).expand(2, -1, -1))[0] for one in (free, placed)
    ]
    assert torch.allclose(hidden[0][:, 0], hidden[0][:, 2], atol=1e-6)
    assert not torch.allclose(hidden[1][:, 0], hidden[1][:, 2], atol=1e-4)


def test_centers_are_subtracted_before_the_scale() -> None:
    one = model(pool="mean", feature_scale=3.0)
    texts = Texts(IDS, MASK, torch.zeros(2, dtype=torch.long))
    center = language_center(one, texts)
    assert torch.allclose(one.features(IDS, MASK, center.expand(2, -1)).mean(dim=0), torch.zeros(16), atol=1e-5)
    assert torch.allclose(center * 3, one.features(IDS, MASK).mean(dim=0).detach(), atol=1e-5)


def test_equal_generators_give_equal_starts_and_vocabulary_starts_are_words() -> None:
    one, other = model(), model()
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    start_from_vocabulary(one, generator=torch.Generator().manual_seed(0))
    words = one.encoder.get_input_embeddings().weight
    assert all((words == row).all(dim=1).any() for row in one.prompt.embedding.weight)
    with pytest.raises(ValueError, match="only soft prompts"):
        start_from_vocabulary(model("prefix"), generator=torch.Generator())


def test_bad_models_and_states_are_refused(unchecked: None) -> None:
    with pytest.raises(ValueError, match="kind 'adapter', pool 'first': expected one of prompt, ptuning"):
        model("adapter")
    with pytest.raises(ValueError, match="got 3 labels and -1 virtual tokens"):
        model(num_virtual_tokens=-1)
    state = dict(trainable_state(model()))
    state["head.out_proj.bias"] = torch.zeros(9)
    with pytest.raises(ValueError, match=r"head.out_proj.bias: got \[9\], expected \[3\]"):
        load_trainable_state(model(), state)


def test_the_papers_counts() -> None:
    with torch.device("meta"):
        config = XLMRobertaConfig(vocab_size=250002, max_position_embeddings=514, type_vocab_size=1)
        counts = parameter_counts(build_prompt_model(config, 10))
    assert (counts.prompt, counts.head, counts.trainable) == (6_144, 598_282, 604_426)
    assert counts.trainable_head_twice == 1_202_708
    assert counts.as_peft == 278_655_764


# --- generated languages and pre-training ----------------------------------------------------------------------------


def corpus(closeness: Any = 0.6, **options: Any) -> Any:
    sizes: dict[str, Any] = {"num_languages": 3, "num_labels": 2, "num_train": [40, 20, 10], "num_test": 12}
    return synthetic_corpus(**{**sizes, **options}, closeness=closeness, rng=np.random.default_rng(0))


def test_languages_share_the_words_that_closeness_says() -> None:
    for rho in (0.0, 0.5, 1.0):
        words = [
            {word for text in splits["train"].second for word in text.split()}
            for splits in corpus(rho, num_train=[200] * 3).languages.values()
        ]
        assert len(words[0] & words[1]) / len(words[0]) == pytest.approx(rho**2, abs=0.12)
    assert [len(splits["train"]) for splits in corpus().languages.values()] == [40, 20, 10]
    with pytest.raises(ValueError, match="got 3 sizes and rho"):
        corpus(2.0)


def test_no_text_is_in_two_splits() -> None:
    for splits in corpus().languages.values():
        texts = [set(zip(part.first, part.second, strict=True)) for part in splits.values()]
        assert not texts[0] & texts[1]
        assert not texts[0] & texts[2]
        assert not texts[1] & texts[2]


def test_texts_are_encoded_as_headline_separator_body() -> None:
    made = corpus()
    tokenizer = train_tokenizer(made, vocab_size=500)
    texts = LabelledTexts(("w1 " * 40, "w2"), ("w3 w4", ""), np.array([0, 1]))
    encoded = encode(tokenizer, texts, length=30)
    assert encoded.ids[0, 0] == 0
    assert encoded.ids[0, 25] == 2
    assert encoded.mask.sum(dim=1).tolist() == [
        1 + 24 + 1 + len(tokenizer.encode("w3 w4").ids),
        2 + len(tokenizer.encode("w2").ids),
    ]


def test_the_tokenizer_is_a_function_of_its_texts() -> None:
    """The library numbers signs in the order of a hash table whose seed is random."""
    made = corpus()
    assert len({train_tokenizer(made, vocab_size=500).to_str() for _ in range(4)}) == 1
    tokenizer = train_tokenizer(made, vocab_size=500)
    assert [tokenizer.token_to_id(token) for token in ("<s>", "<pad>", "</s>", "<unk>")] == [0, 1, 2, 3]
    assert tokenizer.get_vocab_size() <= 500
    assert tokenizer.decode(tokenizer.encode("W12 l0x3", add_special_tokens=False).ids) == "w12 l0x3"
    assert "##1" not in tokenizer.encode("a##1").tokens[:2], "a continued sign is no word of its own"


def test_a_tokenizer_that_does_not_know_a_script_is_refused() -> None:
    texts = corpus().languages["l0"]["train"]
    rest = tuple(chr(0x1200 + number) * 20 for number in range(40))
    mixed = LabelledTexts(texts.first[:4] + rest, texts.second[:4] + rest, np.zeros(44, dtype=np.int64))
    made = Corpus({"amh": {"train": mixed}}, [], [], ("a", "b"), {})
    with pytest.raises(ValueError, match=r"% of the tokens of amh are unknown .* raise vocab_size"):
        train_tokenizer(made, vocab_size=400, articles=4)


def test_lsa_is_the_truncated_svd() -> None:
    made = corpus()
    tokenizer = train_tokenizer(made, vocab_size=400)
    documents, articles = lsa_documents(made, tokenizer)
    table = lsa_table(documents, 8, rng=np.random.default_rng(0))
    _, s, vt = np.linalg.svd(documents.toarray())
    expected = vt[:8].T * np.sqrt(s[:8])
    expected *= np.sign((expected * table).sum(axis=0))
    assert table == pytest.approx(expected * 0.05 / expected.std(), abs=1e-6)
    assert articles.shape[0] == 70
    assert np.sqrt(documents.multiply(documents).sum(axis=1)).max() == pytest.approx(3.0)


def test_info_nce_at_chance_and_when_solved() -> None:
    assert info_nce(torch.ones(48, 5), torch.ones(48, 5)).item() == pytest.approx(math.log(48), abs=1e-4)
    assert info_nce(torch.eye(8), torch.eye(8)).item() < 1e-4


def test_contrastive_pretraining_learns_and_resumes() -> None:
    made = corpus()
    tokenizer = train_tokenizer(made, vocab_size=400)

    def learner() -> Any:
        torch.manual_seed(0)
        encoder = small_encoder(tokenizer.get_vocab_size(), hidden_size=16, num_layers=1, num_heads=2)
        return ContrastivePretraining(
            encoder, made, tokenizer, steps=48, batch_size=8, length=16, learning_rate=1e-2, parallel=True, seed=0
        )

    whole = learner()
    reports = [whole.step() for _ in range(48)]
    assert [next(iter(report)) for report in reports[:4]] == ["news", "merged", "news", "pairs"]
    losses = [next(iter(report.values())) for report in reports]
    assert np.mean(losses[-12:]) < np.mean(losses[:12]) - 0.1
    first = learner()
    for _ in range(3):
        first.step()
    second = learner()
    second.load_state_dict(first.state_dict())
    assert second.step() == reports[3]


# --- the head-only track ---------------------------------------------------------------------------------------------


def test_softmax_regression_follows_its_gradient() -> None:
    rng = np.random.default_rng(0)
    x, y, sizes = rng.normal(size=(2, 5, 3)), rng.integers(4, size=(2, 5)), np.array([5, 3])
    w = fit_softmax(x, y, text_weights(sizes, 5), steps=3, start=np.zeros((2, 4, 4)), learning_rate=0.5, l2=0.1)
    for k, size in enumerate(sizes):
        weight = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)
        ones = torch.cat([torch.tensor(x[k, :size]), torch.ones(size, 1)], dim=1)
        for _ in range(3):
            loss = torch.nn.functional.cross_entropy(ones @ weight, torch.tensor(y[k, :size]))
            loss = loss + 0.05 * weight[:-1].square().sum()
            (gradient,) = torch.autograd.grad(loss, weight)
            weight = (weight - 0.5 * gradient).detach().requires_grad_()
        assert w[k] == pytest.approx(weight.detach().numpy(), abs=1e-12)


def test_a_prior_decides_where_the_features_do_not() -> None:
    prior = log_frequencies(np.array([1, 1, 1, 0]), 3)
    assert np.exp(prior) == pytest.approx([2 / 7, 4 / 7, 1 / 7])
    assert predicted(np.zeros((3, 3)), np.ones((2, 2)), prior).tolist() == [1, 1]
