"""Ctrl-C and SIGTERM as an orderly stop: a loop finishes its step and checkpoints, other code stops at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAME_REQUEST_S = 1.0  # a terminal's Ctrl-C reaches every process, and parents pass it on to their children once more


class Interrupted(BaseException):
    """The run was asked to stop; not an Exception, so that an experiment's own handlers do not swallow it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """The shell's convention: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signum


class _State:
    """What the handler and the loops share; there is one main thread, hence one state a process."""

    process: int | None = None  # whose handler it is
    deferring = False
    pending: int | None = None
    received_s = 0.0  # when, on the monotonic clock


def _handle(signum: int, frame: FrameType | None) -> None:
    if signum == signal.SIGTERM and os.getpid() != _State.process:  # a worker that the run forked is told to end
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
    if _State.deferring and _State.pending is None:
        _State.pending, _State.received_s = signum, time.monotonic()
        return
    if _State.deferring and time.monotonic() - _State.received_s < _SAME_REQUEST_S:
        return
    raise Interrupted(signum)  # outside a loop, or asked a second time


@contextmanager
def orderly_interruption() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `Interrupted` inside the block; without effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.process = os.getpid()
    previous = {signum: signal.signal(signum, _handle) for signum in _SIGNALS}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


class Deferral:
    """Tells a loop inside `deferred_interruption` whether it has been asked to stop."""

    @property
    def pending(self) -> int | None:
        """The signal received since the loop began, or None."""
        return _State.pending


@contextmanager
def deferred_interruption() -> Iterator[Deferral]:
    """Hold back the first signal while the block runs, so that a loop can checkpoint; it is raised at the end.

    It is raised over an error in the block, too, which may well come of the signal (Ctrl-C reaches the workers of a
    loop as well). A second signal is not held back, unless it comes within a second of the first. A block inside
    another belongs to the outer one.
    """
    if _State.deferring:
        yield Deferral()
        return
    _State.deferring, _State.pending = True, None
    try:
        yield Deferral()
    finally:
        _State.deferring = False
        pending, _State.pending = _State.pending, None
        if pending is not None:
            raise Interrupted(pending)
