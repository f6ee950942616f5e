"""What a schedule of the policy adascale does with what it hears: lr and progress follow the gain."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.listening_schedules import CIFAR, exactly, listening, noises, said, schedules
from trainer.engine.run_state import RunState, epoch_ahead
from trainer.rule import (
    EpochDecision,
    Fleet,
    Heard,
    Limits,
    NoiseCurve,
    NoiseDrop,
    PlanError,
    Reference,
    Schedule,
    Start,
    decide,
    updates_in_epoch,
)

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("scale", "squared_norm", "gain"),
    [
        (0.0, 1.0, 1.0),  # no noise
        (128.0, 1.0, 2 / (1 / 5 + 1)),  # as much noise in the reference's batch as gradient
        (128.0, 1e-9, 2 / (1 / 5 + 1)),
        (12_800.0, 1.0, 101 / (100 / 5 + 1)),
        (1e12, 1.0, 5.0),  # nothing but noise
    ],
)
def test_lr_is_the_references_times_the_published_gain(scale, squared_norm, gain):
    # r = (s^2 + m^2) / (s^2 / S + m^2), with s^2 = scale / 128 m^2 and S = 640 / 128: arXiv:2007.05105
    heard = Heard(exactly(scale, squared_norm), 128, 60.0 * CIFAR)
    decision = decide(listening("adascale"), 60, 1, heard)
    assert decision.plan.global_batch == 640
    assert decision.gain == pytest.approx(gain, rel=1e-9)
    # the reference's batch would go on with lr / 5
    assert decision.lr == pytest.approx(gain * 0.02, rel=1e-9)
    assert decision.sgd_noise_scale == pytest.approx(78.125 * gain / 5, rel=1e-9)
    assert decision.target_sgd_noise_scale == pytest.approx(78.125, rel=1e-12)


def test_without_a_measurement_an_update_counts_as_one_of_the_references():
    decision = decide(listening("adascale", start_lr=0.5), 0, 1)
    assert (said(decision), decision.gain) == ((640, 0.1, "schedule"), 1.0)


def test_only_adascale_has_a_gain():
    heard = Heard(exactly(500), 128)
    assert decide(listening("measured"), 60, 1, heard).gain is None
    assert decide(listening("planned"), 60, 1, heard) == decide(listening("planned"), 60, 1)


@settings(max_examples=60)
@given(schedules("adascale"), noises, st.integers(0, 5), st.integers(1, 64))
def test_under_adascale_the_batch_is_the_planned_one_and_g_at_or_below_the_curve(schedule, noise, epoch, workers):
    try:
        planned = decide(replace(schedule, policy="planned"), epoch, workers)
    except PlanError:
        return
    decision = decide(schedule, epoch, workers, Heard(noise))
    ratio = decision.plan.global_batch / schedule.reference.global_batch
    assert decision.plan == planned.plan
    assert decision.lr <= planned.lr * (1 + 1e-12)
    assert decision.sgd_noise_scale <= decision.target_sgd_noise_scale * (1 + 1e-12)
    if ratio <= 1:  # as far as its samples
        assert decision.advance(schedule) == pytest.approx(decision.plan.global_batch, rel=1e-12)
    else:
        assert 1 - 1e-12 <= decision.gain <= ratio * (1 + 1e-12)


def run_out(schedule, noise) -> tuple[RunState, list[EpochDecision]]:
    """A run to its end that hears the same before every epoch but the first."""
    state, decisions = RunState(), []
    while (epoch := epoch_ahead(schedule, Fleet.of(1), state)) is not None:
        decision = decide(schedule, epoch, 1, state.heard)
        for _ in range(updates_in_epoch(schedule, decision, state.samples_seen, state.progress)):
            state = state.advanced(decision, schedule)
        decisions.append(decision)
        heard = Heard(noise, decision.plan.global_batch, state.progress)
        state = replace(state, next_epoch=epoch + 1, heard=heard)
    return state, decisions


def small(policy, drops=(), **more):
    """3 epochs of 1,000 samples by a reference of 100, begun with 200."""
    curve = NoiseCurve("steps", drops=drops) if drops else NoiseCurve()
    return Schedule(Reference(0.1, 100), Limits(400, 500), 1000, 3, curve, start=Start(0.2), policy=policy, **more)


def test_a_run_ends_when_its_updates_times_their_gains_are_the_schedules():
    # a scale of 100 / 3: gain (1/3 + 1) / (1/6 + 1) = 8/7; the 5 of the first epoch count as one each
    state, decisions = run_out(small("adascale"), exactly(100 / 3))
    assert decisions[0].gain == 1.0
    assert [decision.gain for decision in decisions[1:]] == pytest.approx([8 / 7] * 5)
    # 30 updates of the reference: 5 + 21 x 8/7 = 29, and one of 8/7 no longer fits
    assert (state.updates, state.progress) == (26, pytest.approx(2900))
    assert state.samples_seen == 26 * 200
    assert [decision.epoch for decision in decisions] == [0, 1, 2, 3, 4, 5]
    assert run_out(small("planned"), exactly(100 / 3))[0].updates == 15


@pytest.mark.parametrize("scale", [1e-13, 1e-12])
def test_a_last_update_that_fits_but_for_rounding_is_run(scale):
    # a gain of 1 but for the last bits: the 30 updates of the reference
    state, decisions = run_out(small("adascale"), exactly(scale))
    assert decisions[-1].gain > 1
    assert (state.updates, state.progress) == (30, pytest.approx(3000))


def test_what_falls_falls_by_progress_and_not_by_epoch():
    schedule = small("adascale", (NoiseDrop(1, 2, "lr"),))
    _, decisions = run_out(schedule, exactly(0.0))
    # every update counts as one: an epoch of 5 is half an epoch of the schedule
    assert [(d.epoch, d.lr) for d in decisions] == [(e, 0.1 if e < 2 else 0.05) for e in range(6)]
    # the same by a decision's own inputs, whatever the epoch is called
    for epoch in (0, 59, 60, 150):
        before, after = (decide(listening("adascale"), epoch, 1, Heard(None, 128, at)) for at in (2_999_999.0, 3e6))
        assert (before.plan.global_batch, after.plan.global_batch) == (128, 640)


def test_a_smooth_curve_falls_within_the_epochs_of_the_schedule():
    schedule = replace(small("adascale"), curve=NoiseCurve("cosine", "lr"))
    decision = decide(schedule, 4, 1, Heard(None, 200, 1500.0))
    assert decision.target_sgd_noise_scale == pytest.approx(0.5 * decide(schedule, 0, 1).target_sgd_noise_scale)


@settings(max_examples=25)
@given(st.floats(0, 1e4), st.integers(1, 3), st.sampled_from(["batch", "lr"]))
def test_a_run_of_adascale_reads_between_its_epochs_and_the_ratio_of_the_batches_times_them(scale, at, lever):
    schedule = small("adascale", (NoiseDrop(at, 2, lever),))
    state, decisions = run_out(schedule, exactly(scale))
    assert 3000 - decisions[-1].advance(schedule) < state.progress <= 3000 + 1e-3
    largest = max(decision.plan.global_batch for decision in decisions)
    assert 3000 - largest <= state.samples_seen <= 3000 * largest / 100
