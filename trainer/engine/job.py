"""What the loop works with: one run, put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dali_pipelines.sample_order import Shard
from dali_pipelines.unreadable import UnreadableFiles
from trainer.collective.collective import Collective
from trainer.collective.whereabouts import Whereabouts
from trainer.engine.gradient_probe import ProbePlan
from trainer.engine.run_state import Standing
from trainer.engine.saving import CheckpointWriter, SavingPlan
from trainer.rule import EpochDecision, Fleet, Schedule


class InputPipeline(Protocol):
    """How samples become tensors: images (n, 3, image_size, image_size) float32 and labels (n,) int64 on the device."""

    image_size: int
    validation_size: int

    def batches(self, shard: Shard) -> Iterator[tuple[Tensor, Tensor]]: ...
    def evaluation_batches(self, rank: int, world_size: int, micro_batch: int) -> Iterator[tuple[Tensor, Tensor]]: ...


class Tracker(Protocol):
    """Where numbers go."""

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None: ...
    def event(self, kind: str, fields: Mapping[str, object]) -> None: ...


class Progress(Protocol):
    """What a person sees while an epoch runs. loss: this worker's share, of the newest update that has been read; nan
    before there is one. on_schedule: how far along its schedule the run is, in samples of it; advance: what an update
    adds to it."""

    def epoch_started(self, decision: EpochDecision, on_schedule: float, advance: float, updates: int) -> None: ...
    def update_done(self, samples: int, loss: float, lr: float) -> None: ...
    def epoch_done(self, epoch: int, metrics: Mapping[str, float]) -> None: ...


@dataclass(frozen=True, slots=True)
class Job:
    """All that the loop works with. Tracker and progress do nothing on ranks other than 0.

    fleet: how many workers the epochs are to have; None: as many as there are. probe: how often the gradient noise is
    measured. start: where the run goes on, with model
    and optimizer as they were then. wire: the type in which gradients travel, None for their own. seed: of what a
    network draws (dropout). saving: when checkpoints are made; writer: rank 0's, None keeps none. wants_stop: whether
    this worker was asked to end the run; all vote on it at every update, or about as often as between_votes_s where
    updates are shorter. whereabouts: where the loop says what it is doing. unreadable: the pipeline's, empty where it
    reads no files. warn: how rank 0 tells a person of what does not stop the run.
    """

    schedule: Schedule
    collective: Collective
    model: nn.Module
    optimizer: Optimizer
    pipeline: InputPipeline
    tracker: Tracker
    progress: Progress
    device: torch.device
    target_top1: float | None = None
    autocast_to: torch.dtype | None = None
    compiled: Callable[[nn.Module], nn.Module] = lambda module: module
    wire: torch.dtype | None = None
    fleet: Fleet | None = None
    seed: int = 0
    probe: ProbePlan = field(default_factory=ProbePlan)
    start: Standing = field(default_factory=Standing)
    saving: SavingPlan = field(default_factory=SavingPlan)
    writer: CheckpointWriter | None = None
    wants_stop: Callable[[], bool] = lambda: False
    between_votes_s: float = 0.1
    whereabouts: Whereabouts = field(default_factory=Whereabouts)
    unreadable: UnreadableFiles = field(default_factory=UnreadableFiles)
    warn: Callable[[str], None] = lambda text: None
