"""What a schedule takes on fleets of many sizes: wall-clock against worker-hours, with a second curve where the fleet
grows with the batch. Down is sooner, left is cheaper."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from trainer.report.figures.style import (
    DARK_GREY,
    DPI,
    LOOK,
    WIDTH_IN,
    legend,
    log_axis_above,
    log_number_axis,
    log_scale,
    style_at,
    words,
)
from trainer.rule.fleet_choices import FleetChoice

_DASHES, _GROWING_MARKER, _MARKER_SIZE = (0, (5, 2.5)), "D", 5.5
# Where a label may stand, in points from its point: right of it, left, and the four corners.
_PLACES = (
    (6, 0, "left", "center"),
    (-6, 0, "right", "center"),
    (4, 4, "left", "bottom"),
    (-4, -4, "right", "top"),
    (-4, 4, "right", "bottom"),
    (4, -4, "left", "top"),
    (0, 7, "center", "bottom"),
    (0, -7, "center", "top"),
)
_NEAR_PIXELS = 9.0


@dataclass(frozen=True, slots=True)
class FleetCurve:
    """A schedule on fleets of ascending size. place: its number among the schedules, which gives it its colour."""

    label: str
    place: int
    grows: bool
    choices: tuple[FleetChoice, ...]


def write_fleet_figure(curves: Sequence[FleetCurve], price: float | None, file: str) -> None:
    """The figure as a PNG. Raises OSError."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(LOOK):
        fleet_figure(curves, price).savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    Path(file).write_bytes(buffer.getvalue())


def fleet_figure(curves: Sequence[FleetCurve], price: float | None) -> Figure:
    """Minutes against worker-hours, both on log scales; dashed where the fleet grows, hollow where times are guessed.

    Points carry their number of workers, as far as there is room. price: of a worker-hour, for an axis of costs above.
    """
    figure = Figure(figsize=(WIDTH_IN, 6.4))
    axes = figure.subplots()
    for curve in curves:
        _draw(axes, curve)
    if any(not choice.is_measured for curve in curves for choice in curve.choices):
        (hollow,) = axes.plot([], [], "o", color=DARK_GREY, label="hollow: outside of what was measured")
        hollow.set(markerfacecolor="white", markersize=_MARKER_SIZE)
    axes.margins(0.08)
    axes.set(xlabel="worker-hours, log scale", ylabel="time (minutes), log scale")
    log_number_axis(axes)
    log_scale(axes)
    if price:
        log_axis_above(axes, price, f"cost at {price:g} a worker-hour")
    numbers = "numbers: workers, at first \N{RIGHTWARDS ARROW} at last where the fleet grows"
    words(axes, numbers, (0.985, 0.975), (0, 0), xycoords="axes fraction", ha="right", va="top")
    legend(figure, axes)
    _label_points(figure, axes, curves)
    return figure


def _draw(axes: Axes, curve: FleetCurve) -> None:
    style = style_at(curve.place)
    x, y = _points(curve)
    label = f"{curve.label}, growing fleet" if curve.grows else curve.label
    marker, size = (_GROWING_MARKER, 0.8 * _MARKER_SIZE) if curve.grows else (style.marker, _MARKER_SIZE)
    (line,) = axes.plot(x, y, color=style.colour, marker=marker, markersize=size, linewidth=1.6, label=label)
    line.set_linestyle(_DASHES if curve.grows else "solid")
    hollow = [(a, b) for a, b, choice in zip(x, y, curve.choices, strict=True) if not choice.is_measured]
    if hollow:
        (over,) = axes.plot(*zip(*hollow, strict=True), marker, color=style.colour, markersize=size, zorder=3)
        over.set(markerfacecolor="white")


def _points(curve: FleetCurve) -> tuple[list[float], list[float]]:
    return [choice.worker_hours for choice in curve.choices], [choice.seconds / 60 for choice in curve.choices]


def _label_points(figure: Figure, axes: Axes, curves: Sequence[FleetCurve]) -> None:
    """The number of workers beside each point, where it covers no curve and no other label.

    Where points of several curves stand for the same number and lie together, one grey label is for all.
    """
    figure.draw_without_rendering()  # gives axes and texts their place
    figure.set_layout_engine("none")  # which they keep
    points = [
        _Point(_workers(choice), float(x), float(y), style_at(curve.place).colour)
        for curve in curves
        for choice, (x, y) in zip(curve.choices, _in_pixels(axes, curve), strict=True)
    ]
    taken = [text.get_window_extent() for text in axes.texts]
    taken += [box for curve in curves for box in _along(axes, curve)]
    done: list[_Point] = []
    for point in points:
        together = [other for other in points if other.text == point.text and point.is_near(other)]
        if any(other in done for other in together):
            continue
        done.append(point)
        colour = point.colour if len(together) == 1 else DARK_GREY
        for right, up, across, along in _PLACES:
            at = axes.transData.inverted().transform((point.x, point.y))
            words(axes, point.text, tuple(at), (right, up), ha=across, va=along, color=colour, fontsize=7.5)
            box = axes.texts[-1].get_window_extent()
            if axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1) and not box.count_overlaps(taken):
                taken.append(box)
                break
            axes.texts[-1].remove()


@dataclass(frozen=True, slots=True)
class _Point:
    """A point of a curve, in pixels, and its label."""

    text: str
    x: float
    y: float
    colour: str

    def is_near(self, other: _Point) -> bool:
        return math.hypot(self.x - other.x, self.y - other.y) < _NEAR_PIXELS


def _in_pixels(axes: Axes, curve: FleetCurve) -> Any:
    return axes.transData.transform(list(zip(*_points(curve), strict=True)))


def _along(axes: Axes, curve: FleetCurve) -> Iterator[Bbox]:
    """Small boxes along the curve, in pixels, larger ones at its points."""
    at = _in_pixels(axes, curve)
    for x, y in at:
        yield Bbox.from_bounds(x - 4, y - 4, 8, 8)
    for (x0, y0), (x1, y1) in itertools.pairwise(at):
        pieces = int(math.hypot(x1 - x0, y1 - y0) // 3)
        for piece in range(1, pieces):
            x, y = x0 + (x1 - x0) * piece / pieces, y0 + (y1 - y0) * piece / pieces
            yield Bbox.from_bounds(x - 1, y - 1, 2, 2)


def _workers(choice: FleetChoice) -> str:
    first, last = choice.fleet.steps[0].workers, choice.fleet.steps[-1].workers
    return f"{first:,}" if choice.fleet.is_constant else f"{first:,}\N{RIGHTWARDS ARROW}{last:,}"
