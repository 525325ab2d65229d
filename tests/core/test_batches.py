import multiprocessing
from typing import Any

import numpy as np
import pytest
import torch

from iclr_repro.core.batches import ResumableBatches


def taken(batches: ResumableBatches, num: int) -> list[list[list[int]]]:
    """Take `num` batches; the samples are numbers, so that a micro-batch shows which it holds."""
    return [[micro_batch.tolist() for micro_batch in batches.take()] for _ in range(num)]


def test_drop_last_leaves_out_the_end_of_each_permutation() -> None:
    batches = ResumableBatches(range(5), 2, seed=7)
    epochs = [np.concatenate([batches.indices(2 * epoch), batches.indices(2 * epoch + 1)]) for epoch in range(40)]
    assert all(len(set(epoch.tolist())) == 4 for epoch in epochs)
    assert {(set(range(5)) - set(epoch.tolist())).pop() for epoch in epochs} == set(range(5))


def test_without_drop_last_a_batch_runs_on_into_the_next_epoch() -> None:
    batches = ResumableBatches(range(5), 2, seed=7, drop_last=False)
    stream = np.concatenate([batches.indices(position) for position in range(10)])
    epochs = stream.reshape(4, 5)
    assert [sorted(epoch) for epoch in epochs.tolist()] == [[0, 1, 2, 3, 4]] * 4
    assert batches.indices(2).tolist() == [epochs[0, 4], epochs[1, 0]]
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > 1


def test_a_batch_may_hold_several_epochs() -> None:
    batches = ResumableBatches(range(3), 7, seed=0, drop_last=False)
    stream = np.concatenate([batches.indices(0), batches.indices(1), batches.indices(2)])
    assert [sorted(epoch) for epoch in stream.reshape(7, 3).tolist()] == [[0, 1, 2]] * 7


def test_the_order_depends_on_the_seed_and_the_position_alone() -> None:
    forwards, backwards, other = (ResumableBatches(range(50), 8, seed=seed) for seed in (3, 3, 4))
    expected = [forwards.indices(position).tolist() for position in range(20)]
    assert [backwards.indices(position).tolist() for position in reversed(range(20))] == expected[::-1]
    assert [batch for [batch] in taken(backwards, 20)] == expected
    assert [other.indices(position).tolist() for position in range(20)] != expected


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("drop_last", [True, False])
def test_a_restored_stream_goes_on_where_the_saved_one_was(num_workers: int, drop_last: bool) -> None:
    def make() -> ResumableBatches:
        return ResumableBatches(range(21), 4, seed=5, drop_last=drop_last, num_workers=num_workers)

    uninterrupted = taken(make(), 16)
    saved = make()
    assert taken(saved, 10) == uninterrupted[:10]
    restored = make()
    restored.take()
    restored.load_state_dict(saved.state_dict())
    assert restored.position == 10
    assert taken(restored, 6) == uninterrupted[10:]


def test_letting_a_stream_go_ends_its_workers_at_once() -> None:
    batches = ResumableBatches(range(21), 4, seed=5, num_workers=2)
    batches.take()
    assert len(multiprocessing.active_children()) == 2
    del batches
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("num_processes", "accumulation"), [(1, 3), (2, 1), (2, 3), (3, 2)])
def test_processes_and_micro_batches_share_out_the_batch(num_processes: int, accumulation: int) -> None:
    whole = ResumableBatches(range(40), 12, seed=1)
    shares = []
    for process in range(num_processes):
        part = ResumableBatches(range(40), 12, seed=1)
        part.split(process=process, num_processes=num_processes, accumulation=accumulation)
        shares.append(taken(part, 5))
    for position in range(5):
        micro_batches = [micro_batch for share in shares for micro_batch in share[position]]
        assert {len(micro_batch) for micro_batch in micro_batches} == {12 // (num_processes * accumulation)}
        assert [index for micro_batch in micro_batches for index in micro_batch] == whole.indices(position).tolist()


def test_the_samples_are_collated_by_the_given_function() -> None:
    batches = ResumableBatches(["one", "two", "three"], 3, seed=0, collate_fn=sorted)
    assert batches.take() == [["one", "three", "two"]]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_taking_batches_leaves_the_global_generator_alone(num_workers: int) -> None:
    before = torch.get_rng_state()
    taken(ResumableBatches(range(9), 3, seed=2, num_workers=num_workers), 5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("num_samples", "options"), [(7, {}), (0, {"drop_last": False})])
def test_a_batch_that_cannot_be_filled_is_refused(num_samples: int, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"got 8 for {num_samples} samples, .* or drop_last=False to let"):
        ResumableBatches(range(num_samples), 8, seed=0, **options)


def test_a_batch_size_below_1_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size: got 0 for 9 samples, expected 1 to 9"):
        ResumableBatches(range(9), 0, seed=0)


@pytest.mark.parametrize("accumulation", [0, 2])
def test_an_uneven_cut_is_refused(accumulation: int) -> None:
    with pytest.raises(ValueError, match=rf"batch_size 6 cannot be cut into 2 processes x {accumulation} micro"):
        ResumableBatches(range(9), 6, seed=0).split(process=0, num_processes=2, accumulation=accumulation)


def test_a_state_of_other_data_is_refused_with_both_sides() -> None:
    saved = ResumableBatches(range(9), 3, seed=0).state_dict()
    other = ResumableBatches(range(10), 3, seed=1)
    with pytest.raises(ValueError, match=r"does not fit") as caught:
        other.load_state_dict(saved)
    assert "seed: 0 in the checkpoint, 1 here" in str(caught.value)
    assert "num_samples: 9 in the checkpoint, 10 here" in str(caught.value)
    assert "batch_size" not in str(caught.value)
    assert "settings that it was saved with" in str(caught.value)
