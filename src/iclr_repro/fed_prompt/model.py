"""Prompt modules in front of, or inside, a frozen encoder, and the head that is trained with them (sheet 2.1, 2.5).

Shape letters: B = texts, T = tokens, m = virtual tokens, H = hidden size, L = layers, C = labels, K = clients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from peft import LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, inject_adapter_in_model
from peft.tuners.p_tuning.model import PromptEncoder
from peft.tuners.prefix_tuning.model import PrefixEncoder
from peft.tuners.prompt_tuning.model import PromptEmbedding
from torch import Tensor, nn
from transformers import AutoModel, DynamicCache, PretrainedConfig, PreTrainedModel

Kind = Literal["prompt", "ptuning", "prefix", "lora", "full", "head"]
Pool = Literal["first", "cls", "mean"]
KINDS: tuple[str, ...] = get_args(Kind)
_VIRTUAL = ("prompt", "ptuning", "prefix")


class ClassificationHead(nn.Module):
    """The head of XLM-R: z = tanh(W_d x + b_d), logits = W_o z + b_o, with dropout before each linear layer.

    Args:
        hidden_size: H.
        num_labels: C.
        dropout: probability in training.
        is_linear: leave the first layer out: logits = W_o x + b_o.
    """

    def __init__(self, hidden_size: int, num_labels: int, *, dropout: float = 0.1, is_linear: bool = False) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.dense = None if is_linear else nn.Linear(hidden_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, num_labels)

    def forward(self, x: Float[Tensor, "*B H"]) -> Float[Tensor, "*B C"]:
        """Return the logits of pooled features."""
        if self.dense is not None:
            x = torch.tanh(self.dense(self.dropout(x)))
        logits: Tensor = self.out_proj(self.dropout(x))
        return logits


class PromptModel(nn.Module):
    """An encoder with an optional prompt module and a head; make one by `build_prompt_model`.

    Attributes:
        encoder: theta, a base model of transformers without pooler.
        prompt: peft's prompt module, None for the kinds lora, full and head.
        head: the classification head.
        kind: see `build_prompt_model`.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        prompt: nn.Module | None,
        head: ClassificationHead,
        *,
        kind: Kind,
        num_virtual_tokens: int,
        pool: Pool,
        prompt_positions: bool,
        feature_scale: float,
    ) -> None:
        super().__init__()
        self.encoder, self.prompt, self.head = encoder, prompt, head
        self.kind, self.pool, self.prompt_positions = kind, pool, prompt_positions
        self.feature_scale = feature_scale
        self.num_virtual_tokens = num_virtual_tokens if prompt is not None else 0
        self.register_buffer("virtual_ids", torch.arange(self.num_virtual_tokens), persistent=False)

    def forward(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Bool[Tensor, "B T"] | Int[Tensor, "B T"],
        center: Float[Tensor, "B H"] | None = None,
    ) -> Float[Tensor, "B C"]:
        """Return logits; `center` is subtracted from the pooled features first (the mean of the text's language)."""
        logits: Tensor = self.head(self.features(input_ids, attention_mask, center))
        return logits

    def features(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Bool[Tensor, "B T"] | Int[Tensor, "B T"],
        center: Float[Tensor, "B H"] | None = None,
        *,
        virtual: Float[Tensor, "B m D"] | None = None,
    ) -> Float[Tensor, "B H"]:
        """Return what the head reads: (pooled hidden states - center) * feature_scale.

        Args:
            input_ids: token ids.
            attention_mask: 1 or True where a token counts.
            center: subtracted from the pooled hidden states; None: nothing.
            virtual: virtual tokens of each text in place of the model's own, D = H (prompt, ptuning) or 2LH (prefix).
        """
        if self.prompt is not None and virtual is None:
            virtual = self.prompt(self.virtual_ids).expand(len(input_ids), -1, -1)
        hidden, mask = self._encoded(input_ids, attention_mask.long(), virtual)
        in_front = self.num_virtual_tokens if self.kind in ("prompt", "ptuning") else 0
        if self.pool == "mean":
            weights = mask[..., None].to(hidden.dtype)
            pooled = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
        else:
            pooled = hidden[:, in_front if self.pool == "cls" else 0]
        return (pooled if center is None else pooled - center) * self.feature_scale

    def _encoded(self, ids: Tensor, mask: Tensor, virtual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the last hidden states and the mask of their places."""
        if virtual is None:
            return self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state, mask
        whole_mask = torch.cat([mask.new_ones(len(ids), self.num_virtual_tokens), mask], dim=1)
        if self.kind == "prefix":
            cache = self._cache(virtual)
            out = self.encoder(input_ids=ids, attention_mask=whole_mask, past_key_values=cache)
            return out.last_hidden_state, mask
        embedded = torch.cat([virtual, self.encoder.get_input_embeddings()(ids)], dim=1)
        positions = None
        if not self.prompt_positions:
            # The row of the padding index is zero and stays so, hence a virtual token there has no position.
            pad = int(self.encoder.config.pad_token_id)
            own = torch.where(mask > 0, torch.cumsum(mask, dim=1) + pad, pad)
            positions = torch.cat([torch.full_like(own[:, :1], pad).expand(-1, self.num_virtual_tokens), own], dim=1)
        out = self.encoder(inputs_embeds=embedded, attention_mask=whole_mask, position_ids=positions)
        return out.last_hidden_state, whole_mask

    def _cache(self, virtual: Tensor) -> DynamicCache:
        """Turn [B, m, 2LH] into m past keys and values of each layer, [B, heads, m, H / heads] each."""
        config = self.encoder.config
        layers, heads = config.num_hidden_layers, config.num_attention_heads
        past = virtual.view(len(virtual), self.num_virtual_tokens, 2 * layers, heads, -1).permute(2, 0, 3, 1, 4)
        cache = DynamicCache(config=config)
        for layer in range(layers):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        return cache


def build_prompt_model(
    encoder: PreTrainedModel | PretrainedConfig | str,
    num_labels: int,
    *,
    kind: Kind = "prompt",
    num_virtual_tokens: int = 8,
    encoder_hidden_size: int | None = None,
    lora_r: int = 8,
    lora_alpha: float = 16.0,
    lora_targets: Sequence[str] = ("query", "value"),
    pool: Pool = "first",
    head_is_linear: bool = False,
    dropout: float = 0.1,
    prompt_positions: bool = True,
    feature_scale: float = 1.0,
    generator: torch.Generator | None = None,
) -> PromptModel:
    """Freeze an encoder and put a trainable prompt module and head on it.

    With m = 0 the kinds prompt and ptuning are head-only tuning. First weights come from `generator` (None: torch's
    global one): prompts from N(0, 1) as peft does, or, for a real start, from the embeddings of m random tokens.

    Args:
        encoder: theta: a base model of transformers without pooler, its configuration (random weights), or a public
            name.
        num_labels: C.
        kind: prompt (soft prompts in front of the input), ptuning (the same made by an MLP, P-tuning v1), prefix (m
            keys and values in each layer), lora, full (everything is trained), head (nothing but the head).
        num_virtual_tokens: m, of prompt, ptuning and prefix.
        encoder_hidden_size: e, width of the MLP of ptuning; None: H, peft's default.
        lora_r: rank.
        lora_alpha: the update is (alpha / r) B A.
        lora_targets: names of the linear layers that it is added to.
        pool: what the head reads: the first place (with prompts in front: the first virtual token, as in peft and
            transformers), the first real token, or the mean over virtual and real tokens.
        head_is_linear: one linear layer in place of XLM-R's two.
        dropout: of the head, in training.
        prompt_positions: virtual tokens take positions and shift those of the text (transformers with inputs_embeds);
            False: they have none, and the text keeps its own. Of prompt and ptuning.
        feature_scale: factor of the pooled features.
        generator: draws first weights.

    Raises:
        ValueError: an unknown kind or pool, fewer than 1 label, or a negative number of virtual tokens.

    Source: sheet 2.1; the modules are peft's, the composition is compared with peft's by the golden test.
    """
    if kind not in KINDS or pool not in get_args(Pool):
        raise ValueError(f"kind {kind!r}, pool {pool!r}: expected one of {', '.join(KINDS)} and of first, cls, mean")
    if num_labels < 1 or num_virtual_tokens < 0:
        raise ValueError(f"got {num_labels} labels and {num_virtual_tokens} virtual tokens: expected >= 1 and >= 0")
    with _drawn_from(generator):
        if isinstance(encoder, str):
            encoder = AutoModel.from_pretrained(encoder, add_pooling_layer=False)
        elif isinstance(encoder, PretrainedConfig):
            encoder = AutoModel.from_config(encoder, add_pooling_layer=False)
        hidden_size = encoder.config.hidden_size
        encoder.requires_grad_(kind == "full")
        if kind == "lora":
            lora = LoraConfig(r=lora_r, lora_alpha=lora_alpha, target_modules=list(lora_targets))
            encoder = inject_adapter_in_model(lora, encoder)
        prompt = _prompt_module(encoder, kind, num_virtual_tokens, encoder_hidden_size or hidden_size)
        head = ClassificationHead(hidden_size, num_labels, dropout=dropout, is_linear=head_is_linear)
    return PromptModel(
        encoder,
        prompt,
        head,
        kind=kind,
        num_virtual_tokens=num_virtual_tokens,
        pool=pool,
        prompt_positions=prompt_positions,
        feature_scale=feature_scale,
    )


def start_from_vocabulary(model: PromptModel, *, generator: torch.Generator) -> None:
    """Set soft prompts to the embeddings of m random tokens of the vocabulary (peft's SAMPLE_VOCAB).

    Raises:
        ValueError: the model's kind is not prompt.
    """
    if model.kind != "prompt":
        raise ValueError(f"kind {model.kind!r}: only soft prompts (kind prompt) live in the space of word embeddings")
    words = model.encoder.get_input_embeddings().weight
    chosen = torch.randint(len(words), (model.num_virtual_tokens,), generator=generator)
    if model.prompt is not None:
        with torch.no_grad():
            model.prompt.embedding.weight.copy_(words[chosen.to(words.device)])  # type: ignore[union-attr, operator]


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the trainable parameters by name, sorted: all that travels between clients and server."""
    return {name: value for name, value in sorted(model.named_parameters()) if value.requires_grad}


def load_trainable_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy values into the trainable parameters.

    Raises:
        ValueError: names or shapes differ; they are listed.
    """
    own = trainable_state(model)
    if problem := mismatch(state, own):
        raise ValueError(f"the parameters do not fit the model: {problem}")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(state[name])


def mismatch(given: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Say in which names or shapes two sets of parameters differ; empty if in none."""
    if names := sorted(given.keys() ^ own.keys()):
        return f"{', '.join(names[:3])} on one side only"
    wrong = [name for name in own if tuple(given[name].shape) != tuple(own[name].shape)]
    return "; ".join(f"{name}: got {list(given[name].shape)}, expected {list(own[name].shape)}" for name in wrong[:3])


@dataclass(frozen=True)
class ParameterCounts:
    """How many parameters there are.

    Attributes:
        backbone: of the encoder, without adapters.
        prompt: of the prompt module, or of the LoRA factors.
        head: of the classification head.
        kind: see `build_prompt_model`.
    """

    backbone: int
    prompt: int
    head: int
    kind: str

    @property
    def trainable(self) -> int:
        """What is trained and travels: prompt and head (with `full` everything)."""
        return self.prompt + self.head + (self.backbone if self.kind == "full" else 0)

    @property
    def as_peft(self) -> int:
        """All parameters as peft counts them: with the frozen copy of the head that it keeps beside the trained one."""
        return self.backbone + self.prompt + self.head * (1 if self.kind == "full" else 2)

    @property
    def trainable_head_twice(self) -> int:
        """Trainable parameters as early peft counted them, and as the paper's "around 1.2 million" suggests."""
        return self.trainable + (0 if self.kind == "full" else self.head)


def parameter_counts(model: PromptModel) -> ParameterCounts:
    """Count a model's parameters; a model on the meta device needs no memory for them.

    Example: XLM-R-base, 10 labels, 8 virtual tokens: prompt 6,144, head 598,282, trainable 604,426.

    Source: sheet 2.5.
    """
    in_encoder = dict(model.encoder.named_parameters())
    adapters = sum(value.numel() for name, value in in_encoder.items() if "lora_" in name)
    in_prompt = 0 if model.prompt is None else sum(value.numel() for value in model.prompt.parameters())
    return ParameterCounts(
        backbone=sum(value.numel() for value in in_encoder.values()) - adapters,
        prompt=adapters + in_prompt,
        head=sum(value.numel() for value in model.head.parameters()),
        kind=model.kind,
    )


def _prompt_module(encoder: PreTrainedModel, kind: Kind, num_virtual_tokens: int, width: int) -> nn.Module | None:
    if kind not in _VIRTUAL or num_virtual_tokens == 0:
        return None
    shape: Any = {
        "task_type": "SEQ_CLS",
        "num_virtual_tokens": num_virtual_tokens,
        "token_dim": encoder.config.hidden_size,
        "num_transformer_submodules": 1,
        "num_layers": encoder.config.num_hidden_layers,
        "num_attention_heads": encoder.config.num_attention_heads,
    }
    if kind == "prompt":
        made: nn.Module = PromptEmbedding(PromptTuningConfig(**shape), encoder.get_input_embeddings())
    elif kind == "ptuning":
        made = PromptEncoder(PromptEncoderConfig(**shape, encoder_hidden_size=width))
    else:
        made = PrefixEncoder(PrefixTuningConfig(**shape))
    return made


@contextmanager
def _drawn_from(generator: torch.Generator | None) -> Iterator[None]:
    """Let layers, which draw from torch's global generator, draw from another one."""
    if generator is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield
