"""Work in a process of its own, for what may take its process down with it, such as a decoder on a new chip."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class EndedEarly(RuntimeError):
    """The process ended before the work was done; what it had yielded until then has arrived."""


def apart(work: Callable[P, Iterator[T]], *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
    """What the generator function yields (picklable), one by one, from a new process. Raises EndedEarly."""
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, work, args, kwargs))
    process.start()
    sender.close()
    try:
        while True:
            yield receiver.recv()
    except EOFError:
        process.join()
        if process.exitcode:
            raise EndedEarly(_how(process.exitcode)) from None
    finally:
        if process.is_alive():
            process.terminate()
        process.join()
        receiver.close()


def _send(sender: Connection, work: Callable[..., Iterator[Any]], args: Any, kwargs: Any) -> None:
    for item in work(*args, **kwargs):
        sender.send(item)


def _how(exit_code: int) -> str:
    return f"ended by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with exit code {exit_code}"
