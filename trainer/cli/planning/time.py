"""The predicted time of a plan for people and for programs: minutes, what bounds them, worker-hours and cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console

from trainer.cli.planning.listening import AT_LEAST
from trainer.cli.planning.table import Column, phase_table, span
from trainer.report.units import duration, one, significant, time_unit
from trainer.rule.step_time import PhaseTime, RunTime

# What a time is made of. All but the last are parts of an update.
_PARTS: Mapping[str, Callable[[PhaseTime], float]] = {
    "com-\npute": lambda part: part.phase.updates * part.update.compute_s,
    "all-\nreduce": lambda part: part.phase.updates * part.update.all_reduce_s,
    "over-\nhead": lambda part: part.phase.updates * part.update.overhead_s,
    "\ninput": lambda part: part.phase.updates * part.update.input_s,
    "between\nepochs": lambda part: part.evaluation_s + part.epochs_s,
}


def print_time(time: RunTime, price: float | None, console: Console, may_take_more: bool) -> None:
    """A second table below the plan's: a row a phase and one for all; then the sums, as the least that they may be
    where the run may take more than its plan."""
    unit = time_unit([time.seconds])
    # A row is a run of its own: of one phase, or of all.
    rows = [RunTime((part,), ()) for part in time.phases]
    columns: list[Column[RunTime]] = [
        Column("\nepochs", lambda row: span(row.phases[0].phase, row.phases[-1].phase)),
        Column("\ntime", lambda row: duration(one(row.seconds), unit)),
        Column("\nerror", lambda row: error_text(row.error) or "unknown", is_wide=True),
        Column("worker-\nhours", lambda row: significant(row.worker_hours), is_wide=True),
        Column("\nimages/s", lambda row: f"{_samples(row) / _update_s(row):,.0f}"),
        Column("ms per\nupdate", lambda row: significant(1000 * _update_s(row) / _updates(row))),
        *(Column(heading, _share(seconds)) for heading, seconds in _PARTS.items()),
        Column("update\nbound by", _bound, is_text=True),
    ]
    console.print(phase_table("time", columns, [*rows, time] if len(rows) > 1 else rows, console.width))
    console.print(f"predicted: {AT_LEAST if may_take_more else ''}{summary(time, price)}")
    console.print("shares are of the time; between epochs: evaluation, starting the stream, saving, recording")


def _share(seconds: Callable[[PhaseTime], float]) -> Callable[[RunTime], str]:
    return lambda row: f"{100 * sum(map(seconds, row.phases)) / row.seconds:.0f} %"


def _bound(time: RunTime) -> str:
    bounds = {part.update.bound for part in time.phases}
    return bounds.pop() if len(bounds) == 1 else ""


def _updates(time: RunTime) -> int:
    return sum(part.phase.updates for part in time.phases)


def _samples(time: RunTime) -> int:
    return sum(part.phase.updates * part.phase.global_batch for part in time.phases)


def _update_s(time: RunTime) -> float:
    """Seconds of all updates."""
    return sum(part.phase.updates * part.update.seconds for part in time.phases)


def summary(time: RunTime, price: float | None) -> str:
    """The whole run in a line."""
    error = error_text(time.error)
    known = f" {error}" if error else " (too few micro-batches were measured to say how exactly)"
    cost = "" if price is None else f", {cost_of(time, price):,.2f} at {price:g} a worker-hour"
    whole = duration(one(time.seconds), time_unit([time.seconds]))
    return f"{whole}{known}, {significant(time.worker_hours)} worker-hours{cost}"


def error_text(error: float | None) -> str:
    """A relative error: ± 4.1 %; nothing where it is not known."""
    return "" if error is None else f"± {100 * error:.2g} %"


def cost_of(time: RunTime, price: float) -> float:
    """In the unit of the price of a worker-hour."""
    return time.worker_hours * price


def time_document(time: RunTime, price: float | None) -> dict[str, Any]:
    """What a plan's JSON says of its time, next to predicted_seconds."""
    cost = {} if price is None else {"price": price, "cost": cost_of(time, price)}
    return {"predicted_error": time.error, "worker_hours": time.worker_hours, **cost}


def phase_document(time: PhaseTime) -> dict[str, Any]:
    """What a phase's JSON says of its time, under `predicted`; update_s is the sum of the four parts after it."""
    return {
        "seconds": time.seconds,
        "update_s": time.update.seconds,
        **asdict(time.update),
        "evaluation_s": time.evaluation_s,
        "epochs_s": time.epochs_s,
        "images_per_s": time.images_per_s,
        "worker_hours": time.worker_s / 3600,
    }
