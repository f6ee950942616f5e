"""Curves over the seeds of a recipe: the mean at each epoch, with a band of one standard deviation around it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainer.report.groups import Group
from trainer.report.outcome import spread

EPOCH = "epoch"


@dataclass(frozen=True, slots=True)
class Curve:
    """Points in the order of epochs. low and high: mean -/+ standard deviation; the mean itself for a single run."""

    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def has_band(self) -> bool:
        return self.low != self.high


def mean_curve(group: Group, metric: str, against: str = EPOCH, factor: float = 1.0) -> Curve:
    """A metric (times factor) against the epoch, or against the mean over the seeds of another metric.

    It has the epochs that all runs of the group logged, without those where the metric or the x was logged by none.
    """
    x, mean, low, high = [], [], [], []
    for epoch in sorted(set.intersection(*(set(run.epochs) for run in group.runs))):
        at = [(run, run.epochs.index(epoch)) for run in group.runs]
        y = spread(run.values(metric)[index] * factor for run, index in at)
        position = spread(float(epoch) if against == EPOCH else run.values(against)[index] for run, index in at)
        if y is None or position is None:
            continue
        sd = 0.0 if math.isnan(y.sd) else y.sd
        x.append(position.mean)
        mean.append(y.mean)
        low.append(y.mean - sd)
        high.append(y.mean + sd)
    return Curve(tuple(x), tuple(mean), tuple(low), tuple(high))
