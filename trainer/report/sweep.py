"""Recipes that differ in one number alone: a sweep, drawn and spoken of along that number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.report.groups import Group, recipe_differences

BATCH = "batch/global"
_FEWEST = 3
_RANGE_FOR_LOG = 8.0


@dataclass(frozen=True, slots=True)
class Sweep:
    """The setting by its dotted key, its value for each group, and the first global batch (samples) of each."""

    key: str
    values: tuple[float, ...]
    first_batches: tuple[float, ...]

    @property
    def order(self) -> tuple[int, ...]:
        """The groups' numbers from the least value to the greatest."""
        return tuple(sorted(range(len(self.values)), key=self.values.__getitem__))

    @property
    def moves_the_batch(self) -> bool:
        """Whether the first batch follows the setting, as it follows the first lr at a fixed noise scale."""
        return len(set(self.first_batches)) > 1 and not any(map(math.isnan, self.first_batches))


def sweep_of(groups: Sequence[Group]) -> Sweep | None:
    """The sweep that these groups are; None unless they are three at least, and one number is all that differs."""
    settings = recipe_differences(groups)
    if len(groups) < _FEWEST or len(settings) != 1:
        return None
    ((key, texts),) = settings.items()
    values = tuple(map(_number, texts))
    if any(map(math.isnan, values)) or len(set(values)) < len(values):
        return None
    return Sweep(key, values, tuple(group.runs[0].values(BATCH)[0] for group in groups))


def needs_log(values: Sequence[float]) -> bool:
    """Whether numbers lie so far apart that a linear axis would crowd the small ones together."""
    return min(values, default=0) > 0 and max(values) > _RANGE_FOR_LOG * min(values)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
