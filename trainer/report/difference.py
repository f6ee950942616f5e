"""Whether two recipes end at the same accuracy as far as their seeds can tell.

Welch's two-sided t-test of the final accuracies (B. L. Welch, Biometrika 34, 1947: the spreads may differ), with Holm's
correction (Scandinavian Journal of Statistics 6, 1979) where several recipes are held against one. A difference that is
not clear is never called equality: what would have been clear is said with it.

Runs of one seed share their images and first weights, but they are not tested as pairs. Three pairs leave two degrees
of freedom, where a 95 % interval is 4.3 standard errors to either side (2.8 with the four of Welch's test), and what
pairs share is mostly gone after some epochs; as far as it is not, this test is the more cautious one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trainer.report.outcome import Spread

LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean minus the baseline's, in the unit of both.

    low, high: 95 % confidence interval of this comparison by itself. p: two-sided, by Holm where it is one of several.
    n, baseline_n: runs of each. least_clear: from this measured difference on it would have been clear, whatever the
    other comparisons say.
    """

    mean: float
    low: float
    high: float
    p: float
    n: int
    baseline_n: int
    least_clear: float

    @property
    def is_clear(self) -> bool:
        return self.p < LEVEL


def differences(finals: Sequence[Spread | None], baseline: int = 0) -> tuple[Difference | None, ...]:
    """Each held against the one at `baseline`; None at that one, and where seeds cannot tell."""
    against = finals[baseline]
    pairs = {
        number: (final, against)
        for number, final in enumerate(finals)
        if number != baseline and final is not None and against is not None and can_tell(final, against)
    }
    alone = [welch(*pair, comparisons=len(pairs)) for pair in pairs.values()]
    p_values = holm([difference.p for difference in alone])
    together = [replace(difference, p=p) for difference, p in zip(alone, p_values, strict=True)]
    by_number = dict(zip(pairs, together, strict=True))
    return tuple(by_number.get(number) for number in range(len(finals)))


def can_tell(sample: Spread, baseline: Spread) -> bool:
    """Whether a test is possible: two runs of each at least, and some spread in one of them."""
    return min(sample.n, baseline.n) >= 2 and max(sample.sd, baseline.sd) > 0


def welch(sample: Spread, baseline: Spread, comparisons: int = 1) -> Difference:
    """The difference of two means of which can_tell holds; p is that of a single test.

    comparisons: how many are made together, which raises least_clear.
    """
    # Student's t: its distribution function, and the inverse of that.
    from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]

    assert can_tell(sample, baseline), "a test needs two runs of each, and some spread"
    variances = [(spread.sd**2 / spread.n, spread.n - 1) for spread in (sample, baseline)]
    variance = sum(of_mean for of_mean, _ in variances)
    freedom = variance**2 / sum(of_mean**2 / degrees for of_mean, degrees in variances)
    error = math.sqrt(variance)
    mean = sample.mean - baseline.mean
    margin = float(stdtrit(freedom, 1 - LEVEL / 2)) * error
    return Difference(
        mean=mean,
        low=mean - margin,
        high=mean + margin,
        p=2 * float(stdtr(freedom, -abs(mean) / error)),
        n=sample.n,
        baseline_n=baseline.n,
        least_clear=float(stdtrit(freedom, 1 - LEVEL / 2 / comparisons)) * error,
    )


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Each p as Holm corrects it for being one of several: at or below a level, it stands at that level for all."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for place, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[number]))
        corrected[number] = largest
    return tuple(corrected)
