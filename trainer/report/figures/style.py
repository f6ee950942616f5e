"""The look of all figures. Each recipe has its colour, line style and marker throughout, so they read in grey too.

The colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), told apart with any common colour blindness;
a sweep goes from dark to light along its setting instead.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from trainer.report.groups import Group
from trainer.report.sweep import sweep_of

DPI = 170
WIDTH_IN = 10.6
DARK_GREY = "#333333"
_MOST_LEVELS = 12  # more ticks than this would run into each other
_LEAST_GAP = 1 / 18  # of an axis, between two ticks
_LINE_CHARACTERS = 125  # that fit across a figure
_HANDLE_CHARACTERS = 9  # what a line and its margins take in a legend
_LEGEND_LINE_IN = 0.22
_MOST_ALONG_X, _MOST_ALONG_Y = 300.0, 1000.0  # range of a log axis with room for the numbers at 2 and 5
_LIGHTEST = 0.84  # of the colours of a sweep: beyond it they pale on white

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


_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A8A8A")
_LINES: tuple[Any, ...] = (
    "solid",
    (0, (6, 2)),
    (0, (6, 2, 1.5, 2)),
    (0, (1.5, 1.5)),
    (0, (6, 1.5, 1.5, 1.5, 1.5, 1.5)),
    (0, (10, 3)),
    (0, (3, 3)),
    (0, (12, 2, 3, 2)),
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")


def styles_of(groups: Sequence[Group]) -> tuple[Style, ...]:
    """The style of each recipe of a comparison: by its place, or by its value in a sweep."""
    sweep = sweep_of(groups)
    if sweep is None:
        return tuple(style_at(number) for number in range(len(groups)))
    shades = matplotlib.colormaps["plasma"]
    step = _LIGHTEST / (len(groups) - 1)
    return tuple(
        Style(to_hex(shades(step * sweep.order.index(number))), "solid", _MARKERS[number % len(_MARKERS)])
        for number in range(len(groups))
    )


def style_at(number: int) -> Style:
    """The style of the recipe at this place of a comparison.

    Beyond the last colour they begin again, with another line and marker each.
    """
    turn, place = divmod(number, len(_COLOURS))
    other = (place + turn) % len(_COLOURS)
    return Style(_COLOURS[place], _LINES[other], _MARKERS[other])


def log_scale(axes: Axes, levels: Iterable[float] = ()) -> None:
    """A logarithmic y axis with plain numbers: at the levels, where there are few of them, else at round ones."""
    ticks = sorted({level for level in levels if level > 0})
    axes.set_yscale("log")
    if 0 < len(ticks) <= _MOST_LEVELS:
        axes.set_ylim(ticks[0] / 1.4, ticks[-1] * 1.4)
        _log_ticks(axes.yaxis, apart(ticks, is_log=True), _MOST_ALONG_Y)
    else:
        _log_ticks(axes.yaxis, (), _MOST_ALONG_Y)


def log_number_axis(axes: Axes, values: Sequence[float] = ()) -> None:
    """A logarithmic x axis with plain numbers: at the values, where they are given, else at round ones."""
    axes.set_xscale("log")
    _log_ticks(axes.xaxis, values, _MOST_ALONG_X)


def log_axis_above(axes: Axes, factor: float, label: str) -> None:
    """A second x axis above a logarithmic one, of the same values times a factor."""

    def forth(value: Any) -> Any:
        return value * factor

    def back(value: Any) -> Any:
        return value / factor

    above = axes.secondary_xaxis("top", functions=(forth, back))
    above.set_xlabel(label, labelpad=7)
    low, high = axes.get_xlim()
    above.set_xlim(low * factor, high * factor)
    _log_ticks(above.xaxis, (), _MOST_ALONG_X)


def number_axis(axes: Axes, most: int = 5) -> None:
    """An x axis with a handful of round numbers."""
    axes.xaxis.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(plain))


def plain(value: float, _position: int = 0) -> str:
    """A number on an axis: 0.05, 12, 1,620; never 10^3."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def words(axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **where: Any) -> None:
    """A short text at a point of the data, moved by an offset in points."""
    axes.annotate(text, at, offset, textcoords="offset points", **{"fontsize": 8.5, "color": DARK_GREY, **where})


def legend(figure: Figure, axes: Axes) -> None:
    """One legend for the whole figure, above it; the figure grows by what it takes."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        room = _LINE_CHARACTERS // (max(map(len, labels)) + _HANDLE_CHARACTERS)
        columns = min(len(labels), max(1, room))
        figure.set_figheight(figure.get_figheight() + _LEGEND_LINE_IN * -(-len(labels) // columns))
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=3.6)


def apart(ticks: Sequence[float], is_log: bool) -> list[float]:
    """The ticks, in rising order, without those too near the one before them for their numbers to fit."""
    position = math.log if is_log else float
    least = _LEAST_GAP * (position(ticks[-1]) - position(ticks[0]))
    kept = [ticks[0]]
    for tick in ticks[1:]:
        if position(tick) - position(kept[-1]) >= least:
            kept.append(tick)
    return kept


def in_lines(label: str) -> str:
    """A label beside an axis, in lines that leave room for the axis."""
    return textwrap.fill(label, 28)


def _log_ticks(axis: Axis, ticks: Sequence[float], most: float) -> None:
    """Numbers at the ticks, else at 1, 2 and 5; over a range beyond `most` at powers of ten, with strokes between."""
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(plain))
    low, high = axis.get_view_interval()
    if ticks:
        axis.set_major_locator(FixedLocator(ticks))
    elif high > most * low:
        axis.set_major_locator(LogLocator())
        axis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
    else:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
