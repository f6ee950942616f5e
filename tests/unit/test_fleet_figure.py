"""The figure of time against worker-hours, read back from Matplotlib."""

from __future__ import annotations

from itertools import combinations

import matplotlib
import pytest
from matplotlib.figure import Figure

from trainer.report.figures.fleets import FleetCurve, fleet_figure
from trainer.report.figures.style import LOOK
from trainer.rule import Fleet, FleetStep
from trainer.rule.fleet_choices import FleetChoice

pytestmark = pytest.mark.unit


def choice(first: int, last: int, seconds: float, hours: float, is_measured: bool = True) -> FleetChoice:
    steps = (FleetStep(0, first),) if first == last else (FleetStep(0, first), FleetStep(30, last))
    return FleetChoice(Fleet(steps), seconds, hours, is_measured)


FIXED = FleetCurve(
    "grow", 0, False, (choice(8, 8, 6000, 10), choice(16, 16, 3600, 16), choice(32, 32, 1800, 30, is_measured=False))
)
GROWING = FleetCurve("grow", 0, True, (choice(8, 16, 4200, 11), choice(16, 32, 2400, 20, is_measured=False)))
OTHER = FleetCurve("decay", 1, False, (choice(8, 8, 6000, 10.01), choice(16, 16, 4000, 18)))


def drawn(*curves: FleetCurve, price: float | None = None) -> Figure:
    with matplotlib.rc_context(LOOK):
        figure = fleet_figure(curves, price)
        figure.draw_without_rendering()
    return figure


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_minutes_stand_over_worker_hours_on_log_scales_with_a_curve_each() -> None:
    figure = drawn(FIXED, GROWING, OTHER)
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("worker-hours, log scale", "time (minutes), log scale")
    fixed, growing, other = [line for line in axes.get_lines() if len(line.get_xdata()) > 1]
    assert list(fixed.get_xdata()) == [10, 16, 30]
    assert list(fixed.get_ydata()) == [100, 60, 30]
    assert (fixed.get_linestyle(), growing.get_linestyle()) == ("-", "--")
    assert fixed.get_color() == growing.get_color() != other.get_color()


def test_points_outside_of_the_measurement_are_hollow_and_the_legend_says_so() -> None:
    figure = drawn(FIXED, GROWING)
    hollow = [line for line in figure.axes[0].get_lines() if line.get_markerfacecolor() == "white"]
    assert [list(line.get_xdata()) for line in hollow] == [[30], [20], []]  # the last one is the legend's
    assert legend_of(figure) == ["grow", "grow, growing fleet", "hollow: outside of what was measured"]
    assert legend_of(drawn(OTHER)) == ["decay"]


def test_points_carry_their_workers_and_those_that_lie_together_carry_them_once() -> None:
    texts = [text.get_text() for text in drawn(FIXED, GROWING, OTHER).axes[0].texts]
    assert sorted(texts[1:]) == ["16", "16", "16\N{RIGHTWARDS ARROW}32", "32", "8", "8\N{RIGHTWARDS ARROW}16"]


def test_labels_cover_neither_each_other_nor_a_point() -> None:
    crowd = [
        FleetCurve(str(n), n, False, tuple(choice(2**k, 2**k, 600 / 2**k + n, 10 + k + 0.1 * n) for k in range(10)))
        for n in range(5)
    ]
    (axes,) = drawn(*crowd).axes
    boxes = [text.get_window_extent() for text in axes.texts]
    assert 1 < len(boxes) < 51
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    points = [axes.transData.transform(point) for line in axes.get_lines() for point in line.get_xydata()]
    assert not any(box.contains(x, y) for box in boxes for x, y in points)


def test_a_price_is_an_axis_of_costs_above() -> None:
    (above,) = drawn(FIXED, price=2.5).axes[0].child_axes
    assert above.get_xlabel() == "cost at 2.5 a worker-hour"
    low, high = above.get_xlim()
    below = drawn(FIXED, price=2.5).axes[0].get_xlim()
    assert (low, high) == pytest.approx((2.5 * below[0], 2.5 * below[1]))
    labels = [label.get_text() for label in above.get_xticklabels()]
    assert {"50"} <= set(labels)
    assert not any("$" in label for label in labels)
    assert drawn(FIXED).axes[0].child_axes == []


def test_nothing_is_cut_off() -> None:
    figure = drawn(FIXED, GROWING, OTHER, price=2.5)
    written = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert min(written.x0, written.y0) >= -0.01
    assert written.x1 <= width + 0.01
    assert written.y1 <= height + 0.01
