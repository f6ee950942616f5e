"""The tables of a plan: a row a phase, and fewer columns where the terminal is narrow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich import box
from rich.table import Table

from trainer.rule import Phase

Row = TypeVar("Row")
_WIDE, _MEDIUM = 106, 92  # characters


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """A heading of two lines, and a row's cell. is_wide: a narrow terminal does without it; is_text: not a number."""

    heading: str
    cell: Callable[[Row], str]
    is_wide: bool = False
    is_text: bool = False


def phase_table(title: str, columns: Sequence[Column[Row]], rows: Sequence[Row], width: int) -> Table:
    """The table for a terminal of this many characters."""
    shown = [column for column in columns if width >= _WIDE or not column.is_wide]
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.pad_edge, table.padding = False, (0, 1 if width >= _MEDIUM else 0, 0, 0)
    for column in shown:
        table.add_column(
            column.heading,
            justify="left" if column.is_text else "right",
            no_wrap=not column.is_text,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(column.cell(row) for column in shown))
    return table


def span(first: Phase, last: Phase) -> str:
    """From the first epoch of one phase to the last of another: 0-29, or 30 where it is one epoch."""
    return epochs_text(first.first_epoch, last.last_epoch)


def epochs_text(begin: int, end: int) -> str:
    """Epochs from `begin` to `end`, that included: 0-29, or 30 where it is one."""
    return f"{begin}" if begin == end else f"{begin}-{end}"
