"""How many workers a run has, epoch by epoch: a fleet may grow with the batch."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from trainer.rule.errors import PlanError


@dataclass(frozen=True, slots=True)
class FleetStep:
    """From `epoch` (from 0) on, the fleet has `workers` workers."""

    epoch: int
    workers: int

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise PlanError(f"{self.workers} workers from epoch {self.epoch} on: a fleet has at least one worker")


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers of every epoch: steps in ascending order of epochs, the first at epoch 0."""

    steps: tuple[FleetStep, ...]

    def __post_init__(self) -> None:
        epochs = [step.epoch for step in self.steps]
        if not epochs or epochs[0] != 0:
            raise PlanError(f"a fleet begins at epoch 0, and this one at {epochs[0] if epochs else 'no epoch'}: say so")
        if any(later <= earlier for earlier, later in itertools.pairwise(epochs)):
            raise PlanError(f"the epochs {epochs} of a fleet must ascend: order its steps")

    @staticmethod
    def of(workers: int) -> Fleet:
        """As many workers in every epoch."""
        return Fleet((FleetStep(0, workers),))

    def workers_at(self, epoch: int) -> int:
        """Workers in the epoch."""
        return next(step.workers for step in reversed(self.steps) if step.epoch <= epoch)

    @property
    def largest(self) -> int:
        """The most workers that it ever has."""
        return max(step.workers for step in self.steps)

    @property
    def is_constant(self) -> bool:
        """Whether the number of workers never changes."""
        return len({step.workers for step in self.steps}) == 1

    def __str__(self) -> str:
        first, *others = self.steps
        workers = f"{first.workers} worker" + ("" if first.workers == 1 else "s")
        return workers + "".join(f", {step.workers} from epoch {step.epoch}" for step in others)
