"""Small jobs on real digits in memory, for tests of what breaks a run off."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from dali_pipelines.sample_order import evaluation_range, micro_batch_starts, sample_ids
from trainer.collective.local import LocalCollective
from trainer.engine.checkpoint import newest_checkpoint, restore
from trainer.engine.job import Job
from trainer.engine.optimizer import build_optimizer
from trainer.engine.run_state import Standing
from trainer.engine.saving import CheckpointWriter, SavingPlan
from trainer.models import build_model
from trainer.rule import Limits, NoiseCurve, NoiseDrop, Reference, Schedule, Warmup
from trainer.tracking.progress import SilentProgress

TRAIN_SIZE, SEED = 1440, 3
# Five epochs; the batch grows from 32 to 96 and 192, which one and two workers share in whole ghost batches. Updates of
# 192 lie across the border of the last two epochs.
SCHEDULE = Schedule(
    Reference(0.02, 32),
    Limits(96, max_global_batch=250),
    TRAIN_SIZE,
    5,
    NoiseCurve("steps", drops=(NoiseDrop(1, 3), NoiseDrop(3, 2))),
    warmup=Warmup(2.5),
    ghost_batch=8,
)


class Digits:
    """Real images in memory."""

    image_size = 8
    validation_size = 357

    def __init__(self, dtype=torch.float32):
        bunch = load_digits()
        self.images = torch.from_numpy(bunch.images / 16.0).to(dtype)[:, None].expand(-1, 3, -1, -1).contiguous()
        self.labels = torch.from_numpy(bunch.target.astype(np.int64))

    def batches(self, shard):
        for start in micro_batch_starts(shard):
            ids = sample_ids(SEED, TRAIN_SIZE, np.arange(start, start + shard.micro_batch))
            yield self.images[ids], self.labels[ids]

    def evaluation_batches(self, rank, world_size, micro_batch):
        first, last = evaluation_range(rank, world_size, len(self.labels) - TRAIN_SIZE)
        chosen = slice(TRAIN_SIZE + first, TRAIN_SIZE + last)
        yield from zip(self.images[chosen].split(micro_batch), self.labels[chosen].split(micro_batch), strict=True)


class Curves:
    """Keeps what the loop logs; breaks the run off when the epoch is over that comes as number `killed_after`."""

    def __init__(self, killed_after=None):
        self.metrics, self.killed_after = {}, killed_after

    def log(self, epoch, metrics):
        timeless = {key: value for key, value in metrics.items() if not key.startswith(("time/", "speed/", "elapsed"))}
        self.metrics[epoch] = timeless
        if epoch == self.killed_after:
            raise KeyboardInterrupt

    def event(self, kind, fields):
        return None


_GENERATOR = threading.Lock()  # torch's is one for all the threads of a fleet


def network(kind):
    """With ghost batch norm, with plain batch norm, and with dropout."""
    with _GENERATOR:
        torch.manual_seed(SEED)
        if kind == "ghost":
            return build_model("small-convnet", 10, ghost_batch=8)
        if kind == "plain":
            return build_model("small-convnet", 10, ghost_batch=None)
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10))


class StopAt:
    """Asks to stop from the vote on that comes as number `vote` (from 0)."""

    def __init__(self, vote):
        self.vote, self.votes = vote, 0

    def __call__(self):
        self.votes += 1
        return self.votes > self.vote


def job_of(
    folder,
    curves,
    kind="ghost",
    optimizer="momentum",
    collective=None,
    fleet=None,
    dtype=torch.float32,
    saving=None,
    wants_stop=lambda: False,
):
    """A job that keeps checkpoints in the folder, and begins with the one that lies there."""
    collective, saving = collective or LocalCollective(), saving or SavingPlan()
    model = network(kind).to(dtype)
    optimizer = build_optimizer(optimizer, model, lr=0.02, momentum=0.9, weight_decay=5e-4)
    checkpoint, start = newest_checkpoint(folder, pytest.fail), Standing()
    if checkpoint is not None:
        restore(checkpoint if collective.rank == 0 else None, model, optimizer, collective)
        start = checkpoint.standing
    return Job(
        schedule=SCHEDULE,
        collective=collective,
        model=model,
        optimizer=optimizer,
        pipeline=Digits(dtype),
        tracker=curves,
        progress=SilentProgress(),
        device=torch.device("cpu"),
        target_top1=0.5,
        fleet=fleet,
        seed=SEED,
        start=start,
        saving=saving,
        writer=CheckpointWriter(folder, folder / "weights.pt", {}, saving) if collective.rank == 0 else None,
        wants_stop=wants_stop,
        between_votes_s=0.0,
    )


def assert_same_tensors(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def timeless(state):
    """The state without what the clock showed when the target was met."""
    return replace(state, target=state.target and replace(state.target, elapsed_s=0.0, train_s=0.0))
