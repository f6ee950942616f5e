"""The coordinator's promise: g is met exactly, whatever the fleet, within every limit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.rule import (
    AdamConstants,
    EpochDecision,
    Fleet,
    Limits,
    NoiseCurve,
    NoiseDrop,
    PlanError,
    Reference,
    Schedule,
    Start,
    Warmup,
    decide,
)
from trainer.rule.run_plan import plan_run, walk

pytestmark = pytest.mark.unit

CIFAR = 50_000


def stepped(*levers, cap=None, max_lr=None, reference=None, form="large_dataset", max_micro_batch=128, **more):
    """The paper's CIFAR-10 curve, g / 5 at 60, 120 and 160, with a lever for each step."""
    drops = tuple(NoiseDrop(epoch, 5, lever) for epoch, lever in zip((60, 120, 160), levers, strict=True))
    return Schedule(
        reference=reference or Reference(0.1, 128, 0.9),
        limits=Limits(max_micro_batch, cap, max_lr),
        dataset_size=CIFAR,
        epochs=204.8,
        curve=NoiseCurve("steps", "batch", drops),
        form=form,
        **more,
    )


def phases(schedule, world_size=1):
    return [(phase.global_batch, phase.lr, phase.momentum) for phase in plan_run(schedule, world_size).phases]


@pytest.mark.parametrize(
    ("schedule", "expected", "updates"),
    [  # arXiv:1711.00489, sections 5.1 and 5.2
        (stepped("lr", "lr", "lr"), [(128, 0.1), (128, 0.02), (128, 0.004), (128, 0.0008)], 80_000),
        (stepped("batch", "lr", "lr"), [(128, 0.1), (640, 0.1), (640, 0.02), (640, 0.004)], 34_750),
        (
            stepped("batch", "batch", "batch", cap=CIFAR),
            [(128, 0.1), (640, 0.1), (3200, 0.1), (16_000, 0.1)],
            28_890,
        ),
        (stepped("batch", "batch", "batch", cap=5120), [(128, 0.1), (640, 0.1), (3200, 0.1), (5120, 0.032)], 29_188),
        (
            stepped("batch", "batch", "batch", cap=5120, start=Start(lr=0.5)),
            [(640, 0.5), (3200, 0.5), (5120, 0.16), (5120, 0.032)],
            6_453,
        ),
        (
            stepped("batch", "batch", "batch", cap=5120, start=Start(lr=0.5, momentum=0.98)),
            [(3200, 0.5), (5120, 0.16), (5120, 0.032), (5120, 0.0064)],
            2_352,
        ),
    ],
)
def test_the_papers_cifar_schedules_come_out_to_the_update(schedule, expected, updates):
    plan = plan_run(schedule, 1)
    assert [(phase.global_batch, phase.lr) for phase in plan.phases] == expected
    assert plan.total_updates == pytest.approx(updates, abs=3)  # the stream never breaks: fractional counts
    assert [phase.first_epoch for phase in plan.phases] == [0, 60, 120, 160]
    assert plan.phases[-1].last_epoch == 204


@pytest.mark.parametrize(
    ("start", "first_phase"),
    [  # B in proportion to lr, and to 1/(1-m)
        (Start(), (128, 0.1, 0.9)),
        (Start(lr=3.2), (4096, 3.2, 0.9)),
        (Start(momentum=0.95), (256, 0.1, 0.95)),
        (Start(momentum=0.8), (64, 0.1, 0.8)),
        (Start(lr=0.2, momentum=0.98), (1280, 0.2, 0.98)),
        (Start(lr=0.05, momentum=0), (6, 0.05 * 6 / 6.4, 0)),  # 6.4 samples are 6, and lr absorbs the rest
    ],
)
def test_another_start_on_the_same_curve_takes_the_batch_that_keeps_g(start, first_phase):
    schedule = stepped("batch", "batch", "batch", start=start)
    assert phases(schedule)[0] == pytest.approx(first_phase, rel=1e-12)
    assert decide(schedule, 0, 1).sgd_noise_scale == pytest.approx(390.625, rel=1e-12)


def test_momentum_may_rise_between_epochs_and_the_batch_with_it():
    curve = NoiseCurve("steps", drops=(NoiseDrop(2, 0.2, "momentum"), NoiseDrop(2, 5, "batch")))
    assert phases(Schedule(Reference(0.1, 128), Limits(128), CIFAR, 4, curve)) == [(128, 0.1, 0.9), (640, 0.1, 0.98)]


def adam(reference_momentum=0.9, beta2=0.999, **more):
    """The paper's Adam: lr / 100."""
    return {
        "reference": Reference(0.001, 128, reference_momentum),
        "form": "square_root",
        "adam": AdamConstants(beta2, 1e-8),
    } | more


def test_under_the_square_root_rule_a_fall_of_lr_by_2_is_a_batch_4_times_as_large():
    curve = NoiseCurve("steps", drops=(NoiseDrop(1, 2, "batch"), NoiseDrop(2, 2, "lr")))
    schedule = Schedule(limits=Limits(128), dataset_size=CIFAR, epochs=3, curve=curve, **adam())
    decisions = [decide(schedule, epoch, 1) for epoch in range(3)]
    assert [(d.plan.global_batch, d.lr) for d in decisions] == [(128, 0.001), (512, 0.001), (512, 0.0005)]
    # lr sqrt(N/B): arXiv:2205.10287
    assert [d.sgd_noise_scale for d in decisions] == pytest.approx(
        [0.001 * (CIFAR / 128) ** 0.5 / k for k in (1, 2, 4)]
    )
    # 4 times the batch: 1 - 4 (1 - beta), eps / 2
    assert [d.momentum for d in decisions] == pytest.approx([0.9, 0.6, 0.6])
    assert [d.adam.beta2 for d in decisions] == pytest.approx([0.999, 0.996, 0.996])
    assert [d.adam.eps for d in decisions] == pytest.approx([1e-8, 5e-9, 5e-9])


def test_the_batch_stops_where_a_beta_of_adam_would_fall_below_0():
    phases = plan_run(stepped("batch", "lr", "lr", **adam(), cap=CIFAR), 1).phases
    # x 25 in batch is asked for; beta1 = 0.9 allows x 10, which takes sqrt(10) of the fall, and lr the rest
    assert [(p.global_batch, p.limited_by) for p in phases[:2]] == [(128, "schedule"), (1280, "Adam's betas")]
    assert phases[1].lr == pytest.approx(0.001 * 10**0.5 / 5)
    assert phases[1].momentum == 0
    without_beta1 = plan_run(stepped("batch", "lr", "lr", **adam(reference_momentum=0), cap=CIFAR), 1).phases
    assert [(p.global_batch, p.momentum) for p in without_beta1[:2]] == [(128, 0), (3200, 0)]


@pytest.mark.parametrize(
    "more", [{"start": Start(momentum=0.5)}, {"curve": NoiseCurve("steps", drops=(NoiseDrop(1, 2, "momentum"),))}]
)
def test_momentum_is_no_lever_under_the_square_root_rule(more):
    with pytest.raises(PlanError, match=r"\(beta1\) follows the batch: use the levers batch and lr"):
        Schedule(limits=Limits(128), dataset_size=CIFAR, epochs=3, **adam(), **more)


def test_imagenet_at_the_cap_splits_a_fall_between_batch_and_lr():
    # 32768 -> 65536 is x2 in batch, so lr falls by 5; both later drops are lr / 10 (shared table of the paper)
    schedule = Schedule(
        Reference(3.0, 32_768, 0.975),
        Limits(64, 65_536),
        1_281_167,
        90,
        NoiseCurve("steps", "batch", tuple(NoiseDrop(epoch, 10) for epoch in (30, 60, 80))),
    )
    assert [(b, lr) for b, lr, _ in phases(schedule, 256)] == [
        (32_768, 3.0),
        (65_536, 0.6),
        (65_536, 0.06),
        (65_536, 0.006),
    ]


def test_the_batch_is_capped_at_a_tenth_of_the_dataset_unless_set():
    plan = plan_run(stepped("batch", "batch", "batch"), 1)
    assert [(p.global_batch, p.limited_by) for p in plan.phases] == [
        (128, "schedule"),
        (640, "schedule"),
        (3200, "schedule"),
        (5000, "dataset_size / 10"),
    ]
    assert plan.phases[-1].lr == pytest.approx(0.1 * 5000 / 16_000)


def test_momentum_as_a_lever_and_what_it_cannot_take_goes_to_lr():
    # 1-m: 0.1 -> 0.5 takes a factor of 5; the next factor of 5 takes 0.5 -> 1 (2) and lr the other 2.5; then lr alone
    assert phases(stepped("momentum", "momentum", "momentum")) == [
        (128, 0.1, 0.9),
        (128, 0.1, 0.5),
        (128, 0.04, 0.0),
        (128, 0.008, 0.0),
    ]


def test_raising_the_noise_lowers_the_batch_or_raises_lr():
    def raised(lever):
        return Schedule(
            Reference(0.1, 128), Limits(128), CIFAR, 10, NoiseCurve("steps", drops=(NoiseDrop(5, 0.5, lever),))
        )

    assert phases(raised("batch"))[1] == (64, 0.1, 0.9)
    assert phases(raised("lr"))[1] == (128, 0.2, 0.9)
    assert phases(raised("momentum"))[1] == (128, 0.1, 0.95)


def test_lr_above_its_limit_takes_a_smaller_batch_instead():
    schedule = Schedule(Reference(3.0, 8192), Limits(256, max_lr=1.5), 1_281_167, 1)
    decision = decide(schedule, 0, 1)
    assert (decision.plan.global_batch, decision.lr, decision.limited_by) == (4096, 1.5, "max_lr")


def test_rounding_to_the_fleet_is_absorbed_by_lr():
    decision = decide(stepped("lr", "lr", "lr"), 0, 3)
    assert (decision.plan.global_batch, decision.limited_by) == (126, "world_size")
    assert decision.lr == pytest.approx(0.1 * 126 / 128)
    assert decision.sgd_noise_scale == pytest.approx(390.625, rel=1e-12)


def test_too_many_workers_for_a_batch_are_told_how_many_fit():
    with pytest.raises(
        PlanError, match="epoch 0: 500 workers cannot share a global batch of 256 samples: run at most 256"
    ):
        decide(Schedule(Reference(0.1, 256), Limits(32), CIFAR, 1), 0, 500)


def test_an_update_belongs_to_the_epoch_in_which_it_starts_or_to_none():
    # 900 of 1,600 samples are taken in epoch 0; 700 are left, less than an update of epoch 0, so the run ends there,
    # although the smaller batch of epoch 1 would fit
    raised = NoiseCurve("steps", drops=(NoiseDrop(1, 0.5, "batch"),))
    schedule = Schedule(Reference(0.1, 900), Limits(900, 1000), 1000, 1.6, raised)
    walked = walk(schedule, Fleet.of(1))
    assert [(decision.epoch, position, updates) for decision, position, updates in walked] == [(0, 0, 1)]


def test_an_update_may_be_longer_than_what_is_left_of_its_epoch_and_the_next():
    # 600 samples an update: they start at 0, 600, 1200, 1800 and 2400 of 3,000
    schedule = Schedule(Reference(0.1, 600), Limits(600, 1000), 1000, 3)
    walked = walk(schedule, Fleet.of(1))
    assert [(decision.epoch, position, updates) for decision, position, updates in walked] == [
        (0, 0, 2),
        (1, 1200, 2),
        (2, 2400, 1),
    ]


def test_a_run_shorter_than_an_update_is_refused():
    with pytest.raises(PlanError, match=r"0\.01 epochs of 1440 samples are less than one update: give more epochs"):
        plan_run(Schedule(Reference(0.1, 16), Limits(16), 1440, 0.01), 1)


@pytest.mark.parametrize(
    "curve",
    [
        NoiseCurve("polynomial", power=400),
        NoiseCurve("steps", drops=(NoiseDrop(1, 1e200), NoiseDrop(2, 1e200))),
        NoiseCurve("steps", drops=(NoiseDrop(1, 1e-200), NoiseDrop(2, 1e-200))),
        NoiseCurve("steps", drops=(NoiseDrop(1, 1e-200, "lr"), NoiseDrop(2, 1e200, "momentum"))),
    ],
)
def test_a_noise_scale_beyond_numbers_is_refused(curve):
    with pytest.raises(PlanError, match="which no lr and batch can follow: change the curve"):
        plan_run(Schedule(Reference(0.1, 16), Limits(16), 1440, 10, curve), 1)


def test_a_decision_survives_its_journey_as_text():
    adams = decide(stepped("batch", "lr", "lr", **adam()), 61, 3)
    assert EpochDecision.from_json(adams.to_json()) == adams
    decision = decide(stepped("batch", "lr", "lr"), 61, 3)
    assert EpochDecision.from_json(decision.to_json()) == decision
    assert EpochDecision.from_json(decision.to_json()).digest() == decision.digest()
    assert replace(decision, lr=decision.lr * (1 + 2**-52)).digest() != decision.digest()


levers = st.sampled_from(["batch", "lr", "momentum"])
curves = st.one_of(
    st.builds(
        NoiseCurve, st.sampled_from(["constant", "cosine", "linear", "polynomial"]), levers, power=st.floats(0.5, 400)
    ),
    st.lists(
        st.tuples(st.integers(0, 9), st.floats(0.5, 20), levers), min_size=1, max_size=4, unique_by=lambda d: d[::2]
    ).map(lambda drops: NoiseCurve("steps", "batch", tuple(NoiseDrop(*drop) for drop in sorted(drops)))),
)


@st.composite
def schedules(draw):
    size = draw(st.integers(1_000, 2_000_000))
    curve = draw(curves)
    form = draw(st.sampled_from(["large_dataset", "exact", *(["square_root"] * ("momentum" not in curve.levers))]))
    for_adam = form == "square_root"
    start_lr, start_momentum = draw(st.none() | st.floats(1e-4, 10)), draw(st.none() | st.floats(0, 0.99))
    return Schedule(
        Reference(draw(st.floats(1e-4, 10)), draw(st.integers(1, size // 2)), draw(st.floats(0, 0.99))),
        Limits(
            draw(st.integers(1, 2048)),
            draw(st.none() | st.integers(1, size)),
            draw(st.none() | st.floats(1e-3, 10)),
        ),
        size,
        draw(st.floats(0.3, 12)),
        curve,
        form,
        Warmup(),
        draw(st.none() | st.integers(2, 512)),
        Start(start_lr, None if for_adam else start_momentum),
        AdamConstants(draw(st.floats(0, 0.9999)), 1e-8) if for_adam else None,
    )


@settings(max_examples=400, deadline=None)
@given(schedules(), st.integers(1, 4096))
def test_g_is_met_within_every_limit_for_any_fleet_and_curve_or_a_plan_error_says_why(schedule, world_size):
    try:
        rows = list(walk(schedule, Fleet.of(world_size)))
    except PlanError:
        return
    cap = schedule.limits.max_global_batch
    end = 0
    for decision, position, updates in rows:
        plan = decision.plan
        assert decision.sgd_noise_scale == pytest.approx(decision.target_sgd_noise_scale, rel=1e-12)
        assert decision.lr <= (schedule.limits.max_lr or float("inf"))
        assert plan.global_batch <= (max(1, schedule.dataset_size // 10) if cap is None else cap)
        assert plan.micro_batch <= schedule.limits.max_micro_batch
        assert plan.world_size == world_size
        assert 0 <= decision.momentum < 1
        # the stream never breaks: every update starts where the last one ended, and in its decision's epoch
        assert position == end
        end = position + updates * plan.global_batch
        last_start = end - plan.global_batch
        assert decision.epoch == position // schedule.dataset_size == last_start // schedule.dataset_size
    assert end <= schedule.total_samples
    if not rows:
        return
    if rows[-1][0].epoch == -(-schedule.total_samples // schedule.dataset_size) - 1:
        assert schedule.total_samples - end < rows[-1][0].plan.global_batch
    assert plan_run(schedule, world_size).total_samples == end


@given(st.integers(1, 128))
def test_the_fleet_changes_the_cut_and_never_the_noise(world_size):
    schedule = stepped("batch", "batch", "lr", form="exact")
    for epoch in (0, 60, 120, 160):
        one, many = decide(schedule, epoch, 1), decide(schedule, epoch, world_size)
        assert many.sgd_noise_scale == pytest.approx(one.sgd_noise_scale, rel=1e-12)
