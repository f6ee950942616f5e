"""Waiting for what takes its own time, and telling how long it took."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

Value = TypeVar("Value")


def wait_until(
    condition: Callable[[], Value], timeout_s: float, told: Callable[[], str], pause_s: float = 0.05
) -> Value:
    """The first value of the condition that is true. Fails with what is told if there is none in time."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {told()}"
        time.sleep(pause_s)
    return value


@contextlib.contextmanager
def told_time(what: str) -> Iterator[None]:
    """Prints the seconds that the block took, for the results: `pytest -rP` shows it, and no test depends on it."""
    begin = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - begin:.1f} s")
