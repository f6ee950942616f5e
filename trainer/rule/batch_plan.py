"""How a global batch is cut up: micro-batch x accumulation steps x workers."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.rule.errors import PlanError


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """One update: each of `world_size` workers runs `accumulation_steps` micro-batches of `micro_batch` samples."""

    micro_batch: int
    accumulation_steps: int
    world_size: int

    @property
    def global_batch(self) -> int:
        """Samples per update over all workers."""
        return self.micro_batch * self.accumulation_steps * self.world_size


def fit_batch(at_most: int, world_size: int, max_micro_batch: int, ghost_batch: int | None = None) -> BatchPlan:
    """The cut of the largest global batch of at most `at_most` samples that `world_size` workers can share.

    The accumulation count is the smallest that fits max_micro_batch (samples per worker), or one near it (up to twice
    as many) that loses fewer samples to rounding; among equals, one whose micro-batch is a multiple of ghost_batch.
    Raises PlanError if there are more workers than samples.
    """
    assert world_size >= 1, "a fleet has a worker"
    assert max_micro_batch >= 1, "a worker takes a sample"
    if world_size > at_most:
        raise PlanError(
            f"{world_size} workers cannot share a global batch of {at_most} samples: run at most {at_most} workers, "
            f"or raise what limits the batch"
        )
    # Rounded down: rounding up could push lr above its limit, because lr is recomputed from the rounded batch.
    per_worker = at_most // world_size
    fewest = -(-per_worker // max_micro_batch)

    def cost(accumulation_steps: int) -> tuple[int, bool, int]:
        micro_batch = per_worker // accumulation_steps
        cuts_ghosts = ghost_batch is not None and micro_batch % ghost_batch != 0
        return per_worker - micro_batch * accumulation_steps, cuts_ghosts, accumulation_steps

    best = min(range(fewest, min(2 * fewest, per_worker) + 1), key=cost)
    return BatchPlan(per_worker // best, best, world_size)
