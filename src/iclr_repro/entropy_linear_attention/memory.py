"""How much memory a computation holds in tensors, counted operation by operation (sheet E4)."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorMemory(NamedTuple):
    """Bytes of the largest tensor that a computation made, and the most that its tensors held at one time."""

    largest_bytes: int
    peak_bytes: int


class _Counting(TorchDispatchMode):
    """Notes the storage of every tensor that an operation returns, and when it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id_of(x) for x in tree_leaves((args, kwargs or {})) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and id_of(tensor) not in given | self._known:
                self._note(tensor.untyped_storage(), id_of(tensor))
        return out

    def _note(self, storage: torch.UntypedStorage, key: int) -> None:
        size = storage.nbytes()
        self._known.add(key)
        self.live += size
        self.largest, self.peak = max(self.largest, size), max(self.peak, self.live)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def id_of(tensor: Tensor) -> int:
    """Which memory a tensor lies in: views of one storage have one id."""
    return tensor.untyped_storage()._cdata


def peak_memory(action: Callable[[], object], device: torch.device) -> int:
    """Most bytes that a computation holds at one time beyond what was held before.

    On a GPU what its allocator gave, elsewhere what the tensors held (`tensor_memory`).
    """
    if device.type != "cuda":
        return tensor_memory(action).peak_bytes
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    action()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def tensor_memory(action: Callable[[], object]) -> TensorMemory:
    """Count the tensors that `action` makes, its result included and what it is given not.

    What a fused kernel allocates inside itself is not seen.
    """
    with _Counting() as counting:
        result = action()
    del result
    return TensorMemory(counting.largest, counting.peak)
