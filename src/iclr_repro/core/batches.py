"""Training batches in an order that a seed fixes, from any place in it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader


@runtime_checkable
class Samples(Protocol):
    """A map-style dataset: a list, a `torch.utils.data.Dataset` or a Hugging Face dataset is one."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, index: int, /) -> Any:
        """Return one sample, of a form that `collate_fn` accepts."""


Collate = Callable[[list[Any]], Any]


class ResumableBatches:
    """An endless stream of shuffled batches whose place in the data can be saved and found again.

    Epoch e is the permutation that the pair (seed, e) determines, so the samples of batch k are a function of the seed
    and k alone: the position is one number. With `drop_last` the samples of an epoch that do not fill a batch are left
    out (others each time); without it the stream runs on, and the batch at the end of an epoch is filled with the first
    samples of the next. Either way all batches are of one size, so a mean over batches is a mean over samples.

    Example: of 5 samples in batches of 2, `drop_last=True` takes the first 4 of each permutation; `drop_last=False`
    takes all 5, and its third batch holds the last sample of epoch 0 and the first of epoch 1.

    Args:
        dataset: the samples.
        batch_size: samples behind one update, over all processes and micro-batches together.
        seed: of the order of the samples, >= 0.
        drop_last: what happens at the end of an epoch, see above.
        collate_fn: makes a batch of a list of samples; None: torch's `default_collate`.
        num_workers: processes that load ahead; 0: none. What they have loaded and nobody has taken does not count
            towards the position. Random numbers that they draw are not resumed: an augmentation that has to survive a
            resume takes its randomness from the number of the sample.

    Attributes:
        position: batches taken so far.

    Raises:
        ValueError: `batch_size` is below 1, or an epoch does not fill one batch while `drop_last` is set.
    """

    def __init__(
        self,
        dataset: Samples,
        batch_size: int,
        *,
        seed: int,
        drop_last: bool = True,
        collate_fn: Collate | None = None,
        num_workers: int = 0,
    ) -> None:
        num_samples = len(dataset)
        if batch_size < 1 or num_samples < (batch_size if drop_last else 1):
            raise ValueError(
                f"batch_size: got {batch_size} for {num_samples} samples, expected 1 to {num_samples}:"
                " choose a smaller batch, or drop_last=False to let a batch run on into the next epoch"
            )
        self.position = 0
        self._dataset = dataset
        self._settings = {"seed": seed, "num_samples": num_samples, "batch_size": batch_size, "drop_last": drop_last}
        self._order = _Order(num_samples, batch_size, seed=seed, drop_last=drop_last)
        self._batch_size = batch_size
        self._collate_fn = collate_fn
        self._num_workers = num_workers
        self._process, self._num_processes, self._accumulation = 0, 1, 1
        self._micro_batches: Iterator[Any] | None = None

    def split(self, *, process: int, num_processes: int, accumulation: int) -> None:
        """Let `take` return the share of one process, in `accumulation` micro-batches. `Supervised` calls this.

        Raises:
            ValueError: the batch cannot be cut into equal parts.
        """
        if accumulation < 1 or self._batch_size % (num_processes * accumulation):
            raise ValueError(
                f"batch_size {self._batch_size} cannot be cut into {num_processes} processes x {accumulation}"
                " micro-batches of equal size: choose accumulation >= 1 and a batch_size that the product divides"
            )
        self._process, self._num_processes, self._accumulation = process, num_processes, accumulation
        self._micro_batches = None

    def indices(self, position: int) -> npt.NDArray[np.int64]:
        """Return the numbers of the samples in batch `position` (0, 1, ...), shape [batch_size], for all processes."""
        return self._order.indices(position)

    def take(self) -> list[Any]:
        """Return the micro-batches of the next batch that belong to this process, and move on by one batch."""
        if self._micro_batches is None:
            self._micro_batches = iter(self._loader())
        micro_batches = list(itertools.islice(self._micro_batches, self._accumulation))
        self.position += 1
        return micro_batches

    def state_dict(self) -> dict[str, Any]:
        """Return the position, and the settings that give it its meaning."""
        return {"position": self.position, **self._settings}

    def mismatches(self, state: Mapping[str, Any]) -> list[str]:
        """Return a line for each setting in which a saved state differs from this object."""
        return differences(state, self._settings)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a saved position. The number of processes, micro-batches and workers may have changed since.

        Raises:
            ValueError: the state was saved with other settings; they are listed.
        """
        refuse(self.mismatches(state))
        self.position = state["position"]
        self._micro_batches = None

    def _loader(self) -> DataLoader[Any]:
        return DataLoader(
            self._dataset,  # type: ignore[arg-type]  # torch annotates its own class; its code takes any Samples
            batch_sampler=self._order.micro_batches(
                self.position, self._process, num_processes=self._num_processes, accumulation=self._accumulation
            ),
            collate_fn=self._collate_fn,
            num_workers=self._num_workers,
            # Without its own generator a loader draws from torch's global one when it starts, so that a resumed run,
            # which starts its loader later, would see other random numbers (dropout) than an uninterrupted one.
            generator=torch.Generator().manual_seed(self._order.seed),
        )


class _Order:
    """Which samples are in which batch.

    A class of its own since the loader holds it: if it held the stream of batches that holds the loader, only the
    garbage collector could free the two, and then torch waits 5 s for each worker process.
    """

    def __init__(self, num_samples: int, batch_size: int, *, seed: int, drop_last: bool) -> None:
        self.seed = seed
        self._num_samples = num_samples
        self._batch_size = batch_size
        self._epoch_length = num_samples - num_samples % batch_size if drop_last else num_samples
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def indices(self, position: int) -> npt.NDArray[np.int64]:
        stream = np.arange(position * self._batch_size, (position + 1) * self._batch_size)
        epochs, offsets = np.divmod(stream, self._epoch_length)
        return np.concatenate([self._of_epoch(int(epoch))[offsets[epochs == epoch]] for epoch in np.unique(epochs)])

    def micro_batches(
        self, position: int, process: int, *, num_processes: int, accumulation: int
    ) -> Iterator[list[int]]:
        for batch in itertools.count(position):
            yield from self.indices(batch).reshape(num_processes, accumulation, -1)[process].tolist()

    def _of_epoch(self, epoch: int) -> npt.NDArray[np.int64]:
        if epoch != self._epoch:
            self._permutation = np.random.default_rng([self.seed, epoch]).permutation(self._num_samples)
            self._epoch = epoch
        return self._permutation


def differences(saved: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """Return a line for each of our settings that a checkpoint lacks or has with another value."""
    return [
        f"{name}: {saved.get(name)!r} in the checkpoint, {value!r} here"
        for name, value in own.items()
        if saved.get(name) != value
    ]


def refuse(mismatches: list[str]) -> None:
    """Raise ValueError with all mismatches between a checkpoint and what is to load it, if there are any."""
    if mismatches:
        raise ValueError(
            "the checkpoint does not fit:\n  "
            + "\n  ".join(mismatches)
            + "\nuse the settings that it was saved with, or start again without it"
        )
