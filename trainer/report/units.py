"""Numbers as people read them: times in a unit that suits them, fractions in percent, a mean with its spread."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from trainer.report.outcome import Change, Spread

UNKNOWN = "-"
_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, slots=True)
class TimeUnit:
    """A unit that makes a set of times readable side by side."""

    name: str
    seconds: float


_SECONDS, _MINUTES, _HOURS = TimeUnit("s", 1.0), TimeUnit("min", 60.0), TimeUnit("h", 3600.0)


def time_unit(times_s: Iterable[float]) -> TimeUnit:
    """The unit for times of which the longest counts: seconds to 3 minutes, minutes to 3 hours, then hours."""
    longest = max((time for time in times_s if math.isfinite(time)), default=0.0)
    if longest < 180:
        return _SECONDS
    return _MINUTES if longest < 3 * 3600 else _HOURS


def unit_of(*times: Spread | None) -> TimeUnit:
    """The unit for the means of these times."""
    return time_unit(time.mean for time in times if time is not None)


def duration(time_s: Spread | None, unit: TimeUnit) -> str:
    """A mean time in the unit, with its spread: 21.3 s, 21.3 ± 0.4 s."""
    if time_s is None:
        return UNKNOWN
    decimals = _decimals(time_s.mean / unit.seconds)
    return f"{_with_spread(time_s, decimals, 1 / unit.seconds)} {unit.name}"


def accuracy(top1: Spread | None, decimals: int = 1) -> str:
    """A mean accuracy in percent, with its spread: 98.1 ± 0.2 %."""
    return UNKNOWN if top1 is None else f"{_with_spread(top1, decimals, 100)} %"


def count(number: Spread | None) -> str:
    """A mean count with its spread: 1,620, 1,433 ± 21; with decimals where the counts are few."""
    if number is None:
        return UNKNOWN
    decimals = 0 if number.mean >= 100 or number.mean == round(number.mean) else 1
    return f"{number.mean:,.{decimals}f}" if number.sd == 0 else _with_spread(number, decimals, 1)


def signed_percent(difference: Change | None) -> str:
    """A change of a cost at a glance: -40 % (with a real minus sign), +3 %, same; nothing where it is not known."""
    if difference is None:
        return ""
    percents = round(100 * difference.fraction)
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
