from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from iclr_repro.topoformer import TopoformerClassifier, TopographicSelfAttention, token_mean
from iclr_repro.topoformer.text import PAD

IDS = torch.tensor([[5, 6, 7, 8], [9, 5, PAD, PAD]])


def model(**options: object) -> TopoformerClassifier:
    torch.manual_seed(0)
    attention = TopographicSelfAttention(16, sq=0.3, sr=0.3)
    built = TopoformerClassifier(attention, vocab_size=10, max_length=6, padding_id=PAD, **options)  # type: ignore[arg-type]
    return built.double().eval()


@pytest.mark.parametrize("mask_padding", [True, False])
def test_it_is_the_block_of_the_definition(mask_padding: bool) -> None:
    m = model(mask_padding=mask_padding)
    counts = IDS != PAD if mask_padding else torch.ones_like(IDS, dtype=torch.bool)
    h = m.words.weight[IDS] + m.positions.weight[:4]
    h1 = F.layer_norm(m.attention(h, counts) + h, (16,))
    h2 = F.layer_norm(m.ff[2](F.relu(m.ff[0](h1))) + h1, (16,))
    pooled = (h2 * counts[..., None]).sum(dim=1) / counts.sum(dim=1, keepdim=True)
    torch.testing.assert_close(m(IDS), torch.tanh(pooled) @ m.read_out.weight.T + m.read_out.bias)


def test_masked_padding_has_no_influence_and_unmasked_has() -> None:
    longer = F.pad(IDS, (0, 2), value=PAD)
    torch.testing.assert_close(model()(longer), model()(IDS))
    assert not torch.allclose(model(mask_padding=False)(longer), model(mask_padding=False)(IDS))


def test_the_first_position_can_be_read_out() -> None:
    assert not torch.allclose(model(pooling="first")(IDS), model()(IDS))


def test_the_width_of_the_feed_forward_layer_is_a_multiple() -> None:
    assert model(ff_multiplier=2).ff[0].out_features == 32
    assert model().ff[0].out_features == 64


def test_token_means_ignore_what_does_not_count() -> None:
    x = torch.tensor([[[1.0], [3.0], [float("nan")]]])
    assert token_mean(x, torch.tensor([[True, True, False]])).item() == 2.0
    assert token_mean(x[:, :2], None).item() == 2.0


def test_bad_sequences_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sequences \[1\] have no token that counts: leave out empty texts"):
        model()(torch.tensor([[5, 6], [PAD, PAD]]))
    with pytest.raises(ValueError, match="sequences of 7 tokens, but there are positions for 6"):
        model()(torch.full((1, 7), 5))
    with pytest.raises(ValueError, match="padding_id: got 10, expected an id of the vocabulary, 0 to 9"):
        TopoformerClassifier(TopographicSelfAttention(16, sq=-1.0, sr=-1.0), vocab_size=10, max_length=6, padding_id=10)
