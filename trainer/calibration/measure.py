"""A calibration from end to end: what a worker and its fleet take, part by part."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from trainer.calibration.all_reduce import measure_all_reduce
from trainer.calibration.stream import (
    FeedingMeasurement,
    measure_epoch_ends,
    measure_evaluation,
    measure_start,
    split_feeding,
)
from trainer.calibration.subject import Subject
from trainer.calibration.updates import UpdateMeasurement, split_rest
from trainer.rule import BatchPlan
from trainer.rule.all_reduce import Algorithm, all_reduce_seconds, fit_fabric
from trainer.rule.step_time import StepTimes, predict_update

_TURNS = 3


def gradient_bytes(subject: Subject) -> int:
    """What every update adds up over the fleet."""
    wire = subject.wire
    trained = [parameter for parameter in subject.model.parameters() if parameter.requires_grad]
    return sum(p.numel() * (p.element_size() if wire is None else wire.itemsize) for p in trained)


def measure(
    subject: Subject,
    micro_batches: Sequence[int],
    fed_micro_batches: Sequence[int],
    algorithm: Algorithm,
    folder: Path,
    seconds: float,
    say: Callable[[str], None],
) -> StepTimes:
    """Everything that trainer.rule.step_time predicts from; all ranks call it at the same time.

    micro_batches: ascending, two at least; fed_micro_batches: likewise, those that are read from the input pipeline.
    algorithm: the library's. folder: of rank 0's disk, where weights are saved on trial. seconds: for each measurement.
    say: told what is being measured. Raises WorkerError where an image cannot be decoded, TrainingError where the
    network's loss is not finite.
    """
    collective, nodes = subject.collective, subject.nodes
    nbytes = gradient_bytes(subject)
    alone_s = 0.0
    if collective.world_size > 1:
        say(f"updates of workers on their own: micro-batch {micro_batches[0]}")
        alone = UpdateMeasurement(subject, subject.compiled(subject.model), subject.alone, micro_batches[0], seconds)
        alone.take_turn()
        alone_s = alone.result().rest_s
    all_reduce = measure_all_reduce(collective, nodes, subject.device, subject.wire, nbytes, seconds, say)
    module = collective.wrap(subject.compiled(subject.model), subject.wire)
    turn_s = seconds / _TURNS
    say(f"updates, not yet counted: micro-batches {_listed(micro_batches)}")
    synthetic = [UpdateMeasurement(subject, module, collective, size, turn_s) for size in micro_batches]
    say(f"input, not yet counted: micro-batches {_listed(fed_micro_batches)}")
    fed = [FeedingMeasurement(subject, module, size, turn_s) for size in fed_micro_batches]
    measurements: list[UpdateMeasurement | FeedingMeasurement] = [*synthetic, *fed]
    for turn in range(1, _TURNS + 1):
        say(f"both in turns: {turn} of {_TURNS}")
        for measurement in measurements:
            measurement.take_turn()
    updates = [measurement.result() for measurement in synthetic]
    feeding = [measurement.result() for measurement in fed]
    fabric = fit_fabric(all_reduce, algorithm)
    gradients_s = all_reduce_seconds(nbytes, collective.world_size, nodes, fabric)
    update_overhead_s, hidden_share = split_rest(updates, alone_s, gradients_s, collective.overlaps_backward)
    say("evaluation")
    evaluation = measure_evaluation(subject, subject.schedule.max_micro_batch, seconds)
    say("the ends of an epoch")
    start_s = max(0.0, measure_start(subject, fed_micro_batches[-1]) - feeding[-1].input_s)
    ends_s = measure_epoch_ends(subject, folder, seconds / 2)
    unfed = StepTimes(
        compute=tuple(update.compute for update in updates),
        update_overhead_s=update_overhead_s,
        gradient_bytes=nbytes,
        fabric=fabric,
        all_reduce=all_reduce,
        hidden_share=hidden_share,
        input_s_per_batch=0.0,
        input_images_per_s=math.inf,
        input_sharing=0.0,
        evaluation_s_per_image=evaluation.per_image_s,
        validation_size=subject.validation_size,
        epoch_s=start_s + evaluation.fixed_s + ends_s,
        workers=collective.world_size,
        nodes=nodes,
    )
    work_s = [predict_update(BatchPlan(size, 1, unfed.workers), unfed, nodes).seconds for size in fed_micro_batches]
    input_s_per_batch, images_per_s, input_sharing = split_feeding(feeding, work_s)
    return replace(
        unfed,
        input_s_per_batch=input_s_per_batch,
        input_images_per_s=images_per_s,
        input_sharing=input_sharing,
    )


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes))
