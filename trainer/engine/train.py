"""The loop, on one page: for each epoch decide, train, evaluate, record, save."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import asdict, replace

from torch import Tensor

from dali_pipelines.sample_order import largest_evaluation_share
from trainer.collective.agreement import broadcast_text, first_rank_that_differs, together
from trainer.collective.collective import Collective
from trainer.engine.ballot import Ballot, StopAgreed
from trainer.engine.clock import Clock
from trainer.engine.epoch import train_epoch, where
from trainer.engine.errors import TrainingError
from trainer.engine.evaluate import Evaluation, evaluate, mean_running_statistics
from trainer.engine.guarded_input import GuardedInput
from trainer.engine.job import Job
from trainer.engine.noise_record import critical_batch, deafness, noise_metrics
from trainer.engine.run_state import EpochPart, RunState, Standing, TargetReached, epoch_ahead
from trainer.engine.unreadable import SharedUnreadable
from trainer.rule import EpochDecision, Fleet, Heard, Schedule, decide
from trainer.rule.coordinator import NOTHING_HEARD


def train(job: Job) -> tuple[RunState, Clock]:
    """Runs the schedule to its end, to an epoch that is planned for another number of workers, or to where all workers
    agree to stop because one was asked to; returns where the job stands then, saved, and where the time went.

    Raises TrainingError where a loss or a gradient stops being finite, and WorkerError where more images cannot be
    decoded than are allowed or the record cannot be written: on every rank, at the same place.
    """
    with contextlib.ExitStack() as stack:
        if job.writer is not None:
            stack.callback(job.writer.close)  # whatever happens, what is being written becomes whole
        return _train(job)


def _train(job: Job) -> tuple[RunState, Clock]:
    module = job.collective.wrap(job.compiled(job.model), job.wire)
    fleet = job.fleet or Fleet.of(job.collective.world_size)
    state, clock = job.start.state, Clock(job.start.seconds, job.start.elapsed_s)
    shared = SharedUnreadable(job.collective, job.unreadable, job.tracker, job.warn)
    ballot = Ballot(
        job.collective,
        job.wants_stop,
        wants_save=lambda: job.writer is not None and job.writer.is_due(),
        wants_to_tell=shared.has_news,
        between_votes_s=job.between_votes_s,
    )
    saved: RunState | None = None

    def save(state: RunState) -> None:
        nonlocal saved
        # After an evaluation they are the same on all workers; in the middle of an epoch each has its own.
        job.whereabouts.mark("saving")
        averaged = {} if state.part is None else mean_running_statistics(job.model, job.collective)
        with clock.measure("record"):
            together(job.collective, _save, job, state, clock, averaged)
        saved = state

    stop = False
    while (epoch := epoch_ahead(job.schedule, fleet, state)) is not None:
        if fleet.workers_at(epoch) != job.collective.world_size or (stop := ballot.held().stop):
            break
        decision = agree_on_decision(job.schedule, epoch, job.collective, state.heard)
        together(job.collective, job.tracker.event, "decision", _with_inputs(decision, job.schedule, state.heard))
        state, stop = train_epoch(job, module, decision, state, clock, ballot, save, shared.tell)
        if stop:
            break
        job.whereabouts.at(f"the evaluation after epoch {epoch}")
        try:
            with clock.measure("evaluate"):
                evaluation = _evaluate(job, ballot)
                shared.tell()
        except StopAgreed:
            break
        state = _finish_epoch(job, decision, state, evaluation, clock)
        if (epoch + 1) % job.saving.every_epochs == 0:
            save(state)
    if saved != state:
        save(state)
    job.whereabouts.mark("saving")
    with clock.measure("record"):
        together(job.collective, lambda: None if job.writer is None else job.writer.finish())
    return state, clock


def agree_on_decision(
    schedule: Schedule, epoch: int, collective: Collective, heard: Heard = NOTHING_HEARD
) -> EpochDecision:
    """Rank 0 decides and tells the others; every rank checks the digest of what it received before it acts on it."""
    decided = decide(schedule, epoch, collective.world_size, heard) if collective.rank == 0 else None
    heard = EpochDecision.from_json(broadcast_text(collective, decided.to_json() if decided else ""))
    differs = first_rank_that_differs(collective, heard.digest())
    if differs is not None:
        raise TrainingError(f"epoch {epoch}: rank {differs} heard another decision than rank 0 sent: check the network")
    return heard


def _with_inputs(decision: EpochDecision, schedule: Schedule, heard: Heard) -> dict[str, object]:
    """The decision, and beside the run's configuration all that it was made from, so that it can be made again."""
    inputs = {"dataset_size": schedule.dataset_size, "max_micro_batch": schedule.max_micro_batch}
    return {**asdict(decision), "heard": asdict(heard), **inputs}


def _evaluate(job: Job, ballot: Ballot) -> Evaluation:
    micro_batch, world_size = job.schedule.max_micro_batch, job.collective.world_size
    images = GuardedInput(lambda: job.pipeline.evaluation_batches(job.collective.rank, world_size, micro_batch))
    rounds = -(-largest_evaluation_share(world_size, job.pipeline.validation_size) // micro_batch)
    return evaluate(
        job.model,
        images,
        job.collective,
        job.device,
        job.autocast_to,
        lambda batches: ballot.paced(job.whereabouts.reading(batches), rounds),
    )


def _finish_epoch(job: Job, decision: EpochDecision, state: RunState, evaluation: Evaluation, clock: Clock) -> RunState:
    """Notes what came of an epoch, and returns the state after it."""
    part = state.part
    assert part is not None, "an epoch has been trained before it is finished"
    train_loss, lr = part.loss_sum / part.updates, job.optimizer.param_groups[0]["lr"]  # lr of the last update
    job.whereabouts.mark("recording")
    with clock.measure("record"):
        state = _note(job, state, evaluation, clock)
        metrics = _metrics(decision, lr, part, evaluation, state, clock)
        metrics |= noise_metrics(decision, job.schedule, state)
        together(job.collective, _record, job, decision.epoch + 1, metrics)
        critical = critical_batch(decision, job.schedule, state)
        if critical is not None:
            together(job.collective, job.tracker.event, "critical_batch", asdict(critical))
            job.warn(critical.warning(job.schedule.policy))
            state = replace(state, was_critical=True)
        deaf = deafness(decision, job.schedule, state)
        if deaf is not None:
            job.warn(deaf)
    if not (math.isfinite(train_loss) and math.isfinite(evaluation.loss)):
        raise TrainingError(f"the loss is not finite after {where(decision, state, lr)}")
    heard = Heard(state.noise.estimate(), decision.plan.global_batch, state.progress)
    return replace(state, part=None, next_epoch=decision.epoch + 1, heard=heard)


def _save(job: Job, state: RunState, clock: Clock, averaged: Mapping[str, Tensor]) -> None:
    if job.writer is not None:
        standing = Standing(state, dict(clock.seconds), clock.elapsed())
        job.writer.save(standing, job.model, job.optimizer, averaged)


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


def _metrics(
    decision: EpochDecision,
    lr: float,
    part: EpochPart,
    evaluation: Evaluation,
    state: RunState,
    clock: Clock,
) -> dict[str, float]:
    plan = decision.plan
    return {
        "train/loss": part.loss_sum / part.updates,
        "val/loss": evaluation.loss,
        "val/top1": evaluation.top1,
        "val/top5": evaluation.top5,
        "optim/lr": lr,
        "optim/momentum": decision.momentum,
        "batch/global": plan.global_batch,
        "batch/micro": plan.micro_batch,
        "batch/accumulation_steps": plan.accumulation_steps,
        "noise/sgd": decision.sgd_noise_scale * lr / decision.lr,
        "speed/images_per_s": part.samples / part.train_s,
        **{f"time/{category}_s": seconds for category, seconds in clock.seconds.items()},
        "samples_seen": state.samples_seen,
        "updates": state.updates,
        "elapsed_s": clock.elapsed(),
    }
