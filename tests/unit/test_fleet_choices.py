"""What a schedule takes on fleets of many sizes, fixed and growing, against arithmetic by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.simple_calibration import calibration_of
from trainer.config import load_config
from trainer.rule import Fleet, FleetStep
from trainer.rule.fleet_choices import fixed_fleets, growing_fleet, growing_fleets

pytestmark = pytest.mark.unit

TIMES = calibration_of(load_config("digits-hybrid")).step_times()
# Nothing but samples costs time, and no worker's share is too small for the measurement.
SAMPLES_ALONE = replace(TIMES, update_overhead_s=0.0, all_reduce=(), evaluation_s_per_image=0.0, epoch_s=0.0)


def schedule_of(preset, *overrides):
    config = load_config(preset, overrides)
    return config.rule_schedule(config.data.train_size)


def steps(fleet):
    return [(step.epoch, step.workers) for step in fleet.steps]


def test_fixed_fleets_double_from_8_to_4096_workers():
    said = fixed_fleets(schedule_of("imagenet-rn50-8192"), TIMES, per_node=8)
    assert [choice.fleet.largest for choice in said.choices] == [8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]
    assert said.left_out == ()


def test_fleets_that_cannot_share_the_batch_are_left_out_with_the_reason():
    said = fixed_fleets(schedule_of("digits-hybrid"), TIMES, per_node=8)
    assert [choice.fleet.largest for choice in said.choices] == [8, 16]  # of 16 samples
    assert [fleet.largest for fleet, _ in said.left_out] == [32, 64, 128, 256, 512, 1024, 2048, 4096]
    assert said.left_out[0][1].startswith("epoch 0: 32 workers cannot share a global batch of 16 samples")


def test_a_choice_has_the_seconds_and_the_worker_hours_of_its_prediction():
    # at 8 workers: 900 updates of 2 samples each, 420 of 6: 1.8 + 2.52 thousand samples of 1.25 ms, overhead, epochs
    first = fixed_fleets(schedule_of("digits-hybrid"), replace(TIMES, all_reduce=()), per_node=8).choices[0]
    gradients = 1320 * (14 * 1e-3 + 14 / 8 * 1e-3)  # a ring of 8: 2 x 7 latencies of 1 ms, and 2 x 7/8 of 1 MB
    evaluation = 24 * (13 * 0.001 + 0.05)  # 100 images over 8 workers, rounded up
    assert first.seconds == pytest.approx(4320 * 0.00125 + 13.20 + gradients + evaluation)
    assert first.worker_hours == pytest.approx(8 * first.seconds / 3600)
    assert not first.is_measured


def test_a_growing_fleet_keeps_each_workers_share_of_the_batch():
    schedule = schedule_of("cifar10-increase-batch")  # 128, 640, 3200, 16000 from epochs 60, 120, 160 on
    assert steps(growing_fleet(schedule, 8)) == [(0, 8), (60, 40), (120, 200), (160, 1000)]
    assert steps(growing_fleet(schedule, 64)) == [(0, 64), (60, 320), (120, 1600), (160, 4096)]
    assert steps(growing_fleet(schedule, 8, most=100)) == [(0, 8), (60, 40), (120, 100)]


def test_a_fleet_follows_the_batch_where_it_falls_back_too():
    drops = "schedule.curve.drops=[{epoch: 10, divide_by: 4, by: batch}, {epoch: 20, divide_by: 0.25, by: batch}]"
    assert steps(growing_fleet(schedule_of("digits-hybrid", drops), 2)) == [(0, 2), (10, 8), (20, 2)]


def test_only_a_batch_that_grows_has_growing_fleets():
    assert growing_fleets(schedule_of("imagenet-rn50-8192"), TIMES, per_node=8).choices == ()
    said = growing_fleets(schedule_of("imagenet-rn50-8192-16384"), TIMES, per_node=8)
    # 4,096 workers are the most already, and stay as they are
    assert [choice.fleet.steps[0].workers for choice in said.choices] == [8, 16, 32, 64, 128, 256, 512, 1024, 2048]
    assert said.choices[-1].fleet == Fleet((FleetStep(0, 2048), FleetStep(30, 4096)))
    assert said.left_out == ()


def test_where_samples_alone_cost_time_a_growing_fleet_is_sooner_at_the_same_worker_hours():
    schedule = schedule_of("imagenet-rn50-8192-16384")
    times = replace(SAMPLES_ALONE, gradient_bytes=0, fabric=replace(SAMPLES_ALONE.fabric, within=None))
    fixed, grown = (f(schedule, times, 8).choices[4] for f in (fixed_fleets, growing_fleets))
    assert steps(grown.fleet) == [(0, 128), (30, 256)]
    # a third of the samples on 128 workers, two thirds on 256: 1/3 + 1/3 of the time
    assert grown.seconds == pytest.approx(fixed.seconds * 2 / 3, rel=1e-4)  # epochs are not whole updates
    assert grown.worker_hours == pytest.approx(fixed.worker_hours, rel=1e-12)
