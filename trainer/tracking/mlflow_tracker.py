"""Keeps an MLflow store up to date with the journal while the run goes on, without the run noticing.

A thread of its own reads the journal and sends what is new. So what MLflow gets is what is on disk, with the journal's
times; a server that is away for an hour costs no memory; and after a restart the rest is sent without anything twice.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from trainer.passwords import without_password
from trainer.tracking.errors import TrackingError
from trainer.tracking.journal_reader import read_journal
from trainer.tracking.mlflow_sender import RunSender
from trainer.tracking.mlflow_store import reason_of
from trainer.tracking.tracker import PAUSED, RunStart

_BETWEEN_SENDS_S = 1.0  # gathers short epochs into one request
_FIRST_RETRY_S = 5.0
_LONGEST_RETRY_S = 120.0
_PAUSE_TIMEOUT_S = 5.0


class MlflowTracker:
    """Sends the journal at journal_path to the MLflow store at uri, in the background.

    Never raises, and never waits while the run goes on. `start` waits for the first answer, at most start_timeout_s:
    importing MLflow and making a store take seconds of the interpreter's time, which the first epoch would pay for.
    `close` gives the last records close_timeout_s to arrive, 5 s where the run is to go on later. `warn` is called with
    one line when the store cannot be used, once, from another thread; and at the end if some are unsent.
    """

    def __init__(
        self,
        journal_path: Path,
        uri: str,
        warn: Callable[[str], None],
        start_timeout_s: float = 20.0,
        close_timeout_s: float = 30.0,
    ) -> None:
        self._journal_path = journal_path
        self._uri = uri
        self._warn = warn
        self._start_timeout_s = start_timeout_s
        self._close_timeout_s = close_timeout_s
        self._sent_records = 0
        self._has_warned = False
        self._has_answered = threading.Event()
        self._news = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._send_until_closed, name="mlflow-tracker", daemon=True)

    def start(self, run: RunStart) -> None:
        self._news.set()
        self._thread.start()
        self._has_answered.wait(self._start_timeout_s)

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self._news.set()

    def event(self, kind: str, fields: Mapping[str, object]) -> None:
        self._news.set()

    def close(self, status: str, summary: Mapping[str, float], error: str | None = None) -> None:
        self._closing.set()
        self._news.set()
        if self._thread.ident is not None:
            # What was stopped to go on later has no time to lose, and sends the rest then.
            patience_s = _PAUSE_TIMEOUT_S if status == PAUSED else math.inf
            self._thread.join(min(patience_s, self._close_timeout_s))
        if unsent := self._unsent_records():
            self._has_warned = True  # a thread that is still waiting for an answer has nothing to add
            self._warn(
                f"MLflow: {unsent} records were not sent to {without_password(self._uri)}: "
                f"trainer sync {self._journal_path}"
            )

    def _unsent_records(self) -> int:
        try:
            return read_journal(self._journal_path).record_count - self._sent_records
        except TrackingError:  # whoever wrote the journal has been told already
            return 0

    def _send_until_closed(self) -> None:
        sender: RunSender | None = None
        retry_s = _FIRST_RETRY_S
        while True:
            self._news.clear()
            is_last = self._closing.is_set()  # asked before the journal is read, so that the last time reads it whole
            try:
                sender = sender or RunSender(self._uri)
                log = read_journal(self._journal_path)
                sender.send(log)
                self._sent_records = log.record_count
                retry_s = _FIRST_RETRY_S
                pause_s = _BETWEEN_SENDS_S
            except Exception as error:
                self._warn_once(error)
                pause_s, retry_s = retry_s, min(2 * retry_s, _LONGEST_RETRY_S)
                self._news.set()  # it is still to be sent
            self._has_answered.set()
            if is_last:
                return
            self._closing.wait(pause_s)
            self._news.wait()

    def _warn_once(self, error: Exception) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._warn(
                f"MLflow at {without_password(self._uri)} cannot be used ({reason_of(error)}): "
                "training goes on, the journal keeps everything"
            )
