"""A notice board for workers that can no longer meet.

A collective needs every worker; one that is stuck says nothing to anybody. Short texts on a board that somebody else
keeps (the launcher, as a rule) still tell who is there, who is not, and where each of them stands.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")
CALL_S = 3.0  # seconds after which a board counts as out of reach
_LONGEST = 2**14  # bytes of a text that is read


class BoardError(ConnectionError):
    """The board cannot be reached, or does not answer in time."""


class BoardGoneError(BoardError):
    """Nobody keeps the board any more: its host is there, and refuses."""


class Board(Protocol):
    """Texts by key. Both methods end within seconds and raise BoardError, nothing else. Keys: letters, digits, dots."""

    def put(self, key: str, text: str) -> None:
        """Pins the text up, in place of an earlier one."""
        ...

    def get(self, key: str) -> str | None:
        """The text, None where there is none."""
        ...


class MemoryBoard:
    """A board within one process."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def put(self, key: str, text: str) -> None:
        self._texts[key] = text

    def get(self, key: str) -> str | None:
        return self._texts.get(key)


class NoBoard:
    """Where nobody keeps one: never to be reached."""

    def put(self, key: str, text: str) -> None:
        raise BoardError("there is no board")

    def get(self, key: str) -> str | None:
        raise BoardError("there is no board")


class HttpBoard:
    """The key-value server that horovodrun keeps for its workers (horovod/runner/http/http_server.py).

    Horovod's own client unpickles what it reads and waits for ever; this one takes text and CALL_S seconds.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port

    def put(self, key: str, text: str) -> None:
        self._ask("PUT", key, text.encode())

    def get(self, key: str) -> str | None:
        return self._ask("GET", key, None)

    def _ask(self, method: str, key: str, body: bytes | None) -> str | None:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=CALL_S)
        try:
            connection.request(method, f"/board/{key}", body)
            answer = connection.getresponse()
            if answer.status == 404:
                return None
            if answer.status != 200:
                raise BoardError(f"the board answers {answer.status}")
            return answer.read(_LONGEST).decode(errors="replace")
        except ConnectionRefusedError as error:
            raise BoardGoneError(str(error)) from error
        except (OSError, http.client.HTTPException) as error:
            raise BoardError(str(error) or type(error).__name__) from error
        finally:
            connection.close()


class BoundedBoard:
    """Another board whose calls may block for ever or raise anything; here they end within CALL_S seconds.

    Each call has a thread of its own. One that blocks keeps its thread, and until it ends the board is out of reach.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._last: threading.Thread | None = None

    def put(self, key: str, text: str) -> None:
        self._within(lambda: self._board.put(key, text))

    def get(self, key: str) -> str | None:
        return self._within(lambda: self._board.get(key))

    def _within(self, call: Callable[[], T]) -> T:
        if self._last is not None and self._last.is_alive():
            raise BoardError("the board has not answered yet")
        results: list[T] = []
        failures: list[Exception] = []

        def run() -> None:
            try:
                results.append(call())
            except Exception as error:
                failures.append(error)

        self._last = threading.Thread(target=run, daemon=True, name="board")
        self._last.start()
        self._last.join(CALL_S)
        if failures:
            raise BoardError(str(failures[0]).splitlines()[0] if str(failures[0]) else "no words") from failures[0]
        if not results:
            raise BoardError(f"the board does not answer within {CALL_S:g} s")
        return results[0]
