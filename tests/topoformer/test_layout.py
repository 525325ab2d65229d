from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from iclr_repro.topoformer import posthoc_layout, topographic_statistic, topographize, unit_correlations
from iclr_repro.topoformer.brain import smooth_fields
from iclr_repro.topoformer.layout import _greedy_swaps, layout_of_correlations
from iclr_repro.topoformer.sheet import squared_distances

IDS = {"input_ids": torch.randint(0, 60, (8, 20), generator=torch.Generator().manual_seed(0))}


def bert() -> BertModel:
    torch.manual_seed(0)
    return BertModel(
        BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    ).eval()


def test_no_swap_of_two_places_could_raise_the_sum() -> None:
    rng = np.random.default_rng(0)
    c = np.asarray(np.corrcoef(rng.normal(size=(12, 16)).T))
    kernel = np.exp(-squared_distances(16) / 4.0)
    order = _greedy_swaps(c, kernel, rng.permutation(16))
    assert sorted(order) == list(range(16))

    def total(places: np.ndarray) -> float:
        return float((c[np.ix_(places, places)] * kernel).sum())

    for u in range(16):
        for v in range(u):
            swapped = order.copy()
            swapped[[u, v]] = swapped[[v, u]]
            assert total(swapped) <= total(order) + 1e-9


def test_a_shuffled_map_is_put_in_order_on_examples_that_it_has_not_seen() -> None:
    rng = np.random.default_rng(0)
    x = smooth_fields(80, 64, sigma=1.5, rng=rng)[:, rng.permutation(64)]
    order = posthoc_layout(x[:40], rng=rng, restarts=5)
    assert abs(topographic_statistic(x[40:]).mean) < 0.1
    assert topographic_statistic(x[40:][:, order]).mean > 0.4
    with pytest.raises(ValueError, match="restarts: got 0, expected >= 1"):
        layout_of_correlations(np.eye(9), rng=rng, restarts=0)


def test_sheets_that_move_together_get_one_order() -> None:
    """The key sheet is noise on the query's map: alone it has another best order than together with it."""
    rng = np.random.default_rng(0)
    shuffle = rng.permutation(64)
    query = smooth_fields(80, 64, sigma=1.5, rng=rng)[:, shuffle]
    key = 0.5 * query + smooth_fields(80, 64, sigma=1.5, rng=rng)[:, rng.permutation(64)]
    order = posthoc_layout(query, key, rng=np.random.default_rng(1), restarts=3)
    mean = (unit_correlations(query) + unit_correlations(key)) / 2
    assert (order == layout_of_correlations(mean, rng=np.random.default_rng(1), restarts=3)).all()
    alone = posthoc_layout(key, rng=np.random.default_rng(1), restarts=3)
    assert topographic_statistic(key[:, alone]).mean > topographic_statistic(key[:, order]).mean
    with pytest.raises(ValueError, match="activations: got no sheet, expected one or more to lay out together"):
        posthoc_layout(rng=rng)


def test_encoders_get_pools_on_every_attention() -> None:
    model = bert()
    plain = bert()
    before = [layer.attention.self.query.weight.clone() for layer in model.encoder.layer]
    assert topographize(model, IDS, sq=0.3, num_heads=2, rng=np.random.default_rng(0)) == 2
    assert torch.isfinite(model(**IDS).last_hidden_state).all()
    for layer, old in zip(model.encoder.layer, before, strict=True):
        query = layer.attention.self.query
        gain = query.weight.norm() / old.norm()
        for head in (slice(0, 16), slice(16, 32)):  # the units of a head stay in it
            rows = {tuple(row) for row in (query.weight[head] / gain).detach().numpy().round(3)}
            assert rows == {tuple(row) for row in old[head].detach().numpy().round(3)}
    hidden = plain.embeddings(IDS["input_ids"])
    pooled, own = (m.encoder.layer[0].attention.self.query(hidden).norm() for m in (model, plain))
    assert (pooled / own).item() == pytest.approx(1.0, abs=1e-4), "queries keep their size"


def test_a_laid_out_encoder_can_be_trained_on() -> None:
    model = bert()
    topographize(model, IDS, sq=0.3, num_heads=2, rng=np.random.default_rng(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    query = model.encoder.layer[0].attention.self.query
    before = query.weight.detach().clone()
    model(**IDS).last_hidden_state.square().sum().backward()
    optimizer.step()
    assert not torch.equal(query.weight, before)


def test_distilbert_is_known_too() -> None:
    torch.manual_seed(0)
    model = DistilBertModel(DistilBertConfig(vocab_size=60, dim=32, n_layers=1, n_heads=2, hidden_dim=32)).eval()
    assert topographize(model, IDS, sq=0.3, num_heads=2, rng=np.random.default_rng(0)) == 1


def test_models_without_known_attention_are_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no attention with linear layers named query and key"):
        topographize(nn.Linear(2, 2), {}, sq=0.3, num_heads=1, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="num_units: got 8, expected a perfect square"):
        topographize(bert(), IDS, sq=0.3, num_heads=4, rng=np.random.default_rng(0))
