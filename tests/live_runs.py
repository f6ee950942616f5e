"""Runs that go on in the background while a test does something to them."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.launching import REPOSITORY, Launcher, heed_signals, launch_prefix, worker_environment
from tests.waiting import wait_until
from trainer.tracking import RunLog, TrackingError, journals_in, read_journal

_MARK = "LIVE_RUN"


class LiveRun:
    """`trainer ARGUMENTS` under a launcher, with all that it starts: found again by a mark in its environment."""

    def __init__(
        self,
        output: Path,
        launcher: Launcher,
        workers: int,
        arguments: Sequence[str],
        prefix: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """output: where what it says goes, as output.log, beside the run's folder. prefix: what starts Python, where it
        is not the launcher's usual command; env: variables beside the usual ones."""
        output.mkdir(parents=True, exist_ok=True)
        self.output, self.launcher, self.workers = output, launcher, workers
        self._mark = secrets.token_hex(8)
        with open(output / "output.log", "ab") as log:
            self.process = subprocess.Popen(
                [*(prefix or launch_prefix(launcher, workers)), "-m", "trainer", *arguments, f"output={output}"],
                env=worker_environment() | dict(env or {}) | {_MARK: self._mark},
                cwd=REPOSITORY,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=heed_signals,
            )

    def __enter__(self) -> LiveRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_all()

    def said(self) -> str:
        return (self.output / "output.log").read_text(errors="replace")

    def log(self) -> RunLog | None:
        """What the newest run of the folder has recorded so far, if anything."""
        with contextlib.suppress(TrackingError):
            return max((read_journal(path) for path in journals_in(self.output)), key=lambda log: log.start_time_s)
        return None

    def epochs(self) -> int:
        log = self.log()
        return 0 if log is None else len(log.epochs)

    def wait_until(self, condition: Callable[[], object], timeout_s: float = 60) -> None:
        wait_until(condition, timeout_s, lambda: self.said()[-3000:], pause_s=0.02)

    def pids(self) -> list[int]:
        """All of its processes, the launcher's too."""
        mark = f"{_MARK}={self._mark}".encode()
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if mark in _environment(pid)]

    def worker(self, rank: int) -> int:
        """The process of a rank."""
        if self.launcher == "alone":
            return self.process.pid
        return self.worker_with({"torchrun": "RANK", "horovodrun": "HOROVOD_RANK"}[self.launcher], str(rank))

    def worker_with(self, variable: str, value: str) -> int:
        """The process of the one worker that was started with this variable."""
        # Shells and watchers that launchers put around a worker have its environment too: the worker is the innermost.
        found = [pid for pid in self.pids() if f"{variable}={value}".encode() in _environment(pid)]
        parents = {_parent(pid) for pid in found}
        (innermost,) = [pid for pid in found if pid not in parents]
        return innermost

    def wait(self, timeout_s: float = 90) -> int:
        """The launcher's exit code."""
        return self.process.wait(timeout_s)

    def kill_all(self) -> None:
        """As if the machine had lost its power."""
        while pids := [pid for pid in self.pids() if pid != self.process.pid or self.process.poll() is None]:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        self.process.wait(10)


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
    except OSError:
        return 0
