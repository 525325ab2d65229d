import io
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iclr_repro.core.seeding import (
    RandomStreams,
    global_state,
    load_global_state,
    seed_global_generators,
    seed_sequence,
)

NAMES = st.sampled_from(["data", "initialisation", "exploration", "torch/data", ""])
DRAWS = st.lists(st.tuples(st.sampled_from(["numpy", "torch"]), NAMES, st.integers(1, 5)), max_size=8)


def draw(streams: RandomStreams, kind: str, name: str, count: int = 4) -> list[float]:
    if kind == "numpy":
        return streams.numpy(name).random(count).tolist()
    return torch.rand(count, generator=streams.torch(name), dtype=torch.float64).tolist()


def through_a_file(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)


def test_first_draws_are_what_they_were_in_every_earlier_version() -> None:
    streams = RandomStreams(7)
    assert streams.numpy("data").integers(0, 1000, 5).tolist() == [101, 622, 251, 608, 393]
    assert torch.randint(0, 1000, (5,), generator=streams.torch("data")).tolist() == [388, 525, 542, 823, 270]
    seed_global_generators(7)
    assert [random.randrange(1000) for _ in range(3)] == [418, 747, 104]
    assert np.random.randint(0, 1000, 3).tolist() == [745, 951, 690]  # noqa: NPY002
    assert torch.randint(0, 1000, (3,)).tolist() == [794, 173, 160]


@given(others=DRAWS, kind=st.sampled_from(["numpy", "torch"]))
@settings(deadline=None, max_examples=50)
def test_what_is_drawn_from_other_streams_changes_nothing(others: list[tuple[str, str, int]], kind: str) -> None:
    alone, among_others = RandomStreams(3), RandomStreams(3)
    expected = draw(alone, kind, "evaluation") + draw(alone, kind, "evaluation")
    drawn = draw(among_others, kind, "evaluation")
    for other in others:
        draw(among_others, *other)
    assert drawn + draw(among_others, kind, "evaluation") == expected


def test_streams_differ_by_seed_by_name_and_by_library() -> None:
    draws = [
        tuple(draw(RandomStreams(seed), kind, name))
        for seed in (0, 1, 2**40)
        for kind in ("numpy", "torch")
        for name in ("a", "b", "a ", "torch/a")
    ]
    assert len(set(draws)) == len(draws)


def test_streams_are_not_correlated() -> None:
    streams = RandomStreams(0)
    draws = np.stack([streams.numpy(f"stream {number}").standard_normal(10_000) for number in range(10)])
    off_diagonal = np.corrcoef(draws) - np.eye(10)
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(10_000)


@pytest.mark.parametrize("seed", [-1, True])
def test_a_seed_that_is_no_natural_number_is_refused_at_once(seed: int) -> None:
    with pytest.raises(ValueError, match=rf"a seed must be an integer >= 0, got {seed}"):
        RandomStreams(seed)
    with pytest.raises(ValueError, match="a seed must be"):
        seed_sequence(seed, "data")


def test_streams_go_on_from_a_saved_state_also_those_that_are_created_later() -> None:
    streams = RandomStreams(5)
    draw(streams, "numpy", "early", 3)
    streams.numpy("early").standard_normal(1)
    draw(streams, "torch", "early", 3)
    torch.randn(1, generator=streams.torch("early"))
    state = through_a_file(streams.state_dict())
    names = [("numpy", "early"), ("torch", "early"), ("numpy", "late"), ("torch", "late")]
    expected = [draw(streams, *name) for name in names]

    resumed = RandomStreams(5)
    resumed.load_state_dict(state)
    assert [draw(resumed, *name) for name in names] == expected


def test_a_generator_that_a_learner_holds_is_the_one_that_is_set_back() -> None:
    streams = RandomStreams(5)
    numpy, torch_ = streams.numpy("a"), streams.torch("a")
    state = streams.state_dict()
    expected = numpy.random(3).tolist(), torch.rand(3, generator=torch_).tolist()
    streams.load_state_dict(state)
    assert (numpy.random(3).tolist(), torch.rand(3, generator=torch_).tolist()) == expected
    assert streams.numpy("a") is numpy
    assert streams.torch("a") is torch_


def draw_globally() -> list[float]:
    # One normal draw at a time: Python's and numpy's generators keep the second of each pair for the next call.
    return [random.gauss(0, 1), np.random.standard_normal(), float(torch.randn(())), random.random()]  # noqa: NPY002


def test_global_generators_are_seeded_apart_and_the_same_each_time() -> None:
    draws = []
    for seed in (0, 0, 1):
        seed_global_generators(seed)
        draws.append([random.random(), np.random.random(), float(torch.rand((), dtype=torch.float64))])  # noqa: NPY002
    assert draws[0] == draws[1]
    assert len({*draws[0], *draws[2]}) == 6


@pytest.mark.parametrize("draws_before", [0, 1, 2])
def test_global_generators_go_on_from_a_saved_state(draws_before: int) -> None:
    seed_global_generators(11)
    for _ in range(draws_before):
        draw_globally()
    state = through_a_file(global_state())
    expected = [draw_globally() for _ in range(3)]
    seed_global_generators(12)
    draw_globally()
    load_global_state(state)
    assert [draw_globally() for _ in range(3)] == expected


def test_the_state_of_a_gpu_that_is_absent_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    state = {**global_state(), "cuda": [torch.zeros(16, dtype=torch.uint8)]}
    expected = draw_globally()
    load_global_state(state)
    assert draw_globally() == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_generator_of_a_gpu_goes_on_from_a_saved_state() -> None:
    seed_global_generators(11)
    torch.rand(3, device="cuda")
    state = through_a_file(global_state())
    expected = torch.rand(3, device="cuda").tolist()
    torch.rand(5, device="cuda")
    load_global_state(state)
    assert torch.rand(3, device="cuda").tolist() == expected
