"""Tiny random decoders of every family that loki knows, for its tests."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

_SIZES: dict[str, Any] = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,
    "head_dim": 8,
}
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**_SIZES),
    "qwen2": Qwen2Config(**_SIZES, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**_SIZES),
    "mistral": MistralConfig(**_SIZES, sliding_window=4),
    "gemma": GemmaConfig(**_SIZES),
    "gemma2": Gemma2Config(**_SIZES, sliding_window=4),
    "opt": OPTConfig(
        vocab_size=31,
        hidden_size=16,
        ffn_dim=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=32,
        word_embed_proj_dim=16,
        init_std=0.3,
    ),
    "gpt2": GPT2Config(
        vocab_size=31, n_embd=16, n_inner=24, n_layer=3, n_head=2, n_positions=32, initializer_range=0.3
    ),
}


def tiny_model(family: str, *, seed: int = 0) -> PreTrainedModel:
    """Return a random model in evaluation mode; its biases are not zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(CONFIGS[family])
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def prompts(number: int, length: int, *, seed: int = 1) -> torch.Tensor:
    """Return random token ids, none of them a special token of any family."""
    return torch.randint(3, 31, (number, length), generator=torch.Generator().manual_seed(seed))
