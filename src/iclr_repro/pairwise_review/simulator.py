"""A simulated venue with known quality, and judges of it whose faults are parameters.

    q quality, z novelty trait, u prestige of the institutions, t persistent error of the judge, all per paper
    merit = q + t + g_nov z + g_inst u                                            what the judge goes by
    P(first wins) = sigmoid(kappa (merit_first - merit_second) + b_pos)           the pairwise judge
    review = clip(round(5.5 + 0.8 (merit + e + h)), 1, 10)                        the rating judge

Source: sheet F; ours, not the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from iclr_repro.pairwise_review.hashing import keyed_uniform
from iclr_repro.pairwise_review.papers import Paper

NUM_AREAS = 12
_EMBEDDING_DIM = 16
_SPREAD = 0.25
_PRESTIGE_EXPONENT = 1.1
_CITATIONS = {"intercept": 1.8, "quality": 0.54, "prestige": 0.2, "novelty": -0.1, "noise": 1.1}
_RATING_CENTRE, _RATING_SLOPE = 5.5, 0.8


@dataclass(frozen=True, eq=False)
class SimulatedPapers:
    """n papers.

    Attributes:
        quality: [n] q.
        novelty_trait: [n] z; papers with a large z lie far from the centre of their topic.
        prestige: [n] u, standardised.
        area: [n] topic, 0 to 11.
        institutions: the distinct institutions of each paper, 1 to 3 of n/4.
        n_institutions: their number.
        citations: [n] counts.
        embedding: [n, 16].
    """

    quality: np.ndarray
    novelty_trait: np.ndarray
    prestige: np.ndarray
    area: np.ndarray
    institutions: tuple[tuple[int, ...], ...]
    n_institutions: int
    citations: np.ndarray
    embedding: np.ndarray

    def __len__(self) -> int:
        return len(self.quality)

    def merit(
        self, *, error: np.ndarray | float = 0.0, novelty_weight: float = 0.0, prestige_weight: float = 0.0
    ) -> np.ndarray:
        """Return [n] what a judge with this error t and these weights g goes by."""
        return np.asarray(self.quality + error + novelty_weight * self.novelty_trait + prestige_weight * self.prestige)

    def as_papers(self) -> list[Paper]:
        """Return the papers with generated titles and abstracts, for judges that want some."""
        return [
            Paper(
                id=f"sim{index:05d}",
                title=f"Simulated paper {index}",
                abstract=f"On topic {self.area[index]}.",
                area=str(self.area[index]),
                citations=int(self.citations[index]),
                institutions=tuple(f"institution {one}" for one in self.institutions[index]),
            )
            for index in range(len(self))
        ]


def simulate_papers(n: int, *, rng: np.random.Generator, quality_novelty_corr: float = 0.0) -> SimulatedPapers:
    """Draw a venue of n papers.

    log(1 + citations) = 1.8 + 0.54 q + 0.2 u - 0.1 z + 1.1 e, rounded, at least 0
    embedding = centre of the topic + 0.25 exp(0.5 z) w / 4, w ~ N(0, I_16)

    Args:
        n: at least 12, so that three institutions can be drawn.
        rng: source of everything.
        quality_novelty_corr: correlation of q and z, -1 to 1.

    Raises:
        ValueError: n below 12 or a correlation out of range.
    """
    if n < 12:
        raise ValueError(f"a simulated venue needs at least 12 papers, got {n}")
    if not -1 <= quality_novelty_corr <= 1:
        raise ValueError(f"a correlation lies in [-1, 1], got {quality_novelty_corr}")
    quality = rng.standard_normal(n)
    other = np.sqrt(1 - quality_novelty_corr**2)
    novelty_trait = quality_novelty_corr * quality + other * rng.standard_normal(n)
    area = rng.integers(NUM_AREAS, size=n)

    n_institutions = n // 4
    weights = np.arange(1, n_institutions + 1) ** -_PRESTIGE_EXPONENT
    weights /= weights.sum()
    institutions = tuple(
        tuple(sorted(rng.choice(n_institutions, size=size, replace=False, p=weights).tolist()))
        for size in rng.integers(1, 4, size=n)
    )
    best = np.log([weights[list(mine)].max() for mine in institutions])
    prestige = (best - best.mean()) / best.std()

    c = _CITATIONS
    log_citations = c["intercept"] + c["quality"] * quality + c["prestige"] * prestige + c["novelty"] * novelty_trait
    log_citations += c["noise"] * rng.standard_normal(n)
    citations = np.maximum(np.rint(np.expm1(log_citations)), 0).astype(np.int64)

    centres = rng.standard_normal((NUM_AREAS, _EMBEDDING_DIM))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    noise = rng.standard_normal((n, _EMBEDDING_DIM)) / np.sqrt(_EMBEDDING_DIM)
    embedding = centres[area] + _SPREAD * np.exp(0.5 * novelty_trait)[:, None] * noise
    return SimulatedPapers(quality, novelty_trait, prestige, area, institutions, n_institutions, citations, embedding)


def preference_probability(
    merit: np.ndarray, first: np.ndarray, second: np.ndarray, *, kappa: float = 1.0, position_bias: float = 0.0
) -> np.ndarray:
    """Return P(first wins) = sigmoid(kappa (merit_first - merit_second) + position_bias), element by element."""
    return np.asarray(expit(kappa * (merit[first] - merit[second]) + position_bias))


def judge_pairs(
    merit: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    *,
    seed: int,
    kappa: float = 1.0,
    position_bias: float = 0.0,
    repeat: np.ndarray | int = 0,
) -> np.ndarray:
    """Return [M] bool, whether the first wins: uniform(seed, first, second, repeat) < P(first wins).

    The answer to a pair does not depend on when it is asked, and the same question has the same answer.
    """
    probability = preference_probability(merit, first, second, kappa=kappa, position_bias=position_bias)
    return np.asarray(keyed_uniform(seed, first, second, repeat) < probability)


def rate_papers(
    merit: np.ndarray,
    *,
    rng: np.random.Generator,
    reviewers: int = 3,
    review_noise: float = 1.0,
    persona_noise: float = 0.6,
) -> np.ndarray:
    """Return [n, reviewers] whole ratings 1 to 10: clip(round(5.5 + 0.8 (merit + e + h)), 1, 10).

    e ~ N(0, review_noise^2) and h ~ N(0, persona_noise^2) are drawn for every call.
    """
    shape = (len(merit), reviewers)
    noise = review_noise * rng.standard_normal(shape) + persona_noise * rng.standard_normal(shape)
    rating = np.rint(_RATING_CENTRE + _RATING_SLOPE * (merit[:, None] + noise))
    return np.asarray(np.clip(rating, 1, 10))
