"""What a configuration may say: typed and strict.

Unknown keys, wrong types and impossible values are refused, nothing is repaired. The schedule's parts are the rule's
own values, and the augmentation is the data stream's, so what a file may say and what they understand cannot drift
apart.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dali_pipelines.augmentation import Augmentation
from trainer.rule import (
    AdamConstants,
    Fleet,
    FleetStep,
    Growth,
    Limits,
    NoiseCurve,
    PlanError,
    Policy,
    Reference,
    Schedule,
    Start,
    Warmup,
)
from trainer.rule.noise_scale import NoiseForm

OptimizerName = Literal["sgd", "momentum", "nesterov", "adam", "adamw", "lars"]
ADAMS = ("adam", "adamw")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the place and what would be right."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class DataConfig(Section):
    """Where images come from. train_size lets `trainer plan` work before the data are there; training checks it.

    max_unreadable: files that may turn out to be unreadable before the run stops; other images stand in for them.
    hw_decoder_load: the share of images that a GPU's JPEG engines decode where files are decoded there; null: DALI's.
    """

    format: Literal["digits", "folder", "cifar10"] = "digits"
    path: str | None = None
    validation_path: str | None = None
    validation_labels: str | None = None
    train_size: int | None = Field(default=None, ge=1)
    image_size: int = Field(default=224, ge=8)
    in_memory: bool = False
    augmentation: Augmentation = Augmentation()
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    decoder: Literal["auto", "cpu", "gpu"] = "auto"
    hw_decoder_load: float | None = Field(default=None, ge=0, le=1)
    threads: int | None = Field(default=None, ge=1)
    max_unreadable: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _path_where_needed(self) -> DataConfig:
        if self.format != "digits" and self.path is None:
            raise ValueError(f"path is missing: format {self.format} needs the folder of the images, path=DIR")
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std} must be above 0 in every channel")
        return self


class ScheduleConfig(Section):
    """The recipe, the curve of the noise scale, the limits, and whether the run listens to what it measures: see
    trainer.rule."""

    epochs: float
    reference: Reference
    start: Start = Start()
    curve: NoiseCurve = NoiseCurve()
    form: NoiseForm = "large_dataset"
    warmup: Warmup = Warmup()
    limits: Limits
    policy: Policy = "planned"
    growth: Growth = Growth()

    @model_validator(mode="after")
    def _growth_is_of_use(self) -> ScheduleConfig:
        if self.growth != Growth() and self.policy != "measured":
            raise ValueError(f"growth belongs to the policy measured, and the policy is {self.policy}: leave it out")
        return self


class ModelConfig(Section):
    """ghost_batch: samples that share batch-norm statistics, the same for every batch; null leaves batch norm alone.

    zero_init: the last batch-norm scale of each residual block starts at 0, so that the block starts as its shortcut.
    """

    name: str = "small-convnet"
    ghost_batch: int | None = Field(default=None, ge=2)
    zero_init: bool = False


class OptimizerConfig(Section):
    """lr and momentum (beta1 of Adam) come from the schedule. null: the optimizer's usual value, or none of its own.

    fused: whether a step is one pass over the parameters; null where the optimizer has such a form.
    """

    name: OptimizerName = "momentum"
    weight_decay: float = Field(default=5.0e-4, ge=0)
    decay_norms_and_biases: bool = False
    beta2: float | None = Field(default=None, ge=0, lt=1)
    eps: float | None = Field(default=None, gt=0)
    trust_coefficient: float | None = Field(default=None, gt=0)
    fused: bool | None = None

    @model_validator(mode="after")
    def _constants_fit_the_optimizer(self) -> OptimizerConfig:
        for key, owners in (("beta2", ADAMS), ("eps", ADAMS), ("trust_coefficient", ("lars",))):
            if getattr(self, key) is not None and self.name not in owners:
                raise ValueError(
                    f"{key} belongs to {' or '.join(owners)}, and the optimizer is {self.name}: leave it out"
                )
        if self.fused and self.name == "lars":
            raise ValueError("fused: lars has no fused form: leave it out")
        return self

    @property
    def adam_constants(self) -> AdamConstants:
        """beta2 and eps of Adam at the reference's batch."""
        given = {"beta2": self.beta2, "eps": self.eps}
        return AdamConstants(**{key: value for key, value in given.items() if value is not None})


class GradientsConfig(Section):
    """wire: the type in which gradients travel between workers. float16 halves the bytes, and rounds what it sends."""

    wire: Literal["float32", "float16"] = "float32"


class GradientProbeConfig(Section):
    """every: of how many updates one measures the gradient noise, null: none; where updates are of several
    micro-batches, of how many micro-batches of a worker. memory_epochs: over how many epochs of samples a measurement
    fades by a factor e, or over ten measurements where those are more samples."""

    every: int | None = Field(default=10, ge=1)
    memory_epochs: float = Field(default=1.0, gt=0)


class CheckpointConfig(Section):
    """When a run is saved, beside at its end; the newest `keep` checkpoints stay, and the best."""

    every_epochs: int = Field(default=1, ge=1)
    every_minutes: float | None = Field(default=10.0, gt=0)
    keep: int = Field(default=2, ge=1)


class TrackingConfig(Section):
    """mlflow: "auto" (MLFLOW_TRACKING_URI, else a file in the output folder), "off", or the address of a server.

    parent: the uid of the sweep that the run belongs to; `trainer sweep` sets it.
    """

    mlflow: str = "auto"
    parent: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]{1,200}$")

    @field_validator("mlflow", mode="before")
    @classmethod
    def _yaml_off_is_false(cls, value: object) -> object:
        return "off" if value is False else value


class TrainConfig(Section):
    """A run, whole.

    fleet: how many workers it is to have, from which epoch on; null takes what the launcher started. calibration: a
    file of `trainer calibrate`, by which the run's time is predicted. hang_timeout_s: how long a worker may stand
    still, or wait for the slowest one, before the run is ended and says who; below the half hour that libraries wait.
    memory_format: how activations lie in memory; auto where it is the fastest. compile: whether torch.compile makes the
    forward and backward of training.
    """

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    experiment: str = Field(default="default", min_length=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    target_top1: float | None = Field(default=None, gt=0, le=1)
    output: str = "runs"
    data: DataConfig = DataConfig()
    schedule: ScheduleConfig
    fleet: tuple[FleetStep, ...] | None = None
    calibration: str | None = None
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    collective: Literal["auto", "local", "ddp", "horovod"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    compile: bool = False
    gradients: GradientsConfig = GradientsConfig()
    gradient_probe: GradientProbeConfig = GradientProbeConfig()
    hang_timeout_s: float = Field(default=300.0, gt=0, le=1500)
    checkpoints: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()

    @field_validator("fleet")
    @classmethod
    def _fleet_is_one(cls, steps: tuple[FleetStep, ...] | None) -> tuple[FleetStep, ...] | None:
        if steps is not None:
            try:
                Fleet(steps)
            except PlanError as error:
                raise ValueError(str(error)) from None
        return steps

    @model_validator(mode="after")
    def _optimizer_fits_the_schedule(self) -> TrainConfig:
        name, schedule = self.optimizer.name, self.schedule
        _, momentum = schedule.start.lr_and_momentum(schedule.reference)
        is_lever = "momentum" in schedule.curve.levers
        if name == "nesterov" and momentum == 0:
            raise ValueError("optimizer nesterov needs a momentum above 0: set schedule.reference.momentum")
        if name == "sgd" and (momentum > 0 or is_lever):
            raise ValueError(
                "optimizer sgd has no momentum: set schedule.reference.momentum=0, or optimizer.name=momentum"
            )
        if name in ADAMS and (is_lever or schedule.start.momentum is not None):
            raise ValueError(
                f"the momentum of {name} (beta1) averages gradients and does not multiply its steps, so it is no lever "
                f"of the noise scale: use batch and lr"
            )
        # AdamW's decay is a step of its own, and the rule says nothing of it.
        if schedule.form == "square_root" and name != "adam":
            raise ValueError(
                f"schedule.form square_root is the rule of adam, and the optimizer is {name}: set "
                f"schedule.form=large_dataset"
            )
        return self

    @model_validator(mode="after")
    def _policy_has_what_it_listens_to(self) -> TrainConfig:
        if self.schedule.policy != "planned" and self.gradient_probe.every is None:
            raise ValueError(
                f"schedule.policy {self.schedule.policy} listens to the gradient probe, which is off: set "
                f"gradient_probe.every=10, or schedule.policy=planned"
            )
        if self.schedule.policy == "adascale" and self.optimizer.name in ADAMS:
            raise ValueError(
                f"schedule.policy adascale is a rule of SGD, and the optimizer is {self.optimizer.name}: set "
                f"optimizer.name=momentum, or schedule.policy=planned"
            )
        return self

    def rule_fleet(self, workers: int) -> Fleet:
        """The run's fleet; where the configuration names none, `workers` throughout."""
        return Fleet.of(workers) if self.fleet is None else Fleet(self.fleet)

    def with_max_micro_batch(self, max_micro_batch: int) -> TrainConfig:
        """The same run where schedule.limits.max_micro_batch is this many samples, not auto."""
        limits = replace(self.schedule.limits, max_micro_batch=max_micro_batch)
        return self.model_copy(update={"schedule": self.schedule.model_copy(update={"limits": limits})})

    def rule_schedule(self, dataset_size: int) -> Schedule:
        """The schedule as the coordinator takes it, for a training set of dataset_size samples."""
        section = self.schedule
        return Schedule(
            reference=section.reference,
            limits=section.limits,
            dataset_size=dataset_size,
            epochs=section.epochs,
            curve=section.curve,
            form=section.form,
            warmup=section.warmup,
            ghost_batch=self.model.ghost_batch,
            start=section.start,
            adam=self.optimizer.adam_constants if section.form == "square_root" else None,
            policy=section.policy,
            growth=section.growth,
        )


def flatten(config: TrainConfig) -> dict[str, str]:
    """Dotted keys and values as text: how a run's parameters are logged."""

    def walk(prefix: str, value: Any) -> dict[str, str]:
        if isinstance(value, dict) and value:
            parts = [walk(f"{prefix}.{key}" if prefix else key, inner) for key, inner in value.items()]
            return {key: text for part in parts for key, text in part.items()}
        return {prefix: value if isinstance(value, str) else json.dumps(value)}

    return walk("", config.model_dump(mode="json"))
