"""Where a job stands: all that is needed to go on, apart from tensors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TargetReached:
    """The first evaluation at or above the target: seconds by both clocks, updates and epochs until then."""

    elapsed_s: float
    train_s: float
    updates: int
    epochs: float


@dataclass(frozen=True, slots=True)
class RunState:
    """samples_seen is the position of the next update in the stream; updates are reported, never used to schedule.

    best_top1 and last_top1 are shares in [0, 1].
    """

    samples_seen: int = 0
    updates: int = 0
    best_top1: float = 0.0
    last_top1: float = 0.0
    target: TargetReached | None = None
