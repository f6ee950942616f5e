"""A run that was broken off and taken up again ends as if nothing had happened."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from dali_pipelines.sample_order import evaluation_range, micro_batch_starts, sample_ids
from tests.fleet_in_threads import run_fleet
from trainer.collective.local import LocalCollective
from trainer.engine.checkpoint import CheckpointFolder, newest_checkpoint, restore
from trainer.engine.job import Job
from trainer.engine.optimizer import build_optimizer
from trainer.engine.run_state import RunState, Standing, epoch_ahead
from trainer.engine.train import train
from trainer.models import build_model
from trainer.rule import Fleet, FleetStep, Limits, NoiseCurve, NoiseDrop, Reference, Schedule, Warmup
from trainer.tracking.progress import SilentProgress

pytestmark = pytest.mark.numerics

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


def network(kind):
    """With ghost batch norm, with plain batch norm, and with dropout."""
    torch.manual_seed(SEED)
    if kind == "ghost":
        return build_model("small-convnet", 10, ghost_batch=8)
    if kind == "plain":
        return build_model("small-convnet", 10, ghost_batch=None)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10))


def job_of(folder, curves, kind="ghost", optimizer="momentum", collective=None, fleet=None, dtype=torch.float32):
    """A job that keeps checkpoints in the folder, and begins with the one that lies there."""
    collective = collective or LocalCollective()
    model = network(kind).to(dtype)
    optimizer = build_optimizer(optimizer, model, lr=0.02, momentum=0.9, weight_decay=5e-4)
    checkpoint, start = newest_checkpoint(folder), Standing()
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
        checkpoints=CheckpointFolder(folder, {}) if collective.rank == 0 else None,
    )


def assert_same_tensors(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [("ghost", "nesterov"), ("plain", "momentum"), ("dropout", "adam"), ("ghost", "lars"), ("ghost", "adamw")],
)
def test_a_run_that_is_resumed_twice_is_the_run_that_was_not_broken_off_to_the_bit(tmp_path, kind, optimizer):
    whole = job_of(tmp_path / "whole", whole_curves := Curves(), kind, optimizer)
    whole_state, _ = train(whole)

    broken = tmp_path / "broken"
    curves = []
    for killed_after in (2, 4):  # both times the last epoch is lost, and repeated
        curves.append(Curves(killed_after))
        with pytest.raises(KeyboardInterrupt):
            train(job_of(broken, curves[-1], kind, optimizer))
    curves.append(Curves())
    last = job_of(broken, curves[-1], kind, optimizer)
    state, _ = train(last)

    assert [sorted(each.metrics) for each in curves] == [[1, 2], [2, 3, 4], [4, 5]]
    for each in curves:
        for epoch, metrics in each.metrics.items():
            assert metrics == whole_curves.metrics[epoch], epoch
    assert_same_tensors(whole.model.state_dict(), last.model.state_dict())
    for index, tensors in whole.optimizer.state_dict()["state"].items():
        assert_same_tensors(tensors, last.optimizer.state_dict()["state"][index])
    assert timeless(state) == timeless(whole_state)


def timeless(state):
    """The state without what the clock showed when the target was met."""
    return replace(state, target=state.target and replace(state.target, elapsed_s=0.0, train_s=0.0))


def test_the_clock_goes_on_where_it_was_saved(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(job_of(tmp_path, Curves(killed_after=4)))
    saved = newest_checkpoint(tmp_path).standing
    assert saved.state.next_epoch == 3
    assert 0 < saved.seconds["train"] < saved.elapsed_s
    state, clock = train(job_of(tmp_path, Curves()))
    assert state.target == saved.state.target  # met in an earlier part: its time stays
    assert clock.elapsed() > saved.elapsed_s
    assert clock.seconds["train"] > saved.seconds["train"]
    assert clock.seconds["evaluate"] > saved.seconds["evaluate"]
    # two of five epochs were left: the clock did not begin anew, nor count anything twice
    assert sum(clock.seconds[part] for part in ("train", "evaluate", "record")) < clock.elapsed()


FLEET = Fleet((FleetStep(0, 1), FleetStep(2, 2), FleetStep(4, 1)))


def test_a_run_on_changing_fleets_is_the_run_on_one_worker_to_rounding(tmp_path):
    train(whole := job_of(tmp_path / "whole", whole_curves := Curves(), dtype=torch.float64))

    folder = tmp_path / "changing"
    parts = []

    def go_on(collective):
        job = job_of(folder, curves := Curves(), fleet=FLEET, dtype=torch.float64, collective=collective)
        state, _ = train(job)
        if collective.rank == 0:
            parts.append((curves.metrics, epoch_ahead(SCHEDULE, FLEET, state), job.model.state_dict()))

    for workers in (1, 2, 1):
        run_fleet(workers, go_on)
    assert [(sorted(metrics), ahead) for metrics, ahead, _ in parts] == [([1, 2], 2), ([3, 4], 4), ([5], None)]
    for metrics, _, _ in parts:
        for epoch, values in metrics.items():
            cut = {key: values[key] for key in ("batch/micro", "batch/accumulation_steps")}
            # losses are added up in float32
            assert values == pytest.approx({**whole_curves.metrics[epoch], **cut}, rel=1e-6), epoch
    *_, (_, _, tensors) = parts
    for name, tensor in whole.model.state_dict().items():
        # float64: sums in another order, 1e-16 each, grown over 150 updates
        torch.testing.assert_close(tensors[name], tensor, rtol=1e-12, atol=1e-12, msg=name)


def test_a_border_where_nothing_is_left_to_do_stops_nobody():
    # 2.1 epochs of 100 are 210 samples: seven updates of 30, and none of them starts in epoch 2
    schedule = Schedule(Reference(0.1, 30), Limits(30, max_global_batch=30), 100, 2.1)
    state = RunState(samples_seen=210, updates=7, next_epoch=2)
    assert epoch_ahead(schedule, Fleet((FleetStep(0, 1), FleetStep(2, 3))), state) is None


def test_a_run_that_was_complete_when_it_was_killed_has_nothing_to_train(tmp_path):
    whole = job_of(tmp_path, Curves())
    train(whole)
    curves = Curves()
    again = job_of(tmp_path, curves)
    state, _ = train(again)
    assert curves.metrics == {}
    assert state.samples_seen == newest_checkpoint(tmp_path).standing.state.samples_seen
    assert_same_tensors(whole.model.state_dict(), again.model.state_dict())
