"""Curves over the seeds of a recipe: the mean at each epoch, with a band from the lowest seed to the highest.

The band is a range, not a standard deviation: it stays where accuracies and losses can be (below 100 %, above 0), on a
logarithmic axis too, and of three seeds it hides none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from trainer.report.groups import Group
from trainer.report.runs import EPOCHS_SEEN


@dataclass(frozen=True, slots=True)
class Curve:
    """Points in the order of epochs. low and high: of the seeds; the mean itself for a single run."""

    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def has_band(self) -> bool:
        return self.low != self.high


def is_logged(groups: Sequence[Group], metric: str) -> bool:
    """Whether any run has a value of it to draw."""
    return any(_finite(run.values(metric)) for group in groups for run in group.runs)


def mean_curve(group: Group, metric: str, against: str = EPOCHS_SEEN, factor: float = 1.0) -> Curve:
    """A metric (times factor) against the epochs seen, or against the mean over the seeds of another metric.

    It has the epochs that all runs of the group logged, without those where the metric or the x was logged by none.
    """
    x, mean, low, high = [], [], [], []
    for epoch in sorted(set.intersection(*(set(run.epochs) for run in group.runs))):
        at = [(run, run.epochs.index(epoch)) for run in group.runs]
        y = _finite(run.values(metric)[index] * factor for run, index in at)
        position = _finite(run.values(against)[index] for run, index in at)
        if y and position:
            x.append(fmean(position))
            mean.append(fmean(y))
            low.append(min(y))
            high.append(max(y))
    return Curve(tuple(x), tuple(mean), tuple(low), tuple(high))


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]
