"""The other noise scale: that of the gradient itself, measured, and what follows from it.

    gradient noise scale = tr(S) / |G|^2 samples

where G is the gradient over the training set and S the covariance of one sample's. A batch far below it averages noise
away, so twice the batch goes twice as far; a batch far above it repeats what it knows. Two batches of one update tell
both parts: the squared norm of a batch's mean gradient is |G|^2 + tr(S)/b on average. The parts are averaged apart,
since the mean of ratios is not the ratio of means.

Batches are drawn without replacement, so a mean over b of N samples varies by tr(S) (1/b - 1/N), and G is the gradient
over these N: at a minimum of their loss it is 0, and the scale has no end. (Random augmentation adds a variance that
does not end at N; where the scale comes near N it is taken for too small, by less than a factor of two at N / 2.)

Sources: McCandlish, Kaplan, Amodei et al., arXiv:1812.06162, appendix A.1 for the two batches and equation 2.7 for what
a batch buys; Johnson, Agrawal, Gu & Guestrin, arXiv:2007.05105, for AdaScale's gain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_FEWEST = 5  # measurements, counted by their weight, before anything is said


@dataclass(frozen=True, slots=True)
class GradientNoise:
    """A measurement: tr(S) of one sample, |G|^2, and how uncertain both are as averages (variances, covariance)."""

    trace: float
    squared_norm: float
    trace_variance: float
    squared_norm_variance: float
    covariance: float

    @property
    def scale(self) -> float:
        """The gradient noise scale in samples; infinite where the gradient is lost in its noise."""
        return max(0.0, self.trace) / self.squared_norm if self.squared_norm > 0 else math.inf

    @property
    def error(self) -> float:
        """The standard error of scale, to first order; infinite where scale is."""
        if self.squared_norm <= 0:
            return math.inf
        ratio = self.trace / self.squared_norm
        variance = self.trace_variance - 2 * ratio * self.covariance + ratio**2 * self.squared_norm_variance
        return math.sqrt(max(0.0, variance)) / self.squared_norm

    @property
    def at_least(self) -> float:
        """The lower end of the scale's interval of one standard error (Fieller's): also where the scale is infinite."""
        # The sizes B at which tr(S) - B |G|^2 is one standard error above 0: the smaller root of a quadratic.
        first = self.trace**2 - self.trace_variance
        if self.trace <= 0 or first <= 0:
            return 0.0
        second = self.trace * self.squared_norm - self.covariance
        third = self.squared_norm**2 - self.squared_norm_variance
        largest = second + math.sqrt(max(0.0, second**2 - third * first))
        return first / largest if largest > 0 else math.inf

    def is_below(self, samples: float) -> bool:
        """Whether the scale is below so many samples, by more than twice the standard error."""
        variance = self.trace_variance - 2 * samples * self.covariance + samples**2 * self.squared_norm_variance
        return samples * self.squared_norm - self.trace > 2 * math.sqrt(max(0.0, variance))


@dataclass(frozen=True, slots=True)
class NoiseAverages:
    """Averages of what single updates measure, tr(S) and |G|^2 apart, and the sums that tell their error.

    Every measurement weighs as much as the samples that it stands for, each of which fades by a factor e over `memory`
    samples. So the average does not depend on how many updates those samples made. weight to squared_norm: sums with
    the weight w; weight_2 to product_2: with w^2.
    """

    weight: float = 0.0
    trace: float = 0.0
    squared_norm: float = 0.0
    weight_2: float = 0.0
    trace_2: float = 0.0
    squared_norm_2: float = 0.0
    trace_square_2: float = 0.0
    squared_norm_square_2: float = 0.0
    product_2: float = 0.0

    def with_update(self, trace: float, squared_norm: float, samples: float, memory: float) -> NoiseAverages:
        """With another measurement, which stands for so many samples; the same averages where it is not finite."""
        trace_square, squared_norm_square = trace * trace, squared_norm * squared_norm
        if not (math.isfinite(trace_square) and math.isfinite(squared_norm_square)):
            return self
        fade = math.exp(-samples / memory)
        w = samples if math.isinf(memory) else -memory * math.expm1(-samples / memory)
        w_2 = w * w
        return NoiseAverages(
            self.weight * fade + w,
            self.trace * fade + w * trace,
            self.squared_norm * fade + w * squared_norm,
            self.weight_2 * fade**2 + w_2,
            self.trace_2 * fade**2 + w_2 * trace,
            self.squared_norm_2 * fade**2 + w_2 * squared_norm,
            self.trace_square_2 * fade**2 + w_2 * trace_square,
            self.squared_norm_square_2 * fade**2 + w_2 * squared_norm_square,
            self.product_2 * fade**2 + w_2 * trace * squared_norm,
        )

    def estimate(self) -> GradientNoise | None:
        """What they say together; None while that is little."""
        if self.weight**2 < _FEWEST * self.weight_2 or self.weight == 0.0:  # that many of one weight
            return None
        trace, squared_norm = self.trace / self.weight, self.squared_norm / self.weight
        # As of a sample: n / (n - 1) for the n measurements of one weight that would be as certain.
        squared_weight = self.weight**2 - self.weight_2

        def of_averages(product_2: float, x: float, x_2: float, y: float, y_2: float) -> float:
            """The sum of w^2 (x_i - x) (y_i - y) over the squared sum of w."""
            return (product_2 - x * y_2 - y * x_2 + x * y * self.weight_2) / squared_weight

        return GradientNoise(
            trace,
            squared_norm,
            max(0.0, of_averages(self.trace_square_2, trace, self.trace_2, trace, self.trace_2)),
            max(
                0.0,
                of_averages(
                    self.squared_norm_square_2, squared_norm, self.squared_norm_2, squared_norm, self.squared_norm_2
                ),
            ),
            of_averages(self.product_2, trace, self.trace_2, squared_norm, self.squared_norm_2),
        )


def measure(
    small_norm: float, large_norm: float, small_batch: float, large_batch: float, dataset_size: float = math.inf
) -> tuple[float, float]:
    """tr(S) and |G|^2 by one update: the squared norms of the mean gradients over the update's samples and over a
    smaller batch of them. Unbiased, each by itself; |G|^2 may come out below 0.

    dataset_size: of the set that the batches were drawn from without replacement.
    """
    assert 0 < small_batch < large_batch, "the smaller batch is a part of the larger"
    trace = (small_norm - large_norm) / (1 / small_batch - 1 / large_batch)
    squared_norm = (large_batch * large_norm - small_batch * small_norm) / (large_batch - small_batch)
    return trace, squared_norm + trace / dataset_size


def worth(global_batch: float, scale: float) -> float:
    """How far an update of global_batch samples goes, as a share of how far the same samples go in small batches.

    1 / (1 + B / scale): half at the gradient noise scale, which is therefore called critical.
    """
    return 1.0 / (1.0 + global_batch / scale) if scale > 0 else 0.0


def adascale_gain(noise: GradientNoise, reference_batch: float, global_batch: float) -> float:
    """By how much an update of global_batch samples may be larger than one of reference_batch, AdaScale's r.

    With S = global_batch / reference_batch, and s^2 and m^2 the variance and the square of the mean of the reference's
    gradient, r = (s^2 + m^2) / (s^2 / S + m^2): from 1, where there is no noise, to S, where there is nothing else.
    """
    trace, squared_norm = max(0.0, noise.trace), max(0.0, noise.squared_norm)
    if trace == 0.0:
        return 1.0
    return (trace / reference_batch + squared_norm) / (trace / global_batch + squared_norm)
