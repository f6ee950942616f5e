"""Where every second went. Monotonic time only: the wall clock of a host may jump."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, TypeVar, get_args

T = TypeVar("T")
Category = Literal["train", "data_wait", "evaluate", "record"]
CATEGORIES: tuple[str, ...] = get_args(Category)


class Clock:
    """Counts seconds from its making, in all and by category, on top of what another clock had shown.

    data_wait is the part of train that was spent waiting for the input pipeline.
    """

    def __init__(self, seconds: Mapping[str, float] | None = None, elapsed_s: float = 0.0) -> None:
        self._start = time.monotonic() - elapsed_s
        self.seconds: dict[str, float] = {category: (seconds or {}).get(category, 0.0) for category in CATEGORIES}

    def elapsed(self) -> float:
        """Seconds since the clock was made, and what it began with: everything after start-up."""
        return time.monotonic() - self._start

    @contextmanager
    def measure(self, category: Category) -> Iterator[None]:
        """Adds the time spent inside to the category."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds[category] += time.monotonic() - begin

    def waiting(self, items: Iterable[T]) -> Iterator[T]:
        """The items, with the time until each arrives counted as data_wait."""
        iterator = iter(items)
        while True:
            begin = time.monotonic()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.seconds["data_wait"] += time.monotonic() - begin
            yield item
