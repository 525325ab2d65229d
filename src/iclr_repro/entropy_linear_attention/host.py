"""ELinFormer: a plain spatio-temporal transformer whose attention can be exchanged (sheet M6).

A reconstruction: the paper's own architecture is not available. The host is STAEformer (Liu et al., CIKM 2023).

Shape letters: B = windows, T = input steps, N = nodes, C = model dim, P = horizon (predicted steps).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclr_repro.entropy_linear_attention.layers import MultiheadAttention
from iclr_repro.entropy_linear_attention.mechanisms import make_mechanism

NONE = "none"
DAYS = 7

TemporalAttention = Literal["same", "softmax"]


class TransformerBlock(nn.Module):
    """X <- LN(X + Drop(attention(X))); X <- LN(X + Drop(FFN(X))), FFN C -> F -> ReLU -> C: post-norm (sheet M6.2).

    Args:
        dim: C.
        num_heads: divides dim.
        ffn_dim: F.
        attention: name of a mechanism.
        dropout: probability.
        generator: of the random features of a mechanism.
    """

    def __init__(
        self, dim: int, num_heads: int, ffn_dim: int, attention: str, *, dropout: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        mechanism = make_mechanism(attention, num_heads=num_heads, head_dim=dim // num_heads, generator=generator)
        self.attention = MultiheadAttention(dim, num_heads, mechanism)
        self.feed_forward = nn.Sequential(nn.Linear(dim, ffn_dim), nn.ReLU(), nn.Linear(ffn_dim, dim))
        self.norm_attention, self.norm_feed_forward = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        """Mix along the middle axis."""
        x = self.norm_attention(x + self.dropout(self.attention(x, x, x)[0]))
        mixed: Tensor = self.norm_feed_forward(x + self.dropout(self.feed_forward(x)))
        return mixed


class ELinFormer(nn.Module):
    """Embeddings, attention over time for each node, attention over nodes for each step, one linear read-out.

    x (B, T, N, 3) holds the z-scored value, the time of day in [0, 1) and the weekday 0..6. E_f = Linear(3 ->
    input_dim)(x), E_tod and E_dow are tables, E_a is a parameter (T, N, adaptive_dim); their concatenation has C
    features. The read-out maps the T C features of a node to its P predictions, in z-units.

    Args:
        num_nodes: N.
        num_steps: T.
        horizon: P.
        steps_per_day: slots of the time-of-day table.
        input_dim: of E_f.
        tod_dim: of E_tod.
        dow_dim: of E_dow.
        adaptive_dim: of E_a.
        num_heads: of every layer; divides C.
        ffn_dim: of every layer.
        temporal_layers: how many.
        spatial_layers: how many; they use the attention under test.
        attention: a mechanism's name, or "none": no spatial layer.
        temporal_attention: "same" as the spatial one ("softmax" where that is "none"), or "softmax".
        dropout: probability.
        zero_output: start the read-out at zero, so that training starts from the anchor that the network corrects.
        generator: of the random features of a mechanism. Weights are drawn from torch's global generator, as all of
            torch's modules do; `training.initialised` gives them a seed.

    Raises:
        ValueError: num_heads does not divide C, an unknown attention or temporal_attention, an input of another form
            than (B, T, N, 3), or a time of day or weekday out of range.

    Example: the host's own size is the default, C = 152: heads of 38, of which ReLU features let about half the queries
    attain; `num_heads=8` gives heads of 19.
    """

    def __init__(
        self,
        num_nodes: int,
        *,
        num_steps: int = 12,
        horizon: int = 12,
        steps_per_day: int = 288,
        input_dim: int = 24,
        tod_dim: int = 24,
        dow_dim: int = 24,
        adaptive_dim: int = 80,
        num_heads: int = 4,
        ffn_dim: int = 256,
        temporal_layers: int = 3,
        spatial_layers: int = 3,
        attention: str = "eala_collision",
        temporal_attention: TemporalAttention = "same",
        dropout: float = 0.1,
        zero_output: bool = False,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if temporal_attention not in get_args(TemporalAttention):
            raise ValueError(
                f"temporal_attention: got {temporal_attention!r}, expected one of"
                f" {', '.join(get_args(TemporalAttention))}: the attention itself is named by `attention`"
            )
        dim = input_dim + tod_dim + dow_dim + adaptive_dim
        self.horizon, self.steps_per_day = horizon, steps_per_day
        self.input_projection = nn.Linear(3, input_dim)
        self.time_of_day = nn.Embedding(steps_per_day, tod_dim)
        self.day_of_week = nn.Embedding(DAYS, dow_dim)
        self.adaptive = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_steps, num_nodes, adaptive_dim)))
        self.read_out = nn.Linear(num_steps * dim, horizon)
        if zero_output:
            nn.init.zeros_(self.read_out.weight)
            nn.init.zeros_(self.read_out.bias)
        over_time = "softmax" if temporal_attention == "softmax" or attention == NONE else attention

        # Last, the temporal blocks first: models that differ in their spatial layers then start from equal weights.
        def block(name: str) -> TransformerBlock:
            return TransformerBlock(dim, num_heads, ffn_dim, name, dropout=dropout, generator=generator)

        self.temporal = nn.ModuleList(block(over_time) for _ in range(temporal_layers))
        self.spatial = nn.ModuleList(block(attention) for _ in range(0 if attention == NONE else spatial_layers))

    def forward(self, x: Float[Tensor, "B T N 3"]) -> Float[Tensor, "B P N"]:
        """Predict, in z-units."""
        _check_window(x, *self.adaptive.shape[:2])
        slots, days = _calendar_of(x, self.steps_per_day)
        embedded = [self.input_projection(x), self.time_of_day(slots), self.day_of_week(days)]
        h_BTNC = torch.cat([*embedded, self.adaptive.expand(len(x), -1, -1, -1)], dim=-1)
        batch, steps, nodes, _ = h_BTNC.shape
        h = h_BTNC.transpose(1, 2).flatten(0, 1)  # (B N, T, C)
        for block in self.temporal:
            h = block(h)
        h = h.unflatten(0, (batch, nodes)).transpose(1, 2).flatten(0, 1)  # (B T, N, C)
        for block in self.spatial:
            h = block(h)
        h_BNTC = h.unflatten(0, (batch, steps)).transpose(1, 2)
        predictions: Tensor = self.read_out(h_BNTC.flatten(2)).transpose(1, 2)
        return predictions


class InvertedForecaster(nn.Module):
    """The second host: each variate's whole history is a token, attention mixes the variates (iTransformer style).

    Written with torch's own encoder, so that `convert_attention` is all it takes to exchange the attention. Each window
    is standardised per variate over its T steps first, and the prediction put back.

    Args:
        num_steps: T.
        horizon: P.
        dim: of a token.
        num_heads: divides dim.
        ffn_dim: of each layer.
        num_layers: of the encoder.
        dropout: probability.
    """

    def __init__(
        self,
        *,
        num_steps: int,
        horizon: int,
        dim: int = 64,
        num_heads: int = 4,
        ffn_dim: int = 128,
        num_layers: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Linear(num_steps, dim)
        layer = nn.TransformerEncoderLayer(dim, num_heads, ffn_dim, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.read_out = nn.Linear(dim, horizon)

    def forward(self, x: Float[Tensor, "B T N 3"]) -> Float[Tensor, "B P N"]:
        """Predict, in the units of the first channel; time of day and weekday are not used."""
        values_BNT = x[..., 0].transpose(1, 2)
        mean = values_BNT.mean(dim=-1, keepdim=True)
        # The constant is iTransformer's: a variate that stands still is left as it is.
        std = (values_BNT.var(dim=-1, keepdim=True, correction=0) + 1e-5).sqrt()
        tokens = self.encoder(self.embedding((values_BNT - mean) / std))
        return (self.read_out(tokens) * std + mean).transpose(1, 2)


class STID(nn.Module):
    """The strong baseline without attention: an MLP on the history with identities of node, time of day and weekday.

    Shao et al. (CIKM 2022): the flattened history of a node is embedded, concatenated with the three embeddings (time
    of the last input step), and passed through residual layers h + W_2 relu(W_1 h). Linear in N. Source: sheet 3.8.

    Args:
        num_nodes: N.
        num_steps: T.
        horizon: P.
        steps_per_day: slots of the time-of-day table.
        dim: of each of the four parts.
        num_layers: residual layers.
        dropout: probability, within each residual layer.
        zero_output: start the read-out at zero.

    Raises:
        ValueError: as `ELinFormer`.
    """

    def __init__(
        self,
        num_nodes: int,
        *,
        num_steps: int = 12,
        horizon: int = 12,
        steps_per_day: int = 288,
        dim: int = 32,
        num_layers: int = 3,
        dropout: float = 0.15,
        zero_output: bool = False,
    ) -> None:
        super().__init__()
        self.steps_per_day = steps_per_day
        self.embedding = nn.Linear(3 * num_steps, dim)
        self.node = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_nodes, dim)))
        self.time_of_day = nn.Embedding(steps_per_day, dim)
        self.day_of_week = nn.Embedding(DAYS, dim)
        nn.init.xavier_uniform_(self.time_of_day.weight)
        nn.init.xavier_uniform_(self.day_of_week.weight)
        width = 4 * dim
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, width))
            for _ in range(num_layers)
        )
        self.read_out = nn.Linear(width, horizon)
        if zero_output:
            nn.init.zeros_(self.read_out.weight)
            nn.init.zeros_(self.read_out.bias)

    def forward(self, x: Float[Tensor, "B T N 3"]) -> Float[Tensor, "B P N"]:
        """Predict, in z-units."""
        _check_window(x, self.embedding.in_features // 3, len(self.node))
        history = x.permute(0, 2, 1, 3).flatten(2)
        slots, days = _calendar_of(x[:, -1], self.steps_per_day)
        identities = [self.node.expand(len(x), -1, -1), self.time_of_day(slots), self.day_of_week(days)]
        h = torch.cat([self.embedding(history), *identities], dim=-1)
        for layer in self.layers:
            h = h + layer(h)
        predictions: Tensor = self.read_out(h).transpose(1, 2)
        return predictions


def _check_window(x: Tensor, num_steps: int, num_nodes: int) -> None:
    if x.ndim != 4 or x.shape[1:] != (num_steps, num_nodes, 3):
        raise ValueError(
            f"x: got shape {list(x.shape)}, expected (batch, {num_steps}, {num_nodes}, 3): value, time of day and"
            f" weekday of the {num_nodes} nodes the model was made for"
        )


def _calendar_of(x: Tensor, steps_per_day: int) -> tuple[Tensor, Tensor]:
    """Slot of the day and weekday from the last two channels of x (..., 3); not checked while compiling."""
    # (k / 288) * 288 can come out just below k in float32 (sheet, "Pitfalls").
    slots, days = (x[..., 1] * steps_per_day + 1e-3).long(), x[..., 2].long()
    if not torch.compiler.is_compiling():
        for channel, what, index, number in (
            (1, "time of day in [0, 1)", slots, steps_per_day),
            (2, "weekday 0..6", days, DAYS),
        ):
            if bool(((index < 0) | (index >= number)).any()):
                values = x[..., channel]
                raise ValueError(
                    f"x: channel {channel} is from {float(values.min()):.4g} to {float(values.max()):.4g}, expected the"
                    f" {what}"
                )
    return slots, days
