"""The figures of a comparison, and what each of them shows."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainer.report.curves import EPOCH, mean_curve
from trainer.report.groups import Group
from trainer.report.outcome import ELAPSED_S, NO_COST, TOP1, UPDATES, Outcome, Spread, change
from trainer.report.style import DARK_GREY, DPI, LOOK, WIDTH_IN, in_lines, legend, log_scale, number_axis, style_of
from trainer.report.units import accuracy, count, duration, percent_label, signed_percent, time_unit, unit_of


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure as a file, with the words that belong under it."""

    file_name: str
    caption: str
    png: bytes


def draw_figures(outcomes: Sequence[Outcome], target_top1: float | None) -> tuple[Picture, ...]:
    """All figures of a comparison, the one that says most first."""
    groups = [outcome.group for outcome in outcomes]
    band = " Lines are means over seeds, bands one standard deviation." if any(len(g.runs) > 1 for g in groups) else ""
    with matplotlib.rc_context(LOOK):
        return (
            _picture(
                "summary.png", "Where each schedule ended, and what it took.", summary_figure(outcomes, target_top1)
            ),
            _picture(
                "accuracy.png",
                f"Accuracy on the validation images, by epochs, by updates and by time.{band}",
                accuracy_figure(groups, target_top1),
            ),
            _picture("loss.png", f"Loss, by epochs, by updates and by time.{band}", loss_figure(groups)),
            _picture("schedule.png", "What the coordinator decided for each epoch.", schedule_figure(groups)),
        )


def summary_figure(outcomes: Sequence[Outcome], target_top1: float | None) -> Figure:
    """A row for each recipe: final accuracy, and bars for updates and time; their dark part is what the target took."""
    figure = Figure(figsize=(WIDTH_IN, 1.25 + 0.45 * len(outcomes)))
    top1, updates, time = figure.subplots(1, 3, sharey=True, gridspec_kw={"width_ratios": [1, 1.5, 1.5]})
    for row, outcome in enumerate(outcomes):
        if (final := outcome.final_top1) is not None:
            style = style_of(row)
            error = 100 * final.sd if final.n > 1 else None
            top1.errorbar(100 * final.mean, row, xerr=error, color=style.colour, marker=style.marker, capsize=3)
            _words(top1, accuracy(final), (100 * final.mean, row), (0, 7), ha="center")
    top1.set(title="final top-1", xlabel="accuracy (%)")
    top1.set_yticks(range(len(outcomes)), [in_lines(outcome.group.label) for outcome in outcomes])
    top1.set_ylim(len(outcomes) - 0.5, -0.7)
    top1.set_xlim(*_room_around([outcome.final_top1 for outcome in outcomes]))
    number_axis(top1)

    unit = unit_of(*(outcome.whole_run.time_s for outcome in outcomes))
    dark = "" if target_top1 is None else f" (dark: up to {percent_label(target_top1)})"
    updates.set(title=f"updates of the run{dark}", xlabel="updates")
    time.set(title=f"time of the run{dark}", xlabel=f"time since start-up ({unit.name})")
    to_target = [outcome.to_target or NO_COST for outcome in outcomes]
    _bars(updates, [o.whole_run.updates for o in outcomes], [cost.updates for cost in to_target], 1, count)
    _bars(
        time,
        [outcome.whole_run.time_s for outcome in outcomes],
        [cost.time_s for cost in to_target],
        unit.seconds,
        lambda time_s: duration(time_s, unit),
    )
    return figure


def accuracy_figure(groups: Sequence[Group], target_top1: float | None) -> Figure:
    """Validation top-1 in percent against epochs, updates and time, with a line at the target."""
    figure = Figure(figsize=(WIDTH_IN, 3.8))
    panels = figure.subplots(1, 3, sharey=True)
    _against_all(panels, groups, TOP1, 100.0)
    if target_top1 is not None:
        for axes in panels:
            axes.axhline(100 * target_top1, color=DARK_GREY, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
        label, at = f"target {percent_label(target_top1)}", (0.02, 100 * target_top1)
        _words(panels[0], label, at, (0, 3), xycoords=("axes fraction", "data"))  # curves come here last
    panels[0].set_ylim(*_informative_range(groups, target_top1))
    panels[0].set_ylabel("validation top-1 (%)")
    legend(figure, panels[0])
    return figure


def loss_figure(groups: Sequence[Group]) -> Figure:
    """Training and validation loss (log scale) against epochs, updates and time."""
    figure = Figure(figsize=(WIDTH_IN, 6.2))
    rows = figure.subplots(2, 3, sharey="row", sharex="col")
    for panels, metric, label in ((rows[0], "train/loss", "training loss"), (rows[1], "val/loss", "validation loss")):
        _against_all(panels, groups, metric, 1.0)
        panels[0].set_ylabel(label)
        if all(value > 0 for group in groups for run in group.runs for value in run.values(metric)):
            log_scale(panels[0])
    for axes in rows[0]:
        axes.set_xlabel("")
    legend(figure, rows[0][0])
    return figure


def schedule_figure(groups: Sequence[Group]) -> Figure:
    """Global batch and learning rate of each epoch, both on log scales."""
    figure = Figure(figsize=(WIDTH_IN, 3.4))
    batch, lr = figure.subplots(1, 2)
    for axes, metric, label in ((batch, "batch/global", "global batch (samples)"), (lr, "optim/lr", "learning rate")):
        levels: set[float] = set()
        for number, group in enumerate(groups):
            curve = mean_curve(group, metric)
            if not curve.x:
                continue
            style = style_of(number)
            # Schedules often go together for a while: the later ones are thinner, so that none hides another.
            axes.step(
                (curve.x[0] - 1, *curve.x),
                (curve.mean[0], *curve.mean),
                where="pre",
                color=style.colour,
                linestyle=style.line,
                linewidth=max(1.6, 4.2 - 1.2 * number),
                label=group.label,
            )
            levels |= {float(f"{value:.6g}") for value in curve.mean}
        axes.set(xlabel="epoch", ylabel=label)
        log_scale(axes, levels)
    legend(figure, batch)
    return figure


def _against_all(panels: Sequence[Axes], groups: Sequence[Group], metric: str, factor: float) -> None:
    """Draws a metric against epochs, updates and time, in three panels."""
    unit = time_unit(run.values(ELAPSED_S)[-1] for group in groups for run in group.runs)
    against = (
        (EPOCH, "epochs", 1.0),
        (UPDATES, "updates", 1.0),
        (ELAPSED_S, f"time since start-up ({unit.name})", unit.seconds),
    )
    for axes, (x_metric, label, per_unit) in zip(panels, against, strict=True):
        for number, group in enumerate(groups):
            curve, style = mean_curve(group, metric, x_metric, factor), style_of(number)
            x = [value / per_unit for value in curve.x]
            if curve.has_band:
                axes.fill_between(x, curve.low, curve.high, color=style.colour, alpha=0.15, linewidth=0)
            markers = max(1, len(x) // 8)
            axes.plot(
                x,
                curve.mean,
                color=style.colour,
                linestyle=style.line,
                linewidth=1.8,
                marker=style.marker,
                markersize=5,
                markevery=(number * markers // len(groups), markers),
                label=group.label,
            )
            if x:  # where a run ends is what is looked for
                axes.plot(
                    x[-1],
                    curve.mean[-1],
                    style.marker,
                    color=style.colour,
                    markersize=9,
                    markeredgecolor="white",
                    zorder=3,
                )
        axes.set_xlabel(label)
        axes.set_xlim(left=0)
        number_axis(axes)


def _bars(
    axes: Axes,
    whole: Sequence[Spread | None],
    to_target: Sequence[Spread | None],
    per_unit: float,
    text: Callable[[Spread | None], str],
) -> None:
    """A light bar for a whole run's cost, a dark one for the part up to the target, and the cost in words."""
    for row, (cost, part) in enumerate(zip(whole, to_target, strict=True)):
        if cost is None:
            continue
        colour = style_of(row).colour
        axes.barh(row, cost.mean / per_unit, height=0.5, color=colour, alpha=0.4)
        if part is not None:
            axes.barh(row, part.mean / per_unit, height=0.5, color=colour)
        saved = f"  ({signed_percent(change(cost, whole[0]))})" if row and whole[0] is not None else ""
        _words(axes, f"{text(cost)}{saved}", (cost.mean / per_unit, row), (4, 0), va="center")
    longest = max((cost.mean / per_unit for cost in whole if cost is not None), default=0)
    axes.set_xlim(0, 1.55 * longest or 1)
    number_axis(axes)
    axes.grid(visible=False)  # the numbers stand beside the bars


def _room_around(finals: Sequence[Spread | None]) -> tuple[float, float]:
    """Percents from the lowest accuracy to the highest, with their spreads and room for their numbers."""
    ends = [100 * (top1.mean + sign * (top1.sd if top1.n > 1 else 0)) for top1 in finals if top1 for sign in (-1, 1)]
    if not ends:
        return 0.0, 100.0
    margin = max(0.5, 0.4 * (max(ends) - min(ends)))
    return min(ends) - margin, max(ends) + margin


def _informative_range(groups: Sequence[Group], target_top1: float | None) -> tuple[float, float]:
    """Percents from where all are past their first steps, so that the differences at the end, and the target, show."""
    curves = [mean_curve(group, TOP1, factor=100.0).mean for group in groups]
    shown = [value for curve in curves for value in curve[len(curve) // 6 :]]
    if target_top1 is not None:
        shown.append(100 * target_top1)
    if not shown:
        return 0.0, 100.0
    margin = 0.1 * (max(shown) - min(shown)) + 0.5
    return max(0.0, min(shown) - margin), min(100.5, max(shown) + margin)


def _words(axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **where: Any) -> None:
    axes.annotate(text, at, offset, textcoords="offset points", fontsize=8.5, color=DARK_GREY, **where)


def _picture(file_name: str, caption: str, figure: Figure) -> Picture:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return Picture(file_name, caption, buffer.getvalue())
