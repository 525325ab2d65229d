"""Topoformer-BERT as a `transformers` model: crammed BERT with topographic attention (sheet 2.7).

Shape letters: B = sequences, T = tokens, D = units, V = vocabulary, C = classes, P = predicted positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import MaskedLMOutput, SequenceClassifierOutput

from iclr_repro.topoformer.attention import SpatialQuerying, SpatialReweighting, TopographicSelfAttention
from iclr_repro.topoformer.text import IGNORED

Sheets = Mapping[str, Float[Tensor, "B T D"]]


class TopoformerConfig(PretrainedConfig):
    """The size and the topography of a Topoformer; the defaults are Topoformer-BERT (sheet 2.7).

    Args:
        vocab_size: token ids.
        hidden_size: D, units of each sheet, a perfect square (with several heads see `TopographicSelfAttention`).
        num_hidden_layers: blocks.
        intermediate_size: width of the feed-forward layer before its halves are multiplied; even.
        max_position_embeddings: longest sequence.
        sq: share of the sheet that a query pool covers; -1: no pooling.
        sr: share of the sheet that a local output weight reaches; -1: dense. Both -1: the control.
        num_attention_heads: heads.
        head_layout: "sheets" or "territories".
        mask_type: "circular", "gaussian" or "full"; the last with sq = sr = 1 is the released control at its word.
        wrap: sheets are tori; False: they have borders.
        rectify: apply ReLU to queries, keys, values and the attention's output.
        learned_querying: scale the pools by trained gains.
        local_querying: share of the sheet that local query, key and value layers reach, in place of pooling; -1: off.
        causal: tokens attend to themselves and to those before.
        mask_padding: honour `attention_mask`; False: attend to padding, as in the authors' code.
        signed_reweighting: keep the signs of local weights (ablation).
        hidden_dropout_prob: after embeddings and blocks. Pre-training in the authors' setting runs without: set 0.
        attention_probs_dropout_prob: on attention weights.
        initializer_range: standard deviation of all initial weights.
        layer_norm_eps: of all layer norms.
        classifier_hidden_size: width of the head for classification.
        pad_token_id: padding.
        **kwargs: of `PretrainedConfig`.
    """

    model_type = "topoformer"

    def __init__(
        self,
        vocab_size: int = 32768,
        hidden_size: int = 784,
        num_hidden_layers: int = 16,
        intermediate_size: int = 3072,
        max_position_embeddings: int = 128,
        sq: float = 0.3,
        sr: float = 0.3,
        num_attention_heads: int = 1,
        head_layout: str = "sheets",
        mask_type: str = "circular",
        wrap: bool = True,
        rectify: bool = False,
        learned_querying: bool = False,
        local_querying: float = -1.0,
        causal: bool = False,
        mask_padding: bool = True,
        signed_reweighting: bool = False,
        hidden_dropout_prob: float = 0.1,
        attention_probs_dropout_prob: float = 0.0,
        initializer_range: float = 0.02,
        layer_norm_eps: float = 1e-12,
        classifier_hidden_size: int = 1024,
        pad_token_id: int = 0,
        **kwargs: object,
    ) -> None:
        if intermediate_size < 2 or intermediate_size % 2:
            raise ValueError(
                f"intermediate_size: got {intermediate_size}, expected an even number, since a gated layer halves it"
            )
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.intermediate_size = intermediate_size
        self.max_position_embeddings = max_position_embeddings
        self.sq = sq
        self.sr = sr
        self.num_attention_heads = num_attention_heads
        self.head_layout = head_layout
        self.mask_type = mask_type
        self.wrap = wrap
        self.rectify = rectify
        self.learned_querying = learned_querying
        self.local_querying = local_querying
        self.causal = causal
        self.mask_padding = mask_padding
        self.signed_reweighting = signed_reweighting
        self.hidden_dropout_prob = hidden_dropout_prob
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        self.initializer_range = initializer_range
        self.layer_norm_eps = layer_norm_eps
        self.classifier_hidden_size = classifier_hidden_size
        super().__init__(pad_token_id=pad_token_id, **kwargs)


class TopoformerBlock(nn.Module):
    """A pre-norm block: x + drop(W attention(LN(x))), then x + drop(GLU(LN(x))).

    GLU(x) = W2 (GELU(gate) * h) with (h, gate) the halves of W1 x. W is the extra dense layer that follows fc_out
    before the residual (sheet 2.4, 4). Linear layers have no bias; local layers keep theirs.
    """

    def __init__(self, config: TopoformerConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.norm_attention = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attention = TopographicSelfAttention(
            width,
            sq=config.sq,
            sr=config.sr,
            num_heads=config.num_attention_heads,
            head_layout=config.head_layout,  # type: ignore[arg-type]  # checked there
            mask_type=config.mask_type,  # type: ignore[arg-type]  # checked there
            wrap=config.wrap,
            bias=False,
            rectify=config.rectify,
            learned_querying=config.learned_querying,
            local_querying=config.local_querying,
            signed_reweighting=config.signed_reweighting,
            attention_dropout=config.attention_probs_dropout_prob,
            causal=config.causal,
        )
        self.dense = nn.Linear(width, width, bias=False)
        self.norm_ff = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dense_in = nn.Linear(width, config.intermediate_size, bias=False)
        self.dense_out = nn.Linear(config.intermediate_size // 2, width, bias=False)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, x_BTD: Float[Tensor, "B T D"], counts_BT: Bool[Tensor, "B T"] | None
    ) -> tuple[Float[Tensor, "B T D"], Sheets]:
        """Return the block's output and the activations of the attention's four sheets."""
        sheets = self.attention.sheets(self.norm_attention(x_BTD), counts_BT)
        x_BTD = x_BTD + self.dropout(self.dense(sheets["fc_out"]))
        hidden, gate = self.dense_in(self.norm_ff(x_BTD)).chunk(2, dim=-1)
        return x_BTD + self.dropout(self.dense_out(F.gelu(gate) * hidden)), sheets


class TopoformerPreTrainedModel(PreTrainedModel):
    """What the models share: initial weights, and how they are saved and loaded."""

    config_class = TopoformerConfig
    base_model_prefix = "topoformer"

    def _init_weights(self, module: nn.Module) -> None:
        """Draw all weights from N(0, 0.02^2); local ones become half-normal at the first forward (sheet 2.4, 2.7)."""
        if isinstance(module, (nn.Linear, nn.Embedding, SpatialReweighting)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
        if isinstance(module, SpatialQuerying) and module.gain is not None:
            nn.init.normal_(module.gain)
        if isinstance(module, TopoformerModel):
            nn.init.constant_(module.position_scale, self.config.hidden_size**-0.5)
        if isinstance(getattr(module, "bias", None), nn.Parameter):
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]


class TopoformerModel(TopoformerPreTrainedModel):
    """Embeddings with scaled sinusoidal positions, blocks, and a final layer norm.

    The embedding of token w at t is drop(LN(E[w] + scale * PE[t])), with a learned scale that starts at 1 / sqrt(D).
    """

    positions: Tensor

    def __init__(self, config: TopoformerConfig) -> None:
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_scale = nn.Parameter(torch.tensor(config.hidden_size**-0.5))
        self.register_buffer("positions", sinusoidal_positions(config.max_position_embeddings, config.hidden_size))
        self.norm_words = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.blocks = nn.ModuleList(TopoformerBlock(config) for _ in range(config.num_hidden_layers))
        self.norm_final = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the word embeddings."""
        return self.words

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embeddings."""
        self.words = value

    def counting(self, attention_mask: Int64[Tensor, "B T"] | None) -> Bool[Tensor, "B T"] | None:
        """Return which tokens count; None: all."""
        return attention_mask.bool() if attention_mask is not None and self.config.mask_padding else None

    def forward(
        self, input_ids: Int64[Tensor, "B T"], attention_mask: Int64[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T D"]:
        """Return the last hidden states."""
        x_BTD, counts_BT = self._embedded(input_ids), self.counting(attention_mask)
        for block in self.blocks:
            x_BTD, _ = block(x_BTD, counts_BT)
        last_BTD: Tensor = self.norm_final(x_BTD)
        return last_BTD

    def sheets(
        self, input_ids: Int64[Tensor, "B T"], attention_mask: Int64[Tensor, "B T"] | None = None
    ) -> list[Sheets]:
        """Return the activations of the four sheets of every layer: raw queries, keys, values, and fc_out."""
        x_BTD, counts_BT = self._embedded(input_ids), self.counting(attention_mask)
        found = []
        for block in self.blocks:
            x_BTD, sheets = block(x_BTD, counts_BT)
            found.append(sheets)
        return found

    def _embedded(self, input_ids: Tensor) -> Tensor:
        num_tokens, longest = input_ids.shape[1], self.config.max_position_embeddings
        if num_tokens > longest:
            raise ValueError(
                f"sequences of {num_tokens} tokens, but max_position_embeddings is {longest}: cut them, or build the"
                " model with a larger one"
            )
        embedded_BTD: Tensor = self.norm_words(
            self.words(input_ids) + self.position_scale * self.positions[:num_tokens]
        )
        dropped_BTD: Tensor = self.dropout(embedded_BTD)
        return dropped_BTD


class TopoformerForMaskedLM(TopoformerPreTrainedModel):
    """A Topoformer that predicts tokens: a Linear layer without bias, then the word embeddings as decoder.

    In training only the chosen positions are decoded (sparse prediction); the loss is the same.
    """

    def __init__(self, config: TopoformerConfig) -> None:
        super().__init__(config)
        self.topoformer = TopoformerModel(config)
        self.transform = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.post_init()

    def sheets(
        self, input_ids: Int64[Tensor, "B T"], attention_mask: Int64[Tensor, "B T"] | None = None
    ) -> list[Sheets]:
        """Return the activations of the four sheets of every layer."""
        return self.topoformer.sheets(input_ids, attention_mask)

    def forward(
        self,
        input_ids: Int64[Tensor, "B T"],
        attention_mask: Int64[Tensor, "B T"] | None = None,
        labels: Int64[Tensor, "B T"] | None = None,
    ) -> MaskedLMOutput:
        """Return the logits [B, T, V], and with labels the mean cross-entropy in nats over those that are not -100.

        In training with labels, `logits` has the predicted positions only, [P, V].
        """
        hidden_BTD = self.topoformer(input_ids, attention_mask)
        if labels is not None and self.training:
            chosen_BT = labels != IGNORED
            logits_PV = self._decoded(hidden_BTD[chosen_BT])
            return MaskedLMOutput(loss=_mean_cross_entropy(logits_PV, labels[chosen_BT]), logits=logits_PV)
        logits_BTV = self._decoded(hidden_BTD)
        loss = None if labels is None else _mean_cross_entropy(logits_BTV.flatten(0, 1), labels.flatten())
        return MaskedLMOutput(loss=loss, logits=logits_BTV)

    def _decoded(self, hidden: Tensor) -> Tensor:
        return F.linear(self.transform(hidden), self.topoformer.words.weight)


class TopoformerForSequenceClassification(TopoformerPreTrainedModel):
    """A Topoformer that classifies (or, with one label, scores) texts from their first position (sheet 4.3).

    Linear(D, `classifier_hidden_size`), tanh, dropout 0.1, Linear.
    """

    def __init__(self, config: TopoformerConfig) -> None:
        super().__init__(config)
        self.topoformer = TopoformerModel(config)
        self.pooler = nn.Linear(config.hidden_size, config.classifier_hidden_size)
        self.dropout = nn.Dropout(0.1)
        self.read_out = nn.Linear(config.classifier_hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Int64[Tensor, "B T"],
        attention_mask: Int64[Tensor, "B T"] | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Return the logits [B, C], and with labels the cross-entropy, or with one label the mean squared error."""
        first_BD = self.topoformer(input_ids, attention_mask)[:, 0]
        logits_BC = self.read_out(self.dropout(torch.tanh(self.pooler(first_BD))))
        loss = None
        if labels is not None:
            is_score = self.config.num_labels == 1
            loss = F.mse_loss(logits_BC[:, 0], labels.to(logits_BC)) if is_score else F.cross_entropy(logits_BC, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits_BC)


def sinusoidal_positions(num_positions: int, width: int) -> Float[Tensor, "T D"]:
    """Return PE[t, 2i] = sin(t w_i), PE[t, 2i + 1] = cos(t w_i), w_i = 10000^(-2i / D)."""
    frequencies = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.arange(num_positions)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


def _mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean in float32 over the labels that count; 0 (not 0 / 0) where a batch has none."""
    total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


AutoConfig.register(TopoformerConfig.model_type, TopoformerConfig)
AutoModelForMaskedLM.register(TopoformerConfig, TopoformerForMaskedLM)
AutoModelForSequenceClassification.register(TopoformerConfig, TopoformerForSequenceClassification)
