"""The reranker as a model is scored by it: on labelled pairs, and on a retrieval task in BEIR's form (sheet 4.2).

Of the protocol of the LB reranker on BEIR the first 250 queries in sorted order and the candidates of a BM25 run, 100 a
query, are known. Which library ranked them is not; a run is read from a file, and none is made here.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.metrics import dcg_score
from torch import nn

from iclr_repro.core.data import DataError
from iclr_repro.loki.chat import left_padded, render
from iclr_repro.loki.prompts import (
    RERANKER_LABELS,
    Message,
    read_jsonl,
    reranker_contrast,
    reranker_messages,
    reranker_score,
)

_BATCH = 16  # pairs at once
_CUTS = (1, 10)


@dataclass(frozen=True)
class Retrieval:
    """A retrieval task: texts of queries and documents by their ids, and what is judged relevant.

    Attributes:
        queries: id -> text.
        corpus: id -> title and text, joined by a blank.
        relevant: query id -> document id -> gain >= 0, of the queries that have one above 0.
    """

    queries: dict[str, str]
    corpus: dict[str, str]
    relevant: dict[str, dict[str, int]]


def load_beir(folder: str | Path) -> Retrieval:
    """Read a folder in BEIR's form: corpus.jsonl, queries.jsonl and qrels/test.tsv (query-id, corpus-id, score).

    Raises:
        DataError: a file is not of this form, or judges a query or document that is not there.
    """
    folder = Path(folder)
    corpus = {
        row["_id"]: f"{row.get('title', '')} {row['text']}".strip() for row in read_jsonl(folder / "corpus.jsonl")
    }
    queries = {row["_id"]: row["text"] for row in read_jsonl(folder / "queries.jsonl")}
    path = folder / "qrels" / "test.tsv"
    relevant: dict[str, dict[str, int]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.DictReader(file, delimiter="\t")
        if missing := {"query-id", "corpus-id", "score"} - set(lines.fieldnames or ()):
            raise DataError(f"{path}: no column {', '.join(sorted(missing))}; expected query-id, corpus-id, score")
        for line in lines:
            query, document, gain = line["query-id"], line["corpus-id"], int(line["score"])
            if query not in queries or document not in corpus:
                raise DataError(f"{path}: judges {query!r} and {document!r}, one of which is not in {folder}")
            if gain > 0:
                relevant.setdefault(query, {})[document] = gain
    if not relevant:
        raise DataError(f"{path}: no document is relevant to any query")
    return Retrieval(queries, corpus, relevant)


def load_run(path: str | Path, *, depth: int) -> dict[str, list[str]]:
    """Read a run in TREC's form, "query Q0 document rank score tag"; return the best `depth` documents of each query.

    Raises:
        DataError: a line has other than six fields.
    """
    scored: dict[str, list[tuple[float, str]]] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        if len(fields) != 6:
            raise DataError(f"{path}, line {number}: {len(fields)} fields, expected query Q0 document rank score tag")
        scored.setdefault(fields[0], []).append((-float(fields[4]), fields[2]))
    return {query: [document for _, document in sorted(found)[:depth]] for query, found in scored.items()}


def ndcg(gains: Mapping[str, int], scores: Mapping[str, float], k: int) -> float:
    """Return the normalised discounted cumulative gain at k of one query, with linear gains: DCG@k / ideal DCG@k.

    The ideal ranking is of all documents with a gain, those that are no candidates included, as in trec_eval. Documents
    of equal score share their places. Example: gains {"a": 2, "b": 1}, scores {"a": 0.1, "b": 0.9}, k = 1 gives 1 / 2.

    Args:
        gains: document -> gain of the relevant ones; at least one.
        scores: document -> score of the candidates; higher is better.
        k: >= 1.
    """
    found = [gains.get(document, 0) for document in scores]
    filled = k + 1  # so that neither the ideal's other documents move up nor is there one alone, which is refused
    lowest = min(scores.values(), default=0.0) - 1.0
    reached = dcg_score([found + [0] * filled], [[*scores.values(), *[lowest] * filled]], k=k)
    ideal = [*gains.values(), 0]
    return float(reached / dcg_score([ideal], [ideal], k=k))


def _best_is_relevant(gains: Mapping[str, int], scores: Mapping[str, float]) -> float:
    """Return whether the best candidate has a gain; of several that are best, the share; 0 without candidates."""
    best = [document for document, score in scores.items() if score == max(scores.values())]
    return float(np.mean([gains.get(document, 0) > 0 for document in best])) if best else 0.0


def retrieval_scores(
    model: nn.Module,
    tokenizer: Any,
    task: Retrieval,
    candidates: Mapping[str, Sequence[str]] | None,
    *,
    queries: int | None,
) -> dict[str, float]:
    """Rerank each query's candidates; return mean nDCG at 1 and 10, P, recall and MAP at 1 for both its scores.

    Args:
        model: trained on `reranker_messages`.
        tokenizer: with a chat template.
        task: see `load_beir`.
        candidates: query id -> document ids; None: the whole corpus. A query without candidates scores 0.
        queries: the first in sorted order; None: all that have a relevant document.

    Returns:
        "expected/ndcg@1", "contrast/map@1" and so on, and "n", the number of queries.

    Raises:
        DataError: a candidate is not in the corpus.
    """
    values: dict[str, list[float]] = {}
    chosen = sorted(task.relevant)[:queries]
    for query in chosen:
        documents = list(task.corpus) if candidates is None else list(candidates.get(query, ()))
        if unknown := [document for document in documents if document not in task.corpus]:
            raise DataError(f"candidate {unknown[0]!r} of query {query!r} is not in the corpus")
        pairs = [reranker_messages(task.queries[query], task.corpus[document]) for document in documents]
        p_N7 = label_probabilities(model, tokenizer, pairs)
        for name, score in (("expected", reranker_score), ("contrast", reranker_contrast)):
            scores = {document: score(p) for document, p in zip(documents, p_N7.tolist(), strict=True)}
            for k in _CUTS:
                values.setdefault(f"{name}/ndcg@{k}", []).append(ndcg(task.relevant[query], scores, k))
            hit, relevant = _best_is_relevant(task.relevant[query], scores), len(task.relevant[query])
            # With one place, average precision and recall are the same.
            for metric, value in (("p@1", hit), ("recall@1", hit / relevant), ("map@1", hit / relevant)):
                values.setdefault(f"{name}/{metric}", []).append(value)
    return {name: float(np.mean(of_query)) for name, of_query in values.items()} | {"n": float(len(chosen))}


def pair_scores(model: nn.Module, tokenizer: Any, dialogues: Sequence[Sequence[Message]]) -> dict[str, float]:
    """Return how labelled pairs are scored: `accuracy`, `mean_error` and `contrast`.

    accuracy: share with the right digit most probable. mean_error: of the expected label. contrast: the second score,
    its sign turned for labels below 4, so that higher is better; pairs labelled 4 count as 0.
    """
    p_N7 = label_probabilities(model, tokenizer, [dialogue[:-1] for dialogue in dialogues])
    true = np.array([int(dialogue[-1]["content"]) for dialogue in dialogues])
    contrasts = np.array([reranker_contrast(p) for p in p_N7.tolist()])
    return {
        "accuracy": float((p_N7.argmax(axis=1) + 1 == true).mean()),
        "mean_error": float(np.abs([reranker_score(p) for p in p_N7.tolist()] - true).mean()),
        "contrast": float((np.sign(true - 4) * contrasts).mean()),
    }


@torch.no_grad()
def label_probabilities(
    model: nn.Module, tokenizer: Any, prompts: Sequence[Sequence[Message]]
) -> Float[NDArray[np.float64], "N 7"]:
    """Return the probabilities of "1" to "7" as the first token of the answer, among these seven."""
    labels = [tokenizer(label, add_special_tokens=False)["input_ids"][0] for label in RERANKER_LABELS]
    device = next(model.parameters()).device
    ids = [render(prompt, tokenizer, prompt=True) for prompt in prompts]
    found = np.empty((len(ids), len(labels)))
    by_length = sorted(range(len(ids)), key=lambda place: len(ids[place]))
    for start in range(0, len(ids), _BATCH):
        places = by_length[start : start + _BATCH]
        inputs = {name: part.to(device) for name, part in left_padded([ids[place] for place in places]).items()}
        logits = model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1, labels]
        found[places] = logits.double().softmax(dim=-1).cpu().numpy()
    return found
