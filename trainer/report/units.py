"""Numbers as people read them: times in a unit that suits them, fractions in percent, a mean with its spread."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trainer.report.outcome import Change, Spread

UNKNOWN = "-"
_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, slots=True)
class TimeUnit:
    """A unit that makes a set of times readable side by side."""

    name: str
    seconds: float


_UNITS = (TimeUnit("s", 1.0), TimeUnit("min", 60.0), TimeUnit("h", 3600.0), TimeUnit("d", 86400.0))


def time_unit(times_s: Iterable[float]) -> TimeUnit:
    """The unit for times of which the longest counts: seconds to 3 minutes, minutes to 3 hours, hours to 3 days."""
    longest = max((time for time in times_s if math.isfinite(time)), default=0.0)
    return next((unit for unit, larger in itertools.pairwise(_UNITS) if longest < 3 * larger.seconds), _UNITS[-1])


def unit_of(*times: Spread | None) -> TimeUnit:
    """The unit for the means of these times."""
    return time_unit(time.mean for time in times if time is not None)


def one(value: float) -> Spread:
    """A single number where a mean may stand."""
    return Spread(value, math.nan, 1)


def duration(time_s: Spread | None, unit: TimeUnit) -> str:
    """A mean time in the unit, with its spread: 21.3 s, 21.3 ± 0.4 s."""
    if time_s is None:
        return UNKNOWN
    decimals = _decimals(time_s.mean / unit.seconds)
    return f"{_with_spread(time_s, decimals, 1 / unit.seconds)} {unit.name}"


def accuracy(top1: Spread | None) -> str:
    """A mean accuracy in percent, with its spread: 94.31 ± 0.18 %, 95.0 ± 1.4 %; a single run's with one decimal."""
    if top1 is None:
        return UNKNOWN
    return f"{_with_spread(top1, 2 if top1.sd < 0.00995 else 1, 100)} %"


def points(fraction: float) -> str:
    """The size of a difference of accuracies in percentage points: 0.12."""
    return f"{abs(100 * fraction):.2f}"


def signed_points(fraction: float) -> str:
    """A difference of accuracies in percentage points: +0.12, -0.40 (with a real minus sign), 0.00."""
    size = points(fraction)
    return size if float(size) == 0 else f"{_MINUS if fraction < 0 else '+'}{size}"


def p_value(p: float) -> str:
    """p with two digits: p = 0.35, p = 0.0031, p < 0.001."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def listed(names: Sequence[str]) -> str:
    """Names as in a sentence: a; a and b; a, b and c."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def count(number: Spread | None) -> str:
    """A mean count with its spread: 1,620, 1,433 ± 21; with decimals where the counts are few."""
    if number is None:
        return UNKNOWN
    decimals = 0 if number.mean >= 100 or number.mean == round(number.mean) else 1
    return f"{number.mean:,.{decimals}f}" if number.sd == 0 else _with_spread(number, decimals, 1)


def significant(number: float) -> str:
    """A number with three significant digits at least, and never in powers of ten: 0.0123, 33.1, 61,920."""
    return f"{number:,.{_decimals(number)}f}"


def signed_percent(difference: Change | None) -> str:
    """A change of a cost at a glance: -40 % (with a real minus sign), +3 %, same; nothing where it is not known."""
    return "" if difference is None else signed_percent_of(difference.fraction)


def signed_percent_of(fraction: float) -> str:
    """A relative difference: -40 % (with a real minus sign), +3 %, same."""
    percents = round(100 * fraction)
    return f"{percents:+d} %".replace("-", _MINUS) if percents else "same"


def percent_label(fraction: float) -> str:
    """A target as it is spoken of: 0.97 -> 97 %, 0.975 -> 97.5 %."""
    return f"{round(100 * fraction, 6):g} %"


def _decimals(number: float) -> int:
    """Decimals that show three significant digits."""
    return 0 if number == 0 or not math.isfinite(number) else max(0, 2 - math.floor(math.log10(abs(number))))


def _with_spread(number: Spread, decimals: int, factor: float) -> str:
    mean = f"{number.mean * factor:,.{decimals}f}"
    return mean if math.isnan(number.sd) else f"{mean} ± {number.sd * factor:,.{decimals}f}"
