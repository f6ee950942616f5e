"""Curves of the noise scale."""

from __future__ import annotations

import pytest

from trainer.rule import NoiseCurve, NoiseDrop, PlanError, Warmup, warmup_factor
from trainer.rule.schedule import NoiseDivisors, noise_divisors

pytestmark = pytest.mark.unit

STEPS = NoiseCurve("steps", "batch", (NoiseDrop(60, 5), NoiseDrop(120, 5, "lr"), NoiseDrop(160, 4, "momentum")))


@pytest.mark.parametrize(
    ("epoch", "divisors"),
    [
        (0, NoiseDivisors()),
        (59, NoiseDivisors()),
        (60, NoiseDivisors(batch=5)),
        (120, NoiseDivisors(batch=5, lr=5)),
        (199, NoiseDivisors(batch=5, lr=5, momentum=4)),
    ],
)
def test_each_step_goes_through_its_own_lever_from_its_epoch_on(epoch, divisors):
    assert noise_divisors(STEPS, epoch, 200) == divisors


@pytest.mark.parametrize(
    ("curve", "epoch", "fraction"),
    [
        (NoiseCurve("constant"), 7, 1.0),
        (NoiseCurve("cosine"), 0, 1.0),
        (NoiseCurve("cosine"), 5, 0.5),  # (1 + cos(pi/2)) / 2
        (NoiseCurve("linear"), 5, 0.5),
        (NoiseCurve("linear"), 9, 0.1),
        (NoiseCurve("polynomial", power=2.0), 5, 0.25),
        (NoiseCurve("polynomial", power=3.0), 5, 0.125),
    ],
)
def test_smooth_curves_fall_as_their_formulas_say(curve, epoch, fraction):
    assert 1 / noise_divisors(curve, epoch, 10).total == pytest.approx(fraction, rel=1e-12)


@pytest.mark.parametrize("lever", ["batch", "lr", "momentum"])
def test_a_smooth_curve_falls_through_the_lever_that_it_names(lever):
    assert getattr(noise_divisors(NoiseCurve("linear", lever), 5, 10), lever) == pytest.approx(2)


def test_warm_up_grows_in_a_line_from_update_to_update():
    warmup = Warmup(epochs=5, start_factor=0.1)
    assert [warmup_factor(done, warmup) for done in (0, 2.5, 5, 80)] == pytest.approx([0.1, 0.55, 1, 1])
    assert warmup_factor(0, Warmup()) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseCurve("steps"), "needs drops"),
        (lambda: NoiseCurve("cosine", drops=(NoiseDrop(1, 5),)), "set shape to steps"),
        (lambda: NoiseCurve("steps", drops=(NoiseDrop(6, 5), NoiseDrop(5, 2))), "must rise"),
        (lambda: NoiseCurve("steps", drops=(NoiseDrop(5, 5), NoiseDrop(5, 2))), "name a lever twice"),
        (lambda: NoiseCurve("steps", "lr", (NoiseDrop(5, 5), NoiseDrop(5, 2, "lr"))), "name a lever twice"),
        (lambda: NoiseCurve("polynomial", power=0), "must be above 0"),
        (lambda: NoiseDrop(-1, 5), "count epochs from 0"),
        (lambda: NoiseDrop(1, 0), "must be above 0"),
        (lambda: NoiseDrop(1, float("inf")), "must be above 0"),
        (lambda: Warmup(-1), "give 0 or more"),
        (lambda: Warmup(5, 0), "outside"),
    ],
)
def test_impossible_curves_are_refused_with_the_reason(make, message):
    with pytest.raises(PlanError, match=message):
        make()
