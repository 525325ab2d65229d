from __future__ import annotations

import copy
import math
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
    pipeline,
)

from iclr_repro.topoformer import (
    SpatialReweighting,
    TopoformerConfig,
    TopoformerForMaskedLM,
    TopoformerForSequenceClassification,
    circular_mask,
)
from iclr_repro.topoformer.glue import GLUE_TASKS, glue_metric, wordpiece_tokenizer
from iclr_repro.topoformer.masked_lm import sinusoidal_positions
from iclr_repro.topoformer.pretraining import Pretraining, Recipe, SegmentStream, budget_triangle
from iclr_repro.topoformer.text import IGNORED

TEXTS = [f"The cat number {k} sat on the mat, and Zoë's dog {k * 7} ran." for k in range(60)]


def config(**options: object) -> TopoformerConfig:
    small = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 64}
    return TopoformerConfig(**{**small, "max_position_embeddings": 12, **options})  # type: ignore[arg-type]


def model(**options: object) -> Any:
    torch.manual_seed(0)
    return TopoformerForMaskedLM(config(**options)).eval()


IDS = torch.randint(1, 50, (3, 8), generator=torch.Generator().manual_seed(0))


def test_the_defaults_are_topoformer_bert() -> None:
    big = TopoformerConfig()
    assert (big.hidden_size, big.num_hidden_layers, big.intermediate_size, big.vocab_size) == (784, 16, 3072, 32768)
    assert (big.sq, big.sr, big.num_attention_heads, big.max_position_embeddings) == (0.3, 0.3, 1, 128)


def test_a_block_is_that_of_the_definition() -> None:
    m = model(hidden_dropout_prob=0.0)
    block, x = m.topoformer.blocks[0], torch.randn(2, 5, 16)
    a = x + block.dense(block.attention(F.layer_norm(x, (16,), eps=1e-12)))
    hidden, gate = (F.layer_norm(a, (16,), eps=1e-12) @ block.dense_in.weight.T).split(32, dim=-1)
    torch.testing.assert_close(block(x, None)[0], a + (F.gelu(gate) * hidden) @ block.dense_out.weight.T)
    assert block.dense.bias is None
    assert block.attention.query.bias is None
    assert block.attention.fc_out.bias is not None


def test_weights_are_normal_and_local_ones_half_normal_after_a_forward() -> None:
    m: Any = TopoformerForMaskedLM(config(hidden_size=100, vocab_size=2000))
    weight = m.topoformer.blocks[0].attention.fc_out.weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert (weight < 0).any()
    m(IDS)
    alive = weight[m.topoformer.blocks[0].attention.fc_out.mask]
    assert (alive >= 0).all()
    assert alive.mean().item() == pytest.approx(0.02 * math.sqrt(2 / math.pi), rel=0.1)
    assert m.topoformer.words.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert m.topoformer.position_scale.item() == pytest.approx(0.1)


def test_positions_are_sinusoidal() -> None:
    table = sinusoidal_positions(7, 6)
    assert table[3, 2] == pytest.approx(math.sin(3 / 10000 ** (2 / 6)))
    assert table[3, 5] == pytest.approx(math.cos(3 / 10000 ** (4 / 6)))
    assert sinusoidal_positions(4, 5).shape == (4, 5)


def test_sparse_and_full_prediction_have_one_loss() -> None:
    m = model(hidden_dropout_prob=0.0)
    labels = torch.where(torch.arange(8) < 3, IDS, IGNORED)
    full = m(IDS, labels=labels)
    sparse = m.train()(IDS, labels=labels)
    torch.testing.assert_close(sparse.loss, full.loss)
    assert full.logits.shape == (3, 8, 50)
    assert sparse.logits.shape == (9, 50)
    expected = F.cross_entropy(full.logits[:, :3].flatten(0, 1), IDS[:, :3].flatten())
    torch.testing.assert_close(full.loss, expected)


def test_a_batch_without_predictions_has_loss_zero() -> None:
    assert model()(IDS, labels=torch.full_like(IDS, IGNORED)).loss == 0.0


def test_padding_is_masked_unless_parity_is_asked_for() -> None:
    attention_mask = (torch.arange(8) < 5).long().expand(3, 8)
    other = torch.where(attention_mask.bool(), IDS, 7)
    for mask_padding in (True, False):
        m = model(mask_padding=mask_padding).double()
        same = torch.allclose(m(other, attention_mask).logits[:, :5], m(IDS, attention_mask).logits[:, :5], rtol=1e-9)
        assert same == mask_padding


def test_sheets_are_those_of_every_layer() -> None:
    m = model()
    sheets = m.sheets(IDS)
    assert [set(layer) for layer in sheets] == [{"query", "key", "value", "fc_out"}] * 2
    first = m.topoformer.blocks[0]
    x = m.topoformer._embedded(IDS)
    torch.testing.assert_close(sheets[0]["key"], first.attention.key(first.norm_attention(x)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sq": -1.0, "sr": -1.0},
        {"num_attention_heads": 4, "causal": True},
        {"sq": 1.0, "sr": 1.0, "mask_type": "full"},
        {"mask_type": "gaussian", "wrap": False},
        {"learned_querying": True, "rectify": True},
        {"sq": -1.0, "local_querying": 0.3},
    ],
)
def test_saved_models_come_back_the_same(options: dict[str, object], tmp_path: Path) -> None:
    m = model(**options)
    m.train()(IDS, labels=IDS).loss.backward()
    with torch.no_grad():
        for parameter in m.parameters():  # as after a step: negative and masked local weights
            parameter.sub_(0.1 * (parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)))
    m.eval()
    m.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert isinstance(loaded, TopoformerForMaskedLM)
    torch.testing.assert_close(loaded.eval()(IDS).logits, m(IDS).logits)
    assert loaded.config.to_dict()["sq"] == m.config.sq
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    assert isinstance(classifier, TopoformerForSequenceClassification)
    torch.testing.assert_close(classifier.topoformer.eval()(IDS), m.topoformer(IDS))
    assert torch.isfinite(classifier(IDS).logits).all()


def test_options_of_the_configuration_reach_every_attention() -> None:
    for block in model(wrap=False, rectify=True, learned_querying=True).topoformer.blocks:
        assert block.attention.rectify
        assert block.attention.querying.gain is not None
        assert torch.equal(block.attention.fc_out.mask, circular_mask(16, 0.3, wrap=False))
    for block in model(sq=-1.0, local_querying=0.3).topoformer.blocks:
        assert block.attention.querying is None
        assert isinstance(block.attention.key, SpatialReweighting)


def test_classification_reads_the_first_position() -> None:
    torch.manual_seed(0)
    m = TopoformerForSequenceClassification(config(num_labels=3, classifier_hidden_size=20)).eval()
    first = m.topoformer(IDS)[:, 0]
    logits = m.read_out(torch.tanh(m.pooler(first)))
    found = m(IDS, labels=torch.tensor([0, 2, 1]))
    torch.testing.assert_close(found.logits, logits)
    torch.testing.assert_close(found.loss, F.cross_entropy(logits, torch.tensor([0, 2, 1])))
    score = TopoformerForSequenceClassification(config(num_labels=1)).eval()
    out = score(IDS, labels=torch.tensor([0.5, 1.0, 2.0]))
    torch.testing.assert_close(out.loss, F.mse_loss(out.logits[:, 0], torch.tensor([0.5, 1.0, 2.0])))


def test_it_works_with_the_trainer_and_the_fill_mask_pipeline(tmp_path: Path) -> None:
    tokenizer = wordpiece_tokenizer(TEXTS, 200)
    m = model(vocab_size=len(tokenizer), max_position_embeddings=32)
    rows = [dict(tokenizer(text)) for text in TEXTS]
    collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=4, per_device_train_batch_size=8, report_to=[], use_cpu=True, save_strategy="no"
    )
    trainer = Trainer(model=m, args=arguments, train_dataset=rows, data_collator=collate)
    assert np.isfinite(trainer.train().training_loss)
    (found,) = {len(pipeline("fill-mask", model=m, tokenizer=tokenizer)("the cat [MASK] on the mat"))}
    assert found == 5


def test_bad_sizes_are_refused(unchecked: None) -> None:
    with pytest.raises(ValueError, match="intermediate_size: got 5, expected an even number"):
        config(intermediate_size=5)
    with pytest.raises(ValueError, match=r"sq=0\.3 and local_querying=0\.3: queries are either pooled or made by"):
        model(local_querying=0.3)
    with pytest.raises(ValueError, match="mask_type: got 'square', expected one of circular, gaussian, full"):
        model(mask_type="square")
    with pytest.raises(ValueError, match="sequences of 13 tokens, but max_position_embeddings is 12"):
        model()(torch.ones(1, 13, dtype=torch.int64))


# --- pre-training ----------------------------------------------------------------------------------------------------


def stream(texts: list[str], seed: int = 0, pool: int = 6, max_segments: int | None = None) -> SegmentStream:
    documents = datasets.Dataset.from_dict({"text": texts}).to_iterable_dataset()
    return SegmentStream(
        documents,
        lambda text: [int(word) for word in text.split()],
        length=4,
        separator=1,
        pool_size=pool,
        seed=seed,
        max_segments=max_segments,
    )


def test_every_segment_comes_once_an_epoch() -> None:
    texts = [" ".join(str(10 * k + j) for j in range(3)) for k in range(1, 21)]
    in_order = stream(texts, pool=1).take(20).tolist()
    assert in_order == [[*map(int, text.split()), 1] for text in texts]
    # Every epoch is read to its end: of 60 draws and a pool of 6, each of 20 segments was read three times or more.
    drawn = stream(texts, pool=6)
    counts = Counter(map(tuple, drawn.take(60).tolist())) + Counter(map(tuple, drawn.state_dict()["pool"].tolist()))
    assert set(counts.values()) <= {3, 4}
    assert len(counts) == 20
    assert stream(texts).take(20).tolist() != in_order


def test_a_stream_goes_on_from_a_saved_place() -> None:
    texts = [" ".join(str(10 * k + j) for j in range(5)) for k in range(1, 31)]
    whole = stream(texts)
    whole.take(7)
    state = whole.state_dict()
    expected = whole.take(60)  # into the next epoch
    resumed = stream(texts, seed=9)
    resumed.load_state_dict(state)
    assert torch.equal(resumed.take(60), expected)


def test_an_epoch_can_be_capped() -> None:
    texts = [" ".join(str(10 * k + j) for j in range(3)) for k in range(1, 21)]
    capped = stream(texts, pool=1, max_segments=5)
    in_order = capped.take(12).tolist()
    assert in_order == [[*map(int, text.split()), 1] for text in (*texts[:5], *texts[:5], *texts[:2])]
    resumed = stream(texts, pool=1, max_segments=5)
    resumed.load_state_dict(capped.state_dict())
    assert torch.equal(resumed.take(9), capped.take(9))


def test_too_little_text_is_refused() -> None:
    with pytest.raises(ValueError, match="all of them together have no 4 tokens: give more text"):
        stream(["7"]).take(1)


def recipe(**options: object) -> Recipe:
    plain = {"learning_rate": 1e-2, "steps": 12, "budget_s": None, "micro_batch": 4, "final_batch": 16}
    rest = {"ramp_steps": 8, "clip_norm": 0.5, "half_precision": False}
    return Recipe(**{**plain, **rest, **options})  # type: ignore[arg-type]


def test_the_rate_is_a_triangle_over_the_budget() -> None:
    assert [budget_triangle(p) for p in (0.0, 0.75, 0.9, 1.0, 1.2)] == pytest.approx([0.25, 1.0, 0.4, 0.0, 0.0])


def test_the_batch_grows_in_a_straight_line() -> None:
    ramp = recipe(micro_batch=128, final_batch=4096, ramp_steps=300_000, steps=600_000)
    assert [ramp.accumulation(m) for m in (0, 150_000, 300_000, 500_000)] == [1, 16, 32, 32]
    assert recipe(ramp_steps=0).accumulation(0) == 4
    assert recipe().num_updates() == 6  # of 1, 1, 2, 2, 3 and 4 micro-batches
    with pytest.raises(ValueError, match="final_batch: got 10, expected a multiple of micro_batch = 4"):
        recipe(final_batch=10)


def learner(seed: int = 0, **options: object) -> Pretraining:
    texts = [" ".join(str(5 + (3 * k + j) % 40) for j in range(9)) for k in range(40)]
    return Pretraining(
        model(hidden_dropout_prob=0.0),
        stream(texts, seed=seed),
        recipe(**options),
        mask_id=2,
        special_ids=range(5),
        generator=torch.Generator().manual_seed(seed),
    )


def test_pretraining_goes_on_from_a_saved_state_bit_for_bit() -> None:
    whole = learner()
    for _ in range(2):
        whole.step()
    state = copy.deepcopy(whole.state_dict())
    resumed = learner(seed=5)
    resumed.load_state_dict(state)
    expected = [whole.step() for _ in range(2)]
    assert [resumed.step() for _ in range(2)] == expected
    assert expected[-1]["batch"] == 8.0


def test_biases_and_norms_do_not_decay() -> None:
    decayed, exempt = learner()._optimizer.param_groups
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.01, 0.0)
    assert all(p.ndim == 1 for p in exempt["params"])
    assert sum(p.ndim == 1 for p in decayed["params"]) == 0


def test_a_budget_of_time_ends_the_training() -> None:
    timed = learner(budget_s=1e-6)
    timed.step()
    assert timed.progress == 1.0
    assert timed.step()["learning_rate"] == 0.0


# --- GLUE ------------------------------------------------------------------------------------------------------------


def test_glue_metrics() -> None:
    one, two = np.array([1, 1, 0]), np.array([1, 0, 0])
    assert glue_metric("accuracy", one, two) == pytest.approx(2 / 3)
    assert glue_metric("f1", one, two) == pytest.approx(2 / 3)
    assert glue_metric("matthews", one, two) == pytest.approx(0.5)
    assert glue_metric("spearman", np.array([0.1, 0.5, 0.9]), np.array([1.0, 3.0, 2.0])) == pytest.approx(0.5)
    assert glue_metric("spearman", np.ones(3), np.arange(3)) == 0.0
    with pytest.raises(ValueError, match="metric: got 'bleu', expected accuracy, f1, matthews or spearman"):
        glue_metric("bleu", one, two)


def test_nine_numbers_come_from_eight_tasks() -> None:
    assert len(GLUE_TASKS) == 8
    assert len([number for task in GLUE_TASKS.values() for number in task.evaluations.values()]) == 9
    assert "wnli" not in GLUE_TASKS


def test_word_pieces_are_plain_lower_case() -> None:
    tokenizer = wordpiece_tokenizer(TEXTS, 200)
    assert tokenizer.tokenize("ZOË\u2019s") == tokenizer.tokenize("zoes")
    the, mat = (tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("the", "mat"))
    separator = tokenizer.sep_token_id
    assert tokenizer("the")["input_ids"] == [*the, separator]
    assert tokenizer("the", "mat")["input_ids"] == [*the, separator, *mat, separator]
    cut = tokenizer("the the the", "mat mat mat", truncation=True, max_length=6)["input_ids"]
    assert cut.count(separator) == 2
