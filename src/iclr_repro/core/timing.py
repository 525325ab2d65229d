"""Timing several actions against each other in one process."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch


def time_in_turn(
    *actions: Callable[[], object], repeats: int, device: torch.device | None = None, least_s: float = 0.0
) -> np.ndarray:
    """Return [actions, repeats] seconds of one call of each action.

    On a CUDA device this is the time until it has finished; elsewhere processor time of this process and its threads,
    so that other processes on the machine do not count. The actions take turns, so that a change of the machine's speed
    meets all of them; a round before the first warms up. An action that takes less than `least_s` seconds is called
    several times in a row, and the mean counts.
    """
    on_cuda = device is not None and device.type == "cuda"

    def seconds(action: Callable[[], object], calls: int) -> float:
        clock = time.perf_counter if on_cuda else time.process_time
        if on_cuda:
            torch.cuda.synchronize(device)
        started = clock()
        for _ in range(calls):
            action()
        if on_cuda:
            torch.cuda.synchronize(device)
        return (clock() - started) / calls

    for action in actions:
        action()
    calls = [1 if not least_s else max(1, round(least_s / max(seconds(action, 1), 1e-6))) for action in actions]
    return np.array(
        [[seconds(action, number) for action, number in zip(actions, calls, strict=True)] for _ in range(repeats)]
    ).T
