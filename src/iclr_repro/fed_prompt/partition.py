"""Who holds which texts (sheet 2.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def partition_clients(
    languages: Sequence[str],
    *,
    lang_mix: float = 0.0,
    equal_quota: bool = False,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Divide texts among one client a language; return the rows of each, no row twice.

    First floor(q_k (1 - lang_mix)) texts of the client's own language, then texts drawn without replacement from all
    that are left. lang_mix = 0 is the paper's non-IID division (a client holds its language only), 1 is IID.

    Args:
        languages: of each text.
        lang_mix: share of a client that comes from the common pool, 0 to 1.
        equal_quota: every client has q = floor(n / K) texts, as Weller et al. have it; else as many as its language.
        rng: shuffles.

    Raises:
        ValueError: no text, a share outside [0, 1], or a language with fewer texts than its own part of the quota.

    Source: sheet 2.4 (from the code of Weller et al. 2022).
    """
    if not len(languages):
        raise ValueError("there is no text to divide among clients")
    if not 0.0 <= lang_mix <= 1.0:
        raise ValueError(f"lang_mix: got {lang_mix}, expected 0 (own language only) to 1 (all mixed)")
    of_text = np.asarray(languages)
    names = list(dict.fromkeys(languages))
    quota = {name: len(of_text) // len(names) if equal_quota else int((of_text == name).sum()) for name in names}
    own: dict[str, np.ndarray] = {}
    for name in names:
        rows = rng.permutation(np.flatnonzero(of_text == name))
        number = int(np.floor(quota[name] * (1.0 - lang_mix) + 1e-9))
        if number > len(rows):
            raise ValueError(
                f"language {name!r} has {len(rows)} texts, its client is to have {number} of them: use"
                " equal_quota=False, or a larger lang_mix"
            )
        own[name] = rows[:number]
    pool = rng.permutation(np.setdiff1d(np.arange(len(of_text)), np.concatenate(list(own.values()))))
    ends = np.cumsum([quota[name] - len(own[name]) for name in names])
    return {
        name: np.concatenate([own[name], part])
        for name, part in zip(names, np.split(pool, ends)[: len(names)], strict=True)
    }


def dirichlet_clients(
    labels: Mapping[str, np.ndarray], clients_per_language: int, *, alpha: float = 0.5, rng: np.random.Generator
) -> dict[tuple[str, int], np.ndarray]:
    """Divide each language among several clients with skewed labels; return rows of the language's texts by client.

    For each label the shares of the clients are drawn from Dirichlet(alpha, ..., alpha). A client without a text takes
    one from the largest of its language.

    Args:
        labels: language -> label of each of its texts.
        clients_per_language: c.
        alpha: > 0; smaller is more skewed.
        rng: draws.

    Raises:
        ValueError: alpha <= 0, fewer than 1 client, or a language with fewer texts than clients.

    Source: sheet 2.4 (from FedP2EFT).
    """
    if not alpha > 0 or clients_per_language < 1:
        raise ValueError(f"got alpha {alpha} and {clients_per_language} clients a language, expected > 0 and >= 1")
    divided: dict[tuple[str, int], np.ndarray] = {}
    for language, of_text in labels.items():
        if len(of_text) < clients_per_language:
            raise ValueError(f"language {language!r} has {len(of_text)} texts for {clients_per_language} clients")
        parts: list[list[int]] = [[] for _ in range(clients_per_language)]
        for label in np.unique(of_text):
            rows = rng.permutation(np.flatnonzero(of_text == label))
            shares = rng.dirichlet(np.full(clients_per_language, alpha))
            ends = np.round(np.cumsum(shares)[:-1] * len(rows)).astype(int)
            for part, found in zip(parts, np.split(rows, ends), strict=True):
                part.extend(found.tolist())
        for part in parts:
            if not part:
                part.append(max(parts, key=len).pop())
        divided |= {(language, number): np.sort(part) for number, part in enumerate(parts)}
    return divided
