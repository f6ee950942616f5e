"""One run of a sweep in a process of its own, and what happens when the sweep is told to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from trainer.sweep.errors import SweepError

_POLL_S = 0.2
# Horovod gives its workers a minute to save; a run gives MLflow half of one.
_STOP_WITHIN_S = 90.0
_TAIL_BYTES = 65536


@dataclass(slots=True)
class StopRequests:
    """How often the sweep has been told to stop."""

    count: int = 0


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Counts Ctrl-C, SIGTERM and a lost terminal instead of being interrupted, so that no record is cut short."""
    stop = StopRequests()

    def note(signal_number: int, frame: FrameType | None) -> None:
        stop.count += 1

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # What is ignored stays so: nohup, and a shell's background jobs
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, note) for number in heeded}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def run_child(command: Sequence[str], log_path: Path, stop: StopRequests, on_stop: Callable[[], None]) -> int:
    """Runs the command to its end with its output in log_path; returns its exit code, -N for one ended by signal N.

    The first request to stop sends SIGTERM to the command and all that it started in its process group, and on_stop is
    called; the second, or 90 s, sends SIGKILL. Raises SweepError for a command that cannot be started.
    """
    log_path.unlink(missing_ok=True)  # of an earlier run, or a link that leads elsewhere
    with open(log_path, "xb") as log:
        try:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            raise SweepError(f"{command[0]}: cannot be started ({error.strerror}): check --launcher") from None
    try:
        kill_at_s: float | None = None
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(_POLL_S)
            if kill_at_s is None and stop.count > 0:
                kill_at_s = time.monotonic() + _STOP_WITHIN_S
                os.killpg(child.pid, signal.SIGTERM)
                on_stop()
            elif kill_at_s is not None and (stop.count > 1 or time.monotonic() > kill_at_s):
                os.killpg(child.pid, signal.SIGKILL)
    finally:
        if child.poll() is None:  # no run outlives its sweep
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def last_words(log_path: Path) -> str:
    """What a command said last: its line for the user ("trainer: ...") where it has one, else its last line."""
    with open(log_path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    # Launchers write the rank before the line
    told = [line.partition("trainer: ")[2] for line in lines if "trainer: " in line]
    spoken = told or [line.strip() for line in lines if line.strip()]
    return spoken[-1] if spoken else "it said nothing"
