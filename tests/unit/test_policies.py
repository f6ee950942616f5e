"""What a schedule does with what it hears: the batch waits for the noise, or lr and progress follow AdaScale's gain."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.engine.run_state import RunState, epoch_ahead
from trainer.rule import (
    AdamConstants,
    EpochDecision,
    Fleet,
    GradientNoise,
    Growth,
    Heard,
    Limits,
    NoiseCurve,
    NoiseDrop,
    PlanError,
    Reference,
    Schedule,
    Start,
    decide,
    plan_run,
    updates_in_epoch,
)

pytestmark = pytest.mark.unit

CIFAR = 50_000


def listening(policy, *levers, cap=None, start_lr=None, form="large_dataset", **more):
    """The paper's CIFAR-10 curve, g / 5 at 60, 120 and 160, with a lever for each step; the batch by default."""
    drops = tuple(
        NoiseDrop(epoch, 5, lever) for epoch, lever in zip((60, 120, 160), levers or ("batch",) * 3, strict=True)
    )
    return Schedule(
        Reference(0.1, 128, 0.9),
        Limits(2048, cap),
        CIFAR,
        204.8,
        NoiseCurve("steps", "batch", drops),
        form,
        start=Start(start_lr),
        policy=policy,
        **more,
    )


def exactly(scale, squared_norm=1.0):
    """A measurement without an error."""
    return GradientNoise(scale * squared_norm, squared_norm, 0.0, 0.0, 0.0)


def said(decision):
    return decision.plan.global_batch, decision.lr, decision.limited_by


# --- measured ---


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


noises = st.none() | st.builds(
    lambda trace, norm, trace_error, norm_error, correlation: GradientNoise(
        trace, norm, trace_error**2, norm_error**2, correlation * trace_error * norm_error
    ),
    st.floats(-1, 1e5),
    st.floats(-1, 10),
    st.floats(0, 1e3),
    st.floats(0, 3),
    st.floats(-0.99, 0.99),
)
lever = st.sampled_from(["batch", "lr", "momentum"])
curves = st.one_of(
    st.builds(NoiseCurve, st.sampled_from(["constant", "cosine", "linear"]), lever),
    st.builds(
        lambda at, by, lever: NoiseCurve("steps", drops=(NoiseDrop(at, by, lever),)),
        st.integers(0, 5), st.floats(0.2, 20), lever,
    ),
)  # fmt: skip


@st.composite
def schedules(draw, policy):
    """Whose workers take any batch at once: then a smaller wish never ends in a larger batch."""
    size = draw(st.integers(1_000, 1_000_000))
    curve = draw(curves)
    forms = ["large_dataset", "exact"]
    if policy == "measured" and "momentum" not in curve.levers:
        forms.append("square_root")
    form = draw(st.sampled_from(forms))
    return Schedule(
        Reference(draw(st.floats(1e-3, 10)), draw(st.integers(1, size // 2)), draw(st.floats(0, 0.99))),
        Limits(size, draw(st.none() | st.integers(1, size)), draw(st.none() | st.floats(1e-3, 10))),
        size,
        6,
        curve,
        form,
        start=Start(draw(st.none() | st.floats(1e-3, 10))),
        adam=AdamConstants() if form == "square_root" else None,
        policy=policy,
        growth=Growth(draw(st.floats(1.01, 10)), draw(st.floats(0.1, 10))),
    )


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


# --- adascale ---


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
