"""Final accuracy along the one number in which the recipes differ, as the paper shows it along the first lr."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from matplotlib.transforms import ScaledTranslation

from trainer.report.figures.style import DARK_GREY, WIDTH_IN, apart, log_number_axis, number_axis, plain, styles_of
from trainer.report.outcome import TOP1, Outcome
from trainer.report.sweep import Sweep, needs_log

_NEAR, _FAR = 6.0, 20.0  # percentage points below the best


def sweep_figure(outcomes: Sequence[Outcome], sweep: Sweep) -> Figure:
    """Mean and standard deviation of the final top-1 in percent at each value, and a faint dot for each run.

    Where the batch follows the setting, an axis above says with how many samples each value began. Where one value fell
    far off, a second panel looks at those near the best.
    """
    finals = [100 * outcome.final_top1.mean for outcome in outcomes if outcome.final_top1 is not None]
    near = [final for final in finals if final > max(finals) - _NEAR]
    two = len(near) > 1 and min(finals) < max(finals) - _FAR
    figure = Figure(figsize=(WIDTH_IN, 4.4))
    panels = figure.subplots(1, 2 if two else 1, squeeze=False)[0]
    for axes in panels:
        _draw(axes, outcomes, sweep)
        _setting_axis(axes, sweep)
        axes.set_ylabel("final validation top-1 (%)")
    if two:
        panels[1].set_ylim(min(near) - 0.8, min(100.3, max(near) + 0.8))
        panels[1].set_ylabel("final validation top-1 (%), near the best")
    return figure


def _draw(axes: Axes, outcomes: Sequence[Outcome], sweep: Sweep) -> None:
    beside = ScaledTranslation(10 / 72, 0, axes.figure.dpi_scale_trans)  # the bar, which would cover the dots
    styles = styles_of([outcome.group for outcome in outcomes])
    means = []
    for number in sweep.order:
        outcome, value, colour = outcomes[number], sweep.values[number], styles[number].colour
        finals = [100 * run.values(TOP1)[-1] for run in outcome.group.runs]
        (dots,) = axes.plot([value] * len(finals), finals, "o", color=colour, transform=axes.transData + beside)
        dots.set(markersize=5.5, alpha=0.4, markeredgewidth=0)
        if (final := outcome.final_top1) is not None:
            means.append((value, 100 * final.mean))
            error = None if math.isnan(final.sd) else 100 * final.sd
            inside = colour if outcome.group.is_finished else "white"
            point: Any = {"color": colour, "marker": "o", "markersize": 8, "markerfacecolor": inside}
            axes.errorbar(value, 100 * final.mean, error, capsize=5, zorder=3, **point)
    if means:
        axes.plot(*zip(*means, strict=True), color=DARK_GREY, linewidth=1.2, alpha=0.6, zorder=1)


def _setting_axis(axes: Axes, sweep: Sweep) -> None:
    """The values as ticks, as far as there is room; the first batches above them, where they follow the setting."""
    is_log = needs_log(sweep.values)
    ticks = apart(sorted(sweep.values), is_log)
    axes.set_xlabel(sweep.key)
    if is_log:
        log_number_axis(axes, ticks)
    else:
        number_axis(axes)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
    if sweep.moves_the_batch:
        batches = dict(zip(sweep.values, sweep.first_batches, strict=True))
        above = axes.secondary_xaxis("top")
        above.set_xticks(ticks, [plain(batches[tick]) for tick in ticks])
        above.minorticks_off()
        above.set_xlabel("first global batch (samples)", labelpad=7)
