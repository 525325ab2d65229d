"""Distances between languages from their typology (sheet 2.7); the definition is ours, the paper's was not found."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

DistanceKind = Literal["syntactic", "phonological", "inventory", "featural", "family", "mean3"]
DISTANCES: tuple[str, ...] = get_args(DistanceKind)
_PREFIXES = {"syntactic": "S_", "phonological": "P_", "inventory": "INV_"}


@dataclass(frozen=True, eq=False)
class Uriel:
    """Binary typological features of languages.

    Attributes:
        languages: ISO 639-3 codes.
        names: of the features; S_ syntax, P_ phonology, INV_ inventory.
        features: [languages, features], 0 or 1, gaps filled from near languages.
        family: [languages, families], membership in Glottolog.
    """

    languages: tuple[str, ...]
    names: tuple[str, ...]
    features: np.ndarray
    family: np.ndarray

    def row(self, language: str) -> int:
        """Return the row of a language; where swa or zho has none, that of swh or cmn.

        Raises:
            ValueError: it is not among the languages.
        """
        code = language if language in self.languages else {"swa": "swh", "zho": "cmn"}.get(language, language)
        if code not in self.languages:
            close = difflib.get_close_matches(code, self.languages, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"language {language!r} is not in this URIEL table{hint}. It has {', '.join(self.languages)}: leave the"
                " language out, or add its row from lang2vec"
            )
        return self.languages.index(code)


def language_distance(uriel: Uriel, first: str, second: str, *, kind: DistanceKind = "mean3") -> float:
    """Return d(a, b) = 1 - <u_a, u_b> / (|u_a| |u_b|), between 0 and 1.

    Example: features [1, 1] and [1, 0] are 1 - 1 / sqrt(2) = 0.293 apart.

    Args:
        uriel: the features u.
        first: a, an ISO 639-3 code.
        second: b.
        kind: which block of features: syntactic, phonological, inventory, featural (all three), family, or mean3, the
            mean of the first three distances.

    Raises:
        ValueError: a language without a row, an unknown kind, or a language without any feature of that kind.
    """
    if kind not in DISTANCES:
        raise ValueError(f"kind: got {kind!r}, expected one of {', '.join(DISTANCES)}")
    rows = uriel.row(first), uriel.row(second)
    if kind == "mean3":
        return float(np.mean([_cosine_distance(_block(uriel, one)[list(rows)]) for one in _PREFIXES]))
    return _cosine_distance(_block(uriel, kind)[list(rows)])


def federation_distance(
    uriel: Uriel,
    languages: Sequence[str],
    *,
    kind: DistanceKind = "mean3",
    weights: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Return the distance of each language to the others: D(l) = sum_{k != l} w_k d(l, k) / sum_{k != l} w_k.

    Args:
        uriel: the features.
        languages: the federation, at least two.
        kind: see `language_distance`.
        weights: w by language, for example sizes of training sets; None: 1.

    Raises:
        ValueError: fewer than two languages, or see `language_distance`.
    """
    if len(set(languages)) < 2:
        raise ValueError(f"got the languages {list(languages)}: a distance to the others needs at least two")
    found = {}
    for one in languages:
        others = [other for other in languages if other != one]
        distances = [language_distance(uriel, one, other, kind=kind) for other in others]
        found[one] = float(np.average(distances, weights=[(weights or {}).get(other, 1.0) for other in others]))
    return found


def _block(uriel: Uriel, kind: str) -> np.ndarray:
    if kind == "family":
        return uriel.family
    if kind == "featural":
        return uriel.features
    return uriel.features[:, [name.startswith(_PREFIXES[kind]) for name in uriel.names]]


def _cosine_distance(pair: np.ndarray) -> float:
    a, b = pair.astype(np.float64)
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    if norms == 0.0:
        raise ValueError("a language has no feature of this kind, so that no angle is defined: choose another kind")
    return float(max(0.0, 1.0 - a @ b / norms))
