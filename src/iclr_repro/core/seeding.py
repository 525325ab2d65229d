"""Independent named random streams, and the state of all randomness of a process.

One experiment needs several streams (data, initialisation, exploration, evaluation). Each has a name; a stream depends
on the run's seed and on its own name only, so that adding a stream or drawing more from one never changes another.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def seed_sequence(seed: int, name: str) -> np.random.SeedSequence:
    """Return the child of SeedSequence(seed) whose spawn key is the SHA-256 of `name`, as eight 32-bit words.

    Raises:
        ValueError: `seed` is negative or not an integer.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"a seed must be an integer >= 0, got {seed!r}")
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype="<u4")
    return np.random.SeedSequence(seed, spawn_key=tuple(int(word) for word in words))


class RandomStreams:
    """The named streams of one run, each created at its first use and continued at the next."""

    def __init__(self, seed: int) -> None:
        seed_sequence(seed, "")  # refuses a bad seed here rather than at the first draw
        self._seed = seed
        self._numpy: dict[str, np.random.Generator] = {}
        self._torch: dict[str, torch.Generator] = {}

    def numpy(self, name: str) -> np.random.Generator:
        """Return the numpy stream `name` (PCG64)."""
        if name not in self._numpy:
            self._numpy[name] = np.random.Generator(np.random.PCG64(seed_sequence(self._seed, name)))
        return self._numpy[name]

    def torch(self, name: str) -> torch.Generator:
        """Return the torch stream `name`, a CPU generator: draw there, then move, so that devices see equal draws."""
        if name not in self._torch:
            self._torch[name] = torch.Generator().manual_seed(_torch_seed(self._seed, name))
        return self._torch[name]

    def state_dict(self) -> dict[str, Any]:
        """Return the position of every stream used so far."""
        return {
            # JSON, since the state of PCG64 holds 128-bit integers.
            "numpy": {name: json.dumps(stream.bit_generator.state) for name, stream in self._numpy.items()},
            "torch": {name: stream.get_state() for name, stream in self._torch.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put every stream named in `state` at its position there, creating those not used yet."""
        for name, text in state["numpy"].items():
            self.numpy(name).bit_generator.state = json.loads(text)
        for name, position in state["torch"].items():
            self.torch(name).set_state(position)


def seed_global_generators(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators (all devices), for libraries that draw from them."""
    random.seed(int(seed_sequence(seed, "global/python").generate_state(1)[0]))
    np.random.seed(seed_sequence(seed, "global/numpy").generate_state(4))  # noqa: NPY002
    torch.manual_seed(_torch_seed(seed, "global/torch"))


def global_state() -> dict[str, Any]:
    """Return the state of the global generators in a form that `torch.load(weights_only=True)` accepts."""
    version, internal, gauss_next = random.getstate()
    name, keys, position, has_gauss, cached_gaussian = np.random.get_state(legacy=True)  # noqa: NPY002
    state: dict[str, Any] = {
        "python": json.dumps([version, internal, gauss_next]),
        "numpy": json.dumps([name, np.asarray(keys).tolist(), position, has_gauss, cached_gaussian]),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def load_global_state(state: Mapping[str, Any]) -> None:
    """Restore what `global_state` returned; devices that are absent now are left alone."""
    version, internal, gauss_next = json.loads(state["python"])
    random.setstate((version, tuple(internal), gauss_next))
    name, keys, position, has_gauss, cached_gaussian = json.loads(state["numpy"])
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached_gaussian))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])


def _torch_seed(seed: int, name: str) -> int:
    """Return 63 bits: torch takes any 64-bit seed, and the sign bit is left out to keep it positive everywhere."""
    low, high = seed_sequence(seed, f"torch/{name}").generate_state(2)
    return int(low) | (int(high) & 0x7FFFFFFF) << 32
