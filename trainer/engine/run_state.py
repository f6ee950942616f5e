"""Where a job stands: all that is needed to go on, apart from tensors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter

from trainer.rule import Fleet, Schedule, decide, updates_in_epoch


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

    next_epoch: the first (from 0) that is not done yet; part: what is trained of it, None where nothing is. When all of
    it is, its evaluation is still to come. best_top1 and last_top1 are shares in [0, 1].
    """

    samples_seen: int = 0
    updates: int = 0
    next_epoch: int = 0
    best_top1: float = 0.0
    last_top1: float = 0.0
    target: TargetReached | None = None
    part: EpochPart | None = None


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
    for epoch in range(state.next_epoch, math.ceil(schedule.epochs)):
        decision = decide(schedule, epoch, fleet.workers_at(epoch))
        if updates_in_epoch(schedule, decision, state.samples_seen) > 0:
            return epoch
    return None
