"""The file of a calibration: JSON, small, with the hardware and the versions it was measured with."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainer.calibration.errors import CalibrationError
from trainer.config import TrainConfig, flatten
from trainer.config.explain import in_one_line
from trainer.engine.durable import write_file
from trainer.rule.all_reduce import Algorithm, AllReduceTime, fit_fabric
from trainer.rule.errors import PlanError
from trainer.rule.step_time import LARGEST_SHARING, ComputeTime, StepTimes

# What the times depend on: a calibration with other settings says nothing of a run.
TIMED_SETTINGS = (
    "data.format",
    "data.image_size",
    "data.in_memory",
    "data.decoder",
    "data.hw_decoder_load",
    "model.name",
    "model.ghost_batch",
    "optimizer.name",
    "optimizer.fused",
    "precision",
    "memory_format",
    "compile",
    "gradients.wire",
)


class Calibration(BaseModel):
    """Measured on `workers` workers on `nodes` nodes, all of them at work; seconds are medians.

    settings: those of TIMED_SETTINGS, as text. hardware, versions: what it was measured on. max_micro_batch: the
    largest that fits in memory beside the input pipeline, with head-room. all_reduce may come from several fleets, each
    entry says which. The other fields are those of trainer.rule.step_time.StepTimes.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    format: Literal[1] = 1
    measured_at: str
    settings: dict[str, str]
    hardware: dict[str, str]
    versions: dict[str, str]
    collective: str
    algorithm: Algorithm
    workers: int = Field(ge=1)
    nodes: int = Field(ge=1)
    max_micro_batch: int = Field(ge=1)
    compute: tuple[ComputeTime, ...]
    update_overhead_s: float = Field(ge=0)
    gradient_bytes: int = Field(ge=1)
    all_reduce: tuple[AllReduceTime, ...]
    hidden_share: float = Field(ge=0, le=1)
    input_s_per_batch: float = Field(ge=0)
    input_images_per_s: float = Field(gt=0)
    input_sharing: float = Field(ge=0, le=LARGEST_SHARING)
    evaluation_s_per_image: float = Field(ge=0)
    validation_size: int = Field(ge=0)
    epoch_s: float = Field(ge=0)

    def step_times(self) -> StepTimes:
        """What a prediction takes. Raises PlanError where the measured micro-batches do not do."""
        return StepTimes(
            compute=self.compute,
            update_overhead_s=self.update_overhead_s,
            gradient_bytes=self.gradient_bytes,
            fabric=fit_fabric(self.all_reduce, self.algorithm),
            all_reduce=self.all_reduce,
            hidden_share=self.hidden_share,
            input_s_per_batch=self.input_s_per_batch,
            input_images_per_s=self.input_images_per_s,
            input_sharing=self.input_sharing,
            evaluation_s_per_image=self.evaluation_s_per_image,
            validation_size=self.validation_size,
            epoch_s=self.epoch_s,
            workers=self.workers,
            nodes=self.nodes,
        )


def timed_settings(config: TrainConfig) -> dict[str, str]:
    """The settings of a run that its times depend on."""
    flat = flatten(config)
    return {key: flat[key] for key in TIMED_SETTINGS}


def check_settings(calibration: Calibration, config: TrainConfig, source: str) -> None:
    """Raises CalibrationError where the calibration in `source` was made with other settings than the run's."""
    for key, value in timed_settings(config).items():
        measured = calibration.settings.get(key)
        if measured != value:
            found = f"by a version that did not know {key}" if measured is None else f"with {key} {measured}"
            raise CalibrationError(
                f"{source}: was measured {found}, and {config.name} has {value}: calibrate it with "
                f"`trainer calibrate {config.name}` and the same settings"
            )


def read_calibration(path: Path) -> Calibration:
    """The calibration in the file. Raises CalibrationError."""
    try:
        calibration = Calibration.model_validate_json(path.read_bytes())
        calibration.step_times()
    except OSError as error:
        raise CalibrationError(
            f"{path}: cannot be read ({error.strerror}): name a file that `trainer calibrate` wrote"
        ) from None
    except ValidationError as error:
        detail = error.errors()[0]
        if isinstance(cause := detail.get("ctx", {}).get("error"), PlanError):
            raise CalibrationError(f"{path}: {cause}") from None
        place = in_one_line(".".join(str(part) for part in detail["loc"]), 80) or "the file"
        raise CalibrationError(f"{path}: is no calibration ({place}: {detail['msg']}): calibrate again") from None
    except PlanError as error:
        raise CalibrationError(f"{path}: {error}") from None
    return calibration


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Writes the file; a reader never sees half of one. Raises CalibrationError."""
    try:
        write_file(path, f"{calibration.model_dump_json(indent=2)}\n".encode())
    except OSError as error:
        raise CalibrationError(f"{path}: cannot be written ({error.strerror}): choose another --output") from None
