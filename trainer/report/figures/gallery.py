"""All figures of a comparison as files, in the order in which they tell the story, with the words under each."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure

from trainer.report.curves import is_logged
from trainer.report.figures.noise import SGD_NOISE, noise_figure
from trainer.report.figures.progress import LOSSES, accuracy_figure, loss_figure, time_figure
from trainer.report.figures.schedule import LR, schedule_figure
from trainer.report.figures.style import DPI, LOOK
from trainer.report.figures.summary import summary_figure
from trainer.report.figures.sweep import sweep_figure
from trainer.report.measured_noise import measured_epochs
from trainer.report.outcome import ELAPSED_S, TOP1, Outcome
from trainer.report.sweep import BATCH, sweep_of


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure as a file, with the words that belong under it; those that say the most come before all numbers."""

    file_name: str
    caption: str
    png: bytes
    says_the_most: bool


def draw_figures(outcomes: Sequence[Outcome], target_top1: float | None) -> tuple[Picture, ...]:
    """All figures of a comparison for which the runs logged the numbers, the one that says most first."""
    groups = [outcome.group for outcome in outcomes]
    sweep = sweep_of(groups)
    over_seeds = any(len(group.runs) > 1 for group in groups)
    band = " Lines are means over seeds, bands go from the lowest seed to the highest." if over_seeds else ""
    bars = " Bars are one standard deviation to either side." if over_seeds else ""
    pictures = []
    with matplotlib.rc_context(LOOK):
        if sweep is not None:
            hollow = "" if all(group.is_finished for group in groups) else " Hollow: did not finish."
            caption = f"Final accuracy along {sweep.key}: a dot for each run, a line through the means.{bars}{hollow}"
            pictures.append(_picture("accuracy-by-setting.png", caption, sweep_figure(outcomes, sweep), True))
        caption = f"Where each schedule ended, and what it took.{bars}"
        pictures.append(_picture("summary.png", caption, summary_figure(outcomes, target_top1), True))
        if is_logged(groups, LR) and is_logged(groups, BATCH):
            caption = "What the coordinator decided for each epoch. Lines that coincide are drawn side by side."
            pictures.append(_picture("schedule.png", caption, schedule_figure(groups)))
        if any(map(measured_epochs, groups)) and is_logged(groups, SGD_NOISE):
            own = "from the lowest seed to the highest" if over_seeds else "its standard error"
            caption = (
                "Above: the gradient noise scale that was measured, and the global batch. Where the batch is larger, "
                "an update goes less than half as far as its samples would in small batches. Gaps are epochs that not "
                f"every run measured, with an error below the scale; bands are {own}. "
                "Below: the noise scale of SGD that lr, batch and momentum set."
            )
            pictures.append(_picture("noise.png", caption, noise_figure(groups)))
        if is_logged(groups, TOP1):
            caption = f"Accuracy on the validation images, against epochs and against updates.{band}"
            pictures.append(_picture("accuracy.png", caption, accuracy_figure(groups, target_top1)))
        if any(is_logged(groups, metric) for metric in LOSSES):
            caption = f"Loss in training and on the validation images, against epochs and against updates.{band}"
            pictures.append(_picture("loss.png", caption, loss_figure(groups)))
        if is_logged(groups, TOP1) and is_logged(groups, ELAPSED_S):
            caption = f"Accuracy and training loss against the wall clock.{band}"
            pictures.append(_picture("time.png", caption, time_figure(groups, target_top1)))
    return tuple(pictures)


def _picture(file_name: str, caption: str, figure: Figure, says_the_most: bool = False) -> Picture:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return Picture(file_name, caption, buffer.getvalue(), says_the_most)
