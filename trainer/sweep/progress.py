"""What a person sees of a sweep: a bar on a terminal, in any case a line per point."""

from __future__ import annotations

import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

_LAST = 3


class SweepProgress(Protocol):
    """Told by the sweep; numbers count points from 1."""

    def point_started(self, number: int, label: str) -> None: ...
    def point_ended(self, line: str, top1: float | None) -> None: ...
    def say(self, line: str) -> None: ...
    def close(self) -> None: ...


class SweepLines:
    """One line per point that ended, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def point_started(self, number: int, label: str) -> None:
        return None

    def point_ended(self, line: str, top1: float | None) -> None:
        self.say(line)

    def say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, markup=False)

    def close(self) -> None:
        return None


class SweepBar:
    """A bar with the point under way, the top-1 of the last ones and when the sweep may end; above it the lines."""

    def __init__(self, console: Console, total: int, settled: int) -> None:
        self._bar = Progress(
            TextColumn("{task.fields[point]}", markup=False),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}{task.fields[last]}{task.fields[end]}", markup=False),
            console=console,
        )
        self._task = self._bar.add_task("", total=total, completed=settled, point="", last="", end="")
        self._to_run, self._total = total - settled, total
        self._begin_s = time.monotonic()
        self._ended, self._last = 0, list[str]()
        self._bar.start()

    def point_started(self, number: int, label: str) -> None:
        self._bar.update(self._task, point=f"point {number}/{self._total}  {label}")

    def point_ended(self, line: str, top1: float | None) -> None:
        self.say(line)
        self._ended += 1
        self._last = [*self._last, "-" if top1 is None else f"{100 * top1:.1f}"][-_LAST:]
        left_s = (time.monotonic() - self._begin_s) / self._ended * (self._to_run - self._ended)
        self._bar.update(
            self._task,
            advance=1,
            last=f"  top-1 {', '.join(self._last)} %",
            end=f"  ends about {clock_time(time.time(), left_s)}" if left_s > 0 else "",
        )

    def say(self, line: str) -> None:
        self._bar.console.print(line, soft_wrap=True, markup=False)

    def close(self) -> None:
        self._bar.stop()


def open_sweep_progress(console: Console, total: int, settled: int) -> SweepProgress:
    """The bar where the console is a terminal, lines elsewhere."""
    return SweepBar(console, total, settled) if console.is_terminal else SweepLines(console)


def clock_time(now_s: float, left_s: float) -> str:
    """The time of day left_s seconds after now_s (since 1970), with the date where that is another day's."""
    now, then = time.localtime(now_s), time.localtime(now_s + left_s)
    return time.strftime("%H:%M" if now[:3] == then[:3] else "%d %b %H:%M", then)
