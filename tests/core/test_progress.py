import logging

import pytest

from iclr_repro.core import progress
from iclr_repro.core.progress import Progress

LOG = logging.getLogger("test")


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_without_a_terminal_a_plain_line_appears_every_ten_seconds(
    clock: Clock, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    with Progress("adapt", 40, 2, LOG, True) as shown:
        for step in range(3, 33):
            clock.now += 1.0
            shown.advance({"loss": step / 3, "b": 1.0, "c": 2.0, "d": 3.0, "fifth": 4.0})
    assert [record.getMessage() for record in caplog.records] == [
        "adapt: step 12 of 40  loss 4  b 1  c 2  d 3",
        "adapt: step 22 of 40  loss 7.333  b 1  c 2  d 3",
        "adapt: step 32 of 40  loss 10.67  b 1  c 2  d 3",
    ]
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_a_bar_shows_name_steps_and_metrics_as_they_are(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with Progress("adapt[red]", 40, 5, LOG, True) as shown:
        clock.now += 60.0
        shown.advance({"top[1]": 0.25})
    out, err = capsys.readouterr()
    assert out == ""
    assert "adapt[red]" in err
    assert "6/40" in err
    assert "top[1] 0.25" in err
    assert caplog.records == []


def test_nothing_is_shown_where_progress_is_off(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress("adapt", 40, 0, LOG, False) as shown:
        clock.now += 60.0
        shown.advance({"loss": 1.0})
    assert caplog.records == []
    assert capsys.readouterr() == ("", "")


def test_the_bar_is_removed_when_the_loop_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with pytest.raises(KeyError), Progress("adapt", 40, 0, LOG, True):
        raise KeyError("loss")
    assert capsys.readouterr().err.rstrip().endswith("\x1b[2K")  # the line is erased, and the cursor is back
