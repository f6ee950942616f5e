"""The comparison as a table: the same cells in the terminal and on the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.report.groups import Group
from trainer.report.measured_noise import average_scale, epochs_of, measured_epochs
from trainer.report.outcome import NO_COST, Outcome, Spread, change, read_apart
from trainer.report.runs import RunRecord
from trainer.report.units import UNKNOWN, accuracy, count, duration, percent_label, unit_of
from trainer.tracking import FINISHED

if TYPE_CHECKING:
    from rich.table import Table as RichTable

_MOST_SIDE_BY_SIDE = 4
_LEAST_FOR_LABELS = 28  # characters
_BETWEEN = 3  # characters between two columns
_NOTE = "(nx): speed-up against the first schedule. ±: standard deviation over seeds."
_NOISE_NOTE = " Gradient noise: over the epochs in which every run measured it with an error below the scale itself."


@dataclass(frozen=True, slots=True)
class Table:
    """Column headers and rows of cells, all text; the first column names the recipe.

    note: what to know of the cells, "" for nothing.
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def comparison_table(outcomes: Sequence[Outcome], target_top1: float | None) -> Table:
    """One row a recipe; a cost is followed by the speed-up against the first row, as in 1,620 (1.67x).

    There are columns of samples where the recipes read other numbers of them, and of the gradient noise where it was
    measured; of how often it was, where that is not in every epoch.
    """
    columns: dict[str, list[str]] = {
        "schedule": [outcome.group.label for outcome in outcomes],
        "seeds": [seeds(outcome.group) for outcome in outcomes],
        "final top-1": [accuracy(outcome.final_top1) for outcome in outcomes],
        "best top-1": [accuracy(outcome.best_top1) for outcome in outcomes],
        "updates": with_speed_ups([outcome.whole_run.updates for outcome in outcomes], count),
        "total time": _times([outcome.whole_run.time_s for outcome in outcomes]),
    }
    if read_apart(outcomes):
        columns["samples read"] = with_speed_ups([outcome.samples for outcome in outcomes], count)
    noise = [_gradient_noise(outcome.group) for outcome in outcomes]
    note = _NOTE
    if any(cell != UNKNOWN for cell in noise):
        columns["mean gradient noise, samples (at last)"] = noise
        note += _NOISE_NOTE
        measured = [(len(measured_epochs(outcome.group)), epochs_of(outcome.group)) for outcome in outcomes]
        if any(0 < number < of for number, of in measured):
            columns["gradient noise measured in"] = [f"{number} of {of} epochs" for number, of in measured]
    if target_top1 is not None:
        to_target = [outcome.to_target or NO_COST for outcome in outcomes]
        goal = percent_label(target_top1)
        columns |= {
            f"reached {goal}": [f"{outcome.reached} of {len(outcome.group.runs)}" for outcome in outcomes],
            f"epochs to {goal}": [count(cost.epochs) for cost in to_target],
            f"updates to {goal}": with_speed_ups([cost.updates for cost in to_target], count),
            f"time to {goal}": _times([cost.time_s for cost in to_target]),
        }
    return Table(tuple(columns), tuple(zip(*columns.values(), strict=True)), note)


def seeds(group: Group) -> str:
    """How many runs count, and what became of the others: "3", "2, 1 failed", "1, 2 repeated", "1 running"."""
    counted = [str(len(group.runs))] if group.is_finished else _by_status(group.runs)
    return ", ".join([*counted, *_by_status(group.left_out)])


def with_speed_ups(costs: Sequence[Spread | None], text: Callable[[Spread | None], str]) -> list[str]:
    """Each cost as text; after the first with how many times less it is, as in 1,620 (1.67x)."""
    first, *others = costs
    cells = [text(first)]
    for cost in others:
        difference = change(cost, first)
        cells.append(text(cost) if difference is None else f"{text(cost)} ({difference.speed_up:.2f}x)")
    return cells


def rich_tables(table: Table, title: str, width: int) -> list[RichTable]:
    """The table for a terminal of this many characters; a few recipes stand side by side, since that is narrower.

    Columns that do not fit beside the others go into a further table, which begins with the first column again.
    """
    lines = [table.headers, *table.rows]
    if len(table.rows) <= _MOST_SIDE_BY_SIDE and len(table.rows) < len(table.headers):
        lines = list(zip(*lines, strict=True))
    first, *others = zip(*lines, strict=True)
    parts: list[list[tuple[str, ...]]] = [[first]]
    for column in others:
        if len(parts[-1]) > 1 and _room_for([*parts[-1], column], width) < 0:
            parts.append([first])
        parts[-1].append(column)
    return [_rich_table(part, title if part is parts[0] else None, width) for part in parts]


def _rich_table(columns: Sequence[tuple[str, ...]], title: str | None, width: int) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable

    shown = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    room = _room_for(columns, width)
    for number, column in enumerate(columns):
        least = _least_width(column, is_label=number == 0)
        wider = min(max(room, 0), max(map(len, column)) - least)
        room -= wider
        shown.add_column(column[0], justify="right" if number else "left", overflow="fold", width=least + wider)
    for row in list(zip(*columns, strict=True))[1:]:
        shown.add_row(*row)
    return shown


def _room_for(columns: Sequence[tuple[str, ...]], width: int) -> int:
    """Characters of a line that are left over when each column is as narrow as it may be."""
    return width - sum(_least_width(column, number == 0) + _BETWEEN for number, column in enumerate(columns))


def _least_width(column: tuple[str, ...], is_label: bool) -> int:
    """Labels may break anywhere beyond a length, headers between words, and cells before a speed-up in brackets."""
    if is_label:
        return min(_LEAST_FOR_LABELS, max(map(len, column)))
    header, *cells = column
    return max(
        map(len, [*header.split(), *(piece for cell in cells for piece in cell.replace(" (", "\n(").split("\n"))])
    )


def _by_status(runs: Sequence[RunRecord]) -> list[str]:
    """A finished run that does not count was done again later."""
    words = Counter("repeated" if run.status == FINISHED else run.status.lower() for run in runs)
    return [f"{number} {word}" for word, number in words.items()]


def _gradient_noise(group: Group) -> str:
    """The measured scale as a mean over epochs, and in brackets that of the last epoch."""
    measured = measured_epochs(group)
    if not measured:
        return UNKNOWN
    is_last = measured[-1].epoch == epochs_of(group)
    return f"{count(average_scale(measured))} ({count(average_scale(measured[-1:])) if is_last else UNKNOWN})"


def _times(times_s: Sequence[Spread | None]) -> list[str]:
    unit = unit_of(*times_s)
    return with_speed_ups(times_s, lambda time_s: duration(time_s, unit))
