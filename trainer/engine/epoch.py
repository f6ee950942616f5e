"""The updates of an epoch: as many as are left of it, or as come until all workers agree to stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from dali_pipelines.sample_order import Shard
from trainer.collective.agreement import together
from trainer.engine.ballot import Agreed, Ballot
from trainer.engine.clock import Clock
from trainer.engine.errors import TrainingError
from trainer.engine.gradient_probe import Probing
from trainer.engine.guarded_input import GuardedInput
from trainer.engine.job import Job
from trainer.engine.optimizer import apply_decision
from trainer.engine.readings import Readings
from trainer.engine.run_state import EpochPart, RunState
from trainer.engine.update import run_update, seed_update
from trainer.rule import EpochDecision, updates_in_epoch, warmup_factor


def train_epoch(
    job: Job,
    module: nn.Module,
    decision: EpochDecision,
    state: RunState,
    clock: Clock,
    ballot: Ballot,
    save: Callable[[RunState], None],
    tell: Callable[[], None],
) -> tuple[RunState, bool]:
    """Runs the updates of the decision's epoch that the state has not behind it; save is called, on every rank, where a
    checkpoint is due in between, and tell where a worker has files to tell of.

    Returns the state, whose part says what is trained of the epoch, and whether all workers agreed to stop. Raises
    TrainingError where a loss or a gradient is not finite, WorkerError where more images cannot be decoded than are
    allowed.
    """
    collective, plan, before = job.collective, decision.plan, state.part or EpochPart()
    updates = updates_in_epoch(job.schedule, decision, state.samples_seen, state.progress)
    first_update, train_s = state.updates, clock.seconds["train"]
    # The sum over workers is what is kept, so that a run may go on with more of them or fewer.
    readings = Readings(job.device, before.loss_sum if collective.rank == 0 else 0.0)
    probing = Probing.of(job.model, job.probe, plan, job.schedule.dataset_size, collective.gradient_divisor)
    noise = state.noise

    def with_part() -> RunState:
        nonlocal noise
        with clock.measure("train"):
            readings.settle()
            noise = probing.add(noise, readings.take_squares(), collective)
        done = state.updates - first_update
        part = EpochPart(
            before.updates + done,
            before.samples + done * plan.global_batch,
            float(collective.all_reduce(torch.tensor(readings.loss_sum, dtype=torch.float64))),
            before.train_s + clock.seconds["train"] - train_s,
        )
        return replace(state, part=part, noise=noise)

    if updates == 0:
        return with_part(), False
    with clock.measure("train"):
        end = state.samples_seen + updates * plan.global_batch
        cut = plan.world_size, plan.micro_batch, plan.accumulation_steps
        shard = Shard(collective.rank, *cut, state.samples_seen, end)
        guarded = GuardedInput(lambda: job.pipeline.batches(shard))
        batches = guarded.for_training(plan.micro_batch, job.pipeline.image_size, job.device)
        batches = clock.waiting(job.whereabouts.reading(batches))
    job.progress.epoch_started(decision, state.on_schedule, decision.advance(job.schedule), updates)
    agreed = Agreed()
    try:
        while state.samples_seen < end and not agreed.stop:
            job.whereabouts.at(f"epoch {decision.epoch}, update {state.updates}")
            if agreed.save:
                save(with_part())
            with clock.measure("train"):
                factor = warmup_factor(state.on_schedule / job.schedule.dataset_size, job.schedule.warmup)
                apply_decision(job.optimizer, decision, factor)
                seed_update(job.seed, state.samples_seen, collective.rank, job.device)
                lr = decision.lr * factor
                probe = probing.probe(state.updates)
                note = partial(
                    readings.note,
                    where=partial(where, decision, state, lr, collective.largest_gradient),
                    caught=() if probe is None else probe.caught,
                )
                run_update(module, job.optimizer, collective, batches, plan, job.autocast_to, ballot.cast, note, probe)
                state = state.advanced(decision, job.schedule)
                agreed = ballot.count()
            if agreed.tell:
                tell()
            job.progress.update_done(plan.global_batch, readings.last_loss, lr)
        return with_part(), agreed.stop
    except TrainingError:
        together(collective, guarded.raise_failure)  # images that could not be decoded are shown as nan
        raise


def where(decision: EpochDecision, state: RunState, lr: float, largest_gradient: float = math.inf) -> str:
    """Where a run went astray, and what to try. largest_gradient: what the collective lets through."""
    wire = (
        ""
        if math.isinf(largest_gradient)
        else (f", or gradients.wire=float32 (float16 carries a worker's gradient of up to {largest_gradient:.3g} here)")
    )
    return (
        f"epoch {decision.epoch}, update {state.updates}, at lr {lr:g} and batch {decision.plan.global_batch}: lower "
        f"schedule.reference.lr, or give schedule.warmup.epochs{wire}"
    )
