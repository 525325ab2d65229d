"""Random numbers that depend on a key and not on the order in which they are asked for.

Source: sheet F ("uniforms come from a counter-based generator keyed by ...") and its pitfall on duplicates.
"""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FEISTEL_ROUNDS = 6


def mix64(x: np.ndarray | np.uint64) -> np.ndarray:
    """Scramble 64-bit words by the finaliser of SplitMix64 (Steele, Lea and Flood 2014), a bijection."""
    x = x ^ (x >> np.uint64(30))
    x = x * np.uint64(0xBF58476D1CE4E5B9)
    x = x ^ (x >> np.uint64(27))
    x = x * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def keyed_uniform(seed: int, *keys: np.ndarray | int) -> np.ndarray:
    """Return uniforms in [0, 1) that depend on the seed and on the integers of each position only, 53 bits each.

    Args:
        seed: any integer.
        keys: integer arrays of equal (or broadcastable) shape, e.g. id_first, id_second, repeat.
    """
    with np.errstate(over="ignore"):
        state = mix64(np.asarray(seed & (2**64 - 1), dtype=np.uint64) + _GOLDEN)
        for key in keys:
            state = mix64(state ^ mix64(np.asarray(key, dtype=np.int64).astype(np.uint64) + _GOLDEN) + _GOLDEN)
    return np.asarray((state >> np.uint64(11)) * 2.0**-53)


def permuted(indices: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Map indices 0 to size - 1 by a pseudo-random permutation of them, without a table.

    A Feistel network on the next power of four; what falls outside is sent through again until it falls inside.
    """
    half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    half, mask = np.uint64(half_bits), np.uint64(2**half_bits - 1)
    values = np.asarray(indices, dtype=np.uint64)
    outside = np.ones(values.shape, dtype=bool)
    with np.errstate(over="ignore"):
        keys = [
            mix64(np.asarray((seed * _FEISTEL_ROUNDS + one) & (2**64 - 1), dtype=np.uint64) + _GOLDEN)
            for one in range(_FEISTEL_ROUNDS)
        ]
        while outside.any():
            moved = values[outside]
            left, right = moved >> half, moved & mask
            for key in keys:
                left, right = right, left ^ (mix64(right + key) & mask)
            values[outside] = (left << half) | right
            outside[outside] = values[outside] >= size
    return values.astype(np.int64)
