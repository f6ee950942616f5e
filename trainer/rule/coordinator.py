"""The coordinator: one epoch's batch, learning rate and momentum, and why.

It is a function, not a server. Rank 0 calls it at the start of an epoch, every rank checks the digest of what it heard,
and `trainer plan` calls the same function for the whole run.

One equation, two unknowns: the curve says the noise scale g of this epoch; the batch is the largest that the schedule
wants and that the limits and the fleet allow, rounded down to the fleet; lr absorbs the rest. So g is met exactly
whatever the number of workers.

A schedule may listen to what the run measures, the gradient noise scale (see gradient_noise.py):

    planned    it does not
    measured   the schedule says how far the batch may go, and the measurement when: another limit of the batch, which
               begins at the reference's, or at a sample for every worker. lr absorbs the rest, so g stays on the curve.
    adascale   the batch is as planned, and lr and the progress along the schedule follow AdaScale's gain: an update
               counts as that many of the reference's. lr is no larger than the rule's, so g is at or below the curve,
               and the run reads more samples.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass

from trainer.rule.adam_scaling import AdamConstants, largest_batch_ratio, scale_beta, scale_constants
from trainer.rule.batch_plan import BatchPlan, fit_batch
from trainer.rule.errors import PlanError
from trainer.rule.gradient_noise import GradientNoise, adascale_gain
from trainer.rule.noise_scale import global_batch_for_sgd_noise_scale, lr_for_sgd_noise_scale, sgd_noise_scale
from trainer.rule.recipe import Schedule
from trainer.rule.schedule import NoiseDivisors, noise_divisors


@dataclass(frozen=True, slots=True)
class Heard:
    """What a schedule that listens has heard when an epoch begins.

    noise: the measurement, None while there is none. global_batch: of the epoch before, None in the first. progress:
    how far the run is along its schedule, in samples of it, where that is not the samples that it has read.
    """

    noise: GradientNoise | None = None
    global_batch: int | None = None
    progress: float | None = None


NOTHING_HEARD = Heard()


@dataclass(frozen=True, slots=True)
class EpochDecision:
    """What the coordinator said for one epoch, and why.

    lr is the one after warm-up. sgd_noise_scale is what plan, lr and momentum give, target_sgd_noise_scale what the
    curve asks for, both in the schedule's form. limited_by names what held the batch below the schedule's wish. adam:
    its constants at this batch where the schedule scales them, else None. gain: AdaScale's, as how many updates of the
    reference one counts, under that policy; else None.
    """

    epoch: int
    plan: BatchPlan
    lr: float
    momentum: float
    sgd_noise_scale: float
    target_sgd_noise_scale: float
    limited_by: str
    adam: AdamConstants | None = None
    gain: float | None = None

    def advance(self, schedule: Schedule) -> float:
        """By how many samples of the schedule an update advances: by those that it reads, but under AdaScale."""
        return self.plan.global_batch if self.gain is None else self.gain * schedule.reference.global_batch

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


def decide(schedule: Schedule, epoch: int, world_size: int, heard: Heard = NOTHING_HEARD) -> EpochDecision:
    """The decision for `epoch` (from 0) on `world_size` workers, by a schedule that has heard this.

    Raises PlanError if the fleet cannot share the batch.
    """
    size, form = schedule.dataset_size, schedule.form
    reference = schedule.reference
    on_schedule = epoch if heard.progress is None else heard.progress / size
    divisors = noise_divisors(schedule.curve, on_schedule, schedule.epochs)
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
    cap, cap_name = _batch_cap(schedule, world_size, heard)
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
    gain = None
    wanted_lr = lr_for_sgd_noise_scale(target, plan.global_batch, size, momentum, form)
    if schedule.policy == "adascale":
        # Without a measurement an update counts as one, and its lr is the reference's.
        ratio = 1.0 if heard.noise is None else adascale_gain(heard.noise, reference.global_batch, plan.global_batch)
        gain = min(ratio, plan.global_batch / reference.global_batch)
        # In the exact form lr falls by more than a batch below the reference's does.
        of_reference = lr_for_sgd_noise_scale(target, reference.global_batch, size, momentum, form)
        wanted_lr = min(gain * of_reference, wanted_lr)
    lr = min(_tidy(wanted_lr), max_lr or math.inf)
    reached = sgd_noise_scale(lr, plan.global_batch, size, momentum, form)
    adam = None
    if schedule.adam is not None:
        batch_ratio = plan.global_batch / reference.global_batch
        momentum, adam = scale_beta(momentum, batch_ratio), scale_constants(schedule.adam, batch_ratio)
    return EpochDecision(epoch, plan, lr, momentum, reached, target, limited_by, adam, gain)


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


def _batch_cap(schedule: Schedule, world_size: int, heard: Heard) -> tuple[int, str]:
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
    if schedule.policy == "measured":
        caps.append(_measured_cap(schedule, world_size, heard))
    return min(caps, key=lambda cap: cap[0])


def _measured_cap(schedule: Schedule, world_size: int, heard: Heard) -> tuple[int, str]:
    """What the batch may grow to by what was heard, and which part of that says so."""
    before = schedule.reference.global_batch if heard.global_batch is None else heard.global_batch
    # A sample for every worker at least: what the fleet can share as it is planned, it can whatever is heard.
    kept = max(before, world_size)
    if heard.noise is None:
        return kept, "no measurement"
    by_factor, by_noise = before * schedule.growth.factor, schedule.growth.share * heard.noise.at_least
    grown = _floor(min(by_factor, by_noise, schedule.dataset_size))
    return max(kept, grown), "growth" if by_factor < by_noise else "measured noise"


def _floor(samples: float) -> int:
    """Rounded down, but 639.9999999999999 is 640: the batch came out of a division."""
    return math.floor(samples * (1.0 + 1e-13))


def _tidy(value: float) -> float:
    """To 13 digits: a published 0.16 comes out as 0.16, not 0.15999999999999998; g moves by less than 1e-12."""
    return float(f"{value:.13g}")
