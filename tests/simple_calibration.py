"""A calibration in round numbers, for tests that count on paper.

1.25 ms a sample of a micro-batch of 16 to 64, 10 ms an update beside that; for the gradients of two workers on one node
2 ms and 1 ns a byte, and there are 1,000,000 bytes; 1 ms an image of 100 that are evaluated, 50 ms an epoch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.calibration.calibration import Calibration, timed_settings, write_calibration
from trainer.config import TrainConfig, load_config
from trainer.rule.all_reduce import AllReduceTime
from trainer.rule.step_time import ComputeTime


def calibration_of(config: TrainConfig, **changes: Any) -> Calibration:
    """The calibration of this run's settings, with some numbers changed."""
    numbers: dict[str, Any] = {
        "measured_at": "2026-01-02 03:04",
        "settings": timed_settings(config),
        "hardware": {"device": "an abacus"},
        "versions": {},
        "collective": "ddp",
        "algorithm": "ring",
        "workers": 2,
        "nodes": 1,
        "max_micro_batch": 64,
        "compute": tuple(ComputeTime(size, 0.0005 * size, 0.00075 * size) for size in (16, 32, 64)),
        "update_overhead_s": 0.01,
        "gradient_bytes": 1_000_000,
        "all_reduce": (AllReduceTime(2, 1, 1_000_000, 0.003), AllReduceTime(2, 1, 2_000_000, 0.004)),
        "hidden_share": 0.0,
        "input_s_per_batch": 0.0,
        "input_images_per_s": 1e9,
        "input_sharing": 0.0,
        "evaluation_s_per_image": 0.001,
        "validation_size": 100,
        "epoch_s": 0.05,
    }
    return Calibration(**{**numbers, **changes})


def write_simple_calibration(folder: Path, preset: str, name: str = "calibration.json", **changes: Any) -> str:
    """The path of a file with the calibration of this preset."""
    path = folder / name
    write_calibration(calibration_of(load_config(preset), **changes), path)
    return str(path)
