"""How far the runs had got after so many epochs, after so many updates, and after so much time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from trainer.report.curves import is_logged, mean_curve
from trainer.report.figures.style import (
    DARK_GREY,
    WIDTH_IN,
    legend,
    log_number_axis,
    log_scale,
    number_axis,
    plain,
    styles_of,
    words,
)
from trainer.report.groups import Group
from trainer.report.outcome import ELAPSED_S, TOP1, UPDATES
from trainer.report.runs import EPOCHS_SEEN
from trainer.report.sweep import needs_log
from trainer.report.units import listed, percent_label, time_unit

TRAINING_LOSS = "train/loss"
LOSSES = (TRAINING_LOSS, "val/loss")
_MANY = 4  # groups whose bands would cover each other


@dataclass(frozen=True, slots=True)
class _Horizontal:
    """What a panel has on its x axis: a metric, divided by `unit` to be in what the label says."""

    metric: str
    label: str
    unit: float = 1.0


_EPOCHS = _Horizontal(EPOCHS_SEEN, "epochs")
_UPDATES = _Horizontal(UPDATES, "updates")


def accuracy_figure(groups: Sequence[Group], target_top1: float | None) -> Figure:
    """Validation top-1 in percent against epochs and against updates, with a line at the target."""
    figure = Figure(figsize=(WIDTH_IN, 4.4))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, against in zip(panels, (_EPOCHS, _UPDATES), strict=True):
        _curves(axes, groups, TOP1, against, 100.0)
    _accuracy_axis(panels[0], groups)
    _target(panels, target_top1)
    _cut_what_lies_below(panels[1])
    legend(figure, panels[0])
    return figure


def loss_figure(groups: Sequence[Group]) -> Figure:
    """Training and validation loss (log scale), those that were logged, against epochs and against updates."""
    losses = [metric for metric in LOSSES if is_logged(groups, metric)]
    figure = Figure(figsize=(WIDTH_IN, 0.4 + 3.3 * len(losses)))
    rows = figure.subplots(len(losses), 2, sharey="row", sharex="col", squeeze=False)
    for panels, metric in zip(rows, losses, strict=True):
        for axes, against in zip(panels, (_EPOCHS, _UPDATES), strict=True):
            _curves(axes, groups, metric, against)
            axes.label_outer()
        _loss_axis(panels[0], groups, metric)
    legend(figure, rows[0][0])
    return figure


def time_figure(groups: Sequence[Group], target_top1: float | None) -> Figure:
    """Validation top-1 in percent, and training loss if it was logged, against the wall clock."""
    unit = time_unit(run.values(ELAPSED_S)[-1] for group in groups for run in group.runs)
    elapsed = _Horizontal(ELAPSED_S, f"time since start-up ({unit.name})", unit.seconds)
    figure = Figure(figsize=(WIDTH_IN, 4.4))
    accuracy, *others = figure.subplots(1, 1 + is_logged(groups, TRAINING_LOSS), squeeze=False)[0]
    _curves(accuracy, groups, TOP1, elapsed, 100.0)
    _accuracy_axis(accuracy, groups)
    _target([accuracy], target_top1)
    _cut_what_lies_below(accuracy)
    for loss in others:
        _curves(loss, groups, TRAINING_LOSS, elapsed)
        _loss_axis(loss, groups, TRAINING_LOSS)
    legend(figure, accuracy)
    return figure


def _curves(axes: Axes, groups: Sequence[Group], metric: str, against: _Horizontal, factor: float = 1.0) -> None:
    """A line for each group, with the band of its seeds and a marker where it ends.

    The x axis is logarithmic where one group goes much further than another: both ends are looked for.
    """
    many = len(groups) > _MANY
    starts, ends = [], []
    for number, (group, style) in enumerate(zip(groups, styles_of(groups), strict=True)):
        curve = mean_curve(group, metric, against.metric, factor)
        x = [value / against.unit for value in curve.x]
        if curve.has_band:
            alpha = 0.10 if many else 0.17
            axes.fill_between(x, curve.low, curve.high, color=style.colour, alpha=alpha, linewidth=0)
        every = max(1, len(x) // 8)
        axes.plot(
            x,
            curve.mean,
            color=style.colour,
            linestyle=style.line,
            linewidth=1.2 if many else 1.5,
            marker=style.marker,
            markersize=4.5,
            markevery=(number * every // len(groups), every),
            label=group.label,
        )
        if x:
            (end,) = axes.plot(x[-1], curve.mean[-1], style.marker, color=style.colour, markersize=9, zorder=3)
            end.set(markeredgecolor="white")
            starts.append(x[0])
            ends.append(x[-1])
    axes.set_xlabel(against.label)
    if needs_log(ends) and min(starts) > 0:
        axes.set_xlabel(f"{against.label}, log scale")
        axes.set_xlim(min(starts), max(ends) * 1.15)
        log_number_axis(axes)
    else:
        axes.set_xlim(left=0)
        number_axis(axes)


def _accuracy_axis(axes: Axes, groups: Sequence[Group]) -> None:
    """Percents from where all are past their first steps, so that the differences at the end show.

    A recipe that ends at less than half the best is named below the curves, which it would press flat.
    """
    axes.set_ylabel("validation top-1 (%)")
    curves = {group.label: mean_curve(group, TOP1, factor=100.0).mean for group in groups}
    best = max((curve[-1] for curve in curves.values() if curve), default=0.0)
    far_below = [f"{label} ({curve[-1]:.1f} %)" for label, curve in curves.items() if curve and curve[-1] < best / 2]
    shown = [
        value for curve in curves.values() if curve and curve[-1] >= best / 2 for value in curve[len(curve) // 4 :]
    ]
    if far_below:
        text = f"ended below: {listed(far_below)}"
        behind = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1.5}
        words(axes, text, (0.98, 0.02), (0, 0), xycoords="axes fraction", ha="right", bbox=behind)
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(plain))
    if shown:
        margin = 0.06 * (max(shown) - min(shown)) + 0.3
        axes.set_ylim(max(0.0, min(shown) - margin), min(100.5, max(shown) + margin))


def _target(panels: Sequence[Axes], target_top1: float | None) -> None:
    """A line at the target; it may lie above all that was reached."""
    if target_top1 is None:
        return
    target = 100 * target_top1
    for axes in panels:
        axes.axhline(target, color=DARK_GREY, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(min(low, target - 0.5), max(high, target + 0.5))
    at = (0.02, target)  # curves come here last
    words(panels[0], f"target {percent_label(target_top1)}", at, (0, 3), xycoords=("axes fraction", "data"))


def _cut_what_lies_below(axes: Axes) -> None:
    """A logarithmic x axis begins where the first curve comes into view: there would be much of it with nothing on."""
    if axes.get_xscale() != "log":
        return
    low, _ = axes.get_ylim()
    curves = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    seen = [x for curve in curves for x, y in np.asarray(curve.get_xydata()) if y >= low]
    left = min(seen, default=axes.get_xlim()[0])
    axes.set_xlim(left=left / 1.1)
    log_number_axis(axes)


def _loss_axis(axes: Axes, groups: Sequence[Group], metric: str) -> None:
    """Cross-entropy is counted in nats; on a log scale, unless a loss came down to zero."""
    axes.set_ylabel("training loss (nats)" if metric == TRAINING_LOSS else "validation loss (nats)")
    if all(value > 0 for group in groups for run in group.runs for value in run.values(metric)):
        log_scale(axes)
