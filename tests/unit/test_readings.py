"""Numbers of updates that are read later, and what a run does where they turn out not to be finite."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dali_pipelines.errors import DataError
from tests.digits_jobs import Curves, Digits, job_of
from tests.fleet_in_threads import run_fleet
from trainer.collective.agreement import WorkerError
from trainer.collective.local import LocalCollective
from trainer.engine import readings
from trainer.engine.errors import TrainingError
from trainer.engine.gradient_probe import ProbePlan, Probing
from trainer.engine.optimizer import build_optimizer
from trainer.engine.readings import Readings, refuse_not_finite
from trainer.engine.saving import SavingPlan
from trainer.engine.train import train
from trainer.engine.update import run_update
from trainer.models import build_model
from trainer.rule import BatchPlan
from trainer.tracking.progress import SilentProgress

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")
# What a GPU's host could not do without waiting: a number as Python's, a size that depends on values. Copies from
# one device to another do not show on a CPU: benchmarks/loop_overhead.py looks for them on a GPU.
WAITING = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select"}


class Watch(TorchDispatchMode):
    """Notes the operations that reach the device."""

    def __init__(self):
        super().__init__()
        self.operations = set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.operations.add(function.overloadpacket.__name__)
        return function(*arguments, **(keywords or {}))


def noted(lag, losses, gradients):
    """The losses summed up until a gradient is not finite, and what was said of it; all of them where none is."""
    watch = Readings(CPU, lag=lag)
    number = -1
    try:
        for number, (loss, gradient) in enumerate(zip(losses, gradients, strict=True)):
            watch.note(torch.tensor(loss), [torch.ones(2), torch.tensor([1.0, gradient])], lambda at=number: f"{at}")
        number += 1
        watch.settle()
    except TrainingError as error:
        return watch.loss_sum, number, str(error)
    return watch.loss_sum, number, None


@pytest.mark.parametrize("lag", [0, 1, 3])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_is_noticed_lag_updates_later_under_its_own_name(lag, bad):
    gradients = [1.0, 1.0, bad, bad, 1.0, 1.0, 1.0]
    said = "the loss or its gradient is not finite in 2"
    assert noted(lag, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0], gradients) == (3.0, 2 + lag, said)


@pytest.mark.parametrize("lag", [0, 2, 9])
def test_settling_reads_what_is_left(lag):
    assert noted(lag, [1.0, 2.0, 4.0, 8.0], [1.0] * 4) == (15.0, 4, None)
    assert noted(lag, [1.0, 2.0, 4.0, 8.0], [1.0, 1.0, 1.0, float("nan")])[::2] == (
        7.0,
        "the loss or its gradient is not finite in 3",
    )


def test_the_losses_of_an_update_are_known_lag_updates_later():
    watch = Readings(CPU, loss_sum=10.0, lag=1)
    for loss in (1.0, 2.0):
        watch.note(torch.tensor(loss), [torch.ones(1)], str)
    assert (watch.last_loss, watch.loss_sum) == (1.0, 11.0)


@pytest.mark.parametrize(("optimizer", "precision"), [("momentum", None), ("lars", None), ("adamw", torch.bfloat16)])
def test_no_update_waits_for_the_device(optimizer, precision):
    torch.manual_seed(0)
    model = build_model("small-convnet", 10, ghost_batch=4)
    stepper = build_optimizer(optimizer, model, lr=0.01, momentum=0.9, weight_decay=1e-4)
    batches = iter([(torch.randn(8, 3, 8, 8), torch.randint(0, 10, (8,))) for _ in range(12)])
    update = partial(run_update, model, stepper, LocalCollective(), batches, BatchPlan(8, 2, 1), precision)
    late, seen = Readings(CPU, lag=2), Watch()
    for _ in range(4):
        with seen:
            update(note=partial(late.note, where=str))
    probe = Probing.of(model, ProbePlan(1), BatchPlan(8, 2, 1), 100, 1.0).probe(0)
    with seen:
        update(note=partial(late.note, where=str, caught=probe.caught), probe=probe)
    assert len(probe.caught) == 2
    assert {"convolution", "stack"} <= seen.operations, "the updates are watched"
    assert seen.operations & WAITING == set()
    assert late.loss_sum > 0
    with seen:
        update()
    assert seen.operations & WAITING == {"_local_scalar_dense"}, "without readings an update looks at its gradients"


def test_an_update_that_is_refused_at_once_leaves_the_weights_as_they_were():
    torch.manual_seed(0)
    model = build_model("small-convnet", 10, ghost_batch=4)
    stepper = build_optimizer("momentum", model, lr=0.01, momentum=0.9, weight_decay=1e-4)
    bad = iter([(torch.full((8, 3, 8, 8), torch.nan), torch.zeros(8, dtype=torch.int64))])
    with pytest.raises(TrainingError):
        run_update(
            model, stepper, LocalCollective(), bad, BatchPlan(8, 1, 1), note=partial(Readings(CPU).note, where=str)
        )
    assert all(parameter.isfinite().all() for parameter in model.parameters())


class InAnEpoch(SilentProgress):
    """Watches from an epoch's first update to its last."""

    def __init__(self):
        self.watch, self.epochs = Watch(), 0

    def epoch_started(self, decision, on_schedule, advance, updates):
        self.updates = self.left = updates

    def update_done(self, samples, loss, lr):
        if self.left == self.updates:
            self.watch.__enter__()
        self.left -= 1
        if self.left == 0:
            self.watch.__exit__(None, None, None)
            self.epochs += 1


@pytest.mark.parametrize("late", [True, False])
def test_the_loop_waits_for_the_device_at_most_where_it_reads_an_update(tmp_path, monkeypatch, late):
    """Votes, marks and the bookkeeping around updates read nothing of them, and with a lag reading does not wait."""
    monkeypatch.setattr(readings, "lag_on", lambda device: 2 if late else 0)
    if not late:  # as if somebody looked at the gradients at once
        monkeypatch.setattr(
            Readings, "note", lambda self, loss, gradients, where, caught: refuse_not_finite(loss, gradients)
        )
    progress = InAnEpoch()
    train(dataclasses.replace(job_of(tmp_path, Curves()), progress=progress, probe=ProbePlan(3)))
    assert progress.epochs == 5
    assert "convolution" in progress.watch.operations
    assert progress.watch.operations & WAITING == (set() if late else {"_local_scalar_dense"})


class Poisoned(Digits):
    """Images of nan from the micro-batch on that comes as number `since`, or files that cannot be read."""

    def __init__(self, since, failure=None):
        super().__init__()
        self.since, self.failure = since, failure

    def batches(self, shard):
        for number, (images, labels) in enumerate(super().batches(shard)):
            if number >= self.since and self.failure is not None:
                raise self.failure
            yield (images * float("nan") if number >= self.since else images), labels


@pytest.fixture(params=[0, 2, 100], ids="lag {}".format)
def lag(request, monkeypatch):
    """Of all readings: that of a GPU, of no device, and longer than an epoch."""
    monkeypatch.setattr(readings, "lag_on", lambda device: request.param)
    return request.param


def bad_run(folder, bad_update, saving):
    """A run whose images turn to nan; returns the epochs that it recorded, and checks what it said."""
    curves = Curves()
    job = dataclasses.replace(job_of(folder, curves, saving=saving), pipeline=Poisoned(bad_update))
    with pytest.raises(TrainingError, match=f"not finite in epoch 0, update {bad_update}, at lr"):
        train(job)
    return list(curves.metrics)


def test_nothing_is_saved_of_updates_whose_gradients_were_not_finite(tmp_path, lag):
    assert bad_run(tmp_path, 4, SavingPlan(every_minutes=0.0)) == []
    saved = [int(folder.name) for folder in tmp_path.iterdir() if folder.name.isdigit()]
    assert saved, "checkpoints were due all the time"
    assert max(saved) <= 32 * 4
    for file in tmp_path.glob("*/model.pt"):
        assert all(tensor.isfinite().all() for tensor in torch.load(file, weights_only=True).values()), file


def test_an_epoch_is_not_over_before_its_last_update_has_been_read(tmp_path, lag):
    assert bad_run(tmp_path, 44, SavingPlan(every_minutes=None)) == []
    assert not any(folder.name.isdigit() for folder in tmp_path.iterdir())


@pytest.mark.parametrize(("lag", "bad_update"), [(0, 5), (2, 5), (2, 22)], indirect=["lag"])
def test_a_file_that_one_worker_cannot_read_stops_all_by_its_name(tmp_path, lag, bad_update):
    def work(collective):
        job = job_of(tmp_path, Curves(), collective=collective)
        failure = DataError("7.jpg: cannot be decoded") if collective.rank == 1 else None
        job = dataclasses.replace(job, pipeline=Poisoned(bad_update if failure else 10**9, failure))
        with pytest.raises(WorkerError, match=r"^rank 1: 7\.jpg: cannot be decoded$"):
            train(job)
        return True

    assert all(run_fleet(2, work))
