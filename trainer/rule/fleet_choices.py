"""What a run takes on one fleet and on another: wall-clock against worker-hours, from a few workers to thousands.

At a fixed fleet a bigger batch saves what an update costs besides its samples. A fleet that grows with the batch keeps
each worker's share of an update as it was, so an update takes about as long as before, and there are fewer of them
(arXiv:1711.00489, section 5.4: half of a machine, then all of it).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from trainer.rule.errors import PlanError
from trainer.rule.fleet import Fleet, FleetStep
from trainer.rule.recipe import Schedule
from trainer.rule.run_plan import plan_run
from trainer.rule.step_time import StepTimes, predict_run

FEWEST_WORKERS, MOST_WORKERS = 8, 4096


@dataclass(frozen=True, slots=True)
class FleetChoice:
    """A run on a fleet, and what it takes. is_measured: no part of it lies outside of what was measured."""

    fleet: Fleet
    seconds: float
    worker_hours: float
    is_measured: bool


@dataclass(frozen=True, slots=True)
class FleetChoices:
    """A schedule on fleets of ascending size. left_out: those that it cannot be planned on, and why."""

    choices: tuple[FleetChoice, ...]
    left_out: tuple[tuple[Fleet, str], ...]


def fixed_fleets(schedule: Schedule, times: StepTimes, per_node: int) -> FleetChoices:
    """The schedule on 8, 16, ... 4,096 workers from its first epoch to its last."""
    choices, left_out = [], []
    for workers in _sizes():
        fleet = Fleet.of(workers)
        try:
            choices.append(_choice(schedule, fleet, times, per_node))
        except PlanError as error:
            left_out.append((fleet, str(error)))
    return FleetChoices(tuple(choices), tuple(left_out))


def growing_fleets(schedule: Schedule, times: StepTimes, per_node: int) -> FleetChoices:
    """The schedule on fleets that begin with 8, 16, ... workers and grow with the batch, up to 4,096.

    None where the batch stays as it is, and none for a first fleet that cannot share the batch: those are left out of
    fixed_fleets already.
    """
    choices, left_out = [], []
    for workers in _sizes():
        try:
            fleet = growing_fleet(schedule, workers)
        except PlanError:
            continue
        if fleet.is_constant:
            continue
        try:
            choices.append(_choice(schedule, fleet, times, per_node))
        except PlanError as error:
            left_out.append((fleet, str(error)))
    return FleetChoices(tuple(choices), tuple(left_out))


def growing_fleet(schedule: Schedule, workers: int, most: int = MOST_WORKERS) -> Fleet:
    """A fleet of `workers` that changes in proportion to the batch, rounded down, between 1 and `most` workers.

    Raises PlanError where the first fleet cannot share the batch.
    """
    steps: list[FleetStep] = []
    first, *others = plan_run(schedule, workers).phases
    for phase in (first, *others):
        wanted = min(most, max(1, workers * phase.global_batch // first.global_batch))
        if not steps or steps[-1].workers != wanted:
            steps.append(FleetStep(phase.first_epoch, wanted))
    return Fleet(tuple(steps))


def _sizes() -> Iterator[int]:
    workers = FEWEST_WORKERS
    while workers <= MOST_WORKERS:
        yield workers
        workers *= 2


def _choice(schedule: Schedule, fleet: Fleet, times: StepTimes, per_node: int) -> FleetChoice:
    time = predict_run(plan_run(schedule, fleet), times, per_node)
    return FleetChoice(fleet, time.seconds, time.worker_hours, is_measured=not time.notes)
