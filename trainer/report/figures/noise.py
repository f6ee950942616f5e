"""Two noises on one chart: that of the gradient as it was measured, beside the batch, and that of SGD as it was set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainer.report.curves import mean_curve
from trainer.report.figures.schedule import levels_of, staircases
from trainer.report.figures.style import DARK_GREY, WIDTH_IN, legend, log_scale, number_axis, styles_of
from trainer.report.groups import Group
from trainer.report.measured_noise import MeasuredEpoch, measured_epochs
from trainer.report.sweep import BATCH

SGD_NOISE = "noise/sgd"
_BATCH_LOOK: Any = {"linestyle": (0, (2.5, 1.2)), "linewidth": 1.1, "alpha": 0.9}
_MARKERS = 8  # of a curve
_ROOM = 1.4  # factor between the values and the ends of the log axis
_MANY = 4  # groups whose bands would cover each other


def noise_figure(groups: Sequence[Group]) -> Figure:
    """The measured gradient noise scale with its band and the global batch, both in samples; below, the noise scale of
    SGD. Log scales against epochs.

    An epoch that not all runs of a group measured with an error below the scale is a gap in its line.
    """
    figure = Figure(figsize=(WIDTH_IN, 6.3))
    measured, as_set = figure.subplots(2, 1, sharex=True, height_ratios=[2.1, 1.0])
    _gradient_noise(measured, groups)
    curves = [mean_curve(group, SGD_NOISE) for group in groups]
    staircases(as_set, groups, curves)
    log_scale(as_set, levels_of(curves))
    as_set.set(xlabel="epochs", ylabel="SGD noise scale, as set")
    as_set.set_xlim(left=0)
    number_axis(measured, 8)
    legend(figure, measured)
    return figure


def _gradient_noise(axes: Axes, groups: Sequence[Group]) -> None:
    """A line with markers for each group's scale, a thin staircase for its batch."""
    measured = [measured_epochs(group) for group in groups]
    batches = [mean_curve(group, BATCH) for group in groups]
    staircases(axes, groups, batches, label=None, **_BATCH_LOOK)
    low, high = _limits(measured, [level for batch in batches for level in batch.mean])
    for group, epochs, style in zip(groups, measured, styles_of(groups), strict=True):
        look: Any = {"color": style.colour, "linestyle": style.line, "marker": style.marker, "markersize": 4.5}
        axes.plot([], [], label=group.label, **look)
        for stretch in _stretches(epochs):
            x = [epoch.epochs_seen for epoch in stretch]
            # A band may go far below all scales: one of a single run nearly to 0, without an end on a log axis.
            bands = [(max(low, epoch.band[0]), max(low, epoch.band[1])) for epoch in stretch]
            if len(stretch) == 1:
                axes.vlines(x, *bands[0], color=style.colour, alpha=0.4, linewidth=3)
            alpha = 0.17 if len(groups) <= _MANY else 0.10
            axes.fill_between(x, *zip(*bands, strict=True), color=style.colour, alpha=alpha, linewidth=0)
            every = max(1, len(epochs) // _MARKERS)
            axes.plot(x, [epoch.scale for epoch in stretch], markevery=every, **look)
    axes.plot([], [], color=DARK_GREY, label="thin: global batch", **_BATCH_LOOK)
    axes.set_ylabel("gradient noise scale, measured,\nand global batch (samples)")
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    log_scale(axes)  # chooses its ticks by what is in view


def _stretches(epochs: Sequence[MeasuredEpoch]) -> list[list[MeasuredEpoch]]:
    """Epochs that follow each other, together."""
    stretches: list[list[MeasuredEpoch]] = []
    for epoch in epochs:
        if not stretches or epoch.epoch != stretches[-1][-1].epoch + 1:
            stretches.append([])
        stretches[-1].append(epoch)
    return stretches


def _limits(measured: Sequence[Sequence[MeasuredEpoch]], batches: Sequence[float]) -> tuple[float, float]:
    """The log axis shows every batch and every scale, with what it can of the bands."""
    values = [*batches, *(epoch.scale for of_group in measured for epoch in of_group)]
    return min(values) / _ROOM, max(values) * _ROOM
