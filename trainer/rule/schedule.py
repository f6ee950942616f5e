"""A schedule is a curve of the SGD noise scale over the epochs.

The curve says by how much g has fallen since the start, and through which lever each part of the fall goes: a bigger
batch, a smaller lr, or a smaller momentum. Decaying the learning rate, increasing the batch and the hybrid of both are
one curve with different levers.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

from trainer.rule.errors import PlanError

Lever = Literal["batch", "lr", "momentum"]
Shape = Literal["constant", "steps", "cosine", "linear", "polynomial"]


@dataclass(frozen=True, slots=True)
class NoiseDrop:
    """From `epoch` on, the noise scale is divided by `divide_by` (below 1: raised) through the lever `by`."""

    epoch: int
    divide_by: float
    by: Lever | None = None

    def __post_init__(self) -> None:
        if self.epoch < 0:
            raise PlanError(f"epoch {self.epoch} of a noise drop is negative: count epochs from 0")
        if not (self.divide_by > 0 and math.isfinite(self.divide_by)):
            raise PlanError(f"divide_by {self.divide_by:g} at epoch {self.epoch} must be above 0, 5 for example")


@dataclass(frozen=True, slots=True)
class NoiseCurve:
    """How g falls. `by` is the lever of smooth curves, and of every drop that names none.

    constant   g stays
    steps      g / divide_by at each drop
    cosine     g (1 + cos(pi t)) / 2, where t in [0, 1) is the share of the run that is over when an epoch starts
    linear     g (1 - t)
    polynomial g (1 - t) ** power
    """

    shape: Shape = "constant"
    by: Lever = "batch"
    drops: tuple[NoiseDrop, ...] = ()
    power: float = 2.0

    def __post_init__(self) -> None:
        if (self.shape == "steps") != bool(self.drops):
            raise PlanError(
                "a curve of steps needs drops: give a list of {epoch, divide_by}"
                if self.shape == "steps"
                else f"drops belong to a curve of steps, and this one is {self.shape}: set shape to steps"
            )
        epochs = [drop.epoch for drop in self.drops]
        if any(later < earlier for earlier, later in itertools.pairwise(epochs)):
            raise PlanError(f"the epochs {epochs} of the drops must rise: sort them")
        if len({(drop.epoch, drop.by or self.by) for drop in self.drops}) < len(epochs):
            raise PlanError(f"the epochs {epochs} of the drops name a lever twice: merge drops of one epoch and lever")
        if not (self.power > 0 and math.isfinite(self.power)):
            raise PlanError(f"power {self.power:g} of the polynomial must be above 0")

    @property
    def levers(self) -> frozenset[Lever]:
        """The levers that the curve moves."""
        if self.shape == "steps":
            return frozenset(drop.by or self.by for drop in self.drops)
        return frozenset() if self.shape == "constant" else frozenset({self.by})


@dataclass(frozen=True, slots=True)
class Warmup:
    """lr grows in a line from `start_factor` x lr to lr over the first `epochs` (may be fractional); 0 is none."""

    epochs: float = 0.0
    start_factor: float = 0.1

    def __post_init__(self) -> None:
        if not (self.epochs >= 0 and math.isfinite(self.epochs)):
            raise PlanError(f"a warm-up of {self.epochs:g} epochs is impossible: give 0 or more")
        if not 0 < self.start_factor <= 1:
            raise PlanError(f"start_factor {self.start_factor:g} of the warm-up is outside (0, 1]")


@dataclass(frozen=True, slots=True)
class NoiseDivisors:
    """By how much each lever has divided the noise scale since the start of the run."""

    batch: float = 1.0
    lr: float = 1.0
    momentum: float = 1.0

    @property
    def total(self) -> float:
        return self.batch * self.lr * self.momentum


def noise_divisors(curve: NoiseCurve, epoch: float, epochs: float) -> NoiseDivisors:
    """By how much g has fallen after `epoch` epochs, as a rule whole ones, of a run of `epochs`, lever by lever."""
    through: dict[str, float] = {"batch": 1.0, "lr": 1.0, "momentum": 1.0}
    if curve.shape == "steps":
        for drop in curve.drops:
            if epoch >= drop.epoch:
                through[drop.by or curve.by] *= drop.divide_by
    else:
        fraction = _fraction_left(curve, epoch / epochs)
        through[curve.by] = 1.0 / fraction if fraction > 0 else math.inf
    return NoiseDivisors(**through)


def warmup_factor(epochs_done: float, warmup: Warmup) -> float:
    """What lr is multiplied with after `epochs_done` epochs (fractional, so it changes from update to update)."""
    if epochs_done >= warmup.epochs:
        return 1.0
    return warmup.start_factor + (1.0 - warmup.start_factor) * epochs_done / warmup.epochs


def _fraction_left(curve: NoiseCurve, progress: float) -> float:
    assert 0 <= progress < 1, "an epoch of the run starts before the run ends"
    match curve.shape:
        case "cosine":
            return (1.0 + math.cos(math.pi * progress)) / 2.0
        case "linear":
            return 1.0 - progress
        case "polynomial":
            return float((1.0 - progress) ** curve.power)
        case _:
            return 1.0
