"""The look of all figures. Each recipe has its colour, line style and marker throughout, so they read in grey too.

The colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), told apart with any common colour blindness.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

DPI = 170
WIDTH_IN = 10.6
DARK_GREY = "#333333"
_MOST_LEVELS = 8  # more ticks than this would run into each other
_LINE_CHARACTERS = 125  # that fit across a figure
_HANDLE_CHARACTERS = 9  # what a line and its margins take in a legend
_LEGEND_LINE_IN = 0.22

LOOK: Any = {
    "font.size": 10,
    "font.family": "DejaVu Sans",  # comes with Matplotlib: figures look the same everywhere
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.8,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "text.parse_math": False,  # a setting may hold dollar signs
}


@dataclass(frozen=True, slots=True)
class Style:
    """How a recipe is drawn. line: what Matplotlib takes as a line style."""

    colour: str
    line: Any
    marker: str


_STYLES = (
    Style("#0072B2", "solid", "o"),
    Style("#D55E00", (0, (6, 2)), "s"),
    Style("#009E73", (0, (6, 2, 1.5, 2)), "^"),
    Style("#CC79A7", (0, (1.5, 1.5)), "D"),
    Style("#E69F00", (0, (6, 1.5, 1.5, 1.5, 1.5, 1.5)), "v"),
    Style("#56B4E9", (0, (10, 3)), "P"),
    Style("#000000", (0, (3, 3)), "X"),
)


def style_of(number: int) -> Style:
    """The style of the recipe in this place of the comparison."""
    return _STYLES[number % len(_STYLES)]


def log_scale(axes: Axes, levels: Iterable[float] = ()) -> None:
    """A logarithmic y axis with plain numbers: at the levels, where there are few of them, else at 1, 2, 5 or 1, 10."""
    ticks = sorted({level for level in levels if level > 0})
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(plain))
    if 0 < len(ticks) <= _MOST_LEVELS:
        axes.yaxis.set_major_locator(FixedLocator(ticks))
        axes.set_ylim(ticks[0] / 1.4, ticks[-1] * 1.4)
    else:
        spans_decades = bool(ticks) and ticks[-1] > 100 * ticks[0]
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if spans_decades else (1.0, 2.0, 5.0)))


def number_axis(axes: Axes) -> None:
    """An x axis with a handful of round numbers."""
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(plain))


def plain(value: float, _position: int = 0) -> str:
    """A number on an axis: 0.05, 12, 1,620; never 10^3."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def legend(figure: Figure, axes: Axes) -> None:
    """One legend for the whole figure, above it; the figure grows by what it takes."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        room = _LINE_CHARACTERS // (max(map(len, labels)) + _HANDLE_CHARACTERS)
        columns = min(len(labels), max(1, room))
        figure.set_figheight(figure.get_figheight() + _LEGEND_LINE_IN * -(-len(labels) // columns))
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=3.6)


def in_lines(label: str) -> str:
    """A label beside an axis, in lines that leave room for the axis."""
    return textwrap.fill(label, 28)
