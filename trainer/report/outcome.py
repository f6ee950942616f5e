"""What a recipe reached and what it cost, as means and spreads over seeds; and what it saved against another."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trainer.report.groups import Group
from trainer.report.runs import RunRecord
from trainer.report.sweep import BATCH

TOP1 = "val/top1"
UPDATES = "updates"
ELAPSED_S = "elapsed_s"
_SAMPLES = "samples_seen"
_LEAST_APART = 0.01  # of the samples that were read


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean of n values and their standard deviation (of a sample: n - 1), nan for a single value."""

    mean: float
    sd: float
    n: int


def spread(values: Iterable[float]) -> Spread | None:
    """Mean and standard deviation of the finite values; None where there is none."""
    numbers = [value for value in values if math.isfinite(value)]
    if not numbers:
        return None
    sd = statistics.stdev(numbers) if len(numbers) > 1 else math.nan
    return Spread(statistics.fmean(numbers), sd, len(numbers))


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where a run first stood at or above the target. elapsed_s: seconds since its start-up was over."""

    epoch: int
    updates: float
    elapsed_s: float


def arrival(run: RunRecord, target_top1: float) -> Arrival | None:
    """The first epoch at or above the target, None if there is none yet."""
    columns = (run.epochs, run.values(TOP1), run.values(UPDATES), run.values(ELAPSED_S))
    for epoch, top1, updates, elapsed_s in zip(*columns, strict=True):
        if top1 >= target_top1:
            return Arrival(epoch, updates, elapsed_s)
    return None


@dataclass(frozen=True, slots=True)
class Cost:
    """What it took, over several runs: epochs, updates, seconds since start-up. None: never logged."""

    epochs: Spread | None
    updates: Spread | None
    time_s: Spread | None


NO_COST = Cost(None, None, None)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the runs of a group reached (fractions of 1) and what it cost.

    samples: how many were read, None where that was not logged. to_target: the cost up to the target, of the `reached`
    runs that met it; None where none did, or without a target.
    """

    group: Group
    final_top1: Spread | None
    best_top1: Spread | None
    samples: Spread | None
    whole_run: Cost
    reached: int
    to_target: Cost | None


def outcome_of(group: Group, target_top1: float | None) -> Outcome:
    """The outcome of a group's runs, held to the target if there is one."""
    ends = [_end(run) for run in group.runs]
    arrivals = [arrival(run, target_top1) for run in group.runs] if target_top1 is not None else []
    there = [at for at in arrivals if at is not None]
    return Outcome(
        group=group,
        final_top1=spread(run.values(TOP1)[-1] for run in group.runs),
        best_top1=spread(_best(run.values(TOP1)) for run in group.runs),
        samples=spread(run.values(_SAMPLES)[-1] for run in group.runs),
        whole_run=_cost(ends),
        reached=len(there),
        to_target=_cost(there) if there else None,
    )


def read_apart(outcomes: Sequence[Outcome]) -> bool:
    """Whether they read other numbers of samples, by more than the part of a batch that is left over at a run's end."""
    read = [outcome.samples.mean for outcome in outcomes if outcome.samples is not None]
    if not read:
        return False
    batches = [run.values(BATCH)[-1] for outcome in outcomes for run in outcome.group.runs]
    left_over = max((batch for batch in batches if math.isfinite(batch)), default=0.0)
    return max(read) - min(read) > max(left_over, _LEAST_APART * min(read))


@dataclass(frozen=True, slots=True)
class Change:
    """How a cost differs from the baseline's. fraction: -0.4 is 40 % less; speed_up: baseline / cost.

    is_clear: the difference is larger than the spreads of the two together; taken for granted of single runs.
    """

    fraction: float
    speed_up: float
    is_clear: bool


def change(cost: Spread | None, baseline: Spread | None) -> Change | None:
    """A cost held against the baseline's, None where either is not known or zero."""
    if cost is None or baseline is None or cost.mean <= 0 or baseline.mean <= 0:
        return None
    noise = math.hypot(*(sd for sd in (cost.sd, baseline.sd) if not math.isnan(sd)))
    return Change(
        fraction=cost.mean / baseline.mean - 1,
        speed_up=baseline.mean / cost.mean,
        is_clear=abs(cost.mean - baseline.mean) > noise,
    )


def _end(run: RunRecord) -> Arrival:
    return Arrival(run.epochs[-1], run.values(UPDATES)[-1], run.values(ELAPSED_S)[-1])


def _cost(points: Sequence[Arrival]) -> Cost:
    return Cost(
        epochs=spread(at.epoch for at in points),
        updates=spread(at.updates for at in points),
        time_s=spread(at.elapsed_s for at in points),
    )


def _best(values: Iterable[float]) -> float:
    return max((value for value in values if not math.isnan(value)), default=math.nan)
