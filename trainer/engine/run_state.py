"""Where a job stands: all that is needed to go on, apart from tensors."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter

from trainer.rule import EpochDecision, Fleet, Heard, NoiseAverages, Schedule, decide, updates_in_epoch


@dataclass(frozen=True, slots=True)
class TargetReached:
    """The first evaluation at or above the target: seconds by both clocks, updates and epochs until then."""

    elapsed_s: float
    train_s: float
    updates: int
    epochs: float


@dataclass(frozen=True, slots=True)
class EpochPart:
    """What is trained of an epoch: updates, samples, the sum of the updates' mean losses over all workers, seconds."""

    updates: int = 0
    samples: int = 0
    loss_sum: float = 0.0
    train_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RunState:
    """samples_seen is the position of the next update in the stream; updates are reported, never used to schedule.

    progress: how far the run is along its schedule, in samples of it, under a policy that does not count those seen.
    heard: what the decision for next_epoch is made by; noise: what was measured until here; was_critical: whether a
    batch above it has been told of. next_epoch: the first (from 0) that is not done yet; part: what is trained of it,
    None where nothing is. When all of it is, its evaluation is still to come. best_top1 and last_top1 are shares in
    [0, 1].
    """

    samples_seen: int = 0
    updates: int = 0
    next_epoch: int = 0
    best_top1: float = 0.0
    last_top1: float = 0.0
    target: TargetReached | None = None
    part: EpochPart | None = None
    progress: float | None = None
    heard: Heard = field(default_factory=Heard)
    noise: NoiseAverages = field(default_factory=NoiseAverages)
    was_critical: bool = False

    def advanced(self, decision: EpochDecision, schedule: Schedule) -> RunState:
        """After another update by the decision."""
        samples_seen, progress = self.samples_seen + decision.plan.global_batch, None
        if decision.gain is not None:
            progress = (self.progress or 0.0) + decision.advance(schedule)
        return replace(self, samples_seen=samples_seen, updates=self.updates + 1, progress=progress)

    @property
    def on_schedule(self) -> float:
        """How far the run is along its schedule, in samples of it."""
        return self.samples_seen if self.progress is None else self.progress


@dataclass(frozen=True, slots=True)
class Standing:
    """A job's state, and what its clock showed: seconds by category, and in all."""

    state: RunState = RunState()
    seconds: Mapping[str, float] = field(default_factory=dict)
    elapsed_s: float = 0.0

    @staticmethod
    def from_fields(fields: Mapping[str, Any]) -> Standing:
        """The standing that dataclasses.asdict took apart. Raises ValueError for other fields, or other types."""
        # As JSON: strict means JSON's types then.
        standing = _STANDING.validate_json(json.dumps(fields), strict=True)
        if asdict(standing) != fields:
            raise ValueError("these are the fields of another version")
        return standing


_STANDING = TypeAdapter(Standing)


def epoch_ahead(schedule: Schedule, fleet: Fleet, state: RunState) -> int | None:
    """The epoch that is to be trained or evaluated next, on its fleet; None where the run is complete."""
    if state.part is not None:
        return state.next_epoch
    for epoch in itertools.count(state.next_epoch):
        if (epoch if state.progress is None else state.progress / schedule.dataset_size) >= schedule.epochs:
            break
        decision = decide(schedule, epoch, fleet.workers_at(epoch), state.heard)
        if updates_in_epoch(schedule, decision, state.samples_seen, state.progress) > 0:
            return epoch
        if state.samples_seen < (epoch + 1) * schedule.dataset_size:
            break  # less than an update is left
    return None
