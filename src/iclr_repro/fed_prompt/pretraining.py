"""The small multilingual encoder: a tokenizer, a token table by cross-lingual LSA, contrastive alignment (sheet 7).

Shape letters: B = pairs of a batch, T = tokens, H = hidden size, N = documents, V = vocabulary.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, XLMRobertaConfig, XLMRobertaModel, get_linear_schedule_with_warmup

from iclr_repro.core.seeding import seed_sequence
from iclr_repro.fed_prompt.data import Corpus, LabelledTexts
from iclr_repro.fed_prompt.training import Texts

START, PAD, SEPARATOR, UNKNOWN = "<s>", "<pad>", "</s>", "<unk>"  # ids 0 to 3, as in XLM-R
_PAD_ID, _SEPARATOR_ID, _UNKNOWN_ID = 1, 2, 3
MOST_UNKNOWN = 0.01  # pitfall 11
_HEADLINE_TOKENS = 24
_TEMPERATURE = 0.07
_WARMUP_STEPS = 30
_CLIP_NORM = 1.0


def train_tokenizer(corpus: Corpus, *, vocab_size: int, articles: int = 500) -> Tokenizer:
    """Train a lower-case BPE with NFKC, words split at blanks and punctuation, on the training texts of a corpus.

    The alphabet is not limited below 1,000 signs, so that Ge'ez is covered.

    Args:
        corpus: at most `articles` training texts of each language and all merged sentences.
        vocab_size: V.
        articles: see above.

    Raises:
        ValueError: more than 1 % of the tokens of a language are unknown to it.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN, continuing_subword_prefix="##"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    lines = []
    for splits in corpus.languages.values():
        train = splits["train"]
        lines += [f"{a} {b}" for a, b in zip(train.first[:articles], train.second[:articles], strict=True)]
    lines += [sentence for group in corpus.merged for sentence in group.values()]
    # The trainer numbers continued signs in the order of a hash table, another one in every process, and ties between
    # merges follow the numbers. Named beforehand, in their order, they make the result a function of the lines.
    signs = Counter(sign for line in lines for sign in tokenizer.normalizer.normalize_str(line) if not sign.isspace())
    alphabet = sorted(sorted(signs), key=lambda sign: -signs[sign])[: max(1000, vocab_size // 4)]
    special = [START, PAD, SEPARATOR, UNKNOWN]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*special, *(f"##{sign}" for sign in sorted(alphabet))],
        limit_alphabet=len(alphabet),
        continuing_subword_prefix="##",
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    learnt = json.loads(tokenizer.to_str())
    learnt["added_tokens"] = [token for token in learnt["added_tokens"] if token["content"] in special]
    tokenizer = Tokenizer.from_str(json.dumps(learnt))
    for language, splits in corpus.languages.items():
        rate = unknown_rate(tokenizer, splits["train"])
        if rate > MOST_UNKNOWN:
            raise ValueError(
                f"{rate:.1%} of the tokens of {language} are unknown to the tokenizer, at most {MOST_UNKNOWN:.0%} are"
                " allowed: raise vocab_size, so that its script fits into the alphabet"
            )
    return tokenizer


def unknown_rate(tokenizer: Tokenizer, texts: LabelledTexts) -> float:
    """Return the share of tokens of some texts that the tokenizer does not know."""
    ids = [i for text in texts.second for i in tokenizer.encode(text, add_special_tokens=False).ids]
    return ids.count(_UNKNOWN_ID) / max(len(ids), 1)


def encode(tokenizer: Any, texts: LabelledTexts, *, length: int) -> Texts:
    """Encode texts as <s> first part (24 tokens) </s> second part, cut or padded to `length`.

    Args:
        tokenizer: of `train_tokenizer`, or a tokenizer of transformers, whose own form of pairs is then used.
        texts: two parts each.
        length: T.
    """
    if not isinstance(tokenizer, Tokenizer):
        second = list(texts.second) if any(texts.second) else None
        made = tokenizer(
            list(texts.first), second, truncation=True, max_length=length, padding="max_length", return_tensors="pt"
        )
        return Texts(made["input_ids"], made["attention_mask"].bool(), torch.as_tensor(texts.labels))
    first = [one.ids[:_HEADLINE_TOKENS] for one in tokenizer.encode_batch(list(texts.first), add_special_tokens=False)]
    second_ids = [one.ids for one in tokenizer.encode_batch(list(texts.second), add_special_tokens=False)]
    rows = [[0, *a, _SEPARATOR_ID, *b] for a, b in zip(first, second_ids, strict=True)]
    return from_ids(padded(rows, length), texts)


def from_ids(ids: Int[Tensor, "n T"], texts: LabelledTexts) -> Texts:
    """Return encoded texts of their ids, of which `padded` has filled the ends."""
    return Texts(ids, ids != _PAD_ID, torch.as_tensor(texts.labels))


def padded(rows: Sequence[Sequence[int]], length: int) -> Tensor:
    """Return [n, length] ids, longer rows cut, shorter ones padded."""
    filler = [_PAD_ID] * length
    return torch.as_tensor(np.array([[*row[:length], *filler[len(row) :]] for row in rows], dtype=np.int64))


def lsa_documents(corpus: Corpus, tokenizer: Tokenizer) -> tuple[scipy.sparse.csr_matrix, scipy.sparse.csr_matrix]:
    """Return [N, V] weighted counts of words in documents, of which parallel texts make one each, and without these.

    Without parallel texts languages are joined by shared tokens only.

    Binary counts times log((N + 1) / (df + 1)), rows of length 1, times the weight of the document: 1 of an article, 3
    of a merged group of sentences, 1.5 of a sentence pair.

    Args:
        corpus: training articles, merged groups and pairs.
        tokenizer: words.

    Source: sheet 7, step 2.
    """
    documents, weights = [], []
    for splits in corpus.languages.values():
        documents += [f"{a} {b}" for a, b in zip(splits["train"].first, splits["train"].second, strict=True)]
    num_articles = len(documents)
    weights += [1.0] * num_articles
    documents += [" ".join(group.values()) for group in corpus.merged]
    weights += [3.0] * len(corpus.merged)
    documents += [f"{one} {other}" for _, one, _, other in corpus.parallel]
    weights += [1.5] * len(corpus.parallel)
    found = [sorted(set(one.ids)) for one in tokenizer.encode_batch(documents, add_special_tokens=False)]
    size = tokenizer.get_vocab_size()
    return _weighted(found, weights, size), _weighted(found[:num_articles], weights[:num_articles], size)


def _weighted(found: Sequence[Sequence[int]], weights: Sequence[float], vocab_size: int) -> scipy.sparse.csr_matrix:
    """Return the weighted counts of documents that are given by their different tokens."""
    counts = scipy.sparse.csr_matrix(
        (
            np.ones(sum(map(len, found))),
            np.concatenate([np.array(ids, dtype=np.int64) for ids in found]),
            np.cumsum([0, *map(len, found)]),
        ),
        shape=(len(found), vocab_size),
    )
    frequency = np.asarray((counts > 0).sum(axis=0)).ravel()
    weighted = counts @ scipy.sparse.diags(np.log((len(found) + 1) / (frequency + 1)))
    norms = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    scale = np.asarray(weights) / np.where(norms > 0, norms, 1.0)
    return scipy.sparse.csr_matrix(scipy.sparse.diags(scale) @ weighted)


def lsa_table(documents: scipy.sparse.csr_matrix, rank: int, *, rng: np.random.Generator) -> Float[np.ndarray, "V H"]:
    """Return the token table V sqrt(S) of the truncated SVD U S V^T, scaled to standard deviation 0.05."""
    start = rng.normal(size=min(documents.shape))
    _, s, vt = scipy.sparse.linalg.svds(documents, k=rank, v0=start)
    order = np.argsort(-s)
    vt = vt[order]
    # A singular vector has no sign of its own: make the largest entry positive.
    vt *= np.sign(vt[np.arange(rank), np.abs(vt).argmax(axis=1)])[:, None]
    table = vt.T * np.sqrt(s[order])
    return np.asarray(table * (0.05 / table.std()), dtype=np.float64)


def bag_of_tokens(
    texts: Texts, table: Float[np.ndarray, "V H"], idf: Float[np.ndarray, " V"]
) -> Float[np.ndarray, "n H"]:
    """Return idf-weighted sums of the tokens' rows of a table, of length sqrt(H) (the head-only track, sheet 7a)."""
    ids = texts.ids.numpy()
    weights = np.where(texts.mask.numpy(), idf[ids], 0.0)
    features = np.einsum("nt,nth->nh", weights, table[ids])
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features * np.sqrt(table.shape[1]) / np.where(norms > 0, norms, 1.0))


def small_encoder(
    vocab_size: int, *, hidden_size: int, num_layers: int, num_heads: int, max_length: int = 96
) -> PreTrainedModel:
    """Make an encoder of XLM-R's class with random weights (post-LN, GELU, learned positions, 4 H feed-forward)."""
    config = XLMRobertaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        intermediate_size=4 * hidden_size,
        max_position_embeddings=max_length + _PAD_ID + 1,
        type_vocab_size=1,
        bos_token_id=0,
        pad_token_id=_PAD_ID,
        eos_token_id=_SEPARATOR_ID,
    )
    return XLMRobertaModel(config, add_pooling_layer=False)


def info_nce(first_BH: Float[Tensor, "B H"], second_BH: Float[Tensor, "B H"]) -> Float[Tensor, ""]:
    """Return the symmetric InfoNCE of pairs at temperature 0.07: each of a pair is to find the other in the batch.

    Embeddings are scaled to length 1 first. Chance is ln B.
    """
    scores = functional.normalize(first_BH, dim=1) @ functional.normalize(second_BH, dim=1).T / _TEMPERATURE
    places = torch.arange(len(scores), device=scores.device)
    return (functional.cross_entropy(scores, places) + functional.cross_entropy(scores.T, places)) / 2


class ContrastivePretraining:
    """Aligns an encoder's mean-pooled outputs: headline with body, and sentences with their translations.

    Batches alternate: every second one is of news (a headline and a random window of its text), the others are, in
    turn, of two random languages of a merged group and of sentence pairs. Without parallel text all are of news.

    Args:
        encoder: trained in place.
        corpus: training texts, merged groups and pairs.
        tokenizer: of the corpus.
        steps: updates in all, for the decay of the rate.
        batch_size: B.
        length: T.
        learning_rate: highest.
        parallel: use groups and pairs.
        seed: of batches and dropout.

    Source: sheet 7, step 4.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        corpus: Corpus,
        tokenizer: Tokenizer,
        *,
        steps: int,
        batch_size: int,
        length: int,
        learning_rate: float,
        parallel: bool,
        seed: int,
    ) -> None:
        self._encoder, self._seed, self._batch_size, self._length = encoder, seed, batch_size, length
        self._news = [
            (tokenizer.encode(a, add_special_tokens=False).ids, tokenizer.encode(b, add_special_tokens=False).ids)
            for splits in corpus.languages.values()
            for a, b in zip(splits["train"].first, splits["train"].second, strict=True)
            if a and b
        ]
        self._merged = [
            [tokenizer.encode(text, add_special_tokens=False).ids for text in group.values()] for group in corpus.merged
        ]
        self._pairs = [
            tuple(tokenizer.encode(text, add_special_tokens=False).ids for text in (pair[1], pair[3]))
            for pair in corpus.parallel
        ]
        self._cycle = ("news", "merged", "news", "pairs") if parallel else ("news",)
        self._optimizer = torch.optim.AdamW(encoder.parameters(), lr=learning_rate, fused=True)
        self._scheduler = get_linear_schedule_with_warmup(self._optimizer, min(_WARMUP_STEPS, steps // 4), steps)
        self._step = 0

    def step(self) -> dict[str, float]:
        """Make one update; return its loss under the name of its kind of batch."""
        kind = self._cycle[self._step % len(self._cycle)]
        rng = np.random.default_rng(seed_sequence(self._seed, f"pairs of step {self._step}"))
        first, second = zip(*self._batch(kind, rng), strict=True)
        self._encoder.train()
        with torch.random.fork_rng():
            torch.manual_seed(int(rng.integers(2**62)))
            loss = info_nce(self._embedded(first), self._embedded(second))
            self._optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._encoder.parameters(), _CLIP_NORM)
            self._optimizer.step()
            self._scheduler.step()
        self._step += 1
        return {kind: loss.item()}

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on."""
        return {
            "step": self._step,
            "encoder": dict(self._encoder.state_dict()),
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""
        self._step = state["step"]
        self._encoder.load_state_dict(state["encoder"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scheduler.load_state_dict(state["scheduler"])

    def _batch(self, kind: str, rng: np.random.Generator) -> list[tuple[Sequence[int], Sequence[int]]]:
        pools: dict[str, Sequence[Any]] = {"news": self._news, "merged": self._merged, "pairs": self._pairs}
        pool = pools[kind]
        rows = rng.choice(len(pool), size=min(self._batch_size, len(pool)), replace=False)
        window = self._length - 1
        made = []
        for row in rows:
            if kind == "merged":
                a, b = (pool[row][place] for place in rng.choice(len(pool[row]), size=2, replace=False))
            else:
                a, b = pool[row]
            if kind == "news":
                start = int(rng.integers(max(len(b) - window, 0) + 1))
                b = b[start : start + window]
            made.append((a, b))
        return made

    def _embedded(self, rows: Sequence[Sequence[int]]) -> Float[Tensor, "B H"]:
        device = next(self._encoder.parameters()).device
        longest = min(max(map(len, rows)) + 1, self._length)
        ids = padded([[0, *row] for row in rows], longest).to(device)
        mask = (ids != _PAD_ID).long()
        hidden = self._encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
