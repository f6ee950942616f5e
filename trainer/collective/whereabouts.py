"""Where a worker stands, said by its loop as it goes along and read by its watchdog.

A mark costs a few assignments and no lock: the loop makes several in every micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Whereabouts:
    """place: "epoch 3, update 71". doing: "reading images". is_meeting: whether it waits for the others there.

    moves counts the marks: a worker whose count stays the same stands still.
    """

    __slots__ = ("doing", "is_meeting", "moves", "place")

    def __init__(self) -> None:
        self.place, self.doing, self.is_meeting, self.moves = "the start", "starting", False, 0

    def at(self, place: str) -> None:
        """The loop has come to another place."""
        self.place = place
        self.moves += 1

    def mark(self, doing: str, is_meeting: bool = False) -> None:
        """The loop does something else now, at the same place."""
        self.doing, self.is_meeting = doing, is_meeting
        self.moves += 1

    def reading(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches, with the time until each arrives marked as reading images."""
        iterator = iter(batches)
        while True:
            self.mark("reading images")
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.mark("computing")
            yield batch
