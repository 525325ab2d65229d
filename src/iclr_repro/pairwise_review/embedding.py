"""Texts as vectors without a network, for the novelty measure.

Source: sheet D (the paper's embedding model is not available; offline: TF-IDF and truncated SVD).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from iclr_repro.pairwise_review.papers import Paper, check_papers


def embed_texts(papers: Sequence[Paper], *, dimensions: int = 128, seed: int = 0) -> np.ndarray:
    """Return [n, d] unit vectors of title and abstract: TF-IDF, reduced to d dimensions by truncated SVD.

    d is 128 or, for few papers, one less than their number.

    Raises:
        ValueError: duplicate ids or a paper without text.
    """
    check_papers(papers, need_text=True)
    texts = [f"{paper.title}. {paper.abstract}" for paper in papers]
    features = TfidfVectorizer(sublinear_tf=True, stop_words="english").fit_transform(texts)
    size = min(dimensions, len(papers) - 1, features.shape[1] - 1)
    reduced = TruncatedSVD(n_components=size, random_state=seed).fit_transform(features)
    return np.asarray(reduced / np.linalg.norm(reduced, axis=1, keepdims=True))
