"""Measures the gradient noise scale, every so many updates, from what an update computes anyway.

Two sizes of batch in one update tell it (see trainer.rule.gradient_noise): all of it, whose gradient is there when the
workers have added theirs up; and the micro-batches of each worker, whose gradients go by in the backward before they
are added to anything. That is so whatever connects the workers, and only norms are kept. Every micro-batch counts: then
|G|^2 comes from products of different ones alone, and how much their own norms vary is no error of it.

Where an update is one micro-batch of one worker, the probed update cuts it in two. Batch norm is what sees a cut: what
is normalised together is one draw, so a cut lies at a border of ghost batches, and where there is none nothing is
measured. The scale is that of the network as it is trained, with batch norm over groups of this size.

Norms are read with the losses (readings.py), so nobody waits for them; and the workers' are added up where the loss is,
at the end of an epoch or where a run is saved.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from trainer.collective.collective import Collective
from trainer.models.ghost_batch_norm import middle_border
from trainer.rule import BatchPlan, NoiseAverages, measure

# A measurement fades over that many of its kind at least, however few an epoch has: an average of two tells nothing.
_FEWEST_REMEMBERED = 10


@dataclass(frozen=True, slots=True)
class ProbePlan:
    """every: of how many updates one is probed, None: none; where updates are of several micro-batches, of how many
    micro-batches of a worker, so that an epoch of few large updates is measured too. memory_epochs: over how many
    epochs of samples a measurement fades by a factor e, or over ten measurements where those are more samples."""

    every: int | None = None
    memory_epochs: float = 1.0


@dataclass(slots=True)
class Probe:
    """Of one update: catches the norm of the gradient over each of this worker's `parts` micro-batches.

    cut: where the only micro-batch is cut in two; None where there are several. samples_to_mean: makes a gradient over
    n samples, as it is differentiated, their mean when divided by n. caught: scalars on the device, each with a factor;
    the sum of their squares times it is the mean over the micro-batches of the squared norm of the mean gradient.
    """

    parameters: Sequence[nn.Parameter]
    parts: int
    cut: int | None
    samples_to_mean: float
    caught: list[tuple[Tensor, float]] = field(default_factory=list)
    _norms: list[Tensor] = field(default_factory=list)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Around all micro-batches of the update."""
        # A parameter's hook sees its gradient of one backward alone, before it is added to .grad or travels.
        hooks = [parameter.register_hook(self._catch) for parameter in self.parameters]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _catch(self, gradient: Tensor) -> None:
        self._norms.append(torch.linalg.vector_norm(gradient))

    def end_of_part(self, samples: int) -> None:
        """After the backward of a micro-batch of so many samples."""
        factor = (self.samples_to_mean / samples) ** 2 / self.parts
        self.caught.append((torch.linalg.vector_norm(torch.stack(self._norms)), factor))
        self._norms.clear()

    def in_parts(self, micro_batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The update's micro-batches; of a single one two."""
        if self.cut is None:
            return micro_batches
        images, labels = next(micro_batches)
        return iter([(images[: self.cut], labels[: self.cut]), (images[self.cut :], labels[self.cut :])])


@dataclass(frozen=True, slots=True)
class Probing:
    """What is probed of the updates of one epoch, which are all cut up as `plan` says.

    One update in `interval` is; None: none, or they have no two parts that tell anything. small_batch: samples of a
    part, their harmonic mean where parts differ; cut: as in Probe. memory: in samples.
    """

    parameters: Sequence[nn.Parameter]
    plan: BatchPlan
    dataset_size: int
    gradient_divisor: float
    interval: int | None
    small_batch: float
    cut: int | None
    memory: float

    @staticmethod
    def of(
        model: nn.Module, probe_plan: ProbePlan, plan: BatchPlan, dataset_size: int, gradient_divisor: float
    ) -> Probing:
        """For updates of this plan; gradient_divisor: the collective's."""
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        interval, small_batch, cut = probe_plan.every, float(plan.micro_batch), None
        if plan.world_size * plan.accumulation_steps == 1:
            cut = middle_border(model, plan.micro_batch)
            interval = interval if cut else None
            small_batch = statistics.harmonic_mean([cut, plan.micro_batch - cut]) if cut else small_batch
        if interval is not None:
            interval = max(1, interval // plan.accumulation_steps)
        fewest = _FEWEST_REMEMBERED * (interval or 1) * plan.global_batch
        memory = max(probe_plan.memory_epochs * dataset_size, fewest)
        return Probing(parameters, plan, dataset_size, gradient_divisor, interval, small_batch, cut, memory)

    def probe(self, updates: int) -> Probe | None:
        """For the update that has so many before it; None where it is not probed."""
        if self.interval is None or updates % self.interval != 0:
            return None
        parts = self.plan.accumulation_steps if self.cut is None else 2
        return Probe(self.parameters, parts, self.cut, self.plan.global_batch / self.gradient_divisor)

    def add(
        self, averages: NoiseAverages, squares: Sequence[tuple[float, float]], collective: Collective
    ) -> NoiseAverages:
        """The averages with what the workers have read of some updates: the squared norms of the mean gradient over a
        part, as a mean over this worker's, and of that over the update. The same on every rank."""
        if self.interval is None or not squares:
            return averages
        # The whole gradient's too: two kinds of processor may differ in its last bit, and nobody may in the averages.
        everybodys = collective.all_reduce(torch.tensor(squares, dtype=torch.float64)) / collective.world_size
        samples = self.interval * self.plan.global_batch
        for small, large in everybodys.tolist():
            noise = measure(small, large, self.small_batch, self.plan.global_batch, self.dataset_size)
            averages = averages.with_update(*noise, samples=samples, memory=self.memory)
        return averages
