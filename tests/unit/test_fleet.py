"""Fleets that change, and the plan of a run on them."""

from __future__ import annotations

import pytest

from trainer.rule import Fleet, FleetStep, Limits, NoiseCurve, NoiseDrop, PlanError, Reference, Schedule, plan_run

pytestmark = pytest.mark.unit

GROWING = Fleet((FleetStep(0, 128), FleetStep(30, 256)))


def test_a_step_holds_from_its_epoch_on():
    assert [GROWING.workers_at(epoch) for epoch in (0, 29, 30, 89)] == [128, 128, 256, 256]
    assert (GROWING.largest, GROWING.is_constant) == (256, False)
    assert (Fleet.of(8).workers_at(1000), Fleet.of(8).is_constant) == (8, True)


@pytest.mark.parametrize(
    ("fleet", "text"),
    [
        (Fleet.of(1), "1 worker"),
        (Fleet.of(8), "8 workers"),
        (GROWING, "128 workers, 256 from epoch 30"),
        (Fleet((FleetStep(0, 1), FleetStep(2, 4))), "1 worker, 4 from epoch 2"),
    ],
)
def test_a_fleet_in_words(fleet, text):
    assert str(fleet) == text


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((), "a fleet begins at epoch 0, and this one at no epoch"),
        (((1, 4),), "a fleet begins at epoch 0, and this one at 1"),
        (((0, 4), (3, 8), (3, 16)), r"the epochs \[0, 3, 3\] of a fleet must ascend"),
        (((0, 0),), "0 workers from epoch 0 on: a fleet has at least one worker"),
    ],
)
def test_a_fleet_that_is_none_is_refused(steps, message):
    with pytest.raises(PlanError, match=message):
        Fleet(tuple(FleetStep(epoch, workers) for epoch, workers in steps))


def test_the_papers_half_pod_and_full_pod_have_the_same_share_per_worker():
    """arXiv:1711.00489: 8192 for 30 epochs on half a pod (256 tensor cores), then 16384 on all of it."""
    drops = tuple(NoiseDrop(epoch, 10, "batch") for epoch in (30, 60, 80))
    schedule = Schedule(Reference(3.2, 8192), Limits(128, 16384), 1_281_167, 90, NoiseCurve("steps", drops=drops))
    plan = plan_run(schedule, Fleet((FleetStep(0, 256), FleetStep(30, 512))))
    assert {phase.global_batch // phase.world_size for phase in plan.phases} == {32}
    assert plan.total_updates == plan_run(schedule, 256).total_updates


def test_a_change_of_fleet_begins_a_phase_of_its_own():
    schedule = Schedule(Reference(0.1, 64), Limits(64), 6400, 4)
    plan = plan_run(schedule, Fleet((FleetStep(0, 2), FleetStep(1, 4))))
    assert [(p.first_epoch, p.last_epoch, p.world_size, p.updates) for p in plan.phases] == [
        (0, 0, 2, 100),
        (1, 3, 4, 300),
    ]
