"""Seconds of an update and of a run: arithmetic on paper, and tables that others have published."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from trainer.rule import BatchPlan, Fleet, FleetStep, Limits, NoiseCurve, NoiseDrop, PlanError, Reference, Schedule
from trainer.rule.all_reduce import AllReduceTime, Fabric, Link, fit_nonnegative
from trainer.rule.run_plan import plan_run
from trainer.rule.step_time import ComputeTime, StepTimes, predict_run, predict_update

pytestmark = pytest.mark.unit

IMAGENET = 1_281_167


def compute(*seconds, spread=0.0):
    """{micro-batch: seconds}, a third of it forward."""
    return tuple(ComputeTime(size, s / 3, 2 * s / 3, spread) for size, s in sorted(dict(seconds).items()))


def measured(**changes):
    """A worker of 10 ms + 1 ms a sample, alone, nothing else costs anything."""
    times = StepTimes(
        compute=compute((10, 0.020), (20, 0.030), (40, 0.050)),
        update_overhead_s=0.0,
        gradient_bytes=1_000_000,
        fabric=Fabric(None, None),
        all_reduce=(),
        hidden_share=0.0,
        input_s_per_batch=0.0,
        input_images_per_s=1e9,
        input_sharing=0.0,
        evaluation_s_per_image=0.0,
        validation_size=0,
        epoch_s=0.0,
        workers=1,
        nodes=1,
    )
    return replace(times, **changes)


# MXNet 1.2, ResNet-50 training, images/s at micro-batch 1, 2, 4, 8, 16, 32
PUBLISHED = {
    "K80": (15.61, 23.88, 32.26, 39.42, 46.69, 49.48),
    "M60": (20.55, 32.65, 45.57, 54.92, 64.44, 68.34),
}


@pytest.mark.parametrize("gpu", PUBLISHED)
def test_two_published_rates_give_the_others_within_5_percent(gpu):
    seconds = {size: size / rate for size, rate in zip((1, 2, 4, 8, 16, 32), PUBLISHED[gpu], strict=True)}
    ends = measured(compute=compute((1, seconds[1]), (32, seconds[32])))
    for size in (2, 4, 8, 16):
        assert predict_update(BatchPlan(size, 1, 1), ends, 1).seconds == pytest.approx(seconds[size], rel=0.05)


# NCSA HAL, four V100 a node, ResNet-50, 90 epochs, micro-batch 208: minutes by workers
HAL = {2: 1236.9, 4: 658.9, 8: 348.4, 16: 182.8, 32: 110.9, 64: 67.9}


def test_the_smallest_and_the_largest_published_fleet_give_those_between_within_5_percent():
    updates = {workers: 90 * IMAGENET / (208 * workers) for workers in HAL}
    seconds = {workers: 60 * minutes / updates[workers] for workers, minutes in HAL.items()}
    # Two unknowns from two fleets: what a worker does by itself, and the latency of a ring in which all take part.
    rows = [[1.0, 2.0 * (workers - 1)] for workers in (2, 64)]
    alone, latency = fit_nonnegative(rows, [seconds[2], seconds[64]])
    times = measured(
        compute=compute((104, alone / 2), (208, alone)),
        fabric=Fabric(None, Link(latency, 0.0)),
        all_reduce=tuple(AllReduceTime(w, w, 1_000_000, 2 * (w - 1) * latency) for w in (2, 64)),
    )
    for workers, minutes in HAL.items():
        update = predict_update(BatchPlan(208, 1, workers), times, nodes=workers)
        assert update.seconds * updates[workers] / 60 == pytest.approx(minutes, rel=0.05)


def test_between_measured_micro_batches_time_follows_the_straight_line():
    assert predict_update(BatchPlan(15, 2, 1), measured(), 1).seconds == pytest.approx(2 * 0.025)
    assert predict_update(BatchPlan(20, 3, 1), measured(), 1).seconds == pytest.approx(3 * 0.030)


@pytest.mark.parametrize(("micro_batch", "seconds"), [(80, 0.090), (400, 0.410), (5, 0.015)])
def test_beyond_the_measured_micro_batches_the_fitted_line_goes_on(micro_batch, seconds):
    assert predict_update(BatchPlan(micro_batch, 1, 1), measured(), 1).seconds == pytest.approx(seconds)


def test_no_micro_batch_takes_less_than_its_share_of_the_smallest_measured():
    steep = measured(compute=compute((10, 0.001), (20, 0.011), (40, 0.031)))  # the line would be below 0 at 5
    assert predict_update(BatchPlan(5, 1, 1), steep, 1).seconds == pytest.approx(0.0005)


def test_the_backward_hides_as_much_of_the_all_reduce_as_was_measured():
    # On 2 workers a ring of 1 MB at 50 MB/s takes 20 ms; the last backward at micro-batch 20 takes 20 ms too.
    fabric = Fabric(Link(0.0, 1 / 50e6), None)
    pairs = ((0.0, 0.020), (0.25, 0.015), (1.0, 0.0))
    for hidden, exposed in pairs:
        update = predict_update(BatchPlan(20, 3, 2), measured(fabric=fabric, hidden_share=hidden), 1)
        assert update.all_reduce_s == pytest.approx(exposed)
        assert update.compute_s == pytest.approx(0.090)


def test_what_is_longer_than_the_backward_cannot_hide_behind_it():
    fabric = Fabric(Link(0.0, 1 / 10e6), None)  # 100 ms against a backward of 20 ms
    update = predict_update(BatchPlan(20, 1, 2), measured(fabric=fabric, hidden_share=1.0), 1)
    assert update.all_reduce_s == pytest.approx(0.080)
    assert update.bound == "all-reduce"


@pytest.mark.parametrize(
    ("rate", "sharing", "seconds", "bound"),
    [
        (1000, 0.0, 0.030, "compute"),  # 20 images in 20 ms, all beside the work
        (1000, 1.0, 0.050, "compute"),  # the same on the cores that train
        (1000, 0.5, 0.040, "compute"),
        (200, 0.0, 0.100, "input"),
        (200, 1.0, 0.130, "input"),
    ],
)
def test_an_update_takes_at_least_as_long_as_its_images_take_to_arrive(rate, sharing, seconds, bound):
    update = predict_update(BatchPlan(20, 1, 1), measured(input_images_per_s=rate, input_sharing=sharing), 1)
    assert update.seconds == pytest.approx(seconds)
    assert update.bound == bound


def test_every_micro_batch_costs_the_input_something_of_its_own():
    times = measured(input_s_per_batch=0.004, input_images_per_s=1000, input_sharing=1.0)
    assert predict_update(BatchPlan(20, 3, 1), times, 1).seconds == pytest.approx(3 * (0.030 + 0.004 + 0.020))


def test_workers_share_nodes_as_in_the_fullest_of_the_measured_fleets():
    fleets = tuple(AllReduceTime(workers, nodes, 1000, 0.001) for workers, nodes in ((8, 1), (16, 4)))
    assert measured(all_reduce=fleets).per_node == 8
    assert measured().per_node == 1


def test_an_error_of_the_all_reduce_counts_as_far_as_it_shows():
    # Backward 20 ms, half of what it hides hidden. 10 ms: 5 % of them, half hidden. 40 ms, of which 10 hidden: 5 %.
    sizes = compute((10, 0.020), (20, 0.030), (40, 0.050))
    for seconds, unsure, whole in ((0.010, 0.005, 0.035), (0.040, 0.040, 0.060)):
        fabric = Fabric(Link(0.0, seconds / 1e6), None, error=0.05)
        update = predict_update(BatchPlan(20, 1, 2), measured(compute=sizes, fabric=fabric, hidden_share=0.5), 1)
        assert update.seconds == pytest.approx(whole)
        assert update.error == pytest.approx(0.05 * unsure / whole)


def test_many_tiny_updates_are_bound_by_their_overhead():
    update = predict_update(BatchPlan(10, 1, 1), measured(update_overhead_s=0.1), 1)
    assert (update.seconds, update.bound) == (pytest.approx(0.120), "overhead")


def test_the_error_is_how_wrong_the_neighbours_are_about_a_size_that_was_left_out():
    bent = measured(compute=compute((10, 0.020), (20, 0.040), (40, 0.050)))  # neighbours of 20 would say 30 ms
    assert predict_update(BatchPlan(30, 1, 1), bent, 1).error == pytest.approx(0.25)
    assert predict_update(BatchPlan(30, 1, 1), measured(), 1).error == pytest.approx(0.0, abs=1e-9)
    two_sizes = measured(compute=compute((10, 0.020), (40, 0.050)))
    assert predict_update(BatchPlan(30, 1, 1), two_sizes, 1).error is None


def test_at_a_measured_size_the_error_is_the_spread_of_its_repeats():
    repeated = measured(compute=compute((10, 0.020), (20, 0.030), (40, 0.050), spread=0.03))
    assert predict_update(BatchPlan(20, 1, 1), repeated, 1).error == pytest.approx(0.03)


def growing(cap=1600):
    """1,000 images, 2 epochs at batch 40, then at 200: 25 + 25 + 5 + 5 updates."""
    curve = NoiseCurve("steps", drops=(NoiseDrop(2, 5, "batch"),))
    return Schedule(Reference(0.1, 40), Limits(40, cap), 1000, 4, curve)


def test_a_run_takes_its_updates_its_evaluations_and_its_epochs():
    times = measured(evaluation_s_per_image=0.001, validation_size=100, epoch_s=0.5)
    run = predict_run(plan_run(growing(), 1), times)
    # 50 updates of one micro-batch of 40 (50 ms); 10 of five of them (250 ms)
    assert [phase.phase.updates * phase.update.seconds for phase in run.phases] == pytest.approx([2.5, 2.5])
    assert run.seconds == pytest.approx(2.5 + 2.5 + 4 * (0.1 + 0.5))
    assert run.worker_hours == pytest.approx(run.seconds / 3600)
    assert run.phases[0].images_per_s == pytest.approx(40 / 0.050)
    assert run.notes == ()


def test_at_a_fixed_fleet_a_bigger_batch_saves_nothing_on_a_saturated_worker_and_a_growing_fleet_does():
    schedule = growing()
    fixed = predict_run(plan_run(schedule, 1), measured())
    grown = predict_run(plan_run(schedule, Fleet((FleetStep(0, 1), FleetStep(2, 5)))), measured())
    assert fixed.phases[1].seconds == pytest.approx(fixed.phases[0].seconds)
    assert grown.phases[1].seconds == pytest.approx(fixed.phases[1].seconds / 5)
    assert grown.worker_hours == pytest.approx(fixed.worker_hours)


def test_a_prediction_says_how_far_it_lies_outside_of_what_was_measured():
    schedule = replace(growing(), reference=Reference(0.1, 80), limits=Limits(80, 800))
    times = measured(fabric=Fabric(Link(1e-5, 1e-9), None), all_reduce=(AllReduceTime(2, 1, 1000, 0.001),), workers=2)
    notes = predict_run(plan_run(schedule, 16), times).notes
    assert notes == (
        "micro-batch 5 lies 2 times below what was measured (10 to 40)",
        "16 workers are 8 times the 2 whose all-reduce was measured",
        "no all-reduce was measured between nodes: it is taken to be as fast as within one",
    )
    (above,) = predict_run(plan_run(schedule, 1), times).notes
    assert above == "micro-batch 80 lies 2 times above what was measured (10 to 40)"


def test_what_one_worker_cannot_tell_of_a_fleet_is_said():
    fabric, added = Fabric(Link(1e-5, 1e-9), None), (AllReduceTime(4, 1, 1000, 0.001),)
    times = measured(fabric=fabric, all_reduce=added, workers=1)
    assert predict_run(plan_run(growing(), 4), times).notes == (
        "4 workers share a node, and 1 did where compute and input were measured: what they take from each other is "
        "not counted",
        "how much of the all-reduce the backward hides was not measured, so none is: calibrate under a launcher",
    )
    assert predict_run(plan_run(growing(), 1), times).notes == ()


def test_a_fleet_without_a_measured_all_reduce_is_told_so():
    assert (
        "no all-reduce was measured, so none is counted: calibrate under a launcher"
        in predict_run(plan_run(growing(), 2), measured()).notes
    )


def test_workers_that_a_node_was_never_measured_with_are_named():
    times = measured(fabric=Fabric(None, Link(1e-5, 1e-9)), all_reduce=(AllReduceTime(2, 2, 1000, 0.001),), workers=2)
    notes = predict_run(plan_run(growing(), 2), times, per_node=2).notes
    assert notes == ("no all-reduce was measured with 2 workers a node: what they add is not counted",)


@pytest.mark.parametrize(("forward_s", "backward_s"), [(0.0, 0.1), (0.1, 0.0), (-0.1, 0.2), (0.1, float("inf"))])
def test_a_forward_or_backward_that_takes_no_time_was_never_measured(forward_s, backward_s):
    with pytest.raises(PlanError, match=r"a micro-batch of 8 samples, .* was never measured: calibrate again"):
        ComputeTime(8, forward_s, backward_s)


@pytest.mark.parametrize("sizes", [(), (8,), (8, 8), (16, 8)])
def test_step_times_need_two_ascending_micro_batches(sizes):
    with pytest.raises(PlanError, match="must be two at least, and ascend: calibrate again"):
        measured(compute=tuple(ComputeTime(size, 0.1, 0.1) for size in sizes))


def test_time_never_falls_when_a_worker_gets_more_samples():
    seconds = [predict_update(BatchPlan(size, 1, 1), measured(), 1).seconds for size in range(1, 200)]
    assert all(later >= earlier for earlier, later in itertools.pairwise(seconds))
