"""Text to token ids: the basic English tokenizer, a word vocabulary, and masking for masked-language modelling.

Shape letters: N = texts, T = tokens.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

SPECIALS = ("<unk>", "<pad>", "<eos>", "<bos>", "<mask>")
UNK, PAD, EOS, BOS, MASK = range(5)  # the order of the authors' vocabulary (sheet 4.1)
IGNORED = -100  # label of a position without a prediction, as in torch and transformers

_BASIC_ENGLISH = (
    (re.compile(r"<br />"), " "),
    (re.compile(r"""["]"""), ""),
    (re.compile(r"([.,()!?'])"), r" \1 "),
    (re.compile(r"[;:]"), " "),
)
_MASK_SHARE, _KEEP_MASKED, _KEEP_RANDOM = 0.15, 0.8, 0.9  # 80 % mask, 10 % random, 10 % unchanged (sheet 4.2)


def basic_english(text: str) -> list[str]:
    """Split a text into words: lower case, punctuation apart, quotes, line breaks of HTML, `;` and `:` gone.

    Source: sheet 4.1. Example: "It's <br />GOOD; really!" gives it ' s good really !
    """
    text = text.lower()
    for pattern, replacement in _BASIC_ENGLISH:
        text = pattern.sub(replacement, text)
    return text.split()


@dataclass(frozen=True)
class Vocabulary:
    """Words and their ids; the first five ids are `SPECIALS`."""

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ids", {word: number for number, word in enumerate(self.words)})

    @classmethod
    def from_texts(cls, texts: Iterable[str], *, min_frequency: int = 1, max_size: int | None = None) -> Vocabulary:
        """Keep the words that occur often enough, from the most frequent on, equally frequent ones by alphabet.

        Args:
            texts: the training texts.
            min_frequency: occurrences that a word needs.
            max_size: words at most, the special ones included.
        """
        counts = Counter(word for text in texts for word in basic_english(text))
        ordered = sorted((word for word, count in counts.items() if count >= min_frequency),
                         key=lambda word: (-counts[word], word))  # fmt: skip
        return cls((*SPECIALS, *ordered)[:max_size])

    def __len__(self) -> int:
        return len(self.words)

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text's words; unknown ones become `UNK`."""
        known: dict[str, int] = self._ids  # type: ignore[attr-defined]
        return [known.get(word, UNK) for word in basic_english(text)]

    def encode(self, texts: Sequence[str], length: int, *, overwrite_ends: bool = False) -> Int64[Tensor, "N T"]:
        """Return ids of a fixed length: longer texts are cut, shorter ones padded; an empty one is a single `UNK`.

        Args:
            texts: any number.
            length: T >= 1.
            overwrite_ends: put `BOS` and `EOS` in place of the first and the last word, as the authors' loaders do
                (pitfall P10); two words of each text are then lost.
        """
        ids_NT = torch.full((len(texts), length), PAD)
        for row, text in enumerate(texts):
            ids = self.ids(text)[:length] or [UNK]
            if overwrite_ends:
                ids[0], ids[-1] = BOS, EOS
            ids_NT[row, : len(ids)] = torch.tensor(ids)
        return ids_NT


def mask_tokens(
    ids_NT: Int64[Tensor, "N T"],
    *,
    mask_id: int,
    vocab_size: int,
    special_ids: Sequence[int],
    generator: torch.Generator,
) -> tuple[Int64[Tensor, "N T"], Int64[Tensor, "N T"]]:
    """Choose 15 % of the tokens for prediction: 80 % of them are masked, 10 % replaced at random, 10 % left.

    Args:
        ids_NT: on the CPU.
        mask_id: of the mask token.
        vocab_size: random replacements are ids below it that are not special.
        special_ids: never chosen.
        generator: of all draws.

    Returns:
        The ids that the model reads, and the labels: the original id where it was chosen, -100 elsewhere.

    Source: sheet 4.2.
    """
    special = torch.zeros(vocab_size, dtype=torch.bool)
    special[list(special_ids)] = True
    chosen_NT = (torch.rand(ids_NT.shape, generator=generator) < _MASK_SHARE) & ~special[ids_NT]
    labels_NT = torch.where(chosen_NT, ids_NT, IGNORED)
    what_NT = torch.rand(ids_NT.shape, generator=generator)
    ordinary = torch.nonzero(~special).flatten()
    random_NT = ordinary[torch.randint(len(ordinary), ids_NT.shape, generator=generator)]
    read_NT = torch.where(chosen_NT & (what_NT < _KEEP_MASKED), mask_id, ids_NT)
    is_random_NT = chosen_NT & (what_NT >= _KEEP_MASKED) & (what_NT < _KEEP_RANDOM)
    return torch.where(is_random_NT, random_NT, read_NT), labels_NT


def pack(documents: Iterable[Sequence[int]], length: int, *, separator: int) -> Int64[Tensor, "N T"]:
    """Join documents, each followed by a separator, and cut the stream into full segments; the rest is dropped.

    Source: sheet 4.2. Example: [[5, 6], [7]] in segments of 2 with separator 1: [[5, 6], [1, 7]].
    """
    stream = np.fromiter((token for ids in documents for token in (*ids, separator)), dtype=np.int64)
    return torch.from_numpy(stream[: len(stream) // length * length].reshape(-1, length))
