"""How long updates take: the loop's own, watched at the points where they ask for a micro-batch and end a forward."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from trainer.calibration.stopwatch import Stopwatch, piloted_rounds, slowest, spread
from trainer.calibration.subject import Subject
from trainer.collective.collective import Collective
from trainer.engine.optimizer import apply_decision
from trainer.engine.readings import Readings
from trainer.engine.update import run_update, seed_update
from trainer.rule import BatchPlan
from trainer.rule.step_time import ComputeTime

Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class MeasuredUpdate:
    """Seconds of a micro-batch whose gradients stay, and of a whole update of one micro-batch."""

    compute: ComputeTime
    update_s: float

    @property
    def rest_s(self) -> float:
        """What the update took beyond its micro-batch: the loop's overhead, and what is seen of the all-reduce."""
        return self.update_s - self.compute.forward_s - self.compute.backward_s


class UpdateMeasurement:
    """Updates of synthetic images, measured in turns with other things, since a machine may grow slower or faster.

    Updates of two micro-batches and of one alternate: the first of two is a micro-batch whose gradients stay, and like
    that of one it follows an optimizer step (on a CPU, later ones find their memory mapped and are faster).
    gradients: through whom they travel, with the module that it wrapped; Subject.alone for nobody. seconds: of a turn.
    """

    def __init__(
        self, subject: Subject, module: nn.Module, gradients: Collective, micro_batch: int, seconds: float
    ) -> None:
        self._subject, self._module, self._gradients, self._micro_batch = subject, module, gradients, micro_batch
        self._plans = [BatchPlan(micro_batch, steps, gradients.world_size) for steps in (2, 1)]
        self._laps: list[Tensor] = []  # (rounds, three micro-batches, 2) seconds: forward, and the rest
        self._rounds = piloted_rounds(subject.collective, subject.device, seconds, lambda: self._run(1))

    def take_turn(self) -> None:
        """Measures for a while; all ranks at the same time."""
        self._laps.append(self._run(self._rounds))

    def result(self) -> MeasuredUpdate:
        """Medians over all turns, of the slowest worker."""
        collective = self._subject.collective
        first_of_two, _, single = torch.cat(self._laps).unbind(dim=1)
        forward, compute = first_of_two[:, 0].tolist(), first_of_two.sum(dim=1).tolist()
        forward_s = slowest(collective, statistics.median(forward))
        compute_s = slowest(collective, statistics.median(compute))
        times = ComputeTime(
            self._micro_batch, forward_s, compute_s - forward_s, spread=slowest(collective, spread(compute))
        )
        return MeasuredUpdate(times, slowest(collective, statistics.median(single.sum(dim=1).tolist())))

    def _run(self, rounds: int) -> Tensor:
        watch = Stopwatch(self._subject.device)
        batches = synthetic_batches(self._subject, self._micro_batch)
        run_watched(self._subject, self._module, self._gradients, self._plans * rounds, batches, watch)
        return torch.tensor(watch.laps(), dtype=torch.float64).view(rounds, 3, 2)


def run_watched(
    subject: Subject,
    module: nn.Module,
    gradients: Collective,
    plans: Sequence[BatchPlan],
    batches: Batches,
    watch: Stopwatch,
) -> None:
    """Runs an update of each plan as the loop does, at lr 0, so that the network stays what it is.

    The watch is marked when a micro-batch is asked for, when its forward ends, and when the last update is done.
    """
    hook = module.register_forward_hook(lambda *_: watch.mark())
    asked = _marking(batches, watch)
    readings = Readings(subject.device)
    try:
        for number, plan in enumerate(plans):
            apply_decision(subject.optimizer, subject.decision, 0.0)
            seed_update(0, number, subject.collective.rank, subject.device)
            note = partial(readings.note, where=partial(str, f"update {number} of a measurement"))
            run_update(module, subject.optimizer, gradients, asked, plan, subject.autocast_to, note=note)
        watch.mark()
        readings.settle()
    finally:
        hook.remove()


def _marking(batches: Batches, watch: Stopwatch) -> Batches:
    while True:
        watch.mark()
        yield next(batches)


def synthetic_batches(subject: Subject, micro_batch: int) -> Batches:
    """The same random images and labels on the device, without end."""
    size = subject.pipeline.image_size
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(micro_batch, 3, size, size, generator=generator)
    images = images.to(subject.device, memory_format=subject.memory_format)
    labels = torch.randint(0, subject.classes, (micro_batch,), generator=generator).to(subject.device)
    while True:
        yield images, labels


def split_rest(
    updates: Sequence[MeasuredUpdate], alone_s: float, all_reduce_s: float, overlaps: bool
) -> tuple[float, float]:
    """(update_overhead_s, hidden_share), as trainer.rule.step_time.predict_update takes them.

    alone_s: the overhead of a worker from which no gradients travel. all_reduce_s: the gradients' all-reduce by itself;
    0 for a fleet of one. overlaps: whether the library sends while the last backward runs. Least squares of the errors
    relative to the measured updates. What gradients cost beyond their all-reduce (packing them, waiting for each other)
    counts as overhead.
    """
    could_hide = [min(all_reduce_s, update.compute.backward_s) for update in updates]
    hidden = [alone_s + all_reduce_s - update.rest_s for update in updates]
    weights = [1 / update.update_s**2 for update in updates]
    hidden_share = 0.0
    if all_reduce_s > 0 and overlaps:
        covariance = sum(w * c * h for w, c, h in zip(weights, could_hide, hidden, strict=True))
        variance = sum(w * c * c for w, c in zip(weights, could_hide, strict=True))
        hidden_share = min(max(covariance / variance, 0.0), 1.0)
    overheads = [u.rest_s - all_reduce_s + hidden_share * c for u, c in zip(updates, could_hide, strict=True)]
    return max(sum(w * o for w, o in zip(weights, overheads, strict=True)) / sum(weights), 0.0), hidden_share
