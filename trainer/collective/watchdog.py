"""Ends a worker that stands still, or waits for one that does: within a set time, with who and where in one line.

A collective waits for ever, or as long as its library likes, and its error names a socket. So a thread beside the loop
counts the seconds without a mark of the loop (whereabouts.py). When they reach the limit it calls the roll on the board,
the lowest rank that is there says what came of it, and all of them end, the frozen ones on the same host included.

The limit is on how long a worker waits for the slowest one: one that is slow and stays within it is left alone.
"""

from __future__ import annotations

import os
import secrets
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import NoReturn

from trainer.collective.agreement import broadcast_text
from trainer.collective.board import CALL_S, Board, BoardError
from trainer.collective.collective import Collective
from trainer.collective.neighbours import end, open_neighbours
from trainer.collective.roll_call import Answer, Call, hang_verdict, lost_verdict
from trainer.collective.whereabouts import Whereabouts

CLOSING_S = 45.0  # seconds that closing the record may take, MLflow's half minute included
_AFTER_A_LOSS_S = 15.0  # who has heard that a worker is gone, and still has no error of its own, waits no longer


class Watchdog:
    """Watches one worker from __enter__ to __exit__.

    whereabouts: what the loop marks. close_record: ends the record as failed with this text; called on another thread,
    for CLOSING_S at the most. leave: how the process ends.
    """

    def __init__(
        self,
        collective: Collective,
        whereabouts: Whereabouts,
        limit_s: float,
        close_record: Callable[[str], None],
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        """All ranks make theirs together."""
        self._rank, self._world_size = collective.rank, collective.world_size
        self._board: Board = collective.board
        self._whereabouts, self._limit_s, self._given_limit_s = whereabouts, limit_s, limit_s
        self._close_record, self._leave = close_record, leave
        # A launcher's board outlives a fleet that it starts again.
        self._fleet = broadcast_text(collective, secrets.token_hex(8) if collective.rank == 0 else "")
        self._neighbours: Mapping[int, int] = open_neighbours(collective)
        # Every worker asks once a tick, and one server answers them all.
        self._tick_s = min(1.0, limit_s / 8) * (1 + collective.world_size / 64)
        self._still_s = 0.0
        self._answered: set[str] = set()
        self._loss: tuple[str, Future[str]] | None = None
        self._wake, self._is_closed = threading.Event(), False
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._is_closed = True
        self._wake.set()
        self._thread.join()
        for neighbour in self._neighbours.values():
            os.close(neighbour)

    def lost(self, words: str) -> tuple[str, bool]:
        """The roll call of a worker whose collective has failed with these words: who is gone, and where; and whether
        this worker is the one to say so. Does not return where the watchdog is already ending the process."""
        reply: Future[str] = Future()
        self._loss = words, reply
        self._wake.set()
        text = reply.result()
        return text, self._speaks

    def _watch(self) -> None:
        seen = -1
        while True:
            begin = time.monotonic()
            self._wake.wait(self._tick_s)
            # A whole host that was suspended, or a job that was stopped and goes on, has not waited meanwhile.
            self._still_s += min(time.monotonic() - begin, 2 * self._tick_s)
            if self._whereabouts.moves != seen:
                seen, self._still_s = self._whereabouts.moves, 0.0
            if self._loss is not None:
                self._answer_loss(*self._loss)
            if self._is_closed:
                return
            if self._still_s >= self._limit_s:
                self._end(calls=True)
            self._still_s += self._heed_calls()

    def _heed_calls(self) -> float:
        """Answers a roll call of another worker; returns the seconds that it took."""
        begin = time.monotonic()
        call = self._unanswered_call()
        if call is not None and call.lost is None:
            self._end(calls=False)
        if call is not None:
            self._post()
            self._limit_s = min(self._limit_s, self._still_s + _AFTER_A_LOSS_S)
        return min(time.monotonic() - begin, CALL_S)

    def _unanswered_call(self) -> Call | None:
        """A call that is new to this worker. A board out of reach means nothing as long as the work goes on."""
        if self._world_size == 1:
            return None
        try:
            text = self._board.get(self._key("call"))
        except BoardError:
            return None
        if text is None or text in self._answered:
            return None
        self._answered.add(text)
        try:
            return Call.from_json(text)
        except ValueError:
            return None
