import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from iclr_repro.core.interruption import Interrupted, deferred_interruption, orderly_interruption

BOTH = pytest.mark.parametrize(("signum", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


@pytest.fixture(autouse=True)
def _handlers_are_as_before() -> Iterator[None]:
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


@BOTH
def test_outside_a_loop_a_signal_stops_at_once(signum: int, exit_code: int) -> None:
    def run() -> None:
        send(signum)
        pytest.fail("the signal was held back")

    with pytest.raises(Interrupted) as caught, orderly_interruption():
        run()
    assert caught.value.exit_code == exit_code


@BOTH
def test_inside_a_loop_the_first_signal_waits_for_the_end(signum: int, exit_code: int) -> None:
    pending = []

    def run() -> None:
        with deferred_interruption() as deferral:
            pending.append(deferral.pending)
            send(signum)
            pending.append(deferral.pending)
        pytest.fail("the signal was forgotten")

    with pytest.raises(Interrupted) as caught, orderly_interruption():
        run()
    assert pending == [None, signum]
    assert caught.value.exit_code == exit_code


@BOTH
def test_the_second_signal_does_not_wait(signum: int, exit_code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()  # between one look at the clock and the next
    monkeypatch.setattr("time.monotonic", lambda: float(next(seconds)))

    def run() -> None:
        send(signum)
        send(signum)
        pytest.fail("the second signal was held back")

    with pytest.raises(Interrupted) as caught, orderly_interruption(), deferred_interruption():
        run()
    assert caught.value.exit_code == exit_code


def test_the_same_request_passed_on_twice_counts_once() -> None:
    def run() -> None:
        with deferred_interruption() as deferral:
            send(signal.SIGINT)
            send(signal.SIGTERM)
            assert deferral.pending == signal.SIGINT

    with pytest.raises(Interrupted) as caught, orderly_interruption():
        run()
    assert caught.value.exit_code == 130


def test_handlers_are_put_back_also_after_an_interruption() -> None:
    def mine(signum: int, frame: object) -> None: ...

    previous = signal.signal(signal.SIGINT, mine)
    try:
        with pytest.raises(Interrupted), orderly_interruption():
            send(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, previous)


def test_a_loop_after_an_interrupted_one_starts_without_a_pending_signal() -> None:
    with orderly_interruption():
        with pytest.raises(Interrupted), deferred_interruption():
            send(signal.SIGINT)
        with deferred_interruption() as deferral:
            assert deferral.pending is None


def test_a_loop_inside_another_leaves_the_signal_to_the_outer_one() -> None:
    pending = []

    def run() -> None:
        with deferred_interruption() as outer:
            with deferred_interruption() as inner:
                send(signal.SIGINT)
                pending.append(inner.pending)
            pending.append(outer.pending)

    with pytest.raises(Interrupted), orderly_interruption():
        run()
    assert pending == [signal.SIGINT, signal.SIGINT]


def test_an_error_of_the_loop_does_not_hide_that_it_was_asked_to_stop() -> None:
    def run() -> None:
        send(signal.SIGINT)
        raise RuntimeError("a worker died")  # Ctrl-C reaches worker processes too

    with pytest.raises(Interrupted) as caught, orderly_interruption(), deferred_interruption():
        run()
    assert str(caught.value.__context__) == "a worker died"


def test_an_error_without_a_signal_passes_through() -> None:
    with pytest.raises(RuntimeError, match="mine"), orderly_interruption(), deferred_interruption():
        raise RuntimeError("mine")


def test_an_interruption_is_not_swallowed_by_an_experiments_own_handlers() -> None:
    def careless() -> None:
        try:
            send(signal.SIGTERM)
        except Exception:
            pytest.fail("swallowed")

    with pytest.raises(Interrupted), orderly_interruption():
        careless()


def test_in_another_thread_signals_are_left_as_they_are() -> None:
    before = signal.getsignal(signal.SIGINT)
    inside = []

    def run() -> None:
        with orderly_interruption():
            inside.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert inside == [before]


def say_and_sleep(pipe: Connection) -> None:
    pipe.send("ready")
    time.sleep(60)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_worker_forked_by_a_loop_can_be_terminated() -> None:
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()
    with orderly_interruption(), deferred_interruption() as deferral:
        worker = fork.Process(target=say_and_sleep, args=(there,))
        worker.start()
        assert here.recv() == "ready"
        worker.terminate()
        worker.join(10)
        exit_code = worker.exitcode
        worker.kill()
        worker.join()
        assert deferral.pending is None
    assert exit_code == -signal.SIGTERM
