"""How times are read, and how an update's time is taken apart so that a prediction puts it together again."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.fleet_in_threads import run_fleet
from trainer.calibration.measure import gradient_bytes
from trainer.calibration.stopwatch import (
    Stopwatch,
    agreed_rounds,
    everybodys,
    median_round,
    slowest,
    spread,
    steady_mean,
)
from trainer.calibration.stream import MeasuredFeeding, measure_evaluation, split_feeding
from trainer.calibration.subject import Subject
from trainer.calibration.updates import MeasuredUpdate, UpdateMeasurement, split_rest
from trainer.collective.local import LocalCollective
from trainer.rule import BatchPlan, Limits, Reference, Schedule, decide
from trainer.rule.all_reduce import Fabric, Link
from trainer.rule.step_time import ComputeTime, StepTimes, predict_update

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def time_passes_by_sleeping_alone(monkeypatch):
    """A busy machine takes longer than it should; what is to be told apart here are the sleeps."""
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])


CPU = torch.device("cpu")


def test_a_stopwatch_counts_from_mark_to_mark():
    watch = Stopwatch(CPU)
    for pause_s in (0.0, 0.02, 0.06):
        time.sleep(pause_s)
        watch.mark()
    first, second = watch.laps()
    assert (first, second) == (pytest.approx(0.02), pytest.approx(0.06))


def test_every_rank_knows_everybodys_time_and_waits_for_the_slowest():
    def work(collective):
        seconds = 0.1 * (collective.rank + 1)
        return everybodys(collective, seconds), slowest(collective, seconds), agreed_rounds(collective, seconds, 3.0)

    for values, most, rounds in run_fleet(3, work):
        assert values == pytest.approx([0.1, 0.2, 0.3])
        assert most == pytest.approx(0.3)
        assert rounds == 10  # of the slowest in three seconds


@pytest.mark.parametrize(("round_s", "rounds"), [(1e-9, 500), (0.1, 20), (60.0, 2)])
def test_rounds_fill_the_seconds_within_reason(round_s, rounds):
    assert agreed_rounds(LocalCollective(), round_s, 2.0) == rounds


def test_the_first_calls_do_not_count():
    pauses = itertools.chain([0.2, 0.01, 0.01], itertools.repeat(0.01))
    took = median_round(LocalCollective(), CPU, 0.1, lambda: time.sleep(next(pauses)))
    assert took == pytest.approx(0.01)


def test_spread_is_half_the_quartiles_distance_over_the_median():
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx((4 - 2) / 2 / 3)


def test_a_mean_lap_sees_bursts_and_forgets_a_falter():
    bursts = [0.0, 2.0] * 10
    assert steady_mean(bursts) == pytest.approx(1.0)
    assert steady_mean([*bursts, *bursts, 90.0, *bursts]) == pytest.approx(1.0)


# What a measurement of these would give back: compute 1 ms + 2 ms a sample, a third of it forward.
OVERHEAD_S, SIZES = 0.010, (8, 16, 64)
LINK = Link(latency_s=0.001, s_per_byte=1e-9)


def step_times(workers, hidden_share, images_per_s=1e9, sharing=0.0, s_per_batch=0.0):
    return StepTimes(
        compute=tuple(ComputeTime(n, (0.001 + 0.002 * n) / 3, (0.001 + 0.002 * n) * 2 / 3) for n in SIZES),
        update_overhead_s=OVERHEAD_S,
        gradient_bytes=30_000_000,
        fabric=Fabric(LINK, None),
        all_reduce=(),
        hidden_share=hidden_share,
        input_s_per_batch=s_per_batch,
        input_images_per_s=images_per_s,
        input_sharing=sharing,
        evaluation_s_per_image=0.0,
        validation_size=0,
        epoch_s=0.0,
        workers=workers,
        nodes=1,
    )


@pytest.mark.parametrize("hidden_share", [0.0, 0.4, 1.0])
def test_a_prediction_gives_back_the_updates_that_it_was_taken_from(hidden_share):
    times = step_times(2, hidden_share)
    all_reduce_s = 2 * 0.001 + 30_000_000 * 1e-9  # a ring of two: two latencies, the bytes once
    updates = [
        MeasuredUpdate(compute, predict_update(BatchPlan(compute.micro_batch, 1, 2), times, nodes=1).seconds)
        for compute in times.compute
    ]
    overhead_s, found = split_rest(updates, OVERHEAD_S, all_reduce_s, overlaps=True)
    assert found == pytest.approx(hidden_share, abs=1e-9)
    assert overhead_s == pytest.approx(OVERHEAD_S)


def test_what_gradients_cost_beyond_their_all_reduce_is_overhead():
    compute = step_times(2, 0.0).compute
    updates = [MeasuredUpdate(c, c.forward_s + c.backward_s + OVERHEAD_S + 0.032 + 0.005) for c in compute]
    overhead_s, hidden_share = split_rest(updates, OVERHEAD_S, all_reduce_s=0.032, overlaps=True)
    assert hidden_share == 0.0
    assert overhead_s == pytest.approx(OVERHEAD_S + 0.005)


def test_a_library_that_sends_after_the_backward_hides_nothing_whatever_the_clock_says():
    compute = step_times(1, 0.0).compute
    updates = [MeasuredUpdate(c, c.forward_s + c.backward_s + OVERHEAD_S + 0.020) for c in compute]
    overhead_s, hidden_share = split_rest(updates, OVERHEAD_S, all_reduce_s=0.025, overlaps=False)
    assert (hidden_share, overhead_s) == (0.0, pytest.approx(OVERHEAD_S - 0.005))


def test_a_worker_alone_has_nothing_to_hide():
    compute = step_times(1, 0.0).compute
    updates = [MeasuredUpdate(c, c.forward_s + c.backward_s + OVERHEAD_S) for c in compute]
    assert split_rest(updates, 0.0, 0.0, overlaps=False) == (pytest.approx(OVERHEAD_S), 0.0)


@pytest.mark.parametrize("sharing", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("images_per_s", [1000.0, 200.0])  # slower work than input, and the reverse
def test_a_prediction_gives_back_the_fed_updates_that_it_was_taken_from(sharing, images_per_s):
    sizes = (8, 64)
    unfed, fed = step_times(1, 0.0), step_times(1, 0.0, images_per_s, sharing, s_per_batch=0.002)
    measured = [
        MeasuredFeeding(
            size,
            input_s=0.002 + size / images_per_s,
            fed_s=predict_update(BatchPlan(size, 1, 1), fed, nodes=1).seconds,
        )
        for size in sizes
    ]
    work_s = [predict_update(BatchPlan(size, 1, 1), unfed, nodes=1).seconds for size in sizes]
    batch_s, rate, found = split_feeding(measured, work_s)
    assert batch_s == pytest.approx(0.002)
    assert rate == pytest.approx(images_per_s)
    assert found == pytest.approx(sharing)


def test_work_and_input_that_get_in_each_others_way_share_more_than_all():
    measured = [MeasuredFeeding(8, 0.008, 0.020 + 1.25 * 0.008), MeasuredFeeding(16, 0.016, 0.040 + 1.25 * 0.016)]
    batch_s, rate, sharing = split_feeding(measured, [0.020, 0.040])
    assert (batch_s, rate, sharing) == (pytest.approx(0), pytest.approx(1000), 1.25)


def test_larger_batches_that_came_no_later_give_a_rate_all_the_same():
    measured = [MeasuredFeeding(8, 0.004, 0.020), MeasuredFeeding(16, 0.004, 0.040)]
    batch_s, rate, _ = split_feeding(measured, [0.020, 0.040])
    assert (batch_s, rate) == (0.0, pytest.approx(16 / 0.004))


class Sleeper(nn.Module):
    """Takes 10 ms for a forward, 20 ms for a backward."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 10))

    def forward(self, images):
        time.sleep(0.01)
        logits = images.mean(dim=(2, 3)) @ self.weight
        logits.register_hook(lambda gradient: time.sleep(0.02))
        return logits


class Flat(nn.Module):
    """Takes no time."""

    def forward(self, images):
        return images.flatten(1)[:, :10]


class SlowSgd(torch.optim.SGD):
    """Takes 30 ms for a step."""

    def step(self, closure=None):
        time.sleep(0.03)
        return super().step(closure)


class Evaluated:
    """Validation images that take 20 ms before the first comes, and 5 ms each."""

    def __init__(self, size):
        self.size, self.image_size = size, 4

    def evaluation_batches(self, rank, world_size, micro_batch):
        time.sleep(0.02)
        for start, end in itertools.pairwise(
            [*range(0, self.size // world_size, micro_batch), self.size // world_size]
        ):
            time.sleep(0.005 * (end - start))
            yield torch.zeros(end - start, 3, 4, 4), torch.zeros(end - start, dtype=torch.int64)


class ImageSize:
    """As much of a pipeline as synthetic images need."""

    image_size = 4


@pytest.fixture
def subject():
    model = Sleeper()
    schedule = Schedule(Reference(lr=0.1, global_batch=8, momentum=0.9), Limits(8), dataset_size=100, epochs=1)
    return Subject(
        collective=LocalCollective(), alone=LocalCollective(), nodes=1, model=model,
        optimizer=SlowSgd(model.parameters(), lr=0.1, momentum=0.9), pipeline=ImageSize(), schedule=schedule,
        decision=decide(schedule, 0, 1), validation_size=10, classes=10, device=CPU, autocast_to=None,
        memory_format=torch.contiguous_format, compiled=lambda module: module, wire=None,
    )  # fmt: skip


def test_an_updates_parts_are_told_apart(subject):
    measurement = UpdateMeasurement(subject, subject.model, subject.alone, 8, seconds=0.2)
    measurement.take_turn()
    measurement.take_turn()
    update = measurement.result()
    assert update.compute.micro_batch == 8
    assert update.compute.forward_s == pytest.approx(0.010)
    assert update.compute.backward_s == pytest.approx(0.020)
    assert update.rest_s == pytest.approx(0.030)
    assert update.update_s == pytest.approx(0.060)


@pytest.mark.parametrize(("wire", "nbytes"), [(None, 120), (torch.float16, 60)])
def test_gradient_bytes_are_those_that_travel(subject, wire, nbytes):
    assert gradient_bytes(replace(subject, wire=wire)) == nbytes  # 3 x 10 weights


def test_measuring_leaves_the_weights_as_they_were(subject):
    UpdateMeasurement(subject, subject.model, subject.alone, 8, seconds=0.1).take_turn()
    assert torch.equal(subject.model.weight, torch.zeros(3, 10))


def test_an_evaluation_is_told_apart_by_the_images_that_a_share_really_has(subject):
    # of 30 images an eighth is 3, which take 35 ms; 0.2 s are worth 5 batches of 4, and half of the images are 15
    measured = replace(subject, model=Flat(), pipeline=Evaluated(30), validation_size=30)
    evaluation = measure_evaluation(measured, 4, seconds=0.8)
    assert evaluation.per_image_s == pytest.approx(0.005)
    assert evaluation.fixed_s == pytest.approx(0.02)
