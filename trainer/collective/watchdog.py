"""Ends a worker that stands still, or waits for one that does: within a set time, with who and where in one line.

A collective waits for ever, or as long as its library likes, and its error names a socket. So a thread beside the loop
counts the seconds without a mark of the loop (whereabouts.py). When they reach the limit it calls the roll on the
board, the lowest rank that is there says what came of it, and all end, frozen ones on the same host included.

The limit is on how long a worker waits for the slowest one: one that is slow and stays within it is left alone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType

from trainer.collective.agreement import broadcast_text
from trainer.collective.board import CALL_S, BoardError, BoardGoneError
from trainer.collective.collective import Collective
from trainer.collective.neighbours import end, open_neighbours
from trainer.collective.roll_call import Answer, Call, hang_verdict, lost_verdict
from trainer.collective.whereabouts import Whereabouts

CLOSING_S = 45.0  # seconds that closing the record may take, MLflow's half minute included
_SAYING_S = 5.0  # that a line may take: the reader of a pipe may be stuck too
_REFUSALS = 3  # in a row, until a board counts as gone
# That a collective may take to fail when a worker it waits for has ended: Gloo waits 30 for a host that is silent.
_ERROR_S = 35.0


class Watchdog:
    """Watches one worker from __enter__ to __exit__.

    whereabouts: what the loop marks. close_record: ends the record as failed with this text; called on another thread,
    for CLOSING_S at the most. rejoins: whether those that wait can go on when those that stand still have ended. leave:
    how the process ends. board_is_gone: called once where nobody keeps the board any more; the launcher that did has
    ended then, and those on other hosts hear of it from nobody else.
    """

    def __init__(
        self,
        collective: Collective,
        whereabouts: Whereabouts,
        limit_s: float,
        close_record: Callable[[str], None],
        rejoins: bool = False,
        leave: Callable[[int], object] = os._exit,
        board_is_gone: Callable[[], object] = lambda: None,
    ) -> None:
        """All ranks make theirs together, on the thread of the loop."""
        self._rank, self._world_size, self._board = collective.rank, collective.world_size, collective.board
        self._whereabouts, self._close_record = whereabouts, close_record
        self._rejoins, self._leave, self._board_is_gone = rejoins, leave, board_is_gone
        self._refusals = 0
        self._limit_s = limit_s
        # A launcher's board outlives a fleet that it starts again.
        self._fleet = broadcast_text(collective, secrets.token_hex(8) if collective.rank == 0 else "")
        self._neighbours = open_neighbours(collective)
        # Every worker asks once a tick, and one server answers them all.
        self._tick_s = min(1.0, limit_s / 8) * (1 + collective.world_size / 64)
        self._still_s = 0.0
        self._is_closed = threading.Event()
        self._loop = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._is_closed.set()
        self._thread.join()  # for ever, where it is ending the process: nothing else is to be said then
        if error is None:
            self._let_go_of_neighbours()

    def lost(self) -> str | None:
        """The roll call after __exit__, of a worker whose collective failed; once. Returns who is gone, and where; None
        where another worker says so."""
        own = self._own_answer()
        # Short: launchers end the others as soon as they see that one has gone.
        answers = self._call_the_roll(own, Call(self._rank, is_of_a_loss=True), 2 * self._tick_s)
        if self._rejoins:
            self._end_silent_neighbours()
        self._let_go_of_neighbours()
        return None if answers is None else lost_verdict(answers, own, self._world_size)

    def _watch(self) -> None:
        seen = -1
        while True:
            begin = time.monotonic()
            self._is_closed.wait(self._tick_s)
            # A host that was suspended, or a job that was stopped and goes on, has not waited meanwhile.
            self._still_s += min(time.monotonic() - begin, 2 * self._tick_s)
            if self._whereabouts.moves != seen:
                seen, self._still_s = self._whereabouts.moves, 0.0
            if self._is_closed.is_set():
                return None
            if self._still_s >= self._limit_s:
                return self._end(Call(self._rank))
            call = self._call_of_another()
            if call is not None and not call.is_of_a_loss:
                return self._end(None)
            if call is not None:  # this worker's own error comes, or its limit
                self._pin(f"answer.{self._rank}", self._own_answer().to_json())

    def _call_of_another(self) -> Call | None:
        """What another worker has called for. A board out of reach means nothing while the work goes on. A worker
        that is alone looks too: the launcher may be gone."""
        begin = time.monotonic()
        try:
            text = self._read("call")
            self._refusals = 0
            return None if text is None else Call.from_json(text)
        except BoardGoneError:
            self._refusals += 1
            if self._refusals == _REFUSALS:
                self._board_is_gone()
            return None
        except (BoardError, ValueError):
            return None
        finally:
            self._still_s += min(time.monotonic() - begin, CALL_S)

    def _end(self, call: Call | None) -> None:
        """Says what comes of the roll call, or waits until another worker has; then this process ends, and with it the
        neighbours that did not answer."""
        own = self._own_answer()
        if not own.is_meeting:
            self._say(self._stack())
        answers = self._call_the_roll(own, call, 2 * self._tick_s + min(CALL_S + 1, self._limit_s))
        text = None if answers is None else hang_verdict(answers, own, self._world_size, self._limit_s)
        if text is not None:
            self._say(f"trainer: {text}")
        if self._rejoins and own.is_meeting:
            self._end_silent_neighbours()
            if self._is_closed.wait(_ERROR_S):
                return
        # Launchers end everybody at the first exit, so the record comes first.
        if text is None:
            self._wait_until_closed()
        else:
            _within(CLOSING_S, lambda: self._close_record(text))
            self._pin("closed", "yes")
        self._end_silent_neighbours()
        self._leave(1)

    def _call_the_roll(self, own: Answer, call: Call | None, wait_s: float) -> list[Answer] | None:
        """Answers, calls the others unless one of them has, and waits for them. Returns all answers, one's own first;
        None where a lower rank answers, which speaks for all."""
        if not self._pin(f"answer.{own.rank}", own.to_json()) or self._world_size == 1:
            return [own]
        if call is not None:
            self._pin("call", call.to_json())
        time.sleep(wait_s)
        answers = [own]
        with contextlib.suppress(BoardError):
            for rank in range(self._world_size):
                answer = None if rank == own.rank else self._answer_of(rank)
                if answer is not None and rank < own.rank:
                    return None
                if answer is not None:
                    answers.append(answer)
        return answers

    def _own_answer(self) -> Answer:
        where = self._whereabouts
        return Answer(self._rank, where.place, where.doing, where.is_meeting, round(self._still_s, 1))

    def _answer_of(self, rank: int) -> Answer | None:
        text = self._read(f"answer.{rank}")
        try:
            answer = None if text is None else Answer.from_json(text)
        except ValueError:
            return None
        return answer if answer is not None and answer.rank == rank else None

    def _end_silent_neighbours(self) -> None:
        """Those on this host, where the board tells who has not answered."""
        with contextlib.suppress(BoardError):
            for rank, neighbour in self._neighbours.items():
                if self._answer_of(rank) is None:
                    end(neighbour)

    def _let_go_of_neighbours(self) -> None:
        while self._neighbours:
            os.close(self._neighbours.popitem()[1])

    def _wait_until_closed(self) -> None:
        """Until the worker that speaks has closed the record, or has taken the board with it."""
        deadline = time.monotonic() + 2 * self._tick_s + _SAYING_S + CLOSING_S
        with contextlib.suppress(BoardError):
            while self._read("closed") is None and time.monotonic() < deadline:
                time.sleep(self._tick_s / 2)

    def _pin(self, key: str, text: str) -> bool:
        try:
            self._board.put(f"{self._fleet}.{key}", text)
        except BoardError:
            return False
        return True

    def _read(self, key: str) -> str | None:
        return self._board.get(f"{self._fleet}.{key}")

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._loop)
        return f"trainer: rank {self._rank} stands here:\n" + "".join(traceback.format_stack(frame)).rstrip()

    def _say(self, text: str) -> None:
        _within(_SAYING_S, lambda: print(text, file=sys.stderr, flush=True))


def _within(seconds: float, call: Callable[[], None]) -> None:
    """Does what may never end, and waits for it that long."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
