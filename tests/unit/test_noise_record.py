"""What a run says of its measured gradient noise: its metrics, a batch above it, and that there is none to hear."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from trainer.engine.noise_record import critical_batch, deafness, noise_metrics
from trainer.engine.run_state import RunState
from trainer.rule import Heard, Limits, NoiseAverages, NoiseCurve, NoiseDrop, Reference, Schedule, decide

pytestmark = pytest.mark.unit

SCHEDULE = Schedule(
    Reference(0.1, 128), Limits(2048), 50_000, 3, NoiseCurve("steps", drops=(NoiseDrop(1, 4.0), NoiseDrop(2, 2.0)))
)


def measured(scale, **more):
    """The state after an epoch in which every update measured this scale, more or less."""
    noise = NoiseAverages()
    for trace in (0.9 * scale, 1.1 * scale) * 10:
        noise = noise.with_update(trace, 1.0, samples=100.0, memory=1e6)
    return RunState(noise=noise, **more)


def test_a_batch_that_the_schedule_raised_above_the_scale_is_told_with_its_numbers():
    critical = critical_batch(decide(SCHEDULE, 1, 1), SCHEDULE, measured(256))
    assert critical is not None
    fields = asdict(critical)
    assert 0 < fields.pop("error") < 10
    assert fields == {
        "epoch": 1,
        "global_batch": 512,
        "gradient_noise_scale": pytest.approx(256, rel=1e-3),
        "worth": pytest.approx(1 / 3, rel=1e-3),
    }


def test_it_is_told_also_where_the_references_batch_was_above_the_scale_already():
    before = measured(100)
    later = replace(before, heard=Heard(before.noise.estimate(), 128))
    assert critical_batch(decide(SCHEDULE, 0, 1), SCHEDULE, before) is None
    assert critical_batch(decide(SCHEDULE, 1, 1), SCHEDULE, later) is not None


@pytest.mark.parametrize(
    ("epoch", "state"),
    [
        (0, measured(64)),  # the reference's batch
        (1, RunState()),  # nothing measured
        (1, measured(520)),  # below it
        (1, measured(508)),  # above it by less than its error tells
        (2, measured(256, was_critical=True)),  # told before
    ],
)
def test_else_nothing_is_told(epoch, state):
    assert critical_batch(decide(SCHEDULE, epoch, 1), SCHEDULE, state) is None


@pytest.mark.parametrize(("policy", "is_advised"), [("planned", True), ("measured", False), ("adascale", False)])
def test_the_policy_measured_is_advised_to_a_run_that_follows_its_plan_alone(policy, is_advised):
    critical = critical_batch(decide(SCHEDULE, 1, 1), SCHEDULE, measured(256))
    assert critical is not None
    warning = critical.warning(policy)
    assert "the batch of 512 is above the gradient noise scale, measured as 256 ± " in warning
    assert ("schedule.policy=measured" in warning) == is_advised
    assert warning.endswith("schedule.limits.max_global_batch caps it")


def test_a_scale_that_is_less_than_its_error_is_no_metric():
    decision = decide(SCHEDULE, 0, 1)
    assert noise_metrics(decision, SCHEDULE, measured(256)) == {
        "noise/gradient": pytest.approx(256, rel=1e-3),
        "noise/gradient_error": pytest.approx(5.9, rel=0.05),
    }
    noise = NoiseAverages()
    for squared_norm in (-0.9, 1.0) * 10:
        noise = noise.with_update(100.0, squared_norm, samples=100.0, memory=1e6)
    assert noise.estimate().scale > 0
    assert noise_metrics(decision, SCHEDULE, RunState(noise=noise)) == {}
    assert noise_metrics(decision, SCHEDULE, RunState()) == {}


@pytest.mark.parametrize("policy", ["measured", "adascale"])
def test_a_policy_that_has_heard_nothing_for_three_epochs_says_so_once(policy):
    listening = replace(SCHEDULE, policy=policy, epochs=5)
    said = [deafness(decide(listening, epoch, 1), listening, RunState()) for epoch in range(5)]
    assert [text is not None for text in said] == [False, False, True, False, False]
    assert f"schedule.policy={policy} has heard nothing in 3 epochs" in said[2]
    assert deafness(decide(listening, 2, 1), listening, measured(256)) is None
    assert deafness(decide(SCHEDULE, 2, 1), SCHEDULE, RunState()) is None
