"""The parts of the loop, each alone, on real digits."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from dali_pipelines.errors import DataError
from dali_pipelines.sample_order import evaluation_range
from tests.digits_jobs import Curves, StopAt, job_of
from tests.fleet_in_threads import run_fleet
from trainer.collective.agreement import WorkerError
from trainer.collective.local import LocalCollective
from trainer.collective.wire import largest_on
from trainer.engine.clock import Clock
from trainer.engine.epoch import where
from trainer.engine.errors import TrainingError
from trainer.engine.evaluate import evaluate
from trainer.engine.guarded_input import GuardedInput
from trainer.engine.optimizer import build_optimizer
from trainer.engine.run_state import RunState
from trainer.engine.train import train
from trainer.engine.update import run_update
from trainer.models import build_model
from trainer.models.ghost_batch_norm import finish_update
from trainer.rule import BatchPlan, Limits, Reference, Schedule, decide

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")


def batch(samples, seed=0, classes=10):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(samples, 3, 8, 8, generator=generator)
    return images, torch.randint(0, classes, (samples,), generator=generator)


def model_and_optimizer(lr=0.1):
    torch.manual_seed(0)
    model = build_model("small-convnet", 10, ghost_batch=4)
    return model, build_optimizer("momentum", model, lr=lr, momentum=0.9, weight_decay=0.0)


def test_an_update_is_one_step_of_plain_sgd_on_the_mean_loss():
    model, optimizer = model_and_optimizer()
    plain = copy.deepcopy(model)
    images, labels = batch(4)
    loss = nn.functional.cross_entropy(plain(images), labels)
    loss.backward()
    share = run_update(model, optimizer, LocalCollective(), iter([(images, labels)]), BatchPlan(4, 1, 1))
    assert share == pytest.approx(loss.item(), rel=1e-6)  # float32
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs - 0.1 * theirs.grad)  # the first step of momentum SGD


def test_an_update_leaves_no_gradient_behind_and_has_moved_the_running_statistics():
    model, optimizer = model_and_optimizer()
    expected = copy.deepcopy(model)
    expected(batch(4)[0])
    finish_update(expected, 4)
    run_update(model, optimizer, LocalCollective(), iter([batch(4)]), BatchPlan(4, 1, 1))
    assert all(parameter.grad is None for parameter in model.parameters())
    for (name, ours), theirs in zip(model.named_buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)


def test_a_run_trains_what_was_compiled_and_its_gradients_travel_in_its_type(tmp_path):
    wrapped = []

    class Noting(LocalCollective):
        def wrap(self, model, wire=None):
            wrapped.append((model, wire))
            return model

    job = job_of(tmp_path, Curves(), collective=Noting(), wants_stop=StopAt(1))
    compiled = nn.Sequential(job.model)
    train(replace(job, compiled=lambda model: {job.model: compiled}[model], wire=torch.float16))
    assert wrapped == [(compiled, torch.float16)]


def test_where_gradients_travel_as_float16_the_advice_names_what_they_may_have_been_too_large_for():
    schedule = Schedule(Reference(lr=0.1, global_batch=8), Limits(8), dataset_size=100, epochs=1)
    at = decide(schedule, 0, 1), RunState(updates=7), 0.1
    advice = "epoch 0, update 7, at lr 0.1 and batch 8: lower schedule.reference.lr, or give schedule.warmup.epochs"
    assert where(*at, LocalCollective().largest_gradient) == advice
    assert where(*at, largest_on(torch.float16)) == (
        f"{advice}, or gradients.wire=float32 (float16 carries a worker's gradient of up to 64 here)"
    )


def test_a_gradient_that_is_not_finite_stops_before_the_optimizer_steps():
    model, optimizer = model_and_optimizer()
    before = copy.deepcopy(model.state_dict())
    images, labels = batch(4)
    images[1, 0, 0, 0] = float("nan")
    with pytest.raises(TrainingError, match="the loss or its gradient is not finite"):
        run_update(model, optimizer, LocalCollective(), iter([(images, labels)]), BatchPlan(4, 1, 1))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_evaluation_counts_every_image_once_however_it_is_cut():
    model, _ = model_and_optimizer()
    images, labels = batch(50)
    whole = evaluate(model, whole_set(images, labels), LocalCollective(), CPU)
    parts = evaluate(model, cut_set(images, labels, 7), LocalCollective(), CPU)
    assert (parts.images, parts.top1, parts.top5) == (whole.images, whole.top1, whole.top5) == (50, *parts_of(whole))
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)  # float32
    with torch.inference_mode():
        guesses = model.eval()(images).argsort(descending=True)
    assert whole.top1 == (guesses[:, 0] == labels).sum().item() / 50
    assert whole.top5 == (guesses[:, :5] == labels[:, None]).any(1).sum().item() / 50


def parts_of(evaluation):
    return evaluation.top1, evaluation.top5


def whole_set(images, labels):
    return cut_set(images, labels, len(labels))


def cut_set(images, labels, samples):
    return GuardedInput(lambda: zip(images.split(samples), labels.split(samples), strict=True))


@pytest.mark.parametrize("ranks", [1, 3, 60])  # more ranks than images: some have none
def test_workers_add_up_to_one(ranks):
    images, labels = batch(50)
    model, _ = model_and_optimizer()
    one = evaluate(model, whole_set(images, labels), LocalCollective(), CPU)

    def evaluate_share(collective):
        first, last = evaluation_range(collective.rank, ranks, 50)
        share = zip(images[first:last].split(7), labels[first:last].split(7), strict=True)
        return evaluate(copy.deepcopy(model), GuardedInput(lambda: share), collective, CPU)

    for evaluation in run_fleet(ranks, evaluate_share):
        assert (evaluation.images, evaluation.top1, evaluation.top5) == (50, one.top1, one.top5)
        assert evaluation.loss == pytest.approx(one.loss, rel=1e-6)  # float32


def test_an_infinite_loss_stops_although_its_gradient_is_finite():
    class Overflow(nn.Module):
        """Logits far apart: cross-entropy of the wrong one is infinite in float32, its slope is 1."""

        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.tensor([[3e38, -3e38]]))

        def forward(self, images):
            return self.logits.expand(len(images), 2)

    model = Overflow()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TrainingError, match="not finite"):
        run_update(model, optimizer, LocalCollective(), iter([(torch.zeros(1, 3, 8, 8), torch.tensor([1]))]),
                   BatchPlan(1, 1, 1))  # fmt: skip


def broken_batches():
    yield torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)
    raise DataError("7.jpg: cannot be decoded")


def test_input_that_fails_is_stood_in_for_by_nan_until_the_workers_meet():
    guarded = GuardedInput(broken_batches)
    batches = guarded.for_training(2, 8, CPU)
    assert torch.isfinite(next(batches)[0]).all()
    guarded.raise_failure()
    images, labels = next(batches)
    assert images.shape == (2, 3, 8, 8)
    assert images.isnan().all()
    assert labels.shape == (2,)
    with pytest.raises(DataError, match=r"7\.jpg"):
        guarded.raise_failure()


def test_evaluation_input_that_fails_on_one_worker_stops_all():
    def evaluate_share(collective):
        model, _ = model_and_optimizer()
        images, labels = batch(4)
        open_batches = broken_batches if collective.rank == 1 else lambda: iter([(images, labels)])
        with pytest.raises(WorkerError, match=r"^rank 1: 7\.jpg: cannot be decoded$"):
            evaluate(model, GuardedInput(open_batches), collective, CPU)
        return True

    assert all(run_fleet(3, evaluate_share))


def test_top5_of_fewer_than_five_classes_is_everything():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 3))
    assert evaluate(model, whole_set(*batch(20, classes=3)), LocalCollective(), CPU).top5 == 1.0


def test_the_clock_counts_waiting_apart():
    clock = Clock()
    with clock.measure("train"):
        assert list(clock.waiting(iter([1, 2]))) == [1, 2]
    assert 0 < clock.seconds["data_wait"] <= clock.seconds["train"] <= clock.elapsed()
