"""The measured gradient noise: unbiased in its parts, honest about its error, and what a batch is worth by it."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from statistics import fmean, variance

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.rule import GradientNoise, NoiseAverages, adascale_gain, measure, worth

pytestmark = pytest.mark.unit

TRACE, SQUARED_NORM = 3.0, 0.25  # of the synthetic gradients: a scale of 12 samples
EVEN = math.inf  # a memory that forgets nothing


def squared(vector: list[float]) -> float:
    return sum(x * x for x in vector)


def updates(source: random.Random, count: int, small: int = 4, large: int = 16) -> Iterator[tuple[float, float]]:
    """What updates of `large` samples measure by `small` of them: normal gradients in 6 dimensions, mean and covariance
    known."""
    mean, spread = math.sqrt(SQUARED_NORM / 6), math.sqrt(TRACE / 6)
    for _ in range(count):
        first = [source.gauss(mean, spread / math.sqrt(small)) for _ in range(6)]
        rest = [source.gauss(mean, spread / math.sqrt(large - small)) for _ in range(6)]
        whole = [(small * x + (large - small) * y) / large for x, y in zip(first, rest, strict=True)]
        yield measure(squared(first), squared(whole), small, large)


def averages_of(measured: list[tuple[float, float]], samples: float = 16.0, memory: float = EVEN) -> NoiseAverages:
    averages = NoiseAverages()
    for trace, squared_norm in measured:
        averages = averages.with_update(trace, squared_norm, samples, memory)
    return averages


def test_two_batches_of_one_update_tell_both_parts_without_bias():
    measured = list(updates(random.Random(1), 4000))
    for values, truth in zip(zip(*measured, strict=True), (TRACE, SQUARED_NORM), strict=True):
        error = math.sqrt(variance(values) / len(values))
        assert abs(fmean(values) - truth) < 3 * error
        assert error < 0.05 * truth  # so that a bias of a fifth would be seen


def test_batches_without_replacement_tell_the_parts_of_the_whole_set_exactly():
    # every order in which 5 samples can be drawn: the mean over all of them is the expectation
    gradients = [(1.0, 0.0), (0.5, -2.0), (3.0, 1.0), (-1.0, 0.5), (0.0, 4.0)]
    mean = [fmean(axis) for axis in zip(*gradients, strict=True)]
    trace = sum(variance(axis) for axis in zip(*gradients, strict=True))

    def norm(batch: tuple[tuple[float, float], ...]) -> float:
        return squared([fmean(axis) for axis in zip(*batch, strict=True)])

    orders = list(itertools.permutations(gradients))
    for small, large in ((1, 2), (2, 3), (1, 5), (4, 5)):
        parts = [measure(norm(order[:small]), norm(order[:large]), small, large, 5) for order in orders]
        assert fmean(part[0] for part in parts) == pytest.approx(trace, rel=1e-12)
        assert fmean(part[1] for part in parts) == pytest.approx(squared(mean), rel=1e-12)


@pytest.mark.parametrize("memory", [EVEN, 16.0 * 40])
def test_the_truth_lies_within_two_errors_in_most_runs(memory):
    source = random.Random(2)
    inside = {"scale": 0, "trace": 0, "squared norm": 0}
    for _ in range(200):
        noise = averages_of(list(updates(source, 60)), memory=memory).estimate()
        assert noise is not None
        inside["scale"] += abs(noise.scale - TRACE / SQUARED_NORM) < 2 * noise.error
        inside["trace"] += abs(noise.trace - TRACE) < 2 * math.sqrt(noise.trace_variance)
        inside["squared norm"] += abs(noise.squared_norm - SQUARED_NORM) < 2 * math.sqrt(noise.squared_norm_variance)
    # 190 of normal averages, whose binomial spread is 3; a ratio of 60 is skewed
    assert all(170 <= count <= 199 for count in inside.values()), inside


def test_with_one_weight_the_error_is_the_textbooks():
    measured = list(updates(random.Random(3), 20))
    noise = averages_of(measured).estimate()
    traces, norms = zip(*measured, strict=True)
    assert noise.trace == pytest.approx(fmean(traces), rel=1e-12)
    assert noise.squared_norm == pytest.approx(fmean(norms), rel=1e-12)
    assert noise.trace_variance == pytest.approx(variance(traces) / 20, rel=1e-9)
    assert noise.squared_norm_variance == pytest.approx(variance(norms) / 20, rel=1e-9)
    covariance = sum((t - fmean(traces)) * (n - fmean(norms)) for t, n in measured) / 19
    assert noise.covariance == pytest.approx(covariance / 20, rel=1e-9)


def test_the_average_does_not_depend_on_how_many_updates_its_samples_made():
    often, seldom = NoiseAverages(), NoiseAverages()
    for trace in (3.0, 5.0):
        for _ in range(20):
            often = often.with_update(trace, 0.1, samples=50, memory=1500)
        seldom = seldom.with_update(trace, 0.1, samples=1000, memory=1500)
    assert seldom.weight == pytest.approx(often.weight, rel=1e-12)
    assert seldom.trace == pytest.approx(often.trace, rel=1e-12)


def test_a_measurement_fades_by_e_over_the_memorys_samples():
    # 40 of 0, then 100 samples of 1: the old ones weigh exp(-100 / 100) of what they did, in any cut of the samples
    for samples in (1.0, 2.0, 5.0):
        old = averages_of([(0.0, 1.0)] * int(2000 / samples), samples, 100.0)
        new = old
        for _ in range(int(100 / samples)):
            new = new.with_update(1.0, 1.0, samples, 100.0)
        assert new.estimate().trace == pytest.approx(1 - math.exp(-1), rel=1e-8)


def test_with_fading_weights_the_error_is_that_of_their_sum():
    measured = list(updates(random.Random(7), 30))
    noise = averages_of(measured, 16.0, 160.0).estimate()
    weights = [math.exp(-0.1 * age) for age in reversed(range(30))]
    mean = sum(w * trace for w, (trace, _) in zip(weights, measured, strict=True)) / sum(weights)
    squares = sum(w**2 * (trace - mean) ** 2 for w, (trace, _) in zip(weights, measured, strict=True))
    assert noise.trace == pytest.approx(mean, rel=1e-12)
    assert noise.trace_variance == pytest.approx(squares / (sum(weights) ** 2 - sum(w**2 for w in weights)), rel=1e-9)


def test_little_is_said_to_be_nothing():
    assert NoiseAverages().estimate() is None
    measured = list(updates(random.Random(5), 20))
    assert [averages_of(measured[:count]).estimate() is None for count in (1, 2, 4, 5)] == [True, True, True, False]
    # many light ones, then one that outweighs them all, say no more than one
    assert averages_of(measured).with_update(1.0, 1.0, 1e6, EVEN).estimate() is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e200])
def test_what_is_not_finite_is_skipped(value):
    averages = averages_of(list(updates(random.Random(6), 9)))
    assert averages.with_update(value, 1.0, 16.0, EVEN) == averages
    assert averages.with_update(1.0, value, 16.0, EVEN) == averages


def test_a_gradient_lost_in_noise_has_an_infinite_scale_with_a_lower_end():
    lost = GradientNoise(800.0, -0.1, 4.0, 0.25, 0.0)
    assert (lost.scale, lost.error) == (math.inf, math.inf)
    # 800 + 0.1 B is one error, sqrt(4 + B^2 / 4), above 0 up to B = 2,000
    assert lost.at_least == pytest.approx(2000, rel=1e-4)
    assert GradientNoise(-1.0, 1.0, 4.0, 0.01, 0.0).scale == 0.0
    assert GradientNoise(1.0, 1.0, 4.0, 0.01, 0.0).at_least == 0.0  # tr(S) itself may be 0


noises = st.builds(
    lambda trace, norm, trace_error, norm_error, correlation: GradientNoise(
        trace, norm, trace_error**2, norm_error**2, correlation * trace_error * norm_error
    ),
    st.floats(0.01, 100),
    st.floats(-1, 10),
    st.floats(1e-3, 10),
    st.floats(1e-3, 10),
    st.floats(-0.99, 0.99),
)


@given(noises)
def test_the_lower_end_is_where_the_noise_is_one_error_above_the_gradient(noise):
    batch = noise.at_least
    assert batch <= noise.scale
    if 0 < batch < math.inf:
        error = math.sqrt(noise.trace_variance - 2 * batch * noise.covariance + batch**2 * noise.squared_norm_variance)
        assert noise.trace - batch * noise.squared_norm == pytest.approx(error, rel=1e-6, abs=1e-6 * noise.trace)


@given(noises, st.floats(1, 1e6))
def test_a_batch_that_the_scale_is_below_is_above_both_its_value_and_its_lower_end(noise, batch):
    if noise.is_below(batch):
        assert noise.at_least <= noise.scale < batch


def test_an_update_at_the_scale_goes_half_as_far_as_its_samples():
    assert worth(500, 500) == 0.5
    assert worth(100, 400) == pytest.approx(0.8)
    assert worth(1500, 500) == pytest.approx(0.25)
    assert (worth(100, math.inf), worth(100, 0.0)) == (1.0, 0.0)


def published_gain(variance_of_reference: float, squared_mean: float, ratio: float) -> float:
    """r = (s^2 + m^2) / (s^2 / S + m^2), as arXiv:2007.05105 writes it."""
    return (variance_of_reference + squared_mean) / (variance_of_reference / ratio + squared_mean)


@given(st.floats(1e-3, 1e6), st.floats(1e-6, 1e3), st.integers(1, 4096), st.floats(1, 512))
def test_the_gain_is_the_published_one_between_1_and_the_ratio_of_the_batches(trace, squared_norm, reference, ratio):
    gain = adascale_gain(GradientNoise(trace, squared_norm, 0.0, 0.0, 0.0), reference, ratio * reference)
    assert gain == pytest.approx(published_gain(trace / reference, squared_norm, ratio), rel=1e-9)
    assert 1 - 1e-9 <= gain <= ratio * (1 + 1e-9)


def test_the_gain_at_its_extremes():
    def gain(trace: float, squared_norm: float) -> float:
        return adascale_gain(GradientNoise(trace, squared_norm, 1.0, 1.0, 0.0), 128, 1024)

    assert gain(0.0, 1.0) == 1.0  # no noise: a larger batch says the same
    assert gain(-3.0, 1.0) == 1.0
    assert gain(0.0, 0.0) == 1.0  # no gradient at all
    assert gain(1.0, 0.0) == 8.0  # only noise: a batch 8 times as large goes 8 times as far
    assert gain(1.0, -3.0) == 8.0
    # at a scale of the reference's batch: (1 + 1) / (1/8 + 1)
    assert gain(128.0, 1.0) == pytest.approx(16 / 9)
