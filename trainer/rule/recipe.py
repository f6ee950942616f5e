"""What decides the batch and lr of a run: the tuned recipe, where on its curve it begins, its limits and its policy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from trainer.rule.adam_scaling import AdamConstants
from trainer.rule.errors import PlanError
from trainer.rule.noise_scale import NoiseForm
from trainer.rule.schedule import NoiseCurve, Warmup

Policy = Literal["planned", "measured", "adascale"]

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
class Growth:
    """How the batch grows under the policy measured: at most by `factor` from one epoch to the next, and up to `share`
    of the gradient noise scale, as that is at the lower end of its error."""

    factor: float = 2.0
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 1 < self.factor < math.inf:
            raise PlanError(f"factor {self.factor:g} of the growth must be above 1, 2 for example")
        if not 0 < self.share < math.inf:
            raise PlanError(f"share {self.share:g} of the growth must be above 0")


@dataclass(frozen=True, slots=True)
class Schedule:
    """Everything that decides the batch and lr of a run except the fleet, and what is heard under a policy that
    listens. dataset_size in samples; epochs may be fractional; ghost_batch (samples) lets the cut of a batch respect
    batch norm's groups; adam goes with the form square_root; growth with the policy measured."""

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
    policy: Policy = "planned"
    growth: Growth = Growth()

    def __post_init__(self) -> None:
        assert (self.form == "square_root") == (self.adam is not None), "the square-root rule is Adam's"
        if self.form == "square_root" and ("momentum" in self.curve.levers or self.start.momentum is not None):
            raise PlanError(
                "under the square-root rule the momentum of Adam (beta1) follows the batch: use the levers batch and lr"
            )
        assert self.form != "square_root" or self.policy != "adascale", "AdaScale's gain is that of SGD"
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
