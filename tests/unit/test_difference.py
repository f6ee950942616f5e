"""The test behind "within the spread of the seeds", against published numbers and arithmetic."""

from __future__ import annotations

import math

import pytest
from scipy.stats import t as student_t
from scipy.stats import ttest_ind

from trainer.report.difference import Difference, can_tell, differences, holm, welch
from trainer.report.outcome import Spread, spread

pytestmark = pytest.mark.unit

# Extra hours of sleep under two drugs (Student 1908), the example of R's t.test: t = -1.8608, df = 17.776.
SLEEP_1 = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
SLEEP_2 = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)


def of(*values: float) -> Spread:
    result = spread(values)
    assert result is not None
    return result


def test_welchs_test_gives_the_published_interval_and_p() -> None:
    difference = welch(of(*SLEEP_1), of(*SLEEP_2))
    assert difference.mean == pytest.approx(-1.58)
    assert (difference.low, difference.high) == pytest.approx((-3.3654832, 0.2054832), abs=1e-7)
    assert difference.p == pytest.approx(0.07939, abs=5e-6)
    assert not difference.is_clear
    assert (difference.n, difference.baseline_n) == (10, 10)


@pytest.mark.parametrize(("one", "other"), [((1.0, 2.0), (5.0, 5.1, 5.3)), ((0.93, 0.94, 0.941), (0.94, 0.943, 0.1))])
def test_welchs_test_agrees_with_scipy_whatever_the_sizes(one: tuple[float, ...], other: tuple[float, ...]) -> None:
    expected = ttest_ind(one, other, equal_var=False)
    interval = expected.confidence_interval(0.95)
    difference = welch(of(*one), of(*other))
    assert difference.p == pytest.approx(expected.pvalue)
    assert (difference.low, difference.high) == pytest.approx((interval.low, interval.high))


def test_one_sample_without_spread_leaves_the_others_degrees_of_freedom() -> None:
    difference = welch(of(2.0, 2.0, 2.0), of(1.0, 1.0 + 3**0.5, 1.0 - 3**0.5))  # sd sqrt 3, so the mean's error is 1
    assert difference.mean == pytest.approx(1.0)
    assert difference.high - difference.mean == pytest.approx(4.302653)  # t at 0.975 with 2 degrees, by the tables
    assert difference.p == pytest.approx(1 - 1 / math.sqrt(3))  # two degrees: p = 1 - t / sqrt(2 + t^2)


def test_what_would_have_been_clear_stands_at_the_level_itself() -> None:
    baseline, sample = of(0.940, 0.942, 0.944), of(0.941, 0.944, 0.950)
    least = welch(sample, baseline).least_clear
    moved = welch(Spread(baseline.mean + least, sample.sd, sample.n), baseline)
    assert moved.p == pytest.approx(0.05)
    among_four = welch(sample, baseline, comparisons=4).least_clear
    moved = welch(Spread(baseline.mean - among_four, sample.sd, sample.n), baseline)
    assert 4 * moved.p == pytest.approx(0.05)  # Holm multiplies the least of four p values by four


def test_a_diverged_seed_counts_and_widens_the_interval() -> None:
    good = of(0.940, 0.942, 0.944)
    assert welch(of(0.930, 0.931, 0.932), good).is_clear
    diverged = welch(of(0.930, 0.931, 0.100), good)
    assert not diverged.is_clear
    assert diverged.least_clear > 1  # nothing would have been


@pytest.mark.parametrize(
    ("one", "other"),
    [((0.9,), (0.8, 0.9)), ((0.8, 0.9), (0.9,)), ((0.9, 0.9), (0.8, 0.8, 0.8)), ((0.9,), (0.9,))],
)
def test_a_single_seed_or_no_spread_at_all_cannot_tell(one: tuple[float, ...], other: tuple[float, ...]) -> None:
    assert not can_tell(of(*one), of(*other))
    assert differences([of(*other), of(*one)]) == (None, None)
    with pytest.raises(AssertionError, match="some spread"):
        welch(of(*one), of(*other))


def test_holms_correction_takes_the_least_p_times_all_the_next_times_one_less() -> None:
    # 4 x 0.005, 3 x 0.01, 2 x 0.03, 1 x 0.04; the last is raised to the one before it
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.7, 0.6]) == (1.0, 1.0)
    assert holm([0.03]) == (0.03,)
    assert holm([]) == ()


def test_several_are_held_against_one_with_corrected_p_and_intervals_of_their_own() -> None:
    baseline, near, far = of(0.940, 0.942, 0.944), of(0.941, 0.943, 0.942), of(0.930, 0.931, 0.932)
    results = differences([near, None, baseline, far, of(0.9)], baseline=2)
    assert [result is None for result in results] == [False, True, True, False, True]
    assert isinstance(results[0], Difference)
    assert isinstance(results[3], Difference)
    alone = welch(far, baseline)
    assert results[3].p == pytest.approx(2 * alone.p)
    assert results[0].p == pytest.approx(max(welch(near, baseline).p, 2 * alone.p))
    assert (results[3].low, results[3].high) == (alone.low, alone.high)
    freedom = (4 + 1) ** 2 / ((4**2 + 1**2) / 2)  # spreads of 0.002 and 0.001 over three seeds each
    wider = student_t.ppf(1 - 0.05 / 4, freedom) / student_t.ppf(1 - 0.05 / 2, freedom)
    assert results[3].least_clear / alone.least_clear == pytest.approx(wider)
