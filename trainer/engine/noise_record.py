"""What is told of the measured gradient noise after an epoch: its metrics, and once that the batch has passed it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainer.engine.run_state import RunState
from trainer.rule import EpochDecision, Policy, Schedule, worth


@dataclass(frozen=True, slots=True)
class CriticalBatch:
    """The first batch that is larger than the gradient noise scale, beyond the error of that: the journal's event."""

    epoch: int
    global_batch: int
    gradient_noise_scale: float
    error: float
    worth: float

    def warning(self, policy: Policy) -> str:
        """What a person is told of it, in one line."""
        listens = "schedule.policy=measured lets the batch wait for the noise, and " if policy == "planned" else ""
        return (
            f"epoch {self.epoch}: the batch of {self.global_batch:,} is above the gradient noise scale, measured as "
            f"{self.gradient_noise_scale:,.0f} +- {self.error:,.0f} samples: an update goes {self.worth:.0%} as far as "
            f"its samples would in small batches. {listens}schedule.limits.max_global_batch caps it"
        )


def noise_metrics(decision: EpochDecision, schedule: Schedule, state: RunState) -> dict[str, float]:
    """Of the state after an epoch; without the gradient noise where nothing was measured, or where it is infinite."""
    metrics: dict[str, float] = {}
    noise = state.noise.estimate()
    if noise is not None and math.isfinite(noise.error):
        metrics |= {"noise/gradient": noise.scale, "noise/gradient_error": noise.error}
    if decision.gain is not None:
        metrics |= {"optim/gain": decision.gain, "progress/epochs": state.on_schedule / schedule.dataset_size}
    return metrics


def critical_batch(decision: EpochDecision, schedule: Schedule, state: RunState) -> CriticalBatch | None:
    """Where the schedule has raised the batch above what was measured, for the first time in the run; state: that after
    the epoch."""
    noise, batch = state.noise.estimate(), decision.plan.global_batch
    if state.was_critical or noise is None or batch <= schedule.reference.global_batch or not noise.is_below(batch):
        return None
    return CriticalBatch(decision.epoch, batch, noise.scale, noise.error, worth(batch, noise.scale))
