"""What images cost: the input pipeline by itself and beside the work, evaluation, and the two ends of an epoch."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from dali_pipelines.sample_order import Shard, evaluation_range
from trainer.calibration.stopwatch import (
    Stopwatch,
    agreed_rounds,
    median_round,
    slowest,
    steady_mean,
)
from trainer.calibration.subject import Subject
from trainer.calibration.updates import run_watched
from trainer.collective.agreement import together
from trainer.engine.errors import TrainingError
from trainer.engine.evaluate import evaluate
from trainer.engine.guarded_input import GuardedInput
from trainer.engine.run_state import Standing
from trainer.engine.saving import CheckpointWriter, SavingPlan
from trainer.engine.train import agree_on_decision
from trainer.rule import BatchPlan
from trainer.rule.all_reduce import fit_nonnegative
from trainer.rule.step_time import LARGEST_SHARING

_PILOT = 10  # micro-batches
_FILLED = 4  # what a pipeline has ready or in hand before anybody asks
_STARTS = 3


@dataclass(frozen=True, slots=True)
class MeasuredFeeding:
    """Seconds of a micro-batch read by itself, and of an update of one that is read."""

    micro_batch: int
    input_s: float
    fed_s: float


class FeedingMeasurement:
    """The training stream by itself, and updates of one micro-batch that are fed from it, measured in turns.

    All workers read. seconds: of a turn's half. Raises WorkerError on every rank where an image cannot be decoded.
    """

    def __init__(self, subject: Subject, module: nn.Module, micro_batch: int, seconds: float) -> None:
        self._subject, self._module, self._micro_batch = subject, module, micro_batch
        self._turns: list[tuple[float, float]] = []
        self._batches = agreed_rounds(subject.collective, self._input_s(_PILOT), seconds)
        self._updates = agreed_rounds(subject.collective, self._fed_s(_PILOT), seconds)

    def take_turn(self) -> None:
        """Measures for a while; all ranks at the same time."""
        self._turns.append((self._input_s(self._batches), self._fed_s(self._updates)))

    def result(self) -> MeasuredFeeding:
        """Medians over the turns; each is the mean of its batches on the slowest worker."""
        input_s, fed_s = (statistics.median(column) for column in zip(*self._turns, strict=True))
        return MeasuredFeeding(self._micro_batch, input_s, fed_s)

    def _input_s(self, batches: int) -> float:
        laps = _read(self._subject, self._micro_batch, _FILLED + batches)
        return slowest(self._subject.collective, steady_mean(laps[_FILLED:]))

    def _fed_s(self, updates: int) -> float:
        subject = self._subject
        plan = BatchPlan(self._micro_batch, 1, subject.collective.world_size)
        updates += _FILLED
        guarded = GuardedInput(lambda: _stream(subject, self._micro_batch, updates))
        batches = guarded.for_training(self._micro_batch, subject.pipeline.image_size, subject.device)
        watch = Stopwatch(subject.device)
        try:
            run_watched(subject, self._module, subject.collective, [plan] * updates, batches, watch)
        except TrainingError:
            together(subject.collective, guarded.raise_failure)
            raise
        laps = watch.laps()
        whole = [forward + rest for forward, rest in zip(laps[::2], laps[1::2], strict=True)]
        return slowest(subject.collective, steady_mean(whole[_FILLED:]))


def measure_start(subject: Subject, micro_batch: int) -> float:
    """Median seconds from asking for an epoch's stream to its first batch, all workers reading."""
    starts = [_read(subject, micro_batch, _FILLED, epoch)[0] for epoch in range(1, 1 + _STARTS)]
    return slowest(subject.collective, statistics.median(starts))


def _read(subject: Subject, micro_batch: int, batches: int, epoch: int = 0) -> list[float]:
    """Seconds from batch to batch of this worker's share of a stretch of the stream, all of it read."""

    def read() -> list[float]:
        watch = Stopwatch(subject.device)
        watch.mark()
        for _ in _stream(subject, micro_batch, batches, epoch):
            watch.mark()
        return watch.laps()

    return together(subject.collective, read)


def _stream(subject: Subject, micro_batch: int, batches: int, epoch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    world_size = subject.collective.world_size
    start = epoch * subject.schedule.dataset_size
    end = start + batches * micro_batch * world_size
    return subject.pipeline.batches(Shard(subject.collective.rank, world_size, micro_batch, 1, start, end))


def split_feeding(measured: Sequence[MeasuredFeeding], work_s: Sequence[float]) -> tuple[float, float, float]:
    """(seconds of a batch, images per second, sharing), as trainer.rule.step_time.predict_update takes them.

    work_s: what an update of each micro-batch takes without reading. A line through the input by itself gives the first
    two; two sizes at least. The sharing, to a hundredth, is what explains the fed updates best: relative least squares.
    """
    rows = [[1.0, float(m.micro_batch)] for m in measured]
    batch_s, image_s = fit_nonnegative(rows, [m.input_s for m in measured])
    if image_s == 0:  # the larger batches came no later than the smaller ones
        batch_s, image_s = 0.0, min(m.input_s / m.micro_batch for m in measured)

    def error(sharing: float) -> float:
        pairs = [(work, batch_s + m.micro_batch * image_s, m.fed_s) for m, work in zip(measured, work_s, strict=True)]
        return sum(((max(work, input_s) + sharing * min(work, input_s)) / fed - 1) ** 2 for work, input_s, fed in pairs)

    return batch_s, 1 / image_s, min((percent / 100 for percent in range(100 * LARGEST_SHARING + 1)), key=error)


@dataclass(frozen=True, slots=True)
class MeasuredEvaluation:
    """Seconds per image on one worker, and of an evaluation beyond its images."""

    per_image_s: float
    fixed_s: float


def measure_evaluation(subject: Subject, micro_batch: int, seconds: float) -> MeasuredEvaluation:
    """Evaluates one batch, and then as much of the worker's share as the seconds allow: a line through both."""
    few, few_s = _evaluation_s(subject, micro_batch, micro_batch, seconds / 4)
    batches = agreed_rounds(subject.collective, few_s, seconds / 4)
    many, many_s = _evaluation_s(subject, micro_batch, batches * micro_batch, seconds)
    if many < 2 * few:
        return MeasuredEvaluation(many_s / many, 0.0)
    fixed_s, per_image_s = fit_nonnegative([[1.0, float(few)], [1.0, float(many)]], [few_s, many_s])
    return MeasuredEvaluation(per_image_s, fixed_s)


def _evaluation_s(subject: Subject, micro_batch: int, at_most: int, seconds: float) -> tuple[int, float]:
    """Images of the worker that has most, and median seconds of such an evaluation."""
    # As a worker of a fleet so large that its share is no more: the stream ends by itself, as in a run.
    fleet = max(subject.collective.world_size, -(-subject.validation_size // at_most))

    def once() -> None:
        batches = GuardedInput(lambda: subject.pipeline.evaluation_batches(subject.collective.rank, fleet, micro_batch))
        evaluate(subject.model, batches, subject.collective, subject.device, subject.autocast_to)

    workers = range(subject.collective.world_size)
    shares = [evaluation_range(rank, fleet, subject.validation_size) for rank in workers]
    images = max(last - first for first, last in shares)
    return images, median_round(subject.collective, subject.device, seconds, once)


def measure_epoch_ends(subject: Subject, folder: Path, seconds: float) -> float:
    """Seconds to agree on an epoch's decision, and to save to a folder of rank 0's disk.

    As if the next epoch were over before the last one was written: an upper bound where epochs are longer than that.
    """
    writer = CheckpointWriter(folder / "checkpoints", folder / "weights.pt", {}, SavingPlan())

    def save() -> None:
        if subject.collective.rank == 0:
            writer.save(Standing(), subject.model, subject.optimizer, {})

    def once() -> None:
        agree_on_decision(subject.schedule, 0, subject.collective)
        together(subject.collective, save)

    try:
        return median_round(subject.collective, subject.device, seconds, once)
    finally:
        writer.close()
