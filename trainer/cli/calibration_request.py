"""What `trainer calibrate` was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.calibration.calibration import Calibration
from trainer.config import TrainConfig


@dataclass(frozen=True, slots=True)
class Request:
    """The command line, read.

    sizes: None for a choice of ours. file: where to write. existing: what rank 0 found there to add to.
    """

    config: TrainConfig
    sizes: tuple[int, ...] | None
    file: Path
    existing: Calibration | None
    seconds: float
