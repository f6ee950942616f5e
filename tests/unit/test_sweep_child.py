"""A run of a sweep as a process: what it says, how it is ended, and what is shown of it."""

from __future__ import annotations

import io
import signal
import threading
import time

import pytest
from rich.console import Console

from trainer.sweep.child import StopRequests, last_words, run_child, stop_requests
from trainer.sweep.errors import SweepError
from trainer.sweep.progress import clock_time, open_sweep_progress

pytestmark = pytest.mark.unit


def test_a_command_runs_to_its_end_with_all_that_it_says_in_the_log(tmp_path):
    log = tmp_path / "log"
    code = run_child(["sh", "-c", "echo out; echo err >&2; exit 3"], log, StopRequests(), lambda: None)
    assert (code, log.read_text()) == (3, "out\nerr\n")
    with pytest.raises(SweepError, match=r"no-such-command: cannot be started \(No such file or directory\)"):
        run_child(["no-such-command"], log, StopRequests(), lambda: None)


def test_a_stop_ends_the_command_and_what_it_started_with_sigterm(tmp_path):
    log, stop, told = tmp_path / "log", StopRequests(), []
    grandchild = 'trap "echo grandchild closes; exit" TERM; echo ready; sleep 60 & wait'
    child = f"trap 'echo child closes' TERM; sh -c '{grandchild}' & wait; wait"

    def stop_when_ready():
        while "ready" not in log.read_text():
            time.sleep(0.05)
        stop.count = 1

    log.touch()
    threading.Thread(target=stop_when_ready).start()
    assert run_child(["sh", "-c", child], log, stop, lambda: told.append("stopping")) == 0
    assert sorted(log.read_text().splitlines()) == ["child closes", "grandchild closes", "ready"]
    assert told == ["stopping"]


def test_a_second_stop_kills_a_command_that_does_not_end(tmp_path):
    stop = StopRequests(1)

    def again():
        stop.count += 1

    begin = time.monotonic()
    assert run_child(["sh", "-c", 'trap "" TERM; sleep 60'], tmp_path / "log", stop, again) == -signal.SIGKILL
    assert time.monotonic() - begin < 10


@pytest.fixture
def heeded_signals():
    """What asks a sweep to stop, as a terminal leaves it: a test run in the background ignores some of it."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


def test_signals_are_counted_while_a_sweep_runs_and_heeded_as_before_afterwards(heeded_signals):
    with stop_requests() as stop:
        for number in heeded_signals:
            signal.raise_signal(number)
        assert stop.count == 3
    assert [signal.getsignal(number) for number in heeded_signals] == [signal.SIG_DFL] * 3


def test_a_signal_that_was_ignored_before_a_sweep_stays_so(heeded_signals):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_requests() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert stop.count == 0


@pytest.mark.parametrize(
    ("said", "last"),
    [
        ("Traceback\ntrainer: x: is wrong\n[1]<stderr>:trainer: y: is wrong: do z\nProcess 1 exit with status 2\n",
         "y: is wrong: do z"),
        ("one\ntwo\n\n", "two"),
        ("", "it said nothing"),
        ("x" * 100_000 + "\nlast", "last"),
    ],
)  # fmt: skip
def test_the_line_for_the_user_is_found_in_what_a_run_said(tmp_path, said, last):
    (tmp_path / "log").write_text(said)
    assert last_words(tmp_path / "log") == last


def shown(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200, highlight=False)
    progress = open_sweep_progress(console, total=4, settled=1)
    progress.point_started(2, "x=[a] seed=0")
    progress.point_ended("2/4 x=[a] seed=0: top-1 77.9 %", 0.779)
    progress.point_ended("3/4 x=[b] seed=0: failed: why", None)
    progress.close()
    return console.file.getvalue()


def test_a_line_per_point_is_shown_everywhere_and_a_bar_on_a_terminal():
    lines = ["2/4 x=[a] seed=0: top-1 77.9 %", "3/4 x=[b] seed=0: failed: why"]
    assert shown(terminal=False).splitlines() == lines
    seen = shown(terminal=True)
    assert all(line in seen for line in lines)
    assert "point 2/4  x=[a] seed=0" in seen
    assert "3/4  top-1 77.9, - %  ends about " in seen


def test_a_time_is_a_time_of_day_with_the_date_where_it_is_another_days():
    noon = time.mktime((2026, 11, 22, 12, 0, 0, 0, 0, -1))
    assert clock_time(noon, 3600) == "13:00"
    assert clock_time(noon, 13 * 3600) == "23 Nov 01:00"
