"""Where each recipe ended and what it took, at a glance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainer.report.figures.style import WIDTH_IN, in_lines, number_axis, styles_of, words
from trainer.report.outcome import NO_COST, Outcome, Spread, change
from trainer.report.units import accuracy, count, duration, percent_label, signed_percent, unit_of

# Shares of the width of a panel: the numbers stand beside the bars.
_GAP, _CHARACTER, _LEAST_BAR = 0.035, 0.0235, 0.2


def summary_figure(outcomes: Sequence[Outcome], target_top1: float | None) -> Figure:
    """A row for each recipe: final accuracy, and bars for updates and time; their dark part is what the target took."""
    figure = Figure(figsize=(WIDTH_IN, 1.25 + 0.45 * len(outcomes)))
    top1, updates, time = figure.subplots(1, 3, sharey=True, gridspec_kw={"width_ratios": [1, 1.4, 1.4]})
    styles = styles_of([outcome.group for outcome in outcomes])
    for row, (outcome, style) in enumerate(zip(outcomes, styles, strict=True)):
        if (final := outcome.final_top1) is not None:
            error = 100 * final.sd if final.n > 1 else None
            top1.errorbar(100 * final.mean, row, xerr=error, color=style.colour, marker=style.marker, capsize=3)
            words(top1, accuracy(final), (100 * final.mean, row), (0, 7), ha="center")
    top1.set(title="final top-1", xlabel="accuracy (%)")
    top1.set_yticks(range(len(outcomes)), [in_lines(outcome.group.label) for outcome in outcomes])
    top1.set_ylim(len(outcomes) - 0.5, -0.7)
    top1.set_xlim(*_room_around([outcome.final_top1 for outcome in outcomes]))
    number_axis(top1)

    unit = unit_of(*(outcome.whole_run.time_s for outcome in outcomes))
    dark = "" if target_top1 is None else f" (dark: up to {percent_label(target_top1)})"
    updates.set(title=f"updates{dark}", xlabel="updates")
    time.set(title=f"time{dark}", xlabel=f"time since start-up ({unit.name})")
    to_target = [outcome.to_target or NO_COST for outcome in outcomes]
    colours = [style.colour for style in styles]
    _bars(updates, colours, [o.whole_run.updates for o in outcomes], [cost.updates for cost in to_target], 1, count)
    _bars(
        time,
        colours,
        [outcome.whole_run.time_s for outcome in outcomes],
        [cost.time_s for cost in to_target],
        unit.seconds,
        lambda time_s: duration(time_s, unit),
    )
    return figure


def _bars(
    axes: Axes,
    colours: Sequence[str],
    whole: Sequence[Spread | None],
    to_target: Sequence[Spread | None],
    per_unit: float,
    text: Callable[[Spread | None], str],
) -> None:
    """A light bar for a whole run's cost, a dark one for the part up to the target, and the cost in words."""
    ends = []
    for row, (cost, part, colour) in enumerate(zip(whole, to_target, colours, strict=True)):
        if cost is None:
            continue
        axes.barh(row, cost.mean / per_unit, height=0.5, color=colour, alpha=0.4)
        if part is not None:
            axes.barh(row, part.mean / per_unit, height=0.5, color=colour)
        saved = f"  ({signed_percent(change(cost, whole[0]))})" if row and whole[0] is not None else ""
        beside = f"{text(cost)}{saved}"
        words(axes, beside, (cost.mean / per_unit, row), (4, 0), va="center")
        ends.append(cost.mean / per_unit / max(_LEAST_BAR, 1 - _GAP - _CHARACTER * len(beside)))
    axes.set_xlim(0, max(ends, default=0) or 1)
    number_axis(axes)
    axes.grid(visible=False)


def _room_around(finals: Sequence[Spread | None]) -> tuple[float, float]:
    """Percents from the lowest accuracy to the highest, with their spreads and room for their numbers."""
    ends = [100 * (top1.mean + sign * (top1.sd if top1.n > 1 else 0)) for top1 in finals if top1 for sign in (-1, 1)]
    if not ends:
        return 0.0, 100.0
    margin = max(0.5, 0.4 * (max(ends) - min(ends)))
    return min(ends) - margin, max(ends) + margin
