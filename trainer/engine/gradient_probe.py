"""Measures the gradient noise scale, every so many updates, from what an update computes anyway.

Two batches of one update tell it (see trainer.rule.gradient_noise): all of it, whose gradient is there when workers
have added theirs up; and the first micro-batch of each worker, whose gradient goes by in the backward before it is
added to anything. That is so whatever connects the workers, and only norms are kept.

Where an update is one micro-batch of one worker, the probed update cuts it in two. Batch norm is what sees a cut: what
is normalised together is one draw, so a cut lies at a border of ghost batches, and where there is none nothing is
measured. The scale is that of the network as it is trained, with batch norm over groups of this size.

Norms are read with the losses (readings.py), so nobody waits for them; and the workers' are added up where the loss is,
at the end of an epoch or where a run is saved.
"""

from __future__ import annotations

import contextlib
import math
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
    micro-batches of a worker, for a probe costs no more there. memory_epochs: over how many epochs of samples a
    measurement fades by a factor e, or over ten measurements where those are more samples."""

    every: int | None = None
    memory_epochs: float = 1.0


@dataclass(slots=True)
class Probe:
    """Of one update: catches the norm of each parameter's gradient over the first `samples` of this worker.

    cuts: whether those are a part of the only micro-batch, which run_update is to cut there. norms: scalars on the
    device, in the unit of the loss that is differentiated.
    """

    parameters: Sequence[nn.Parameter]
    samples: int
    cuts: bool
    norms: list[Tensor] = field(default_factory=list)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Around the forward and backward of the first micro-batch."""
        # A parameter's hook sees its gradient of this backward alone, before it is added to .grad or travels.
        hooks = [parameter.register_hook(self._catch) for parameter in self.parameters]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _catch(self, gradient: Tensor) -> None:
        self.norms.append(torch.linalg.vector_norm(gradient))

    def in_two(self, micro_batch: tuple[Tensor, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """The micro-batch as two."""
        images, labels = micro_batch
        yield images[: self.samples], labels[: self.samples]
        yield images[self.samples :], labels[self.samples :]


@dataclass(frozen=True, slots=True)
class Probing:
    """What is probed of the updates of one epoch, which are all cut up as `plan` says.

    One update in `interval` is, over `samples` of each worker; None: none, or they have no two parts that tell it.
    memory: in samples.
    """

    parameters: Sequence[nn.Parameter]
    plan: BatchPlan
    dataset_size: int
    interval: int | None
    samples: int
    cuts: bool
    memory: float

    @staticmethod
    def of(model: nn.Module, probe_plan: ProbePlan, plan: BatchPlan, dataset_size: int) -> Probing:
        """For updates of this plan."""
        cuts = plan.world_size * plan.accumulation_steps == 1
        samples = middle_border(model, plan.micro_batch) if cuts else plan.micro_batch
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if probe_plan.every is None or samples is None:
            return Probing(parameters, plan, dataset_size, None, 0, cuts, math.inf)
        interval = max(1, probe_plan.every // plan.accumulation_steps)
        fewest = _FEWEST_REMEMBERED * interval * plan.global_batch
        memory = max(probe_plan.memory_epochs * dataset_size, fewest)
        return Probing(parameters, plan, dataset_size, interval, samples, cuts, memory)

    def probe(self, updates: int) -> Probe | None:
        """For the update that has so many before it; None where it is not probed."""
        if self.interval is None or updates % self.interval != 0:
            return None
        return Probe(self.parameters, self.samples, self.cuts)

    def add(
        self, averages: NoiseAverages, squares: Sequence[tuple[float, float]], collective: Collective
    ) -> NoiseAverages:
        """The averages with what the workers have read of some updates, as (sum of the squares of the norms of this
        worker's probe, of the whole gradient). The same on every rank."""
        if self.interval is None or not squares:
            return averages
        # The whole gradient's too: two kinds of processor may differ in its last bit, and nobody may in the averages.
        everybodys = collective.all_reduce(torch.tensor(squares, dtype=torch.float64)) / collective.world_size
        global_batch = self.plan.global_batch
        to_mean = (global_batch / (collective.gradient_divisor * self.samples)) ** 2
        for small, large in everybodys.tolist():
            noise = measure(small * to_mean, large, self.samples, global_batch, self.dataset_size)
            averages = averages.with_update(*noise, samples=self.interval * global_batch, memory=self.memory)
        return averages
