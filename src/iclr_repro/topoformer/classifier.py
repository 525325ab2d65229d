"""The one-layer sentiment model (sheet 2.6).

Shape letters: B = sequences, T = tokens, D = units, C = classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from iclr_repro.topoformer.attention import TopographicSelfAttention

Pooling = Literal["average", "first"]


class TopoformerClassifier(nn.Module):
    """Embeddings, one post-norm block around an attention, pooling, tanh and a linear read-out.

    h1 = drop(LN(attention(h) + h)), h2 = drop(LN(FF(h1) + h1)), FF = Linear(D, m D), ReLU, Linear(m D, D).

    Args:
        attention: any `TopographicSelfAttention`; its units give D.
        vocab_size: number of token ids.
        max_length: T at most; positions are learned.
        padding_id: of the token that fills up short sequences.
        num_classes: C.
        ff_multiplier: m.
        dropout: probability in [0, 1).
        pooling: "average" over the tokens that count, or "first".
        mask_padding: padding is neither attended nor averaged; False: as in the authors' code, it is both (pitfall P3).

    Raises:
        ValueError: the padding id is not in the vocabulary.

    Source: sheet 2.6.
    """

    def __init__(
        self,
        attention: TopographicSelfAttention,
        *,
        vocab_size: int,
        max_length: int,
        padding_id: int,
        num_classes: int = 2,
        ff_multiplier: int = 4,
        dropout: float = 0.1,
        pooling: Pooling = "average",
        mask_padding: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= padding_id < vocab_size:
            raise ValueError(f"padding_id: got {padding_id}, expected an id of the vocabulary, 0 to {vocab_size - 1}")
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling: got {pooling!r}, expected one of {', '.join(get_args(Pooling))}")
        num_units = attention.num_units
        self.padding_id, self.pooling, self.mask_padding = padding_id, pooling, mask_padding
        self.words = nn.Embedding(vocab_size, num_units)
        self.positions = nn.Embedding(max_length, num_units)
        self.attention = attention
        self.norm_attention, self.norm_ff = nn.LayerNorm(num_units), nn.LayerNorm(num_units)
        self.ff = nn.Sequential(
            nn.Linear(num_units, ff_multiplier * num_units),
            nn.ReLU(),
            nn.Linear(ff_multiplier * num_units, num_units),
        )
        self.dropout = nn.Dropout(dropout)
        self.read_out = nn.Linear(num_units, num_classes)

    def counting(self, ids_BT: Int64[Tensor, "B T"]) -> Bool[Tensor, "B T"] | None:
        """Return which tokens count; None: all (`mask_padding=False`)."""
        return ids_BT != self.padding_id if self.mask_padding else None

    def sheets(self, ids_BT: Int64[Tensor, "B T"]) -> Mapping[str, Float[Tensor, "B T D"]]:
        """Return the activations of the attention's four sheets for each token."""
        return self.attention.sheets(self._embedded(ids_BT), self.counting(ids_BT))

    def forward(self, ids_BT: Int64[Tensor, "B T"]) -> Float[Tensor, "B C"]:
        """Return the logits of the classes.

        Raises:
            ValueError: a sequence is longer than `max_length`, or padding alone.
        """
        h_BTD = self._embedded(ids_BT)
        counts_BT = self.counting(ids_BT)
        h_BTD = self.dropout(self.norm_attention(self.attention(h_BTD, counts_BT) + h_BTD))
        h_BTD = self.dropout(self.norm_ff(self.ff(h_BTD) + h_BTD))
        pooled_BD = token_mean(h_BTD, counts_BT) if self.pooling == "average" else h_BTD[:, 0]
        logits_BC: Tensor = self.read_out(torch.tanh(pooled_BD))
        return logits_BC

    def _embedded(self, ids_BT: Tensor) -> Tensor:
        if ids_BT.shape[1] > self.positions.num_embeddings:
            raise ValueError(
                f"sequences of {ids_BT.shape[1]} tokens, but there are positions for {self.positions.num_embeddings}:"
                " cut them, or build the model with a larger max_length"
            )
        h_BTD: Tensor = self.words(ids_BT) + self.positions.weight[: ids_BT.shape[1]]
        embedded_BTD: Tensor = self.dropout(h_BTD)
        return embedded_BTD


def token_mean(x_BTD: Float[Tensor, "B T D"], counts_BT: Bool[Tensor, "B T"] | None) -> Float[Tensor, "B D"]:
    """Average each sequence over the tokens that count; None: all.

    mean[b, d] = sum_t counts[b, t] x[b, t, d] / sum_t counts[b, t].

    Raises:
        ValueError: a sequence has no token that counts.

    Example: x = [[1], [3], [99]] with counts = [True, True, False] gives [2].
    """
    if counts_BT is None:
        return x_BTD.mean(dim=1)
    num_B = counts_BT.sum(dim=1)
    if (num_B == 0).any():
        empty = torch.nonzero(num_B == 0).flatten().tolist()
        raise ValueError(f"sequences {empty} have no token that counts: leave out empty texts")
    kept_BTD = torch.where(counts_BT[..., None], x_BTD, x_BTD.new_zeros(()))
    return kept_BTD.sum(dim=1) / num_B[:, None]
