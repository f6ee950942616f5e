"""A whole run laid out before it starts: the coordinator's decisions, grouped into phases and counted in samples.

The stream of samples never breaks. Epoch e is positions [e N, (e+1) N); an update takes the next B positions, also
across the border of two epochs, and follows the decision of the epoch in which it starts. A run ends when fewer than B
samples are left. Updates are a result, never what a schedule counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from trainer.rule.coordinator import EpochDecision, decide
from trainer.rule.errors import PlanError
from trainer.rule.fleet import Fleet
from trainer.rule.noise_scale import momentum_epochs, sgd_noise_scale
from trainer.rule.recipe import Policy, Schedule

_ROUNDING = 1e-6  # of an update


@dataclass(frozen=True, slots=True)
class Phase:
    """Consecutive epochs with one decision on one fleet. The fields are those of `trainer plan --json`.

    sgd_noise_scale: for a large dataset, or in the form square_root, which has no exact one (None).
    """

    first_epoch: int
    last_epoch: int
    global_batch: int
    micro_batch: int
    accumulation_steps: int
    world_size: int
    lr: float
    momentum: float
    sgd_noise_scale: float
    sgd_noise_scale_exact: float | None
    limited_by: str
    updates: int
    momentum_epochs: float


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The phases of a run on a fleet, and their totals. policy: whether the run may turn out otherwise by what it
    hears."""

    dataset_size: int
    epochs: float
    fleet: Fleet
    phases: tuple[Phase, ...]
    policy: Policy = "planned"

    @property
    def total_updates(self) -> int:
        return sum(phase.updates for phase in self.phases)

    @property
    def total_samples(self) -> int:
        return sum(phase.updates * phase.global_batch for phase in self.phases)


def updates_in_epoch(schedule: Schedule, decision: EpochDecision, position: int, progress: float | None = None) -> int:
    """Updates that start in the decision's epoch when the next one starts at `position` of the stream.

    progress: how far the run is along its schedule, in samples of it; None where that is the position. 0 if the epoch
    is behind already (an update may be longer than what was left of it), or if the run has ended before it, because
    less than one update was left.
    """
    batch = decision.plan.global_batch
    if position < decision.epoch * schedule.dataset_size:
        return 0
    epoch_end = (decision.epoch + 1) * schedule.dataset_size
    starts = max(0, -(-(epoch_end - position) // batch))
    if progress is None and decision.gain is None:
        return min(starts, (schedule.total_samples - position) // batch)
    # Progress is a sum of rounded gains: an update that fits but for their rounding is run, also after a resumption.
    left = schedule.total_samples - (position if progress is None else progress)
    return min(starts, math.floor(left / decision.advance(schedule) + _ROUNDING))


def walk(schedule: Schedule, fleet: Fleet) -> Iterator[tuple[EpochDecision, int, int]]:
    """(decision, position of its first update, number of updates) of every epoch in which an update starts.

    As it is planned, whatever it may hear.
    """
    schedule, position = replace(schedule, policy="planned"), 0
    for epoch in range(math.ceil(schedule.epochs)):
        decision = decide(schedule, epoch, fleet.workers_at(epoch))
        updates = updates_in_epoch(schedule, decision, position)
        if updates:
            yield decision, position, updates
        position += updates * decision.plan.global_batch


def plan_run(schedule: Schedule, fleet: Fleet | int) -> RunPlan:
    """The whole run on a fleet; a number is that of its workers throughout.

    A schedule that listens is planned as if it did not: at the same place of it no batch and no lr is larger than here.
    Raises PlanError if any epoch cannot be planned.
    """
    fleet = Fleet.of(fleet) if isinstance(fleet, int) else fleet
    phases: list[Phase] = []
    for decision, _, updates in walk(schedule, fleet):
        phase = _phase(schedule, decision, updates)
        last = phases[-1] if phases else None
        if last and replace(last, last_epoch=phase.last_epoch, first_epoch=phase.first_epoch, updates=updates) == phase:
            phases[-1] = replace(last, last_epoch=phase.last_epoch, updates=last.updates + updates)
        else:
            phases.append(phase)
    if not phases:
        raise PlanError(
            f"{schedule.epochs:g} epochs of {schedule.dataset_size} samples are less than one update: give more epochs"
        )
    return RunPlan(schedule.dataset_size, schedule.epochs, fleet, tuple(phases), schedule.policy)


def _phase(schedule: Schedule, decision: EpochDecision, updates: int) -> Phase:
    plan, size = decision.plan, schedule.dataset_size
    recipe = decision.lr, plan.global_batch, size, decision.momentum
    for_adam = schedule.form == "square_root"
    return Phase(
        first_epoch=decision.epoch,
        last_epoch=decision.epoch,
        global_batch=plan.global_batch,
        micro_batch=plan.micro_batch,
        accumulation_steps=plan.accumulation_steps,
        world_size=plan.world_size,
        lr=decision.lr,
        momentum=decision.momentum,
        sgd_noise_scale=sgd_noise_scale(*recipe, "square_root" if for_adam else "large_dataset"),
        sgd_noise_scale_exact=None if for_adam else sgd_noise_scale(*recipe, "exact"),
        limited_by=decision.limited_by,
        updates=updates,
        momentum_epochs=momentum_epochs(plan.global_batch, size, decision.momentum),
    )
