"""Contestants in turns, so that a machine whose speed drifts does not decide; ratios are taken round by round."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

Times = dict[str, list[float]]


def in_turns(contestants: Mapping[str, Callable[[], float]], rounds: int) -> Times:
    """What each contestant returned (seconds, say) in every round; every second round goes backwards.

    A first round warms up and is not counted.
    """
    measured: Times = {name: [] for name in contestants}
    for number in range(rounds + 1):
        order = list(contestants.items())
        for name, contestant in order if number % 2 else reversed(order):
            measured[name].append(contestant())
    return {name: values[1:] for name, values in measured.items()}


def turn_about(contestants: Mapping[str, Callable[[Callable[[], None]], object]]) -> Times:
    """Seconds of every turn of contestants that run from beginning to end at the same time, one at any moment.

    Each has a thread, and is given what it calls at the end of each of its turns: all of them as often. The turns are
    short, and nothing has to be begun anew for a round. Raises the first contestant's error, if any.
    """
    names = list(contestants)
    may_go = {name: threading.Semaphore(0) for name in names}
    measured: Times = {name: [] for name in names}
    somebody_ended = threading.Event()

    def compete(name: str, after: str) -> None:
        def end_of_turn() -> None:
            nonlocal began
            measured[name].append(time.perf_counter() - began)
            may_go[after].release()
            if not somebody_ended.is_set():  # or nobody would give the turn back
                may_go[name].acquire()
            began = time.perf_counter()

        may_go[name].acquire()
        began = time.perf_counter()
        try:
            contestants[name](end_of_turn)
        finally:
            somebody_ended.set()
            may_go[after].release()

    with ThreadPoolExecutor(len(names)) as pool:
        futures = [pool.submit(compete, *pair) for pair in zip(names, names[1:] + names[:1], strict=True)]
        may_go[names[0]].release()
    for future in futures:
        future.result()
    return measured


def ratios(measured: Times, name: str, to: str) -> list[float]:
    """One contestant's figures over another's, round by round."""
    return [a / b for a, b in zip(measured[name], measured[to], strict=True)]


def spread(values: Sequence[float], digits: int = 2, scale: float = 1.0) -> str:
    """Median (least to most), each multiplied with scale."""
    median, least, most = (f"{scale * f(values):.{digits}f}" for f in (statistics.median, min, max))
    return f"{median} ({least} to {most})"


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a Markdown table, row by row as they come."""
    print("| " + " | ".join(headings) + " |")
    print("|" + "---|" * len(headings), flush=True)
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
