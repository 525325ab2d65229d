from __future__ import annotations

import time

from iclr_repro.core.timing import time_in_turn


def _busy(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_actions_take_turns_after_a_round_to_warm_up() -> None:
    calls: list[str] = []
    found = time_in_turn(lambda: calls.append("a"), lambda: calls.append("b"), repeats=3)
    assert "".join(calls) == "ab" * 4
    assert found.shape == (2, 3)


def test_only_the_processor_time_of_the_action_counts() -> None:
    idle, busy = time_in_turn(lambda: time.sleep(0.02), lambda: _busy(0.02), repeats=2)
    assert (idle < 0.01).all()
    assert (busy >= 0.02).all()


def test_short_actions_are_called_often_and_the_mean_counts() -> None:
    calls: list[str] = []

    def short() -> None:
        calls.append("short")
        _busy(0.001)

    seconds = time_in_turn(short, lambda: _busy(0.02), repeats=2, least_s=0.01)
    assert len(calls) >= 2 + 2 * 3, "a warm-up, a trial, then several a repeat"
    assert (seconds[0] >= 0.001).all()
    assert (seconds[1] >= 0.02).all()
