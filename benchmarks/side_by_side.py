"""Contestants in turns, so that a machine whose speed drifts does not decide; ratios are taken round by round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

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
