"""The device and the threads of a run, and a description of the machine for its record."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path
from typing import Any

import psutil
import threadpoolctl
import torch

_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def select_device(name: str) -> torch.device:
    """Turn `auto`, `cpu`, `cuda`, `cuda:<index>` or `mps` into a torch device; `auto` prefers CUDA, then MPS.

    Raises:
        ValueError: the name is none of these, or the device is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in {"cpu", "cuda", "mps"}:
        raise ValueError(f"device: got {name!r}, expected auto, cpu, cuda, cuda:<index> or mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device: {name!r} asked for, but torch sees {torch.cuda.device_count()} CUDA devices:"
            " use device=cpu, or install a CUDA build of torch (README, Installation)"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device: 'mps' asked for, but torch sees no Apple GPU: use device=cpu")
    return device


def set_threads(threads: int) -> None:
    """Fix the number of threads of torch, BLAS and OpenMP, so that sums have one order and runs do not compete.

    Raises:
        ValueError: `threads` is below 1.
    """
    if threads < 1:
        raise ValueError(f"threads: got {threads}, expected >= 1")
    torch.set_num_threads(threads)
    threadpoolctl.threadpool_limits(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for the processes that a run starts


def make_deterministic() -> None:
    """Ask torch for deterministic kernels; an operation that has none warns instead of failing."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms imports the compiler too: 2 s
    # Filling memory costs time and guards only against reading garbage.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def describe_hardware(device: torch.device) -> dict[str, Any]:
    """Return what a reader needs to place a timing: processor, cores, memory (bytes), device and GPU names."""
    return {
        "cpu": _processor_name(),
        "cores": os.cpu_count() or 1,
        "memory_bytes": psutil.virtual_memory().total,
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "platform": platform.platform(terse=True),
    }


def reset_peak_memory() -> None:
    """Let `peak_memory` start anew, where the system can (Linux, CUDA)."""
    with contextlib.suppress(OSError):
        _CLEAR_REFS.write_text("5")  # resets VmHWM, see proc(5)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> dict[str, int | None]:
    """Return the largest memory since `reset_peak_memory`, in bytes: resident in this process, allocated on the GPU.

    Where the system cannot reset it, the first is the largest since the process began.
    """
    on_gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    return {"peak_memory_bytes": _peak_resident_bytes(), "peak_gpu_memory_bytes": on_gpu}


def _peak_resident_bytes() -> int:
    if os.name == "nt":
        return int(psutil.Process().memory_info().peak_wset)
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
