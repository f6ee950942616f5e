"""What benchmarks of the loop train, and where: digits in memory, a job without a configuration, a worker's fleet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from dali_pipelines.sample_order import Shard, evaluation_range, micro_batch_starts, sample_ids
from trainer.cli.fleet import CollectiveName, open_collective
from trainer.cli.freed_memory import keep_freed_memory
from trainer.collective.collective import Collective
from trainer.collective.local import LocalCollective
from trainer.collective.watched import WatchedCollective
from trainer.collective.whereabouts import Whereabouts
from trainer.engine.job import InputPipeline, Job, Progress, Tracker
from trainer.engine.optimizer import build_optimizer
from trainer.environment import detect_launch
from trainer.rule import Schedule
from trainer.tracking import Trackers
from trainer.tracking.progress import SilentProgress

CPU = torch.device("cpu")


class Digits:
    """Real images that lie on the device, so that the input costs next to nothing."""

    train_size, validation_size = 1280, 357  # whole updates of one, two and four workers

    def __init__(self, image_size: int, device: torch.device = CPU) -> None:
        bunch = load_digits()
        images = torch.from_numpy(bunch.images / 16.0).float()[:, None].expand(-1, 3, -1, -1)
        self.images = F.interpolate(images, size=image_size, mode="bilinear").contiguous().to(device)
        self.labels = torch.from_numpy(bunch.target.astype(np.int64)).to(device)
        self.image_size = image_size

    def batches(self, shard: Shard) -> Iterator[tuple[Tensor, Tensor]]:
        for start in micro_batch_starts(shard):
            ids = torch.from_numpy(sample_ids(0, self.train_size, np.arange(start, start + shard.micro_batch)))
            if self.images.is_cuda:  # copied beside the work
                ids = ids.pin_memory().to(self.images.device, non_blocking=True)
            yield self.images[ids], self.labels[ids]

    def evaluation_batches(self, rank: int, world_size: int, micro_batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        first, last = evaluation_range(rank, world_size, self.validation_size)
        before = len(self.labels) - self.validation_size
        chosen = slice(before + first, before + last)
        yield from zip(self.images[chosen].split(micro_batch), self.labels[chosen].split(micro_batch), strict=True)


def join(library: CollectiveName, on: Literal["cpu", "cuda"]) -> tuple[Collective, torch.device]:
    """This worker's fleet and device, made ready as a run's, with one thread."""
    torch.set_num_threads(1)
    collective = open_collective(library, detect_launch())
    if on == "cpu":
        keep_freed_memory()  # for all that take turns, or the order in which they allocate would decide
        return collective, CPU
    device = torch.device("cuda", collective.local_rank)
    torch.cuda.set_device(device)
    return collective, device


def job(
    schedule: Schedule,
    pipeline: InputPipeline,
    model: nn.Module,
    *,
    collective: Collective | None = None,
    tracker: Tracker | None = None,
    progress: Progress | None = None,
    device: torch.device = CPU,
) -> Job:
    """Trains the model with momentum SGD, with votes and a watchdog's marks; no checkpoints."""
    whereabouts = Whereabouts()
    return Job(
        schedule=schedule,
        collective=WatchedCollective(collective or LocalCollective(), whereabouts),
        model=model,
        optimizer=build_optimizer("momentum", model, lr=0.0, momentum=0.9, weight_decay=5e-4),
        pipeline=pipeline,
        tracker=tracker or Trackers(()),
        progress=progress or SilentProgress(),
        device=device,
        whereabouts=whereabouts,
    )
