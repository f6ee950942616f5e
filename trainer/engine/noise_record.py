"""What is told of the measured gradient noise after an epoch: its metrics, and once that the batch has passed it."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.engine.run_state import RunState
from trainer.rule import EpochDecision, Policy, Schedule, worth

_DEAF_EPOCHS = 3


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
            f"the batch of {self.global_batch:,} is above the gradient noise scale, measured as "
            f"{self.gradient_noise_scale:,.0f} ± {self.error:,.0f} samples: an update goes {self.worth:.0%} as far as "
            f"its samples would in small batches. {listens}schedule.limits.max_global_batch caps it"
        )


def noise_metrics(decision: EpochDecision, schedule: Schedule, state: RunState) -> dict[str, float]:
    """Of the state after an epoch; without the gradient noise where nothing was measured, or less than its error."""
    metrics: dict[str, float] = {}
    noise = state.noise.estimate()
    if noise is not None and noise.error < noise.scale:
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


def deafness(decision: EpochDecision, schedule: Schedule, state: RunState) -> str | None:
    """What a person is told where a policy that listens has heard nothing for some epochs; once in a run."""
    if schedule.policy == "planned" or decision.epoch != _DEAF_EPOCHS - 1 or state.noise.estimate() is not None:
        return None
    return (
        f"schedule.policy={schedule.policy} has heard nothing in {_DEAF_EPOCHS} epochs: too few updates are measured, "
        f"or none can be, since one is a single ghost batch or one micro-batch with plain batch norm: lower "
        f"gradient_probe.every, or model.ghost_batch"
    )
