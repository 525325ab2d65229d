"""Language models, asked for next-token scores or for texts, with their answers kept.

    model = load_language_model("openai:gpt-4o-mini", cache="answers.sqlite")   # key from OPENAI_API_KEY
    scores = model.next_token_scores([prompt], ["A", "B"])                      # log-probabilities, [1, 2]
    reviews = model.complete(prompts, schema=review_schema)                     # validated JSON texts
    model.usage                                                                 # answers, tokens and dollars so far

`LocalLanguageModel` runs a model here (transformers), `EndpointLanguageModel` asks an OpenAI-compatible server (group
`llm`: pip install 'iclr-repro[llm]'), `CachedLanguageModel` puts a file of answers in front of either. API keys are
read from the environment only. Neither transformers nor the client is imported before it is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from iclr_repro.core._language_model_base import (
    BaseLanguageModel,
    Completion,
    LanguageModel,
    LanguageModelError,
    UnusableAnswersError,
    Usage,
)
from iclr_repro.core._language_model_cache import CachedLanguageModel
from iclr_repro.core._language_model_endpoint import EndpointLanguageModel

if TYPE_CHECKING:
    from iclr_repro.core._language_model_local import LocalLanguageModel, answer_tokens

__all__ = [
    "BaseLanguageModel",
    "CachedLanguageModel",
    "Completion",
    "EndpointLanguageModel",
    "LanguageModel",
    "LanguageModelError",
    "LocalLanguageModel",
    "UnusableAnswersError",
    "Usage",
    "answer_tokens",
    "load_language_model",
]


def __getattr__(name: str) -> Any:
    if name in ("LocalLanguageModel", "answer_tokens"):
        from iclr_repro.core import _language_model_local

        return getattr(_language_model_local, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_language_model(
    spec: str, *, cache: str | Path | None = None, offline: bool = False, **options: Any
) -> BaseLanguageModel:
    """Make the model that one line of a configuration names.

    Args:
        spec: "local:<name or folder>" or "openai:<name>".
        cache: file of answers to put in front; None for none.
        offline: take all answers from the cache.
        options: passed to `LocalLanguageModel.from_pretrained` or `EndpointLanguageModel`.

    Raises:
        ValueError: `spec` has another form, or offline without a cache.
        LanguageModelError: a local model cannot be loaded.
    """
    backend, _, name = spec.partition(":")
    if backend not in ("local", "openai") or not name:
        raise ValueError(f"a language model is 'local:<name or folder>' or 'openai:<name>': got {spec!r}")
    if offline and cache is None:
        raise ValueError("offline mode takes all answers from the cache: name its file (cache=...)")
    model: BaseLanguageModel
    if backend == "local":
        from iclr_repro.core._language_model_local import LocalLanguageModel

        model = LocalLanguageModel.from_pretrained(name, **options)
    else:
        model = EndpointLanguageModel(name, **options)
    return model if cache is None else CachedLanguageModel(model, cache, offline=offline)
