"""The loop, on one page: for each epoch decide, train, evaluate, record, save."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace

import torch
from torch import nn

from dali_pipelines.sample_order import Shard
from trainer.collective.agreement import broadcast_text, first_rank_that_differs, together
from trainer.collective.collective import Collective
from trainer.engine.checkpoint import save_checkpoint
from trainer.engine.clock import Clock
from trainer.engine.errors import TrainingError
from trainer.engine.evaluate import Evaluation, evaluate
from trainer.engine.guarded_input import GuardedInput
from trainer.engine.job import Job
from trainer.engine.optimizer import apply_decision
from trainer.engine.run_state import RunState, Standing, TargetReached, epoch_ahead
from trainer.engine.update import run_update, seed_update
from trainer.engine.weights import save_weights
from trainer.rule import EpochDecision, Fleet, Schedule, decide, updates_in_epoch, warmup_factor


def train(job: Job) -> tuple[RunState, Clock]:
    """Runs the schedule to its end, or to an epoch that is planned for another number of workers; returns where the job
    stands then and where the time went.

    Raises TrainingError where a loss or a gradient stops being finite, and WorkerError where an image cannot be decoded
    or the record cannot be written: on every rank, at the same place.
    """
    module = job.collective.wrap(job.model)
    fleet = job.fleet or Fleet.of(job.collective.world_size)
    state, clock = job.start.state, Clock(job.start.seconds, job.start.elapsed_s)
    while (epoch := epoch_ahead(job.schedule, fleet, state)) is not None:
        if fleet.workers_at(epoch) != job.collective.world_size:
            break
        decision = agree_on_decision(job.schedule, epoch, job.collective)
        together(job.collective, job.tracker.event, "decision", asdict(decision))
        before, seconds_before = state.samples_seen, clock.seconds["train"]
        with clock.measure("train"):
            state, train_loss = _train_epoch(job, module, decision, state, clock)
        speed = (state.samples_seen - before) / (clock.seconds["train"] - seconds_before)
        with clock.measure("evaluate"):
            share = job.collective.rank, job.collective.world_size, job.schedule.max_micro_batch
            images = GuardedInput(lambda share=share: job.pipeline.evaluation_batches(*share))
            evaluation = evaluate(job.model, images, job.collective, job.device, job.autocast_to)
        with clock.measure("record"):
            state = _note(job, state, evaluation, clock)
            lr = job.optimizer.param_groups[0]["lr"]  # that of the last update: warm-up included
            metrics = _metrics(decision, lr, train_loss, speed, evaluation, state, clock)
            together(job.collective, _record, job, epoch + 1, metrics)
        if not (math.isfinite(train_loss) and math.isfinite(evaluation.loss)):
            raise TrainingError(f"the loss is not finite after {_where(decision, state, lr)}")
        state = replace(state, next_epoch=epoch + 1)
        with clock.measure("record"):
            together(job.collective, _save, job, state, clock)
    return state, clock


def agree_on_decision(schedule: Schedule, epoch: int, collective: Collective) -> EpochDecision:
    """Rank 0 decides and tells the others; every rank checks the digest of what it received before it acts on it."""
    decided = decide(schedule, epoch, collective.world_size) if collective.rank == 0 else None
    heard = EpochDecision.from_json(broadcast_text(collective, decided.to_json() if decided else ""))
    differs = first_rank_that_differs(collective, heard.digest())
    if differs is not None:
        raise TrainingError(f"epoch {epoch}: rank {differs} heard another decision than rank 0 sent: check the network")
    return heard


def _train_epoch(
    job: Job, module: nn.Module, decision: EpochDecision, state: RunState, clock: Clock
) -> tuple[RunState, float]:
    """All updates that start in the decision's epoch; returns the new state and the mean loss over their samples."""
    schedule, collective, plan = job.schedule, job.collective, decision.plan
    updates = updates_in_epoch(schedule, decision, state.samples_seen)
    end = state.samples_seen + updates * plan.global_batch
    shard = Shard(collective.rank, plan.world_size, plan.micro_batch, plan.accumulation_steps, state.samples_seen, end)
    guarded = GuardedInput(lambda: job.pipeline.batches(shard))
    batches = clock.waiting(guarded.for_training(plan.micro_batch, job.pipeline.image_size, job.device))
    job.progress.epoch_started(decision, state.samples_seen, updates)
    loss_sum = torch.zeros((), dtype=torch.float64, device=job.device)
    for _ in range(updates):
        factor = warmup_factor(state.samples_seen / schedule.dataset_size, schedule.warmup)
        apply_decision(job.optimizer, decision, factor)
        seed_update(job.seed, state.samples_seen, collective.rank, job.device)
        try:
            loss = run_update(module, job.optimizer, collective, batches, plan, job.autocast_to)
        except TrainingError as error:
            together(collective, guarded.raise_failure)
            raise TrainingError(f"{error} in {_where(decision, state, decision.lr * factor)}") from None
        loss_sum += loss
        state = replace(state, samples_seen=state.samples_seen + plan.global_batch, updates=state.updates + 1)
        job.progress.update_done(plan.global_batch, loss, decision.lr * factor)
    return state, float(collective.all_reduce(loss_sum)) / updates


def _where(decision: EpochDecision, state: RunState, lr: float) -> str:
    return (
        f"epoch {decision.epoch}, update {state.updates}, at lr {lr:g} and batch {decision.plan.global_batch}: lower "
        f"schedule.reference.lr, or give schedule.warmup.epochs"
    )


def _note(job: Job, state: RunState, evaluation: Evaluation, clock: Clock) -> RunState:
    state = replace(state, last_top1=evaluation.top1, best_top1=max(state.best_top1, evaluation.top1))
    if state.target is None and job.target_top1 is not None and evaluation.top1 >= job.target_top1:
        epochs = state.samples_seen / job.schedule.dataset_size
        state = replace(state, target=TargetReached(clock.elapsed(), clock.seconds["train"], state.updates, epochs))
        fields = {"top1": evaluation.top1, "target_top1": job.target_top1, **asdict(state.target)}
        together(job.collective, job.tracker.event, "target", fields)
    return state


def _record(job: Job, epoch: int, metrics: Mapping[str, float]) -> None:
    job.tracker.log(epoch, metrics)
    job.progress.epoch_done(epoch, metrics)


def _save(job: Job, state: RunState, clock: Clock) -> None:
    if job.weights_path is not None:
        save_weights(job.model, job.weights_path)
    if job.checkpoints is not None:
        standing = Standing(state, dict(clock.seconds), clock.elapsed())
        save_checkpoint(job.checkpoints, standing, job.model, job.optimizer)


def _metrics(
    decision: EpochDecision,
    lr: float,
    train_loss: float,
    speed: float,
    evaluation: Evaluation,
    state: RunState,
    clock: Clock,
) -> dict[str, float]:
    plan = decision.plan
    return {
        "train/loss": train_loss,
        "val/loss": evaluation.loss,
        "val/top1": evaluation.top1,
        "val/top5": evaluation.top5,
        "optim/lr": lr,
        "optim/momentum": decision.momentum,
        "batch/global": plan.global_batch,
        "batch/micro": plan.micro_batch,
        "batch/accumulation_steps": plan.accumulation_steps,
        "noise/sgd": decision.sgd_noise_scale * lr / decision.lr,
        "speed/images_per_s": speed,
        **{f"time/{category}_s": seconds for category, seconds in clock.seconds.items()},
        "samples_seen": state.samples_seen,
        "updates": state.updates,
        "elapsed_s": clock.elapsed(),
    }
