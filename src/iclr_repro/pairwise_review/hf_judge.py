"""A judge on a local causal language model that reads each first manuscript once for all its comparisons.

Shape letters: B = pairs of a batch, T = tokens of the longest second part, V = vocabulary.

Source: sheet E4 and "Scales" (prefix caching).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from iclr_repro.core.language_model import answer_tokens
from iclr_repro.pairwise_review.judging import BaseJudge, Judgement
from iclr_repro.pairwise_review.language_judge import LEAST_MASS, Reading, preference
from iclr_repro.pairwise_review.language_rater import ExpectedRatings, expected_digit
from iclr_repro.pairwise_review.papers import Paper, check_papers
from iclr_repro.pairwise_review.prompts import CountTokens, estimate_tokens, load_template

# Settings by which models change their logits behind the head, which is read here (Gemma 2; Cohere; Granite).
_BEHIND_THE_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling")
_MARK = "\N{SYMBOL FOR GROUP SEPARATOR}"  # where a prompt is cut; in no template, and removed from texts


def has_chat_template(name_or_path: str) -> bool:
    """Return whether a model's tokenizer has a chat template; the model is not loaded."""
    return bool(AutoTokenizer.from_pretrained(name_or_path).chat_template)


def load_token_counter(name_or_path: str) -> CountTokens:
    """Load the tokenizer of a model, without the model, and return what counts the tokens of a text."""
    return _counter(AutoTokenizer.from_pretrained(name_or_path))


def _counter(tokenizer: PreTrainedTokenizerBase) -> CountTokens:
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


class HFJudge(BaseJudge):
    """Compares the next-token probabilities of "A" and "B" after "Winner:"; nothing is sampled.

    prob_first = P(A) / (P(A) + P(B)), the mean over both orders where `swap` is set; exactly 0.5 is no preference,
    None. Where the mass P(A) + P(B) is below `least_mass`, in either order, the answer is unreadable, None.

    Prompt = system message, first manuscript | second manuscript, question, "Winner:". With `reuse_prefix` the part
    before the bar is read once for all pairs of a call that share the first manuscript, and its keys and values are
    kept. The two parts are tokenised apart in either case, so that both give the same probabilities up to rounding.
    With a chat template "Winner:" begins the assistant's message; without one, it is the last line, and the prompt
    begins with the model's token of beginning if its tokenizer writes one.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        reading: Reading | None = None,
        swap: bool = True,
        batch_size: int = 8,
        reuse_prefix: bool = True,
        chat_template: bool = False,
        least_mass: float = LEAST_MASS,
    ) -> None:
        """Take over a loaded model.

        Args:
            model: on its device; set to evaluation mode.
            tokenizer: the one that belongs to it.
            name: for records.
            reading: how papers are shown; its own `count_tokens` counts, an estimate unless another is given.
            swap: ask both orders.
            batch_size: pairs read at once, at least 1.
            reuse_prefix: read the first manuscript once.
            chat_template: wrap the prompt in the tokenizer's chat template.
            least_mass: of a readable answer, 0 to 1.

        Raises:
            ValueError: batch_size below 1, no chat template, A and B are no tokens of their own, or the model changes
                its logits behind the head.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        if chat_template and not tokenizer.chat_template:
            raise ValueError(f"the tokenizer of {name} has no chat template: pass chat_template=False")
        for setting in _BEHIND_THE_HEAD:
            if (value := getattr(model.config.get_text_config(), setting, None)) not in (None, 1.0):
                raise ValueError(f"{name} has {setting}={value}, which is not applied here: use local:<name> instead")
        self._reading = reading or Reading()
        self._template = load_template(self._reading.template_version)
        order = ", both orders" if swap else ""
        blind = "" if self._reading.blind else ", not blind"
        chat = ", chat template" if chat_template else ""
        mass = f"mass >= {least_mass:g}"
        self.name = f"{name}(next_token, {mass}, prompt {self._template.version}{order}{blind}{chat})"
        self.question = self._template.question_of(self._reading.venue, "next_token")
        self._model, self._tokenizer = model.eval(), tokenizer
        self._swap, self._batch_size, self._reuse_prefix = swap, batch_size, reuse_prefix
        self._chat_template, self._least_mass = chat_template, least_mass
        self._letters = answer_tokens(tokenizer, self._template.winner_begins, "AB")
        begins = tokenizer.bos_token_id
        written = not chat_template and begins is not None and tokenizer("A")["input_ids"][0] == begins
        self._beginning = [begins] if written else []

    @classmethod
    def from_pretrained(
        cls, name_or_path: str, *, device: str | torch.device = "cpu", dtype: str = "auto", **options: Any
    ) -> HFJudge:
        """Load model and tokenizer from a folder, the cache or the hub; `options` are those of the constructor.

        A `reading` that estimates tokens, or none, counts them with this tokenizer instead.
        """
        tokenizer = AutoTokenizer.from_pretrained(name_or_path)
        reading = options.pop("reading", None) or Reading()
        if reading.count_tokens is estimate_tokens:
            reading = replace(reading, count_tokens=_counter(tokenizer))
        model = AutoModelForCausalLM.from_pretrained(name_or_path, dtype=dtype).to(device)
        options.setdefault("chat_template", bool(tokenizer.chat_template))
        return cls(model, tokenizer, name=name_or_path, reading=reading, **options)

    @classmethod
    def untrained(cls, *, seed: int = 0, hidden_size: int = 64, layers: int = 2, **options: Any) -> HFJudge:
        """Make a judge that knows nothing, for tests and timings: a small random Llama with a byte tokenizer."""
        vocabulary = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        config = LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=hidden_size,
            intermediate_size=4 * hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=32_768,
            bos_token_id=None,
            eos_token_id=None,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LlamaForCausalLM(config)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
        options.setdefault("least_mass", 0.0)  # to it A and B are two letters among all others
        return cls(model, tokenizer, name=f"untrained-{hidden_size}x{layers}-seed{seed}", **options)

    def shown(self, paper: Paper) -> str:
        """See `BaseJudge`."""
        return self._reading.show(paper).replace(_MARK, " ")

    def compare_many(self, first: Sequence[Paper], second: Sequence[Paper]) -> list[Judgement]:
        """See `Judge`.

        Raises:
            ValueError: a paper without text, or a prompt longer than the model's context.
        """
        pairs = list(zip(first, second, strict=True))
        questions = pairs + [(b, a) for a, b in pairs] if self._swap else pairs
        shown = {paper.id: self.shown(paper) for pair in pairs for paper in pair}
        parts = [self._parts(shown[a.id], shown[b.id]) for a, b in questions]
        log_odds, log_mass, num_tokens = self._log_odds(parts)
        probabilities, masses = torch.sigmoid(log_odds).tolist(), log_mass.exp().clamp(max=1.0).tolist()
        judgements = []
        for index in range(len(pairs)):
            probability, mass, tokens = probabilities[index], masses[index], num_tokens[index]
            raw = f"{probability:.6f}"
            if self._swap:
                swapped = probabilities[index + len(pairs)]
                raw, tokens = f"{raw} {swapped:.6f}", tokens + num_tokens[index + len(pairs)]
                probability, mass = (probability + 1.0 - swapped) / 2, min(mass, masses[index + len(pairs)])
            read = probability if mass >= self._least_mass else None
            judgements.append(Judgement(preference(read), read, mass=mass, raw=raw, input_tokens=tokens))
        return judgements

    def expected_ratings(self, papers: Sequence[Paper]) -> ExpectedRatings:
        """Rate papers by the same model, see `language_rater.expected_ratings`.

        Raises:
            ValueError: a paper without text, a prompt longer than the context, or digits of more than one token.
        """
        check_papers(papers, need_text=True)
        template, venue = self._template, self._reading.venue
        digits = answer_tokens(self._tokenizer, template.rating_begins, "123456789")
        system, question = template.system_message(venue), template.rating_by_next_token.replace("{venue}", venue)
        scores = [
            self._next_token_scores(system, f"### Manuscript\n{self.shown(paper)}\n\n{question}", digits)
            for paper in papers
        ]
        return expected_digit(np.array(scores), least_mass=self._least_mass)

    @torch.inference_mode()
    def _next_token_scores(self, system: str, prompt: str, digits: list[int]) -> list[float]:
        text = self._whole(system, prompt, self._template.rating_begins)
        tokens = self._beginning + self._tokens_before(text, "1")
        self._check_length(len(tokens))
        ids = torch.tensor([tokens], device=self._model.device)
        logits = self._model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1].float()
        scores: list[float] = logits.log_softmax(0)[digits].tolist()
        return scores

    def _tokens(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokens

    def _tokens_before(self, text: str, answer: str) -> list[int]:
        """The tokens of a text up to an answer of one token that a space stands before, see `answer_tokens`."""
        return self._tokens(f"{text} {answer}")[:-1]

    def _whole(self, system: str, prompt: str, begins: str) -> str:
        """All that the model reads, up to and with the beginning of its answer."""
        if not self._chat_template:
            return f"{system}\n\n{prompt}\n{begins}"
        roles = (("system", system), ("user", prompt), ("assistant", begins))
        messages = [{"role": role, "content": content} for role, content in roles]
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, continue_final_message=True))

    def _parts(self, text_first: str, text_second: str) -> tuple[str, str]:
        template, venue = self._template, self._reading.venue
        second = template.second_part(text_second, venue=venue, answering="next_token")
        prompt = f"{template.first_part(text_first)}{_MARK}{second}"
        before, _, after = self._whole(template.system_message(venue), prompt, template.winner_begins).partition(_MARK)
        return before, after

    @torch.inference_mode()
    def _log_odds(self, parts: Sequence[tuple[str, str]]) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"], list[int]]:
        """Return log P(A) - log P(B) and log (P(A) + P(B)) after each prompt, and the tokens of each."""
        log_odds, log_mass, num_tokens = torch.empty(len(parts)), torch.empty(len(parts)), [0] * len(parts)
        order = sorted(range(len(parts)), key=lambda index: (parts[index][0], len(parts[index][1])))
        for prefix, same in groupby(order, key=lambda index: parts[index][0]):
            members = list(same)
            prefix_tokens = self._beginning + self._tokens(prefix)
            suffixes = {index: self._tokens_before(parts[index][1], "A") for index in members}
            for index, suffix in suffixes.items():
                num_tokens[index] = len(prefix_tokens) + len(suffix)
            self._check_length(max(num_tokens[index] for index in members))
            cache = self._read_prefix(prefix_tokens) if self._reuse_prefix else None
            for start in range(0, len(members), self._batch_size):
                batch = members[start : start + self._batch_size]
                rows = [suffixes[index] for index in batch]
                log_odds[batch], log_mass[batch] = self._score(prefix_tokens, rows, cache)
        return log_odds, log_mass, num_tokens

    def _read_prefix(self, tokens: list[int]) -> Any:
        ids = torch.tensor([tokens], device=self._model.device)
        return self._model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values

    def _score(
        self, prefix: list[int], suffixes: list[list[int]], cache: Any
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        rows = suffixes if cache is not None else [prefix + suffix for suffix in suffixes]
        # Padded on the right: later tokens are not seen by earlier ones, so that no mask is needed.
        length = max(map(len, rows))
        device = self._model.device
        ids_BT = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=device)
        last_B = torch.tensor([len(row) - 1 for row in rows], device=device)
        options: dict[str, Any] = {"use_cache": False}
        if cache is not None:
            grown = copy.deepcopy(cache)
            grown.batch_repeat_interleave(len(rows))
            options = {"use_cache": True, "past_key_values": grown}
        hidden_BTD = self._model.base_model(input_ids=ids_BT, **options).last_hidden_state
        last_BD = hidden_BTD[torch.arange(len(rows), device=device), last_B]
        # Two rows of the head, in float32: in half precision close logits would often be equal.
        head = self._model.get_output_embeddings()
        logits_B2 = last_BD.float() @ head.weight[self._letters].float().T
        if head.bias is not None:
            logits_B2 = logits_B2 + head.bias[self._letters].float()
        log_mass_B = logits_B2.logsumexp(dim=1) - head(last_BD).float().logsumexp(dim=1)
        return (logits_B2[:, 0] - logits_B2[:, 1]).cpu(), log_mass_B.cpu()

    def _check_length(self, num_tokens: int) -> None:
        context = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        if context is not None and num_tokens > context:
            raise ValueError(
                f"a comparison has {num_tokens} tokens, {self.name} holds {context}: lower the budget of a manuscript "
                f"(now {self._reading.budget})"
            )
