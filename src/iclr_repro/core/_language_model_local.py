"""Language models run on this machine by transformers.

Shape letters: B = prompts of a batch, T = tokens of the longest prompt, V = vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from iclr_repro.core._language_model_base import (
    Answer,
    BaseLanguageModel,
    LanguageModelError,
    OnAnswer,
    Question,
    ScoreQuestion,
    TextQuestion,
    Usage,
    ignore_answer,
    json_problem,
)

_CODE_FENCE = re.compile(r"\s*```(?:json)?\s*(.*?)\s*```\s*", re.DOTALL)


class LocalLanguageModel(BaseLanguageModel):
    """A causal language model of transformers, asked in batches of prompts of similar length, the longest first.

    Prompts are padded on the left, masked, and numbered from their first real token, so that an answer does not depend
    on its neighbours in the batch (beyond rounding).

    `next_token_scores` takes the first token of each candidate as the tokenizer encodes it alone. Whether that needs a
    leading space depends on the tokenizer and on how the prompt ends: after "Winner:", byte-level tokenizers such as
    GPT-2's go on with " A"; after a chat template the answer begins with "A". With `answer_begins` it does not matter:
    the answer goes on with a space and the candidate, of one token, see `answer_tokens`. The beginning is that of the
    assistant's message where the chat template is used, else a line after the prompt.

    `complete` decodes plainly: the most probable token, or a draw from softmax(logits / temperature), whatever
    sampling defaults come with the model. A draw depends on seed and prompt only. With a schema, the prompt is
    followed by an instruction that states it, and the answer, without a Markdown fence around it, is validated;
    nothing forces the model to comply.

    Attributes:
        name: the model's name.
        usage: tokens read and generated; the cost is unknown (None).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        batch_size: int = 8,
        system: str = "",
        chat_template: bool = False,
    ) -> None:
        """Take over a loaded model: it is set to evaluation mode and loses its sampling defaults.

        Args:
            model: on its device and in its number format, which the answers follow.
            tokenizer: the one that belongs to the model.
            name: for messages and records.
            batch_size: prompts read at once, at least 1.
            system: text put before each prompt, as system message where the chat template is used; "" for none.
            chat_template: wrap each prompt as a user message in the tokenizer's chat template.

        Raises:
            ValueError: the tokenizer has no chat template, or batch_size is below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1: got {batch_size}")
        if chat_template and not tokenizer.chat_template:
            raise ValueError(f"the tokenizer of {name} has no chat template: pass chat_template=False")
        self.name = name
        self.usage = Usage()
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._system = system
        self._chat_template = chat_template
        ends = model.generation_config.eos_token_id
        ends = tokenizer.eos_token_id if ends is None else ends
        self._end_tokens: list[int] = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        padding = self._end_tokens[0] if self._end_tokens else 0
        # A published model may come with e.g. a repetition penalty, which `generate` applies to greedy decoding too.
        model.generation_config = GenerationConfig(eos_token_id=self._end_tokens or None, pad_token_id=padding)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str,
        *,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = "auto",
        batch_size: int = 8,
        system: str = "",
        chat_template: bool = False,
    ) -> LocalLanguageModel:
        """Load model and tokenizer from a folder, the local cache or the Hugging Face hub.

        Args:
            name_or_path: e.g. "Qwen/Qwen2.5-7B-Instruct".
            device: where the model runs.
            dtype: number format of the weights, "auto" for that of the files.
            batch_size: as in the constructor.
            system: as in the constructor.
            chat_template: as in the constructor.

        Raises:
            LanguageModelError: it cannot be loaded.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(name_or_path)
            model = AutoModelForCausalLM.from_pretrained(name_or_path, dtype=dtype)
        except (OSError, ValueError, ImportError) as error:
            raise LanguageModelError(
                f"the model {name_or_path!r} cannot be loaded: check the name, the network, and whether the model "
                f"asks to accept its licence first (`hf auth login`); the reason given is: {error}"
            ) from error
        return cls(
            model.to(device),
            tokenizer,
            name=name_or_path,
            batch_size=batch_size,
            system=system,
            chat_template=chat_template,
        )

    def identity(self) -> dict[str, Any]:
        """Name, sha256 of the weights, system message and chat template."""
        return {
            "model": self.name,
            "weights": self._weights_sha256,
            "system": self._system,
            "chat_template": self._tokenizer.chat_template if self._chat_template else None,
        }

    @cached_property
    def _weights_sha256(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def answer(self, prompts: Sequence[str], question: Question, on_answer: OnAnswer = ignore_answer) -> list[Answer]:
        """Run the model, batch after batch."""
        # Characters stand in for tokens, since all prompts of a large run tokenised at once would fill the memory.
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]), reverse=True)
        answers: dict[int, Answer] = {}
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            tokens = self._encode([prompts[index] for index in batch], question)
            self._check_lengths(batch, tokens, question)
            with torch.inference_mode():
                if isinstance(question, ScoreQuestion):
                    found = self._score(tokens, self._candidate_tokens(question))
                else:
                    found = self._generate(tokens, [prompts[index] for index in batch], question)
            for index, answer in zip(batch, found, strict=True):
                answers[index] = answer
                self.usage.add(answer)
                on_answer(index, answer)
        return [answers[index] for index in range(len(prompts))]

    def _encode(self, prompts: list[str], question: Question) -> list[list[int]]:
        schema = question.schema if isinstance(question, TextQuestion) else None
        if schema is not None:
            rule = (
                f"Answer with one JSON value that fits this JSON schema, and with nothing else:\n{json.dumps(schema)}"
            )
            prompts = [f"{prompt}\n\n{rule}" for prompt in prompts]
        begins = question.answer_begins if isinstance(question, ScoreQuestion) else ""
        if self._chat_template:
            prompts = [self._as_chat(prompt, begins) for prompt in prompts]
        else:
            before = f"{self._system}\n\n" if self._system else ""
            after = f"\n{begins}" if begins else ""
            prompts = [f"{before}{prompt}{after}" for prompt in prompts]
        if not isinstance(question, ScoreQuestion) or not begins:
            return self._tokens(prompts)
        # Encoded with a candidate and cut before it: what stands between the beginning and it is read, too.
        token = self._candidate_tokens(question)[0]
        rows = self._tokens([f"{prompt} {question.candidates[0].strip()}" for prompt in prompts])
        return [row[: len(row) - 1 - row[::-1].index(token)] for row in rows]

    def _tokens(self, prompts: list[str]) -> list[list[int]]:
        tokens: list[list[int]] = self._tokenizer(prompts, add_special_tokens=not self._chat_template)["input_ids"]
        return tokens

    def _as_chat(self, prompt: str, begins: str) -> str:
        messages = [{"role": "system", "content": self._system}] if self._system else []
        messages.append({"role": "user", "content": prompt})
        if not begins:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        messages.append({"role": "assistant", "content": begins})
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, continue_final_message=True))

    def _check_lengths(self, batch: list[int], tokens: list[list[int]], question: Question) -> None:
        context = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        num_new = question.max_tokens if isinstance(question, TextQuestion) else 0
        for index, row in zip(batch, tokens, strict=True):
            if not row:
                raise ValueError(f"prompt {index} encodes to no token: it needs some text")
            if context is not None and len(row) + num_new > context:
                raise ValueError(
                    f"prompt {index} has {len(row)} tokens, and up to {num_new} are to be generated; "
                    f"{self.name} holds {context} tokens: shorten the prompt or lower max_tokens"
                )

    def _candidate_tokens(self, question: ScoreQuestion) -> list[int]:
        if question.answer_begins:
            return answer_tokens(self._tokenizer, question.answer_begins, question.candidates)
        return self._first_tokens(question.candidates)

    def _first_tokens(self, candidates: tuple[str, ...]) -> list[int]:
        owners: dict[int, str] = {}
        for candidate in candidates:
            tokens = self._tokenizer(candidate, add_special_tokens=False)["input_ids"]
            if not tokens or tokens[0] == self._tokenizer.unk_token_id:
                raise ValueError(f"candidate {candidate!r} has no token in the vocabulary of {self.name}: use another")
            if tokens[0] in owners:
                raise ValueError(
                    f"candidates {owners[tokens[0]]!r} and {candidate!r} have the same first token "
                    f"({self._tokenizer.decode(tokens[:1])!r}): use candidates that differ there, "
                    "e.g. without a leading space"
                )
            owners[tokens[0]] = candidate
        return list(owners)

    def _score(self, tokens: list[list[int]], first_tokens: list[int]) -> list[Answer]:
        ids_BT, mask_BT = _left_padded(tokens, self._model.device)
        positions_BT = (mask_BT.cumsum(dim=1) - 1).clamp(min=0)
        logits_BV = self._model(
            input_ids=ids_BT, attention_mask=mask_BT, position_ids=positions_BT, use_cache=False, logits_to_keep=1
        ).logits[:, -1]
        scores = logits_BV.float().log_softmax(dim=1)[:, first_tokens].tolist()
        return [Answer(scores=tuple(row), input_tokens=len(ids)) for row, ids in zip(scores, tokens, strict=True)]

    def _generate(self, tokens: list[list[int]], prompts: list[str], question: TextQuestion) -> list[Answer]:
        ids_BT, mask_BT = _left_padded(tokens, self._model.device)
        processors = LogitsProcessorList()
        if question.seed is not None:
            processors.append(_GumbelNoise(question.temperature, [_generator(question.seed, text) for text in prompts]))
        output = self._model.generate(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            max_new_tokens=question.max_tokens,
            do_sample=False,
            logits_processor=processors,
        )
        answers = []
        for row, new_tokens in zip(tokens, output[:, ids_BT.shape[1] :].tolist(), strict=True):
            end = next((position for position, token in enumerate(new_tokens) if token in self._end_tokens), None)
            kept = new_tokens if end is None else new_tokens[: end + 1]
            text = self._tokenizer.decode(kept, skip_special_tokens=True)
            if question.schema is not None and (fenced := _CODE_FENCE.fullmatch(text)):
                text = fenced[1]
            problem = json_problem(text, question, cut_off=end is None)
            answers.append(Answer(text=text, input_tokens=len(row), output_tokens=len(kept), problem=problem))
        return answers


def answer_tokens(tokenizer: PreTrainedTokenizerBase, begins: str, answers: Sequence[str]) -> list[int]:
    """Return the token that each answer is where a text goes on with a space and the answer.

    That is the last token of "<begins> <answer>": " A" for tokenizers that have it, "A" after a token of the space for
    those that have not.

    Raises:
        ValueError: the answers differ in more than their last token, or share it.
    """
    encoded = [tokenizer(f"{begins} {answer.strip()}", add_special_tokens=False)["input_ids"] for answer in answers]
    if len({tuple(tokens[:-1]) for tokens in encoded}) > 1 or len({tokens[-1] for tokens in encoded}) < len(encoded):
        raise ValueError(
            f"after {begins!r} the answers {', '.join(answers)} are not one token each to the tokenizer "
            f"{tokenizer.name_or_path!r}: ask for a text instead"
        )
    return [tokens[-1] for tokens in encoded]


class _GumbelNoise(LogitsProcessor):  # type: ignore[misc] # transformers is not checked
    """Makes the greedy choice a draw.

    argmax_v (logits[v] / temperature + g[v]), g[v] ~ Gumbel(0, 1), is distributed as softmax(logits / temperature).

    Each row has its own generator: unlike the sampling of `generate`, which draws from the global one, a draw depends
    on no other prompt.
    """

    def __init__(self, temperature: float, generators: list[torch.Generator]) -> None:
        self._temperature = temperature
        self._generators = generators

    def __call__(self, input_ids: Int64[Tensor, "B T"], scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        exponential_BV = torch.empty(scores.shape)
        for row, generator in zip(exponential_BV, self._generators, strict=True):
            row.exponential_(generator=generator)
        return scores.float() / self._temperature - exponential_BV.log().to(scores.device)


def _generator(seed: int, prompt: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}\n{prompt}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _left_padded(tokens: list[list[int]], device: torch.device) -> tuple[Int64[Tensor, "B T"], Int64[Tensor, "B T"]]:
    """Token ids with zeros before the shorter rows, and the mask that is 1 at real tokens."""
    length = max(len(row) for row in tokens)
    ids = torch.tensor([[0] * (length - len(row)) + row for row in tokens])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in tokens])
    return ids.to(device), mask.to(device)
