"""What the coordinator decided: batch, learning rate and, where it moved, momentum of each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter
from matplotlib.transforms import ScaledTranslation

from trainer.report.curves import Curve, mean_curve
from trainer.report.figures.style import WIDTH_IN, legend, log_scale, number_axis, plain, styles_of
from trainer.report.groups import Group
from trainer.report.sweep import BATCH

LR = "optim/lr"
MOMENTUM = "optim/momentum"
_APART_IN = 2.0 / 72  # between lines of the same value


def schedule_figure(groups: Sequence[Group]) -> Figure:
    """Learning rate and global batch of each epoch on log scales; momentum too, where it is not one for all."""
    panels = [(LR, "learning rate"), (BATCH, "global batch (samples)")]
    if len(levels_of([mean_curve(group, MOMENTUM) for group in groups])) > 1:
        panels.append((MOMENTUM, "momentum"))
    figure = Figure(figsize=(WIDTH_IN, 3.9))
    row = figure.subplots(1, len(panels), width_ratios=[1.0, 1.0, 0.55][: len(panels)])
    for axes, (metric, label) in zip(row, panels, strict=True):
        curves = [mean_curve(group, metric) for group in groups]
        staircases(axes, groups, curves)
        axes.set(xlabel="epoch", ylabel=label)
        number_axis(axes, 5 if metric != MOMENTUM else 3)
        levels = levels_of(curves)
        if metric != MOMENTUM:
            log_scale(axes, levels)
        elif len(levels) < 8:
            axes.yaxis.set_major_locator(FixedLocator(sorted(levels)))
            axes.yaxis.set_major_formatter(FuncFormatter(plain))
    legend(figure, row[0])
    return figure


def staircases(axes: Axes, groups: Sequence[Group], curves: Sequence[Curve], **look: Any) -> None:
    """A staircase for each group. Those that go together are moved apart by a line's width, so that none hides another:
    up, and to the side on which they do not cross where most of them climb or fall.

    look: of the lines, where it is not that of the groups, as Matplotlib takes it.
    """
    rising = sum(curve.mean[-1] - curve.mean[0] for curve in curves if curve.x) > 0
    tracks = _tracks(curves)
    for group, curve, style, track in zip(groups, curves, styles_of(groups), tracks, strict=True):
        if not curve.x:
            continue
        aside = (track - max(tracks) / 2) * _APART_IN
        moved = ScaledTranslation(-aside if rising else aside, aside, axes.figure.dpi_scale_trans)
        axes.step(
            (max(0.0, curve.x[0] - 1), *curve.x),
            (curve.mean[0], *curve.mean),
            where="pre",
            transform=axes.transData + moved,
            **{"color": style.colour, "linestyle": style.line, "linewidth": 1.6, "label": group.label, **look},
        )
        axes.update_datalim([(curve.x[0] - 1, curve.mean[0]), *zip(curve.x, curve.mean, strict=True)])
        axes.autoscale_view()


def _tracks(curves: Sequence[Curve]) -> list[int]:
    """A track for each curve, the lowest on which it meets none of those before it.

    Those of one epoch are together, although a larger batch may go a little beyond its end.
    """
    points = [{(round(x), f"{value:.6g}") for x, value in zip(curve.x, curve.mean, strict=True)} for curve in curves]
    tracks: list[int] = []
    for number, own in enumerate(points):
        taken = {tracks[other] for other in range(number) if own & points[other]}
        tracks.append(next(track for track in range(number + 1) if track not in taken))
    return tracks


def levels_of(curves: Sequence[Curve]) -> set[float]:
    """The values at which they stand, without what rounding adds."""
    return {float(f"{value:.6g}") for curve in curves for value in curve.mean}
