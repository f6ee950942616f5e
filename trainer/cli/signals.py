"""SIGTERM and SIGINT while a run is under way: the first asks it to stop in good order, a second ends it at once.

The signals are taken by a thread: the main one may be inside a library, waiting for workers that will not come.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

# One Ctrl-C or `timeout` may reach a worker twice, from its terminal's group and through its launcher.
_ONE_AND_THE_SAME_S = 1.0
_TEXT = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM"}


class StopSignals:
    """What has been heard so far."""

    def __init__(self) -> None:
        self._first: tuple[signal.Signals, float] | None = None
        self.has_lost_launcher = False

    @property
    def is_stop_wanted(self) -> bool:
        return self._first is not None or self.has_lost_launcher

    @property
    def text(self) -> str:
        """What asked this worker to stop; of another worker's signal it knows nothing."""
        if self._first is not None:
            return _TEXT[self._first[0]]
        return "the launcher has ended" if self.has_lost_launcher else "another worker was stopped"

    def launcher_is_gone(self) -> None:
        """The same wish, of a launcher that has ended and could not say so to workers on other hosts. It is no signal:
        the first one that comes after it leaves the save its time."""
        self.has_lost_launcher = True

    def listen(self, listener: socket.socket) -> None:
        """Reads signal numbers until the other end is closed."""
        while numbers := listener.recv(1):
            if numbers[0] not in _TEXT:
                continue
            number = signal.Signals(numbers[0])
            if self._first is None:
                self._first = number, time.monotonic()
            elif time.monotonic() - self._first[1] > _ONE_AND_THE_SAME_S:
                os.write(2, b"trainer: ended at once; the last checkpoint is whole\n")
                os._exit(128 + number)


@contextlib.contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Listens to both signals while it is inside, in the main thread; one that was ignored before stays so."""
    heard = StopSignals()
    speaker, listener = socket.socketpair()
    speaker.setblocking(False)
    thread = threading.Thread(target=heard.listen, args=(listener,), name="stop-signals", daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(speaker.fileno(), warn_on_full_buffer=False)
    heeded = [number for number in _TEXT if signal.getsignal(number) is not signal.SIG_IGN]
    # A handler has to be there for the numbers to be written.
    handlers = {number: signal.signal(number, lambda *_: None) for number in heeded}
    try:
        yield heard
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before)
        speaker.close()
        thread.join()
        listener.close()
