"""From a calibration's file to the time of a plan: what `trainer plan` shows and `trainer train` records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.calibration.calibration import Calibration, check_settings, read_calibration
from trainer.config import TrainConfig
from trainer.rule import Fleet, RunPlan
from trainer.rule.step_time import RunTime, StepTimes, predict_run


@dataclass(frozen=True, slots=True)
class Timing:
    """What predictions are made from. source: the calibration's file; per_node: how many workers share a node."""

    source: str
    calibration: Calibration
    times: StepTimes
    per_node: int

    def fit(self, config: TrainConfig) -> TrainConfig:
        """The run, its max_micro_batch the measured one where it is auto.

        Raises CalibrationError where the calibration is none of this run.
        """
        check_settings(self.calibration, config, self.source)
        if config.schedule.limits.max_micro_batch == "auto":
            return config.with_max_micro_batch(self.calibration.max_micro_batch)
        return config

    def predict(self, plan: RunPlan) -> RunTime:
        """The plan's time on its fleet."""
        return predict_run(plan, self.times, self.per_node)

    def __str__(self) -> str:
        fleet = f"{Fleet.of(self.times.workers)} on {self.times.nodes} node{'s' if self.times.nodes > 1 else ''}"
        hardware = ", ".join(self.calibration.hardware.values())
        here = f"here {Fleet.of(self.per_node)} a node"
        return f"{self.source}, measured {self.calibration.measured_at} with {fleet} ({hardware}); {here}"


def open_timing(config: TrainConfig, file: str | None = None, per_node: int | None = None) -> Timing | None:
    """What the file says, else the configuration's calibration; None where there is neither.

    per_node: None for as many workers of a node as in the measurement. Raises CalibrationError.
    """
    source = file or config.calibration
    if source is None:
        return None
    calibration = read_calibration(Path(source))
    times = calibration.step_times()
    return Timing(source, calibration, times, per_node or times.per_node)
