import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import threadpoolctl
import torch

from iclr_repro.core.device import (
    describe_hardware,
    make_deterministic,
    peak_memory,
    reset_peak_memory,
    select_device,
    set_threads,
)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine without accelerators, to which a test adds some."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return monkeypatch


def add_cuda(machine: pytest.MonkeyPatch, count: int) -> None:
    machine.setattr(torch.cuda, "is_available", lambda: True)
    machine.setattr(torch.cuda, "device_count", lambda: count)


def test_auto_prefers_cuda_then_mps_then_the_cpu(machine: pytest.MonkeyPatch) -> None:
    assert select_device("auto") == torch.device("cpu")
    machine.setattr(torch.backends.mps, "is_available", lambda: True)
    assert select_device("auto") == torch.device("mps")
    add_cuda(machine, 1)
    assert select_device("auto") == torch.device("cuda")


def test_a_device_that_is_there_is_taken(machine: pytest.MonkeyPatch) -> None:
    add_cuda(machine, 2)
    machine.setattr(torch.backends.mps, "is_available", lambda: True)
    for name in ("cpu", "cuda", "cuda:0", "cuda:1", "mps"):
        assert select_device(name) == torch.device(name)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-1", "meta", "CPU"])
def test_an_unknown_name_is_refused_with_the_valid_ones(machine: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(ValueError, match=f"^device: got '{name}', expected auto, cpu, cuda, cuda:<index> or mps$"):
        select_device(name)


@pytest.mark.parametrize(("name", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)])
def test_a_cuda_device_that_is_not_there_is_refused_with_a_way_out(
    machine: pytest.MonkeyPatch, name: str, count: int
) -> None:
    if count:
        add_cuda(machine, count)
    with pytest.raises(ValueError, match=f"^device: '{name}' asked for, but torch sees {count} .*use device=cpu, or"):
        select_device(name)


def test_an_apple_gpu_that_is_not_there_is_refused_with_a_way_out(machine: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^device: 'mps' asked for, but torch sees no Apple GPU: use device=cpu$"):
        select_device("mps")


@pytest.fixture
def _threads_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    num_threads = torch.get_num_threads()
    with threadpoolctl.threadpool_limits(1):  # puts back what it found
        yield
    torch.set_num_threads(num_threads)


@pytest.mark.usefixtures("_threads_as_before")
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_set_for_torch_for_blas_and_for_child_processes(threads: int) -> None:
    set_threads(threads)
    assert torch.get_num_threads() == threads
    assert {library["num_threads"] for library in threadpoolctl.threadpool_info()} == {threads}
    assert os.environ["OMP_NUM_THREADS"] == str(threads)


@pytest.mark.parametrize("threads", [0, -1])
def test_less_than_one_thread_is_refused(threads: int) -> None:
    with pytest.raises(ValueError, match=f"^threads: got {threads}, expected >= 1$"):
        set_threads(threads)


def test_deterministic_kernels_are_asked_for_and_memory_is_not_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    fills_memory = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        make_deterministic()
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
        assert not torch.backends.cudnn.benchmark
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = fills_memory  # type: ignore[attr-defined]


def test_the_hardware_is_described_with_what_a_timing_depends_on() -> None:
    described = describe_hardware(torch.device("cpu"))
    assert described.keys() == {"cpu", "cores", "memory_bytes", "device", "gpu", "platform"}
    assert described["cpu"]
    assert described["cores"] >= 1
    assert described["memory_bytes"] > 2**28
    assert described["device"] == "cpu"
    assert described["gpu"] is None


def test_the_name_of_the_processor_is_known_where_linux_does_not_tell_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iclr_repro.core.device.Path.is_file", lambda path: False)
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert describe_hardware(torch.device("cpu"))["cpu"] == "arm64"


def test_peak_memory_is_in_bytes_and_starts_anew() -> None:
    reset_peak_memory()
    before = peak_memory()["peak_memory_bytes"]
    block = bytearray(64 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    peak = peak_memory()["peak_memory_bytes"]
    assert before is not None
    assert peak is not None
    assert peak - before >= 48 * 2**20
    del block
    assert peak_memory()["peak_memory_bytes"] == pytest.approx(peak, rel=0.05)
    reset_peak_memory()
    if Path("/proc/self/clear_refs").exists():
        again = peak_memory()["peak_memory_bytes"]
        assert again is not None
        assert again <= peak - 32 * 2**20
    assert peak_memory()["peak_gpu_memory_bytes"] is None or torch.cuda.is_available()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_is_named() -> None:
    assert describe_hardware(select_device("auto"))["gpu"] == torch.cuda.get_device_name()
