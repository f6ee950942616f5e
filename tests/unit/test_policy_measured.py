"""What a schedule of the policy measured does with what it hears: the batch waits for the noise."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.listening_schedules import CIFAR, exactly, listening, noises, said, schedules
from trainer.rule import (
    GradientNoise,
    Growth,
    Heard,
    Limits,
    NoiseCurve,
    NoiseDrop,
    PlanError,
    Reference,
    Schedule,
    decide,
    plan_run,
)

pytestmark = pytest.mark.unit


def test_measured_begins_with_the_references_batch_however_bold_the_start():
    decision = decide(listening("measured", start_lr=0.5), 0, 1)
    assert said(decision) == (128, 0.1, "no measurement")
    assert decision.sgd_noise_scale == pytest.approx(390.625, rel=1e-12)
    assert said(decide(listening("planned", start_lr=0.5), 0, 1)) == (640, 0.5, "schedule")


@pytest.mark.parametrize(
    ("growth", "scale", "before", "batch", "limited_by"),
    [
        (Growth(), 1e6, 128, 256, "growth"),  # by the factor
        (Growth(), 1e6, 256, 512, "growth"),
        (Growth(), 1e6, 512, 640, "schedule"),  # never beyond what the schedule wants
        (Growth(factor=1.5), 1e6, 129, 193, "growth"),
        (Growth(), 200, 128, 200, "measured noise"),  # by the measurement
        (Growth(share=0.5), 500, 128, 250, "measured noise"),
        (Growth(1e308, 1e308), 1e6, 128, 640, "schedule"),  # no number is too large
        (Growth(share=3.0), 100, 128, 256, "growth"),
        (Growth(), 50, 512, 512, "measured noise"),  # it never shrinks for a smaller measurement
        (Growth(), 0, 300, 300, "measured noise"),
        (Growth(), None, 300, 300, "no measurement"),  # nor grows where nothing was heard
    ],
)
def test_measured_grows_by_a_factor_and_up_to_a_share_of_the_scale(growth, scale, before, batch, limited_by):
    noise = None if scale is None else exactly(scale)
    decision = decide(listening("measured", growth=growth), 60, 1, Heard(noise, before))
    assert (decision.plan.global_batch, decision.limited_by) == (batch, limited_by)
    assert decision.lr == pytest.approx(0.1 * batch / 640, rel=1e-12)
    assert decision.sgd_noise_scale == pytest.approx(78.125, rel=1e-12)


def test_the_lower_end_of_the_error_is_what_counts():
    # 400 - B is one error of 100 at B = 300
    decision = decide(listening("measured"), 60, 1, Heard(GradientNoise(400.0, 1.0, 100.0**2, 0.0, 0.0), 256))
    assert decision.plan.global_batch == 300


@pytest.mark.parametrize(
    ("cap", "named", "batch"), [(None, "dataset_size / 10", 5000), (4000, "max_global_batch", 4000)]
)
def test_the_other_limits_of_the_batch_stand(cap, named, batch):
    decision = decide(listening("measured", cap=cap), 160, 1, Heard(exactly(1e6), 3200))
    assert (decision.plan.global_batch, decision.limited_by) == (batch, named)


def test_a_schedule_that_wants_a_smaller_batch_has_it_and_grows_from_there():
    falls = NoiseCurve("steps", drops=(NoiseDrop(1, 0.25, "batch"), NoiseDrop(2, 4, "batch")))
    schedule = Schedule(Reference(0.1, 128), Limits(128), CIFAR, 3, falls, policy="measured")
    smaller = decide(schedule, 1, 1, Heard(exactly(1e6), 128))
    assert said(smaller) == (32, 0.1, "schedule")
    assert said(decide(schedule, 2, 1, Heard(exactly(1e6), 32))) == (64, 0.05, "growth")


@pytest.mark.parametrize("heard", [Heard(), Heard(exactly(1.0), 128), Heard(None, 64)])
def test_a_fleet_that_can_share_the_planned_batch_can_share_that_of_measured(heard):
    schedule = listening("measured", start_lr=0.4)
    limit = "no measurement" if heard.noise is None else "measured noise"
    assert said(decide(schedule, 0, 200, heard)) == (200, 0.15625, limit)


def test_measured_with_enough_noise_comes_to_the_planned_run():
    schedule, batch, batches = listening("measured"), None, []
    for epoch in range(58, 66):
        batch = decide(schedule, epoch, 1, Heard(exactly(1e6), batch)).plan.global_batch
        batches.append(batch)
    assert batches == [128, 128, 256, 512, 640, 640, 640, 640]


def test_a_plan_of_measured_is_that_of_planned_and_says_its_policy():
    planned, measured = plan_run(listening("planned"), 3), plan_run(listening("measured"), 3)
    assert (planned.policy, measured.policy) == ("planned", "measured")
    assert measured.phases == planned.phases


@settings(max_examples=60)
@given(schedules("measured"), noises, st.integers(0, 5), st.integers(1, 300), st.integers(1, 100_000))
def test_whatever_is_heard_g_is_on_the_curve_and_neither_batch_nor_lr_above_the_plan(
    schedule, noise, epoch, workers, before
):
    try:
        planned = decide(replace(schedule, policy="planned"), epoch, workers)
    except PlanError:
        return
    if workers > before:
        return
    try:
        decision = decide(schedule, epoch, workers, Heard(noise, before))
    except PlanError as error:
        pytest.fail(f"{error}, though the fleet shared {before} before")
    batch = decision.plan.global_batch
    assert decision.sgd_noise_scale == pytest.approx(planned.target_sgd_noise_scale, rel=1e-12)
    assert decision.target_sgd_noise_scale == planned.target_sgd_noise_scale
    assert batch <= planned.plan.global_batch
    assert decision.lr <= planned.lr * (1 + 1e-12)
    assert batch <= max(before, before * schedule.growth.factor * (1 + 1e-12))
    if noise is not None:
        assert batch <= max(before, schedule.growth.share * noise.at_least * (1 + 1e-12))
    if batch < planned.plan.global_batch:
        assert decision.limited_by in ({"no measurement"} if noise is None else {"growth", "measured noise"})
        # it never shrinks, but to a multiple of the workers
        assert batch > before - workers
