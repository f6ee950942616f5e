"""The coordinator: one epoch's batch, learning rate and momentum, and why.

It is a function, not a server. Rank 0 calls it at the start of an epoch, every rank checks the digest of what it heard,
and `trainer plan` calls the same function for the whole run.

One equation, two unknowns: the curve says the noise scale g of this epoch; the batch is the largest that the schedule
wants and that the limits and the fleet allow, rounded down to the fleet; lr absorbs the rest. So g is met exactly
whatever the number of workers.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from typing import Literal

from trainer.rule.adam_scaling import AdamConstants, largest_batch_ratio, scale_beta, scale_constants
from trainer.rule.batch_plan import BatchPlan, fit_batch
from trainer.rule.errors import PlanError
from trainer.rule.noise_scale import (
    NoiseForm,
    global_batch_for_sgd_noise_scale,
    lr_for_sgd_noise_scale,
    sgd_noise_scale,
)
from trainer.rule.schedule import NoiseCurve, NoiseDivisors, Warmup, noise_divisors

_MOST_EPOCHS = 100_000  # a plan of more takes minutes


@dataclass(frozen=True, slots=True)
class Reference:
    """The tuned recipe that a run starts from and reproduces: lr, global batch (samples) and momentum."""

    lr: float
    global_batch: int
    momentum: float = 0.9

    def __post_init__(self) -> None:
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise PlanError(f"lr {self.lr:g} of the reference must be above 0")
        if self.global_batch < 1:
            raise PlanError(f"global_batch {self.global_batch} of the reference must be at least 1 sample")
        if not 0 <= self.momentum < 1:
            raise PlanError(f"momentum {self.momentum:g} of the reference is outside [0, 1)")


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run begins on the reference's curve: another lr or momentum; the batch follows, so that g stays.

    lr x 5 begins with batch x 5; momentum 0.98 in place of 0.9 also with batch x 5. None: the reference's own.
    """

    lr: float | None = None
    momentum: float | None = None

    def __post_init__(self) -> None:
        if self.lr is not None and not (self.lr > 0 and math.isfinite(self.lr)):
            raise PlanError(f"lr {self.lr:g} of the start must be above 0")
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise PlanError(f"momentum {self.momentum:g} of the start is outside [0, 1)")

    def lr_and_momentum(self, reference: Reference) -> tuple[float, float]:
        """What the first epoch begins with, before the limits."""
        return (
            reference.lr if self.lr is None else self.lr,
            reference.momentum if self.momentum is None else self.momentum,
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """What hardware and stability allow: samples per worker at once, samples per update (default N/10), lr.

    max_micro_batch "auto": what the device's memory holds, measured; nothing is decided before it is.
    """

    max_micro_batch: int | Literal["auto"]
    max_global_batch: int | None = None
    max_lr: float | None = None

    def __post_init__(self) -> None:
        if self.max_micro_batch != "auto" and self.max_micro_batch < 1:
            raise PlanError(f"max_micro_batch {self.max_micro_batch} must be at least 1 sample")
        if self.max_global_batch is not None and self.max_global_batch < 1:
            raise PlanError(f"max_global_batch {self.max_global_batch} must be at least 1 sample")
        if self.max_lr is not None and not self.max_lr > 0:
            raise PlanError(f"max_lr {self.max_lr:g} must be above 0")


@dataclass(frozen=True, slots=True)
class Schedule:
    """Everything that decides the batch and lr of a run except the fleet. dataset_size in samples; epochs may be
    fractional; ghost_batch (samples) lets the cut of a batch respect batch norm's groups; adam goes with the form
    square_root."""

    reference: Reference
    limits: Limits
    dataset_size: int
    epochs: float
    curve: NoiseCurve = field(default_factory=NoiseCurve)
    form: NoiseForm = "large_dataset"
    warmup: Warmup = field(default_factory=Warmup)
    ghost_batch: int | None = None
    start: Start = field(default_factory=Start)
    adam: AdamConstants | None = None

    def __post_init__(self) -> None:
        assert (self.form == "square_root") == (self.adam is not None), "the square-root rule is Adam's"
        if self.form == "square_root" and ("momentum" in self.curve.levers or self.start.momentum is not None):
            raise PlanError(
                "under the square-root rule the momentum of Adam (beta1) follows the batch: use the levers batch and lr"
            )
        if self.dataset_size < 1:
            raise PlanError(f"a dataset of {self.dataset_size} samples cannot be planned: it needs at least one")
        if not 0 < self.epochs <= _MOST_EPOCHS:
            raise PlanError(f"{self.epochs:g} epochs cannot be planned: give more than 0 and at most {_MOST_EPOCHS:,}")
        if self.reference.global_batch > self.dataset_size:
            raise PlanError(
                f"the reference batch of {self.reference.global_batch} samples is larger than the dataset "
                f"({self.dataset_size}): choose a smaller one"
            )
        if self.limits.max_micro_batch == "auto":
            raise PlanError(
                "schedule.limits.max_micro_batch is auto, and what fits is only known where it was measured: give "
                "--calibration FILE, or set schedule.limits.max_micro_batch=N"
            )

    @property
    def max_micro_batch(self) -> int:
        """Samples per worker at once."""
        assert self.limits.max_micro_batch != "auto", "refused above"
        return self.limits.max_micro_batch

    @property
    def total_samples(self) -> int:
        """Samples that the run may read: epochs x dataset_size."""
        return round(self.epochs * self.dataset_size)


@dataclass(frozen=True, slots=True)
class EpochDecision:
    """What the coordinator said for one epoch, and why.

    lr is the one after warm-up. sgd_noise_scale is what plan, lr and momentum give, target_sgd_noise_scale what the
    curve asks for, both in the schedule's form. limited_by names what held the batch below the schedule's wish. adam:
    its constants at this batch where the schedule scales them, else None.
    """

    epoch: int
    plan: BatchPlan
    lr: float
    momentum: float
    sgd_noise_scale: float
    target_sgd_noise_scale: float
    limited_by: str
    adam: AdamConstants | None = None

    def to_json(self) -> str:
        """Every field as text; floats keep every bit."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> EpochDecision:
        """The decision that to_json wrote."""
        fields = json.loads(text)
        adam = AdamConstants(**fields["adam"]) if fields["adam"] else None
        return EpochDecision(**{**fields, "plan": BatchPlan(**fields["plan"]), "adam": adam})

    def digest(self) -> str:
        """Hex digest of every field: two ranks that agree on it hold the same decision."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


NOT_LIMITED = "schedule"
# Bounds of a noise scale that make sense, with room for every product on the way to lr and batch.
_SMALLEST, _LARGEST = 1e-100, 1e100


def decide(schedule: Schedule, epoch: int, world_size: int) -> EpochDecision:
    """The decision for `epoch` (from 0) on `world_size` workers.

    Raises PlanError if the fleet cannot share the batch.
    """
    size, form = schedule.dataset_size, schedule.form
    reference = schedule.reference
    divisors = noise_divisors(schedule.curve, epoch, schedule.epochs)
    target = _start_noise_scale(schedule) / divisors.total if divisors.total > 0 else math.inf
    if not _SMALLEST < target < _LARGEST:
        raise PlanError(
            f"epoch {epoch}: the noise scale would be {target:g}, which no lr and batch can follow: change the curve"
        )
    start_lr, start_momentum = schedule.start.lr_and_momentum(reference)
    momentum, lr_divisor = _momentum_and_lr_divisor(start_momentum, divisors)
    wanted_lr = start_lr / lr_divisor
    limited_by = NOT_LIMITED
    max_lr = schedule.limits.max_lr
    if max_lr is not None and wanted_lr > max_lr:
        wanted_lr, limited_by = max_lr, "max_lr"
    wanted_batch = _floor(global_batch_for_sgd_noise_scale(target, wanted_lr, size, momentum, form))
    if wanted_batch < 1:
        raise PlanError(
            f"epoch {epoch}: at lr {wanted_lr:g} the noise scale {target:g} needs less than one sample per update: "
            f"raise the lr of the start or its limit max_lr, or let the noise rise less"
        )
    cap, cap_name = _batch_cap(schedule)
    if wanted_batch > cap:
        limited_by = cap_name
    allowed = min(wanted_batch, cap)
    try:
        plan = fit_batch(allowed, world_size, schedule.max_micro_batch, schedule.ghost_batch)
    except PlanError as error:
        reason = "" if limited_by == NOT_LIMITED else f" ({limited_by})"
        raise PlanError(f"epoch {epoch}: {error}{reason}") from None
    if plan.global_batch < allowed and limited_by == NOT_LIMITED:
        limited_by = "world_size"
    lr = min(_tidy(lr_for_sgd_noise_scale(target, plan.global_batch, size, momentum, form)), max_lr or math.inf)
    reached = sgd_noise_scale(lr, plan.global_batch, size, momentum, form)
    adam = None
    if schedule.adam is not None:
        batch_ratio = plan.global_batch / reference.global_batch
        momentum, adam = scale_beta(momentum, batch_ratio), scale_constants(schedule.adam, batch_ratio)
    return EpochDecision(epoch, plan, lr, momentum, reached, target, limited_by, adam)


def _start_noise_scale(schedule: Schedule) -> float:
    reference = schedule.reference
    start = sgd_noise_scale(
        reference.lr, reference.global_batch, schedule.dataset_size, reference.momentum, schedule.form
    )
    if start <= 0:
        raise PlanError(
            f"the reference batch of {reference.global_batch} samples is the whole dataset: it has no noise to follow"
        )
    return start


def _momentum_and_lr_divisor(start: float, divisors: NoiseDivisors) -> tuple[float, float]:
    """Momentum after its share of the fall; what lr is divided by: its own share, and what momentum could not take."""
    if divisors.momentum == 1.0:
        return start, divisors.lr
    rest = (1.0 - start) * divisors.momentum  # g goes with 1/(1-m)
    return (_tidy(1.0 - rest), divisors.lr) if rest <= 1.0 else (0.0, divisors.lr * rest)


def _batch_cap(schedule: Schedule) -> tuple[int, str]:
    """Most samples per update, and the name of what says so. No update takes a sample twice; in the exact form none
    takes the whole dataset, which has no noise; under the square-root rule Adam's betas stay at or above 0."""
    given = schedule.limits.max_global_batch
    tenth = (max(1, schedule.dataset_size // 10), "dataset_size / 10")
    whole = (schedule.dataset_size - (1 if schedule.form == "exact" else 0), "dataset_size")
    caps = [tenth if given is None else (given, "max_global_batch"), whole]
    if schedule.adam is not None:
        ratio = largest_batch_ratio(schedule.reference.momentum, schedule.adam.beta2)
        if math.isfinite(ratio):
            caps.append((_floor(ratio * schedule.reference.global_batch), "Adam's betas"))
    return min(caps, key=lambda cap: cap[0])


def _floor(samples: float) -> int:
    """Rounded down, but 639.9999999999999 is 640: the batch came out of a division."""
    return math.floor(samples * (1.0 + 1e-13))


def _tidy(value: float) -> float:
    """To 13 digits: a published 0.16 comes out as 0.16, not 0.15999999999999998; g moves by less than 1e-12."""
    return float(f"{value:.13g}")
