"""The gradient noise scale that a recipe's runs measured, epoch by epoch, beside the batch that they trained with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from trainer.report.groups import Group
from trainer.report.outcome import Spread, spread
from trainer.report.runs import EPOCHS_SEEN
from trainer.report.sweep import BATCH
from trainer.rule import worth

GRADIENT_NOISE = "noise/gradient"
GRADIENT_NOISE_ERROR = "noise/gradient_error"
_ERRORS = 2  # that the batch must lie above the scale to have passed it


@dataclass(frozen=True, slots=True)
class MeasuredEpoch:
    """An epoch in which every run of a group measured the gradient noise scale with an error below it.

    epoch: its number as it was logged, from 1; epochs_seen: at its end, the mean over the runs. scales: of each run, in
    samples, above 0; error: the standard error of their mean. global_batch: in samples, the mean over the runs; nan
    where it was not logged.
    """

    epoch: int
    epochs_seen: float
    scales: tuple[float, ...]
    error: float
    global_batch: float

    @property
    def scale(self) -> float:
        return fmean(self.scales)

    @property
    def band(self) -> tuple[float, float]:
        """From the lowest run to the highest; of a single run one error to either side."""
        if len(self.scales) > 1:
            return min(self.scales), max(self.scales)
        return self.scale - self.error, self.scale + self.error

    @property
    def ratio(self) -> float:
        """The batch in units of the scale."""
        return self.global_batch / self.scale

    @property
    def is_passed(self) -> bool:
        """Whether the batch was above the scale by more than the error explains."""
        return self.global_batch > self.scale + _ERRORS * self.error

    @property
    def worth(self) -> float:
        """How far an update went, as a share of how far its samples would have gone in small batches."""
        return worth(self.global_batch, self.scale)


def measured_epochs(group: Group) -> tuple[MeasuredEpoch, ...]:
    """The epochs that all runs of the group measured, in order.

    A run whose gradient was lost in its noise logs no scale, or one below its error that may be far too large; one
    whose noise was lost in its error logs 0. None of these is a measurement, and the mean of the others alone would be
    too small or too large.
    """
    measured = []
    for epoch in sorted(set.intersection(*(set(run.epochs) for run in group.runs))):
        at = [(run, run.epochs.index(epoch)) for run in group.runs]
        scales, errors, batches, seen = (
            [run.values(metric)[index] for run, index in at]
            for metric in (GRADIENT_NOISE, GRADIENT_NOISE_ERROR, BATCH, EPOCHS_SEEN)
        )
        # Errors above it, nan and a scale of 0 are all no measurement.
        if all(error < scale < math.inf for scale, error in zip(scales, errors, strict=True)):
            measured.append(
                MeasuredEpoch(epoch, fmean(seen), tuple(scales), math.hypot(*errors) / len(errors), fmean(batches))
            )
    return tuple(measured)


def epochs_of(group: Group) -> int:
    """How many epochs the longest run of the group had, measured or not."""
    return max(run.epochs[-1] for run in group.runs)


def passed_from(measured: Sequence[MeasuredEpoch]) -> int | None:
    """The place of the first epoch in which the batch passed the scale, if from there on it did so in three of four."""
    passed = [epoch.is_passed for epoch in measured]
    return next((i for i, now in enumerate(passed) if now and 4 * sum(passed[i:]) >= 3 * (len(passed) - i)), None)


def average_scale(measured: Sequence[MeasuredEpoch]) -> Spread | None:
    """The mean over epochs in samples, with its spread over the runs; None where there are none."""
    return spread(map(fmean, zip(*(epoch.scales for epoch in measured), strict=True)))
